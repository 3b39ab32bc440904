"""Faces in a data set of the Hugging Face ``datasets`` library (extra ``hf``)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.faces.face_dataset import FaceDataset, label_faces
from ganaug.interfaces import ImageError, UserInputError

LOAD_BATCH = 1000  # rows looked at together when the images' names are read


class ArrowStore:
    """Encoded images of one column of a ``datasets.Dataset``, by key.

    Args:
        dataset: The data set, its image column not decoded.
        column: The image column.
        keys: ``(N,)``, key of each row.
    """

    def __init__(self, dataset: Any, column: str, keys: Sequence[str]) -> None:
        self.dataset = dataset
        self.column = column
        names = np.asarray(keys, dtype=np.str_)
        self._order = np.argsort(names)
        self._sorted = names[self._order]

    def read(self, file: str) -> bytes:
        at = int(np.searchsorted(self._sorted, file))
        if at == len(self._sorted) or self._sorted[at] != file:
            raise ImageError(f"{file}: not in the data set")
        cell = self.dataset[int(self._order[at])][self.column]
        if not cell:
            raise ImageError(f"{file}: the data set has no image for it")
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise ImageError(f"{file}: {cell['path']} cannot be read: {error.strerror}") from error

    def path(self, file: str) -> None:
        return None

    def __repr__(self) -> str:
        return f"ArrowStore({len(self._sorted)} rows, column {self.column!r})"


def hugging_face(
    dataset: Any,
    *,
    split: str | None = None,
    image: str | None = None,
    key: str | None = None,
    target: str | None = None,
    numeric: Sequence[str] = (),
    identity: str | None = None,
    groups: Sequence[str] = (),
    landmarks: str | None = None,
    **options: Any,
) -> FaceDataset:
    """A ``datasets.Dataset`` with an image column; the images' bytes are read as they are, and decoded here.

    Args:
        dataset: A ``datasets.Dataset``, or a folder written by its ``save_to_disk``.
        split: Which split, if a ``DatasetDict`` is given or saved.
        image: The image column; default: the only one.
        key: Column with a stable name for each image. Default: the images' own file names, if each has its own; else
            the row number, which is stable as long as rows are not filtered or shuffled.
        target: Column to predict; a ``ClassLabel`` column gives its names.
        numeric: Columns that are quantities, not classes.
        identity: Column of persons.
        groups: Columns to keep as groups.
        landmarks: Column with the five points of each face, as 10 numbers or 5 pairs.
        **options: ``missing``, ``transform`` and ``target_transform`` of
            :func:`ganaug.faces.face_dataset.label_faces`.

    Raises:
        UserInputError: If the library is missing, for a streaming data set, and for columns that are missing or of
            another kind.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserInputError("Hugging Face data sets need the extra hf: pip install 'ganaug[hf]'") from error
    opened = _opened(dataset, split, datasets)
    images = [name for name, feature in opened.features.items() if isinstance(feature, datasets.Image)]
    if image is None and len(images) != 1:
        which = "no image column" if not images else f"several image columns ({', '.join(images)})"
        raise UserInputError(
            f"the data set has {which} among {', '.join(opened.column_names)}; name one with image=, or make one with "
            "cast_column(NAME, datasets.Image())"
        )
    column = images[0] if image is None else image
    if column not in opened.features:
        raise UserInputError(f"the data set has no column {column!r}; it has {', '.join(opened.column_names)}")
    if column not in images:
        raise UserInputError(
            f"column {column!r} holds {opened.features[column]}, not images; use "
            f"cast_column({column!r}, datasets.Image())"
        )
    raw = opened.with_format(None).cast_column(column, datasets.Image(decode=False))
    wanted = dict.fromkeys(name for name in (target, identity, *groups, key) if name)
    unknown = [name for name in wanted if name not in raw.column_names]
    if unknown:
        raise UserInputError(f"the data set has no column {unknown[0]!r}; it has {', '.join(raw.column_names)}")
    columns = {name: _texts(raw, name) for name in wanted}
    keys = columns[key] if key else _names(raw, column)
    store = ArrowStore(raw.select_columns([column]), column, keys)
    return label_faces(
        store,
        keys,
        columns,
        source="the data set",
        target=target,
        numeric=numeric,
        identity=identity,
        groups=groups,
        landmarks=None if landmarks is None else _points(raw, landmarks),
        **options,
    )


def _opened(dataset: Any, split: str | None, datasets: Any) -> Any:
    """The ``datasets.Dataset`` that was meant."""
    if isinstance(dataset, (str, os.PathLike)):
        try:
            dataset = datasets.load_from_disk(os.fspath(dataset))
        except (OSError, ValueError) as error:
            raise UserInputError(
                f"{dataset}: not a folder written by save_to_disk: {error}; load it with datasets.load_dataset and "
                "give the object"
            ) from error
    if isinstance(dataset, dict):
        if split not in dataset:
            raise UserInputError(f"the data set has the splits {', '.join(dataset)}; got split={split!r}")
        dataset = dataset[split]
    elif split is not None and str(dataset.split) != split:
        raise UserInputError(f"the data set is the split {dataset.split}; got split={split!r}")
    if not isinstance(dataset, datasets.Dataset):
        raise UserInputError(
            f"expected a datasets.Dataset, got {type(dataset).__name__}; a streaming data set has no rows to index: "
            "load it with streaming=False"
        )
    if not len(dataset):
        raise UserInputError("the data set has no rows")
    return dataset


def _texts(raw: Any, name: str) -> list[str]:
    """A column as texts; class numbers become the classes' names."""
    feature, values = raw.features[name], raw.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    names = getattr(feature, "names", None)
    if names is not None:  # ClassLabel marks a missing label by None or -1
        return ["" if value is None or value < 0 else str(names[value]) for value in values]
    return ["" if value is None else str(value) for value in values]


def _names(raw: Any, column: str) -> list[str]:
    """The images' own file names where they are all different, else row numbers."""
    paths: list[str] = []
    for table in raw.select_columns([column]).with_format("arrow").iter(batch_size=LOAD_BATCH):
        for chunk in table[column].chunks:  # the field alone: the images' bytes are not touched
            paths += [path or "" for path in chunk.field("path").to_pylist()]
    names = [path.replace("\\", "/") for path in paths]
    if all(os.path.isabs(name) for name in names):
        above = os.path.commonpath([os.path.dirname(name) for name in names])
        names = [os.path.relpath(name, above).replace(os.sep, "/") for name in names]
    return names if all(names) and len(set(names)) == len(names) else [str(row) for row in range(len(raw))]


def _points(raw: Any, name: str) -> NDArray[np.float32]:
    """``(N, 5, 2)`` from a column; NaN where it has none."""
    if name not in raw.column_names:
        raise UserInputError(f"the data set has no column {name!r}; it has {', '.join(raw.column_names)}")
    points = np.full((len(raw), 5, 2), np.nan, np.float32)
    cells = raw.select_columns([name]).with_format("arrow")[:][name].to_pylist()
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            points[row] = np.asarray(cell, np.float32).reshape(5, 2)
        except (ValueError, TypeError) as error:
            raise UserInputError(
                f"column {name!r}, row {row}: expected the 5 points of a face as 10 numbers, got {str(cell)[:60]}"
            ) from error
    return points
