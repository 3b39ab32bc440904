"""A judge of a label: how often it is right for each group, how far groups lie apart, and what chance would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug import fairness
from ganaug.audit.figures import Figure, Finding
from ganaug.audit.groups import GroupColumn
from ganaug.bootstrap import Bootstrap, interval
from ganaug.errors import UserInputError
from ganaug.fairness import Tallies
from ganaug.intervals import Interval
from ganaug.readout import MIN_CLASS, Examples, make_folds, read_held_out

NUM_PERMUTATIONS = 1000
MIN_RATE = 10  # photos of a group that are, or are not, of a class: a rate over fewer tells nothing
GAPS = {
    "accuracy": "accuracy gap",
    "demographic_parity": "demographic parity difference",
    "equalized_odds": "equalised odds difference",
}
# Parity asks for equal shares of every class, which the labels themselves need not have: it is told, not warned of.
_WARNED = ("accuracy", "equalized_odds")

Ints = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """What a judge says of N photos, and of a variant of each.

    Attributes:
        name: Which judge, for the report.
        label: The column that it judges.
        classes: C names.
        true: ``(N,)`` number of each photo's class; -1 where the table does not say.
        photos: ``(N,)`` number that the judge says; -1 where it says nothing.
        variants: ``(N,)`` likewise of a variant; None where nobody has judged them.
        folds: ``(N,)`` of the readout; None for predictions that came from outside.
    """

    name: str
    label: str
    classes: tuple[str, ...]
    true: Ints
    photos: Ints
    variants: Ints | None = None
    folds: Ints | None = None

    def views(self) -> dict[str, Ints]:
        """``photos`` and, where they are judged, ``variants``."""
        return {"photos": self.photos} | ({} if self.variants is None else {"variants": self.variants})

    def figures(self) -> list[Figure]:
        """Accuracy on photos and on variants, a figure each."""
        return [
            Figure(
                f"accuracy_{view}",
                f"right on {view}",
                f"The judge of {self.label}.",
                np.where((self.true >= 0) & (told >= 0), told == self.true, np.nan).astype(np.float64),
                "%",
                f"The judge of {self.label} is right less often on {view} of {{group}}",
            )
            for view, told in self.views().items()
        ]


def outside_judge(label: GroupColumn, cells: Sequence[str], column: str) -> Judge:
    """Predictions that a table holds.

    Args:
        label: The truth.
        cells: ``N`` predictions, in the words of the label; empty where there is none.
        column: Where they are from.

    Raises:
        UserInputError: If they are in other words than the label.
    """
    number = {name: place for place, name in enumerate(label.names)} | {"": -1}
    strange = sorted(set(cells) - set(number))
    if strange:
        raise UserInputError(
            f"--predictions {column}: {strange[0]!r} is no value of {label.name!r}, which has {', '.join(label.names)}"
        )
    told = np.array([number[cell] for cell in cells], np.int64)
    return Judge(f"predictions in column {column!r}", label.name, label.names, label.of, told)


def built_in_judge(
    label: GroupColumn, photos: Numbers, variants: Numbers, keys: Sequence[str], embedder: str, seed: int = 0
) -> Judge:
    """A readout of the label from embeddings, taught with photos of other folds.

    Args:
        label: The truth.
        photos: ``(N, D)`` embeddings; NaN where there is none.
        variants: ``(N, D)`` of a variant of each, likewise.
        keys: N names of photos, or of persons, who then come into one fold.
        embedder: Name of the network.
        seed: Of the folds.

    Raises:
        UserInputError: For a label with fewer than two classes of ten photos, or with a class that is smaller.
    """
    known = (label.of >= 0) & np.isfinite(photos).all(axis=1)
    counts = np.bincount(label.of[known], minlength=len(label.names))
    kept = np.flatnonzero(counts >= MIN_CLASS)
    if len(kept) < 2:
        raise UserInputError(
            f"--label {label.name}: expected at least two classes of {MIN_CLASS} photos with latents, got "
            + (", ".join(f"{name} {count}" for name, count in zip(label.names, counts.tolist(), strict=True)))
        )
    place = np.full(len(label.names) + 1, -1, np.int64)
    place[kept] = np.arange(len(kept))
    true = np.where(known, place[label.of], -1)
    known = true >= 0
    folds = np.zeros(len(true), np.int64)
    folds[known] = make_folds(
        [key for key, is_known in zip(keys, known.tolist(), strict=True) if is_known], true[known], seed=seed
    )
    taught = Examples(np.where(known[:, None], photos, np.nan), np.maximum(true, 0), folds)
    told = [np.where(known, read_held_out(taught, rows, folds, len(kept)), -1) for rows in (photos, variants)]
    name = f"readout of {embedder} embeddings, cross-validated over {int(known.sum())} photos"
    return Judge(name, label.name, tuple(label.names[i] for i in kept), true, told[0], told[1], folds)


@dataclass(frozen=True)
class Gap:
    """A difference between groups.

    Attributes:
        found: The figure.
        expected: Median of exchanges of groups among photos of one class: even a fair judge shows so much.
        by_chance: What 95 % of them stay below.
        p: Share of exchanges with as large a difference.
    """

    found: Interval
    expected: float
    by_chance: float
    p: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return self.found.to_dict() | {
            "expected": round(self.expected, 5),
            "by_chance": round(self.by_chance, 5),
            "p": round(self.p, 5),
        }


def gaps(
    judge: Judge, told: Ints, column: GroupColumn, bootstrap: Bootstrap, keys: Sequence[str], min_count: int, seed: int
) -> tuple[dict[str, Gap], int]:
    """Differences between those groups of a column that are large enough; and the number of these groups.

    Nothing for fewer than two groups.

    Args:
        judge: The judge.
        told: ``(N,)`` what it says.
        column: Groups.
        bootstrap: Over the N photos, or their persons.
        keys: N names, those that the bootstrap draws; groups are exchanged among them.
        min_count: Groups with fewer photos, or persons, are left out.
        seed: Of the exchange.
    """
    sound = (judge.true >= 0) & (told >= 0) & (column.of >= 0)
    large = np.flatnonzero(bootstrap.counts(column.members & sound[:, None]) >= min_count)
    if len(large) < 2:
        return {}, len(large)
    rows = np.flatnonzero(sound & np.isin(column.of, large))
    group, predicted, true = np.searchsorted(large, column.of[rows]), told[rows], judge.true[rows]
    once = Tallies.of(predicted, true, group, len(large))
    drawn = Tallies.of(predicted, true, group, len(large), bootstrap.weights[:, rows])
    shuffled = fairness.shuffled_groups(group, true, [keys[i] for i in rows.tolist()], NUM_PERMUTATIONS, seed)
    chance = Tallies.of_permutations(predicted, true, shuffled, len(large))

    def all_of(tallies: Tallies) -> dict[str, Numbers]:
        return {
            "accuracy": fairness.accuracy_gap(tallies),
            "demographic_parity": fairness.demographic_parity_difference(tallies),
            "equalized_odds": fairness.equalized_odds_difference(tallies, MIN_RATE, once),
        }

    value, spread, random = all_of(once), all_of(drawn), all_of(chance)
    found = {}
    for name in GAPS:
        as_large = (random[name] >= value[name][0] - 1e-12).sum()
        p = (1.0 + float(as_large)) / (1.0 + NUM_PERMUTATIONS)
        middle, high = (float(quantile) for quantile in np.quantile(random[name], [0.5, 0.95]))
        found[name] = Gap(interval(float(value[name][0]), spread[name]), middle, high, p)
    return found, len(large)


def gap_findings(
    told: dict[tuple[str, str], dict[str, Gap]],
    judge: Judge,
    accuracy: dict[tuple[str, str], list[Interval | None]],
    columns: Sequence[GroupColumn],
) -> list[Finding]:
    """Differences that chance would hardly give. One bound is shared among all that are looked at (Bonferroni).

    Args:
        told: Column and view -> gaps.
        judge: Whose they are.
        accuracy: Column and view -> accuracy of each group.
        columns: Groups.
    """
    number = sum(len(_WARNED) for found in told.values() if found)
    by_name = {column.name: column for column in columns}
    findings = []
    for (name, view), found in told.items():
        for kind in _WARNED:
            gap = found.get(kind)
            # Of very many differences the bound would lie below what a permutation can reach.
            if gap is None or gap.p > max(0.05 / number, 1.0 / (1.0 + NUM_PERMUTATIONS)):
                continue
            known = [(one.value, g) for g, one in enumerate(accuracy[name, view]) if one is not None]
            (least, worst), (most, best) = min(known), max(known)
            column = by_name[name]
            value, low, high, chance = (100.0 * v for v in (*gap.found, gap.by_chance))
            text = (
                f"The judge of {judge.label} treats groups of {name} differently on {view}: {GAPS[kind]} of "
                f"{value:.0f} points ({low:.0f} to {high:.0f}); chance alone gives up to {chance:.0f}. It is right on "
                f"{100.0 * least:.0f} % of {column.names[worst]} and on {100.0 * most:.0f} % of {column.names[best]}."
            )
            severity = (gap.found.value - gap.expected) / 0.5  # the largest deviation that a share can have
            findings.append(Finding(text, name, column.names[worst], f"gap_{kind}_{view}", severity))
    return findings
