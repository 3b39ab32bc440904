"""What a gate costs: epochs at ratio 0.5 with and without one, over real photos.

    python benchmarks/gate.py --data ../shared/data [--quick] [--edits NAMES] [--size 64] [--json FILE]

The photos are FairFace ``val``, their codes those of the bundled encoder, the gate's network the bundled embedder.
Times are CPU seconds of one thread.

Two figures for one cost. ``inside``: the seconds that a gated epoch spends on what only a gate does (looking at photos,
judging variants, drawing those that failed again) over its other seconds. Both are of the same minute, so that a busy
machine changes little; the target is about this one. ``against``: gated epochs against epochs without a gate, one after
the other in every repeat, every other time in reverse. "without, again" is a second loader without a gate: what it
"costs" is the noise of that comparison.

One pass is an epoch of its own, with other draws each time. The first epochs of a loader cost more: the network sees
every photo once, and what it said is kept. The very first is a row of its own, the others begin after WARM_UP.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_tensor

from ganaug import GANAugmentedDataset, LatentCache, augment, load_generator
from ganaug.embedders import load_embedder
from ganaug.faces.align import Alignment, align
from ganaug.faces.images import read_image
from ganaug.faces.photos import photos_in_folder
from ganaug.gate import IdentityGate
from ganaug.gatekeeper import Gatekeeper
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, precompute

BATCH = 64
RATIO = 0.5
MODEL = "faces64"
WARM_UP = 5  # epochs; at ratio 0.5 a photo has then been seen with a chance of 97 %
TARGET = 0.15  # of the time without a gate
PLAIN, AGAIN, FIRST, GATED = "without", "without, again", "first epoch", "gate"


class Chips(Dataset[tuple[Tensor, int]]):
    """Photos of a folder in memory, so that neither disk nor decoder is in the figures."""

    def __init__(self, root: Path, keys: list[str], size: int) -> None:
        self.samples = [(str(root / key), 0) for key in keys]
        alignment = Alignment(size=size)
        self.items = [to_tensor(Image.fromarray(align(read_image(root / key)[0], alignment)[0])) for key in keys]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.items[index], 0


def one_epoch(loader: Any) -> float:
    """CPU seconds of this process, which does all the work in one thread; other work on the machine counts little."""
    start = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - start


def rounds(train: GANAugmentedDataset, epochs: int) -> dict[str, Any]:
    """What the gate decides, from recipes."""
    loader = train.loader(batch_size=BATCH, return_info=True)
    rows = [row for _ in range(epochs) for batch in loader for row in batch[-1]["recipe"] if row.attempts]
    shown = Counter(row.attempts for row in rows)
    again = sum(number * (attempts - 1) for attempts, number in shown.items())
    by_edit: dict[str, list[bool]] = {}
    for row in rows:
        for edit in row.edits:
            by_edit.setdefault(edit.name, []).append(row.attempts == 1)
    return {
        "variants": len(rows),
        "passed_at_once": sum(row.attempts == 1 for row in rows) / len(rows),
        "served": sum(row.is_generated for row in rows) / len(rows),
        "drawn_again_per_variant": again / len(rows),
        "by_scale": {f"{s:g}": sum(r.is_generated and r.scale == s for r in rows) / len(rows) for s in (1, 0.5, 0.25)},
        "passed_at_once_by_edit": {name: sum(passed) / len(passed) for name, passed in sorted(by_edit.items())},
    }


class Stopwatch:
    """CPU seconds spent in what only a gate does, by what it is."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        for owner, name in ((Gatekeeper, "look_at_photos"), (Gatekeeper, "judge"), (augment._Variants, "draw_again")):
            setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, function: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.process_time() - start

        return timed


def measure(
    make: Any, repeats: int, watch: Stopwatch
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]]]:
    """Seconds an epoch, one number a repeat; and what a gate's own work adds to the rest of a gated epoch.

    ``make(gate)`` gives a new loader.
    """
    times: dict[str, list[float]] = {name: [] for name in (PLAIN, AGAIN, GATED, FIRST)}
    inside: dict[str, list[dict[str, float]]] = {GATED: [], FIRST: []}
    loaders = {name: make(name == GATED) for name in (PLAIN, AGAIN, GATED)}
    for name, loader in loaders.items():
        for _ in range(WARM_UP if name == GATED else 1):
            one_epoch(loader)
        loader.set_epoch(WARM_UP)
    for repeat in range(repeats):
        order = list(times) if repeat % 2 == 0 else list(times)[::-1]
        for name in order:
            if name == FIRST:  # a new loader has seen no photo yet
                loader = make(True)
                loader.set_epoch(WARM_UP + repeat)
            else:
                loader = loaders[name]
            watch.seconds.clear()
            total = one_epoch(loader)
            times[name].append(total)
            if name in inside:
                rest = total - watch.seconds.total()
                inside[name].append({what: seconds / rest for what, seconds in watch.seconds.items()})
    return times, inside


