"""Backbones of the field's encoders: ArcFace's residual networks and ResNet-34, for photos that stay photos.

The improved residual (IR) block is ArcFace's (arXiv 1801.07698, section 3.2.2): normalise, 3x3 convolution, PReLU, 3x3
convolution, normalise. IR-SE adds squeeze-and-excitation (arXiv 1709.01507, section 3). ResNet-34's block is
arXiv 1512.03385's (figure 5, left); as an encoder it has a PReLU and no pooling behind its first convolution.

Batch normalisation is an affine map once training is over. Here it is one: folded into the convolution before it when a
file is read, or a scale and a shift where the next layer pads with zeros and nothing can be folded.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16  # pixels of the photo per pixel of the last map, for both kinds


class IRBlock(nn.Module):
    """``(B, C, H, W)`` -> ``(B, C', H / stride, W / stride)``.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: 1 or 2.
        reduction: Channels out per hidden unit of squeeze-and-excitation; 0 for none.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int) -> None:
        super().__init__()
        self.stride = stride
        self.scale = nn.Parameter(torch.ones(in_channels))
        self.shift = nn.Parameter(torch.zeros(in_channels))
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.slope = nn.Parameter(torch.full((out_channels,), 0.25))
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride=stride, padding=1)
        self.squeeze = nn.Linear(out_channels, out_channels // reduction, bias=False) if reduction else None
        self.excite = nn.Linear(out_channels // reduction, out_channels, bias=False) if reduction else None
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the residual and the photo's way past it."""
        # The shift cannot be folded into conv1: the zeros that conv1 pads with are not shifted.
        y = self.conv1(torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None]))
        y = self.conv2(F.prelu(y, self.slope))
        past = x[:, :, :: self.stride, :: self.stride] if self.shortcut is None else self.shortcut(x)
        if self.squeeze is None or self.excite is None:
            return past + y
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean(dim=(2, 3))))))
        return torch.addcmul(past, y, gate[:, :, None, None])


class BasicBlock(nn.Module):
    """ResNet-34's block, arguments as for :class:`IRBlock`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H / stride, W / stride)``."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Backbone(nn.Module):
    """Photo -> feature maps at a quarter, an eighth and a sixteenth of its resolution.

    Args:
        kind: ``"ir"`` or ``"resnet"``.
        input_nc: Channels in: 3 for a photo, 6 for a photo and its reconstruction.
        channels: Of the first layer and of the four stages.
        blocks: Blocks of the four stages.
        reduction: See :class:`IRBlock`; 0 for a ResNet.

    Raises:
        ValueError: For an unknown kind, or other than four stages.
    """

    def __init__(
        self, kind: str, input_nc: int, channels: Sequence[int], blocks: Sequence[int], reduction: int
    ) -> None:
        super().__init__()
        if kind not in ("ir", "resnet"):
            raise ValueError(f"backbone must be 'ir' or 'resnet', got {kind!r}")
        if len(channels) != 5 or len(blocks) != 4:
            raise ValueError(f"expected channels of 5 and blocks of 4 stages, got {channels} and {blocks}")
        # To a sixteenth: four stages of stride 2 (ArcFace), or a first layer and all stages but the first (ResNet).
        residual = kind == "ir"
        self.stem = nn.Conv2d(input_nc, channels[0], 3, padding=1) if residual else _resnet_stem(input_nc, channels[0])
        self.slope = nn.Parameter(torch.full((channels[0],), 0.25))
        self.stages = nn.ModuleList()
        for number, (before, width) in enumerate(pairwise(channels)):
            stage = nn.Sequential()
            for i in range(blocks[number]):
                first = i == 0
                stride = 2 if first and (residual or number > 0) else 1
                into = before if first else width
                stage.append(IRBlock(into, width, stride, reduction) if residual else BasicBlock(into, width, stride))
            self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(B, input_nc, S, S)`` in [-1, 1] -> maps of S/4, S/8 and S/16 pixels."""
        x = F.prelu(self.stem(x.contiguous(memory_format=torch.channels_last)), self.slope)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


def _resnet_stem(input_nc: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(input_nc, channels, 7, stride=2, padding=3)
