"""What a run of ``precompute`` has to do: photos that the cache has nothing of, or nothing that can stay."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ganaug.cache import LatentCache, Record
from ganaug.cache_failures import Failure
from ganaug.faces.align import Alignment, transform_of
from ganaug.faces.chips import face_key
from ganaug.faces.photos import Photo, hash_of, stamp_of
from ganaug.interfaces import CacheError, ImageError
from ganaug.read_ahead import read_ahead

_LOOKED_AHEAD = 64  # photos whose files are hashed ahead; they are let go of at once


class State(Enum):
    """What the cache has of a photo."""

    NOTHING = "nothing"
    DONE = "done"
    FAILED = "failed"  # and would again: nothing has changed
    AGAIN = "again"  # changed, damaged, failed for unknown causes, or asked for again


@dataclass(frozen=True)
class Pending:
    """What is to be done.

    Attributes:
        chunks: Places in the list of photos; each is worked on together and committed at once.
        failed: Keys of photos that failed before and are left alone.
    """

    chunks: tuple[tuple[int, ...], ...]
    failed: tuple[str, ...]


def find_pending(
    photos: Sequence[Photo],
    cache: LatentCache,
    chunk_size: int,
    retry_failed: bool = False,
    num_workers: int = 0,
    progress: bool = False,
) -> Pending:
    """Looks at what the cache has. Files are hashed where it has something, and never decoded.

    The list of photos is cut into chunks at fixed places. One of which the cache has nothing at all stays whole, so
    that a run that was killed and started again inverts the same images together as one that was not. What is left of
    the others, such as photos that were added in between or have changed, is gathered into full chunks, which come
    last.

    Args:
        photos: All photos of the run.
        cache: The cache.
        chunk_size: Photos in a chunk.
        retry_failed: Whether photos that failed are tried again though nothing has changed.
        num_workers: Threads that hash files.
        progress: Show a progress bar, if it takes longer than some seconds.
    """
    look = _Look(cache, retry_failed)
    looked = read_ahead(look.state, photos, num_workers, max_items=_LOOKED_AHEAD, here=lambda photo: photo.path is None)
    hidden = None if progress else True
    with closing(looked), tqdm(looked, "checking", len(photos), leave=False, disable=hidden, delay=3) as states:
        found = list(states)
    whole: list[tuple[int, ...]] = []
    rest: list[int] = []
    for first in range(0, len(photos), chunk_size):
        places = range(first, min(first + chunk_size, len(photos)))
        if all(found[place] is State.NOTHING for place in places):
            whole.append(tuple(places))
        else:
            rest += [place for place in places if found[place] in (State.NOTHING, State.AGAIN)]
    gathered = [tuple(rest[first : first + chunk_size]) for first in range(0, len(rest), chunk_size)]
    failed = [photo.key for photo, state in zip(photos, found, strict=True) if state is State.FAILED]
    return Pending((*whole, *gathered), tuple(failed))


class _Look:
    """Tells what the cache has of a photo."""

    def __init__(self, cache: LatentCache, retry_failed: bool) -> None:
        self.cache, self.retry_failed = cache, retry_failed
        self.alignment = Alignment.from_dict(dict(cache.header.alignment))
        self.failures: Mapping[str, Failure] = cache.stamped_failures()
        # Faces of which only the first has the photo's own key.
        self.failed_faces = {key.rpartition("#")[0] for key in self.failures if "#" in key}

    def state(self, photo: Photo) -> State:
        """What the cache has of this photo; in any thread."""
        failure = self.failures.get(photo.key)
        if failure is None and photo.key not in self.cache:
            return State.NOTHING
        if self.retry_failed and (failure is not None or self._lost_a_face(photo)):
            return State.AGAIN
        source_hash = hash_of(photo)
        if source_hash is None:
            return State.AGAIN  # whoever reads it next says why
        if failure is not None and failure.stamp == stamp_of(photo, source_hash):
            return State.FAILED
        return State.DONE if self._is_done(photo, source_hash) else State.AGAIN

    def _lost_a_face(self, photo: Photo) -> bool:
        return self.alignment.which_face == "all" and photo.key in self.failed_faces

    def _is_done(self, photo: Photo, source_hash: str) -> bool:
        """Whether all records are whole, and of the photo as it is now."""
        records = [stored(self.cache, photo.key)]
        if self.alignment.which_face == "all":
            records += [stored(self.cache, key) for key in further_keys(photo.key, self.cache)]
        transform = None
        if self.alignment.mode == "points" and photo.points is not None and records[0] is not None:
            try:  # of the size that it had: it is the same photo, or its hash tells that it is not
                transform = transform_of(photo.points, records[0].photo_size, self.alignment)
            except ImageError:
                return False
        return all(is_of(record, source_hash, transform) for record in records)


def stored(cache: LatentCache, key: str) -> Record | None:
    """The record, if it is there and whole."""
    try:
        return cache.get(key)
    except (KeyError, CacheError):
        return None


# A chip that lies elsewhere by more than this many of its pixels is another one; a detector's points may differ by
# rounding.
_SAME_PLACE = 0.1


def is_of(record: Record | None, source_hash: str, transform: NDArray[np.float32] | None) -> bool:
    """Whether a record is of a photo with this hash, and of this chip; ``transform`` None if that is not known."""
    if record is None or record.source_hash != source_hash:
        return False
    if transform is None:
        return True
    corners = np.array([[0, 0, 1], [record.photo_size[0], record.photo_size[1], 1]], dtype=np.float64)
    return bool(np.abs(corners @ (record.transform - transform.astype(np.float64)).T).max() <= _SAME_PLACE)


def further_keys(key: str, cache: LatentCache) -> list[str]:
    """Keys of the second and further faces of a photo that the cache has records of."""
    found: list[str] = []
    while (further := face_key(key, len(found) + 1)) in cache:
        found.append(further)
    return found
