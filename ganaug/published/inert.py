"""Inert stand-ins for what checkpoints are made of: storages, tensors, arrays, settings, modules; all are checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published.unpickle import Name, Placeholder, shown

# Storage classes of torch: numbers only, none complex or quantised.
STORAGE_DTYPES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}

# bool, signed and unsigned integers, floats: kind and bytes, with or without byte order. No objects, text or records.
NUMPY_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")

MAX_DIMS = 8
MAX_SIZE = 1 << 48


@dataclass(frozen=True)
class Storage:
    """A flat run of numbers that a file holds, or claims to.

    Attributes:
        dtype: Type of its numbers.
        numel: How many.
        values: ``(numel,)``; None while a file is only checked.
    """

    dtype: torch.dtype
    numel: int
    values: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class DataName:
    """A name that files mention as a value (``torch.float32``), never call."""

    full: str

    def __call__(self, *arguments: Any) -> Any:
        raise CheckpointError(f"it calls {shown(self.full)}, which no checkpoint does")


class ArrayDType(Placeholder):
    """A ``numpy.dtype``, complete after its state brought the byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not NUMPY_DTYPE.fullmatch(code):
            raise CheckpointError(f"an array of numpy dtype {shown(str(code))}; expected plain numbers")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, item size, alignment, flags)
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise CheckpointError("damaged: the state of a numpy dtype")
        if any(item is not None for item in state[2:5]):
            raise CheckpointError("an array of records; expected plain numbers")
        if state[1] in "<>":
            self.value = self.value.newbyteorder(state[1])


class Array(Placeholder):
    """A ``numpy.ndarray``, complete after its state."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise CheckpointError("damaged: the state of a numpy array")
        _, shape, dtype, fortran_order, data = state
        self.value = make_array(data, dtype, shape, "F" if fortran_order else "C")


class Options(Placeholder):
    """An ``argparse.Namespace``."""

    values: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise CheckpointError("damaged: an argparse.Namespace whose names are not text")
        self.values = state


class TorchModule(Placeholder):
    """A module of ``torch.nn`` inside a persistent one. Its class is not looked up."""

    class_name = ""
    state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise CheckpointError(f"damaged: the state of a {shown(self.class_name)}")
        self.state = state


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """Sizes or strides: a few integers from 0 up.

    Raises:
        CheckpointError: For anything else.
    """
    if not isinstance(sizes, tuple | list) or len(sizes) > MAX_DIMS:
        raise CheckpointError(f"damaged: a shape is not a tuple of at most {MAX_DIMS} integers")
    if not all(type(size) is int and 0 <= size < MAX_SIZE for size in sizes):
        raise CheckpointError("damaged: a shape or stride with something else than integers from 0 up")
    return tuple(sizes)


def count_elements(sizes: tuple[int, ...]) -> int:
    """Product of sizes. Python's integers do not overflow; torch's would, even where another size is 0."""
    count, nonzero = 1, 1
    for size in sizes:
        count *= size
        nonzero *= size or 1
    if nonzero >= MAX_SIZE:
        raise CheckpointError(f"damaged: a shape of {sizes}")
    return count


def make_array(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """Read-only array over ``data``.

    Raises:
        CheckpointError: If it is not one of plain numbers, or its size is not that of its shape.
    """
    if not isinstance(dtype, ArrayDType) or not isinstance(data, bytes | bytearray) or order not in ("C", "F"):
        raise CheckpointError("a numpy array that is not of plain numbers")
    sizes = check_sizes(shape)
    if count_elements(sizes) * dtype.value.itemsize != len(data):
        raise CheckpointError(f"a numpy array of shape {sizes}, but with {len(data)} bytes")
    return np.frombuffer(data, dtype.value).reshape(sizes, order=order)


def make_tensor(storage: Any, offset: Any, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A view of a storage; on the meta device if the storage is only checked.

    Raises:
        CheckpointError: If any element lies outside of the storage.
    """
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0 or len(sizes) != len(strides):
        raise CheckpointError("damaged: a tensor without a storage, an offset, or a stride for every size")
    if count_elements(sizes):
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if last >= storage.numel:
            raise CheckpointError(
                f"a tensor of shape {sizes}, strides {strides} and offset {offset} lies outside of its storage of "
                f"{storage.numel} numbers"
            )
    if storage.values is None:
        return torch.empty_strided(sizes, strides, dtype=storage.dtype, device="meta")
    return storage.values.as_strided(sizes, strides, offset)


def claimed_dtype(storage_type: Any) -> torch.dtype:
    """Type of the numbers of a storage class.

    Raises:
        CheckpointError: If it is none, or one that checkpoints do not have (complex, quantised).
    """
    name = storage_type.full.rpartition(".")[2] if isinstance(storage_type, Name) else ""
    if name not in STORAGE_DTYPES:
        raise CheckpointError(f"a storage of type {shown(name)}; expected one of plain numbers")
    return STORAGE_DTYPES[name]
