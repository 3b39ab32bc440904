"""The command line: what each command does, and that a mistake gives one clear line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, random_image, write_model
from PIL import Image

from ganaug.cache import LatentCache
from ganaug.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, build_parser, main
from ganaug.interfaces import CacheError

COMMANDS = ("demo", "precompute", "inspect", "preview", "train")
Capture = pytest.CaptureFixture[str]


def good(capsys: Capture, *argv: object) -> str:
    """Runs a command that must succeed without a word on stderr; returns what it printed."""
    status = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def mistake(capsys: Capture, *argv: object) -> str:
    """Runs a command that must fail with one line on stderr; returns the line."""
    status = main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    assert status == EXIT_USER_ERROR and out == ""
    assert err.count("\n") == 1 and err.startswith(f"ganaug {argv[0]}: "), err
    assert len(err) < 700
    return err


def precompute_arguments(faces: Faces, cache: Path, *options: object) -> list[str]:
    fixed = ["--cache", cache, "--generator", faces.model, "--steps", 2, "--batch-size", 8]
    return [str(argument) for argument in ("precompute", faces.root, *fixed, *options)]


def figures_in(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(values, dict)
    return values


# What the commands do


def test_demo(tmp_path: Path, capsys: Capture) -> None:
    out, arguments = tmp_path / "out", ("--limit", 4, "--steps", 2, "--ratio", 0.5)
    good(capsys, "demo", "--out", out, *arguments, "--json", tmp_path / "figures.json")
    summary = figures_in(out / "summary.json")
    assert figures_in(tmp_path / "figures.json") == summary
    assert summary["images"] == 4 and summary["failed"] == 0 and summary["ratio"] == 0.5
    assert summary["seconds"] > 0 and 0 < summary["ratio_observed"] < 1 and 5 < summary["psnr_median"] < 60
    assert re.fullmatch("[0-9a-f]{64}", summary["fingerprint"])
    assert len(LatentCache(out / "faces.lmdb")) == 4 and len(list((out / "faces").iterdir())) == 4
    sheet = Image.open(out / "contact_sheet.png")
    sheet.load()
    assert summary["fingerprint"] in sheet.text["ganaug:synthetic"]  # type: ignore[attr-defined]
    assert len(np.unique(np.asarray(sheet.convert("L")))) > 50
    before = (out / "faces.lmdb" / "data.mdb").read_bytes()
    good(capsys, "demo", "--out", out, *arguments)
    assert (out / "faces.lmdb" / "data.mdb").read_bytes() == before
    again = figures_in(out / "summary.json")
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in summary.items() if k != "seconds"}


def test_demo_with_photos(tmp_path: Path, capsys: Capture, own_faces: Faces) -> None:
    """A broken photo among them is told and left out."""
    (own_faces.root / "ann/01.png").write_bytes(b"broken")
    arguments = ["demo", "--images", own_faces.root, "--out", tmp_path / "out", "--limit", 3, "--steps", 1]
    assert main([str(argument) for argument in arguments]) == 0
    assert "ann/01.png" in capsys.readouterr().err
    summary = figures_in(tmp_path / "out" / "summary.json")
    assert (summary["images"], summary["failed"]) == (2, 1)


def test_precompute_by_points(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    """Photos of chips of a kind that the user names: no detector is needed, and the header says how they were cut."""
    figures = tmp_path / "figures.json"
    options = ("--align", "points", "--template", "ffhq", "--chips", "arcface", "--json", figures)
    good(capsys, *precompute_arguments(faces, tmp_path / "new.lmdb", *options))
    assert figures_in(figures)["images"] == 22
    good(capsys, "inspect", tmp_path / "new.lmdb", "--json", figures)
    assert figures_in(figures)["alignment"] == {
        "mode": "points",
        "size": 16,
        "template": "ffhq",
        "which_face": "largest",
        "chips": "arcface",
        "detector": "mtcnn",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--template", "ffhq"), "--template is for --align points"),
        (("--which-face", "all"), "--which-face is for --align points"),
        (("--align", "points"), "does not say how the faces that it was trained on were cut: give --template, one of"),
        (("--align", "points", "--template", "vgg"), "needs a template, one of arcface, .*; got 'vgg'"),
        (("--align", "points", "--template", "ffhq", "--detector", "yolo"), "unknown detector 'yolo': expected one of"),
        (("--align", "points", "--template", "ffhq", "--which-face", "best"), "unknown which_face 'best'"),
    ],
)
def test_mistakes_about_the_alignment(
    tmp_path: Path, capsys: Capture, faces: Faces, options: tuple[str, ...], message: str
) -> None:
    line = mistake(capsys, *precompute_arguments(faces, tmp_path / "new.lmdb", *options))
    assert re.search(message, line) and not (tmp_path / "new.lmdb").exists()


def test_no_points_and_no_detector(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    """Each photo is told, and that none could be used."""
    options = ("--align", "points", "--template", "ffhq", "--detector", "none")
    assert main(precompute_arguments(faces, tmp_path / "new.lmdb", *options)) == EXIT_USER_ERROR
    err = capsys.readouterr().err
    assert err.count("no face found; its points are not known, and no detector was asked") == 22
    assert "none of the 22 images" in err


def test_precompute_and_inspect(tmp_path: Path, capsys: Capture, own_faces: Faces) -> None:
    cache, figures = tmp_path / "new.lmdb", tmp_path / "figures.json"
    (own_faces.root / "bob/02.jpg").write_bytes(b"broken")
    assert main(precompute_arguments(own_faces, cache, "--json", figures)) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "bob/02.jpg" in err
    values = figures_in(figures)
    assert {"images", "failed", "seconds", "psnr_median"} <= values.keys()
    assert (values["images"], values["failed"], values["inverted"]) == (21, 1, 21)
    assert re.search(r"^images +21$", out, re.MULTILINE) and re.search(r"^failed +1$", out, re.MULTILINE)

    out = good(capsys, "inspect", cache, "--json", figures)
    values, opened = figures_in(figures), LatentCache(cache)
    assert {"records", "digest", "fingerprint", "latent_shape"} <= values.keys()
    assert (values["records"], values["failures"], values["damaged"]) == (21, 1, 0)
    assert values["digest"] == opened.digest() and values["digest"] in out
    assert values["fingerprint"] == opened.header.fingerprint
    assert values["latent_shape"] == list(opened.header.latent_spec.shape)
    assert values["inverter"]["steps"] == 2 and values["alignment"]["size"] == 16
    assert values["quality"]["psnr"]["p5"] <= values["quality"]["psnr"]["median"] <= values["quality"]["psnr"]["p95"]


def test_limit_and_continue(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    cache = tmp_path / "new.lmdb"
    good(capsys, *precompute_arguments(faces, cache, "--limit", 8))
    assert LatentCache(cache).keys() == faces.keys[:8]
    assert re.search(r"^inverted +14$", good(capsys, *precompute_arguments(faces, cache)), re.MULTILINE)
    whole = tmp_path / "whole.lmdb"
    good(capsys, *precompute_arguments(faces, whole))
    assert LatentCache(cache).digest() == LatentCache(whole).digest()
    assert "22" in good(capsys, *precompute_arguments(faces, cache, "--limit", 100))


def test_precompute_from_a_function(
    tmp_path: Path, capsys: Capture, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = f"from torchvision.datasets import ImageFolder\ndef faces(): return ImageFolder({str(faces.root)!r})\n"
    (tmp_path / "users_faces.py").write_text(code)
    arguments = precompute_arguments(faces, tmp_path / "new.lmdb", "--limit", 3)
    arguments[1] = "users_faces:faces"
    good(capsys, *arguments)
    assert LatentCache(tmp_path / "new.lmdb").keys() == faces.keys[:3]


@pytest.mark.parametrize("with_photos", [False, True])
def test_preview(tmp_path: Path, capsys: Capture, faces: Faces, with_photos: bool) -> None:
    out, figures = tmp_path / "deep" / "sheet.png", tmp_path / "figures.json"
    photos = ["--images", faces.root] if with_photos else []
    arguments = ["--num-faces", 5, "--edits", "fine,coarse", "--json", figures]
    good(capsys, "preview", "--cache", faces.cache, "--out", out, *photos, *arguments)
    values = figures_in(figures)
    sheet = Image.open(out)
    sheet.load()
    assert (values["width"], values["height"]) == sheet.size and values["edits"] == ["fine", "coarse"]
    assert "ganaug:synthetic" in sheet.text  # type: ignore[attr-defined]
    assert len(np.unique(np.asarray(sheet.convert("L")))) > 50


def test_preview_is_decided_by_the_seed(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    sheets = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["--out", tmp_path / f"{name}.png", "--seed", seed, "--num-faces", 4]
        good(capsys, "preview", "--cache", faces.cache, *arguments)
        sheets.append(np.asarray(Image.open(tmp_path / f"{name}.png")))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert (sheets[0] != sheets[2]).any()


def test_inspect_tells_of_damage(own_faces: Faces, capsys: Capture, tmp_path: Path) -> None:
    cache = LatentCache(own_faces.cache)
    needle = cache.get(own_faces.keys[3]).latents.tobytes()
    cache.close()
    data = (own_faces.cache / "data.mdb").read_bytes()
    (own_faces.cache / "data.mdb").write_bytes(data.replace(needle, bytes([needle[0] ^ 1]) + needle[1:]))
    assert main(["inspect", str(own_faces.cache), "--json", str(tmp_path / "figures.json")]) == 1
    values = figures_in(tmp_path / "figures.json")
    assert (values["records"], values["damaged"], values["digest"]) == (22, 1, None)
    assert values["quality"]["psnr"]["median"] == 20.0


# Mistakes


def test_sources_that_are_not_there(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    (tmp_path / "empty").mkdir()
    for source, words in {
        tmp_path / "nowhere": "not there",
        tmp_path / "empty": "no image found",
        faces.root / "ann/00.jpg": "a file, not a folder",
        "no_such_module_of_mine:faces": "cannot import",
    }.items():
        arguments = precompute_arguments(faces, tmp_path / "new.lmdb")
        arguments[1] = str(source)
        line = mistake(capsys, *arguments)
        assert words in line and str(source) in line
        assert not (tmp_path / "new.lmdb").exists()
    for source in ("nowhere", "empty"):
        assert source in mistake(capsys, "demo", "--images", tmp_path / source, "--out", tmp_path / "out")
        data = ("--data", tmp_path / source, "--out", tmp_path / "run")
        assert source in mistake(capsys, "train", *data)


def test_demo_without_a_usable_photo(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"broken")
    arguments = ["demo", "--images", tmp_path / "images", "--out", tmp_path / "out", "--steps", 1]
    assert main([str(argument) for argument in arguments]) == EXIT_USER_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("left out: ") and lines[1].startswith("ganaug demo: none of the 1")


def test_names_that_are_not_known(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    cache = tmp_path / "new.lmdb"
    line = mistake(capsys, *precompute_arguments(faces, cache, "--inverter", "guess"))
    assert all(word in line for word in ("'guess'", "encoder", "hybrid", "optimization"))
    (tmp_path / "foreign.safetensors").write_bytes(b"nothing of ours")
    for generator, words in {
        "faces65": "faces64",
        tmp_path: "bundled names",
        tmp_path / "foreign.safetensors": "not a readable",
    }.items():
        line = mistake(capsys, *precompute_arguments(faces, cache, "--generator", generator))
        assert str(generator) in line and words in line
    line = mistake(capsys, "train", "--data", faces.root, "--out", tmp_path / "run", "--preset", "huge")
    assert all(word in line for word in ("'huge'", "tiny64", "small128", "paper256"))
    for edits, words in {"fine,moustache": "'moustache'", "fine,fine": "more than once", "fine,": "''"}.items():
        line = mistake(capsys, "preview", "--cache", faces.cache, "--out", tmp_path / "x.png", "--edits", edits)
        assert words in line
    assert not cache.exists() and not (tmp_path / "x.png").exists()


def test_devices_that_are_not_there(
    tmp_path: Path, capsys: Capture, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in {"cuda": "no CUDA device", "cuda:3": "no CUDA device", "tpu9": "unknown device"}.items():
        for arguments in (
            precompute_arguments(faces, tmp_path / "new.lmdb"),
            ["demo", "--out", tmp_path / "out"],
            ["preview", "--cache", faces.cache, "--out", tmp_path / "x.png"],
            ["train", "--data", faces.root, "--out", tmp_path / "run"],
        ):
            line = mistake(capsys, *arguments, "--device", device)
            assert words in line and repr(device) in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ratio", ["2", "-0.1", "nan"])
def test_ratio_out_of_range_is_noticed_before_the_work(tmp_path: Path, capsys: Capture, ratio: str) -> None:
    assert "between 0 and 1" in mistake(capsys, "demo", "--out", tmp_path / "out", f"--ratio={ratio}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["invert"],
        ["precompute"],
        ["precompute", "faces"],
        ["precompute", "faces", "--cache", "x", "--steps", "0"],
        ["precompute", "faces", "--cache", "x", "--batch-size", "-1"],
        ["precompute", "faces", "--cache", "x", "--limit", "many"],
        ["demo", "--steps", "0"],
        ["demo", "--ratio", "half"],
        ["preview", "--cache", "x"],
        ["inspect"],
        ["inspect", "a", "b"],
    ],
)
def test_arguments_that_do_not_parse(argv: Sequence[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in err
    assert err.startswith("usage: ganaug") and re.match(r"ganaug[ a-z]*: error: ", err.splitlines()[-1])


def test_caches_that_are_not_there(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("nowhere", "folder", "file"):
        assert name in mistake(capsys, "inspect", tmp_path / name)
        assert name in mistake(capsys, "preview", "--cache", tmp_path / name, "--out", tmp_path / "x.png")
    assert "file" in mistake(capsys, *precompute_arguments(faces, tmp_path / "file"))
    assert not (tmp_path / "nowhere").exists()


def test_cache_made_otherwise(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    cache = tmp_path / "new.lmdb"
    good(capsys, *precompute_arguments(faces, cache, "--limit", 2))
    digest = LatentCache(cache).digest()
    other = write_model(tmp_path / "other.safetensors", seed=5)
    assert "fingerprint" in mistake(capsys, *precompute_arguments(faces, cache, "--generator", other))
    line = mistake(capsys, *precompute_arguments(faces, cache, "--steps", 3))
    assert "'steps': 2" in line and "'steps': 3" in line
    line = mistake(capsys, *precompute_arguments(faces, cache, "--inverter", "encoder"))
    assert "'hybrid'" in line and "'encoder'" in line
    assert LatentCache(cache).digest() == digest


def test_preview_without_its_generator(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    model, cache = tmp_path / "model.safetensors", tmp_path / "new.lmdb"
    shutil.copy(faces.model, model)
    good(capsys, *precompute_arguments(faces, cache, "--generator", model, "--limit", 3))
    arguments = ("preview", "--cache", cache, "--out", tmp_path / "x.png")
    write_model(model, seed=9)
    assert "fingerprint" in mistake(capsys, *arguments)
    model.unlink()
    assert "model.safetensors" in mistake(capsys, *arguments)


def test_truncated_cache(capsys: Capture, faces: Faces, tmp_path: Path) -> None:
    whole = tmp_path / "whole.lmdb"
    good(capsys, *precompute_arguments(faces, whole))
    LatentCache(whole).close()
    data = (whole / "data.mdb").read_bytes()
    for length in (1, 4096, 5000, len(data) // 2, len(data) - 4096, len(data) - 1):
        damaged = tmp_path / f"cut-{length}.lmdb"
        shutil.copytree(whole, damaged)
        (damaged / "data.mdb").write_bytes(data[:length])
        assert damaged.name in mistake(capsys, "inspect", damaged)
        assert damaged.name in mistake(capsys, "preview", "--cache", damaged, "--out", tmp_path / "x.png")
        assert damaged.name in mistake(capsys, *precompute_arguments(faces, damaged))


def test_photos_without_records(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    other = tmp_path / "other"
    other.mkdir()
    random_image(np.random.default_rng(0), 20, 20).save(other / "stranger.png")
    arguments = ("preview", "--cache", faces.cache, "--out", tmp_path / "x.png")
    line = mistake(capsys, *arguments, "--images", other)
    assert str(other) in line and str(faces.cache) in line
    assert "not there" in mistake(capsys, *arguments, "--images", tmp_path / "nowhere")


def test_photo_broken_since(tmp_path: Path, capsys: Capture, own_faces: Faces) -> None:
    (own_faces.root / own_faces.keys[0]).write_bytes(b"broken")
    arguments = ("--out", tmp_path / "x.png", "--images", own_faces.root)
    assert own_faces.keys[0] in mistake(capsys, "preview", "--cache", own_faces.cache, *arguments)


def test_places_that_cannot_be_written(tmp_path: Path, capsys: Capture, faces: Faces) -> None:
    (tmp_path / "file").write_text("text")
    cache = tmp_path / "new.lmdb"
    for path in (tmp_path / "nowhere" / "f.json", tmp_path / "file" / "f.json", tmp_path):
        line = mistake(capsys, *precompute_arguments(faces, cache, "--json", path))
        assert str(path) in line
        assert not cache.exists(), "noticed after the work"
    preview = ("preview", "--cache", faces.cache, "--num-faces", 2, "--out")
    assert "file" in mistake(capsys, *preview, tmp_path / "file" / "x.png")
    for name in ("x.jpg", "x"):
        assert ".png" in mistake(capsys, *preview, tmp_path / name)
    assert "file" in mistake(capsys, "demo", "--out", tmp_path / "file", "--limit", 2, "--steps", 1)


def test_full_disk(tmp_path: Path, capsys: Capture, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CacheError("cannot write to the cache: no space left\non the device")

    monkeypatch.setattr(LatentCache, "put_many", full)
    line = mistake(capsys, *precompute_arguments(faces, tmp_path / "new.lmdb"))
    assert line == "ganaug precompute: cannot write to the cache: no space left on the device\n"


def test_full_disk_at_the_figures(
    tmp_path: Path, capsys: Capture, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures were printed before, so nothing is lost."""

    def full(path: Path, _: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    status = main(["inspect", str(faces.cache), "--json", str(tmp_path / "f.json")])
    out, err = capsys.readouterr()
    assert status == EXIT_USER_ERROR and "digest" in out
    assert err == f"ganaug inspect: No space left on device '{tmp_path / 'f.json'}'\n"


# Around the process


def test_help_of_every_command(capsys: Capture) -> None:
    for command in ([], *([name] for name in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        out = capsys.readouterr().out
        assert caught.value.code == 0 and out.startswith(" ".join(["usage: ganaug", *command]))
    assert all(re.search(rf"^    {name}\b", build_parser().format_help(), re.MULTILINE) for name in COMMANDS)


def in_process(*argv: object, **options: Any) -> "subprocess.Popen[str]":
    """The command line in a process of its own, with one thread: several of many processes wait for each other."""
    return subprocess.Popen(
        [sys.executable, "-m", "ganaug.cli", *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background jobs
        **options,
    )


def test_help_does_not_load_torch() -> None:
    code = "import sys, ganaug.cli; ganaug.cli.build_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reader_that_has_gone_away(faces: Faces, tmp_path: Path) -> None:
    """``ganaug inspect CACHE | head -1``, with a head that is quicker than the command can be."""
    reading, writing = os.pipe()
    os.close(reading)
    process = in_process("inspect", faces.cache, "--json", tmp_path / "figures.json", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert figures_in(tmp_path / "figures.json")["records"] == 22


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Bits of a sum depend on how many threads share it; here as many as :func:`in_process` has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_interrupt(own_faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    """Ctrl-C keeps what was committed, and the next run continues to the same bytes."""
    cache, steps = tmp_path / "new.lmdb", ("--steps", 30, "--batch-size", 2)
    process = in_process(*precompute_arguments(own_faces, cache, *steps), stdout=subprocess.PIPE)
    deadline, count = time.monotonic() + 60, 0
    while count == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        try:
            count = len(LatentCache(cache))
        except CacheError:
            continue  # not created yet
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED and out == ""
    assert err.count("\n") == 1 and err.startswith("ganaug precompute: interrupted"), err
    kept = len(LatentCache(cache))
    assert 0 < kept < 22 and kept % 2 == 0 and LatentCache(cache).verify() == []
    good(capsys, *precompute_arguments(own_faces, cache, *steps))
    whole = tmp_path / "whole.lmdb"
    good(capsys, *precompute_arguments(own_faces, whole, *steps))
    assert LatentCache(cache).digest() == LatentCache(whole).digest()
