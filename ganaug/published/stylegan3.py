"""NVIDIA's StyleGAN3 pickles, configs T and R (arXiv 2106.12423).

The file holds its filters, and each layer says of itself what rates, sizes and paddings it works with. The same numbers
follow from the paper's formulas (:mod:`ganaug.alias_free`); a file that says otherwise is refused and not misread.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ganaug.alias_free import LayerSpec, StyleGAN3Config, layer_specs
from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.nvidia import MAPPING_MULTIPLIER, PARTS, expect, fold_gains, number, pick_network, shown_value
from ganaug.published.stylegan2_state import MEAN_LATENT, Found
from ganaug.published.tree import InertModule
from ganaug.published.unpickle import shown

LAYER = re.compile(r"L(\d{1,2})_(\d{1,5})_(\d{1,5})")

# What a synthesis network may be made with: settings of ours with their kind, and what does not change a float32 image
# or shows in the tensors.
SETTINGS = {
    "num_critical": int,
    "first_cutoff": float,
    "first_stopband": float,
    "last_stopband_rel": float,
    "margin_size": int,
    "filter_size": int,
    "lrelu_upsampling": int,
    "use_radial_filters": bool,
    "output_scale": float,
}
SEEN_ELSEWHERE = {
    *("w_dim", "img_resolution", "img_channels", "num_layers", "channel_base", "channel_max"),
    *("conv_kernel", "conv_clamp", "num_fp16_res", "magnitude_ema_beta"),
}


def read(tree: Any) -> PublishedModel | None:
    """A StyleGAN3 out of a training snapshot (``G_ema`` of it, or ``G`` where there is no average) or a bare module.

    Raises:
        CheckpointError: For a StyleGAN3 that this package's network cannot be.
    """
    picked = pick_network(tree)
    if picked is None:
        return None
    network, module = picked
    parts = module.children
    if not PARTS.keys() <= parts.keys() or "input" not in parts["synthesis"].children:
        return None
    synthesis, mapping = parts["synthesis"], parts["mapping"]
    layers = _layers(synthesis)
    found: Found = {}
    ours = {name: f"layers.{i}" for i, (name, _) in enumerate(layers)} | {"input": "input"}
    for name, tensor in module.tensors().items():
        part, _, inside = name.partition(".")
        if part == "synthesis":
            child, _, inside = inside.partition(".")
            part, inside = (part, f"{ours[child]}.{inside}") if child in ours else ("", "")
        found[f"{PARTS[part]}.{inside}" if part in PARTS else f"unknown {name}"] = (name, tensor)
    for name, layer in mapping.children.items():
        multiplier, activation = (1.0, "linear") if name == "embed" else (MAPPING_MULTIPLIER, "lrelu")
        fold_gains(found, f"map_network.{name}", layer, multiplier)
        expect(layer, f"mapping.{name}", activation=activation)
    for name, layer in (("input", synthesis.children["input"]), *layers):
        if "affine" in layer.children:
            fold_gains(found, f"synthesis_network.{ours[name]}.affine", layer.children["affine"], 1.0)
            expect(layer.children["affine"], f"synthesis.{name}.affine", activation="linear")
    config = _config(module, layers, found)
    try:
        specs = layer_specs(StyleGAN3Config.from_dict(config))
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"its settings make no StyleGAN3: {error}") from error
    state = {}
    for name, shape in _shapes(config, specs):
        if name in found:
            theirs, tensor = found[name]
            if tuple(tensor.shape) != shape:
                raise CheckpointError(f"tensor {theirs} has shape {tuple(tensor.shape)}, expected {shape}")
            if not tensor.is_floating_point():
                raise CheckpointError(f"tensor {theirs} is {tensor.dtype}, expected numbers with a fraction")
            state[name] = tensor.detach().float()
        elif name != MEAN_LATENT:
            raise CheckpointError(f"a tensor is missing, in this package's names: {name}")
    unknown = sorted(theirs for name, (theirs, _) in found.items() if name not in state)
    if unknown:
        raise CheckpointError(f"a StyleGAN3 has no {', '.join(shown(name) for name in unknown[:4])}")
    _check_attributes(module, layers, config, specs)
    description = {"family": "stylegan3", "config": config, "layout": "nvidia", "network": network}
    return PublishedModel(description, {"generator": state})


def _layers(synthesis: InertModule) -> list[tuple[str, InertModule]]:
    """``L0_36_512``, ... in order: index, size and channels of the output."""
    named = [(LAYER.fullmatch(name), name, child) for name, child in synthesis.children.items() if name != "input"]
    numbered = sorted((int(match[1]), name, child) for match, name, child in named if match)
    if len(numbered) < 2 or [i for i, _, _ in numbered] != list(range(len(named))):
        names = ", ".join(shown(name) for _, name, _ in named[:4])
        raise CheckpointError(f"its layers are {names or 'missing'}, expected L0_..., L1_..., and so on")
    return [(name, child) for _, name, child in numbered]


def _config(module: InertModule, layers: list[tuple[str, InertModule]], found: Found) -> dict[str, Any]:
    """``StyleGAN3Config`` as a JSON-able dict: sizes from tensors, the rest from what the network was made with."""
    synthesis = module.children["synthesis"]

    def size(name: str, axis: int, ndim: int) -> int:
        theirs, tensor = found.get(name, ("", None))
        if tensor is None:
            raise CheckpointError(f"a tensor is missing, in this package's names: {name}")
        if tensor.ndim != ndim:
            raise CheckpointError(f"tensor {theirs} has shape {tuple(tensor.shape)}, expected {ndim} axes")
        return int(tensor.shape[axis])

    outputs = [size(f"synthesis_network.layers.{i}.weight", 0, 4) for i in range(len(layers))]
    if outputs[-1] != 3:
        raise CheckpointError(f"its images have {outputs[-1]} channels, expected 3 (RGB)")
    count = 0
    while f"map_network.fc{count}.weight" in found:
        count += 1
    c_dim = size("map_network.embed.weight", 1, 2) if "map_network.embed.weight" in found else 0
    w_dim = size("synthesis_network.input.affine.weight", 1, 2)
    options = synthesis.init_kwargs
    off = (type(None), bool, int, float)
    odd = [
        name
        for name, value in options.items()
        if name not in SETTINGS.keys() | SEEN_ELSEWHERE and (not isinstance(value, off) or value)
    ]
    if odd:
        raise CheckpointError(f"its synthesis network was made with {shown(str(odd[0]))}, which is not known here")
    settings: dict[str, Any] = {}
    for name, kind in SETTINGS.items():
        stored = synthesis.state.get(name, options.get(name))
        if stored is not None:
            value = number(stored, f"synthesis.{name}")
            if kind is not float and value != int(value):
                raise CheckpointError(f"synthesis.{name} is {value:g}, expected a whole number")
            settings[name] = kind(value)
    clamps = {_clamp(layer.state.get("conv_clamp", options.get("conv_clamp", 256)), name) for name, layer in layers}
    if len(clamps) > 1:
        raise CheckpointError(f"its layers clamp at different values, {clamps}; expected one")
    return {
        "img_resolution": int(number(synthesis.state.get("img_resolution"), "synthesis.img_resolution")),
        "z_dim": size("map_network.fc0.weight", 1, 2) - (w_dim if c_dim else 0),
        "w_dim": w_dim,
        "mapping_layers": count,
        "channels": outputs[:-1],
        "c_dim": c_dim,
        "conv_kernel": size("synthesis_network.layers.0.weight", 2, 4),
        "conv_clamp": clamps.pop(),
        **settings,
    }


def _clamp(value: Any, layer: str) -> float | None:
    return None if value is None else number(value, f"synthesis.{layer}.conv_clamp")


def _shapes(config: dict[str, Any], specs: list[LayerSpec]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Our names of all tensors with their shapes."""
    w_dim, c_dim = config["w_dim"], config["c_dim"]
    yield MEAN_LATENT, (w_dim,)
    if c_dim:
        yield "map_network.embed.weight", (w_dim, c_dim)
        yield "map_network.embed.bias", (w_dim,)
    for i in range(config["mapping_layers"]):
        inputs = config["z_dim"] + (w_dim if c_dim else 0) if i == 0 else w_dim
        yield f"map_network.fc{i}.weight", (w_dim, inputs)
        yield f"map_network.fc{i}.bias", (w_dim,)
    start, channels = "synthesis_network.input", specs[0].in_channels
    yield f"{start}.weight", (channels, channels)
    yield f"{start}.affine.weight", (4, w_dim)
    yield f"{start}.affine.bias", (4,)
    yield f"{start}.transform", (3, 3)
    yield f"{start}.freqs", (channels, 2)
    yield f"{start}.phases", (channels,)
    for i, spec in enumerate(specs):
        layer = f"synthesis_network.layers.{i}"
        yield f"{layer}.weight", (spec.out_channels, spec.in_channels, spec.kernel, spec.kernel)
        yield f"{layer}.bias", (spec.out_channels,)
        yield f"{layer}.affine.weight", (spec.in_channels, w_dim)
        yield f"{layer}.affine.bias", (spec.in_channels,)
        yield f"{layer}.magnitude_ema", ()
        if spec.up_taps > 1:
            yield f"{layer}.up_filter", (spec.up_taps,)
        if spec.down_taps > 1:
            yield f"{layer}.down_filter", (spec.down_taps,) * (2 if spec.radial else 1)


