"""The encoder of a VAE: photo -> distribution over latents (arXiv 1312.6114, section 3)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ganaug.features import ResidualTrunk
from ganaug.interfaces import Generator
from ganaug.layers import EqualLinear

# Starts at 0.37 of the prior's width. From its full width, the means first grow far beyond the prior to drown noise.
# Chosen by two short trials at 32 px, in which it lowered both KL and error on unseen photos.
INITIAL_LOG_VARIANCE = -2.0


class VAEEncoder(nn.Module):
    """Image -> mean and log variance of a diagonal Gaussian over ``w_plus``.

    Args:
        channels: Feature maps from full resolution down to 4x4.
        num_ws: Rows L of the latents.
        w_dim: Numbers per row D.
    """

    def __init__(self, channels: Sequence[int], num_ws: int, w_dim: int) -> None:
        super().__init__()
        self.shape = (num_ws, w_dim)
        self.trunk = ResidualTrunk(channels)
        self.fc = EqualLinear(self.trunk.out_channels * 16, 2 * w_dim, activate=True)
        self.mean = EqualLinear(2 * w_dim, num_ws * w_dim)
        self.log_variance = EqualLinear(2 * w_dim, num_ws * w_dim, bias_init=INITIAL_LOG_VARIANCE)
        nn.init.zeros_(self.log_variance.weight)  # the same width for every photo, until learned otherwise

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> mean ``(B, L, D)`` and log variance ``(B, L, D)``, float32."""
        x = self.fc(self.trunk(images)[-1].float().flatten(1))
        return self.mean(x).unflatten(1, self.shape), self.log_variance(x).unflatten(1, self.shape)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the weights: nothing."""
        return {}

    def encode(self, images: Tensor, generator: Generator) -> Tensor:
        """The mean, ``w_plus (B, L, D)``, for ``images (B, 3, H, W)``; the generator's ``w_avg`` is 0 for a VAE."""
        mean: Tensor = self(images)[0]
        return generator.w_avg + mean


def sample_posterior(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Reparameterised draw (arXiv 1312.6114, section 2.4): ``noise`` ~ N(0, I), all of one shape."""
    return mean + (0.5 * log_variance).exp() * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, I), arXiv 1312.6114, appendix B.

    Args:
        mean: ``(B, ...)``.
        log_variance: ``(B, ...)``.

    Returns:
        ``(B,)`` nats, summed over all latents.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)).tolist()
        [0.5]
    """
    terms = mean.square() + log_variance.exp() - log_variance - 1.0
    return 0.5 * terms.flatten(1).sum(dim=1)
