"""Chips as a network wants to see faces: each was trained on a framing and a size of its own."""

import torch
from torch import Tensor

from ganaug.faces.align import similarity
from ganaug.faces.geometry import invert
from ganaug.faces.paste import averages
from ganaug.faces.templates import TEMPLATES
from ganaug.interfaces import UserInputError

_SAME_PLACE = 1e-4  # of a pixel; sampling would change nothing that an 8-bit picture could show


def framing_of(
    network: object, template: str | None = None, size: int | None = None, what: str = "the network of a gate"
) -> tuple[str | None, int | None]:
    """Which pictures a network wants.

    Args:
        network: With attributes ``template`` and ``img_resolution`` (or ``architecture.img_resolution``) if it says so.
        template: Framing; default: what the network says.
        size: Side in pixels; default: what the network says.
        what: For messages.

    Returns:
        Framing, a key of :data:`ganaug.faces.templates.TEMPLATES`, or None: the generator's chip; and side in pixels,
        or None: that of the chip.

    Raises:
        UserInputError: For a network in training mode, an unknown template, or a size that is none.
    """
    template = getattr(network, "template", None) if template is None else template
    if size is None:
        size = getattr(getattr(network, "architecture", network), "img_resolution", None)
    if getattr(network, "training", False):
        raise UserInputError(
            f"{what} ({type(network).__name__}) is in training mode, in which its answers depend on the batch; call "
            ".eval() first"
        )
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise UserInputError(f"size is the side of the pictures that the network wants, in pixels; got {size!r}")
    if template is not None and template not in TEMPLATES:
        raise UserInputError(f"unknown template {template!r}: expected one of {', '.join(sorted(TEMPLATES))}")
    return template, size


def network_to_chip(template: str | None, size: int, chip_template: str | None, chip_size: int) -> Tensor:
    """Where the pixels of a network's pictures lie in the generator's chip.

    The network's own crop is cut from a chip in which the face lies exactly as the chip's template says, so that all
    chips are cut alike and nobody has to look for eyes. Where one of the two framings is not known, the network sees
    the chip.

    Args:
        template: Framing that the network wants, a key of :data:`ganaug.faces.templates.TEMPLATES`, or None.
        size: Side of its pictures in pixels.
        chip_template: Framing of the chips, or None.
        chip_size: Side of the chips.

    Returns:
        ``(2, 3)`` float64.

    Example:
        >>> network_to_chip("fairface", 128, "fairface", 64).tolist()
        [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    """
    if template is None or chip_template is None or template == chip_template:
        scale = chip_size / size
        return torch.tensor([[scale, 0.0, 0.0], [0.0, scale, 0.0]], dtype=torch.float64)
    return invert(torch.from_numpy(similarity(TEMPLATES[chip_template] * chip_size, template, size)))


def framed(items: Tensor, places: Tensor, size: int) -> Tensor:
    """Pictures as a network sees them; mirrored beyond their edges.

    Args:
        items: ``(K, 3, H, W)`` in [0, 1].
        places: ``(K, 2, 3)`` float32 on the CPU, pixels of the network's pictures to pixels of ``items``.
        size: Side of the network's pictures.

    Returns:
        ``(K, 3, size, size)`` in [-1, 1]; the items themselves where they lie as the network wants them.
    """
    if tuple(items.shape[2:]) == (size, size) and bool((places - torch.eye(2, 3)).abs().max() < _SAME_PLACE):
        return items * 2.0 - 1.0  # matrices are the host's: nothing waits
    return averages(items, places, size) * 2.0 - 1.0
