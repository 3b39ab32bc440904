"""Fine-tuning against training from scratch, on the same photos: Frechet distance over images shown.

    python benchmarks/finetune.py --data ../shared/data --out DIR [--kimg N] [--tuned-kimg N] [--model NAME|FILE]
        [--part scratch|tuned] [--export FILE] [--json FILE] [--plot FILE] [--quick]

From ``faces64`` (close cuts of faces) to ``aaf/ffhq128`` at 64 px: FFHQ's framing, with the whole hair. 400 of its
3,324 photos are held out. Both runs use what ``ganaug train`` uses, preset ``tiny64``; the fine-tuned one also what
``--init`` sets. At every snapshot 1,500 samples, drawn as a shipped model draws them, are compared with the held-out
photos in features of MobileFaceNet. Distances from so few photos are biased upwards, by about the same for both runs
and for the yardstick, 1,500 training photos.

Killed, it continues from the last snapshot. A part that is done is read from DIR, unless ``--model`` has changed.
``--export`` writes the best fine-tuned networks as a model file, for ``benchmarks/inversion.py``; it may not be shared.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from judge import FFHQ_EYES, Judge, ModelRange, frechet_distance, precision_recall

from ganaug import checkpoints, load_generator, rng
from ganaug.faces.align import to_unit_range
from ganaug.training.config import PRESETS, TrainConfig
from ganaug.training.data import RealImages, pack_images, to_images
from ganaug.training.finetune import start_from, tuned
from ganaug.training.gan import GANTrainer
from ganaug.training.log import TrainingLog
from ganaug.training.monitor import Monitor
from ganaug.training.parallel import Processes
from ganaug.training.run import export
from ganaug.training.runner import run

CPU = torch.device("cpu")
NUM_HELD_OUT = 400
Curve = list[dict[str, Any]]


def read_curve(out: Path) -> Curve:
    log = out / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line.get("frechet") is not None]


def curve_of(out: Path, config: TrainConfig, init: Path | None, images: RealImages, monitor: Monitor) -> Curve:
    """Trains in ``out``, or finishes what is there, and returns the figures of the snapshots.

    Args:
        out: Folder of this run alone.
        config: Its settings.
        init: Model file to start from.
        images: Photos to train on.
        monitor: Holds the held-out ones, and the judge.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings, recorded = config.to_dict(), out / "config.json"
    if recorded.exists():
        theirs = TrainConfig.from_dict(json.loads(recorded.read_text())).to_dict()
        theirs["init"] = config.init  # the folder's name has the fingerprint; the file may have moved
        if different := [name for name, value in settings.items() if theirs[name] != value]:
            raise SystemExit(f"{out} was made with other settings ({', '.join(different)}); give another --out")
    recorded.write_text(json.dumps(settings) + "\n")
    curve = read_curve(out)
    if not curve or curve[-1]["images"] < int(config.kimg * 1000):
        trainer = GANTrainer(config, images, Processes(CPU))
        if (out / "checkpoint.pt").exists():
            trainer.load(out / "checkpoint.pt")
        elif init is not None:
            start_from(trainer.state, init)
            log = TrainingLog(out, 0)
            log.append({"images": 0, **monitor.evaluate(trainer, config.evaluated_images, config.seed + 1)})
            log.close()
        run(trainer, out, monitor)
        curve = read_curve(out)
    return curve


def first_within(curve: Curve, distance: float) -> int | None:
    """Images shown at the first snapshot that is no farther from the photos than ``distance``."""
    return next((line["images"] for line in curve if line["frechet"] <= distance), None)