def print_decided(decided: dict[str, Any]) -> None:
    by_edit = ", ".join(f"{edit} {share:.1%}" for edit, share in decided["passed_at_once_by_edit"].items())
    print(
        f"  {decided['variants']} variants: {decided['passed_at_once']:.1%} pass at once, {decided['served']:.1%} are "
        f"served, {decided['drawn_again_per_variant']:.3f} drawings more a variant\n  at once by edit: {by_edit}"
    )


def print_costs(costs: dict[str, list[float]], inside: dict[str, list[dict[str, float]]]) -> None:
    for way, rows in inside.items():
        totals = [sum(row.values()) for row in rows]
        parts = ", ".join(f"{what} {statistics.median(row.get(what, 0.0) for row in rows):.1%}" for what in rows[0])
        median = statistics.median(totals)
        verdict = f"; target {TARGET:.0%}: {'met' if median <= TARGET else 'NOT met'}" if way == GATED else ""
        print(f"  inside,  {way:15} {median:+6.1%}  ({min(totals):+.1%} to {max(totals):+.1%}: {parts}){verdict}")
    for way, values in costs.items():
        print(
            f"  against, {way:15} {statistics.median(values):+6.1%}  ({min(values):+.1%} to {max(values):+.1%})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with fairface/val")
    parser.add_argument("--quick", action="store_true", help="128 photos, three repeats")
    parser.add_argument("--edits", nargs="+", metavar="NAME", help="edits (default: those of the library)")
    parser.add_argument("--threshold", type=float, help="of the gate (default: the embedder's)")
    parser.add_argument("--size", type=int, default=64, help="side of the items (default 64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, repeats = (128, 3) if arguments.quick else (256, 5)
    root = arguments.data / "fairface/val"
    photos = photos_in_folder(root)[:count]
    keys = [photo.key for photo in photos]
    generator = load_generator(MODEL)
    gate, watch = IdentityGate(load_embedder(), arguments.threshold), Stopwatch()
    report: dict[str, Any] = {"batch": BATCH, "ratio": RATIO, "photos": count, "size": arguments.size, "groups": []}
    report |= {"threshold": gate.threshold, "torch": torch.__version__, "load_average": os.getloadavg()[0]}
    print(f"{count} photos of {arguments.size} px, batches of {BATCH}, one thread, load {report['load_average']:.1f}")
    base = Chips(root, keys, arguments.size)
    with tempfile.TemporaryDirectory() as name:
        inverter = build_inverter("encoder", generator, MODEL, torch.device("cpu"), steps=0)
        cache = LatentCache.create(Path(name) / "cache.lmdb", make_header(generator, MODEL, inverter))
        precompute(photos, cache, inverter, torch.device("cpu"), progress=False)
        for paste in ("paste", "whole"):
            for classical in ("default", None):
                options: dict[str, Any] = {"ratio": RATIO, "edits": arguments.edits, "generator": generator}
                options |= {"paste": paste, "classical": classical, "key": keys.__getitem__}

                def make(gated: bool, options: dict[str, Any] = options) -> Any:
                    train = GANAugmentedDataset(base, cache, **options, gate=gate if gated else None)
                    return train.loader(batch_size=BATCH)

                decided = rounds(GANAugmentedDataset(base, cache, **options, gate=gate), epochs=2)
                times, inside = measure(make, repeats, watch)
                costs = {
                    way: [ours / plain - 1.0 for ours, plain in zip(times[way], times[PLAIN], strict=True)]
                    for way in times
                    if way != PLAIN
                }
                each = statistics.median(times[PLAIN]) / count * 1e3
                print(f"\npaste={paste!r}, classical={classical!r}: {each:.2f} ms an item without a gate")
                print_decided(decided)
                print_costs(costs, inside)
                report["groups"].append(
                    {
                        "paste": paste,
                        "classical": classical,
                        "seconds": times,
                        "against": costs,
                        "inside": inside,
                        "gate": decided,
                    }
                )
        cache.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
