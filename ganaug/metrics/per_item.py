"""Base of the metrics that give every image, or every pair of images, a number of its own."""

import math

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.metric import Metric
from ganaug.metrics.states import Rows


class PerItem(Metric[Rows]):
    """Keeps the numbers, float64 on the CPU, 8 bytes each: medians and intervals need them all."""

    def _fresh(self) -> dict[str, Rows]:
        return {"items": Rows()}

    def _add(self, *columns: Tensor) -> None:
        """Adds ``(B,)`` numbers, one tensor per column."""
        rows = torch.stack(columns, dim=1).detach().to("cpu", torch.float64)
        self._writable("items").update(rows)

    def _columns(self, least: int = 1) -> tuple[Tensor, ...]:
        rows = self._states["items"]
        if rows.count < least:
            raise UserInputError(f"{type(self).__name__} was shown nothing: call update() first")
        return rows.joined().unbind(dim=1)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self._states["items"].count

    @property
    def values(self) -> Tensor:
        """``(N,)`` float64, for a plot or a bootstrap: in the order in which they came, after ``reduce`` by rank.

        Raises:
            UserInputError: Before the first update.
        """
        return self._columns()[0]


def summary(values: Tensor) -> dict[str, float]:
    """``count``, ``mean``, ``std`` (of a sample: divided by N - 1; NaN for one value) and ``median``.

    The sums are exact and rounded once, so that the order of the values changes no bit. All but ``count`` are NaN if a
    value is not finite.

    Args:
        values: ``(N,)`` float64, N at least 1.

    Example:
        >>> summary(torch.tensor([1.0, 2.0, 6.0, 3.0]).double())
        {'count': 4, 'mean': 3.0, 'std': 2.160246899469287, 'median': 2.5}
    """
    count = len(values)
    if not torch.isfinite(values).all():
        return {"count": count, "mean": math.nan, "std": math.nan, "median": math.nan}
    mean = math.fsum(values.tolist()) / count
    squares = math.fsum((values - mean).square().tolist())
    ordered = values.sort().values
    return {
        "count": count,
        "mean": mean,
        "std": math.sqrt(squares / (count - 1)) if count > 1 else math.nan,
        "median": float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2.0),
    }
