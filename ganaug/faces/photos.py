"""Photos of a source that a user names: a folder, or a dataset of hers."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ganaug.faces.datasets import DATASETS, open_dataset
from ganaug.faces.images import check_size, content_hash, find_images, read_image
from ganaug.faces.normalization import RANGE_TOLERANCE, Normalization, find_normalization
from ganaug.faces.sources import list_attributes, list_items, list_landmarks, locate
from ganaug.faces.tables import kept_keys
from ganaug.faces.transforms import random_steps
from ganaug.interfaces import ImageError, UserInputError
from ganaug.user_functions import call_user_function


@dataclass(frozen=True)
class Photo:
    """One image of a source.

    Attributes:
        key: Stable name: path relative to the source's root with forward slashes, or index.
        read: Returns the upright RGB image and the sha256 (hex) of its source. Raises ImageError.
        path: Its file, if it is one.
        points: ``(5, 2)``: left eye, right eye, nose tip, left and right corner of the mouth as seen in the picture, in
            pixels of the upright photo, pixel centres at half-integers; None if they are not known.
        attributes: What its source says of it: ``label``, ``identity``, groups.
    """

    key: str
    read: Callable[[], tuple[Image.Image, str]]
    path: str | None = None
    points: NDArray[np.float64] | None = field(default=None, compare=False)
    attributes: Mapping[str, str] = field(default_factory=dict, compare=False)


def hash_of(photo: Photo) -> str | None:
    """sha256 (hex) of a photo's source, without decoding it where it is a file; None if it cannot be read."""
    try:
        return content_hash(Path(photo.path).read_bytes()) if photo.path is not None else photo.read()[1]
    except (OSError, ImageError):
        return None


def stamp_of(photo: Photo, source_hash: str) -> str:
    """sha256 (hex) of all that decides whether a photo gives latents: its source, and its points if they are known.

    Empty where the source could not be read at all.
    """
    if photo.points is None or not source_hash:
        return source_hash
    return content_hash(source_hash.encode() + np.ascontiguousarray(photo.points, dtype="<f8").tobytes())


def photos_in_folder(root: str | Path) -> list[Photo]:
    """All images under a folder; keys are paths relative to it."""
    root = Path(root)
    return [
        Photo(name, lambda path=root / name: read_image(path), os.fspath(root / name))  # type: ignore[misc]
        for name in find_images(root)
    ]


def photos_of_dataset(dataset: Dataset[Any], key: Callable[[int], str] | None = None) -> list[Photo]:
    """All items of a map-style dataset.

    Files that it knows are read themselves, and so are images of a :class:`ganaug.faces.datasets.FaceDataset`: the
    transform plays no part. Other images come through the transform; a ``Normalize`` in it is undone.

    Raises:
        UserInputError: If images can only be had through a transform that is random: no two readings would agree.
    """
    items = list_items(dataset, key)
    through_transform = any(
        item.path is None and not hasattr(locate(dataset, i)[0], "read_photo") for i, item in enumerate(items)
    )
    if through_transform and (names := random_steps(dataset)):
        raise UserInputError(
            f"{type(dataset).__name__} knows no files, and its transform is random ({', '.join(names)}): give the "
            "dataset with the deterministic steps alone"
        )
    normalization = find_normalization(dataset) if through_transform else None

    def read(index: int) -> tuple[Image.Image, str]:
        key, path = items[index].key, items[index].path
        if path is not None:
            return read_image(path)
        origin, row = locate(dataset, index)
        try:
            if hasattr(origin, "read_photo"):  # a FaceDataset
                photo: tuple[Image.Image, str] = origin.read_photo(row)
                return photo
            item = dataset[index]
        except ImageError:
            raise
        except Exception as error:  # whatever somebody else's dataset raises concerns this item alone
            raise ImageError(f"{key}: the dataset fails at it: {type(error).__name__}: {error}") from error
        return _image_of(item, key, normalization)

    points = list_landmarks(dataset)
    known = [points is not None and bool(np.isfinite(points[i]).all()) for i in range(len(items))]
    attributes = list_attributes(dataset)
    return [
        Photo(
            item.key,
            lambda i=i: read(i),  # type: ignore[misc]
            item.path,
            points[i] if points is not None and known[i] else None,
            {name: values[i] for name, values in attributes.items()},
        )
        for i, item in enumerate(items)
    ]


def _image_of(item: Any, key: str, normalization: Normalization | None = None) -> tuple[Image.Image, str]:
    """The image of an item, and the hash of its pixels."""
    values = (
        list(item.values()) if isinstance(item, dict) else list(item) if isinstance(item, (tuple, list)) else [item]
    )
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim == 3 and value.shape[0] == 3:
            if value.dtype != torch.uint8:
                unit = value if normalization is None else normalization.to_unit(value)
                if not (unit.min() >= -RANGE_TOLERANCE and unit.max() <= 1 + RANGE_TOLERANCE):  # NaN is neither
                    raise ImageError(f"{key}: a float image must be in [0, 1], got {unit.min():g} to {unit.max():g}")
                value = (unit.clamp(0, 1) * 255).round().to(torch.uint8)
            value = Image.fromarray(value.permute(1, 2, 0).contiguous().numpy())
        if isinstance(value, Image.Image):
            image = value.convert("RGB")
            check_size(image, key)
            return image, content_hash(image.tobytes())
    raise ImageError(f"{key}: no RGB image in the item, which holds {[type(v).__name__ for v in values]}")


def photos_from(
    source: str | Path, dataset: str | None = None, split: str | None = None, only: str | Path | None = None
) -> list[Photo]:
    """Photos of SRC: a folder, ``package.module:function`` that returns a dataset, or where a known dataset lies.

    Args:
        source: SRC.
        dataset: Name of its layout in :data:`ganaug.faces.datasets.DATASETS`.
        split: Split of such a dataset; None for all.
        only: List of ``ganaug curate``: photos that it does not keep are left out.

    Raises:
        UserInputError: If the function cannot be imported, fails, or does not return a dataset with items; for an
            unknown layout or split; for a list without a photo of this source.
        ImageError: If the folder is missing or empty.
    """
    photos = _photos_from(os.fspath(source), dataset, split)
    if only is None:
        return photos
    kept = kept_keys(only)
    chosen = [photo for photo in photos if photo.key in kept]
    if not chosen:
        raise UserInputError(
            f"{only} keeps none of the {len(photos)} photos of {source}, which are named like {photos[0].key!r}; give "
            "the list that `ganaug curate` made of the same source"
        )
    return chosen


def _photos_from(source: str, name: str | None, split: str | None) -> list[Photo]:
    if name is not None:
        return photos_of_dataset(open_dataset(name, source, split))
    if split is not None:
        raise UserInputError(f"split {split!r} needs the name of a dataset, one of {', '.join(DATASETS)}")
    module_name, colon, _ = source.partition(":")
    if not colon or os.path.isdir(source) or "/" in module_name:
        return photos_in_folder(source)
    dataset = call_user_function(source, "a folder or package.module:function")
    photos = photos_of_dataset(dataset)
    if not photos:
        raise UserInputError(f"{source} returned a dataset without items")
    return photos
