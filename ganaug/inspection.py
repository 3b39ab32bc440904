"""What a latent cache holds: its quality, its failures, and a picture of its best, median and worst inversions."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ganaug.cache import FOUND, LatentCache, Record
from ganaug.cached_faces import draw_records
from ganaug.faces.align import Alignment, to_unit_range
from ganaug.faces.photos import Photo
from ganaug.interfaces import CacheError, Generator, ImageError, UserInputError
from ganaug.min_quality import SMALLER_IS_BETTER, meets
from ganaug.recheck import photo_of, stored_chip
from ganaug.sheet import contact_sheet
from ganaug.synthetic import check_png, save_synthetic

# What counts as poor where nobody says it: a root mean square error of a tenth of the range, and for identity what the
# cache says that its embedder takes for another person.
MIN_PSNR_DB = 20.0

_AT_ONCE = 1024  # records whose figures are read at a time; bounds the memory
_DRAWN_AT_ONCE = 16
_FACE_SIZE = 120  # pixels
_KEY_LENGTH = 18  # characters that stand under a face of that size
_DECIMALS = {"psnr": 2, "steps": 0, "seconds": 2}  # of others 3, in print


def inspect_cache(cache: LatentCache, bounds: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Figures of a cache; reads all of it.

    Args:
        cache: The cache.
        bounds: Figure -> the worst that counts as good, see :func:`ganaug.min_quality.resolve_min_quality`; None: 20 dB
            of PSNR, and the same person.

    Returns:
        JSON-able. ``quality``: figure -> ``p5``, ``median``, ``p95``, ``worst`` and its ``worst_key``, and how many
        records have ``no_number`` there. ``below``: figure -> its ``bound`` and how many ``records`` do not meet it;
        ``left_out``, how many do not meet all. ``failure_reasons``: what each of the failed images died of, without
        names and numbers, the most frequent first.

    Raises:
        CacheError: If there is no sound cache.
        UserInputError: For a bound on a figure that the records lack.
    """
    header, damaged = cache.header, cache.verify()
    keys, figures = read_figures(cache)
    bounds = default_bounds(cache) if bounds is None else bounds
    for name in bounds:
        require_figure(cache, name)
    good = meets(figures, bounds) if bounds else np.ones(len(keys), bool)
    failures = cache.failures()
    return {
        "records": len(cache),
        "failures": len(failures),
        "failure_reasons": failure_reasons(failures),
        "damaged": len(damaged),
        "latent_shape": list(header.latent_spec.shape),
        "dtype": header.dtype,
        "generator": header.generator,
        "fingerprint": header.fingerprint,
        "inverter": dict(header.inverter),
        "alignment": dict(header.alignment),
        "quality": {name: distribution(name, keys, values) for name, values in figures.items()} if keys else {},
        "below": {
            name: {"bound": bound, "records": int((~meets(figures, {name: bound})).sum())}
            for name, bound in bounds.items()
        },
        "left_out": int((~good).sum()),
        "digest": None if damaged else cache.digest(),
    }


def read_figures(cache: LatentCache) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Keys of the sound records, sorted, and each of their figures, ``(N,)``."""
    keys, parts = cache.keys(), []
    found: list[str] = []
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        values, sound = cache.get_qualities(some), cache.get_many(some).status == FOUND
        parts.append(values[sound])
        found += [key for key, is_sound in zip(some, sound, strict=True) if is_sound]
    names = cache.header.quality_names
    table = np.concatenate(parts) if parts else np.zeros((0, len(names)))
    return found, {name: table[:, column] for column, name in enumerate(names)}


def default_bounds(cache: LatentCache) -> dict[str, float]:
    """What counts as good where nobody says it."""
    judge = cache.header.inverter.get("judge", {})
    same_person = judge.get("same_person") if isinstance(judge, Mapping) else None
    known = {"psnr": MIN_PSNR_DB} | ({} if same_person is None else {"identity": round(float(same_person), 3)})
    return {name: bound for name, bound in known.items() if name in cache.header.quality_names}


def require_figure(cache: LatentCache, name: str) -> None:
    """Raises UserInputError if the records have no figure of that name."""
    names = cache.header.quality_names
    if name not in names:
        raise UserInputError(f"the records of {cache.path} have no {name!r}; they hold {', '.join(names)}")


def distribution(name: str, keys: Sequence[str], values: NDArray[np.float64]) -> dict[str, Any]:
    """Percentiles of a figure over records, and the worst of them; rounded, None without any number.

    Example:
        >>> distribution("mse", ["a", "b", "c"], np.array([0.01, 0.03, np.nan]))["worst_key"]
        'b'
    """
    known = np.flatnonzero(np.isfinite(values))
    missing = {"no_number": len(values) - len(known)} if len(known) < len(values) else {}
    if not len(known):
        return {"p5": None, "median": None, "p95": None, "worst": None, "worst_key": None, **missing}
    low, middle, high = (round(float(v), 4) for v in np.percentile(values[known], [5, 50, 95]))
    worst = ranked(name, values)[-1]
    return {
        "p5": low,
        "median": middle,
        "p95": high,
        "worst": round(float(values[worst]), 4),
        "worst_key": keys[worst],
        **missing,
    }


def ranked(name: str, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the records that have the figure, the best first."""
    known = np.flatnonzero(np.isfinite(values))
    badness = values[known] if name in SMALLER_IS_BETTER else -values[known]
    return known[np.argsort(badness, kind="stable")]


