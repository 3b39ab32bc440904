"""StyleGAN2 as OpenMMLab's mmagic (mmgen before) saves it: rosinality's layout under other names.

Networks that mmagic trained itself may give blue, green, red: the order is not in the file.
"""

import re
from typing import Any

from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published import PublishedModel
from ganaug.published.rosinality import rosinality_generator, tensors_of

# Their name -> rosinality's, applied to every part of a name. Weights with an equalised learning rate end in "_orig".
RENAMED = (
    (r"^style_mapping\.(\d+)\.linear\.weight_orig$", r"style.\1.weight"),
    (r"^style_mapping\.(\d+)\.bias$", r"style.\1.bias"),
    (r"^constant_input\.input$", r"input.input"),
    (r"^injected_noise_(\d+)$", r"noises.noise_\1"),
    (r"\.style_modulation\.linear\.weight_orig$", r".modulation.weight"),
    (r"\.style_modulation\.bias$", r".modulation.bias"),
    (r"\.noise_injector\.weight$", r".noise.weight"),
    (r"\.weight_orig$", r".weight"),
)


def read(tree: Any) -> PublishedModel | None:
    """A StyleGAN2 out of a file with ``generator_ema.*`` (or ``generator.*``) names, or out of a bare state dict.

    Raises:
        CheckpointError: For a conditional network, and for one that this package's network cannot be.
    """
    if not isinstance(tree, dict):
        return None
    tensors = tensors_of(tree.get("state_dict")) or tensors_of(tree)
    # Newer versions wrap the average in a module that counts its steps.
    for prefix in ("generator_ema.module.", "generator_ema.", "generator.", ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if "constant_input.input" in state and "style_mapping.1.linear.weight_orig" in state:
            config, ours = _generator(state)
            network = prefix.split(".")[0] or "state dict"
            description = {"family": "stylegan2", "config": config, "layout": "mmagic", "network": network}
            return PublishedModel(description, {"generator": ours})
    return None


def _generator(state: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if any(name.startswith("embed.") for name in state):
        raise CheckpointError("it is a conditional StyleGAN2 of mmagic, of which only unconditional ones are read")
    mean = state.pop("w_avg", None)
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return rosinality_generator(renamed, mean)
