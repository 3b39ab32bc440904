"""The bootstrap over photos: its draws, and how often its intervals hold the truth."""

import numpy as np
import pytest

from ganaug.bootstrap import Bootstrap, interval, stand_out
from ganaug.errors import UserInputError
from ganaug.intervals import Interval

KEYS = [f"{i}.jpg" for i in range(400)]
ONE = np.ones((400, 1), bool)


def test_photos_count_poisson_times() -> None:
    weights = Bootstrap(KEYS).weights
    assert weights.shape == (1000, 400)
    share = [float((weights == k).mean()) for k in range(5)]
    np.testing.assert_allclose(share, [np.exp(-1) / f for f in (1, 1, 2, 6, 24)], atol=0.003)


def test_draws_belong_to_the_key() -> None:
    weights = Bootstrap(KEYS).weights
    assert (Bootstrap(KEYS[::-1]).weights[:, ::-1] == weights).all()
    assert (Bootstrap(KEYS[:7]).weights == weights[:, :7]).all()
    assert (Bootstrap(KEYS, seed=1).weights != weights).any()
    people = Bootstrap(["ann", "bob", "ann"]).weights
    assert (people[:, 0] == people[:, 2]).all() and (people[:, 0] != people[:, 1]).any()


def test_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    value, drawn = Bootstrap(KEYS).means(values, ONE)
    assert value[0] == pytest.approx(values.mean())
    assert drawn.std() == pytest.approx(values.std() / 20.0, rel=0.1)
    found = interval(value[0], drawn[:, 0])
    half = 1.96 * values.std() / 20.0
    np.testing.assert_allclose([found.low, found.high], [value[0] - half, value[0] + half], atol=0.03)


def test_unknown_values_and_empty_groups() -> None:
    values, members = np.array([1.0, np.nan, 4.0]), np.array([[True, False], [True, False], [True, False]])
    value, drawn = Bootstrap(KEYS[:3]).means(values, members)
    assert value[0] == 2.5 and np.isnan(value[1]) and np.isnan(drawn[:, 1]).all()
    assert np.isnan(interval(float(value[1]), drawn[:, 1]).value)
    assert interval(float(value[1]), drawn[:, 1]).to_dict() == {"value": None, "low": None, "high": None}


def test_too_few_draws() -> None:
    with pytest.raises(UserInputError, match="at least 100 draws, got 10"):
        Bootstrap(KEYS, 10)


def test_who_stands_out() -> None:
    """Of twenty groups alike, one in twenty sets names any; a group that is far below is named alone."""
    rng, named = np.random.default_rng(0), 0
    drawn = rng.normal(0.0, 1.0, (1000, 20))
    for _ in range(400):
        difference = rng.normal(0.0, 1.0, 20)
        named += stand_out(difference, drawn + difference).any()
    assert 8 <= named <= 32  # 20 are expected; one by one it would be 257
    difference = np.zeros(20)
    difference[3], difference[5] = -5.0, 5.0
    assert np.flatnonzero(stand_out(difference, drawn + difference)).tolist() == [3]
    assert not stand_out(np.full(2, np.nan), np.full((1000, 2), np.nan)).any()


def test_interval_as_dict() -> None:
    assert Interval(0.5, 0.25, 0.7512345).to_dict() == {"value": 0.5, "low": 0.25, "high": 0.75123}
