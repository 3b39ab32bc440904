"""What an edit did to attributes: those that it should leave alone, and the one that it should move."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.metric import Metric
from ganaug.metrics.states import KeyedSums


class AttributeConsistency(Metric[KeyedSums]):
    """Share of variants that keep an attribute of their photo, and how far attributes move.

    Takes scores as :meth:`ganaug.embedders.FaceEmbedder.attributes` gives them. A quantity (age) is kept while it moves
    by no more than its tolerance; of classes (gender), while the likeliest one stays. The judge's own noise counts as
    movement: two views of one unedited photo tell how much of it there is.

    Args:
        tolerances: Quantity -> how far it may move, in its own unit.

    Raises:
        UserInputError: For a negative tolerance.

    Example:
        >>> metric = AttributeConsistency({"age": 5.0})
        >>> metric.update({"age": torch.tensor([30.0, 40.0])}, {"age": torch.tensor([31.0, 60.0])})
        >>> metric.compute()["age"]["kept"]
        0.5
    """

    def __init__(self, tolerances: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.tolerances = dict(tolerances or {})
        for name, tolerance in self.tolerances.items():
            if not tolerance >= 0:
                raise UserInputError(f"the tolerance of {name!r} must be 0 or more, got {tolerance}")

    def _fresh(self) -> dict[str, KeyedSums]:
        return {"attributes": KeyedSums()}

    def _settings(self) -> dict[str, Any]:
        return {"tolerances": self.tolerances}

    def update(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
        """Adds scores of photos and of one variant of each; a pair with a score that is not finite does not count.

        Args:
            before: Attribute -> ``(B,)`` of a quantity, or ``(B, C)`` probabilities of classes.
            after: The same names and shapes.

        Raises:
            UserInputError: For names or shapes that differ, a quantity without tolerance, classes with one, or after
                :meth:`reduce`.
        """
        if before.keys() != after.keys():
            raise UserInputError(f"expected scores of {sorted(before)} twice, got {sorted(after)} after the edit")
        for name, scores in before.items():
            self._check(name, scores, after[name])
        for name, scores in before.items():
            self._add(name, scores.detach().double(), after[name].detach().double())

    def _check(self, name: str, before: Tensor, after: Tensor) -> None:
        if before.shape != after.shape or before.ndim not in (1, 2):
            shapes = f"{tuple(before.shape)}, {tuple(after.shape)}"
            raise UserInputError(f"expected two of one shape (B,) or (B, C) for {name!r}, got {shapes}")
        if (before.ndim == 1) != (name in self.tolerances):
            wanted = "a tolerance" if before.ndim == 1 else "no tolerance: they are scores of classes"
            raise UserInputError(f"scores {tuple(before.shape)} of {name!r} need {wanted}")
        earlier = self._states["attributes"].sums.get(name)
        if before.ndim == 2 and earlier is not None and len(earlier) - 4 != before.shape[1]:
            raise UserInputError(f"expected {len(earlier) - 4} classes of {name!r} as before, got {before.shape[1]}")

    def _add(self, name: str, before: Tensor, after: Tensor) -> None:
        moves = after - before
        if before.ndim == 1:
            kept, size, moves = moves.abs() <= self.tolerances[name], moves.abs(), moves[:, None]
        else:
            # Half the sum: the share of probability that changes its class.
            kept, size = before.argmax(1) == after.argmax(1), moves.abs().sum(1) / 2.0
        known = torch.isfinite(moves).all(dim=1)
        rows = torch.cat(
            [torch.ones_like(size)[:, None], kept.double()[:, None], size[:, None], size.square()[:, None], moves], 1
        )
        self._writable("attributes").add(name, rows[known].sum(dim=0))

    def compute(self) -> dict[str, dict[str, float]]:
        """Figures by attribute, sorted by name: ``count`` of pairs with finite scores and ``kept``, the share that
        keeps it; ``size``, how far it moves in the mean, with its ``std``, and ``drift``, the mean move itself, to
        which noise adds nothing. Of a quantity the moves are in its own unit and ``drift`` has a sign; of classes they
        are the share of probability that changes its class, 0 to 1.

        All but ``count`` are NaN if no pair has finite scores.

        Raises:
            UserInputError: Before the first update.
        """
        sums = self._states["attributes"].sums
        if not sums:
            raise UserInputError("AttributeConsistency was shown nothing: call update() first")
        return {str(name): self._figures(str(name), sums[name]) for name in sorted(sums, key=str)}

    def _figures(self, name: str, total: Tensor) -> dict[str, float]:
        count = float(total[0])
        kept, size, squares, *moves = (total[1:] / count).tolist()
        variance = max(squares - size * size, 0.0) * count / (count - 1.0) if count > 1 else float("nan")
        drift = moves[0] if name in self.tolerances else sum(map(abs, moves)) / 2.0
        return {"count": int(count), "kept": kept, "size": size, "std": variance**0.5, "drift": drift}
