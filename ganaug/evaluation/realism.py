"""How far sets of pictures are from real photos, beside how far other real photos are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.bootstrap import Interval
from ganaug.metrics import frechet_distance, kernel_distance, precision_recall

FIGURES = ("frechet", "kernel", "precision", "recall")
MIN_IMAGES = 50  # on a side; of fewer, a distance says more about who is in the sets than about how they were made
# On a side: the kernel distance and the neighbours compare all with all, once for every group that is left out.
MAX_IMAGES = 1000
NUM_GROUPS = 20
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
    found, left = {}, {}
    for name, features in everything.items():
        found[name] = _figures(real, features)
        has_interval = real.shape[1] <= _MAX_FEATURES
        left[name] = np.array([_figures(real[rows], features[rows], has_interval) for rows in kept])
    return {
        name: Distances(
            _intervals(found[name], left[name], clip=True),
            _intervals(found[name] - found["floor"], left[name] - left["floor"], clip=False),
        )
        for name in everything
    }


def _figures(real: Tensor, made: Tensor, with_frechet: bool = True) -> NDArray[np.float64]:
    """``(4,)`` as :data:`FIGURES`."""
    precision, recall = precision_recall(real, made)
    frechet = frechet_distance(real, made) if with_frechet else math.nan
    return np.array([frechet, kernel_distance(real, made), precision, recall])


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
