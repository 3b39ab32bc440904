"""Generators: one file per family, and the one function that opens any of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ganaug import checkpoints
from ganaug.generators.prior import LatentPrior, load_prior
from ganaug.generators.semantic import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.generators.style_based import MEAN_LATENT
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from ganaug.generators.vae import VAE, VAEConfig
from ganaug.interfaces import CheckpointError, Generator, resolve_device
from ganaug.latents import NUM_MEAN_SAMPLES, estimate_mean_latent

Network = StyleGAN2 | StyleGAN3 | SemanticStyleGAN | VAE

# Family name in a file's description -> network from the file's configuration.
GENERATORS: dict[str, Callable[[dict[str, Any]], Network]] = {
    "stylegan2": lambda config: StyleGAN2(StyleGAN2Config.from_dict(config)),
    "stylegan3": lambda config: StyleGAN3(StyleGAN3Config.from_dict(config)),
    "semantic_stylegan": lambda config: SemanticStyleGAN(SemanticStyleGANConfig.from_dict(config)),
    "vae": lambda config: VAE(VAEConfig.from_dict(config)),
}


def load_generator(source: str | Path | checkpoints.Model = "faces64", device: str | torch.device = "cpu") -> Generator:
    """Opens a generator, ready for use: eval mode, no gradients on its weights, channels_last.

    Args:
        source: A bundled name (``"faces64"``), the name of a fetched model (``ganaug fetch``), a ``.safetensors``
            file of this package, or a checkpoint of the field: see :mod:`ganaug.published` for those that are known. No
            code of any file is run. Or a model that is open.
        device: Where to put it.

    A file without a mean latent (:attr:`Generator.w_avg`) gets one estimated, from a seed that
    ``generator.mean_latent`` tells and ``ganaug convert`` records.

    Raises:
        CheckpointError: For a missing, damaged or unknown file.
        UserInputError: For a device that is not there.
    """
    generator = build_generator(checkpoints.open_model(source))
    return generator.to(device=resolve_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def build_generator(model: checkpoints.Model) -> Network:
    """The generator of an opened model file, on the CPU, in eval mode, without gradients on its weights.

    Raises:
        CheckpointError: See :func:`load_generator`.
    """
    family = model.description.get("family")
    if not isinstance(family, str) or family not in GENERATORS:
        raise CheckpointError(f"{model.path}: family {family!r} is not known; expected one of {sorted(GENERATORS)}")
    with model.building():
        generator = GENERATORS[family](model.description["config"])
    tensors = model.part("generator")
    missing = MEAN_LATENT not in tensors and "layout" in model.description  # published without a mean
    if missing:
        tensors[MEAN_LATENT] = torch.zeros(generator.latent_spec.w_dim)
    model.fill(generator, tensors, "generator")
    generator.eval().requires_grad_(False)
    generator.prior = load_prior(model) if "prior" in model.parts else None
    generator.mean_latent = model.description.get("mean_latent")
    generator.tuned_from = _ancestors(model)
    if missing:
        generator.mean_latent = {"seed": 0, "num_samples": NUM_MEAN_SAMPLES}
        generator.w_avg.copy_(estimate_mean_latent(generator, **generator.mean_latent))
    return generator


def _ancestors(model: checkpoints.Model) -> tuple[str, ...]:
    """Fingerprints of what a generator was tuned from, see :mod:`ganaug.tuning`; each names the one before it."""
    found: list[str] = []
    base = model.description.get("tuned_from")
    while base is not None:
        if not isinstance(base, dict) or not isinstance(base.get("fingerprint"), str):
            raise CheckpointError(f"{model.path}: its description is damaged: tuned_from names no generator")
        found.append(base["fingerprint"])
        base = base.get("tuned_from")
    return tuple(found)


__all__ = [
    "GENERATORS",
    "VAE",
    "LatentPrior",
    "Network",
    "SemanticStyleGAN",
    "SemanticStyleGANConfig",
    "StyleGAN2",
    "StyleGAN2Config",
    "StyleGAN3",
    "StyleGAN3Config",
    "VAEConfig",
    "build_generator",
    "load_generator",
    "load_prior",
]
