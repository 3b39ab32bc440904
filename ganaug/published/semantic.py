"""SemanticStyleGAN (arXiv 2112.02236) as its project saves it: released and training files.

A dict with the state dict ``g_ema`` and ``args``, the command line of the training run. Sizes are read off the tensors
and must agree with ``args``; four settings leave no trace in any tensor and are taken from ``args`` alone. The
constants of the equalised learning rate, and the render net's styles, which are constants too, are folded into the
weights. There is no mean latent.
"""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.rosinality import tensors_of
from ganaug.published.stylegan2_state import MAX_RESOLUTION, check_filter

LRELU_GAIN = math.sqrt(2.0)  # arXiv 1912.04958, appendix B: unit variance through a leaky ReLU
DEMODULATION_EPS = 1e-8  # arXiv 1912.04958, equation 3

# Name of a size in ``args`` -> its name in ``SemanticStyleGANConfig``.
SIZES = {
    "size": "img_resolution",
    "latent": "w_dim",
    "n_mlp": "mapping_layers",
    "seg_dim": "num_parts",
    "local_layers": "local_layers",
    "local_channel": "local_channels",
    "coarse_size": "coarse_resolution",
    "coarse_channel": "coarse_channels",
}
SETTINGS = ("base_layers", "depth_layers", "residual_refine", "transparent_dims")


def read(tree: Any) -> PublishedModel | None:
    """A SemanticStyleGAN out of a file with ``g_ema`` and ``args``.

    Raises:
        CheckpointError: For tensors that are missing, unknown or of a shape that does not fit the others, and for
            ``args`` that are missing or contradict them.
    """
    if not isinstance(tree, dict):
        return None
    for network in ("g_ema", "g"):
        state = tensors_of(tree.get(network))
        if {"pos_embed.weights", "local_nets.0.linears.0.conv.weight"} <= state.keys():
            tensors = _Tensors(state)
            config = _config(tensors, _arguments(tree.get("args")))
            description = {"family": "semantic_stylegan", "config": config, "layout": "semantic", "network": network}
            return PublishedModel(description, {"generator": _generator(tensors, config)})
    return None


