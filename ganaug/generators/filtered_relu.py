"""Upsample, leaky ReLU, downsample: the alias-free nonlinearity (StyleGAN3, arXiv 2106.12423, sections 2.1 and 3.2).

The textbook form inserts zeros and filters a signal of four times the area, several times over. Here resampling along
an axis is a product with a banded matrix, which holds zero insertion, padding, cropping and the filter, and skips what
would be multiplied by zero or thrown away. The wide signal exists in tiles only, which stay in the processor's cache
and in one buffer: at four times the area, taking fresh memory costs more than the arithmetic. For gradients only the
input is kept; tiles are computed again.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ganaug.layers import LRELU_SLOPE


class Banded(NamedTuple):
    """A matrix, zero in row r outside of columns ceil((step * r + low) / stride) to floor((step * r + high) / stride).

    Attributes:
        dense: ``(R, K)``, with its zeros.
        step: Of the band per row, times ``stride``.
        stride: Denominator.
        low: First column of row 0, times ``stride``.
        high: Last column of row 0, times ``stride``.
    """

    dense: Tensor
    step: int
    stride: int
    low: int
    high: int

    @property
    def transposed(self) -> "Banded":
        return Banded(self.dense.t(), self.stride, self.step, -self.high, -self.low)

    def columns(self, first: int, last: int) -> tuple[int, int]:
        """Range of columns that rows ``first`` to ``last - 1`` read; (0, 0) for none."""
        if first >= last:
            return 0, 0
        start = -((-self.step * first - self.low) // self.stride)
        stop = (self.step * (last - 1) + self.high) // self.stride + 1
        start, stop = max(start, 0), min(stop, self.dense.shape[1])
        return (start, stop) if start < stop else (0, 0)


def upsampling(taps: Tensor, size: int, up: int, padding: tuple[int, int]) -> Banded:
    """Zero insertion, padding and filtering of ``size`` samples; gain ``up``.

    Row i, column j of the matrix is tap ``i + len(taps) - 1 - padding[0] - up * j``.
    """
    length = len(taps)
    low, high = -padding[0], length - 1 - padding[0]
    rows = size * up + sum(padding) - (length - 1)
    dense = _toeplitz(taps * up, rows, size, 1, up, high)
    return Banded(dense, 1, up, low, high)


def downsampling(taps: Tensor, size: int, down: int) -> Banded:
    """Filtering of ``size`` samples, of which every ``down``-th is kept."""
    length = len(taps)
    rows = (size - length) // down + 1
    return Banded(_toeplitz(taps, rows, size, down, 1, length - 1), down, 1, 0, length - 1)


def _toeplitz(taps: Tensor, rows: int, columns: int, row_step: int, column_step: int, offset: int) -> Tensor:
    """``(rows, columns)``: tap ``offset + row_step * r - column_step * c``, zero where there is no such tap."""
    r = torch.arange(rows, device=taps.device)[:, None] * row_step
    c = torch.arange(columns, device=taps.device) * column_step
    return F.pad(taps, (1, 1))[(r - c + (offset + 1)).clamp_(0, len(taps) + 1)]


class Tiling(NamedTuple):
    """How much is computed at a time.

    Attributes:
        samples: Images.
        rows: Rows of the result.
        columns: Columns times channels of the wide signal; they are independent while rows are resampled.
        block: Results per matrix product along the width. More skip fewer of the band's zeros.
    """

    samples: int
    rows: int
    columns: int
    block: int

    @classmethod
    def of(cls, x: Tensor, pixels: int) -> "Tiling":
        """For ``x (B, H, W, C)`` that is resampled to ``pixels``. On CPU: tiles of 34 x 4096 numbers, half of an L2."""
        if x.device.type == "cpu":
            return cls(1, 12, 4096 * torch.get_num_threads(), 32)
        return cls(max(1, (1 << 28) // (pixels * x.shape[3])), 64, 1 << 62, 64)


class Resampling(NamedTuple):
    """Everything about the two resampling steps of one feature map, ``(H, W)`` to ``(H', W')``.

    Attributes:
        up: Matrices along height and width.
        down: Matrices along height and width; of a radial filter, only their bands count.
        radial: ``(T, T)`` filter of two dimensions, or None.
        factor: Downsampling factor.
    """

    up: tuple[Banded, Banded]
    down: tuple[Banded, Banded]
    radial: Tensor | None
    factor: int

    @classmethod
    def of(cls, x: Tensor, up_filter: Tensor, down_filter: Tensor, up: int, down: int, padding: tuple[int, int]) -> Any:
        """For ``x (B, C, H, W)``."""
        ups = [upsampling(up_filter.to(x.dtype), size, up, padding) for size in x.shape[2:]]
        radial = down_filter.to(x.dtype) if down_filter.ndim == 2 else None
        line = down_filter.to(x.dtype) if radial is None else radial[0]
        downs = [downsampling(line, matrix.dense.shape[0], down) for matrix in ups]
        return cls((ups[0], ups[1]), (downs[0], downs[1]), radial, down)

    def radial_weight(self, channels: int) -> Tensor:
        """``(C, 1, T, T)`` for torch's convolutions, which do not flip."""
        if self.radial is None:
            raise ValueError("this filter is separable")
        return self.radial.flip(0, 1).expand(channels, 1, -1, -1)


