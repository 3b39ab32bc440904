"""Variants as the photo plus a change: ``x + G(edit(w)) - G(w)``, for what the generator cannot say.

A generator draws faces of its own kind: not the earring, the writing on the wall, a microphone, single hairs. What it
misses of a photo ``x`` is the residual ``x - G(w)``. A variant that is the generator's picture loses all of it;
:func:`ganaug.faces.paste.paste` keeps it where the edit changes nothing, or colours alone, and drops it where the edit
moves structure. With ``residual=1`` it stays there too: the variant is the edited picture plus the residual.

Where it helps: edits that leave shapes where they are (hair, background, age, brows; light and skin are the same either
way), photos with things in front of the face or behind it, and good inversions, which have little left to add.

Where it fails: edits that move shapes (pose, another mouth, partners, ``resample``). The residual does not move with
them: outlines of eyes, mouth and glasses that the inversion did not hit show twice, once where they were. Nor can it
take away what the generator never drew: glasses that are not in ``G(w)`` stay on.

``benchmarks/residual.py`` measures both.
"""

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.faces.geometry import compose, invert
from ganaug.faces.warp import warp

_SAME_PLACE = 1e-4  # of a pixel; sampling would change nothing that an 8-bit picture could show


def check_residual(residual: float | None) -> float | None:
    """``residual`` of :class:`ganaug.GANAugmentedDataset`, if it is one.

    Raises:
        UserInputError: If it is neither None nor a number in [0, 1].
    """
    if residual is None:
        return None
    # True would be 1, but False would not be None: it pays to say which is meant.
    if isinstance(residual, bool) or not isinstance(residual, int | float) or not 0.0 <= residual <= 1.0:
        raise UserInputError(
            "residual is the share of the photo's own details that stays where an edit puts others, a number in "
            f"[0, 1], or None; got {residual!r}"
        )
    return float(residual)


def reframed(items: Tensor, in_items: Tensor, in_served: Tensor) -> Tensor:
    """Items in the framing in which variants are served, mirrored beyond their edges.

    Args:
        items: ``(K, 3, H, W)`` in [0, 1].
        in_items: ``(K, 2, 3)`` on the CPU, chip to item pixels.
        in_served: ``(K, 2, 3)`` on the CPU, chip to pixels of what is served.

    Returns:
        ``(K, 3, H, W)`` in [0, 1]; the very numbers of an item that lies there already.

    Example:
        >>> item, here = torch.arange(12.0).view(1, 3, 2, 2) / 12, torch.eye(2, 3)[None]
        >>> torch.equal(reframed(item, here, here), item)
        True
    """
    matrices = compose(in_served, invert(in_items))
    there = (matrices - torch.eye(2, 3)).abs().amax(dim=(1, 2)) < _SAME_PLACE
    if bool(there.all()):  # the host's: nothing waits
        return items
    moved = warp(items, matrices, (items.shape[2], items.shape[3]), padding="reflection").clamp(0.0, 1.0)
    return torch.where(there.to(items.device, non_blocking=True)[:, None, None, None], items, moved)
