"""Moving latents along unit directions, in standard deviations."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ganaug.interfaces import UserInputError

if TYPE_CHECKING:
    from ganaug.edits.target import Gauge


class Direction:
    """Adds ``strength * std * direction`` to chosen rows.

    Args:
        name: Name of the edit.
        direction: ``(D,)``, the same for all rows, or ``(L, D)``; made unit length.
        std: Standard deviation of W along the direction, the unit of ``strength``.
        rows: Rows of ``w_plus`` that move.
        touches: Attributes that the direction changes.
        strength: Range of |strength| in standard deviations; the sign is drawn too.
        measured: What is known about it, JSON-able: how it was found, how well it tells faces apart.
        calibration: Reads the score of its attribute off latents.
        one_way: Moves are drawn forwards only: a face without glasses has none to be taken off.

    Example:
        >>> edit = Direction("up", torch.tensor([0.0, 2.0]), std=0.5, rows=[0], touches=set())
        >>> edit.apply(torch.zeros(1, 2, 2), {"strength": torch.tensor([2.0])})[0].tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """

    needs_partner = False

    def __init__(
        self,
        name: str,
        direction: Tensor,
        std: float,
        rows: Sequence[int],
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (1.0, 2.5),
        measured: Mapping[str, Any] | None = None,
        calibration: "Gauge | None" = None,
        one_way: bool = False,
    ) -> None:
        norm = float(direction.norm())
        if direction.ndim not in (1, 2) or not norm > 0.0:
            raise UserInputError(
                f"direction {name!r} must be (D,) or (L, D) of non-zero length, got shape {tuple(direction.shape)}"
            )
        self.name = name
        self.direction = direction.float() / norm
        self.std = float(std)
        self.rows = tuple(rows)
        self.touches = frozenset(touches)
        self.strength = strength
        self.measured = dict(measured or {})
        self.calibration = calibration
        self.one_way = one_way

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``: magnitude uniform over the range, sign by a second number unless ``one_way``."""
        low, high = self.strength
        sign = torch.where((uniforms[:, 1] < 0.5) & (not self.one_way), -1.0, 1.0)
        return {"strength": (sign * (low + (high - low) * uniforms[:, 0])).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``strength (B,)``."""
        rows = torch.zeros(w_plus.shape[1], device=w_plus.device, dtype=w_plus.dtype)
        rows[list(self.rows)] = 1.0
        step = self.direction.to(w_plus) * self.std * rows[:, None]  # (L, D)
        return w_plus + params["strength"].to(w_plus)[:, None, None] * step
