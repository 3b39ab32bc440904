"""Inverters: photo -> latents, behind one protocol."""

from collections.abc import Callable
from pathlib import Path

import torch

from ganaug import checkpoints
from ganaug.features import load_perceptual_features
from ganaug.interfaces import Generator, Inverter, UserInputError
from ganaug.inversion.encoder import Encoder, EncoderInverter, LatentEncoder, load_encoder
from ganaug.inversion.optimization import OptimizationInverter

Source = str | Path | checkpoints.Model

JUDGE = "faces64"  # whose perceptual features serve models that hold none


Build = Callable[[Generator, Source, torch.device, int], Inverter]


def _optimization(
    generator: Generator, model: Source, device: torch.device, steps: int, encoder: Encoder | None = None
) -> OptimizationInverter:
    own = "features" in checkpoints.open_model(model).parts
    features = load_perceptual_features(model if own else JUDGE, device)
    return OptimizationInverter(generator, features, encoder, steps=steps, features_of=None if own else JUDGE)


# Name -> (generator, model file, device, steps) -> inverter.
INVERTERS: dict[str, Build] = {
    "optimization": _optimization,
    "encoder": lambda generator, model, device, steps: EncoderInverter(generator, load_encoder(model, device)),
    "hybrid": lambda generator, model, device, steps: _optimization(
        generator, model, device, steps, load_encoder(model, device)
    ),
}


def default_inverter(model: Source) -> str:
    """``"hybrid"`` for a model file with an encoder, else ``"optimization"``.

    Raises:
        CheckpointError: For a missing or damaged file.
    """
    return "hybrid" if "encoder" in checkpoints.open_model(model).parts else "optimization"


def build_inverter(name: str, generator: Generator, model: Source, device: torch.device, steps: int) -> Inverter:
    """The inverter of that name for a generator.

    Args:
        name: A key of ``INVERTERS``.
        generator: Generator to invert.
        model: Model, model file or bundled name that the generator came from; its encoder and features are used, and
            the bundled model's features where it has none.
        device: Where to work.
        steps: Optimisation steps, where there are any.

    Raises:
        UserInputError: For an unknown name.
        CheckpointError: If the model file lacks a network that the inverter needs.
    """
    if name not in INVERTERS:
        raise UserInputError(f"unknown inverter {name!r}: expected one of {sorted(INVERTERS)}")
    return INVERTERS[name](generator, model, device, steps)


__all__ = [
    "INVERTERS",
    "EncoderInverter",
    "LatentEncoder",
    "OptimizationInverter",
    "build_inverter",
    "default_inverter",
    "load_encoder",
]