class _Tensors:
    """A state dict out of which every tensor is taken once, with the shape that it must have."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.left = dict(state)

    def size(self, name: str, axis: int) -> int:
        """Length of an axis of a tensor that stays where it is."""
        if name not in self.left:
            raise CheckpointError(f"tensor {name} is missing")
        shape = self.left[name].shape
        if len(shape) <= axis or 0 in shape:
            raise CheckpointError(f"tensor {name} has shape {tuple(shape)}, which fits no SemanticStyleGAN")
        return int(shape[axis])

    def count(self, pattern: str, start: int = 0) -> int:
        """How many of the tensors ``pattern.format(start)``, ``pattern.format(start + 1)``, ... there are."""
        return next(i - start for i in itertools.count(start) if pattern.format(i) not in self.left)

    def take(self, name: str, *shape: int) -> Tensor:
        """Takes a tensor, as float64: it is going to be multiplied with constants."""
        if name not in self.left:
            raise CheckpointError(f"tensor {name} is missing")
        tensor = self.left.pop(name)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"tensor {name} has shape {tuple(tensor.shape)}, expected {shape}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {name} is {tensor.dtype}, expected numbers with a fraction")
        return tensor.detach().double()

    def drop_filter(self, name: str) -> None:
        """Takes a filter, which must be the one that every upsampling here uses."""
        check_filter(self.take(name, 4, 4), name, gain=4.0)


def _arguments(args: Any) -> dict[str, Any]:
    """``args`` as a dict; the four settings must be there and make sense."""
    found = vars(args) if isinstance(args, argparse.Namespace) else args
    known: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
    absent = [name for name in SETTINGS if known.get(name) is None]
    if absent:
        raise CheckpointError(
            f"its args lack {', '.join(absent)}, which no tensor tells; expected a file with the args of its training"
        )
    for name in ("base_layers", "depth_layers", "residual_refine"):
        if not isinstance(known[name], int):
            raise CheckpointError(f"its args have {name} {str(known[name])[:60]!r}, expected a whole number")
    dims = known["transparent_dims"]
    if not isinstance(dims, Sequence) or not all(isinstance(dim, int) for dim in dims):
        raise CheckpointError(f"its args have transparent_dims {str(dims)[:60]!r}, expected numbers of parts")
    return known


def _config(tensors: _Tensors, args: Mapping[str, Any]) -> dict[str, Any]:
    """``SemanticStyleGANConfig`` as a JSON-able dict."""
    blocks = tensors.count("render_net.to_rgbs.{}.conv.weight")
    start = tensors.size("render_net.noises.noise_0", 2) // 2
    size = start << min(blocks, 16)
    if not 8 <= size <= MAX_RESOLUTION or size & (size - 1):
        raise CheckpointError(f"it makes {size} px, expected a power of two from 8 to {MAX_RESOLUTION}")
    channels = [tensors.size(f"render_net.to_rgbs.{i}.conv.weight", 1) for i in range(blocks)]
    parts = tensors.count("local_nets.{}.linears.0.conv.weight")
    if parts < 2:
        raise CheckpointError("it has one local generator, expected a background and parts")
    coarse_channels = tensors.size("local_nets.0.to_feat.conv.weight", 0)
    # The first block takes the fused features; where the resolution is theirs again, a block takes them once more.
    inputs = [tensors.size(f"render_net.convs.{2 * i}.weight", 1) for i in range(blocks)]
    joins = [i for i in range(1, blocks) if inputs[i] == channels[i - 1] + coarse_channels]
    coarse = start << joins[0] if joins else args.get("coarse_size")
    if not isinstance(coarse, int):
        raise CheckpointError("its args lack coarse_size, which its tensors do not tell")
    config: dict[str, Any] = {
        "img_resolution": size,
        "w_dim": tensors.size("local_nets.0.linears.0.conv.modulation.weight", 1),
        "mapping_layers": tensors.count("style.{}.weight", start=1),
        "num_parts": parts,
        "local_layers": tensors.count("local_nets.0.linears.{}.conv.weight"),
        "base_layers": args["base_layers"],
        "depth_layers": args["depth_layers"],
        "local_channels": tensors.size("pos_embed.weights", 0),
        "coarse_resolution": coarse,
        "coarse_channels": coarse_channels,
        "channels": channels,
        "residual_refine": bool(args["residual_refine"]),
        # The project trains on scenes of fewer classes with the default dims of faces; those beyond are void there too.
        "transparent": sorted({dim for dim in args["transparent_dims"] if 0 <= dim < parts}),
    }
    stated = {name: args[name] for name in (*SIZES, "min_feat_size") if args.get(name) is not None}
    made = {**{name: config[ours] for name, ours in SIZES.items()}, "min_feat_size": start}
    for name, value in stated.items():
        if not isinstance(value, int) or value != made[name]:
            raise CheckpointError(f"its args say {name} {str(value)[:60]}, its tensors {made[name]}")
    return config


def _generator(tensors: _Tensors, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors for ``SemanticStyleGAN.load_state_dict``, without ``map_network.w_avg``."""
    w_dim = config["w_dim"]
    state: dict[str, Tensor] = {}
    for i in range(config["mapping_layers"]):
        state[f"map_network.fc{i}.weight"] = tensors.take(f"style.{i + 1}.weight", w_dim, w_dim)
        state[f"map_network.fc{i}.bias"] = tensors.take(f"style.{i + 1}.bias", w_dim)
    state |= {f"synthesis_network.local.{name}": tensor for name, tensor in _local(tensors, config).items()}
    state |= {f"synthesis_network.render.{name}": tensor for name, tensor in _render(tensors, config).items()}
    if tensors.left:
        unknown = sorted(tensors.left)
        raise CheckpointError(
            f"a SemanticStyleGAN of these sizes has no {unknown[0][:60]} ({len(unknown)} such tensors)"
        )
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


