"""Draws that depend on (seed, epoch, sample key, purpose) and on nothing else.

A counter-based generator: each number is a hash of its coordinates, so a sample's draws do not depend on the batch it
is in, the worker that read it, the rank, or how many numbers were drawn before. The hash is the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014, doi 10.1145/2660193.2660195), chained over the coordinates; everything is
vectorised over the batch.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # odd integer nearest 2**64 / golden ratio (SplitMix64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 finaliser: a bijection of 64-bit integers in which every input bit moves about half the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_text(text: str) -> int:
    """A 63-bit integer for a string, the same in every process (unlike ``hash``); fits an int64 tensor."""
    data = text.encode(errors="surrogatepass")  # a file's name need not be UTF-8; Python then holds it as surrogates
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


def numbered(keys: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys of the n-th of several samples that share a key; number 0 is the sample itself.

    Args:
        keys: ``(B,)``, see :func:`hash_text`.
        numbers: ``(B,)``, 0 or more.

    Returns:
        ``(B,)``: the key itself where the number is 0, else a 63-bit hash of both.

    Example:
        >>> numbered(np.array([7, 7]), np.array([0, 1])).tolist()[0]
        7
    """
    with np.errstate(over="ignore"):
        mixed = _mix(keys.astype(np.uint64) + _GOLDEN_GAMMA) ^ _mix(numbers.astype(np.uint64) * _GOLDEN_GAMMA)
        return np.where(numbers == 0, keys, (_mix(mixed + _GOLDEN_GAMMA) >> np.uint64(1)).astype(np.int64))


def uniforms(
    seed: int, epoch: int, keys: Sequence[int] | NDArray[np.int64], purpose: str, count: int
) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one row per sample key.

    Args:
        seed: The run's seed.
        epoch: Epoch number.
        keys: ``(B,)`` sample keys, see :func:`hash_text`.
        purpose: What the numbers are for; other purposes give independent numbers.
        count: Numbers per sample.

    Returns:
        ``(B, count)`` float64.

    Example:
        >>> a = uniforms(0, 3, [7, 8], "mix", 2)
        >>> b = uniforms(0, 3, [8], "mix", 2)
        >>> bool((a[1] == b[0]).all())
        True
    """
    with np.errstate(over="ignore"):
        state = np.full(1, hash_text(purpose), np.uint64)
        for coordinate in (seed, epoch):
            word = np.uint64(int(coordinate) & 0xFFFFFFFFFFFFFFFF)
            state = _mix((state + _GOLDEN_GAMMA) ^ _mix(np.full(1, word, np.uint64) + _GOLDEN_GAMMA))
        rows = _mix((state + _GOLDEN_GAMMA) ^ _mix(np.asarray(keys, np.int64).astype(np.uint64) + _GOLDEN_GAMMA))
        counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN_GAMMA
        bits = _mix(rows[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms_of(keys: Tensor, purpose: str, count: int) -> Tensor:
    """What :func:`uniforms` gives for seed 0 and epoch 0, computed on the device of the keys, without a sync.

    For parameters from which an edit makes many numbers.

    Args:
        keys: ``(B,)`` int64.
        purpose: What the numbers are for.
        count: Numbers per key.

    Returns:
        ``(B, count)`` float64 in [0, 1), the same bits on every device.

    Example:
        >>> bool((uniforms_of(torch.tensor([7]), "z", 3).numpy() == uniforms(0, 0, [7], "z", 3)).all())
        True
    """
    gamma = _signed(int(_GOLDEN_GAMMA))
    with np.errstate(over="ignore"):
        state = np.full(1, hash_text(purpose), np.uint64)
        for _ in ("seed", "epoch"):
            state = _mix((state + _GOLDEN_GAMMA) ^ _mix(np.full(1, _GOLDEN_GAMMA, np.uint64)))
        start = _signed(int((state + _GOLDEN_GAMMA)[0]))
    rows = _mix_tensor(_mix_tensor(keys + gamma) ^ start)
    counters = torch.arange(1, count + 1, device=keys.device) * gamma
    bits = _mix_tensor(rows[:, None] + counters)
    return _shifted(bits, 11).double() * 2.0**-53


def _signed(word: int) -> int:
    """The int64 of the same 64 bits."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(x: Tensor, by: int) -> Tensor:
    """int64 shifted to the right with zeros coming in; torch's own shift repeats the sign."""
    return (x >> by) & (2 ** (64 - by) - 1)


def _mix_tensor(x: Tensor) -> Tensor:
    """:func:`_mix` for int64; sums and products wrap around."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def permutation(seed: int, epoch: int, size: int, purpose: str = "permutation") -> NDArray[np.int64]:
    """A permutation of ``range(size)`` that depends on (seed, epoch, purpose) alone."""
    return np.argsort(uniforms(seed, epoch, np.arange(size), purpose, 1)[:, 0], kind="stable").astype(np.int64)
