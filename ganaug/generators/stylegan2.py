"""StyleGAN2: mapping network and skip-generator, written from the papers.

StyleGAN (arXiv 1812.04948): mapping network, noise inputs. StyleGAN2 (arXiv 1912.04958): weight demodulation, output
skips. StyleGAN2-ADA (arXiv 2006.06676): layer sizes, activation clamping, class conditions. Parameter names follow the
published StyleGAN2-ADA checkpoints, so that reading one is a matter of container format and not of renaming.

Speed. The paper scales the *weights* per sample, which needs one convolution group per sample; scaling commutes with
the convolution, so here the activations are scaled before one shared convolution and demodulated after it. On a
GPU the FIR filter that follows the transposed convolution is folded into its weights. Same numbers, see
``tests/test_stylegan2.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.generators.deltas import Delta, LayerDelta, LayerShape
from ganaug.generators.mapping import MappedGenerator, MappingNetwork
from ganaug.generators.style_based import DeltaBased
from ganaug.interfaces import LatentSpec, Noise
from ganaug.layers import LRELU_GAIN, LRELU_SLOPE, EqualLinear, fir_kernel, upsample2d

DEMODULATION_EPS = 1e-8  # arXiv 1912.04958, equation 3


@dataclass(frozen=True)
class StyleGAN2Config:
    """Architecture of a StyleGAN2 generator.

    Attributes:
        img_resolution: Height and width in pixels, a power of two from 8 up.
        z_dim: Size of the Gaussian input.
        w_dim: Size of one row of latents.
        mapping_layers: Fully connected layers of the mapping network, 2 to 8.
        channels: Feature maps at 4, 8, ..., ``img_resolution``.
        conv_clamp: Clamp activations to +- this value (256 in half-precision checkpoints), or None.
        c_dim: Numbers in a condition (one-hot labels, side by side); 0 for an unconditional generator.
        label_sizes: Classes of each of these labels; empty: one label of ``c_dim`` classes.
    """

    img_resolution: int = 64
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    channels: tuple[int, ...] = (512, 512, 512, 512, 512)
    conv_clamp: float | None = None
    c_dim: int = 0
    label_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        steps = math.log2(self.img_resolution) - 1 if self.img_resolution >= 8 else 0.5
        if steps != int(steps):
            raise ValueError(f"img_resolution must be a power of two from 8 up, got {self.img_resolution}")
        if len(self.channels) != int(steps):
            raise ValueError(
                f"a {self.img_resolution} px generator has {int(steps)} resolutions (4 to {self.img_resolution}), "
                f"but channels has {len(self.channels)} entries: {self.channels}"
            )
        if self.c_dim < 0:
            raise ValueError(f"c_dim must be at least 0, got {self.c_dim}")
        if self.label_sizes and sum(self.label_sizes) != self.c_dim:
            raise ValueError(f"label_sizes {self.label_sizes} must add up to c_dim, {self.c_dim}")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "StyleGAN2Config":
        """Inverse of ``dataclasses.asdict``, after a trip through JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in {**config}.items()}
        return cls(**values)


