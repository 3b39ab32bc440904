"""StyleGAN2 files as the projects of the field write them, of a generator made here."""

import argparse
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from published_files import Persistent, nvidia_pickle, stand_in
from torch import Tensor

from ganaug.generators import StyleGAN2, StyleGAN2Config

FIR = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def random_stylegan2(config: StyleGAN2Config, seed: int = 0) -> StyleGAN2:
    """Every tensor random, also those that start at zero."""
    rng = torch.Generator().manual_seed(seed)
    generator = StyleGAN2(config).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        small = name.endswith(("bias", "strength", "w_avg"))
        tensor.copy_(torch.randn(tensor.shape, generator=rng) * (0.3 if small else 1.0))
        if name.endswith("affine.bias"):
            tensor.add_(1.0)
        if name.startswith("map_network.fc"):
            tensor.mul_(100.0)
    return generator


def nvidia_tensors(generator: StyleGAN2) -> dict[str, Tensor]:
    """Under the names of the two NVIDIA repositories; both store the filter with every layer and block."""
    tensors = {
        name.replace("map_network.", "mapping.").replace("synthesis_network.", "synthesis."): tensor.clone()
        for name, tensor in generator.state_dict().items()
    }
    for name in list(tensors):
        if name.endswith(("conv0.weight", "conv1.weight")):
            tensors[name.replace("weight", "resample_filter")] = FIR.clone()
    for resolution in generator.synthesis_network.resolutions:
        tensors[f"synthesis.b{resolution}.resample_filter"] = FIR.clone()
    return tensors


