"""The field's encoders: pSp, e4e and ReStyle, of which published files exist (read by ``ganaug.published.encoders``).

pSp (arXiv 2008.00951, figure 2): a pyramid over the backbone's last three maps; coarse rows of W+ are read from the
smallest map, middle rows from the next, fine rows from the largest, each by a head of its own. e4e (arXiv 2102.02766):
the first head gives one w for all rows, the others what to add to it. ReStyle (arXiv 2104.02699, figure 2): the network
looks at the photo beside its own last reconstruction, a few times over; its heads all read the smallest map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.interfaces import Generator, UserInputError
from ganaug.inversion.backbone import STRIDE, Backbone
from ganaug.layers import EqualLinear

# Rows 0 to 2 are coarse, 3 to 6 middle, the rest fine (arXiv 2008.00951, figure 2).
COARSE_ROWS = 3
MIDDLE_ROWS = 4

HEAD_SLOPE = 0.01  # leaky ReLU between the convolutions of a head (files of pSp; torch's default)
POOLED = 7  # side of the map that pSp's encoder "last layer into W+" flattens (files of pSp)

HEADS = ("pyramid", "last", "w", "w_plus")


@dataclass(frozen=True)
class PyramidConfig:
    """Architecture of an encoder.

    Attributes:
        num_ws: Rows L of the latents.
        w_dim: Numbers per row D.
        backbone: ``"ir"`` (ArcFace's) or ``"resnet"``.
        reduction: See :class:`ganaug.inversion.backbone.IRBlock`.
        input_nc: 3: sees the photo. 6: sees the photo and its last reconstruction (ReStyle).
        input_size: Height and width of what it sees, in pixels: 16 times a power of two.
        channels: Of the backbone's first layer and its four stages.
        blocks: Blocks of the four stages.
        head: ``"pyramid"`` (pSp, e4e), ``"last"`` (every row from the smallest map: ReStyle), ``"w"`` (one code for all
            rows from the mean of the smallest map) or ``"w_plus"`` (all rows from one linear layer).
        offsets: The first head gives w, the others what to add to it (e4e).
        iterations: How often it looks (ReStyle); 1 for the others.
    """

    num_ws: int
    w_dim: int
    backbone: str = "ir"
    reduction: int = 16
    input_nc: int = 3
    input_size: int = 256
    channels: tuple[int, ...] = (64, 64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 14, 3)
    head: str = "pyramid"
    offsets: bool = False
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {self.head!r}")
        if self.input_nc not in (3, 6):
            raise ValueError(f"input_nc must be 3 or 6, got {self.input_nc}")
        if self.iterations < 1 or (self.iterations > 1 and self.input_nc == 3):
            raise ValueError(f"an encoder of {self.input_nc} channels cannot look {self.iterations} times")
        if self.input_size < 2 * STRIDE or (self.input_size // STRIDE) & (self.input_size // STRIDE - 1):
            raise ValueError(f"input_size must be {STRIDE} times a power of two, got {self.input_size}")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "PyramidConfig":
        """Inverse of ``dataclasses.asdict``, after a trip through JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls(**values)

    @property
    def method(self) -> str:
        """Name in ``ENCODERS``: of the paper that it is from."""
        return "restyle" if self.input_nc == 6 else "e4e" if self.offsets else "psp"

    @property
    def head_depths(self) -> tuple[int, ...]:
        """For each row, stride-2 convolutions from its map to one pixel."""
        smallest = (self.input_size // STRIDE).bit_length() - 1
        return tuple(smallest + level for level in row_levels(self.head, self.num_ws))


def row_levels(head: str, num_ws: int) -> list[int]:
    """For each row, its level of the pyramid: 0 is the smallest map. Empty for heads that give all rows at once."""
    if head == "last":
        return [0] * num_ws
    if head == "pyramid":
        return [0 if i < COARSE_ROWS else 1 if i < COARSE_ROWS + MIDDLE_ROWS else 2 for i in range(num_ws)]
    return []


class StyleHead(nn.Module):
    """Feature map -> one row (arXiv 2008.00951, figure 2): stride-2 convolutions down to one pixel, a linear layer.

    Args:
        channels: Channels of the map.
        w_dim: Numbers in a row.
        depth: Convolutions; the map has ``2 ** depth`` pixels a side.
    """

    def __init__(self, channels: int, w_dim: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels if i == 0 else w_dim, w_dim, 3, stride=2, padding=1) for i in range(depth)
        )
        self.linear = EqualLinear(w_dim, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, D)``."""
        for conv in self.convs:
            x = F.leaky_relu(conv(x), HEAD_SLOPE)
        row: Tensor = self.linear(x.flatten(1))
        return row


class PyramidHeads(nn.Module):
    """Maps of three sizes -> rows; with ``head="last"`` from the smallest alone."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        width = config.channels[-1]
        self.levels = row_levels(config.head, config.num_ws)
        self.offsets = config.offsets
        self.laterals = nn.ModuleList()
        if config.head == "pyramid":
            self.laterals.extend(nn.Conv2d(channels, width, 1) for channels in config.channels[-2:-4:-1])
        self.styles = nn.ModuleList(StyleHead(width, config.w_dim, depth) for depth in config.head_depths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, smallest last -> ``(B, L, D)``."""
        pyramid = [maps[-1]]
        for lateral, finer in zip(self.laterals, reversed(maps[:-1]), strict=False):
            # Top-down way of a feature pyramid (arXiv 1612.03144, section 3); pSp's corners stay in the corners.
            up = F.interpolate(pyramid[-1], size=finer.shape[-2:], mode="bilinear", align_corners=True)
            pyramid.append(up + lateral(finer))
        rows = torch.stack(
            [style(pyramid[level]) for style, level in zip(self.styles, self.levels, strict=True)], dim=1
        )
        if self.offsets:
            rows = torch.cat([rows[:, :1], rows[:, :1] + rows[:, 1:]], dim=1)
        return rows


class PooledHead(nn.Module):
    """The smallest map's mean -> one code for all rows (pSp's and HyperStyle's encoders into W)."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.num_ws = config.num_ws
        self.linear = EqualLinear(config.channels[-1], config.w_dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, smallest last -> ``(B, L, D)``, all rows equal."""
        code: Tensor = self.linear(maps[-1].mean(dim=(2, 3)))
        return code[:, None].expand(-1, self.num_ws, -1)


class FlatHead(nn.Module):
    """The smallest map, pooled and flattened -> all rows (pSp's encoder "last layer into W+")."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.shape = (config.num_ws, config.w_dim)
        self.flat = nn.Linear(config.channels[-1] * POOLED**2, config.w_dim)
        self.linear = EqualLinear(config.w_dim, config.num_ws * config.w_dim)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, smallest last -> ``(B, L, D)``."""
        rows: Tensor = self.linear(self.flat(F.adaptive_avg_pool2d(maps[-1], POOLED).flatten(1)))
        return rows.unflatten(1, self.shape)


class FeaturePyramidEncoder(nn.Module):
    """Photo -> ``w_plus``, as its project computes it.

    Args:
        config: Architecture.

    Attributes:
        latent_avg: ``(L, D)``, what it starts from: the mean latent it was trained with, or 0.
    """

    latent_avg: Tensor

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.input_nc, config.channels, config.blocks, config.reduction)
        kinds = {"w": PooledHead, "w_plus": FlatHead}
        self.head = kinds.get(config.head, PyramidHeads)(config)
        self.register_buffer("latent_avg", torch.zeros(config.num_ws, config.w_dim))

    @classmethod
    def unfilled(cls, config: PyramidConfig) -> "FeaturePyramidEncoder":
        """One whose weights are about to be loaded: 267 million of them are not drawn first."""
        with torch.device("meta"):
            encoder = cls(config)
        return encoder.to_empty(device="cpu")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the weights."""
        iterations = {"iterations": self.config.iterations} if self.config.input_nc == 6 else {}
        return {"encoder": self.config.method, **iterations}

    def forward(self, seen: Tensor) -> Tensor:
        """``(B, input_nc, S, S)`` in [-1, 1] -> ``(B, L, D)``, to be added to what it started from."""
        rows: Tensor = self.head(self.backbone(seen))
        return rows

    def encode(self, images: Tensor, generator: Generator) -> Tensor:
        """``w_plus (B, L, D)`` for ``images (B, 3, H, W)`` in [-1, 1].

        Args:
            images: Photos, scaled to ``input_size`` here.
            generator: The generator that it was trained with. ReStyle looks at its images.

        Raises:
            UserInputError: If the generator's latents are of another shape.
        """
        if generator.latent_spec.shape != tuple(self.latent_avg.shape):
            raise UserInputError(
                f"this {self.config.method} encoder gives latents of shape {tuple(self.latent_avg.shape)}, but the "
                f"generator takes {generator.latent_spec.shape}; use it with the generator of its own file"
            )
        size = self.config.input_size
        photos = images
        if tuple(images.shape[-2:]) != (size, size):  # as Pillow does it, which the projects use
            photos = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        codes = self.latent_avg.expand(len(images), -1, -1)
        if self.config.input_nc == 3:
            return codes + self(photos)
        for iteration in range(self.config.iterations):
            # The first look is at the image of the average latent, one for all photos.
            made = generator.synthesis(codes if iteration else codes[:1])
            made = F.adaptive_avg_pool2d(made, size).expand(len(images), -1, -1, -1)
            codes = codes + self(torch.cat([photos, made], dim=1))
        return codes
