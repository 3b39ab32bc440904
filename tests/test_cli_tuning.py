"""``ganaug tune`` from end to end."""

import json
import re
from pathlib import Path

import pytest
from conftest import Faces

from ganaug.cache import LatentCache
from ganaug.cli import main


def arguments(faces: Faces, out: Path, *more: str) -> list[str]:
    return ["tune", "--cache", str(faces.cache), "--images", str(faces.root), "--out", str(out), *more]


def test_tune_a_cache(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, told = tmp_path / "tuned", tmp_path / "figures.json"
    few = ["--steps", "3", "--batch-size", "4", "--locality-weight", "0.1", "--json", str(told)]
    assert main(arguments(faces, out, *few)) == 0
    figures = json.loads(told.read_text())
    assert figures["faces"] == len(faces.keys) and figures["steps"] == 3
    assert Path(figures["generator"]) == out / "generator.safetensors"
    header = LatentCache(figures["cache"]).header
    assert header.fingerprint == figures["fingerprint"]
    assert header.inverter["tuning"] | {"batch_size": 4, "locality_weight": 0.1} == header.inverter["tuning"]
    capsys.readouterr()
    assert main(["inspect", figures["cache"]]) == 0 and main(["inspect", figures["generator"]]) == 0
    shown = capsys.readouterr().out
    assert figures["fingerprint"] in shown
    assert re.search(f"tuned from +{LatentCache(faces.cache).header.fingerprint}", shown)


def test_tune_to_one_photo(faces: Faces, tmp_path: Path) -> None:
    assert main(arguments(faces, tmp_path / "one", "--key", faces.keys[2], "--steps", "2")) == 0
    assert LatentCache(tmp_path / "one" / "faces.lmdb").keys() == [faces.keys[2]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--key", "nobody.jpg"], "has no record 'nobody.jpg'"),
        (["--minutes", "-1"], "minutes must be a number above 0, got -1.0"),
        (["--learning-rate", "nan"], "learning_rate must be a number from 0 up, got nan"),
        (["--resume"], "holds no run to continue"),
        (["--device", "toaster"], "unknown device 'toaster'"),
    ],
)
def test_mistakes_are_one_line(
    faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(arguments(faces, tmp_path / "tuned", *more)) == 2
    told = capsys.readouterr().err.strip()
    assert message in told and "\n" not in told and told.startswith("ganaug tune: ")
    assert not (tmp_path / "tuned").exists()


def test_steps_or_minutes(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments(faces, tmp_path / "tuned", "--steps", "2", "--minutes", "1"))
    assert "not allowed with argument" in capsys.readouterr().err
