"""Faces listed in a table: a CSV file or a pandas frame with a row per image."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.faces.face_dataset import FaceDataset, Missing, Transform, as_key, label_faces
from ganaug.interfaces import UserInputError

# Heads under which tables name the image, tried in this order.
FILE_COLUMNS = ("file", "key", "path", "filename", "file_name", "image", "image_id", "image_path", "img")
POINT_NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
MISSING_VALUES = frozenset({"", "na", "n/a", "nan", "null"})

Columns = dict[str, list[str]]


def read_csv(path: str | Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table separated by commas, semicolons or tabs; cells stripped, empty lines left out.

    Raises:
        UserInputError: If it cannot be read, is empty, or has rows of another length than its head.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        table = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserInputError(f"label table {str(path)!r} cannot be read: {error}; expected a CSV file") from error
    numbered = [(number, row) for number, row in enumerate(table, start=1) if any(row)]
    if len(numbered) < 2:
        raise UserInputError(f"label table {str(path)!r} is empty; expected a line of column names, then one per photo")
    head = numbered[0][1]
    for number, row in numbered:
        if len(row) != len(head):
            raise UserInputError(f"{path}: row {number} has {len(row)} cells, but there are {len(head)} column names")
    return head, [row for _, row in numbered[1:]]


def read_columns(path: str | Path) -> Columns:
    """A table as column name -> values; what stands for a missing value becomes an empty text.

    Raises:
        UserInputError: See :func:`read_csv`; also for two columns of one name.
    """
    head, rows = read_csv(path)
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise UserInputError(f"{path} has several columns named {', '.join(map(repr, twice))}; rename them")
    return {name: ["" if row[i].lower() in MISSING_VALUES else row[i] for row in rows] for i, name in enumerate(head)}


def from_csv(
    path: str | Path,
    root: str | Path | None = None,
    *,
    file: str | None = None,
    target: str | None = None,
    numeric: Sequence[str] = (),
    identity: str | None = None,
    groups: Sequence[str] = (),
    split: str | None = None,
    split_column: str = "split",
    missing: Missing = "error",
    transform: Transform | None = None,
    target_transform: Transform | None = None,
) -> FaceDataset:
    """The images that a CSV file lists, one row each.

    A list written by ``ganaug curate`` is such a file: of a table with a column ``kept``, only rows with 1 are taken.
    Landmarks are found by the names of their columns: ``left_eye_x``, ``left_eye_y``, ``right_eye_x``, ... ``nose_x``,
    ``mouth_left_x``, ``mouth_right_y``, all with the same prefix or none.

    Args:
        path: The table.
        root: Folder that the file names are relative to; default: the table's own.
        file: Column of file names; default: the first of :data:`FILE_COLUMNS` that is there.
        target: Column to predict, see :func:`ganaug.faces.face_dataset.label_faces`.
        numeric: Columns that are quantities, not classes.
        identity: Column of persons.
        groups: Columns to keep as groups.
        split: Take only rows with this value in ``split_column``.
        split_column: See ``split``.
        missing: ``"error"`` or ``"skip"`` for rows whose file or label is missing.
        transform: Image -> what an item holds.
        target_transform: Target -> what an item holds.

    Raises:
        UserInputError: For a table that cannot be read, wrong columns, missing files, and files named twice.
    """
    return _from_columns(
        read_columns(path),
        os.path.dirname(os.path.abspath(path)) if root is None else root,
        str(path),
        file=file,
        target=target,
        numeric=numeric,
        identity=identity,
        groups=groups,
        split=split,
        split_column=split_column,
        missing=missing,
        transform=transform,
        target_transform=target_transform,
    )


def from_frame(frame: Any, root: str | Path, **options: Any) -> FaceDataset:
    """The images that a pandas frame lists, one row each.

    Args:
        frame: ``pandas.DataFrame``; read parquet, Excel or SQL with pandas.
        root: Folder that the file names are relative to.
        **options: Those of :func:`from_csv`.

    Raises:
        UserInputError: See :func:`from_csv`.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "iloc"):
        raise UserInputError(f"expected a pandas.DataFrame, got {type(frame).__name__}; for a file use from_csv")
    columns = {str(name): [_as_text(value) for value in frame[name].tolist()] for name in frame.columns}
    return _from_columns(columns, root, "the frame", **options)


