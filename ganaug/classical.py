"""Classical augmentation of image batches on the device: parameters are drawn first, then applied by a pure function.

Kornia's augmentation classes draw from torch's global CPU generator, once per batch, so that a sample's result depends
on its neighbours (kornia issue 4407). Here :meth:`ClassicalAugmentation.make_params` turns keyed uniform numbers into
named parameters, one row per sample, and :meth:`ClassicalAugmentation.forward` applies them to the whole batch without
a random number and without waiting for the device. The operations are those of kornia (``enhance.adjust_*``,
``filters.gaussian_blur2d``, ``geometry.warp_affine``); the tests hold them to it or to naive loops. They are written
anew so that the bits of a row depend neither on the rest of the batch nor on TF32 settings: no matrix product, no
convolution, no floating-point reduction. On a CPU they also take less than half the time of kornia's classes.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor, nn

from ganaug.interfaces import UserInputError

# Column of each uniform number. Append only: a column that moves would change every recorded augmentation.
_COLUMNS = (
    *("flip_active", "affine_active", "angle", "translate_x", "translate_y", "scale"),
    *("crop_active", "crop_area", "crop_x", "crop_y"),
    *("color_active", "brightness", "contrast", "saturation", "hue"),
    *("noise_active", "noise_std", "noise_seed", "blur_active", "blur_sigma"),
    *("erase_active", "erase_area", "erase_aspect", "erase_x", "erase_y"),
)

# All parameters but ``noise_seed``. ``forward`` packs them, so that they cross to the device in one copy.
_FLOAT_PARAMS = (
    *("flip", "angle_deg", "translate_x", "translate_y", "scale", "crop_x", "crop_y", "crop_size"),
    *("brightness", "contrast", "saturation", "hue", "noise_std", "blur_sigma"),
    *("erase_x", "erase_y", "erase_width", "erase_height"),
)

# Closed intervals. Those of scale, aspect and sigma only catch mistakes: no useful augmentation comes near them.
_BOUNDS = {
    **dict.fromkeys(("flip_p", "affine_p", "crop_p", "color_p", "noise_p", "blur_p", "erase_p"), (0.0, 1.0)),
    **dict.fromkeys(("translate", "brightness", "contrast", "saturation", "noise_std", "erase_area"), (0.0, 1.0)),
    **{"rotation_deg": (0.0, 180.0), "scale": (0.1, 10.0), "crop_scale": (0.01, 1.0), "hue": (0.0, 0.5)},
    **{"blur_sigma": (0.0, 20.0), "erase_aspect": (0.05, 20.0)},
}

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as kornia.color.rgb_to_grayscale
_ERASE_FILL = 0.5  # mid grey: zero after the usual normalisation to [-1, 1]
_BLUR_SIGMAS = 3.0  # half-width of the blur kernel in sigmas; 0.3 % of a Gaussian lies beyond
_MIN_SIDE = 8
_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class ClassicalConfig:
    """How often and how strongly each operation acts. A pair is a closed interval from which values are drawn.

    Attributes:
        flip_p: Probability of a horizontal flip. The other ``*_p`` are probabilities likewise, independent per sample.
        affine_p: Of rotation, translation and scaling together.
        rotation_deg: Largest rotation to either side, in degrees.
        translate: Largest shift along each axis, as a share of that side.
        scale: Magnification.
        crop_p: Of cropping a window of the image's own aspect ratio and enlarging it to full size.
        crop_scale: Share of the image's area that is kept.
        color_p: Of the four colour changes together.
        brightness: Factors lie within ``1 - brightness`` and ``1 + brightness``. Contrast and saturation likewise.
        contrast: See ``brightness``.
        saturation: See ``brightness``.
        hue: Largest hue shift to either side, in turns: 0.5 is the complementary colour.
        noise_p: Of Gaussian noise.
        noise_std: Standard deviation of the noise, in units of the image range.
        blur_p: Of Gaussian blur.
        blur_sigma: Standard deviation of the blur, in pixels.
        erase_p: Of filling a rectangle with mid grey.
        erase_area: Share of the image's area that is erased.
        erase_aspect: Width over height of the rectangle, each as a share of its side; log-uniform.

    Raises:
        UserInputError: A value is not a number, outside its bounds, or a pair out of order.

    Example:
        >>> ClassicalConfig(rotation_deg=15).rotation_deg
        15.0
    """

    flip_p: float = 0.5
    affine_p: float = 0.5
    rotation_deg: float = 10.0
    translate: float = 0.05
    scale: tuple[float, float] = (0.9, 1.1)
    crop_p: float = 0.3
    crop_scale: tuple[float, float] = (0.8, 1.0)
    color_p: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    noise_p: float = 0.2
    noise_std: tuple[float, float] = (0.0, 0.04)
    blur_p: float = 0.2
    blur_sigma: tuple[float, float] = (0.1, 1.5)
    erase_p: float = 0.2
    erase_area: tuple[float, float] = (0.02, 0.12)
    erase_aspect: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            count = 2 if isinstance(getattr(type(self), name), tuple) else 1  # the class holds the defaults
            numbers = (value,) if count == 1 else tuple(value) if isinstance(value, tuple | list) else ()
            # The chained comparison is false for NaN, so that it is refused as well.
            if (
                len(numbers) != count
                or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
                or not low <= numbers[0] <= numbers[-1] <= high
            ):
                what = "a number" if count == 1 else "two numbers in ascending order"
                raise UserInputError(f"{name} must be {what} in [{low:g}, {high:g}], got {value!r}")
            # Lists and whole numbers come from JSON and from command lines.
            object.__setattr__(self, name, float(value) if count == 1 else tuple(float(number) for number in numbers))


class ClassicalAugmentation(nn.Module):
    """Flip, affine and crop, colour, blur, noise, erasing, in this order, each sample by its own parameters.

    A sample that an operation leaves alone passes through it bit for bit. Rotation, translation, scaling and crop are
    one bilinear resampling; what it needs from outside the image is mirrored at the border.

    Args:
        config: Probabilities and strengths. ``forward`` uses only ``blur_sigma`` of it, for the size of the kernel.

    Example:
        >>> augmentation = ClassicalAugmentation(ClassicalConfig(flip_p=1.0))
        >>> params = augmentation.make_params(torch.full((2, augmentation.num_uniforms), 0.5))
        >>> params["flip"].tolist()
        [True, True]
        >>> augmentation(torch.zeros(2, 3, 16, 16), params).shape
        torch.Size([2, 3, 16, 16])
    """

    num_uniforms: ClassVar[int] = len(_COLUMNS)

    def __init__(self, config: ClassicalConfig = ClassicalConfig()) -> None:
        super().__init__()
        self.config = config

    def extra_repr(self) -> str:
        """The configuration, for ``repr``."""
        return repr(self.config)

    def make_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """Turns uniform numbers into parameters, row by row.

        Args:
            uniforms: ``(B, num_uniforms)`` float in [0, 1), see :func:`ganaug.rng.uniforms`.

        Returns:
            Tensors ``(B,)``, float32 unless noted, holding the identity where an operation does not act:
            ``flip`` bool; ``angle_deg`` (counter-clockwise), ``translate_x``, ``translate_y`` (shares of the side,
            right and down) and ``scale`` (magnification), about the centre; ``crop_size`` (share of each side) and
            ``crop_x``, ``crop_y`` (place of the window within its play, 0 = left or top, 1 = right or bottom);
            factors ``brightness``, ``contrast``, ``saturation``; ``hue`` (turns); ``noise_std`` and ``noise_seed``
            int64; ``blur_sigma`` (pixels); ``erase_x``, ``erase_y`` (left and top), ``erase_width``,
            ``erase_height`` (shares of the sides). All survive ``tolist`` and JSON exactly.

        Raises:
            UserInputError: ``uniforms`` has another shape or is not floating point.
        """
        if uniforms.ndim != 2 or uniforms.shape[1] != self.num_uniforms or not uniforms.is_floating_point():
            raise UserInputError(
                f"uniforms must be floating point of shape (B, {self.num_uniforms}), "
                f"got {uniforms.dtype} of shape {tuple(uniforms.shape)}"
            )
        config = self.config
        u = dict(zip(_COLUMNS, uniforms.double().unbind(1), strict=True))

        def between(column: str, low: float, high: float) -> Tensor:
            return low + (high - low) * u[column]

        def around(column: str, center: float, radius: float) -> Tensor:
            return between(column, center - radius, center + radius)

        def only_if(active: Tensor, value: Tensor, identity: float) -> Tensor:
            return torch.where(active, value, identity).float()

        affine = u["affine_active"] < config.affine_p
        crop = u["crop_active"] < config.crop_p
        color = u["color_active"] < config.color_p
        noise = u["noise_active"] < config.noise_p
        blur = u["blur_active"] < config.blur_p
        erase = u["erase_active"] < config.erase_p
        area = between("erase_area", *config.erase_area)
        aspect = between("erase_aspect", *(math.log(bound) for bound in config.erase_aspect)).exp()
        width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
        return {
            "flip": u["flip_active"] < config.flip_p,
            "angle_deg": only_if(affine, around("angle", 0.0, config.rotation_deg), 0.0),
            "translate_x": only_if(affine, around("translate_x", 0.0, config.translate), 0.0),
            "translate_y": only_if(affine, around("translate_y", 0.0, config.translate), 0.0),
            "scale": only_if(affine, between("scale", *config.scale), 1.0),
            "crop_x": only_if(crop, u["crop_x"], 0.0),
            "crop_y": only_if(crop, u["crop_y"], 0.0),
            "crop_size": only_if(crop, between("crop_area", *config.crop_scale).sqrt(), 1.0),
            "brightness": only_if(color, around("brightness", 1.0, config.brightness), 1.0),
            "contrast": only_if(color, around("contrast", 1.0, config.contrast), 1.0),
            "saturation": only_if(color, around("saturation", 1.0, config.saturation), 1.0),
            "hue": only_if(color, around("hue", 0.0, config.hue), 0.0),
            "noise_std": only_if(noise, between("noise_std", *config.noise_std), 0.0),
            "noise_seed": torch.where(noise, (u["noise_seed"] * 2**32).long(), 0),
            "blur_sigma": only_if(blur, between("blur_sigma", *config.blur_sigma), 0.0),
            "erase_x": only_if(erase, u["erase_x"] * (1 - width), 0.0),
            "erase_y": only_if(erase, u["erase_y"] * (1 - height), 0.0),
            "erase_width": only_if(erase, width, 0.0),
            "erase_height": only_if(erase, height, 0.0),
        }

    def forward(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Applies the parameters. Pure: no state, no random numbers, ``images`` is not written to.

        Args:
            images: ``(B, 3, H, W)`` float32 in [0, 1], H and W at least 8.
            params: As from :meth:`make_params`, on any device.

        Returns:
            ``(B, 3, H, W)`` float32 in [0, 1].

        Raises:
            UserInputError: ``images`` has another shape or dtype, or a parameter is missing or not ``(B,)``.
        """
        shaped = images.ndim == 4 and images.shape[1] == 3 and min(images.shape[2:]) >= _MIN_SIDE
        if not shaped or images.dtype != torch.float32:
            raise UserInputError(
                f"images must be float32 of shape (B, 3, H, W) with H, W >= {_MIN_SIDE}, "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        batch = images.shape[0]
        for name in (*_FLOAT_PARAMS, "noise_seed"):
            if name not in params or params[name].shape != (batch,):
                got = f"shape {tuple(params[name].shape)}" if name in params else "nothing"
                raise UserInputError(f"params[{name!r}] must be of shape ({batch},) like the images, got {got}")
        floats = torch.stack([params[name].float() for name in _FLOAT_PARAMS], 1).to(images.device, non_blocking=True)
        noise_seed = params["noise_seed"].to(images.device, torch.int64, non_blocking=True)
        p = dict(zip(_FLOAT_PARAMS, floats.unbind(1), strict=True))

        # Torch picks its kernels by memory format: one format for all, wherever the images come from.
        images = images.contiguous()
        images = torch.where(_per_image(p["flip"]) > 0, images.flip(-1), images)
        images = _resample(images, p)
        images = _adjust_color(images, p)
        radius = max(1, math.ceil(_BLUR_SIGMAS * self.config.blur_sigma[1]))
        images = _blur(images, p["blur_sigma"], min(radius, *(side - 1 for side in images.shape[2:])))
        # A standard deviation of zero adds zeros, which changes no bit.
        images = images + hashed_normal(noise_seed, images.shape[1:]).mul_(_per_image(p["noise_std"]))
        images = torch.where(_inside_rectangle(images, p), _ERASE_FILL, images)
        return images.clamp_(0.0, 1.0)


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
    bits = _lowbias32(_lowbias32(seeds & _WORD)[:, None] ^ positions)
    picks = torch.cat([bits & 0xFFFF, bits >> 16], 1)
    numbers = _normal_quantiles(seeds.device).index_select(0, picks.view(-1))
    return numbers.view(picks.shape)[:, :count].reshape(-1, *shape)


def _lowbias32(words: Tensor) -> Tensor:
    """Bijection of 32-bit words held in int64, in place: github.com/skeeto/hash-prospector, public domain."""
    words ^= words >> 16
    words *= 0x7FEB352D
    words &= _WORD
    words ^= words >> 15
    words *= 0x846CA68B - 2**32  # the same modulo 2**32, and the product stays within int64
    words &= _WORD
    words ^= words >> 16
    return words


@functools.cache
def _normal_quantiles(device: torch.device) -> Tensor:
    """``(65536,)`` float32 quantiles at the midpoints of equal probabilities, scaled to unit variance."""
    quantiles: Tensor = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16)
    return (quantiles / quantiles.square().mean().sqrt()).float().to(device)


