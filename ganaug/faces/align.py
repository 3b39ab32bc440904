"""From an upright photo to the generator's chip, and the transform that leads back."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Alignment:
    """How a face is cut from its photo. Stored in the header of a cache, and part of what must match.

    ``center``: the largest centred square, scaled to ``size`` with Pillow's antialiased Lanczos filter. Right for
    photos that are face chips already (dlib, ArcFace, FFHQ, CelebA crops).

    Attributes:
        mode: ``"center"``.
        size: Side of the chip in pixels.
    """

    mode: str = "center"
    size: int = 64

    def __post_init__(self) -> None:
        if self.mode != "center":
            raise ValueError(f"unknown alignment mode {self.mode!r}: expected 'center'")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Alignment":
        """Inverse of :meth:`to_dict`."""
        return cls(**values)


def align(image: Image.Image, alignment: Alignment) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cuts the chip.

    Args:
        image: Upright RGB photo.
        alignment: How.

    Returns:
        The chip ``(size, size, 3)`` uint8, and the ``(2, 3)`` matrix that maps photo pixel coordinates (x, y, 1) to
        chip pixel coordinates, with pixel centres at half-integers.
    """
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    size = alignment.size
    chip = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    scale = size / side
    matrix = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]], dtype=np.float32)
    return np.asarray(chip, dtype=np.uint8), matrix


def to_model_range(images: Tensor) -> Tensor:
    """uint8 in [0, 255] or float in [0, 1] -> float32 in [-1, 1], the range inside generators."""
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1.0
    return images.float() * 2.0 - 1.0


def to_unit_range(images: Tensor) -> Tensor:
    """Generator output in [-1, 1] -> float32 in [0, 1], clamped."""
    return (images.float() * 0.5 + 0.5).clamp(0.0, 1.0)