def _check_attributes(
    module: InertModule, layers: list[tuple[str, InertModule]], config: dict[str, Any], specs: list[LayerSpec]
) -> None:
    """What the modules say of themselves must be what the settings lead to."""
    sizes = {name: config[name] for name in ("z_dim", "c_dim", "w_dim", "img_resolution")}
    sizes |= {"img_channels": 3, "num_ws": len(layers) + 1}
    _compare(module, "", sizes)
    _compare(module.children["mapping"], "mapping.", {**sizes, "num_layers": config["mapping_layers"]})
    synthesis = module.children["synthesis"]
    _compare(synthesis, "synthesis.", {**sizes, "num_layers": len(layers) - 1})
    first = specs[0]
    start = {"channels": first.in_channels, "size": first.in_size, "sampling_rate": first.in_rate}
    _compare(synthesis.children["input"], "synthesis.input.", {**start, "bandwidth": first.in_cutoff})
    for i, ((name, layer), spec) in enumerate(zip(layers, specs, strict=True)):
        expected = f"L{i}_{spec.out_size}_{spec.out_channels}"
        if name != expected:
            raise CheckpointError(f"layer {name} is {expected} by the network's settings")
        _compare(
            layer,
            f"synthesis.{name}.",
            {
                "is_torgb": spec.is_rgb,
                "in_channels": spec.in_channels,
                "out_channels": spec.out_channels,
                "in_size": spec.in_size,
                "out_size": spec.out_size,
                "in_sampling_rate": spec.in_rate,
                "out_sampling_rate": spec.out_rate,
                "tmp_sampling_rate": spec.rate,
                "in_cutoff": spec.in_cutoff,
                "out_cutoff": spec.out_cutoff,
                "in_half_width": spec.in_half_width,
                "out_half_width": spec.out_half_width,
                "conv_kernel": spec.kernel,
                "up_factor": spec.up,
                "up_taps": spec.up_taps,
                "down_factor": spec.down,
                "down_taps": spec.down_taps,
                "down_radial": spec.radial,
                "padding": spec.padding * 2,
            },
        )


def _compare(module: InertModule, where: str, expected: dict[str, Any]) -> None:
    """Attributes that are stored, numbers or a few of them, must be those expected: one for all, or one for each."""
    for name, value in expected.items():
        stored = module.state.get(name)
        if stored is None:
            continue
        if isinstance(stored, np.ndarray) and stored.size <= 4:
            stored = stored.reshape(-1).tolist()
        items = list(stored)[:5] if isinstance(stored, list | tuple) else [stored]
        wanted = list(value) if isinstance(value, tuple) else [value] * len(items)
        numbers = [number(item, f"{where}{name}") for item in items]
        if len(items) != len(wanted) or not all(map(_close, numbers, wanted)):
            got = items[0] if len(items) == 1 else [shown_value(item) for item in items]
            raise CheckpointError(f"{where}{name} is {got}, but the network's settings make it {value}")


def _close(stored: float, expected: float) -> bool:
    return math.isclose(stored, expected, rel_tol=1e-6)
