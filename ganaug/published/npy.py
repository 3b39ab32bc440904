"""Arrays of numpy (``.npy``), read without numpy's own header parser and without objects."""

import re
from typing import Any, BinaryIO, Literal

import numpy as np

from ganaug.errors import CheckpointError
from ganaug.published.inert import NUMPY_DTYPE, check_sizes, count_elements

# The header that numpy writes. Read here and not by numpy, which evaluates it as a Python literal.
MAX_NPY_HEADER = 4096
_NPY_HEADER = re.compile(
    r"\{'descr': '([<>=|]?[a-z]\d)', 'fortran_order': (True|False), 'shape': \(([\d, ]{0,200})\), ?\} *\n"
)


def read_npy(file: BinaryIO, size: int) -> np.ndarray[Any, Any]:
    """The array in a ``.npy`` file of ``size`` bytes; its header is compared with that before room is made for it.

    Raises:
        CheckpointError: For anything but plain numbers, or a header that does not fit the size.
    """
    version = file.read(8)[6:]
    if version not in (b"\1\0", b"\2\0"):
        raise CheckpointError(f"a .npy file of version {tuple(version)}; expected 1.0 or 2.0")
    width = 2 if version == b"\1\0" else 4
    length = int.from_bytes(file.read(width), "little")
    header = _NPY_HEADER.fullmatch(file.read(min(length, MAX_NPY_HEADER)).decode("latin1"))
    if header is None or not NUMPY_DTYPE.fullmatch(header[1]):
        raise CheckpointError("a .npy file with something else than plain numbers, or with a damaged header")
    shape = tuple(int(dim) for dim in header[3].split(",") if dim.strip())
    dtype, held = np.dtype(header[1]), size - 8 - width - length
    if count_elements(check_sizes(shape)) * dtype.itemsize != held:
        raise CheckpointError(f"a .npy file of shape {shape}, but with {held} bytes")
    order: Literal["F", "C"] = "F" if header[2] == "True" else "C"
    flat = np.empty(held // dtype.itemsize, dtype)
    file.readinto(flat)  # type: ignore[attr-defined]
    return flat.reshape(shape, order=order)
