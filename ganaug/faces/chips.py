"""Photos to chips: what ``precompute`` inverts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ganaug.faces.align import Alignment, align
from ganaug.faces.detect import DETECTORS, FaceDetector
from ganaug.faces.photos import Photo, hash_of, stamp_of
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


@dataclass
class Reading:
    """A photo that was read, as far as that goes without a detector.

    Attributes:
        photo: The photo.
        source_hash: sha256 (hex) of its source; empty if nobody could read it.
        image: Its pixels, if somebody has yet to find the face in them.
        chips: Its face, if nobody needs to be asked where that is.
        failures: Key -> why there is no chip.
    """

    photo: Photo
    source_hash: str = ""
    image: Image.Image | None = None
    chips: list[Chip] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """:func:`ganaug.faces.photos.stamp_of` the photo."""
        return stamp_of(self.photo, self.source_hash)

    @property
    def num_bytes(self) -> int:
        """Memory that it holds, about: 3 bytes per pixel."""
        pixels = 0 if self.image is None else self.image.width * self.image.height
        return 3 * pixels + sum(chip.pixels.nbytes for chip in self.chips)


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

    def read(self, photo: Photo) -> Reading:
        """Reads a photo, and cuts it where no detector is needed for that. Any number of threads may do so at once."""
        reading = Reading(photo)
        try:
            image, reading.source_hash = photo.read()
        except ImageError as error:
            if photo.path is not None:  # else it could only be read once more, which has just failed
                reading.source_hash = hash_of(photo) or ""
            reading.failures[photo.key] = str(error)
            return reading
        if self.finder is not None and photo.points is None:
            reading.image = image
        else:
            self._cut(reading, image, [photo.points])
        return reading

    def finish(self, readings: Iterable[Reading]) -> list[Reading]:
        """Finds and cuts the faces that readings still lack, and lets go of their images. In the caller's thread."""
        done: list[Reading] = []
        held: list[tuple[Reading, Image.Image]] = []
        for reading in readings:
            done.append(reading)
            if reading.image is not None:
                held.append((reading, reading.image))
            if sum(image.width * image.height for _, image in held) > _MAX_PIXELS_HELD:
                self._find(held)
                held = []
        self._find(held)
        return done

    def _find(self, held: Sequence[tuple[Reading, Image.Image]]) -> None:
        if not held or self.finder is None:
            return
        found = self.finder.find([reading.photo for reading, _ in held], [image for _, image in held])
        for (reading, image), faces in zip(held, found, strict=True):
            if not faces:
                key = reading.photo.key
                reading.failures[key] = f"{key}: {self.finder.why_none(image)}"
            self._cut(reading, image, faces)
            reading.image = None

    def _cut(self, reading: Reading, image: Image.Image, faces: Sequence[NDArray[np.float64] | None]) -> None:
        for number, points in enumerate(faces):
            key = face_key(reading.photo.key, number)
            try:
                pixels, transform = align(image, self.alignment, points)
            except ImageError as error:
                reading.failures[key] = f"{key}: {error}"
                continue
            reading.chips.append(Chip(key, pixels, transform, reading.source_hash, image.size))


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
