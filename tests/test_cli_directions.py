"""``ganaug directions``: what each action does, and that a mistake gives one clear line."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, QUALITY, make_header, write_model
from test_cli import good, mistake

from ganaug.cache import LatentCache, Record
from ganaug.directions import as_name
from ganaug.edits.stored import load_directions
from ganaug.edits.whitening import Whitening
from ganaug.errors import UserInputError
from ganaug.generators import load_generator
from ganaug.labelled_codes import read_codes

SHAPE = (2 * len(CONFIG.channels), CONFIG.w_dim)
COUNT = 120
Capture = pytest.CaptureFixture[str]


class Made:
    """A cache of codes in which three things are written along three axes, a table that tells them, and the axes."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.model, self.cache, self.labels = model, folder / "codes.lmdb", folder / "labels.csv"
        rng = np.random.default_rng(0)
        self.axes = np.linalg.qr(rng.normal(size=(SHAPE[0] * SHAPE[1], 3)))[0].T
        codes = rng.normal(size=(COUNT, SHAPE[0] * SHAPE[1])) * 0.3
        sex, age = np.arange(COUNT) % 2, rng.uniform(20, 60, COUNT).round()
        race = np.arange(COUNT) // 2 % 3
        codes += 3 * np.outer(sex - 0.5, self.axes[0]) + np.outer((age - 40) / 8, self.axes[1])
        codes += 3 * np.outer(race == 2, self.axes[2])
        keys = [f"{i:03d}.jpg" for i in range(COUNT)]
        eye = np.eye(2, 3, dtype=np.float32)
        records = [Record(k, c.reshape(SHAPE), QUALITY, eye, "0" * 64) for k, c in zip(keys, codes, strict=True)]
        self.cache_of(records)
        self.lines = [
            f"train/{key},{'fm'[s]},{a:.0f},{'abc'[r]},p{i // 2},one,{'' if i % 2 else 'xy'[i // 2 % 2]}"
            for i, (key, s, a, r) in enumerate(zip(keys, sex, age, race, strict=True))
        ]
        self.head = "file,gender,age,race,person,same,half"
        self.write(self.lines)

    def cache_of(self, records: Sequence[Record]) -> None:
        LatentCache.create(self.cache, make_header(self.model)).put_many(records)

    def write(self, lines: Sequence[str]) -> Path:
        self.labels.write_text("\n".join([self.head, *lines]) + "\n")
        return self.labels

    def fit(self, column: str, out: Path, *options: object) -> list[object]:
        return [
            "directions",
            "fit",
            "--cache",
            self.cache,
            "--labels",
            self.labels,
            "--column",
            column,
            "--out",
            out,
            *options,
        ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Made:
    return Made(tmp_path_factory.mktemp("directions"), model_file)


@pytest.fixture
def made(shared: Made) -> Made:
    """With its table as it was; tests may write another one."""
    shared.write(shared.lines)
    return shared


def figures(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def along(made: Made, path: Path, name: str) -> np.ndarray:
    """How far one standard deviation of a stored direction goes along the three axes, as a share of its length."""
    edit = next(e for e in load_directions(path, load_generator(made.model)) if e.name == name)
    step = edit.apply(torch.zeros(1, *SHAPE), {"strength": torch.ones(1)}).numpy().ravel()
    return made.axes @ step / np.linalg.norm(step)


def test_fit(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    out, report = tmp_path / "d.safetensors", tmp_path / "r.json"
    good(capsys, *made.fit("gender", out, "--json", report))
    gender = figures(report)["gender"]
    assert gender["accuracy"] > 0.95 and gender["method"] == "logistic" and gender["positive"] == "m"
    assert gender["faces"] == COUNT and gender["unlabelled"] == 0 and abs(gender["correlations"]["age"]) < 0.3
    assert along(made, out, "gender")[0] > 0.9
    good(
        capsys, *made.fit("age", out, "--json", report, "--name", "years", "--strength", "1,2", "--touches", "age,hair")
    )
    years = figures(report)["years"]
    assert years["method"] == "ridge" and years["r2"] > 0.8 and years["mean_absolute_error"] < 4
    assert years["strength"] == [1.0, 2.0] and years["touches"] == ["age", "hair"]
    assert along(made, out, "years")[1] > 0.9
    good(capsys, *made.fit("race", out, "--method", "svm"))
    assert along(made, out, "race_c")[2] > 0.8
    names = [e.name for e in load_directions(out, load_generator(made.model))]
    assert names == ["gender", "years", "race_a", "race_b", "race_c"]
    before = out.read_bytes()
    good(capsys, *made.fit("gender", out))  # replaced by its equal
    assert out.read_bytes() == before


def test_calibration_reads_the_label_off_a_code(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "d.safetensors"
    good(capsys, *made.fit("age", out))
    good(capsys, *made.fit("gender", out, "--positive", "f", "--name", "female"))
    age, female = load_directions(out, load_generator(made.model))
    cache = LatentCache(made.cache)
    codes = torch.from_numpy(cache.get_many(cache.keys()).latents.astype(np.float32))
    assert age.calibration is not None and female.calibration is not None
    told = np.array([float(line.split(",")[2]) for line in made.lines])
    assert np.abs(age.calibration(codes).numpy() - told).mean() < 3
    is_female = np.array([line.split(",")[1] == "f" for line in made.lines])
    assert ((female.calibration(codes).numpy() > 0.5) == is_female).mean() > 0.95
    # One standard deviation along the direction is a standard deviation of what is read.
    step = {"strength": torch.ones(COUNT)}
    rise = age.calibration.raw(age.apply(codes, step)) - age.calibration.raw(codes)
    assert float(rise.std()) < 1e-3
    assert float(rise.mean()) == pytest.approx(float(age.calibration.raw(codes).std()), rel=0.15)


def test_free_of_columns_and_of_a_file(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    # Men are old here, so that age and gender are entangled.
    entangled = [line.replace(",f,", f",{'m' if float(line.split(',')[2]) > 40 else 'f'},") for line in made.lines]
    made.write(entangled)
    first, second, report = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "r.json"
    good(capsys, *made.fit("gender", first, "--json", report))
    assert abs(figures(report)["gender"]["correlations"]["age"]) > 0.3
    good(capsys, *made.fit("age", first, "--free-of", "gender,race", "--json", report))
    assert figures(report)["age"]["free_of"] == ["gender", "race_a", "race_b", "race_c"]
    good(capsys, *made.fit("age", second, "--free-of", f"{first}:gender", "--json", report))
    assert figures(report)["age"]["free_of"] == ["gender"] and "gender" not in figures(report)["age"]["touches"]
    generator = load_generator(made.model)
    gender, both = load_directions(first, generator)
    (one,) = load_directions(second, generator)
    assert gender.calibration is not None
    for edit in (both, one):
        step = edit.apply(torch.zeros(1, *SHAPE), {"strength": torch.ones(1)}).double()
        assert abs(float((step * gender.calibration.weights.double()).sum())) < 1e-6
    # A name of the file that is written to, where no column has it.
    good(capsys, *made.fit("age", first, "--name", "again"))
    good(capsys, *made.fit("gender", first, "--name", "other", "--free-of", "again", "--json", report))
    assert figures(report)["other"]["free_of"] == ["again"]


def test_labels_that_are_missing_are_left_out_and_counted(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    lines = [line.replace(",m,", ",NaN,", 1) if i < 20 else line for i, line in enumerate(made.lines[:100])]
    made.write(lines)
    report = tmp_path / "r.json"
    good(capsys, *made.fit("gender", tmp_path / "d.safetensors", "--json", report))
    assert figures(report)["gender"]["faces"] == 90 and figures(report)["gender"]["unlabelled"] == 30


def test_a_class_with_few_faces_is_told_and_the_others_fitted(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    made.write(
        [line.replace(",c,", ",rare,") if i < 12 else line.replace(",c,", ",a,") for i, line in enumerate(made.lines)]
    )
    out = good(capsys, *made.fit("race", tmp_path / "d.safetensors"))
    assert (
        "race_rare unsupported: column 'race', 'rare': a class has only 4 of the 120 faces, expected at least 5" in out
    )
    shown = good(capsys, "directions", "show", tmp_path / "d.safetensors")
    assert shown.splitlines()[-1].startswith("race_rare unsupported: ") and "race_a" in shown and "auc" in shown


def test_discover(made: Made, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "d.safetensors"
    good(
        capsys,
        "directions",
        "discover",
        "--method",
        "sefa",
        "--generator",
        made.model,
        "--num",
        2,
        "--rows",
        "0-2",
        "--out",
        out,
    )
    good(capsys, "directions", "discover", "--method", "pca", "--generator", made.model, "--num", 1, "--out", out)
    good(
        capsys,
        "directions",
        "discover",
        "--method",
        "pca",
        "--cache",
        made.cache,
        "--num",
        2,
        "--name",
        "own",
        "--out",
        out,
    )
    edits = {edit.name: edit for edit in load_directions(out, load_generator(made.model))}
    assert list(edits) == ["sefa0", "sefa1", "axis0", "own0", "own1"]
    assert edits["sefa0"].rows == (0, 1, 2) and edits["axis0"].rows == tuple(range(SHAPE[0]))
    cache = LatentCache(made.cache)
    codes = cache.get_many(cache.keys()).latents.astype(np.float64).reshape(COUNT, -1)
    _, values, right = np.linalg.svd(codes - codes.mean(axis=0), full_matrices=False)
    assert abs(right[0] @ edits["own0"].direction.numpy().ravel()) > 0.999
    assert edits["own0"].std == pytest.approx(values[0] / (COUNT - 1) ** 0.5, rel=1e-3)
    assert "touches everything" in good(capsys, "directions", "show", out)


def test_discover_pairs(made: Made, tmp_path: Path, capsys: Capture) -> None:
    """Each person has a photo as f and one as m, so that is what differs."""
    out, report = tmp_path / "d.safetensors", tmp_path / "r.json"
    pairs = ["--cache", made.cache, "--pairs", made.labels, "--column", "gender", "--out", out, "--json", report]
    good(capsys, "directions", "discover", "--method", "pairs", *pairs)
    found = figures(report)["gender"]
    assert found["pairs"] == COUNT // 2 and found["pair_accuracy"] == 1.0 and found["mean_move"] > 1
    assert along(made, out, "gender")[0] > 0.9
    good(capsys, "directions", "discover", "--method", "pairs", *pairs, "--name", "reverse", "--positive", "f")
    np.testing.assert_allclose(along(made, out, "reverse"), -along(made, out, "gender"), atol=1e-5)


def test_import_and_show(made: Made, tmp_path: Path, capsys: Capture) -> None:
    source, out = tmp_path / "smile.npy", tmp_path / "d.safetensors"
    np.save(source, np.random.default_rng(0).normal(size=SHAPE[1]))
    arguments = ["directions", "import", source, "--generator", made.model, "--out", out]
    assert "does not say which generator it was made for" in mistake(capsys, *arguments)
    good(capsys, *arguments, "--made-for", "stylegan2", "--rows", "1,3-4")
    (edit,) = load_directions(out, load_generator(made.model))
    assert edit.name == "smile" and edit.rows == (1, 3, 4) and edit.touches == {"expression"}
    shown = good(capsys, "directions", "show", out)
    assert shown == good(capsys, "directions", "show", out, "--generator", made.model)
    assert shown.startswith("smile direction by import; strength 1 to 2.5; touches expression")


def test_show_keeps_the_terminal_safe(made: Made, tmp_path: Path, capsys: Capture) -> None:
    from ganaug.edits.directions import Direction
    from ganaug.edits.stored import write_directions

    evil = {"method": "a\x1b[2Jb", "accuracy": True, "correlations": {"x\x1by": 0.5, "z": "\x1b"}, "ece": "\x1b"}
    edit = Direction("a", torch.ones(SHAPE[1]), 1.0, [0], {"hair"}, measured=evil)
    write_directions(tmp_path / "d.safetensors", [edit], load_generator(made.model))
    shown = good(capsys, "directions", "show", tmp_path / "d.safetensors")
    assert "\x1b" not in shown and "a?[2Jb" in shown


def test_mistakes_of_fit(made: Made, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "d.safetensors"

    def wrong(column: str, *options: object, lines: Sequence[str] | None = None) -> str:
        made.write(made.lines if lines is None else lines)
        return mistake(capsys, *made.fit(column, out, *options))

    assert "has no column 'hair'; it has gender, age, race, person, same, half" in wrong("hair")
    assert "column 'same' of" in wrong("same") and "holds only 'one'" in wrong("same")
    assert "column 'gender': 19 labelled faces have latents, expected at least 20" in wrong(
        "gender", lines=made.lines[:19]
    )
    few = [line.replace(",m,", ",f,") if i > 8 else line for i, line in enumerate(made.lines)]
    assert "a class has only 4 of the 120 faces, expected at least 5" in wrong("gender", lines=few)
    gone = [line.replace(",m,", ",nan,").replace(",f,", ",,") for line in made.lines]
    assert "column 'gender' of" in wrong("gender", lines=gone) and "has no value for any of the 120" in wrong(
        "gender", lines=gone
    )
    assert "has no class 'x'; it has f, m" in wrong("gender", "--positive", "x")
    other = [line.replace("train/", "train/x") for line in made.lines]
    assert "no column of" in wrong("gender", lines=other) and "'000.jpg'" in wrong("gender", lines=other)
    both = [*made.lines, *(line.replace("train", "val") for line in made.lines)]
    assert "say with --images which folder" in wrong("gender", lines=both)
    good(capsys, *made.fit("gender", tmp_path / "images.safetensors", "--images", tmp_path / "train"))
    assert "ridge needs numbers" in wrong("race", "--method", "ridge")
    assert "--free-of hair: expected FILE:NAME, or a column of the table" in wrong("gender", "--free-of", "hair")
    assert "has no direction 'hair'; it has gender" in wrong(
        "age", "--free-of", f"{tmp_path / 'images.safetensors'}:hair"
    )
    assert "nothing is left of it" in wrong("gender", "--free-of", f"{tmp_path / 'images.safetensors'}:gender,gender")
    assert "touches wig: expected some of" in wrong("gender", "--touches", "wig")
    assert "expected two numbers, LOW,HIGH" in wrong("gender", "--strength", "2,1")
    assert "expected a name ending in .safetensors" in mistake(capsys, *made.fit("gender", tmp_path / "d.pt"))
    assert "in a folder that exists" in mistake(capsys, *made.fit("gender", tmp_path / "no" / "d.safetensors"))
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install 'ganaug[directions]'" in wrong("gender")


def test_a_file_of_another_generator_is_left_alone(made: Made, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("sklearn")
    other, out = write_model(tmp_path / "other.safetensors", seed=5), tmp_path / "d.safetensors"
    good(capsys, "directions", "discover", "--method", "pca", "--generator", other, "--num", 1, "--out", out)
    before = out.read_bytes()
    line = mistake(capsys, *made.fit("gender", out))
    for model in (other, made.model):
        assert load_generator(model).fingerprint in line
    assert out.read_bytes() == before
    assert "with fingerprint" in mistake(
        capsys, *made.fit("gender", tmp_path / "new.safetensors", "--free-of", f"{out}:axis0")
    )
    assert "fingerprint" in mistake(capsys, "directions", "show", out, "--generator", made.model)
    assert "its fingerprint is" in mistake(
        capsys, *made.fit("gender", tmp_path / "x.safetensors", "--generator", other)
    )


def test_other_mistakes(made: Made, tmp_path: Path, capsys: Capture) -> None:
    out = ("--out", tmp_path / "d.safetensors")
    discover = ("directions", "discover", "--method")
    assert "say with --generator or with --cache" in mistake(capsys, *discover, "sefa", *out)
    assert "needs --cache DIR, --pairs CSV and --column" in mistake(capsys, *discover, "pairs", *out)
    assert "are for --method pairs" in mistake(capsys, *discover, "pca", "--free-of", "x", *out)
    assert "--num must be at least 1" in mistake(capsys, *discover, "pca", "--num", 0, "--generator", made.model, *out)
    assert "expected numbers of rows" in mistake(
        capsys, *discover, "sefa", "--rows", "a", "--generator", made.model, *out
    )
    assert "expected some of 0 to" in mistake(
        capsys, *discover, "sefa", "--rows", "99", "--generator", made.model, *out
    )
    pairs = ("--cache", made.cache, "--pairs", made.labels, *out)
    assert "more than two classes" in mistake(capsys, *discover, "pairs", "--column", "race", *pairs)
    assert "has no column 'who'" in mistake(capsys, *discover, "pairs", "--column", "gender", "--person", "who", *pairs)
    assert "0 pairs have latents" in mistake(capsys, *discover, "pairs", "--column", "half", *pairs)
    assert "show what?" in mistake(capsys, "directions", "show")
    assert "not a readable file" in mistake(capsys, "directions", "show", tmp_path / "none.safetensors")
    assert "no table of edits comes with generator" in mistake(capsys, "directions", "show", "--generator", made.model)


def test_codes_are_the_anchors(tmp_path: Path, model_file: Path) -> None:
    """Records with two codes give the second; damaged ones are left out; the table's order does not matter."""
    from dataclasses import replace

    cache = LatentCache.create(tmp_path / "c.lmdb", replace(make_header(model_file), anchored=True))
    codes = np.random.default_rng(0).normal(size=(30, 2, *SHAPE)).astype(np.float16)
    eye = np.eye(2, 3, dtype=np.float32)
    cache.put_many([Record(f"{i:02d}.jpg", code, QUALITY, eye, "0" * 64) for i, code in enumerate(codes)])
    table = tmp_path / "t.csv"
    table.write_text("file,age\n" + "".join(f"{i:02d}.jpg,{i}\n" for i in reversed(range(3, 30))))
    generator = load_generator(model_file)
    found = read_codes(cache, generator, table)
    assert found.keys == [f"{i:02d}.jpg" for i in range(3, 30)] and found.total == 30
    assert found.columns.columns["age"] == [str(i) for i in range(3, 30)]
    white = Whitening.of(generator, torch.from_numpy(codes[:, 1].astype(np.float32)))
    np.testing.assert_allclose(found.z, white.coordinates(codes[3:, 1]), atol=1e-6)
    with pytest.raises(UserInputError, match="is empty"):
        read_codes(LatentCache.create(tmp_path / "e.lmdb", make_header(model_file)), generator, table)


@pytest.mark.parametrize(
    ("text", "name"), [("Hair Colour", "Hair_Colour"), ("5 o'clock", "d5_o_clock"), ("a=b", "a_b")]
)
def test_names(text: str, name: str) -> None:
    assert as_name(text) == name
    with pytest.raises(UserInputError, match="give --name"):
        as_name("\u5e74\u9f84")
