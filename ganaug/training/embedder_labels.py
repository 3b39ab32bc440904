"""What a table says about photos for the training of an embedder: whose they are, their groups, their attributes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import UserInputError
from ganaug.faces.matching import match_photos
from ganaug.faces.quantities import plain_number, quantities
from ganaug.faces.tables import MISSING_VALUES, read_csv

MAX_CLASSES = 64  # above, it is an identity or a file name, not an attribute
UNKNOWN = -1


@dataclass(frozen=True)
class Attribute:
    """A column that the embedder also learns to tell.

    Attributes:
        name: Head of the column.
        classes: Its values, in order.
        values: Middle of each class where they are bins such as "20-29"; None for categories.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[float, ...] | None


@dataclass(frozen=True)
class PhotoLabels:
    """Labels of N photos.

    Attributes:
        people: ``(N,)`` int64, equal for photos of one person; a photo of nobody in particular has a number of its own.
        groups: ``(N,)`` int64, equal for photos with the same values in all group columns.
        attributes: The columns that are learnt.
        classes: ``(N, len(attributes))`` int64, -1 where nothing is known.
    """

    people: NDArray[np.int64]
    groups: NDArray[np.int64]
    attributes: tuple[Attribute, ...]
    classes: NDArray[np.int64]

    def at(self, rows: NDArray[np.int64]) -> "PhotoLabels":
        """Labels of some of the photos."""
        return PhotoLabels(self.people[rows], self.groups[rows], self.attributes, self.classes[rows])


def read_labels(
    path: str | Path | None,
    names: Sequence[str],
    root: str | Path,
    *,
    identity: str | None = None,
    groups: Sequence[str] = (),
    attributes: Sequence[str] = (),
    known: Sequence[Attribute] | None = None,
) -> PhotoLabels:
    """Reads labels of photos; cells may be empty, photos may be missing.

    A line belongs to a photo if its file name is the end of the photo's path (as in
    :class:`ganaug.training.labels.LabelTable`), so that ``train/1.jpg`` is found in ``faces/`` and ``faces/train/``.

    Args:
        path: CSV file; None if there is none: everyone a person of their own, one group, no attributes.
        names: Photos, relative to ``root``, with forward slashes.
        root: Their folder.
        identity: Column that is equal for photos of one person.
        groups: Columns whose values together make a group; photos without one of them are a group together.
        attributes: Columns to learn.
        known: Their classes, where another call found them: for held-out photos. Values that are no class are unknown.

    Raises:
        UserInputError: For a table that cannot be read, columns that are missing or hold one value or too many, columns
            without a table, and a table that names none of the photos.
    """
    count = len(names)
    wanted = [*([identity] if identity else []), *groups, *attributes]
    if path is None:
        if wanted:
            raise UserInputError(
                f"column {wanted[0]!r} was named, but there is no table; give --labels with a CSV file"
            )
        return PhotoLabels(np.arange(count), np.zeros(count, np.int64), (), np.zeros((count, 0), np.int64))
    head, rows = read_csv(path)
    if unknown := [name for name in wanted if name not in head]:
        raise UserInputError(f"{path} has no column {', '.join(unknown)}; it has {', '.join(head)}")
    place = {name: head.index(name) for name in wanted}
    _, lines = match_photos(names, root, path, head, rows, list(place.values()))

    def cells(name: str) -> list[str]:
        """Of the photos; empty where nothing is known."""
        return ["" if line is None else _clean(rows[line][place[name]]) for line in lines]

    people = np.arange(count)
    if identity:
        first: dict[str, int] = {}
        people = np.array([first.setdefault(value, i) if value else i for i, value in enumerate(cells(identity))])
    keys = list(zip(*(cells(name) for name in groups), strict=True)) if groups else [()] * count
    numbers: dict[tuple[str, ...], int] = {}
    grouped = np.array([numbers.setdefault(key if all(key) else (), len(numbers)) for key in keys], np.int64)
    # Of the whole table: held-out photos may lie in it too, and a rare class must not lose its place.
    found = tuple(known or (_attribute(name, [_clean(row[place[name]]) for row in rows], path) for name in attributes))
    indices = [{value: i for i, value in enumerate(attribute.classes)} for attribute in found]
    classes = [[index.get(value, UNKNOWN) for value in cells(a.name)] for a, index in zip(found, indices, strict=True)]
    return PhotoLabels(people, grouped, found, np.array(classes, np.int64).reshape(len(found), count).T.copy())


def _attribute(name: str, cells: Sequence[str], path: str | Path) -> Attribute:
    classes = sorted({cell for cell in cells if cell})
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise UserInputError(
            f"{path}: column {name!r} has {len(classes)} different values; an attribute needs 2 to {MAX_CLASSES}"
        )
    # Classes that are plain numbers are codes, as UTKFace's 0 and 1 for gender.
    middles = None if all(plain_number(text) is not None for text in classes) else quantities(classes)
    if middles is None:
        return Attribute(name, tuple(classes), None)
    order = np.argsort(middles, kind="stable")  # by size, not by spelling
    return Attribute(name, tuple(classes[i] for i in order), tuple(middles[order].tolist()))


def _clean(cell: str) -> str:
    return "" if cell.lower() in MISSING_VALUES else cell
