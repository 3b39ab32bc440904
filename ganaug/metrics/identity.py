"""Whether variants keep the person of their photo, and how alike the persons of a set are: cosines of embeddings."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.metric import Metric, checked_features
from ganaug.metrics.per_item import PerItem, summary
from ganaug.metrics.states import KeyedSums, check_width


class IdentityPreservation(PerItem):
    """Cosine between the embedding of a variant and that of its photo.

    An embedder that chose the variants, as the gate's does, flatters them: judge by another one where there is one.

    Args:
        threshold: Cosine from which on two faces count as one person; of the embedder, see
            :attr:`ganaug.embedders.FaceEmbedder.threshold`.

    Raises:
        UserInputError: For a threshold that is no cosine.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        if not -1.0 <= threshold <= 1.0:
            raise UserInputError(f"threshold must be a cosine from -1 to 1, got {threshold}")
        self.threshold = float(threshold)

    def _settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def update(self, photos: Tensor, variants: Tensor) -> None:
        """Adds embeddings ``(B, D)`` of photos and of one variant of each; their length does not matter.

        Raises:
            UserInputError: For shapes that differ, or after :meth:`reduce`.
        """
        if photos.shape != variants.shape:
            raise UserInputError(
                f"expected two of one shape (B, D), got {tuple(photos.shape)}, {tuple(variants.shape)}"
            )
        self._add((_directions(photos) * _directions(variants)).sum(dim=1))

    def compute(self) -> dict[str, float]:
        """``count`` of variants, ``mean``, ``std`` and ``median`` cosine, ``share`` of at least ``threshold``.

        Raises:
            UserInputError: Before the first variant.
        """
        kept = float((self.values >= self.threshold).double().mean())
        return {**summary(self.values), "share": kept, "threshold": self.threshold}


class IdentityDiversity(Metric[KeyedSums]):
    """How alike the variants of one photo are, and how alike those of different photos.

    ``within`` is the mean cosine over all pairs of variants of one photo, averaged over photos: near 1 if the person
    stays the same. ``between`` is that over all pairs of variants of different photos: low if the set keeps many
    people apart. Augmentation that merges people raises ``between`` above that of the photos themselves: measure
    them too, with one "variant" each. The sum of all pairs' cosines is a sum of squares, so only one vector per photo
    is kept.

    Example:
        >>> metric = IdentityDiversity()
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), ["ann", "ann", "bob"])
        >>> found = metric.compute()
        >>> found["within"], found["between"]
        (1.0, 0.0)
    """

    def _fresh(self) -> dict[str, KeyedSums]:
        return {"photos": KeyedSums()}

    def update(self, variants: Tensor, photos: Sequence[Hashable] | Tensor) -> None:
        """Adds variants; those of one photo may come in different batches.

        Args:
            variants: ``(B, D)`` embeddings; their length does not matter.
            photos: ``(B,)`` key of each variant's photo.

        Raises:
            UserInputError: For another shape, another D than before, another number of keys, or after :meth:`reduce`.
        """
        keys = photos.tolist() if isinstance(photos, Tensor) else list(photos)
        directions = _directions(variants).cpu()
        if len(keys) != len(directions):
            raise UserInputError(f"expected a photo for each of {len(directions)} variants, got {len(keys)}")
        state = self._writable("photos")
        earlier = next(iter(state.sums.values()), None)
        check_width(None if earlier is None else len(earlier) - 2, directions.shape[1])
        # A number with the vector: 1 up to rounding, but 0 for a vector of zeros, which is like nothing.
        rows = torch.cat([torch.ones(len(keys), 1), directions.square().sum(1, keepdim=True), directions], 1)
        for key, row in zip(keys, rows, strict=True):
            state.add(key, row)

    def compute(self) -> dict[str, float]:
        """``photos`` and ``variants`` (counts), ``within`` (with its ``std`` over photos) and ``between``.

        ``within`` is NaN if no photo has two variants, ``between`` if there is one photo alone.

        Raises:
            UserInputError: Before the first variant.
        """
        state = self._states["photos"]
        if not state.sums:
            raise UserInputError("IdentityDiversity was shown nothing: call update() first")
        # In an order that does not depend on which process saw what.
        sums = torch.stack([state.sums[key] for key in sorted(state.sums, key=repr)])
        counts, squares, vectors = sums[:, 0], sums[:, 1], sums[:, 2:]
        # |sum of v|^2 = sum of |v|^2 + twice the cosines of all pairs
        lengths = vectors.square().sum(dim=1)
        several = counts > 1
        within = (lengths - squares)[several] / (counts * (counts - 1))[several]
        pairs = float(counts.sum() ** 2 - counts.square().sum())
        found = summary(within) if len(within) else {"mean": math.nan, "std": math.nan}
        return {
            "photos": len(sums),
            "variants": int(counts.sum()),
            "within": found["mean"],
            "within_std": found["std"],
            "between": float(vectors.sum(dim=0).square().sum() - lengths.sum()) / pairs if pairs else math.nan,
        }


def _directions(embeddings: Tensor) -> Tensor:
    """``(B, D)`` float64 of unit length."""
    return F.normalize(checked_features(embeddings).double())
