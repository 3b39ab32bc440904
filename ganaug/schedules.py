"""Ratios and strengths that change from epoch to epoch. All of them pickle, as loaders with workers need.

A schedule is any function of the epoch. Those made here serve as ``ratio`` (a value is then a share of generated
samples) and as ``strength_schedule`` (a value is then a factor of every strength) of a
:class:`ganaug.policy.AugmentationPolicy`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral

from ganaug.errors import UserInputError

Schedule = Callable[[int], float]


def check_ratio(ratio: object) -> float:
    """``ratio`` as a float.

    Raises:
        UserInputError: Unless it is a number in [0, 1].
    """
    try:
        if isinstance(ratio, (str, bytes)):  # float would take "0.5"
            raise TypeError
        value = float(ratio)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserInputError(f"ratio must be a number in [0, 1] or a function of the epoch, got {ratio!r}") from error
    if not 0.0 <= value <= 1.0:
        raise UserInputError(f"ratio is the expected share of generated samples, between 0 and 1; got {value}")
    return value


def linear_ratio(start: float, end: float, num_epochs: int) -> Schedule:
    """A schedule: from ``start`` in epoch 0 to ``end`` in epoch ``num_epochs - 1``, then constant.

    Example:
        >>> schedule = linear_ratio(0.0, 0.5, num_epochs=3)
        >>> [schedule(epoch) for epoch in range(4)]
        [0.0, 0.25, 0.5, 0.5]
    """
    return _Linear(check_ratio(start), check_ratio(end), _check_epochs(num_epochs))


def cosine_ratio(start: float, end: float, num_epochs: int) -> Schedule:
    """As :func:`linear_ratio`, along half a cosine: slow at both ends (SGDR, arXiv 1608.03983, equation 5).

    Example:
        >>> schedule = cosine_ratio(0.0, 1.0, num_epochs=5)
        >>> [round(schedule(epoch), 3) for epoch in range(6)]
        [0.0, 0.146, 0.5, 0.854, 1.0, 1.0]
    """
    return _Cosine(check_ratio(start), check_ratio(end), _check_epochs(num_epochs))


def step_ratio(steps: Mapping[int, float]) -> Schedule:
    """A schedule that jumps.

    Args:
        steps: Epoch -> value from that epoch on; epoch 0 must be there.

    Example:
        >>> schedule = step_ratio({0: 0.0, 2: 0.5})
        >>> [schedule(epoch) for epoch in range(4)]
        [0.0, 0.0, 0.5, 0.5]
    """
    if not isinstance(steps, Mapping) or not all(_is_epoch(epoch) for epoch in steps) or 0 not in steps:
        raise UserInputError(f"steps maps epochs to ratios and begins with epoch 0, as {{0: 0.0, 5: 0.5}}; got {steps}")
    epochs = sorted(steps)
    return _Step(tuple(epochs), tuple(check_ratio(steps[epoch]) for epoch in epochs))


def curriculum(num_epochs: int, weakest: float = 0.25) -> Schedule:
    """For ``strength_schedule``: from weak to strong, ``weakest`` in epoch 0 and 1 from epoch ``num_epochs - 1`` on.

    Args:
        num_epochs: Length of the rise.
        weakest: Factor of the strengths in epoch 0, in [0, 1]; the default is a choice, not a finding.

    Example:
        >>> schedule = curriculum(num_epochs=4)
        >>> [schedule(epoch) for epoch in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _Linear(check_ratio(weakest), 1.0, _check_epochs(num_epochs))


def _is_epoch(epoch: object) -> bool:
    return isinstance(epoch, Integral) and not isinstance(epoch, bool) and int(epoch) >= 0


def _check_epochs(num_epochs: int) -> int:
    if not _is_epoch(num_epochs) or num_epochs < 1:
        raise UserInputError(f"num_epochs must be a whole number of at least 1, got {num_epochs!r}")
    return num_epochs


@dataclass(frozen=True)
class _Linear:
    start: float
    end: float
    num_epochs: int

    def progress(self, epoch: int) -> float:
        """Share of the way, in [0, 1]."""
        return min(epoch / max(self.num_epochs - 1, 1), 1.0)

    def __call__(self, epoch: int) -> float:
        return self.start + (self.end - self.start) * self.progress(epoch)


@dataclass(frozen=True)
class _Cosine(_Linear):
    def progress(self, epoch: int) -> float:
        return (1.0 - math.cos(math.pi * super().progress(epoch))) / 2.0


@dataclass(frozen=True)
class _Step:
    epochs: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, epoch: int) -> float:
        return self.values[bisect_right(self.epochs, epoch) - 1]
