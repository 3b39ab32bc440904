"""Keyed draws against the same hash in plain Python integers, and against what uniform, independent numbers do."""

import os
import subprocess
import sys
from hashlib import blake2b
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganaug.rng import hash_text, permutation, uniforms

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """SplitMix64's finaliser, as printed in the paper's reference code."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference(seed: int, epoch: int, key: int, purpose: str, count: int) -> list[float]:
    state = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little") >> 1
    for coordinate in (seed, epoch, key):
        state = mix(((state + GAMMA) & MASK) ^ mix((coordinate + GAMMA) & MASK))
    return [(mix((state + n * GAMMA) & MASK) >> 11) / 2**53 for n in range(1, count + 1)]


@given(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**63 - 1), max_size=4),
    st.text(max_size=8),
    st.integers(0, 5),
)
def test_equals_plain_integers(seed: int, epoch: int, keys: list[int], purpose: str, count: int) -> None:
    drawn = uniforms(seed, epoch, keys, purpose, count)
    assert drawn.shape == (len(keys), count)
    assert drawn.tolist() == [reference(seed & MASK, epoch, key, purpose, count) for key in keys]


def test_numpy_integers_draw_the_same() -> None:
    assert (
        uniforms(np.int64(7), np.int32(3), np.array([1, 2]), "x", 3).tolist() == uniforms(7, 3, [1, 2], "x", 3).tolist()
    )


def test_rows_do_not_depend_on_each_other() -> None:
    keys = [5, 1, 2**62, 0]
    together = uniforms(1, 2, keys, "x", 4)
    alone = [uniforms(1, 2, [key], "x", 4)[0].tolist() for key in keys]
    assert together.tolist() == alone
    assert uniforms(1, 2, keys, "x", 2).tolist() == together[:, :2].tolist()


@pytest.mark.parametrize("axis", ["keys", "epochs", "seeds", "counters", "hashed keys"])
def test_uniform_along_every_coordinate(axis: str) -> None:
    """Chi-square over 256 cells, also for the plainest inputs 0, 1, 2, ..."""
    num, cells = 40_000, 256
    drawn = {
        "keys": lambda: uniforms(0, 0, range(num), "x", 1)[:, 0],
        "epochs": lambda: np.array([uniforms(0, epoch, [0], "x", 1)[0, 0] for epoch in range(num // 10)]),
        "seeds": lambda: np.array([uniforms(seed, 0, [0], "x", 1)[0, 0] for seed in range(num // 10)]),
        "counters": lambda: uniforms(0, 0, [0], "x", num)[0],
        "hashed keys": lambda: uniforms(0, 0, [hash_text(f"ann/{i:05d}.jpg") for i in range(num)], "x", 1)[:, 0],
    }[axis]()
    assert drawn.min() >= 0.0 and drawn.max() < 1.0
    expected = len(drawn) / cells
    chi_square = float((((np.bincount((drawn * cells).astype(int), minlength=cells) - expected) ** 2) / expected).sum())
    # Wilson and Hilferty's normal approximation of the chi-square quantile at 1e-6, both sides.
    freedom, z = cells - 1, NormalDist().inv_cdf(1 - 1e-6)
    low, high = (freedom * (1 - 2 / (9 * freedom) + s * z * (2 / (9 * freedom)) ** 0.5) ** 3 for s in (-1, 1))
    assert low < chi_square < high


def test_independent_over_purpose_epoch_seed_key_and_counter() -> None:
    num = 40_000
    base = uniforms(0, 0, range(num), "mix", 2)
    others = {
        "purpose": uniforms(0, 0, range(num), "mix2", 1)[:, 0],
        "epoch": uniforms(0, 1, range(num), "mix", 1)[:, 0],
        "seed": uniforms(1, 0, range(num), "mix", 1)[:, 0],
        "neighbouring key": uniforms(0, 0, range(1, num + 1), "mix", 1)[:, 0],
        "counter": base[:, 1],
        "seed and epoch swapped": uniforms(0, 2, range(num), "mix", 1)[:, 0]
        - uniforms(2, 0, range(num), "mix", 1)[:, 0],
    }
    bound = NormalDist().inv_cdf(1 - 1e-7) / num**0.5
    for name, other in others.items():
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < bound, name
        assert not np.array_equal(base[:, 0], other), name


def test_permutation() -> None:
    for size in (0, 1, 2, 1000):
        assert sorted(permutation(3, 4, size).tolist()) == list(range(size))
    first = permutation(0, 0, 1000)
    assert permutation(0, 0, 1000).tolist() == first.tolist()
    for other in (permutation(0, 1, 1000), permutation(1, 0, 1000), permutation(0, 0, 1000, "other")):
        assert other.tolist() != first.tolist()


def test_permutation_is_uniform() -> None:
    """All 24 orders of four things, over epochs."""
    num = 12_000
    orders = [tuple(permutation(0, epoch, 4).tolist()) for epoch in range(num)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    deviation = NormalDist().inv_cdf(1 - 1e-6 / 24) * (num * (1 / 24) * (23 / 24)) ** 0.5
    assert max(abs(count - num / 24) for count in counts) < deviation


def test_hash_text_is_stable() -> None:
    """The number is part of the format of recipes: it may not change from version to version or process to process."""
    assert hash_text("ann/00.jpg") == 10173684525786737
    assert 0 <= hash_text("") < 2**63
    code = "from ganaug.rng import hash_text; print(hash_text('ann/00.jpg'))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(run.stdout) == hash_text("ann/00.jpg")


def test_hash_text_tells_keys_apart() -> None:
    assert len({hash_text(f"{person}/{i}.jpg") for person in ("ann", "bob") for i in range(20_000)}) == 40_000
