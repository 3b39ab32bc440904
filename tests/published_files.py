"""Writes files as the projects of the field write them, out of thin air: their classes are not installed here.

NVIDIA's persistent modules pickle as ``torch_utils.persistence._reconstruct_persistent_obj(meta)``; here a stand-in
module of that name exists while a file is written, and is gone when it is read.
"""

import argparse
import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.generators.stylegan3 import StyleGAN3

SOURCE_TEXT = "raise RuntimeError('the source text of a checkpoint was run')\n"


@contextmanager
def stand_in(*names: str) -> Iterator[None]:
    """Functions of these dotted names exist inside the block, so that pickle can refer to them."""
    before = dict(sys.modules)
    try:
        for dotted in names:
            module_name, _, name = dotted.rpartition(".")
            for depth in range(1, module_name.count(".") + 2):
                part = ".".join(module_name.split(".")[:depth])
                if part not in before:
                    sys.modules.setdefault(part, types.ModuleType(part))
            function = types.FunctionType((lambda *_: None).__code__, {}, name)
            function.__module__, function.__qualname__ = module_name, name
            setattr(sys.modules[module_name], name, function)
        yield
    finally:
        for added in set(sys.modules) - set(before):
            del sys.modules[added]


class Persistent:
    """A module as ``torch_utils.persistence`` stores it.

    Args:
        class_name: Name of the class.
        tensors: Dotted name -> tensor; sub-modules are made from the dots. Names in ``buffers`` become buffers.
        attributes: Plain attributes of the outermost module.
        init_kwargs: What it was made with.
        buffers: Last parts of names that are buffers (``"w_avg"``).
        classes: Dotted name of a sub-module -> its class name; "Module" for others.
        module_attributes: Dotted name of a sub-module -> its plain attributes.
    """

    def __init__(
        self,
        class_name: str,
        tensors: Mapping[str, Tensor],
        attributes: Mapping[str, Any] | None = None,
        init_kwargs: Mapping[str, Any] | None = None,
        buffers: tuple[str, ...] = ("w_avg", "noise_const", "resample_filter"),
        classes: Mapping[str, str] | None = None,
        module_attributes: Mapping[str, Mapping[str, Any]] | None = None,
        _path: str = "",
    ) -> None:
        self.class_name = class_name
        inside: dict[str, dict[str, Tensor]] = {}
        parameters: OrderedDict[str, Any] = OrderedDict()
        kept: OrderedDict[str, Any] = OrderedDict()
        for name, tensor in tensors.items():
            head, dot, rest = name.partition(".")
            if dot:
                inside.setdefault(head, {})[rest] = tensor
            elif head in buffers:
                kept[head] = tensor
            else:
                parameters[head] = torch.nn.Parameter(tensor, requires_grad=False)
        classes, module_attributes = classes or {}, module_attributes or {}
        self.state: dict[str, Any] = {
            "training": False,
            "_parameters": parameters,
            "_buffers": kept,
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(
                (
                    name,
                    Persistent(
                        classes.get(f"{_path}{name}", "Module"),
                        deeper,
                        buffers=buffers,
                        classes=classes,
                        module_attributes=module_attributes,
                        _path=f"{_path}{name}.",
                    ),
                )
                for name, deeper in inside.items()
            ),
            "_init_args": (),
            "_init_kwargs": dict(init_kwargs or {}),
            **(module_attributes.get(_path[:-1], {}) if _path else {}),
            **(attributes or {}),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj  # type: ignore[attr-defined]
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE_TEXT,
            "class_name": self.class_name,
            "state": self.state,
        }
        return function, (meta,)


def nvidia_pickle(contents: Any, protocol: int = 4) -> bytes:
    """Pickles ``contents`` (for example ``{"G_ema": Persistent(...)}``) as NVIDIA's training loops do."""
    buffer = io.BytesIO()
    with stand_in("torch_utils.persistence._reconstruct_persistent_obj"):
        pickle.dump(contents, buffer, protocol)
    return buffer.getvalue()


