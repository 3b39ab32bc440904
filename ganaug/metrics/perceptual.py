"""Distances between images as a network sees them: of pairs, and among the variants of one photo."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.per_item import PerItem, summary


class PerceptualNetwork(Protocol):
    """What compares: :class:`ganaug.lpips.Lpips`, or :class:`ganaug.features.PerceptualFeatures`.

    Figures of different networks are not comparable: name the network beside each.
    """

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] -> maps ``(B, C_l, H_l, W_l)``."""
        ...

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """``(B,)`` from the maps of two batches."""
        ...


class _Compared(PerItem):
    def __init__(self, network: PerceptualNetwork) -> None:
        super().__init__()
        self.network = network

    def _settings(self) -> dict[str, Any]:
        return {"network": getattr(self.network, "name", type(self.network).__name__)}


class PerceptualDistance(_Compared):
    """Distance of pairs of images: of a photo and its inversion, of a variant and its source, of any two.

    With :class:`ganaug.lpips.Lpips` it is LPIPS (arXiv 1801.03924, equation 1). Over random pairs of different photos
    it tells the diversity of a set, between random pairs of generated images that of a generator.

    Args:
        network: What compares, on the device of the images.
    """

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds the pairs ``(a[i], b[i])``, ``(B, 3, H, W)`` each, in [-1, 1].

        Raises:
            UserInputError: For shapes that differ, or after :meth:`reduce`.
        """
        check_pair(a, b)
        if len(a):
            with torch.no_grad():
                self._add(self.network.distance(self.network(a), self.network(b)))

    def compute(self) -> dict[str, float]:
        """``count`` of pairs, and ``mean``, ``std`` and ``median`` of their distances.

        Raises:
            UserInputError: Before the first pair.
        """
        return summary(self.values)


class PerceptualDiversity(_Compared):
    """How different the variants of one photo look: the mean distance of all their pairs, one number per photo.

    With LPIPS it is the diversity of arXiv 1711.11586 (section 5.2), with all pairs instead of random ones. It rises
    with noise and broken images too: read it beside the realism.

    Args:
        network: What compares, on the device of the images.
    """

    def update(self, variants: Tensor) -> None:
        """Adds photos, each with all of its variants.

        Args:
            variants: ``(S, V, 3, H, W)`` in [-1, 1]: V variants, at least 2, of each of S photos.

        Raises:
            UserInputError: For another shape, fewer variants, or after :meth:`reduce`.
        """
        if variants.ndim != 5 or variants.shape[1] < 2:
            raise UserInputError(
                f"expected variants (S, V, 3, H, W) with at least 2 of each photo, got {tuple(variants.shape)}"
            )
        if not len(variants):
            return
        with torch.no_grad():
            maps = [m.unflatten(0, variants.shape[:2]) for m in self.network(variants.flatten(0, 1))]
            pairs = [
                self.network.distance([m[:, i] for m in maps], [m[:, j] for m in maps]).double()
                for i, j in combinations(range(variants.shape[1]), 2)
            ]
        self._add(torch.stack(pairs).mean(dim=0))

    def compute(self) -> dict[str, float]:
        """``count`` of photos, and ``mean``, ``std`` and ``median`` over them.

        Raises:
            UserInputError: Before the first photo.
        """
        return summary(self.values)


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raises ``UserInputError`` unless both are images ``(B, C, H, W)`` of one shape."""
    if a.ndim != 4 or a.shape != b.shape:
        raise UserInputError(f"expected two batches (B, C, H, W) of one shape, got {tuple(a.shape)}, {tuple(b.shape)}")
