"""Weight files: one safetensors file per model, with what it is written in its metadata. Nothing in it is executed.

A file holds up to five parts under prefixes: ``generator.``, ``encoder.`` (its feed-forward inverter), ``features.``
(the trunk of its discriminator, for perceptual comparison), ``discriminator.`` (what stands on that trunk, for
fine-tuning) and ``prior.`` (a Gaussian over the codes of real photos, to draw faces from). Weights may be stored as
float16.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ganaug.interfaces import CheckpointError

FORMAT = "ganaug-1"
PARTS = ("generator", "encoder", "features", "prior", "discriminator")
ASSETS = Path(__file__).parent / "assets"

# Models that ship with the package: name -> file.
BUNDLED: dict[str, Path] = {"faces64": ASSETS / "faces64.safetensors"}


def resolve(name_or_path: str | Path) -> Path:
    """The file behind a bundled name or a path.

    Raises:
        CheckpointError: If there is no such file; the message lists the bundled names.
    """
    path = BUNDLED.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        names = ", ".join(sorted(BUNDLED))
        raise CheckpointError(
            f"no generator {str(name_or_path)!r}: expected one of the bundled names ({names}) or a .safetensors file"
        )
    return path


def read_metadata(path: Path) -> dict[str, Any]:
    """What the file says about itself: family, configuration, licence, training.

    Raises:
        CheckpointError: For a damaged file, or one that this package did not write.
    """
    try:
        with safe_open(path, framework="pt") as file:
            raw = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from error
    if raw.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format is {raw.get('format')!r}, expected {FORMAT!r}; files written by `ganaug train` have it"
        )
    try:
        described = json.loads(raw["description"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is damaged: {error}") from error
    if not isinstance(described, dict):
        raise CheckpointError(f"{path}: its description is damaged: expected a JSON object, got {described!r}")
    return described


def list_parts(path: Path) -> set[str]:
    """Names of the networks in a file.

    Raises:
        CheckpointError: See :func:`read_metadata`.
    """
    read_metadata(path)
    with safe_open(path, framework="pt") as file:
        return {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 - no mapping


def read_part(path: Path, part: str) -> dict[str, Tensor]:
    """State dict of one network, float32, checked for non-finite numbers (safetensors does not).

    Raises:
        CheckpointError: For a damaged file, or one without that network.
    """
    read_metadata(path)
    prefix = part + "."
    try:
        data = path.read_bytes()
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get("sha256")
            if stored != _tensors_digest(data):
                raise CheckpointError(f"{path}: damaged: its weights are not those that were written; get it again")
            tensors = {
                name[len(prefix) :]: file.get_tensor(name).float()
                for name in file.keys()  # noqa: SIM118 - no mapping
                if name.startswith(prefix)
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no {part}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {part}.{name} has NaN or infinite numbers")
    return tensors


def write(
    path: Path, parts: Mapping[str, Mapping[str, Tensor]], description: Mapping[str, Any], *, half: bool = True
) -> str:
    """Writes a model file atomically.

    Args:
        path: Target, ``.safetensors``.
        parts: Network name -> state dict.
        description: JSON-able; at least ``family`` and ``config``.
        half: Store float16 (half the size; relative rounding error 5e-4).

    Returns:
        sha256 (hex) of the file.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"unknown parts {sorted(unknown)}; expected some of {PARTS}")
    dtype = torch.float16 if half else torch.float32
    tensors = {
        f"{part}.{name}": t.detach().cpu().to(dtype).contiguous()
        for part, state in parts.items()
        for name, t in state.items()
    }
    metadata = {"format": FORMAT, "description": json.dumps(description, sort_keys=True)}
    metadata["sha256"] = _tensors_digest(save(tensors))
    data = _sorted_header(save(tensors, metadata))
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    return hashlib.sha256(data).hexdigest()


def _tensors_digest(data: bytes) -> str:
    """sha256 (hex) of what follows the header of a safetensors file, which has no checksum of its own."""
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


@contextmanager
def reading_description(path: Path) -> Iterator[None]:
    """Turns what goes wrong while a network is built from a file's description into CheckpointError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its configuration is damaged or incomplete: {error!r}") from error


def load_into(network: nn.Module, path: Path, part: str) -> None:
    """Fills a network with one part of a file.

    Raises:
        CheckpointError: See :func:`read_part`; also when the weights do not fit the network.
    """
    try:
        network.load_state_dict(read_part(path, part))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {part} weights do not fit the configuration written in it: {error}") from error


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with a sorted header; safetensors itself shuffles the metadata from call to call."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
