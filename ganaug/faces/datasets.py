"""Every face dataset that can be opened by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganaug.faces.celeba import celeba, celebamask_hq
from ganaug.faces.face_dataset import FaceDataset
from ganaug.faces.ffhq import ffhq
from ganaug.faces.hugging_face import hugging_face
from ganaug.faces.layouts import fairface, image_folder, lfw, utkface, video_frames
from ganaug.faces.lmdb_images import lmdb_images
from ganaug.faces.tables import from_csv, from_frame
from ganaug.interfaces import UserInputError

__all__ = [
    "DATASETS",
    "FaceDataset",
    "celeba",
    "celebamask_hq",
    "fairface",
    "ffhq",
    "from_csv",
    "from_frame",
    "hugging_face",
    "image_folder",
    "lfw",
    "lmdb_images",
    "open_dataset",
    "utkface",
    "video_frames",
]

# Name -> function of the place where the dataset lies: a folder, for csv the table, for lmdb the database.
DATASETS: dict[str, Callable[..., FaceDataset]] = {
    "celeba": celeba,
    "celebamask-hq": celebamask_hq,
    "csv": from_csv,
    "fairface": fairface,
    "ffhq": ffhq,
    "folder": image_folder,
    "hf": hugging_face,
    "lfw": lfw,
    "lmdb": lmdb_images,
    "utkface": utkface,
    "video": video_frames,
}


def open_dataset(name: str, place: str | Path, split: str | None = None, **options: Any) -> FaceDataset:
    """Opens a dataset of a known layout.

    Args:
        name: Key of :data:`DATASETS`.
        place: Where it lies.
        split: Which split, for layouts that have splits; None for all.
        **options: Of the layout's function.

    Raises:
        UserInputError: For an unknown name, a split where there are none, and whatever the layout's function refuses.
        ImageError: If there is no image.
    """
    if name not in DATASETS:
        raise UserInputError(f"unknown dataset {name!r}: expected one of {', '.join(DATASETS)}")
    function = DATASETS[name]
    if split is not None:
        code = function.__code__
        if "split" not in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            raise UserInputError(f"dataset {name!r} has no splits; leave split {split!r} out")
        options["split"] = split
    return function(place, **options)
