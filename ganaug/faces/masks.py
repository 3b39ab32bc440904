"""Which part of a face a pixel belongs to, and another background for a face.

Masks come from five points of the face, from a generator with parts, or from a parsing network of the user's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.interfaces import UserInputError

# In the order in which they are painted: where two overlap, the later one is in front.
PARTS = ("background", "hair", "face", "nose", "mouth", "eye", "eyebrow")

# Ellipses (centre x, y, half width, half height) in a frame whose origin lies between the eyes: x to the right in
# distances of the eyes' centres, y down in distances from the eyes to the mouth. Set by eye on chips of FairFace and
# photos of the London set: a face is some 2.2 eye distances wide, and from hairline to chin 2.6 times as high as the
# way from the eyes to the mouth is long.
_ELLIPSES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "hair": ((0.0, -0.05, 1.32, 1.85),),
    "face": ((0.0, 0.33, 1.10, 1.29),),
    "nose": ((0.0, 0.35, 0.28, 0.36),),
    "mouth": ((0.0, 1.0, 0.46, 0.20),),
    "eye": ((-0.5, 0.0, 0.27, 0.15), (0.5, 0.0, 0.27, 0.15)),
    "eyebrow": ((-0.52, -0.31, 0.38, 0.11), (0.52, -0.31, 0.38, 0.11)),
}
_HAIR_END = 1.0  # y: below the mouth there is neck or background beside the face, as often as hair

GREY = 0.5
BLUR_SHARE = 1.0 / 24.0  # of the shorter side: standard deviation of a blurred background
SOFT_SHARE = 1.0 / 64.0  # of the shorter side: how soft the edge of a mask is made

Fill = Literal["blur", "remove"] | Tensor


def landmark_masks(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts of faces by five points alone: ellipses of average proportions, so right to a tenth of the face at best.

    Args:
        points: ``(B, 5, 2)``: left eye, right eye, nose, left and right corner of the mouth, in pixels of the masks.
        size: Height and width of the masks.

    Returns:
        ``(B, 7, H, W)`` float32, zeros and ones: a pixel is of one of ``PARTS``.

    Raises:
        UserInputError: If ``points`` have another shape.

    Example:
        >>> points = torch.tensor([[[12.0, 12], [20, 12], [16, 16], [13, 21], [19, 21]]])
        >>> masks = landmark_masks(points, (32, 32))
        >>> [PARTS[masks[0, :, y, 16].argmax()] for y in (1, 5, 15, 20, 24)]
        ['hair', 'face', 'nose', 'mouth', 'face']
    """
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise UserInputError(f"points must be (B, 5, 2), got {tuple(points.shape)}")
    points = points.float()
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    # A frame of its own for each axis: a head that is turned away has narrow eyes, not a short face.
    frame = torch.stack([points[:, 1] - points[:, 0], mouth - eyes], dim=2)
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=points.device) + 0.5, torch.arange(width, device=points.device) + 0.5, indexing="ij"
    )
    pixels = torch.stack([x, y], dim=-1).flatten(0, 1)
    # linalg.inv_ex, unlike inv, does not ask the device whether it went well.
    place = (pixels - eyes[:, None]) @ torch.linalg.inv_ex(frame).inverse.transpose(1, 2)
    u, v = place.unflatten(1, (height, width)).unbind(dim=-1)
    label = torch.zeros_like(u, dtype=torch.int64)
    for number, part in enumerate(PARTS[1:], start=1):
        for cx, cy, rx, ry in _ELLIPSES[part]:
            inside = ((u - cx) / rx).square() + ((v - cy) / ry).square() <= 1.0
            label = torch.where(inside & (v <= _HAIR_END) if part == "hair" else inside, number, label)
    return F.one_hot(label, len(PARTS)).permute(0, 3, 1, 2).float()


