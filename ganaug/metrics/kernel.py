"""Kernel distance between the features of two sets of images (KID, when the features are Inception's)."""

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.stored import StoredFeatures

BLOCK_ROWS = 1024  # rows of a kernel matrix that are in memory at once


def cubic_kernel(products: Tensor, num_features: int) -> Tensor:
    """``(x.y / d + 1)^3`` of inner products (arXiv 1801.01401, section 4)."""
    return (products / num_features + 1.0).pow(3)


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    """Mean of the kernel over all pairs of rows of ``x`` and ``y``."""
    total = sum(float(cubic_kernel(rows @ y.t(), x.shape[1]).sum()) for rows in x.split(BLOCK_ROWS))
    return total / (len(x) * len(y))


def _mean_kernel_within(x: Tensor) -> float:
    """Mean of the kernel over all pairs of different rows of ``x``."""
    count = len(x)
    diagonal = float(cubic_kernel(x.square().sum(dim=1), x.shape[1]).sum())
    return (_mean_kernel(x, x) * count**2 - diagonal) / (count * (count - 1))


def _distance(x: Tensor, y: Tensor) -> float:
    """``MMD_u^2`` of Gretton et al. (JMLR 13, 2012, lemma 6)."""
    return _mean_kernel_within(x) + _mean_kernel_within(y) - 2.0 * _mean_kernel(x, y)


class KernelDistance(StoredFeatures):
    """Unbiased squared maximum mean discrepancy with a cubic kernel (arXiv 1801.01401, section 4).

    :meth:`compute` takes all pairs and draws nothing. Published figures are means over random subsets
    (:meth:`compute_subsets`): the mean over all possible subsets is what :meth:`compute` gives, so both estimate the
    same thing, and the one over all pairs has no noise of the draw. Unbiased even for few images, it may come out
    slightly negative for two sets of one kind.
    """

    def compute(self) -> float:
        """The distance; 0 is expected for two sets of one distribution.

        Raises:
            UserInputError: With fewer than two images on a side.
        """
        return _distance(*self._features(at_least=2))

    def compute_subsets(self, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Mean and standard deviation over random subsets, as KID is usually published (arXiv 1801.01401, section 4).

        The deviation is that of one subset's figure: it tells how noisy a figure of so few images is, not how far the
        mean is from the truth, for subsets share images.

        Args:
            num_subsets: Subsets, at least 1.
            subset_size: Images of each side in a subset, drawn without repetition; at least 2.
            seed: Decides the subsets. torchmetrics draws the same ones after ``torch.manual_seed(seed)``.

        Raises:
            UserInputError: With fewer images on a side than in a subset, or numbers below those above.
        """
        if num_subsets < 1 or subset_size < 2:
            raise UserInputError(f"expected at least 1 subset of at least 2 images, got {num_subsets} of {subset_size}")
        real, made = self._features(at_least=subset_size)
        draw = torch.Generator().manual_seed(seed)
        values = torch.empty(num_subsets, dtype=torch.float64)
        for number in range(num_subsets):
            x, y = (
                side[torch.randperm(len(side), generator=draw)[:subset_size].to(side.device)] for side in (real, made)
            )
            values[number] = _distance(x, y)
        return float(values.mean()), float(values.std(correction=0))


def kernel_variance(x: Tensor) -> float:
    """Of rows ``(N, D)``: half the mean kernel distance of two of them, unbiased; N at least 2.

    Its root is what one standard deviation is where :class:`KernelDistance` measures squared distances.
    """
    x = x.double()
    return float(cubic_kernel(x.square().sum(dim=1), x.shape[1]).mean()) - _mean_kernel_within(x)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """:class:`KernelDistance` of features ``a (N, D)`` and ``b (M, D)``."""
    metric = KernelDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute()
