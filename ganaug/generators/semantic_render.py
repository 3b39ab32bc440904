"""Render net of SemanticStyleGAN: fused features to image and segmentation (arXiv 2112.02236, "render net").

It has StyleGAN2's layers without styles. A convolution's demodulation is then constant, so it is folded into the
weights when a file is read, as is the activation's gain, and what is left are plain convolutions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.generators.stylegan2 import folding_matrix
from ganaug.interfaces import Noise
from ganaug.layers import LRELU_GAIN, LRELU_SLOPE, fir_kernel, upsample2d

RGB = 3


class RenderLayer(nn.Module):
    """3x3 convolution, noise, bias, leaky ReLU; doubles the resolution first when ``up``."""

    noise_const: Tensor
    folding: Tensor
    fir: Tensor

    def __init__(self, in_channels: int, out_channels: int, resolution: int, *, up: bool) -> None:
        super().__init__()
        self.up = up
        weight = torch.randn(out_channels, in_channels, 3, 3)
        norm = weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()  # as demodulated: arXiv 1912.04958, equation 3
        self.weight = nn.Parameter(weight * LRELU_GAIN / norm)
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if up:
            self.register_buffer("folding", folding_matrix(), persistent=False)
            self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)

    def convolve(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H', W')``, with bias.

        Upsampling is a transposed convolution and the FIR: in two steps on a CPU, in one on a GPU, see
        :meth:`ganaug.generators.stylegan2.SynthesisLayer.upsample`.
        """
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if not self.up:
            return F.conv2d(x, weight, bias, padding=1)
        outputs, inputs = weight.shape[:2]
        if x.is_cuda:
            taps = (self.weight.reshape(-1, 9) @ self.folding).reshape(outputs, inputs, 4, 9).transpose(1, 2)
            taps = taps.reshape(4 * outputs, inputs, 3, 3).to(x.dtype)
            return F.pixel_shuffle(F.conv2d(x, taps, bias.repeat_interleave(4), padding=1), 2)
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return F.conv2d(x, self.fir.to(x.dtype).expand(outputs, 1, 4, 4), bias, padding=1, groups=outputs)

    def forward(self, x: Tensor, noise: Noise, rng: torch.Generator | None) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C', H', W')``."""
        x = self.convolve(x)
        # In place: on a CPU every pass over a feature map counts, and no gradient needs what was there before.
        if noise == "const":
            x.add_((self.noise_const * self.noise_strength).to(x.dtype))
        elif noise == "random":
            field = torch.randn(x.shape[0], 1, *x.shape[2:], generator=rng, device=x.device, dtype=x.dtype)
            x.add_(field * self.noise_strength.to(x.dtype))
        return F.leaky_relu_(x, LRELU_SLOPE)


class RenderBlock(nn.Module):
    """One resolution: an upsampling layer, a layer, and what it adds to image and segmentation."""

    fir: Tensor

    def __init__(self, in_channels: int, out_channels: int, num_parts: int, resolution: int) -> None:
        super().__init__()
        self.conv0 = RenderLayer(in_channels, out_channels, resolution, up=True)
        self.conv1 = RenderLayer(out_channels, out_channels, resolution, up=False)
        # RGB and part logits in one pass over the features.
        self.out_weight = nn.Parameter(torch.randn(RGB + num_parts, out_channels) / math.sqrt(out_channels))
        self.out_bias = nn.Parameter(torch.zeros(RGB + num_parts))
        self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)

    def forward(
        self, x: Tensor, out: Tensor | None, num_outputs: int, noise: Noise, rng: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Features and the float32 outputs so far (``num_outputs`` channels), both at the resolution below."""
        x = self.conv1(self.conv0(x, noise, rng), noise, rng)
        weight = self.out_weight[:num_outputs, :, None, None].to(x.dtype)
        added = F.conv2d(x, weight, self.out_bias[:num_outputs].to(x.dtype)).float()
        return x, added if out is None else upsample2d(out, self.fir) + added


class RenderNet(nn.Module):
    """Features at the coarse resolution, shrunk and enlarged again to image and segmentation.

    Args:
        in_channels: Channels of the features.
        channels: Channels of the blocks; each doubles the resolution.
        num_parts: Channels of the segmentation.
        coarse_resolution: Of the features.
        img_resolution: Of the outputs.
        residual_refine: The coarse masks are added to the segmentation where it has their resolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        num_parts: int,
        coarse_resolution: int,
        img_resolution: int,
        residual_refine: bool,
    ) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.coarse_resolution = coarse_resolution
        self.residual_refine = residual_refine
        self.resolutions = [img_resolution >> i for i in reversed(range(len(channels)))]
        width = in_channels
        for resolution, out_channels in zip(self.resolutions, channels, strict=True):
            # Features join again, unshrunk, where the resolution has come back to theirs.
            joined = width + in_channels if resolution // 2 == coarse_resolution else width
            self.add_module(f"b{resolution}", RenderBlock(joined, out_channels, num_parts, resolution))
            width = out_channels

    def forward(
        self, features: Tensor, masks: Tensor, noise: Noise, rng: torch.Generator | None, return_parts: bool
    ) -> tuple[Tensor, Tensor]:
        """``features (B, F, R, R)``, coarse ``masks (B, K, R, R)`` -> images ``(B, 3, H, W)``, logits ``(B, K, H, W)``.

        Without ``return_parts`` the logits are empty, ``(B, 0, H, W)``: nothing is computed for them.
        """
        num_outputs = RGB + self.num_parts if return_parts else RGB
        x = F.avg_pool2d(features, 2 * self.coarse_resolution // self.resolutions[0])
        out: Tensor | None = None
        for resolution in self.resolutions:
            if resolution // 2 == self.coarse_resolution:
                x = torch.cat([x, features], dim=1)
            x, out = self.get_submodule(f"b{resolution}")(x, out, num_outputs, noise, rng)
            if return_parts and self.residual_refine and resolution == self.coarse_resolution:
                out = torch.cat([out[:, :RGB], out[:, RGB:] + (2.0 * masks - 1.0)], dim=1)
        if out is None:
            raise ValueError("a render net needs at least one block")
        return out[:, :RGB].contiguous(), out[:, RGB:].contiguous()
