"""Differences between groups, against fairlearn, and against what shuffling must leave."""

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score

from ganaug import fairness
from ganaug.fairness import Tallies

CASES = [(2, 2, 60), (2, 5, 400), (3, 4, 300), (4, 2, 90)]


# Every group has photos of every class: where one has none, fairlearn takes its rate for 0, and here it is left out.


def random_case(num_classes: int, num_groups: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, what a judge that is worse for high groups says, and groups."""
    rng = np.random.default_rng(num_classes * 100 + num_groups * 10 + count)
    true, group = rng.integers(0, num_classes, count), rng.integers(0, num_groups, count)
    wrong = rng.random(count) < 0.1 + 0.1 * group
    return true, np.where(wrong, rng.integers(0, num_classes, count), true), group


@pytest.mark.parametrize("case", CASES)
def test_against_fairlearn(case: tuple[int, int, int]) -> None:
    true, told, group = random_case(*case)
    tallies = Tallies.of(told, true, group, case[1])
    frame = MetricFrame(metrics=accuracy_score, y_true=true, y_pred=told, sensitive_features=group)
    np.testing.assert_allclose(tallies.accuracy()[0], frame.by_group.to_numpy(), atol=1e-12)
    assert fairness.accuracy_gap(tallies)[0] == pytest.approx(frame.difference(), abs=1e-12)
    parity, odds = [], []
    for number in range(case[0]):
        one = {"y_true": true == number, "y_pred": told == number, "sensitive_features": group}
        parity.append(demographic_parity_difference(**one))
        odds.append(equalized_odds_difference(**one))
        rates = {"s": selection_rate, "t": true_positive_rate, "f": false_positive_rate}
        by_group = MetricFrame(metrics=rates, **one).by_group
        np.testing.assert_allclose(tallies.selection_rate()[0, :, number], by_group["s"], atol=1e-12)
        np.testing.assert_allclose(tallies.true_positive_rate()[0, :, number], by_group["t"], atol=1e-12)
        np.testing.assert_allclose(tallies.false_positive_rate()[0, :, number], by_group["f"], atol=1e-12)
    assert fairness.demographic_parity_difference(tallies)[0] == pytest.approx(max(parity), abs=1e-12)
    assert fairness.equalized_odds_difference(tallies)[0] == pytest.approx(max(odds), abs=1e-12)
    if case[0] == 2:  # which of two classes is the positive one makes no difference
        assert parity[0] == pytest.approx(parity[1]) and odds[0] == pytest.approx(odds[1])


def test_weights_count_as_copies() -> None:
    true, told, group = random_case(3, 4, 80)
    weights = np.random.default_rng(0).integers(0, 4, (2, 80))
    weighted = Tallies.of(told, true, group, 4, weights.astype(np.float32))
    for row in range(2):
        copies = np.repeat(np.arange(80), weights[row])
        plain = Tallies.of(told[copies], true[copies], group[copies], 4)
        np.testing.assert_allclose(weighted.hits[row], plain.hits[0])
        assert fairness.accuracy_gap(weighted)[row] == pytest.approx(fairness.accuracy_gap(plain)[0])


def test_rates_over_few_photos_are_left_out() -> None:
    true, told, group = (
        np.array([1, 1, 1, 0, 0, 1, 0]),
        np.array([1, 1, 0, 0, 1, 0, 0]),
        np.array([0, 0, 0, 0, 0, 1, 1]),
    )
    tallies = Tallies.of(told, true, group, 2)
    assert fairness.equalized_odds_difference(tallies)[0] == pytest.approx(2 / 3)  # 2 of 3 against 0 of 1
    assert fairness.equalized_odds_difference(tallies, least=2)[0] == 0.0  # one group is left


def test_no_group_is_counted_nowhere() -> None:
    tallies = Tallies.of(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([-1, 0, 1]), 2)
    assert tallies.photos[0].tolist() == [1.0, 1.0]
    assert tallies.accuracy()[0].tolist() == [0.0, 1.0]


def test_permutations_tally_as_single_ones() -> None:
    true, told, group = random_case(3, 4, 90)
    shuffled = fairness.shuffled_groups(group, true, [str(i) for i in range(90)], 300)
    many = Tallies.of_permutations(told, true, shuffled, 4)
    for draw in (0, 255, 256, 299):  # on both sides of a block
        one = Tallies.of(told, true, shuffled[:, draw], 4)
        np.testing.assert_allclose(many.hits[draw], one.hits[0])
        np.testing.assert_allclose(many.right[draw], one.right[0])


def test_photos_of_a_person_keep_one_group() -> None:
    """A classifier that is right about some persons and wrong about others treats no group differently."""
    draw = np.random.default_rng(0)
    person, found = np.repeat(np.arange(24), 20), []
    keys, true = [f"p{number}" for number in person], np.zeros(480, np.int64)
    for seed in range(60):
        group, predicted = draw.integers(0, 2, 24)[person], draw.integers(0, 2, 24)[person]
        shuffled = fairness.shuffled_groups(group, true, keys, 200, seed)
        assert all(len(np.unique(shuffled[person == number, 0])) == 1 for number in range(24))
        gap = fairness.accuracy_gap(Tallies.of(predicted, true, group, 2))[0]
        chance = fairness.accuracy_gap(Tallies.of_permutations(predicted, true, shuffled, 2))
        found.append((chance >= gap - 1e-12).mean())
    assert np.mean(np.array(found) <= 0.05) <= 0.15  # exchanging photos one by one gives more than half
    reversed_order = fairness.shuffled_groups(group[::-1], true, keys[::-1], 200, seed)
    assert (reversed_order[::-1] == shuffled).all()


def test_shuffling_keeps_classes_and_group_sizes() -> None:
    true, _, group = random_case(3, 4, 90)
    keys = [f"photo {i}" for i in range(90)]
    shuffled = fairness.shuffled_groups(group, true, keys, 50)
    for number in range(3):
        members = true == number
        assert (np.sort(shuffled[members], axis=0) == np.sort(group[members])[:, None]).all()
    assert len({shuffled[:, draw].tobytes() for draw in range(50)}) == 50
    assert (fairness.shuffled_groups(group, true, keys, 50, seed=1) != shuffled).any()
