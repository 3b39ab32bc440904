"""The five points of the faces in photos: known, or of a chip of a known kind, or from a detector."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ganaug.faces.align import Alignment
from ganaug.faces.detect import FaceDetector, choose_faces
from ganaug.faces.photos import Photo
from ganaug.faces.templates import recognise_chip, template_points


class PointFinder:
    """Finds the points that an alignment to points needs.

    Args:
        alignment: Of mode ``points``.
        detector: Makes the detector; called when a photo needs it for the first time, so that who needs none need not
            have it installed. None: nobody is asked.

    Attributes:
        recognised: Template -> how many photos were taken for its chips by their size.
    """

    def __init__(self, alignment: Alignment, detector: Callable[[], FaceDetector] | None) -> None:
        self.alignment = alignment
        self.recognised: dict[str, int] = {}
        self._make_detector = detector
        self._detector: FaceDetector | None = None

    def find(self, photos: Sequence[Photo], images: Sequence[Image.Image]) -> list[list[NDArray[np.float64]]]:
        """Points ``(5, 2)`` of the wanted faces of each photo, in photo pixels; an empty list where there is none."""
        found = [self._without_detector(photo, image) for photo, image in zip(photos, images, strict=True)]
        asked = [row for row, faces in enumerate(found) if not faces]
        if asked and self._make_detector is not None:
            self._detector = self._detector or self._make_detector()
            for row, faces in zip(asked, self._detector.detect([images[row] for row in asked]), strict=True):
                chosen = choose_faces(faces, self.alignment.which_face, images[row].size)
                found[row] = [np.asarray(face.points, dtype=np.float64) for face in chosen]
        return found

    def _without_detector(self, photo: Photo, image: Image.Image) -> list[NDArray[np.float64]]:
        if photo.points is not None:
            return [np.asarray(photo.points, dtype=np.float64)]
        chips = self.alignment.chips
        if chips != "auto":
            return [] if chips is None else [template_points(chips, image.size)]
        chips = recognise_chip(image.size)
        if chips is None:
            return []
        self.recognised[chips] = self.recognised.get(chips, 0) + 1
        return [template_points(chips, image.size)]

    def why_none(self, image: Image.Image) -> str:
        """Why a photo has no points."""
        if self._make_detector is None:
            return "no face found; its points are not known, and no detector was asked"
        return (
            f"no face found; {self.alignment.detector} sees none in the photo of {image.width}x{image.height} px. Give "
            "the points of its face, or leave it out"
        )
