"""The identity judge of the benchmarks: MobileFaceNet. The package never makes or chooses anything by it.

Architecture from its paper (arXiv 1804.07573, table 1), parameter names as in the checkpoint
``mobilefacenet_068.ckpt``. Input RGB 112x96, ``(x - 127.5) / 128``, eyes at (30.3, 51.7) and (65.5, 51.5).
"""

import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ganaug.faces.align import to_unit_range
from ganaug.metrics import frechet_distance, precision_recall

__all__ = ["FFHQ_EYES", "Judge", "ModelRange", "frechet_distance", "precision_recall"]

# Expansion, channels, repeats, first stride of each group of bottlenecks.
TABLE = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
EYES = np.array([[30.3, 51.7], [65.5, 51.5]])
# Mean eyes of FFHQ's framing (arXiv 1812.04948, appendix A) as shares of the chip: (384, 480) and (640, 480) of 1024.
# In the mean of all photos of aaf/ffhq128 the pupils lie there to within a pixel.
FFHQ_EYES = np.array([[0.375, 0.46875], [0.625, 0.46875]])


class ConvBlock(nn.Module):
    def __init__(
        self, inp: int, out: int, kernel, stride: int, pad: int, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.prelu = None if linear else nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class Bottleneck(nn.Module):
    def __init__(self, inp: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inp * expansion
        self.residual = stride == 1 and inp == out
        self.conv = nn.Sequential(
            nn.Conv2d(inp, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileFaceNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = ConvBlock(64, 64, 3, 1, 1, groups=64)
        blocks, width = [], 64
        for expansion, out, repeats, stride in TABLE:
            for repeat in range(repeats):
                blocks.append(Bottleneck(width, out, stride if repeat == 0 else 1, expansion))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(128, 512, 1, 1, 0)
        self.linear7 = ConvBlock(512, 512, (7, 6), 1, 0, groups=512, linear=True)
        self.linear1 = ConvBlock(512, 128, 1, 1, 0, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)


def fairface_eyes(data: Path) -> NDArray[np.float64]:
    """``(2, 2)`` mean eyes of the FairFace chips (144 px), as shares of the chip."""
    with (data / "fairface/labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("left_eye_x", "left_eye_y", "right_eye_x", "right_eye_y")
    return np.array([[float(row[name]) for name in names] for row in rows]).mean(axis=0).reshape(2, 2) / 144.0


class Judge:
    """Chips ``(B, 3, R, R)`` in [0, 1] -> embeddings ``(B, 128)``, not normalised.

    All chips are warped by the one similarity that takes their mean eyes to where the judge wants them: generated faces
    have no landmarks, and the chips are aligned already.

    Args:
        data: Folder with ``weights/``, and with ``fairface/`` for its mean eyes.
        eyes: ``(2, 2)`` x and y of the mean left and right eye, as shares of the chip; None: those of FairFace.
    """

    def __init__(self, data: Path, eyes: NDArray[np.float64] | None = None) -> None:
        state = torch.load(data / "weights/mobilefacenet_068.ckpt", map_location="cpu", weights_only=True)
        self.network = MobileFaceNet().eval().requires_grad_(False)
        self.network.load_state_dict(state["net_state_dict"])
        mean = fairface_eyes(data) if eyes is None else eyes
        # Complex numbers: z -> a z + b maps judge pixels to chip coordinates in [0, 1].
        source, target = EYES @ [1, 1j], mean @ [1, 1j]
        a = (target[1] - target[0]) / (source[1] - source[0])
        b = target[0] - a * source[0]
        y, x = np.meshgrid(np.arange(112), np.arange(96), indexing="ij")
        z = a * (x + 1j * y) + b
        self.grid = torch.from_numpy(np.stack([z.real, z.imag], -1) * 2 - 1).float()

    @torch.no_grad()
    def __call__(self, chips: Tensor) -> Tensor:
        out = []
        for part in chips.split(128):
            grid = self.grid.expand(len(part), -1, -1, -1)
            faces = F.grid_sample(part.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
            out.append(self.network((faces.clamp(0, 1) * 255 - 127.5) / 128))
        return torch.cat(out)


class ModelRange:
    """The judge as :class:`ganaug.training.monitor.Monitor` calls it: on images in [-1, 1]."""

    name = "mobilefacenet"

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __call__(self, images: Tensor) -> Tensor:
        return self.judge(to_unit_range(images))
