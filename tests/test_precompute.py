"""Precompute: what ends up in the cache, what is left out and why, and that kills change nothing."""

import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RESOLUTION, Faces, random_image, write_faces, write_model
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from ganaug.cache import LatentCache, Record
from ganaug.faces.align import Alignment, align, similarity, to_model_range
from ganaug.faces.cut import cut
from ganaug.faces.detect import Face
from ganaug.faces.images import content_hash
from ganaug.faces.photos import Photo, photos_from, photos_in_folder, photos_of_dataset
from ganaug.faces.templates import TEMPLATES
from ganaug.generators import load_generator
from ganaug.interfaces import CacheError, ImageError, Inversion, Inverter, UserInputError
from ganaug.inversion import build_inverter
from ganaug.precompute import PrecomputeResult, make_header, precompute

CPU = torch.device("cpu")
STEPS, BATCH = 2, 4


class Counting:
    """An inverter that counts the images it was asked for."""

    def __init__(self, inverter: Inverter) -> None:
        self.inverter, self.name, self.anchored, self.images = inverter, inverter.name, inverter.anchored, 0
        self.quality_names, self.delta, self.refills = inverter.quality_names, inverter.delta, inverter.refills

    @property
    def settings(self) -> dict[str, Any]:
        return self.inverter.settings

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        self.images += len(images)
        return self.inverter.invert(images, batch_size)


def build(model: Path, name: str = "hybrid", steps: int = STEPS) -> Counting:
    return Counting(build_inverter(name, load_generator(model), model, CPU, steps))


def cache_for(path: Path, model: Path, inverter: Inverter, dtype: str = "float16") -> LatentCache:
    return LatentCache.create(path, make_header(load_generator(model), model, inverter, dtype))


def run(photos: Sequence[Photo], cache: LatentCache, inverter: Inverter, batch_size: int = BATCH) -> PrecomputeResult:
    return precompute(photos, cache, inverter, CPU, batch_size, progress=False)


def made(faces: Faces, path: Path) -> tuple[LatentCache, Counting]:
    """A finished cache of a folder of faces."""
    inverter = build(faces.model)
    cache = cache_for(path, faces.model, inverter)
    run(photos_in_folder(faces.root), cache, inverter)
    return cache, inverter


def timeless(quality: Mapping[str, float]) -> tuple[float, ...]:
    """All figures but how long it took."""
    return tuple(value for name, value in quality.items() if name != "seconds")


def contents(cache: LatentCache) -> dict[str, tuple[Any, ...]]:
    """Everything that the records hold, but how long it took."""
    return {
        r.key: (r.latents.tobytes(), timeless(r.quality), r.transform.tobytes(), r.source_hash, r.photo_size)
        for r in cache.records()
    }


def assert_same(cache: LatentCache, other: LatentCache, again: Collection[str]) -> None:
    """The same records to the bit; of those inverted ``again``, in a batch of another size, up to rounding.

    There a sum may be taken in another order, after which float16 may hold a number's neighbour, 2^-10 of it away.
    """
    want, got = contents(other), contents(cache)
    assert {key: got[key] for key in got if key not in again} == {k: v for k, v in want.items() if k not in again}
    for mine, theirs in zip(map(cache.get, again), map(other.get, again), strict=True):
        assert (mine.source_hash, mine.photo_size) == (theirs.source_hash, theirs.photo_size)
        np.testing.assert_array_equal(mine.transform, theirs.transform)
        np.testing.assert_allclose(timeless(mine.quality), timeless(theirs.quality), rtol=1e-4)
        np.testing.assert_allclose(mine.latents.astype(float), theirs.latents.astype(float), rtol=2**-10, atol=1e-4)


def latents_of(cache: LatentCache, keys: Iterable[str]) -> np.ndarray:
    return np.stack([cache.get(key).latents for key in keys]).astype(np.float32)


def flip(file: Path, needle: bytes, place: int) -> None:
    """Flips one bit of every copy of these bytes in a file: LMDB leaves old copies in freed pages."""
    data = file.read_bytes()
    assert needle in data
    file.write_bytes(data.replace(needle, needle[:place] + bytes([needle[place] ^ 0x10]) + needle[place + 1 :]))


def test_a_folder(faces: Faces, tmp_path: Path) -> None:
    inverter = build(faces.model)
    cache = cache_for(tmp_path / "new.lmdb", faces.model, inverter)
    result = run(photos_in_folder(faces.root), cache, inverter)
    assert {Path(key).name for key in faces.keys if key.startswith("ann/")} == {
        Path(key).name for key in faces.keys if key.startswith("bob/")
    }, "the fixture has equal names in two folders"
    assert cache.keys() == faces.keys and cache.failures() == {}
    assert (result.images, result.inverted, result.failed) == (22, 22, 0)
    assert inverter.images == 22 and result.seconds > 0
    psnr = [record.quality["psnr"] for record in cache.records()]
    assert result.psnr_median == pytest.approx(np.median(psnr), abs=1e-3)

    generator, alignment = load_generator(faces.model), Alignment(size=RESOLUTION)
    header = cache.header
    assert header.fingerprint == generator.fingerprint and header.latent_spec == generator.latent_spec
    assert header.inverter == inverter.settings and header.alignment == alignment.to_dict()
    assert load_generator(header.generator).fingerprint == generator.fingerprint

    for start in range(0, 22, BATCH):  # the latents are those of the batch, computed here
        keys = faces.keys[start : start + BATCH]
        chips = [align(Image.open(faces.root / key).convert("RGB"), alignment) for key in keys]
        images = to_model_range(torch.from_numpy(np.stack([chip for chip, _ in chips])).permute(0, 3, 1, 2))
        want = inverter.inverter.invert(images)
        for i, key in enumerate(keys):
            record = cache.get(key)
            assert want.anchor is not None and record.latents.shape == (2, *generator.latent_spec.shape)
            np.testing.assert_array_equal(record.latents[0], want.w_plus[i].numpy().astype(np.float16))
            np.testing.assert_array_equal(record.latents[1], want.anchor[i].numpy().astype(np.float16))
            assert record.latents.dtype == np.float16
            np.testing.assert_array_equal(record.transform, chips[i][1])
            assert record.source_hash == hashlib.sha256((faces.root / key).read_bytes()).hexdigest()
            assert tuple(record.quality) == inverter.quality_names and np.isfinite(list(record.quality.values())).all()
            assert record.quality["mse"] == pytest.approx(float(want.quality["mse"][i]))


