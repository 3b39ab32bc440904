"""StyleGAN2 as rosinality's PyTorch code saves it: converted files, training files, and the decoders inside encoders.

No clamp is stored (that code has none), the mean latent only in converted files.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.stylegan2_state import MEAN_LATENT, Found, check_filter, squeezed, stylegan2_state

# Inside a layer: their name -> ours.
LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}

# Where a file of this layout, or of a neighbour with the same one, keeps a generator's state; the average first.
NETWORKS = ("g_ema", "params_ema", "g", "generator", "state_dict")


def read(tree: Any) -> PublishedModel | None:
    """A StyleGAN2 out of a file with ``g_ema`` (or ``g`` where there is no average), or out of a bare state dict.

    Raises:
        CheckpointError: For a discriminator alone, for restoration networks around a StyleGAN2, and for a StyleGAN2
            that this package's network cannot be.
    """
    if not isinstance(tree, dict):
        return None
    states = {name: tensors_of(tree.get(name)) for name in NETWORKS}
    states["state dict"] = tensors_of(tree)
    for network, state in states.items():
        if is_generator(state):
            mean = tree.get("latent_avg")
            config, ours = rosinality_generator(state, mean if isinstance(mean, Tensor) else None)
            description = {"family": "stylegan2", "config": config, "layout": "rosinality", "network": network}
            return PublishedModel(description, {"generator": ours})
    if not any(states.values()):
        states["d"] = tensors_of(tree.get("d"))
    for state in states.values():
        if "final_linear.0.weight" in state:
            raise CheckpointError("it holds a discriminator and no generator; expected 'g_ema'")
        if any(name.startswith(("stylegan_decoder.", "conv_body_first.")) for name in state):
            raise CheckpointError("it holds a face restoration network (GFPGAN), which is no generator of faces from z")
        if "style_mlp.1.weight" in state:
            raise CheckpointError("it is BasicSR's StyleGAN2, which is not read; get rosinality's or NVIDIA's file")
    return None


def rosinality_generator(
    state: Mapping[str, Tensor], latent_avg: Tensor | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Gives the tensors of a rosinality generator our names.

    Args:
        state: Their state dict, without prefix.
        latent_avg: Mean of W: ``(D,)``, or rows ``(L, D)`` that are all alike. Rows that differ are the mean of an
            encoder's codes and not of W: they are left out, as if there were none.

    Returns:
        ``StyleGAN2Config`` as a JSON-able dict, and tensors for ``StyleGAN2.load_state_dict`` (without
        ``map_network.w_avg`` where no mean latent is given).

    Raises:
        CheckpointError: For tensors that are missing, unknown, or of a shape that does not fit the others.
    """
    found: Found = {}
    for name, tensor in state.items():
        if name.endswith((".blur.kernel", ".upsample.kernel")):
            check_filter(tensor, name, gain=4.0)
            continue
        ours = _our_name(name) or f"unknown {name}"
        if ours in found:
            raise CheckpointError(f"tensors {found[ours][0]} and {name} stand for the same thing")
        found[ours] = (name, squeezed(tensor, ours))
    mean = None if latent_avg is None else _mean_of_w(latent_avg)
    if mean is not None:
        found[MEAN_LATENT] = ("latent_avg", mean)
    return stylegan2_state(found)


def tensors_of(value: Any) -> dict[str, Tensor]:
    """Tensors of a state dict, without the prefix that DataParallel puts before each; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    state = {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def is_generator(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, without prefix, has the names that every generator of this layout has."""
    return {"input.input", "conv1.conv.weight", "to_rgb1.conv.weight"} <= state.keys()


def _our_name(name: str) -> str | None:
    """Our name of a tensor of theirs; None for a name that this layout does not have."""
    if name == "input.input":
        return "synthesis_network.b4.const"
    if match := re.fullmatch(r"style\.([1-9]\d?)\.(weight|bias)", name):
        return f"map_network.fc{int(match[1]) - 1}.{match[2]}"
    # Layers in the order of the network: one at 4 px, then two for each resolution; an image after each of these.
    if match := re.fullmatch(r"noises\.noise_(\d{1,2})", name):
        return f"{_layer(int(match[1]))}.noise_const"
    if match := re.fullmatch(r"(conv|to_rgb)(?:1|s\.(\d{1,2}))\.(.+)", name):
        place = 0 if match[2] is None else int(match[2]) + 1
        layer = _layer(place) if match[1] == "conv" else f"synthesis_network.b{4 << place}.torgb"
        return f"{layer}.{LAYER[match[3]]}" if match[3] in LAYER else None
    return None


def _layer(place: int) -> str:
    return f"synthesis_network.b{4 << (place + 1) // 2}.conv{(place + 1) % 2}"


def _mean_of_w(latent_avg: Tensor) -> Tensor | None:
    """One row, if all rows are alike."""
    if latent_avg.ndim == 0 or latent_avg.numel() == 0:
        raise CheckpointError(f"latent_avg has shape {tuple(latent_avg.shape)}, expected (w_dim,) or (rows, w_dim)")
    rows = latent_avg.detach().float().reshape(-1, latent_avg.shape[-1])
    alike = (rows - rows[0]).abs().max() <= 1e-5 * rows[0].abs().max()
    return rows[0] if alike else None
