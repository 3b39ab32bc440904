"""The run loop, its files and its figures, around a trainer that only counts."""

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.metrics import frechet_distance, kernel_distance, precision_recall
from ganaug.training import monitor as monitor_module
from ganaug.training import runner
from ganaug.training.config import TrainConfig
from ganaug.training.log import TrainingLog
from ganaug.training.monitor import Monitor, picture
from ganaug.training.protocol import Trainable
from ganaug.training.runner import run

CONFIG = TrainConfig(
    resolution=16,
    kimg=0.07,
    batch_size=6,
    generator_channels=(8, 8, 8),
    discriminator_channels=(8, 8, 8),
    snapshot_kimg=0.02,
    evaluated_images=8,
)
SNAPSHOTS = [24, 42, 60, 72]  # first multiples of 6 from 20, 40, 60 and 70 on
BRIGHTNESS = {24: 0.5, 42: 0.1, 60: 0.3, 72: 0.2}  # of samples: the lower, the closer to the photos


class Counter:
    """Fulfils Trainable; its weights are the number of steps."""

    def __init__(self, config: TrainConfig = CONFIG, encoder: bool = True, is_main: bool = True) -> None:
        self.config, self.encoder, self.is_main = config, encoder, is_main
        self.device = torch.device("cpu")
        self.total = int(config.kimg * 1000)
        self.images_seen = self.barriers = 0
        self.drawn: list[int] = []
        self.during_step: Callable[[int], None] = lambda images: None

    def step(self) -> dict[str, float | Tensor]:
        self.images_seen += self.config.batch_size
        self.during_step(self.images_seen)
        figures: dict[str, float | Tensor] = {"loss": torch.tensor(float(self.images_seen)), "rate": 0.5}
        return figures | ({"r1": self.images_seen / 10} if self.images_seen % 12 == 0 else {})

    def save(self, path: Path) -> None:
        path.write_text(str(self.images_seen))

    def load(self, path: Path) -> None:
        self.images_seen = int(path.read_text())

    def samples(self, count: int, seed: int) -> Tensor:
        self.drawn.append(count)
        noise = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) - 0.5
        return noise + BRIGHTNESS.get(self.images_seen, 0.0)

    def reconstruct(self, images: Tensor) -> Tensor | None:
        return images + 0.2 if self.encoder else None

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def description(self) -> dict[str, Any]:
        return {}

    def barrier(self) -> None:
        self.barriers += 1


class Corner:
    """Three pixels of each image as its features."""

    name = "corner"

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(images)
        return images[:, :, 0, 0]


def photos(count: int = 10) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(99)) - 0.5


