"""The loop around a trainer's steps: progress, checkpoints, pictures, figures, and an orderly end.

A snapshot writes, in this order: ``checkpoint.pt``, ``samples-NNNNNN.png`` (thousands of images), a line of
``log.jsonl``, and ``best.pt`` with ``best.json`` when the judge's criterion is the lowest so far. A kill at any moment
leaves complete checkpoints; what a killed run did not get to after its last one is made up for when it continues.
"""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from ganaug.training.log import TrainingLog, replace_file
from ganaug.training.monitor import picture
from ganaug.training.protocol import Judge, Trainable


def run(trainer: Trainable, out: Path, monitor: Judge) -> None:
    """Trains until ``trainer.total`` images were shown.

    Ctrl-C ends the run after the step that is under way, with a checkpoint; a second one at once.

    Args:
        trainer: New, or loaded from ``out/checkpoint.pt``.
        out: Folder of the run; made if it is missing.
        monitor: Computes the figures of a snapshot.

    Raises:
        FloatingPointError: When a loss is no longer finite; the last good checkpoint is untouched.
        KeyboardInterrupt: After Ctrl-C.
    """
    every = max(int(trainer.config.snapshot_kimg * 1000), trainer.config.batch_size)
    recorder = _Recorder(trainer, out, monitor) if trainer.is_main else None
    averages, saved = _Averages(), trainer.images_seen
    bar = tqdm(
        total=trainer.total,
        initial=min(trainer.images_seen, trainer.total),
        unit="img",
        desc="training",
        disable=None if trainer.is_main else True,
    )
    try:
        with bar, ctrl_c_after_step() as ctrl_c_pressed:
            if recorder is not None:
                recorder.catch_up()
                recorder.show(bar)
            while trainer.images_seen < trainer.total:
                before = trainer.images_seen
                averages.add(trainer.step())
                bar.update(min(trainer.images_seen, trainer.total) - bar.n)
                # A batch that does not divide the interval: the first step past each multiple takes the snapshot.
                due = trainer.images_seen // every > before // every or trainer.images_seen >= trainer.total
                stop = ctrl_c_pressed()
                if due or stop:
                    figures = averages.take()
                    if recorder is not None:
                        recorder.snapshot(figures, evaluate=due)
                        recorder.show(bar)
                    saved = trainer.images_seen
                    if stop:
                        raise KeyboardInterrupt(f"stopped after {saved} images; continue with --resume ({out})")
                    trainer.barrier()
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; {_way_back(out, saved)}") from error
    finally:
        if recorder is not None:
            recorder.log.close()


def _way_back(out: Path, saved: int) -> str:
    """What to do about a run whose numbers are lost; ``saved``: images of its checkpoint."""
    path = out / "checkpoint.pt"
    if not path.exists():
        return "there is no checkpoint yet: start again with a lower learning_rate"
    return f"last good checkpoint: {path} ({saved} images); run again with --resume after lowering learning_rate"


class _Averages:
    """Means of what steps report. Sums stay where the figures are, so that no step waits for a device."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float | Tensor, int]] = {}

    def add(self, figures: Mapping[str, float | Tensor]) -> None:
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + (value.detach() if isinstance(value, Tensor) else value), count + 1)

    def take(self) -> dict[str, float]:
        """Means since the last call.

        Raises:
            FloatingPointError: When one is not finite: the weights may be lost, and must not be saved as good ones.
        """
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        if lost := [name for name, mean in means.items() if not math.isfinite(mean)]:
            raise FloatingPointError(f"not finite: {', '.join(lost)}")
        return means


class _Recorder:
    """Writes the files of a run; exists in the main process only."""

    def __init__(self, trainer: Trainable, out: Path, monitor: Judge) -> None:
        self.trainer, self.out, self.monitor = trainer, out, monitor
        out.mkdir(parents=True, exist_ok=True)
        self.log = TrainingLog(out, trainer.images_seen)
        self.best = self._recorded_best() if trainer.images_seen else math.inf
        self.seconds = float(self.log.last.get("seconds", 0.0))  # of earlier processes, then of this one too
        self.started = self.resumed = time.monotonic()
        self.images = trainer.images_seen

    def _recorded_best(self) -> float:
        """Criterion of ``best.pt``, infinite when there is none or it was measured in another way."""
        try:
            best = json.loads((self.out / "best.json").read_text())
            return float(best[self.monitor.criterion]) if best["features"] == self.monitor.name else math.inf
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return math.inf

    def catch_up(self) -> None:
        """Does what the process that wrote the loaded checkpoint was killed before doing."""
        if self.trainer.images_seen and self.log.last.get("images") != self.trainer.images_seen:
            self._figures({}, evaluate=True)
        elif self.trainer.images_seen:
            self._keep_best()

    def snapshot(self, averages: Mapping[str, float], evaluate: bool) -> None:
        """Checkpoint and log line; with ``evaluate`` also the picture, the figures and the best checkpoint."""
        self.trainer.save(self.out / "checkpoint.pt")
        self._figures(averages, evaluate)

    def show(self, bar: "tqdm[None]") -> None:
        """Puts the last criterion at the end of the progress bar."""
        name = self.monitor.criterion
        if self.log.last.get(name) is not None:
            bar.set_postfix({name: self.log.last[name]})

    def _figures(self, averages: Mapping[str, float], evaluate: bool) -> None:
        trainer, config, now = self.trainer, self.trainer.config, time.monotonic()
        line: dict[str, float] = {"images": trainer.images_seen, **averages}
        if trainer.images_seen > self.images:
            line["images_per_s"] = (trainer.images_seen - self.images) / max(now - self.resumed, 1e-9)
        grid = picture(trainer, self.monitor.held_out) if evaluate else None
        if grid is not None:
            save_image(grid, self.out / f"samples-{trainer.images_seen // 1000:06d}.png")
            if config.evaluated_images:
                line |= self.monitor.evaluate(trainer, config.evaluated_images, config.seed + 1)
        self.images, self.resumed = trainer.images_seen, time.monotonic()
        line["seconds"] = self.seconds + self.resumed - self.started
        self.log.append(line, grid)
        self._keep_best()

    def _keep_best(self) -> None:
        """Keeps the trainer's state if the last line of the log, which is about it, is the best so far."""
        name = self.monitor.criterion
        value = self.log.last.get(name)
        if value is not None and value < self.best:
            self.best = value
            self.trainer.save(self.out / "best.pt")
            record = {"images": self.trainer.images_seen, name: value, "features": self.monitor.name}
            replace_file(self.out / "best.json", json.dumps(record) + "\n")


@contextmanager
def ctrl_c_after_step() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a question that can be asked between steps, where networks agree with each other.

    Where another handler was set, or outside the main thread, Ctrl-C is left as it is.
    """
    pressed = False

    def handler(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
