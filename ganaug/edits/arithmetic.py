"""What one face has and another lacks, added to a third: ``w + strength * (a - b)``."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ganaug.cache import LatentCache
from ganaug.edits.parts import UNKNOWN_TOUCHES
from ganaug.interfaces import UserInputError
from ganaug.latents import split_anchor

Faces = Tensor | str | Sequence[str]


class Arithmetic:
    """Adds the difference of two faces, say with and without glasses, to the latents.

    The arithmetic of DCGAN (arXiv 1511.06434, section 6.3.2) on codes of photos. As there, the mean of several faces a
    side works better than one: what they do not share averages out.

    Args:
        name: Name of the edit.
        a: The face or faces that have it: ``(L, D)``, or ``(N, L, D)``, of which the mean is taken; or keys of a cache.
        b: The face or faces that do not, likewise.
        rows: Rows of ``w_plus`` that move; default all.
        touches: Attributes that may change; default: all that are known, since two photos differ in many ways.
        strength: Range of the share of the difference that is added; its sign is never turned.
        cache: Where keys are looked up. Of a record with an anchor the anchor is taken: edits move anchors.

    Raises:
        UserInputError: For keys without a cache or not in it, latents that do not fit, a difference of nothing, or rows
            that are not there.

    Example:
        >>> edit = Arithmetic("smile", a=torch.full((2, 3), 2.0), b=torch.ones(2, 3), rows=[1])
        >>> edit.apply(torch.zeros(1, 2, 3), {"strength": torch.tensor([0.5])})[0, :, 0].tolist()
        [0.0, 0.5]
    """

    needs_partner = False

    def __init__(
        self,
        name: str,
        a: Faces,
        b: Faces,
        rows: Sequence[int] | None = None,
        touches: set[str] | frozenset[str] = UNKNOWN_TOUCHES,
        strength: tuple[float, float] = (0.5, 1.0),
        *,
        cache: LatentCache | None = None,
    ) -> None:
        first, second = (_mean_code(faces, name, cache) for faces in (a, b))
        if first.shape != second.shape:
            raise UserInputError(f"edit {name!r}: a has shape {tuple(first.shape)}, but b {tuple(second.shape)}")
        moved = range(len(first)) if rows is None else rows
        if not len(moved) or not all(0 <= row < len(first) for row in moved):
            raise UserInputError(f"edit {name!r}: rows {list(moved)}, expected some of 0 to {len(first) - 1}")
        kept = torch.zeros(len(first), 1)
        kept[list(moved)] = 1.0
        self.difference = (first - second) * kept  # (L, D)
        if not bool(torch.isfinite(self.difference).all()) or not bool(self.difference.any()):
            raise UserInputError(f"edit {name!r}: a and b do not differ in the rows {list(moved)}, or are not finite")
        self.name = name
        self.rows = tuple(moved)
        self.touches = frozenset(touches)
        self.strength = strength

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """``strength (B,)``, uniform over the range."""
        low, high = self.strength
        return {"strength": (low + (high - low) * uniforms[:, 0]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``params``: ``strength (B,)``."""
        return w_plus + params["strength"].to(w_plus)[:, None, None] * self.difference.to(w_plus)


def _mean_code(faces: Faces, name: str, cache: LatentCache | None) -> Tensor:
    """``(L, D)`` of one or the mean of several faces."""
    if not isinstance(faces, Tensor):
        keys = [faces] if isinstance(faces, str) else list(faces)
        if cache is None or not keys:
            what = "no faces" if not keys else f"faces by key ({keys[0]!r}, ...) but no cache="
            raise UserInputError(f"edit {name!r} was given {what}; expected latents (L, D), or keys and their cache")
        missing = [key for key in keys if key not in cache]
        if missing:
            raise UserInputError(f"edit {name!r}: {cache.path} has no face {missing[0]!r}")
        found = torch.stack([torch.from_numpy(cache.get(key).latents).float() for key in keys])
        faces = split_anchor(found)[1]
    if faces.ndim == 3:
        faces = faces.float().mean(dim=0)
    if faces.ndim != 2:
        raise UserInputError(f"edit {name!r}: a face is latents (L, D) or (N, L, D), got {tuple(faces.shape)}")
    return faces.detach().float().cpu()
