"""Which photos of a source are fit to be used: measured, filtered, listed, with a report.

Nothing is moved or deleted. The list names every photo, so a choice can be looked at, changed and fed back.
"""

import csv
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ganaug.faces.duplicates import find_duplicates
from ganaug.faces.measures import Measures, head_pose, measure
from ganaug.faces.photos import Photo
from ganaug.faces.tables import POINT_NAMES
from ganaug.interfaces import ImageError, UserInputError

_AHEAD = 256  # photos handed to the threads at a time


@dataclass(frozen=True)
class CurateLimits:
    """What a photo must fulfil; None switches a limit off.

    Attributes:
        min_size: Least length of the shorter side, in pixels.
        min_sharpness: See :class:`ganaug.faces.measures.Measures`. Of frames of YouTube Faces 6 % are below 10, and all
            of them look blurred; of the 14,667 photos of FairFace used here 2 are.
        min_luma: Least mean luma of the face, in [0, 255].
        max_luma: Largest one.
        max_clipped: Largest share of black and white pixels in the face, in [0, 1].
        min_chroma: Least chroma; 4 leaves grey photos out.
        max_yaw_deg: Largest turn to a side, where five points are known.
        max_roll_deg: Largest tilt, where five points are known.
        max_duplicate_distance: Bits, of 64, in which the hashes of duplicates may differ; None keeps duplicates.
    """

    min_size: int | None = 64
    min_sharpness: float | None = 10.0
    min_luma: float | None = 30.0
    max_luma: float | None = 225.0
    max_clipped: float | None = 0.35
    min_chroma: float | None = None
    max_yaw_deg: float | None = None
    max_roll_deg: float | None = None
    max_duplicate_distance: int | None = 6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value >= 0:
                raise UserInputError(f"{name} must be 0 or more, got {value}")
        distance = self.max_duplicate_distance
        if distance is not None and (distance > 32 or distance != int(distance)):
            raise UserInputError(
                f"max_duplicate_distance is a whole number of bits up to 32 of 64, got {distance}: unrelated photos "
                "differ in 32 on average"
            )


# Reason -> its limit, and which rows miss it, given the columns of measures and the limit. A comparison with NaN (not
# known) is False.
_CHECKS: dict[str, tuple[str, Callable[[dict[str, NDArray[np.float64]], float], NDArray[np.bool_]]]] = {
    "too small": ("min_size", lambda of, limit: np.minimum(of["width"], of["height"]) < limit),
    "blurred": ("min_sharpness", lambda of, limit: of["sharpness"] < limit),
    "too dark": ("min_luma", lambda of, limit: of["mean_luma"] < limit),
    "too bright": ("max_luma", lambda of, limit: of["mean_luma"] > limit),
    "clipped": ("max_clipped", lambda of, limit: of["clipped"] > limit),
    "grey": ("min_chroma", lambda of, limit: of["chroma"] < limit),
    "turned": ("max_yaw_deg", lambda of, limit: np.abs(of["yaw_deg"]) > limit),
    "tilted": ("max_roll_deg", lambda of, limit: np.abs(of["roll_deg"]) > limit),
}
MEASURES = ("width", "height", "sharpness", "mean_luma", "clipped", "chroma", "yaw_deg", "roll_deg")
UNREADABLE, DUPLICATE = "unreadable", "duplicate"
REASONS = (UNREADABLE, *_CHECKS, DUPLICATE)


@dataclass(frozen=True)
class Curation:
    """What was found, photo by photo.

    Attributes:
        photos: The photos.
        limits: What they had to fulfil.
        reasons: Why each photo is left out; empty for those kept.
        errors: Message for each photo that cannot be read, else an empty text.
        measures: Name -> ``(N,)`` float64; NaN where unknown.
        hashes: ``(N,)`` uint64 perceptual hashes.
        content_hashes: sha256 (hex) of each source; empty where unreadable.
        duplicate_of: ``(N,)`` the better photo that each duplicate repeats, or -1.
        seconds: Duration.
    """

    photos: Sequence[Photo]
    limits: CurateLimits
    reasons: list[tuple[str, ...]]
    errors: list[str]
    measures: dict[str, NDArray[np.float64]]
    hashes: NDArray[np.uint64]
    content_hashes: list[str]
    duplicate_of: NDArray[np.int64]
    seconds: float

    @property
    def kept(self) -> NDArray[np.bool_]:
        """``(N,)``, which photos are kept."""
        return np.array([not reasons for reasons in self.reasons], bool)


