"""``ganaug evaluate``: the command, its mistakes, and its page in a browser."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Faces, write_faces

from ganaug.cli import build_parser, main
from ganaug.cli_evaluate import _command
from ganaug.evaluation import EvaluationSettings, measure

FEW = ["--limit", "6", "--strengths", "1", "--num-faces", "2", "--edits", "fine,middle"]


@pytest.fixture(autouse=True)
def little_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_DIVERSITY", 4)


def call(faces: Faces, *flags: str) -> list[str]:
    return ["evaluate", "--cache", str(faces.cache), "--real", str(faces.root), *FEW, *flags]


def test_a_report_is_written_and_told(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = tmp_path / "report", tmp_path / "figures.json"
    assert main([*call(faces, "--out", str(out)), "--json", str(data)]) == 0
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert json.loads(data.read_text()) == {**found, "out": [str(out / "report.html"), str(out / "report.json")]}
    assert found["photos"]["measured"] == 6 and found["settings"]["edits"] == ["fine", "middle"]
    assert found["networks"]["identity"] == "identity64" and found["networks"]["realism"]
    assert f"--cache {faces.cache} --real {faces.root}" in found["provenance"]["command"]
    assert found["settings"]["preserve"] == ["identity"] and found["gate"]["reason"] is None
    assert "In short" in (out / "report.html").read_text()
    capsys.readouterr()
    assert main(call(faces, "--limit", "1")) == 0
    assert "1 of the 22 faces" in capsys.readouterr().out
    assert main(call(faces, "--preserve", "none", "--paste", "aligned")) == 0
    told = capsys.readouterr().out
    assert "6 of the 22 faces" in told and "No gate" in told and "note 1" in told and "\nout" not in told


def test_the_defaults_of_flags_are_those_of_the_settings() -> None:
    args = build_parser().parse_args(["evaluate", "--cache", "a", "--real", "b c"])
    given = EvaluationSettings(args.limit, args.strengths, args.num_faces, args.batch_size, args.seed)
    assert given == EvaluationSettings()
    assert _command(args).startswith("ganaug evaluate --cache a --real 'b c' --preserve identity --strengths 3")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--images-split", "train"], "--images-split says what --images holds"),
        (["--edits", "glow"], "unknown edit 'glow'"),
        (["--embedder", "nobody"], "nobody"),
        (["--extractor", "nothing.pth"], "there is no file nothing.pth"),
        (["--residual", "2"], "residual"),
    ],
)
def test_mistakes_are_answered_with_one_line(
    faces: Faces, tmp_path: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(call(faces, "--out", str(tmp_path / "new" / "out"), *flags)) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_photos_that_are_not_those_of_the_cache_are_refused(
    faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone; beside the cache's own photos they are what is compared with."""
    others = tmp_path / "others"
    write_faces(others, per_class=2, seed=9)
    for path in list(others.rglob("*.*g")):
        path.rename(path.with_name(f"other-{path.name}"))
    words = ["evaluate", "--cache", str(faces.cache), "--real", str(others), *FEW]
    assert main(words) == 2
    assert "none of 4 photos has a record" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words, "--images", str(faces.root), "--out", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert main([*words, "--images", str(faces.root)]) == 0
    assert "2 images on a side are too few" in capsys.readouterr().out


def test_the_report_opens_offline_and_on_a_phone(faces: Faces, browser: Any, tmp_path: Path) -> None:
    """No request but for the file itself, no complaint, nothing wider than the screen."""
    assert main(call(faces, "--out", str(tmp_path))) == 0
    page = tmp_path / "report.html"
    with browser.new_context(viewport={"width": 390, "height": 844}, offline=True) as context:
        tab = context.new_page()
        asked: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.goto(page.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()] and complaints == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)") == [True, True]
        tab.click("text=Edit by edit")
        assert tab.evaluate("window.scrollY") > 0
