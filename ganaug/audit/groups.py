"""Who belongs to which group: columns of a table, and what several of them say together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ganaug.edits.label_table import LabelColumns
from ganaug.errors import UserInputError
from ganaug.faces.face_dataset import natural
from ganaug.faces.quantities import plain_number

USUAL_COLUMNS = ("race", "gender", "age")
MAX_GROUPS = 40  # of a column; with more it names persons or photos
_MAX_AMOUNTS = 12  # different numbers that are groups each; more of them, such as ages in years, are cut into tens
_JOIN = ", "


@dataclass(frozen=True)
class GroupColumn:
    """Groups of photos.

    Attributes:
        name: ``"race"``, or ``"race x gender"`` for what two columns say together.
        names: G names, in natural order.
        of: ``(N,)`` number of each photo's group; -1 where the table says nothing.
        crossed: How many columns it is made of.
    """

    name: str
    names: tuple[str, ...]
    of: NDArray[np.int64]
    crossed: int = 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """``(G,)`` photos of each group."""
        return np.bincount(self.of[self.of >= 0], minlength=len(self.names)).astype(np.int64)

    @property
    def members(self) -> NDArray[np.bool_]:
        """``(N, G)``."""
        return np.asarray(self.of[:, None] == np.arange(len(self.names)))

    def at(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "GroupColumn":
        """The same groups of some of the photos."""
        return GroupColumn(self.name, self.names, self.of[rows], self.crossed)

    def called(self, number: int) -> str:
        """A group in a sentence: ``race Black``, ``race Black, gender Female``."""
        heads = self.name.split(" x ")
        parts = self.names[number].split(_JOIN, len(heads) - 1) if self.crossed > 1 else [self.names[number]]
        return _JOIN.join(f"{head} {part}" for head, part in zip(heads, parts, strict=True))


def group_columns(table: LabelColumns, wanted: Sequence[str] | None, min_count: int) -> list[GroupColumn]:
    """Columns as groups, and their crossings.

    Args:
        table: A row per photo.
        wanted: Names of columns; None: those of :data:`USUAL_COLUMNS` that are there.
        min_count: Crossings without a group of so many photos are left out.

    Returns:
        The columns, then the crossings of each two of them, and of three where there are just three.

    Raises:
        UserInputError: For a column that is not there, has nothing in it, or names persons or photos.
    """
    if wanted is None:
        wanted = [name for name in USUAL_COLUMNS if name in table.names]
        if not wanted:
            raise UserInputError(
                f"{table.table} has none of the columns {', '.join(USUAL_COLUMNS)}, but {', '.join(table.names)}; say "
                "with --columns which of them are groups"
            )
    if len(set(wanted)) != len(wanted) or not wanted:
        raise UserInputError(f"expected distinct columns of groups, got {', '.join(wanted) or 'none'}")
    columns = [group_column(name, table.cells(name), table.table) for name in wanted]
    sizes = (2, 3) if len(columns) == 3 else (2,)
    crossed = [cross(chosen) for size in sizes for chosen in combinations(columns, size)]
    return columns + [column for column in crossed if (column.counts >= min_count).sum() >= 2]


def group_column(name: str, cells: Sequence[str], source: str = "the table") -> GroupColumn:
    """One column as groups; amounts of many values are cut into tens.

    Args:
        name: Of the column.
        cells: N texts, empty where a value is missing.
        source: For messages.

    Example:
        >>> group_column("age", ["31", "8", "", *map(str, range(30, 45))]).names
        ('0-9', '30-39', '40-49')
    """
    amounts = {cell: plain_number(cell) for cell in set(cells) if cell}
    if len(amounts) > _MAX_AMOUNTS and all(amount is not None for amount in amounts.values()):
        tens = {cell: int(amount // 10) * 10 for cell, amount in amounts.items() if amount is not None}
        cells = [f"{tens[cell]}-{tens[cell] + 9}" if cell else "" for cell in cells]
    names = tuple(sorted({cell for cell in cells if cell}, key=natural))
    if not names:
        raise UserInputError(f"column {name!r} of {source} has no value for any of the {len(cells)} photos")
    if len(names) > MAX_GROUPS:
        raise UserInputError(
            f"column {name!r} of {source} has {len(names)} values, expected at most {MAX_GROUPS} groups; choose other "
            "--columns"
        )
    number = {text: place for place, text in enumerate(names)} | {"": -1}
    return GroupColumn(name, names, np.array([number[cell] for cell in cells], np.int64))


def cross(columns: Sequence[GroupColumn]) -> GroupColumn:
    """Groups that agree in all columns; those without a photo are left out.

    Example:
        >>> race, gender = group_column("race", ["a", "b", "b"]), group_column("gender", ["F", "F", ""])
        >>> both = cross([race, gender])
        >>> both.names, both.of.tolist(), both.called(0)
        (('a, F', 'b, F'), [0, 1, -1], 'race a, gender F')
    """
    rows = np.stack([column.of for column in columns], axis=1)
    known = (rows >= 0).all(axis=1)
    found, number = np.unique(rows[known], axis=0, return_inverse=True)
    of = np.full(len(rows), -1, np.int64)
    of[known] = number.reshape(-1)
    names = tuple(_JOIN.join(c.names[i] for c, i in zip(columns, row, strict=True)) for row in found.tolist())
    return GroupColumn(" x ".join(column.name for column in columns), names, of, len(columns))
