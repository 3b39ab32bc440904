"""The operations of classical augmentation: pure functions of images and per-sample parameters, batched.

Written so that the bits of a row depend neither on the rest of the batch nor on TF32 settings: no matrix product, no
convolution, no floating-point reduction over pixels. Parameters ``p`` are those of
:meth:`ganaug.classical.ClassicalAugmentation.make_params`, each ``(B,)`` on the images' device; images are
``(B, 3, H, W)`` float32 in [0, 1].
"""

import functools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as kornia.color.rgb_to_grayscale
WORD_MASK = 0xFFFFFFFF


def hashed_normal(seeds: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Standard normal numbers from a hash of (seed, position): a random access generator without state.

    Hashed positions are mixed with hashed seeds and hashed again; each half of the 32 bits picks one of 65536 quantiles
    of the normal distribution (the largest is 4.2). Integer arithmetic and a table instead of Box-Muller's logarithm
    and cosine give the same bits on every device, and cost less.

    Args:
        seeds: ``(B,)`` int64; the low 32 bits count.
        shape: Shape of one sample's numbers.

    Returns:
        ``(B, *shape)`` float32.

    Example:
        >>> both = hashed_normal(torch.tensor([7, 8]), (5,))
        >>> torch.equal(both[1:], hashed_normal(torch.tensor([8]), (5,)))
        True
    """
    count = math.prod(shape)
    positions = _lowbias32(torch.arange(1, (count + 1) // 2 + 1, device=seeds.device))
    bits = _lowbias32(_lowbias32(seeds & WORD_MASK)[:, None] ^ positions)
    picks = torch.cat([bits & 0xFFFF, bits >> 16], 1)
    numbers = _normal_quantiles(seeds.device).index_select(0, picks.view(-1))
    return numbers.view(picks.shape)[:, :count].reshape(-1, *shape)


def _lowbias32(words: Tensor) -> Tensor:
    """Bijection of 32-bit words held in int64, in place: github.com/skeeto/hash-prospector, public domain."""
    words ^= words >> 16
    words *= 0x7FEB352D
    words &= WORD_MASK
    words ^= words >> 15
    words *= 0x846CA68B - 2**32  # the same modulo 2**32, and the product stays within int64
    words &= WORD_MASK
    words ^= words >> 16
    return words


@functools.cache
def _normal_quantiles(device: torch.device) -> Tensor:
    """``(65536,)`` float32 quantiles at the midpoints of equal probabilities, scaled to unit variance."""
    quantiles: Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    return (quantiles / quantiles.square().mean().sqrt()).float().to(device)


def per_image(values: Tensor) -> Tensor:
    """``(B,)`` -> ``(B, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)


def _centers(size: int, like: Tensor) -> Tensor:
    """Pixel centres of one axis as shares of the side, ``(size,)`` in (0, 1)."""
    return (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size


def resample(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Rotation, scaling, translation, then crop, composed into one map from output to input and sampled once."""
    height, width = images.shape[2:]
    # Matrix entries in float64, and (B,)-sized. Coordinates are grid_sample's: -1 and 1 are the image's edges.
    size, angle = p["crop_size"].double(), p["angle_deg"].double().deg2rad()
    cos, sin = angle.cos() / p["scale"], angle.sin() / p["scale"]
    # The crop window maps [-1, 1] to [left, left + 2 * size]; undoing the translation moves it the other way.
    x0 = 2 * p["crop_x"] * (1 - size) + size - 1 - 2 * p["translate_x"]
    y0 = 2 * p["crop_y"] * (1 - size) + size - 1 - 2 * p["translate_y"]
    # Undo the rotation in pixels, not in shares of unequal sides; y points down.
    xy, yx = -sin * (height / width), sin * (width / height)
    matrix = torch.stack([cos * size, xy * size, cos * x0 + xy * y0, yx * size, cos * size, yx * x0 + cos * y0])
    xx, xy, xt, yx, yy, yt = matrix.float()[:, :, None, None]
    # By broadcasting: affine_grid multiplies matrices, which TF32 would round to ten bits.
    x, y = _centers(width, images) * 2 - 1, (_centers(height, images) * 2 - 1)[:, None]
    grid = torch.stack([xx * x + xt + xy * y, yx * x + yt + yy * y], -1)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    still = (angle == 0) & (size == 1) & (p["scale"] == 1) & (p["translate_x"] == 0) & (p["translate_y"] == 0)
    return torch.where(per_image(still), images, warped)


def _luma(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` -> ``(B, 1, H, W)``."""
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return (red * LUMA[0]).add_(green * LUMA[1]).add_(blue * LUMA[2])


def adjust_color(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation, hue, as kornia's ``adjust_brightness_accumulative``,
    ``adjust_contrast_with_mean_subtraction``, ``adjust_saturation_with_gray_subtraction`` and ``adjust_hue``.

    The first three are exact for a factor of one: ``1 * x + 0 * y``.
    """
    images = (images * per_image(p["brightness"])).clamp_(0.0, 1.0)
    # The mean in fixed point: integers add up to the same in any order, floats do not, and torch picks the order by
    # the batch's size. 2**-20 is far below the 2**-8 of a file.
    total = (_luma(images) * 2**20).round_().int().sum((1, 2, 3))
    mean = total.double() / (2**20 * images.shape[2] * images.shape[3])
    contrast, saturation = per_image(p["contrast"]), per_image(p["saturation"])
    images = (images * contrast).add_(per_image(mean.float()) * (1 - contrast)).clamp_(0.0, 1.0)
    images = (images * saturation).add_(_luma(images) * (1 - saturation)).clamp_(0.0, 1.0)
    return torch.where(per_image(p["hue"]) == 0, images, _shift_hue(images, p["hue"]))


def _shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Adds to the hue of HSV. Value and chroma stay, so the way back needs no HSV image but one ramp per channel."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - lowest
    divisor = chroma.clamp_min(1e-8)  # grey pixels: every difference is 0, and chroma = 0 hides the hue
    sixths = torch.where(green == value, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sixths = torch.where(red == value, (green - blue) / divisor, sixths)
    sixths = (sixths + turns.view(-1, 1, 1) * 6).remainder_(6)
    ramps = ((sixths - 3).abs_() - 1, 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_())
    return torch.stack([lowest + chroma * ramp.clamp_(0.0, 1.0) for ramp in ramps], 1)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Separable Gaussian blur, mirrored at the border, as a weighted sum of shifted images.

    Not a convolution, which cuDNN runs in TF32 by default. A sigma of zero gives kornia's unit impulse, hence an exact
    identity.
    """
    # One radius for the whole batch, from the configuration and never from the batch's largest sigma.
    weights = get_gaussian_kernel1d(2 * radius + 1, sigma[:, None])[:, :, None, None, None].unbind(1)
    for axis, padding in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        size = images.shape[axis]
        padded = F.pad(images, padding, mode="reflect")
        images = padded.narrow(axis, 0, size) * weights[0]
        for shift in range(1, 2 * radius + 1):
            images.addcmul_(padded.narrow(axis, shift, size), weights[shift])
    return images


def inside_rectangle(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """``(B, 1, H, W)`` bool: whether a pixel's centre lies in the sample's rectangle, which may be empty."""
    y, x = (_centers(size, images) for size in images.shape[2:])
    left, top, width, height = (p[f"erase_{name}"][:, None] for name in ("x", "y", "width", "height"))
    columns = (x >= left) & (x < left + width)
    rows = (y >= top) & (y < top + height)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
