"""Generator and encoder together against the generator alone, at equal compute: what is better on a small budget?

    python benchmarks/joint.py --data ../shared/data --out DIR [--minutes N] [--json FILE] [--plot FILE] [--quick]

Both arms start from scratch on FairFace ``train`` at 64 px with preset ``tiny64``, and get the same CPU seconds of
steps (``time.process_time``, so that other work on the machine counts little; run it with OMP_NUM_THREADS=1). They take
turns. At a quarter, half, three quarters and the end of the time 1,500 samples are compared with FairFace ``val`` in
features of MobileFaceNet. The joint arm is judged twice: as it ships, drawn from the prior over its encoder's codes,
and drawn from z as the generator alone is.

Killed, it continues from the last evaluation.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from judge import Judge, ModelRange, frechet_distance
from torch import Tensor

from ganaug.training.config import PRESETS, TrainConfig
from ganaug.training.data import RealImages, pack_images, to_images
from ganaug.training.gan import GANTrainer
from ganaug.training.log import replace_file
from ganaug.training.monitor import Monitor
from ganaug.training.parallel import Processes, keyed_generator

CPU = torch.device("cpu")
NUM_MARKS = 4


class FromZ:
    """A trainer whose samples come from z, whatever else it could draw them from."""

    device = CPU

    def __init__(self, trainer: GANTrainer) -> None:
        self.generator = trainer.state.generator_ema

    @torch.no_grad()
    def samples(self, count: int, seed: int) -> Tensor:
        z = torch.randn(count, self.generator.z_dim, generator=keyed_generator(CPU, seed, "samples"))
        return self.generator.synthesis(self.generator.mapping(z))

    def reconstruct(self, images: Tensor) -> None:
        return None


class Arm:
    """One way of training, with checkpoints and figures in a folder.

    Args:
        out: Folder.
        config: Settings.
        images: Training photos.
    """

    def __init__(self, out: Path, config: TrainConfig, images: RealImages) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.images = out, images
        self.trainer = GANTrainer(config, images, Processes(CPU))
        record = out / "figures.json"
        self.rows: list[dict[str, Any]] = json.loads(record.read_text()) if record.exists() else []
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0
        self.done = max((row["mark"] for row in self.rows), default=0)
        if self.done:
            self.trainer.load(self._checkpoint(self.done))

    def _checkpoint(self, mark: int) -> Path:
        return self.out / f"checkpoint-{mark}.pt"

    def advance(self, mark: int, until: float, monitor: Monitor, num_samples: int) -> None:
        """Trains until ``until`` CPU seconds were spent on steps, and evaluates; nothing if that was done before."""
        if mark <= self.done:
            return
        while self.seconds < until:
            started = time.process_time()
            self.trainer.step()
            self.seconds += time.process_time() - started
        self.trainer.save(self._checkpoint(mark))
        ways: dict[str, Any] = {"z": FromZ(self.trainer)}
        if self.trainer.config.with_encoder:
            ways["prior"] = self.trainer
        for way, source in ways.items():
            figures = monitor.evaluate(source, num_samples, seed=1)
            row = {"mark": mark, "seconds": self.seconds, "images": self.trainer.images_seen, "drawn from": way}
            self.rows.append({**row, **figures})
        replace_file(self.out / "figures.json", json.dumps(self.rows, indent=1) + "\n")  # now the mark counts
        self._checkpoint(mark - 1).unlink(missing_ok=True)


def plot(lines: dict[str, list[dict[str, Any]]], yardstick: float, path: Path) -> None:
    from matplotlib import pyplot  # extra [eval]

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, rows in lines.items():
        for ax, figure_name in zip(axes, ("frechet", "recall"), strict=True):
            ax.plot([row["seconds"] for row in rows], [row[figure_name] for row in rows], marker=".", label=name)
    axes[0].axhline(yardstick, color="grey", linestyle=":", label="training photos")
    axes[0].set(ylabel="Frechet distance to FairFace val", yscale="log")
    axes[1].set(ylabel="recall", ylim=(0, 1))
    for ax in axes:
        ax.set_xlabel("CPU seconds of training")
        ax.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU minutes for each arm, default: %(default)s")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="4 seconds an arm, 64 samples and photos")
    args = parser.parse_args()
    minutes, num_samples = (4 / 60, 64) if args.quick else (args.minutes, 1500)

    # The pixel weight that the preset had when the figures in README were made.
    preset = replace(PRESETS["tiny64"], pixel_weight=4.0)
    (args.out / "val").mkdir(parents=True, exist_ok=True)
    images = RealImages(pack_images(args.data / "fairface/train", args.out, preset.resolution).chips, seed=0)
    val = pack_images(args.data / "fairface/val", args.out / "val", preset.resolution).chips
    photos = to_images(val[:64] if args.quick else val)
    judge = ModelRange(Judge(args.data))
    monitor = Monitor(judge, photos)
    # The rate stays as it is: how many images the time is enough for is not known beforehand.
    base = replace(preset, decay_fraction=0.0, precision="bfloat16")
    arms = {
        name: Arm(args.out / f"{name.replace(' ', '-')}-{minutes:.3g}min", config, images)
        for name, config in {"joint": base, "generator alone": replace(base, with_encoder=False)}.items()
    }
    for mark in range(1, NUM_MARKS + 1):
        for arm in arms.values():  # in turns, so that a machine that is slow for a while is slow for both
            arm.advance(mark, 60 * minutes * mark / NUM_MARKS, monitor, num_samples)

    lines = {
        f"{name}, from {way}": [row for row in arm.rows if row["drawn from"] == way]
        for name, arm in arms.items()
        for way in ("prior", "z")
        if any(row["drawn from"] == way for row in arm.rows)
    }
    yardstick = frechet_distance(judge(images.batch(0, num_samples)), judge(photos))
    print(f"{'':24} {'CPU s':>6} {'images':>7} {'Frechet':>8} {'precision':>9} {'recall':>7}")
    for name, rows in lines.items():
        for row in rows:
            figures = f"{row['frechet']:8.3f} {row['precision']:9.3f} {row['recall']:7.3f}"
            print(f"{name:24} {row['seconds']:6.0f} {row['images']:7} {figures}")
    best = min(lines, key=lambda name: lines[name][-1]["frechet"])
    print(f"\nphotos of train against val: {yardstick:.3f}; nearest at the end: {best}")
    if args.json:
        args.json.write_text(json.dumps({"train_val": yardstick, "lines": lines}, indent=2) + "\n")
    if args.plot:
        plot(lines, yardstick, args.plot)


if __name__ == "__main__":
    main()
