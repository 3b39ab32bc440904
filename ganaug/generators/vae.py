"""A variational autoencoder with the decoder of a style-based generator (arXiv 1312.6114; decoder arXiv 1912.04958).

The latents are rows, and each row modulates the layers of its resolution, as in StyleGAN2's W+: a learned constant,
modulated convolutions, and RGB outputs that are summed over the resolutions. So "coarse", "middle" and "fine" rows mean
the same as for StyleGAN2, and a cache or an edit need not know which family it works on.

There is no mapping network. The codes of photos fill a small part of N(0, I), and what is drawn outside it is no face:
``mapping`` takes z to the Gaussian that was fitted to the codes of photos after training (ex-post density estimation,
arXiv 1903.12436, section 4). The rows of one sample differ. The noise inputs stay at strength 0: a pixel likelihood
wants the most probable image, so noise could only add error. Every ``noise`` mode gives the same image.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ganaug.generators.prior import LatentPrior
from ganaug.generators.style_based import DeltaBased
from ganaug.generators.stylegan2 import StyleGAN2Config, Synthesis, SynthesisLayer
from ganaug.interfaces import LatentSpec

MAX_Z_DIM = 128  # as many components as a fitted prior keeps


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of a VAE's decoder.

    Attributes:
        img_resolution: Height and width in pixels, a power of two from 8 up.
        w_dim: Size of one row of latents.
        channels: Feature maps at 4, 8, ..., ``img_resolution``.
    """

    img_resolution: int = 64
    w_dim: int = 256
    channels: tuple[int, ...] = (192, 192, 128, 64, 32)

    def __post_init__(self) -> None:
        self.decoder()  # refuses what does not fit

    def decoder(self) -> StyleGAN2Config:
        """The synthesis network's part of it; there is no mapping network."""
        return StyleGAN2Config(self.img_resolution, self.w_dim, self.w_dim, mapping_layers=0, channels=self.channels)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "VAEConfig":
        """Inverse of ``dataclasses.asdict``, after a trip through JSON."""
        return cls(**{**config, "channels": tuple(config["channels"])})


class VAE(DeltaBased):
    """The decoder of a VAE, fulfilling :class:`ganaug.interfaces.Generator`.

    Its encoder is :class:`ganaug.inversion.vae.VAEEncoder`.

    Args:
        config: Architecture.

    Example:
        >>> generator = VAE(VAEConfig(8, 16, (8, 8))).eval().requires_grad_(False)
        >>> w_plus = generator.mapping(torch.zeros(2, generator.z_dim))
        >>> generator.z_dim, w_plus.shape, generator.synthesis(w_plus).shape
        (64, torch.Size([2, 4, 16]), torch.Size([2, 3, 8, 8]))
    """

    family = "vae"
    config: VAEConfig
    w_avg: Tensor
    center: Tensor
    axes: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.img_resolution = config.img_resolution
        self.latent_spec = LatentSpec("w_plus", num_ws=2 * len(config.channels), w_dim=config.w_dim)
        self.z_dim = min(MAX_Z_DIM, math.prod(self.latent_spec.shape))
        self.synthesis_network = Synthesis(config.decoder())
        for module in self.synthesis_network.modules():
            if isinstance(module, SynthesisLayer):
                module.noise_strength.requires_grad_(False)
        # Mean of the N(0, I) that training pulls codes to, nothing learned: not a part of the weights.
        self.register_buffer("w_avg", torch.zeros(config.w_dim), persistent=False)
        spec = self.latent_spec.shape
        self.register_buffer("center", torch.zeros(spec))
        self.register_buffer("axes", torch.eye(self.z_dim, math.prod(spec)).unflatten(1, spec))

    @torch.no_grad()
    def set_prior(self, prior: LatentPrior) -> None:
        """Makes ``mapping`` draw from the codes of photos; axes that the prior lacks become 0."""
        self.center.copy_(prior.mean)
        self.axes.zero_()
        count = min(len(prior.std), self.z_dim)
        self.axes[:count] = (prior.std[:, None, None] * prior.components)[:count].to(self.axes)

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """``z (B, z_dim)`` ~ N(0, I) -> ``w_plus (B, L, D)``; ``truncation_psi`` scales the distance from the mean.

        Raises:
            ValueError: For a condition ``c``, which this family does not have, or z of another shape.
        """
        if c is not None:
            raise ValueError("a VAE is unconditional: c must be None")
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"expected z of shape (B, {self.z_dim}), got {tuple(z.shape)}")
        return self.center + truncation_psi * torch.tensordot(z, self.axes, dims=1)
