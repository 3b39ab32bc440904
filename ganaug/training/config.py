"""Everything that decides a training run, in one frozen dataclass with three presets."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ganaug.generators.stylegan2 import StyleGAN2Config


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of a StyleGAN2 training run, with an encoder trained jointly.

    Attributes:
        resolution: Image side in pixels, a power of two.
        kimg: Length of the run, in thousands of real images shown to the discriminator.
        batch_size: Real images a step.
        z_dim: Size of z.
        w_dim: Size of a row of w.
        mapping_layers: Layers of the mapping network (2 for small data, arXiv 2006.06676, table in appendix C).
        generator_channels: Feature maps at 4, 8, ..., ``resolution``.
        discriminator_channels: Feature maps at ``resolution``, ..., 8, 4; the encoder uses the same.
        learning_rate: Adam's rate for all networks (StyleGAN2: 0.002; 0.0025 in arXiv 2006.06676).
        adam_beta2: Second-moment decay (first is 0, arXiv 1912.04958).
        decay_fraction: Last part of the run over which the rate falls linearly to a tenth.
        r1_gamma: Weight of R1 (arXiv 1801.04406); None: ``0.0002 * resolution**2 / batch_size``, the rule of
            arXiv 2006.06676's automatic configuration.
        r1_interval: Steps between R1 penalties (lazy regularisation, arXiv 1912.04958, appendix B).
        style_mixing_p: Probability of two z for one image (arXiv 1812.04948, section 3.1).
        ema_kimg: Half-life of the weight average, in thousands of images.
        ema_rampup: The half-life is at most this share of the images shown so far (arXiv 2006.06676).
        augment_p: Probability of each augmentation of what the discriminator sees.
        reconstructed_share: Share of generated images that are reconstructions of real ones through the encoder.
        pixel_weight: Weight of the L1 reconstruction error.
        feature_weight: Weight of the reconstruction error in the discriminator's features.
        offset_weight: Weight of the encoder's row offsets, keeps codes near W where edits work (arXiv 2102.02766).
        latent_weight: Weight of the encoder's error on latents of generated images.
        latent_interval: Steps between latent losses.
        snapshot_kimg: Thousands of images between checkpoints with sample pictures.
        precision: ``"bfloat16"`` or ``"float32"`` for the convolutions of all networks; weights, losses, R1 and
            optimisers are float32 either way.
        seed: Decides initial weights, order of the data and every draw.
    """

    resolution: int = 64
    kimg: float = 150.0
    batch_size: int = 16
    z_dim: int = 256
    w_dim: int = 256
    mapping_layers: int = 4
    generator_channels: tuple[int, ...] = (192, 192, 128, 64, 32)
    discriminator_channels: tuple[int, ...] = (32, 64, 128, 192, 192)
    learning_rate: float = 0.0025
    adam_beta2: float = 0.99
    decay_fraction: float = 0.25
    r1_gamma: float | None = None
    r1_interval: int = 16
    style_mixing_p: float = 0.5
    ema_kimg: float = 5.0
    ema_rampup: float = 0.05
    augment_p: float = 0.15
    reconstructed_share: float = 0.5
    pixel_weight: float = 4.0
    feature_weight: float = 4.0
    offset_weight: float = 0.1
    latent_weight: float = 1.0
    latent_interval: int = 4
    snapshot_kimg: float = 4.0
    precision: str = "bfloat16"
    seed: int = 0

    @property
    def effective_r1_gamma(self) -> float:
        """``r1_gamma``, or the rule when that is None."""
        if self.r1_gamma is not None:
            return self.r1_gamma
        return 0.0002 * self.resolution**2 / self.batch_size

    def generator(self) -> StyleGAN2Config:
        """Architecture of the generator."""
        return StyleGAN2Config(
            img_resolution=self.resolution,
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
            channels=self.generator_channels,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """Inverse of :meth:`to_dict`, after a trip through JSON."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**values)


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
    ),
}
