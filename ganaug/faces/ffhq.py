"""FFHQ (Karras et al., CVPR 2019) as published: numbered images, and landmarks in one json file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.faces.face_dataset import FaceDataset, first_few
from ganaug.faces.images import find_images, read_image
from ganaug.interfaces import UserInputError

FFHQ_SIDE = 1024  # the json file gives landmarks in pixels of the full images
FFHQ_TRAIN = 60_000  # images 0 to 59999 are for training, the other 10000 for validation (README of the dataset)


def ffhq(
    root: str | Path,
    *,
    folder: str = "images1024x1024",
    split: str | None = None,
    labels: str | Path | None = None,
    **options: Any,
) -> FaceDataset:
    """FFHQ (Karras et al., CVPR 2019): ``images1024x1024/00000/00000.png``, no labels; landmarks if its json is there.

    Args:
        root: The dataset's folder.
        folder: Which images: ``"images1024x1024"`` or ``"thumbnails128x128"``; where ``root`` has no such folder, the
            images are looked for in ``root`` itself.
        split: ``"train"`` (images 0 to 59999), ``"val"`` or None.
        labels: The published ``ffhq-dataset-v2.json``; default: the one in ``root``, if there is one.
        **options: ``transform`` and ``target_transform``.

    Raises:
        ImageError: If there is no image.
        UserInputError: For an unknown split, file names that are no numbers, and a json file of another kind.
    """
    root = Path(root)
    inside = (root / folder).is_dir()
    files = [f"{folder}/{name}" if inside else name for name in find_images(root / folder if inside else root)]
    stems = [Path(file).stem.removeprefix("img") for file in files]  # some copies are named img00000000.png
    odd = [file for file, stem in zip(files, stems, strict=True) if not stem.isdigit()]
    if odd:
        raise UserInputError(f"{len(odd)} of {len(files)} file names are no numbers: {first_few(odd)}; is it FFHQ?")
    numbers = np.array([int(stem) for stem in stems])
    if split not in ("train", "val", None):
        raise UserInputError(f"FFHQ has the splits train and val, got {split!r}")
    if split is not None:
        taken = np.flatnonzero((numbers < FFHQ_TRAIN) == (split == "train"))
        files, numbers = [files[i] for i in taken], numbers[taken]
        if not files:
            raise UserInputError(f"{root} has no image of FFHQ's split {split!r}")
    path = Path(labels) if labels is not None else root / "ffhq-dataset-v2.json"
    landmarks = None
    if labels is not None or path.is_file():
        side = read_image(root / files[0])[0].width
        landmarks = _ffhq_landmarks(path, numbers, side / FFHQ_SIDE)
    return FaceDataset(root, files, landmarks=landmarks, **options)


def _ffhq_landmarks(path: Path, numbers: NDArray[np.int64], scale: float) -> NDArray[np.float32]:
    """``(N, 5, 2)`` points from the published 68; NaN for images that the file does not have."""
    try:
        table = json.loads(path.read_text())
        points = np.full((len(numbers), 5, 2), np.nan, np.float32)
        for row, number in enumerate(numbers.tolist()):
            if str(number) in table:
                points[row] = five_of_68(np.array(table[str(number)]["image"]["face_landmarks"], np.float64))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserInputError(f"{path}: not FFHQ's ffhq-dataset-v2.json: {type(error).__name__}: {error}") from error
    return (points + 0.5) * np.float32(scale)  # dlib counts from the centre of the first pixel


def five_of_68(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eye centres, nose tip and mouth corners ``(5, 2)`` from ``(68, 2)`` points.

    In the order of Sagonas et al., "300 Faces in-the-Wild Challenge" (ICCV workshops 2013): 36 to 41 the eye on the
    left of the picture, 42 to 47 the other, 30 the tip of the nose, 48 and 54 the corners of the mouth.
    """
    if points.shape != (68, 2):
        raise ValueError(f"expected 68 points, got an array of shape {points.shape}")
    return np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])
