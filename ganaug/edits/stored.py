"""Directions in a file of this package: safetensors, bound to the one generator that they were made for.

A file holds edits of the kinds ``direction`` and ``span``, for each what was measured of it and, where a score can be
read off latents, how (``calibration``); and the names that the generator cannot have, with the reason.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ganaug.edits.directions import Direction
from ganaug.edits.span import Span
from ganaug.edits.target import Gauge
from ganaug.errors import CheckpointError, UserInputError
from ganaug.interfaces import Generator

FORMAT = "ganaug-directions-1"
_MAX_LENGTH_ERROR = 1e-3
_MAX_BYTES = 1 << 29  # 4096 directions of 18 x 512 are 151 MB
_MAX_NAME = 100

Stored = Direction | Span


@dataclass(frozen=True)
class DirectionsFile:
    """What a file holds.

    Attributes:
        edits: In the order of the file.
        unsupported: Name -> why the generator cannot have it.
        source: Where they come from.
        family: Of the generator that they were made for.
        fingerprint: Of the same.
    """

    edits: tuple[Stored, ...]
    unsupported: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    fingerprint: str = ""


def write_directions(
    path: str | Path,
    directions: Sequence[Stored],
    generator: Generator,
    source: Mapping[str, Any] | None = None,
    unsupported: Mapping[str, str] | None = None,
) -> None:
    """Writes directions and the fingerprint of their generator; atomically.

    Args:
        path: Target, ``.safetensors``.
        directions: At least one, names all different.
        generator: The generator that they were found on or imported for.
        source: JSON-able; where they come from: file, sha256, licence, method.
        unsupported: Names that this generator cannot have, and why.

    Raises:
        UserInputError: For directions without or with repeated names, names or figures that cannot be stored, or
            another suffix.
    """
    path = Path(path)
    names = [direction.name for direction in directions]
    if not names or len(set(names)) != len(names):
        raise UserInputError(f"directions to be written need names that differ, got {names}")
    if path.suffix != ".safetensors":
        raise UserInputError(f"{path}: expected a name that ends in .safetensors")
    tensors: dict[str, Tensor] = {}
    described = []
    for index, edit in enumerate(directions):
        own, entry = _describe(edit)
        tensors |= {f"{name}.{index}": t.detach().cpu().float().contiguous() for name, t in own.items()}
        described.append(entry)
    refused = dict(unsupported or {})
    description = {
        "format": FORMAT,
        "family": getattr(generator, "family", None),
        "fingerprint": generator.fingerprint,
        "latents": list(generator.latent_spec.shape),
        "sha256": _digest(tensors),
        "source": dict(source or {}),
        "directions": described,
        "unsupported": refused,
    }
    try:
        for text in (*names, *refused):
            _text(text, _MAX_NAME)
        # One key only: safetensors shuffles several, and the same directions would make other bytes every time.
        metadata = {"description": json.dumps(description, sort_keys=True, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise UserInputError(f"{path}: these directions cannot be stored: {error}") from error
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save(tensors, metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def update_directions(
    path: str | Path,
    directions: Sequence[Stored],
    generator: Generator,
    source: Mapping[str, Any] | None = None,
    unsupported: Mapping[str, str] | None = None,
) -> DirectionsFile:
    """As :func:`write_directions`, but what the file has under other names stays.

    Returns:
        What the file holds now.

    Raises:
        CheckpointError: If there is a file of another kind or of another generator; it is left as it is.
        UserInputError: See :func:`write_directions`.
    """
    before = open_directions(path, generator) if Path(path).exists() else DirectionsFile(())
    if before.edits and before.fingerprint != generator.fingerprint:
        raise CheckpointError(
            f"{path}: made for the generator that this one was tuned from; write directions of this one to another file"
        )
    new = {edit.name: edit for edit in directions}
    if len(new) == len(directions):
        directions = [new.pop(edit.name, edit) for edit in before.edits] + list(new.values())
    names = {edit.name for edit in directions}
    refused = {**before.unsupported, **(unsupported or {})}
    refused = {name: why for name, why in refused.items() if name not in names or name in (unsupported or {})}
    directions = [edit for edit in directions if edit.name not in (unsupported or {})]
    write_directions(path, directions, generator, {**before.source, **(source or {})}, refused)
    return open_directions(path, generator)


def load_directions(path: str | Path, generator: Generator) -> list[Stored]:
    """Directions of a file, for the generator that they were written for; see :func:`open_directions`."""
    return list(open_directions(path, generator).edits)


def open_directions(path: str | Path, generator: Generator | None = None) -> DirectionsFile:
    """Reads a file of :func:`write_directions`, also one that somebody else may have made.

    Args:
        path: The file.
        generator: Whose latents they shall move: the one that they were made for, or one tuned from it. None to look at
            the file only.

    Raises:
        CheckpointError: For a missing or damaged file, or one of another generator; then both fingerprints are told.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, at most {_MAX_BYTES} are read")
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})["description"], parse_constant=_no_constant)
            # Copies: what get_tensor gives lies in the mapped file, and changes if the file is written over.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable file of directions: {error!r}") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a file of directions; expected format {FORMAT!r}")
    known = () if generator is None else (generator.fingerprint, *getattr(generator, "tuned_from", ()))
    if generator is not None and described.get("fingerprint") not in known:
        raise CheckpointError(
            f"{path}: directions of the {described.get('family')} generator with fingerprint "
            f"{described.get('fingerprint')}, but this one is {getattr(generator, 'family', None)} with "
            f"{generator.fingerprint}"
        )
    if described.get("sha256") != _digest(tensors):
        raise CheckpointError(f"{path}: damaged: its numbers are not those that were written; get it again")
    try:
        return _file(described, tensors, generator)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UserInputError) as error:
        raise CheckpointError(f"{path}: its description is damaged: {error}") from error


