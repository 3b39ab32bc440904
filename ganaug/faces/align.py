"""From an upright photo to the generator's chip, and the transform that leads back."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from ganaug.faces.cut import cut
from ganaug.faces.templates import TEMPLATES, ffhq_similarity
from ganaug.interfaces import ImageError, UserInputError

WHICH_FACES = ("largest", "central", "all")

# Eyes that are in the wrong order by more than this share of the way from the eyes to the mouth are no profile, whose
# eyes lie in one place give or take a detector's error, but a mirror image. A frontal face has about 1.
_MIRRORED = 0.25


@dataclass(frozen=True)
class Alignment:
    """How a face is cut from its photo. Stored in the header of a cache, and part of what must match.

    ``center``: the largest centred square, scaled to ``size`` with Pillow's antialiased Lanczos filter. Right for
    photos that are chips of the generator's own kind already.

    ``points``: turned, scaled and shifted so that five points of the face (eyes, nose, corners of the mouth) come to
    lie on those of ``template``. Right for everything else: loose crops, phone photos, chips of another kind. A face of
    fewer pixels than the chip is enlarged; its variants are as blurred as it is.

    Attributes:
        mode: ``"center"`` or ``"points"``.
        size: Side of the chip in pixels.
        template: For points: the generator's chip, a key of :data:`ganaug.faces.templates.TEMPLATES`.
        which_face: For points: ``"largest"``, ``"central"`` or ``"all"`` of several faces in a photo.
        chips: For points: the template that the photos are aligned to already, so that no detector is asked;
            ``"auto"`` to tell by a size that only one has (:func:`ganaug.faces.templates.recognise_chip`); None to take
            no photo for a chip.
        detector: For points: who finds the points of photos that come without, a key of
            :data:`ganaug.faces.detect.DETECTORS` or the caller's name for her own; None for nobody.

    Raises:
        UserInputError: For values that are not among these.
    """

    mode: str = "center"
    size: int = 64
    template: str | None = None
    which_face: str = "largest"
    chips: str | None = "auto"
    detector: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("center", "points"):
            raise UserInputError(f"unknown alignment mode {self.mode!r}: expected 'center' or 'points'")
        if self.mode == "center":
            if (self.template, self.which_face, self.chips, self.detector) != (None, "largest", "auto", None):
                raise UserInputError(
                    "template, which_face, chips and detector are for alignment mode 'points', got mode 'center'"
                )
            return
        names = ", ".join(sorted(TEMPLATES))
        if self.template not in TEMPLATES:
            raise UserInputError(f"alignment to points needs a template, one of {names}; got {self.template!r}")
        if self.which_face not in WHICH_FACES:
            raise UserInputError(f"unknown which_face {self.which_face!r}: expected one of {', '.join(WHICH_FACES)}")
        if self.chips not in (None, "auto", *TEMPLATES):
            raise UserInputError(f"unknown chips {self.chips!r}: expected 'auto', None or one of {names}")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only; of mode ``center`` nothing but what decides its chips."""
        return asdict(self) if self.mode == "points" else {"mode": self.mode, "size": self.size}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Alignment":
        """Inverse of :meth:`to_dict`."""
        return cls(**values)


def align(
    image: Image.Image, alignment: Alignment, points: ArrayLike | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cuts the chip.

    Args:
        image: Upright RGB photo.
        alignment: How.
        points: For mode ``points``: ``(5, 2)``, left eye, right eye, nose tip, left and right corner of the mouth as
            seen in the picture, in photo pixels, pixel centres at half-integers.

    Returns:
        The chip ``(size, size, 3)`` uint8, and the ``(2, 3)`` matrix that maps photo pixel coordinates (x, y, 1) to
        chip pixel coordinates, with pixel centres at half-integers. It has an inverse.

    Raises:
        ImageError: If the points are not those of a face in the photo.
    """
    size = alignment.size
    if alignment.mode == "points":
        matrix = transform_of(points, image.size, alignment)
        return cut(image, matrix, size), matrix
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    chip = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    scale = size / side
    matrix = np.array([[scale, 0.0, -left * scale], [0.0, scale, -top * scale]], dtype=np.float32)
    return np.asarray(chip, dtype=np.uint8), matrix


def transform_of(points: ArrayLike | None, photo_size: tuple[int, int], alignment: Alignment) -> NDArray[np.float32]:
    """The ``(2, 3)`` matrix of :func:`align` for mode ``points``; it needs no pixels.

    Raises:
        ImageError: If the points are not those of a face in a photo of that width and height.
    """
    face = _checked(points, photo_size)
    return similarity(face, str(alignment.template), alignment.size).astype(np.float32)


def similarity(points: ArrayLike, template: str, size: int) -> NDArray[np.float64]:
    """The turn, scaling and shift that brings five points onto a template.

    ``"ffhq"`` follows the recipe by which FFHQ was cut; for the others the sum of squared distances is the smallest
    possible (Umeyama, IEEE TPAMI 13, 1991; in the plane, with points as complex numbers p and q about their means, the
    factor is ``sum(conj(p) q) / sum(|p|^2)``).

    Args:
        points: ``(5, 2)`` in photo pixels, not all in one place.
        template: A key of :data:`ganaug.faces.templates.TEMPLATES`.
        size: Side of the chip in pixels.

    Returns:
        ``(2, 3)``, photo pixels to chip pixels.
    """
    found = np.asarray(points, dtype=np.float64)
    if template == "ffhq":
        return ffhq_similarity(found) * size
    source, target = found @ [1, 1j], TEMPLATES[template] * size @ [1, 1j]
    centred = source - source.mean()
    factor = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred).real
    shift = target.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def _checked(points: ArrayLike | None, photo_size: tuple[int, int]) -> NDArray[np.float64]:
    """Points from which a chip follows, or ImageError."""
    if points is None:
        raise ImageError("no points of a face are known, which alignment to points needs")
    face = np.asarray(points, dtype=np.float64)
    if face.shape != (5, 2) or not np.isfinite(face).all():
        raise ImageError(f"the points of a face must be five finite pairs (x, y), got {np.asarray(points).tolist()}")
    centre, spread = face.mean(axis=0), float(np.ptp(face, axis=0).max())
    if not ((centre >= 0) & (centre <= photo_size)).all():
        raise ImageError(
            f"the points of the face have their middle at ({centre[0]:.0f}, {centre[1]:.0f}), outside the photo of "
            f"{photo_size[0]}x{photo_size[1]} px; they must be in pixels of the upright photo"
        )
    if spread < 1.0:
        raise ImageError(f"the points of the face lie within {spread:.2g} px; they must be in pixels, not in [0, 1]")
    eyes, down = face[1] - face[0], face[3:].mean(axis=0) - face[:2].mean(axis=0)
    if eyes[0] * down[1] - eyes[1] * down[0] < -_MIRRORED * (down @ down):
        raise ImageError(
            "the points of the face are those of a mirror image; expected left eye, right eye, nose, left and right "
            "corner of the mouth, left and right as seen in the picture"
        )
    return face


def to_model_range(images: Tensor) -> Tensor:
    """uint8 in [0, 255] or float in [0, 1] -> float32 in [-1, 1], the range inside generators."""
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1.0
    return images.float() * 2.0 - 1.0


def to_unit_range(images: Tensor) -> Tensor:
    """Generator output in [-1, 1] -> float32 in [0, 1], clamped."""
    return (images.float() * 0.5 + 0.5).clamp(0.0, 1.0)
