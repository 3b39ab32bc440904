"""``ganaug audit`` from the command line, and its page in a browser."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Faces

from ganaug.cache import LatentCache
from ganaug.cli import main

Capture = pytest.CaptureFixture[str]
QUICK = ["--edits", "coarse", "--columns", "who", "--min-count", "5"]


@pytest.fixture
def table(tmp_path: Path, faces: Faces) -> Path:
    path = tmp_path / "labels.csv"
    rows = [[key, key.partition("/")[0], ("x", "y")[number % 2]] for number, key in enumerate(faces.keys)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["file", "who", "letter"], *rows])
    return path


def run(*arguments: object) -> int:
    return main(["audit", *map(str, arguments)])


def test_the_command(faces: Faces, table: Path, tmp_path: Path, capsys: Capture) -> None:
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    given = ["--cache", faces.cache, "--groups", table, "--images", faces.root, "--out", out, *QUICK]
    assert run(*given) == 0
    told = capsys.readouterr().out
    assert "audited" in told and "worst_served" in told and str(out / "audit.html") in told
    assert run(*given, "--label", "letter", "--no-balance", "--json", figures) == 0
    report: dict[str, Any] = json.loads(figures.read_text())
    assert report == json.loads((out / "audit.json").read_text())
    assert list(report["columns"]["who"]["groups"]) == ["ann", "bob"]
    assert report["policy"]["preserve"] == ["identity"] and report["policy"]["gates"] == ["IdentityGate"]
    assert report["columns"]["who"]["balance"]["measured"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--columns", "race"], "no column 'race'"),
        (["--predictions", "letter"], "give --label COLUMN too"),
        (["--preserve", "label"], "say with --label"),
        (["--split", "val"], "give that too"),
        (["--label", "letter", "--predictions", "who"], "'ann' is no value of 'letter'"),
        (["--embedder", "nothing.safetensors"], "nothing.safetensors"),
        (["--ratio", "2"], "ratio"),
    ],
)
def test_mistakes_are_one_line(
    faces: Faces, table: Path, tmp_path: Path, capsys: Capture, flags: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert (
        run("--cache", faces.cache, "--groups", table, "--out", out, "--edits", "coarse", "--columns", "who", *flags)
        == 2
    )
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0
    assert not out.exists()


@pytest.mark.parametrize("with_photos", [True, False])
def test_an_empty_cache(faces: Faces, table: Path, tmp_path: Path, capsys: Capture, with_photos: bool) -> None:
    cache = LatentCache.create(tmp_path / "empty.lmdb", LatentCache(faces.cache).header)
    images = ["--images", faces.root] if with_photos else []
    assert run("--cache", cache.path, "--groups", table, "--out", tmp_path / "out", *images, *QUICK) == 2
    assert "there is no record in" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_out_that_is_a_file(faces: Faces, table: Path, capsys: Capture) -> None:
    assert run("--cache", faces.cache, "--groups", table, "--out", table, *QUICK) == 2
    assert "is a file" in capsys.readouterr().err


def test_the_page_fits_a_phone(faces: Faces, browser: Any, table: Path, tmp_path: Path) -> None:
    assert run("--cache", faces.cache, "--groups", table, "--label", "letter", "--out", tmp_path / "out", *QUICK) == 0
    with browser.new_page(viewport={"width": 390, "height": 800}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "out/audit.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert page.locator("h2").first.inner_text() == "What stands out"
        assert page.locator("table").count() >= 5
