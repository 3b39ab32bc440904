"""How faithful is each inverter, and what does a photo cost? Quality over seconds per image, and the loop of peers.

    python benchmarks/inversion.py --data ../shared/data --out DIR [--model FILE] [--images N] [--threads N]
        [--inverters NAMES] [--sets NAMES] [--tuned T] [--device NAME] [--quick] [--json FILE] [--plot FILE]
        [--markdown FILE]

- ``val``: the first photos of FairFace ``val``; ``london``: half as many of the London set, drawn once. Both with
  ``faces64``, which never saw them.
- ``aaf``: half as many of the 400 photos that ``benchmarks/finetune.py`` holds out, with ``--model``, the generator
  that it fine-tuned: ``benchmarks/finetune.py --data ../shared/data --out RUNS --part tuned --export FILE`` (14 minutes
  of one core, once). Without it aaf is left out.

Each inverter works as in ``ganaug precompute``, 16 photos at a time. Slow methods are given fewer photos, the first
ones; the table says how many. ``peers`` is one photo at a time, each with weights scaled for it alone
(inversion_peers.py). ``tuning`` finds a code in 400 steps in W+, then tunes all weights on that one photo. ``tuned`` is
one generator for many photos of ``val``, made before (an hour) and given with ``--tuned T``:
``ganaug precompute ../shared/data/fairface/val --cache C --limit 512``, then
``ganaug tune --cache C --images ../shared/data/fairface/val --out T --json T.json``.

Quality is that of the picture as it would be served, from codes rounded to float16: MSE of images in [0, 1], PSNR,
SSIM, ``perceptual`` (distance in features of faces64's discriminator, which the inverters minimise themselves; LPIPS
proper needs the weights of a torchvision backbone, which are not at hand offline), and ``identity``: cosine between
photo and inversion by MobileFaceNet, which nothing here was made with. Means, ± standard error over photos. The plot
and the overview move them to the same photos: the mean of ``hybrid`` on all, plus the mean difference from it.

Seconds are wall time, so nothing else may run: a line says so where other programs took more than a fifth of a core.
Every result is kept under DIR, and a run that was stopped goes on where it was; what decides the result, generator,
photos, settings, threads and device, is kept with it. Changed *code* is not noticed: give a new DIR. About 20 minutes
on two cores; ``--quick`` takes a tenth of the steps.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import inversion_report as report
import torch
from inversion_methods import BATCH, METHODS, Method, Way, build, synthesis_ways, tune_figures
from inversion_plot import plot
from inversion_sets import PhotoSet, load_set

from ganaug.interfaces import resolve_device

SETS = {"val": 1.0, "london": 0.5, "aaf": 0.5}  # name -> share of --images
GENERATOR = "faces64"
WARM_SECONDS = 5.0
RATE_STEPS, RATE_REPEATS, LOOP_PHOTOS = 10, 5, 4


def busy_seconds() -> float | None:
    """Processor time that all programs of this machine have used; None where there is no /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Wall time, and how many cores other programs used meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.started, self.own, self.busy = self._now(), time.process_time(), busy_seconds()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def stop(self) -> tuple[float, float | None]:
        """Seconds, and cores."""
        seconds, busy = self._now() - self.started, busy_seconds()
        if busy is None or self.busy is None:
            return seconds, None
        return seconds, max((busy - self.busy) - (time.process_time() - self.own), 0.0) / seconds


def measure(faces: PhotoSet, way: Way, count: int, device: torch.device) -> dict[str, Any]:
    """Inverts the first ``count`` photos, and measures."""
    parts = faces.photos[:count].split(way.at_once)
    for _ in range(2):
        watch = Watch(device)
        found = [way.find(part) for part in parts]
        seconds, others = watch.stop()
        if seconds > WARM_SECONDS:
            break  # else once more, warm: the first call to a network also prepares its convolutions
    measures = faces.measure(torch.cat([way.draw(one) for one in found]))
    return {
        "photos": count,
        "seconds_per_image": seconds / count if way.seconds is None else way.seconds,
        "other_cores": None if others is None else round(others, 2),
        "record_bytes": way.record_bytes,
        "settings": way.settings,
        "measures": {name: [round(value, 6) for value in values.tolist()] for name, values in measures.items()},
    }


