"""Genuine files of every container open with the values that were written; damaged ones are refused by name."""

import argparse
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import watched
from hostile_pickles import genuine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opcodes import call, pickled, text
from published_files import EasyDict, Persistent, nvidia_names, nvidia_pickle, torch_file

from ganaug.errors import CheckpointError
from ganaug.published.container import open_tree
from ganaug.published.tree import InertModule

WEIGHTS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.bias": torch.tensor([1.5, -2.0, 3.25]),
    "w_avg": torch.ones(4),
}
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], Any]:
    def open_bytes(data: bytes) -> Any:
        path = tmp_path / "file"
        path.write_bytes(data)
        return open_tree(path)

    return open_bytes


Open = Callable[[bytes], Any]


def equal(got: Any, expected: Any) -> bool:
    return type(got) is torch.Tensor and got.dtype == expected.dtype and torch.equal(got, expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nvidia_pickle(opened: Open, protocol: int) -> None:
    attributes = {
        "gain": np.float64(0.25),
        "sizes": np.array([[3, 4]], dtype=np.int32),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "swapped": np.arange(3, dtype=">f4"),
        "nothing": np.zeros(0, np.float32),
        "flag": np.bool_(True),
        "kept": {"x", "y"},
        "dtype": torch.float16,
        "shape": torch.Size([2, 3]),
        "device": torch.device("cuda", 1),
        "bytes": b"\x00\xff",
    }
    module = Persistent("Generator", WEIGHTS, attributes, {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}})
    with nvidia_names():
        data = pickle.dumps({"G_ema": module, "D": None, "training_set_kwargs": EasyDict(path="x")}, protocol)
    tree = opened(data)
    assert list(tree) == ["G_ema", "D", "training_set_kwargs"]
    assert tree["training_set_kwargs"] == {"path": "x"}
    found = tree["G_ema"]
    assert isinstance(found, InertModule) and found.class_name == "Generator"
    assert found.init_kwargs == {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}}
    tensors = found.tensors()
    assert tensors.keys() == WEIGHTS.keys() and all(equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)
    assert found.state["gain"] == 0.25 and type(found.state["gain"]) is float
    assert found.state["flag"] is True
    for name in ("sizes", "turned", "swapped", "nothing"):
        np.testing.assert_array_equal(found.state[name], attributes[name])
        assert found.state[name].dtype.isnative and found.state[name].flags.writeable
    assert found.state["kept"] == {"x", "y"} and found.state["shape"] == (2, 3)
    assert (found.state["dtype"], found.state["device"], found.state["bytes"]) == (
        "torch.float16",
        "cuda:1",
        b"\x00\xff",
    )


def test_names_of_other_numpy_and_project_versions(opened: Open) -> None:
    data = nvidia_pickle({"G": Persistent("G", WEIGHTS, {"gain": np.float64(2), "size": np.zeros(2)})}, protocol=2)
    for new, old in ((b"numpy._core", b"numpy.core"), (b"torch_utils", b"models.stylegan.torch_utils")):
        assert new in data
        assert opened(data.replace(new, old))["G"].state["gain"] == 2.0


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_file(opened: Open, legacy: bool) -> None:
    numbers = torch.tensor([0.0, 1.0, 2.0, 3.0])
    contents = {
        "state_dict": torch.nn.Linear(3, 2).state_dict(),
        "opts": {
            "path": pathlib.PurePosixPath("/a/b"),
            "device": torch.device("cpu"),
            "rate": 0.1,
            "names": ["x", ("y",)],
        },
        "args": argparse.Namespace(size=64, transparent_dims=(10, 12), size_of={"a": 1}),
        "dtypes": {str(dtype): numbers.to(dtype) for dtype in DTYPES},
        "view": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)[1:, ::2],
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "array": np.arange(4.0).reshape(2, 2),
        "number": np.float32(0.5),
    }
    tree = opened(torch_file(contents, legacy))
    for name, tensor in contents["state_dict"].items():
        assert equal(tree["state_dict"][name], tensor)
    assert tree["opts"] == {"path": "/a/b", "device": "cpu", "rate": 0.1, "names": ["x", ("y",)]}
    assert vars(tree["args"]) == {"size": 64, "transparent_dims": (10, 12), "size_of": {"a": 1}}
    for dtype in DTYPES:
        assert equal(tree["dtypes"][str(dtype)], numbers.to(dtype))
    for name in ("view", "last", "expanded", "scalar", "empty"):
        assert equal(tree[name], contents[name])
    assert equal(tree["parameter"], torch.ones(2)) and not tree["parameter"].requires_grad
    np.testing.assert_array_equal(tree["array"], [[0, 1], [2, 3]])
    assert tree["number"] == 0.5
    assert type(tree) is dict and type(tree["state_dict"]) is dict


