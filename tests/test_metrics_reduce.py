"""Metrics merged, and reduced over processes, equal one metric that saw everything."""

import json
import math
import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ganaug.errors import UserInputError
from ganaug.metrics import (
    AttributeConsistency,
    EditLocalisation,
    FrechetDistance,
    IdentityDiversity,
    IdentityPreservation,
    InceptionScore,
    KernelDistance,
    MultiScaleSSIM,
    PerceptualDistance,
    PerceptualDiversity,
    PrecisionRecall,
)

COUNT = 24  # things that each metric below is shown


class Colours(nn.Module):
    name = "colours"

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images.flatten(1)]

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().mean(dim=1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape)).float()


FEATURES, OTHERS = drawn(COUNT, 4), drawn(COUNT, 4, seed=1) * 1.3
IMAGES, CHANGED = drawn(COUNT, 3, 12, 12), drawn(COUNT, 3, 12, 12, seed=1)
MASKS = drawn(COUNT, 12, 12, seed=2) > 0
PHOTOS = [f"photo {number % 7}" for number in range(COUNT)]


def feed_sets(metric: Any, rows: slice) -> None:
    metric.update(FEATURES[rows], real=True)
    metric.update(OTHERS[rows], real=False)


def feed_scores(metric: Any, rows: slice) -> None:
    names = {"age": FEATURES[rows, 0], "race": FEATURES[rows].abs()}
    metric.update(names, {"age": OTHERS[rows, 0], "race": OTHERS[rows].abs()})


# Name -> how to build the metric, and how to show it some of the things.
CASES: dict[str, tuple[Callable[[], Any], Callable[[Any, slice], None]]] = {
    "frechet": (FrechetDistance, feed_sets),
    "kernel": (KernelDistance, feed_sets),
    "precision": (PrecisionRecall, feed_sets),
    "inception": (
        lambda: InceptionScore(3),
        lambda m, rows: m.update(FEATURES[rows] * 3, numbers=torch.arange(COUNT)[rows]),
    ),
    "perceptual": (lambda: PerceptualDistance(Colours()), lambda m, rows: m.update(IMAGES[rows], CHANGED[rows])),
    "diversity": (
        lambda: PerceptualDiversity(Colours()),
        lambda m, rows: m.update(torch.stack([IMAGES[rows], CHANGED[rows]], 1)),
    ),
    "ssim": (MultiScaleSSIM, lambda m, rows: m.update(IMAGES[rows], IMAGES[rows] * 0.5 + CHANGED[rows] * 0.1)),
    "identity": (lambda: IdentityPreservation(0.1), lambda m, rows: m.update(FEATURES[rows], OTHERS[rows])),
    "identities": (IdentityDiversity, lambda m, rows: m.update(FEATURES[rows], PHOTOS[rows])),
    "attributes": (lambda: AttributeConsistency({"age": 0.5}), feed_scores),
    "localisation": (EditLocalisation, lambda m, rows: m.update(IMAGES[rows], CHANGED[rows], MASKS[rows])),
}
every_metric = pytest.mark.parametrize("name", CASES)


def numbers(figures: Any) -> list[float]:
    """All figures of a ``compute()`` in a row, exactly, also from JSON."""
    if isinstance(figures, dict):
        return [number for key in sorted(figures) for number in numbers(figures[key])]
    if isinstance(figures, tuple | list):
        return [number for figure in figures for number in numbers(figure)]
    return [float(figures)]


def built(name: str, *shares: slice) -> Any:
    build, feed = CASES[name]
    metric = build()
    for share in shares:
        feed(metric, share)
    return metric


def check_equal(name: str, found: Any, expected: Any) -> None:
    assert all(map(math.isfinite, numbers(expected)))
    # The Frechet distance is a small difference of traces; the others are sums of numbers of like size.
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-9 if name == "frechet" else 1e-12), name


@every_metric
def test_merge_equals_one_metric(name: str) -> None:
    whole = built(name, slice(None)).compute()
    left, right = built(name, slice(0, 9)), built(name, slice(9, 10), slice(10, None))
    before = numbers(right.compute())
    left.merge(right)
    left.merge(built(name))  # saw nothing
    check_equal(name, left.compute(), whole)
    assert numbers(right.compute()) == before  # untouched
    empty = built(name)
    empty.merge(built(name, slice(None)))
    check_equal(name, empty.compute(), whole)
    check_equal(name, pickle.loads(pickle.dumps(left)).compute(), whole)
    left.reset()
    with pytest.raises(UserInputError):
        left.compute()