def _per_image(values: Tensor) -> Tensor:
    """``(B,)`` -> ``(B, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)


def _centers(size: int, like: Tensor) -> Tensor:
    """Pixel centres of one axis as shares of the side, ``(size,)`` in (0, 1)."""
    return (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size


def _resample(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
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
    return torch.where(_per_image(still), images, warped)


def _luma(images: Tensor) -> Tensor:
    """``(B, 3, H, W)`` -> ``(B, 1, H, W)``."""
    red, green, blue = (images[:, channel : channel + 1] for channel in range(3))
    return (red * _LUMA[0]).add_(green * _LUMA[1]).add_(blue * _LUMA[2])


def _adjust_color(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """Brightness, contrast, saturation, hue, as kornia's ``adjust_brightness_accumulative``,
    ``adjust_contrast_with_mean_subtraction``, ``adjust_saturation_with_gray_subtraction`` and ``adjust_hue``.

    The first three are exact for a factor of one: ``1 * x + 0 * y``.
    """
    images = (images * _per_image(p["brightness"])).clamp_(0.0, 1.0)
    # The mean in fixed point: integers add up to the same in any order, floats do not, and torch picks the order by
    # the batch's size. 2**-20 is far below the 2**-8 of a file.
    total = (_luma(images) * 2**20).round_().int().sum((1, 2, 3))
    mean = total.double() / (2**20 * images.shape[2] * images.shape[3])
    contrast, saturation = _per_image(p["contrast"]), _per_image(p["saturation"])
    images = (images * contrast).add_(_per_image(mean.float()) * (1 - contrast)).clamp_(0.0, 1.0)
    images = (images * saturation).add_(_luma(images) * (1 - saturation)).clamp_(0.0, 1.0)
    return torch.where(_per_image(p["hue"]) == 0, images, _shift_hue(images, p["hue"]))


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


def _blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
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


def _inside_rectangle(images: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    """``(B, 1, H, W)`` bool: whether a pixel's centre lies in the sample's rectangle, which may be empty."""
    y, x = (_centers(size, images) for size in images.shape[2:])
    left, top, width, height = (p[f"erase_{name}"][:, None] for name in ("x", "y", "width", "height"))
    columns = (x >= left) & (x < left + width)
    rows = (y >= top) & (y < top + height)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
