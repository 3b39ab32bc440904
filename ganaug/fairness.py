"""Differences between groups in what a classifier says: accuracy, demographic parity, equalised odds.

Everything is computed from tallies per group, so that photos, draws of a bootstrap and permutations of groups go
through one formula. A class is told from all others; of several classes the one with the largest difference counts. For
two classes both give the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganaug.rng import hash_text, uniforms

Numbers = NDArray[np.float64]
Ints = NDArray[np.int64]

_COLUMNS_AT_ONCE = 256  # permutations that are counted at a time; bounds the memory


@dataclass(frozen=True)
class Tallies:
    """How many photos of each group, in each of R draws.

    Attributes:
        photos: ``(R, G)``.
        right: ``(R, G)``, those whose class was named right.
        named: ``(R, G, C)``, those that were said to be of a class.
        actual: ``(R, G, C)``, those that are of a class.
        hits: ``(R, G, C)``, those that are of a class and were said to be.
    """

    photos: Numbers
    right: Numbers
    named: Numbers
    actual: Numbers
    hits: Numbers

    @classmethod
    def of(
        cls, predicted: Ints, true: Ints, group: Ints, num_groups: int, weights: NDArray[np.float32] | None = None
    ) -> "Tallies":
        """Counts photos.

        Args:
            predicted: ``(N,)`` number of the class that was said.
            true: ``(N,)`` number of the class that it is.
            group: ``(N,)``; a negative number is no group.
            num_groups: G.
            weights: ``(R, N)``, how often each photo counts; None: once, R = 1.
        """
        given = np.ones((1, len(true)), np.float32) if weights is None else weights
        table, members = _table(predicted, true), np.eye(num_groups)[np.maximum(group, 0)] * (group >= 0)[:, None]
        sums = np.stack([given @ (members * column[:, None]) for column in table.T], axis=2)
        return cls._split(sums.astype(np.float64))

    @classmethod
    def of_permutations(cls, predicted: Ints, true: Ints, groups: Ints, num_groups: int) -> "Tallies":
        """Counts photos where every draw has groups of its own, ``groups (N, R)``."""
        table = _table(predicted, true).astype(np.float32)
        sums = np.zeros((groups.shape[1], num_groups, table.shape[1]))
        for start in range(0, groups.shape[1], _COLUMNS_AT_ONCE):
            part = groups[:, start : start + _COLUMNS_AT_ONCE]
            for number in range(num_groups):
                sums[start : start + part.shape[1], number] = (part == number).astype(np.float32).T @ table
        return cls._split(sums)

    @classmethod
    def _split(cls, sums: Numbers) -> "Tallies":
        count = (sums.shape[2] - 2) // 3
        return cls(sums[..., 0], sums[..., 1], *np.split(sums[..., 2:], [count, 2 * count], axis=2))

    def accuracy(self) -> Numbers:
        """``(R, G)`` share that was named right; NaN for an empty group."""
        return _ratio(self.right, self.photos)

    def selection_rate(self) -> Numbers:
        """``(R, G, C)`` share of a group that is said to be of a class."""
        return _ratio(self.named, self.photos[..., None])

    def true_positive_rate(self) -> Numbers:
        """``(R, G, C)`` share of a group's photos of a class that is said to be of it; NaN without any."""
        return _ratio(self.hits, self.actual)

    def false_positive_rate(self) -> Numbers:
        """``(R, G, C)`` share of a group's photos of other classes that is said to be of a class; NaN without any."""
        return _ratio(self.named - self.hits, self.photos[..., None] - self.actual)


def accuracy_gap(tallies: Tallies) -> Numbers:
    """``(R,)``: accuracy of the best group minus that of the worst."""
    return _spread(tallies.accuracy())


def demographic_parity_difference(tallies: Tallies) -> Numbers:
    """``(R,)``: how far the shares that are said to be of a class lie apart (arXiv 1803.02453, definition 1)."""
    return np.asarray(_spread(tallies.selection_rate()).max(axis=1))


def equalized_odds_difference(tallies: Tallies, least: int = 1, counted: Tallies | None = None) -> Numbers:
    """``(R,)``: the larger of the differences in true and in false positive rate (arXiv 1610.02413, definition 2.1).

    Args:
        tallies: Of what is asked.
        least: A rate over fewer photos of a group is left out.
        counted: Where photos are counted for ``least``: of the photos as they are, R = 1. None: ``tallies``.
    """
    seen = tallies if counted is None else counted
    true = np.where(seen.actual >= least, tallies.true_positive_rate(), np.nan)
    false = np.where(seen.photos[..., None] - seen.actual >= least, tallies.false_positive_rate(), np.nan)
    return np.asarray(np.maximum(_spread(true), _spread(false)).max(axis=1))


def shuffled_groups(group: Ints, true: Ints, keys: Sequence[str], count: int, seed: int = 0) -> Ints:
    """Groups exchanged among photos of one class, as if the classifier did not know of groups.

    Photos of one key, class and group keep a group in common: a classifier is right or wrong about all photos of a
    person, and exchanging them one by one would take a difference between a few persons for one between groups.

    What remains of a difference then comes from chance and from classes that are more frequent in one group than in
    another.

    Args:
        group: ``(N,)``.
        true: ``(N,)`` class of each photo.
        keys: N names of photos, or of persons; with the seed they decide the exchange.
        count: R.
        seed: Of the draws.

    Returns:
        ``(N, R)``.
    """
    drawn = uniforms(seed, 0, np.array([hash_text(key) for key in keys], np.int64), "shuffled groups", count)
    person = np.unique(np.asarray(keys), return_inverse=True)[1].reshape(-1)
    shuffled = np.empty((len(group), count), np.int64)
    for number in np.unique(true):
        members = np.flatnonzero(true == number)
        units, first, unit = np.unique(
            np.stack([person[members], group[members]], axis=1), axis=0, return_index=True, return_inverse=True
        )
        exchanged = units[:, 1][drawn[members[first]].argsort(axis=0, kind="stable")]
        shuffled[members] = exchanged[unit.reshape(-1)]
    return shuffled


def _table(predicted: Ints, true: Ints) -> Numbers:
    """``(N, 2 + 3 C)`` what is counted of each photo, see :class:`Tallies`."""
    numbers = np.arange(max(predicted.max(initial=0), true.max(initial=0)) + 1)
    named, actual = predicted[:, None] == numbers, true[:, None] == numbers
    columns = [np.ones((len(true), 1)), (predicted == true)[:, None], named, actual, named & actual]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _ratio(part: Numbers, whole: Numbers) -> Numbers:
    """NaN where the whole is nothing."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)


def _spread(values: Numbers) -> Numbers:
    """Largest minus smallest over groups, axis 1; 0 where fewer than two are known."""
    known = np.isfinite(values)
    highest = np.where(known, values, -np.inf).max(axis=1)
    lowest = np.where(known, values, np.inf).min(axis=1)
    return np.subtract(highest, lowest, out=np.zeros_like(highest), where=known.any(axis=1))
