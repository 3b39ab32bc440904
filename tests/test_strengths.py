"""Strength distributions against scipy, and schedules against their formulas."""

import math
import pickle
from typing import Any

import pytest
import torch

from ganaug import Constant, Normal, Uniform, UserInputError, cosine_ratio, curriculum, linear_ratio, step_ratio
from ganaug.strengths import StrengthDistribution, as_distribution

UNIFORM = torch.linspace(0.0, 1.0 - 2.0**-53, 1001, dtype=torch.float64)
DISTRIBUTIONS = [
    Uniform(0.5, 2.0),
    Uniform(-1.0, 2.0, signed=True),
    Normal(1.0, 0.5, 0.2, 3.0),
    Normal(0.0, 1.0, -2.0, 2.0, signed=True),
    Normal(1.0, 0.3, 1.8, 2.5),  # a tail
    Constant(1.5),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_quantiles_are_those_of_scipy(distribution: Any) -> None:
    stats = pytest.importorskip("scipy.stats")
    if isinstance(distribution, Normal):
        ends = [(end - distribution.mean) / distribution.std for end in (distribution.low, distribution.high)]
        expected = stats.truncnorm(*ends, loc=distribution.mean, scale=distribution.std)
    elif isinstance(distribution, Uniform):
        expected = stats.uniform(distribution.low, distribution.high - distribution.low)
    else:
        assert distribution.quantile(UNIFORM).tolist() == [1.5] * 1001
        return
    found = distribution.quantile(UNIFORM)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.from_numpy(expected.ppf(UNIFORM.numpy())), atol=1e-7, rtol=1e-7)
    assert distribution.low <= float(found.min()) and float(found.max()) <= distribution.high


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_distributions_pickle(distribution: Any) -> None:
    assert isinstance(distribution, StrengthDistribution)
    again = pickle.loads(pickle.dumps(distribution))
    assert again == distribution and torch.equal(again.quantile(UNIFORM), distribution.quantile(UNIFORM))


def test_ranges_as_tuples() -> None:
    assert as_distribution("up", (1, 2.5)) == Uniform(1, 2.5)
    assert as_distribution("up", [0.5, 0.5]) == Uniform(0.5, 0.5)
    assert as_distribution("up", DISTRIBUTIONS[2]) is DISTRIBUTIONS[2]


@pytest.mark.parametrize("given", [(1,), (1, 2, 3), 1.0, "strong", None, ("1", "2"), (True, False), Uniform])
def test_what_is_no_distribution(given: Any) -> None:
    with pytest.raises(UserInputError, match=r"strengths\['up'\] must be Uniform, Normal, Constant or a range"):
        as_distribution("up", given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2.0, 1.0), "low <= high, got 2.0 and 1.0"),
        (lambda: Uniform(0.0, math.inf), "finite"),
        (lambda: Uniform(math.nan, 1.0), "finite"),
        (lambda: Uniform("0", 1.0), "finite numbers"),  # type: ignore[arg-type]
        (lambda: Uniform(-1.0, 1.0), "magnitudes of at least 0.*low=-1.0.*signed=True"),
        (lambda: Constant(-0.5), "magnitudes of at least 0"),
        (lambda: Constant(math.inf), "finite"),
        (lambda: Normal(1.0, 0.0, 0.0, 2.0), "std must be above 0, got 0.0; for one strength say Constant"),
        (lambda: Normal(1.0, -1.0, 0.0, 2.0), "std must be above 0"),
        (lambda: Normal(math.nan, 1.0, 0.0, 2.0), "mean and std must be finite"),
        (lambda: Normal(0.0, 1.0, -1.0, 2.0), "magnitudes of at least 0"),
        (lambda: Normal(0.0, 0.1, 5.0, 6.0), "only a share of 0 of the distribution lies between low and high"),
        (lambda: Normal(9.0, 0.1, 5.0, 6.0), "widen the range, move the mean into it"),
    ],
)
def test_distributions_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make()


def test_schedules() -> None:
    linear, cosine = linear_ratio(0.2, 0.8, 7), cosine_ratio(0.8, 0.2, 7)
    for epoch in range(10):
        share = min(epoch, 6) / 6
        assert linear(epoch) == pytest.approx(0.2 + 0.6 * share, abs=1e-12)
        assert cosine(epoch) == pytest.approx(0.2 + 0.3 * (1 + math.cos(math.pi * share)), abs=1e-12)
    steps = step_ratio({10: 0.5, 0: 0.1, 3: 0.0})
    assert [steps(epoch) for epoch in (0, 2, 3, 9, 10, 99)] == [0.1, 0.1, 0.0, 0.0, 0.5, 0.5]
    rise = curriculum(5, weakest=0.2)
    assert [rise(epoch) for epoch in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    one = linear_ratio(0.3, 0.9, 1)  # there is one epoch only
    assert one(0) == 0.3


@pytest.mark.parametrize(
    "schedule", [linear_ratio(0, 1, 3), cosine_ratio(1, 0, 4), step_ratio({0: 0.5}), curriculum(3)], ids=repr
)
def test_schedules_pickle(schedule: Any) -> None:
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule and [again(e) for e in range(6)] == [schedule(e) for e in range(6)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_ratio(0.0, 1.5, 3), "between 0 and 1; got 1.5"),
        (lambda: cosine_ratio(-0.1, 1.0, 3), "between 0 and 1; got -0.1"),
        (lambda: cosine_ratio(math.nan, 1.0, 3), "between 0 and 1; got nan"),
        (lambda: cosine_ratio(0.0, 1.0, 0), "num_epochs must be a whole number of at least 1, got 0"),
        (lambda: linear_ratio(0.0, 1.0, 2.5), "num_epochs must be a whole number of at least 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: step_ratio({1: 0.5}), "begins with epoch 0"),
        (lambda: step_ratio({}), "begins with epoch 0"),
        (lambda: step_ratio({0: 0.5, -1: 0.5}), "begins with epoch 0"),
        (lambda: step_ratio({0: 0.5, 2: 3.0}), "between 0 and 1; got 3.0"),
        (lambda: curriculum(3, weakest=2.0), "between 0 and 1; got 2.0"),
    ],
)
def test_schedules_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make()
