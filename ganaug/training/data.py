"""Training images, decoded once into a memory-mapped array and read in a keyed order."""

import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug import rng
from ganaug.faces.align import Alignment, align, to_model_range
from ganaug.faces.images import find_images, read_image
from ganaug.interfaces import ImageError, UserInputError

MIN_IMAGES = 16


def pack_images(source: str | Path, out: Path, resolution: int) -> tuple[NDArray[np.uint8], int]:
    """Decodes a folder into ``out/data-{resolution}.npy``; an existing file of the same folder is used again.

    Returns:
        ``(N, resolution, resolution, 3)`` uint8, memory-mapped, and the number of images that could not be read.

    Raises:
        UserInputError: With fewer than 16 readable images.
    """
    names = find_images(source)
    target, listing = out / f"data-{resolution}.npy", out / f"data-{resolution}.json"
    if target.exists() and listing.exists():
        record = json.loads(listing.read_text())
        if record["names"] == names:
            return np.load(target, mmap_mode="r"), int(record["failed"])
    alignment = Alignment(size=resolution)
    chips = np.empty((len(names), resolution, resolution, 3), np.uint8)
    kept = 0
    for name in tqdm(names, desc="decoding", unit="img", disable=None):
        try:
            image, _ = read_image(Path(source) / name)
        except ImageError as error:
            tqdm.write(f"left out: {error}")
            continue
        chips[kept], _ = align(image, alignment)
        kept += 1
    if kept < MIN_IMAGES:
        raise UserInputError(f"{source} has {kept} readable images, training needs at least {MIN_IMAGES}")
    temporary = target.with_suffix(".tmp.npy")
    np.save(temporary, chips[:kept])
    os.replace(temporary, target)
    listing.write_text(json.dumps({"names": names, "failed": len(names) - kept}))
    return np.load(target, mmap_mode="r"), len(names) - kept


class RealImages:
    """Endless batches of real images; batch k depends on (seed, images shown so far) alone, so resuming is exact.

    Args:
        chips: ``(N, R, R, 3)`` uint8.
        seed: Decides order and horizontal flips.
        members: Rows of ``chips`` to use; all if None.
    """

    def __init__(self, chips: NDArray[np.uint8], seed: int, members: NDArray[np.int64] | None = None) -> None:
        self.chips = chips
        self.seed = seed
        self.members = np.arange(len(chips)) if members is None else members
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def batch(self, position: int, size: int) -> Tensor:
        """Images ``position`` to ``position + size`` of the endless sequence, ``(size, 3, R, R)`` in [-1, 1]."""
        picked = []
        for i in range(position, position + size):
            epoch, offset = divmod(i, len(self.members))
            if self._order[0] != epoch:
                self._order = (epoch, rng.permutation(self.seed, epoch, len(self.members), "train order"))
            picked.append((int(self.members[self._order[1][offset]]), epoch))
        images = np.stack([self.chips[index] for index, _ in picked])
        for row, (index, epoch) in enumerate(picked):
            if rng.uniforms(self.seed, epoch, [index], "train flip", 1)[0, 0] < 0.5:
                images[row] = images[row, :, ::-1]
        return to_model_range(torch.from_numpy(images).permute(0, 3, 1, 2))
