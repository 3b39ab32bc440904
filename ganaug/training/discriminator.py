"""StyleGAN2's residual discriminator on top of the shared trunk."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganaug.features import ResidualTrunk
from ganaug.layers import EqualConv2d, EqualLinear


def minibatch_stddev(x: Tensor, group_size: int = 4) -> Tensor:
    """Appends one map holding the standard deviation over groups of samples (arXiv 1710.10196, section 3).

    Args:
        x: ``(B, C, H, W)``.
        group_size: Samples per group, cut down to a divisor of B.

    Returns:
        ``(B, C + 1, H, W)``.
    """
    batch, channels, height, width = x.shape
    group = next(g for g in range(min(group_size, batch), 0, -1) if batch % g == 0)
    y = x.reshape(group, batch // group, channels, height, width)
    y = (y.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    y = y.repeat(group)[:, None, None, None].expand(-1, 1, height, width)
    return torch.cat([x, y], dim=1)


class Discriminator(nn.Module):
    """Image -> logit of being real, with the trunk's feature maps for perceptual comparison.

    Args:
        channels: Feature maps from full resolution down to 4x4, see :class:`ResidualTrunk`.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(channels)
        width = self.trunk.out_channels
        self.conv = EqualConv2d(width + 1, width, 3)
        self.fc = EqualLinear(width * 16, width, activate=True)
        self.out = EqualLinear(width, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``(B, 3, H, W)`` -> ``logits (B,)`` in the weights' dtype and the trunk's maps in the dtype of ``images``."""
        maps = self.trunk(images)
        x = self.conv(minibatch_stddev(maps[-1].to(self.fc.weight.dtype)))
        return self.out(self.fc(x.flatten(1)))[:, 0], maps
