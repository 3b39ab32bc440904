"""One long job in several parts: which photos each takes, and their caches into one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.cache import FOUND, LatentCache
from ganaug.cache_header import require_equal
from ganaug.faces.photos import Photo
from ganaug.interfaces import CacheError, UserInputError

_KEYS_AT_ONCE = 1024


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of a list of photos.

    A photo's key alone decides which part it belongs to, so the list may grow or shrink between runs, and runs need not
    begin with the same list.

    Attributes:
        number: 1 to ``count``.
        count: How many there are.

    Raises:
        UserInputError: For a number outside that range.

    Example:
        >>> photos = [Photo(name, lambda: None) for name in ("ann.jpg", "bob.jpg", "eve.jpg")]
        >>> sorted(photo.key for number in (1, 2) for photo in Shard(number, 2).of(photos))
        ['ann.jpg', 'bob.jpg', 'eve.jpg']
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise UserInputError(f"shard {self.number}/{self.count}: expected K/N with K from 1 to N, such as 2/8")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``"2/8"``: the second of eight.

        Raises:
            UserInputError: For any other text.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
            raise UserInputError(f"shard {text!r}: expected K/N with K from 1 to N, such as 2/8")
        return cls(int(number), int(count))

    def holds(self, key: str) -> bool:
        """Whether the photo with this key belongs to this part."""
        digest = sha256(key.encode(errors="surrogatepass")).digest()  # surrogates: file names that are no UTF-8
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    def of(self, photos: Sequence[Photo]) -> list[Photo]:
        """The photos of this part, in their order."""
        return [photo for photo in photos if self.holds(photo.key)]


@dataclass(frozen=True)
class MergeResult:
    """Figures of a merge.

    Attributes:
        caches: Caches that were merged.
        records: Records in the merged cache now.
        written: Records that were not there before, bit for bit.
        conflicts: Keys for which two caches had records of different photos; the one named last won.
        damaged_left_out: Damaged records that were left out.
        failures: Images without latents in the merged cache.
    """

    caches: int
    records: int
    written: int
    conflicts: int
    damaged_left_out: int
    failures: int

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)


def merge_caches(out: str | Path, shards: Sequence[str | Path], skip_damaged: bool = False) -> MergeResult:
    """Several caches into one.

    Where two of them have a record under one key, the cache that is named last wins, also over what is in ``out``
    already; whether that is of the photo as it is now, the next ``ganaug precompute`` into ``out`` finds out. All
    caches are checked before the first record is copied. Some hundred records are committed at a time; killed and run
    again, it goes on and ends with the same records.

    Args:
        out: The merged cache; made with the header of the first of the others if it is not there.
        shards: The others, which are only read.
        skip_damaged: Leave damaged records out, so that the next ``ganaug precompute`` into ``out`` makes them again.

    Raises:
        CacheError: If a cache is missing, ``out`` is one of the others, headers differ (names the field and both
            values), or a cache has damaged records that are not to be left out (names the first).
        UserInputError: If there is nothing to merge.
    """
    if not shards:
        raise UserInputError("nothing to merge: give the shards' caches")
    sources = [LatentCache(path) for path in shards]
    first = sources[0]
    target = LatentCache(out)
    if any(source.path == target.path for source in sources):
        raise CacheError(f"{target.path} is to be made, and one of the caches to merge into it; leave it out of these")
    advice = "Only caches of the same generator, alignment and inverter can be merged"
    for other in sources[1:]:
        require_equal(first.header, other.header, f"the cache at {first.path}", f"the cache at {other.path}", advice)
    damaged = {source.path: source.verify() for source in sources}
    for path, keys in damaged.items():
        if keys and not skip_damaged:
            raise CacheError(
                f"the cache {path} has {len(keys)} damaged record(s), the first is {keys[0]!r}. Run `ganaug "
                "precompute` into it once more, which makes them again; or give --skip-damaged"
            )
    target = LatentCache.create(out, first.header)
    written = conflicts = 0
    for source in sources:
        conflicts += _conflicts(target, source)
        written += target.merge(source, skip_damaged)
    left_out = sum(len(keys) for keys in damaged.values())
    return MergeResult(len(sources), len(target), written, conflicts, left_out, len(target.failures()))


def _conflicts(target: LatentCache, source: LatentCache) -> int:
    """Keys for which both caches have whole records, of different photos."""
    count, keys = 0, source.keys()
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        batch = keys[start : start + _KEYS_AT_ONCE]
        mine, other = target.get_many(batch), source.get_many(batch)
        both = (mine.status == FOUND) & (other.status == FOUND)
        count += int(np.count_nonzero(both & (mine.source_hashes != other.source_hashes).any(axis=1)))
    return count