def nvidia_module(
    generator: StyleGAN2,
    dialect: str = "ada",
    *,
    changed: Mapping[str, Tensor | None] | None = None,
    stored: Mapping[str, Mapping[str, Any]] | None = None,
) -> Persistent:
    """A generator as the repositories pickle it.

    Args:
        generator: Whose tensors to write.
        dialect: ``"ada"`` (arguments nested) or ``"sg3"`` (flat, and layers know their channels).
        changed: Tensors to write in the place of those of the same name; None leaves one out.
        stored: Dotted name of a module ("" for the outermost) -> attributes to store there in addition.
    """
    config, clamp = generator.config, generator.config.conv_clamp
    tensors = {**nvidia_tensors(generator), **(changed or {})}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    sizes = {"z_dim": config.z_dim, "c_dim": config.c_dim, "w_dim": config.w_dim}
    image = {"img_resolution": config.img_resolution, "img_channels": 3}
    num_ws = generator.latent_spec.num_ws
    classes = {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork"}
    attributes: dict[str, dict[str, Any]] = {
        "mapping": {**sizes, "num_ws": num_ws, "num_layers": config.mapping_layers, "w_avg_beta": 0.995},
        "synthesis": {"w_dim": config.w_dim, **image, "num_ws": num_ws},
    }
    for name in {name.rpartition(".")[0] for name in tensors if not name.endswith("w_avg")}:
        kind = name.rpartition(".")[2]
        known: dict[str, Any] = {}
        if kind.startswith("fc") or kind in ("affine", "embed"):
            classes[name] = "FullyConnectedLayer"
            multiplier = 0.01 if kind.startswith("fc") else 1
            gain = multiplier / np.sqrt(tensors[f"{name}.weight"].shape[1])
            activation = "lrelu" if kind.startswith("fc") else "linear"
            known = {"activation": activation, "weight_gain": gain, "bias_gain": multiplier}
        elif kind in ("conv0", "conv1"):
            classes[name] = "SynthesisLayer"
            known = {"up": 2 if kind == "conv0" else 1, "use_noise": True, "activation": "lrelu", "padding": 1}
            known |= {"conv_clamp": clamp, "act_gain": np.sqrt(2)}
            if dialect == "sg3":
                known |= {"in_channels": tensors[f"{name}.weight"].shape[1], "w_dim": config.w_dim}
        elif kind == "torgb":
            classes[name] = "ToRGBLayer"
            known = {"conv_clamp": clamp, "weight_gain": 1 / np.sqrt(tensors[f"{name}.weight"].shape[1])}
        elif kind.startswith("b"):
            classes[name] = "SynthesisBlock"
            known = {"architecture": "skip", "use_fp16": clamp is not None, "resolution": int(kind[1:])}
        attributes[name] = known
    synthesis = {"channel_base": 1 << 12, "channel_max": max(config.channels), "conv_clamp": clamp, "num_fp16_res": 4}
    arguments: dict[str, Any] = {**sizes, **image, "mapping_kwargs": {"num_layers": config.mapping_layers}}
    arguments |= {"synthesis_kwargs": synthesis} if dialect == "ada" else synthesis
    for name, added in (stored or {}).items():
        attributes.setdefault(name, {}).update(added)
    return Persistent(
        "Generator",
        tensors,
        {**sizes, **image, "num_ws": num_ws, **attributes.pop("", {})},
        arguments,
        classes=classes,
        module_attributes=attributes,
    )


def nvidia_snapshot(generator: StyleGAN2, dialect: str = "ada", **options: Any) -> bytes:
    """``network-snapshot-*.pkl``: the average, beside a network that is not it and a discriminator."""
    other = random_stylegan2(generator.config, seed=99)
    return nvidia_pickle(
        {
            "G": nvidia_module(other, dialect),
            "D": Persistent("Discriminator", {"b4.out.weight": torch.zeros(1, 4)}),
            "G_ema": nvidia_module(generator, dialect, **options),
            "augment_pipe": None,
            "training_set_kwargs": {"resolution": generator.img_resolution},
        }
    )


def pti_file(generator: StyleGAN2) -> bytes:
    """``model_RUN_NAME.pt``: the module by itself, through ``torch.save``."""
    with stand_in("torch_utils.persistence._reconstruct_persistent_obj"):
        return saved(nvidia_module(generator))


def saved(contents: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    return buffer.getvalue()


def rosinality_state(generator: StyleGAN2) -> dict[str, Tensor]:
    """Under rosinality's names, which know no mean latent."""
    tensors = nvidia_tensors(generator)
    state: dict[str, Tensor] = {}
    for i in range(generator.config.mapping_layers):
        for kind in ("weight", "bias"):
            state[f"style.{i + 1}.{kind}"] = tensors[f"mapping.fc{i}.{kind}"]
    state["input.input"] = tensors["synthesis.b4.const"][None]
    places = {"synthesis.b4.conv1": ("conv1", 0), "synthesis.b4.torgb": ("to_rgb1", None)}
    for i in range(int(math.log2(generator.img_resolution)) - 2):
        block = f"synthesis.b{8 * 2**i}"
        places[f"{block}.conv0"] = (f"convs.{2 * i}", 2 * i + 1)
        places[f"{block}.conv1"] = (f"convs.{2 * i + 1}", 2 * i + 2)
        places[f"{block}.torgb"] = (f"to_rgbs.{i}", None)
    for place, (name, noise) in places.items():
        state[f"{name}.conv.weight"] = tensors[f"{place}.weight"][None]
        state[f"{name}.conv.modulation.weight"] = tensors[f"{place}.affine.weight"]
        state[f"{name}.conv.modulation.bias"] = tensors[f"{place}.affine.bias"]
        if noise is None:
            state[f"{name}.bias"] = tensors[f"{place}.bias"].reshape(1, 3, 1, 1)
            if name != "to_rgb1":
                state[f"{name}.upsample.kernel"] = 4 * FIR
        else:
            state[f"{name}.activate.bias"] = tensors[f"{place}.bias"]
            state[f"{name}.noise.weight"] = tensors[f"{place}.noise_strength"].reshape(1)
            state[f"noises.noise_{noise}"] = tensors[f"{place}.noise_const"][None, None]
            if place.endswith("conv0"):
                state[f"{name}.conv.blur.kernel"] = 4 * FIR
    return state


def rosinality_converted(generator: StyleGAN2) -> dict[str, Any]:
    """What its ``convert_weight.py`` saves."""
    return {"g_ema": rosinality_state(generator), "latent_avg": generator.w_avg.clone()}


def rosinality_training(generator: StyleGAN2) -> dict[str, Any]:
    """What its ``train.py`` saves: no mean latent, and more."""
    return {
        "g": rosinality_state(random_stylegan2(generator.config, seed=99)),
        "d": {"convs.0.0.weight": torch.zeros(8, 3, 1, 1), "final_linear.0.weight": torch.zeros(8, 8)},
        "g_ema": rosinality_state(generator),
        "g_optim": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.002, "betas": (0.0, 0.99), "params": [0]}]},
        "args": argparse.Namespace(size=generator.img_resolution, latent=generator.config.w_dim, path="faces.lmdb"),
        "ada_aug_p": 0.0,
    }


def mmagic_checkpoint(generator: StyleGAN2) -> dict[str, Any]:
    """What its runner saves: the networks' names are prefixes of one state dict."""
    state: dict[str, Tensor] = {}
    for name, tensor in rosinality_state(generator).items():
        if name.startswith("style."):
            _, layer, kind = name.split(".")
            name = f"style_mapping.{layer}.{'linear.weight_orig' if kind == 'weight' else 'bias'}"
        name = name.replace("input.input", "constant_input.input").replace("noises.noise_", "injected_noise_")
        name = name.replace("modulation.weight", "style_modulation.linear.weight_orig")
        name = name.replace("modulation.bias", "style_modulation.bias")
        name = name.replace("noise.weight", "noise_injector.weight").replace("conv.weight", "conv.weight_orig")
        state[f"generator_ema.{name}"] = tensor
        state[f"generator.{name}"] = torch.zeros_like(tensor)
    state["discriminator.final_linear.0.bias"] = torch.zeros(3)
    return {"meta": {"epoch": 1}, "state_dict": state}
