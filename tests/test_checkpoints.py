"""Model files: written, read back, and refused with the file's name when anything about them is wrong."""

import hashlib
import io
import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from ganaug import checkpoints
from ganaug.features import load_perceptual_features
from ganaug.generators import GENERATORS, load_generator
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.interfaces import CheckpointError, Generator, UserInputError
from ganaug.inversion import load_encoder

CONFIG = StyleGAN2Config(8, z_dim=6, w_dim=6, mapping_layers=2, channels=(4, 4))
DESCRIPTION: dict[str, Any] = {"family": "stylegan2", "config": asdict(CONFIG), "discriminator_channels": [4, 4]}


def generator(seed: int = 0) -> StyleGAN2:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleGAN2(CONFIG).eval().requires_grad_(False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A generator and nothing else."""
    path = tmp_path / "model.safetensors"
    checkpoints.write(path, {"generator": generator().state_dict()}, DESCRIPTION, half=False)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """Writes the file again with changed tensors or metadata, as a valid safetensors file."""
    tensors = load_file(path)
    metadata = {"format": checkpoints.FORMAT, "description": json.dumps(DESCRIPTION)}
    metadata["sha256"] = ...  # type: ignore[assignment]
    change(tensors, metadata)
    if metadata.get("sha256") is ...:
        metadata["sha256"] = checkpoints._tensors_digest(save(tensors))
    save_file(tensors, path, metadata)


def described(**changes: Any) -> Callable[[dict[str, Tensor], dict[str, str]], None]:
    def change(_: dict[str, Tensor], metadata: dict[str, str]) -> None:
        values = {**DESCRIPTION, **changes}
        metadata["description"] = json.dumps({name: value for name, value in values.items() if value is not ...})

    return change


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    for word in (path.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tmp_path: Path, half: bool) -> None:
    path, source = tmp_path / "model.safetensors", generator()
    digest = checkpoints.write(path, {"generator": source.state_dict()}, DESCRIPTION, half=half)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert checkpoints.read_metadata(path) == json.loads(json.dumps(DESCRIPTION))
    loaded = load_generator(path)
    assert isinstance(loaded, StyleGAN2) and isinstance(loaded, Generator)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in source.state_dict().items():
        want = tensor.half().float() if half else tensor
        assert torch.equal(loaded.state_dict()[name], want), name
        assert loaded.state_dict()[name].dtype == torch.float32
    assert (loaded.fingerprint == source.fingerprint) is not half
    w_plus = loaded.mapping(torch.ones(1, 6))
    torch.testing.assert_close(
        loaded.synthesis(w_plus),
        source.synthesis(source.mapping(torch.ones(1, 6))),
        atol=0.05 if half else 1e-6,
        rtol=0,
    )


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    digests = [
        checkpoints.write(tmp_path / name, {"generator": generator().state_dict()}, DESCRIPTION) for name in ("a", "b")
    ]
    assert digests[0] == digests[1]


def test_all_parts(model_file: Path) -> None:
    """The shared fixture's file has all three networks, and each can be used."""
    loaded, images = load_generator(model_file), torch.zeros(2, 3, 16, 16)
    assert loaded.img_resolution == 16
    w_plus = load_encoder(model_file).encode(images, loaded)
    assert tuple(w_plus.shape[1:]) == loaded.latent_spec.shape
    assert [m.shape[2] for m in load_perceptual_features(model_file)(images)] == [8, 4]


def test_bundled_model_is_whole() -> None:
    loaded = load_generator("faces64")
    assert loaded.img_resolution == 64
    licence = checkpoints.read_metadata(checkpoints.resolve("faces64"))["licence"]
    assert licence and licence != "not stated"
    for part in set(checkpoints.PARTS) - {"embedder"}:
        assert checkpoints.read_part(checkpoints.resolve("faces64"), part)
    assert checkpoints.list_parts(checkpoints.resolve("identity64")) == {"embedder"}


def test_unknown_part_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown parts"):
        checkpoints.write(tmp_path / "x", {"optimizer": {}}, DESCRIPTION)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["faces65", "missing/model.safetensors", "", "."])
def test_missing_file_lists_what_there_is(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"faces64.*safetensors"):
        load_generator(name)


def test_truncated_at_many_points(model: Path) -> None:
    data = model.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(data), len(data) // 40), len(data) - 1]:
        model.write_bytes(data[:length])
        refused(model)


def test_trailing_bytes(model: Path) -> None:
    model.write_bytes(model.read_bytes() + b"\0")
    refused(model)