def monitor(count: int = 10) -> Monitor:
    return Monitor(Corner(), photos(count))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def resumed(out: Path, config: TrainConfig = CONFIG) -> Counter:
    t = Counter(config)
    t.load(out / "checkpoint.pt")
    return t


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def test_files_and_figures_of_a_run(tmp_path: Path) -> None:
    t: Trainable = Counter()
    run(t, tmp_path, monitor())
    assert t.images_seen == 72
    log = lines(tmp_path)
    assert [line["images"] for line in log] == SNAPSHOTS
    for previous, line in zip([0, *SNAPSHOTS], log, strict=False):
        seen = range(previous + 6, line["images"] + 1, 6)
        assert line["loss"] == pytest.approx(sum(seen) / len(seen))
        penalties = [images / 10 for images in seen if images % 12 == 0]
        assert line["r1"] == pytest.approx(sum(penalties) / len(penalties))
        assert line["rate"] == 0.5
        assert line["images_per_s"] > 0
    assert [line["seconds"] for line in log] == sorted(line["seconds"] for line in log)
    expected = ["best.json", "best.pt", "checkpoint.pt", "log.jsonl", "samples-000000.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    assert (tmp_path / "checkpoint.pt").read_text() == "72"
    distances = {line["images"]: line["frechet"] for line in log}
    assert sorted(distances, key=lambda images: distances[images]) == [42, 72, 60, 24]
    assert (tmp_path / "best.pt").read_text() == "42"
    record = json.loads((tmp_path / "best.json").read_text())
    assert record == {"images": 42, "frechet": distances[42], "features": "corner"}


def test_snapshots_can_go_without_figures(tmp_path: Path) -> None:
    t = Counter(replace(CONFIG, evaluated_images=0))
    run(t, tmp_path, monitor())
    assert all(set(line) == {"images", "loss", "rate", "r1", "images_per_s", "seconds"} for line in lines(tmp_path))
    assert not (tmp_path / "best.pt").exists()


def test_best_survives_a_resume(tmp_path: Path) -> None:
    run(Counter(replace(CONFIG, kimg=0.06)), tmp_path / "past", monitor())
    assert (tmp_path / "past" / "checkpoint.pt").read_text() == "60"
    run(resumed(tmp_path / "past"), tmp_path / "past", monitor())
    assert (tmp_path / "past" / "best.pt").read_text() == "42"  # 60 and 72 are worse
    run(Counter(replace(CONFIG, kimg=0.05)), tmp_path, monitor())  # ends at 54: brightness 0, better than all
    assert (tmp_path / "best.pt").read_text() == "54"
    run(resumed(tmp_path), tmp_path, monitor())
    assert (tmp_path / "checkpoint.pt").read_text() == "72"
    assert (tmp_path / "best.pt").read_text() == "54"
    longer = resumed(tmp_path, replace(CONFIG, kimg=0.09))
    run(longer, tmp_path, Monitor(lambda images: images[:, :, 1, 1], photos()))  # what "corner" measured says nothing
    assert int((tmp_path / "best.pt").read_text()) > 72


def test_another_criterion(tmp_path: Path) -> None:
    class Errors(Monitor):
        criterion = "error"

        def evaluate(self, trainer: Trainable, count: int, seed: int) -> dict[str, float]:
            return {"error": {24: 3.0, 42: 2.0, 60: 1.0, 72: 2.0}[trainer.images_seen], "frechet": 0.0}

    run(Counter(), tmp_path, Errors(Corner(), photos()))
    assert (tmp_path / "best.pt").read_text() == "60"
    assert json.loads((tmp_path / "best.json").read_text()) == {"images": 60, "error": 1.0, "features": "corner"}


def test_a_new_run_does_not_inherit_the_best_of_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text('{"images": 6, "frechet": 0.0, "features": "corner"}')
    (tmp_path / "best.pt").write_text("old")
    run(Counter(), tmp_path, monitor())
    assert (tmp_path / "best.pt").read_text() == "42"


def test_lines_past_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run(Counter(), tmp_path, monitor())
    whole = lines(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"images": 78, "lo')  # the process was killed here
    (tmp_path / "checkpoint.pt").write_text("42")
    run(resumed(tmp_path), tmp_path, monitor())
    again = lines(tmp_path)
    assert again[:2] == whole[:2]
    clocks = {"seconds", "images_per_s"}
    assert [{k: v for k, v in line.items() if k not in clocks} for line in again] == [
        {k: v for k, v in line.items() if k not in clocks} for line in whole
    ]
    assert again[2]["seconds"] >= again[1]["seconds"]


class Killed(BaseException):
    """Ends a run where it stands, as SIGKILL would."""


@pytest.mark.parametrize("place", ["picture", "evaluate", "append", "best.pt", "best.json"])
def test_killed_in_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Wherever the snapshot of 42 images breaks off, the continued run ends with the same distances and best."""
    t, m = Counter(), monitor()

    def dies(original: Callable[..., Any], concerned: Callable[..., bool] = lambda *a: True) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if t.images_seen == 42 and concerned(*args):
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        if place == "picture":
            patch.setattr(runner, "picture", dies(picture))
        elif place == "evaluate":
            patch.setattr(m, "evaluate", dies(m.evaluate))
        elif place == "append":
            patch.setattr(TrainingLog, "append", dies(TrainingLog.append))
        elif place == "best.pt":
            patch.setattr(t, "save", dies(t.save, lambda path: path.name == "best.pt"))
        else:
            patch.setattr(runner, "replace_file", dies(runner.replace_file))
        with pytest.raises(Killed):
            run(t, tmp_path, m)
    assert (tmp_path / "checkpoint.pt").read_text() == "42"
    run(resumed(tmp_path), tmp_path, monitor())
    run(Counter(), tmp_path / "whole", monitor())
    mine, theirs = ({line["images"]: line["frechet"] for line in lines(p)} for p in (tmp_path, tmp_path / "whole"))
    assert mine == theirs
    assert (tmp_path / "best.pt").read_text() == "42"
    assert json.loads((tmp_path / "best.json").read_text())["images"] == 42


def test_nan_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    def diverge(images: int) -> None:
        if images == 30:
            raise FloatingPointError("loss is not finite after 30 images")

    t = Counter()
    t.during_step = diverge
    with pytest.raises(FloatingPointError, match="not finite after 30 images; last good checkpoint") as caught:
        run(t, tmp_path, monitor())
    assert f"{tmp_path / 'checkpoint.pt'} (24 images); run again with --resume" in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_text() == "24"
    at_once = Counter()
    at_once.during_step = lambda images: diverge(30)
    with pytest.raises(FloatingPointError, match="no checkpoint yet: start again with a lower learning_rate"):
        run(at_once, tmp_path / "other", monitor())


def test_lost_numbers_are_not_saved_as_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer on a GPU may report tensors without looking at them."""
    t = Counter()
    step = t.step
    monkeypatch.setattr(t, "step", lambda: {**step(), "g_loss": torch.tensor(math.nan if t.images_seen == 30 else 1.0)})
    with pytest.raises(FloatingPointError, match=r"not finite: g_loss; last good checkpoint: .*\(24 images\)"):
        run(t, tmp_path, monitor())
    assert (tmp_path / "checkpoint.pt").read_text() == "24"


def test_steps_do_not_wait_for_the_device() -> None:
    """A tensor on the meta device cannot be read: adding it up does not try."""
    averages = runner._Averages()
    for _ in range(3):
        averages.add({"loss": torch.zeros((), device="meta")})
    with pytest.raises(RuntimeError):
        averages.take()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that was started in the background ignores Ctrl-C, tests of it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_after_the_step(tmp_path: Path) -> None:
    def press(images: int) -> None:
        if images == 30:
            signal.raise_signal(signal.SIGINT)

    t = Counter()
    t.during_step = press
    with pytest.raises(KeyboardInterrupt, match="stopped after 30 images; continue with --resume"):
        run(t, tmp_path, monitor())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (tmp_path / "checkpoint.pt").read_text() == "30"
    run(resumed(tmp_path), tmp_path, monitor())
    log = lines(tmp_path)
    assert [line["images"] for line in log] == [24, 30, 42, 60, 72]
    assert [line["loss"] for line in log[1:3]] == [30.0, 39.0]  # no step is missing, none counts twice
    assert "frechet" not in log[1]


@pytest.mark.usefixtures("interruptible")
def test_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def press(images: int) -> None:
        if images == 30:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    t = Counter()
    t.during_step = press
    with pytest.raises(KeyboardInterrupt):
        run(t, tmp_path, monitor())
    assert (tmp_path / "checkpoint.pt").read_text() == "24"


def test_other_handlers_of_ctrl_c_are_left_alone(tmp_path: Path) -> None:
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        t = Counter()
        t.during_step = lambda images: signal.raise_signal(signal.SIGINT) if images == 30 else None
        run(t, tmp_path, monitor())
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [signal.SIGINT]
    assert t.images_seen == 72


def test_other_processes_write_nothing_and_wait(tmp_path: Path) -> None:
    t = Counter(is_main=False)
    run(t, tmp_path / "run", monitor())
    assert t.images_seen == 72
    assert not (tmp_path / "run").exists()
    assert t.drawn == []
    main = Counter()
    run(main, tmp_path / "main", monitor())
    assert t.barriers == main.barriers == len(SNAPSHOTS)


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            events.append(("open", log_dir, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            events.append((name, value, step))

        def add_image(self, name: str, image: Tensor, step: int) -> None:
            events.append((name, tuple(image.shape), step))

        def flush(self) -> None: ...

        def close(self) -> None:
            events.append(("close",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    run(Counter(replace(CONFIG, kimg=0.02)), tmp_path, monitor())
    assert events[0] == ("open", str(tmp_path / "tensorboard"), 1)
    assert events[-1] == ("close",)
    assert ("loss", 15.0, 24) in events
    assert ("samples", (3, 5 * 16, 12 * 16), 24) in events
    assert {e[0] for e in events if len(e) == 3} >= {"frechet", "kid", "recall", "held_out_mse", "images_per_s"}
    run(resumed(tmp_path), tmp_path, monitor())
    assert ("open", str(tmp_path / "tensorboard"), 25) in events


def test_figures_that_are_not_finite_become_null(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.append({"images": 6, "frechet": math.nan, "loss": 1.23456789e-7})
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail) == {
        "images": 6,
        "frechet": None,
        "loss": 1.23457e-7,
    }
    assert TrainingLog(tmp_path, 6).last["frechet"] is None


# ---- figures --------------------------------------------------------------------------------------------------------


def test_monitor_equals_plain_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "CHUNK", 4)
    t, embedder, held_out = Counter(), Corner(), photos(10)
    m = Monitor(embedder, held_out)
    for images_seen in (24, 42):
        t.images_seen = images_seen
        figures = m.evaluate(t, 9, seed=5)
        made = torch.cat([t.samples(4, 5), t.samples(4, 6), t.samples(1, 7)])[:, :, 0, 0].clamp(-1, 1)
        real = held_out[:, :, 0, 0]
        assert figures["frechet"] == pytest.approx(frechet_distance(real, made))
        assert figures["kid"] == pytest.approx(kernel_distance(real, made))
        assert (figures["precision"], figures["recall"]) == pytest.approx(precision_recall(real, made))
        assert figures["held_out_mse"] == pytest.approx(0.1**2, rel=1e-4)  # 0.2 in [-1, 1] is 0.1 in [0, 1]
    assert [len(batch) for batch in embedder.batches] == [4, 4, 2, 4, 4, 1, 4, 4, 1]  # the photos once
    assert max(t.drawn) <= 4


def test_samples_are_judged_as_a_file_would_show_them() -> None:
    t, embedder = Counter(), Corner()
    t.images_seen, BRIGHTNESS[-1] = -1, 3.0
    try:
        Monitor(embedder, photos(4)).evaluate(t, 8, seed=0)
    finally:
        del BRIGHTNESS[-1]
    assert embedder.batches[1].max() == 1.0


@pytest.mark.parametrize(
    ("num_photos", "count", "encoder", "names"),
    [
        (3, 100, True, {"held_out_mse"}),
        (4, 3, True, {"held_out_mse"}),
        (4, 4, True, {"frechet", "kid", "precision", "recall", "held_out_mse"}),
        (4, 4, False, {"frechet", "kid", "precision", "recall"}),
        (0, 4, True, set()),
    ],
)
def test_few_photos(tmp_path: Path, num_photos: int, count: int, encoder: bool, names: set[str]) -> None:
    config = replace(CONFIG, evaluated_images=count)
    t, m = Counter(config, encoder), monitor(num_photos)
    assert set(m.evaluate(t, count, seed=0)) == names
    run(t, tmp_path, m)
    assert (tmp_path / "best.pt").exists() == ("frechet" in names)


def test_held_out_photos_of_another_shape() -> None:
    with pytest.raises(UserInputError, match=r"shape \(N, 3, R, R\), got \(10, 16, 16, 3\)"):
        Monitor(Corner(), photos().permute(0, 2, 3, 1))


@pytest.mark.parametrize("encoder", [True, False])
def test_picture(encoder: bool) -> None:
    t, held_out = Counter(encoder=encoder), photos(3)
    grid = picture(t, held_out, num_columns=4)
    num_rows = 5 if encoder else 4
    assert grid.shape == (3, num_rows * 16, 4 * 16)
    tiles: Mapping[tuple[int, int], Tensor] = {
        (row, column): grid[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        for row in range(num_rows)
        for column in range(4)
    }
    samples = t.samples(12, t.config.seed)
    for (row, column), tile in tiles.items():
        if row < 3:
            expected = samples[4 * row + column] / 2 + 0.5
        elif column == 3:
            expected = torch.zeros(3, 16, 16)
        else:
            expected = (held_out[column] + (0.2 if row == 4 else 0.0)) / 2 + 0.5
        torch.testing.assert_close(tile, expected)
