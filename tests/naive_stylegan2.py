"""StyleGAN2 in its textbook form, on tensors under NVIDIA's names: reading a file and the network are tested together.

Written from the papers: every sample scales the weights for itself, which takes one group of a convolution per sample
(arXiv 1912.04958, section 2.2); upsampling puts in the zeros; every gain is a product at the place where it is named.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Mapping[str, Tensor]


def unit_second_moment(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def linear(tensors: Tensors, name: str, x: Tensor, lr_multiplier: float = 1.0) -> Tensor:
    """Equalised learning rate (arXiv 1710.10196, section 4.1)."""
    weight = tensors[f"{name}.weight"] * lr_multiplier / math.sqrt(x.shape[1])
    return x @ weight.t() + tensors[f"{name}.bias"] * lr_multiplier


def mapping(
    tensors: Tensors, z: Tensor, c: Tensor | None = None, psi: float = 1.0, lr_multiplier: float = 0.01
) -> Tensor:
    """``z (B, z_dim)``, ``c (B, c_dim)`` -> ``w (B, w_dim)`` (arXiv 1812.04948, sections 2 and B)."""
    x = unit_second_moment(z)
    if c is not None:
        x = torch.cat([x, unit_second_moment(linear(tensors, "mapping.embed", c))], dim=1)
    layer = 0
    while f"mapping.fc{layer}.weight" in tensors:
        y = linear(tensors, f"mapping.fc{layer}", x, lr_multiplier)
        x = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        layer += 1
    if psi == 1.0:
        return x
    return tensors["mapping.w_avg"] + psi * (x - tensors["mapping.w_avg"])


def zeros_between(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, C, 2H, 2W)``, a zero after each pixel in either direction."""
    batch, channels, height, width = x.shape
    stuffed = x.new_zeros(batch, channels, 2 * height, 2 * width)
    stuffed[:, :, ::2, ::2] = x
    return stuffed


def blur(x: Tensor) -> Tensor:
    """Every 4x4 window weighted by the binomial filter, summing to 4: makes up for the zeros."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, groups=x.shape[1])


def modulated(x: Tensor, weight: Tensor, styles: Tensor, *, up: bool, demodulate: bool) -> Tensor:
    """Equations 1 and 3 of arXiv 1912.04958."""
    batch = x.shape[0]
    scaled = weight[None] * styles[:, None, :, None, None]  # (B, O, I, k, k)
    if demodulate:
        scaled = scaled / (scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    if up:
        # A transposed convolution of stride 2: zeros between the pixels, then the weights turned around.
        x = F.pad(zeros_between(x)[:, :, :-1, :-1], (2, 2, 2, 2))
        scaled = scaled.flip(3, 4)
    else:
        x = F.pad(x, (weight.shape[-1] // 2,) * 4)
    kernels = scaled.flatten(0, 1)
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels, groups=batch)
    y = y.reshape(batch, -1, *y.shape[2:])
    return blur(F.pad(y, (1, 1, 1, 1))) if up else y


def clamped(x: Tensor, conv_clamp: float | None) -> Tensor:
    return x if conv_clamp is None else x.clamp(-conv_clamp, conv_clamp)


def layer(
    tensors: Tensors, name: str, x: Tensor, w: Tensor, noise: Literal["const", "none"], conv_clamp: float | None
) -> Tensor:
    """Modulated convolution, noise, bias, leaky ReLU with its gain; clamped last (arXiv 2006.06676, appendix D.1)."""
    styles = linear(tensors, f"{name}.affine", w)
    y = modulated(x, tensors[f"{name}.weight"], styles, up=name.endswith("conv0"), demodulate=True)
    if noise == "const" and f"{name}.noise_const" in tensors:
        y = y + tensors[f"{name}.noise_const"] * tensors[f"{name}.noise_strength"]
    y = y + tensors[f"{name}.bias"][:, None, None]
    return clamped(torch.where(y > 0, y, 0.2 * y) * math.sqrt(2), conv_clamp)


def to_rgb(tensors: Tensors, name: str, x: Tensor, w: Tensor, conv_clamp: float | None) -> Tensor:
    styles = linear(tensors, f"{name}.affine", w) / math.sqrt(x.shape[1])
    y = modulated(x, tensors[f"{name}.weight"], styles, up=False, demodulate=False)
    return clamped(y + tensors[f"{name}.bias"][:, None, None], conv_clamp)


def synthesis(
    tensors: Tensors, w_plus: Tensor, noise: Literal["const", "none"] = "const", conv_clamp: float | None = None
) -> Tensor:
    """``w_plus (B, L, D)`` -> images ``(B, 3, H, W)``, the skip-generator of arXiv 1912.04958, figure 7."""
    x = tensors["synthesis.b4.const"].expand(w_plus.shape[0], -1, -1, -1)
    image: Tensor | None = None
    row, resolution = 0, 4
    while f"synthesis.b{resolution}.torgb.weight" in tensors:
        block = f"synthesis.b{resolution}"
        for name in ("conv0", "conv1"):
            if f"{block}.{name}.weight" in tensors:
                x = layer(tensors, f"{block}.{name}", x, w_plus[:, row], noise, conv_clamp)
                row += 1
        rgb = to_rgb(tensors, f"{block}.torgb", x, w_plus[:, row], conv_clamp)
        image = rgb if image is None else blur(F.pad(zeros_between(image), (2, 1, 2, 1))) + rgb
        resolution *= 2
    assert image is not None
    return image
