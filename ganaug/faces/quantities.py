"""Numbers in the cells of a table: plain ones, and bins such as "20-29" or "more than 70"."""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganaug.faces.tables import MISSING_VALUES

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BIN = re.compile(rf"{_NUMBER}\s*(?:-|\u2013|to)\s*{_NUMBER}")
_FROM = re.compile(rf"(?:more than|over|above|older than|>=?)\s*{_NUMBER}|{_NUMBER}\s*(?:\+|and (?:more|over|older))")
_UNTIL = re.compile(rf"(?:less than|under|below|younger than|<=?)\s*{_NUMBER}")


def plain_number(text: str) -> float | None:
    """The number that a text is; None for words, codes like "007" and what is not finite."""
    if re.fullmatch(r"0\d{2,}", text):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def quantities(values: Sequence[str]) -> NDArray[np.float64] | None:
    """The numbers of a column: missing cells become NaN, bins their midpoints; None if any cell holds something else.

    A bin that is open at one end reaches as far as the bin beside it does: "more than 70" beside "60-69" is 75. Where
    there is none beside it, it is its own limit.

    Args:
        values: The column's cells.

    Example:
        >>> quantities(["0-2", "3-9", "more than 10", "na"])
        array([ 1. ,  6. , 13.5,  nan])
    """
    found = {text: _bounds(text.strip().lower()) for text in set(values)}
    if any(bounds is None for bounds in found.values()):
        return None
    closed = sorted(b for b in found.values() if b is not None and b[0] < b[1] and all(map(math.isfinite, b)))
    middle = {text: _middle(bounds, closed) for text, bounds in found.items() if bounds is not None}
    return np.array([middle[text] for text in values], np.float64)


def _bounds(text: str) -> tuple[float, float] | None:
    """Lower and upper limit of a cell; twice NaN if it is missing, None if it is no quantity."""
    if text in MISSING_VALUES:
        return (math.nan, math.nan)
    number = plain_number(text)
    if number is not None:
        return (number, number)
    if found := _BIN.fullmatch(text):
        low, high = float(found[1]), float(found[2])
        return (low, high) if low <= high else None  # "2020-01" is a date
    if found := _FROM.fullmatch(text):
        return (float(found[1] or found[2]), math.inf)
    if found := _UNTIL.fullmatch(text):
        return (-math.inf, float(found[1]))
    return None


def _middle(bounds: tuple[float, float], closed: Sequence[tuple[float, float]]) -> float:
    low, high = bounds
    if math.isfinite(low) and math.isfinite(high):
        return (low + high) / 2
    if math.isnan(low):
        return math.nan
    # "60-69" is ten wide beside "more than 70", whose limit tells where 69 ends.
    if math.isfinite(low):
        below = [(a, low if low - b <= 1 else b) for a, b in closed if b <= low]
        return low + (below[-1][1] - below[-1][0]) / 2 if below else low
    above = [(high if a - high <= 1 else a, b) for a, b in closed if a >= high]
    return high - (above[0][1] - above[0][0]) / 2 if above else high