def failure_reasons(failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """Failures that read alike but for the name of the image and for numbers, together; the most frequent first.

    Args:
        failures: Key -> reason.

    Returns:
        ``reason``, ``count`` and the first key as ``example``, of each kind.

    Example:
        >>> failure_reasons({"a.jpg": "a.jpg: 3 px are too few", "b.jpg": "/data/b.jpg: 20 px are too few"})
        [{'reason': 'N px are too few', 'count': 2, 'example': 'a.jpg'}]
    """
    kinds: dict[str, list[str]] = {}
    for key, reason in failures.items():
        name = re.sub(r"#\d+$", "", key)  # further faces are named in full, or by their photo
        rest = reason.rpartition(key)[2] if key in reason else reason.rpartition(name)[2]
        kinds.setdefault(re.sub(r"\d+(\.\d+)?", "N", rest.lstrip("'\": ")), []).append(key)
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    return [{"reason": reason, "count": len(keys), "example": keys[0]} for reason, keys in ordered]


def inversion_sheet(
    cache: LatentCache,
    out: Path,
    generator: Generator,
    photos: Sequence[Photo] | None = None,
    by: str = "psnr",
    num_faces: int = 8,
) -> Image.Image:
    """Draws and saves the best, the median and the worst inversions of a cache, with their figures.

    Args:
        cache: The cache.
        out: PNG to write; the text chunk ``ganaug:synthetic`` says that it holds generated faces.
        generator: That of the cache.
        photos: Photos of the source; their chips stand above the inversions. None to leave them out.
        by: Figure that decides which are the best.
        num_faces: Columns; fewer where the cache has less than three times as many.

    Returns:
        The sheet. Where a photo is not among those given, or not the same any more, its place stays white.

    Raises:
        CacheError: If the cache is of another generator, or no record has the figure.
        UserInputError: If the records lack the figure, or ``out`` is no ``.png``.
    """
    check_png(out, "the sheet of inversions")
    require_figure(cache, by)
    cache.check_generator(generator.fingerprint, generator.latent_spec)
    keys, figures = read_figures(cache)
    order = ranked(by, figures[by])
    if not len(order):
        raise CacheError(f"no record of {cache.path} has a number as its {by}")
    count = min(num_faces, max(len(order) // 3, 1))
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    known = None if photos is None else {photo.key: photo for photo in photos}
    alignment = Alignment.from_dict(dict(cache.header.alignment))
    rows: list[tuple[str, Tensor]] = []
    notes: list[list[str]] = []
    for name, places in chosen.items():
        records = [cache.get(keys[place]) for place in places]
        if known is not None:
            chips, why = _photos_of(records, known, alignment)
            rows.append((f"{name},\nphoto", chips))
            notes.append(why)
        parts = _parts(records)
        drawn = [
            to_unit_range(draw_records(part, generator, cache.header.delta, cache.header.noise)).cpu() for part in parts
        ]
        rows.append((f"{name} {by},\ninversion", torch.cat(drawn)))
        notes.append([_note(record) for record in records])
    sheet = contact_sheet(rows, _FACE_SIZE, notes=notes)
    save_synthetic(sheet, out, {"generator": cache.header.fingerprint, "edits": []})
    return sheet


def _parts(records: Sequence[Record]) -> list[Sequence[Record]]:
    return [records[start : start + _DRAWN_AT_ONCE] for start in range(0, len(records), _DRAWN_AT_ONCE)]


def _photos_of(
    records: Sequence[Record], photos: Mapping[str, Photo], alignment: Alignment
) -> tuple[Tensor, list[str]]:
    """Chips ``(N, 3, size, size)`` in [0, 1] that records were made of, white where there is none; and why not."""
    chips, why = torch.ones(len(records), 3, alignment.size, alignment.size), [""] * len(records)
    for row, record in enumerate(records):
        photo = photo_of(record.key, photos)
        try:
            if photo is None:
                why[row] = "no such photo"
                continue
            pixels = stored_chip(photo, record, alignment)
        except ImageError:
            why[row] = "changed or gone"
            continue
        chips[row] = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255.0
    return chips, why


def _note(record: Record) -> str:
    """What stands under an inversion: its key, and its figures two a line."""
    key = record.key if len(record.key) <= _KEY_LENGTH else ".." + record.key[2 - _KEY_LENGTH :]
    return "\n".join([key, *(f"{name} {printed(name, value)}" for name, value in record.quality.items())])


def printed(name: str, value: float | None) -> str:
    """A figure with as many decimals as mean something.

    Example:
        >>> printed("psnr", 25.123), printed("mse", 0.00213), printed("steps", 50.0), printed("identity", None)
        ('25.12', '0.0021', '50', 'none')
    """
    if value is None or not math.isfinite(value):
        return "none"
    return f"{value:.{4 if name == 'mse' else _DECIMALS.get(name, 3)}f}"
