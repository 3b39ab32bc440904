"""Frechet distance between the features of two sets of images (FID, when the features are Inception's)."""

import math

import torch
from torch import Tensor

from ganaug.metrics.metric import TwoSets
from ganaug.metrics.states import Moments


class FrechetDistance(TwoSets[Moments]):
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

    def _fresh(self) -> dict[str, Moments]:
        return {"real": Moments(), "generated": Moments()}

    def compute(self) -> float:
        """The distance, 0 or more; NaN when a feature was not finite.

        Raises:
            UserInputError: With fewer than two images on a side.
        """
        real, made = self._at_least(2)
        made = made.to(real.device)
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


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """:class:`FrechetDistance` of features ``a (N, D)`` and ``b (M, D)``."""
    metric = FrechetDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute()