def test_every_bit_flip_in_the_header_is_refused_or_harmless(model: Path) -> None:
    """A flip in the description's texts may go unnoticed; nothing but CheckpointError is ever raised."""
    want, data = load_generator(model).fingerprint, model.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    rng, caught = np.random.default_rng(0), 0
    places = [*range(8), *rng.choice(np.arange(8, header), 150, replace=False).tolist()]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        model.write_bytes(damaged)
        try:
            assert load_generator(model).fingerprint == want, f"byte {place}: other weights were taken"
        except CheckpointError as error:
            caught += 1
            assert model.name in str(error)
    assert caught > len(places) / 2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(model: Path, number: float) -> None:
    def poison(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
        tensors["generator.synthesis_network.b8.conv1.bias"][2] = number

    rewrite(model, poison)
    refused(model, "generator.synthesis_network.b8.conv1.bias")


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    refused(path, "ganaug-1", "None")
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    refused(path, "ganaug-1", "'pt'")
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    for data in (b"", b"\0" * 64, b"\xff" * 64, picture.getvalue()):
        path.write_bytes(data)
        refused(path)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    path = tmp_path / "model.safetensors"
    torch.save({"g_ema": Bomb()}, path)
    refused(path)
    assert not (tmp_path / "executed").exists()


def test_missing_parts(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no encoder"):
        load_encoder(model)
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds no features"):
        load_perceptual_features(model)
    checkpoints.write(model, {"features": {"x": torch.zeros(1)}}, DESCRIPTION)
    refused(model, "holds no generator")


@pytest.mark.parametrize("family", ["stylegan9", None, ["stylegan2"], 2])
def test_wrong_family(model: Path, family: Any) -> None:
    rewrite(model, described(family=family))
    refused(model, "family", *GENERATORS)


@pytest.mark.parametrize(
    "config",
    [
        ...,
        None,
        [],
        {},
        {"img_resolution": 8},
        {**asdict(CONFIG), "img_resolution": 12},
        {**asdict(CONFIG), "img_resolution": "8"},
        {**asdict(CONFIG), "channels": 4},
        {**asdict(CONFIG), "w_dim": -3},
        {**asdict(CONFIG), "novelty": 1},
    ],
)
def test_damaged_configuration(model: Path, config: Any) -> None:
    rewrite(model, described(config=config))
    refused(model, "config")


def test_weights_that_do_not_fit_the_configuration(model: Path) -> None:
    for change in ({"w_dim": 7}, {"mapping_layers": 3}, {"mapping_layers": 1}, {"channels": [4, 5]}):
        rewrite(model, described(config={**asdict(CONFIG), **change}))
        refused(model, "do not fit")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"text"'])
def test_damaged_description(model: Path, text: str) -> None:
    rewrite(model, lambda _, metadata: metadata.update(description=text))
    refused(model, "description")
    rewrite(model, lambda _, metadata: metadata.pop("description") and None)
    refused(model, "description")


def test_cuda_where_there_is_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserInputError, match="no CUDA device"):
        load_generator(model, "cuda")


def test_failed_write_leaves_the_old_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.read_bytes()

    def full(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(model, {"generator": generator(1).state_dict()}, DESCRIPTION)
    assert model.read_bytes() == before


def test_fingerprint_depends_on_every_weight() -> None:
    seen = {generator().fingerprint}
    names = list(generator().state_dict())
    for name in names:
        changed = generator()
        tensor = changed.state_dict()[name]
        with torch.no_grad():
            tensor.reshape(-1)[-1:].copy_(torch.nextafter(tensor.reshape(-1)[-1:], torch.tensor([9.0])))
        seen.add(changed.fingerprint)
    assert len(seen) == len(names) + 1


def test_fingerprint_notices_a_change_after_it_was_asked_for() -> None:
    changed = generator()
    before = changed.fingerprint
    with torch.no_grad():
        changed.w_avg.add_(1.0)
    after = changed.fingerprint
    assert after != before
    changed.load_state_dict(generator().state_dict())
    assert changed.fingerprint == before


def test_fingerprint_depends_on_the_architecture_alone_otherwise() -> None:
    want = generator().fingerprint
    assert generator().fingerprint == want and generator(1).fingerprint != want
    assert generator().to(memory_format=torch.channels_last).fingerprint == want  # type: ignore[call-overload]
    assert generator().train().requires_grad_(True).fingerprint == want
    clamped = StyleGAN2(StyleGAN2Config(**{**asdict(CONFIG), "conv_clamp": 256.0}))
    clamped.load_state_dict(generator().state_dict())
    assert clamped.fingerprint != want


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fingerprint_on_the_gpu() -> None:
    assert generator().to("cuda").fingerprint == generator().fingerprint


def test_bit_flip_in_the_weights_is_refused(model: Path) -> None:
    """safetensors has no checksum: a flip that leaves a finite number would load in silence."""
    data = bytearray(model.read_bytes())
    for offset in np.linspace(len(data) // 2, len(data) - 1, 10).astype(int):
        changed = bytearray(data)
        changed[offset] ^= 1
        model.write_bytes(changed)
        with pytest.raises(CheckpointError, match="not those that were written"):
            load_generator(model)
    model.write_bytes(data)
    load_generator(model)


@pytest.mark.parametrize("load", [load_encoder, load_perceptual_features])
def test_incomplete_description_is_refused(load: Any, model: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no"):
        load(model)
    rewrite(model, described(discriminator_channels=...))
    with pytest.raises(CheckpointError, match="configuration is damaged or incomplete"):
        load(model)
