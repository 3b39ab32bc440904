"""Networks, optimisers and running values of a StyleGAN2 training run, and the checkpoint that holds them."""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganaug.generators.stylegan2 import StyleGAN2
from ganaug.interfaces import CheckpointError
from ganaug.inversion.encoder import LatentEncoder
from ganaug.training.checkpoint import read_checkpoint, write_checkpoint
from ganaug.training.config import TrainConfig
from ganaug.training.discriminator import Discriminator

NUM_RECENT_CODES = 1024  # covers far more directions than the 128 that a shipped prior keeps


@dataclass
class TrainState:
    """Everything that changes in a run; ``*_ema`` are the averaged copies that are kept.

    Attributes:
        augment_p: Scalar, probability of each augmentation.
        signs: ``(2,)`` sum of the mean signs on real images since p last changed, and their number.
        path_mean: Scalar, running mean of path lengths.
        codes: ``(1024, L * D)`` recent codes of photos, a ring.
        num_codes: How many were ever put in.
    """

    generator: StyleGAN2
    discriminator: Discriminator
    encoder: LatentEncoder | None
    generator_ema: StyleGAN2
    encoder_ema: LatentEncoder | None
    g_optimizer: torch.optim.Adam
    d_optimizer: torch.optim.Adam
    augment_p: Tensor
    signs: Tensor
    path_mean: Tensor
    codes: Tensor
    discriminator_channels: tuple[int, ...]
    num_codes: int = 0
    images_seen: int = 0
    step: int = 0

    @property
    def codes_full(self) -> bool:
        """Whether there are enough codes to draw around."""
        return self.num_codes >= len(self.codes)

    def modules(self) -> dict[str, nn.Module]:
        """Everything with weights, by name."""
        names = ("generator", "discriminator", "encoder", "generator_ema", "encoder_ema")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def averaged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs of averaged and current networks."""
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.generator_ema, self.generator)]
        if self.encoder is not None and self.encoder_ema is not None:
            pairs.append((self.encoder_ema, self.encoder))
        return pairs

    def description(self) -> dict[str, Any]:
        """What a model file says of the networks."""
        return {
            "family": self.generator_ema.family,
            "config": asdict(self.generator_ema.config),
            "discriminator_channels": list(self.discriminator_channels),
        }


def build(config: TrainConfig, device: torch.device, label_sizes: tuple[int, ...] = ()) -> TrainState:
    """Fresh networks; their initial weights depend on ``config.seed`` alone and the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        generator = StyleGAN2(config.generator(label_sizes))
        spec = generator.latent_spec
        encoder = None
        if config.with_encoder:
            encoder = LatentEncoder(config.discriminator_channels, spec.num_ws, spec.w_dim)
        discriminator = Discriminator(config.discriminator_channels, sum(label_sizes))
    for network in (generator, encoder, discriminator):
        if network is not None:
            network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    discriminator.freeze(config.freeze_d)
    betas = (0.0, config.adam_beta2)
    g_parameters = [*generator.parameters(), *(encoder.parameters() if encoder is not None else ())]
    d_parameters = [p for p in discriminator.parameters() if p.requires_grad]
    zero = torch.zeros((), device=device)
    return TrainState(
        generator,
        discriminator,
        encoder,
        copy.deepcopy(generator).eval().requires_grad_(False),
        None if encoder is None else copy.deepcopy(encoder).eval().requires_grad_(False),
        torch.optim.Adam(g_parameters, lr=config.learning_rate, betas=betas, eps=1e-8),
        torch.optim.Adam(d_parameters, lr=config.learning_rate, betas=betas, eps=1e-8),
        zero + config.augment_p,
        torch.zeros(2, device=device),
        zero.clone(),
        torch.zeros(NUM_RECENT_CODES if config.with_encoder else 1, spec.num_ws * spec.w_dim, device=device),
        config.discriminator_channels,
    )


def save(path: Path, config: TrainConfig, state: TrainState, labels: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of everything; ``labels``: what a condition means."""
    payload = {
        "modules": {name: module.state_dict() for name, module in state.modules().items()},
        "g_optimizer": state.g_optimizer.state_dict(),
        "d_optimizer": state.d_optimizer.state_dict(),
        "tensors": {name: getattr(state, name) for name in ("augment_p", "signs", "path_mean", "codes")},
        "labels": None if labels is None else json.loads(json.dumps(labels)),
        "num_codes": state.num_codes,
        "images_seen": state.images_seen,
        "step": state.step,
    }
    write_checkpoint(path, config, payload)


def load(
    path: Path, config: TrainConfig, state: TrainState, device: torch.device, labels: dict[str, Any] | None = None
) -> None:
    """Inverse of :func:`save`, into networks built for the same configuration.

    Raises:
        CheckpointError: When the file is damaged or belongs to another configuration.
    """
    payload = read_checkpoint(path, config)
    if payload.get("labels") != (None if labels is None else json.loads(json.dumps(labels))):
        raise CheckpointError(f"{path}: made with other labels: the table's classes have changed; use the old table")
    try:
        for name, module in state.modules().items():
            module.load_state_dict(payload["modules"][name])
        state.g_optimizer.load_state_dict(payload["g_optimizer"])
        state.d_optimizer.load_state_dict(payload["d_optimizer"])
        for name, value in payload["tensors"].items():
            setattr(state, name, value.to(device))
        state.num_codes, state.images_seen, state.step = payload["num_codes"], payload["images_seen"], payload["step"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this run: {error}") from error
