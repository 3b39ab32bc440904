"""Training images, decoded once into a memory-mapped array and read in a keyed order."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug import rng
from ganaug.faces.align import Alignment, align, to_model_range
from ganaug.faces.photos import Photo, photos_from
from ganaug.interfaces import ImageError, UserInputError

MIN_IMAGES = 16


@dataclass(frozen=True)
class PackedImages:
    """Decoded photos.

    Attributes:
        chips: ``(N, R, R, 3)`` uint8, memory-mapped.
        names: Photo of each chip, relative to the folder, with forward slashes.
        num_failed: Photos that could not be read.
    """

    chips: NDArray[np.uint8]
    names: tuple[str, ...]
    num_failed: int


def pack_images(source: str | Path, out: Path, resolution: int) -> PackedImages:
    """Decodes photos into ``out/data-{resolution}.npy``; an existing file of the same photos is used again.

    The same photos: none came or went, and each has the size and the time of change that it had. Of a dataset whose
    items are no files only their number and names are known.

    Args:
        source: A folder, or ``package.module:function`` that returns a dataset.
        out: Folder of the run.
        resolution: Side of the chips.

    Raises:
        UserInputError: With fewer than 16 readable images.
        ImageError: If the folder is missing or empty.
    """
    photos = photos_from(source)
    state = _state_of(photos)
    target, listing = out / f"data-{resolution}.npy", out / f"data-{resolution}.json"
    packed = _packed_before(target, listing, state)
    if packed is not None:
        return packed
    temporary = target.with_suffix(".tmp.npy")
    try:
        kept = _decode(photos, temporary, resolution)
        if len(kept) < MIN_IMAGES:
            raise UserInputError(f"{source} has {len(kept)} readable images, training needs at least {MIN_IMAGES}")
        listing.unlink(missing_ok=True)  # it must not outlive the array that it describes
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    record = {"files": state, "names": kept, "failed": len(photos) - len(kept)}
    unfinished = listing.with_suffix(".tmp")
    unfinished.write_text(json.dumps(record))
    os.replace(unfinished, listing)
    return PackedImages(np.load(target, mmap_mode="r"), tuple(kept), len(photos) - len(kept))


def _state_of(photos: Sequence[Photo]) -> str:
    """A hash of the names, sizes and times of change."""
    digest = hashlib.blake2b(digest_size=16)
    for photo in photos:
        status = None if photo.path is None else os.stat(photo.path)
        known = "" if status is None else f"{status.st_size}\0{status.st_mtime_ns}"
        digest.update(f"{photo.key}\0{known}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _packed_before(target: Path, listing: Path, state: str) -> PackedImages | None:
    """What an earlier call wrote for the same photos, if it is whole."""
    try:
        record = json.loads(listing.read_text())
        if record["files"] != state:
            return None
        packed = PackedImages(np.load(target, mmap_mode="r"), tuple(record["names"]), int(record["failed"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # missing, cut short, or of an older version
        return None
    return packed if len(packed.chips) == len(packed.names) else None


def _decode(photos: Sequence[Photo], target: Path, resolution: int) -> list[str]:
    """Writes the chips of all readable photos to ``target``, straight to disk, and returns their names."""
    alignment = Alignment(size=resolution)
    shape = (len(photos), resolution, resolution, 3)
    chips = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)
    kept: list[str] = []
    for photo in tqdm(photos, desc="decoding", unit="img", disable=None):
        try:
            image, _ = photo.read()
        except ImageError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            continue
        chips[len(kept)], _ = align(image, alignment)
        kept.append(photo.key)
    chips.flush()
    if len(kept) < len(photos):
        whole = target.with_suffix(".cut.npy")
        np.save(whole, chips[: len(kept)])
        os.replace(whole, target)
    return kept


def to_images(chips: NDArray[np.uint8]) -> Tensor:
    """``(N, R, R, 3)`` uint8 -> ``(N, 3, R, R)`` float32 in [-1, 1]."""
    return to_model_range(torch.from_numpy(np.array(chips)).permute(0, 3, 1, 2))


class RealImages:
    """Endless batches of real images; batch k depends on (seed, images shown so far) alone, so resuming is exact.

    Args:
        chips: ``(N, R, R, 3)`` uint8.
        seed: Decides order and horizontal flips.
        members: Rows of ``chips`` to use; all if None.
        labels: ``(N, c_dim)`` float32, the condition of each chip; None for an unconditional run.

    Raises:
        ValueError: For labels of another length than ``chips``.
    """

    def __init__(
        self,
        chips: NDArray[np.uint8],
        seed: int,
        members: NDArray[np.int64] | None = None,
        labels: NDArray[np.float32] | None = None,
    ) -> None:
        if labels is not None and (labels.ndim != 2 or len(labels) != len(chips)):
            raise ValueError(f"expected labels of shape ({len(chips)}, c_dim), got {labels.shape}")
        self.chips = chips
        self.seed = seed
        self.members = np.arange(len(chips)) if members is None else members
        self.labels = labels
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}

    def batch(self, position: int, size: int) -> Tensor:
        """Images ``position`` to ``position + size`` of the endless sequence, ``(size, 3, R, R)`` in [-1, 1]."""
        rows, flips = self._at(position, size)
        images = np.asarray(self.chips[rows])
        images[flips] = images[flips, :, ::-1]
        return to_images(images)

    def labels_at(self, position: int, size: int) -> Tensor:
        """Conditions of the images that :meth:`batch` gives for the same arguments, ``(size, c_dim)`` float32.

        Raises:
            ValueError: If the images have no labels.
        """
        if self.labels is None:
            raise ValueError("these images have no labels: give RealImages the labels of its chips")
        return torch.from_numpy(self.labels[self._at(position, size)[0]])

    def _at(self, position: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows of ``chips`` and whether each is mirrored, ``(size,)`` both."""
        rows, flips = [], []
        end = position + size
        while position < end:
            epoch, offset = divmod(position, len(self.members))
            count = min(end - position, len(self.members) - offset)
            order, mirrored = self._epoch(epoch)
            rows.append(order[offset : offset + count])
            flips.append(mirrored[offset : offset + count])
            position += count
        return np.concatenate(rows), np.concatenate(flips)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows in the order of one epoch, and whether each is mirrored in it."""
        if epoch not in self._epochs:
            order = self.members[rng.permutation(self.seed, epoch, len(self.members), "train order")]
            mirrored = rng.uniforms(self.seed, epoch, order, "train flip", 1)[:, 0] < 0.5
            if len(self._epochs) > 1:  # a batch may span two epochs, of small data more
                self._epochs.clear()
            self._epochs[epoch] = (order, mirrored)
        return self._epochs[epoch]
