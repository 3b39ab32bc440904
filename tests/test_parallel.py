"""Several processes train one model: gloo on the CPU, as torchrun starts them."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import BUSY, CPU, leaves, trainer, weights, write_photos

from ganaug import load_generator
from ganaug.errors import UserInputError
from ganaug.training.config import TrainConfig
from ganaug.training.parallel import Processes, keyed_generator

SHARED = replace(BUSY, batch_size=4)
STEPS = 5
WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from ganaug.training import gan_state
gan_state.NUM_RECENT_CODES = 8
from test_parallel import CPU, SHARED, STEPS
from training_helpers import trainer
from ganaug.training.parallel import Processes
processes = Processes(CPU)
rank = processes.rank
assert processes.world == 2 and processes.is_main is (rank == 0)
# Means of tensors of any shape and layout, in place; rows in the order of ranks.
odd = torch.full((2, 3), 1.0 + rank).t()
last = (torch.arange(48.0).view(2, 3, 2, 4) * rank).to(memory_format=torch.channels_last)
tensors = [torch.tensor(4.0 * rank), odd, last]
processes.average(tensors)
assert tensors[0] == 2 and torch.equal(odd, torch.full((3, 2), 1.5))
assert torch.equal(last, torch.arange(48.0).view(2, 3, 2, 4) / 2)
used, unused = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
used.grad = torch.full((3,), float(rank))
processes.average_gradients([unused, used])
assert unused.grad is None and used.grad.tolist() == [0.5] * 3
rows = torch.arange(6.0).view(3, 2).t() + 10 * rank
assert processes.gather(rows)[:, 0].tolist() == [0, 1, 10, 11]
t = trainer(SHARED)
assert t.part_size == 2 and t.is_main is (rank == 0)
for _ in range(STEPS):
    t.step()
t.save(Path({out!r}) / f"rank{{rank}}.pt")
t.barrier()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def environment(**more: object) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in more.items()}}


def test_two_processes_equal_one_that_works_in_two_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = WORKER.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    port = free_port()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(WORLD_SIZE=2, RANK=rank, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
        )
        for rank in range(2)
    ]
    monkeypatch.setattr("ganaug.training.gan_state.NUM_RECENT_CODES", 8)
    one = trainer(replace(SHARED, accumulate=2))
    start = weights(one)
    for _ in range(STEPS):
        one.step()
    one.save(tmp_path / "one.pt")
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    found = {
        name: dict(leaves(torch.load(tmp_path / f"{name}.pt", weights_only=True))) for name in ("one", "rank0", "rank1")
    }
    for name, value in found["rank0"].items():
        if isinstance(value, torch.Tensor) and name != ".tensors.signs":  # those are averaged when p changes
            assert torch.equal(value, found["rank1"][name]), f"ranks drift apart: {name}"
            torch.testing.assert_close(
                value, found["one"][name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    for name in (".num_codes", ".step", ".images_seen"):
        assert found["one"][name] == found["rank0"][name]
    assert one.state.codes_full and float(one.state.augment_p) < 0.3 and float(one.state.path_mean) > 0
    assert max(float((value - start[name]).abs().max()) for name, value in weights(one).items()) > 1e-2


def test_train_under_torchrun(tmp_path: Path) -> None:
    """One model, one log, one set of figures; the second process says nothing."""
    photos, out, figures = write_photos(tmp_path / "photos"), tmp_path / "run", tmp_path / "figures.json"
    settings = replace(BUSY, kimg=0.012, snapshot_kimg=0.008, evaluated_images=4).to_dict()
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganaug.cli", "train"]
    arguments = ["--data", photos, "--out", out, "--config", tmp_path / "settings.json", "--json", figures]
    done = subprocess.run(
        [sys.executable, *command, *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    values = json.loads(figures.read_text())
    assert values["images_seen"] == 12 and len(values["sha256"]) == 64
    assert done.stdout.count("images_seen") == done.stdout.count("sha256") == 1
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [8, 12]
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(out.glob("*.tmp"))
    assert load_generator(values["model"]).img_resolution == 16
    assert "destroy_process_group" not in done.stderr


def test_one_process_is_left_alone() -> None:
    processes, tensor = Processes(CPU), torch.arange(3.0)
    processes.average([tensor])
    processes.barrier()
    assert (processes.rank, processes.world, processes.is_main, processes.device) == (0, 1, True, CPU)
    assert tensor.tolist() == [0, 1, 2] and processes.gather(tensor) is tensor


def test_draws_are_keyed() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(3, generator=keyed_generator(CPU, *key)).tolist()

    assert draw(0, 1, "noise") == draw(0, 1, "noise")
    others = [
        draw(0, 1, "noise"),
        draw(0, 2, "noise"),
        draw(1, 1, "noise"),
        draw(0, 1, "z"),
        draw(0, 11),
        draw(0, 1, 1),
    ]
    assert len({tuple(values) for values in others}) == len(others)


def test_more_processes_than_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserInputError, match=r"torchrun started process 3 here, but there are 2 CUDA device\(s\)"):
        Processes(torch.device("cuda"))


def test_batches_are_cut_into_equal_parts() -> None:
    assert TrainConfig(batch_size=24, accumulate=3).part_size(4) == 2
    with pytest.raises(UserInputError, match=r"a batch of 16 cannot be cut into 3 process\(es\) x 2 part\(s\); use a"):
        TrainConfig(batch_size=16, accumulate=2).part_size(3)
