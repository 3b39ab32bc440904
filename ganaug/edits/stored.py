"""Directions in a file of this package: safetensors, bound to the one generator that they were made for."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ganaug.edits.directions import Direction
from ganaug.errors import CheckpointError, UserInputError
from ganaug.interfaces import Generator

FORMAT = "ganaug-directions-1"
_MAX_LENGTH_ERROR = 1e-3


def write_directions(
    path: str | Path, directions: Sequence[Direction], generator: Generator, source: Mapping[str, Any] | None = None
) -> None:
    """Writes directions and the fingerprint of their generator; atomically.

    Args:
        path: Target, ``.safetensors``.
        directions: At least one, names all different.
        generator: The generator that they were found on or imported for.
        source: JSON-able; where they come from: file, sha256, licence, method.

    Raises:
        UserInputError: For directions without or with repeated names, or another suffix.
    """
    path = Path(path)
    names = [direction.name for direction in directions]
    if not names or len(set(names)) != len(names):
        raise UserInputError(f"directions to be written need names that differ, got {names}")
    if path.suffix != ".safetensors":
        raise UserInputError(f"{path}: expected a name that ends in .safetensors")
    tensors = {f"direction.{i}": edit.direction.cpu().contiguous() for i, edit in enumerate(directions)}
    description = {
        "format": FORMAT,
        "family": getattr(generator, "family", None),
        "fingerprint": generator.fingerprint,
        "latents": list(generator.latent_spec.shape),
        "sha256": _digest(tensors),
        "source": dict(source or {}),
        "directions": [
            {
                "name": edit.name,
                "std": edit.std,
                "rows": list(edit.rows),
                "touches": sorted(edit.touches),
                "strength": list(edit.strength),
            }
            for edit in directions
        ],
    }
    # One key only: safetensors shuffles several, and the same directions would make other bytes every time.
    data = save(tensors, {"description": json.dumps(description, sort_keys=True)})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def load_directions(path: str | Path, generator: Generator) -> list[Direction]:
    """Directions of a file, for the generator that they were written for.

    Args:
        path: File of :func:`write_directions`.
        generator: Whose latents they shall move.

    Raises:
        CheckpointError: For a missing or damaged file, or one of another generator; then both fingerprints are told.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})["description"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable file of directions: {error!r}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a file of directions; expected format {FORMAT!r}")
    if described.get("fingerprint") != generator.fingerprint:
        raise CheckpointError(
            f"{path}: directions of the {described.get('family')} generator with fingerprint "
            f"{described.get('fingerprint')}, but this one is {getattr(generator, 'family', None)} with "
            f"{generator.fingerprint}"
        )
    if described.get("sha256") != _digest(tensors):
        raise CheckpointError(f"{path}: damaged: its numbers are not those that were written; get it again")
    try:
        return [
            _direction(tensors[f"direction.{index}"], edit, generator)
            for index, edit in enumerate(described["directions"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged: {error}") from error


def _direction(tensor: Tensor, edit: Mapping[str, Any], generator: Generator) -> Direction:
    num_ws, w_dim = generator.latent_spec.shape
    rows, std, (low, high) = [int(row) for row in edit["rows"]], float(edit["std"]), edit["strength"]
    if tuple(tensor.shape) not in ((w_dim,), (num_ws, w_dim)) or not all(0 <= row < num_ws for row in rows):
        raise ValueError(f"{tuple(tensor.shape)} in rows {rows} does not fit latents of {num_ws} x {w_dim}")
    if not math.isfinite(std) or not abs(float(tensor.norm()) - 1.0) < _MAX_LENGTH_ERROR:
        raise ValueError(f"length {float(tensor.norm())} and standard deviation {std}, expected length 1")
    touches = frozenset(str(word) for word in edit["touches"])
    direction = Direction(str(edit["name"]), tensor, std, rows, touches, (float(low), float(high)))
    direction.direction = tensor.float()  # divided by its length once more, it would differ in the last bit
    return direction


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and numbers; safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
