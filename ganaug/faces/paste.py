"""From the generator's chip back into the user's own crop. Pure tensor functions, batched, without draws.

A chip is what the generator sees and draws, ``(R, R)`` pixels; an item is what the user's dataset gives, ``(H, W)``
pixels, of any framing. A matrix per sample says where the pixels of the chip lie in the item (:func:`chip_to_item`).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.faces.geometry import Fit, apply_points, compose, invert, photo_to_item
from ganaug.faces.warp import warp

Paste = Literal["paste", "aligned", "whole"]
PASTES = ("paste", "aligned", "whole")

# All numbers below were set by eye on sheets of FairFace, London and YouTube Faces photos with the edits fine, middle,
# coarse and pca1; see the docstring of `paste` for what each does.
ANALYSIS_SIZE = 64  # what changed is measured on chips of at most this size; lengths below are in its pixels
CHANGED = (0.015, 0.05)  # difference of grey values in [0, 1] at which the mask begins and is full
CHANGED_BLUR = 1.5
MOVED = (0.15, 0.5)  # share of the local variance that is new at which replacing begins and is complete
DETAIL_BLUR = 1.5  # detail is what differs from its surroundings of this width,
MOVED_WINDOW = 2.0  # and its variance is taken over this one
FLAT = 0.025**2  # variance below which a place counts as flat, as the constant C2 of SSIM does
TONE_BLUR = 4.0
TONE_CELL = 4  # the blur is as wide, so that finer than this nothing is left to see
FADE_WIDTH = 0.8  # of half a chip: how far from its edge the fading begins where the item goes on beyond it,
FADE_PROFILE = 0.75  # and the share of that way in which it happens
FULL_FADE = 0.2  # of a chip: the item goes on at least this far where the fading has its full width
VISIBLE = 1.0 / 512.0  # half a grey level of 8 bits: a mask below it shows nothing and counts as zero

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def chip_to_item(geometry: Tensor, chip_size: int, item_size: tuple[int, int], fit: Fit = "auto") -> Tensor:
    """Where the pixels of chips lie in the items that they stand for.

    Args:
        geometry: ``(K, 8)``: the matrix from photo to chip pixels, row after row, then width and height of the photo,
            as a cache has them. Where the size is 0, unknown, the chip is taken for the item's largest centred square.
        chip_size: Side of a chip in pixels.
        item_size: Height and width of the items.
        fit: How the dataset made items of its photos, see :func:`ganaug.faces.geometry.photo_to_item`.

    Returns:
        ``(K, 2, 3)`` float32, on the device of ``geometry``.

    Example:
        >>> unknown = torch.zeros(1, 8)
        >>> chip_to_item(unknown, 64, (100, 128)).tolist()
        [[[1.5625, 0.0, 14.0], [0.0, 1.5625, 0.0]]]
    """
    height, width = item_size
    transform, size = geometry[:, :6].reshape(-1, 2, 3), geometry[:, 6:]
    known = (size > 0).all(dim=1)[:, None, None]
    scale = min(item_size) / chip_size
    square = geometry.new_tensor(
        [[scale, 0.0, (width - min(item_size)) / 2], [0.0, scale, (height - min(item_size)) / 2]]
    )
    # Rows of unknown size may hold no matrix at all; their inverse is not looked at.
    placed = compose(photo_to_item(size, (width, height), fit), invert(torch.where(known, transform, square)))
    return torch.where(known, placed, square)


def paste(
    items: Tensor, edited: Tensor, base: Tensor, matrices: Tensor, residual: float = 0.0, fades: bool = True
) -> Tensor:
    """Carries over into the items what an edit changed, and nothing else.

    ``base`` is the generator's picture of the item's face and ``edited`` the same after the edit, so the item needs
    the change ``edited - base``, and an inversion that is not perfect stays out of sight. In chip pixels::

        mask     = step(blur(|edited - base|), CHANGED) * fade              where anything changed
        moved    = step(var(edited - base) / (var(edited) + var(base) + FLAT), MOVED)
        tone     = blur(photo - base)
        result   = photo + mask * ((edited - base) - (1 - residual) * moved * (photo - base - tone))

    ``var`` is the mean square of the luma's detail in a small Gaussian window, ``step`` the cubic one from 0 to 1. The
    ratio is one minus SSIM's product of contrast and structure (Wang et al., IEEE TIP 13, 2004, equations 9 and 10).

    Where ``moved`` is 0 (colour, light, soft shading), the change is added to the photo, which keeps its own texture
    and sharpness. Where it is 1 (another mouth, hair, glasses), the photo's details are those of what was there before
    and would shine through, so they go: what is left is ``edited + tone``, the generator's picture in the colours of
    the photo. In between the two mix. ``residual`` leaves that share of them in place; see
    :mod:`ganaug.faces.residual` for when that is wanted. ``fade`` is 1, but falls to 0 at those sides of the chip
    beyond which the item goes on, in an oval: nothing ends at the chip's edge, be it hair or a tint of the background.

    In the item's geometry this is one premultiplied layer over the item (Porter and Duff, SIGGRAPH 1984), with
    ``replaced = mask * (1 - residual) * moved``::

        result = (1 - warp(replaced)) * item + warp(mask * (edited - base) + replaced * (base + tone))

    Args:
        items: ``(K, 3, H, W)`` in [0, 1].
        edited: ``(K, 3, R, R)`` in [0, 1].
        base: ``(K, 3, R, R)`` in [0, 1].
        matrices: ``(K, 2, 3)``, chip to item pixels; best on the CPU, see :func:`ganaug.faces.warp.warp`.
        residual: Share in [0, 1] of the photo's own details that stays where others take their place.
        fades: False: ``fade`` is 1 in the chip, so that it ends with a hard edge.

    Returns:
        ``(K, 3, H, W)`` in [0, 1]. Wherever the mask is below half a grey level, so everywhere if ``edited`` equals
        ``base``, the very numbers of ``items``.
    """
    item_size = (items.shape[2], items.shape[3])
    while edited.shape[2] % 2 == 0 and edited.shape[2] >= 4 * max(item_size):  # far finer than anything in the item
        edited, base = F.avg_pool2d(edited, 2), F.avg_pool2d(base, 2)
        matrices = _coarser(matrices, 2.0)
    chip_size = edited.shape[2]
    size = min(chip_size, ANALYSIS_SIZE)
    small_edited, small_base = _resized(edited, size), _resized(base, size)
    mask = _changed(small_edited - small_base)
    if fades:
        faded = fade(_coarser(matrices, chip_size / size), item_size, size)
        mask = mask * faded.to(items.device, non_blocking=True)
    replaced = mask * _moved(small_edited, small_base) * (1.0 - residual)
    cells = max(size // TONE_CELL, 1)
    photos = averages(items, _coarser(matrices, chip_size / cells), cells)
    tone = _resized(_blur(photos - _resized(small_base, cells), TONE_BLUR), chip_size)
    replaced, mask = _resized(torch.cat([replaced, mask], dim=1), chip_size).split(1, dim=1)
    layer = mask * (edited - base) + replaced * (base + tone)
    # Not zeros outside: along an edge that chip and item share, there is nothing to fade to.
    layers = warp(torch.cat([layer, replaced, mask], dim=1), matrices, item_size, padding="border")
    layer, replaced, mask = layers.split([3, 1, 1], dim=1)
    if not fades:
        mask = mask * _inside(matrices, item_size, chip_size).to(items.device, non_blocking=True)
    pasted = ((1.0 - replaced) * items + layer).clamp(0.0, 1.0)
    return torch.where(mask > VISIBLE, pasted, items)


def paste_whole(items: Tensor, variants: Tensor, matrices: Tensor) -> Tensor:
    """Puts whole chips into their places: everything that the generator drew, with a hard edge.

    Args:
        items: ``(K, 3, H, W)`` in [0, 1].
        variants: ``(K, 3, R, R)`` in [0, 1].
        matrices: ``(K, 2, 3)``, chip to item pixels.

    Returns:
        ``(K, 3, H, W)`` in [0, 1]; ``items`` where a pixel's centre lies outside the chip.
    """
    item_size = (items.shape[2], items.shape[3])
    placed = warp(variants, matrices, item_size, padding="border").clamp(0.0, 1.0)
    inside = _inside(matrices, item_size, variants.shape[2])
    return torch.where(inside.to(items.device, non_blocking=True), placed, items)


def _inside(matrices: Tensor, item_size: tuple[int, int], size: int) -> Tensor:
    """``(K, 1, H, W)`` bool: pixels whose centres lie in the chip of ``size``."""
    height, width = item_size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([x, y], dim=-1).flatten(0, 1).to(matrices)
    in_chip = apply_points(invert(matrices), centres)
    return ((in_chip >= 0) & (in_chip <= size)).all(dim=-1).unflatten(1, (1, height, width))


def paste_aligned(variants: Tensor, item_size: tuple[int, int]) -> Tensor:
    """Chips at the size of items, in the generator's framing: scaled to cover the item, then cut to its centre.

    Args:
        variants: ``(K, 3, R, R)`` in [0, 1].
        item_size: Height and width of the items.

    Returns:
        ``(K, 3, H, W)`` in [0, 1].

    Example:
        >>> paste_aligned(torch.zeros(2, 3, 16, 16), (20, 30)).shape
        torch.Size([2, 3, 20, 30])
    """
    height, width = item_size
    side = max(item_size)
    if variants.shape[2] != side:
        shrinks = side < variants.shape[2]
        variants = F.interpolate(variants, (side, side), mode="bicubic", antialias=shrinks, align_corners=False)
        variants = variants.clamp(0.0, 1.0)
    top, left = (side - height) // 2, (side - width) // 2
    return variants[:, :, top : top + height, left : left + width]


def aligned_to_item(chip_size: int, item_size: tuple[int, int]) -> Tensor:
    """The matrix ``(1, 2, 3)`` from chip to item pixels of :func:`paste_aligned`.

    Example:
        >>> aligned_to_item(16, (24, 32)).tolist()
        [[[2.0, 0.0, 0.0], [0.0, 2.0, -4.0]]]
    """
    height, width = item_size
    side = max(item_size)
    left, top = (side - width) // 2, (side - height) // 2
    return torch.tensor([[[side / chip_size, 0.0, -left], [0.0, side / chip_size, -top]]])


def fade(matrices: Tensor, item_size: tuple[int, int], size: int) -> Tensor:
    """Weights that fall to 0 at those sides of a chip beyond which its item goes on.

    Args:
        matrices: ``(K, 2, 3)``, chip to item pixels.
        item_size: Height and width of the items.
        size: Side of the chips.

    Returns:
        ``(K, 1, size, size)`` in [0, 1], on the device of ``matrices``. The width of the fading grows with how far the
        item goes on; less than half a pixel of the chip is rounding and counts as nothing.
    """
    widths = FADE_WIDTH * ((_beyond(matrices, item_size, size) - 0.5) / (FULL_FADE * size)).clamp(0.0, 1.0)
    place = torch.linspace(-1.0, 1.0, size, device=matrices.device)
    left, top, right, bottom = widths[:, :, None].unbind(dim=1)
    across = torch.where(place < 0, left, right)
    down = torch.where(place < 0, top, bottom)
    # 0 where the fading begins and 1 at the edge; a width of 0 never begins.
    across, down = (((place.abs() - 1.0 + w) / w.clamp(min=1e-6)).clamp(min=0.0) * (w > 0) for w in (across, down))
    way = torch.hypot(down[:, :, None], across[:, None, :])
    return _step(1.0 - way, (0.0, FADE_PROFILE))[:, None]


def _beyond(matrices: Tensor, item_size: tuple[int, int], size: int) -> Tensor:
    """How far the item goes on beyond the left, top, right and bottom side of the chip, ``(K, 4)``, in chip pixels.

    The farthest of a few points along the side; 0 where all of them lie outside the item.
    """
    along = torch.linspace(0.05, 0.95, 7) * size
    low, high = torch.zeros(7), torch.full((7,), float(size))
    sides = torch.stack(
        [torch.stack(pair, dim=1) for pair in ((low, along), (along, low), (high, along), (along, high))]
    ).to(matrices)
    outward = torch.tensor([[-1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]]).to(matrices)
    start = apply_points(matrices, sides.flatten(0, 1)).unflatten(1, (4, 7))
    direction = (outward @ matrices[:, :, :2].transpose(1, 2))[:, :, None]
    limit = torch.tensor([item_size[1], item_size[0]]).to(matrices)
    # Along each axis: steps of one chip pixel until the item ends.
    room = torch.where(direction > 0, limit - start, start) / direction.abs().clamp(min=1e-9)
    inside = ((start >= 0) & (start <= limit)).all(dim=-1)
    return torch.where(inside, room.amin(dim=-1), 0.0).amax(dim=-1)


def _changed(change: Tensor) -> Tensor:
    """``(K, 3, S, S)`` -> ``(K, 1, S, S)`` in [0, 1]: where any channel differs."""
    return _step(_blur(change.abs().amax(dim=1, keepdim=True), CHANGED_BLUR), CHANGED)


def _moved(edited: Tensor, base: Tensor) -> Tensor:
    """``(K, 3, S, S)`` each -> ``(K, 1, S, S)`` in [0, 1]: where the structure is another."""
    first, second = _luma(edited), _luma(base)
    values = torch.cat([first, second, first - second], dim=1)
    # Squares of deviations, not the difference of two large means: that would enlarge the rounding of another batch
    # size a thousandfold where a picture is flat.
    variance = _blur((values - _blur(values, DETAIL_BLUR)).square(), MOVED_WINDOW)
    return _step(variance[:, 2:] / (variance[:, :2].sum(dim=1, keepdim=True) + FLAT), MOVED)


def _luma(images: Tensor) -> Tensor:
    """``(K, 3, S, S)`` -> ``(K, 1, S, S)``; numbers and not a tensor of weights, which would have to be sent over."""
    red, green, blue = images.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def averages(items: Tensor, matrices: Tensor, size: int) -> Tensor:
    """What the items show in each of ``size x size`` cells, ``(K, 3, size, size)``; mirrored beyond their edges.

    From copies that were halved again and again, between the two whose pixels are next to a cell's size (Williams,
    Pyramidal parametrics, SIGGRAPH 1983). A proper filter of each item's own width would cost more than all the rest.

    Args:
        items: ``(K, 3, H, W)``.
        matrices: ``(K, 2, 3)``, from cells to item pixels.
        size: Cells along a side.
    """
    place = torch.arange(size, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(place, place, indexing="ij")
    centres = apply_points(matrices, torch.stack([x, y], dim=-1).flatten(0, 1).to(matrices)).unflatten(1, (size, size))
    last = max(math.ceil(math.log2(max(items.shape[2:]) / size)), 0)
    steps = torch.linalg.vector_norm(matrices[:, :, :2], dim=1).amax(dim=1)
    level = steps.log2().clamp(0.0, float(last))
    # Where the edge of an odd picture was halved, the half pixel counts as a whole one.
    extents = [[2**n * math.ceil(side / 2**n) for side in (items.shape[3], items.shape[2])] for n in range(last + 1)]
    grids = torch.stack([2.0 * centres / centres.new_tensor(extent) - 1.0 for extent in extents])
    weights = (1.0 - (level - torch.arange(last + 1).to(level)[:, None]).abs()).clamp(min=0.0)[..., None, None, None]
    grids, weights = (values.to(items.device, non_blocking=True) for values in (grids, weights))
    result = items.new_zeros(len(items), items.shape[1], size, size)
    for number, (grid, weight) in enumerate(zip(grids, weights, strict=True)):
        if number:
            items = F.avg_pool2d(items, 2, ceil_mode=True)
        result += weight * F.grid_sample(items, grid, padding_mode="reflection", align_corners=False)
    return result


def _coarser(matrices: Tensor, factor: float) -> Tensor:
    """From chip to item pixels -> from ``factor`` times as large chip pixels to item pixels."""
    return matrices * matrices.new_tensor([factor, factor, 1.0])


def _resized(images: Tensor, size: int) -> Tensor:
    """Square pictures at another size: averaged or bilinear."""
    if size == images.shape[2]:
        return images
    if size < images.shape[2]:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def _step(values: Tensor, between: tuple[float, float]) -> Tensor:
    """0 below, 1 above, cubic in between."""
    low, high = between
    t = ((values - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian, ``sigma`` in pixels of a chip of ``ANALYSIS_SIZE``; at the edges the weights inside sum to one."""
    size = images.shape[-1]
    place = torch.arange(size, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-0.5 * ((place[:, None] - place) / (sigma * size / ANALYSIS_SIZE)) ** 2, dim=1)
    return kernel @ images @ kernel.T
