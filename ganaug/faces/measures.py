"""What can be measured of a photo without a network: size, sharpness, exposure, colour, pose, and a small likeness."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels at which sharpness and exposure are measured, so that photos of all sizes compare
LIKENESS_SIDE = 32  # pixels of the thumbnail by which duplicates are confirmed
CENTRE_SHARE = 0.75  # without points, the face is taken to fill this share of the centred square's side
FACE_SHARE = 2.5  # side of the face in multiples of its eye distance or eye-mouth distance, whichever is longer

# 8-bit luma at and beyond which detail is lost: JPEG rounding moves pure black and white by a step or two.
BLACK, WHITE = 2, 253

# How far the tip of the nose stands out of the plane of eyes and mouth corners, in eye distances. Measured: affine
# factorisation (Tomasi and Kanade, IJCV 1992) of the five points of 3,462 frames of YouTube Faces gives 0.32.
NOSE_LENGTH = 0.32


@dataclass(frozen=True)
class Measures:
    """Measures of one photo.

    Attributes:
        width: Pixels of the upright photo.
        height: Pixels of the upright photo.
        sharpness: Variance of the Laplacian of the face's luma in [0, 255] at 128 px; below 10 a face is
            blurred, from 25 on its features are clear. Not divided by the contrast: of FairFace's groups that would hit
            some far more than others.
        mean_luma: Mean of the face's luma, in [0, 255].
        clipped: Share of the face's pixels that are black (luma at most 2) or white (at least 253), in [0, 1].
        chroma: Mean difference of the largest and the smallest of R, G, B, in [0, 255]; 0 for a grey photo.
        dhash: 64-bit perceptual hash, see :func:`difference_hash`.
        likeness: ``(32, 32)`` uint8 luma of the whole photo.
    """

    width: int
    height: int
    sharpness: float
    mean_luma: float
    clipped: float
    chroma: float
    dhash: int
    likeness: NDArray[np.uint8]


def measure(image: Image.Image, points: NDArray[np.floating] | None = None) -> Measures:
    """Measures an upright RGB photo.

    Args:
        image: The photo.
        points: ``(5, 2)`` eyes, nose, mouth corners in photo pixels; the face is measured then, else the centre.
    """
    luma = image.convert("L")
    face = np.asarray(
        luma.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=face_box(image.size, points)), np.float32
    )
    laplacian = face[:-2, 1:-1] + face[2:, 1:-1] + face[1:-1, :-2] + face[1:-1, 2:] - 4.0 * face[1:-1, 1:-1]
    size = (LIKENESS_SIDE, LIKENESS_SIDE)
    colours = np.asarray(image.resize(size, Image.Resampling.BOX), np.int16)
    return Measures(
        image.width,
        image.height,
        float(laplacian.var()),  # Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000)
        float(face.mean()),
        float(((face <= BLACK) | (face >= WHITE)).mean()),
        float((colours.max(axis=2) - colours.min(axis=2)).mean()),
        difference_hash(luma),
        np.asarray(luma.resize(size, Image.Resampling.BOX)),
    )


def face_box(size: tuple[int, int], points: NDArray[np.floating] | None) -> tuple[float, float, float, float]:
    """Square around the face, inside the photo: left, top, right, bottom in pixels."""
    width, height = size
    centre, side = np.array([width, height]) / 2, CENTRE_SHARE * min(size)
    if points is not None:
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        spread = max(float(np.linalg.norm(points[1] - points[0])), float(np.linalg.norm(mouth - eyes)))
        centre, side = (eyes + mouth) / 2, FACE_SHARE * spread
    left, top = np.clip(centre - side / 2, 0, [width - 1, height - 1])
    right, bottom = np.clip(centre + side / 2, [left + 1, top + 1], [width, height])
    return float(left), float(top), float(right), float(bottom)


def difference_hash(luma: Image.Image) -> int:
    """dHash: 64 bits, whether each pixel of a 9x8 thumbnail is darker than the one to its right, row by row.

    After N. Krawetz, "Kind of Like That" (hackerfactor.com, 2013). Two photos of the same picture differ in few bits,
    whatever their size, contrast and compression.
    """
    cells = np.asarray(luma.resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def head_pose(points: NDArray[np.floating]) -> tuple[float, float]:
    """Yaw and roll of a head from its five points, by simple geometry; good to some 10 degrees.

    Seen from far away, a turn by yaw shortens the eye distance by its cosine and moves the tip of the nose off the line
    from between the eyes to the middle of the mouth by its sine times the length of the nose.

    Args:
        points: ``(5, 2)`` left eye, right eye, nose, left and right mouth corner as seen in the picture, in pixels.

    Returns:
        Yaw in degrees, positive if the nose points to the right of the picture, and roll in degrees, positive if the
        head leans clockwise. NaN where the points do not make a face.
    """
    left, right, nose = points[:3].astype(np.float64)
    across, down = right - left, points[3:].mean(axis=0) - (left + right) / 2
    area = across[0] * down[1] - across[1] * down[0]
    if not abs(area) > 1e-6:  # NaN too
        return float("nan"), float("nan")
    off = nose - (left + right) / 2
    sideways = (off[0] * down[1] - off[1] * down[0]) / area  # off = sideways * across + along * down
    return float(np.degrees(np.arctan(sideways / NOSE_LENGTH))), float(np.degrees(np.arctan2(across[1], across[0])))
