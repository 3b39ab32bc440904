"""StyleGAN3: alias-free synthesis, configs T and R, written from the paper (arXiv 2106.12423).

The image is a function of continuous coordinates: Fourier features that can be moved and turned, then layers that keep
to their band (:mod:`ganaug.alias_free` has the geometry, ``filtered_relu.py`` the nonlinearity). There are no
noise maps.

Speed: scaling by styles commutes with the convolution, so activations are scaled before one shared convolution and
demodulated after it, as in ``stylegan2.py``.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.alias_free import LayerSpec, StyleGAN3Config, layer_specs
from ganaug.generators.filtered_relu import filtered_leaky_relu
from ganaug.generators.mapping import MappedGenerator, MappingNetwork
from ganaug.generators.stylegan2 import DEMODULATION_EPS
from ganaug.interfaces import LatentSpec, Noise
from ganaug.layers import LRELU_GAIN, EqualLinear

__all__ = ["StyleGAN3", "StyleGAN3Config", "input_transform"]


def input_transform(angle_deg: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """A ``transform`` for :meth:`StyleGAN3.synthesis`: the picture turned about its centre, then shifted.

    Args:
        angle_deg: Counter-clockwise.
        shift: To the right and down, in image widths.

    Returns:
        ``(3, 3)``: where a point of the resulting picture is looked up, the inverse of the picture's own motion.
    """
    angle = math.radians(angle_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    motion = torch.tensor([[cos, sin, shift[0]], [-sin, cos, shift[1]], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return motion.inverse().float()


class FourierInput(nn.Module):
    """Fourier features of a plane that w moves and turns (section 3.1, and "transformed Fourier features" in 3.2)."""

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, spec: LayerSpec, w_dim: int) -> None:
        super().__init__()
        channels = spec.in_channels
        self.size = spec.in_size
        self.rate = spec.in_rate
        self.cutoff = spec.in_cutoff
        self.weight = nn.Parameter(torch.randn(channels, channels))
        # Four numbers of w: cosine and sine (up to a factor), shift in x and y. At the start: no motion.
        self.affine = EqualLinear(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        # Uniform in the disc of radius f_c: the squared radius of a 2-D Gaussian maps to a uniform area.
        directions = torch.randn(channels, 2)
        squared = directions.square().sum(dim=1, keepdim=True)
        radii = (1.0 - (-squared / 2).exp()).sqrt()
        self.register_buffer("freqs", directions * squared.rsqrt() * radii * self.cutoff)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """``w (B, w_dim)``, ``transform (3, 3)`` or ``(B, 3, 3)`` -> ``(B, C, size, size)``, channels_last."""
        motion = self._motion(w) @ (self.transform if transform is None else transform.to(w))
        # A point p of the plane is looked up at M p, so f . (M p) + phase = (f M) . p + (f . shift + phase).
        freqs = self.freqs @ motion[:, :2, :2]  # (B, C, 2)
        phases = self.phases + (self.freqs @ motion[:, :2, 2:]).squeeze(2)
        # A transform that enlarges frequencies must not alias: fade between the cutoff and half the sampling rate.
        amplitudes = 1 - (freqs.norm(dim=2) - self.cutoff) / (self.rate / 2 - self.cutoff)
        amplitudes = amplitudes.clamp(0, 1)[:, None, None]
        # Sample centres, in image widths from the middle of the image.
        positions = (torch.arange(self.size, device=w.device, dtype=w.dtype) + (0.5 - self.size / 2)) / self.rate
        along_x = positions[None, None, :, None] * freqs[:, None, None, :, 0]
        along_y = positions[None, :, None, None] * freqs[:, None, None, :, 1] + phases[:, None, None]
        features = (along_x + along_y).mul(2 * math.pi).sin() * amplitudes  # (B, size, size, C)
        return F.linear(features, self.weight / math.sqrt(len(self.weight))).permute(0, 3, 1, 2)

    def _motion(self, w: Tensor) -> Tensor:
        """``(B, 3, 3)``: rotation after shift, as far as w asks for."""
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(dim=1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=1).view(-1, 3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1).view(-1, 3, 3)
        return rotation @ shift


class AliasFreeLayer(nn.Module):
    """Modulated convolution, bias, filtered leaky ReLU; the last layer is linear and makes RGB."""

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, spec: LayerSpec, w_dim: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.spec = spec
        self.conv_clamp = conv_clamp
        self.affine = EqualLinear(w_dim, spec.in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(spec.out_channels, spec.in_channels, spec.kernel, spec.kernel))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels))
        # Mean square of the input, tracked in training; dividing by its root keeps all signals at unit scale (3.1).
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.register_buffer("up_filter", spec.up_filter())
        self.register_buffer("down_filter", spec.down_filter())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """``x (B, C, H, W)``, ``w (B, w_dim)`` -> ``(B, C', H', W')``."""
        spec = self.spec
        styles = self.affine(w)
        input_gain = self.magnitude_ema.rsqrt()
        if spec.is_rgb:
            styles = styles * (input_gain / math.sqrt(spec.in_channels))
            y = _convolve(x * _as_maps(styles, x), self.weight) + self.bias.to(x.dtype)[:, None, None]
            return y if self.conv_clamp is None else y.clamp(-self.conv_clamp, self.conv_clamp)
        # Weights of each output and styles of each sample at unit scale: demodulation takes any factor out again, but
        # half precision needs it (arXiv 2006.06676, appendix D).
        weight = self.weight * self.weight.square().sum(dim=(1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
        power = weight.square().sum(dim=(2, 3))
        demodulation = (styles.square() @ power.t() + DEMODULATION_EPS).rsqrt()
        y = _convolve(x * _as_maps(styles, x), weight)
        # The activation's gain is folded into what is summed before it (see layers.py).
        scale = _as_maps(demodulation * (input_gain * LRELU_GAIN), x)
        y = torch.addcmul((self.bias * LRELU_GAIN).to(x.dtype)[:, None, None], y, scale)
        return filtered_leaky_relu(
            y,
            self.up_filter,
            self.down_filter,
            up=spec.up,
            down=spec.down,
            padding=spec.padding,
            clamp=self.conv_clamp,
        )


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution that grows the map by the size of the kernel less one (appendix C.3)."""
    weight = weight.to(x.dtype)
    if weight.shape[2] > 1:
        return F.conv2d(x, weight, padding=weight.shape[2] - 1)
    # Rows as samples: torch takes a slow path on CPU for one-pixel kernels on fewer than 16 samples (one thread).
    rows = x.permute(0, 2, 3, 1).flatten(0, 1)[:, None].permute(0, 3, 1, 2)  # (B * H, C, 1, W)
    y = F.conv2d(rows, weight).permute(0, 2, 3, 1).reshape(*x.shape[:1], *x.shape[2:], -1)
    return y.permute(0, 3, 1, 2)


def _as_maps(numbers: Tensor, x: Tensor) -> Tensor:
    """``(B, C)`` -> ``(B, C, 1, 1)`` in the precision of ``x``."""
    return numbers.to(x.dtype)[:, :, None, None]


class AliasFreeSynthesis(nn.Module):
    """Synthesis network g: W+ -> image. Row 0 of a latent moves the Fourier features, row i + 1 styles layer i."""

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        specs = layer_specs(config)
        self.output_scale = config.output_scale
        self.input = FourierInput(specs[0], config.w_dim)
        self.layers = nn.ModuleList(AliasFreeLayer(spec, config.w_dim, config.conv_clamp) for spec in specs)

    def style_weights(self) -> list[tuple[int, Tensor]]:
        """Row of ``w_plus`` and matrix ``(C, D)`` from it to the styles, of each layer; without toRGB."""
        layers = [layer for layer in self.layers if isinstance(layer, AliasFreeLayer) and not layer.spec.is_rgb]
        return [(row, layer.affine.weight * layer.affine.weight_gain) for row, layer in enumerate(layers, start=1)]

    def forward(
        self,
        w_plus: Tensor,
        noise: Noise = "const",
        dtype: torch.dtype | None = None,
        transform: Tensor | None = None,
    ) -> Tensor:
        """``(B, L, D)`` -> ``(B, 3, H, W)`` float32.

        Args:
            w_plus: Latents.
            noise: Without effect: this family has none.
            dtype: bfloat16 or float16 runs the layers in it.
            transform: See :meth:`StyleGAN3.synthesis`.
        """
        rows = w_plus.unbind(dim=1)
        x = self.input(rows[0], transform)
        if dtype is not None:
            x = x.to(dtype)
        for layer, w in zip(self.layers, rows[1:], strict=True):
            x = layer(x, w)
        return (x * self.output_scale).to(w_plus.dtype)


class StyleGAN3(MappedGenerator):
    """StyleGAN3 generator, fulfilling :class:`ganaug.interfaces.Generator`.

    Args:
        config: Architecture.

    Example:
        >>> config = StyleGAN3Config.scaled(16, channel_base=64, channel_max=8, num_layers=4, z_dim=12, w_dim=12)
        >>> generator = StyleGAN3(config).eval().requires_grad_(False)
        >>> w_plus = generator.mapping(torch.zeros(2, 12))
        >>> w_plus.shape, generator.synthesis(w_plus).shape
        (torch.Size([2, 6, 12]), torch.Size([2, 3, 16, 16]))
        >>> turned = generator.synthesis(w_plus, transform=input_transform(angle_deg=10, shift=(0.1, 0)))
    """

    family = "stylegan3"
    config: StyleGAN3Config

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__()
        self.config = config
        self.img_resolution = config.img_resolution
        self.z_dim = config.z_dim
        self.c_dim = config.c_dim
        # One row for the Fourier features, one per layer, of which there is one more than entries in channels.
        self.latent_spec = LatentSpec("w_plus", num_ws=len(config.channels) + 2, w_dim=config.w_dim)
        self.map_network = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers, config.c_dim)
        self.synthesis_network = AliasFreeSynthesis(config)

    def synthesis(self, w_plus: Tensor, noise: Noise = "const", transform: Tensor | None = None) -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B, 3, H, W)`` float32; see :meth:`Generator.synthesis`.

        Args:
            w_plus: Latents.
            noise: Without effect: this family has no noise maps.
            transform: ``(3, 3)`` or ``(B, 3, 3)``, where a point of the picture (x right, y down, in image widths from
                its centre) is looked up; see :func:`input_transform`. Takes the place of the stored one, the buffer
                ``synthesis_network.input.transform``, which is the identity in published files. None: the stored one.

        Raises:
            ValueError: For latents or a transform of another shape, or an unknown ``noise``.
        """
        self.check_arguments(w_plus, noise)
        if transform is not None and tuple(transform.shape) not in ((3, 3), (len(w_plus), 3, 3)):
            raise ValueError(
                f"expected transform of shape (3, 3) or ({len(w_plus)}, 3, 3), got {tuple(transform.shape)}"
            )
        images: Tensor = self.synthesis_network(w_plus.float(), noise, self._precision(w_plus), transform)
        return images

    def _precision(self, w_plus: Tensor) -> torch.dtype | None:
        """float16 on CUDA for networks with a clamp, which were trained in it; bfloat16 costs 3 % here, float16 0.2 %.

        float32 where gradients are asked for: those of a mean over an image's pixels vanish in float16.
        """
        wants_gradients = torch.is_grad_enabled() and (
            w_plus.requires_grad or any(p.requires_grad for p in self.synthesis_network.parameters())
        )
        half = w_plus.is_cuda and self.config.conv_clamp is not None and not wants_gradients
        return torch.float16 if half else None