@pytest.mark.parametrize("legacy", [False, True])
def test_module_saved_as_a_whole(opened: Open, legacy: bool) -> None:
    module = Persistent("Generator", WEIGHTS, {"gain": np.float64(0.25), "kwargs": EasyDict(a=1)})
    tree = opened(torch_file(module, legacy))
    assert isinstance(tree, InertModule) and tree.class_name == "Generator"
    assert all(equal(tree.tensors()[name], tensor) for name, tensor in WEIGHTS.items())
    assert tree.state["gain"] == 0.25 and tree.state["kwargs"] == {"a": 1}


def test_modules_of_torch_are_inert(opened: Open) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    tree = opened(torch_file(network))
    assert isinstance(tree, InertModule) and tree.class_name == "Sequential"
    assert tree.tensors().keys() == {"0.weight", "0.bias"}
    assert equal(tree.tensors()["0.weight"], network[0].weight.detach())


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.ones((1, 512), np.float32), np.asfortranarray(np.eye(3)), np.zeros(())]
)
def test_npy(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    path = tmp_path / "direction.npy"
    np.save(path, array)
    found = open_tree(path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype and found.flags.writeable


def test_what_the_process_registered_is_not_used_and_comes_back(opened: Open) -> None:
    called = []

    def real(meta: Any) -> None:
        called.append(meta)

    registered = [(real, "torch_utils.persistence._reconstruct_persistent_obj"), (dict, "some.other")]
    torch.serialization.add_safe_globals(registered)
    try:
        tree = opened(torch_file(Persistent("G", WEIGHTS)))
        assert isinstance(tree, InertModule) and not called
        assert set(registered) <= set(torch.serialization.get_safe_globals())
    finally:
        torch.serialization.clear_safe_globals()
    with pytest.raises(CheckpointError):
        opened(torch_file(Persistent("G", WEIGHTS))[:-1])
    assert torch.serialization.get_safe_globals() == []


def test_weights_of_large_zip_files_stay_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    path.write_bytes(torch_file({"weight": torch.zeros(1 << 20)}))
    weight = open_tree(path)["weight"]
    assert str(path) in Path("/proc/self/maps").read_text()
    weight += 1  # a private copy: the file does not change
    assert open_tree(path)["weight"].sum() == 0


def test_file_without_checksums(opened: Open) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        data = torch_file(WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(before)
    assert equal(opened(data)["a.bias"], WEIGHTS["a.bias"])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.pkl", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(CheckpointError, match=f"^{path}: {reason}"):
            open_tree(path)


@pytest.mark.parametrize("name", sorted(genuine()))
def test_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    data, path = genuine()[name], tmp_path / name
    for length in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=f"^{path}: "):
            open_tree(path)


FILES = genuine()
EVIL = [
    call("os.system", text("true")),
    call("builtins.eval", text("1")),
    b"cos\nsystem\n",
    b"(ios\nsystem\n",
    b"b",
    b"R",
    b"\x81",
    b"\x92",
    b"Q",
    b"(" * 50,
    b"\x85" * 500,
    b"\x8e" + b"\xff" * 8,
    b"\x95" + b"\xff" * 8,
    pickled(b"N"),
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    changed = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "byte", "cut", "insert", "delete", "copy"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "byte":
            changed[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[max(at, 1) :]
        elif kind == "insert":
            changed[at:at] = data.draw(st.sampled_from(EVIL))
        elif kind == "delete":
            del changed[max(at, 1) : at + data.draw(st.integers(1, 9))]
        else:
            source = data.draw(st.integers(0, len(changed) - 1))
            changed[at:at] = changed[source : source + data.draw(st.integers(1, 40))]
    path = tmp_path / name
    path.write_bytes(changed)
    with watched() as seen:
        try:
            open_tree(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert not seen
