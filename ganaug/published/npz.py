"""Archives of numpy arrays (``.npz``), bounded and without objects."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.errors import CheckpointError
from ganaug.published.npy import read_npy

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
                found[member.filename.removesuffix(".npy")] = read_npy(io.BytesIO(data), len(data))
            return found
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:
        # zip, zlib, lzma, bz2 and numpy each have their own ways to say that bytes are damaged.
        raise CheckpointError(f"{path}: damaged: {type(error).__name__} {str(error)[:200]}") from error
