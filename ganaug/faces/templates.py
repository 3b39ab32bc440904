"""Where the eyes, the nose and the mouth lie in the chips that face datasets and generators use.

Points are five, in this order: left eye, right eye, nose tip, left and right corner of the mouth, as seen in the
picture. Templates hold them in [0, 1] of the side of the chip's largest centred square: a square chip itself, or what
``Alignment("center")`` takes of one that is not square.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganaug.interfaces import UserInputError

# ArcFace's 112x112 chip, the reference points of InsightFace (python-package, utils/face_align.py). OpenCV counts pixel
# centres from 0, hence the half pixel. SphereFace's 96x112 chip (preprocess/code/face_align_demo.m) is the same less 8
# pixels on the left and on the right.
_ARCFACE = (
    np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]) + 0.5
)

# CelebA's aligned 178x218 chip: mean of list_landmarks_align_celeba.txt, to a pixel (ALAE,
# dataset_preparation/align_celeba.py). The makers' own targets, eyes at y = 112 and the mouth's centre at y = 153.5 of
# pixels counted from 1, agree within 1.5 px.
_CELEBA = np.array([[69.0, 111.0], [108.0, 111.0], [88.0, 136.0], [72.0, 152.0], [105.0, 152.0]])

# dlib's mean face (image_transforms/interpolation.h, mean_face_shape_x and _y): mean of the six points of each eye, tip
# of the nose, outer corners of the mouth; in a chip with get_face_chip's usual padding of a quarter on every side.
_DLIB_PADDING = 0.25
_DLIB = np.array(
    [[0.225492, 0.215990], [0.754761, 0.215990], [0.490127, 0.515625], [0.254149, 0.780233], [0.726104, 0.780233]]
)

TEMPLATES: dict[str, NDArray[np.float64]] = {
    "arcface": _ARCFACE / 112.0,
    # The 20 rows above the centred square and the 20 below it are not counted.
    "celeba": (_CELEBA - [0.0, 20.0]) / 178.0,
    "dlib": (_DLIB + _DLIB_PADDING) / (1.0 + 2.0 * _DLIB_PADDING),
    # Chips that the bundled generator was trained on: mean of the points that MTCNN finds in every 13th training photo
    # of fairface (999 of 1,006), over 144 px; standard deviations are 0.013 to 0.018 (eyes), 0.03 to 0.04 (nose and
    # mouth). The points in fairface/labels.csv have another mean, (0.3257, 0.3168) (0.6833, 0.3147) (0.5046, 0.5006)
    # (0.3399, 0.6668) (0.6637, 0.6668): up to two pixels of 144 off, and eyes and mouth 6 % closer together than here
    # and in dlib's own mean face. With them a face whose points are well found would come out too small.
    "fairface": np.array([[0.3130, 0.3037], [0.6765, 0.3038], [0.4951, 0.5059], [0.3316, 0.6765], [0.6587, 0.6765]]),
    # FFHQ's crop: the mean points of FFHQ that facexlib has (utils/face_restoration_helper.py, at 512 px), put through
    # :func:`ffhq_similarity` and made symmetric, so that the recipe and the template give one crop. The means over
    # aaf/ffhq128 of the points that MTCNN finds lie within 0.009 of them.
    "ffhq": np.array([[0.375, 0.474], [0.625, 0.474], [0.5, 0.6208], [0.389, 0.7345], [0.611, 0.7345]]),
    # facenet-pytorch's chip: the box that its MTCNN finds, margin 0, pulled to a square. Mean points over the 204
    # photos of london, made symmetric; standard deviations are 0.02 to 0.03 of the side. The pull widens faces by a
    # quarter, so that a similarity meets these points in the mean only.
    "mtcnn": np.array([[0.2712, 0.4045], [0.7288, 0.4045], [0.5, 0.5856], [0.3016, 0.7584], [0.6984, 0.7584]]),
    "sphereface": (_ARCFACE - [8.0, 8.0]) / 96.0,
}

# Sizes (width, height) that one alignment alone is known by. Squares of 128, 150, 224, 256, 512, 1024 px are anything.
_CHIP_SIZES = {(112, 112): "arcface", (178, 218): "celeba", (96, 112): "sphereface"}

# recognise_points: how far the points of half of the photos may lie from the template, root mean square over the five
# points in eye distances. Measured with MTCNN: 0.10 for fairface and 0.07 for aaf/ffhq128 to their own templates; 0.26
# and more to the nearest template for the loose crops of identity, congress, london and aaf/original.
_SAME_CHIP = 0.12


def template_points(template: str, size: tuple[int, int]) -> NDArray[np.float64]:
    """The points of a template in a chip of some size.

    Args:
        template: A key of ``TEMPLATES``.
        size: Width and height of the chip in pixels.

    Returns:
        ``(5, 2)`` in pixels, pixel centres at half-integers.

    Raises:
        UserInputError: For an unknown template.

    Example:
        >>> template_points("celeba", (178, 218))[0].round(6).tolist()
        [69.0, 111.0]
    """
    if template not in TEMPLATES:
        raise UserInputError(f"unknown template {template!r}: expected one of {', '.join(sorted(TEMPLATES))}")
    side = min(size)
    return TEMPLATES[template] * side + (np.array(size, dtype=np.float64) - side) / 2


def recognise_chip(size: tuple[int, int]) -> str | None:
    """The template of a chip known by its size alone, or None where the size says nothing.

    Args:
        size: Width and height in pixels.

    Example:
        >>> recognise_chip((112, 112)), recognise_chip((178, 218)), recognise_chip((256, 256))
        ('arcface', 'celeba', None)
    """
    return _CHIP_SIZES.get((int(size[0]), int(size[1])))


def recognise_points(points: ArrayLike, sizes: ArrayLike) -> str | None:
    """The template that a set of photos is aligned to, judged by the points of a few of them.

    A detector over some 20 photos is enough to know that the other 100,000 need none.

    Args:
        points: ``(N, 5, 2)`` in photo pixels.
        sizes: ``(N, 2)`` widths and heights, or ``(2,)`` if all are equal.

    Returns:
        The nearest template, or None if no template is near for more than half of the photos: loose crops, photos.

    Raises:
        UserInputError: If the shapes are others.
    """
    found = np.asarray(points, dtype=np.float64)
    if found.ndim != 3 or found.shape[1:] != (5, 2) or len(found) == 0:
        raise UserInputError(f"points must be (N, 5, 2) with N >= 1, got {found.shape}")
    size = np.broadcast_to(np.asarray(sizes, dtype=np.float64), (len(found), 2))
    side = size.min(axis=1, keepdims=True)
    unit = (found - ((size - side) / 2)[:, None]) / side[:, None]
    distances = {}
    for name, template in TEMPLATES.items():
        eyes = float(np.linalg.norm(template[1] - template[0]))
        error = np.sqrt(((unit - template) ** 2).sum(axis=2).mean(axis=1)) / eyes
        distances[name] = float(np.median(error))
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] <= _SAME_CHIP else None


def template_of(description: Mapping[str, Any]) -> str | None:
    """The template of the chips that a generator was trained on.

    Args:
        description: What its model file says about itself (``checkpoints.Model.description``).

    Returns:
        Its entry ``template`` if it has one; ``"fairface"`` for generators trained on the FairFace chips, as the
        bundled one; ``"ffhq"`` for published ones: FFHQ and CelebA-HQ are cut by the same recipe. None for a generator
        of the user's own, whose chips are as her photos were.
    """
    if "template" in description:
        return str(description["template"])
    if "layout" in description:
        return "ffhq"
    training = description.get("training")
    data = training.get("data", "") if isinstance(training, Mapping) else ""
    return "fairface" if "fairface" in str(data).lower() else None


def ffhq_similarity(points: ArrayLike) -> NDArray[np.float64]:
    """The crop of FFHQ (Karras et al., CVPR 2019, appendix A; and CelebA-HQ, Karras et al., ICLR 2018, appendix C).

    The chip's x axis is ``eye_to_eye`` plus ``eye_to_mouth`` turned by a quarter, so that both decide the rotation. Its
    side is the longer of 4 eye distances and 3.6 times the way from the eyes to the mouth, and its centre lies a tenth
    of that way below the eyes.

    Args:
        points: ``(..., 5, 2)`` in photo pixels.

    Returns:
        ``(..., 2, 3)``, photo pixels to [0, 1] of the chip.

    Raises:
        UserInputError: If the shape is another, or the points of a face are all in one place.
    """
    found = np.asarray(points, dtype=np.float64)
    if found.shape[-2:] != (5, 2):
        raise UserInputError(f"points must be (..., 5, 2), got {found.shape}")
    eyes, mouth = found[..., :2, :].mean(axis=-2), found[..., 3:, :].mean(axis=-2)
    eye_to_eye, eye_to_mouth = found[..., 1, :] - found[..., 0, :], mouth - eyes
    axis = eye_to_eye + np.stack([eye_to_mouth[..., 1], -eye_to_mouth[..., 0]], axis=-1)
    length = np.linalg.norm(axis, axis=-1)
    side = 2.0 * np.maximum(
        2.0 * np.linalg.norm(eye_to_eye, axis=-1),
        1.8 * np.linalg.norm(eye_to_mouth, axis=-1),
    )
    if not (length * side > 0).all():
        raise UserInputError("the five points of a face lie in one place or are not finite: no crop follows from them")
    cos, sin = axis[..., 0] / (length * side), axis[..., 1] / (length * side)
    linear = np.stack([np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)], axis=-2)
    centre = eyes + 0.1 * eye_to_mouth
    offset = 0.5 - (linear @ centre[..., None])
    return np.concatenate([linear, offset], axis=-1)
