"""Weight files: one safetensors file per model, with what it is written in its metadata. Nothing in it is executed.

A generator's file holds up to five parts under prefixes: ``generator.``, ``encoder.`` (its feed-forward inverter),
``features.`` (the trunk of its discriminator, for perceptual comparison), ``discriminator.`` (what stands on that
trunk, for fine-tuning) and ``prior.`` (a Gaussian over the codes of real photos, to draw faces from). An ``embedder.``
(of identity, :mod:`ganaug.embedders`) has a file of its own. Weights may be stored as float16.

:func:`open_model` opens these and, through :mod:`ganaug.published`, the field's own checkpoints, as the same thing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ganaug.interfaces import CheckpointError
from ganaug.known_weights import KNOWN_WEIGHTS, check_unchanged, fetched, how_to_get
from ganaug.published.formats import read_model

FORMAT = "ganaug-1"
PARTS = ("generator", "encoder", "features", "prior", "discriminator", "embedder")
ASSETS = Path(__file__).parent / "assets"

# Models that ship with the package: name -> file.
BUNDLED: dict[str, Path] = {
    "faces64": ASSETS / "faces64.safetensors",
    "identity64": ASSETS / "identity64.safetensors",
}


@dataclass(frozen=True)
class Model:
    """An opened model file, of this package or of the field.

    Attributes:
        path: The file.
        description: What it says about itself: ``family``, ``config``, licence, how it came about.
        parts: Names of the networks in it, see :data:`PARTS`.
    """

    path: Path
    description: Mapping[str, Any]
    parts: frozenset[str]
    _read: Callable[[str], dict[str, Tensor]] = field(repr=False)

    def part(self, name: str) -> dict[str, Tensor]:
        """State dict of one network, float32, all numbers finite.

        Raises:
            CheckpointError: For a damaged file, or one without that network.
        """
        if name not in self.parts:
            raise CheckpointError(f"{self.path} holds no {name}")
        tensors = self._read(name)
        for key, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise CheckpointError(f"{self.path}: tensor {name}.{key} has NaN or infinite numbers")
        return tensors

    def load_into(self, network: nn.Module, part: str) -> None:
        """Fills a network with one part of the file.

        Raises:
            CheckpointError: See :meth:`part`; also when the weights do not fit the network.
        """
        self.fill(network, self.part(part), part)

    def fill(self, network: nn.Module, tensors: Mapping[str, Tensor], part: str) -> None:
        """As :meth:`load_into`, with tensors that were read before."""
        try:
            network.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise CheckpointError(
                f"{self.path}: {part} weights do not fit the configuration written in it: {error}"
            ) from error

    @contextmanager
    def building(self) -> Iterator[None]:
        """Turns what goes wrong while a network is built from the description into CheckpointError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"{self.path}: its configuration is damaged or incomplete: {error!r}") from error


def open_model(source: str | Path | Model) -> Model:
    """Opens a bundled or fetched model, a file of this package, or a checkpoint of the field; runs no code of it.

    Args:
        source: See :func:`resolve`. A model that is open already is returned as it is: a checkpoint of the field is
            read as a whole, which one does once for its generator and its encoder.

    Raises:
        CheckpointError: For a missing, damaged or unknown file; the message names it and says what is wrong.
    """
    if isinstance(source, Model):
        return source
    path = resolve(source)
    check_unchanged(path)
    if is_own(path):
        return Model(path, read_metadata(path), frozenset(list_parts(path)), lambda part: read_part(path, part))
    published = read_model(path)
    parts = published.parts
    return Model(path, published.description, frozenset(parts), lambda part: dict(parts[part]))


def is_own(path: Path) -> bool:
    """Whether a file is (or by its name should be) safetensors, the one container that this package writes."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def resolve(name_or_path: str | Path) -> Path:
    """The file behind a bundled name, the name of fetched weights (``ganaug fetch``) or a path.

    Raises:
        CheckpointError: If there is no such file; the message lists the bundled names, or says how to fetch it.
    """
    path = BUNDLED.get(str(name_or_path), Path(name_or_path))
    if str(name_or_path) in KNOWN_WEIGHTS:
        found = fetched(str(name_or_path))
        if found is None:
            raise CheckpointError(how_to_get(str(name_or_path)))
        return found
    if not path.is_file():
        names = ", ".join(sorted(BUNDLED))
        raise CheckpointError(
            f"no model {str(name_or_path)!r}: expected one of the bundled names ({names}), a name of "
            "`ganaug fetch`, or a model file: .safetensors, .pkl, .pt"
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
    """State dict of one network of an own file, float32.

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
            # Copies: what get_tensor gives lies in the mapped file, and changes if the file is written over.
            tensors = {
                name[len(prefix) :]: file.get_tensor(name).to(torch.float32, copy=True)
                for name in file.keys()  # noqa: SIM118 - no mapping
                if name.startswith(prefix)
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no {part}")
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
    data = _with_metadata(save(tensors), {"format": FORMAT, "description": json.dumps(description, sort_keys=True)})
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
    return hashlib.sha256(data).hexdigest()


def _tensors_digest(data: bytes) -> str:
    """sha256 (hex) of what follows the header of a safetensors file, which has no checksum of its own."""
    return hashlib.sha256(memoryview(data)[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def _with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """The same safetensors file with metadata, a digest of its tensors among it, and a sorted header.

    safetensors itself shuffles the metadata from call to call.
    """
    size = int.from_bytes(data[:8], "little")
    described = {**json.loads(data[8 : 8 + size]), "__metadata__": {**metadata, "sha256": _tensors_digest(data)}}
    header = json.dumps(described, sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(data)[8 + size :]))
