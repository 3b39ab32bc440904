"""Which line of a table belongs to which photo, by the photo's name."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ganaug.errors import UserInputError

Rows = Sequence[Sequence[str]]
Lines = list[int | None]


def match_photos(
    names: Sequence[str],
    root: str | Path | None,
    table: str | Path,
    head: Sequence[str],
    rows: Rows,
    compared: Sequence[int],
) -> tuple[int, Lines]:
    """The column that names the most photos (the first of several), and the line of each photo.

    A line belongs to a photo if its file name is the end of the photo's path, so ``train/1.jpg`` is found whether the
    photos are those of ``faces/`` or of ``faces/train/``.

    Args:
        names: Photos, relative to ``root``, with forward slashes.
        root: Their folder; None if ``names`` say enough.
        table: The table's file, for messages.
        head: Names of its columns.
        rows: Its lines.
        compared: Columns in which several lines of one photo must agree.

    Raises:
        UserInputError: If no column names any photo, or lines of one photo contradict each other.
    """
    folder = "" if root is None else Path(os.path.abspath(root)).as_posix() + "/"
    paths = [folder + name for name in names]
    best, most = 0, 0
    best_lines: Lines = [None] * len(paths)
    contradictions: list[str] = []
    for column in range(len(head)):
        index, odd = _index(rows, column, compared)
        keys = [next((end for end in _ends(path) if end in index), None) for path in paths]
        found = sum(key is not None for key in keys)
        if found > most:
            best, best_lines, most = column, [None if key is None else index[key] for key in keys], found
            contradictions = [key for key in keys if key is not None and key in odd]
        if found == len(paths):
            break
    if not most and paths:
        raise UserInputError(
            f"no column of {table} names the photos, for example {paths[0]!r}; "
            f"it has {', '.join(head)}, and begins with {first_of(rows[0])}"
        )
    if contradictions:
        raise UserInputError(f"{table} has lines for the same photo with different labels: {first_of(contradictions)}")
    return best, best_lines


def match_keys(
    keys: Sequence[str], table: str | Path, head: Sequence[str], rows: Rows, compared: Sequence[int]
) -> tuple[int, Lines]:
    """As :func:`match_photos` for keys of a cache, whose folder nobody knows any more.

    Besides, all names of the table may begin with one folder that the keys lack: ``1.jpg`` is found as ``train/1.jpg``,
    unless another folder of the table has a photo of that name, too, and nothing tells which one is meant.

    Raises:
        UserInputError: See :func:`match_photos`; also if two folders could be meant.
    """
    try:
        best, lines = match_photos(keys, None, table, head, rows, compared)
    except UserInputError:
        best, lines = 0, []
    found = len(lines) - lines.count(None)
    known = set(keys)
    for column in range(len(head)):
        # Folder -> how many keys it has a photo for.
        folders = Counter(
            _clean(row[column])[: -len(end)] for row in rows for end in _ends(_clean(row[column]))[1:] if end in known
        )
        (folder, count), *others = folders.most_common(2) or [("", 0)]
        if count <= found:
            continue
        names = [folder + key for key in keys]
        _, lines = match_photos(names, None, table, [head[column]], [[row[column]] for row in rows], [])
        lost = {key for key, line in zip(keys, lines, strict=True) if line is None}
        elsewhere = {_clean(row[column]) for row in rows}
        if others and (others[0][1] == count or any(other + key in elsewhere for other in folders for key in lost)):
            raise UserInputError(
                f"{table} (column {head[column]!r}) has photos named like {keys[0]!r} in the folders {folder!r} and "
                f"{others[0][0]!r}: say with --images which folder the cache was made from"
            )
        best, found = column, count
    if not found:  # again, for its message
        return match_photos(keys, None, table, head, rows, compared)
    return best, lines


def first_of(names: Sequence[str]) -> str:
    """The first three, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _index(rows: Rows, column: int, compared: Sequence[int]) -> tuple[dict[str, int], set[str]]:
    """File name -> line, and the names whose lines differ in what is compared."""
    index: dict[str, int] = {}
    odd: set[str] = set()
    for line, row in enumerate(rows):
        key = _clean(row[column])
        first = rows[index.setdefault(key, line)]
        if any(first[i] != row[i] for i in compared):
            odd.add(key)
    return index, odd


def _clean(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _ends(path: str) -> list[str]:
    """The path and what is left when leading folders are taken away, longest first."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]
