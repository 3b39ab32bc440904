"""Moving latents by a random combination of several directions that change one thing in several ways."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganaug.interfaces import NUM_EDIT_UNIFORMS, UserInputError

MAX_AXES = (NUM_EDIT_UNIFORMS - 1) // 2  # one uniform number for the strength, two for each axis


class Span:
    """Adds ``strength`` times a unit combination of axes.

    Light changes in brightness, side, height and warmth; hair in colour and outline. A direction has one of these, a
    span all of them: every sample receives its own combination.

    Args:
        name: Name of the edit.
        axes: ``(K, L, D)``, moves of one standard deviation each; K at most 7.
        touches: Attributes that the axes change.
        strength: Range of the combination's length, in standard deviations.
        measured: What is known about it, JSON-able.

    Raises:
        UserInputError: For another shape, more axes, or an axis of length zero.

    Example:
        >>> edit = Span("plane", torch.eye(2)[:, None], touches={"hair"}, strength=(2.0, 2.0))
        >>> params = edit.sample_params(torch.full((1, 16), 0.4, dtype=torch.float64))
        >>> move = edit.apply(torch.zeros(1, 1, 2), params)
        >>> round(move.norm().item(), 4)
        2.0
    """

    needs_partner = False

    def __init__(
        self,
        name: str,
        axes: Tensor,
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (1.0, 2.5),
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        if axes.ndim != 3 or not 1 <= len(axes) <= MAX_AXES or not bool((axes.flatten(1).norm(dim=1) > 0).all()):
            raise UserInputError(
                f"span {name!r} must have axes (K, L, D) of non-zero length, K from 1 to {MAX_AXES}; got shape "
                f"{tuple(axes.shape)}"
            )
        self.name = name
        self.axes = axes.float()
        self.touches = frozenset(touches)
        self.strength = strength
        self.measured = dict(measured or {})

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``, uniform over the range, and the shares ``axis0 (B,)`` ...: a point on the unit sphere.

        Normal numbers divided by their length are uniform over the sphere (Muller, CACM 2(4), 1959); they come from
        pairs of uniform ones (Box and Muller, Annals of Mathematical Statistics 29, 1958).
        """
        low, high = self.strength
        count = len(self.axes)
        pairs = uniforms[:, 1 : 1 + 2 * count].double().unflatten(1, (count, 2))
        radius = (-2.0 * torch.log1p(-pairs[:, :, 0])).sqrt()  # log of 1 - u: u may be 0, and is never 1
        normal = radius * torch.cos(2.0 * torch.pi * pairs[:, :, 1])
        shares = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
        strength = (low + (high - low) * uniforms[:, 0]).float()
        return {"strength": strength, **{f"axis{k}": shares[:, k].float() for k in range(count)}}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``strength (B,)`` and ``axis0 (B,)`` ... ``axis{K-1} (B,)``."""
        strength, edited = params["strength"].to(w_plus), w_plus
        # Axis by axis, no matrix product: its rounding would depend on the size of the batch.
        for k, axis in enumerate(self.axes.to(w_plus)):
            edited = edited + (strength * params[f"axis{k}"].to(w_plus))[:, None, None] * axis
        return edited

    def along(self, axis: int, strength: Sequence[float]) -> dict[str, Tensor]:
        """Parameters of moves along one axis, for sheets and measurements.

        Args:
            axis: Its number.
            strength: B lengths, of either sign.
        """
        shares = {f"axis{k}": torch.full((len(strength),), float(k == axis)) for k in range(len(self.axes))}
        return {"strength": torch.tensor(strength, dtype=torch.float32), **shares}
