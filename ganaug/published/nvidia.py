"""What the readers of NVIDIA's pickles share: which module is the generator, and what modules store of themselves.

What the code of a layer would have done (gains, clamps, filters) is taken from its attributes: the projects disagree on
defaults, so the arguments that a network was made with do not tell all.
"""

import math
from typing import Any

import numpy as np

from ganaug.errors import CheckpointError
from ganaug.published.stylegan2_state import Found
from ganaug.published.tree import InertModule
from ganaug.published.unpickle import shown

# Names of the two parts of a generator -> theirs here.
PARTS = {"mapping": "map_network", "synthesis": "synthesis_network"}

# Learning rate multiplier that this package's mapping network applies (arXiv 1812.04948, appendix C).
MAPPING_MULTIPLIER = 0.01


def pick_network(tree: Any) -> tuple[str, InertModule] | None:
    """The generator of a tree and where it was: ``"G_ema"``, ``"G"``, or ``"module"`` for one at the top.

    Raises:
        CheckpointError: If there is a discriminator and nothing else.
    """
    candidates = {"module": tree} if not isinstance(tree, dict) else {key: tree.get(key) for key in ("G_ema", "G", "D")}
    modules = {name: value for name, value in candidates.items() if isinstance(value, InertModule)}
    for name, module in modules.items():
        if "Discriminator" not in module.class_name and name != "D":
            return name, module
    if modules:
        raise CheckpointError("it holds a discriminator and no generator; expected 'G_ema'")
    return None


def expect(module: InertModule, name: str, **attributes: str | int) -> None:
    """Refuses a module that stores something else than expected; what it does not store is taken to be as expected."""
    for attribute, expected in attributes.items():
        stored = module.state.get(attribute, expected)
        if not isinstance(stored, str | int) or stored != expected:
            raise CheckpointError(f"{name}.{attribute} is {shown_value(stored)}, but only {expected!r} is supported")


def fold_gains(found: Found, name: str, layer: InertModule, multiplier: float) -> None:
    """Makes up for a learning rate multiplier that is not ours: a product of weight and gain is what counts."""
    theirs, weight = found.get(f"{name}.weight", ("", None))
    if weight is None or 0 in weight.shape:
        return  # refused with the reason when shapes are checked
    gains = {"weight": multiplier / math.sqrt(math.prod(weight.shape[1:])), "bias": multiplier}
    if "weight_gain" not in layer.state:
        return  # a convolution with demodulation, in which a gain cancels out
    for kind, ours in gains.items():
        stored = number(layer.state.get(f"{kind}_gain", ours), f"{theirs.rpartition('.')[0]}.{kind}_gain")
        if not 0 < stored < 1e6:
            raise CheckpointError(f"{theirs.rpartition('.')[0]}.{kind}_gain is {stored:g}, expected a positive number")
        if f"{name}.{kind}" in found and not math.isclose(stored, ours, rel_tol=1e-6):
            path, tensor = found[f"{name}.{kind}"]
            found[f"{name}.{kind}"] = (path, (tensor.double() * (stored / ours)).float())


def number(value: Any, name: str) -> float:
    """A number of moderate size as a float; some were computed with numpy."""
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, int | float) or not abs(plain) < 1e12:
        raise CheckpointError(f"{name} is {shown_value(value)}, expected a number")
    return float(plain)


def shown_value(value: Any) -> str:
    """For a message; a hostile file's numbers and lists may be too long to print."""
    if isinstance(value, str):
        return shown(value)
    return str(value) if isinstance(value, int | float) and abs(value) < 1e12 else f"of type {type(value).__name__}"