def curate(
    photos: Sequence[Photo], limits: CurateLimits | None = None, num_threads: int = 1, progress: bool = True
) -> Curation:
    """Measures photos and says which of them to keep, and why not the others.

    A photo that cannot be read is a row with that reason. Of duplicates the best one stays: without another reason to
    be left out, then the largest, then the sharpest, then the first.

    Args:
        photos: What to look at; their points, if known, say where the face is and how it is turned.
        limits: What they must fulfil; default: ``CurateLimits()``.
        num_threads: Threads that decode and measure; the result does not depend on it.
        progress: Show a progress bar.

    Raises:
        UserInputError: For no photos, and fewer than one thread.
    """
    if not photos or num_threads < 1:
        raise UserInputError(f"expected photos and at least one thread, got {len(photos)} and {num_threads}")
    limits = limits or CurateLimits()
    started = time.monotonic()
    count = len(photos)
    columns = {name: np.full(count, np.nan) for name in MEASURES}
    hashes = np.zeros(count, np.uint64)
    likenesses = np.zeros((count, 32, 32), np.uint8)
    errors, content_hashes = [""] * count, [""] * count
    bar = tqdm(total=count, unit="img", desc="measuring", disable=None if progress else True)
    with bar:
        for row, (found, note) in enumerate(_measured(photos, num_threads)):
            bar.update()
            if found is None:
                errors[row] = note
                continue
            content_hashes[row] = note
            for name in MEASURES[:6]:
                columns[name][row] = getattr(found, name)
            if (points := photos[row].points) is not None:
                columns["yaw_deg"][row], columns["roll_deg"][row] = head_pose(points)
            hashes[row], likenesses[row] = found.dhash, found.likeness
    failed = {
        reason: check(columns, limit)
        for reason, (name, check) in _CHECKS.items()
        if (limit := getattr(limits, name)) is not None
    }
    reasons = [
        (UNREADABLE,) if errors[row] else tuple(reason for reason, rows in failed.items() if rows[row])
        for row in range(count)
    ]
    duplicate_of = _duplicates(columns, hashes, likenesses, reasons, limits)
    for row in np.flatnonzero(duplicate_of >= 0).tolist():
        reasons[row] = (*reasons[row], DUPLICATE)
    seconds = round(time.monotonic() - started, 3)
    return Curation(photos, limits, reasons, errors, columns, hashes, content_hashes, duplicate_of, seconds)


def _measured(photos: Sequence[Photo], num_threads: int) -> Iterator[tuple[Measures | None, str]]:
    """For each photo in order: measures and content hash, or None and why it cannot be read."""
    if num_threads == 1:
        yield from map(_measure_one, photos)
        return
    waiting = iter(photos)
    with ThreadPoolExecutor(num_threads) as pool:  # Pillow decodes and resizes without holding the interpreter
        while batch := list(islice(waiting, _AHEAD)):
            yield from pool.map(_measure_one, batch)


def _measure_one(photo: Photo) -> tuple[Measures | None, str]:
    try:
        image, content = photo.read()
    except ImageError as error:
        return None, str(error)
    return measure(image, photo.points), content


def _duplicates(
    columns: dict[str, NDArray[np.float64]],
    hashes: NDArray[np.uint64],
    likenesses: NDArray[np.uint8],
    reasons: Sequence[tuple[str, ...]],
    limits: CurateLimits,
) -> NDArray[np.int64]:
    """``(N,)`` the photo that each one repeats, or -1."""
    duplicate_of = np.full(len(hashes), -1, np.int64)
    readable = np.flatnonzero(np.isfinite(columns["width"]))
    if limits.max_duplicate_distance is None or not len(readable):
        return duplicate_of
    spoilt = np.array([bool(reasons[row]) for row in readable.tolist()])
    area = columns["width"][readable] * columns["height"][readable]
    order = np.lexsort((readable, -columns["sharpness"][readable], -area, spoilt))  # the last key decides first
    rank = np.empty(len(readable), np.int64)
    rank[order] = np.arange(len(readable))
    found = find_duplicates(hashes[readable], likenesses[readable], rank, int(limits.max_duplicate_distance))
    duplicate_of[readable] = np.where(found >= 0, readable[found], -1)
    return duplicate_of


