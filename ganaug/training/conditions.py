"""What the numbers of a condition ``c`` mean, and how labels become one.

A condition is one one-hot code per chosen column, side by side. Which number means what goes into the model file, see
:meth:`Conditions.describe`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.faces.quantities import plain_number

MAX_CLASSES = 64  # above, a class has too few photos to be learnt: an identity or a file name, not an attribute
MAX_NUMERIC_CLASSES = 12  # numbers with more distinct values are a quantity and are cut into bins
NUM_BINS = 5


@dataclass(frozen=True)
class LabelColumn:
    """One attribute that photos are told apart by.

    Attributes:
        name: Head of the column.
        classes: Names of its classes, in the order of the one-hot code.
        edges: For a quantity: ``len(classes) + 1`` rising numbers; class k holds ``edges[k] <= x < edges[k + 1]``, the
            last one its upper edge too. None for categories.
    """

    name: str
    classes: tuple[str, ...]
    edges: tuple[float, ...] | None = None

    def index(self, value: str | float) -> int:
        """The class of a value: a class's name or, for a quantity, a number.

        Raises:
            UserInputError: If it is in no class.

        Example:
            >>> LabelColumn("age", ("2-19", "20-80"), (2.0, 20.0, 80.0)).index(33)
            1
        """
        text = str(value).strip()
        if text in self.classes:
            return self.classes.index(text)
        expected = f"one of {', '.join(self.classes)}"
        if self.edges is not None:
            number = plain_number(text)
            if number is not None and self.edges[0] <= number <= self.edges[-1]:
                return min(int(np.searchsorted(self.edges, number, side="right")) - 1, len(self.classes) - 1)
            expected += f", or a number from {self.edges[0]:.15g} to {self.edges[-1]:.15g}"
        raise UserInputError(f"{self.name}={text!r} is not known; expected {expected}")

    @classmethod
    def of(cls, name: str, values: Sequence[str]) -> "LabelColumn":
        """Classes for the values of a column: numbers with many distinct values become bins of about equal count.

        Raises:
            UserInputError: With fewer than 2 or more than 64 classes.
        """
        distinct = sorted(set(values), key=_natural)
        numbers = [plain_number(value) for value in values]
        if len(distinct) > MAX_NUMERIC_CLASSES and None not in numbers:
            return cls._binned(name, np.array(numbers, np.float64))
        if len(distinct) < 2:
            only = f"holds only {distinct[0]!r}" if distinct else "is empty"
            raise UserInputError(f"column {name!r} {only}: a condition needs at least two classes; leave it out")
        if len(distinct) > MAX_CLASSES:
            raise UserInputError(
                f"column {name!r} has {len(distinct)} classes ({distinct[0]}, {distinct[1]}, ...), at most "
                f"{MAX_CLASSES} can be learnt; choose another column, or merge classes"
            )
        return cls(name, tuple(distinct))

    @classmethod
    def _binned(cls, name: str, numbers: NDArray[np.float64]) -> "LabelColumn":
        shares = np.linspace(0.0, 1.0, NUM_BINS + 1)
        edges = np.unique(np.quantile(numbers, shares, method="lower"))
        if len(edges) < 3:  # more than four fifths are one value: divide the values instead of the photos
            edges = np.unique(np.quantile(np.unique(numbers), shares, method="lower"))
        if (numbers >= 0).all() and (numbers % 1 == 0).all():  # "20-29" says clearly where 29 and 30 belong
            highest = [int(edge) - 1 for edge in edges[1:-1]] + [int(edges[-1])]
            pairs = zip(edges[:-1].astype(int), highest, strict=True)
            classes = [f"{low}-{high}" if low < high else f"{low}" for low, high in pairs]
        else:
            classes = [f"{low:.15g} to {high:.15g}" for low, high in pairwise(edges)]
        return cls(name, tuple(classes), tuple(float(edge) for edge in edges))


class Conditions:
    """What each number of a condition means.

    Args:
        columns: The attributes, in order.

    Attributes:
        c_dim: Numbers in a condition.
        names: What each number stands for, ``"gender=Female"``.

    Example:
        >>> conditions = Conditions([LabelColumn("gender", ("Female", "Male")), LabelColumn("glasses", ("0", "1"))])
        >>> conditions.vector({"glasses": 1, "gender": "Female"})
        tensor([1., 0., 0., 1.])
    """

    def __init__(self, columns: Sequence[LabelColumn]) -> None:
        self.columns = tuple(columns)
        self.names = tuple(f"{column.name}={label}" for column in self.columns for label in column.classes)
        self.c_dim = len(self.names)

    def vector(self, values: Mapping[str, str | float]) -> Tensor:
        """``(c_dim,)`` float32 for one value of each column; ``expand(B, -1)`` makes a batch of it.

        Raises:
            UserInputError: For a column that is missing or not known, or a value in no class.
        """
        known = [column.name for column in self.columns]
        if set(values) != set(known):
            raise UserInputError(f"expected a value for each of {', '.join(known)}; got {', '.join(values) or 'none'}")
        indices = np.array([[column.index(values[column.name]) for column in self.columns]])
        return torch.from_numpy(self.one_hot(indices)[0])

    def describe(self) -> dict[str, Any]:
        """Plain containers only, for the model file."""
        return {"columns": [asdict(column) for column in self.columns]}

    @staticmethod
    def from_description(description: Mapping[str, Any]) -> "Conditions":
        """Inverse of :meth:`describe`, after a trip through JSON."""
        return Conditions(
            [
                LabelColumn(
                    str(column["name"]),
                    tuple(map(str, column["classes"])),
                    None if column["edges"] is None else tuple(map(float, column["edges"])),
                )
                for column in description["columns"]
            ]
        )

    def one_hot(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """``(N, number of columns)`` classes -> ``(N, c_dim)``."""
        codes = [np.eye(len(column.classes), dtype=np.float32)[indices[:, i]] for i, column in enumerate(self.columns)]
        return np.concatenate(codes, axis=1)


def _natural(text: str) -> list[str | int]:
    """Sorts "3-9" before "10-19"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]
