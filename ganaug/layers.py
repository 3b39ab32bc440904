"""Layers that several networks share: equalised learning rate, gained activations, FIR resampling.

Everything here is stateless or a single small module; no network is defined in this file.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Gain that keeps unit variance through a leaky ReLU of slope 0.2 (StyleGAN2, arXiv 1912.04958, appendix B). The leaky
# ReLU is positively homogeneous, gain * lrelu(x) = lrelu(gain * x), so the gain is folded into the weights and biases
# before it, which saves a pass over every feature map.
LRELU_SLOPE = 0.2
LRELU_GAIN = math.sqrt(2.0)

# Binomial filter [1, 3, 3, 1] used by StyleGAN2 for every resampling step (arXiv 1912.04958, section B).
FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


def fir_kernel(gain: float = 1.0) -> Tensor:
    """The separable (4, 4) binomial low-pass kernel, summing to ``gain``."""
    taps = torch.tensor(FIR_TAPS)
    kernel = torch.outer(taps, taps)
    return kernel * (gain / kernel.sum())


def upsample2d(x: Tensor, kernel: Tensor) -> Tensor:
    """Doubles height and width: zero insertion followed by the FIR ``kernel`` (4, 4), which should sum to 4.

    Args:
        x: ``(B, C, H, W)``.
        kernel: ``(4, 4)``, see :func:`fir_kernel`.

    Returns:
        ``(B, C, 2H, 2W)``.
    """
    channels = x.shape[1]
    weight = kernel.to(x.dtype)[None, None].expand(channels, 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


class EqualLinear(nn.Module):
    """Fully connected layer with equalised learning rate (Progressive GAN, arXiv 1710.10196, section 4.1).

    The stored weight has unit variance (divided by ``lr_multiplier``); the He constant is applied at run time.

    Args:
        in_features: Size of the last axis going in.
        out_features: Size of the last axis coming out.
        lr_multiplier: Learning rate of this layer relative to the rest (0.01 in StyleGAN's mapping network).
        bias_init: Initial value of the bias.
        activate: Apply the gained leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init) / lr_multiplier))
        gain = LRELU_GAIN if activate else 1.0
        self.weight_gain = gain * lr_multiplier / math.sqrt(in_features)
        self.bias_gain = gain * lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        y = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return F.leaky_relu(y, LRELU_SLOPE) if self.activate else y


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate; "same" padding for odd kernels, halving for ``down=True``.

    Halving uses one 4x4 convolution of stride 2: a 3x3 convolution and a 2x2 box filter would fold into just such a
    kernel, so the filter is left to be learnt.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: 1 or 3; ignored when ``down`` is set.
        down: Halve height and width.
        bias: Add a bias.
        activate: Apply the gained leaky ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        size = 4 if down else kernel_size
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = LRELU_GAIN if activate else 1.0
        self.weight_gain = self.gain / math.sqrt(in_channels * size * size)
        self.stride = 2 if down else 1
        self.padding = 1 if down else kernel_size // 2
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H', W')``, computed in the dtype of ``x``."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        bias = None if self.bias is None else (self.bias * self.gain).to(x.dtype)
        y = F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)
        return F.leaky_relu(y, LRELU_SLOPE) if self.activate else y
