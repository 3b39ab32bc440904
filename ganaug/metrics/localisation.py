"""Whether an edit of one part of the face leaves the rest alone."""

from typing import Any

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.per_item import PerItem
from ganaug.metrics.perceptual import check_pair

# Mean squared change outside over inside up to which an edit of one face counts as local. Set by the project: elsewhere
# pixels then change by half as much as in the part (root mean square).
LOCAL = 0.25


class EditLocalisation(PerItem):
    """Mean squared change of the pixels outside of a mask over that inside (0: nothing moves elsewhere).

    :attr:`values` are the ratios of the images, NaN where the mask is empty or full or nothing changed.

    A global edit with the mask covering nothing special has about 1. The mask should cover the part before and after
    the edit: hair that grows is not outside of the hair.

    Args:
        limit: Ratio up to which a face counts as edited in place.

    Raises:
        UserInputError: For a negative limit.
    """

    def __init__(self, limit: float = LOCAL) -> None:
        super().__init__()
        if not limit >= 0:
            raise UserInputError(f"limit must be 0 or more, got {limit}")
        self.limit = float(limit)

    def _settings(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def update(self, before: Tensor, after: Tensor, inside: Tensor) -> None:
        """Adds images; those whose mask is empty or full do not count.

        Args:
            before: ``(B, C, H, W)`` of unedited images, drawn from the same codes: a photo differs everywhere.
            after: The same shape, edited.
            inside: ``(B, H, W)`` bool, the part that the edit is about.

        Raises:
            UserInputError: For shapes or types that do not fit, or after :meth:`reduce`.
        """
        check_pair(before, after)
        if inside.dtype != torch.bool or inside.shape != (before.shape[0], *before.shape[2:]):
            expected = (before.shape[0], *before.shape[2:])
            raise UserInputError(f"expected a bool mask {expected}, got {inside.dtype} {tuple(inside.shape)}")
        change = (after.detach().double() - before.detach().double()).square().mean(dim=1)
        # An empty side divides 0 by 0: NaN marks it.
        into, out = ((change * side).sum(dim=(1, 2)) / side.sum(dim=(1, 2)) for side in (inside, ~inside))
        self._add(out / into, into, out)

    def compute(self) -> dict[str, float]:
        """``count`` of faces with a part and something else, ``inside`` and ``outside`` (mean squared changes, in the
        unit of the images), ``ratio`` of the two and ``share`` of faces whose own ratio is ``limit`` or less.

        All but ``count`` are NaN if there is no such face, ``ratio`` also if nothing changed; a face in which nothing
        changed at all counts as edited in place.

        Raises:
            UserInputError: Before the first image.
        """
        _, into, out = self._columns()
        known = torch.isfinite(into) & torch.isfinite(out)
        into, out = into[known], out[known]
        return {
            "count": len(into),
            "inside": float(into.mean()),
            "outside": float(out.mean()),
            "ratio": float(out.mean() / into.mean()),
            "share": float((out <= self.limit * into).double().mean()),
        }
