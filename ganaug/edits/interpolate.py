"""Part of the way to another person: every row of the latents moves toward a partner's."""

from collections.abc import Mapping

from torch import Tensor

from ganaug.edits.parts import UNKNOWN_TOUCHES


class Interpolate:
    """Moves all rows of the latents along the straight line to those of a partner.

    At strength 1 the result *is* the partner, so whatever tells two people apart changes on the way: identity, age,
    gender, pose, background. Mixing in W is linear (StyleGAN, arXiv 1812.04948, section 4.1: W need not follow the
    sphere that Z lies on, so a straight line stays among faces).

    Args:
        name: Name of the edit.
        touches: Attributes that may change; default: all that are known.
        strength: Range of the share of the way. The default stays on this side of the middle, from where the face would
            be closer to the partner than to the photo.

    Example:
        >>> import torch
        >>> params = {"partner": torch.ones(1, 2, 3), "strength": torch.tensor([0.25])}
        >>> Interpolate().apply(torch.zeros(1, 2, 3), params)[0, :, 0].tolist()
        [0.25, 0.25]
    """

    needs_partner = True

    def __init__(
        self,
        name: str = "interpolate",
        touches: set[str] | frozenset[str] = UNKNOWN_TOUCHES,
        strength: tuple[float, float] = (0.1, 0.45),
    ) -> None:
        self.name = name
        self.touches = frozenset(touches)
        self.strength = strength

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``, uniform over the range."""
        low, high = self.strength
        return {"strength": (low + (high - low) * uniforms[:, 0]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``partner (B, L, D)`` and ``strength (B,)``."""
        return w_plus + (params["partner"].to(w_plus) - w_plus) * params["strength"].to(w_plus)[:, None, None]
