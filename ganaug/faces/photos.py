"""Photos of a source that a user names: a folder, or a dataset of hers."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from ganaug.faces.images import check_size, content_hash, find_images, read_image
from ganaug.faces.sources import list_items
from ganaug.interfaces import ImageError, UserInputError
from ganaug.user_functions import call_user_function


@dataclass(frozen=True)
class Photo:
    """One image of a source.

    Attributes:
        key: Stable name: path relative to the source's root with forward slashes, or index.
        read: Returns the upright RGB image and the sha256 (hex) of its source. Raises ImageError.
        path: Its file, if it is one.
    """

    key: str
    read: Callable[[], tuple[Image.Image, str]]
    path: str | None = None


def photos_in_folder(root: str | Path) -> list[Photo]:
    """All images under a folder; keys are paths relative to it."""
    root = Path(root)
    return [
        Photo(name, lambda path=root / name: read_image(path), os.fspath(root / name))  # type: ignore[misc]
        for name in find_images(root)
    ]


def photos_of_dataset(dataset: Dataset[Any], key: Callable[[int], str] | None = None) -> list[Photo]:
    """All items of a map-style dataset. Files that it knows are read themselves, so its transform plays no part."""
    items = list_items(dataset, key)

    def read(index: int) -> tuple[Image.Image, str]:
        key, path = items[index].key, items[index].path
        if path is not None:
            return read_image(path)
        try:
            item = dataset[index]
        except Exception as error:  # whatever somebody else's dataset raises concerns this item alone
            raise ImageError(f"{key}: the dataset fails at it: {type(error).__name__}: {error}") from error
        return _image_of(item, key)

    return [Photo(item.key, lambda i=i: read(i), item.path) for i, item in enumerate(items)]  # type: ignore[misc]


def _image_of(item: Any, key: str) -> tuple[Image.Image, str]:
    """The image of an item, and the hash of its pixels."""
    values = (
        list(item.values()) if isinstance(item, dict) else list(item) if isinstance(item, (tuple, list)) else [item]
    )
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim == 3 and value.shape[0] == 3:
            if value.dtype != torch.uint8 and not (value.min() >= 0 and value.max() <= 1):  # NaN is neither
                raise ImageError(f"{key}: a float image must be in [0, 1], got {value.min():g} to {value.max():g}")
            unit = value if value.dtype == torch.uint8 else (value * 255).round().to(torch.uint8)
            value = Image.fromarray(unit.permute(1, 2, 0).contiguous().numpy())
        if isinstance(value, Image.Image):
            image = value.convert("RGB")
            check_size(image, key)
            return image, content_hash(image.tobytes())
    raise ImageError(f"{key}: no RGB image in the item, which holds {[type(v).__name__ for v in values]}")


def photos_from(source: str | Path) -> list[Photo]:
    """Photos of SRC: a folder, or ``package.module:function`` that returns a dataset.

    Raises:
        UserInputError: If the function cannot be imported, fails, or does not return a dataset with items.
        ImageError: If the folder is missing or empty.
    """
    source = os.fspath(source)
    module_name, colon, _ = source.partition(":")
    if not colon or os.path.isdir(source) or "/" in module_name:
        return photos_in_folder(source)
    dataset = call_user_function(source, "a folder or package.module:function")
    photos = photos_of_dataset(dataset)
    if not photos:
        raise UserInputError(f"{source} returned a dataset without items")
    return photos
