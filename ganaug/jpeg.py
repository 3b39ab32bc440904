"""What baseline JPEG does to images: batched, on the device, one quality per image, nothing but what is lost.

Colour conversion, halved chroma, the 8x8 cosine transform, quantisation, and back; the lossless coding between is left
out. Kornia's ``jpeg_codec_differentiable`` replaces rounding by a polynomial that has gradients: coefficients then miss
the multiples of their steps, and those are the very mark that a file leaves. Here they are rounded. Sums are written
out in a fixed order, without matrix products, so that the bits of an image depend neither on the rest of the batch nor
on TF32 settings: near a tie, one bit decides over a whole step.

ITU-T T.81 is the standard (www.w3.org/Graphics/JPEG/itu-t81.pdf); the tests hold this to Pillow's files.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Example quantisation tables of T.81, annex K.1, which files of quality 50 hold: luminance, chrominance.
# fmt: off
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99), (99, 99, 99, 99, 99, 99, 99, 99),
)
# fmt: on
_BLOCK = 8
_UNIT = 2 * _BLOCK  # chroma has half the resolution, so that images are coded in units of 16 pixels
_NUDGE = 4e-6  # relative; errors of the two transforms stay below 1e-6
_CHUNK_PIXELS = {"cpu": 2**17, "cuda": 2**24}  # at a time: on a CPU what its cache holds, on a GPU what bounds memory


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Images as they come back from JPEG files with 4:2:0 chroma, which is what Pillow and cameras write.

    Args:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        quality: ``(B,)`` whole numbers from 1 to 100 on the images' device: the scale of Pillow and libjpeg.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1], whole multiples of 1/255.
    """
    chunk = max(1, _CHUNK_PIXELS.get(images.device.type, 2**17) // max(1, images.shape[2] * images.shape[3]))
    parts = zip(images.split(chunk), quality.split(chunk), strict=True)
    return torch.cat([_jpeg(part, numbers) for part, numbers in parts])


def quantisation_tables(quality: Tensor) -> Tensor:
    """Steps of the 8x8 coefficients at some qualities.

    Args:
        quality: ``(B,)`` whole numbers from 1 to 100.

    Returns:
        ``(B, 2, 8, 8)`` int64: luminance and chrominance; rows are vertical frequencies.

    Example:
        >>> quantisation_tables(torch.tensor([50, 100]))[:, 0, 0, :3].tolist()
        [[16, 11, 10], [1, 1, 1]]
    """
    # libjpeg's scale, no part of the standard: 5000 / quality percent below 50, else 200 - 2 * quality percent.
    q = quality.long()
    percent = torch.where(q < 50, 5000 // q, 200 - 2 * q)
    return ((_tables(quality.device) * percent[:, None, None, None] + 50) // 100).clamp(1, 255)


def _jpeg(images: Tensor, quality: Tensor) -> Tensor:
    height, width = images.shape[2:]
    # The last column is repeated to fill the last units, and the last row of each component, as libjpeg does.
    red, green, blue = F.pad(images * 255, (0, -width % _UNIT, 0, height % 2), mode="replicate").unbind(1)
    # JFIF 1.02, page 3. The offset of 128 of Cb and Cr and the level shift of T.81, A.3.1 cancel out, so that all three
    # components lie about zero here. Files hold whole numbers of each; libjpeg takes halves of luma up, others down.
    luma = red * 0.299 + green * 0.587 + blue * 0.114
    chroma = torch.stack([(blue - luma) * (1 / 1.772), (red - luma) * (1 / 1.402)], 1)
    luma, chroma = luma.add_(0.5 + 128 * _NUDGE).floor_(), chroma.sub_(0.5 + 128 * _NUDGE).ceil_()
    steps = quantisation_tables(quality).float()
    luma = _quantise((luma - 128)[:, None], steps[:, 0])[:, 0, :height, :width] + 128
    # What lies beyond the last column plays no part in enlarging.
    chroma = _quantise(_halve(chroma), steps[:, 1])[..., : (width + 1) // 2]
    blueness, redness = _double(chroma)[:, :, :height, :width].unbind(1)
    red, blue = luma + redness * 1.402, luma + blueness * 1.772
    green = luma - redness * (0.299 * 1.402 / 0.587) - blueness * (0.114 * 1.772 / 0.587)
    return torch.stack([red, green, blue], 1).round_().clamp_(0, 255).div_(255)


def _halve(planes: Tensor) -> Tensor:
    """Means of 2x2 pixels, rounded; of two halves one goes down and the next one up, as in libjpeg."""
    rows = planes[:, :, 0::2] + planes[:, :, 1::2]
    means = (rows[..., 0::2] + rows[..., 1::2]) * 0.25
    return means.add_(_alternating(0.25, 0.5, means)).floor_()


def _double(planes: Tensor) -> Tensor:
    """Twice the size: three quarters of the nearest pixel and one of the next along each axis, rounded, as in libjpeg.

    The standard leaves the filter open; decoders that repeat pixels instead are rare.
    """
    for axis in (2, 3):
        size = planes.shape[axis]
        before = torch.cat([planes.narrow(axis, 0, 1), planes.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([planes.narrow(axis, 1, size - 1), planes.narrow(axis, size - 1, 1)], axis)
        near = planes * 0.75
        planes = _interleave(near + before * 0.25, near + after * 0.25, axis)
    return planes.add_(_alternating(0.5, 0.4375, planes)).floor_()


def _alternating(even: float, odd: float, like: Tensor) -> Tensor:
    """``(W,)``: one number in even columns, another in odd ones."""
    return torch.where(torch.arange(like.shape[-1], device=like.device) % 2 == 0, even, odd)


def _quantise(planes: Tensor, steps: Tensor) -> Tensor:
    """``(B, C, H, W)`` with the coefficients of each block rounded to multiples of ``steps (B, 8, 8)``, whole."""
    filled = F.pad(planes, (0, 0, 0, -planes.shape[2] % _BLOCK), mode="replicate")
    batch, channels, height, width = filled.shape
    # The place inside a block comes first, so that each step of the transform runs over whole stretches of memory.
    cut = (batch, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    blocks = filled.view(cut).permute(3, 5, 0, 1, 2, 4).contiguous()
    steps = steps.permute(1, 2, 0)[..., None, None, None].contiguous()
    # Ties are common, as inputs and steps are whole: white at a step of 16 is one. Decoders and encoders take them away
    # from zero and upwards; a nudge above float32's error makes sure of it.
    coefficients = _cosine(_cosine(blocks, 0), 1).div_(steps * (1 - _NUDGE)).round_().mul_(steps)
    blocks = _inverse_cosine(_inverse_cosine(coefficients, 0), 1).add_(0.5 + 128 * _NUDGE).floor_().clamp_(-128, 127)
    return blocks.permute(2, 3, 4, 0, 5, 1).reshape(filled.shape)[:, :, : planes.shape[2]]


def _cosine(x: Tensor, axis: int) -> Tensor:
    """Cosine transform (T.81, A.3.3) along an axis of 8: even coefficients from the sums of mirrored places, odd ones
    from their differences, which takes half the products of the plain definition."""
    head, tail = x.narrow(axis, 0, 4), x.narrow(axis, 4, 4).flip(axis)
    even, odd = _half_bases(x.device)
    return _interleave(_product(even, head + tail, axis), _product(odd, head - tail, axis), axis)


def _inverse_cosine(x: Tensor, axis: int) -> Tensor:
    """Inverse of :func:`_cosine`, which is its transpose."""
    even, odd = _half_bases(x.device)
    pairs = x.unflatten(axis, (4, 2))
    sums = _product(even.t(), pairs.select(axis + 1, 0), axis)
    differences = _product(odd.t(), pairs.select(axis + 1, 1), axis)
    return torch.cat([sums + differences, (sums - differences).flip(axis)], axis)


def _product(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """``matrix (4, 4)`` times ``x`` along an axis of 4, term by term."""
    shape = [4 if i == axis else 1 for i in range(x.ndim)]
    terms = (x.narrow(axis, k, 1) * matrix[:, k].view(shape) for k in range(4))
    total = next(terms)
    for term in terms:
        total += term
    return total


def _interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """Even and odd places of a new axis of twice the size."""
    return torch.stack([even, odd], axis + 1).flatten(axis, axis + 1)


@functools.cache
def _half_bases(device: torch.device) -> tuple[Tensor, Tensor]:
    """``(4, 4)`` each: the first half of the even and of the odd rows of the orthonormal cosine basis."""
    frequency, place = torch.arange(_BLOCK, dtype=torch.float64)[:, None], torch.arange(_BLOCK // 2) + 0.5
    basis = (math.pi / _BLOCK * frequency * place).cos() / 2
    basis[0] /= math.sqrt(2)
    basis = basis.float().to(device)
    return basis[0::2].contiguous(), basis[1::2].contiguous()


@functools.cache
def _tables(device: torch.device) -> Tensor:
    """``(2, 8, 8)`` int64."""
    return torch.tensor((_LUMINANCE, _CHROMINANCE), device=device)
