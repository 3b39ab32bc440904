"""Figures of each group with intervals, and which groups they set apart from the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.audit.groups import GroupColumn
from ganaug.bootstrap import Bootstrap, Interval, interval, stand_out

Numbers = NDArray[np.float64]

# Of a group, for any figure about it: an interval of a share then reaches at most 22 points to each side.
MIN_COUNT = 20
# Of many photos any difference stands out. Of a cosine or of decibels less than this, in standard deviations of single
# photos, means little (Cohen, Statistical Power Analysis, 2nd edition, 1988, section 2.2.3: below "small"). Of shares
# there is no such bound: who is served less often is worse off.
_LEAST = 0.2
_WIDE = 0.02  # an interval of a share that is wider says nothing about tenths of a percent
_NORMAL = 1.959964  # the normal distribution's 97.5 %


@dataclass(frozen=True)
class Figure:
    """One number a photo, to be averaged over groups.

    Attributes:
        name: Key in the report.
        title: Head of its column in a table.
        table: Which table it stands in.
        values: ``(N,)``; NaN where it is not known.
        unit: ``"%"`` for shares in [0, 1], ``"dB"``, or nothing.
        blame: What is wrong with a group that has less than the others, before the figures; ``{group}`` stands for it.
            Empty for a figure that warns of nothing.
        less_is_better: Whether it is the larger ones that are worse.
    """

    name: str
    title: str
    table: str
    values: Numbers
    unit: str = ""
    blame: str = ""
    less_is_better: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that a report should say first.

    Attributes:
        text: A sentence.
        column: Column of groups.
        group: The group that it is about; empty for a difference between groups.
        figure: What told.
        severity: How bad: the difference in standard deviations of a single photo's figure.
    """

    text: str
    column: str
    group: str
    figure: str
    severity: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "text": self.text,
            "column": self.column,
            "group": self.group,
            "figure": self.figure,
            "severity": round(self.severity, 3),
        }


def printed(value: Interval | float, unit: str = "", beside: Interval | None = None) -> str:
    """A figure as a reader wants it.

    Args:
        value: With its interval or alone.
        unit: ``"%"`` for shares in [0, 1], ``"dB"`` or nothing.
        beside: What it stands beside, with as many decimals.

    Example:
        >>> printed(Interval(0.8123, 0.741, 0.869), "%"), printed(28.812, "dB"), printed(float("nan"))
        ('81 % (74 to 87)', '28.8 dB', '-')
    """
    numbers = value if isinstance(value, Interval) else (value,)
    if not math.isfinite(numbers[0]):
        return "-"
    if unit == "%":
        wide = value if isinstance(value, Interval) else beside
        digits = 0 if wide is not None and wide.high - wide.low >= _WIDE else 1
        texts = [f"{100.0 * number:.{digits}f}" for number in numbers]
    else:
        texts = [f"{number:.{1 if unit == 'dB' else 3}f}" for number in numbers]
    main = f"{texts[0]} {unit}".strip()
    return f"{main} ({texts[1]} to {texts[2]})" if len(texts) == 3 else main


@dataclass(frozen=True)
class Comparison:
    """One figure in all groups of a column.

    Attributes:
        figure: The figure.
        column: The column.
        told: For each group its interval; None for too few photos.
        counts: ``(G,)`` photos that have the figure.
        rest: ``(G,)`` the figure of all others of the column.
        difference: ``(G,)`` how much better a group is than the others, below 0 for worse; NaN where nothing is asked.
        drawn: ``(R, G)`` the same in the draws.
        deviation: Standard deviation over single photos.
    """

    figure: Figure
    column: GroupColumn
    told: list[Interval | None]
    counts: NDArray[np.int64]
    rest: Numbers
    difference: Numbers
    drawn: Numbers
    deviation: float

    def finding(self, group: int) -> Finding | None:
        """What is to be said of a group that stands out; None where the difference, though certain, is small."""
        own, severity = self.told[group], -float(self.difference[group]) / self.deviation
        if own is None or (self.figure.unit != "%" and severity < _LEAST):
            return None
        unit, name = self.figure.unit, self.column.name
        text = (
            f"{self.figure.blame.format(group=self.column.called(group))}: {printed(own, unit)} against "
            f"{printed(float(self.rest[group]), unit, own)} for the others of {name} ({self.counts[group]} photos)."
        )
        return Finding(text, name, self.column.names[group], self.figure.name, severity)


def compare(figure: Figure, column: GroupColumn, bootstrap: Bootstrap, min_count: int = MIN_COUNT) -> Comparison:
    """A figure for each group, and how far each is from the others.

    Args:
        figure: Of N photos.
        column: Of the same photos.
        bootstrap: Of the same photos.
        min_count: Groups with fewer photos that have the figure are not told about.
    """
    members, known = column.members, np.isfinite(figure.values)
    counts = (members & known[:, None]).sum(axis=0)
    value, drawn = bootstrap.means(figure.values, members)
    told = [
        _bounded(interval(value[g], drawn[:, g]), int(counts[g]), figure.unit) if counts[g] >= min_count else None
        for g in range(len(column.names))
    ]
    others = ~members & (column.of >= 0)[:, None]
    rest, rest_drawn = bootstrap.means(figure.values, others)
    asked = (counts >= min_count) & ((others & known[:, None]).sum(axis=0) >= min_count) & bool(figure.blame)
    sign = -1.0 if figure.less_is_better else 1.0
    deviation = float(np.std(figure.values[known & (column.of >= 0)])) if known.any() else 1.0
    difference = np.where(asked, sign * (value - rest), np.nan)
    return Comparison(figure, column, told, counts, rest, difference, sign * (drawn - rest_drawn), deviation or 1.0)


def findings_of(compared: Sequence[Comparison]) -> list[Finding]:
    """Groups that are worse off than the others, by one bound for everything that was compared.

    Args:
        compared: All that is looked at: in one of twenty cases where no group is worse off, any finding is made.
    """
    if not compared:
        return []
    worse = stand_out(
        np.concatenate([one.difference for one in compared]), np.concatenate([one.drawn for one in compared], axis=1)
    )
    found, start = [], 0
    for one in compared:
        mine = worse[start : start + len(one.difference)]
        start += len(mine)
        found += [finding for g in np.flatnonzero(mine).tolist() if (finding := one.finding(g)) is not None]
    return found


def _bounded(found: Interval, count: int, unit: str) -> Interval:
    """Where all or none of the photos of a group pass, no draw differs: then Wilson's interval (JASA 22, 1927)."""
    if unit != "%" or found.value not in (0.0, 1.0):
        return found
    reach = _NORMAL**2 / (count + _NORMAL**2)
    return Interval(found.value, 1.0 - reach, 1.0) if found.value == 1.0 else Interval(found.value, 0.0, reach)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Ordered by severity; of equals, groups of single columns before those of crossings."""
    return sorted(findings, key=lambda one: (-one.severity, one.column.count(" x "), one.text))
