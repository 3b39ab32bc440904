"""Whether records still draw what they drew when they were made: some are drawn again and measured again.

The checksum of a record says that its bytes are as they were written. It does not say that they were right, that the
generator at hand still draws the same picture of them, or that the photo's chip is cut as it was. This does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.cache import LatentCache, Record
from ganaug.cached_faces import draw_records
from ganaug.faces.align import Alignment, align, to_model_range
from ganaug.faces.cut import cut
from ganaug.faces.photos import Photo
from ganaug.interfaces import CacheError, Generator, ImageError
from ganaug.inversion.quality import QualityJudge
from ganaug.rng import hash_text

# What counts as the same: this share of the stored value and this much beyond. Records in float16,
# another batch size and one core or eight change the PSNR of the bundled generator's inversions by 0.0008 dB at most
# (128 photos, two caches), convolutions that round to 10 bits as a GPU's TF32 does by 0.002 dB, and their SSIM by
# 0.00004. The rest is for decoders of JPEG that differ by a grey level. Records that were mixed up differ by decibels.
TOLERANCES = {"psnr": (0.0, 0.05), "ssim": (0.0, 0.002), "mse": (0.012, 2e-6)}

_AT_ONCE = 16  # faces; another batch size than the inverter's changes no more than is tolerated


class Difference(NamedTuple):
    """A figure that is not what the record says.

    Attributes:
        name: Which one; ``"finite"`` for a picture with pixels that are no numbers.
        stored: In the record.
        now: Measured again.
    """

    name: str
    stored: float
    now: float


@dataclass(frozen=True)
class RecheckResult:
    """What was found.

    Attributes:
        checked: Records that were drawn again.
        compared: How many of them were compared with their photos.
        differing: Key -> the first figure that differs.
        unreadable: Key -> why the record could not be drawn, or not be compared with its photo.
    """

    checked: int
    compared: int
    differing: Mapping[str, Difference]
    unreadable: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, without numbers that JSON lacks."""
        differing = {
            key: {
                name: None if isinstance(v, float) and not math.isfinite(v) else v
                for name, v in found._asdict().items()
            }
            for key, found in self.differing.items()
        }
        return {**asdict(self), "differing": differing}


def sample_keys(keys: Sequence[str], count: int) -> list[str]:
    """``count`` of the keys, chosen by their hashes: the same ones every time, and most of them in a cache that grew.

    Example:
        >>> sample_keys(["a", "b", "c"], 2) == sample_keys(["c", "b", "a"], 2)
        True
    """
    return sorted(sorted(keys, key=hash_text)[:count])


def photo_of(key: str, photos: Mapping[str, Photo]) -> Photo | None:
    """The photo that a record was made of: its own key, or for ``ann.jpg#1``, a further face, that of ``ann.jpg``."""
    name, _, number = key.rpartition("#")
    return photos.get(key, photos.get(name) if number.isdigit() else None)


def stored_chip(photo: Photo, record: Record, alignment: Alignment) -> NDArray[np.uint8]:
    """The chip that a record was made of, cut again where the record says that it lies; no detector is asked.

    Args:
        photo: Of the record.
        record: With its transform.
        alignment: Of the cache.

    Returns:
        ``(size, size, 3)`` uint8.

    Raises:
        ImageError: If the photo cannot be read, or is not the same any more.
    """
    image, source_hash = photo.read()
    if record.source_hash not in (source_hash, "0" * 64):  # zeros: made of no file
        raise ImageError("the photo has changed since; `ganaug precompute` inverts it again")
    return cut(image, record.transform, alignment.size) if alignment.mode == "points" else align(image, alignment)[0]


@torch.no_grad()
def recheck(
    cache: LatentCache,
    photos: Sequence[Photo] | None,
    generator: Generator,
    device: torch.device,
    sample: int = 64,
    judge: QualityJudge | None = None,
) -> RecheckResult:
    """Draws some records again and compares what is measured with what they say.

    Args:
        cache: The cache.
        photos: What it was made of, or some of that; None where they are not at hand: then pictures are only looked at
            for numbers that are not finite.
        generator: The generator, on ``device``.
        device: Where to draw.
        sample: How many records, of those whose photos are given; chosen by the hash of their keys.
        judge: Measures; default: distance in pixels. Figures without an entry in ``TOLERANCES`` are not compared.

    Raises:
        CacheError: If the cache was made with another generator, or no photo has a record.
    """
    cache.check_generator(generator.fingerprint, generator.latent_spec)
    judge, alignment = judge or QualityJudge(), Alignment.from_dict(dict(cache.header.alignment))
    names = [name for name in TOLERANCES if name in judge.names and name in cache.header.quality_names]
    known = None if photos is None else {photo.key: photo for photo in photos}
    keys = cache.keys()
    if known is not None:
        keys = [key for key in keys if photo_of(key, known) is not None]
        if not keys and len(cache):
            raise CacheError(
                f"none of {len(known)} photos has a record in {cache.path}; give those that were precomputed"
            )
    keys = sample_keys(keys, sample)
    checked = compared = 0
    differing: dict[str, Difference] = {}
    unreadable: dict[str, str] = {}
    for start in range(0, len(keys), _AT_ONCE):
        records = _records(cache, keys[start : start + _AT_ONCE], unreadable)
        if not records:
            continue
        drawn = draw_records(records, generator, cache.header.delta, cache.header.noise)
        checked += len(records)
        finite = drawn.isfinite().float().mean(dim=(1, 2, 3)).tolist()
        differing |= {
            record.key: Difference("finite", 1.0, share)
            for record, share in zip(records, finite, strict=True)
            if share < 1.0
        }
        if known is None:
            continue
        rows, chips = _chips(records, known, alignment, unreadable)
        if rows:
            compared += len(rows)
            told = judge(drawn[rows], to_model_range(chips.to(device)))
            for place, row in enumerate(rows):
                now = {name: float(told[name][place]) for name in names}
                found = _difference(records[row].quality, now)
                if found is not None:
                    differing.setdefault(records[row].key, found)
    return RecheckResult(checked, compared, differing, unreadable)


def _records(cache: LatentCache, keys: Sequence[str], unreadable: dict[str, str]) -> list[Record]:
    """Those that are whole; why not in ``unreadable``."""
    found = []
    for key in keys:
        try:
            found.append(cache.get(key))
        except KeyError:  # erased meanwhile
            continue
        except CacheError:
            unreadable[key] = "the record is damaged"
    return found


def _chips(
    records: Sequence[Record], photos: Mapping[str, Photo], alignment: Alignment, unreadable: dict[str, str]
) -> tuple[list[int], Tensor]:
    """Numbers of the records whose chips could be cut, and the chips ``(K, 3, size, size)`` uint8."""
    rows, chips = [], []
    for row, record in enumerate(records):
        photo = photo_of(record.key, photos)
        if photo is None:
            continue
        try:
            chips.append(torch.from_numpy(stored_chip(photo, record, alignment).copy()).permute(2, 0, 1))
        except ImageError as error:
            unreadable[record.key] = str(error)
            continue
        rows.append(row)
    return rows, torch.stack(chips) if chips else torch.empty(0)


def _difference(stored: Mapping[str, float], now: Mapping[str, float]) -> Difference | None:
    """The first figure that differs by more than is tolerated."""
    for name, value in now.items():
        relative, absolute = TOLERANCES[name]
        if not np.isclose(value, stored[name], rtol=relative, atol=absolute, equal_nan=True):
            return Difference(name, stored[name], value)
    return None
