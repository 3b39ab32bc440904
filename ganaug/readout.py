"""A label read off embeddings or codes by a classifier that has not seen the photo: cross-validated, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganaug.errors import UserInputError
from ganaug.rng import hash_text

Numbers = NDArray[np.float64]
Ints = NDArray[np.int64]

NUM_FOLDS = 5
MIN_CLASS = 10  # photos of a class: with fewer, a fold is taught by less than eight


class Examples(NamedTuple):
    """What a readout is taught with.

    Attributes:
        features: ``(N, K)``.
        classes: ``(N,)`` number of each row's class.
        folds: ``(N,)`` fold of each row's photo: a variant has that of its photo.
        weights: ``(N,)`` how much each row counts; None: all alike.
    """

    features: Numbers
    classes: Ints
    folds: Ints
    weights: Numbers | None = None


@dataclass(frozen=True)
class Readout:
    """Linear discriminant analysis with a shrunken covariance.

    Normal classes with one covariance (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd
    edition, equation 4.10). The covariance is drawn towards a multiple of the identity by as much as Ledoit and Wolf
    derive from the data itself (Journal of Multivariate Analysis 88, 2004, section 3.2), so that there is nothing to be
    tuned, and a class of ten photos in 128 numbers does no harm.

    Attributes:
        weights: ``(K, C)``.
        bias: ``(C,)``.
        shrinkage: In [0, 1].
    """

    weights: Numbers
    bias: Numbers
    shrinkage: float

    @classmethod
    def fit(cls, features: Numbers, classes: Ints, num_classes: int, weights: Numbers | None = None) -> "Readout":
        """Fits the classifier.

        Args:
            features: ``(N, K)``, finite.
            classes: ``(N,)`` in 0 .. C - 1; a class without a row is never named.
            num_classes: C.
            weights: ``(N,)``, 0 or more.

        Raises:
            UserInputError: If rows and classes do not fit each other, or fewer than two classes have rows.
        """
        if features.ndim != 2 or len(features) != len(classes):
            raise UserInputError(f"expected features (N, K) of N = {len(classes)} labels, got {features.shape}")
        weight = np.ones(len(classes)) if weights is None else weights
        weight = weight / weight.sum()
        shares = np.bincount(classes, weights=weight, minlength=num_classes)
        if (shares > 0.0).sum() < 2:
            raise UserInputError("all photos that the readout is taught with have the same label")
        members = np.eye(num_classes)[classes] * weight[:, None]
        means = members.T @ features / np.maximum(shares, 1e-300)[:, None]
        covariance, shrinkage = shrunken_covariance(features - means[classes], weight)
        found = np.linalg.solve(covariance, means.T)
        with np.errstate(divide="ignore"):
            bias = np.log(shares) - 0.5 * (means.T * found).sum(axis=0)
        return cls(found, bias, shrinkage)

    def logits(self, features: Numbers) -> Numbers:
        """``(N, K)`` -> ``(N, C)``, the logarithms of the classes' probabilities but for a constant of each row."""
        return features @ self.weights + self.bias


def shrunken_covariance(residuals: Numbers, weights: Numbers) -> tuple[Numbers, float]:
    """The covariance of rows of mean 0, drawn towards a multiple of the identity; and by how much.

    Args:
        residuals: ``(N, K)``.
        weights: ``(N,)``, which add up to 1.

    Returns:
        ``(K, K)``, and the share of the identity in [0, 1].
    """
    size = residuals.shape[1]
    covariance = (residuals * weights[:, None]).T @ residuals
    scale = np.trace(covariance) / size
    # In the paper's names: d^2 is how far the covariance is from the identity, b^2 how much of that is noise. A row's
    # squared distance |x x' - S|^2 is |x|^4 - 2 x'S x + |S|^2.
    spread = np.square(covariance).sum() - size * scale**2
    lengths, inner = np.square(residuals).sum(axis=1), np.einsum("nk,nk->n", residuals @ covariance, residuals)
    noise = (np.square(weights) * (lengths**2 - 2.0 * inner + np.square(covariance).sum())).sum()
    shrinkage = 1.0 if spread <= 0.0 else float(min(noise / spread, 1.0))
    # Features that are all alike have no covariance at all: then any multiple of the identity will do.
    identity = np.eye(size) * (scale if scale > 0.0 else 1.0)
    return (1.0 - shrinkage) * covariance + max(shrinkage, 1e-9) * identity, shrinkage


def make_folds(keys: Sequence[str], classes: Ints, num_folds: int = NUM_FOLDS, seed: int = 0) -> Ints:
    """``(N,)`` fold of each photo; each has its share of every class, and rows of one key come into one fold.

    Args:
        keys: N names of photos, or of persons; with the seed they decide, in whatever order photos come.
        classes: ``(N,)``; a key that has several counts by its first.
        num_folds: How many.
        seed: Of the draws.
    """
    units, first, unit = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    hashes = np.array([hash_text(f"{seed} {name} readout fold") for name in units.tolist()], np.int64)
    fold = np.empty(len(units), np.int64)
    fold[np.lexsort((hashes, classes[first]))] = np.arange(len(units)) % num_folds
    return np.asarray(fold[unit.reshape(-1)], np.int64)


def read_held_out(taught: Examples, features: Numbers, folds: Ints, num_classes: int) -> Ints:
    """Classes of rows, as told by a readout that was taught without their fold.

    Args:
        taught: Examples.
        features: ``(M, K)`` rows to read; those of ``taught``, or others of the same photos.
        folds: ``(M,)`` fold of each row's photo.
        num_classes: C.

    Returns:
        ``(M,)`` number of a class; -1 for rows that are not finite.

    Raises:
        UserInputError: If the examples outside of a fold are all of one class.
    """
    told = np.full(len(features), -1, np.int64)
    sound = np.isfinite(taught.features).all(axis=1)
    for fold in np.unique(folds):
        others, asked = sound & (taught.folds != fold), (folds == fold) & np.isfinite(features).all(axis=1)
        if not asked.any():
            continue
        weights = None if taught.weights is None else taught.weights[others]
        readout = Readout.fit(taught.features[others], taught.classes[others], num_classes, weights)
        told[asked] = readout.logits(features[asked]).argmax(axis=1)
    return told
