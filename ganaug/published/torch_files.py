"""Files of ``torch.save``, its zip format and the older one, read through two gates.

First this package's own machine reads the pickle and checks every name, size and offset against the file, without
touching a weight. Then ``torch.load(weights_only=True)`` reads it, knowing no more names beyond its own than the file
needs: nothing for most files, an inert stand-in for ``argparse.Namespace`` in training files.
"""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ganaug.errors import CheckpointError
from ganaug.published.archive import Record, records_of
from ganaug.published.inert import Storage, claimed_dtype
from ganaug.published.limits import Budget, Source
from ganaug.published.names import easy_dict, look_up_with
from ganaug.published.unpickle import Builder, Machine, shown

# What torch's older format begins with, and the version of that format.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# torch keeps the names that weights_only may use in one set for the whole process.
_SAFE_GLOBALS = threading.Lock()


def read_zip(path: Path, file: BinaryIO, size: int) -> Any:
    """Opens a file in torch's zip format; large ones stay on disk until a weight is read.

    Args:
        path: The file.
        file: The same, open.
        size: Its length in bytes.

    Raises:
        CheckpointError: The reason, without the file's name.
    """
    records = records_of(file, size)
    pickled = records["data.pkl"]
    file.seek(pickled.start)
    data = file.read(pickled.size)
    budget = Budget(size)
    machine = Machine(Source(io.BytesIO(data), len(data)), look_up_with(budget), budget, _zip_claims(records))
    machine.load()
    _check_protocol(machine)
    aligned = all(record.start % 8 == 0 for record in records.values() if record.is_storage)
    return _torch_load(str(path), machine.names, size, mmap=aligned)


def read_legacy(path: Path, file: BinaryIO, size: int) -> Any:
    """Opens a file in torch's format from before 1.6.

    Args:
        path: The file.
        file: The same, open, at its beginning.
        size: Its length in bytes.

    Raises:
        CheckpointError: The reason, without the file's name.
    """
    names, _ = check_legacy(Source(file, size), Budget(size))
    with io.BufferedReader(_NoDescriptor(path)) as again:
        return _torch_load(again, names, size)


def storage_from_bytes(budget: Budget) -> Builder:
    """Builder for ``torch.storage._load_from_bytes``: how storages lie inside of NVIDIA's pickles.

    torch's own function of that name is a ``torch.load`` without any restriction.
    """
    seen: dict[int, bytes] = {}

    def build(data: Any) -> Storage:
        if not isinstance(data, bytes) or id(data) in seen:
            raise CheckpointError("damaged: a storage that is not bytes of its own")
        seen[id(data)] = data
        budget.spend(len(data))
        names, claim = check_legacy(Source(io.BytesIO(data), len(data)), budget)
        if not isinstance(claim, Storage):
            raise CheckpointError(f"damaged: a {type(claim).__name__} where a storage is expected")
        loaded = _torch_load(io.BytesIO(data), names, len(data))
        values = torch.empty(0, dtype=claim.dtype).set_(loaded)
        if values.dtype != claim.dtype or values.numel() != claim.numel:
            raise CheckpointError("damaged: a storage of another size than it claims")
        return Storage(claim.dtype, claim.numel, values)

    return build


def check_legacy(source: Source, budget: Budget) -> tuple[Mapping[str, Builder], Any]:
    """Reads the older format up to its weights, and checks that these are all there.

    Returns:
        The names that it asks for, and its value with tensors on the meta device.

    Raises:
        CheckpointError: If it claims what it does not hold.
    """

    def load(machine: Machine) -> Any:
        value = machine.load()
        _check_protocol(machine)
        return value

    def no_name(full: str) -> None:
        return None

    header = [load(Machine(source, no_name, budget)) for _ in range(3)]
    if header[:2] != [LEGACY_MAGIC, LEGACY_VERSION] or not isinstance(header[2], dict):
        raise CheckpointError("damaged: not the header of a torch file")
    if header[2].get("little_endian") is not True:
        raise CheckpointError("written on a big-endian machine")
    claims: dict[str, Storage] = {}
    machine = Machine(source, look_up_with(budget), budget, _legacy_claims(claims))
    value = load(machine)
    keys = load(Machine(source, no_name, budget))
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(claims):
        raise CheckpointError("damaged: the storages in the file are not those that its tensors use")
    for key in keys:
        numel = int.from_bytes(source.read(8), "little")
        if numel != claims[key].numel:
            raise CheckpointError(f"damaged: a storage of {numel} numbers, where {claims[key].numel} are claimed")
        source.skip(claims[key].num_bytes)
    if source.remaining:
        raise CheckpointError(f"damaged: {source.remaining} bytes behind its end")
    return machine.names, value