def filtered_leaky_relu(
    x: Tensor,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    *,
    up: int,
    down: int,
    padding: tuple[int, int],
    clamp: float | None,
) -> Tensor:
    """Leaky ReLU (and clamping) of the continuous signal that ``x`` samples.

    Args:
        x: ``(B, C, H, W)``.
        up_filter: ``(T,)``, None for the identity.
        down_filter: ``(T,)`` separable or ``(T, T)``, None for the identity.
        up: Factor of the rate before the nonlinearity.
        down: Factor after it.
        padding: Zeros before and after each axis of the zero-stuffed signal; negative to crop.
        clamp: Limit of the magnitude after the nonlinearity, or None.

    Returns:
        ``(B, C, H', W')``, channels_last; H' = (up * H + sum(padding) - taps + 1 - taps') // down + 1. Gradients are
        of first order.
    """
    identity = x.new_ones(1)
    up_filter = identity if up_filter is None else up_filter
    down_filter = identity if down_filter is None else down_filter
    y: Tensor = _FilteredLeakyReLU.apply(x, up_filter, down_filter, up, down, padding, clamp)
    return y


class _FilteredLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up_filter: Tensor,
        down_filter: Tensor,
        up: int,
        down: int,
        padding: tuple[int, int],
        clamp: float | None,
    ) -> Tensor:
        ctx.save_for_backward(x, up_filter, down_filter)
        ctx.settings = up, down, padding, clamp
        resampling = Resampling.of(x, up_filter, down_filter, up, down, padding)
        return _last_to_first(_forward(_first_to_last(x), resampling, clamp))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, up_filter, down_filter = ctx.saved_tensors
        up, down, padding, clamp = ctx.settings
        resampling = Resampling.of(x, up_filter, down_filter, up, down, padding)
        result = _backward(_first_to_last(x), _first_to_last(gradient.to(x.dtype)), resampling, clamp)
        return _last_to_first(result), None, None, None, None, None, None


def _first_to_last(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, H, W, C)`` contiguous; a view of channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _last_to_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _blocks(size: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)


class _Scratch:
    """One piece of memory, used again and again: fresh pages cost more than the arithmetic on them."""

    def __init__(self, like: Tensor) -> None:
        self.memory = like.new_empty(0)

    def view(self, *shape: int) -> Tensor:
        """Uninitialised, of this shape; what was viewed before is lost."""
        if math.prod(shape) > self.memory.numel():
            self.memory = self.memory.new_empty(math.prod(shape))
        return self.memory[: math.prod(shape)].view(shape)


def _along_width(matrix: Banded, x: Tensor, out: Tensor, block: int) -> None:
    """``x (B, H, K, C)`` -> ``out (B, H, R, C)``, both contiguous."""
    x, out = x.flatten(0, 1), out.flatten(0, 1)
    for r0, r1 in _blocks(out.shape[1], block):
        c0, c1 = matrix.columns(r0, r1)
        torch.bmm(matrix.dense[r0:r1, c0:c1].expand(len(x), -1, -1), x[:, c0:c1], out=out[:, r0:r1])


def _along_height(matrix: Banded, rows: tuple[int, int], x: Tensor, first: int, out: Tensor) -> None:
    """Rows of the product with ``x (B, K, N)``, of which ``x`` starts at row ``first``, into ``out (B, R, N)``."""
    c0, c1 = matrix.columns(*rows)
    part = matrix.dense[slice(*rows), c0:c1]
    torch.bmm(part.expand(len(x), -1, -1), x[:, c0 - first : c1 - first], out=out)


def _activate(wide: Tensor, clamp: float | None) -> None:
    F.leaky_relu_(wide, LRELU_SLOPE)
    if clamp is not None:
        wide.clamp_(-clamp, clamp)


def _through_activation(gradient: Tensor, wide: Tensor, clamp: float | None) -> None:
    """Multiplies the gradient by the derivative at ``wide``, in place."""
    slope = torch.where(wide > 0, wide.new_ones(()), wide.new_full((), LRELU_SLOPE))
    if clamp is not None:
        slope.masked_fill_((wide > clamp) | (wide < -clamp / LRELU_SLOPE), 0.0)
    gradient.mul_(slope)


