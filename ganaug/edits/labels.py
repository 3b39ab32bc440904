"""Where in a generator's latents a label is read from, so that edits can be kept away from there."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.edits.subspace import Subspace
from ganaug.edits.whitening import Whitening, orthonormal
from ganaug.errors import UserInputError

Labels = NDArray[np.int64] | NDArray[np.float64]

MIN_FACES = 20  # of a class: fewer do not tell it from chance in a hundred coordinates
MAX_CLASSES = 64  # with more, as many directions are taken away as the coordinates have (128), and no edit is left
_MIN_CORRELATION = 0.2  # of whole numbers that may be names of persons as well as amounts
_FOLDS = 5
_SIGMAS = 2.0  # above chance, in standard errors, for a label to count as readable
_SCALES = np.geomspace(0.02, 1.0, 40)


@dataclass(frozen=True)
class LabelSubspace(Subspace):
    """The directions, in whitened coordinates of the latents, that tell the classes of a label apart.

    Attributes:
        classes: ``(C,)`` class numbers that it was fitted to, ascending; empty for amounts.
        weights: ``(K, C)``, or ``(K, 1)`` for amounts: ``coordinates @ weights + bias`` are the logits of the
            classes, or the amount.
        bias: ``(C,)`` or ``(1,)``.
        accuracy: Share of held-out faces whose class is read right; for amounts, the correlation with what is read.
        chance: Share of the most frequent class; 0 for amounts.
        num_faces: How many it was fitted to.
    """

    classes: NDArray[np.int64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    accuracy: float
    chance: float
    num_faces: int

    @classmethod
    def fit(cls, codes: Tensor, labels: Labels, whitening: Whitening) -> "LabelSubspace":
        """Linear discriminant analysis, regularised, in closed form; ridge regression for amounts.

        Least squares of the one-hot labels span the directions of Fisher's discriminants (Hastie, Tibshirani and
        Friedman, The Elements of Statistical Learning, 2nd edition, section 12.5 and exercise 4.2). The ridge is K / N
        for K coordinates of unit variance: so much of their explained variance is noise.

        Args:
            codes: ``(N, L, D)``.
            labels: ``(N,)``; class numbers, or float for amounts such as an age.
            whitening: The coordinates.

        Raises:
            UserInputError: Where a label cannot be kept this way; says why.
        """
        if len(codes) != len(labels):
            raise UserInputError(f"expected a label for each of {len(codes)} codes, got {len(labels)}")
        finite = np.isfinite(labels)
        if finite.sum() < MIN_FACES:
            raise UserInputError(f"{int(finite.sum())} faces have a label: expected at least {MIN_FACES}")
        coordinates, labels = whitening.coordinates(codes[torch.from_numpy(finite)].numpy()), labels[finite]
        if labels.dtype.kind == "f":
            return cls._fit_amounts(coordinates, labels.astype(np.float64), whitening)
        classes = frequent_classes(labels.astype(np.int64))
        among = np.isin(labels, classes)
        coordinates, numbers = coordinates[among], np.searchsorted(classes, labels[among])
        one_hot = np.eye(len(classes))[numbers]
        chance, logits = float(one_hot.mean(axis=0).max()), np.zeros_like(one_hot)
        for held in _folds(len(numbers)):
            axes = _ridge(coordinates[~held], one_hot[~held])
            weights, bias = _discriminants(coordinates[~held] @ axes, numbers[~held], len(classes))
            logits[held] = coordinates[held] @ axes @ weights + bias
        accuracy = float((logits.argmax(axis=1) == numbers).mean())
        if accuracy < chance + _SIGMAS * (chance * (1.0 - chance) / len(numbers)) ** 0.5:
            raise UserInputError(
                f"the latents of {len(numbers)} faces do not tell it: {accuracy:.1%} of held-out faces right, "
                f"{chance:.1%} by chance"
            )
        axes = orthonormal(_ridge(coordinates, one_hot))
        weights, bias = _discriminants(coordinates @ axes, numbers, len(classes))
        calm = _best_scale(logits, numbers)
        return cls(whitening, axes, classes, calm * axes @ weights, calm * bias, accuracy, chance, len(numbers))

    @classmethod
    def _fit_amounts(
        cls, coordinates: NDArray[np.float64], labels: NDArray[np.float64], whitening: Whitening
    ) -> "LabelSubspace":
        if not labels.std() > 0.0:
            raise UserInputError(f"all {len(labels)} faces have the same label, {labels[0]:g}")
        amounts, read = labels[:, None], np.zeros(len(labels))
        for held in _folds(len(labels)):
            weights = _ridge(coordinates[~held], amounts[~held])
            read[held] = (coordinates[held] - coordinates[~held].mean(axis=0)) @ weights[:, 0] + labels[~held].mean()
        correlation = float(np.corrcoef(read, labels)[0, 1])
        if not correlation > max(_MIN_CORRELATION, _SIGMAS / len(labels) ** 0.5):
            raise UserInputError(
                f"the latents of {len(labels)} faces do not tell it: what is read off them has a correlation of "
                f"{correlation:.2f} with the labels"
            )
        weights = _ridge(coordinates, amounts)
        bias = labels.mean() - coordinates.mean(axis=0) @ weights
        no_classes = np.empty(0, np.int64)
        return cls(whitening, orthonormal(weights), no_classes, weights, bias, correlation, 0.0, len(labels))

    def read(self, codes: Tensor) -> Tensor:
        """``codes (B, L, D)`` -> probabilities of the classes ``(B, C)``, or amounts ``(B,)``; float64."""
        flat = codes.flatten(1).double()
        reading = (self.whitening.axes / self.whitening.std[:, None]).T @ self.weights
        bias = self.bias - self.whitening.mean @ reading
        scores = flat @ torch.from_numpy(reading).to(flat.device) + torch.from_numpy(bias).to(flat.device)
        return scores.softmax(dim=1) if len(self.classes) else scores[:, 0]

    def to_dict(self) -> dict[str, float | int]:
        """What a report says about it."""
        counts = {"num_faces": self.num_faces, "num_classes": len(self.classes), "num_axes": self.basis.shape[1]}
        if not len(self.classes):
            return counts | {"correlation": round(self.accuracy, 4)}
        return counts | {"accuracy": round(self.accuracy, 4), "chance": round(self.chance, 4)}


def frequent_classes(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Classes that have enough faces to be told from others, ascending.

    Raises:
        UserInputError: If these are too few, too many, or hold less than half of the faces, as identities do.
    """
    classes, counts = np.unique(labels, return_counts=True)
    kept = counts >= MIN_FACES
    if counts[kept].sum() < len(labels) / 2 or kept.sum() < 2:
        raise UserInputError(
            f"{len(classes)} classes over {len(labels)} faces are too few faces each: expected at least two classes of "
            f"{MIN_FACES}, with half of the faces"
        )
    if kept.sum() > MAX_CLASSES:
        raise UserInputError(f"{int(kept.sum())} classes are too many to be freed of: expected at most {MAX_CLASSES}")
    return classes[kept]


