"""Directions fitted to labels, in whitened coordinates (see :mod:`ganaug.edits.whitening`), and how well they do.

InterFaceGAN (arXiv 1907.10786, section 2) takes the normal of a linear classifier's boundary. Every figure here is
cross-validated: of faces that the direction which it was measured with has not seen. The same folds choose among a few
strengths of regularisation; faces64's gender, 77.1 % right so, was 77.9 % right on 1,595 photos that nothing had seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ganaug.edits.scores import least_squares, logistic_scale, probability, quality_of_classes, quality_of_numbers
from ganaug.edits.whitening import freed
from ganaug.errors import UserInputError
from ganaug.rng import hash_text

Method = Literal["logistic", "svm", "ridge"]
Numbers = NDArray[np.float64]

# How strongly each method is held back: scikit-learn's C, and ridge's alpha. Strongest first: of equals it is taken.
_REGULARISATION: dict[str, tuple[float, ...]] = {
    "logistic": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "svm": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "ridge": (1e5, 1e4, 1e3, 1e2, 1e1, 1.0),
}
METHODS = tuple(_REGULARISATION)
NUM_FOLDS = 5
MIN_FACES = 20
MIN_CLASS = 5


@dataclass(frozen=True)
class Fit:
    """A direction in whitened coordinates.

    Attributes:
        vector: ``(K,)``, unit length; its coordinate ``z @ vector`` counts standard deviations.
        slope: The score is ``slope * coordinate + intercept``, for classes before the logistic function.
        intercept: See ``slope``.
        is_class: Whether the score is a probability.
        measured: JSON-able figures.
        coordinates: ``(N,)``, cross-validated, of the faces that it was fitted to.
    """

    vector: Numbers
    slope: float
    intercept: float
    is_class: bool
    measured: dict[str, Any]
    coordinates: Numbers


def require_scikit_learn() -> None:
    """Raises UserInputError with the remedy where scikit-learn, which only fitting needs, is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserInputError("fitting directions needs scikit-learn: pip install 'ganaug[directions]'") from error


def fit_direction(
    z: Numbers,
    target: Numbers,
    method: Method,
    keys: Sequence[str],
    basis: Numbers,
    seed: int = 0,
    people: Sequence[str] | None = None,
) -> Fit:
    """Fits one direction.

    Args:
        z: ``(N, K)`` whitened coordinates of codes.
        target: ``(N,)``: numbers for ``"ridge"``, else 0 and 1.
        method: Logistic regression, linear support vector machine or ridge regression.
        keys: N names; with ``seed`` they decide the folds, in whatever order the faces come.
        basis: ``(K, R)`` orthonormal; the direction is made orthogonal to it, see
            :func:`ganaug.edits.whitening.freed`.
        seed: Of the folds.
        people: N names; photos of one person come into one fold.

    Raises:
        UserInputError: For fewer than 20 faces, a constant target, a class of fewer than 5 faces or of too few people,
            or if scikit-learn is missing.
    """
    require_scikit_learn()
    is_class = method != "ridge"
    _check(target, is_class)
    units = keys if people is None else people
    folds = _folds(target, units, is_class, seed)
    best, held_back, normals = np.inf, 0.0, np.empty((NUM_FOLDS, z.shape[1]))
    for candidate in _REGULARISATION[method]:
        fitted = [_unit_normal(z[folds != k], target[folds != k], method, candidate) for k in range(NUM_FOLDS)]
        coordinates = np.einsum("nk,nk->n", z, np.stack(fitted)[folds])
        loss = quality(target, coordinates, folds, is_class)["loss"]
        if loss < best:
            best, held_back, normals = loss, candidate, np.stack(fitted)
    vector = freed(_unit_normal(z, target, method, held_back), basis)
    coordinates = np.einsum("nk,nk->n", z, np.stack([freed(normal, basis) for normal in normals])[folds])
    slope, intercept = (logistic_scale if is_class else least_squares)(coordinates, target)
    figures = quality(target, coordinates, folds, is_class)
    del figures["loss"]
    measured = {"method": method, "regularisation": held_back, "faces": len(z), "folds": NUM_FOLDS, **figures}
    return Fit(vector, slope, intercept, is_class, measured, coordinates)