@dataclass(frozen=True)
class Background:
    """What becomes of the background of generated samples.

    Args:
        fill: ``"blur"``, ``"remove"`` (mid grey), a colour ``(3,)`` or a picture ``(3, h, w)``, in [0, 1] or uint8. A
            picture is scaled to the items.
        parser: ``(B, 3, H, W)`` in [-1, 1] -> logits ``(B, K, h, w)`` of K classes, on the device of the images. Asked
            about the finished items. Without one, a generator with parts says what is background, and else the five
            points of the chip: then all but a head of average shape is background, also the neck and long hair.
        background_classes: Which of the K classes are background.

    Raises:
        UserInputError: For another ``fill``.
    """

    fill: Fill
    parser: Callable[[Tensor], Tensor] | None = None
    background_classes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        fill = self.fill
        if isinstance(fill, Tensor):
            if fill.ndim not in (1, 3) or fill.shape[0] != 3:
                raise UserInputError(f"a background must be (3,) or (3, h, w), got {tuple(fill.shape)}")
            unit = fill.float() / 255.0 if fill.dtype == torch.uint8 else fill.float()
            if not (unit.min() >= 0.0 and unit.max() <= 1.0):  # NaN is neither
                raise UserInputError(f"a background must be in [0, 1] or uint8, got {fill.min():g} to {fill.max():g}")
            object.__setattr__(self, "fill", unit)
        elif fill not in ("blur", "remove"):
            raise UserInputError(f"unknown background {fill!r}: expected 'keep', 'blur', 'remove' or a tensor")

    def foreground(self, items: Tensor) -> Tensor:
        """What the parser takes for foreground: ``(B, 3, H, W)`` in [0, 1] -> ``(B, 1, H, W)`` in [0, 1].

        Raises:
            UserInputError: If there is no parser, or it returns something else than logits.
        """
        if self.parser is None:
            raise UserInputError("this background has no parser to ask")
        logits = self.parser(items * 2.0 - 1.0)
        if not isinstance(logits, Tensor) or logits.ndim != 4 or len(logits) != len(items):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserInputError(f"the parser must return logits ({len(items)}, K, h, w), got {got}")
        if max(self.background_classes) >= logits.shape[1]:
            raise UserInputError(
                f"background_classes are {self.background_classes}, but the parser knows {logits.shape[1]} classes"
            )
        found = foreground_of_logits(logits.float(), self.background_classes)
        return F.interpolate(found, items.shape[2:], mode="bilinear", align_corners=False)

    def apply(self, items: Tensor, foreground: Tensor) -> Tensor:
        """Fills the background in.

        Args:
            items: ``(B, 3, H, W)`` in [0, 1].
            foreground: ``(B, 1, H, W)`` in [0, 1], 1 for what stays.

        Returns:
            ``(B, 3, H, W)`` in [0, 1].
        """
        shorter = min(items.shape[2:])
        # Only inwards would cut hair, only outwards would leave a rim: half of the edge lies on either side.
        foreground = _blur(foreground, SOFT_SHARE * shorter).clamp(0.0, 1.0)
        if isinstance(self.fill, Tensor):
            fill = self.fill.to(items.device, non_blocking=True)
            behind = fill[:, None, None] if fill.ndim == 1 else _scaled(fill, (items.shape[2], items.shape[3]))
        elif self.fill == "blur":
            # Of the background alone, weighted by what there is of it: a face's colours do not bleed into it.
            weight = 1.0 - foreground
            both = _blur(torch.cat([items * weight, weight], dim=1), BLUR_SHARE * shorter)
            behind = both[:, :3] / both[:, 3:].clamp(min=1e-4)
        else:
            behind = torch.full_like(items, GREY)
        return (foreground * items + (1.0 - foreground) * behind).clamp(0.0, 1.0)


def foreground_of_logits(logits: Tensor, background_classes: tuple[int, ...] = (0,)) -> Tensor:
    """``(B, K, H, W)`` -> ``(B, 1, H, W)`` in [0, 1]: the probability of all classes that are not background.

    Example:
        >>> foreground_of_logits(torch.tensor([0.0, 0.0, 0.0, 0.0]).reshape(1, 4, 1, 1)).item()
        0.75
    """
    return 1.0 - logits.softmax(dim=1)[:, list(background_classes)].sum(dim=1, keepdim=True)


def make_background(background: str | Tensor | Background) -> Background | None:
    """What users give -> a :class:`Background`, or None for ``"keep"``.

    Raises:
        UserInputError: For anything else.
    """
    if isinstance(background, Background):
        return background
    if isinstance(background, str) and background == "keep":
        return None
    return Background(background)  # type: ignore[arg-type]  # which refuses what it does not know


def _scaled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    scaled = F.interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)
    return scaled.clamp(0.0, 1.0)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian; at the edges the weights inside sum to one."""
    for dim in (2, 3):
        place = torch.arange(images.shape[dim], device=images.device, dtype=images.dtype)
        kernel = torch.softmax(-0.5 * ((place[:, None] - place) / sigma) ** 2, dim=1)
        images = kernel @ images if dim == 2 else images @ kernel.T
    return images
