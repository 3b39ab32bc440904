"""Opens a foreign file of weights: finds out what it is, has it read, and checks what came out.

The only door for untrusted bytes. Whatever a file does, the caller meets a tree of plain values (``tree.py``) or one
:class:`CheckpointError` that names the file and the reason.
"""

import io
from pathlib import Path
from typing import Any, BinaryIO

from ganaug.errors import CheckpointError
from ganaug.published.limits import Budget, Source
from ganaug.published.names import look_up_with
from ganaug.published.npy import read_npy
from ganaug.published.plain import plain
from ganaug.published.torch_files import LEGACY_MAGIC, read_legacy, read_zip, storage_from_bytes
from ganaug.published.unpickle import Machine

# Weights with optimizer states of the largest model in the field are about 4 GB.
MAX_FILE_BYTES = 32 << 30
# NVIDIA's largest pickles (StyleGAN3-R with its discriminator) are below 1 GB; these are read into memory as a whole.
MAX_PICKLE_BYTES = 8 << 30

# First bytes of files that are often downloaded in place of weights.
_NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<": "a web page, not weights; the download needs a login or a confirmation",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"7z\xbc\xaf": "compressed with 7-zip; unpack it first",
    b"Rar!": "compressed with rar; unpack it first",
    b"\x89HDF": "a Keras file (HDF5), which this package does not read",
}


def open_tree(path: Path) -> Any:
    """Opens a foreign file of weights without executing anything in it.

    Reads NVIDIA's pickles, files of ``torch.save`` (zip format and the older one) and ``.npy`` arrays. Tensors of zip
    files may be backed by the file itself.

    Args:
        path: The file.

    Returns:
        A tree as described in :mod:`ganaug.published.tree`, without cycles, at most ``plain.MAX_DEPTH`` deep.

    Raises:
        CheckpointError: If it cannot be opened; names the file and the reason, on one line.
    """
    try:
        if not path.is_file():
            raise CheckpointError("a folder; expected a file" if path.is_dir() else "no such file")
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            return plain(_read(path, file, size), Budget(size))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {_one_line(str(error))}") from error
    except Exception as error:
        # Damaged bytes reach every decoder below (struct, unicode, zip, torch): what they raise is the file's fault.
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {_one_line(str(error))}") from error


def _read(path: Path, file: BinaryIO, size: int) -> Any:
    head = file.read(512)
    file.seek(0)
    if not head:
        raise CheckpointError("empty")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{size} bytes, more than any checkpoint ({MAX_FILE_BYTES})")
    if head.startswith(b"PK\3\4"):
        return read_zip(path, file, size)
    if head.startswith(b"\x93NUMPY"):
        return read_npy(file, size)
    if head[257:262] == b"ustar":
        raise CheckpointError("a tar archive; unpack it first (torch files from 2016: save them again with torch 1.x)")
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        # The magic number is a pickle of its own: behind the protocol, or behind that and a frame's length.
        magic = b"\x8a\n" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
        if head.startswith(magic, 2) or head.startswith(magic, 11):
            return read_legacy(path, file, size)
        return _read_pickle(file, size)
    for start, reason in _NOT_WEIGHTS.items():
        if head.lstrip().startswith(start):
            raise CheckpointError(reason)
    if head[8:9] == b"{":
        raise CheckpointError("a safetensors file that this package did not write")
    raise CheckpointError(f"begins with {head[:8]!r}: neither a pickle, a file of torch.save nor a .npy array")


def _read_pickle(file: BinaryIO, size: int) -> Any:
    if size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"a pickle of {size} bytes, more than any checkpoint ({MAX_PICKLE_BYTES})")
    budget = Budget(size)
    look_up = look_up_with(budget, {"torch.storage._load_from_bytes": storage_from_bytes(budget)})
    source = Source(file, size)
    value = Machine(source, look_up, budget).load()
    if source.remaining:
        raise CheckpointError(f"damaged: {source.remaining} bytes behind its end")
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
