"""StyleGAN3 in its textbook form (arXiv 2106.12423), for tests and benchmarks: weights per sample, zeros inserted.

Written from the paper and slow on purpose: one convolution group per sample, a filter of every tap on every sample of
the stuffed signal, samples thrown away at the end. Numbers of a layer come from its attributes (``spec``, filters), so
what is compared is how they are used; ``tests/test_stylegan3.py`` checks the numbers themselves.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.generators.stylegan3 import AliasFreeLayer, FourierInput, StyleGAN3


def naive_input(network: FourierInput, w: Tensor, transform: Tensor) -> Tensor:
    """Fourier features, sample by sample, the grid in homogeneous coordinates."""
    size, rate, channels = network.size, network.rate, len(network.weight)
    out = []
    for row in range(len(w)):
        t = network.affine.weight @ w[row] / math.sqrt(w.shape[1]) + network.affine.bias
        c, s, x, y = (t / (t[0].square() + t[1].square()).sqrt()).unbind()
        zero, one = torch.zeros_like(c), torch.ones_like(c)
        rotation = torch.stack([c, -s, zero, s, c, zero, zero, zero, one]).view(3, 3)
        shift = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one]).view(3, 3)
        matrix = rotation @ shift @ (transform if transform.ndim == 2 else transform[row])
        centres = (torch.arange(size, dtype=w.dtype) + 0.5 - size / 2) / rate
        grid = torch.stack([*torch.meshgrid(centres, centres, indexing="xy"), torch.ones(size, size, dtype=w.dtype)])
        moved = torch.einsum("ij,jhw->ihw", matrix, grid)[:2]
        waves = torch.sin(
            2 * math.pi * (torch.einsum("ci,ihw->chw", network.freqs, moved) + network.phases[:, None, None])
        )
        seen = (network.freqs @ matrix[:2, :2]).norm(dim=1)
        fade = 1 - (seen - network.cutoff) / (rate / 2 - network.cutoff)
        waves = waves * fade.clamp(0, 1)[:, None, None]
        out.append(torch.einsum("oc,chw->ohw", network.weight, waves) / math.sqrt(channels))
    return torch.stack(out)


def naive_resample(x: Tensor, taps: Tensor | None, up: int, down: int, padding: tuple[int, int]) -> Tensor:
    """Zeros inserted, padded (or cropped), convolved, decimated."""
    batch, channels, height, width = x.shape
    stuffed = x.new_zeros(batch, channels, height, up, width, up)
    stuffed[:, :, :, 0, :, 0] = x
    x = F.pad(stuffed.reshape(batch, channels, height * up, width * up), (*padding, *padding))
    if taps is not None:
        taps = taps.to(x.dtype)
        for kernel in [taps[None, :], taps[:, None]] if taps.ndim == 1 else [taps]:
            x = F.conv2d(x, kernel.flip(0, 1).expand(channels, 1, -1, -1), groups=channels)
    return x[:, :, ::down, ::down]


def naive_layer(layer: AliasFreeLayer, x: Tensor, w: Tensor) -> Tensor:
    """Weights scaled for every sample (arXiv 1912.04958, equations 1 to 3), the nonlinearity at the higher rate."""
    batch, channels, height, width = x.shape
    spec = layer.spec
    style = F.linear(w, layer.affine.weight) / math.sqrt(w.shape[1]) + layer.affine.bias
    weight = layer.weight[None] * style[:, None, :, None, None]  # (B, O, I, k, k)
    if spec.is_rgb:
        weight = weight / math.sqrt(channels)
    else:
        weight = weight / weight.square().sum(dim=(2, 3, 4), keepdim=True).sqrt()
    weight = weight / layer.magnitude_ema.sqrt()
    x = F.conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), padding=spec.kernel - 1, groups=batch)
    x = x.reshape(batch, -1, *x.shape[2:]) + layer.bias[:, None, None]
    if not spec.is_rgb:
        taps = (
            None
            if layer.up_filter is None
            else layer.up_filter * (spec.up if layer.up_filter.ndim == 1 else spec.up**2)
        )
        x = naive_resample(x, taps, spec.up, 1, spec.padding)
        x = F.leaky_relu(x, 0.2) * math.sqrt(2)
    if layer.conv_clamp is not None:
        x = x.clamp(-layer.conv_clamp, layer.conv_clamp)
    return x if spec.is_rgb else naive_resample(x, layer.down_filter, 1, spec.down, (0, 0))


def naive_synthesis(generator: StyleGAN3, w_plus: Tensor, transform: Tensor | None = None) -> Tensor:
    """``w_plus (B, L, D)`` -> images ``(B, 3, H, W)``, in the precision of ``w_plus``."""
    network = generator.synthesis_network
    transform = network.input.transform if transform is None else transform
    x = naive_input(network.input, w_plus[:, 0], transform.to(w_plus))
    for i, layer in enumerate(network.layers):
        x = naive_layer(layer, x, w_plus[:, i + 1])
    return x * generator.config.output_scale
