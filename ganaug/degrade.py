"""The same look for real and generated samples: one resolution and one compression for all of a batch.

A variant is as sharp as its generator draws, and no camera's JPEG file has ever held it. A classifier that is to learn
faces learns that instead: blur and clean blocks mean "generated", and whatever label goes with it. Here every sample,
real or generated, loses the detail that a generator's chip cannot hold, and passes through JPEG.

Draw, then apply: :meth:`Degradation.make_params` turns keyed uniform numbers into one row of parameters per sample, and
:meth:`Degradation.__call__` applies them on the device. As in :mod:`ganaug.classical_ops`, the bits of a row do not
depend on the rest of the batch: no matrix product, no convolution, no reduction.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ganaug.interfaces import UserInputError
from ganaug.jpeg import jpeg

_MIN_RESOLUTION = 4  # pixels; below there is no face left, only mistakes
_LOBES = 3  # of the Lanczos kernel that cuts chips, see ganaug.faces.align
_CUBIC = -0.75  # of the bicubic kernel that enlarges chips: torch's interpolate and grid_sample without antialiasing


@dataclass(frozen=True)
class DegradationConfig:
    """What all samples of a batch go through, real and generated alike.

    Attributes:
        resolution: ``"match"``: the detail that each sample's own variant has, which is that of the generator's chip
            where it lies in the item. A number: as if the generator's chip had this side in pixels; what is above the
            generator's own still marks the variants. None: items keep their resolution.
        jpeg_quality: Lowest and highest quality of the JPEG compression, 1 to 100 as in Pillow, drawn uniformly and
            anew for each sample and epoch. None: no compression.
        p: Probability that a sample is degraded, independent of whether it is generated. Below 1, the others can be
            told apart as before.

    Raises:
        UserInputError: A value is outside its range, or nothing is left to do.

    Example:
        >>> DegradationConfig(jpeg_quality=(60, 90)).jpeg_quality
        (60, 90)
    """

    resolution: int | Literal["match"] | None = "match"
    jpeg_quality: tuple[int, int] | None = (60, 95)
    p: float = 1.0

    def __post_init__(self) -> None:
        side, quality, p = self.resolution, self.jpeg_quality, self.p
        if not (side is None or side == "match" or (_is_whole(side) and side >= _MIN_RESOLUTION)):
            raise UserInputError(
                f"resolution must be 'match', None or a whole number of pixels from {_MIN_RESOLUTION}; got {side!r}"
            )
        if quality is not None:
            pair = tuple(quality) if isinstance(quality, tuple | list) else ()
            if len(pair) != 2 or not all(map(_is_whole, pair)) or not 1 <= pair[0] <= pair[1] <= 100:
                raise UserInputError(
                    f"jpeg_quality must be None or two whole numbers in ascending order in [1, 100], got {quality!r}"
                )
            object.__setattr__(self, "jpeg_quality", pair)  # lists come from JSON
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0.0 <= p <= 1.0:
            raise UserInputError(f"p must be a number in [0, 1], got {p!r}")
        if side is None and quality is None:
            raise UserInputError("resolution and jpeg_quality are both None: leave degradation out instead")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Degradation:
    """Resampling and JPEG compression of every sample by its own parameters.

    Args:
        config: What to do; ``"match"`` for the defaults.
        chip_side: Side of the generator's images in pixels.

    Raises:
        UserInputError: For anything else than a configuration or ``"match"``.

    Example:
        >>> degradation = Degradation("match", chip_side=64)
        >>> params = degradation.make_params(np.full((1, 2), 0.5), None)
        >>> {name: values.tolist() for name, values in params.items()}
        {'resolution': [64.0], 'jpeg_quality': [78]}
        >>> degradation(torch.rand(1, 3, 112, 112), params).shape
        torch.Size([1, 3, 112, 112])
    """

    num_uniforms: ClassVar[int] = 2  # columns: whether to act, quality. Append only, see ganaug.classical

    def __init__(self, config: "Literal['match'] | DegradationConfig", chip_side: int) -> None:
        if config != "match" and not isinstance(config, DegradationConfig):
            raise UserInputError(f"degradation must be None, 'match' or a DegradationConfig, got {config!r}")
        self.config = DegradationConfig() if isinstance(config, str) else config
        self.chip_side = chip_side

    def __repr__(self) -> str:
        return f"Degradation({self.config!r}, chip_side={self.chip_side})"

    def make_params(
        self, uniforms: NDArray[np.float64], variant_pixels: NDArray[np.float64] | None
    ) -> dict[str, Tensor]:
        """Turns uniform numbers into parameters, row by row.

        Args:
            uniforms: ``(B, num_uniforms)`` in [0, 1), see :func:`ganaug.rng.uniforms`.
            variant_pixels: ``(B,)`` pixels of the generator along the shorter side of each sample's item, see
                :func:`variant_pixels`; None for ``chip_side`` of them, as for chips cut from the centre.

        Returns:
            ``resolution (B,)`` float32, pixels along the item's shorter side, 0 to leave it; ``jpeg_quality (B,)``
            int64, 0 for none. Both on the CPU, where the policy draws.
        """
        config, act = self.config, torch.from_numpy(uniforms[:, 0] < self.config.p)
        resolution, quality = torch.zeros(len(uniforms)), torch.zeros(len(uniforms), dtype=torch.int64)
        if config.resolution is not None:
            if variant_pixels is None:
                variant_pixels = np.full(len(uniforms), float(self.chip_side))
            factor = 1.0 if config.resolution == "match" else config.resolution / self.chip_side
            pixels = torch.from_numpy(variant_pixels * factor).float().clamp_min(_MIN_RESOLUTION)
            resolution = torch.where(act, pixels, resolution)
        if config.jpeg_quality is not None:
            low, high = config.jpeg_quality
            drawn = low + np.floor(uniforms[:, 1] * (high - low + 1)).astype(np.int64)
            quality = torch.where(act, torch.from_numpy(drawn), quality)
        return {"resolution": resolution, "jpeg_quality": quality}

    def __call__(self, images: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Applies the parameters.

        Args:
            images: ``(B, 3, H, W)`` float32 in [0, 1].
            params: As from :meth:`make_params`, on the CPU.

        Returns:
            ``(B, 3, H, W)`` float32 in [0, 1], whole multiples of 1/255 for every sample, whether it was degraded or
            not: the last bits of a generator's floats would tell it from a file, too.
        """
        images, quality = coarsen(images, params["resolution"]), params["jpeg_quality"]
        acts = quality > 0
        if bool(acts.all()):
            return jpeg(images, quality.to(images.device, non_blocking=True))
        whole = (images * 255).round_().div_(255)
        if not bool(acts.any()):
            return whole
        compressed = jpeg(images, quality.clamp_min(1).to(images.device, non_blocking=True))
        return torch.where(_per_image(acts, images), compressed, whole)


