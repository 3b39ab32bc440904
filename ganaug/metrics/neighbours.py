"""Precision and recall of generated images by nearest neighbours in feature space."""

from typing import Any

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.stored import StoredFeatures

BLOCK_ROWS = 1024  # rows of a distance matrix that are in memory at once


def distances(x: Tensor, y: Tensor) -> Tensor:
    """``(N, M)`` of rows. By differences, not by a matrix product: a point must be at distance 0 from its copy."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _share_inside(points: Tensor, reference: Tensor, k: int) -> float:
    """Share of ``points`` within some reference point's distance to its ``k``-th neighbour (equation 1)."""
    # The nearest of the reference points to each of them is itself, at distance 0: hence k + 1.
    radii = torch.cat([distances(rows, reference).kthvalue(k + 1).values for rows in reference.split(BLOCK_ROWS)])
    inside = sum(int((distances(rows, reference) <= radii).any(dim=1).sum()) for rows in points.split(BLOCK_ROWS))
    return inside / len(points)


class PrecisionRecall(StoredFeatures):
    """Improved precision and recall (arXiv 1904.06991, equations 1 and 2).

    Precision is the share of generated images that lie among the real ones, recall the share of real images that lie
    among the generated ones. Both grow with the size of the set that is looked into: compare equal counts only.

    Args:
        k: Neighbours that the radius around each image reaches to (3 in the paper).

    Raises:
        UserInputError: For ``k`` below 1.
    """

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        if k < 1:
            raise UserInputError(f"k must be at least 1, got {k}")
        self.k = k

    def _settings(self) -> dict[str, Any]:
        return {"k": self.k}

    def compute(self) -> tuple[float, float]:
        """Precision and recall, each in 0 to 1.

        Raises:
            UserInputError: With fewer than k + 1 images on a side.
        """
        real, made = self._features(at_least=self.k + 1)
        return _share_inside(made, real, self.k), _share_inside(real, made, self.k)


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """:class:`PrecisionRecall` of features ``real (N, D)`` and ``made (M, D)``."""
    metric = PrecisionRecall(k)
    metric.update(real, real=True)
    metric.update(made, real=False)
    return metric.compute()