def _file(described: Mapping[str, Any], tensors: dict[str, Tensor], generator: Generator | None) -> DirectionsFile:
    num_ws, w_dim = (int(n) for n in described["latents"]) if generator is None else generator.latent_spec.shape
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"tensor {name} has numbers that are not finite, or none that are real")
    entries = described["directions"]
    edits = [_stored(index, entry, tensors, (num_ws, w_dim)) for index, entry in enumerate(entries)]
    names = [edit.name for edit in edits]
    if len(set(names)) != len(names):
        raise ValueError(f"names that repeat: {names}")
    if tensors:
        raise ValueError(f"tensors that belong to nothing: {', '.join(sorted(tensors))}")
    unsupported = {_text(name, _MAX_NAME): _text(why) for name, why in described.get("unsupported", {}).items()}
    source, family = described.get("source", {}), described.get("family")
    return DirectionsFile(
        tuple(edits),
        unsupported,
        dict(source),
        None if family is None else _text(family, _MAX_NAME),
        _text(described["fingerprint"], _MAX_NAME),
    )


def _describe(edit: Stored) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of an edit, and the rest of it."""
    entry: dict[str, Any] = {
        "name": edit.name,
        "touches": sorted(edit.touches),
        "strength": list(edit.strength),
        "measured": dict(edit.measured),
    }
    if isinstance(edit, Span):
        return {"axes": edit.axes}, {**entry, "kind": "span"}
    entry |= {"kind": "direction", "std": edit.std, "rows": list(edit.rows), "one_way": edit.one_way}
    if edit.calibration is None:
        return {"direction": edit.direction}, entry
    gauge = edit.calibration
    entry["calibration"] = {"bias": gauge.bias, "link": gauge.link}
    if gauge.range is not None:
        entry["calibration"]["range"] = list(gauge.range)
    return {"direction": edit.direction, "calibration": gauge.weights}, entry


def _stored(index: int, entry: Mapping[str, Any], tensors: dict[str, Tensor], shape: tuple[int, int]) -> Stored:
    """The edit that an entry describes; takes its tensors away."""
    name, (low, high) = _text(entry["name"], _MAX_NAME), (float(end) for end in entry["strength"])
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name}: strength from {low} to {high}")
    touches = frozenset(_text(word, _MAX_NAME) for word in entry["touches"])
    measured = dict(entry.get("measured", {}))  # files of version 0.1 have none
    kind = entry.get("kind", "direction")
    if kind == "span":
        axes = tensors.pop(f"axes.{index}").float()
        if axes.ndim != 3 or tuple(axes.shape[1:]) != shape or not len(axes):
            raise ValueError(f"{name}: axes of shape {tuple(axes.shape)} do not fit latents of {shape}")
        return Span(name, axes, touches, (low, high), measured=measured)
    if kind != "direction":
        raise ValueError(f"{name} is of the kind {kind!r}, which this version does not know")
    tensor = tensors.pop(f"direction.{index}").float()
    num_ws, w_dim = shape
    rows, std = [int(row) for row in entry["rows"]], float(entry["std"])
    if tuple(tensor.shape) not in ((w_dim,), (num_ws, w_dim)) or not all(0 <= row < num_ws for row in rows):
        raise ValueError(f"{tuple(tensor.shape)} in rows {rows} does not fit latents of {num_ws} x {w_dim}")
    if not math.isfinite(std) or not abs(float(tensor.norm()) - 1.0) < _MAX_LENGTH_ERROR:
        raise ValueError(f"length {float(tensor.norm())} and standard deviation {std}, expected length 1")
    calibration = None
    if "calibration" in entry:
        bias, link = float(entry["calibration"]["bias"]), entry["calibration"]["link"]
        weights = tensors.pop(f"calibration.{index}").float()
        if tuple(weights.shape) != shape or not math.isfinite(bias) or link not in ("identity", "logistic"):
            raise ValueError(f"{name}: calibration {tuple(weights.shape)}, bias {bias}, link {link!r}")
        calibration = Gauge(weights, bias, link, _range(entry["calibration"].get("range")))
    one_way = bool(entry.get("one_way", False))
    direction = Direction(name, tensor, std, rows, touches, (low, high), measured, calibration, one_way)
    direction.direction = tensor  # divided by its length once more, it would differ in the last bit
    return direction


def _range(value: Any) -> tuple[float, float] | None:
    """Two finite numbers in ascending order, or None for none; ValueError for anything else."""
    if value is None:
        return None
    low, high = (float(end) for end in value)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range from {low} to {high}")
    return low, high


def _text(value: object, longest: int = 2000) -> str:
    """A text that a terminal can show: a file from elsewhere must not move the cursor.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(value, str) or not value or len(value) > longest or not value.isprintable():
        raise ValueError(f"expected a text of 1 to {longest} printable characters, got {str(value)[:50]!r}")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number that JSON has")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and numbers; safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