def write_list(curation: Curation, path: str | Path) -> None:
    """Writes the list: a CSV file with a row per photo.

    Columns: ``key``, ``kept`` (1 or 0), ``reasons`` (joined by "; "), ``duplicate_of`` (a key), the measures, ``dhash``
    and ``sha256`` (hex), ``error``, what the source says of each photo (``label``, ``identity``, groups), and the five
    points if any are known. :func:`ganaug.faces.datasets.from_csv` reads it back.
    """
    photos = curation.photos
    attributes = list(dict.fromkeys(name for photo in photos for name in photo.attributes))
    own = ["key", "kept", "reasons", "duplicate_of", *MEASURES, "dhash", "sha256", "error"]
    has_points = any(photo.points is not None for photo in photos)
    heads = [f"{point}_{axis}" for point in POINT_NAMES for axis in "xy"] if has_points else []
    taken = {*own, *heads}
    named = [f"group_{name}" if name in taken else name for name in attributes]

    def rows() -> Iterator[list[str]]:
        for row, photo in enumerate(photos):
            reasons, better = curation.reasons[row], int(curation.duplicate_of[row])
            points = [""] * len(heads) if photo.points is None else [f"{v:.2f}" for v in photo.points.reshape(-1)]
            yield [
                photo.key,
                "0" if reasons else "1",
                "; ".join(reasons),
                photos[better].key if better >= 0 else "",
                *(_number(curation.measures[name][row]) for name in MEASURES),
                "" if curation.errors[row] else f"{int(curation.hashes[row]):016x}",
                curation.content_hashes[row],
                " ".join(curation.errors[row].split()),
                *(photo.attributes.get(name, "") for name in attributes),
                *(points if has_points else []),
            ]

    target = Path(path)
    unfinished = target.with_name(target.name + ".tmp")
    with open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*own, *named, *heads])
        writer.writerows(rows())
    os.replace(unfinished, target)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}".rstrip("0").rstrip(".")


# An attribute with more values than this is a name, such as an identity: summed up, not listed.
MAX_LISTED_VALUES = 40


def report(curation: Curation) -> dict[str, Any]:
    """Counts per reason and per group, percentiles of the measures, settings; plain containers only."""
    kept, photos = curation.kept, curation.photos
    counts = Counter(reason for reasons in curation.reasons for reason in reasons)
    measures = {}
    for name in MEASURES:
        known = curation.measures[name][np.isfinite(curation.measures[name])]
        if len(known):
            low, middle, high = np.percentile(known, [5, 50, 95])
            measures[name] = {"p5": round(low, 3), "median": round(middle, 3), "p95": round(high, 3)}
    duplicates = np.flatnonzero(curation.duplicate_of >= 0).tolist()
    groups: dict[str, Any] = {}
    differing: dict[str, int] = {}
    for name in dict.fromkeys(name for photo in photos for name in photo.attributes):
        values = [photo.attributes.get(name, "") for photo in photos]
        groups[name] = _group_counts(values, kept)
        differing[name] = sum(values[row] != values[curation.duplicate_of[row]] for row in duplicates)
    return {
        "photos": len(photos),
        "kept": int(kept.sum()),
        "reasons": {reason: counts[reason] for reason in REASONS if counts[reason]},
        "measures": measures,
        "groups": groups,
        "duplicates_that_differ_in": {name: number for name, number in differing.items() if number},
        "limits": asdict(curation.limits),
        "seconds": curation.seconds,
        "images_per_second": round(len(photos) / max(curation.seconds, 1e-3), 1),
    }


def _group_counts(values: Sequence[str], kept: NDArray[np.bool_]) -> dict[str, Any]:
    """Photos and kept photos per value; for an attribute of many values, how many photos a value has."""
    total = Counter(values)
    remaining = Counter(value for value, is_kept in zip(values, kept.tolist(), strict=True) if is_kept)
    if len(total) <= MAX_LISTED_VALUES:
        return {
            value: {"photos": number, "kept": remaining[value], "share": round(remaining[value] / number, 4)}
            for value, number in sorted(total.items())
        }
    sizes = np.array([remaining[value] for value in total])
    return {
        "values": len(total),
        "values_without_a_kept_photo": int((sizes == 0).sum()),
        "kept_photos_per_value": {
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "max": int(sizes.max()),
        },
    }


def write_report(curation: Curation, path: str | Path) -> dict[str, Any]:
    """Writes :func:`report` as JSON, and returns it."""
    figures = report(curation)
    Path(path).write_text(json.dumps(figures, indent=2) + "\n")
    return figures