def variant_pixels(
    transforms: NDArray[np.float32], photo_sizes: NDArray[np.float32], unknown: float
) -> NDArray[np.float64]:
    """How many pixels of the generator's chip a variant has along the shorter side of the item that it is placed in.

    The centred square of the photo that an item shows has the photo's shorter side, and the transform says how many
    pixels of the chip one of the photo's is.

    Args:
        transforms: ``(B, 2, 3)``, photo pixels to chip pixels.
        photo_sizes: ``(B, 2)``, width and height in pixels.
        unknown: For photos of size zero, and for transforms that are zero.

    Returns:
        ``(B,)`` float64.

    Example:
        >>> half = np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])
        >>> variant_pixels(half, np.array([[300, 200]]), unknown=64.0).tolist()
        [100.0]
    """
    linear = np.asarray(transforms, np.float64)[:, :, :2]
    pixels = np.sqrt(np.abs(np.linalg.det(linear))) * np.asarray(photo_sizes, np.float64).min(axis=1)
    return np.where(pixels > 0, pixels, unknown)


def coarsen(images: Tensor, resolution: Tensor) -> Tensor:
    """Images with the detail that a smaller resolution holds: cut down and enlarged again as chips and variants are.

    Down with the Lanczos kernel that cuts chips out of photos, up with the bicubic one that places variants, on the
    pixel grid of the generator's chip where that is the centred square.

    Args:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        resolution: ``(B,)`` on the CPU: pixels along the shorter side. Images that have no more than that, and those of
            zero, pass bit for bit.

    Returns:
        ``(B, 3, H, W)`` float32 in [0, 1].
    """
    shorter = min(images.shape[2:])
    acts = (resolution > 0) & (resolution < shorter)
    if not bool(acts.any()):
        return images
    coarsest, finest = float(resolution[acts].min()), float(resolution[acts].max())
    pixels = resolution.double().where(acts, coarsest)
    pixels = pixels[:1] if coarsest == finest else pixels  # the usual case: one grid for all
    pixels = pixels.to(images.device, non_blocking=True)
    sides = [_Side(size, shorter, pixels, coarsest, finest) for size in images.shape[2:]]
    small = _gather(_gather(images, 2, *sides[0].shrinking()), 3, *sides[1].shrinking()).clamp_(0.0, 1.0)
    large = _gather(_gather(small, 3, *sides[1].enlarging()), 2, *sides[0].enlarging()).clamp_(0.0, 1.0)
    return large if bool(acts.all()) else torch.where(_per_image(acts, images), large, images)


