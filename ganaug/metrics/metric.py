"""What every metric can do: forget, take in what another one saw, and share with the other processes of a job."""

from typing import Any, Generic, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics.states import Moments, Rows, State, check_width

S = TypeVar("S", bound=State)
T = TypeVar("T", bound=Moments | Rows)


class Metric(Generic[S]):
    """Base of all metrics: named states of one kind, of which a subclass fills some and computes figures."""

    def __init__(self) -> None:
        self._states: dict[str, S] = self._fresh()
        self._shared: set[str] = set()  # names of the states that hold every process's share

    def _fresh(self) -> dict[str, S]:
        """States that have seen nothing; always the same names."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """What two metrics must have in common before what they saw may be added."""
        return {}

    def _writable(self, name: str) -> S:
        """A state to add to.

        Raises:
            UserInputError: If it holds the share of other processes already: they would never learn of the rest.
        """
        if name in self._shared:
            raise UserInputError(f"{type(self).__name__} was reduced; call reset() before adding to it")
        return self._states[name]

    def reset(self) -> None:
        """Forgets what was added."""
        self._states, self._shared = self._fresh(), set()

    def merge(self, other: Self) -> None:
        """Adds what another metric was shown, as if this one had been shown it next; the other stays as it is.

        Raises:
            UserInputError: For a metric of another kind or with other settings, or after :meth:`reduce`.
        """
        self._check_alike(_identity(other))
        for name, state in other._states.items():
            if state.count:
                self._writable(name).merge(state)

    def reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Adds up what all processes of a job were shown; afterwards each of them computes the same figures.

        Every process of the group has to call it; shares may be uneven or empty. It is explicit, because training
        loops often evaluate on one process alone: ``compute`` never waits for others. Where torch.distributed was not
        initialised it shares nothing. What was reduced can be computed and reset, but not be added to; after
        ``reset(keep_real=True)`` the real side stays shared, and the next call adds up the generated side only.

        States travel as pickled objects (``all_gather_object``): use it among processes that trust each other, and
        with NCCL call ``torch.cuda.set_device`` before. Figures are those of one process that was shown the shares in
        order of rank, up to the rounding of float64 sums.

        Args:
            group: Processes that take part; None for all.

        Raises:
            UserInputError: For a process outside of the group, or processes whose metrics differ in kind or settings.
        """
        waiting = [name for name in self._states if name not in self._shared]
        if dist.is_available() and dist.is_initialized():
            if dist.get_rank(group) < 0:
                raise UserInputError("reduce was called by a process that is not in the group")
            device = torch.device("cpu")
            mine = (_identity(self), {name: self._states[name].to(device) for name in waiting})
            shares: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(shares, mine, group=group)
            merged = self._fresh()
            for identity, states in shares:
                self._check_alike(identity)
                if sorted(states) != sorted(waiting):
                    raise UserInputError(
                        f"{type(self).__name__}: processes do not agree on what was reduced before: "
                        f"{sorted(waiting)} still to be added here, {sorted(states)} there; call reset() on all of them"
                    )
                for name in waiting:
                    merged[name].merge(states[name])
            for name in waiting:
                self._states[name] = merged[name].to(self._states[name].device)
        self._shared.update(waiting)

    def _check_alike(self, other: tuple[str, dict[str, Any]]) -> None:
        if other != _identity(self):
            mine, theirs = _identity(self), other
            raise UserInputError(
                f"cannot add what {theirs[0]} with {theirs[1]} saw to {mine[0]} with {mine[1]}: they must be of one "
                "kind and set alike"
            )


def _identity(metric: Metric[Any]) -> tuple[str, dict[str, Any]]:
    return type(metric).__name__, metric._settings()


def checked_features(features: Tensor) -> Tensor:
    """``features (B, D)``, cut off from autograd.

    Raises:
        UserInputError: For another shape.
    """
    if features.ndim != 2:
        raise UserInputError(f"expected features of shape (B, D), got {tuple(features.shape)}")
    return features.detach()


class TwoSets(Metric[T]):
    """Base of the metrics that compare the features of real images with those of generated ones."""

    def update(self, features: Tensor, real: bool) -> None:
        """Adds ``features (B, D)`` of real or of generated images.

        Raises:
            UserInputError: For features of another shape than before, or a side that was reduced.
        """
        rows = checked_features(features)
        for state in self._states.values():
            check_width(state.width, rows.shape[1])
        self._writable("real" if real else "generated").update(rows)

    @property
    def counts(self) -> tuple[int, int]:
        """How many real and how many generated images there are: say so beside the figure."""
        return self._states["real"].count, self._states["generated"].count

    def reset(self, *, keep_real: bool = False) -> None:
        """Forgets what was added; with ``keep_real`` only the generated side."""
        fresh = self._fresh()
        for name in ("generated",) if keep_real else ("real", "generated"):
            self._states[name] = fresh[name]
            self._shared.discard(name)

    def _at_least(self, least: int) -> tuple[T, T]:
        """Both sides, real first.

        Raises:
            UserInputError: With fewer images than that on a side.
        """
        for name, state in self._states.items():
            if state.count < least:
                raise UserInputError(f"{state.count} {name} images, at least {least} are needed")
        return self._states["real"], self._states["generated"]
