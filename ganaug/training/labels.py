"""Labels of photos, read from a CSV file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import UserInputError
from ganaug.faces.matching import first_of, match_photos
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
        file_column, lines = match_photos(names, root, self.path, self._head, self._rows, self._chosen)
        where = f"{self.path} (column {self._head[file_column]!r})"
        lost = [name for name, line in zip(names, lines, strict=True) if line is None]
        if lost:
            raise UserInputError(
                f"{_share(lost, names)} have no line in {where}: {first_of(lost)}; add lines, or take the photos away"
            )
        rows = [self._rows[line] for line in lines if line is not None]
        for column, i in zip(self.columns, self._chosen, strict=True):
            lost = [name for name, row in zip(names, rows, strict=True) if _is_missing(row[i])]
            if lost:
                raise UserInputError(
                    f"{_share(lost, names)} have no {column.name!r} in {self.path}: {first_of(lost)}; "
                    "fill it in, or take the photos away"
                )
        classes = [[column.index(row[i]) for column, i in zip(self.columns, self._chosen, strict=True)] for row in rows]
        return self.one_hot(np.array(classes, np.int64).reshape(-1, len(self.columns)))


def _is_missing(value: str) -> bool:
    return value.lower() in MISSING_VALUES


def _share(part: Sequence[str], whole: Sequence[str]) -> str:
    return f"{len(part)} of {len(whole)} photos"
