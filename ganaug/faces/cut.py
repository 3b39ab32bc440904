"""A chip out of a photo by its matrix: antialiased, and filled where the photo ends."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from ganaug.faces.geometry import apply_points, compose, invert
from ganaug.faces.warp import warp

# The chip is sampled at twice its size and then halved: at that density the bicubic's error is below 3 % for all
# frequencies that the chip can hold. It reaches over the chip's edge by the halving's Lanczos kernel.
_DENSITY = 2
_MARGIN = 3

# FFHQ's preprocessing (Karras et al., CVPR 2019, appendix A; constants from its published script): blur of 2 % of the
# chip's side, and the full median colour at 30 % outside, or further where the chip reaches further.
_BLUR = 0.02
_FADE = 0.3


def cut(image: Image.Image, matrix: ArrayLike, size: int) -> NDArray[np.uint8]:
    """Cuts the chip that a stored matrix names.

    The photo is first shrunk by Pillow's Lanczos filter where it is more than twice as fine as the chip, then sampled
    by a bicubic, then halved by Lanczos. Where the chip reaches beyond the photo, it shows the photo mirrored, more and
    more blurred, and fading to the median colour of the rest, as in FFHQ. Pixels of the photo are left alone.

    Args:
        image: Upright RGB photo.
        matrix: ``(2, 3)``, photo pixels to chip pixels, a similarity; see :func:`ganaug.faces.align.align`.
        size: Side of the chip in pixels.

    Returns:
        ``(size, size, 3)`` uint8.
    """
    forward = torch.as_tensor(np.asarray(matrix, dtype=np.float64))
    back = invert(forward)
    scale = math.sqrt(abs(float(torch.linalg.det(forward[:, :2]))))
    low, high = -_MARGIN, size + _MARGIN
    corners = apply_points(back, torch.tensor([[low, low], [high, low], [low, high], [high, high]]).double()).numpy()
    pixels, place = _region(image, corners, scale * _DENSITY)
    inner = compose(forward, invert(place))
    wide = torch.tensor([[_DENSITY, 0.0, _DENSITY * _MARGIN], [0.0, _DENSITY, _DENSITY * _MARGIN]]).double()
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    side = _DENSITY * (size + 2 * _MARGIN)
    dense = warp(planes, compose(wide, inner)[None], (side, side), padding="reflection")[0]
    dense_image = Image.fromarray(dense.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy())
    edge = _DENSITY * _MARGIN
    chip = dense_image.resize((size, size), Image.Resampling.LANCZOS, box=(edge, edge, side - edge, side - edge))
    outside = _outside(back.numpy(), scale, size, image.size)
    return np.asarray(chip) if outside is None else _soften(chip, outside)


def _region(
    image: Image.Image, corners: NDArray[np.float64], density: float
) -> tuple[NDArray[np.float32], torch.Tensor]:
    """The pixels ``(h, w, 3)`` that a quadrilateral is sampled from, and the matrix from the photo to them.

    With a margin for the bicubic, and with what is mirrored where the quadrilateral reaches beyond the photo. Shrunk if
    the photo has more than a pixel per ``1 / density``.
    """
    limit = np.array(image.size, dtype=np.float64)
    shrink = min(density, 1.0)
    low, high = corners.min(axis=0) - 3 / shrink, corners.max(axis=0) + 3 / shrink
    start = np.floor(np.clip(np.minimum(low, 2 * limit - high), 0, limit - 1))
    stop = np.ceil(np.clip(np.maximum(high, -low), start + 1, limit))
    box = (int(start[0]), int(start[1]), int(stop[0]), int(stop[1]))
    # Rounded down: then sampling never shrinks, and needs no filter of its own.
    width, height = (max(1, math.floor(extent * shrink)) for extent in stop - start)
    if shrink < 1.0:
        # reducing_gap: averages whole pixels first, down to three times the size; not to be told apart, and faster.
        part = image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    else:
        part = image.crop(box)
    factors = np.array(part.size) / (stop - start)
    place = torch.tensor([[factors[0], 0.0, -start[0] * factors[0]], [0.0, factors[1], -start[1] * factors[1]]])
    return np.asarray(part, dtype=np.float32), place.double()


def _outside(
    back: NDArray[np.float64], scale: float, size: int, photo_size: tuple[int, int]
) -> NDArray[np.float64] | None:
    """How far each pixel of the chip lies outside the photo, ``(size, size, 1)`` in chip sides; None if none does."""
    place = np.arange(size) + 0.5
    distance = np.zeros((size, size, 1))
    for axis, limit in enumerate(photo_size):
        at = back[axis, 0] * place[None, :] + back[axis, 1] * place[:, None] + back[axis, 2]
        np.maximum(distance[..., 0], np.maximum(-at, at - limit), out=distance[..., 0])
    return distance * scale / size if distance.any() else None


def _soften(chip: Image.Image, outside: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Blur and median colour, growing with the distance from the photo."""
    size = chip.width
    pixels = np.asarray(chip, dtype=np.float64)
    blurred = np.asarray(chip.filter(ImageFilter.GaussianBlur(_BLUR * size)), dtype=np.float64)
    median = np.median(pixels[outside[..., 0] == 0], axis=0)
    fade = outside / max(_FADE, float(outside.max()))
    result = pixels + (blurred - pixels) * np.clip(3 * fade, 0, 1)
    result += (median - result) * fade
    return np.rint(result).astype(np.uint8)
