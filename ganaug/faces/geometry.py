"""Affine maps as ``(..., 2, 3)`` matrices: inverse, composition, points, and where a photo lies in a dataset's item.

Coordinates are pixels, x to the right and y down, from the corner of the picture: the centre of the first pixel is
``(0.5, 0.5)``, so that a scaled picture has scaled coordinates. A matrix maps ``(x, y, 1)``. All functions are batched,
run on the device of their arguments without waiting for it.
"""

from typing import Literal

import torch
from torch import Tensor

from ganaug.interfaces import UserInputError

Fit = Literal["auto", "square", "stretch"]
FITS = ("auto", "square", "stretch")

# Relative difference of two aspect ratios that counts as rounding of a size to whole pixels: 1 %.
SAME_ASPECT = 0.01


def invert(matrices: Tensor) -> Tensor:
    """The maps that lead back, ``(..., 2, 3)``; by the closed form of a 2x2 inverse, in float64 inside.

    A matrix without an inverse gives infinite or NaN numbers, as a division by zero does: to check would stall the
    device.

    Example:
        >>> invert(torch.tensor([[2.0, 0.0, 4.0], [0.0, 2.0, 6.0]])).tolist()
        [[0.5, 0.0, -2.0], [0.0, 0.5, -3.0]]
    """
    a, b, x, c, d, y = matrices.double().flatten(-2).unbind(-1)
    linear = torch.stack([d, -b, -c, a], dim=-1) / (a * d - b * c)[..., None]
    inverse = linear.unflatten(-1, (2, 2))
    shift = -(inverse @ torch.stack([x, y], dim=-1)[..., None])
    # + 0.0 turns -0.0 into 0.0.
    return (torch.cat([inverse, shift], dim=-1) + 0.0).to(matrices.dtype)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map ``point -> outer(inner(point))``; ``(..., 2, 3)`` each, broadcast against each other.

    Example:
        >>> double, shift = torch.tensor([[2.0, 0, 0], [0, 2, 0]]), torch.tensor([[1.0, 0, 3], [0, 1, 5]])
        >>> compose(double, shift).tolist()
        [[2.0, 0.0, 6.0], [0.0, 2.0, 10.0]]
    """
    first, second = outer.double(), inner.double()
    linear = first[..., :2] @ second[..., :2]
    shift = first[..., :2] @ second[..., 2:] + first[..., 2:]
    return torch.cat([linear, shift], dim=-1).to(torch.promote_types(outer.dtype, inner.dtype))


def apply_points(matrices: Tensor, points: Tensor) -> Tensor:
    """Maps points.

    Args:
        matrices: ``(..., 2, 3)``.
        points: ``(..., N, 2)``, x and y; leading dimensions are broadcast.

    Returns:
        ``(..., N, 2)``.

    Example:
        >>> apply_points(torch.tensor([[2.0, 0.0, 4.0], [0.0, 2.0, 6.0]]), torch.tensor([[1.0, 1.0]])).tolist()
        [[6.0, 8.0]]
    """
    return points @ matrices[..., :2].transpose(-1, -2) + matrices[..., 2].unsqueeze(-2)


def photo_to_item(photo_sizes: Tensor, item_size: tuple[int, int], fit: Fit = "auto") -> Tensor:
    """Where the pixels of photos lie in the items that a dataset made of them by resizing and cropping.

    ``"square"``: the largest centred squares correspond, as after ``Resize`` and ``CenterCrop``, and for chips.
    ``"stretch"``: the whole photo is scaled to the item, as after ``Resize((h, w))``; the identity for equal sizes.
    ``"auto"``: stretch if the aspect ratios are equal to 1 %, else square.

    Args:
        photo_sizes: ``(..., 2)``, width and height of the upright photos in pixels. Zero, unknown, counts as the
            item's own size.
        item_size: Width and height of the items in pixels.
        fit: As above.

    Returns:
        ``(..., 2, 3)``: photo pixels to item pixels, of the dtype of ``photo_sizes``, or float32 for whole numbers.

    Raises:
        UserInputError: For an unknown ``fit``.

    Example:
        >>> photo_to_item(torch.tensor([200.0, 100.0]), (50, 50)).tolist()
        [[0.5, 0.0, -25.0], [0.0, 0.5, 0.0]]
    """
    if fit not in FITS:
        raise UserInputError(f"unknown fit {fit!r}: expected one of {', '.join(FITS)}")
    width, height = (photo_sizes if photo_sizes.is_floating_point() else photo_sizes.float()).unbind(-1)
    known = (width > 0) & (height > 0)
    item_width, item_height = float(item_size[0]), float(item_size[1])
    # Numbers of the host all along: a tensor made of them on a GPU would wait for it.
    width, height = width.where(known, item_width), height.where(known, item_height)
    x_scale, y_scale = item_width / width, item_height / height
    if fit != "stretch":
        square = min(item_width, item_height) / torch.minimum(width, height)
        keep = (x_scale / y_scale - 1.0).abs() <= (SAME_ASPECT if fit == "auto" else -1.0)
        x_scale, y_scale = x_scale.where(keep, square), y_scale.where(keep, square)
    # The centres of both pictures correspond: a stretch maps corners to corners, and the squares are centred.
    x_shift, y_shift = (item_width - x_scale * width) / 2, (item_height - y_scale * height) / 2
    zero = torch.zeros_like(width)
    return torch.stack([x_scale, zero, x_shift, zero, y_scale, y_shift], dim=-1).unflatten(-1, (2, 3))