def _local(tensors: _Tensors, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The local generators, stacked over parts and layers."""
    channels, w_dim = config["local_channels"], config["w_dim"]
    features = 2 + 4 * (config["img_resolution"].bit_length() - 1)  # x, y, and sine and cosine of each at log2 size
    parts = range(config["num_parts"])
    layers = [[f"local_nets.{part}.linears.{i}" for i in range(config["local_layers"])] for part in parts]

    def stacked(name: str, *shape: int) -> Tensor:
        return torch.stack([torch.stack([tensors.take(f"{layer}.{name}", *shape) for layer in row]) for row in layers])

    made = [_output(tensors, f"local_nets.{part}.to_feat", channels, config["coarse_channels"]) for part in parts]
    depths = [_output(tensors, f"local_nets.{part}.to_depth", channels, 1) for part in parts[1:]]
    position = tensors.take("pos_embed.weights", channels, features, 1, 1)
    weight = stacked("conv.weight", 1, channels, channels, 1, 1)
    return {
        "position_weight": position[:, :, 0, 0] / math.sqrt(features),
        "affine_weight": stacked("conv.modulation.weight", channels, w_dim) / math.sqrt(w_dim),
        "affine_bias": stacked("conv.modulation.bias", channels),
        "weight": weight[:, :, 0, :, :, 0, 0] / math.sqrt(channels),
        "bias": stacked("activate.bias", channels),
        "feature_weight": torch.stack([weight for weight, _ in made]),
        "feature_bias": torch.stack([bias for _, bias in made]),
        "depth_weight": torch.cat([weight for weight, _ in depths]),
        "depth_bias": torch.cat([bias for _, bias in depths]),
    }


def _render(tensors: _Tensors, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The render net: plain convolutions."""
    state = {}
    before = config["coarse_channels"]
    for i, channels in enumerate(config["channels"]):
        resolution = config["img_resolution"] >> (len(config["channels"]) - 1 - i)
        if resolution // 2 == config["coarse_resolution"]:
            before += config["coarse_channels"]
        for j, inputs in enumerate((before, channels)):
            theirs, ours = f"render_net.convs.{2 * i + j}", f"b{resolution}.conv{j}"
            weight = tensors.take(f"{theirs}.weight", channels, inputs, 3, 3)
            weight = weight * tensors.take(f"{theirs}.modulation", 1, inputs, 1, 1) / math.sqrt(9 * inputs)
            norm = (weight.square().sum(dim=(1, 2, 3), keepdim=True) + DEMODULATION_EPS).rsqrt()
            noise = tensors.take(f"render_net.noises.noise_{2 * i + j}", 1, 1, resolution, resolution)
            state[f"{ours}.weight"] = weight * norm * LRELU_GAIN
            state[f"{ours}.bias"] = tensors.take(f"{theirs}.activate.bias", channels) * LRELU_GAIN
            state[f"{ours}.noise_const"] = noise[0, 0]
            state[f"{ours}.noise_strength"] = tensors.take(f"{theirs}.noise.weight", 1)[0] * LRELU_GAIN
        tensors.drop_filter(f"render_net.convs.{2 * i}.blur.kernel")
        rgb = _output(tensors, f"render_net.to_rgbs.{i}", channels, 3)
        seg = _output(tensors, f"render_net.to_segs.{i}", channels, config["num_parts"])
        state[f"b{resolution}.out_weight"] = torch.cat([rgb[0], seg[0]])
        state[f"b{resolution}.out_bias"] = torch.cat([rgb[1], seg[1]])
        before = channels
    return state


def _output(tensors: _Tensors, name: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight ``(outputs, inputs)`` and bias of a 1x1 convolution with a constant style and no demodulation."""
    weight = tensors.take(f"{name}.conv.weight", outputs, inputs, 1, 1)
    style = tensors.take(f"{name}.conv.modulation", 1, inputs, 1, 1)
    tensors.drop_filter(f"{name}.upsample.kernel")
    return (weight * style)[:, :, 0, 0] / math.sqrt(inputs), tensors.take(f"{name}.bias", 1, outputs, 1, 1).flatten()