def test_odd_names(tmp_path: Path, model_file: Path) -> None:
    """Unicode, spaces, a name that is no UTF-8, and a path longer than LMDB's keys."""
    root, inverter = tmp_path / "images", build(model_file)
    names = ["ñandú/Übung 漢字 🙂.png", "with space, and comma.png", "/".join(["long" * 50] * 3) + "/x.png"]
    names.append(os.fsdecode(b"latin-\xe9.png"))
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(np.random.default_rng(number), 20, 20).save(root / name, "PNG")
    cache = cache_for(tmp_path / "new.lmdb", model_file, inverter)
    assert run(photos_in_folder(root), cache, inverter).images == len(names)
    assert cache.keys() == sorted(names) and cache.verify() == []
    inverter.images = 0
    assert run(photos_in_folder(root), cache, inverter).inverted == 0 == inverter.images


def test_second_run_inverts_nothing(faces: Faces, tmp_path: Path) -> None:
    cache, inverter = made(faces, tmp_path / "new.lmdb")
    before, inverter.images = (tmp_path / "new.lmdb" / "data.mdb").read_bytes(), 0
    result = run(photos_in_folder(faces.root), cache, inverter)
    assert (result.images, result.inverted, inverter.images) == (22, 0, 0)
    assert (tmp_path / "new.lmdb" / "data.mdb").read_bytes() == before


def test_changed_image_is_inverted_again(own_faces: Faces, tmp_path: Path) -> None:
    cache, inverter = made(own_faces, tmp_path / "new.lmdb")
    before = contents(cache)
    key = own_faces.keys[9]
    random_image(np.random.default_rng(99), 31, 24).save(own_faces.root / key)
    assert run(photos_in_folder(own_faces.root), cache, inverter).inverted == 1
    after = contents(cache)
    assert {k for k in after if after[k] != before[k]} == {key}
    assert cache.get(key).source_hash == content_hash((own_faces.root / key).read_bytes())
    fresh, _ = made(own_faces, tmp_path / "fresh.lmdb")
    assert_same(cache, fresh, {key})


def test_added_image_is_inverted(own_faces: Faces, tmp_path: Path) -> None:
    cache, inverter = made(own_faces, tmp_path / "new.lmdb")
    before = contents(cache)
    random_image(np.random.default_rng(5), 40, 40).save(own_faces.root / "first.png")
    assert run(photos_in_folder(own_faces.root), cache, inverter).inverted == 1
    after = contents(cache)
    assert after.keys() - before.keys() == {"first.png"}
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("what", ["latents", "source hash", "transform", "photo size"])
def test_damaged_record_is_inverted_again(faces: Faces, tmp_path: Path, what: str) -> None:
    path = tmp_path / "new.lmdb"
    cache, inverter = made(faces, path)
    whole, _ = made(faces, tmp_path / "whole.lmdb")
    key = faces.keys[13]
    record = cache.get(key)
    size = np.float32(record.photo_size).tobytes()
    needle = {
        "latents": record.latents.tobytes(),
        "source hash": bytes.fromhex(record.source_hash),
        "transform": record.transform.tobytes() + size + bytes.fromhex(record.source_hash),
        "photo size": size + bytes.fromhex(record.source_hash),
    }[what]
    cache.close()
    flip(path / "data.mdb", needle, 3)
    assert cache.verify() == [key]
    inverter.images = 0
    result = run(photos_in_folder(faces.root), cache, inverter)
    assert (result.inverted, result.images, inverter.images) == (1, 22, 1)
    assert cache.verify() == []
    assert_same(cache, whole, {key})


def test_damaged_record_elsewhere_does_not_stop_a_run(faces: Faces, tmp_path: Path) -> None:
    """The record of an image that this run is not about."""
    path = tmp_path / "new.lmdb"
    cache, inverter = made(faces, path)
    needle = cache.get(faces.keys[20]).latents.tobytes()
    cache.close()
    flip(path / "data.mdb", needle, len(needle) - 1)
    result = run(photos_in_folder(faces.root)[:8], cache, inverter)
    assert (result.inverted, result.images) == (0, 8)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "bob/03.png": lambda data: data[: len(data) // 2],
    "bob/04.jpg": lambda data: b"",
    "ann/02.jpg": lambda data: b"<html></html>",
}


