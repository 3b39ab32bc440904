"""align -> invert -> cache: once per dataset, killed and started again at any moment.

The list of images is cut into chunks at fixed places (:mod:`ganaug.pending`). A chunk is committed whole, so that a run
that was killed and resumed ends with the same bytes as one that was not. What is held in memory does not grow with the
list: photos are read a little ahead of the device (:mod:`ganaug.read_ahead`), and what was inverted is in the cache.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ganaug.batch_size import BatchSize
from ganaug.cache import FOUND, CacheHeader, LatentCache
from ganaug.chunks import ChunkInverter
from ganaug.faces.align import Alignment
from ganaug.faces.chips import ChipCutter
from ganaug.faces.detect import FaceDetector
from ganaug.faces.images import quiet_decoding
from ganaug.faces.photos import Photo
from ganaug.generators import LatentPrior
from ganaug.interfaces import CacheError, Generator, Inverter, UserInputError
from ganaug.pending import find_pending
from ganaug.read_ahead import read_ahead
from ganaug.shards import Shard

_MAX_BYTES_AHEAD = 200_000_000  # of photos that were read and wait for the device
_KEYS_AT_ONCE = 1024


@dataclass(frozen=True)
class PrecomputeResult:
    """Figures of a run.

    Attributes:
        images: Images of the source that have latents now.
        failed: Images that could not be read or inverted, or show no face where one is looked for; now or before.
        inverted: Faces inverted by this run; the others were there already.
        seconds: Duration of this run.
        psnr_median: Median PSNR of the reconstructions in dB; None without any.
        batch_size: Images at a time, as found or as asked for.
        images_per_second: Faces inverted in a second, from the first to the last; None without any.
    """

    images: int
    failed: int
    inverted: int
    seconds: float
    psnr_median: float | None
    batch_size: int | None = None
    images_per_second: float | None = None

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
        delta=inverter.delta,
    )


def open_or_create(path: str | Path, header: CacheHeader, inverter: Inverter) -> LatentCache:
    """The cache to continue, or a new one.

    A cache whose records hold fewer quality figures than the inverter measures now, such as one of an older ganaug, is
    continued with those that it has. All else must be as in ``header``.

    Raises:
        CacheError: If a cache with another header is there (names the field and both values), or something else is.
    """
    try:
        there = LatentCache(path).header
    except CacheError:  # none yet; or `create` says what is wrong
        return LatentCache.create(path, header)
    if set(there.quality_names) < set(header.quality_names):
        # Who judges figures that the cache does not have does not matter to it.
        judge = getattr(inverter, "judge", None)
        judged: dict[str, Any] = {} if judge is None else judge.settings
        theirs = {name: value for name, value in there.inverter.items() if name in judged}
        if all(_within(value, judged[name]) for name, value in theirs.items()):
            own = {name: value for name, value in header.inverter.items() if name not in judged}
            header = replace(header, quality_names=there.quality_names, inverter=own | theirs)
    return LatentCache.create(path, header)


def _within(mine: object, all_of: object) -> bool:
    """Whether settings are part of others."""
    if isinstance(mine, Mapping) and isinstance(all_of, Mapping):
        return mine.items() <= all_of.items()
    return mine == all_of


def precompute(
    photos: Sequence[Photo],
    cache: LatentCache,
    inverter: Inverter,
    device: torch.device,
    batch_size: int | Literal["auto"] = "auto",
    progress: bool = True,
    detector: FaceDetector | None = None,
    *,
    shard: Shard | None = None,
    retry_failed: bool = False,
    num_workers: int = 2,
) -> PrecomputeResult:
    """Inverts what is not in the cache yet.

    An image that cannot be read or inverted, or without a face where the cache's alignment looks for one, is recorded
    with the reason and left out; the others go on. It is tried again when its file, or the points of its face, have
    changed. A record whose image has changed, or that fails its checksum, is made again. Where all faces of a photo are
    wanted, the second and further ones have the keys ``key#1``, ``key#2``.

    Args:
        photos: What to invert, in a fixed order.
        cache: Where to store, see :func:`open_or_create`.
        inverter: How to invert; its networks are on ``device``.
        device: Where to invert.
        batch_size: Images at a time, or ``"auto"``: halved when memory runs out, see
            :class:`ganaug.batch_size.BatchSize`. It changes results by rounding alone.
        progress: Show a progress bar.
        detector: Finds faces, instead of the one that the cache's alignment names.
        shard: Invert this part of the photos alone.
        retry_failed: Try photos that failed again though nothing has changed.
        num_workers: Threads that read and cut photos ahead; 0: when they are needed. Photos that are no files, such as
            items of the user's own dataset, are read in the calling thread in any case: she may not expect others.

    Raises:
        UserInputError: If the named detector is unknown, or is needed and not installed; a photo has the key of another
            one's further face; or one image alone does not fit into the device's memory.
    """
    if num_workers < 0:
        raise UserInputError(f"num_workers must not be negative, got {num_workers}")
    started = time.monotonic()
    batch = BatchSize(batch_size, device, cache.path)
    _refuse_clashing_keys(photos, cache)
    photos = photos if shard is None else shard.of(photos)
    run = ChunkInverter(
        cache, inverter, ChipCutter(Alignment.from_dict(dict(cache.header.alignment)), detector, device), batch
    )
    pending = find_pending(photos, cache, run.chunk_size, retry_failed, num_workers, progress)
    if pending.failed:
        _note(
            f"{len(pending.failed)} image(s) failed before and have not changed: left out, the first is "
            f"{pending.failed[0]!r}; --retry-failed tries them again"
        )
    todo = [photos[place] for chunk in pending.chunks for place in chunk]
    began = time.monotonic()
    with (
        quiet_decoding(),
        tqdm(total=len(todo), unit="img", desc="inverting", disable=None if progress and todo else True) as bar,
        closing(
            read_ahead(
                run.cutter.read,
                todo,
                num_workers,
                max_items=run.chunk_size + num_workers,
                max_cost=_MAX_BYTES_AHEAD,
                cost=lambda reading: reading.num_bytes,
                here=lambda photo: photo.path is None,
            )
        ) as readings,
    ):
        for chunk in pending.chunks:
            run.invert_chunk(islice(readings, len(chunk)))
            bar.set_postfix(run.told(), refresh=False)
            bar.update(len(chunk))
    took = time.monotonic() - began
    for name, count in (run.cutter.finder.recognised if run.cutter.finder is not None else {}).items():
        # It may be a coincidence, and then the chips show anything.
        _note(
            f"{count} image(s) have the size of {name} chips and were taken for such; if they are not, use "
            "`--chips none`, and the detector is asked"
        )
    psnr = _psnr(photos, cache)
    return PrecomputeResult(
        images=len(psnr),
        failed=run.failed + len(pending.failed),
        inverted=run.inverted,
        seconds=round(time.monotonic() - started, 3),
        psnr_median=round(float(np.median(psnr)), 3) if len(psnr) else None,
        batch_size=batch.value,
        images_per_second=round(run.inverted / took, 2) if run.inverted else None,
    )


def _note(text: str) -> None:
    tqdm.write(f"note: {text}", file=sys.stderr)


def _psnr(photos: Sequence[Photo], cache: LatentCache) -> NDArray[np.float64]:
    """PSNR of all photos that have a whole record, ``(N,)`` dB."""
    column = cache.header.quality_names.index("psnr")
    found = [np.empty(0)]
    for first in range(0, len(photos), _KEYS_AT_ONCE):
        keys = [photo.key for photo in photos[first : first + _KEYS_AT_ONCE]]
        found.append(cache.get_qualities(keys)[cache.get_many(keys).status == FOUND, column])
    return np.concatenate(found)


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


# Median distance from the prior beyond which photos are not what the generator was trained on. For faces64: FairFace
# val 0.96 (95 % of its photos below 1.28), studio portraits with shoulders 1.41, half-length portraits 1.46.
MAX_TYPICAL_DISTANCE = 1.25


def median_distance(cache: LatentCache, prior: LatentPrior) -> float | None:
    """Median over the cache of how untypical photos are for the generator; None if it holds no anchors.

    A high PSNR does not show that a generator knows what it draws: enough optimisation makes it imitate anything.
    """
    if not cache.header.anchored:
        return None
    keys, distances = cache.keys(), [torch.empty(0)]
    for first in range(0, len(keys), _KEYS_AT_ONCE):
        found = cache.get_many(keys[first : first + _KEYS_AT_ONCE])
        anchors = found.latents[found.status == FOUND, 1]
        distances.append(prior.distance(torch.from_numpy(anchors).float()))
    every = torch.cat(distances)
    return round(float(every.median()), 3) if len(every) else None
