"""Where faces lie in a generator's chips, as far as its cache and its model file say."""

import torch
from torch import Tensor

from ganaug.cache import CacheHeader
from ganaug.checkpoints import open_model
from ganaug.faces.masks import Background
from ganaug.faces.templates import TEMPLATES, template_of
from ganaug.interfaces import CheckpointError, Generator, UserInputError


def chip_template(header: CacheHeader) -> str | None:
    """A key of :data:`ganaug.faces.templates.TEMPLATES`; None if nobody knows."""
    template = header.alignment.get("template")
    if template is None:
        try:
            template = template_of(open_model(header.generator).description)
        except CheckpointError:  # the generator was given as an object, and its file is gone
            template = None
    return template


def background_points(
    background: Background | None, generator: Generator, name: str, template: str | None
) -> Tensor | None:
    """Points of the face by which a background is found, where nothing better tells.

    Args:
        background: What becomes of it; None for nothing.
        generator: Its parts tell, if it has some.
        name: Of the generator, for messages.
        template: See :func:`chip_template`.

    Returns:
        ``(5, 2)`` float32 in [0, 1] of the chip; None where it can be found without them.

    Raises:
        UserInputError: If they are needed and nobody knows them.
    """
    if background is None or background.parser is not None or "background" in generator.latent_spec.parts:
        return None
    if template is None:
        raise UserInputError(
            f"background: generator {name} does not say where faces lie in its chips, and has no parts; give "
            "Background(fill, parser=...), or make the cache with --align points --template NAME"
        )
    return torch.from_numpy(TEMPLATES[template]).float()
