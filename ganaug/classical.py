"""Classical augmentation of image batches on the device: parameters are drawn first, then applied by a pure function.

Kornia's augmentation classes draw from torch's global CPU generator, once per batch, so that a sample's result depends
on its neighbours (kornia issue 4407). Here :meth:`ClassicalAugmentation.make_params` turns keyed uniform numbers into
named parameters, one row per sample, and :meth:`ClassicalAugmentation.forward` applies them to the whole batch without
a random number and without waiting for the device. The operations are those of kornia (``enhance.adjust_*``,
``filters.gaussian_blur2d``, ``geometry.warp_affine``); the tests hold them to it or to naive loops. They are written
anew so that the bits of a row depend neither on the rest of the batch nor on TF32 settings: no matrix product, no
convolution, no floating-point reduction. On a CPU they also take less than half the time of kornia's classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ganaug.classical_ops import adjust_color, blur, hashed_normal, inside_rectangle, per_image, resample
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

_ERASE_FILL = 0.5  # mid grey: zero after the usual normalisation to [-1, 1]
_BLUR_SIGMAS = 3.0  # half-width of the blur kernel in sigmas; 0.3 % of a Gaussian lies beyond
_MIN_SIDE = 8


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
        images = torch.where(per_image(p["flip"]) > 0, images.flip(-1), images)
        images = resample(images, p)
        images = adjust_color(images, p)
        radius = max(1, math.ceil(_BLUR_SIGMAS * self.config.blur_sigma[1]))
        images = blur(images, p["blur_sigma"], min(radius, *(side - 1 for side in images.shape[2:])))
        # A standard deviation of zero adds zeros, which changes no bit.
        images = images + hashed_normal(noise_seed, images.shape[1:]).mul_(per_image(p["noise_std"]))
        images = torch.where(inside_rectangle(images, p), _ERASE_FILL, images)
        return images.clamp_(0.0, 1.0)
