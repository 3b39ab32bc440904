"""pSp, e4e and ReStyle checkpoints: an encoder beside the generator that it was trained with.

A dict of ``state_dict`` (names start with ``encoder.`` or ``decoder.``, the latter in rosinality's layout), ``opts``
(the training options, a dict or a namespace) and mostly ``latent_avg``.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.encoder_state import encoder_state
from ganaug.published.rosinality import rosinality_generator

# encoder_type of the options -> where rows are read from, and whether all rows but the first are offsets from it.
KINDS: dict[str, tuple[str, bool]] = {
    "GradualStyleEncoder": ("pyramid", False),  # pSp
    "ResNetGradualStyleEncoder": ("pyramid", False),
    "Encoder4Editing": ("pyramid", True),  # e4e
    "BackboneEncoder": ("last", False),  # ReStyle
    "ResNetBackboneEncoder": ("last", False),
    "ProgressiveBackboneEncoder": ("last", True),
    "ResNetProgressiveBackboneEncoder": ("last", True),
    "BackboneEncoderUsingLastLayerIntoW": ("w", False),  # pSp
    "WEncoder": ("w", False),  # HyperStyle's first step
    "BackboneEncoderUsingLastLayerIntoWPlus": ("w_plus", False),  # pSp
}

ITERATIONS = 5  # default of ReStyle's option n_iters_per_batch
MAX_ITERATIONS = 100  # a sane number; each is a pass of encoder and generator


def read(tree: Any) -> PublishedModel | None:
    """The generator and the encoder of a file of these projects, or None for another layout.

    Raises:
        CheckpointError: If the file is of these projects, but not one that inverts photos of faces.
    """
    state = tree.get("state_dict") if isinstance(tree, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return None
    if any(name.startswith("hypernet.") for name in state):
        raise CheckpointError(
            "a HyperStyle file changes the generator's weights for each photo, which a cache of latents cannot hold; "
            "use its W encoder file, or an e4e or ReStyle file"
        )
    resnet = "encoder.conv1.weight" in state and "decoder.input.input" in state  # the first name alone is anyone's
    if not resnet and "encoder.input_layer.0.weight" not in state:
        return None
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        if part not in parts or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"its state_dict holds {name[:60]!r}; expected tensors whose names start with encoder. or decoder."
            )
        parts[part][rest] = tensor
    if not parts["decoder"]:
        raise CheckpointError("it holds an encoder without its generator (no decoder.* in its state_dict)")
    options = _options(tree)
    stored = _latent_avg(tree)
    generator, weights = rosinality_generator(parts["decoder"], stored)
    num_ws, w_dim = 2 * len(generator["channels"]), generator["w_dim"]
    head, offsets = KINDS[options["encoder_type"]]
    config, encoder = encoder_state(parts["encoder"], head, num_ws, w_dim)
    if config["input_nc"] not in (3, 6):
        raise CheckpointError(f"its encoder reads {config['input_nc']} channels (sketches, label maps), not photos")
    config |= {"offsets": offsets, "iterations": _iterations(options) if config["input_nc"] == 6 else 1}
    encoder["latent_avg"] = _start(stored, options, config, num_ws, w_dim)
    method = "restyle" if config["input_nc"] == 6 else "e4e" if config["offsets"] else "psp"
    described = {"family": "stylegan2", "config": generator, "layout": method, "encoder": method}
    return PublishedModel({**described, "encoder_config": config}, {"generator": weights, "encoder": encoder})


def _options(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Training options, checked for what this package can serve."""
    stored = tree.get("opts")
    options = vars(stored) if isinstance(stored, Namespace) else stored
    if not isinstance(options, dict):
        raise CheckpointError("it lacks the training options (opts), which say what kind of encoder it holds")
    kind = options.get("encoder_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(f"encoder_type {str(kind)[:60]!r} is not known; expected one of {', '.join(KINDS)}")
    if options.get("label_nc"):
        raise CheckpointError("its encoder reads label maps (label_nc), not photos")
    dataset = str(options.get("dataset_type", ""))[:60]
    if dataset.startswith("cars"):
        raise CheckpointError(f"its encoder reads photos of 4:3 (dataset_type {dataset!r}); here photos are square")
    return options


def _latent_avg(tree: Mapping[str, Any]) -> Tensor | None:
    """``(1 or more, D)``, the mean latent as stored, or None."""
    stored = tree.get("latent_avg")
    if stored is None:
        return None
    if not isinstance(stored, Tensor) or not stored.is_floating_point():
        raise CheckpointError("latent_avg is not a tensor of numbers")
    rows = stored.detach().float()
    rows = rows[None] if rows.ndim == 1 else rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
    if rows.ndim != 2 or not len(rows):
        raise CheckpointError(f"latent_avg has shape {tuple(stored.shape)}, expected (rows, numbers per row)")
    return rows


def _start(
    stored: Tensor | None, options: Mapping[str, Any], config: Mapping[str, Any], num_ws: int, w_dim: int
) -> Tensor:
    """``(L, D)`` that the encoder's output is added to."""
    always = config["input_nc"] == 6 or options["encoder_type"] == "WEncoder" or "n_iters_per_batch" in options
    if not (always or options.get("start_from_latent_avg", stored is not None)):
        return torch.zeros(num_ws, w_dim)
    if stored is None:
        raise CheckpointError("its encoder starts from the mean latent, but the file lacks latent_avg")
    if stored.shape[1] != w_dim or 1 < len(stored) < num_ws:
        raise CheckpointError(
            f"latent_avg has shape {tuple(stored.shape)}, but its generator takes ({num_ws}, {w_dim})"
        )
    return stored[:num_ws].expand(num_ws, w_dim).clone()


def _iterations(options: Mapping[str, Any]) -> int:
    count = options.get("n_iters_per_batch", ITERATIONS)
    if not isinstance(count, int) or not 1 <= count <= MAX_ITERATIONS:
        raise CheckpointError(f"n_iters_per_batch is {str(count)[:60]}, expected 1 to {MAX_ITERATIONS}")
    return int(count)