def kept(path: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a file holds, if it was made with the same key; else makes it."""
    if path.exists():
        held: dict[str, Any] = json.loads(path.read_text())
        if held["key"] == key:
            return held
    made = {"key": key, **make()}
    written = path.with_suffix(".part")
    written.write_text(json.dumps(made) + "\n")
    written.replace(path)
    return made


def key_of(*parts: Any) -> str:
    """One text for everything that decides a result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def rates(faces: PhotoSet, device: torch.device) -> dict[str, Any]:
    """Images per second of a batch of 16 over two loops, and what deltas cost synthesis; short and in turns, so that a
    slow minute of the machine hits all. ``(lowest, median, highest)`` of the repeats.
    """
    batched, peers = (build(faces, Method(name, RATE_STEPS)) for name in ("optimization", "peers"))
    photos = faces.photos[:BATCH]
    single = photos[:LOOP_PHOTOS]
    synthesis = synthesis_ways(faces, BATCH)
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "batch": (lambda: batched.find(photos), BATCH),
        "loop": (lambda: [batched.find(photo[None]) for photo in single], LOOP_PHOTOS),
        "peers": (lambda: peers.find(single), LOOP_PHOTOS),
        **{name: (call, BATCH) for name, call in synthesis.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(RATE_REPEATS + 1):
        for name, (call, count) in calls.items():
            watch = Watch(device)
            call()
            if repeat:  # the first warms up
                times[name].append(watch.stop()[0] / count)
    found: dict[str, Any] = {"steps": RATE_STEPS, "images_per_s": 1 / statistics.median(times["batch"])}
    for name, base in (("loop", "batch"), ("peers", "batch"), ("delta", "plain")):
        found[name] = spread([slow / fast for slow, fast in zip(times[name], times[base], strict=True)])
    return found


def spread(values: list[float]) -> tuple[float, float, float]:
    """Lowest, median, highest."""
    return min(values), statistics.median(values), max(values)


def select(names: str | None, quick: bool) -> list[Method]:
    """Methods by name, or ``name:steps``; all of them if None."""
    if names is None:
        chosen = list(METHODS)
    else:
        chosen = []
        for wanted in names.split(","):
            name, _, steps = wanted.partition(":")
            known = [method for method in METHODS if method.name == name]
            if not known:
                raise SystemExit(f"unknown inverter {name!r}: expected some of {', '.join({m.name for m in METHODS})}")
            if not steps:
                chosen += known
                continue
            like = next((method for method in known if method.steps == int(steps)), known[0])
            chosen.append(replace(like, steps=int(steps), default=like.default and like.steps == int(steps)))
    return [method.quick() if quick else method for method in chosen]


def caption(figures: dict[str, Any]) -> str:
    """Where the seconds come from."""
    where = f"{figures['device']}, {figures['threads']} threads, {figures['batch']} photos at a time"
    return f"{where}; bars: standard error of the difference from hybrid"


def tell(result: report.Result) -> None:
    """One line on the way."""
    psnr, identity = (report.mean_and_error(report.values_of(result, name))[0] for name in ("psnr", "identity"))
    line = f"{result['set']}, {report.label_of(result)}: {result['photos']} photos, "
    line += f"{result['seconds_per_image']:.4f} s each, {psnr:.2f} dB, identity {identity:.3f}"
    if (result["other_cores"] or 0) > 0.2:
        line += f"; other programs used {result['other_cores']} cores: the seconds are too long"
    print(line, flush=True)


def run_set(
    faces: PhotoSet, methods: list[Method], out: Path, device: torch.device, where: dict[str, Any]
) -> list[report.Result]:
    """Results of all methods on one set, measured or read."""
    results = []
    for method in methods:
        if faces.name not in method.sets or (method.name == "tuned" and faces.tuned is None):
            continue
        way = build(faces, method)
        count = max(round(method.share * len(faces.photos)), 1)
        key = key_of(faces.generator.fingerprint, list(faces.keys[:count]), way.settings, where)
        path = out / f"{faces.name}-{method.name}-{method.steps}.json"
        found = kept(path, key, lambda w=way, n=count: measure(faces, w, n, device))
        named = {"set": faces.name, "method": method.name, "steps": method.steps, "default": method.default}
        results.append({**named, **found})
        tell(results[-1])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder where results are kept")
    parser.add_argument("--model", help="generator fine-tuned to aaf")
    parser.add_argument("--tuned", type=Path, help="what `ganaug tune` made of a cache of val")
    parser.add_argument("--images", type=int, default=64, help="photos of val (default: %(default)s)")
    parser.add_argument("--inverters", help="names, or name:steps, separated by commas (default: all)")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="8 photos, a tenth of the steps")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--markdown", type=Path, help="the tables and what was asked for")
    args = parser.parse_args()
    names = args.sets.split(",")
    if unknown := set(names) - set(SETS):
        raise SystemExit(f"unknown sets {sorted(unknown)}: expected some of {', '.join(SETS)}")
    if "aaf" in names and args.model is None:
        print("aaf is left out: it needs --model FILE, see --help")
        names.remove("aaf")
    methods = select(args.inverters, args.quick)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, where = resolve_device(args.device), {"device": args.device, "threads": args.threads}
    args.out.mkdir(parents=True, exist_ok=True)

    figures: dict[str, Any] = {**where, "batch": BATCH, "fingerprints": {}, "rates": None}
    results: list[report.Result] = []
    for name in names:
        count = max(round(SETS[name] * (8 if args.quick else args.images)), 1)
        faces = load_set(name, args.data, args.out, GENERATOR, count, device, args.model)
        faces = replace(faces, tuned=args.tuned)
        figures["fingerprints"][name] = faces.generator.fingerprint
        results += run_set(faces, methods, args.out, device, where)
        if name == "val":
            key = key_of(faces.generator.fingerprint, where)
            figures["rates"] = kept(args.out / "rates.json", key, lambda f=faces: rates(f, device))
    rows, verdicts = report.rows_of(results), report.checks(results, figures["rates"], args.threads)
    verdicts += [] if args.tuned is None else [report.tuned_check(tune_figures(args.tuned))]
    figures |= {"rows": rows, "checks": [{"text": text, "met": met} for text, met in verdicts]}

    texts = [f"All sets, on the same photos:\n\n{report.overview(rows)}"] if rows else []
    texts += [f"{name}:\n\n{report.table([row for row in rows if row['set'] == name])}" for name in names]
    texts.append("\n".join(f"- {'met' if met else 'NOT met'}: {text}" for text, met in verdicts))
    print("\n" + "\n\n".join(texts))
    if args.markdown:
        args.markdown.write_text("\n\n".join(texts) + "\n")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.plot:
        plot(rows, caption(figures), args.plot)


if __name__ == "__main__":
    main()
