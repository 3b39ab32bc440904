"""The label table: which line belongs to which photo, what a column's classes are, and one line for each error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganaug.errors import UserInputError
from ganaug.training.conditions import Conditions, LabelColumn
from ganaug.training.labels import LabelTable

FACES = """file,split,age,gender,race
train/1.jpg,train,3-9,Female,East Asian
train/2.jpg,train,20-29,Male,White
val/1.jpg,val,10-19,Male,Black
val/sub/3.jpg,val,more than 70,Female,White
"""


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(FACES)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_codes_by_hand(csv_file: Path) -> None:
    table = LabelTable(csv_file, ["gender", "age"])
    assert table.names == (
        "gender=Female",
        "gender=Male",
        "age=3-9",
        "age=10-19",
        "age=20-29",
        "age=more than 70",
    )
    codes = table.encode(["val/1.jpg", "train/1.jpg", "val/sub/3.jpg", "val/1.jpg"])
    assert codes.dtype == np.float32
    assert codes.tolist() == [[0, 1, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0]]


def test_lines_are_found_from_any_folder(csv_file: Path, tmp_path: Path) -> None:
    """``1.jpg`` is another photo in ``train/`` than in ``val/``; the folder tells them apart."""
    table = LabelTable(csv_file, ["gender"])
    assert table.encode(["1.jpg"], tmp_path / "train").tolist() == [[1, 0]]
    assert table.encode(["1.jpg", "sub/3.jpg"], tmp_path / "val").tolist() == [[0, 1], [1, 0]]
    assert table.encode(["train/2.jpg"], tmp_path).tolist() == [[0, 1]]
    bare = LabelTable(write(tmp_path / "bare.csv", "age;img\n2;a.png\n3;b.png\n"), ["age"])
    assert bare.encode(["ffhq128/b.png", "a.png"], tmp_path).tolist() == [[0, 1], [1, 0]]
    absolute = f"age\tpath\n7\t{tmp_path}/x/a.png\n8\t.\\y\\b.png\n"
    tabs = LabelTable(write(tmp_path / "tabs.csv", absolute), ["age"])
    assert tabs.encode(["a.png"], tmp_path / "x").tolist() == [[1, 0]]
    assert tabs.encode(["b.png"], tmp_path / "y").tolist() == [[0, 1]]


def test_file_column_is_the_one_that_names_most_photos(tmp_path: Path) -> None:
    text = "smile,partner,photo\n1,b.png,a.png\n0,c.png,b.png\n0,,c.png\n"
    table = LabelTable(write(tmp_path / "pairs.csv", text), ["smile"])
    assert table.encode(["a.png", "b.png", "c.png"]).argmax(axis=1).tolist() == [1, 0, 0]


def test_bins_hold_equal_counts_and_say_which_numbers(tmp_path: Path) -> None:
    ages = np.random.default_rng(0).integers(2, 81, 400)
    lines = [f"{number}.jpg,{age}" for number, age in enumerate(ages)]
    table = LabelTable(write(tmp_path / "ages.csv", "\n".join(["file,age", *lines])), ["age"])
    codes = table.encode([f"{number}.jpg" for number in range(400)])
    assert codes.shape == (400, 5)
    assert (codes.sum(axis=1) == 1).all()
    assert (abs(codes.sum(axis=0) - 80) < 15).all()
    for age, code in zip(ages, codes, strict=True):
        low, high = map(int, table.names[int(code.argmax())].removeprefix("age=").split("-"))
        assert low <= age <= high
        assert np.array_equal(table.vector({"age": int(age)}).numpy(), code)


def test_bins_of_odd_columns() -> None:
    skewed = LabelColumn.of("scars", ["0"] * 90 + [str(k) for k in range(1, 15)])
    assert skewed.classes == ("0-1", "2-4", "5-7", "8-10", "11-14")
    yaw = LabelColumn.of("yaw", [f"{v:.1f}" for v in np.linspace(-30, 30, 25)])
    assert yaw.classes[0] == "-30 to -20"
    assert [yaw.index(v) for v in (-30, -20.01, -20, 29, 30.0)] == [0, 0, 1, 4, 4]
    few = LabelColumn.of("stars", ["5", "1", "3", "10"])
    assert (few.classes, few.edges) == (("1", "3", "5", "10"), None)
    codes = LabelColumn.of("camera", [f"{k:03d}" for k in range(20)])
    assert len(codes.classes) == 20


def test_description_survives_json(csv_file: Path, tmp_path: Path) -> None:
    lines = [f"{k}.jpg,{20 + k},{'mf'[k % 2]}" for k in range(50)]
    table = LabelTable(write(tmp_path / "people.csv", "\n".join(["file,age,sex", *lines])), ["sex", "age"])
    again = LabelTable.from_description(json.loads(json.dumps(table.describe())))
    assert (again.columns, again.names, again.c_dim) == (table.columns, table.names, 7)
    for values in (
        {"sex": "f", "age": 45},
        {"age": "45", "sex": "f"},
        {"age": again.columns[1].classes[2], "sex": "f"},
    ):
        assert torch.equal(again.vector(values), torch.tensor([1.0, 0, 0, 0, 1, 0, 0]))
    assert table.encode(["25.jpg"]).tolist() == [again.vector({"sex": "f", "age": 45}).tolist()]


def test_photos_without_a_line(csv_file: Path) -> None:
    names = ["train/1.jpg", *(f"train/{k}.jpg" for k in range(10, 14))]
    message = (
        r"4 of 5 photos have no line in .*labels.csv \(column 'file'\): "
        r"train/10.jpg, train/11.jpg, train/12.jpg, \.\.\.; add lines"
    )
    with pytest.raises(UserInputError, match=message):
        LabelTable(csv_file, ["gender"]).encode(names)
    with pytest.raises(
        UserInputError, match=r"no column of .* names the photos, for example 'x.png'; it has file, split"
    ):
        LabelTable(csv_file, ["gender"]).encode(["x.png"])


def test_photos_without_a_value(tmp_path: Path) -> None:
    path = write(tmp_path / "gaps.csv", "file,age\na.jpg,30\nb.jpg,NA\nc.jpg,40\nd.jpg,\n")
    table = LabelTable(path, ["age"])
    assert table.names == ("age=30", "age=40")
    assert table.encode(["c.jpg", "a.jpg"]).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(UserInputError, match=r"2 of 4 photos have no 'age' in .*gaps.csv: b.jpg, d.jpg; fill it in"):
        table.encode(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])


def test_lines_that_contradict_each_other(tmp_path: Path) -> None:
    text = "file,age,note\na.jpg,3,x\na.jpg,3,y\nb.jpg,4,x\nb.jpg,3,x\nc.jpg,4,z\n"
    table = LabelTable(write(tmp_path / "twice.csv", text), ["age"])
    assert table.encode(["a.jpg", "c.jpg"]).tolist() == [[1, 0], [0, 1]]  # the same twice is no harm
    with pytest.raises(UserInputError, match=r"same photo with different labels: b.jpg"):
        table.encode(["a.jpg", "b.jpg"])


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", ["age"], "is empty"),
        ("file,age\n\n", ["age"], "is empty"),
        (FACES, ["gender", "mood", "hat"], r"has no column mood, hat; it has file, split, age, gender, race"),
        (FACES, [], "expected distinct columns to condition on, got none"),
        (FACES, ["age", "age"], "expected distinct columns to condition on, got age, age"),
        ("file,age\na.jpg,3\nb.jpg,3\n", ["age"], r"x.csv: column 'age' holds only '3'"),
        ("file,age\na.jpg,\nb.jpg,NA\n", ["age"], r"column 'age' is empty"),
        ("file,age\na.jpg,3\nb.jpg,3,4\n", ["age"], "row 3 has 3 cells, but there are 2 column names"),
        (
            "file,name\n" + "".join(f"{k}.jpg,person {k}\n" for k in range(65)),
            ["name"],
            r"column 'name' has 65 classes \(person 0, person 1, \.\.\.\), at most 64",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, columns: list[str], message: str) -> None:
    with pytest.raises(UserInputError, match=message) as caught:
        LabelTable(write(tmp_path / "x.csv", text), columns)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0\x00")
    for path in (tmp_path / "photo.csv", tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UserInputError, match="cannot be read"):
            LabelTable(path, ["age"])


def test_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes('\ufefffile,mood\r\n"a, b.jpg", happy\r\nc.jpg,"sad"\r\n'.encode())
    assert LabelTable(path, ["mood"]).encode(["a, b.jpg", "c.jpg"]).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sex": "f"}, "expected a value for each of sex, age; got sex"),
        ({"sex": "f", "age": 3, "hat": "no"}, "got sex, age, hat"),
        ({"sex": "x", "age": 3}, "sex='x' is not known; expected one of f, m$"),
        ({"sex": "f", "age": 81}, "age='81' is not known; expected one of 2-19, 20-80, or a number from 2 to 80"),
        ({"sex": "f", "age": float("nan")}, "age='nan' is not known"),
    ],
)
def test_values_that_are_refused(values: dict[str, str | float], message: str) -> None:
    columns = [LabelColumn("sex", ("f", "m")), LabelColumn("age", ("2-19", "20-80"), (2.0, 20.0, 80.0))]
    with pytest.raises(UserInputError, match=message):
        Conditions(columns).vector(values)
