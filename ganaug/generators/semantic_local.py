"""Local generators of SemanticStyleGAN: one small network per part, all run as one, and their fusion by depth.

Each part has a network of 1x1 convolutions on Fourier features of the pixel's position (arXiv 2112.02236, "local
generators"), so a pixel never sees its neighbours here. All parts' networks have the same shape: a layer of all parts
and samples is one batched matrix product. Modulation scales the weights and not the activations: a layer has far fewer
weights than activations, 64 x 64 against 64 x 4096 at the published size.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.generators.stylegan2 import DEMODULATION_EPS
from ganaug.layers import LRELU_GAIN, LRELU_SLOPE

# On a CPU this many pixels go through all layers before the next, so that activations stay in the cache (1.7 times as
# fast as all 4096 at once, 13 parts of 64 channels, batch 8).
PIXELS_PER_BLOCK = 512
FUSION_EPS = 1e-8  # keeps the renormalised masks finite where only transparent parts are


def fourier_features(num_frequencies: int, resolution: int) -> Tensor:
    """Positions in [-1, 1], with sine and cosine at frequencies 1, 2, 4, ... (arXiv 2112.02236, "local generators").

    Returns:
        ``(2 + 4 * num_frequencies, resolution ** 2)``: x, y, then for each frequency sin x, sin y, cos x, cos y.
    """
    line = torch.linspace(-1.0, 1.0, resolution)
    y, x = torch.meshgrid(line, line, indexing="ij")
    position = torch.stack([x, y]).flatten(1)
    waves = [wave(2.0**i * position) for i in range(num_frequencies) for wave in (torch.sin, torch.cos)]
    return torch.cat([position, *waves])


class LocalGenerators(nn.Module):
    """All local generators and the fusion of what they make.

    The tensors of all parts are stacked: K parts (part 0 is the background), N layers, C channels. The constants of
    equalised learning rate are folded into them.

    Args:
        num_parts: K.
        num_layers: N of each part's network.
        depth_layers: Layers before the depth is read off; 0: no depth, parts weigh the same everywhere.
        channels: C.
        out_channels: Channels F of the fused features.
        w_dim: Numbers in a code.
        num_frequencies: Of the position's Fourier features.
        resolution: Height and width, in pixels.
        transparent: Parts through which those behind remain visible (glasses, earrings).
    """

    position: Tensor
    transparency: Tensor

    def __init__(
        self,
        *,
        num_parts: int,
        num_layers: int,
        depth_layers: int,
        channels: int,
        out_channels: int,
        w_dim: int,
        num_frequencies: int,
        resolution: int,
        transparent: Sequence[int],
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.depth_layers = depth_layers
        features = 2 + 4 * num_frequencies

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape) / math.sqrt(shape[-1]))

        self.position_weight = weight(channels, features)
        self.affine_weight = weight(num_parts, num_layers, channels, w_dim)
        self.affine_bias = nn.Parameter(torch.ones(num_parts, num_layers, channels))
        self.weight = weight(num_parts, num_layers, channels, channels)
        self.bias = nn.Parameter(torch.zeros(num_parts, num_layers, channels))
        self.feature_weight = weight(num_parts, out_channels, channels)
        self.feature_bias = nn.Parameter(torch.zeros(num_parts, out_channels))
        self.depth_weight = weight(num_parts - 1, channels)  # the background's depth is 0
        self.depth_bias = nn.Parameter(torch.zeros(num_parts - 1))
        self.register_buffer("position", fourier_features(num_frequencies, resolution), persistent=False)
        clear = torch.tensor([float(part in transparent) for part in range(num_parts)])
        self.register_buffer("transparency", clear[:, None], persistent=False)

    def modulated(self, codes: Tensor) -> Tensor:
        """Weights of every layer for ``codes (B, K, N, D)``, modulated and demodulated: ``(N, B * K, C, C)``."""
        parts, layers = codes.shape[1:3]
        flat = codes.flatten(1, 2).transpose(0, 1)  # (K * N, B, D)
        styles = torch.baddbmm(
            self.affine_bias.flatten(0, 1)[:, None], flat, self.affine_weight.flatten(0, 1).transpose(1, 2)
        )  # (K * N, B, C)
        # arXiv 1912.04958, equations 1 and 3, the norm as a product of squares; the activation's gain goes into what is
        # summed before it.
        power = styles.square() @ self.weight.flatten(0, 1).square().transpose(1, 2)
        scale = (power + DEMODULATION_EPS).rsqrt() * LRELU_GAIN
        # (N, B, K, C); contiguous, since the strides of what is small decide those of the large product.
        styles, scale = (t.unflatten(0, (parts, layers)).permute(1, 2, 0, 3).contiguous() for t in (styles, scale))
        weight = self.weight.transpose(0, 1).contiguous()[:, None] * styles[..., None, :]  # (N, B, K, C, C)
        return (weight * scale[..., None]).flatten(1, 2)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """``codes (B, K, N, D)``, one for each part and layer -> fused features and coarse masks.

        Returns:
            ``(B, F, R, R)`` channels_last, and ``(B, K, R, R)`` in [0, 1] with sum 1 over the parts.
        """
        weights = self.modulated(codes)
        x = self.position_weight @ self.position
        blocks = x.split(x.shape[1] if x.is_cuda else PIXELS_PER_BLOCK, dim=1)
        made = [self.fuse(*self.layers(block, weights)) for block in blocks]
        square = (self.resolution, self.resolution)
        features = torch.cat([features for features, _ in made], dim=1)  # (B, P, F)
        masks = torch.cat([masks for _, masks in made], dim=2)  # (B, K, P)
        return features.unflatten(1, square).permute(0, 3, 1, 2), masks.unflatten(2, square)

    def layers(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """``x (C, P)`` through all layers of all parts: activations ``(B, K, C, P)`` and depths ``(B, K, P)``."""
        parts = self.weight.shape[0]
        batch, channels, pixels = weights.shape[1] // parts, *x.shape
        bias = (self.bias * LRELU_GAIN).transpose(0, 1)[..., None]  # (N, K, C, 1)
        depth = x.new_zeros(batch, parts, pixels)
        for i, weight in enumerate(weights):
            # The input of the first layer is the same for all.
            y = (weight.flatten(0, 1) @ x).view(len(weight), channels, pixels) if i == 0 else torch.bmm(weight, x)
            x = F.leaky_relu_(y.view(batch, parts, channels, pixels).add_(bias[i]), LRELU_SLOPE).flatten(0, 1)
            if i == self.depth_layers - 1:
                seen = x.view(batch, parts, channels, pixels)[:, 1:]
                read = (self.depth_weight[:, None] @ seen).squeeze(2) + self.depth_bias[:, None]
                depth = torch.cat([depth[:, :1], read], dim=1)
        return x.view(batch, parts, channels, pixels), depth

    def fuse(self, x: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each part, weighted by its mask and summed (arXiv 2112.02236, "fusion").

        A transparent part adds its features without taking away from those behind it: the masks of the others are
        scaled to sum 1 among themselves.

        Returns:
            ``(B, P, F)`` and masks ``(B, K, P)``.
        """
        masks = depth.softmax(dim=1)
        opaque = masks * (1.0 - self.transparency)
        weights = opaque / (opaque.sum(dim=1, keepdim=True) + FUSION_EPS) + masks * self.transparency
        # sum_k weight_k (W_k x_k + b_k) as two matrix products: the features of single parts are never stored.
        weighted = (x * weights[:, :, None]).flatten(1, 2)  # (B, K * C, P)
        matrix = self.feature_weight.transpose(1, 2).flatten(0, 1)  # (K * C, F)
        return weighted.transpose(1, 2) @ matrix + weights.transpose(1, 2) @ self.feature_bias, masks
