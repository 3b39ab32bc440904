"""Inception score: how sure a classifier is of each image, and how many different classes it sees in all."""

from typing import Any

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.metric import Metric, checked_features
from ganaug.metrics.states import KeyedSums, check_width


class InceptionScore(Metric[KeyedSums]):
    """``exp(mean KL(p(y|x) || p(y)))`` of a classifier's logits (arXiv 1606.03498, section 4).

    From 1 (every image alike, or the classifier clueless) to the number of classes. It looks at no real image, and the
    classes are ImageNet's: of faces it tells little. Compare figures of one classifier and of equal counts only.

    Memory does not grow with the number of images. Each goes into one of ``splits`` parts in turn; of fewer images the
    score comes out lower, so a figure of ten parts, as published ones are, is not one of a single part.

    Args:
        splits: Parts, at least 1; the paper that published first took 10.

    Raises:
        UserInputError: For ``splits`` below 1.

    Example:
        >>> metric = InceptionScore()
        >>> metric.update(100.0 * torch.eye(4))  # four images, each surely of a class of its own
        >>> metric.compute()
        (4.0, 0.0)
    """

    def __init__(self, splits: int = 1) -> None:
        if splits < 1:
            raise UserInputError(f"splits must be at least 1, got {splits}")
        self.splits = splits
        super().__init__()

    def _fresh(self) -> dict[str, KeyedSums]:
        return {"images": KeyedSums()}

    def _settings(self) -> dict[str, Any]:
        return {"splits": self.splits}

    @property
    def count(self) -> int:
        """How many images there are."""
        return self._states["images"].count

    def update(self, logits: Tensor, numbers: Tensor | None = None) -> None:
        """Adds images.

        Args:
            logits: ``(B, C)`` of the classifier, before its softmax.
            numbers: ``(B,)`` whole numbers from 0 on, the place of each image in the set: image n goes into part
                n modulo ``splits``, and the score then depends neither on the order of the images nor on which process
                saw them. None: they are counted as they come. Of no effect with one part.

        Raises:
            UserInputError: For another shape, another C than before, or after :meth:`reduce`.
        """
        sums = self._writable("images")
        logits = checked_features(logits).double()
        earlier = next(iter(sums.sums.values()), None)
        check_width(None if earlier is None else len(earlier) - 2, logits.shape[1])
        if numbers is None:
            numbers = torch.arange(self.count, self.count + len(logits))
        if numbers.shape != logits.shape[:1] or numbers.is_floating_point():
            raise UserInputError(f"expected {len(logits)} whole numbers, got {numbers.dtype} {tuple(numbers.shape)}")
        parts = (numbers % self.splits).to(logits.device)
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        negative_entropy = (p * log_p).sum(dim=1, keepdim=True)
        rows = torch.cat([torch.ones_like(negative_entropy), negative_entropy, p], dim=1)
        for part in parts.unique().tolist():
            sums.add(part, rows[parts == part].sum(dim=0))

    def compute(self) -> tuple[float, float]:
        """Mean score of the parts and its standard deviation over them (0.0 for one part).

        Raises:
            UserInputError: With a part that is empty.
        """
        sums = self._states["images"].sums
        if len(sums) < self.splits:
            raise UserInputError(f"{self.count} images fill {len(sums)} of {self.splits} parts; all must have some")
        total = torch.stack([sums[part] for part in range(self.splits)])
        means = total[:, 1:] / total[:, :1]
        # KL(p || q) averaged over images = mean of p log p - q log q, for q is the mean of p.
        scores = (means[:, 0] - torch.special.xlogy(means[:, 1:], means[:, 1:]).sum(dim=1)).exp()
        return float(scores.mean()), float(scores.std(correction=0))