def test_unreadable_images_harm_only_themselves(own_faces: Faces, tmp_path: Path) -> None:
    whole, inverter = made(own_faces, tmp_path / "whole.lmdb")
    good = {key: (own_faces.root / key).read_bytes() for key in BROKEN}
    for key, damage in BROKEN.items():
        (own_faces.root / key).write_bytes(damage(good[key]))
    random_image(np.random.default_rng(0), 3, 3).save(own_faces.root / "ann/tiny.png")
    cache = cache_for(tmp_path / "new.lmdb", own_faces.model, inverter)
    result = run(photos_in_folder(own_faces.root), cache, inverter)
    assert (result.images, result.failed) == (19, 4)
    failures = cache.failures()
    assert set(failures) == {*BROKEN, "ann/tiny.png"} and not failures.keys() & set(cache.keys())
    assert all(key in reason for key, reason in failures.items())
    assert "3x3" in failures["ann/tiny.png"] and "not an image" in failures["ann/02.jpg"]
    rest = [key for key in own_faces.keys if key not in BROKEN]
    assert cache.keys() == rest
    # The others sit in batches of other sizes now; the latents differ by rounding alone (float16: 2^-11).
    np.testing.assert_allclose(latents_of(cache, rest), latents_of(whole, rest), rtol=2e-3, atol=2e-3)

    for key, data in good.items():  # repaired: inverted, and no failure any more
        (own_faces.root / key).write_bytes(data)
    (own_faces.root / "ann/tiny.png").unlink()
    result = run(photos_in_folder(own_faces.root), cache, inverter)
    assert (result.images, result.inverted, result.failed) == (22, 3, 0)
    assert set(cache.failures()) == {"ann/tiny.png"}
    np.testing.assert_allclose(latents_of(cache, BROKEN), latents_of(whole, BROKEN), rtol=2e-3, atol=2e-3)


def test_nothing_readable(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"no")
    inverter = build(model_file)
    cache = cache_for(tmp_path / "new.lmdb", model_file, inverter)
    result = run(photos_in_folder(tmp_path / "images"), cache, inverter)
    assert (result.images, result.failed, result.psnr_median, inverter.images) == (0, 1, None, 0)


class Poisoned(Counting):
    """Gives one number for the latents of some images: those of a batch's row 1."""

    def __init__(self, inverter: Inverter, number: float) -> None:
        super().__init__(inverter)
        self.number = number

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        inversion = super().invert(images, batch_size)
        if len(images) > 1:
            inversion.w_plus[1, 0, 3] = self.number
            inversion.quality = {name: values.clone() for name, values in inversion.quality.items()}
            inversion.quality["psnr"][1] = float("nan")
        return inversion


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e5])
def test_diverged_inversion_fails_only_its_image(faces: Faces, tmp_path: Path, number: float) -> None:
    """1e5 does not fit float16; the run goes on all the same."""
    whole, inverter = made(faces, tmp_path / "whole.lmdb")
    poisoned = Poisoned(inverter, number)
    cache = cache_for(tmp_path / "new.lmdb", faces.model, poisoned)
    result = run(photos_in_folder(faces.root), cache, poisoned)
    lost = faces.keys[1::BATCH]
    assert (result.images, result.failed, result.inverted) == (16, 6, 16)
    assert sorted(cache.failures()) == sorted(lost) and all("finite" in r for r in cache.failures().values())
    want = contents(whole)
    assert contents(cache) == {key: want[key] for key in faces.keys if key not in lost}
    photos, inverter.images = photos_in_folder(faces.root), 0
    result = run(photos, cache, inverter)
    assert (result.images, result.failed, result.inverted, inverter.images) == (16, 6, 0, 0), "nothing has changed"
    result = precompute(photos, cache, inverter, CPU, BATCH, progress=False, retry_failed=True)
    assert (result.images, result.failed, result.inverted, inverter.images) == (22, 0, 6, 6)
    assert cache.failures() == {}
    assert_same(cache, whole, lost)


def test_float32_cache_takes_large_latents(faces: Faces, tmp_path: Path) -> None:
    poisoned = Poisoned(build(faces.model), 1e5)
    cache = cache_for(tmp_path / "new.lmdb", faces.model, poisoned, "float32")
    assert run(photos_in_folder(faces.root)[:4], cache, poisoned).images == 4
    assert cache.get(faces.keys[1]).latents.reshape(-1)[3] == 1e5


def chips_of(faces: Faces) -> Tensor:
    """``(22, 3, R, R)`` in [-1, 1]."""
    chips = [align(Image.open(faces.root / key).convert("RGB"), Alignment(size=RESOLUTION))[0] for key in faces.keys]
    return to_model_range(torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2))


INVERTER_NAMES = ["hybrid", "optimization", "encoder"]


@pytest.mark.parametrize("name", INVERTER_NAMES)
def test_a_row_depends_on_its_own_image_alone(faces: Faces, name: str) -> None:
    """To the bit, whoever is beside it in a batch of that size; in bfloat16 too, where the processor has it."""
    images, own = chips_of(faces), [0, 3, 5, 21]
    others = images.flip(3)
    others[own], others[4] = images[own], torch.nan
    inverter = build(faces.model, name, steps=12)
    found, beside_others = inverter.invert(images), inverter.invert(others)
    assert not torch.isfinite(beside_others.w_plus[4]).all()
    assert not torch.equal(beside_others.w_plus[6], found.w_plus[6])
    assert torch.equal(beside_others.w_plus[own], found.w_plus[own])
    assert torch.equal(beside_others.quality["mse"][own], found.quality["mse"][own])