def _from_columns(
    columns: Columns,
    root: str | Path,
    source: str,
    *,
    file: str | None = None,
    split: str | None = None,
    split_column: str = "split",
    **options: Any,
) -> FaceDataset:
    """A dataset of the rows that are wanted; ``options`` are those of ``label_faces``."""
    names = _file_column(columns, file, source)
    keep = np.ones(len(names), bool)
    if split is not None:
        keep &= rows_of_split(columns, split_column, split, source)
    if "kept" in columns:
        keep &= _kept(columns["kept"], source)
    unnamed = int((keep & (np.array(names, dtype=np.str_) == "")).sum())
    if unnamed:
        raise UserInputError(f"{source}: {unnamed} rows name no file; fill the cells in, or take the rows away")
    files = [as_key(name, root) for name in names]
    return label_faces(root, files, columns, source=source, keep=keep, landmarks=points_of(columns, source), **options)


def kept_keys(path: str | Path) -> set[str]:
    """Keys with ``kept`` = 1 in a list of ``ganaug curate``.

    Raises:
        UserInputError: If the table cannot be read, or is no such list.
    """
    columns = read_columns(path)
    if "key" not in columns or "kept" not in columns:
        raise UserInputError(
            f"{path} is no list of `ganaug curate`: expected columns 'key' and 'kept', got {', '.join(columns)}"
        )
    kept = _kept(columns["kept"], str(path))
    return {key for key, is_kept in zip(columns["key"], kept.tolist(), strict=True) if is_kept}


def rows_of_split(columns: Columns, column: str, split: str, source: str) -> NDArray[np.bool_]:
    """``(N,)``, which rows belong to a split.

    Raises:
        UserInputError: If there is no such column or no such split.
    """
    if column not in columns:
        raise UserInputError(
            f"{source} has no column {column!r} to take split {split!r} from; it has {', '.join(columns)}"
        )
    rows = np.array([value == split for value in columns[column]], bool)
    if not rows.any():
        there = ", ".join(sorted(set(columns[column]))[:8])
        raise UserInputError(f"{source} has no split {split!r} in column {column!r}; it has {there}")
    return rows


def points_of(columns: Columns, source: str) -> NDArray[np.float32] | None:
    """``(N, 5, 2)`` landmarks, if the table has all ten columns; NaN where a cell is empty."""
    prefix = next((name.removesuffix("left_eye_x") for name in columns if name.endswith("left_eye_x")), None)
    heads = [f"{prefix}{point}_{axis}" for point in POINT_NAMES for axis in "xy"]
    if prefix is None or not all(head in columns for head in heads):
        return None
    try:
        values = [[float(cell) if cell else float("nan") for cell in columns[head]] for head in heads]
    except ValueError as error:
        raise UserInputError(f"{source}: landmarks must be numbers: {error}") from None
    return np.array(values, np.float32).T.reshape(-1, 5, 2)


def _file_column(columns: Columns, file: str | None, source: str) -> list[str]:
    if file is None:
        file = next((name for name in FILE_COLUMNS if name in columns), None)
        if file is None:
            raise UserInputError(
                f"{source} has none of the columns {', '.join(FILE_COLUMNS)}, but {', '.join(columns)}; say which one "
                "names the images with file="
            )
    if file not in columns:
        raise UserInputError(f"{source} has no column {file!r}; it has {', '.join(columns)}")
    return columns[file]


def _kept(values: Sequence[str], source: str) -> NDArray[np.bool_]:
    odd = next((value for value in values if value.lower() not in _YES | _NO), None)
    if odd is not None:
        raise UserInputError(f"{source}: column 'kept' holds {odd!r}; expected 1 or 0")
    return np.array([value.lower() in _YES for value in values], bool)


def _as_text(value: Any) -> str:
    """A cell of a frame as a CSV file would hold it; a whole number stays whole where pandas made it a float."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = "" if value is None else str(value).strip()
    return "" if text.lower() in MISSING_VALUES or text in ("<NA>", "NaT") else text
