"""Batches of pictures under affine maps, on the device, antialiased where they shrink."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.faces.geometry import invert

Padding = Literal["reflection", "border", "zeros"]

# Lobes on each side of the sinc: Pillow's LANCZOS (Duchon, Lanczos filtering, J. Appl. Meteorology 18, 1979).
_LOBES = 3

# A filter for a smaller change than this one is the identity to a thousandth.
_SHRINKS = 0.999


def warp(images: Tensor, matrices: Tensor, out_size: tuple[int, int], padding: Padding = "zeros") -> Tensor:
    """Maps each picture by its own matrix.

    Bicubic. Where a map shrinks, the picture is filtered first, each by the Lanczos kernel that ``Image.resize`` takes
    for its scale, one width for x and one for y. Nothing waits for the device. Matrices on the CPU are looked at: if
    none of them shrinks, the filter is left out, which changes nothing but the time.

    Args:
        images: ``(B, C, H, W)`` floating point.
        matrices: ``(B, 2, 3)``, pixels of ``images`` to pixels of the result, pixel centres at half-integers.
            Similarities, and scalings that differ for x and y; not shears. May stay on the CPU.
        out_size: Height and width of the result.
        padding: What is seen outside the pictures: their mirror image, their edge, or zero.

    Returns:
        ``(B, C, *out_size)`` float32; next to edges it may overshoot the range of ``images`` a little.

    Example:
        >>> picture = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> upside_down = torch.tensor([[[-1.0, 0.0, 2.0], [0.0, -1.0, 2.0]]])
        >>> warp(picture, upside_down, (2, 2)).round().tolist()
        [[[[3.0, 2.0], [1.0, 0.0]]]]
    """
    result = images.float()
    # A unit step along x in the source is as long in the result as the matrix's first column.
    steps = torch.linalg.vector_norm(matrices[..., :2].float(), dim=-2)
    if matrices.device.type != "cpu" or bool((steps < _SHRINKS).any()):
        steps = steps.clamp(max=1.0).to(result.device, non_blocking=True)
        result = _lanczos(result.shape[2], steps[:, 1])[:, None] @ result
        result = result @ _lanczos(result.shape[3], steps[:, 0])[:, None].transpose(2, 3)
    theta = _sampling_matrices(matrices, (result.shape[2], result.shape[3]), out_size)
    grid = F.affine_grid(theta.to(result.device, non_blocking=True), [len(theta), 1, *out_size], align_corners=False)
    # Bicubic with a = -0.75 (Keys, Cubic convolution interpolation, IEEE Trans. ASSP 29, 1981).
    return F.grid_sample(result, grid, mode="bicubic", padding_mode=padding, align_corners=False)


def _sampling_matrices(matrices: Tensor, in_size: tuple[int, int], out_size: tuple[int, int]) -> Tensor:
    """Result to source, ``(B, 2, 3)`` float32, both counted from -1 to 1 as ``affine_grid`` and ``grid_sample`` do."""
    x, y, shift = invert(matrices.double()).unbind(-1)
    x, y = x * (out_size[1] / 2), y * (out_size[0] / 2)
    theta = torch.stack([x, y, shift + x + y], dim=-1)
    theta = torch.stack([theta[:, 0] * (2 / in_size[1]), theta[:, 1] * (2 / in_size[0])], dim=1)
    theta[:, :, 2] -= 1.0
    return theta.float()


def _lanczos(size: int, scales: Tensor) -> Tensor:
    """Low-pass filters ``(B, size, size)`` for rows or columns that are about to shrink by ``scales (B,)`` in (0, 1].

    Rows sum to one, at the borders too, as in ``Image.resize``. At scale 1 it is the identity.
    """
    place = torch.arange(size, device=scales.device, dtype=torch.float32)
    distance = (place[:, None] - place) * scales[:, None, None]
    kernel = torch.sinc(distance) * torch.sinc(distance / _LOBES) * (distance.abs() < _LOBES)
    return kernel / kernel.sum(dim=-1, keepdim=True)
