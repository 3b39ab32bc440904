"""What metrics remember of what they were shown, in forms that can be added to each other."""

from collections.abc import Hashable
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ganaug.errors import UserInputError


class State(Protocol):
    """Part of a metric's memory."""

    @property
    def count(self) -> int:
        """How many things it was shown."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it is kept."""
        ...

    def merge(self, other: Any) -> None:
        """Adds what another state of the same kind was shown, and leaves that one as it is."""
        ...

    def to(self, device: torch.device) -> Self:
        """A copy that shares no memory with this one, also where the device is the same."""
        ...


def check_width(before: int | None, after: int) -> None:
    """Complains if rows of ``after`` numbers follow such of ``before``; None: nothing came before.

    Raises:
        UserInputError: If they differ.
    """
    if before is not None and before != after:
        raise UserInputError(f"expected features of {before} numbers as before, got {after}")


class Moments:
    """Mean and scatter matrix of a growing set of rows, in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (The American Statistician 37, 1983): unlike
    sums of raw products it loses nothing when the mean is large beside the spread.
    """

    def __init__(self, count: int = 0, mean: Tensor | None = None, scatter: Tensor | None = None) -> None:
        self.count = count
        self.mean = torch.zeros(0) if mean is None else mean
        self.scatter = torch.zeros(0, 0) if scatter is None else scatter

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def width(self) -> int | None:
        """D, or None as long as there are no rows."""
        return len(self.mean) if self.count else None

    def update(self, rows: Tensor) -> None:
        """Adds ``rows (B, D)``.

        Raises:
            UserInputError: For another D than before.
        """
        if not len(rows):
            return
        rows = rows.double()
        mean = rows.mean(dim=0)
        self.merge(Moments(len(rows), mean, (rows - mean).t() @ (rows - mean)))

    def merge(self, other: "Moments") -> None:
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter
            return
        check_width(self.width, len(other.mean))
        total = self.count + other.count
        step = other.mean.to(self.device) - self.mean
        between = torch.outer(step, step) * (self.count * other.count / total)
        # New tensors, not in place: the first batch's may belong to another state.
        self.scatter = self.scatter + other.scatter.to(self.device) + between
        self.mean = self.mean + step * (other.count / total)
        self.count = total

    def to(self, device: torch.device) -> "Moments":
        return Moments(self.count, self.mean.to(device, copy=True), self.scatter.to(device, copy=True))

    def covariance(self) -> Tensor:
        """``(D, D)``, divided by N - 1."""
        return self.scatter / (self.count - 1)


class Rows:
    """Every row, kept as it came and where it was computed."""

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    @property
    def count(self) -> int:
        return sum(map(len, self._batches))

    @property
    def device(self) -> torch.device:
        return self._batches[0].device if self._batches else torch.device("cpu")

    @property
    def width(self) -> int | None:
        """D, or None as long as there are no rows."""
        return self._batches[0].shape[1] if self._batches else None

    def update(self, rows: Tensor) -> None:
        """Adds ``rows (B, D)``.

        Raises:
            UserInputError: For another D than before.
        """
        if not len(rows):
            return
        check_width(self.width, rows.shape[1])
        self._batches.append(rows)

    def merge(self, other: "Rows") -> None:
        device = self.device if self._batches else other.device
        for batch in list(other._batches):  # it may be this very state
            self.update(batch.to(device))

    def to(self, device: torch.device) -> "Rows":
        moved = Rows()
        if self._batches:
            moved.update(torch.cat(self._batches).to(device, copy=True))
        return moved

    def joined(self) -> Tensor:
        """``(N, D)`` in the order in which they came; ``(0, 0)`` for none."""
        # Ranks of one job may have worked on different devices.
        return torch.cat([batch.to(self.device) for batch in self._batches]) if self._batches else torch.zeros(0, 0)


class KeyedSums:
    """For each key a float64 vector on the CPU that grows by adding; its first number counts what was added."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.sums: dict[Hashable, Tensor] = {}

    @property
    def count(self) -> int:
        return round(sum(float(total[0]) for total in self.sums.values()))

    def add(self, key: Hashable, vector: Tensor) -> None:
        """Adds ``vector (K,)``.

        Raises:
            UserInputError: For another K than the key had before.
        """
        vector = vector.detach().to("cpu", torch.float64)
        before = self.sums.get(key)
        if before is None:
            self.sums[key] = vector.clone()
            return
        check_width(len(before), len(vector))
        before += vector

    def merge(self, other: "KeyedSums") -> None:
        for key, vector in other.sums.items():
            self.add(key, vector)

    def to(self, device: torch.device) -> "KeyedSums":
        copy = KeyedSums()
        copy.merge(self)
        return copy
