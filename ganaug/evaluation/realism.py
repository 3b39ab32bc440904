"""How far sets of pictures are from real photos, beside how far other real photos are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.intervals import Interval
from ganaug.metrics import frechet_distance
from ganaug.metrics.kernel import cubic_kernel
from ganaug.metrics.neighbours import distances

FIGURES = ("frechet", "kernel", "precision", "recall")
MIN_IMAGES = 50  # on a side; of fewer, a distance says more about who is in the sets than about how they were made
# On a side: the kernel distance and the neighbours compare all with all.
MAX_IMAGES = 1000
NUM_GROUPS = 20
NUM_NEIGHBOURS = 3  # as in arXiv 1904.06991
_STUDENT = 2.093  # 97.5 % of Student's t with NUM_GROUPS - 1 degrees of freedom
_MAX_FEATURES = 512  # beyond, a Frechet distance takes seconds: it is told without an interval


@dataclass(frozen=True)
class Distances:
    """Of one set of pictures to real photos.

    Attributes:
        figures: Of :data:`FIGURES`, each with a 95 % interval.
        over_floor: The same minus that of other real photos; 0 where nothing tells the set from real photos.
    """

    figures: dict[str, Interval]
    over_floor: dict[str, Interval]


def compare(real: Tensor, floor: Tensor, sets: Mapping[str, Tensor]) -> dict[str, Distances]:
    """Distances of several sets to real photos.

    Distances depend on how many images there are, so all sets have the same number. Of variants, ``real`` must not be
    the photos that they were made of: those would be nearer than any other photo could be.

    Intervals are of the jackknife that leaves out groups (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 11): twins, as the bootstrap draws them, would be neighbours at distance 0 and move every distance. The same
    places are left out of all sets at once, so that what is drawn from the floor is left out with it.

    Args:
        real: Features ``(N, D)``.
        floor: Features ``(N, D)`` of other real photos.
        sets: Name -> features ``(N, D)``; row by row of the same photos as ``floor``, where they are of any.

    Returns:
        Name -> its distances; ``"floor"`` is among them.

    Raises:
        ValueError: If the sets differ in size.
    """
    everything = {"floor": floor, **sets}
    if any(len(features) != len(real) for features in everything.values()):
        counts = {name: len(features) for name, features in everything.items()}
        raise ValueError(f"expected {len(real)} images in each set, got {counts}")
    group = torch.arange(len(real)) % NUM_GROUPS
    kept = [group != number for number in range(NUM_GROUPS)]
    everybody = torch.ones(len(real), dtype=torch.bool)
    found, left, real_table = {}, {}, _table(real, real)
    for name, features in everything.items():
        # Distances of all pairs once: those of a set without some photos are a part of them.
        tables = real_table, _table(features, features), _table(features, real)
        found[name] = np.array([frechet_distance(real, features), *_of_pairs(tables, everybody)])
        left[name] = np.array([[_frechet(real[rows], features[rows]), *_of_pairs(tables, rows)] for rows in kept])
    return {
        name: Distances(
            _intervals(found[name], left[name], clip=True),
            _intervals(found[name] - found["floor"], left[name] - left["floor"], clip=False),
        )
        for name in everything
    }


class _Table(NamedTuple):
    """Of all pairs of rows of two sets: ``(N, M)`` each."""

    distances: Tensor
    kernel: Tensor


def _table(a: Tensor, b: Tensor) -> _Table:
    a, b = a.double(), b.double()
    return _Table(distances(a, b), cubic_kernel(a @ b.t(), a.shape[1]))


def _of_pairs(tables: tuple[_Table, _Table, _Table], rows: Tensor) -> tuple[float, float, float]:
    """Kernel distance, precision and recall of some rows.

    As :class:`ganaug.metrics.KernelDistance` and :class:`ganaug.metrics.PrecisionRecall` have them of few images.

    Args:
        tables: Of real with real, made with made, and made with real images.
        rows: ``(N,)`` bool.
    """
    (real, real_kernel), (made, made_kernel), (between, cross) = (
        (table.distances[rows][:, rows], table.kernel[rows][:, rows]) for table in tables
    )
    count = len(real)
    within = [(kernel.sum() - kernel.trace()) / (count * (count - 1)) for kernel in (real_kernel, made_kernel)]
    # The nearest of a set to one of its own is itself: hence one more.
    real_radii, made_radii = ((d.kthvalue(NUM_NEIGHBOURS + 1).values) for d in (real, made))
    return (
        float(within[0] + within[1] - 2.0 * cross.mean()),
        float((between <= real_radii).any(dim=1).double().mean()),
        float((between.t() <= made_radii).any(dim=1).double().mean()),
    )


def _frechet(real: Tensor, made: Tensor) -> float:
    return frechet_distance(real, made) if real.shape[1] <= _MAX_FEATURES else math.nan


def _intervals(values: NDArray[np.float64], left: NDArray[np.float64], clip: bool) -> dict[str, Interval]:
    """Of ``values (4,)`` and the same ``(G, 4)`` with each group left out."""
    spread = np.square(left - left.mean(axis=0)).sum(axis=0)
    error = _STUDENT * np.sqrt(spread * (len(left) - 1) / len(left))
    found = {}
    for name, value, half in zip(FIGURES, values.tolist(), error.tolist(), strict=True):
        low, high = value - half, value + half
        if clip and name != "kernel":  # which is unbiased, and may be below 0
            low, high = max(low, 0.0), high if name == "frechet" else min(high, 1.0)
        found[name] = Interval(value, low, high)
    return found
