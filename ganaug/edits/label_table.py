"""Labels of the photos of a cache, and what directions can be fitted to: classes and numbers."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganaug.edits.fitting import Numbers
from ganaug.errors import UserInputError
from ganaug.faces.matching import match_keys, match_photos
from ganaug.faces.quantities import quantities
from ganaug.faces.tables import MISSING_VALUES, read_csv

MAX_CLASSES = 64  # above, a column holds names of photos or persons, and no attribute


@dataclass(frozen=True)
class Target:
    """What one direction is fitted to.

    Attributes:
        label: The class that counts as 1; None for numbers.
        values: ``(N,)``: numbers, or 0 and 1; NaN where the label is missing.
    """

    label: str | None
    values: Numbers

    @property
    def is_class(self) -> bool:
        """Whether the values are 0 and 1."""
        return self.label is not None


class LabelColumns:
    """Columns of a table, a row per photo.

    Args:
        table: File that they are from, for messages.
        columns: Name -> N cells.
    """

    def __init__(self, table: str, columns: dict[str, list[str]]) -> None:
        self.table, self.columns = table, columns

    @classmethod
    def read(cls, path: str | Path, keys: Sequence[str], images: str | Path | None) -> tuple["LabelColumns", list[str]]:
        """The lines of those photos that a table knows, and their keys.

        Args:
            path: CSV file.
            keys: Of a cache.
            images: Folder that the cache was made from; None if names say enough.

        Raises:
            UserInputError: For a table that cannot be read or names none of the photos.
        """
        head, rows = read_csv(path)
        twice = sorted({name for name in head if head.count(name) > 1})
        if twice:
            raise UserInputError(f"{path} has several columns named {', '.join(map(repr, twice))}; rename them")
        compared = range(len(head))
        if images is None:
            file_column, lines = match_keys(keys, path, head, rows, compared)
        else:
            file_column, lines = match_photos(keys, images, path, head, rows, compared)
        known = [(key, rows[line]) for key, line in zip(keys, lines, strict=True) if line is not None]
        columns = {name: [row[i] for _, row in known] for i, name in enumerate(head) if i != file_column}
        return cls(str(path), columns), [key for key, _ in known]

    @property
    def names(self) -> list[str]:
        """Of the columns, without the one that names the photos."""
        return list(self.columns)

    def at(self, places: Sequence[int]) -> "LabelColumns":
        """The same for some of the photos."""
        return LabelColumns(self.table, {name: [cells[i] for i in places] for name, cells in self.columns.items()})

    def cells(self, name: str) -> list[str]:
        """A column, stripped, with an empty text where a value is missing.

        Raises:
            UserInputError: If there is no such column.
        """
        if name not in self.columns:
            raise UserInputError(f"{self.table} has no column {name!r}; it has {', '.join(self.names)}")
        return ["" if cell.lower() in MISSING_VALUES else cell for cell in self.columns[name]]

    def people(self, name: str) -> list[str]:
        """A column of persons."""
        return self.cells(name)

    def targets(self, name: str, positive: str | None = None, method: str | None = None) -> list[Target]:
        """What directions a column asks for.

        Args:
            name: Of the column.
            positive: Class that counts as 1 against all others.
            method: ``"ridge"`` asks for numbers, another one for classes; None takes what the column holds.

        Raises:
            UserInputError: For an unknown column, one without values, with one value only or with too many classes, an
                unknown class, or words where numbers are asked for.
        """
        cells = self.cells(name)
        classes = sorted({cell for cell in cells if cell}, key=_natural)
        where = f"column {name!r} of {self.table}"
        if not classes:
            raise UserInputError(f"{where} has no value for any of the {len(cells)} faces that have latents")
        if len(classes) == 1:
            raise UserInputError(f"{where} holds only {classes[0]!r} for the faces that have latents: nothing to fit")
        numbers = quantities(cells) if positive is None else None
        wants_numbers = method == "ridge" or (method is None and len(classes) > 2)
        if positive is None and numbers is not None and wants_numbers:
            return [Target(None, numbers)]
        if method == "ridge":
            raise UserInputError(f"{where} holds {_some(classes)}; ridge needs numbers, use --method logistic")
        if positive is None and numbers is not None and len(classes) > 2:
            raise UserInputError(
                f"{where} holds numbers; use --method ridge, or say with --positive which of {_some(classes)} is 1"
            )
        if positive is not None and positive not in classes:
            raise UserInputError(f"{where} has no class {positive!r}; it has {_some(classes)}")
        if positive is None and len(classes) > MAX_CLASSES:
            raise UserInputError(
                f"{where} has {len(classes)} classes ({_some(classes)}), expected at most {MAX_CLASSES}; choose "
                "another column, or one class with --positive"
            )
        chosen = [positive] if positive is not None else classes[1:] if len(classes) == 2 else classes
        return [Target(label, _one_hot(cells, label)) for label in chosen]

    def numbers(self, without: Collection[str]) -> dict[str, Numbers]:
        """All columns as numbers, classes as ``"race=Black"``; columns with more than 64 classes are left out."""
        found: dict[str, Numbers] = {}
        for name in self.columns:
            cells = self.cells(name)
            classes = sorted({cell for cell in cells if cell}, key=_natural)
            if name in without or len(classes) < 2:
                continue
            values = quantities(cells)
            if values is not None:
                found[name] = values
            elif len(classes) <= MAX_CLASSES:
                chosen = classes[1:] if len(classes) == 2 else classes
                found |= {f"{name}={label}": _one_hot(cells, label) for label in chosen}
        return found


def _one_hot(cells: Sequence[str], label: str) -> NDArray[np.float64]:
    return np.array([np.nan if not cell else float(cell == label) for cell in cells])


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sorts "3-9" before "10-19"; numbers before words."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
