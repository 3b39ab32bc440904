"""Recipes: there and back through JSON, by row and by column."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ganaug.classical import ClassicalAugmentation
from ganaug.edits import Direction, StyleMixing
from ganaug.errors import UserInputError
from ganaug.partners import PartnerPool
from ganaug.policy import AugmentationPolicy
from ganaug.provenance import AppliedEdit, BatchRecipe, Recipe, Source
from ganaug.rng import hash_text

EDITS = [
    StyleMixing("mix", [0], set()),
    StyleMixing("other", [1], set()),
    Direction("up", torch.tensor([1.0, 0.0]), 1.0, [0], set()),
]
NAMES = [edit.name for edit in EDITS]

floats = st.floats(allow_nan=False, allow_infinity=False)
edits = st.builds(AppliedEdit, st.text(), st.dictionaries(st.text(), floats, max_size=3), st.none() | st.text())
recipes = st.builds(
    Recipe,
    st.text(),
    st.integers(0, 2**40),
    st.integers(-(2**70), 2**70),
    st.sampled_from(Source),
    st.lists(edits, max_size=3).map(tuple),
    st.dictionaries(st.text(), floats | st.integers(0, 2**63 - 1) | st.booleans(), max_size=3),
)


def draw(ratio: float = 0.7) -> BatchRecipe:
    keys = [f"ann/{i}.jpg" for i in range(40)]
    hashes = np.array([hash_text(key) for key in keys], np.int64)
    pool = PartnerPool.build(keys, np.arange(40) % 5 > 0, None)
    policy = AugmentationPolicy(ratio, EDITS, seed=3)
    return policy.draw(np.arange(40), keys, hashes, 2, pool, ClassicalAugmentation())


def through_json(recipe: Recipe) -> Recipe:
    return Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))


@given(recipes)
def test_json_round_trip(recipe: Recipe) -> None:
    again = through_json(recipe)
    assert again == recipe
    assert type(again.source) is Source
    assert again.is_generated == (recipe.source == 1)
    for name, value in (recipe.classical or {}).items():
        assert type((again.classical or {})[name]) is type(value)


def test_json_is_plain() -> None:
    applied = AppliedEdit("mix", {"strength": 0.5}, "bob.jpg")
    assert Recipe("ann.jpg", 1, 2, Source.GENERATED, (applied,), None, {}, 0.5, 0.75, 2).to_dict() == {
        "synthetic": True,
        "key": "ann.jpg",
        "epoch": 1,
        "seed": 2,
        "source": "generated",
        "edits": ({"name": "mix", "params": {"strength": 0.5}, "partner": "bob.jpg"},),
        "classical": {},
        "degradation": {},
        "scale": 0.5,
        "identity": 0.75,
        "attempts": 2,
        "variant": 0,
    }


def test_rows_hold_what_the_columns_say() -> None:
    batch = draw()
    rows = batch.rows()
    assert len(rows) == len(batch) == 40
    assert {row.source for row in rows} == {Source.REAL, Source.GENERATED, Source.NO_LATENT}
    for i, row in enumerate(rows):
        assert (row.key, row.epoch, row.seed) == (f"ann/{i}.jpg", 2, 3)
        generated = batch.source[i] == Source.GENERATED
        assert row.is_generated == bool(batch.is_generated[i]) == generated
        applied = [name for column, name in enumerate(NAMES) if batch.active[i, column]] if generated else []
        assert [edit.name for edit in row.edits] == applied
        for edit in row.edits:
            assert edit.params == {"strength": float(batch.edit_params[edit.name]["strength"][i])}
            assert edit.partner == (None if edit.name == "up" else batch.partners[edit.name][i])
        assert row.classical == {name: values[i].item() for name, values in batch.classical.items()}


def test_columns_from_rows_are_bit_equal() -> None:
    batch = draw()
    dtypes = {name: values.dtype for name, values in batch.classical.items()}
    again = BatchRecipe.from_rows([through_json(row) for row in batch.rows()], NAMES, dtypes)
    assert (again.keys, again.epoch, again.seed) == (batch.keys, batch.epoch, batch.seed)
    assert again.source.dtype == np.uint8 and again.source.tolist() == batch.source.tolist()
    active = batch.active & batch.is_generated[:, None]
    assert again.active.tolist() == active.tolist()
    for column, name in enumerate(NAMES):
        used = torch.from_numpy(active[:, column])
        strength = again.edit_params[name]["strength"]
        assert strength.dtype == torch.float32
        assert torch.equal(strength[used], batch.edit_params[name]["strength"][used])
        if name in batch.partners:
            for i, (mine, theirs) in enumerate(zip(again.partners[name], batch.partners[name], strict=True)):
                assert mine == (theirs if active[i, column] else batch.keys[i])
    assert "up" not in again.partners
    for name, values in batch.classical.items():
        assert again.classical[name].dtype == values.dtype and torch.equal(again.classical[name], values)
    assert [again.row(i) for i in range(40)] == batch.rows()


def test_rows_in_another_order() -> None:
    batch = draw()
    dtypes = {name: values.dtype for name, values in batch.classical.items()}
    rows = [batch.row(i) for i in (31, 4, 4, 17)]
    assert BatchRecipe.from_rows(rows, NAMES, dtypes).rows() == rows


def test_nothing_generated() -> None:
    rows = draw(ratio=0.0).rows()
    assert all(row.source is Source.REAL and row.edits == () for row in rows)
    assert not BatchRecipe.from_rows(rows, NAMES, {}).active.any()
    assert len(BatchRecipe.from_rows([], NAMES, {})) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"key": 7},
        {"epoch": "zero"},
        {"epoch": -1},
        {"epoch": 10**400},
        {"seed": None},
        {"scale": "much"},
        {"scale": float("inf")},
        {"identity": 10**400},
        {"attempts": True},
        {"edits": "up"},
        {"edits": [3]},
        {"edits": [{"name": "up", "params": "all"}]},
        {"edits": [{"name": "up", "params": {"strength": "1"}}]},
        {"edits": [{"name": "up", "params": {"strength": float("nan")}}]},
        {"edits": [{"name": "up", "params": {}, "partner": 1}]},
        {"classical": [1]},
        {"classical": {"flip": None}},
        {"degradation": None},
        {"source": "heaven"},
        {"source": 1},
    ],
    ids=str,
)
def test_what_is_no_recipe_is_told_in_a_line(change: dict[str, Any]) -> None:
    """A recipe may come in a picture of somebody else."""
    values = Recipe("a", 0, 0, Source.GENERATED).to_dict()
    assert Recipe.from_dict(values).key == "a"
    with pytest.raises(UserInputError, match="no recipe of ganaug") as told:
        Recipe.from_dict({**values, **change})
    assert len(str(told.value)) < 300


def test_an_edit_that_is_not_there() -> None:
    row = Recipe("a", 0, 0, Source.GENERATED, (AppliedEdit("gone", {}),))
    with pytest.raises(ValueError, match=r"\['gone'\].*\['mix', 'other', 'up'\]"):
        BatchRecipe.from_rows([row], NAMES, {})
