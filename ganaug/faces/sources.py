"""What a dataset knows about its files: stable keys, paths, labels; through ``Subset`` and ``ConcatDataset``."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from ganaug.interfaces import UserInputError

# Attributes that hold one file per item: torchvision's DatasetFolder (pairs), CelebA, and common names elsewhere.
FILE_ATTRIBUTES = ("samples", "imgs", "filename", "filenames", "file_names", "paths", "image_paths", "files")
LABEL_ATTRIBUTES = ("targets", "labels", "y")


@dataclass(frozen=True)
class Item:
    """One item of a dataset.

    Attributes:
        key: Stable name: the path relative to the dataset's root with forward slashes, or the index.
        path: Its file, if the dataset knows one.
    """

    key: str
    path: str | None


def _paths(dataset: Dataset[Any]) -> list[str] | None:
    """One path per item, if the dataset has such a list."""
    for attribute in FILE_ATTRIBUTES:
        values = getattr(dataset, attribute, None)
        if values is None or isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
            continue
        if len(values) != len(dataset) or len(values) == 0:  # type: ignore[arg-type]
            continue
        first = values[0]
        if isinstance(first, (tuple, list)) and first and isinstance(first[0], (str, os.PathLike)):
            return [os.fspath(v[0]) for v in values]
        if isinstance(first, (str, os.PathLike)):
            return [os.fspath(v) for v in values]
    return None


def list_items(dataset: Dataset[Any], key: Callable[[int], str] | None = None) -> list[Item]:
    """Key and file of every item, without loading any.

    Args:
        dataset: Any map-style dataset.
        key: Index -> key; overrides what the dataset knows.

    Raises:
        UserInputError: If the dataset has no length, or ``key`` does not return strings.
    """
    indexed = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not indexed or isinstance(dataset, IterableDataset):  # which inherits a __getitem__ that raises
        raise UserInputError(f"expected a map-style dataset with __len__ and __getitem__, got {type(dataset).__name__}")
    items = _list_items(dataset)
    if key is None:
        return items
    named = [Item(key(i), item.path) for i, item in enumerate(items)]
    wrong = next((item.key for item in named if not isinstance(item.key, str)), None)
    if wrong is not None:
        raise UserInputError(f"key must return a string for an index, got {type(wrong).__name__}")
    return named


def _list_items(dataset: Dataset[Any]) -> list[Item]:
    if isinstance(dataset, Subset):
        items = _list_items(dataset.dataset)
        return [items[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [item for part in dataset.datasets for item in _list_items(part)]
    paths = _paths(dataset)
    if paths is None:
        return [Item(str(i), None) for i in range(len(dataset))]  # type: ignore[arg-type]
    root = getattr(dataset, "root", None)
    return [Item(_relative(path, root), _existing(path, root)) for path in paths]


def _relative(path: str, root: Any) -> str:
    """``path`` relative to ``root`` with forward slashes; unchanged if it is not below it."""
    if isinstance(root, (str, os.PathLike)) and os.path.isabs(path) == os.path.isabs(os.fspath(root)):
        relative = os.path.relpath(path, root)
        if not relative.startswith(".."):
            return Path(relative).as_posix()
    return Path(path).as_posix()


def _existing(path: str, root: Any) -> str | None:
    """The file itself: as given, or below the root; None where only the dataset knows (torchvision's CelebA)."""
    if os.path.isabs(path) or root is None or os.path.exists(path):
        return path
    below = os.path.join(os.fspath(root), path)
    return below if os.path.exists(below) else None


def list_labels(dataset: Dataset[Any]) -> NDArray[np.int64] | None:
    """One class number per item, or None if the dataset keeps no such list.

    Labels are renumbered 0 .. G-1 in sorted order; strings and tensors are accepted.
    """
    values = _label_values(dataset)
    if values is None:
        return None
    _, numbers = np.unique(np.asarray(values), return_inverse=True)
    return numbers.astype(np.int64)


def _label_values(dataset: Dataset[Any]) -> Sequence[Any] | None:
    if isinstance(dataset, Subset):
        values = _label_values(dataset.dataset)
        return None if values is None else [values[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_label_values(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [v for part in parts if part is not None for v in part]
    for attribute in LABEL_ATTRIBUTES:
        values = getattr(dataset, attribute, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):  # type: ignore[arg-type]
            values = [v.item() if hasattr(v, "item") and getattr(v, "ndim", 0) == 0 else v for v in values]
            if all(isinstance(v, (int, float, str, bool)) for v in values):
                return values
    return None
