"""Frechet distance between the features of two sets of images (FID, when the features are Inception's)."""

import math

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.stored import checked_features


class _Moments:
    """Mean and scatter matrix of a growing set of rows, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (The American Statistician 37, 1983): unlike
    sums of raw products it loses nothing when the mean is large beside the spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0)
        self.scatter = torch.zeros(0, 0)

    def update(self, rows: Tensor) -> None:
        if not len(rows):
            return
        rows = rows.double()
        mean = rows.mean(dim=0)
        scatter = (rows - mean).t() @ (rows - mean)
        if not self.count:
            self.count, self.mean, self.scatter = len(rows), mean, scatter
            return
        total = self.count + len(rows)
        step = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.count * len(rows) / total)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    def covariance(self) -> Tensor:
        """``(D, D)``, divided by N - 1."""
        return self.scatter / (self.count - 1)


class FrechetDistance:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two sets (arXiv 1706.08500, equation 6).

    Memory does not grow with the number of images. The estimate is biased upwards, the more so the fewer images there
    are for each dimension (arXiv 1911.07023): compare figures of equal counts only.

    Example:
        >>> metric = FrechetDistance()
        >>> metric.update(torch.tensor([[0.0], [2.0]]), real=True)  # mean 1, variance 2
        >>> metric.update(torch.tensor([[3.0], [5.0]]), real=False)  # mean 4, variance 2
        >>> round(metric.compute(), 6)
        9.0
    """

    def __init__(self) -> None:
        self._sides = {True: _Moments(), False: _Moments()}

    def update(self, features: Tensor, real: bool) -> None:
        """Adds ``features (B, D)`` of real or of generated images.

        Raises:
            UserInputError: For features of another shape than before.
        """
        earlier = self._sides[True] if self._sides[True].count else self._sides[False]
        self._sides[real].update(checked_features(features, len(earlier.mean) if earlier.count else None))

    def compute(self) -> float:
        """The distance, 0 or more; NaN when a feature was not finite.

        Raises:
            UserInputError: With fewer than two images on a side.
        """
        real, made = self._sides[True], self._sides[False]
        for name, side in (("real", real), ("generated", made)):
            if side.count < 2:
                raise UserInputError(f"{side.count} {name} images, at least 2 are needed")
        a, b = real.covariance(), made.covariance()
        shift = (real.mean - made.mean).square().sum()
        if not torch.isfinite(a.sum() + b.sum() + shift):
            return math.nan
        # tr((AB)^1/2) = tr((A^1/2 B A^1/2)^1/2), and the latter is symmetric: no complex roots. Rounding makes the
        # zero eigenvalues of a set with fewer images than dimensions slightly negative.
        values, vectors = torch.linalg.eigh(a)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
        cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
        return max(float(shift + a.trace() + b.trace() - 2 * cross), 0.0)

    def reset(self, *, keep_real: bool = False) -> None:
        """Forgets what was added; with ``keep_real`` only the generated side."""
        for real in (False,) if keep_real else (False, True):
            self._sides[real] = _Moments()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """:class:`FrechetDistance` of features ``a (N, D)`` and ``b (M, D)``."""
    metric = FrechetDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute()