def _folds(count: int) -> list[NDArray[np.bool_]]:
    """Which faces are held out, in turn; neighbours go to different folds."""
    return [np.arange(count) % _FOLDS == fold for fold in range(_FOLDS)]


def _ridge(coordinates: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, K)`` and ``(N, T)`` -> weights ``(K, T)`` of ridge regression, after both were centred."""
    centred = coordinates - coordinates.mean(axis=0)
    count, size = centred.shape
    covariance = centred.T @ centred / count + size / count * np.eye(size)
    return np.linalg.solve(covariance, centred.T @ (targets - targets.mean(axis=0)) / count)


def _discriminants(
    inside: NDArray[np.float64], numbers: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights ``(R, C)`` and bias ``(C,)`` of the logits of normal classes with one covariance, from ``inside (N, R)``.

    Linear discriminant analysis (The Elements of Statistical Learning, equation 4.10).
    """
    shares = np.bincount(numbers, minlength=count) / len(numbers)
    sums = np.eye(count)[numbers].T @ inside
    means = sums / np.maximum(shares * len(numbers), 1.0)[:, None]
    within = inside - means[numbers]
    covariance = within.T @ within / len(numbers)
    # Singular where classes differ along fewer directions than there are.
    weights: NDArray[np.float64] = np.linalg.lstsq(covariance, means.T, rcond=1e-9)[0].astype(np.float64)
    bias = np.log(np.maximum(shares, 1e-12)) - 0.5 * (means.T * weights).sum(axis=0)
    return weights, bias


def _best_scale(logits: NDArray[np.float64], numbers: NDArray[np.int64]) -> float:
    """The factor on held-out logits ``(N, C)`` that makes their probabilities likeliest.

    Temperature scaling (arXiv 1706.04599, section 4.2). Fitted to few faces, the classifier is surer of itself than it
    is right.
    """
    scaled = torch.from_numpy(_SCALES[:, None, None] * logits).log_softmax(dim=2).numpy()
    return float(_SCALES[scaled[:, np.arange(len(numbers)), numbers].mean(axis=1).argmax()])