def folding_matrix() -> Tensor:
    """``(9, 36)``: 3x3 taps -> the taps of the four 3x3 convolutions that replace transposed convolution and FIR.

    ``conv_transpose(x, w, stride=2)`` followed by the 4x4 FIR is a transposed convolution with the 6x6 kernel
    ``w * fir`` (full convolution). Each of its four output phases (even/odd row a, even/odd column b) sees 3x3 of the
    6x6 taps, so all four together are one ordinary 3x3 convolution at the low resolution, followed by a pixel shuffle.
    Columns are ordered ``(a, b, row, column)``.
    """
    # Gain 4 makes up for the three zeros put in for each pixel. The FIR is symmetric: no flip needed.
    impulses = torch.eye(9).reshape(9, 1, 3, 3)
    kernel = F.conv2d(impulses, fir_kernel(gain=4.0)[None, None], padding=3).reshape(9, 6, 6)
    # Output row 2h + a reads input row h + d (d = -1, 0, 1) through tap a + 2 - 2d: taps a + 4, a + 2, a.
    phases = kernel.reshape(9, 3, 2, 3, 2).flip(1, 3)  # (9, row, a, column, b)
    return phases.permute(0, 2, 4, 1, 3).reshape(9, 36)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; doubles the resolution first when ``up``."""

    noise_const: Tensor
    folding: Tensor
    fir: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up: bool, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.up = up
        self.resolution = resolution
        self.conv_clamp = conv_clamp
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if up:
            self.register_buffer("folding", folding_matrix(), persistent=False)
            self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)

    def folded_weight(self) -> Tensor:
        """Transposed 3x3 convolution (stride 2) and FIR as one convolution with four outputs a pixel.

        Returns:
            ``(4 * out_channels, in_channels, 3, 3)``, ordered for ``torch.nn.functional.pixel_shuffle``.
        """
        out_channels, in_channels = self.weight.shape[:2]
        taps = self.weight.reshape(-1, 9) @ self.folding
        taps = taps.reshape(out_channels, in_channels, 4, 9).transpose(1, 2)
        return taps.reshape(4 * out_channels, in_channels, 3, 3)

    def upsample(self, x: Tensor, folded: bool) -> Tensor:
        """Transposed convolution and FIR, ``(B, C, H, W)`` -> ``(B, C', 2H, 2W)``.

        Folded, it is one dense convolution: one launch, for tensor cores. In two steps it has a quarter of the
        multiplications, and is three times as fast on a CPU (``benchmarks/synthesis.py``).
        """
        if folded:
            return F.pixel_shuffle(F.conv2d(x, self.folded_weight().to(x.dtype), padding=1), 2)
        x = F.conv_transpose2d(x, self.weight.transpose(0, 1).to(x.dtype), stride=2)
        channels = x.shape[1]
        return F.conv2d(x, self.fir.to(x.dtype).expand(channels, 1, 4, 4), padding=1, groups=channels)

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise: Noise,
        rng: torch.Generator | None = None,
        delta: LayerDelta | None = None,
    ) -> Tensor:
        """``x (B, C, H, W)``, ``w (B, w_dim)`` -> ``(B, C', H', W')``."""
        styles = self.affine(w)
        # d_o = 1 / sqrt(sum_ik (s_i w_oik)^2 + eps), arXiv 1912.04958 equation 3, as one matrix product.
        power = self.weight.square().sum(dim=(2, 3))
        demodulation = (styles.square() @ power.t() + DEMODULATION_EPS).rsqrt()
        x = x * styles.to(x.dtype)[:, :, None, None]
        y = self.upsample(x, folded=x.is_cuda) if self.up else F.conv2d(x, self.weight.to(x.dtype), padding=1)
        if delta is not None:
            y = delta.add_to(y, x, self.fir if self.up else None)
        # The activation's gain is folded into everything that is summed before it (see layers.py).
        shift = (self.bias * LRELU_GAIN)[:, None, None]
        if noise == "const":
            shift = shift + self.noise_const * (self.noise_strength * LRELU_GAIN)
        # One pass over the map for what is the same for all images: product, noise and bias.
        shift = shift[None].to(y.dtype).contiguous(memory_format=torch.channels_last)
        x = torch.addcmul(shift, y, (demodulation * LRELU_GAIN).to(y.dtype)[:, :, None, None])
        if noise == "const" and delta is not None and delta.noise is not None:
            x = x + (delta.noise * LRELU_GAIN).to(x.dtype)
        elif noise == "random":
            field = torch.randn(x.shape[0], 1, *x.shape[2:], generator=rng, device=x.device, dtype=x.dtype)
            x = x + field * (self.noise_strength * LRELU_GAIN).to(x.dtype)
        x = F.leaky_relu(x, LRELU_SLOPE)
        return x if self.conv_clamp is None else x.clamp(-self.conv_clamp, self.conv_clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB, without demodulation."""

    def __init__(self, in_channels: int, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(3, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))
        self.gain = 1.0 / math.sqrt(in_channels)
        self.conv_clamp = conv_clamp

    def forward(self, x: Tensor, w: Tensor, delta: LayerDelta | None = None) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, 3, H, W)``."""
        if delta is not None and delta.weight is not None and delta.bias is not None:
            y = self._with_own_weights(x, w, delta.weight, delta.bias)
        else:
            styles = (self.affine(w) * self.gain).to(x.dtype)
            y = F.conv2d(x * styles[:, :, None, None], self.weight.to(x.dtype), self.bias.to(x.dtype))
        return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)

    def _with_own_weights(self, x: Tensor, w: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A 1x1 convolution with other weights for every image is a product of matrices, and as fast."""
        styles = self.affine(w) * self.gain
        weights = ((self.weight[:, :, 0, 0] + weight) * styles[:, None]).to(x.dtype)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C), a view of channels_last
        y = torch.baddbmm((self.bias + bias).to(x.dtype)[:, None], pixels, weights.transpose(1, 2))
        return y.reshape(len(x), *x.shape[2:], 3).permute(0, 3, 1, 2)


class SynthesisBlock(nn.Module):
    """One resolution: (upsampling layer,) layer, toRGB added to the upsampled image so far."""

    fir: Tensor

    def __init__(self, in_channels: int, out_channels: int, config: StyleGAN2Config, resolution: int) -> None:
        super().__init__()
        self.is_first = resolution == 4

        def layer(channels: int, *, up: bool) -> SynthesisLayer:
            return SynthesisLayer(channels, out_channels, config.w_dim, resolution, up=up, conv_clamp=config.conv_clamp)

        if self.is_first:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = layer(in_channels, up=True)
            self.register_buffer("fir", fir_kernel(gain=4.0), persistent=False)
        self.conv1 = layer(out_channels, up=False)
        self.torgb = ToRGB(out_channels, config.w_dim, config.conv_clamp)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        rows: Sequence[Tensor],
        noise: Noise,
        rng: torch.Generator | None,
        delta: Delta,
    ) -> tuple[Tensor, Tensor]:
        """``rows``: 2 latents for the first block, else 3 (the last feeds toRGB and is shared with the next block).

        ``delta``: changes of its own layers, by their names in the block.
        """
        if x is None or image is None:
            x = self.const[None].expand(rows[0].shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
            x = self.conv1(x, rows[0], noise, rng, delta.get("conv1"))
            return x, self.torgb(x, rows[1], delta.get("torgb"))
        x = self.conv0(x, rows[0], noise, rng, delta.get("conv0"))
        x = self.conv1(x, rows[1], noise, rng, delta.get("conv1"))
        return x, upsample2d(image, self.fir) + self.torgb(x, rows[2], delta.get("torgb"))


class Synthesis(nn.Module):
    """Synthesis network g: W+ -> image."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.resolutions = [4 * 2**i for i in range(len(config.channels))]
        for i, resolution in enumerate(self.resolutions):
            in_channels = config.channels[max(i - 1, 0)]
            self.add_module(f"b{resolution}", SynthesisBlock(in_channels, config.channels[i], config, resolution))

    def style_weights(self) -> list[tuple[int, Tensor]]:
        """Row of ``w_plus`` and matrix ``(C, D)`` from it to the styles, of each convolution; without toRGB."""
        found = []
        for i, resolution in enumerate(self.resolutions):
            block = self.get_submodule(f"b{resolution}")
            layers = [layer for layer in block.children() if isinstance(layer, SynthesisLayer)]
            rows = [0] if i == 0 else [2 * i - 1, 2 * i]
            found += [
                (row, layer.affine.weight * layer.affine.weight_gain) for row, layer in zip(rows, layers, strict=True)
            ]
        return found

    def delta_shapes(self) -> dict[str, LayerShape]:
        """Layers that a delta can change, see :class:`ganaug.generators.deltas.DeltaNetwork`."""
        found = {}
        for resolution in self.resolutions:
            block = self.get_submodule(f"b{resolution}")
            for name in ("conv0", "conv1", "torgb"):
                layer = getattr(block, name, None)  # b4 has no conv0
                if isinstance(layer, SynthesisLayer | ToRGB):
                    out_channels, in_channels, kernel, _ = layer.weight.shape
                    found[f"b{resolution}.{name}"] = LayerShape(out_channels, in_channels, resolution, kernel)
        return found

    def forward(
        self,
        w_plus: Tensor,
        noise: Noise = "const",
        dtype: torch.dtype | None = None,
        rng: torch.Generator | None = None,
        delta: Delta | None = None,
    ) -> Tensor:
        """``(B, L, D)`` -> ``(B, 3, H, W)`` float32.

        Args:
            w_plus: Latents.
            noise: Noise maps: the stored ones, none, or fresh ones.
            dtype: bfloat16 or float16 runs the convolutions in it.
            rng: Where fresh noise is drawn from; torch's global generator if None.
            delta: What each image changes in the layers, see :mod:`ganaug.generators.deltas`.
        """
        rows = w_plus.unbind(dim=1)
        changes: dict[str, dict[str, LayerDelta]] = {}
        for name, change in (delta or {}).items():
            block, _, layer = name.partition(".")
            changes.setdefault(block, {})[layer] = change
        x = image = None
        for i, resolution in enumerate(self.resolutions):
            # b4 reads rows 0, 1; b8 reads 1, 2, 3; b16 reads 3, 4, 5 ...
            used = rows[0:2] if i == 0 else rows[2 * i - 1 : 2 * i + 2]
            block = f"b{resolution}"
            x, image = self.get_submodule(block)(x, image, used, noise, rng, changes.get(block, {}))
            if i == 0 and dtype is not None:
                x = x.to(dtype)
        if image is None:
            raise ValueError("a generator needs at least one resolution")
        return image.float()


class StyleGAN2(DeltaBased, MappedGenerator):
    """StyleGAN2 generator, fulfilling :class:`ganaug.interfaces.Generator`.

    Args:
        config: Architecture.

    Example:
        >>> generator = StyleGAN2(StyleGAN2Config(8, 16, 16, 2, (8, 8))).eval().requires_grad_(False)
        >>> w_plus = generator.mapping(torch.zeros(2, 16))
        >>> w_plus.shape, generator.synthesis(w_plus).shape
        (torch.Size([2, 4, 16]), torch.Size([2, 3, 8, 8]))
    """

    family = "stylegan2"
    config: StyleGAN2Config

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.img_resolution = config.img_resolution
        self.z_dim = config.z_dim
        self.c_dim = config.c_dim
        self.latent_spec = LatentSpec("w_plus", num_ws=2 * len(config.channels), w_dim=config.w_dim)
        self.map_network = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers, config.c_dim)
        self.synthesis_network = Synthesis(config)

    @property
    def label_sizes(self) -> tuple[int, ...]:
        """Classes of each label in a condition; empty for an unconditional generator."""
        return self.config.label_sizes or ((self.c_dim,) if self.c_dim else ())

    def architecture(self) -> dict[str, Any]:
        """As :meth:`StyleBased.architecture`; caches know unconditional generators by what it was before conditions."""
        described = super().architecture()
        if not self.c_dim:
            del described["c_dim"], described["label_sizes"]
        return described
