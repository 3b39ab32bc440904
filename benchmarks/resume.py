"""Does ``ganaug precompute`` survive kills? The same images once in peace, and once with SIGKILLs at random moments.

    python benchmarks/resume.py --images DIR [--quick] [--json FILE] [--limit N] [--kills N] [--steps N]

The killed run is started again after every kill, and once more without one. Both caches must then hold the same bytes.
A quarter of the kills falls anywhere in the start of a run, the others anywhere in its batches and their commits. Exits
with 1 if anything differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ganaug.cache import LatentCache
from ganaug.interfaces import CacheError


def start(arguments: argparse.Namespace, cache: Path) -> "subprocess.Popen[bytes]":
    """One ``ganaug precompute``, in a process of its own."""
    options = {
        "--cache": cache,
        "--generator": arguments.generator,
        "--inverter": arguments.inverter,
        "--steps": arguments.steps,
        "--batch-size": arguments.batch_size,
        "--limit": arguments.limit,
        "--device": arguments.device,
    }
    command = [sys.executable, "-m", "ganaug.cli", "precompute", str(arguments.images)]
    for name, value in options.items():
        command += [name, str(value)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: "subprocess.Popen[bytes]") -> None:
    """Waits for a run that must succeed."""
    _, err = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"ganaug precompute ended with {process.returncode}:\n{err.decode(errors='replace')}")


def size(cache: Path) -> int:
    """Records so far; 0 if the cache is not there yet."""
    try:
        return len(LatentCache(cache))
    except CacheError:
        return 0


def contents(cache: Path) -> dict[str, tuple[Any, ...]]:
    """Everything in the records: the digest covers keys and latents alone."""
    return {
        record.key: (
            record.latents.tobytes(),
            record.transform.tobytes(),
            record.source_hash,
            tuple(value for name, value in record.quality.items() if name != "seconds"),
        )
        for record in LatentCache(cache).records()
    }


def run_and_kill(arguments: argparse.Namespace, cache: Path, delay: float, *, working: bool) -> bool:
    """Starts a run and kills it; returns whether the kill came before its end.

    Args:
        arguments: Of the command line.
        cache: Where the run writes.
        delay: Seconds until the kill.
        working: Count them from the run's first new records, not from its start.
    """
    before = size(cache)
    process = start(arguments, cache)
    while working and process.poll() is None and size(cache) <= before:
        time.sleep(0.01)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    if process.wait() == -signal.SIGKILL:
        process.communicate()
        return True
    finish(process)
    return False


def kill_and_resume(
    arguments: argparse.Namespace, folder: Path, start_up: float, seconds: float
) -> tuple[list[Path], dict[str, Any]]:
    """Runs until done, killing on the way; begins another cache where one is done before all kills were made.

    Args:
        arguments: Of the command line.
        folder: Where the caches go.
        start_up: Seconds that a process takes until its first records.
        seconds: Seconds that the other records take.

    Returns:
        The caches, and figures: kills, runs, and how many records each kill left.
    """
    rng = random.Random(arguments.seed)
    caches: list[Path] = []
    left: list[int] = []
    runs = 0
    while not caches or len(left) < arguments.kills:
        cache, done = folder / f"resumed-{len(caches)}.lmdb", False
        caches.append(cache)
        while not done:
            runs += 1
            if len(left) == arguments.kills:
                finish(start(arguments, cache))
                done = True
                continue
            working = rng.random() < 0.75
            delay = rng.uniform(0, 2 * seconds / (arguments.kills + 1) if working else start_up)
            done = not run_and_kill(arguments, cache, delay, working=working)
            if not done:
                left.append(size(cache))
    return caches, {"kills": len(left), "runs": runs, "caches": len(caches), "records_after_kill": left}


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole comparison; see the module's text."""
    whole = folder / "whole.lmdb"
    began = time.monotonic()
    process, start_up = start(arguments, whole), None
    while start_up is None and process.poll() is None:
        time.sleep(0.01)
        if size(whole):
            start_up = time.monotonic() - began
    finish(process)
    seconds = time.monotonic() - began
    start_up = seconds if start_up is None else start_up
    caches, figures = kill_and_resume(arguments, folder, start_up, seconds - start_up)
    want, failures = contents(whole), LatentCache(whole).failures()
    return {
        "images": len(want),
        "failed": len(failures),
        "seconds_uninterrupted": round(seconds, 1),
        **figures,
        "digest": LatentCache(whole).digest(),
        "digests_equal": all(LatentCache(cache).digest() == LatentCache(whole).digest() for cache in caches),
        "records_equal": all(contents(cache) == want for cache in caches),
        "failures_equal": all(LatentCache(cache).failures() == failures for cache in caches),
        "damaged": sum(len(LatentCache(cache).verify()) for cache in caches),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=Path, required=True, help="folder of face photos")
    parser.add_argument("--generator", default="faces64")
    parser.add_argument("--inverter", default="hybrid")
    parser.add_argument("--limit", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="48 images, 3 kills")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.limit, arguments.kills, arguments.steps = 48, 3, 2
    with tempfile.TemporaryDirectory(prefix="ganaug-resume-") as folder:
        figures = compare(arguments, Path(folder))
    figures["threads"] = os.environ.get("OMP_NUM_THREADS", "default")
    for name, value in figures.items():
        print(f"{name:22} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    equal = figures["digests_equal"] and figures["records_equal"] and figures["failures_equal"]
    print("equal" if equal else "NOT EQUAL")
    return 0 if equal and not figures["damaged"] else 1


if __name__ == "__main__":
    sys.exit(main())
