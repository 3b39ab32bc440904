"""Feature networks: the residual trunk that discriminators and encoders are built on, and frozen perceptual features.

The residual trunk follows the StyleGAN2 discriminator (arXiv 1912.04958, section 4.1): residual blocks, no
normalisation, each halving the resolution. A trained discriminator has learnt what matters in a face, so its
activations serve as perceptual features where no ImageNet network is at hand (as in VAE/GAN, arXiv 1512.09300).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.interfaces import resolve_device
from ganaug.layers import EqualConv2d


class ResidualBlock(nn.Module):
    """``(B, C, H, W)`` -> ``(B, C', H/2, W/2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualConv2d(in_channels, out_channels, down=True)
        self.skip = EqualConv2d(in_channels, out_channels, 1, bias=False, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """Sum of both paths, scaled by 1/sqrt(2) to keep the variance."""
        return (self.conv1(self.conv0(x)) + self.skip(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


class ResidualTrunk(nn.Module):
    """RGB image -> feature maps at half, quarter, ... of the resolution, down to 4x4.

    Args:
        channels: Feature maps at ``img_resolution``, ``img_resolution / 2``, ..., 4.

    Attributes:
        out_channels: Channels of the last (4x4) map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.fromrgb = EqualConv2d(3, channels[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in pairwise(channels))
        self.channels = tuple(channels)
        self.out_channels = channels[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> one map per block, coarsest last; computed in the dtype of ``images``."""
        x = self.fromrgb(images.contiguous(memory_format=torch.channels_last))
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Perceptual distance per sample between two lists of feature maps.

    At every position both maps are scaled to unit length over channels, the squared difference is summed over channels
    and averaged over positions and layers: LPIPS (arXiv 1801.03924, equation 1) with all weights equal.

    Args:
        a: Maps ``(B, C_l, H_l, W_l)``.
        b: Maps of the same shapes.

    Returns:
        ``(B,)``, between 0 and 4.
    """
    total = torch.zeros(a[0].shape[0], device=a[0].device)
    for x, y in zip(a, b, strict=True):
        x, y = x.float(), y.float()
        # |x/|x| - y/|y||^2 = 2 - 2 cos(x, y): the same sum without writing the scaled maps.
        norms = (x.square().sum(dim=1) + 1e-8).rsqrt() * (y.square().sum(dim=1) + 1e-8).rsqrt()
        cosine = (x * y).sum(dim=1) * norms
        total = total + 2.0 - 2.0 * cosine.mean(dim=(1, 2))
    return total / len(a)


class PerceptualFeatures(nn.Module):
    """A frozen trunk as perceptual metric: distance between images as the eye of a discriminator sees them.

    Args:
        channels: Channels of the trunk, see :class:`ResidualTrunk`.
        img_resolution: Side at which the trunk was trained; other sizes are resized to it.
    """

    def __init__(self, channels: Sequence[int], img_resolution: int) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(channels)
        self.img_resolution = img_resolution
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> feature maps for :func:`feature_distance`."""
        size = (self.img_resolution, self.img_resolution)
        if tuple(images.shape[2:]) != size:
            # In float32: bfloat16 has no antialiased resampling on the CPU.
            resized = F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)
            images = resized.to(images.dtype)
        maps: list[Tensor] = self.trunk(images)
        return maps

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """``(B,)`` from the maps of two batches: :func:`feature_distance`, at least 0 in spite of rounding."""
        return feature_distance(a, b).clamp(min=0.0)


class PooledFeatures(nn.Module):
    """Images as points whose distribution can be compared (:mod:`ganaug.metrics`), by a trunk instead of Inception.

    The last ``num_blocks`` maps of the trunk are averaged over positions, joined, and projected on ``num_features``
    fixed random orthonormal directions. Covariances of a few hundred photos say little in the 512 dimensions that the
    bundled trunk would give: the bias would drown differences. Nothing is fitted to either set.

    What the trunk of a discriminator sees is not what Inception sees: figures compare checkpoints of one run or runs
    on the same held-out photos, nothing published. A generator that was trained against this very trunk has learnt to
    fool it.

    Args:
        features: The trunk.
        name: Written beside every figure, for example ``"discriminator-faces64"``.
        num_blocks: How many of the coarsest maps.
        num_features: D at most; fewer channels than that are taken as they are.
    """

    directions: Tensor

    def __init__(self, features: PerceptualFeatures, name: str, *, num_blocks: int = 3, num_features: int = 64) -> None:
        super().__init__()
        self.features, self.name, self.num_blocks = features, name, num_blocks
        channels = sum(features.trunk.channels[1:][-num_blocks:])
        draw = torch.Generator().manual_seed(0)
        gaussian = torch.randn(channels, min(num_features, channels), generator=draw, dtype=torch.float64)
        directions = torch.linalg.qr(gaussian).Q if num_features < channels else torch.eye(channels)
        self.register_buffer("directions", directions.float().to(next(features.parameters()).device))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in [-1, 1] -> ``(B, D)`` float32, not of unit length."""
        pooled = [m.float().mean(dim=(2, 3)) for m in self.features(images)[-self.num_blocks :]]
        return torch.cat(pooled, dim=1) @ self.directions


def load_perceptual_features(
    source: str | Path | checkpoints.Model = "faces64", device: str | torch.device = "cpu"
) -> PerceptualFeatures:
    """The perceptual features stored in a model file, see :mod:`ganaug.checkpoints`.

    Raises:
        CheckpointError: For a missing or damaged file, or one without features.
    """
    model = checkpoints.open_model(source)
    described = model.description
    with model.building():
        size = described.get("features_resolution", described["config"]["img_resolution"])
        features = PerceptualFeatures(described["discriminator_channels"], size)
    model.load_into(features.trunk, "features")
    return features.eval().to(device=resolve_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
