"""align -> invert -> cache: once per dataset, killed and started again at any moment.

The list of images is cut into batches at fixed places. A batch is committed whole, and a batch that has to be done
again is done with the same images, so that a run that was killed and resumed ends with the same bytes as one that was
not.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.faces.align import Alignment, align, to_model_range
from ganaug.faces.photos import Photo
from ganaug.generators import LatentPrior
from ganaug.interfaces import CacheError, Generator, ImageError, Inverter, UserInputError
from ganaug.inversion.quality import QUALITY_NAMES


@dataclass(frozen=True)
class PrecomputeResult:
    """Figures of a run.

    Attributes:
        images: Images of the source that have latents now.
        failed: Images that could not be read or inverted.
        inverted: Images inverted by this run; the others were there already.
        seconds: Duration of this run.
        psnr_median: Median PSNR of the reconstructions in dB; None without any.
    """

    images: int
    failed: int
    inverted: int
    seconds: float
    psnr_median: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)


def make_header(generator: Generator, model: str | Path, inverter: Inverter, dtype: str = "float16") -> CacheHeader:
    """Header of a cache for this generator and inverter."""
    path = Path(model)
    return CacheHeader(
        generator=str(path.resolve()) if path.is_file() else str(model),
        fingerprint=generator.fingerprint,
        latent_spec=generator.latent_spec,
        alignment=Alignment(size=generator.img_resolution).to_dict(),
        inverter=inverter.settings,
        quality_names=QUALITY_NAMES,
        dtype=dtype,
        anchored=inverter.anchored,
    )


def precompute(
    photos: Sequence[Photo],
    cache: LatentCache,
    inverter: Inverter,
    device: torch.device,
    batch_size: int = 32,
    progress: bool = True,
) -> PrecomputeResult:
    """Inverts what is not in the cache yet.

    An image that cannot be read or inverted is recorded with the reason and left out; the others go on. A record whose
    image has changed, or that fails its checksum, is made again.

    Args:
        photos: What to invert, in a fixed order.
        cache: Where to store, see :meth:`LatentCache.create`.
        inverter: How to invert; its networks are on ``device``.
        device: Where to invert.
        batch_size: Images at a time. Part of the exact result: a convolution of another batch size rounds differently.
        progress: Show a progress bar.
    """
    if batch_size < 1:
        raise UserInputError(f"batch_size must be at least 1, got {batch_size}")
    started = time.monotonic()
    alignment = Alignment.from_dict(dict(cache.header.alignment))
    inverted, failed = 0, 0
    with tqdm(total=len(photos), unit="img", desc="inverting", disable=None if progress else True) as bar:
        for first in range(0, len(photos), batch_size):
            batch = photos[first : first + batch_size]
            done, lost = _precompute_batch(batch, cache, inverter, alignment, device)
            inverted, failed = inverted + done, failed + lost
            bar.update(len(batch))
    psnr = [record.quality["psnr"] for photo in photos if (record := _stored(cache, photo.key)) is not None]
    seconds = round(time.monotonic() - started, 3)
    median = round(statistics.median(psnr), 3) if psnr else None
    return PrecomputeResult(len(psnr), failed, inverted, seconds, median)


def quality_summary(cache: LatentCache) -> dict[str, dict[str, float]]:
    """5th percentile, median and 95th percentile of each quality figure over the sound records of a cache."""
    rows = [record.quality for key in cache.keys() if (record := _stored(cache, key)) is not None]  # noqa: SIM118
    summary = {}
    for name in cache.header.quality_names if rows else ():
        low, middle, high = np.nanpercentile([row[name] for row in rows], [5, 50, 95])
        summary[name] = {"p5": round(float(low), 4), "median": round(float(middle), 4), "p95": round(float(high), 4)}
    return summary


# Median distance from the prior beyond which photos are not what the generator was trained on. For faces64: FairFace
# val 0.96 (95 % of its photos below 1.28), studio portraits with shoulders 1.41, half-length portraits 1.46.
MAX_TYPICAL_DISTANCE = 1.25


def median_distance(cache: LatentCache, prior: LatentPrior) -> float | None:
    """Median over the cache of how untypical photos are for the generator; None if it holds no anchors.

    A high PSNR does not show that a generator knows what it draws: enough optimisation makes it imitate anything.
    """
    if not cache.header.anchored:
        return None
    anchors = [record.latents[1] for key in cache.keys() if (record := _stored(cache, key)) is not None]  # noqa: SIM118
    if not anchors:
        return None
    return round(float(prior.distance(torch.from_numpy(np.stack(anchors)).float()).median()), 3)


def _precompute_batch(
    batch: Sequence[Photo], cache: LatentCache, inverter: Inverter, alignment: Alignment, device: torch.device
) -> tuple[int, int]:
    """Inverts one batch; returns how many records were written and how many images failed."""
    stored = _stored_hashes(cache, [photo.key for photo in batch])
    readable: list[tuple[str, NDArray[np.uint8], NDArray[np.float32], str]] = []
    failures: dict[str, str] = {}
    for photo in batch:
        try:
            image, source_hash = photo.read()
        except ImageError as error:
            failures[photo.key] = str(error)
            continue
        chip, transform = align(image, alignment)
        readable.append((photo.key, chip, transform, source_hash))
    needed = [i for i, (key, _, _, source_hash) in enumerate(readable) if stored.get(key) != source_hash]
    records: list[Record] = []
    if needed:
        chips = np.stack([chip for _, chip, _, _ in readable])
        images = to_model_range(torch.from_numpy(chips).permute(0, 3, 1, 2)).to(device)
        inversion = inverter.invert(images)
        codes = inversion.w_plus
        if inversion.anchor is not None:
            codes = torch.stack([codes, inversion.anchor], dim=1)
        latents = codes.float().cpu().numpy()
        quality = {name: values.float().cpu().tolist() for name, values in inversion.quality.items()}
        with np.errstate(over="ignore"):
            storable = np.isfinite(latents.astype(cache.header.dtype)).reshape(len(latents), -1).all(axis=1)
        for i in needed:
            key, _, transform, source_hash = readable[i]
            if not storable[i]:
                failures[key] = f"{key}: inversion gave numbers that are not finite, or too large for the cache"
                continue
            row = {name: values[i] for name, values in quality.items()}
            records.append(Record(key, latents[i], row, transform, source_hash))
    if records:
        cache.put_many(records)
    if failures:
        cache.put_failures(failures)
        for reason in failures.values():
            tqdm.write(f"left out: {reason}", file=sys.stderr)
    return len(records), len(failures)


def _stored_hashes(cache: LatentCache, keys: list[str]) -> dict[str, str]:
    """Source hash of each record that is there and whole."""
    records = ((key, _stored(cache, key)) for key in keys)
    return {key: record.source_hash for key, record in records if record is not None}


def _stored(cache: LatentCache, key: str) -> Record | None:
    """The record, if it is there and whole."""
    try:
        return cache.get(key)
    except (KeyError, CacheError):
        return None
