"""Inverters: photo -> latents, behind one protocol."""

from collections.abc import Callable
from pathlib import Path

import torch

from ganaug import checkpoints
from ganaug.features import load_perceptual_features
from ganaug.interfaces import Generator, Inverter, UserInputError
from ganaug.inversion.curvature import curvature_of
from ganaug.inversion.encoder import Encoder, EncoderInverter, LatentEncoder, load_encoder
from ganaug.inversion.low_rank import PIVOT_SHARE, PivotalInverter
from ganaug.inversion.optimization import OptimizationInverter
from ganaug.inversion.quality import JUDGES, QualityJudge

Source = str | Path | checkpoints.Model


Build = Callable[[Generator, Source, torch.device, int, QualityJudge], Inverter]


def _optimization(
    generator: Generator,
    model: Source,
    device: torch.device,
    steps: int,
    judge: QualityJudge,
    encoder: Encoder | None = None,
    quick: bool = False,
) -> OptimizationInverter:
    """``quick``: with the average curvature, and steps in bfloat16 where that is fast."""
    own = "features" in checkpoints.open_model(model).parts
    features = load_perceptual_features(model if own else JUDGES, device)
    curvature = curvature_of(generator, features, encoder) if quick and encoder is not None else None
    features_of = None if own else JUDGES
    return OptimizationInverter(
        generator,
        features,
        encoder,
        steps=steps,
        features_of=features_of,
        judge=judge,
        curvature=curvature,
        fast=quick,
    )


def _pivotal(
    generator: Generator, model: Source, device: torch.device, steps: int, judge: QualityJudge
) -> PivotalInverter:
    encoder = load_encoder(model, device) if "encoder" in checkpoints.open_model(model).parts else None
    first = max(round(PIVOT_SHARE * steps), 1)
    pivot = _optimization(generator, model, device, first, judge, encoder)
    return PivotalInverter(pivot, steps=max(steps - first, 1))


# Name -> (generator, model file, device, steps, judge) -> inverter.
INVERTERS: dict[str, Build] = {
    "optimization": _optimization,
    "encoder": lambda generator, model, device, steps, judge: EncoderInverter(
        generator, load_encoder(model, device), judge
    ),
    "hybrid": lambda generator, model, device, steps, judge: _optimization(
        generator, model, device, steps, judge, load_encoder(model, device), quick=True
    ),
    "pivotal": _pivotal,
}

# Steps where none are asked for. With these, hybrid equals 400 of plain Adam from the mean, and pivotal keeps what was
# asked of it (`benchmarks/inversion.py`).
DEFAULT_STEPS = {"optimization": 200, "encoder": 0, "hybrid": 72, "pivotal": 180}


def default_inverter(model: Source) -> str:
    """``"hybrid"`` for a model file with an encoder, else ``"optimization"``.

    Raises:
        CheckpointError: For a missing or damaged file.
    """
    return "hybrid" if "encoder" in checkpoints.open_model(model).parts else "optimization"


def build_inverter(
    name: str,
    generator: Generator,
    model: Source,
    device: torch.device,
    steps: int | None = None,
    judge: QualityJudge | None = None,
) -> Inverter:
    """The inverter of that name for a generator.

    Args:
        name: A key of ``INVERTERS``.
        generator: Generator to invert.
        model: Model, model file or bundled name that the generator came from; its encoder and features are used, and
            the bundled model's features where it has none.
        device: Where to work.
        steps: Optimisation steps, where there are any; None: see ``DEFAULT_STEPS``.
        judge: What is measured of each inversion; None: distance in pixels.

    Raises:
        UserInputError: For an unknown name.
        CheckpointError: If the model file lacks a network that the inverter needs.
    """
    if name not in INVERTERS:
        raise UserInputError(f"unknown inverter {name!r}: expected one of {sorted(INVERTERS)}")
    steps = DEFAULT_STEPS[name] if steps is None else steps
    return INVERTERS[name](generator, model, device, steps, judge or QualityJudge())


__all__ = [
    "DEFAULT_STEPS",
    "INVERTERS",
    "EncoderInverter",
    "LatentEncoder",
    "OptimizationInverter",
    "PivotalInverter",
    "QualityJudge",
    "build_inverter",
    "default_inverter",
    "load_encoder",
]
