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
from ganaug.faces.align import Alignment, to_model_range, transform_of
from ganaug.faces.chips import Chip, ChipCutter, face_key
from ganaug.faces.detect import FaceDetector
from ganaug.faces.photos import Photo
from ganaug.generators import LatentPrior
from ganaug.interfaces import CacheError, Generator, ImageError, Inverter, UserInputError


@dataclass(frozen=True)
class PrecomputeResult:
    """Figures of a run.

    Attributes:
        images: Images of the source that have latents now.
        failed: Images that could not be read or inverted, or show no face where one is looked for.
        inverted: Faces inverted by this run; the others were there already.
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


def make_header(
    generator: Generator,
    model: str | Path,
    inverter: Inverter,
    dtype: str = "float16",
    alignment: Alignment | None = None,
) -> CacheHeader:
    """Header of a cache for this generator and inverter.

    Args:
        generator: The generator.
        model: Name or file that it was loaded from.
        inverter: The inverter.
        dtype: Of the stored latents.
        alignment: How faces are cut; the largest centred square by default.

    Raises:
        UserInputError: If the alignment's chips are not of the generator's size.
    """
    path = Path(model)
    alignment = alignment or Alignment(size=generator.img_resolution)
    if alignment.size != generator.img_resolution:
        raise UserInputError(
            f"the alignment cuts chips of {alignment.size} px, but the generator makes {generator.img_resolution} px"
        )
    return CacheHeader(
        generator=str(path.resolve()) if path.is_file() else str(model),
        fingerprint=generator.fingerprint,
        latent_spec=generator.latent_spec,
        alignment=alignment.to_dict(),
        inverter=inverter.settings,
        quality_names=inverter.quality_names,
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
    detector: FaceDetector | None = None,
) -> PrecomputeResult:
    """Inverts what is not in the cache yet.

    An image that cannot be read or inverted, or without a face where the cache's alignment looks for one, is recorded
    with the reason and left out; the others go on. A record whose image has changed, or that fails its checksum, is
    made again. Where all faces of a photo are wanted, the second and further ones have the keys ``key#1``, ``key#2``.

    Args:
        photos: What to invert, in a fixed order.
        cache: Where to store, see :meth:`LatentCache.create`.
        inverter: How to invert; its networks are on ``device``.
        device: Where to invert.
        batch_size: Images at a time. Part of the exact result: a convolution of another batch size rounds differently.
        progress: Show a progress bar.
        detector: Finds faces, instead of the one that the cache's alignment names.

    Raises:
        UserInputError: If the named detector is unknown, or is needed and not installed; or a photo has the key of
            another one's further face.
    """
    if batch_size < 1:
        raise UserInputError(f"batch_size must be at least 1, got {batch_size}")
    started = time.monotonic()
    _refuse_clashing_keys(photos, cache)
    cutter = ChipCutter(Alignment.from_dict(dict(cache.header.alignment)), detector, device)
    inverted, failed = 0, 0
    with tqdm(total=len(photos), unit="img", desc="inverting", disable=None if progress else True) as bar:
        for first in range(0, len(photos), batch_size):
            batch = photos[first : first + batch_size]
            done, lost = _precompute_batch(batch, cache, inverter, cutter, device, batch_size)
            inverted, failed = inverted + done, failed + lost
            bar.update(len(batch))
    for name, count in (cutter.finder.recognised if cutter.finder is not None else {}).items():
        # It may be a coincidence, and then the chips show anything.
        tqdm.write(
            f"note: {count} image(s) have the size of {name} chips and were taken for such; if they are not, use "
            "`--chips none`, and the detector is asked",
            file=sys.stderr,
        )
    psnr = [record.quality["psnr"] for photo in photos if (record := _stored(cache, photo.key)) is not None]
    seconds = round(time.monotonic() - started, 3)
    median = round(statistics.median(psnr), 3) if psnr else None
    return PrecomputeResult(len(psnr), failed, inverted, seconds, median)


def _refuse_clashing_keys(photos: Sequence[Photo], cache: LatentCache) -> None:
    """A photo named like another one's second face would be overwritten by it."""
    if cache.header.alignment.get("which_face") != "all":
        return
    keys = {photo.key for photo in photos}
    for key in keys:
        first, _, number = key.rpartition("#")
        if number.isdigit() and first in keys:
            raise UserInputError(
                f"the photo {key!r} has the key of a further face of {first!r}: rename it, or take one face a photo"
            )


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
    batch: Sequence[Photo],
    cache: LatentCache,
    inverter: Inverter,
    cutter: ChipCutter,
    device: torch.device,
    batch_size: int,
) -> tuple[int, int]:
    """Inverts one batch; returns how many records were written and how many images failed."""
    records_of = [_records(photo, cache, cutter.alignment) for photo in batch]
    # Files are read only where all of the batch may be done; else they are read below.
    if all(None not in found for found in records_of) and all(
        _is_done(photo, found, cutter.alignment) for photo, found in zip(batch, records_of, strict=True)
    ):
        return 0, 0
    chips, failures = cutter.cut(batch)
    stored = {chip.key: _stored(cache, chip.key) for chip in chips}
    records: list[Record] = []
    for first in range(0, len(chips), batch_size):  # more than one part where photos have several faces
        part = chips[first : first + batch_size]
        needed = [i for i, chip in enumerate(part) if not _is_of(stored[chip.key], chip.source_hash, chip.transform)]
        if needed:
            records += _invert(part, needed, cache, inverter, device, failures)
    if records:
        cache.put_many(records)
    if cutter.alignment.which_face == "all":
        _forget_lost_faces(batch, chips, cache)
    if failures:
        cache.put_failures(failures)
        for reason in failures.values():
            tqdm.write(f"left out: {reason}", file=sys.stderr)
    return len(records), len(failures)


