"""The model file that an encoder is trained for: what is taken from it and what is handed on unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganaug import checkpoints
from ganaug.features import PerceptualFeatures, load_perceptual_features
from ganaug.generators import LatentPrior, load_generator, load_prior
from ganaug.interfaces import Generator, UserInputError
from ganaug.inversion import LatentEncoder, load_encoder
from ganaug.training.config import TrainConfig

HANDED_ON = ("generator", "features", "discriminator")  # parts that go into the new file as they are


@dataclass(frozen=True)
class EncoderSource:
    """An opened model file.

    Attributes:
        name: Bundled name or path that it was opened by.
        generator: The generator, frozen.
        features: Perceptual features: the file's own, else those of ``faces64``.
        encoder_channels: Feature maps of the encoder, from full resolution down to 4x4.
        encoder: The file's own encoder, or None.
        prior: The file's own prior, or None.
        parts: State dicts of the parts that are handed on.
        description: What the file says about itself.
    """

    name: str
    generator: Generator
    features: PerceptualFeatures
    encoder_channels: tuple[int, ...]
    encoder: LatentEncoder | None
    prior: LatentPrior | None
    parts: Mapping[str, Mapping[str, Tensor]]
    description: Mapping[str, Any]


def open_source(name_or_path: str | Path, device: torch.device) -> EncoderSource:
    """Opens a model file of any family.

    Raises:
        CheckpointError: For a missing or damaged file.
        UserInputError: If the generator's resolution is none that an encoder can be built for.
    """
    model = checkpoints.open_model(name_or_path)
    path, description, there = model.path, model.description, model.parts
    generator = load_generator(path, device)
    channels = description.get("encoder_channels", description.get("discriminator_channels"))
    if channels is None:  # a generator by itself
        channels = TrainConfig().at_resolution(generator.img_resolution).discriminator_channels
    encoder = load_encoder(path, device) if "encoder" in there else None
    return EncoderSource(
        name=str(name_or_path),
        generator=generator,
        features=load_perceptual_features(path if "features" in there else "faces64", device),
        encoder_channels=tuple(channels),
        encoder=encoder if isinstance(encoder, LatentEncoder) else None,
        prior=load_prior(path, device) if "prior" in there else None,
        parts={part: model.part(part) for part in HANDED_ON if part in there},
        description=description,
    )


def build_encoder(source: EncoderSource, seed: int, *, continued: bool) -> LatentEncoder:
    """The encoder to start from, trainable, on the generator's device.

    Args:
        source: The model file.
        seed: Decides fresh weights; the global generator is left alone.
        continued: Start from the file's own encoder.

    Raises:
        UserInputError: If there is no encoder to continue.
    """
    spec = source.generator.latent_spec
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = LatentEncoder(source.encoder_channels, spec.num_ws, spec.w_dim)
    if continued:
        if source.encoder is None:
            raise UserInputError(f"{source.name} holds no encoder to continue; leave out --continue-encoder")
        encoder.load_state_dict(source.encoder.state_dict())
    return encoder.to(source.generator.w_avg.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
