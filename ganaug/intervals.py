"""Figures with the intervals that they may lie in, and how they are printed."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

LEVEL = 0.95
_WIDE = 0.02  # an interval of a share that is wider says nothing about tenths of a percent


class Interval(NamedTuple):
    """A figure and where it may lie. NaN where there is nothing to tell.

    Attributes:
        value: Of the photos as they are.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Interval":
        """From :meth:`to_dict`, perhaps read back from a file."""
        return cls(*(math.nan if found[name] is None else float(found[name]) for name in cls._fields))

    def to_dict(self) -> dict[str, float | None]:
        """JSON-able, to five decimals; None for what is no number."""
        return {name: round(v, 5) if math.isfinite(v) else None for name, v in self._asdict().items()}

    def times(self, factor: float) -> "Interval":
        """In another unit."""
        return Interval(*(factor * number for number in self))


def wilson_interval(count: int, total: int, confidence: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927, doi 10.1080/01621459.1927.10502953).

    Brown, Cai and DasGupta recommend it for small samples ("Interval Estimation for a Binomial Proportion", Statistical
    Science 16(2), 2001, section 5): it neither leaves [0, 1] nor shrinks to a point at 0 and 1.

    Args:
        count: How many of ``total``.
        total: At least 1.
        confidence: Above 0, below 1.

    Returns:
        Low and high end.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0, 10)]
        [0.0, 0.278]
    """
    if not (0 <= count <= total and total >= 1 and 0.0 < confidence < 1.0):
        raise ValueError(f"expected 0 <= count <= total, total >= 1, got {count} of {total} at {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # At the ends of the range the formula gives them exactly; floating point does not.
    return (0.0 if count == 0 else middle - half, 1.0 if count == total else middle + half)


def printed(
    found: Interval | float, unit: str = "", decimals: int | None = None, beside: Interval | None = None
) -> str:
    """A figure as a reader wants it: with as many digits as mean something.

    Args:
        found: With its interval or alone.
        unit: ``"%"`` for shares in [0, 1], ``"dB"`` or nothing.
        decimals: None: 1 of dB, else 3; and of a share none where its interval is wide, or 1.
        beside: What a figure without an interval stands beside, with as many decimals.

    Example:
        >>> printed(Interval(0.8123, 0.741, 0.869), "%"), printed(28.812, "dB"), printed(float("nan"))
        ('81 % (74 to 87)', '28.8 dB', '-')
        >>> printed(Interval(0.997, 0.93, 1.0), "%")  # 100 only where nothing is missing
        '99.7 % (93 to 100)'
    """
    numbers = found if isinstance(found, Interval) else (found,)
    if not math.isfinite(numbers[0]):
        return "-"
    if unit == "%":
        span = found if isinstance(found, Interval) else beside
        narrow = span is None or not span.high - span.low >= _WIDE
        texts = [_percent(number, int(narrow) if decimals is None else decimals) for number in numbers]
    else:
        digits = (1 if unit == "dB" else 3) if decimals is None else decimals
        texts = [f"{round(number, digits) + 0.0:.{digits}f}" for number in numbers]  # + 0.0: no minus before a zero
    main = f"{texts[0]} {unit}".strip()
    return f"{main} ({texts[1]} to {texts[2]})" if len(texts) == 3 and all(map(math.isfinite, numbers)) else main


def _percent(share: float, decimals: int) -> str:
    if share in (0.0, 1.0):
        return f"{100.0 * share:.0f}"
    text = f"{100.0 * share:.{decimals}f}"
    return f"{100.0 * share:.1f}" if float(text) in (0.0, 100.0) else text
