"""Groups out of a table's columns."""

import numpy as np
import pytest

from ganaug.audit.groups import cross, group_column, group_columns
from ganaug.edits.label_table import LabelColumns
from ganaug.errors import UserInputError

TABLE = LabelColumns(
    "labels.csv",
    {
        "race": ["a", "b", "a", "", "b", "a"],
        "gender": ["F", "F", "M", "M", "F", "F"],
        "age": ["20-29", "3-9", "more than 70", "3-9", "3-9", "20-29"],
        "file": [f"{i}.jpg" for i in range(6)],
    },
)


def test_usual_columns_and_their_crossings() -> None:
    columns = group_columns(TABLE, None, min_count=1)
    assert [one.name for one in columns] == [
        "race", "gender", "age", "race x gender", "race x age", "gender x age", "race x gender x age",
    ]  # fmt: skip
    assert columns[2].names == ("3-9", "20-29", "more than 70")
    both = columns[3]
    assert dict(zip(both.names, both.counts.tolist(), strict=True)) == {"a, F": 2, "a, M": 1, "b, F": 2}
    assert both.of[3] == -1 and both.called(1) == "race a, gender M"
    assert columns[-1].called(0).startswith("race a, gender F, age 20-29")


def test_crossings_without_two_large_groups_are_left_out() -> None:
    assert [one.name for one in group_columns(TABLE, ["race", "gender"], min_count=2)][2:] == ["race x gender"]
    assert len(group_columns(TABLE, ["race", "gender"], min_count=3)) == 2


def test_ages_in_years_are_cut_into_tens() -> None:
    years = [str(year) for year in range(0, 100, 7)]
    column = group_column("age", [*years, ""])
    assert column.names[0] == "0-9" and column.names[-1] == "90-99" and column.of[-1] == -1
    assert column.counts.sum() == len(years)
    few = group_column("age", ["20", "30", "20"])
    assert few.names == ("20", "30")


def test_members_and_choice() -> None:
    column = group_column("race", ["a", "b", "", "a"])
    assert column.members.tolist() == [[True, False], [False, True], [False, False], [True, False]]
    assert column.at(np.array([3, 2])).of.tolist() == [0, -1]
    assert cross([column, group_column("g", ["x, y", "x", "x", "x"])]).called(0) == "race a, g x"


def test_names_with_commas_stay_whole() -> None:
    column = cross([group_column("race", ["a"]), group_column("origin", ["here, there"])])
    assert column.called(0) == "race a, origin here, there"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["hair"], "no column 'hair'"),
        (["race", "race"], "distinct columns"),
        ([], "got none"),
    ],
)
def test_mistakes(wanted: list[str], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        group_columns(TABLE, wanted, 1)
    with pytest.raises(UserInputError, match="no value"):
        group_column("race", ["", ""])
