"""The last check of what was read: only plain values, no cycles, neither deep nor endless."""

import argparse
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.published.inert import Array, ArrayDType, DataName, Options, TorchModule
from ganaug.published.limits import Budget
from ganaug.published.tree import InertModule
from ganaug.published.unpickle import Name, check_key

# Containers inside containers. A module takes three (itself, its state, its dict of modules); networks nest about ten.
MAX_DEPTH = 100
# Values, counted as often as they are reached: a few lists that hold each other ten times over are as many as ten to
# the power of their number to whoever walks them.
MAX_VALUES = 2_000_000


def plain(root: Any, budget: Budget) -> Any:
    """A copy of ``root`` in the plain types of :mod:`ganaug.published.tree`; tensors are shared, not copied.

    Args:
        root: What a file gave.
        budget: Pays for copied arrays.

    Raises:
        CheckpointError: For a value of any other type, for a container that holds itself, or one too deep or too large.
    """
    finished: dict[int, tuple[Any, int, int]] = {}  # id -> plain value, values inside, depth
    entered: set[int] = set()
    kept: list[Any] = []  # keeps ids unique
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        value, is_left = waiting.pop()
        if id(value) in finished:
            continue
        inside = _inside(value)
        if inside is None:
            kept.append(value)
            finished[id(value)] = (_leaf(value, budget), 1, 1)
        elif is_left:
            entered.discard(id(value))
            done = [finished[id(item)] for item in inside]
            count = 1 + sum(item[1] for item in done)
            depth = 1 + max((item[2] for item in done), default=0)
            if count > MAX_VALUES:
                raise CheckpointError(f"more than {MAX_VALUES} values; lists that hold each other many times over")
            if depth > MAX_DEPTH:
                raise CheckpointError(f"containers nest more than {MAX_DEPTH} deep")
            kept.append((value, inside))
            finished[id(value)] = (_rebuilt(value, [item[0] for item in done]), count, depth)
        else:
            if id(value) in entered:
                raise CheckpointError("a container that holds itself")
            if len(entered) >= MAX_DEPTH:
                raise CheckpointError(f"containers nest more than {MAX_DEPTH} deep")
            entered.add(id(value))
            waiting.append((value, True))
            waiting += [(item, False) for item in inside]
    return finished[id(root)][0]


def _inside(value: Any) -> list[Any] | None:
    """What a container holds; None for what is none."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if isinstance(value, argparse.Namespace):
        return list(vars(value).values())
    if isinstance(value, Options):
        return list(value.values.values())
    if isinstance(value, InertModule | TorchModule):
        return list(value.state.values())
    return None


def _rebuilt(value: Any, items: list[Any]) -> Any:
    if isinstance(value, Mapping):
        return dict(zip(map(check_key, value), items, strict=True))
    if isinstance(value, list):
        return items
    if isinstance(value, tuple):
        return tuple(items)
    if isinstance(value, set | frozenset):
        return set(map(check_key, items))
    if isinstance(value, InertModule | TorchModule):
        return InertModule(value.class_name, dict(zip(value.state, items, strict=True)))
    names = vars(value) if isinstance(value, argparse.Namespace) else value.values
    namespace = argparse.Namespace()
    vars(namespace).update(zip(names, items, strict=True))
    return namespace


def _leaf(value: Any, budget: Budget) -> Any:
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
            raise CheckpointError(f"a tensor on {value.device} with layout {value.layout}; expected plain numbers")
        return value.detach().as_subclass(Tensor).requires_grad_(False)
    if isinstance(value, Array) and value.value is not None:
        value = value.value
    if isinstance(value, np.ndarray):
        budget.spend(value.nbytes)
        return value.astype(value.dtype.newbyteorder("="))
    if isinstance(value, bytearray):
        budget.spend(len(value))
        return bytes(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Name | DataName):
        return value.full
    if isinstance(value, ArrayDType):
        return str(value.value)
    if isinstance(value, torch.dtype | torch.device | PurePath):
        return str(value)
    raise CheckpointError(f"a value of type {type(value).__name__}, which no checkpoint needs")
