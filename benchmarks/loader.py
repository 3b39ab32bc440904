"""Epochs of our loader against those of a plain DataLoader over the same files.

    python benchmarks/loader.py [--quick] [--json FILE] [--images DIR] [--device cuda]

At ratio 0 without classical augmentation the batches are those of the plain DataLoader, bit for bit, and may cost 3 %
more at most. The other rows say what variants and classical augmentation cost on this device. The folder of 64 px JPEGs
is drawn from the bundled generator, unless DIR is given; its latents are in a cache either way (random ones for DIR:
the time does not depend on their values).

All ways of a group run one after the other in every repeat, each time in another order, so that a busy machine slows
all of them; ratios are of one repeat each. "plain, again" is a second plain DataLoader: its ratios are the noise, and
where they spread wider than the target, the target's verdict means nothing. Workers persist, and each way has had one
epoch before the first that counts, so that neither their start nor the first reading of the files is in the figures.
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from ganaug import CacheHeader, GANAugmentedDataset, LatentCache, Record, load_generator
from ganaug.faces.align import Alignment, to_unit_range
from ganaug.faces.images import content_hash, find_images, read_image
from ganaug.interfaces import Generator

BATCH = 64
MODEL = "faces64"
TARGET = 1.03  # of ratio 0 against plain
PLAIN, AGAIN, NOTHING = "plain", "plain, again", "ratio 0, no classical"


class Folder(Dataset[tuple[Tensor, int]]):
    """Images of a folder, scaled to 64 px where they are larger or smaller."""

    def __init__(self, root: Path, keys: Sequence[str], size: int) -> None:
        self.root, self.size = str(root), size
        self.paths = [str(root / key) for key in keys]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        return to_tensor(image if image.size == (self.size, self.size) else image.resize((self.size, self.size))), 0


@torch.no_grad()
def random_latents(generator: Generator, count: int) -> Tensor:
    """``(count, L, D)`` with truncation 0.7."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(0))
    return generator.mapping(z, truncation_psi=0.7)


@torch.no_grad()
def draw_faces(generator: Generator, latents: Tensor, root: Path) -> list[str]:
    """One JPEG per row of ``latents``; returns their names."""
    root.mkdir()
    names = [f"{i:06d}.jpg" for i in range(len(latents))]
    for start in range(0, len(latents), BATCH):
        images = (to_unit_range(generator.synthesis(latents[start : start + BATCH])) * 255).round().to(torch.uint8)
        for name, image in zip(names[start : start + BATCH], images.permute(0, 2, 3, 1).numpy(), strict=True):
            Image.fromarray(image).save(root / name, quality=90)
    return names


def build(folder: Path, generator: Generator, count: int, images: Path | None) -> tuple[Folder, LatentCache]:
    """Files and their cache."""
    latents = random_latents(generator, count)
    if images is None:
        root = folder / "images"
        keys = draw_faces(generator, latents, root)
    else:
        root, keys = images, find_images(images)[:count]
        for key in keys:
            read_image(root / key)  # a file that cannot be read is told now
    header = CacheHeader(
        MODEL,
        generator.fingerprint,
        generator.latent_spec,
        Alignment(size=generator.img_resolution).to_dict(),
        {"name": "drawn"},
    )
    cache = LatentCache.create(folder / "cache.lmdb", header)
    quality, transform = {"mse": 0.0, "psnr": 60.0, "ssim": 1.0}, np.eye(2, 3, dtype=np.float32)
    cache.put_many(
        Record(key, row.numpy(), quality, transform, content_hash((root / key).read_bytes()))
        for key, row in zip(keys, latents, strict=False)
    )
    return Folder(root, keys, generator.img_resolution), cache


class Ways:
    """Named loaders over one folder; each call of :meth:`run` is one epoch."""

    def __init__(self, loaders: dict[str, Iterable[Any]], count: int, device: torch.device) -> None:
        self.loaders, self.count, self.device = loaders, count, device

    def run(self, name: str) -> float:
        """Microseconds per image of one epoch."""
        start = time.perf_counter()
        seen = 0
        for images, _ in self.loaders[name]:
            seen += len(images)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if seen != self.count:
            raise RuntimeError(f"{name}: {seen} images instead of {self.count}")
        return (time.perf_counter() - start) / seen * 1e6

    def measure(self, repeats: int) -> dict[str, list[float]]:
        """Microseconds per image, one number per repeat."""
        times: dict[str, list[float]] = {name: [] for name in self.loaders}
        generator = np.random.default_rng(0)
        for name in self.loaders:
            self.run(name)
        for repeat in range(repeats):
            # Every other repeat is the one before in reverse, so that a drift harms nobody more than others.
            if repeat % 2 == 0:
                order = generator.permutation(list(self.loaders)).tolist()
            for name in order if repeat % 2 == 0 else order[::-1]:
                times[name].append(self.run(name))
        return times


