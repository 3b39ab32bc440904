"""Everything that decides a training run, in one frozen dataclass with three presets."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args, get_origin

import torch

from ganaug.errors import UserInputError
from ganaug.generators.stylegan2 import StyleGAN2Config

FAMILIES = ("stylegan2", "vae")
LOSSES = ("non-saturating", "wgan-gp")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of a training run. What a family does not use, it ignores.

    Attributes:
        family: ``"stylegan2"`` (adversarial) or ``"vae"``.
        resolution: Image side in pixels, a power of two from 16 up.
        kimg: Length of the run, in thousands of real images shown.
        batch_size: Real images a step, over all processes.
        accumulate: Parts that each process cuts its share of the batch into, one after the other; gradients add up.
        z_dim: Size of z.
        w_dim: Size of a row of w.
        mapping_layers: Layers of the mapping network (2 for small data, arXiv 2006.06676, table in appendix C).
        generator_channels: Feature maps at 4, 8, ..., ``resolution``.
        discriminator_channels: Feature maps at ``resolution``, ..., 8, 4; the encoder uses the same.
        learning_rate: Adam's rate for all networks (StyleGAN2: 0.002; 0.0025 in arXiv 2006.06676).
        adam_beta2: Second-moment decay (first is 0, arXiv 1912.04958).
        decay_fraction: Last part of the run over which the rate falls linearly to a tenth.
        loss: ``"non-saturating"`` with R1 (arXiv 1406.2661, 1801.04406) or ``"wgan-gp"`` (arXiv 1704.00028).
        gp_weight: Weight of WGAN-GP's penalty on the slope between real and generated images (arXiv 1704.00028: 10).
        r1_gamma: Weight of R1 (arXiv 1801.04406); None: ``0.0002 * resolution**2 / batch_size``, the rule of
            arXiv 2006.06676's automatic configuration.
        r1_interval: Steps between R1 penalties (lazy regularisation, arXiv 1912.04958, appendix B).
        pl_weight: Weight of path-length regularisation (arXiv 1912.04958, section 3.2: 2); 0 leaves it out, as
            arXiv 2006.06676 does for small configurations.
        pl_interval: Steps between path-length penalties.
        pl_decay: How fast the running mean of path lengths follows (arXiv 1912.04958: 0.01).
        style_mixing_p: Probability of two z for one image (arXiv 1812.04948, section 3.1).
        ema_kimg: Half-life of the weight average, in thousands of images.
        ema_rampup: The half-life is at most this share of the images shown so far (arXiv 2006.06676).
        augment_p: Probability of each augmentation of what the discriminator sees; where it starts, if adaptive.
        ada_target: Wanted mean sign of the discriminator on real images, r_t of arXiv 2006.06676, section 3.1 (0.6);
            None keeps ``augment_p`` fixed.
        ada_kimg: Thousands of images in which p can go from 0 to 1 (arXiv 2006.06676: 500).
        ada_interval: Steps between changes of p (arXiv 2006.06676: 4).
        max_augment_p: Upper bound of p: near 1 augmentations leak into what is generated (arXiv 2006.06676,
            section 2.2: safe below 0.8).
        freeze_d: Blocks of the discriminator, from the image on, that keep their weights (arXiv 2002.10964).
        condition: Columns of the label table that the generator is conditioned on.
        init: Name or file of the model that the run starts from; None: fresh networks.
        with_encoder: Train an encoder jointly; without one, samples alone train the generator.
        reconstructed_share: Share of generated images that are reconstructions of real ones through the encoder.
        prior_share: Share of the other generated images that are drawn from a Gaussian over the encoder's recent codes
            instead of from z.
        pixel_weight: Weight of the L1 reconstruction error.
        feature_weight: Weight of the reconstruction error in the discriminator's features.
        offset_weight: Weight of the encoder's row offsets, keeps codes near W where edits work (arXiv 2102.02766).
        latent_weight: Weight of the encoder's error on latents of generated images.
        latent_interval: Steps between latent losses.
        kl_weight: VAE: weight of the KL divergence in nats, divided by the number of pixel values.
        kl_warmup_kimg: VAE: thousands of images over which that weight rises from 0 (arXiv 1602.02282, section 3.3).
        snapshot_kimg: Thousands of images between checkpoints with sample pictures and figures.
        evaluated_images: Generated images that the figures of a snapshot are computed from; 0 computes none.
        precision: ``"bfloat16"`` or ``"float32"`` for the convolutions of all networks; weights, losses, R1 and
            optimisers are float32 either way. None: bfloat16 on CUDA, float32 elsewhere.
        seed: Decides initial weights, order of the data and every draw.
    """

    family: str = "stylegan2"
    resolution: int = 64
    kimg: float = 285.0
    batch_size: int = 16
    accumulate: int = 1
    z_dim: int = 256
    w_dim: int = 256
    mapping_layers: int = 4
    generator_channels: tuple[int, ...] = (192, 192, 128, 64, 32)
    discriminator_channels: tuple[int, ...] = (32, 64, 128, 192, 192)
    learning_rate: float = 0.0025
    adam_beta2: float = 0.99
    decay_fraction: float = 0.25
    loss: str = "non-saturating"
    gp_weight: float = 10.0
    r1_gamma: float | None = None
    r1_interval: int = 16
    pl_weight: float = 0.0
    pl_interval: int = 4
    pl_decay: float = 0.01
    style_mixing_p: float = 0.5
    ema_kimg: float = 5.0
    ema_rampup: float = 0.05
    augment_p: float = 0.15
    ada_target: float | None = 0.6
    ada_kimg: float = 500.0
    ada_interval: int = 4
    max_augment_p: float = 0.8
    freeze_d: int = 0
    condition: tuple[str, ...] = ()
    init: str | None = None
    with_encoder: bool = True
    reconstructed_share: float = 0.5
    prior_share: float = 0.5
    pixel_weight: float = 2.0
    feature_weight: float = 4.0
    offset_weight: float = 0.1
    latent_weight: float = 1.0
    latent_interval: int = 4
    kl_weight: float = 0.1
    kl_warmup_kimg: float = 5.0
    snapshot_kimg: float = 4.0
    evaluated_images: int = 1000
    precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {"family": FAMILIES, "loss": LOSSES, "precision": (*PRECISIONS, None)}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                expected = ", ".join(repr(value) for value in allowed)
                raise UserInputError(f"{name} must be one of {expected}, got {getattr(self, name)!r}")
        if self.resolution < 16 or math.log2(self.resolution) % 1:
            raise UserInputError(f"resolution must be a power of two from 16 up, got {self.resolution}")
        steps = int(math.log2(self.resolution)) - 1
        for name in ("generator_channels", "discriminator_channels"):
            if len(getattr(self, name)) != steps:
                raise UserInputError(f"{self.resolution} px need {steps} {name}, got {getattr(self, name)}")
            if min(getattr(self, name)) < 1:
                raise UserInputError(f"{name} must be at least 1 each, got {getattr(self, name)}")
        intervals = ("r1_interval", "pl_interval", "ada_interval", "latent_interval")
        for name in ("batch_size", "accumulate", "z_dim", "w_dim", "mapping_layers", *intervals):
            if getattr(self, name) < 1:
                raise UserInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("kimg", "learning_rate", "snapshot_kimg", "ada_kimg", "ema_kimg"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserInputError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        shares = ("decay_fraction", "augment_p", "max_augment_p", "style_mixing_p", "reconstructed_share")
        for name in (*shares, "prior_share", "pl_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserInputError(f"{name} must lie in 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.adam_beta2 < 1:
            raise UserInputError(f"adam_beta2 must be at least 0 and below 1, got {self.adam_beta2}")
        if self.ada_target is not None and not -1 <= self.ada_target <= 1:
            raise UserInputError(f"ada_target must lie in -1 to 1, or be None, got {self.ada_target}")
        weights = ("gp_weight", "pl_weight", "pixel_weight", "feature_weight", "offset_weight", "latent_weight")
        for name in (*weights, "kl_weight", "kl_warmup_kimg", "ema_rampup", "effective_r1_gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserInputError(
                    f"{name.removeprefix('effective_')} must be at least 0 and finite, got {getattr(self, name)}"
                )
        for name in ("freeze_d", "evaluated_images"):
            if getattr(self, name) < 0:
                raise UserInputError(f"{name} must be at least 0, got {getattr(self, name)}")

    @property
    def effective_r1_gamma(self) -> float:
        """``r1_gamma``, or the rule when that is None."""
        if self.r1_gamma is not None:
            return self.r1_gamma
        return 0.0002 * self.resolution**2 / self.batch_size

    def rate_at(self, images_seen: int) -> float:
        """Learning rate after so many images: constant, then linear to a tenth."""
        progress = min(images_seen / (self.kimg * 1000), 1.0)
        fall = max(progress - (1.0 - self.decay_fraction), 0.0) / max(self.decay_fraction, 1e-8)
        return self.learning_rate * (1.0 - 0.9 * fall)

    def part_size(self, world: int) -> int:
        """Images that one process works on at once, of ``world`` processes.

        Raises:
            UserInputError: If the batch cannot be cut into equal parts.
        """
        parts = world * self.accumulate
        if self.batch_size % parts:
            raise UserInputError(
                f"a batch of {self.batch_size} cannot be cut into {world} process(es) x {self.accumulate} part(s); "
                f"use a multiple of {parts}"
            )
        return self.batch_size // parts

    def dtype(self, device: torch.device) -> torch.dtype:
        """What convolutions are computed in."""
        return convolution_dtype(self.precision, device)

    def generator(self, label_sizes: tuple[int, ...] = ()) -> StyleGAN2Config:
        """Architecture of the generator, conditioned on labels of so many classes each."""
        return StyleGAN2Config(
            img_resolution=self.resolution,
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
            channels=self.generator_channels,
            c_dim=sum(label_sizes),
            label_sizes=label_sizes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Inverse of :meth:`to_dict`, after a trip through JSON.

        Raises:
            UserInputError: For a name that is not known, or a value of another type.
        """
        known: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise UserInputError(f"unknown setting(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for name, value in values.items():
            if not _is_of(value, known[name]):
                expected = known[name] if get_args(known[name]) else known[name].__name__  # int | None, but int
                raise UserInputError(f"{name} must be of type {expected}, got {value!r}")
        return cls(**values)

    def at_resolution(self, resolution: int) -> "TrainConfig":
        """The same run at another resolution: channels are added by halving, or left out, at the fine end."""
        if not isinstance(resolution, int) or resolution < 16 or math.log2(resolution) % 1:
            raise UserInputError(f"resolution must be a power of two from 16 up, got {resolution!r}")
        steps = int(math.log2(resolution)) - 1
        channels = list(self.generator_channels[:steps])
        while len(channels) < steps:
            channels.append(max(channels[-1] // 2, 16))
        fine = list(self.discriminator_channels[::-1][:steps])
        while len(fine) < steps:
            fine.append(max(fine[-1] // 2, 16))
        return replace(
            self,
            resolution=resolution,
            generator_channels=tuple(channels),
            discriminator_channels=tuple(reversed(fine)),
        )


def convolution_dtype(precision: str | None, device: torch.device) -> torch.dtype:
    """What convolutions are computed in: one of ``PRECISIONS``, or for None bfloat16 on CUDA and float32 elsewhere."""
    precision = precision or ("bfloat16" if device.type == "cuda" else "float32")
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether a value fits an annotation of :class:`TrainConfig`; a whole number is a float too, a bool no number."""
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, get_args(wanted)[0]) for item in value)
    if get_args(wanted):
        return any(_is_of(value, part) for part in get_args(wanted))
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


_BASE = TrainConfig()

PRESETS: dict[str, TrainConfig] = {
    "tiny64": _BASE,
    "small128": replace(
        _BASE,
        resolution=128,
        kimg=2000.0,
        batch_size=32,
        w_dim=512,
        z_dim=512,
        generator_channels=(512, 512, 256, 128, 64, 32),
        discriminator_channels=(32, 64, 128, 256, 512, 512),
        snapshot_kimg=50.0,
    ),
    "paper256": replace(
        _BASE,
        resolution=256,
        kimg=25000.0,
        batch_size=64,
        z_dim=512,
        w_dim=512,
        mapping_layers=8,
        generator_channels=(512, 512, 512, 512, 256, 128, 64),
        discriminator_channels=(64, 128, 256, 512, 512, 512, 512),
        ema_kimg=20.0,
        snapshot_kimg=200.0,
        pl_weight=2.0,
    ),
}
