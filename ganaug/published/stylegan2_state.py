"""What a StyleGAN2 is made of, in this package's names: shared by the layouts that hold one.

A layout only renames. Here the architecture is read off the tensors' shapes, and every tensor is then held against the
shape that this architecture asks for, so that a file of another network is refused and not misread.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ganaug.errors import CheckpointError

# Twice the largest published size. A block of a hostile file may hold next to nothing, but its noise map would not.
MAX_RESOLUTION = 2048

MEAN_LATENT = "map_network.w_avg"

# Our name of a tensor, or "unknown ..." for one that has none -> (its name in the file, the tensor).
Found = dict[str, tuple[str, Tensor]]


def stylegan2_state(found: Found, conv_clamp: float | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the state dict of a StyleGAN2.

    Files without noise maps (NVIDIA's with ``use_noise=False``, the oldest of rosinality's) get maps of zeros, so that
    ``noise="const"`` is ``"none"`` for them. A file without a mean latent gets none here.

    Args:
        found: The file's tensors under our names; one that has no name of ours is refused here.
        conv_clamp: Where activations are clamped, or None.

    Returns:
        ``StyleGAN2Config`` as a JSON-able dict, and tensors (float32) for ``StyleGAN2.load_state_dict``.

    Raises:
        CheckpointError: For tensors that are missing, unknown, or of a shape that does not fit the others.
    """
    config = {**_config(found), "conv_clamp": conv_clamp, "label_sizes": []}
    state: dict[str, Tensor] = {}
    absent = []
    for name, shape in _shapes(config):
        if name not in found:
            absent.append((name, shape))
            continue
        theirs, tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"tensor {theirs} has shape {tuple(tensor.shape)}, expected {shape}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {theirs} is {tensor.dtype}, expected numbers with a fraction")
        state[name] = tensor.detach().float()
    unknown = sorted(theirs for name, (theirs, _) in found.items() if name not in state)
    if unknown:
        raise CheckpointError(f"a StyleGAN2 has no {_listed(unknown)}")
    for kind in (".noise_const", ".noise_strength"):
        if not any(name.endswith(kind) for name in state):  # a file has all of a kind or none
            state.update({name: torch.zeros(shape) for name, shape in absent if name.endswith(kind)})
    missing = [name for name, _ in absent if name not in state and name != MEAN_LATENT]
    if missing:
        raise CheckpointError(f"tensors are missing, in this package's names: {_listed(missing)}")
    return config, state


def squeezed(tensor: Tensor, name: str) -> Tensor:
    """Without the axes of length 1 that a layout puts around a tensor which has ``name`` here."""
    kind = name.rpartition(".")[2]
    plain = name.startswith("map_network.") or ".affine." in name
    ndim = {"const": 3, "noise_const": 2, "noise_strength": 0, "bias": 1, "weight": 2 if plain else 4}.get(kind, 1)
    while tensor.ndim > ndim and 1 in (tensor.shape[0], tensor.shape[-1]):
        tensor = tensor[0] if tensor.shape[0] == 1 else tensor[..., 0]
    return tensor


def check_filter(kernel: Tensor, name: str, gain: float) -> None:
    """Only the binomial filter [1, 3, 3, 1] (arXiv 1912.04958, section B) is served; stored ones sum to ``gain``.

    Raises:
        CheckpointError: For another filter.
    """
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    expected = gain * torch.outer(taps, taps)
    if kernel.shape != expected.shape or not torch.allclose(kernel.float(), expected, atol=1e-5):
        raise CheckpointError(f"{name} is not the resampling filter [1, 3, 3, 1], the only one that is supported")