def quality(target: Numbers, coordinates: Numbers, folds: NDArray[np.int64], is_class: bool) -> dict[str, Any]:
    """Figures of cross-validated coordinates; what turns them into scores is fitted on the other folds, too."""
    scores = np.empty(len(target))
    for fold in range(NUM_FOLDS):
        out = folds == fold
        if is_class:
            slope, intercept = logistic_scale(coordinates[~out], target[~out])
            scores[out] = probability(slope * coordinates[out] + intercept)
        else:
            slope, intercept = least_squares(coordinates[~out], target[~out])
            scores[out] = slope * coordinates[out] + intercept
    return quality_of_classes(target, scores) if is_class else quality_of_numbers(target, scores)


def correlations(coordinates: Numbers, columns: Mapping[str, Numbers]) -> dict[str, float]:
    """Pearson's correlation of a direction's coordinate with other columns; rows with NaN are left out of that column.

    Args:
        coordinates: ``(N,)``.
        columns: Name -> ``(N,)`` numbers, or 0 and 1 for a class. Constant columns are left out.
    """
    found = {}
    for name, column in columns.items():
        known = np.isfinite(column)
        if known.sum() >= 2 and np.ptp(column[known]) > 0 and np.ptp(coordinates[known]) > 0:
            found[name] = round(float(np.corrcoef(coordinates[known], column[known])[0, 1]), 4)
    return found


def _check(target: Numbers, is_class: bool) -> None:
    if len(target) < MIN_FACES:
        raise UserInputError(f"{len(target)} labelled faces have latents, expected at least {MIN_FACES}")
    if np.ptp(target) == 0:
        raise UserInputError(f"all {len(target)} labelled faces have the same label; there is nothing to tell apart")
    if is_class and min(target.sum(), len(target) - target.sum()) < MIN_CLASS:
        fewer = int(min(target.sum(), len(target) - target.sum()))
        raise UserInputError(f"a class has only {fewer} of the {len(target)} faces, expected at least {MIN_CLASS}")


def _folds(target: Numbers, units: Sequence[str], is_class: bool, seed: int) -> NDArray[np.int64]:
    """``(N,)`` fold of each face. Each has its share of every class, or of every tenth of the numbers."""
    names = sorted(set(units))
    place = {name: i for i, name in enumerate(names)}
    unit = np.array([place[name] for name in units])
    count = np.bincount(unit)
    level = np.bincount(unit, weights=target) / count  # of a person with several photos, the mean
    # A person with photos of both classes is of the class of most of them.
    stratum = level > 0.5 if is_class else np.searchsorted(np.quantile(level, np.linspace(0.1, 0.9, 9)), level)
    hashes = np.array([hash_text(f"{seed} {name} fold") for name in names])
    order = np.lexsort((hashes, stratum))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % NUM_FOLDS
    folds: NDArray[np.int64] = fold[unit]
    for k in range(NUM_FOLDS):
        if np.ptp(target[folds != k]) == 0 or not (folds == k).any():
            raise UserInputError(f"the faces are of {len(names)} people, too few to fit on some and test on others")
    return folds


def _unit_normal(z: Numbers, target: Numbers, method: str, held_back: float) -> Numbers:
    """``(K,)``: normal of the boundary, or the gradient of the prediction, of unit length."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.svm import LinearSVC

    if method == "ridge":
        found = Ridge(alpha=held_back, solver="cholesky").fit(z, target).coef_
    elif method == "svm":  # the primal problem: the solver of the dual draws
        found = LinearSVC(C=held_back, dual=False, max_iter=10_000).fit(z, target).coef_[0]
    else:
        found = LogisticRegression(C=held_back, max_iter=10_000).fit(z, target).coef_[0]
    vector = np.asarray(found, np.float64)
    length = np.linalg.norm(vector)
    if not length > 0:
        raise UserInputError("the codes say nothing about the labels: the fitted direction has no length")
    return vector / length  # type: ignore[no-any-return]