@pytest.mark.parametrize("name", INVERTER_NAMES)
def test_the_size_of_a_batch_changes_rounding_alone(faces: Faces, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # That of bfloat16 is 65,536 times coarser, and its gradients point elsewhere.
    monkeypatch.setattr("ganaug.precision.multiplies_bfloat16", lambda device_type: False)
    images, inverter = chips_of(faces), build(faces.model, name, steps=6)
    generator = load_generator(faces.model)
    together, alone = inverter.invert(images), [inverter.invert(image[None]) for image in images[::3]]
    for found, one in zip(together.w_plus[::3], alone, strict=True):
        # Of pictures: optimisers step far where those hardly change, and stretch what was rounded of a code.
        torch.testing.assert_close(generator.synthesis(found[None]), generator.synthesis(one.w_plus), rtol=0, atol=4e-2)
    mse = torch.cat([one.quality["mse"] for one in alone])
    torch.testing.assert_close(together.quality["mse"][::3], mse, rtol=1e-2, atol=0)


def test_other_makers_are_refused_with_both_values(faces: Faces, tmp_path: Path) -> None:
    cache, inverter = made(faces, tmp_path / "new.lmdb")
    before = contents(cache)
    other = write_model(tmp_path / "other.safetensors", seed=7)
    with pytest.raises(CacheError) as caught:
        cache_for(cache.path, other, build(other))  # type: ignore[arg-type]
    for word in ("fingerprint", load_generator(faces.model).fingerprint, load_generator(other).fingerprint):
        assert word in str(caught.value)
    for changed, words in (
        (build(faces.model, steps=STEPS + 1), (f"'steps': {STEPS}", f"'steps': {STEPS + 1}")),
        (build(faces.model, "encoder"), ("'hybrid'", "'encoder'")),
        (build(faces.model, "optimization"), ("'hybrid'", "'optimization'")),
    ):
        with pytest.raises(CacheError) as caught:
            cache_for(cache.path, faces.model, changed)  # type: ignore[arg-type]
        for word in ("inverter differs", cache.path, *words):
            assert word in str(caught.value)
    with pytest.raises(CacheError, match=r"dtype differs.*'float16'.*'float32'"):
        cache_for(cache.path, faces.model, inverter, "float32")  # type: ignore[arg-type]
    assert contents(cache) == before


def test_another_place_for_the_same_model_is_fine(faces: Faces, tmp_path: Path) -> None:
    cache, _ = made(faces, tmp_path / "new.lmdb")
    copy = tmp_path / "moved.safetensors"
    copy.write_bytes(faces.model.read_bytes())
    inverter = build(copy)
    again = cache_for(tmp_path / "new.lmdb", copy, inverter)
    assert run(photos_in_folder(faces.root), again, inverter).inverted == 0 and again.path == cache.path


def test_batch_size_must_be_positive(faces: Faces) -> None:
    with pytest.raises(UserInputError, match="at least 1, got 0"):
        run(photos_in_folder(faces.root), LatentCache(faces.cache), build(faces.model), batch_size=0)


def test_model_without_its_encoder(tmp_path: Path, faces: Faces) -> None:
    from ganaug import checkpoints
    from ganaug.interfaces import CheckpointError

    path = tmp_path / "alone.safetensors"
    parts = {part: checkpoints.read_part(faces.model, part) for part in ("generator", "features")}
    checkpoints.write(path, parts, checkpoints.read_metadata(faces.model))
    with pytest.raises(CheckpointError, match=r"alone\.safetensors holds no encoder"):
        build(path)
    assert build(path, "optimization").name == "optimization"


# Datasets


class Items(Dataset[Any]):
    """A dataset of whatever items; callables are called, so that an item can raise."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        return item() if callable(item) else item


def some_pixels(size: int = 20) -> np.ndarray:
    return np.asarray(random_image(np.random.default_rng(3), size, size))


def test_kinds_of_items() -> None:
    pixels = some_pixels()
    tensor, picture = torch.from_numpy(pixels.copy()).permute(2, 0, 1), Image.fromarray(pixels)
    photos = photos_of_dataset(
        Items((tensor, 1), [tensor.float() / 255, "x"], {"label": 3, "image": picture}, picture, (7, picture))
    )
    assert [photo.key for photo in photos] == ["0", "1", "2", "3", "4"]
    for photo in photos:
        image, source_hash = photo.read()
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert source_hash == hashlib.sha256(pixels.tobytes()).hexdigest()


def raise_(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((1, "label"), "no RGB image"),
        ("a/path.jpg", "no RGB image"),
        ((torch.zeros(1, 20, 20), 0), "no RGB image"),
        ((torch.zeros(3, 8, 8), 0), "8x8"),
        ((torch.full((3, 20, 20), -1.0), 0), r"in \[0, 1\], got -1 to -1"),
        ((torch.full((3, 20, 20), float("nan")), 0), r"in \[0, 1\], got nan"),
        (lambda: raise_(OSError("image file is truncated")), "OSError: image file is truncated"),
        (lambda: raise_(RuntimeError("worker lost")), "RuntimeError: worker lost"),
    ],
)
def test_odd_items_fail_alone(item: Any, message: str, tmp_path: Path, model_file: Path) -> None:
    inverter = build(model_file)
    cache = cache_for(tmp_path / "new.lmdb", model_file, inverter)
    photos = photos_of_dataset(Items(Image.fromarray(some_pixels()), item))
    with pytest.raises(ImageError, match=message):
        photos[1].read()
    result = run(photos, cache, inverter)
    assert (result.images, result.failed) == (1, 1) and set(cache.failures()) == {"1"}


def test_datasets_that_know_their_files(faces: Faces) -> None:
    """The file is read, not the transformed item; keys are those of the folder."""
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(str(faces.root), transform=lambda image: 0)
    photos = photos_of_dataset(folder)
    assert [photo.key for photo in photos] == faces.keys
    assert photos[5].read()[1] == content_hash((faces.root / faces.keys[5]).read_bytes())
    part = ConcatDataset([Subset(folder, [3, 1]), Subset(folder, [20])])
    assert [photo.key for photo in photos_of_dataset(part)] == [faces.keys[i] for i in (3, 1, 20)]
    named = photos_of_dataset(folder, key=lambda index: f"face {index}")
    assert named[3].key == "face 3" and named[3].read()[1] == photos[3].read()[1]


def test_dataset_gives_the_same_latents_as_its_folder(faces: Faces, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    cache, inverter = made(faces, tmp_path / "folder.lmdb")
    other = cache_for(tmp_path / "dataset.lmdb", faces.model, inverter)
    run(photos_of_dataset(ImageFolder(str(faces.root))), other, inverter)
    assert contents(other) == contents(cache)


@pytest.fixture
def module_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the working folder; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    written: list[str] = []

    def write(code: str) -> str:
        name = f"users_module_{tmp_path.name}_{len(written)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        written.append(name)
        return name

    return write


def test_source_is_a_function(module_here: Callable[[str], str], faces: Faces) -> None:
    name = module_here(f"""
        from torchvision.datasets import ImageFolder
        def faces():
            return ImageFolder({str(faces.root)!r})
    """)
    assert [photo.key for photo in photos_from(f"{name}:faces")] == faces.keys
    assert [photo.key for photo in photos_from(str(faces.root))] == faces.keys


def test_folder_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = write_faces(tmp_path / "faces:2024", per_class=1)
    assert [photo.key for photo in photos_from("faces:2024")] == keys


@pytest.mark.parametrize(
    ("code", "function", "message"),
    [
        ("def faces(): return 5", "faces", "map-style dataset.*got int"),
        ("def faces(): return None", "faces", "map-style dataset.*got NoneType"),
        ("def faces(): yield 1", "faces", "map-style dataset.*got generator"),
        ("def faces(): return []", "faces", "without items"),
        ("faces = 5", "faces", "failed: TypeError"),
        ("def faces(root): return []", "faces", "failed: TypeError.*root"),
        ("def faces(): raise RuntimeError('no\\nconnection')", "faces", "failed: RuntimeError: no\nconnection"),
        ("def other(): pass", "faces", "cannot import.*AttributeError.*faces"),
        ("def other(): pass", "", "cannot import"),
        ("import not_installed_at_all", "faces", "cannot import.*not_installed_at_all"),
        ("def faces(:", "faces", "cannot import.*SyntaxError"),
        ("1 / 0", "faces", "cannot import.*ZeroDivisionError"),
    ],
)
def test_silly_sources(module_here: Callable[[str], str], code: str, function: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        photos_from(f"{module_here(code)}:{function}")


@pytest.mark.parametrize("source", [":faces", ".relative:faces", "no_such_module_here:faces", "ganaug.nowhere:faces"])
def test_modules_that_are_not_there(source: str) -> None:
    with pytest.raises(UserInputError, match="cannot import"):
        photos_from(source)


def test_tensor_dataset_through_the_function(
    module_here: Callable[[str], str], tmp_path: Path, model_file: Path
) -> None:
    name = module_here("""
        import torch
        def faces():
            images = torch.linspace(0, 1, 3 * 3 * 20 * 20).reshape(3, 3, 20, 20)
            return torch.utils.data.TensorDataset(images, torch.arange(3))
    """)
    inverter = build(model_file)
    cache = cache_for(tmp_path / "new.lmdb", model_file, inverter)
    assert run(photos_from(f"{name}:faces"), cache, inverter).images == 3
    assert cache.keys() == ["0", "1", "2"]
    images = torch.linspace(0, 1, 3 * 3 * 20 * 20).reshape(3, 3, 20, 20)
    assert run(photos_of_dataset(TensorDataset(images)), cache, inverter).inverted == 0


# Kills

DRIVER = """
    import hashlib, json, os, random, signal, sys, time
    import torch
    from pathlib import Path
    from ganaug.cache import LatentCache
    from ganaug.generators import load_generator
    from ganaug.inversion import build_inverter
    from ganaug.faces.photos import photos_in_folder
    from ganaug.precompute import make_header, precompute

    torch.set_num_threads(1)
    model, images, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    wanted, rng, cpu = int(sys.argv[4]), random.Random(int(sys.argv[5])), torch.device("cpu")

    # Imported here once, so that a child's time goes into its work. No backward pass: autograd's threads cannot fork.
    warm = load_generator(model)
    with torch.no_grad():
        warm.synthesis(warm.mapping(torch.zeros(1, warm.z_dim)))
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def start(cache):
        # One run in a process of its own, forked before this one has opened a cache or started a thread.
        child = os.fork()
        if child == 0:
            generator = load_generator(model)
            inverter = build_inverter("hybrid", generator, model, cpu, 12)
            target = LatentCache.create(cache, make_header(generator, model, inverter))
            precompute(photos_in_folder(images), target, inverter, cpu, 2, progress=False)
            os._exit(0)
        return child

    def told(cache):
        # In a process of its own too, so that this one never opens a cache.
        reading, writing = os.pipe()
        if os.fork() == 0:
            opened = LatentCache(cache)
            records = [[r.key, hashlib.sha256(r.latents.tobytes() + r.transform.tobytes()).hexdigest(),
                        [v for k, v in r.quality.items() if k != "seconds"], r.source_hash] for r in opened.records()]
            facts = {"digest": opened.digest(), "records": records, "failures": opened.failures(),
                     "damaged": opened.verify()}
            os.write(writing, json.dumps(facts).encode())
            os._exit(0)
        os.close(writing)
        facts = json.loads(os.fdopen(reading, "rb").read())
        os.wait()
        return facts

    began = time.monotonic()
    assert os.waitpid(start(out / "whole"), 0)[1] == 0
    duration = time.monotonic() - began
    report = {"seconds": duration, "whole": told(out / "whole"), "resumed": [], "kills": 0, "partial": 0}
    chain = 0

    def more():
        # On a machine that has become busier since the first run, nothing is committed in that time: then longer ones.
        return report["kills"] < wanted or (report["partial"] < 3 and report["kills"] < 4 * wanted)

    while more():
        cache, done = out / f"chain{chain}", False
        while not done:
            child = start(cache)
            if more():
                time.sleep(rng.uniform(0, 0.6 * duration * (1 + report["kills"] // wanted)))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            done = status == 0
            assert done or os.WTERMSIG(status) == signal.SIGKILL, status
            report["kills"] += not done
            if not done and (cache / "data.mdb").exists():
                try:
                    report["partial"] += 0 < len(told(cache)["records"]) < 24
                except ValueError:  # killed before there was a header
                    pass
        report["resumed"].append(told(cache))
        chain += 1
    both = [start(out / "together"), start(out / "together")]
    assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
    report["together"] = told(out / "together")
    print(json.dumps(report))
"""


def test_kills_change_nothing(own_faces: Faces, tmp_path: Path) -> None:
    """16 SIGKILLs or more at random moments; every resumed cache equals that of an uninterrupted run, in every field.

    Also two runs at the same time over one cache: each does all, and the result is the same.
    """
    (own_faces.root / "bob/03.png").write_bytes(b"damaged")
    random_image(np.random.default_rng(1), 30, 21).save(own_faces.root / "ann/a.png")
    random_image(np.random.default_rng(2), 21, 30).save(own_faces.root / "ann/b.png")
    arguments = [str(own_faces.model), str(own_faces.root), str(tmp_path), "16", "0"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    whole = report["whole"]
    assert len(whole["records"]) == 23 and set(whole["failures"]) == {"bob/03.png"} and whole["damaged"] == []
    assert report["kills"] >= 16 and report["partial"] >= 3 and report["resumed"]
    for resumed in (*report["resumed"], report["together"]):
        assert resumed == whole


def test_interrupted_between_batches_loses_at_most_one(faces: Faces, tmp_path: Path) -> None:
    """What a batch committed stays; the rest is done by the next run, and only that."""

    class Dying(Counting):
        def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
            if self.images == 2 * BATCH:
                raise KeyboardInterrupt
            return super().invert(images, batch_size)

    whole, inverter = made(faces, tmp_path / "whole.lmdb")
    dying = Dying(inverter)
    cache = cache_for(tmp_path / "new.lmdb", faces.model, dying)
    with pytest.raises(KeyboardInterrupt):
        run(photos_in_folder(faces.root), cache, dying)
    assert cache.keys() == faces.keys[: 2 * BATCH]
    inverter.images = 0
    assert run(photos_in_folder(faces.root), cache, inverter).inverted == 22 - 2 * BATCH == inverter.images
    assert contents(cache) == contents(whole) and cache.digest() == whole.digest()


def test_result_is_plain() -> None:
    result = PrecomputeResult(3, 1, 2, 0.5, None, 16)
    assert json.loads(json.dumps(result.to_dict())) == {
        "images": 3,
        "failed": 1,
        "inverted": 2,
        "seconds": 0.5,
        "psnr_median": None,
        "batch_size": 16,
        "images_per_second": None,
    }


def test_full_disk_stops_the_run(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a failure of an image: nothing is noted, and the next run does it."""
    inverter = build(faces.model)
    cache = cache_for(tmp_path / "new.lmdb", faces.model, inverter)

    def full(self: LatentCache, records: Iterable[Record]) -> None:
        raise CacheError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(LatentCache, "put_many", full)
        with pytest.raises(CacheError, match="no space left"):
            run(photos_in_folder(faces.root), cache, inverter)
    assert cache.failures() == {} and len(cache) == 0
    assert run(photos_in_folder(faces.root), cache, inverter).images == 22


def test_photos_are_read_late(faces: Faces) -> None:
    """Listing a folder opens no image."""
    opened: list[str] = []
    original = io.open

    def watching(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(path))
        return original(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", watching)
        photos = photos_in_folder(faces.root)
        assert opened == []
        photos[0].read()
        assert opened == [str(faces.root / faces.keys[0])]


# --- Alignment by points ----------------------------------------------------------------------------------------------


class Pointing:
    """A detector that knows its photos by their size; counts what it is asked for."""

    def __init__(self, faces: Mapping[tuple[int, int], Sequence[Face]]) -> None:
        self.faces, self.asked = faces, 0

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        self.asked += len(images)
        return [list(self.faces.get(image.size, ())) for image in images]


def face(left: float, top: float, side: float) -> Face:
    """A face whose fairface chip is this square of the photo."""
    points = (TEMPLATES["fairface"] * side + [left, top]).astype(np.float32)
    return Face(np.array([left, top, left + side, top + side], np.float32), 0.99, points)


def crop_matrix(left: float, top: float, side: float) -> np.ndarray:
    scale = RESOLUTION / side
    return np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])


def by_points(path: Path, model: Path, inverter: Inverter, **values: Any) -> LatentCache:
    alignment = Alignment("points", RESOLUTION, **{"template": "fairface", **values})
    return LatentCache.create(path, make_header(load_generator(model), model, inverter, alignment=alignment))


# Width -> the squares of the faces in a photo of that size, largest last.
CROWD = {
    (40, 40): [(4.0, 6.0, 30.0)],
    (50, 40): [(2.0, 2.0, 14.0), (26.0, 12.0, 22.0)],  # the smaller one is farther from the middle
    (60, 40): [(22.0, 12.0, 14.0), (0.0, 0.0, 18.0)],  # the smaller one is in the middle
    (44, 40): [],
}


def crowd(root: Path) -> tuple[list[str], Pointing]:
    """A photo of each size of CROWD, and who finds the faces in them."""
    root.mkdir(exist_ok=True)
    keys = []
    for number, size in enumerate(CROWD):
        keys.append(f"{number}.png")
        random_image(np.random.default_rng(number), *size).save(root / keys[-1])
    return keys, Pointing({size: [face(*square) for square in squares] for size, squares in CROWD.items()})


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ("largest", {"0.png": 0, "1.png": 1, "2.png": 1}),
        ("central", {"0.png": 0, "1.png": 1, "2.png": 0}),
        ("all", {"0.png": 0, "1.png": 1, "1.png#1": 0, "2.png": 1, "2.png#1": 0}),
    ],
)
def test_one_face_several_and_none(faces: Faces, tmp_path: Path, which: str, wanted: dict[str, int]) -> None:
    keys, detector = crowd(tmp_path / "photos")
    inverter = build(faces.model)
    cache = by_points(tmp_path / "new.lmdb", faces.model, inverter, which_face=which, detector="pointing")
    photos = photos_in_folder(tmp_path / "photos")
    result = precompute(photos, cache, inverter, CPU, BATCH, progress=False, detector=detector)
    assert cache.keys() == sorted(wanted)
    assert (result.images, result.inverted, result.failed) == (3, len(wanted), 1)
    (reason,) = cache.failures().values()
    assert "3.png: no face found; pointing sees none in the photo of 44x40 px" in reason
    sizes = dict(zip(keys, CROWD, strict=True))
    chips = []
    for key, number in wanted.items():
        record, size = cache.get(key), sizes[key.partition("#")[0]]
        np.testing.assert_allclose(record.transform, crop_matrix(*CROWD[size][number]), atol=1e-4)
        assert record.photo_size == size
        chips.append(cut(Image.open(tmp_path / "photos" / key.partition("#")[0]), record.transform, RESOLUTION))
    # In parts of at most BATCH, as they were inverted: the latents are those of the chips.
    got = latents_of(cache, wanted)
    for start in range(0, len(chips), BATCH):
        part = torch.from_numpy(np.stack(chips[start : start + BATCH])).permute(0, 3, 1, 2)
        inversion = build(faces.model).invert(to_model_range(part))
        np.testing.assert_array_equal(got[start : start + BATCH, 0], inversion.w_plus.half().float())

    before, asked, inverted = contents(cache), detector.asked, inverter.images
    assert len(photos) == asked == 4
    again = precompute(photos[:3], cache, inverter, CPU, 3, progress=False, detector=detector)
    assert (
        again.inverted == 0 and detector.asked == asked and inverter.images == inverted
    )  # nothing is looked for again
    assert contents(cache) == before


def test_a_photo_that_has_fewer_faces_now(faces: Faces, tmp_path: Path) -> None:
    _, detector = crowd(tmp_path / "photos")
    inverter = build(faces.model)
    cache = by_points(tmp_path / "new.lmdb", faces.model, inverter, which_face="all", detector="pointing")

    def again() -> None:
        photos = photos_in_folder(tmp_path / "photos")
        precompute(photos, cache, inverter, CPU, BATCH, progress=False, detector=detector)

    again()
    assert "2.png#1" in cache
    random_image(np.random.default_rng(9), 40, 40).save(tmp_path / "photos" / "2.png")
    again()
    assert cache.keys() == ["0.png", "1.png", "1.png#1", "2.png"] and cache.get("2.png").photo_size == (40, 40)
    clash = [*photos_in_folder(tmp_path / "photos"), Photo("1.png#1", lambda: pytest.fail("it must not be read"))]
    with pytest.raises(UserInputError, match=r"the photo '1\.png#1' has the key of a further face of '1\.png'"):
        precompute(clash, cache, inverter, CPU, BATCH, progress=False, detector=detector)


def test_known_points_need_no_detector_and_are_looked_at_again(faces: Faces, tmp_path: Path) -> None:
    random_image(np.random.default_rng(0), 40, 40).save(tmp_path / "a.png")
    inverter = build(faces.model)
    cache = by_points(tmp_path / "new.lmdb", faces.model, inverter, detector="mtcnn")

    def result_for(square: tuple[float, float, float]) -> PrecomputeResult:
        read = photos_in_folder(tmp_path)[0].read
        return run([Photo("a.png", read, points=face(*square).points)], cache, inverter)

    with pytest.MonkeyPatch.context() as patch:
        loaded = [name for name in sys.modules if name.partition(".")[0] == "facenet_pytorch"]
        for name in ("facenet_pytorch", *loaded):  # not installed, nor loaded by an earlier test
            patch.setitem(sys.modules, name, None)
        patch.delitem(sys.modules, "ganaug.faces.mtcnn", raising=False)
        assert result_for((4.0, 6.0, 30.0)).inverted == 1
        np.testing.assert_allclose(cache.get("a.png").transform, crop_matrix(4, 6, 30), atol=1e-4)
        assert result_for((4.0, 6.0, 30.0)).inverted == 0
        assert result_for((4.0, 6.05, 30.0)).inverted == 0  # less than a tenth of a pixel
        assert result_for((5.0, 6.0, 30.0)).inverted == 1  # somebody corrected them
        np.testing.assert_allclose(cache.get("a.png").transform, crop_matrix(5, 6, 30), atol=1e-4)
        result = result_for((400.0, 6.0, 30.0))
        assert (result.inverted, result.failed) == (0, 1)
        assert "a.png: the points of the face have their middle at" in cache.failures()["a.png"]
        assert run(photos_in_folder(tmp_path), cache, inverter).inverted == 0  # the record is of this very file
        cache.forget(["a.png"])
        with pytest.raises(UserInputError, match=r"ganaug\[faces\]"):
            run(photos_in_folder(tmp_path), cache, inverter)


def test_chips_are_known_by_their_size(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ArcFace's chip from its size, with a note; any photo as a chip if the user says so; none if she says that."""
    random_image(np.random.default_rng(0), 112, 112).save(tmp_path / "a.png")
    random_image(np.random.default_rng(1), 50, 50).save(tmp_path / "b.png")
    photos, inverter = photos_in_folder(tmp_path), build(faces.model)

    def run_with(name: str, **values: Any) -> LatentCache:
        cache = by_points(tmp_path / name, faces.model, inverter, **values)
        run(photos, cache, inverter)
        return cache

    cache = run_with("auto.lmdb")
    want = similarity(TEMPLATES["arcface"] * 112, "fairface", RESOLUTION)
    np.testing.assert_allclose(cache.get("a.png").transform, want, atol=1e-4)
    assert list(cache.failures()) == ["b.png"] and "no detector was asked" in cache.failures()["b.png"]
    assert "note: 1 image(s) have the size of arcface chips" in capsys.readouterr().err

    cache = run_with("named.lmdb", chips="fairface")
    for key, side in (("a.png", 112), ("b.png", 50)):
        np.testing.assert_allclose(cache.get(key).transform, crop_matrix(0, 0, side), atol=1e-4)
    assert capsys.readouterr().err == ""
    assert sorted(run_with("none.lmdb", chips=None).failures()) == ["a.png", "b.png"]


def test_what_decides_the_chips_is_in_the_header(faces: Faces, tmp_path: Path) -> None:
    inverter, path = build(faces.model), tmp_path / "new.lmdb"
    cache = by_points(path, faces.model, inverter, detector="pointing")
    assert cache.header.alignment == {
        "mode": "points",
        "size": RESOLUTION,
        "template": "fairface",
        "which_face": "largest",
        "chips": "auto",
        "detector": "pointing",
    }
    for other in ({"template": "ffhq"}, {"which_face": "all"}, {"detector": None}, {"chips": None}):
        with pytest.raises(CacheError, match="alignment differs"):
            by_points(path, faces.model, inverter, **{"detector": "pointing", **other})
    with pytest.raises(CacheError, match="alignment differs"):
        cache_for(path, faces.model, inverter)
    photos = photos_in_folder(faces.root)
    with pytest.raises(UserInputError, match="unknown detector 'pointing': expected one of mtcnn"):
        run(photos, cache, inverter)
    nameless = by_points(tmp_path / "other.lmdb", faces.model, inverter)
    with pytest.raises(UserInputError, match=r"must name it: give Alignment\(detector=NAME\)"):
        precompute(photos, nameless, inverter, CPU, detector=Pointing({}), progress=False)
    centred = cache_for(tmp_path / "centred.lmdb", faces.model, inverter)
    with pytest.raises(UserInputError, match="no use for alignment mode 'center'"):
        precompute(photos, centred, inverter, CPU, detector=Pointing({}), progress=False)
    with pytest.raises(UserInputError, match="cuts chips of 32 px, but the generator makes 16 px"):
        make_header(load_generator(faces.model), faces.model, inverter, alignment=Alignment(size=32))


def test_a_run_by_points_that_was_stopped(faces: Faces, tmp_path: Path) -> None:
    """Stopped after the second batch and run again: the records of a run that was not."""
    for number in range(12):
        size = list(CROWD)[number % 4]
        random_image(np.random.default_rng(number), *size).save(tmp_path / f"{number:02d}.png")
    photos = photos_in_folder(tmp_path)
    _, detector = crowd(tmp_path / "none")
    inverter = build(faces.model)
    values: dict[str, Any] = {"which_face": "all", "detector": "pointing"}
    whole, stopped = (by_points(tmp_path / name, faces.model, inverter, **values) for name in ("a.lmdb", "b.lmdb"))
    precompute(photos, whole, inverter, CPU, BATCH, progress=False, detector=detector)
    precompute(photos[: 2 * BATCH], stopped, inverter, CPU, BATCH, progress=False, detector=detector)
    lost = photos[1].key
    stopped.forget([lost])  # as if it had been damaged
    inverter.images = 0
    result = precompute(photos, stopped, inverter, CPU, BATCH, progress=False, detector=detector)
    assert result.inverted == inverter.images == 1 + 5, "one anew, and the five faces of the last batch"
    assert_same(stopped, whole, {lost})


def test_many_pixels_are_not_held_together(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The detector gets fewer photos at a time where they are large; nothing else changes."""
    _, detector = crowd(tmp_path / "photos")
    photos, inverter = photos_in_folder(tmp_path / "photos"), build(faces.model)
    caches = [by_points(tmp_path / n, faces.model, inverter, detector="pointing") for n in ("a.lmdb", "b.lmdb")]
    precompute(photos, caches[0], inverter, CPU, BATCH, progress=False, detector=detector)
    sizes: list[int] = []
    monkeypatch.setattr("ganaug.faces.chips._MAX_PIXELS_HELD", 3000)
    find = detector.detect
    monkeypatch.setattr(detector, "detect", lambda images: sizes.append(len(images)) or find(images))
    precompute(photos, caches[1], inverter, CPU, BATCH, progress=False, detector=detector)
    assert sizes == [2, 2] and contents(caches[0]) == contents(caches[1])
    assert caches[0].failures() == caches[1].failures()
