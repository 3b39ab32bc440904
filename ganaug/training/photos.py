"""The photos of a run: those that it trains on, and those that it is judged by."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ganaug import rng
from ganaug.interfaces import UserInputError
from ganaug.training.data import PackedImages, pack_images, to_images
from ganaug.training.parallel import Processes

HELD_OUT_SHARE = 0.02
MIN_HELD_OUT = 64  # if that is at most a tenth of the photos: figures from fewer say little
MAX_HELD_OUT = 512


@dataclass(frozen=True)
class RunPhotos:
    """Photos of a run.

    Attributes:
        packed: All photos of the training folder.
        members: Rows of ``packed.chips`` to train on.
        held_out: ``(N, 3, R, R)`` in [-1, 1], to judge by.
    """

    packed: PackedImages
    members: NDArray[np.int64]
    held_out: Tensor


def gather_photos(
    source: str | Path, out: Path, resolution: int, seed: int, processes: Processes, held_out: str | Path | None = None
) -> RunPhotos:
    """Decodes the photos of a run into ``out``, once for all processes.

    Args:
        source: Folder of training photos, or ``package.module:function`` returning a dataset; cut to the largest
            centred square.
        out: Folder of the run.
        resolution: Side of the images.
        seed: Decides which photos are held out.
        processes: All call this.
        held_out: Folder of photos to judge by; None takes 2 % of the training photos away for it, at
            least 64 if that is at most a tenth, 512 at most.

    Raises:
        UserInputError: With fewer than 16 readable images in a folder.
        ImageError: If a folder is missing or empty.
    """
    packed = _pack_once(source, out, resolution, processes)
    if held_out is not None:
        apart = _pack_once(held_out, out / "held-out", resolution, processes)
        return RunPhotos(packed, np.arange(len(packed.chips)), to_images(apart.chips[:MAX_HELD_OUT]))
    shuffled = rng.permutation(seed, 0, len(packed.chips), "held out")
    few = min(MIN_HELD_OUT, len(packed.chips) // 10)
    count = min(max(int(len(packed.chips) * HELD_OUT_SHARE), few, 1), MAX_HELD_OUT)
    return RunPhotos(packed, np.sort(shuffled[count:]), to_images(packed.chips[np.sort(shuffled[:count])]))


def check_enough(photos: RunPhotos, batch_size: int) -> None:
    """Raises UserInputError if the training photos do not fill one batch."""
    if len(photos.members) < batch_size:
        raise UserInputError(
            f"{len(photos.members)} training images are fewer than one batch of {batch_size}; lower --batch-size"
        )


def _pack_once(source: str | Path, out: Path, resolution: int, processes: Processes) -> PackedImages:
    """The main process decodes, the others open what it wrote."""
    if not processes.is_main:
        processes.barrier()
        return pack_images(source, out, resolution)
    out.mkdir(parents=True, exist_ok=True)
    packed = pack_images(source, out, resolution)
    processes.barrier()
    return packed