def _check_protocol(machine: Machine) -> None:
    if machine.protocol != 2:
        raise CheckpointError(
            f"written with pickle_protocol={machine.protocol}, which torch.load(weights_only=True) does not read; "
            "save it again without that argument"
        )


def _legacy_claims(claims: dict[str, Storage]) -> Callable[[Any], Storage]:
    def claim(identifier: Any) -> Storage:
        key, made = _claim(identifier, 6)
        if identifier[5] is not None:
            raise CheckpointError("storages that are views of others (torch before 1.0); save it with a newer torch")
        if claims.setdefault(key, made) != made:
            raise CheckpointError(f"damaged: the storage {shown(key)} has two sizes or types")
        return made

    return claim


def _zip_claims(records: Mapping[str, Record]) -> Callable[[Any], Storage]:
    def claim(identifier: Any) -> Storage:
        key, made = _claim(identifier, 5)
        record = records.get(f"data/{key}")
        if record is None or record.size != made.num_bytes:
            held = "none" if record is None else f"{record.size}"
            raise CheckpointError(f"storage {shown(key)} claims {made.num_bytes} bytes; the file holds {held}")
        return made

    return claim


def _claim(identifier: Any, length: int) -> tuple[str, Storage]:
    # ("storage", class, key, device, number of elements[, view])
    if not isinstance(identifier, tuple) or len(identifier) != length or identifier[0] != "storage":
        raise CheckpointError("damaged: a reference to something else than a storage")
    _, storage_type, key, location, numel = identifier[:5]
    if not isinstance(key, str) or not isinstance(location, str) or type(numel) is not int or numel < 0:
        raise CheckpointError("damaged: a storage without a name or a size")
    return key, Storage(claimed_dtype(storage_type), numel)


def _torch_load(source: Any, names: Mapping[str, Builder], size: int, mmap: bool = False) -> Any:
    with _known_to_torch(names, size):
        try:
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except CheckpointError:
            raise
        except Exception as error:
            # Its messages recommend to load without weights_only: not repeated.
            raise CheckpointError(f"torch.load(weights_only=True) refuses it with a {type(error).__name__}") from error


class _NoDescriptor(io.FileIO):
    """A file that hides its descriptor: with one, torch tries its format of 2016 first, a tar archive."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def _known_to_torch(names: Mapping[str, Builder], size: int) -> Iterator[None]:
    """Inside the block, and for this package's names alone, torch may use inert stand-ins.

    What the process itself registered (``torch.serialization.add_safe_globals``) is taken away inside the block: were
    NVIDIA's real function among it, torch would call it. ``torch.serialization.safe_globals`` cannot do that. The set
    belongs to the process, so two files are not read at the same time, and another thread's ``torch.load`` may miss
    its own registrations for that moment. Most files need no such name, and then nothing is touched.
    """
    look_up = look_up_with(Budget(size))
    # torch fills only plain dicts, and makes one without calling it.
    ours: list[Any] = [
        (dict if builder is easy_dict else look_up(name), name.replace("__builtin__", "builtins"))
        for name, builder in names.items()
        if not _is_known(name)
    ]
    if not ours:
        yield
        return
    with _SAFE_GLOBALS:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(ours):
                yield
        finally:
            # Also what another thread registered meanwhile.
            torch.serialization.add_safe_globals(before)


def _is_known(name: str) -> bool:
    """Whether ``weights_only`` knows the name by itself; only asked for names that have a builder."""
    if name.startswith("torch."):
        return not name.startswith("torch.nn.")
    return name in ("collections.OrderedDict", "_codecs.encode", "__builtin__.set", "builtins.set")
