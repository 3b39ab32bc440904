"""Generators: one file per family, and the one function that opens any of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ganaug import checkpoints
from ganaug.generators.prior import LatentPrior, load_prior
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.generators.vae import VAE, VAEConfig
from ganaug.interfaces import CheckpointError, Generator, resolve_device

# Family name in a file's description -> network from the file's configuration.
GENERATORS: dict[str, Callable[[dict[str, Any]], StyleGAN2 | VAE]] = {
    "stylegan2": lambda config: StyleGAN2(StyleGAN2Config.from_dict(config)),
    "vae": lambda config: VAE(VAEConfig.from_dict(config)),
}


def load_generator(name_or_path: str | Path = "faces64", device: str | torch.device = "cpu") -> Generator:
    """Opens a generator, ready for use: eval mode, no gradients on its weights, channels_last.

    Args:
        name_or_path: A bundled name (``"faces64"``) or a ``.safetensors`` file written by ``ganaug train``.
        device: Where to put it.

    Raises:
        CheckpointError: For a missing, damaged or unknown file.
        UserInputError: For a device that is not there.
    """
    path = checkpoints.resolve(name_or_path)
    described = checkpoints.read_metadata(path)
    family = described.get("family")
    if not isinstance(family, str) or family not in GENERATORS:
        raise CheckpointError(f"{path}: family {family!r} is not known; expected one of {sorted(GENERATORS)}")
    with checkpoints.reading_description(path):
        generator = GENERATORS[family](described["config"])
    checkpoints.load_into(generator, path, "generator")
    generator.eval().requires_grad_(False)
    return generator.to(device=resolve_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


__all__ = [
    "GENERATORS",
    "VAE",
    "LatentPrior",
    "StyleGAN2",
    "StyleGAN2Config",
    "VAEConfig",
    "load_generator",
    "load_prior",
]
