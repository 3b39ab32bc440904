"""Reading a batch of latents: ganaug's cache against raw LMDB with one transaction per read, and against .npy files.

    python benchmarks/cache.py [--quick] [--json FILE] [--records N]

Every way reads the same float16 numbers and ends with the same float32 torch tensor (B, L, D). The others do what
datasets do: they make a float32 tensor per item, and stack those; of torch's conversion and numpy's they get the
faster (torch's). Warm page cache, one thread. A pass counts as its median batch, which is not changed by what else the
machine does now and then; each repeat times all ways one after the other, and the ratios are of one repeat each. The
targets are for later passes: the first one verifies checksums, which the others do not have.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from torch import Tensor

from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.interfaces import LatentSpec

BATCH = 64
OURS, FIRST = "ganaug, later passes", "ganaug, first pass, checksums verified"
LMDB, NPY = "LMDB, one transaction per read", ".npy files"
TARGETS = {LMDB: 2.5, NPY: 20.0}
LAYOUTS = {"18x512": (18, 512), "10x256": (10, 256)}
Reader = Callable[[Sequence[str]], Tensor]


def build(folder: Path, shape: tuple[int, int], count: int) -> tuple[LatentCache, lmdb.Environment, Path, list[str]]:
    """Writes the same ``count`` float16 latents in three ways."""
    header = CacheHeader("synthetic", "0" * 64, LatentSpec("w_plus", *shape), {}, {"name": "none"})
    cache = LatentCache.create(folder / "ganaug", header)
    raw = lmdb.open(str(folder / "raw"), map_size=1 << 40, readahead=False)
    files = folder / "npy"
    files.mkdir()
    generator = np.random.default_rng(0)
    quality, transform = {"mse": 0.0, "psnr": 0.0, "ssim": 0.0}, np.eye(2, 3, dtype=np.float32)
    keys = [f"{number:08d}.jpg" for number in range(count)]
    for start in range(0, count, 1024):
        batch = [(key, generator.standard_normal(shape).astype(np.float16)) for key in keys[start : start + 1024]]
        cache.put_many(Record(key, latents, quality, transform, "0" * 64) for key, latents in batch)
        with raw.begin(write=True) as transaction:
            for key, latents in batch:
                transaction.put(key.encode(), latents.tobytes())
        for key, latents in batch:
            np.save(files / f"{key}.npy", latents)
    return cache, raw, files, keys


def readers(cache: LatentCache, raw: lmdb.Environment, files: Path, shape: tuple[int, int]) -> dict[str, Reader]:
    """The ways to compare, by name."""

    def ours(keys: Sequence[str]) -> Tensor:
        return torch.from_numpy(cache.get_many(keys).latents).float()

    def lmdb_torch(keys: Sequence[str]) -> Tensor:
        items = []
        for key in keys:
            with raw.begin() as transaction:
                value = transaction.get(key.encode(), b"")
            items.append(torch.from_numpy(np.frombuffer(value, np.float16).reshape(shape)).float())
        return torch.stack(items)

    def lmdb_numpy(keys: Sequence[str]) -> Tensor:
        items = []
        for key in keys:
            with raw.begin() as transaction:
                value = transaction.get(key.encode(), b"")
            items.append(torch.from_numpy(np.frombuffer(value, np.float16).reshape(shape).astype(np.float32)))
        return torch.stack(items)

    def npy_torch(keys: Sequence[str]) -> Tensor:
        return torch.stack([torch.from_numpy(np.load(f"{files}/{key}.npy")).float() for key in keys])

    return {OURS: ours, LMDB: lmdb_torch, f"{LMDB}, converted by numpy": lmdb_numpy, NPY: npy_torch}


def measure(shape: tuple[int, int], count: int, repeats: int, num_batches: int) -> dict[str, list[float]]:
    """Microseconds per record, one number per repeat."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        cache, raw, files, keys = build(Path(name), shape, count)
        ways = readers(cache, raw, files, shape)
        generator = np.random.default_rng(1)

        def draw() -> list[list[str]]:
            # Without repeats within a pass, as an epoch reads: otherwise the first pass would be half a later one.
            order = generator.permutation(count)[: num_batches * BATCH]
            return [[keys[index] for index in order[i : i + BATCH]] for i in range(0, len(order) - BATCH + 1, BATCH)]

        def run(way: str, reader: Reader, batches: list[list[str]]) -> None:
            seconds = []
            for batch in batches:
                start = time.perf_counter()
                reader(batch)
                seconds.append(time.perf_counter() - start)
            times.setdefault(way, []).append(statistics.median(seconds) / BATCH * 1e6)

        wanted = [reader(keys[:BATCH]) for reader in ways.values()]
        if not all(torch.equal(wanted[0], other) and other.dtype == torch.float32 for other in wanted):
            raise RuntimeError("the ways disagree about the latents")
        for batches in (draw(), draw()):  # warms the page cache and the allocator
            for reader in ways.values():
                for batch in batches:
                    reader(batch)
        for repeat in range(repeats):
            batches = draw()
            cache.close()
            cache.get_many(["none"])  # opening (0.3 ms) and checking the file's pages are not part of a pass
            run(FIRST, ways[OURS], batches)
            names = list(ways)
            for way in names[repeat % len(names) :] + names[: repeat % len(names)]:
                run(way, ways[way], batches)
        cache.close()
        raw.close()
    return times


def summarise(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Ratios of each other way to both of ours: median, min and max over the repeats."""
    rows = []
    for ours in (FIRST, OURS):
        for other in [way for way in times if way not in (FIRST, OURS)]:
            ratios = [b / a for a, b in zip(times[ours], times[other], strict=True)]
            median = statistics.median(ratios)
            row: dict[str, Any] = {"ours": ours, "other": other}
            row.update(median=median, min=min(ratios), max=max(ratios))
            row["us_per_record"] = [statistics.median(times[ours]), statistics.median(times[other])]
            if ours == OURS and other in TARGETS:
                row["target"] = TARGETS[other]
                row["met"] = median >= TARGETS[other]
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 records and five short repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--records", type=int, metavar="N", help="records per layout (default 20,000)")
    arguments = parser.parse_args()
    count = arguments.records or (2000 if arguments.quick else 20_000)
    if count < BATCH:
        parser.error(f"--records must be at least {BATCH}, got {count}")
    repeats, num_batches = (5, 20) if arguments.quick else (9, 100)
    torch.set_num_threads(1)
    # What torch says to whoever makes a tensor of bytes; the message is built once, so silence costs nobody time.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    report: dict[str, Any] = {"records": count, "batch": BATCH, "repeats": repeats, "layouts": {}}
    for name, shape in LAYOUTS.items():
        times = measure(shape, count, repeats, num_batches)
        rows = summarise(times)
        report["layouts"][name] = {"us_per_record": times, "ratios": rows}
        print(f"\n{name} float16, {count} records, batches of {BATCH} random keys, {repeats} repeats")
        print(f"{'':90} {'us/record':>15} {'ratio':>7} {'min':>7} {'max':>7}")
        for row in rows:
            pair = f"{row['us_per_record'][0]:.2f} / {row['us_per_record'][1]:.2f}"
            verdict = f"  target {row['target']:g}: {'met' if row['met'] else 'NOT met'}" if "target" in row else ""
            label = f"{row['ours']} : {row['other']}"
            print(f"{label:90} {pair:>15} {row['median']:7.2f} {row['min']:7.2f} {row['max']:7.2f}{verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
