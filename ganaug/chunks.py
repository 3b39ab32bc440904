"""A chunk of photos: the faces in them, their inversions, and one commit."""

import sys
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug.batch_size import BatchSize
from ganaug.cache import LatentCache, Record
from ganaug.cache_failures import Failure
from ganaug.faces.align import to_model_range
from ganaug.faces.chips import Chip, ChipCutter, Reading
from ganaug.interfaces import Inverter
from ganaug.pending import further_keys, is_of, stored

# Batches that an inverter which refills its slots is given at once, and that are committed together: fewer leave slots
# empty at the end of each chunk, more are lost by a kill.
BATCHES_AT_ONCE = 4

Arrays = dict[str, NDArray[np.float32]]


class ChunkInverter:
    """Inverts photos of one run into its cache, a chunk at a time, and counts.

    Args:
        cache: Where to store.
        inverter: How to invert; its networks are on the batch size's device.
        cutter: Cuts the faces.
        batch: Images at a time.

    Attributes:
        chunk_size: Photos to a chunk, to begin with; where chunks lie must not depend on when the batch size is halved.
        inverted: Records written so far.
        failed: Images that gave none.
    """

    def __init__(self, cache: LatentCache, inverter: Inverter, cutter: ChipCutter, batch: BatchSize) -> None:
        self.cache, self.inverter, self.cutter, self.batch = cache, inverter, cutter, batch
        self.dtype = cache.header.dtype
        self.chunk_size = self._at_once(batch.value)
        self.device = batch.device
        self.inverted = self.failed = 0
        self._psnr = array("d")

    def _at_once(self, batch_size: int) -> int:
        """Images that the inverter is given at once."""
        return batch_size * (BATCHES_AT_ONCE if self.inverter.refills else 1)

    def told(self) -> dict[str, str]:
        """What the progress bar tells beside its counts."""
        psnr = {"psnr": f"{np.median(np.frombuffer(self._psnr)):.2f} dB"} if self._psnr else {}
        return psnr | ({"failed": str(self.failed)} if self.failed else {})

    def invert_chunk(self, readings: Iterable[Reading]) -> None:
        """Inverts photos together, and commits what came of them."""
        done = self.cutter.finish(readings)
        failures = {key: Failure(why, reading.stamp) for reading in done for key, why in reading.failures.items()}
        chips = [(chip, reading.stamp) for reading in done for chip in reading.chips]
        needed = [pair for pair in chips if not self._is_there(pair[0])]
        records: list[Record] = []
        for first in range(0, len(needed), self.chunk_size):  # more than one part where photos have several faces
            records += self._invert(needed[first : first + self.chunk_size], failures)
        if records:
            self.cache.put_many(records)
        if self.cutter.alignment.which_face == "all":
            self._forget_lost_faces(done)
        if failures:
            self.cache.put_failures(failures)
            for failure in failures.values():
                tqdm.write(f"left out: {failure.reason}", file=sys.stderr)
        self.inverted, self.failed = self.inverted + len(records), self.failed + len(failures)
        self._psnr.extend(record.quality["psnr"] for record in records)

    def _is_there(self, chip: Chip) -> bool:
        return is_of(stored(self.cache, chip.key), chip.source_hash, chip.transform)

    def _forget_lost_faces(self, readings: Sequence[Reading]) -> None:
        """Removes the further faces of photos that were changed and have fewer now."""
        seen = {chip.key for reading in readings for chip in reading.chips}
        keys = [reading.photo.key for reading in readings if reading.photo.key in seen]
        self.cache.forget([key for first in keys for key in further_keys(first, self.cache) if key not in seen])

    def _invert(self, chips: Sequence[tuple[Chip, str]], failures: dict[str, Failure]) -> list[Record]:
        """Records of chips with their photos' stamps; or the reason in ``failures``."""
        pixels = np.stack([chip.pixels for chip, _ in chips])
        images = to_model_range(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        numbers, quality = self.batch.fitting(lambda batch_size: self._invert_images(images, batch_size))
        with np.errstate(over="ignore"):
            finite = [np.isfinite(v.astype(self.dtype)).reshape(len(v), -1).all(axis=1) for v in numbers.values()]
        storable = np.logical_and.reduce(finite)
        records = []
        for i, (chip, stamp) in enumerate(chips):
            if not storable[i]:
                why = f"{chip.key}: inversion gave numbers that are not finite, or too large for the cache"
                failures[chip.key] = Failure(why, stamp)
                continue
            record = Record(
                chip.key,
                quality={name: float(values[i]) for name, values in quality.items()},
                transform=chip.transform,
                source_hash=chip.source_hash,
                photo_size=chip.photo_size,
                **{name: values[i] for name, values in numbers.items()},
            )
            records.append(record)
        return records

    def _invert_images(self, images: Tensor, batch_size: int) -> tuple[Arrays, Arrays]:
        """What records hold of images ``(N, 3, H, W)``, by name: latents and deltas; and quality."""
        numbers: dict[str, list[Tensor]] = {}
        quality: dict[str, list[Tensor]] = {}
        for part in images.split(self._at_once(batch_size)):
            found = self.inverter.invert(part.to(self.device), batch_size)
            codes = found.w_plus if found.anchor is None else torch.stack([found.w_plus, found.anchor], dim=1)
            numbers.setdefault("latents", []).append(codes.float().cpu())
            if found.delta is not None:
                numbers.setdefault("delta", []).append(found.delta.float().cpu())
            for name in self.cache.header.quality_names:
                quality.setdefault(name, []).append(found.quality[name].float().cpu())
        return (
            {name: torch.cat(parts).numpy() for name, parts in numbers.items()},
            {name: torch.cat(parts).numpy() for name, parts in quality.items()},
        )
