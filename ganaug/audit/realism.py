"""Whether the variants of a group look like photos of that group: kernel distances, beside what photos come to."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug.audit.figures import Finding
from ganaug.audit.groups import GroupColumn
from ganaug.bootstrap import interval
from ganaug.intervals import Interval, printed
from ganaug.metrics.kernel import kernel_distance, kernel_variance
from ganaug.rng import hash_text, uniforms

MIN_PHOTOS = 50  # of a group, with variants: halves of 25 spread so much that a distance of smaller ones says nothing
NUM_SPLITS = 40
# Half-samples of a set spread as samples of its size do (McCarthy, "Pseudo-replication: half samples", Review of the
# International Statistical Institute 37, 1969). Three deviations leave one group in 700 to chance.
_BOUND = 3.0
_MAX_HALF = 250  # photos; the kernel distance is unbiased, so that larger halves only cost time

Rows = NDArray[np.float32]


def realism(
    photos: Rows, variants: Rows, keys: Sequence[str], column: GroupColumn, seed: int = 0
) -> tuple[list[tuple[Interval, Interval] | None], list[Finding]]:
    """Kernel distance of variants to photos, and of photos to photos, for each group.

    The photos of a group are split into halves, again and again. One half is compared with the *variants of the other*,
    then with the other itself: the same photos, the same number, none of them on both sides. What the first distance
    has over the second comes from the generator and the edits.

    Args:
        photos: ``(N, F)`` features; rows with NaN are left out.
        variants: ``(N, F)`` of one variant of each photo, likewise.
        keys: N names; with the seed they decide the halves.
        column: Groups.
        seed: Of the draws.

    Returns:
        For each group with 50 photos that have variants: mean and range over 40 splits, of the distance and of that
        between photos. And a finding for each group whose distance stands out.
    """
    sound = np.isfinite(photos).all(axis=1) & np.isfinite(variants).all(axis=1)
    order = uniforms(seed, 0, np.array([hash_text(key) for key in keys], np.int64), "realism halves", NUM_SPLITS)
    measured: dict[int, NDArray[np.float64]] = {}
    for number in range(len(column.names)):
        members = np.flatnonzero(sound & (column.of == number))
        if len(members) >= MIN_PHOTOS:
            measured[number] = _distances(photos, variants, members, order)
    told: list[tuple[Interval, Interval] | None] = []
    for number in range(len(column.names)):
        if number not in measured:
            told.append(None)
            continue
        made, real = measured[number].T
        told.append((interval(float(made.mean()), made), interval(float(real.mean()), real)))
    rows = photos[sound & np.isin(column.of, list(measured))]
    return told, _findings(measured, told, column, kernel_variance(torch.from_numpy(rows)) if len(rows) else 0.0)


def _distances(
    photos: Rows, variants: Rows, members: NDArray[np.int64], order: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(S, 2)``: for each split the distance to variants, and that to photos."""
    half = min(len(members) // 2, _MAX_HALF)
    found = []
    for split in order.T:
        shuffled = members[split[members].argsort(kind="stable")]
        here, there = torch.from_numpy(photos[shuffled[:half]]), shuffled[half : 2 * half]
        found.append([kernel_distance(here, torch.from_numpy(rows[there])) for rows in (variants, photos)])
    return np.array(found)


def _findings(
    measured: dict[int, NDArray[np.float64]],
    told: list[tuple[Interval, Interval] | None],
    column: GroupColumn,
    variance: float,
) -> list[Finding]:
    """Groups that are farther from their photos than the others are in the mean, by three deviations of the splits."""
    excess = {number: values[:, 0] - values[:, 1] for number, values in measured.items()}
    if len(excess) < 2:
        return []
    found = []
    for number, own in excess.items():
        others = np.mean([values for other, values in excess.items() if other != number], axis=0)
        difference = own - others
        if difference.mean() <= _BOUND * difference.std():
            continue
        distance = told[number]
        if distance is None:
            continue
        text = (
            f"Variants of {column.called(number)} look less like photos: kernel distance {printed(distance[0])} to "
            f"photos of the group, which are {printed(distance[1].value)} from each other. The difference is "
            f"{own.mean():.3f}, against {others.mean():.3f} in the mean of the other groups of {column.name}."
        )
        # Kernel distances are squared; in standard deviations of a single photo, as all findings are.
        severity = float(np.sqrt(difference.mean() / variance)) if variance > 0.0 else 0.0
        found.append(Finding(text, column.name, column.names[number], "realism", severity))
    return found
