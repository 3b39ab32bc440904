"""Intervals of figures over photos: the bootstrap, with draws that belong to a photo and not to its place in a list."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import UserInputError
from ganaug.intervals import LEVEL, Interval
from ganaug.rng import hash_text, uniforms

Numbers = NDArray[np.float64]

NUM_DRAWS = 1000  # tenths of a percent of a distribution: enough for the 2.5 % at its ends
_LARGEST = 20  # a Poisson(1) number is larger once in 10^20


class Bootstrap:
    """How often each photo counts in each of many draws.

    A photo counts Poisson(1) times (Chamandy, Muralidharan, Najmi and Naidu, "Estimating uncertainty for massive data
    streams", Google 2012, section 2), decided by its key, the seed and the number of the draw alone: photos in another
    order, or beside others, count the same. All that is measured on one photo, its variants too, counts together, and
    so does all that has one key: give names of persons, and persons are drawn.

    Args:
        keys: N names.
        num_draws: R.
        seed: Of the draws.

    Attributes:
        weights: ``(R, N)`` float32.
        unit: ``(N,)`` number of each row's key: rows with one number are drawn together.

    Raises:
        UserInputError: For fewer than 100 draws, which have no 2.5 %.

    Example:
        >>> bootstrap = Bootstrap(["a", "b", "c"])
        >>> bool((bootstrap.weights[:, [2, 0]] == Bootstrap(["c", "a"]).weights).all())
        True
    """

    def __init__(self, keys: Sequence[str], num_draws: int = NUM_DRAWS, seed: int = 0) -> None:
        if num_draws < 100:
            raise UserInputError(f"a bootstrap needs at least 100 draws, got {num_draws}")
        cumulative = np.exp(-1.0) * np.cumsum(1.0 / np.cumprod([1.0, *range(1, _LARGEST)]))
        hashes = np.array([hash_text(key) for key in keys], np.int64)
        self.unit: NDArray[np.int64] = np.unique(np.asarray(keys), return_inverse=True)[1].reshape(-1).astype(np.int64)
        drawn = uniforms(seed, 0, hashes, "bootstrap", num_draws).T
        self.weights: NDArray[np.float32] = np.searchsorted(cumulative, drawn, side="right").astype(np.float32)

    def counts(self, members: NDArray[np.bool_]) -> NDArray[np.int64]:
        """``(N, G)``, who belongs to each group -> ``(G,)`` how many of what is drawn: photos, or persons.

        Draws of few of them, however many photos each has, know nothing of all the others that were never seen.
        """
        return np.array([len(np.unique(self.unit[column])) for column in members.T], np.int64)

    def means(self, values: Numbers, members: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
        """Means over groups.

        Args:
            values: ``(N,)``; NaN counts nowhere.
            members: ``(N, G)``, who belongs to each group.

        Returns:
            ``(G,)`` of the photos as they are, and ``(R, G)`` of the draws; NaN for a group with nobody in it.
        """
        known = np.isfinite(values)
        numerator = np.where(known, values, 0.0)[:, None] * members
        denominator = (known[:, None] & members).astype(np.float64)
        with np.errstate(invalid="ignore"):
            drawn = (self.weights @ numerator) / (self.weights @ denominator)
            return numerator.sum(axis=0) / denominator.sum(axis=0), drawn


def interval(value: float, drawn: Numbers, level: float = LEVEL) -> Interval:
    """Percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).

    Args:
        value: The figure.
        drawn: ``(R,)`` of the draws; NaN is left out.
        level: Share of the draws inside.
    """
    known = drawn[np.isfinite(drawn)]
    if not len(known) or not np.isfinite(value):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(value), float(low), float(high))


def stand_out(difference: Numbers, drawn: Numbers, level: float = LEVEL) -> NDArray[np.bool_]:
    """Which of several differences are below 0, so that one among all of them is wrongly named with 1 - level at most.

    Looked at one by one, every twentieth of many groups would be named by chance. Here the bound is taken from the
    largest deviation among all of them in each draw: single-step maxT, one-sided (Westfall and Young, Resampling-Based
    Multiple Testing, 1993, section 2.5).

    Args:
        difference: ``(G,)``; NaN is never named.
        drawn: ``(R, G)`` of the draws.
        level: See above.

    Returns:
        ``(G,)`` bool.
    """
    asked = np.isfinite(difference) & np.isfinite(drawn).all(axis=0)
    found = np.zeros(len(difference), bool)
    if not asked.any():
        return found
    deviation = drawn[:, asked] - difference[asked]
    error = deviation.std(axis=0)
    scaled = np.divide(-deviation, error, out=np.zeros_like(deviation), where=error > 0.0)
    bound = np.quantile(scaled.max(axis=1), level)
    found[asked] = difference[asked] + bound * error < 0.0
    return found
