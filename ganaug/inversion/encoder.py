"""A feed-forward inverter: one pass from photo to W+ (e4e, arXiv 2102.02766: one base code plus small row offsets)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.features import ResidualTrunk
from ganaug.interfaces import Generator, Inversion, resolve_device
from ganaug.inversion.feature_pyramid import FeaturePyramidEncoder, PyramidConfig
from ganaug.inversion.quality import QualityJudge
from ganaug.inversion.vae import VAEEncoder
from ganaug.layers import EqualLinear


class LatentEncoder(nn.Module):
    """Image -> latents as offsets from the generator's mean.

    Args:
        channels: Feature maps from full resolution down to 4x4.
        num_ws: Rows L of the latents.
        w_dim: Numbers per row D.
    """

    def __init__(self, channels: Sequence[int], num_ws: int, w_dim: int) -> None:
        super().__init__()
        self.num_ws, self.w_dim = num_ws, w_dim
        self.trunk = ResidualTrunk(channels)
        self.fc = EqualLinear(self.trunk.out_channels * 16, 2 * w_dim, activate=True)
        self.base = EqualLinear(2 * w_dim, w_dim)
        self.offsets = EqualLinear(2 * w_dim, num_ws * w_dim)
        nn.init.zeros_(self.offsets.weight)  # starts in W, and leaves it only where that pays

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> base code ``(B, D)`` and row offsets ``(B, L, D)``, to be added to
        ``w_avg``.
        """
        x = self.fc(self.trunk(images)[-1].float().flatten(1))
        return self.base(x), self.offsets(x).reshape(-1, self.num_ws, self.w_dim)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the weights: nothing."""
        return {}

    def encode(self, images: Tensor, generator: Generator) -> Tensor:
        """``w_plus (B, L, D)`` for ``images (B, 3, H, W)`` in [-1, 1] and the generator that it was trained with."""
        base, offsets = self(images)
        w_plus: Tensor = generator.w_avg + base[:, None] + offsets
        return w_plus


Encoder = LatentEncoder | VAEEncoder | FeaturePyramidEncoder


def _rows(described: dict[str, Any]) -> tuple[int, int]:
    """``(L, D)``: two rows per resolution of the generator."""
    config = described["config"]
    return 2 * len(config["channels"]), config["w_dim"]


def _pyramid(described: dict[str, Any]) -> FeaturePyramidEncoder:
    return FeaturePyramidEncoder.unfilled(PyramidConfig.from_dict(described["encoder_config"]))


# What a file calls its encoder, else the family of its generator -> encoder from the file's description.
ENCODERS: dict[str, Callable[[dict[str, Any]], Encoder]] = {
    "latent": lambda d: LatentEncoder(d["encoder_channels"], *_rows(d)),  # `ganaug train-encoder`, for any family
    "stylegan2": lambda d: LatentEncoder(d["discriminator_channels"], *_rows(d)),
    "vae": lambda d: VAEEncoder(d["encoder_channels"], *_rows(d)),
    "psp": _pyramid,
    "e4e": _pyramid,
    "restyle": _pyramid,
}


class EncoderInverter:
    """One pass of a trained encoder, fulfilling :class:`ganaug.interfaces.Inverter`.

    Args:
        generator: The generator that the encoder was trained with.
        encoder: The network.
        judge: What is measured of each inversion.
    """

    name = "encoder"
    anchored = False  # what the encoder says lies in the trained region
    delta = None
    refills = False

    def __init__(self, generator: Generator, encoder: Encoder, judge: QualityJudge | None = None) -> None:
        self.generator = generator
        self.encoder = encoder
        self.judge = judge or QualityJudge()
        self.quality_names = self.judge.names

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the weights."""
        return {"name": self.name, **self.encoder.settings, **self.judge.settings}

    @torch.no_grad()
    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        """See :meth:`ganaug.interfaces.Inverter.invert`."""
        parts = images.split(batch_size or max(len(images), 1))
        codes, qualities = [], []
        for part in parts:
            part = part.to(self.generator.w_avg.device)
            codes.append(self.encoder.encode(part, self.generator))
            qualities.append(self.judge(self.generator.synthesis(codes[-1]), part))
        return Inversion(torch.cat(codes), {n: torch.cat([q[n] for q in qualities]) for n in self.quality_names})


def load_encoder(source: str | Path | checkpoints.Model = "faces64", device: str | torch.device = "cpu") -> Encoder:
    """The encoder stored in a model file beside its generator.

    Raises:
        CheckpointError: For a missing or damaged file, or one without an encoder.
    """
    model = checkpoints.open_model(source)
    with model.building():
        encoder = ENCODERS[model.description.get("encoder", model.description["family"])](dict(model.description))
    model.load_into(encoder, "encoder")
    encoder.eval().requires_grad_(False)
    return encoder.to(device=resolve_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