def plot(curves: dict[str, Curve], yardstick: float, path: Path) -> None:
    from matplotlib import pyplot  # extra [eval]

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, curve in curves.items():
        kimg = [line["images"] / 1000 for line in curve]
        left.plot(kimg, [line["frechet"] for line in curve], marker=".", label=name)
        right.plot(kimg, [line["recall"] for line in curve], marker=".", label=name)
    left.axhline(yardstick, color="grey", linestyle=":", label="training photos")
    left.set(ylabel="Frechet distance to held-out photos", yscale="log")
    right.set(ylabel="recall", ylim=(0, 1))
    for axes in (left, right):
        axes.set_xlabel("thousands of images shown")
        axes.grid(alpha=0.3)
    left.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kimg", type=float, default=20.0, help="length from scratch, default: %(default)s")
    parser.add_argument("--tuned-kimg", type=float, help="length of the fine-tuned run (default: a fifth of --kimg)")
    parser.add_argument("--model", default="faces64")
    parser.add_argument("--part", choices=("scratch", "tuned"), help="train this one only")
    parser.add_argument("--export", type=Path, help="model file for the best fine-tuned networks")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="64 images a run, 64 samples")
    args = parser.parse_args()
    lengths = (0.064, 0.064) if args.quick else (args.kimg, args.tuned_kimg or args.kimg / 5)
    num_samples = 64 if args.quick else 1500

    args.out.mkdir(parents=True, exist_ok=True)
    chips = pack_images(args.data / "aaf/ffhq128", args.out, PRESETS["tiny64"].resolution).chips
    order = rng.permutation(0, 0, len(chips), "held out")
    members = order[NUM_HELD_OUT:]  # not sorted: file names begin with the age
    images, photos = RealImages(chips, 0, members), to_images(chips[order[:NUM_HELD_OUT]])
    judge = Judge(args.data, FFHQ_EYES)
    monitor = Monitor(ModelRange(judge), photos)
    # The pixel weight that the preset had when the scratch run was made; the same for both.
    base = replace(PRESETS["tiny64"], pixel_weight=4.0, precision="bfloat16", evaluated_images=num_samples)
    init, fingerprint = checkpoints.resolve(args.model), load_generator(args.model).fingerprint
    scratch = replace(base, kimg=lengths[0], snapshot_kimg=lengths[0] / 10)
    short = tuned(replace(base, kimg=lengths[1], snapshot_kimg=lengths[1] / 8), args.model)
    parts: dict[str, tuple[Path, TrainConfig, Path | None]] = {
        "scratch": (args.out / f"scratch-{lengths[0]:g}", scratch, None),
        "tuned": (args.out / f"tuned-{lengths[1]:g}-{fingerprint[:12]}", short, init),
    }
    curves = {}
    for part, (out, config, start) in parts.items():
        wanted = args.part in (None, part)
        curves[part] = curve_of(out, config, start, images, monitor) if wanted else read_curve(out)
    if args.export and curves["tuned"]:
        trainer = GANTrainer(short, images, Processes(CPU))
        trainer.load(parts["tuned"][0] / "best.pt")
        export(
            trainer, args.export, data=f"aaf/ffhq128: {len(members)} images", licence="research use only, not shared"
        )

    embedded = judge(to_unit_range(to_images(chips[members[:num_samples]])))
    real = judge(to_unit_range(photos))
    yardstick = {"frechet": frechet_distance(embedded, real), "recall": precision_recall(real, embedded)[1]}
    figures: dict[str, Any] = {"model": args.model, "fingerprint": fingerprint, "training_photos": yardstick}
    for part, curve in curves.items():
        print(f"\n{part:8} {'images':>7} {'Frechet':>8} {'precision':>9} {'recall':>7} {'held-out MSE':>13}")
        for line in curve:
            row = f"{line['frechet']:8.3f} {line['precision']:9.3f} {line['recall']:7.3f} {line['held_out_mse']:13.4f}"
            print(f"{'':8} {line['images']:7} {row}")
        names = ("images", "frechet", "precision", "recall", "held_out_mse")
        figures[part] = [{name: line[name] for name in names} for line in curve]
    print(f"\ntraining photos against held-out ones: {yardstick['frechet']:.3f}, recall {yardstick['recall']:.3f}")
    if all(curves.values()):
        best = min(curves["scratch"], key=lambda line: line["frechet"])
        needed = first_within(curves["tuned"], best["frechet"])
        goal = f"the best distance from scratch, {best['frechet']:.3f} after {best['images']} images"
        if needed is None:
            nearest = min(line["frechet"] for line in curves["tuned"])
            print(f"fine-tuned, {goal}, is NOT reached: {nearest:.3f} is the nearest")
        else:
            print(f"fine-tuned, {goal}, is reached after {needed} images, a share of {needed / best['images']:.3f}")
        share = None if needed is None else needed / best["images"]
        figures |= {"best_scratch": best["frechet"], "images_to_reach_it": needed, "share_of_images": share}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.plot:
        plot(curves, yardstick["frechet"], args.plot)


if __name__ == "__main__":
    main()
