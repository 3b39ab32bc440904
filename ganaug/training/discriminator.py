"""StyleGAN2's residual discriminator on top of the shared trunk, with a projected condition."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganaug.errors import UserInputError
from ganaug.features import ResidualTrunk
from ganaug.generators.condition import embed_condition, refuse_condition
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


class ConditionMap(nn.Module):
    """Condition -> direction that the discriminator's features are projected on.

    An embedding and two layers at a hundredth of the learning rate, as the generator's mapping network for small data
    (arXiv 2006.06676, table in appendix C); the nonlinearity lets labels side by side act together.

    Args:
        c_dim: Numbers in a condition.
        out_features: Size M of the direction.
    """

    def __init__(self, c_dim: int, out_features: int) -> None:
        super().__init__()
        self.embed = EqualLinear(c_dim, out_features)
        self.fc0 = EqualLinear(out_features, out_features, lr_multiplier=0.01, activate=True)
        self.fc1 = EqualLinear(out_features, out_features, lr_multiplier=0.01, activate=True)

    def forward(self, c: Tensor | None, batch: int) -> Tensor:
        """``(B, c_dim)`` -> ``(B, M)``."""
        direction: Tensor = self.fc1(self.fc0(embed_condition(self.embed, c, batch)))
        return direction


class Discriminator(nn.Module):
    """Image -> logit of being real, with the trunk's feature maps for perceptual comparison.

    With a condition, the logit is the product of M image features with a direction that depends on c, over sqrt(M)
    (projection discriminator, arXiv 1802.05637, equation 3, in the form of arXiv 2006.06676: the part without c is
    left out, since the map's biases can learn it).

    Args:
        channels: Feature maps from full resolution down to 4x4, see :class:`ResidualTrunk`.
        c_dim: Numbers in a condition; 0 for none.
    """

    def __init__(self, channels: Sequence[int], c_dim: int = 0) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(channels)
        width = self.trunk.out_channels
        self.conv = EqualConv2d(width + 1, width, 3)
        self.fc = EqualLinear(width * 16, width, activate=True)
        self.out = EqualLinear(width, width if c_dim else 1)
        self.condition = ConditionMap(c_dim, width) if c_dim else None

    def freeze(self, num_blocks: int) -> None:
        """Takes the first blocks, from the image on, out of training (FreezeD, arXiv 2002.10964).

        The first block includes the layer that reads the image. Call it before the optimiser is made.

        Args:
            num_blocks: 0 freezes nothing.

        Raises:
            UserInputError: If there are not that many blocks.
        """
        count = len(self.trunk.blocks)
        if not 0 <= num_blocks <= count:
            raise UserInputError(f"freeze_d must lie in 0 to {count}, the discriminator's blocks, got {num_blocks}")
        if num_blocks:
            self.trunk.fromrgb.requires_grad_(False)
            self.trunk.blocks[:num_blocks].requires_grad_(False)

    def forward(self, images: Tensor, c: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """``(B, 3, H, W)`` -> ``logits (B,)`` in the weights' dtype and the trunk's maps in the dtype of ``images``.

        Raises:
            ValueError: For a condition that is missing, not expected, or of another shape than ``(B, c_dim)``.
        """
        maps = self.trunk(images)
        x = self.conv(minibatch_stddev(maps[-1].to(self.fc.weight.dtype)))
        x = self.out(self.fc(x.flatten(1)))
        if self.condition is None:
            refuse_condition(c)
            return x[:, 0], maps
        return (x * self.condition(c, x.shape[0])).sum(dim=1) / math.sqrt(x.shape[1]), maps
