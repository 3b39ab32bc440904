"""Inverters: photo -> latents, behind one protocol."""

from collections.abc import Callable
from pathlib import Path

import torch

from ganaug.features import load_perceptual_features
from ganaug.interfaces import Generator, Inverter, UserInputError
from ganaug.inversion.encoder import EncoderInverter, LatentEncoder, load_encoder
from ganaug.inversion.optimization import OptimizationInverter

Build = Callable[[Generator, str | Path, torch.device, int], Inverter]

# Name -> (generator, model file, device, steps) -> inverter.
INVERTERS: dict[str, Build] = {
    "optimization": lambda generator, model, device, steps: OptimizationInverter(
        generator, load_perceptual_features(model, device), steps=steps
    ),
    "encoder": lambda generator, model, device, steps: EncoderInverter(generator, load_encoder(model, device)),
    "hybrid": lambda generator, model, device, steps: OptimizationInverter(
        generator, load_perceptual_features(model, device), load_encoder(model, device), steps=steps
    ),
}


def build_inverter(name: str, generator: Generator, model: str | Path, device: torch.device, steps: int) -> Inverter:
    """The inverter of that name for a generator.

    Args:
        name: A key of ``INVERTERS``.
        generator: Generator to invert.
        model: Model file or bundled name that the generator came from; its encoder and features are used.
        device: Where to work.
        steps: Optimisation steps, where there are any.

    Raises:
        UserInputError: For an unknown name.
        CheckpointError: If the model file lacks a network that the inverter needs.
    """
    if name not in INVERTERS:
        raise UserInputError(f"unknown inverter {name!r}: expected one of {sorted(INVERTERS)}")
    return INVERTERS[name](generator, model, device, steps)


__all__ = ["INVERTERS", "EncoderInverter", "LatentEncoder", "OptimizationInverter", "build_inverter", "load_encoder"]
