"""Archives of numpy arrays (``.npz``), bounded and without objects."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.errors import CheckpointError

MAX_MEMBERS = 1024
MAX_BYTES = 1 << 27  # of all arrays together; the components of W take less than 1 MB, those of features more

Array = np.ndarray[Any, Any]


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive of nothing but ``.npy`` members."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an archive by name.

    Raises:
        CheckpointError: For an archive that is damaged, too big, or holds anything but plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or len({member.filename for member in members}) != len(members):
                raise CheckpointError(f"{len(members)} arrays, too many, or several of one name")
            found: dict[str, Array] = {}
            left = MAX_BYTES
            for member in members:
                with archive.open(member) as file:
                    data = file.read(left + 1)  # what the archive says of its sizes may be a lie
                if len(data) > left:
                    raise CheckpointError(f"arrays of more than {MAX_BYTES} bytes")
                left -= len(data)
                found[member.filename.removesuffix(".npy")] = _read_array(data)
            return found
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:
        # zip, zlib, lzma, bz2 and numpy each have their own ways to say that bytes are damaged.
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {str(error)[:200]}") from error


def _read_array(data: bytes) -> Array:
    """One member; its header is compared with its length before room is made for it."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise CheckpointError(f"an array of format {version}, expected 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    if dtype.kind not in "fiu":
        raise CheckpointError(f"an array of {dtype}, expected plain numbers")
    count = 1
    for side in shape:
        count *= side
    if count < 0 or count * dtype.itemsize != len(data) - file.tell():
        raise CheckpointError(f"an array {shape} of {dtype} in {len(data) - file.tell()} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C").copy()
