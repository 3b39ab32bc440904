"""The batch size that is found by trying: which errors halve it, what it remembers, and that no work is lost."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ganaug.batch_size import REMEMBERED, START, BatchSize, is_out_of_memory
from ganaug.interfaces import UserInputError

CPU = torch.device("cpu")


def work_within(limit: int, tried: list[int], error: Exception) -> Callable[[int], int]:
    """Work that takes up to ``limit`` images; notes what it was given."""

    def work(size: int) -> int:
        tried.append(size)
        if size > limit:
            raise error
        return size

    return work


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
    MemoryError("Unable to allocate 8.00 GiB for an array"),
    RuntimeError(f"{ALLOCATOR} allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
)
OTHERS = (
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("expected more memory of you"),
    ValueError("DefaultCPUAllocator: can't allocate memory"),
    OSError(12, "Cannot allocate memory"),
)


def test_which_errors_are_about_memory() -> None:
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY)
    assert not any(is_out_of_memory(error) for error in OTHERS)


def test_the_real_allocator_of_the_cpu() -> None:
    """What this torch says when the CPU has no memory left, whatever its wording."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), caught.value


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_halved_until_it_fits_and_remembered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    tried: list[int] = []
    batch = BatchSize("auto", CPU, tmp_path)
    assert batch.fitting(work_within(3, tried, error)) == 2
    assert tried == [START["cpu"], 8, 4, 2] and batch.value == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("note: 4 images at a time do not fit into the memory of cpu; going on with 2")
    assert len(told) == 3, "one line for each halving"
    assert batch.fitting(work_within(3, tried, error)) == 2 and tried[4:] == [2], "for the rest of the run"
    assert BatchSize("auto", CPU, tmp_path).value == 2, "and for the next"
    assert json.loads((tmp_path / REMEMBERED).read_text()) == {"cpu": 2}
    assert [path.name for path in tmp_path.iterdir()] == [REMEMBERED], "nothing half written"


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: type(error).__name__)
def test_other_errors_are_left_alone(tmp_path: Path, error: Exception) -> None:
    tried: list[int] = []
    with pytest.raises(type(error)) as caught:
        BatchSize("auto", CPU, tmp_path).fitting(work_within(0, tried, error))
    assert caught.value is error and tried == [START["cpu"]] and not (tmp_path / REMEMBERED).exists()


def test_one_image_that_does_not_fit(tmp_path: Path) -> None:
    tried: list[int] = []
    with pytest.raises(UserInputError, match=r"one image alone does not fit into the memory of cpu: use another"):
        BatchSize("auto", CPU, tmp_path).fitting(work_within(0, tried, MemoryError()))
    assert tried[-1] == 1


def test_a_number_that_was_asked_for_stays(tmp_path: Path) -> None:
    (tmp_path / REMEMBERED).write_text('{"cpu": 2}')
    batch = BatchSize(32, CPU, tmp_path)
    assert batch.value == 32
    with pytest.raises(UserInputError, match="a batch of 32 does not fit into the memory of cpu: use a smaller"):
        batch.fitting(work_within(31, [], MemoryError()))
    assert json.loads((tmp_path / REMEMBERED).read_text()) == {"cpu": 2}


@pytest.mark.parametrize("asked", [0, -1, "many"])
def test_silly_sizes(tmp_path: Path, asked: int) -> None:
    with pytest.raises(UserInputError, match="at least 1, got"):
        BatchSize(asked, CPU, tmp_path)


@pytest.mark.parametrize("text", ["", "no", "[4]", '{"cpu": 0}', '{"cpu": "4"}', '{"cpu": true}', '{"NVIDIA H200": 4}'])
def test_a_note_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / REMEMBERED).write_text(text)
    assert BatchSize("auto", CPU, tmp_path).value == START["cpu"]


def test_other_devices_notes_are_kept(tmp_path: Path) -> None:
    (tmp_path / REMEMBERED).write_text('{"NVIDIA H200": 128}')
    BatchSize("auto", CPU, tmp_path).fitting(work_within(8, [], MemoryError()))
    assert json.loads((tmp_path / REMEMBERED).read_text()) == {"NVIDIA H200": 128, "cpu": 8}


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = BatchSize("auto", CPU, tmp_path / "nowhere")
    assert batch.fitting(work_within(8, [], MemoryError())) == 8
    assert "could not be written to" in capsys.readouterr().err


def test_what_the_failed_attempt_held_is_free(tmp_path: Path) -> None:
    """When half is tried, nothing keeps the first attempt's tensors: neither the error nor its traceback."""
    held: list[weakref.ref[torch.Tensor]] = []

    def work(size: int) -> int:
        large = torch.zeros(size)
        assert all(ref() is None for ref in held)
        held.append(weakref.ref(large))
        if size > 4:
            raise torch.OutOfMemoryError("no")
        return size

    gc.disable()  # freed by itself, without a collection
    try:
        assert BatchSize("auto", CPU, tmp_path).fitting(work) == 4
    finally:
        gc.enable()
    assert len(held) == 3
