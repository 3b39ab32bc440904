"""NVIDIA's StyleGAN2 pickles: the StyleGAN2-ADA repository's, the StyleGAN3 repository's, and modules tuned by PTI.

The three hold the same tree of modules, under whose names this package's own network is built. What the code of the
layers would have done (gains, clamps, filters) is taken from what each module stores of itself: the two repositories
disagree on defaults, so the arguments that a network was made with do not tell all.
"""

import math
from collections.abc import Iterator
from typing import Any

from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.nvidia import MAPPING_MULTIPLIER, PARTS, expect, fold_gains, number, pick_network, shown_value
from ganaug.published.stylegan2_state import Found, check_filter, stylegan2_state
from ganaug.published.tree import InertModule


def read(tree: Any) -> PublishedModel | None:
    """A StyleGAN2 out of a training snapshot (``G_ema`` of it, or ``G`` where there is no average) or a bare module.

    Raises:
        CheckpointError: For a discriminator alone, and for a StyleGAN2 that this package's network cannot be.
    """
    picked = pick_network(tree)
    if picked is None:
        return None
    network, module = picked
    parts = module.children
    if not PARTS.keys() <= parts.keys() or "b4" not in parts["synthesis"].children:
        return None
    found: Found = {}
    for name, tensor in module.tensors().items():
        part, _, inside = name.partition(".")
        if name.endswith(".resample_filter"):
            # Where nothing is resampled a filter is stored as well.
            if not inside.startswith("b4.") and ".conv1." not in inside:
                check_filter(tensor, name, gain=1.0)
        else:
            found[f"{PARTS[part]}.{inside}" if part in PARTS else f"unknown {name}"] = (name, tensor)
    for name, layer in parts["mapping"].children.items():
        multiplier, activation = (1.0, "linear") if name == "embed" else (MAPPING_MULTIPLIER, "lrelu")
        fold_gains(found, f"map_network.{name}", layer, multiplier)
        expect(layer, f"mapping.{name}", activation=activation)
    for name, layer in _layers(parts["synthesis"]):
        _check_layer(name, layer)
        fold_gains(found, f"synthesis_network.{name}", layer, 1.0)
        if "affine" in layer.children:
            fold_gains(found, f"synthesis_network.{name}.affine", layer.children["affine"], 1.0)
    config, state = stylegan2_state(found, _conv_clamp(module))
    _check_attributes(module, config)
    description = {"family": "stylegan2", "config": config, "layout": "nvidia", "network": network}
    return PublishedModel(description, {"generator": state})


def _layers(synthesis: InertModule) -> Iterator[tuple[str, InertModule]]:
    """``b8.conv0``, ... with their modules; also checks the blocks."""
    for name, block in synthesis.children.items():
        expect(block, f"synthesis.{name}", architecture="skip")
        for inner in ("conv0", "conv1", "torgb"):
            if inner in block.children:
                yield f"{name}.{inner}", block.children[inner]


def _check_layer(name: str, layer: InertModule) -> None:
    affine = layer.children.get("affine")
    if affine is not None:
        expect(affine, f"synthesis.{name}.affine", activation="linear")
    if name.endswith("torgb"):
        return
    expect(layer, f"synthesis.{name}", activation="lrelu", up=2 if name.endswith("conv0") else 1)
    gain = number(layer.state.get("act_gain", math.sqrt(2)), f"synthesis.{name}.act_gain")
    if not math.isclose(gain, math.sqrt(2), rel_tol=1e-6):
        raise CheckpointError(f"synthesis.{name} has activation gain {gain:g}, expected the square root of 2")


def _conv_clamp(module: InertModule) -> float | None:
    """The clamp that the layers hold; where they hold none, what the network was made with (nested or flat)."""
    layers = list(_layers(module.children["synthesis"]))
    stored = [(name, layer.state["conv_clamp"]) for name, layer in layers if "conv_clamp" in layer.state]
    if not stored:
        options = module.init_kwargs
        nested = options.get("synthesis_kwargs")
        stored = [("", {**options, **(nested if isinstance(nested, dict) else {})}.get("conv_clamp"))]
    values = {None if value is None else number(value, f"synthesis.{name}.conv_clamp") for name, value in stored}
    clamp = values.pop()
    if values:
        raise CheckpointError(f"its layers clamp at different values, {clamp} and {values.pop()}; expected one")
    if clamp is not None and clamp <= 0:
        raise CheckpointError(f"its conv_clamp is {clamp:g}, expected a positive number or None")
    return clamp


def _check_attributes(module: InertModule, config: dict[str, Any]) -> None:
    """What the modules say of themselves must be what their tensors say."""
    sizes = {name: config[name] for name in ("z_dim", "c_dim", "w_dim", "img_resolution")}
    sizes |= {"img_channels": 3, "num_ws": 2 * len(config["channels"])}
    layers = {"num_layers": config["mapping_layers"]}
    for path, expected in (("", sizes), ("mapping", {**sizes, **layers}), ("synthesis", sizes)):
        state = (module.children[path] if path else module).state
        for name, size in expected.items():
            stored = state.get(name)
            where = f"{path}.{name}".lstrip(".")
            if stored is not None and number(stored, where) != size:
                raise CheckpointError(f"{where} is {shown_value(stored)}, but its tensors are those of {size}")
