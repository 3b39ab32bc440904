"""Edits that end where they are told to: ``"age=60"``, ``"smile=0.8"``, ``"age+10"``."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganaug.edits.directions import Direction
from ganaug.interfaces import Edit, UserInputError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_TEXT = re.compile(rf"(?P<base>[A-Za-z]\w*)(?P<how>=|\+|-)(?P<low>{_NUMBER})(?:\.\.(?P<high>{_NUMBER}))?$", re.ASCII)
_CERTAIN = 0.01  # probabilities nearer to 0 or 1 than this are not aimed at: their place is infinitely far away

Link = Literal["identity", "logistic"]


@dataclass(frozen=True)
class Gauge:
    """Reads the score of an attribute off latents: ``link(<w_plus, weights> + bias)``.

    Attributes:
        weights: ``(L, D)``.
        bias: The score, before the link, of latents of zeros.
        link: ``"identity"`` for amounts such as an age in years, ``"logistic"`` for probabilities.
        range: Least and largest amount that it was fitted to; readings end there. None: no end.
    """

    weights: Tensor
    bias: float
    link: Link = "identity"
    range: tuple[float, float] | None = None

    def raw(self, w_plus: Tensor) -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B,)``, the score before the link."""
        return (w_plus * self.weights.to(w_plus)).flatten(1).sum(dim=1) + self.bias

    def __call__(self, w_plus: Tensor) -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B,)``, the score."""
        raw = self.raw(w_plus)
        if self.link == "logistic":
            return raw.sigmoid()
        return raw if self.range is None else raw.clamp(*self.range)

    def to_raw(self, score: Tensor) -> Tensor:
        """Score before the link; probabilities are kept off 0 and 1."""
        return score.clamp(_CERTAIN, 1.0 - _CERTAIN).logit() if self.link == "logistic" else score


class Target:
    """Moves latents along a calibrated direction until the score of an attribute is what was asked for.

    How far that is depends on where the latents lie, so every face gets a strength of its own. The score is what the
    direction's calibration reads off latents, an estimate: a face asked to be sixty looks about sixty as far as the
    calibration is right and the generator can draw it.

    Args:
        name: Name of the edit.
        direction: What is moved along.
        gauge: What is aimed at, rising or falling along the direction.
        value: Range of the score to reach, or of the change of score; both ends equal for one value.
        relative: Whether ``value`` is a change.
        limit: Largest move in standard deviations; a face that is farther away stops there.
        strength: Range of the share of the way.

    Raises:
        UserInputError: For values that are not finite, probabilities outside [0, 1], amounts outside of those that the
            score was fitted to, or a score that does not change along the direction.

    Example:
        >>> up = Direction("up", torch.tensor([[1.0, 0.0]]), std=0.5, rows=[0], touches={"age"})
        >>> edit = Target("up=3", up, Gauge(torch.tensor([[2.0, 0.0]]), bias=1.0), (3.0, 3.0), limit=9.0)
        >>> params = {"value": torch.tensor([3.0]), "strength": torch.ones(1)}
        >>> edit.apply(torch.tensor([[[-1.0, 7.0]]]), params)  # a score of -1 before, 3 after
        tensor([[[1., 7.]]])
    """

    needs_partner = False

    def __init__(
        self,
        name: str,
        direction: Direction,
        gauge: Gauge,
        value: tuple[float, float],
        relative: bool = False,
        limit: float | None = None,
        strength: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        low, high = value
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise UserInputError(f"edit {name!r}: expected one finite value, or two in ascending order, got {value}")
        if gauge.link == "logistic" and not relative and not 0.0 <= low <= high <= 1.0:
            raise UserInputError(f"edit {name!r}: the score is a probability, between 0 and 1, got {value}")
        if gauge.range is not None and not relative and not gauge.range[0] <= low <= high <= gauge.range[1]:
            least, most = gauge.range
            raise UserInputError(f"edit {name!r}: the score was measured between {least:g} and {most:g} only")
        shape = gauge.weights.shape
        step = direction.apply(torch.zeros(1, *shape), {"strength": torch.ones(1)})[0]  # (L, D), one std
        self.rise = float((step.double() * gauge.weights.double()).sum())
        if not math.isfinite(self.rise) or self.rise == 0.0:
            raise UserInputError(f"edit {name!r}: the score does not change along the direction {direction.name!r}")
        self.name, self.direction, self.gauge = name, direction, gauge
        self.touches = direction.touches
        self.value, self.relative, self.strength = value, relative, strength
        self.limit = float(direction.strength[1] if limit is None else limit)

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``value (B,)`` and ``strength (B,)``, uniform over their ranges."""
        (low, high), (least, most) = self.value, self.strength
        return {
            "value": (low + (high - low) * uniforms[:, 0]).float(),
            "strength": (least + (most - least) * uniforms[:, 1]).float(),
        }

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``value (B,)`` and ``strength (B,)``."""
        value, now = params["value"].to(w_plus), self.gauge.raw(w_plus)
        if self.relative:
            before = now.sigmoid() if self.gauge.link == "logistic" else now
            value = before + value
        wanted = ((self.gauge.to_raw(value) - now) / self.rise).clamp(-self.limit, self.limit)
        return self.direction.apply(w_plus, {"strength": wanted * params["strength"].to(w_plus)})


@dataclass(frozen=True)
class TargetName:
    """What a name such as ``"age=20..60"`` says.

    Attributes:
        text: The whole name.
        base: The direction's.
        value: Range of the score, or of its change.
        relative: Whether it is a change.
    """

    text: str
    base: str
    value: tuple[float, float]
    relative: bool


def parse_target(text: str) -> TargetName | None:
    """Reads a name; None if it is not a target's.

    ``name=V`` is a score, ``name+V`` and ``name-V`` are changes of it, and ``V..W`` is drawn uniformly between the two.

    Example:
        >>> parse_target("age=20..60").value, parse_target("age-5").value, parse_target("hair")
        ((20.0, 60.0), (-5.0, -5.0), None)
    """
    found = _TEXT.match(text.replace(" ", ""))
    if found is None:
        return None
    low = float(found["low"])
    high = float(found["high"]) if found["high"] else low
    sign = -1.0 if found["how"] == "-" else 1.0
    value = (min(sign * low, sign * high), max(sign * low, sign * high))
    return TargetName(text, found["base"], value, relative=found["how"] != "=")


def aim(asked: TargetName, direction: Edit) -> Target:
    """The target that a name asks for.

    Args:
        asked: See :func:`parse_target`.
        direction: The edit called ``asked.base``.

    Raises:
        UserInputError: If that edit is no direction, or one without a calibrated score.
    """
    if not isinstance(direction, Direction):
        raise UserInputError(
            f"edit {asked.text!r} aims at a score, and {asked.base!r} is no single direction that leads there but a "
            f"{type(direction).__name__}"
        )
    if direction.calibration is None:
        raise UserInputError(
            f"edit {asked.text!r} aims at a score, and direction {asked.base!r} has no calibration: fit it with "
            "`ganaug directions fit`, which measures one"
        )
    return Target(asked.text, direction, direction.calibration, asked.value, asked.relative)
