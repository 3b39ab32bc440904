"""Labels of photos, read from a CSV file."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import UserInputError
from ganaug.faces.tables import MISSING_VALUES, read_csv
from ganaug.training.conditions import Conditions, LabelColumn


class LabelTable(Conditions):
    """A CSV file with a line per photo; classes come from all of its lines.

    Commas, semicolons or tabs; the first line names the columns. Which column names the photos need not be said:
    it is the one that matches them, see :meth:`encode`.

    Args:
        path: The file.
        columns: Columns to condition on.

    Raises:
        UserInputError: For a file that cannot be read or is empty, a column that is missing, or one whose classes
            cannot be learnt.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]) -> None:
        self.path = Path(path)
        self._head, self._rows = read_csv(self.path)
        if not columns or len(set(columns)) != len(columns):
            raise UserInputError(f"expected distinct columns to condition on, got {', '.join(columns) or 'none'}")
        unknown = [name for name in columns if name not in self._head]
        if unknown:
            raise UserInputError(f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(self._head)}")
        self._chosen = [self._head.index(name) for name in columns]
        try:
            super().__init__(
                [
                    LabelColumn.of(name, [row[i] for row in self._rows if not _is_missing(row[i])])
                    for name, i in zip(columns, self._chosen, strict=True)
                ]
            )
        except UserInputError as error:
            raise UserInputError(f"{self.path}: {error}") from None

    def encode(self, names: Sequence[str], root: str | Path | None = None) -> NDArray[np.float32]:
        """Conditions of photos.

        A line belongs to a photo if its file name is the end of the photo's path, so ``train/1.jpg`` is found whether
        the photos are those of ``faces/`` or of ``faces/train/``.

        Args:
            names: Photos, relative to ``root``, with forward slashes.
            root: Their folder; None if ``names`` say enough.

        Returns:
            ``(N, c_dim)`` float32.

        Raises:
            UserInputError: For photos without a line, without a value, or with lines that contradict each other.
        """
        folder = "" if root is None else Path(os.path.abspath(root)).as_posix() + "/"
        paths = [folder + name for name in names]
        file_column, lines = self._match(paths)
        where = f"{self.path} (column {self._head[file_column]!r})"
        lost = [name for name, line in zip(names, lines, strict=True) if line is None]
        if lost:
            raise UserInputError(
                f"{_share(lost, names)} have no line in {where}: {_first(lost)}; add lines, or take the photos away"
            )
        rows = [self._rows[line] for line in lines if line is not None]
        for column, i in zip(self.columns, self._chosen, strict=True):
            lost = [name for name, row in zip(names, rows, strict=True) if _is_missing(row[i])]
            if lost:
                raise UserInputError(
                    f"{_share(lost, names)} have no {column.name!r} in {self.path}: {_first(lost)}; "
                    "fill it in, or take the photos away"
                )
        classes = [[column.index(row[i]) for column, i in zip(self.columns, self._chosen, strict=True)] for row in rows]
        return self.one_hot(np.array(classes, np.int64).reshape(-1, len(self.columns)))

    def _match(self, paths: Sequence[str]) -> tuple[int, list[int | None]]:
        """The column that names the most photos (the first of several), and the line of each photo."""
        best, most = 0, 0
        best_lines: list[int | None] = [None] * len(paths)
        contradictions: list[str] = []
        for column in range(len(self._head)):
            index, odd = self._index(column)
            keys = [next((end for end in _ends(path) if end in index), None) for path in paths]
            found = sum(key is not None for key in keys)
            if found > most:
                best, best_lines, most = column, [None if key is None else index[key] for key in keys], found
                contradictions = [key for key in keys if key is not None and key in odd]
            if found == len(paths):
                break
        if not most and paths:
            raise UserInputError(
                f"no column of {self.path} names the photos, for example {paths[0]!r}; "
                f"it has {', '.join(self._head)}, and begins with {_first(self._rows[0])}"
            )
        if contradictions:
            raise UserInputError(
                f"{self.path} has lines for the same photo with different labels: {_first(contradictions)}"
            )
        return best, best_lines

    def _index(self, column: int) -> tuple[dict[str, int], set[str]]:
        """File name -> line, and the names whose lines differ in what is conditioned on."""
        index: dict[str, int] = {}
        odd: set[str] = set()
        for line, row in enumerate(self._rows):
            key = row[column].replace("\\", "/").removeprefix("./")
            first = self._rows[index.setdefault(key, line)]
            if any(first[i] != row[i] for i in self._chosen):
                odd.add(key)
        return index, odd


def _is_missing(value: str) -> bool:
    return value.lower() in MISSING_VALUES


def _ends(path: str) -> list[str]:
    """The path and what is left when leading folders are taken away, longest first."""
    parts = path.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _share(part: Sequence[str], whole: Sequence[str]) -> str:
    return f"{len(part)} of {len(whole)} photos"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
