"""Which mechanism serves a named edit of a generator, and how well: its edit table.

A table is a file of directions and spans (:mod:`ganaug.edits.stored`), bound to the generator by its fingerprint. Those
in ``ganaug/assets`` are found without being asked for. ``ganaug directions`` makes one for another generator.
"""

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ganaug.checkpoints import ASSETS, open_model
from ganaug.edits.stored import DirectionsFile, open_directions
from ganaug.interfaces import Edit, Generator, UserInputError

SUFFIX = ".edits.safetensors"

Directions = str | Path | Sequence[Edit]


@dataclass(frozen=True)
class EditTable:
    """Named edits of one generator.

    Attributes:
        edits: Name -> edit, with what was ``measured`` of it.
        unsupported: Name -> why the generator cannot have it.
        defaults: Names that a dataset uses when nobody names any, in this order.
    """

    edits: Mapping[str, Edit] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: DirectionsFile) -> "EditTable":
        """The table that a file holds; its ``source`` may name the ``defaults``."""
        edits = {edit.name: edit for edit in file.edits}
        defaults = tuple(str(name) for name in file.source.get("defaults", ()) if name in edits)
        return cls(edits, dict(file.unsupported), defaults)

    def build(self, name: str) -> Edit | None:
        """The edit of a name, one's own to change; None if the table has none."""
        return copy.copy(self.edits[name]) if name in self.edits else None


NO_TABLE = EditTable()


def table_of(generator: Generator) -> EditTable:
    """The bundled table of a generator, or one without any names.

    Of the files only the metadata are read until one fits; of the generator, its fingerprint only if its family and
    the shape of its latents fit: hashing the weights of a large one takes a second.

    A generator that was tuned from another has the table of that one.
    """
    shape, family = list(generator.latent_spec.shape), getattr(generator, "family", None)
    for path in sorted(ASSETS.glob(f"*{SUFFIX}")):
        described = _metadata(path)
        if described.get("latents") != shape or described.get("family") != family:
            continue
        if described.get("fingerprint") == generator.fingerprint:
            return _table(path)
        claimed: tuple[str, ...] = getattr(generator, "tuned_from", ())
        if described.get("fingerprint") in claimed and _is_tuned_from(path, generator):
            return _table(path)
    return NO_TABLE


def _is_tuned_from(table: Path, generator: Generator) -> bool:
    """Whether a generator has the architecture and the mapping of the one whose table this is.

    Tuning changes neither (:mod:`ganaug.inversion.tuning`). The model lies beside its table; without it, nobody knows.
    """
    file = table.with_name(table.name.removesuffix(SUFFIX) + ".safetensors")
    if not file.is_file() or not isinstance(generator, torch.nn.Module):
        return False
    described, theirs = _untuned(file)
    config: Any = generator.config
    if type(config).from_dict(dict(described)) != config:
        return False
    mine = generator.state_dict()
    return all(name in mine and torch.equal(mine[name].cpu(), tensor) for name, tensor in theirs.items())


@functools.lru_cache(maxsize=2)
def _untuned(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Configuration of a model, and those tensors of its generator that tuning leaves alone."""
    model = open_model(file)
    tensors = model.part("generator").items()
    return model.description["config"], {k: t.clone() for k, t in tensors if not k.startswith("synthesis_network.")}


def given_table(directions: Directions | None, generator: Generator) -> EditTable:
    """What a user gives as ``directions``: the table of a file, or one of Edit objects.

    Raises:
        CheckpointError: For a file that is missing, damaged or of another generator.
        UserInputError: For anything else than a path or a sequence of edits, and for names that repeat.
    """
    if directions is None:
        return NO_TABLE
    if isinstance(directions, (str, Path)):
        return EditTable.of(open_directions(directions, generator))
    if not isinstance(directions, Sequence) or not all(isinstance(edit, Edit) for edit in directions):
        raise UserInputError(f"directions is a file of `ganaug directions` or a sequence of edits, got {directions!r}")
    edits = [edit for edit in directions if isinstance(edit, Edit)]
    named = {edit.name: edit for edit in edits}
    if len(named) < len(edits):
        raise UserInputError(f"directions has names that repeat: {', '.join(edit.name for edit in edits)}")
    return EditTable(named)


@functools.lru_cache(maxsize=8)
def _metadata(path: Path) -> Mapping[str, Any]:
    with safe_open(path, framework="pt") as file:
        described = json.loads((file.metadata() or {}).get("description", "{}"))
    return described if isinstance(described, dict) else {}


@functools.lru_cache(maxsize=8)
def _table(path: Path) -> EditTable:
    return EditTable.of(open_directions(path))
