"""Style mixing with a partner face over a range of rows (StyleGAN, arXiv 1812.04948, section 3.1)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class StyleMixing:
    """Moves chosen rows towards those of a partner's latents.

    Args:
        name: Name of the edit.
        rows: Rows of ``w_plus`` that move; None: all.
        touches: Attributes that the rows carry.
        strength: Range of the mixing weight; 1 replaces the rows.

    Example:
        >>> edit = StyleMixing("fine", rows=[1], touches={"lighting"})
        >>> params = {"partner": torch.ones(1, 2, 3), "strength": torch.tensor([0.5])}
        >>> edit.apply(torch.zeros(1, 2, 3), params)[0, :, 0].tolist()
        [0.0, 0.5]
    """

    needs_partner = True

    def __init__(
        self,
        name: str,
        rows: Sequence[int] | None,
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (0.4, 0.9),
    ) -> None:
        self.name = name
        self.rows = None if rows is None else tuple(rows)
        self.touches = frozenset(touches)
        self.strength = strength

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``, uniform over the range."""
        low, high = self.strength
        return {"strength": (low + (high - low) * uniforms[:, 0]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``partner (B, L, D)`` and ``strength (B,)``."""
        weight = torch.zeros(w_plus.shape[1], device=w_plus.device, dtype=w_plus.dtype)
        weight[slice(None) if self.rows is None else list(self.rows)] = 1.0
        return w_plus + (params["partner"] - w_plus) * (weight[None, :] * params["strength"][:, None])[:, :, None]
