"""Whether raters agree with each other: Krippendorff's alpha, which takes raters who have not seen every trial."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganaug import rng

NUM_RESAMPLES = 1000  # of the bootstrap: its ends then move by about 0.01 from one seed to another


def krippendorff_alpha(counts: ArrayLike) -> float | None:
    """Alpha of nominal answers: 1 for full agreement, 0 for that of chance, below 0 for less.

    Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: any number of raters, missing answers.
    Trials with a single answer say nothing about agreement and are left out.

    Args:
        counts: ``(N, C)``, how many raters gave each of C answers to each of N trials.

    Returns:
        Alpha; None if there are no two answers to one trial, or all answers are alike.

    Example:
        >>> krippendorff_alpha([[2, 0], [0, 2]])
        1.0
    """
    table = np.asarray(counts, np.float64)
    answers = table.sum(axis=1)
    table, answers = table[answers >= 2], answers[answers >= 2]
    total, of_each = answers.sum(), table.sum(axis=0)
    expected = (of_each * (total - of_each)).sum() / (total - 1) if total else 0.0
    if expected == 0.0:
        return None
    observed = ((table * (answers[:, None] - table)).sum(axis=1) / (answers - 1)).sum()
    return float(1.0 - observed / expected)


def alpha_interval(counts: ArrayLike, seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of alpha: percentiles over resampled trials (Efron and Tibshirani 1993, section 13.3).

    Args:
        counts: See :func:`krippendorff_alpha`.
        seed: Of the resampling.

    Returns:
        Low and high end; None where most resamples have no alpha.
    """
    table = np.asarray(counts, np.float64)
    if len(table) < 2:
        return None
    uniforms = rng.uniforms(seed, 0, np.arange(NUM_RESAMPLES), "alpha", len(table))
    drawn: NDArray[np.int64] = (uniforms * len(table)).astype(np.int64)
    found = [alpha for rows in drawn if (alpha := krippendorff_alpha(table[rows])) is not None]
    if len(found) < NUM_RESAMPLES // 2:
        return None
    low, high = np.quantile(found, (0.025, 0.975)).tolist()
    return low, high