@dataclass(frozen=True)
class _Side:
    """One axis of the images and the coarse grid along it, whose cell ``j`` has its centre at ``j + 0.5``.

    Attributes:
        size: Pixels of the images along the axis.
        shorter: Pixels of their shorter side.
        pixels: ``(B,)`` float64, or ``(1,)`` for all: cells along the shorter side, which begins at cell 0.
        coarsest: Smallest of ``pixels``, on the host: it decides shapes.
        finest: Largest of them.
    """

    size: int
    shorter: int
    pixels: Tensor
    coarsest: float
    finest: float

    @property
    def first(self) -> Tensor:
        """``(B, 1, 1)``: the first cell with its centre inside the image."""
        scale = self._scale()
        return ((self.shorter - self.size) / 2 * scale - 0.5).ceil()

    @property
    def last(self) -> Tensor:
        """``(B, 1, 1)``: the last one."""
        return ((self.shorter + self.size) / 2 * self._scale() - 0.5).floor()

    def shrinking(self) -> tuple[Tensor, Tensor]:
        """Pixels and weights ``(B, N, T)`` that each of N cells is made of: all with centres inside, and two beyond
        each end, which repeat the last as torch's bicubic kernel does."""
        count = math.floor(self.size * self.finest / self.shorter) + 6
        taps = math.floor(2 * _LOBES * self.shorter / self.coarsest) + 1
        scale = self._scale()
        cell = self.first - 2 + self._arange(count)[:, None]
        center = (cell.clamp(self.first, self.last) + 0.5) / scale + (self.size - self.shorter) / 2
        # Counted from the sample's own first pixel, so that the sum does not depend on the other samples' taps.
        pixel = (center - _LOBES / scale - 0.5).ceil() + self._arange(taps)
        distance = (pixel + 0.5 - center) * scale
        weight = torch.sinc(distance) * torch.sinc(distance / _LOBES)
        inside = (distance.abs() < _LOBES) & (pixel >= 0) & (pixel < self.size)
        return pixel.clamp(0, self.size - 1).long(), weight.where(inside, 0.0).float()

    def enlarging(self) -> tuple[Tensor, Tensor]:
        """Cells, counted from those of :meth:`shrinking`, and weights ``(B, size, 4)`` of each pixel."""
        center = (self._arange(self.size)[:, None] + (self.shorter - self.size) / 2 + 0.5) * self._scale() - 0.5
        cell = center.floor() - 1 + self._arange(4)
        t = (center - cell).abs()
        # R. Keys, Cubic convolution interpolation, IEEE Trans. ASSP 29 (1981), equation 4.
        near = ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1
        far = ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC
        return (cell - self.first + 2).long(), torch.where(t <= 1, near, far).float()

    def _scale(self) -> Tensor:
        """``(B, 1, 1)``: cells per pixel."""
        return self.pixels[:, None, None] / self.shorter

    def _arange(self, count: int) -> Tensor:
        return torch.arange(count, dtype=torch.float64, device=self.pixels.device)


def _gather(images: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of rows or columns: ``index`` and ``weight`` are ``(B, N, T)``, or ``(1, N, T)`` for all alike."""
    lines = images.movedim(axis, 1)
    batch, length, count = lines.shape[0], lines.shape[1], index.shape[1]
    first = torch.arange(batch, device=images.device)[:, None, None] * length
    # One by one: how ``sum`` groups its terms depends on their number, hence on the batch. Those of weight zero that
    # another sample's kernel needs then change nothing, here as in ``embedding_bag``, which adds in order too.
    total = functools.reduce(torch.add, weight.unbind(2))
    weight = (weight / total[:, :, None]).expand(batch, -1, -1).flatten(0, 1)
    taken = (index + first).flatten(0, 1)
    mixed = F.embedding_bag(taken, lines.reshape(batch * length, -1), per_sample_weights=weight, mode="sum")
    return mixed.view(batch, count, *lines.shape[2:]).movedim(1, axis)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    """``(B,)`` of the host -> ``(B, 1, 1, 1)`` on a device, without waiting."""
    return values.to(like.device, non_blocking=True).view(-1, 1, 1, 1)