def _records(photo: Photo, cache: LatentCache, alignment: Alignment) -> list[Record | None]:
    """What the cache has of a photo's faces; None for a record that is missing or damaged."""
    keys = [photo.key]
    if alignment.which_face == "all":
        keys += _further_keys(photo.key, cache)
    return [_stored(cache, key) for key in keys]


def _is_done(photo: Photo, records: Sequence[Record | None], alignment: Alignment) -> bool:
    """Whether whole records are of the photo as it is now."""
    try:
        image, source_hash = photo.read()
        known = photo.points if alignment.mode == "points" else None
        transform = None if known is None else transform_of(known, image.size, alignment)
    except ImageError:
        return False
    return all(_is_of(record, source_hash, transform) for record in records)


# A chip that lies elsewhere by more than this many of its pixels is another one; a detector's points may differ by
# rounding.
_SAME_PLACE = 0.1


def _is_of(record: Record | None, source_hash: str, transform: NDArray[np.float32] | None) -> bool:
    """Whether a record is of a photo with this hash, and of this chip; ``transform`` None if that is not known."""
    if record is None or record.source_hash != source_hash:
        return False
    if transform is None:
        return True
    corners = np.array([[0, 0, 1], [record.photo_size[0], record.photo_size[1], 1]], dtype=np.float64)
    return bool(np.abs(corners @ (record.transform - transform.astype(np.float64)).T).max() <= _SAME_PLACE)


def _further_keys(key: str, cache: LatentCache) -> list[str]:
    """Keys of the second and further faces of a photo that the cache has records of."""
    found: list[str] = []
    while (further := face_key(key, len(found) + 1)) in cache:
        found.append(further)
    return found


def _forget_lost_faces(batch: Sequence[Photo], chips: Sequence[Chip], cache: LatentCache) -> None:
    """Removes the further faces of photos that were changed and have fewer now."""
    seen = {chip.key for chip in chips}
    further = [key for photo in batch if photo.key in seen for key in _further_keys(photo.key, cache)]
    cache.forget([key for key in further if key not in seen])


def _invert(
    chips: Sequence[Chip],
    needed: Sequence[int],
    cache: LatentCache,
    inverter: Inverter,
    device: torch.device,
    failures: dict[str, str],
) -> list[Record]:
    """Inverts chips together; records of those that are needed, or the reason in ``failures``."""
    pixels = np.stack([chip.pixels for chip in chips])
    inversion = inverter.invert(to_model_range(torch.from_numpy(pixels).permute(0, 3, 1, 2)).to(device))
    codes = inversion.w_plus
    if inversion.anchor is not None:
        codes = torch.stack([codes, inversion.anchor], dim=1)
    latents = codes.float().cpu().numpy()
    quality = {name: values.float().cpu().tolist() for name, values in inversion.quality.items()}
    with np.errstate(over="ignore"):
        storable = np.isfinite(latents.astype(cache.header.dtype)).reshape(len(latents), -1).all(axis=1)
    records = []
    for i in needed:
        chip = chips[i]
        if not storable[i]:
            failures[chip.key] = f"{chip.key}: inversion gave numbers that are not finite, or too large for the cache"
            continue
        row = {name: values[i] for name, values in quality.items()}
        records.append(Record(chip.key, latents[i], row, chip.transform, chip.source_hash, chip.photo_size))
    return records


def _stored(cache: LatentCache, key: str) -> Record | None:
    """The record, if it is there and whole."""
    try:
        return cache.get(key)
    except (KeyError, CacheError):
        return None
