"""What a dataset knows of its items: keys, files, labels, landmarks; through ``Subset`` and ``ConcatDataset``."""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from ganaug.interfaces import UserInputError

# Attributes that hold one file per item: torchvision's DatasetFolder (pairs), CelebA, LFWPeople (data), and common
# names elsewhere.
FILE_ATTRIBUTES = ("samples", "imgs", "filename", "filenames", "file_names", "paths", "image_paths", "files", "data")
LABEL_ATTRIBUTES = ("targets", "labels", "y")
LANDMARK_ATTRIBUTES = ("landmarks", "landmarks_align")  # FaceDataset, torchvision's CelebA

# Below a dataset's root: torchvision's CelebA names its files alone.
IMAGE_FOLDERS = ("", "celeba/img_align_celeba")


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
    if hasattr(dataset, "face_items"):  # FaceDataset
        own: list[Item] = dataset.face_items()
        return own
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
    """The file itself: as given, or below the root; None where only the dataset knows."""
    if os.path.isabs(path) or root is None or os.path.exists(path):
        return path
    below = (os.path.join(os.fspath(root), folder, path) for folder in IMAGE_FOLDERS)
    return next((file for file in below if os.path.exists(file)), None)


def locate(dataset: Dataset[Any], index: int) -> tuple[Dataset[Any], int]:
    """The dataset that an item really comes from, behind ``Subset`` and ``ConcatDataset``, and its index there."""
    if isinstance(dataset, Subset):
        return locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = bisect_right(dataset.cumulative_sizes, index)
        return locate(dataset.datasets[part], index - (dataset.cumulative_sizes[part - 1] if part else 0))
    return dataset, index


def list_landmarks(dataset: Dataset[Any]) -> NDArray[np.float64] | None:
    """Five points of every face, or None if the dataset knows none.

    Returns:
        ``(N, 5, 2)`` left eye, right eye, nose, left and right mouth corner as seen in the picture, in pixels of the
        upright image, pixel centres at half-integers; NaN for items without.
    """
    if isinstance(dataset, Subset):
        points = list_landmarks(dataset.dataset)
        return None if points is None else points[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, ConcatDataset):
        known = [list_landmarks(part) for part in dataset.datasets]
        if all(part is None for part in known):
            return None
        sizes = [len(part) for part in dataset.datasets]  # type: ignore[arg-type]
        return np.concatenate(
            [np.full((n, 5, 2), np.nan) if p is None else p for n, p in zip(sizes, known, strict=True)]
        )
    for attribute in LANDMARK_ATTRIBUTES:
        values = getattr(dataset, attribute, None)
        try:
            points = np.asarray(values, np.float64)
        except (TypeError, ValueError):  # somebody else's attribute of that name
            continue
        if points.shape == (len(dataset), 5, 2):  # type: ignore[arg-type]
            return points
        if points.shape == (len(dataset), 10):  # type: ignore[arg-type]
            return points.reshape(-1, 5, 2) + 0.5  # CelebA: numbers of pixels
    return None


def list_attributes(dataset: Dataset[Any]) -> dict[str, list[str]]:
    """What is known of every item, by name: ``label``, ``identity`` and the groups of a ``FaceDataset``.

    A plain torchvision dataset gives ``label`` alone: the names of its classes if it keeps them. Of datasets that are
    joined, an attribute that one of them lacks is an empty text there.
    """
    if isinstance(dataset, Subset):
        whole = list_attributes(dataset.dataset)
        return {name: [values[i] for i in dataset.indices] for name, values in whole.items()}
    if isinstance(dataset, ConcatDataset):
        parts = [(list_attributes(part), len(part)) for part in dataset.datasets]  # type: ignore[arg-type]
        names = dict.fromkeys(name for part, _ in parts for name in part)
        return {name: [v for part, n in parts for v in part.get(name, [""] * n)] for name in names}
    known: dict[str, list[str]] = {}
    labels, classes = label_values(dataset), getattr(dataset, "classes", None)
    if labels is not None:
        classes = list(classes) if isinstance(classes, (list, tuple)) else []
        named = bool(classes) and all(isinstance(v, int) and 0 <= v < len(classes) for v in labels)
        known["label"] = [str(classes[v]) if named else str(v) for v in labels]
    groups = getattr(dataset, "groups", None)
    columns = {"identity": getattr(dataset, "identities", None), **(groups if isinstance(groups, Mapping) else {})}
    for name, values in columns.items():
        if hasattr(values, "__len__") and len(values) == len(dataset):  # type: ignore[arg-type]
            known[str(name)] = [str(v) for v in values]
    return known


def list_labels(dataset: Dataset[Any]) -> NDArray[np.int64] | None:
    """One class number per item, or None if the dataset keeps no such list.

    Labels are renumbered 0 .. G-1 in sorted order; strings and tensors are accepted.
    """
    values = label_values(dataset)
    if values is None:
        return None
    _, numbers = np.unique(np.asarray(values), return_inverse=True)
    return numbers.astype(np.int64)


def label_values(dataset: Dataset[Any]) -> Sequence[Any] | None:
    """The labels themselves, numbers or texts, one per item; None if the dataset keeps no such list."""
    if isinstance(dataset, Subset):
        values = label_values(dataset.dataset)
        return None if values is None else [values[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [label_values(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else [v for part in parts if part is not None for v in part]
    for attribute in LABEL_ATTRIBUTES:
        values = getattr(dataset, attribute, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):  # type: ignore[arg-type]
            values = [v.item() if hasattr(v, "item") and getattr(v, "ndim", 0) == 0 else v for v in values]
            if all(isinstance(v, (int, float, str, bool)) for v in values):
                return values
    return None


_LABEL_OF_CLASSES = dict.fromkeys(
    (frozenset(pair) for pair in (("female", "male"), ("women", "men"), ("woman", "man"))), "gender"
)


def label_name(dataset: Dataset[Any]) -> str | None:
    """What a dataset's label is, such as ``"gender"``: None if it does not say.

    The column of a :class:`FaceDataset`, or what the names of the classes say: folders "Female" and "Male". Of datasets
    that are joined, the name that all of them have.
    """
    if isinstance(dataset, Subset):
        return label_name(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        names = {label_name(part) for part in dataset.datasets}
        return names.pop() if len(names) == 1 else None
    name, classes = getattr(dataset, "label_name", None), getattr(dataset, "classes", None)
    if not isinstance(name, str) and isinstance(classes, list | tuple):
        return _LABEL_OF_CLASSES.get(frozenset(str(one).lower() for one in classes))
    return name if isinstance(name, str) else None
