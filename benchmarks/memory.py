"""Does ``ganaug precompute`` need more memory for a longer list? Inverts many photos, and looks at its own memory.

    python benchmarks/memory.py --data DIR [--quick] [--images N] [--inverter NAME] [--json FILE]

A folder with fewer photos is gone through several times, under other keys. Memory is what the process has for itself
(``RssAnon`` of Linux); beside it stands the part of files, among them the cache, that happens to be mapped, which the
system takes back whenever somebody else needs it.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganaug.cache import LatentCache
from ganaug.faces.photos import Photo, photos_from
from ganaug.generators import load_generator
from ganaug.interfaces import Inversion, Inverter
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, precompute

MODEL = "faces64"
CPU = torch.device("cpu")
MEGABYTE = 1024.0  # in the kilobytes of /proc


def memory() -> tuple[float, float]:
    """Megabytes of this process's own memory, and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, files = (float(fields[name].split()[0]) / MEGABYTE for name in ("RssAnon", "RssFile"))
    return own, files


class Watched:
    """An inverter that looks at the memory before each chunk."""

    def __init__(self, inverter: Inverter) -> None:
        self.inverter, self.images = inverter, 0
        self.samples: list[tuple[int, float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inverter, name)

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        self.samples.append((self.images, *memory()))
        self.images += len(images)
        return self.inverter.invert(images, batch_size)


def repeated(photos: list[Photo], count: int) -> list[Photo]:
    """``count`` photos with keys of their own."""
    return [replace(photo, key=f"{number:06}/{photo.key}") for number, photo in enumerate(islice(cycle(photos), count))]


def highest(samples: list[tuple[int, float, float]], first: int, last: int, column: int) -> float:
    """The largest of a column's numbers between two numbers of images."""
    return max(sample[column] for sample in samples if first <= sample[0] < last)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Inverts, and tells what was seen."""
    photos = repeated(photos_from(arguments.data), arguments.images)
    generator = load_generator(MODEL)
    inverter = Watched(build_inverter(arguments.inverter, generator, MODEL, CPU, arguments.steps))
    cache = LatentCache.create(folder / "faces.lmdb", make_header(generator, MODEL, inverter))
    began = time.process_time()
    result = precompute(photos, cache, inverter, CPU, arguments.batch_size, num_workers=arguments.num_workers)
    inverter.samples.append((inverter.images, *memory()))
    step = arguments.images // 10
    rows = [
        {
            "images": last,
            "own_mb": round(highest(inverter.samples, last - step, last, 1), 1),
            "files_mb": round(highest(inverter.samples, last - step, last, 2), 1),
        }
        for last in range(step, 10 * step + 1, step)
    ]
    return {
        "inverter": arguments.inverter,
        "inverted": result.inverted,
        "failed": result.failed,
        "cpu_seconds_per_image": round((time.process_time() - began) / max(result.inverted, 1), 4),
        "rows": rows,
        "growth_mb": round(rows[-1]["own_mb"] - rows[0]["own_mb"], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of face photos")
    parser.add_argument("--images", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--inverter", default="encoder", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="of inverters that take steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--num-workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="500 images")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.images = 500 if arguments.quick else arguments.images
    with tempfile.TemporaryDirectory(prefix="ganaug-memory-") as folder:
        figures = measure(arguments, Path(folder))
    print("images    own MB  mapped files MB")
    for row in figures["rows"]:
        print(f"{row['images']:6}  {row['own_mb']:8}  {row['files_mb']:15}")
    for name in ("inverter", "inverted", "failed", "cpu_seconds_per_image", "growth_mb"):
        print(f"{name:22} {figures[name]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