def numpy_scalar(value: float) -> np.float64:
    """Attributes computed with numpy (gains, log2 of the resolution) are pickled as numpy scalars."""
    return np.float64(value)


class EasyDict(dict[str, Any]):
    """NVIDIA's dict with attributes, as far as pickle sees it."""

    __module__, __qualname__ = "dnnlib.util", "EasyDict"


@contextmanager
def nvidia_names() -> Iterator[None]:
    """Inside the block, :class:`Persistent` and :class:`EasyDict` can be pickled under NVIDIA's names."""
    with stand_in("torch_utils.persistence._reconstruct_persistent_obj", "dnnlib.util.EasyDict"):
        sys.modules["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
        yield


def torch_file(contents: Any, legacy: bool = False) -> bytes:
    """``contents`` as ``torch.save`` writes it: zip format, or the one from before torch 1.6."""
    buffer = io.BytesIO()
    with nvidia_names():
        torch.save(contents, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


# What SemanticStyleGAN's training run has in its args, beside much else; small.
SEMANTIC_ARGS: dict[str, Any] = {
    "size": 32,
    "latent": 12,
    "n_mlp": 2,
    "channel_multiplier": 2,
    "seg_dim": 13,
    "local_layers": 4,
    "base_layers": 2,
    "depth_layers": 3,
    "local_channel": 8,
    "coarse_size": 16,
    "coarse_channel": 10,
    "min_feat_size": 8,
    "residual_refine": True,
    "detach_texture": True,
    "transparent_dims": (10, 12),
}


def semantic_file(
    seed: int = 0, channels: tuple[int, ...] = (12, 9), refinement: float = 1.0, **changed: Any
) -> dict[str, Any]:
    """What a SemanticStyleGAN file holds: ``g_ema`` and ``args``, random, no constant at its initial value.

    Args:
        seed: Of the draws.
        channels: Of the render net's blocks; the project has 512 and fewer.
        refinement: Scale of what the render net adds to the coarse segmentation.
        **changed: Of ``args``.
    """
    args = argparse.Namespace(**{**SEMANTIC_ARGS, **changed}, dataset="data/lmdb", lr=0.002)
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int, mean: float = 0.0, std: float = 1.0) -> None:
        state[name] = mean + std * torch.randn(shape, generator=rng)

    def add_filter(name: str) -> None:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        state[f"{name}.kernel"] = torch.outer(taps, taps) / 64 * 4

    def add_output(name: str, inputs: int, outputs: int, std: float = 1.0) -> None:
        add(f"{name}.bias", 1, outputs, 1, 1, std=0.2 * std)
        add_filter(f"{name}.upsample")
        add(f"{name}.conv.weight", outputs, inputs, 1, 1, std=std)
        add(f"{name}.conv.modulation", 1, inputs, 1, 1, mean=1.0, std=0.3)

    width = args.local_channel
    add("pos_embed.weights", width, 2 + 4 * (args.size.bit_length() - 1), 1, 1)
    for part in range(args.seg_dim):
        for i in range(args.local_layers):
            layer = f"local_nets.{part}.linears.{i}"
            add(f"{layer}.conv.weight", 1, width, width, 1, 1)
            add(f"{layer}.conv.modulation.weight", width, args.latent)
            add(f"{layer}.conv.modulation.bias", width, mean=1.0, std=0.2)
            add(f"{layer}.activate.bias", width, std=0.3)
        add_output(f"local_nets.{part}.to_feat", width, args.coarse_channel)
        if part > 0:
            add_output(f"local_nets.{part}.to_depth", width, 1, std=2.0)
    before = args.coarse_channel
    for i, outputs in enumerate(channels):
        resolution = args.min_feat_size * 2 ** (i + 1)
        if resolution // 2 == args.coarse_size:
            before += args.coarse_channel
        for j, inputs in ((2 * i, before), (2 * i + 1, outputs)):
            add(f"render_net.convs.{j}.weight", outputs, inputs, 3, 3)
            add(f"render_net.convs.{j}.modulation", 1, inputs, 1, 1, mean=1.0, std=0.3)
            add(f"render_net.convs.{j}.noise.weight", 1, std=0.2)
            add(f"render_net.convs.{j}.activate.bias", outputs, std=0.2)
            add(f"render_net.noises.noise_{j}", 1, 1, resolution, resolution)
        add_filter(f"render_net.convs.{2 * i}.blur")
        add_output(f"render_net.to_rgbs.{i}", outputs, 3, std=0.3)
        add_output(f"render_net.to_segs.{i}", outputs, args.seg_dim, std=refinement)
        before = outputs
    for i in range(1, args.n_mlp + 1):
        add(f"style.{i}.weight", args.latent, args.latent, std=100.0)
        add(f"style.{i}.bias", args.latent, std=0.2)
    return {"g_ema": state, "args": args}


def stylegan3_module(generator: StyleGAN3, **synthesis_settings: Any) -> Persistent:
    """A StyleGAN3 generator as its project pickles it: filters as buffers, every layer with its numbers.

    Args:
        generator: Whose tensors and numbers.
        **synthesis_settings: What the synthesis network says that it was made with, beside ``img_resolution``.
    """
    specs = [layer.spec for layer in generator.synthesis_network.layers]
    names = [f"L{i}_{spec.out_size}_{spec.out_channels}" for i, spec in enumerate(specs)]
    tensors = {}
    for ours, tensor in generator.state_dict().items():
        part, _, inside = ours.partition(".")
        if inside.startswith("layers."):
            _, index, inside = inside.split(".", 2)
            inside = f"{names[int(index)]}.{inside}"
        tensors[f"{'mapping' if part == 'map_network' else 'synthesis'}.{inside}"] = tensor
    config = generator.config
    sizes = {
        "w_dim": config.w_dim,
        "num_ws": generator.latent_spec.num_ws,
        "img_resolution": config.img_resolution,
        "img_channels": 3,
    }
    attributes: dict[str, dict[str, Any]] = {
        "mapping": {"z_dim": config.z_dim, "c_dim": config.c_dim, "num_layers": config.mapping_layers},
        "synthesis": {
            **sizes,
            "num_layers": len(specs) - 1,
            "num_critical": config.num_critical,
            "margin_size": config.margin_size,
            "output_scale": config.output_scale,
            "layer_names": names,
            "_init_kwargs": {**{name: sizes[name] for name in ("w_dim", "img_resolution")}, **synthesis_settings},
        },
        "synthesis.input": {
            "channels": specs[0].in_channels,
            "size": np.array([specs[0].in_size] * 2),
            "sampling_rate": np.float64(specs[0].in_rate),
            "bandwidth": np.float64(specs[0].in_cutoff),
        },
    }
    for name, spec in zip(names, specs, strict=True):
        attributes[f"synthesis.{name}"] = {
            "is_torgb": spec.is_rgb,
            "in_channels": spec.in_channels,
            "out_channels": spec.out_channels,
            "in_size": np.array([spec.in_size] * 2),
            "out_size": np.array([spec.out_size] * 2),
            "in_sampling_rate": spec.in_rate,
            "out_sampling_rate": spec.out_rate,
            "tmp_sampling_rate": spec.rate,
            "in_cutoff": np.float64(spec.in_cutoff),
            "out_cutoff": np.float64(spec.out_cutoff),
            "in_half_width": np.float64(spec.in_half_width),
            "out_half_width": np.float64(spec.out_half_width),
            "conv_kernel": spec.kernel,
            "conv_clamp": config.conv_clamp,
            "up_factor": spec.up,
            "up_taps": spec.up_taps,
            "down_factor": spec.down,
            "down_taps": spec.down_taps,
            "down_radial": spec.radial,
            "padding": [*spec.padding, *spec.padding],
        }
    return Persistent(
        "Generator",
        tensors,
        {**sizes, "z_dim": config.z_dim, "c_dim": config.c_dim},
        buffers=("w_avg", "transform", "freqs", "phases", "magnitude_ema", "up_filter", "down_filter"),
        classes={"synthesis": "SynthesisNetwork", "mapping": "MappingNetwork"},
        module_attributes=attributes,
    )
