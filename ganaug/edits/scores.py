"""From a direction's coordinate to a score, and how right the score is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

NUM_BINS = 10
_STEPS = 100
_SMALL = 1e-12


def probability(raw: Numbers) -> Numbers:
    """The logistic function, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * raw))


def logistic_scale(coordinates: Numbers, target: Numbers) -> tuple[float, float]:
    """Slope and intercept of the probability of class 1 (Platt scaling), by Newton's method.

    Targets are Platt's, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) (Probabilistic outputs for support vector machines, 1999,
    section 2.2): with 0 and 1, classes that do not overlap would make the slope infinite.

    Args:
        coordinates: ``(N,)``.
        target: ``(N,)`` of 0 and 1.
    """
    positive, negative = float(target.sum()), float((1 - target).sum())
    wanted = np.where(target > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    design = np.stack([coordinates, np.ones_like(coordinates)], axis=1)
    found = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    loss = _cross_entropy(wanted, design @ found)
    for _ in range(_STEPS):
        p = probability(design @ found)
        gradient = design.T @ (p - wanted)
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + _SMALL * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while (lower := _cross_entropy(wanted, design @ (found - scale * step))) > loss and scale > _SMALL:
            scale /= 2  # far from the optimum a whole step may overshoot
        if loss - lower <= _SMALL * max(loss, 1.0):
            break
        found, loss = found - scale * step, lower
    return float(found[0]), float(found[1])


def least_squares(coordinates: Numbers, target: Numbers) -> tuple[float, float]:
    """Slope and intercept of the line through numbers ``target (N,)``."""
    centred = coordinates - coordinates.mean()
    slope = float(centred @ (target - target.mean()) / max(float(centred @ centred), _SMALL))
    return slope, float(target.mean() - slope * coordinates.mean())


def quality_of_classes(target: Numbers, scores: Numbers) -> dict[str, Any]:
    """How right probabilities are.

    Args:
        target: ``(N,)`` of 0 and 1.
        scores: ``(N,)`` probabilities of 1.

    Returns:
        ``accuracy``, ``balanced_accuracy`` (mean over the classes), ``baseline`` (accuracy of always naming the larger
        class), ``auc`` (area under the ROC curve: how often of two faces the right one is scored higher; says more than
        accuracy where a class is rare), ``ece`` (expected calibration error, arXiv 1706.04599, section 2, ten equal
        bins), ``reliability`` (rows of faces, mean probability and share of class 1 for each bin that is not empty),
        ``loss`` (log loss).
    """
    right = (scores > 0.5) == (target > 0.5)
    share = float(target.mean())
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    table, error = _reliability(bins, scores, target)
    clipped = scores.clip(_SMALL, 1 - _SMALL)
    return {
        "accuracy": round(float(right.mean()), 4),
        "balanced_accuracy": round(float((right[target > 0.5].mean() + right[target < 0.5].mean()) / 2), 4),
        "baseline": round(max(share, 1 - share), 4),
        "auc": round(_area(scores[target > 0.5], scores[target < 0.5]), 4),
        "ece": round(error, 4),
        "reliability": table,
        "loss": float(-(target * np.log(clipped) + (1 - target) * np.log(1 - clipped)).mean()),
    }


def quality_of_numbers(target: Numbers, scores: Numbers) -> dict[str, Any]:
    """How right numbers are, in the unit of the labels.

    Args:
        target: ``(N,)``.
        scores: ``(N,)``.

    Returns:
        ``r2`` (share of the variance explained), ``correlation``, ``mean_absolute_error``, ``baseline_error`` (that
        of always naming the median), ``calibration_error`` (between means over tenths of the faces in order of the
        score), ``reliability`` (rows of faces, mean score and mean label for each tenth), ``range`` of the labels,
        ``loss``.
    """
    squared = float(((scores - target) ** 2).mean())
    order = np.argsort(scores, kind="stable")
    tenth = np.empty(len(scores), np.int64)
    tenth[order] = np.arange(len(scores)) * NUM_BINS // len(scores)
    table, error = _reliability(tenth, scores, target)
    varies = np.ptp(scores) > 0
    return {
        "r2": round(1 - squared / float(target.var()), 4),
        "correlation": round(float(np.corrcoef(scores, target)[0, 1]), 4) if varies else 0.0,
        "mean_absolute_error": round(float(np.abs(scores - target).mean()), 4),
        "baseline_error": round(float(np.abs(np.median(target) - target).mean()), 4),
        "calibration_error": round(error, 4),
        "reliability": table,
        "range": [float(target.min()), float(target.max())],
        "loss": squared,
    }


def _reliability(bins: NDArray[np.int64], scores: Numbers, target: Numbers) -> tuple[list[list[float]], float]:
    """Faces, mean score and mean label of each bin that is not empty; and the mean difference, weighted by faces."""
    rows, error = [], 0.0
    for k in range(NUM_BINS):
        inside = bins == k
        if inside.any():
            mean, actual = float(scores[inside].mean()), float(target[inside].mean())
            rows.append([int(inside.sum()), round(mean, 4), round(actual, 4)])
            error += abs(mean - actual) * float(inside.mean())
    return rows, error


def _area(positive: Numbers, negative: Numbers) -> float:
    """Share of pairs in which the first is larger, ties counted half (Mann and Whitney 1947)."""
    ordered = np.sort(negative)
    below, until = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + until).sum() / (2 * len(positive) * len(negative)))


def _cross_entropy(wanted: Numbers, raw: Numbers) -> float:
    return float((np.logaddexp(0.0, raw) - wanted * raw).sum())