@every_metric
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, COUNT), max_size=4), order=st.permutations(range(3)))
def test_batches_and_their_order_change_nothing(name: str, cuts: list[int], order: list[int]) -> None:
    """Also batches without anything in them."""
    edges = [0, *sorted(cuts), COUNT]
    shares = [slice(a, b) for a, b in pairwise(edges)]
    shares.sort(key=lambda share: order[share.start % 3])
    check_equal(name, built(name, *shares).compute(), built(name, slice(None)).compute())


def test_merge_with_itself_ends() -> None:
    metric = built("kernel", slice(None))
    metric.merge(metric)
    assert metric.counts == (2 * COUNT, 2 * COUNT)


def test_merge_of_different_metrics() -> None:
    with pytest.raises(UserInputError, match=r"PrecisionRecall with \{'k': 5\} saw to PrecisionRecall with \{'k': 3\}"):
        PrecisionRecall(3).merge(PrecisionRecall(5))
    with pytest.raises(UserInputError, match="cannot add what KernelDistance"):
        FrechetDistance().merge(KernelDistance())  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="of one kind"):
        InceptionScore(2).merge(InceptionScore(3))
    other = FrechetDistance()
    other.update(torch.rand(3, 9), real=True)
    with pytest.raises(UserInputError, match="features of 4 numbers as before, got 9"):
        built("frechet", slice(None)).merge(other)


@every_metric
def test_reduce_of_one_process(name: str) -> None:
    """Nothing is shared, and a loop that forgets to reset is stopped as it would be on many processes."""
    metric = built(name, slice(None))
    expected = numbers(metric.compute())
    metric.reduce()
    metric.reduce()
    assert numbers(metric.compute()) == expected
    with pytest.raises(UserInputError, match=r"was reduced; call reset\(\)"):
        CASES[name][1](metric, slice(None))
    with pytest.raises(UserInputError, match=r"was reduced; call reset\(\)"):
        metric.merge(built(name, slice(None)))
    metric.reset()
    CASES[name][1](metric, slice(None))
    assert numbers(metric.compute()) == expected


SHARES = {
    "uneven": (slice(0, 17), slice(17, None)),
    "one empty": (slice(0, 0), slice(None)),
    "the other empty": (slice(None), slice(0, 0)),
}


def worker(rank: int, folder: str) -> None:
    """One of two processes; writes what it computes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for share, rows in SHARES.items():
        for name in CASES:
            metric = built(name, rows[rank])
            metric.reduce()
            found[f"{share}: {name}"] = numbers(metric.compute())
    # The real side is shared once and stays; only what is generated anew is added up.
    metric = built("kernel", SHARES["uneven"][rank])
    metric.reduce()
    for _ in range(2):
        metric.reset(keep_real=True)
        metric.update(OTHERS[rank::2], real=False)
        metric.reduce()
    found["kept"], found["counts"] = metric.compute(), metric.counts
    mistakes = []
    for mistaken in (lambda: PrecisionRecall(3 + rank), lambda: built("kernel")):
        metric = mistaken()
        if rank and isinstance(metric, KernelDistance):
            metric._shared.add("real")
        try:
            metric.reduce()
        except UserInputError as error:
            mistakes.append(str(error))
    group = dist.new_group([0])
    try:
        built("kernel").reduce(group)
    except UserInputError as error:
        mistakes.append(str(error))
    found["mistakes"] = mistakes
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a network card that has an address gloo would look for the machine's name.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
    # Forked, as the workers of a DataLoader are: a spawned process would first import torch for seconds.
    multiprocessing.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    mistakes = [first.pop("mistakes"), second.pop("mistakes")]
    assert first == second  # to the last bit
    for share in SHARES:
        for name in CASES:
            check_equal(name, first[f"{share}: {name}"], built(name, slice(None)).compute())
    assert first["kept"] == pytest.approx(built("kernel", slice(None)).compute(), rel=1e-12)
    assert first["counts"] == [COUNT, COUNT]
    for rank, told in enumerate(mistakes):
        assert "they must be of one kind and set alike" in told[0]
        assert "do not agree on what was reduced before" in told[1]
        assert len(told) == 2 + rank
    assert "not in the group" in mistakes[1][2]
