"""Photos to chips: what ``precompute`` inverts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ganaug.faces.align import Alignment, align
from ganaug.faces.detect import DETECTORS, FaceDetector
from ganaug.faces.photos import Photo
from ganaug.faces.points import PointFinder
from ganaug.interfaces import ImageError, UserInputError

# A detector is given several photos at a time; when they hold more pixels than this, they are not held any longer.
_MAX_PIXELS_HELD = 100_000_000


@dataclass(frozen=True)
class Chip:
    """A face that was cut from its photo.

    Attributes:
        key: Key of the photo; of its second and further faces with ``#1``, ``#2`` ... behind it.
        pixels: ``(size, size, 3)`` uint8.
        transform: ``(2, 3)`` float32, photo pixels to chip pixels.
        source_hash: sha256 (hex) of the photo's source.
        photo_size: Width and height of the upright photo in pixels.
    """

    key: str
    pixels: NDArray[np.uint8]
    transform: NDArray[np.float32]
    source_hash: str
    photo_size: tuple[int, int]


def face_key(key: str, number: int) -> str:
    """Key of a photo's face, counted from 0: the first has the photo's own.

    Example:
        >>> face_key("ann.jpg", 0), face_key("ann.jpg", 1)
        ('ann.jpg', 'ann.jpg#1')
    """
    return f"{key}#{number}" if number else key


class ChipCutter:
    """Cuts the faces of photos.

    Args:
        alignment: How.
        detector: Finds the points of faces, instead of the one that the alignment names.
        device: Where a detector made by name works.

    Attributes:
        finder: What finds the points; None if the alignment needs none.

    Raises:
        UserInputError: If the alignment names no detector, though one is given, or an unknown one.
    """

    def __init__(self, alignment: Alignment, detector: FaceDetector | None, device: torch.device) -> None:
        self.alignment = alignment
        self.finder: PointFinder | None = None
        if alignment.mode == "points":
            self.finder = PointFinder(alignment, _detector_maker(alignment.detector, detector, device))
        elif detector is not None:
            raise UserInputError(f"a detector is of no use for alignment mode {alignment.mode!r}; give none")

    def cut(self, photos: Sequence[Photo]) -> tuple[list[Chip], dict[str, str]]:
        """The chips of photos, in order; and key -> reason of those that gave none."""
        chips: list[Chip] = []
        failures: dict[str, str] = {}
        held: list[tuple[Photo, Image.Image, str]] = []
        for photo in photos:
            try:
                held.append((photo, *photo.read()))
            except ImageError as error:
                failures[photo.key] = str(error)
            if self.finder is None or sum(i.width * i.height for _, i, _ in held) > _MAX_PIXELS_HELD:
                chips += self._cut_held(held, failures)
                held = []
        return chips + list(self._cut_held(held, failures)), failures

    def _cut_held(self, held: list[tuple[Photo, Image.Image, str]], failures: dict[str, str]) -> Iterator[Chip]:
        photos, images = [photo for photo, _, _ in held], [image for _, image, _ in held]
        found: Sequence[Sequence[NDArray[np.float64] | None]] = [[None]] * len(held)
        if self.finder is not None:
            found = self.finder.find(photos, images)
        for (photo, image, source_hash), faces in zip(held, found, strict=True):
            if not faces and self.finder is not None:
                failures[photo.key] = f"{photo.key}: {self.finder.why_none(image)}"
            for number, points in enumerate(faces):
                key = face_key(photo.key, number)
                try:
                    pixels, transform = align(image, self.alignment, points)
                except ImageError as error:
                    failures[key] = f"{key}: {error}"
                    continue
                yield Chip(key, pixels, transform, source_hash, image.size)


def _detector_maker(
    name: str | None, detector: FaceDetector | None, device: torch.device
) -> Callable[[], FaceDetector] | None:
    if detector is not None:
        if name is None:
            raise UserInputError(
                "a detector decides the chips, so the cache's header must name it: give Alignment(detector=NAME)"
            )
        return lambda: detector
    if name is None:
        return None
    if name not in DETECTORS:
        raise UserInputError(f"unknown detector {name!r}: expected one of {', '.join(DETECTORS)}, or pass your own")
    return lambda: DETECTORS[name](device)
