"""A run that was stopped goes on as if it had not been, bit for bit; what does not fit is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import BUSY, CPU, RING, TINY, assert_same_checkpoint, trainer, write_photos

from ganaug.errors import CheckpointError, UserInputError
from ganaug.training.config import TrainConfig
from ganaug.training.gan_state import TrainState
from ganaug.training.run import read_config, train


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (20, {}),
        (20, {"precision": "bfloat16"}),
        (10, {"loss": "wgan-gp"}),
        (10, {"condition": ("gender", "glasses"), "accumulate": 2}),
        (10, {"with_encoder": False, "freeze_d": 1}),
    ],
    ids=["float32", "bfloat16", "wgan-gp", "conditional", "frozen"],
)
def test_resume_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, changes: dict[str, object]
) -> None:
    """With every regulariser, an adaptive p that has moved, and samples around codes."""
    monkeypatch.setattr("ganaug.training.gan_state.NUM_RECENT_CODES", RING)
    config = replace(BUSY, **changes)
    whole, second = trainer(config), trainer(config)
    for _ in range(steps // 2):
        whole.step()
    whole.save(tmp_path / "half.pt")
    figures = [whole.step() for _ in range(steps // 2)]
    second.load(tmp_path / "half.pt")
    assert [second.step() for _ in range(steps // 2)] == figures
    whole.save(tmp_path / "whole.pt")
    second.save(tmp_path / "second.pt")
    assert_same_checkpoint(tmp_path / "whole.pt", tmp_path / "second.pt")
    state = second.state
    assert (state.images_seen, state.step) == (4 * steps, steps)
    assert float(state.augment_p) != pytest.approx(BUSY.augment_p) and float(state.path_mean) > 0
    assert state.codes_full is (config.with_encoder and steps * 2 >= RING)


def test_comparison_of_checkpoints_can_fail(tmp_path: Path) -> None:
    t = trainer()
    t.save(tmp_path / "a.pt")
    t.state.d_optimizer.param_groups[0]["lr"] *= 2
    t.save(tmp_path / "b.pt")
    with pytest.raises(AssertionError):
        assert_same_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    t.state.d_optimizer.param_groups[0]["lr"] /= 2
    t.state.codes[0, 0] += 1e-6
    t.save(tmp_path / "b.pt")
    with pytest.raises(AssertionError):
        assert_same_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")


# The killed process

KILLED = replace(BUSY, kimg=0.096, snapshot_kimg=0.032, evaluated_images=0, with_encoder=False)
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_resume import KILLED
from ganaug.training.run import train
train({photos!r}, Path({out!r}), KILLED, torch.device("cpu"))
"""


def test_killed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """24 steps equal 8 or 16 + SIGKILL + the rest (tried once: 200 equal 100 + SIGKILL + 100, which takes too long)."""
    photos, out = write_photos(tmp_path / "photos"), tmp_path / "killed"
    script = SCRIPT.format(tests=str(Path(__file__).parent), photos=str(photos), out=str(out))
    # Sums over threads round differently with another number of them.
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script], env=env)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stopped = torch.load(out / "checkpoint.pt", weights_only=True)["images_seen"]
    assert stopped in (32, 64) and not (out / "model.safetensors").exists()
    figures = train(photos, out, KILLED, CPU, resume=True)
    whole = train(photos, tmp_path / "whole", KILLED, CPU)
    assert_same_checkpoint(out / "checkpoint.pt", tmp_path / "whole" / "checkpoint.pt")
    assert figures["images_seen"] == 96 and figures["sha256"] == whole["sha256"]


# What is refused


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trainer().save(path)
    with pytest.raises(CheckpointError, match=r"other settings \(batch_size: 4 there, 2 here\); use another --out"):
        trainer(replace(TINY, batch_size=2)).load(path)
    with pytest.raises(CheckpointError, match="with_encoder: True there, False here; seed: 0 there, 1 here"):
        trainer(replace(TINY, with_encoder=False, seed=1)).load(path)
    longer = trainer(replace(TINY, kimg=0.08, snapshot_kimg=1.0, evaluated_images=5, accumulate=2))
    longer.load(path)
    longer.step()


def test_other_labels_do_not_resume(tmp_path: Path) -> None:
    config, path = replace(TINY, condition=("gender", "glasses")), tmp_path / "checkpoint.pt"
    trainer(config).save(path)
    other = trainer(config)
    assert other.label_table is not None
    other.label_table["columns"][0]["classes"] = ("female", "male")
    with pytest.raises(CheckpointError, match="other labels"):
        other.load(path)


def test_damaged_checkpoints(tmp_path: Path) -> None:
    """A clear line, and not torch's advice to execute what is in the file."""
    t, path = trainer(), tmp_path / "checkpoint.pt"
    t.save(path)
    data = path.read_bytes()
    for damaged in (b"not a checkpoint", b"", data[: len(data) // 2], data[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"checkpoint\.pt: cannot be read as a training checkpoint: it is damaged"
        ) as e:
            t.load(path)
        assert "weights_only" not in str(e.value)
    for other in ([1, 2], {"config": 3}):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="cannot be read as a training checkpoint"):
            t.load(path)
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: cannot be read .*: No such file"):
        t.load(tmp_path / "nowhere.pt")
    for name in ("modules", "g_optimizer", "step"):
        torch.save({k: v for k, v in _payload(data, tmp_path).items() if k != name}, path)
        with pytest.raises(CheckpointError, match=f"does not fit this run: '{name}'"):
            t.load(path)


def _payload(data: bytes, folder: Path) -> dict[str, object]:
    (folder / "whole.pt").write_bytes(data)
    payload = torch.load(folder / "whole.pt", weights_only=True)
    assert isinstance(payload, dict)
    return payload


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t, path = trainer(), tmp_path / "checkpoint.pt"
    t.save(path)
    before = path.read_bytes()
    t.step()

    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        t.save(path)
    assert path.read_bytes() == before


def test_settings_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no run to continue: config\.json is missing"):
        read_config(tmp_path)
    for text in ("{", "[1]", "3", '{"kimg": "many"}', '{"kimgs": 3}', '{"resolution": 17}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json: no settings of a run"):
            read_config(tmp_path)


def test_checkpoint_holds_everything_that_changes(tmp_path: Path) -> None:
    """A field that is added to the state and forgotten in the file would break the resume, perhaps unnoticed."""
    t = trainer()
    t.save(tmp_path / "checkpoint.pt")
    payload = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    stored = {*payload, *payload["modules"], *payload["tensors"]}
    assert {name for name in TrainState.__dataclass_fields__ if name not in stored} == {"discriminator_channels"}
    assert TrainConfig.from_dict(payload["config"]) == t.config


def test_folder_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(UserInputError, match="holds a run already; continue it with --resume, or give another --out"):
        train(tmp_path, tmp_path, TINY, CPU)
