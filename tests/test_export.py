"""Exports: what is in the files, killed and continued, replayed; and pictures that say they are generated."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from ganaug import GANAugmentedDataset, Recipe, UserInputError, replay
from ganaug.cached_faces import InversionDataset, PhotoDataset
from ganaug.cli import main
from ganaug.errors import CacheError, ImageError
from ganaug.export import export_variants, file_name
from ganaug.faces.photos import Photo, photos_in_folder
from ganaug.provenance import Source, read_recipes
from ganaug.synthetic import SYNTHETIC_TAG, check_png, read_synthetic, save_synthetic


def wrap(faces: Faces, **options: Any) -> GANAugmentedDataset:
    options = {"ratio": 1.0, "edits": ["fine", "middle"], "classical": None} | options
    return GANAugmentedDataset(ImageFolder(faces.root, PILToTensor()), faces.cache, **options)


def export(train: GANAugmentedDataset, out: Path, variants: int = 2, **options: Any) -> dict[str, Any]:
    return export_variants(train, out, variants, batch_size=5, progress=False, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def manifest_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_an_export(faces: Faces, tmp_path: Path) -> None:
    train = wrap(faces)
    figures = export(train, tmp_path / "out")
    assert (figures["generated"], figures["written_now"]) == (44, 44)
    rows = manifest_of(tmp_path / "out")
    expected = [f"images/{key}.v{epoch}.png" for epoch in range(2) for key in faces.keys]
    assert [row["file"] for row in rows] == expected
    assert [row["label"] for row in rows] == [key.split("/")[0] for key in faces.keys] * 2
    assert {row["epoch"] for row in rows} == {"0", "1"} and {row["scale"] for row in rows} == {"1.0"}
    recipes = read_recipes(tmp_path / "out" / "recipes.jsonl")
    drawn = [recipe for epoch in range(2) for recipe in train.draw(range(22), epoch).rows()]
    assert recipes == drawn, "what a training loop draws"
    for row, recipe in zip(rows, recipes, strict=True):
        mark = read_synthetic(tmp_path / "out" / row["file"])
        assert mark is not None and mark["generator"] == train.header.fingerprint
        assert Recipe.from_dict(mark["recipe"]) == recipe
        assert row["edits"].split(";") == [edit.name for edit in recipe.edits]
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_recipes_replay_to_equal_pixels(faces: Faces, tmp_path: Path) -> None:
    train = wrap(faces, classical="default", edits=["fine", "pca1", "jitter_coarse", "resample"], seed=4)
    export(train, tmp_path / "out", 1)
    for row in manifest_of(tmp_path / "out")[::5]:
        mark = read_synthetic(tmp_path / "out" / row["file"])
        assert mark is not None
        images, _ = replay(train, Recipe.from_dict(mark["recipe"]))
        written = np.asarray(Image.open(tmp_path / "out" / row["file"]))
        np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), written)


def test_only_generated_faces_are_written(faces: Faces, tmp_path: Path) -> None:
    train = wrap(faces, ratio=0.3)
    figures = export(train, tmp_path / "out", 3)
    drawn = [recipe for epoch in range(3) for recipe in train.draw(range(22), epoch).rows()]
    wanted = [f"images/{r.key}.v{r.epoch}.png" for r in drawn if r.is_generated]
    assert 5 < len(wanted) < 40
    assert [row["file"] for row in manifest_of(tmp_path / "out")] == wanted
    assert sorted(p for p in files_of(tmp_path / "out") if p.startswith("images/")) == sorted(wanted)
    assert figures["generated"] == len(wanted) and figures["real"] == 66 - len(wanted)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("batches", [0, 1, 4, 7])
def test_killed_and_continued_gives_the_same_files(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """Stopped after files of a batch were written but before they were counted; 5 batches an epoch."""
    whole = export(wrap(faces, ratio=0.7), tmp_path / "whole")
    from ganaug.export import _Files

    commit, left = _Files.commit, [batches + 1]  # the first one says what the settings are

    def killed(self: Any, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        commit(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_Files, "commit", killed)
        with pytest.raises(_Killed):
            export(wrap(faces, ratio=0.7), tmp_path / "parts")
    assert files_of(tmp_path / "parts") != files_of(tmp_path / "whole")
    figures = export(wrap(faces, ratio=0.7), tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert figures["generated"] == whole["generated"]
    assert 0 < figures["written_now"] <= whole["generated"]
    again = export(wrap(faces, ratio=0.7), tmp_path / "parts")
    assert (again["written_now"], again["generated"]) == (0, whole["generated"])
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_killed_for_real(faces: Faces, tmp_path: Path) -> None:
    """SIGKILL at any time; the command then continues."""
    arguments = ["--cache", faces.cache, "--images", faces.root, "--edits", "fine", "--size", 24, "--batch-size", 2]
    arguments += ["--variants-per-image", 6]
    command = [sys.executable, "-m", "ganaug.cli", "export", *map(str, arguments), "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "parts")], stderr=subprocess.DEVNULL)
    images, deadline = tmp_path / "parts" / "images", time.monotonic() + 60
    while len(list(images.rglob("*.png")) if images.exists() else []) < 20 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 20 <= len(list(images.rglob("*.png"))) < 132, "it was in the middle"
    for name in ("parts", "whole"):
        assert main(["export", *map(str, arguments), "--out", str(tmp_path / name)]) == 0
    whole = files_of(tmp_path / "whole")
    assert files_of(tmp_path / "parts") == whole and len(whole) == 135


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0 there, 1 now"),
        ({"ratio": 0.5}, "ratio 1.0 there, 0.5 now"),
        ({"edits": ["fine"]}, r"edits \['fine', 'middle'\] there, \['fine'\] now"),
        ({"classical": "default"}, "first_draws"),
        ({"paste": "whole"}, "paste 'paste' there, 'whole' now"),
    ],
)
def test_other_settings_are_refused(faces: Faces, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    export(wrap(faces), tmp_path / "out", 1)
    before = files_of(tmp_path / "out")
    with pytest.raises(UserInputError, match=message):
        export(wrap(faces, **change), tmp_path / "out", 1)
    with pytest.raises(UserInputError, match="variants_per_image 1 there, 2 now"):
        export(wrap(faces), tmp_path / "out", 2)
    assert files_of(tmp_path / "out") == before


def test_what_else_lies_in_the_folder(faces: Faces, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserInputError, match="not empty and holds no export"):
        export(wrap(faces), tmp_path / "full")
    export(wrap(faces), tmp_path / "out", 1)
    state = (tmp_path / "out" / "export.json").read_text()
    for text in ("{", "[]", "{}", json.dumps({**json.loads(state), "sizes": {}})):
        (tmp_path / "out" / "export.json").write_text(text)
        with pytest.raises(UserInputError, match="damaged"):
            export(wrap(faces), tmp_path / "out", 1)
    (tmp_path / "out" / "export.json").write_text(state)
    (tmp_path / "out" / "recipes.jsonl").write_text("")
    with pytest.raises(UserInputError, match=r"recipes\.jsonl was cut off or is gone"):
        export(wrap(faces), tmp_path / "out", 1)
    with pytest.raises(UserInputError, match="at least 1, got 0"):
        export(wrap(faces), tmp_path / "new", 0)
    with pytest.raises(CacheError, match="none of the 22 samples has latents"):
        export(wrap(faces, key=lambda i: f"other {i}"), tmp_path / "new", 1)


def test_names_of_files_stay_inside_and_apart() -> None:
    keys = [
        "a/b.jpg",
        "a/b.png",
        "/a/b.jpg",
        "../a",
        "a/../b",
        "..",
        "a\nb",
        "a:b",
        "ä.jpg",
        "a%62",
        "\udcff.jpg",
        ".x",
    ]
    names = [file_name(Recipe(key, 0, 0, Source.GENERATED)) for key in keys]
    for name in names:
        inside = os.path.normpath(os.path.join("/out", name))
        assert inside == f"/out/{name}" and name.startswith("images/") and name.endswith(".v0.png")
        assert name.isprintable() and ":" not in name
    assert len(set(names)) == len(names) - 1, "an absolute key is the only one that is taken for another"
    assert file_name(Recipe("a", 3, 0, Source.GENERATED, variant=2)) == "images/a.v3.2.png"


def test_uint8_and_normalised_items_give_the_same_files(faces: Faces, tmp_path: Path) -> None:
    from torchvision.transforms import Compose, ConvertImageDtype, Normalize

    export(wrap(faces), tmp_path / "bytes", 1)
    steps = Compose([PILToTensor(), ConvertImageDtype(torch.float32), Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])])
    train = GANAugmentedDataset(
        ImageFolder(faces.root, steps), faces.cache, ratio=1.0, edits=["fine", "middle"], classical=None
    )
    export(train, tmp_path / "floats", 1)
    for row in manifest_of(tmp_path / "bytes"):
        first, second = (np.asarray(Image.open(tmp_path / n / row["file"])).astype(int) for n in ("bytes", "floats"))
        assert np.abs(first - second).max() <= 1


def test_the_command(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["export", "--cache", faces.cache, "--images", faces.root, "--out", out, "--edits", "fine"]
    arguments += ["--preserve", "label", "--size", 32, "--paste", "aligned", "--json", tmp_path / "figures.json"]
    assert main([str(a) for a in arguments]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["generated"] == 22
    assert Image.open(out / "images/ann/00.jpg.v0.png").size == (32, 32)
    rows = manifest_of(out)
    assert {row["label"] for row in rows} == {"ann", "bob"}
    for recipe in read_recipes(out / "recipes.jsonl"):
        partners = {edit.partner.split("/")[0] for edit in recipe.edits if edit.partner}
        assert partners <= {recipe.key.split("/")[0]}, "partners of the same label"
    capsys.readouterr()
    assert main([*(str(a) for a in arguments), "--seed", "3"]) == 2
    assert "seed 0 there, 3 now" in capsys.readouterr().err


def test_photos_as_items(faces: Faces, tmp_path: Path) -> None:
    photos = photos_in_folder(faces.root)
    data = PhotoDataset(photos, faces.cache)
    assert data.classes == ["ann", "bob"] and data.targets == [0] * 11 + [1] * 11
    image, label = data[11]
    assert image.shape == (3, 128, 128) and image.dtype == torch.uint8 and label == 1
    sized = PhotoDataset(photos[:3], faces.cache, size=20)
    np.testing.assert_array_equal(
        sized[1][0].permute(1, 2, 0).numpy(), np.asarray(Image.open(faces.root / faces.keys[1]).convert("RGB"))
    )
    with pytest.raises(CacheError, match="none of 1 photos has a record"):
        PhotoDataset([Photo("other.jpg", photos[0].read)], faces.cache)
    told = [Photo(p.key, p.read, p.path, attributes={"age": str(i % 3)}) for i, p in enumerate(photos)]
    assert PhotoDataset(told, faces.cache, label="age").targets == [i % 3 for i in range(22)]
    with pytest.raises(UserInputError, match="no attribute 'gender' to take as its label; it has age"):
        PhotoDataset(told, faces.cache, label="gender")


def test_photos_of_several_faces(own_faces: Faces) -> None:
    from ganaug.cache import LatentCache

    cache = LatentCache(own_faces.cache)
    record = cache.get(own_faces.keys[0])
    record.key = f"{own_faces.keys[0]}#1"
    cache.put_many([record])
    keys = [item.key for item in PhotoDataset(photos_in_folder(own_faces.root), cache).face_items()]
    assert keys == [own_faces.keys[0], f"{own_faces.keys[0]}#1", *own_faces.keys[1:]]


def test_the_mark_survives_and_cannot_be_left_out(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    save_synthetic(picture, tmp_path / "deep" / "x.png", {"generator": "ab" * 32, "recipe": {"key": "ä\udcff"}})
    found = read_synthetic(tmp_path / "deep" / "x.png")
    assert found == {"made_by": "ganaug", "generator": "ab" * 32, "recipe": {"key": "ä\udcff"}}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "x.png")), np.asarray(picture))
    # Read without this package: a tEXt chunk of plain Latin-1, keyword and value with a zero byte between.
    data = (tmp_path / "deep" / "x.png").read_bytes()
    at = data.index(b"tEXt" + SYNTHETIC_TAG.encode() + b"\0")
    length = int.from_bytes(data[at - 4 : at], "big")
    assert json.loads(data[at + 4 : at + 4 + length].split(b"\0")[1])["generator"] == "ab" * 32
    assert os.listdir(tmp_path / "deep") == ["x.png"]

    for name in ("x.jpg", "x.webp", "x", "x.png.gz"):
        with pytest.raises(UserInputError, match=r"expected a name ending in \.png"):
            save_synthetic(picture, tmp_path / name, {"generator": "g"})
    with pytest.raises(UserInputError, match="names its generator"):
        save_synthetic(picture, tmp_path / "y.png", {"recipe": {}})
    assert not (tmp_path / "y.png").exists()
    assert check_png("A.PNG", "x") == Path("A.PNG")

    picture.save(tmp_path / "plain.png")
    assert read_synthetic(tmp_path / "plain.png") is None
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be read"):
        read_synthetic(tmp_path / "text.png")


def test_inversions_as_items(faces: Faces) -> None:
    data = InversionDataset(faces.cache)
    train = GANAugmentedDataset(data, faces.cache, ratio=1.0, edits=["fine"], paste="aligned")
    assert len(train) == 22 and train.coverage == 1.0
