"""Figures of each group with intervals, and which groups they set apart from the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.audit.groups import GroupColumn
from ganaug.bootstrap import Bootstrap, interval, stand_out
from ganaug.intervals import Interval, printed, wilson_interval

Numbers = NDArray[np.float64]

# Of a group, for any figure about it: an interval of a share then reaches at most 22 points to each side.
MIN_COUNT = 20
# Of many photos any difference stands out. Of a cosine or of decibels less than this, in standard deviations of single
# photos, means little (Cohen, Statistical Power Analysis, 2nd edition, 1988, section 2.2.3: below "small"). Of shares
# there is no such bound: who is served less often is worse off.
_LEAST = 0.2


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
        rest = printed(float(self.rest[group]), unit, beside=own)
        text = (
            f"{self.figure.blame.format(group=self.column.called(group))}: {printed(own, unit)} against {rest} for the "
            f"others of {name} ({self.counts[group]} photos)."
        )
        return Finding(text, name, self.column.names[group], self.figure.name, severity)


def compare(figure: Figure, column: GroupColumn, bootstrap: Bootstrap, min_count: int = MIN_COUNT) -> Comparison:
    """A figure for each group, and how far each is from the others.

    Args:
        figure: Of N photos.
        column: Of the same photos.
        bootstrap: Of the same photos.
        min_count: Groups with fewer photos, or persons, that have the figure are not told about.
    """
    known = np.isfinite(figure.values)[:, None]
    members, others = column.members, ~column.members & (column.of >= 0)[:, None]
    counts, drawn_of = (members & known).sum(axis=0), bootstrap.counts(members & known)
    value, drawn = bootstrap.means(figure.values, members)
    told = [
        _bounded(interval(value[g], drawn[:, g]), int(drawn_of[g]), figure.unit) if drawn_of[g] >= min_count else None
        for g in range(len(column.names))
    ]
    rest, rest_drawn = bootstrap.means(figure.values, others)
    asked = (drawn_of >= min_count) & (bootstrap.counts(others & known) >= min_count) & bool(figure.blame)
    sign = -1.0 if figure.less_is_better else 1.0
    deviation = float(np.std(figure.values[known[:, 0] & (column.of >= 0)])) if known.any() else 1.0
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
    """Where all or none of the photos of a group pass, no draw differs: then Wilson's interval."""
    if unit != "%" or found.value not in (0.0, 1.0):
        return found
    return Interval(found.value, *wilson_interval(count * int(found.value), count))


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Ordered by severity; of equals, groups of single columns before those of crossings."""
    return sorted(findings, key=lambda one: (-one.severity, one.column.count(" x "), one.text))
