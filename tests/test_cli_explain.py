"""``ganaug explain``: a photo; a picture that is true, forged, stripped, signed; mistakes; the page in a browser."""

import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Faces, write_cache, write_model
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganaug.cli import build_parser, main
from ganaug.provenance import AppliedEdit, Recipe, Source
from ganaug.synthetic import SYNTHETIC_TAG, read_synthetic, save_synthetic

Capture = pytest.CaptureFixture[str]
FILE = "images/ann/03.png.v0.png"


def explain(capsys: Capture, *argv: object) -> dict[str, str]:
    """Runs the command; name -> line of what it printed."""
    assert main(["explain", *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = [line.split(None, 1) for line in out.splitlines() if line.strip()]
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


def mistake(capsys: Capture, *argv: object) -> str:
    assert main(["explain", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and len(err) < 600
    return err


@pytest.fixture(scope="module")
def exported(faces: Faces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An export with settings that are no defaults: replay has to find them in its files."""
    out = tmp_path_factory.mktemp("export") / "out"
    arguments = ["--cache", faces.cache, "--images", faces.root, "--out", out, "--edits", "fine,middle,pca1"]
    arguments += ["--size", 24, "--paste", "whole", "--classical", "--seed", 7, "--batch-size", 5]
    assert main(["export", *map(str, arguments)]) == 0
    yield out


@pytest.fixture
def own_export(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "own")
    return tmp_path / "own"


def source(faces: Faces) -> list[object]:
    return ["--cache", faces.cache, "--images", faces.root]


def test_a_photo(faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    arguments = [*source(faces), "--key", "ann/03.png", "--edits", "fine", "--epochs", 3, "--out", tmp_path / "out"]
    lines = explain(capsys, *arguments)
    assert lines["answer"].startswith("ann/03.png was inverted at 20.0 dB")
    assert "3 of 3 epochs serve a variant" in lines["answer"] and "random" in lines["inverter"]
    facts = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert [variant["epoch"] for variant in facts["variants"]] == [0, 1, 2]
    for file in (tmp_path / "out").iterdir():
        assert file.stat().st_mode & 0o077 == 0, f"{file} shows a face"
    assert main(["explain", *map(str, arguments), "--json", str(tmp_path / "facts.json")]) == 0
    assert json.loads((tmp_path / "facts.json").read_text()) == facts
    capsys.readouterr()
    without = explain(capsys, "--cache", faces.cache, "--key", "ann/03.png", "--edits", "fine", "--epochs", 1)
    assert "1 of 1 epochs serve a variant" in without["answer"]


def test_an_exported_picture(faces: Faces, exported: Path, tmp_path: Path, capsys: Capture) -> None:
    lines = explain(capsys, exported / FILE, *source(faces), "--out", tmp_path / "out")
    assert lines["answer"] == "a variant made by ganaug; its recipe gives this picture"
    assert lines["replay"].startswith("made again from its recipe") and "NOT" not in lines["replay"]
    assert "recipes.jsonl, line " in lines["list"] and lines["recipes"] == "those of mark and list agree"
    assert lines["photo"] == "ann/03.png, epoch 0, seed 7" and lines["signature"].startswith("none")
    html = (tmp_path / "out" / "explanation.html").read_text()
    assert "its recipe gives this picture" in html and html.count("<img") == 1
    alone = explain(capsys, exported / FILE)
    assert alone["replay"].startswith("not replayed: give --cache and --images")
    moved = tmp_path / "moved.png"
    shutil.copy(exported / FILE, moved)
    lines = explain(capsys, moved, "--recipes", exported / "recipes.jsonl")
    assert lines["recipes"] == "those of mark and list agree", "found by what its mark says"
    assert "list" not in explain(capsys, moved)


def test_every_exported_picture_is_made_again(faces: Faces, exported: Path, capsys: Capture) -> None:
    for file in sorted((exported / "images").rglob("*.png"))[::7]:
        assert "gives this picture" in explain(capsys, file, *source(faces))["answer"], file


def test_changed_pixels(faces: Faces, own_export: Path, capsys: Capture) -> None:
    file = own_export / FILE
    pixels, mark = np.asarray(Image.open(file)).copy(), read_synthetic(file)
    pixels[4:6, 4:6] ^= 64
    assert mark is not None
    save_synthetic(Image.fromarray(pixels), file, mark)
    lines = explain(capsys, file, *source(faces))
    assert lines["answer"] == "a variant made by ganaug; its recipe gives another picture"
    assert "NOT the same" in lines["replay"]
    share = float(lines["replay"].partition(": ")[2].partition(" %")[0])
    assert share == pytest.approx(100 * 12 / pixels.size, rel=0.2), "12 values of 24 x 24 x 3"


def test_a_forged_recipe(faces: Faces, own_export: Path, capsys: Capture) -> None:
    file = own_export / FILE
    mark = read_synthetic(file)
    assert mark is not None
    forged = json.loads(json.dumps(mark))
    forged["recipe"]["key"] = "bob/03.png"
    save_synthetic(Image.open(file).convert("RGB"), file, forged)
    lines = explain(capsys, file, *source(faces))
    assert lines["recipes"] == "those of mark and list contradict each other"
    assert lines["answer"].endswith("its recipes contradict each other; its recipe gives another picture")
    forged["recipe"]["synthetic"] = False
    save_synthetic(Image.open(file).convert("RGB"), file, forged)
    assert "was changed by hand" in mistake(capsys, file)


def test_a_stripped_mark(faces: Faces, own_export: Path, capsys: Capture, tmp_path: Path) -> None:
    file = own_export / FILE
    Image.open(file).convert("RGB").save(file)
    lines = explain(capsys, file, *source(faces))
    assert lines["mark"].startswith("none") and lines["photo"].startswith("ann/03.png")
    assert "its recipe gives this picture" in lines["answer"], "the list of the export knows it"
    shutil.copy(file, tmp_path / "alone.png")
    lines = explain(capsys, tmp_path / "alone.png")
    assert lines["answer"] == "nothing in this file says who made it; ganaug cannot tell whether it is real"


def with_text(path: Path, text: str, compressed: bool = False) -> Path:
    info = PngInfo()
    info.add_text(SYNTHETIC_TAG, text, zip=compressed)
    Image.new("RGB", (24, 24)).save(path, pnginfo=info)
    return path


def test_text_that_is_no_mark(tmp_path: Path, capsys: Capture) -> None:
    """Broken, of another shape, or brackets without end: said to be there, and no more."""
    for number, text in enumerate(('{"generator": ', "[1, 2]", "null", "[" * 100_000, '{"a":' * 100_000)):
        file = with_text(tmp_path / f"{number}.png", text)
        assert explain(capsys, file, "--out", tmp_path)["answer"] == "it says that it holds generated faces", text[:9]


def test_files_that_are_made_to_harm(tmp_path: Path, capsys: Capture) -> None:
    bomb = with_text(tmp_path / "bomb.png", "x" * (2 << 20), compressed=True)  # PngImagePlugin.MAX_TEXT_CHUNK is 1 MiB
    assert "cannot be read as a picture: Decompressed data too large" in mistake(capsys, bomb)
    large = bytearray(with_text(tmp_path / "large.png", "{}").read_bytes())
    large[16:24] = (60_000).to_bytes(4, "big") * 2
    large[29:33] = zlib.crc32(large[12:29]).to_bytes(4, "big")
    (tmp_path / "large.png").write_bytes(large)
    assert "exceeds limit" in mistake(capsys, tmp_path / "large.png")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n")
    assert "cannot identify" in mistake(capsys, tmp_path / "script.png"), "Ghostscript is not started"


def test_a_mark_is_text_of_others(tmp_path: Path, capsys: Capture) -> None:
    """What stands in it is shown, on one line, and commands neither the terminal nor the page."""
    key = "../../etc/passwd <script>\x1b[2J\nreplay made again from its recipe, every pixel is the same"
    recipe = Recipe(key, 0, 0, Source.GENERATED, (AppliedEdit("../x", {"y": 1.0}),)).to_dict()
    mark = {"generator": "\x1b]0;title\a", "recipe": recipe}
    file = with_text(tmp_path / "x.png", json.dumps(mark))
    lines = explain(capsys, file, "--out", tmp_path / "out")
    assert lines["photo"].startswith(r"../../etc/passwd <script>\x1b[2J\nreplay made again")
    assert lines["replay"].startswith("not replayed") and lines["mark"].endswith(r"\x1b]0;title\x07")
    assert "<script" not in (tmp_path / "out" / "explanation.html").read_text()
    recipe |= {"source": "real", "synthetic": False}
    with_text(file, json.dumps(mark))
    assert explain(capsys, file)["answer"] == "its recipe says that it is no variant"
    recipe["epoch"] = "soon"
    assert "epoch is 'soon', expected a whole number" in mistake(capsys, with_text(file, json.dumps(mark)))


def test_recipes_and_settings_of_others(faces: Faces, own_export: Path, capsys: Capture) -> None:
    """Lines and settings that no export writes are passed over, and nothing outside of the folder is looked at."""
    state = json.loads((own_export / "export.json").read_text())
    state["settings"] |= {"edits": [1, {}], "preserve": "x", "paste": 7, "residual": "y"}
    (own_export / "export.json").write_text(json.dumps(state))
    lines = (own_export / "recipes.jsonl").read_text()
    odd = ['{"key": 1, "file": {"a": 1}}', '{"key": "a", "file": "\\u0000../../x"}', "[" * 5000]
    (own_export / "recipes.jsonl").write_text("\n".join([*odd, lines]))
    told = explain(capsys, own_export / FILE, *source(faces))
    assert told["recipes"] == "those of mark and list agree" and "replay" in told


@pytest.mark.parametrize(
    "change",
    [
        {"edits": [{"name": "gone", "params": {}}]},
        {"edits": [{"name": "pca1", "params": {}}]},
        {"edits": [{"name": "fine", "params": {"p": 1.0}}]},
        {"attempts": 300},
        {"classical": {"flip": True}},
        {"key": "../../etc/passwd"},
    ],
    ids=str,
)
def test_recipes_that_cannot_be_followed(
    faces: Faces, exported: Path, tmp_path: Path, capsys: Capture, change: dict[str, Any]
) -> None:
    mark = read_synthetic(exported / FILE)
    assert mark is not None
    mark["recipe"] |= change
    file = with_text(tmp_path / "x.png", json.dumps(mark))
    assert explain(capsys, file, *source(faces), "--paste", "whole")["replay"].startswith("not replayed: ")


def test_a_sheet_says_what_it_is(faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    save_synthetic(Image.new("RGB", (30, 20)), tmp_path / "sheet.png", {"generator": "ab" * 32, "edits": []})
    assert explain(capsys, tmp_path / "sheet.png")["answer"] == "it says that it holds generated faces"


def test_what_cannot_be_replayed(faces: Faces, exported: Path, tmp_path: Path, capsys: Capture) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=5)
    cache = write_cache(tmp_path / "other.lmdb", other, faces.root, faces.keys)
    lines = explain(capsys, exported / FILE, "--cache", cache.path, "--images", faces.root)
    assert lines["replay"].startswith("not replayed: generator ") and "gives" not in lines["answer"]
    lines = explain(capsys, exported / FILE, *source(faces), "--size", 30)
    assert lines["replay"] == "not replayed: the picture has 24 x 24 px, the dataset makes 30 x 30 px: say --size"
    lines = explain(capsys, exported / FILE, *source(faces), "--edits", "pca3")
    assert lines["replay"].startswith("not replayed: the recipe cannot be replayed")
    shutil.copytree(faces.root / "bob", tmp_path / "some" / "bob")
    lines = explain(capsys, exported / FILE, "--cache", faces.cache, "--images", tmp_path / "some")
    assert "no sample with key 'ann/03.png'" in lines["replay"]


def test_mistakes(faces: Faces, exported: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "expected a photo, --cache DIR --key KEY, or an exported picture" in mistake(capsys)
    assert "expected a photo" in mistake(capsys, "--cache", faces.cache)
    assert "leave one of them out" in mistake(capsys, exported / FILE, "--key", "ann/03.png")
    assert "nearest: 'ann/03.png'" in mistake(capsys, *source(faces), "--key", "ann/3.png")
    assert "no such file" in mistake(capsys, tmp_path / "gone.png")
    assert "is a folder; give one of its pictures" in mistake(capsys, exported)
    assert "--recipes is about an exported picture" in mistake(capsys, *source(faces), "--key", "x", "--recipes", "y")
    assert "cannot read recipes" in mistake(capsys, exported / FILE, "--recipes", tmp_path / "gone.jsonl")
    (tmp_path / "list.jsonl").write_text('{"other": 1}\n')
    assert "line 1: no recipe of ganaug" in mistake(capsys, exported / FILE, "--recipes", tmp_path / "list.jsonl")
    (tmp_path / "text.png").write_text("no picture")
    assert "cannot be read as a picture" in mistake(capsys, tmp_path / "text.png")
    assert "is a file; give a folder" in mistake(capsys, *source(faces), "--key", "x", "--out", exported / FILE)
    assert main(["export", *map(str, source(faces)), "--out", str(tmp_path / "o"), "--sign", "cert.pem"]) == 2
    assert "signing takes both" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_flags_are_those_of_export() -> None:
    """What decides the variants is asked for with the same flags and has the same defaults, but for --paste."""
    given = ["--cache", "c", "--images", "i"]
    export = vars(build_parser().parse_args(["export", *given, "--out", "o"]))
    explained = vars(build_parser().parse_args(["explain", *given]))
    shared = set(export) & set(explained) - {"out", "run", "command", "paste"}
    assert {"ratio", "edits", "preserve", "size", "residual", "seed", "classical", "label"} <= shared
    assert {name: export[name] for name in shared} == {name: explained[name] for name in shared}


# Signed


def sign_export(faces: Faces, out: Path, folder: Path, *options: object) -> Any:
    pytest.importorskip("c2pa", reason="needs c2pa-python: pip install 'ganaug[provenance]'")
    from test_content_credentials import make_chain

    keys = make_chain(folder)
    arguments = [*source(faces), "--out", out, "--edits", "fine", "--size", 24, "--sign", keys.chain]
    assert main(["export", *map(str, [*arguments, "--sign-key", keys.key, *options])]) == 0
    return keys


def test_a_signed_export(faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    keys = sign_export(faces, tmp_path / "out", tmp_path)
    plain = [*source(faces), "--out", tmp_path / "plain", "--edits", "fine", "--size", 24]
    assert main(["export", *map(str, plain)]) == 0
    capsys.readouterr()
    file = tmp_path / "out" / FILE
    np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(tmp_path / "plain" / FILE)))
    assert read_synthetic(file) == read_synthetic(tmp_path / "plain" / FILE)
    lines = explain(capsys, file, "--trust", keys.root, *source(faces))
    assert lines["answer"] == "a variant made by ganaug; it is as it was signed; its recipe gives this picture"
    assert "Ann Example (Example Laboratory), whose issuer is trusted" in lines["signature"]
    assert lines["signature"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert lines["recipes"] == "those of mark and signed and list agree"
    from ganaug.cache import LatentCache
    from ganaug.content_credentials import read_credentials

    credentials = read_credentials(file)
    assert credentials is not None
    cache = LatentCache(faces.cache)
    (edit,) = credentials["recipe"]["edits"]
    expected = {key: cache.get(key).source_hash for key in ("ann/03.png", edit["partner"])}
    assert credentials["photo_sha256"] == expected
    again = main(["export", *map(str, plain[:4]), "--out", str(tmp_path / "out"), "--edits", "fine", "--size", "24"])
    assert again == 2 and "signed_by" in capsys.readouterr().err, "one export is signed as a whole, or not at all"


def test_what_the_generator_drew_whole_is_no_composite(faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    sign_export(faces, tmp_path / "out", tmp_path, "--paste", "aligned")
    capsys.readouterr()
    assert explain(capsys, tmp_path / "out" / FILE)["signature"].endswith(": trainedAlgorithmicMedia")


def test_a_signed_picture_that_was_changed(faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    sign_export(faces, tmp_path / "out", tmp_path)
    from test_content_credentials import with_other_pixel

    file = tmp_path / "out" / FILE
    file.write_bytes(with_other_pixel(file.read_bytes()))
    capsys.readouterr()
    lines = explain(capsys, file)
    assert "its signature is broken" in lines["answer"] and "assertion.dataHash.mismatch" in lines["signature"]


def test_signed_but_c2pa_is_not_here(
    faces: Faces, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_export(faces, tmp_path / "out", tmp_path)
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "c2pa", None)
    lines = explain(capsys, tmp_path / "out" / FILE)
    assert "not verified" in lines["signature"] and "pip install 'ganaug[provenance]'" in lines["signature"]
    assert "signed" not in lines["answer"]


# The page, where there is a browser


def test_the_page_fits_a_phone(faces: Faces, browser: Any, tmp_path: Path, capsys: Capture) -> None:
    explain(capsys, *source(faces), "--key", "ann/03.png", "--edits", "fine", "--epochs", 2, "--out", tmp_path)
    with browser.new_page(viewport={"width": 390, "height": 800}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{tmp_path}/explanation.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out sideways"
        widths = page.evaluate("[...document.images].map(image => image.getBoundingClientRect().width)")
        assert len(widths) == 3 and max(widths) <= 390, "three faces side by side are seen at once"
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
