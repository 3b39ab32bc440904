"""A feed-forward inverter: one pass from photo to W+ (e4e, arXiv 2102.02766: one base code plus small row offsets)."""

from collections.abc import Sequence

from torch import Tensor, nn

from ganaug.features import ResidualTrunk
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
        """``(B, 3, H, W)`` in [-1, 1] -> base code ``(B, D)`` and per-row offsets ``(B, L, D)``, both minus ``w_avg``."""
        x = self.fc(self.trunk(images)[-1].float().flatten(1))
        return self.base(x), self.offsets(x).reshape(-1, self.num_ws, self.w_dim)

    def encode(self, images: Tensor, w_avg: Tensor) -> Tensor:
        """``w_plus (B, L, D)`` for ``images (B, 3, H, W)`` in [-1, 1]."""
        base, offsets = self(images)
        w_plus: Tensor = w_avg + base[:, None] + offsets
        return w_plus