def make_ways(
    base: Dataset[Any],
    wrap: Callable[..., GANAugmentedDataset],
    settings: dict[str, dict[str, Any]],
    num_workers: int,
    num_batches: int,
    device: torch.device,
) -> Ways:
    """Plain loaders and ours, over the first ``num_batches`` batches."""
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": num_workers, "persistent_workers": num_workers > 0}
    chosen = range(num_batches * BATCH)
    pin = device.type == "cuda"
    loaders: dict[str, Iterable[Any]] = {
        name: DataLoader(base, sampler=chosen, pin_memory=pin, **options) for name in (PLAIN, AGAIN)
    }
    for name, setting in settings.items():
        loaders[name] = wrap(**setting).loader(sampler=chosen, device=device, **options)
    return Ways(loaders, len(chosen), device)


def check_equal(ways: Ways) -> None:
    """Ratio 0 gives the very batches of the plain loader."""
    for plain, ours in zip(ways.loaders[PLAIN], ways.loaders[NOTHING], strict=True):
        if not torch.equal(plain[0], ours[0].cpu()) or not torch.equal(plain[1], ours[1].cpu()):
            raise RuntimeError("at ratio 0 the batches differ from those of the plain DataLoader")


def summarise(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Time of each way over that of the plain loader: median, min and max over the repeats."""
    rows = []
    for name, values in times.items():
        if name == PLAIN:
            continue
        ratios = [ours / plain for ours, plain in zip(values, times[PLAIN], strict=True)]
        row: dict[str, Any] = {"way": name, "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        row["us_per_image"] = [statistics.median(values), statistics.median(times[PLAIN])]
        if name == NOTHING:
            row["target"], row["met"] = TARGET, row["median"] <= TARGET
        rows.append(row)
    return rows


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"\n{title}")
    print(f"{'':28} {'us/image, plain':>20} {'ratio':>8} {'min':>8} {'max':>8}")
    for row in rows:
        pair = f"{row['us_per_image'][0]:.0f} / {row['us_per_image'][1]:.0f}"
        verdict = f"  target {row['target']:g}: {'met' if row['met'] else 'NOT met'}" if "target" in row else ""
        print(
            f"{row['way']:28} {pair:>20} {row['median']:8.3f} {row['min']:8.3f} {row['max']:8.3f}{verdict}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 images, two batches of variants, five repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--images", type=Path, metavar="DIR", help="use these images instead of drawn ones")
    parser.add_argument("--device", default="cpu", help="where variants are made (default cpu)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    # Ratio 0 is a difference of a few per cent: it needs long epochs and many repeats. Variants need neither.
    num_batches, repeats, variant_batches, variant_repeats = (4, 5, 2, 5) if arguments.quick else (32, 15, 8, 7)
    generator = load_generator(MODEL)
    variants: dict[str, dict[str, Any]] = {}
    for ratio in (0.25, 0.5, 1.0):
        for name, classical in (("no classical", None), ("classical", "default")):
            variants[f"ratio {ratio:g}, {name}"] = {"ratio": ratio, "classical": classical}
    variants["ratio 0.5, no classical, paste='whole'"] = {"ratio": 0.5, "classical": None, "paste": "whole"}
    report: dict[str, Any] = {
        "batch": BATCH,
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "groups": [],
    }
    with tempfile.TemporaryDirectory() as name:
        base, cache = build(Path(name), generator, num_batches * BATCH, arguments.images)
        if len(base) < num_batches * BATCH:
            parser.error(f"{arguments.images} has {len(base)} images, at least {num_batches * BATCH} are needed")
        report["images"] = hashlib.sha256("".join(base.paths).encode()).hexdigest()[:8] if arguments.images else "drawn"

        def wrap(**setting: Any) -> GANAugmentedDataset:
            return GANAugmentedDataset(base, cache, generator=generator, **setting)

        groups = (
            ("reading", {NOTHING: {"ratio": 0.0, "classical": None}}, num_batches, repeats),
            ("variants", variants, variant_batches, variant_repeats),
        )
        print(
            f"batches of {BATCH} on {report['device']}, {report['threads']} threads, load {report['load_average']:.1f}"
        )
        for num_workers in (0, 2):
            for group, settings, batches, times in groups:
                ways = make_ways(base, wrap, settings, num_workers, batches, device)
                if group == "reading":
                    check_equal(ways)
                measured = ways.measure(times)
                rows = summarise(measured)
                title = f"{group}, num_workers={num_workers}: {batches * BATCH} images, {times} repeats"
                print_rows(title, rows)
                report["groups"].append(
                    {
                        "group": group,
                        "num_workers": num_workers,
                        "batches": batches,
                        "us_per_image": measured,
                        "ratios": rows,
                    }
                )
                del ways  # ends its workers
        cache.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
