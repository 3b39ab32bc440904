"""How strong edits are: distributions that a policy puts in the place of an edit's own.

Each turns one uniform number per sample into a strength, so that only the policy draws.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ganaug.errors import UserInputError

# Less of a normal distribution than this is no range to draw from: float64 keeps 10 digits of what lies there.
_LEAST_MASS = 1e-6


@runtime_checkable
class StrengthDistribution(Protocol):
    """A distribution of strengths, in the unit of the edit: standard deviations of a direction, weight of a mix."""

    @property
    def signed(self) -> bool:
        """Whether a draw is used as it is. Else it is a magnitude, and the sign is the one that the edit drew."""
        ...

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Inverse of the distribution function: ``(B,)`` float64 in [0, 1) -> ``(B,)`` strengths, pure."""
        ...


def _check_range(kind: str, low: float, high: float, signed: bool) -> None:
    if not all(map(_is_number, (low, high))) or not -math.inf < low <= high < math.inf:
        raise UserInputError(f"{kind}: low and high must be finite numbers with low <= high, got {low!r} and {high!r}")
    if low < 0.0 and not signed:
        raise UserInputError(
            f"{kind}: strengths are magnitudes of at least 0, as the edit draws their sign; got low={low!r}. Say "
            "signed=True to give the sign too"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Uniform:
    """Every strength from ``low`` to ``high`` alike; a tuple ``(low, high)`` means the same.

    Args:
        low: Smallest.
        high: Largest.
        signed: See :class:`StrengthDistribution`; ``Uniform(1, 2, signed=True)`` moves in the positive direction only.

    Raises:
        UserInputError: For an empty range, numbers that are not finite, or a negative one without ``signed``.

    Example:
        >>> Uniform(1.0, 3.0).quantile(torch.tensor([0.0, 0.5])).tolist()
        [1.0, 2.0]
    """

    low: float
    high: float
    signed: bool = False

    def __post_init__(self) -> None:
        _check_range(f"Uniform({self.low}, {self.high})", self.low, self.high, self.signed)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """See :class:`StrengthDistribution`."""
        return self.low + (self.high - self.low) * uniforms


@dataclass(frozen=True)
class Normal:
    """A normal distribution, cut off at ``low`` and ``high``.

    Args:
        mean: Of the whole distribution, before it is cut.
        std: Of the whole distribution, above 0.
        low: Smallest strength.
        high: Largest strength.
        signed: See :class:`StrengthDistribution`; ``Normal(0, 1, -2, 2, signed=True)`` goes both ways, mostly a little.

    Raises:
        UserInputError: As :class:`Uniform`, and for a range that holds next to nothing of the distribution.

    Example:
        >>> Normal(2.0, 0.5, 1.0, 3.0).quantile(torch.tensor([0.5], dtype=torch.float64)).tolist()
        [2.0]
    """

    mean: float
    std: float
    low: float
    high: float
    signed: bool = False

    def __post_init__(self) -> None:
        kind = f"Normal({self.mean}, {self.std}, {self.low}, {self.high})"
        _check_range(kind, self.low, self.high, self.signed)
        if not (_is_number(self.mean) and math.isfinite(self.mean) and _is_number(self.std)):
            raise UserInputError(f"{kind}: mean and std must be finite numbers, got {self.mean!r} and {self.std!r}")
        if not 0.0 < self.std < math.inf:
            raise UserInputError(f"{kind}: std must be above 0, got {self.std!r}; for one strength say Constant")
        below, up_to = self._ends()
        if not up_to - below >= _LEAST_MASS:
            raise UserInputError(
                f"{kind}: only a share of {up_to - below:.1g} of the distribution lies between low and high; widen the "
                "range, move the mean into it, or say Uniform"
            )

    def _ends(self) -> tuple[float, float]:
        """The distribution function at ``low`` and ``high``."""
        return tuple(  # type: ignore[return-value]
            0.5 * math.erfc(-(x - self.mean) / (self.std * math.sqrt(2.0))) for x in (self.low, self.high)
        )

    def quantile(self, uniforms: Tensor) -> Tensor:
        """See :class:`StrengthDistribution`."""
        below, up_to = self._ends()
        z = torch.special.ndtri(below + (up_to - below) * uniforms.double())
        return (self.mean + self.std * z).clamp(self.low, self.high)


@dataclass(frozen=True)
class Constant:
    """Always the same strength.

    Args:
        value: Finite.
        signed: See :class:`StrengthDistribution`.

    Raises:
        UserInputError: As :class:`Uniform`.
    """

    value: float
    signed: bool = False

    def __post_init__(self) -> None:
        _check_range(f"Constant({self.value})", self.value, self.value, self.signed)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """See :class:`StrengthDistribution`."""
        return torch.full_like(uniforms, self.value)


def as_distribution(name: str, given: object) -> StrengthDistribution:
    """What ``strengths`` may hold: a distribution, or a range ``(low, high)``.

    Args:
        name: Edit that it is for; for messages.
        given: From the user.

    Raises:
        UserInputError: For anything else.
    """
    if isinstance(given, StrengthDistribution) and not isinstance(given, type):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2 and all(map(_is_number, given)):
        return Uniform(*given)
    raise UserInputError(f"strengths[{name!r}] must be Uniform, Normal, Constant or a range (low, high), got {given!r}")
