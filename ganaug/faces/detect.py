"""Faces in photos: what a detector returns, which of several faces is meant, and the table of detectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ganaug.interfaces import UserInputError


@dataclass(frozen=True, eq=False)
class Face:
    """A face found in a photo. Coordinates are pixels of the upright photo, pixel centres at half-integers.

    Attributes:
        box: ``(4,)`` float32: left, top, right, bottom; may reach beyond the photo.
        score: Confidence in [0, 1].
        points: ``(5, 2)`` float32: left eye, right eye, nose tip, left and right corner of the mouth, as seen in the
            picture.
    """

    box: NDArray[np.float32]
    score: float
    points: NDArray[np.float32]

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes in pixels; near 0 for a profile."""
        return float(np.linalg.norm(self.points[1] - self.points[0]))


@runtime_checkable
class FaceDetector(Protocol):
    """Photos to faces, batched; what is found in a photo depends on nothing but that photo."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Upright RGB photos of any sizes -> the faces of each, the best score first; none is an empty list."""
        ...


def _mtcnn(device: str | torch.device) -> FaceDetector:
    from ganaug.faces.mtcnn import MTCNNDetector

    return MTCNNDetector(device)


# Name -> detector on a device.
DETECTORS: dict[str, Callable[[str | torch.device], FaceDetector]] = {"mtcnn": _mtcnn}


def choose_faces(faces: Sequence[Face], which: str, image_size: tuple[int, int]) -> list[Face]:
    """The faces of a photo that are meant.

    Args:
        faces: All faces of the photo; may be empty.
        which: ``"largest"`` by the area of the box, ``"central"`` by the distance of the box's centre from the photo's,
            or ``"all"``, the largest first. Equal ones are told apart by score, then by place from left to right.
        image_size: Width and height of the photo in pixels.

    Returns:
        No face if there is none, all for ``"all"``, else one.

    Raises:
        UserInputError: For another ``which``.
    """
    if which not in ("largest", "central", "all"):
        raise UserInputError(f"unknown choice of faces {which!r}: expected 'largest', 'central' or 'all'")
    centre = np.array(image_size, dtype=np.float64) / 2

    def rank(face: Face) -> tuple[float, float, float, float]:
        middle = (face.box[:2].astype(np.float64) + face.box[2:]) / 2
        first = float(np.linalg.norm(middle - centre)) if which == "central" else -face.area
        return (first, -face.score, float(face.box[0]), float(face.box[1]))

    ranked = sorted(faces, key=rank)
    return ranked if which == "all" else ranked[:1]
