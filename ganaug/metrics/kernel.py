"""Kernel distance between the features of two sets of images (KID, when the features are Inception's)."""

from torch import Tensor

from ganaug.metrics.stored import StoredFeatures

BLOCK_ROWS = 1024  # rows of a kernel matrix that are in memory at once


def _kernel(products: Tensor, num_features: int) -> Tensor:
    """``(x.y / d + 1)^3`` of inner products (arXiv 1801.01401, section 4)."""
    return (products / num_features + 1.0).pow(3)


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    """Mean of the kernel over all pairs of rows of ``x`` and ``y``."""
    total = sum(float(_kernel(rows @ y.t(), x.shape[1]).sum()) for rows in x.split(BLOCK_ROWS))
    return total / (len(x) * len(y))


def _mean_kernel_within(x: Tensor) -> float:
    """Mean of the kernel over all pairs of different rows of ``x``."""
    count = len(x)
    diagonal = float(_kernel(x.square().sum(dim=1), x.shape[1]).sum())
    return (_mean_kernel(x, x) * count**2 - diagonal) / (count * (count - 1))


class KernelDistance(StoredFeatures):
    """Unbiased squared maximum mean discrepancy with a cubic kernel (arXiv 1801.01401, section 4).

    The estimator is ``MMD_u^2`` of Gretton et al. (JMLR 13, 2012, lemma 6), over all pairs instead of random subsets:
    nothing is drawn. Unbiased even for few images, so it may come out slightly negative for two sets of one kind.
    """

    def compute(self) -> float:
        """The distance; 0 is expected for two sets of one distribution.

        Raises:
            UserInputError: With fewer than two images on a side.
        """
        real, made = self._features(True, at_least=2), self._features(False, at_least=2)
        return _mean_kernel_within(real) + _mean_kernel_within(made) - 2.0 * _mean_kernel(real, made)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """:class:`KernelDistance` of features ``a (N, D)`` and ``b (M, D)``."""
    metric = KernelDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    return metric.compute()