def _forward(x: Tensor, resampling: Resampling, clamp: float | None) -> Tensor:
    """``(B, H, W, C)`` -> ``(B, H', W', C)``."""
    (up_h, up_w), (down_h, down_w) = resampling.up, resampling.down
    batch, height, _, channels = x.shape
    width = len(up_w.dense)
    tiling = Tiling.of(x, len(up_h.dense) * width)
    out = x.new_empty(batch, len(down_h.dense), len(down_w.dense), channels)
    stretching, shrinking, scratch = _Scratch(x), _Scratch(x), _Scratch(x)
    for b0, b1 in _blocks(batch, tiling.samples):
        count, result = b1 - b0, out[b0:b1]
        stretched = stretching.view(count, height, width * channels)
        _along_width(up_w, x[b0:b1], stretched.view(count, height, width, channels), tiling.block)
        if resampling.radial is not None:
            weight = resampling.radial_weight(channels)
            for o0, o1 in _blocks(len(down_h.dense), tiling.rows):
                i0, i1 = down_h.columns(o0, o1)
                wide = scratch.view(count, i1 - i0, width * channels)
                _along_height(up_h, (i0, i1), stretched, 0, wide)
                _activate(wide, clamp)
                signal = _last_to_first(wide.view(count, i1 - i0, width, channels))
                filtered = F.conv2d(signal, weight, stride=resampling.factor, groups=channels)
                result[:, o0:o1] = filtered.permute(0, 2, 3, 1)
            continue
        shrunk = shrinking.view(count, len(down_h.dense), width * channels)
        for o0, o1 in _blocks(len(down_h.dense), tiling.rows):
            i0, i1 = down_h.columns(o0, o1)
            for q0, q1 in _blocks(width * channels, tiling.columns):
                wide = scratch.view(count, i1 - i0, q1 - q0)
                _along_height(up_h, (i0, i1), stretched[:, :, q0:q1], 0, wide)
                _activate(wide, clamp)
                _along_height(down_h, (o0, o1), wide, i0, shrunk[:, o0:o1, q0:q1])
        _along_width(down_w, shrunk.view(count, -1, width, channels), result, tiling.block)
    return out


def _backward(x: Tensor, gradient: Tensor, resampling: Resampling, clamp: float | None) -> Tensor:
    """Gradient with respect to ``x (B, H, W, C)``: the transposed matrices, the other way round."""
    (up_h, up_w), (down_h, down_w) = resampling.up, resampling.down
    batch, height, _, channels = x.shape
    width = len(up_w.dense)
    tiling = Tiling.of(x, len(up_h.dense) * width)
    out = torch.empty_like(x)
    buffers = [_Scratch(x) for _ in range(5)]
    for b0, b1 in _blocks(batch, tiling.samples):
        count = b1 - b0
        stretched = buffers[0].view(count, height, width * channels)
        _along_width(up_w, x[b0:b1], stretched.view(count, height, width, channels), tiling.block)
        result = buffers[1].view(count, height, width * channels)
        spread, columns = gradient[b0:b1], width * channels
        if resampling.radial is None:
            spread, columns = buffers[2].view(count, len(down_h.dense), width * channels), tiling.columns
            _along_width(down_w.transposed, gradient[b0:b1], spread.view(count, -1, width, channels), tiling.block)
        for j0, j1 in _blocks(height, tiling.rows):
            i0, i1 = up_h.transposed.columns(j0, j1)
            for q0, q1 in _blocks(width * channels, columns):
                wide = buffers[3].view(count, i1 - i0, q1 - q0)
                _along_height(up_h, (i0, i1), stretched[:, :, q0:q1], 0, wide)
                arriving = buffers[4].view(count, i1 - i0, q1 - q0)
                if resampling.radial is None:
                    _along_height(down_h.transposed, (i0, i1), spread[:, :, q0:q1], 0, arriving)
                else:
                    _spread_radial(spread, resampling, (i0, i1), arriving.view(count, i1 - i0, width, channels))
                _through_activation(arriving, wide, clamp)
                _along_height(up_h.transposed, (j0, j1), arriving, i0, result[:, j0:j1, q0:q1])
        _along_width(up_w.transposed, result.view(count, height, width, channels), out[b0:b1], tiling.block)
    return out


def _spread_radial(gradient: Tensor, resampling: Resampling, rows: tuple[int, int], out: Tensor) -> None:
    """Transposed radial downsampling of ``gradient (B, H', W', C)``: some rows of the wide signal's gradient."""
    out.zero_()  # the signal's margins may be read by no filter
    o0, o1 = resampling.down[0].transposed.columns(*rows)
    if o0 == o1:
        return
    channels, factor = gradient.shape[3], resampling.factor
    weight = resampling.radial_weight(channels)
    spread = F.conv_transpose2d(_last_to_first(gradient[:, o0:o1]), weight, stride=factor, groups=channels)
    spread = spread.permute(0, 2, 3, 1)[:, rows[0] - o0 * factor : rows[1] - o0 * factor]
    out[:, : spread.shape[1], : spread.shape[2]] = spread
