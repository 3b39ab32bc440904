"""Fine-tuning: a run that starts from the networks of a model file."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.errors import UserInputError
from ganaug.generators.stylegan2 import StyleGAN2Config
from ganaug.interfaces import CheckpointError
from ganaug.training.config import TrainConfig
from ganaug.training.gan_state import TrainState

# Gentler than from scratch: the file's networks know faces already, and few photos are quickly learnt by heart.
# Chosen by trials of 2,000 images, one seed each, too few to tell 0.7 from 1.
RATE_SHARE = 0.7
FROZEN_BLOCKS = 2
# What is averaged is good from the start: the average need not begin short.
EMA_RAMPUP = 0.5


def tuned(config: TrainConfig, init: str | Path) -> TrainConfig:
    """``config`` with the architecture of a model file, a lower learning rate and a partly frozen discriminator.

    Args:
        config: What the run would be from scratch.
        init: Bundled name or model file; becomes ``TrainConfig.init``.

    Raises:
        CheckpointError: For a missing or damaged file.
        UserInputError: For one of another family.
    """
    model = checkpoints.open_model(init)
    path, described = model.path, model.description
    family = described.get("family")
    if family != "stylegan2":
        raise UserInputError(f"{path} holds family {family!r}; only 'stylegan2' can be fine-tuned: leave --init out")
    with model.building():
        found = StyleGAN2Config.from_dict(described["config"])
        if "features" in model.parts:
            discriminator_channels = tuple(described["discriminator_channels"])
        else:  # a generator by itself, as the field publishes them, gets the discriminator of its size
            discriminator_channels = config.at_resolution(found.img_resolution).discriminator_channels
    return replace(
        config,
        resolution=found.img_resolution,
        z_dim=found.z_dim,
        w_dim=found.w_dim,
        mapping_layers=found.mapping_layers,
        generator_channels=found.channels,
        discriminator_channels=discriminator_channels,
        init=str(init) if str(init) in checkpoints.BUNDLED else os.path.abspath(path),
        learning_rate=config.learning_rate * RATE_SHARE,
        freeze_d=FROZEN_BLOCKS,
        ema_rampup=EMA_RAMPUP,
    )


def start_from(state: TrainState, path: Path) -> None:
    """Fills fresh networks with those of a model file: fine-tuning (``ganaug train --init``).

    Parts that the file lacks (an encoder, the discriminator's head) stay fresh. Where the conditions of file and run
    differ, for example because the file has none, what reads the condition stays fresh too.

    Raises:
        CheckpointError: For a damaged file or networks of another shape.
    """
    model = checkpoints.open_model(path)
    discriminator = state.discriminator.state_dict()
    head = {name: tensor for name, tensor in discriminator.items() if not name.startswith("trunk.")}
    for networks, part in (
        ((_own(state.generator), _own(state.generator_ema)), "generator"),
        ((_own(state.encoder), _own(state.encoder_ema)), "encoder"),
        ((_own(state.discriminator.trunk),), "features"),
        ((head,), "discriminator"),
    ):
        if part == "encoder" and "encoder_config" in model.description:
            continue  # pSp, e4e or ReStyle: another network than the one that is trained here
        if part in model.parts:
            tensors = model.part(part)
            for own in networks:
                if own:
                    _fill(own, tensors, path, part)


def _own(network: nn.Module | None) -> dict[str, Tensor]:
    return {} if network is None else network.state_dict()


def _fill(own: dict[str, Tensor], tensors: dict[str, Tensor], path: Path, part: str) -> None:
    different = [
        f"{name}: {_shape(tensors.get(name))} there, {_shape(own.get(name))} here"
        for name in sorted(own.keys() | tensors.keys())
        if _shape(tensors.get(name)) != _shape(own.get(name)) and not _reads_condition(name)
    ]
    if different:
        raise CheckpointError(
            f"{path}: its {part} has another shape ({different[0]}{'; ...' if different[1:] else ''}); leave "
            "sizes out of the settings, so that they are taken from the file"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else str(tuple(tensor.shape))


def _reads_condition(name: str) -> bool:
    """Embeddings of c, and the layers that are wider with one: the first of the mapping, the discriminator's last."""
    return name.startswith(("map_network.embed.", "map_network.fc0.", "condition.", "out."))