def _config(found: Found) -> dict[str, Any]:
    """The architecture that shapes speak of."""

    def size(name: str, axis: int) -> int:
        if name not in found:
            raise CheckpointError(f"a tensor is missing, in this package's names: {name}")
        theirs, tensor = found[name]
        if tensor.ndim <= axis or 0 in tensor.shape:
            raise CheckpointError(f"tensor {theirs} has shape {tuple(tensor.shape)}, which fits no StyleGAN2")
        return int(tensor.shape[axis])

    blocks = [re.match(r"synthesis_network\.b(\d{1,6})\.", name) for name in found]
    resolutions = sorted({int(block[1]) for block in blocks if block})
    if resolutions != [4 << i for i in range(len(resolutions))]:
        raise CheckpointError(f"its blocks make {_listed(resolutions)} px, expected 4, 8, 16, ...: each twice the last")
    if len(resolutions) < 2 or resolutions[-1] > MAX_RESOLUTION:
        made = resolutions[-1] if resolutions else "no"
        raise CheckpointError(f"it makes {made} px, expected 8 to {MAX_RESOLUTION}")
    start = [size("synthesis_network.b4.const", axis) for axis in (1, 2)]
    if start != [4, 4]:
        raise CheckpointError(f"it starts from {start[0]}x{start[1]} px, expected 4x4: images must be square")
    image_channels = size("synthesis_network.b4.torgb.weight", 0)
    if image_channels != 3:
        raise CheckpointError(f"its images have {image_channels} channels, expected 3 (RGB)")
    w_dim = size("synthesis_network.b4.conv1.affine.weight", 1)
    layers = 0
    while f"map_network.fc{layers}.weight" in found:
        width = size(f"map_network.fc{layers}.weight", 0)
        if width != w_dim:
            raise CheckpointError(f"its mapping layers are {width} wide, expected {w_dim} as w (layer_features)")
        layers += 1
    c_dim = size("map_network.embed.weight", 1) if "map_network.embed.weight" in found else 0
    if c_dim and size("map_network.embed.weight", 0) != w_dim:
        width = size("map_network.embed.weight", 0)
        raise CheckpointError(f"its conditions are embedded in {width} numbers, expected {w_dim} as w (embed_features)")
    z_dim = size("map_network.fc0.weight", 1) - (w_dim if c_dim else 0)
    if z_dim < 1:
        raise CheckpointError("its mapping network takes no z")
    return {
        "img_resolution": resolutions[-1],
        "z_dim": z_dim,
        "w_dim": w_dim,
        "mapping_layers": layers,
        "channels": [size(f"synthesis_network.b{resolution}.torgb.weight", 1) for resolution in resolutions],
        "c_dim": c_dim,
    }


def _shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of a StyleGAN2 with its shape."""
    w_dim, c_dim = config["w_dim"], config["c_dim"]
    if c_dim:
        yield from _linear("map_network.embed", c_dim, w_dim)
    for i in range(config["mapping_layers"]):
        width = config["z_dim"] + (w_dim if c_dim else 0) if i == 0 else w_dim
        yield from _linear(f"map_network.fc{i}", width, w_dim)
    yield MEAN_LATENT, (w_dim,)
    before = 0
    for level, channels in enumerate(config["channels"]):
        block, resolution = f"synthesis_network.b{4 << level}", 4 << level
        if level == 0:
            yield f"{block}.const", (channels, 4, 4)
        for layer, inputs in (("conv0", before), ("conv1", channels)):
            if inputs:
                yield f"{block}.{layer}.weight", (channels, inputs, 3, 3)
                yield f"{block}.{layer}.bias", (channels,)
                yield f"{block}.{layer}.noise_const", (resolution, resolution)
                yield f"{block}.{layer}.noise_strength", ()
                yield from _linear(f"{block}.{layer}.affine", w_dim, inputs)
        yield f"{block}.torgb.weight", (3, channels, 1, 1)
        yield f"{block}.torgb.bias", (3,)
        yield from _linear(f"{block}.torgb.affine", w_dim, channels)
        before = channels


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _listed(values: list[Any]) -> str:
    """The first few of them."""
    shown = ", ".join(str(value)[:60] for value in values[:3])
    return f"{shown} and {len(values) - 3} more" if len(values) > 3 else shown
