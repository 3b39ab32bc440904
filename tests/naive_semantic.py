"""SemanticStyleGAN in its textbook form (arXiv 2112.02236), on tensors under the names that its project gives them.

Part by part, layer by layer, one convolution group per sample (arXiv 1912.04958, section 2.2), nothing folded. The
render net has no styles from the latents, so its convolutions are shared by the samples here, too.
"""

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.generators.semantic import SemanticStyleGAN


def naive_synthesis(
    generator: SemanticStyleGAN, w_plus: Tensor, published: tuple[dict[str, Tensor], Any] | None = None
) -> tuple[Tensor, Tensor]:
    """Images and part logits of a generator; ``published``: what :func:`as_published` made of it, for timing."""
    return naive_published(*(published or as_published(generator)), w_plus)


def naive_published(
    tensors: Mapping[str, Tensor], args: Any, w_plus: Tensor, noise: bool = True
) -> tuple[Tensor, Tensor]:
    """``w_plus (B, L, D)`` or ``(B, K * N, D)`` -> images ``(B, 3, H, W)``, part logits ``(B, K, H, W)``."""
    batch = len(w_plus)
    position = embedded_position(tensors["pos_embed.weights"], args).expand(batch, -1, -1, -1)
    features, depths = [], []
    for part in range(args.seg_dim):
        x = position
        depth = torch.zeros(batch, 1, args.coarse_size, args.coarse_size, dtype=x.dtype)
        for i in range(args.local_layers):
            name = f"local_nets.{part}.linears.{i}"
            x = modulated(tensors, f"{name}.conv", x, w_plus[:, row_of(part, i, args, w_plus.shape[1])])
            x = activated(x + tensors[f"{name}.activate.bias"][:, None, None])
            if part > 0 and i == args.depth_layers - 1:
                depth = output(tensors, f"local_nets.{part}.to_depth", x)
        features.append(output(tensors, f"local_nets.{part}.to_feat", x))
        depths.append(depth)
    masks = torch.cat(depths, dim=1).softmax(dim=1)
    opaque = [part for part in range(args.seg_dim) if part not in args.transparent_dims]
    total = masks[:, opaque].sum(dim=1) + 1e-8
    fused = torch.zeros_like(features[0])
    for part in range(args.seg_dim):
        weight = masks[:, part] / total if part in opaque else masks[:, part]
        fused = fused + features[part] * weight[:, None]
    return render(tensors, args, fused, 2 * masks - 1, noise)


def row_of(part: int, layer: int, args: Any, num_rows: int) -> int:
    """The row that a layer takes: of its own, shared coarse structure, the part's shape, or its texture."""
    if num_rows == args.seg_dim * args.local_layers:
        return part * args.local_layers + layer
    if layer < args.base_layers and part > 0:
        return layer
    return args.base_layers + 2 * part + (0 if layer < args.depth_layers else 1)


def embedded_position(weight: Tensor, args: Any) -> Tensor:
    size = args.coarse_size
    grid = torch.zeros(1, 2, size, size, dtype=weight.dtype)
    for i in range(size):
        grid[0, 0, :, i] = grid[0, 1, i, :] = -1 + 2 * i / (size - 1)
    bands = [grid]
    for i in range(int(math.log2(args.size))):
        bands += [torch.sin(2**i * grid), torch.cos(2**i * grid)]
    return F.conv2d(torch.cat(bands, dim=1), weight / math.sqrt(weight.shape[1]))


def activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def modulated(tensors: Mapping[str, Tensor], name: str, x: Tensor, w: Tensor) -> Tensor:
    """Equations 1 to 3 of arXiv 1912.04958, one convolution group per sample."""
    weight, affine = tensors[f"{name}.weight"], tensors[f"{name}.modulation.weight"]
    batch, channels = x.shape[:2]
    style = F.linear(w, affine / math.sqrt(affine.shape[1]), tensors[f"{name}.modulation.bias"])
    scaled = weight * style[:, None, :, None, None] / math.sqrt(channels)
    scaled = scaled / (scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = F.conv2d(x.reshape(1, batch * channels, *x.shape[2:]), scaled.flatten(0, 1), groups=batch)
    return y.reshape(batch, -1, *x.shape[2:])


def output(tensors: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = tensors[f"{name}.conv.weight"] * tensors[f"{name}.conv.modulation"]
    return F.conv2d(x, weight / math.sqrt(x.shape[1])) + tensors[f"{name}.bias"]


def doubled(x: Tensor) -> Tensor:
    """Zero insertion and the FIR [1, 3, 3, 1]."""
    batch, channels, height, width = x.shape
    stuffed = torch.zeros(batch, channels, 2 * height, 2 * width, dtype=x.dtype)
    stuffed[:, :, ::2, ::2] = x
    return blurred(F.pad(stuffed, (2, 1, 2, 1)))


def blurred(x: Tensor) -> Tensor:
    """The FIR, one group per channel: the fastest textbook form; every channel as an image of its own is slower."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
    return F.conv2d(x, torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def render(
    tensors: Mapping[str, Tensor], args: Any, fused: Tensor, coarse: Tensor, noise: bool
) -> tuple[Tensor, Tensor]:
    x = F.adaptive_avg_pool2d(fused, args.min_feat_size)
    image = parts = None
    for i in range(int(math.log2(args.size // args.min_feat_size))):
        if x.shape[2] == args.coarse_size:
            x = torch.cat([x, fused], dim=1)
        for j in (2 * i, 2 * i + 1):
            name = f"render_net.convs.{j}"
            weight = tensors[f"{name}.weight"] * tensors[f"{name}.modulation"] / math.sqrt(9 * x.shape[1])
            weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
            if j % 2 == 0:
                x = blurred(F.pad(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1, 1, 1)))
            else:
                x = F.conv2d(x, weight, padding=1)
            if noise:
                x = x + tensors[f"{name}.noise.weight"] * tensors[f"render_net.noises.noise_{j}"]
            x = activated(x + tensors[f"{name}.activate.bias"][:, None, None])
        rgb = output(tensors, f"render_net.to_rgbs.{i}", x)
        seg = output(tensors, f"render_net.to_segs.{i}", x)
        image = rgb if image is None else doubled(image) + rgb
        parts = seg if parts is None else doubled(parts) + seg
        if args.residual_refine and parts.shape[2] == args.coarse_size:
            parts = parts + coarse
    assert image is not None and parts is not None
    return image, parts


def as_published(generator: SemanticStyleGAN) -> tuple[dict[str, Tensor], Any]:
    """A generator's tensors in the published form, whose render net always demodulates: ours must be normalised."""
    config = generator.config
    args = SimpleNamespace(
        size=config.img_resolution,
        latent=config.w_dim,
        n_mlp=config.mapping_layers,
        seg_dim=config.num_parts,
        local_layers=config.local_layers,
        base_layers=config.base_layers,
        depth_layers=config.depth_layers,
        local_channel=config.local_channels,
        coarse_size=config.coarse_resolution,
        coarse_channel=config.coarse_channels,
        min_feat_size=config.img_resolution >> len(config.channels),
        residual_refine=config.residual_refine,
        transparent_dims=tuple(config.transparent),
    )
    network = generator.synthesis_network
    local, gain = network.local, math.sqrt(2)
    kernel = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 16
    tensors = {"pos_embed.weights": local.position_weight[:, :, None, None] * math.sqrt(local.position_weight.shape[1])}

    def add_output(name: str, weight: Tensor, bias: Tensor) -> None:
        tensors[f"{name}.conv.weight"] = weight[:, :, None, None] * math.sqrt(weight.shape[1])
        tensors[f"{name}.conv.modulation"] = torch.ones(1, weight.shape[1], 1, 1)
        tensors[f"{name}.bias"] = bias[None, :, None, None]
        tensors[f"{name}.upsample.kernel"] = kernel

    for part in range(args.seg_dim):
        for i in range(args.local_layers):
            name = f"local_nets.{part}.linears.{i}"
            weight, affine = local.weight[part, i], local.affine_weight[part, i]
            tensors[f"{name}.conv.weight"] = weight[None, :, :, None, None] * math.sqrt(weight.shape[1])
            tensors[f"{name}.conv.modulation.weight"] = affine * math.sqrt(affine.shape[1])
            tensors[f"{name}.conv.modulation.bias"] = local.affine_bias[part, i]
            tensors[f"{name}.activate.bias"] = local.bias[part, i]
        add_output(f"local_nets.{part}.to_feat", local.feature_weight[part], local.feature_bias[part])
        if part > 0:
            depth = slice(part - 1, part)
            add_output(f"local_nets.{part}.to_depth", local.depth_weight[depth], local.depth_bias[depth])
    for i, resolution in enumerate(network.render.resolutions):
        block = network.render.get_submodule(f"b{resolution}")
        for j, layer in enumerate((block.conv0, block.conv1)):
            norm = layer.weight.square().sum(dim=(1, 2, 3))
            assert torch.allclose(norm, torch.full_like(norm, 2.0), rtol=1e-3), "not normalised"
            name = f"render_net.convs.{2 * i + j}"
            tensors[f"{name}.weight"] = layer.weight * math.sqrt(9 * layer.weight.shape[1]) / gain
            tensors[f"{name}.modulation"] = torch.ones(1, layer.weight.shape[1], 1, 1)
            tensors[f"{name}.noise.weight"] = layer.noise_strength.reshape(1) / gain
            tensors[f"{name}.activate.bias"] = layer.bias / gain
            tensors[f"render_net.noises.noise_{2 * i + j}"] = layer.noise_const[None, None]
        tensors[f"render_net.convs.{2 * i}.blur.kernel"] = kernel
        add_output(f"render_net.to_rgbs.{i}", block.out_weight[:3], block.out_bias[:3])
        add_output(f"render_net.to_segs.{i}", block.out_weight[3:], block.out_bias[3:])
    for i in range(args.n_mlp):
        layer = generator.map_network.get_submodule(f"fc{i}")
        tensors[f"style.{i + 1}.weight"], tensors[f"style.{i + 1}.bias"] = layer.weight, layer.bias
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, args
