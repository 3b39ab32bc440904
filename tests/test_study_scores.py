"""Scores: against scipy, textbook examples and naive loops, and on a study whose answers are known."""

import json
import math
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from study_helpers import TOTAL, right_choice, wrong_choice
from study_helpers import made_study as made_study
from study_helpers import store as store
from study_helpers import study as study

from ganaug.intervals import wilson_interval
from ganaug.study.agreement import alpha_interval, krippendorff_alpha
from ganaug.study.report import lines, percent, write_report
from ganaug.study.scores import MIN_ANSWERS, score_study, share_of_errors
from ganaug.study.sensitivity import d_prime_of_pairs
from ganaug.study.store import Store


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (29, 30), (500, 1000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_against_scipy(count: int, total: int, confidence: float) -> None:
    expected = binomtest(count, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(count, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_of_nothing(count: int, total: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= count <= total"):
        wilson_interval(count, total)


def test_d_prime_by_its_definition() -> None:
    """The two pictures give impressions N(d', 1) and N(0, 1); the larger one is named."""
    draws = np.random.default_rng(0).normal(size=(2, 400_000))
    for d_prime in (0.0, 0.7, 2.0):
        correct = float((draws[0] + d_prime > draws[1]).mean())
        assert d_prime_of_pairs(correct) == pytest.approx(d_prime, abs=0.02)
        assert d_prime_of_pairs(float(norm.cdf(d_prime / math.sqrt(2)))) == pytest.approx(d_prime)
    assert d_prime_of_pairs(1.0) is None and d_prime_of_pairs(0.0) is None


def counted(raters: list[str]) -> np.ndarray:
    """Answers of raters, one text each, a dot where there is none -> ``(N, C)`` counts."""
    values = sorted(set("".join(raters)) - {"."})
    return np.array([[sum(r[unit] == v for r in raters) for v in values] for unit in range(len(raters[0]))])


# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): his examples A, B and C, and his results.
EXAMPLES = [
    (["0100000000", "1110010100"], 0.095),
    (["aabbdcccedda", "babbbccceddd"], 0.692),
    (["123321412...", "1233224125.3", ".3332342251.", "12332441251."], 0.743),
    # https://en.wikipedia.org/wiki/Krippendorff%27s_alpha#A_computational_example
    ([".....34121133.3", "1.213343.......", "..21344.21133.4"], 0.691),
]


@pytest.mark.parametrize(("raters", "expected"), EXAMPLES)
def test_alpha_of_the_textbook(raters: list[str], expected: float) -> None:
    assert krippendorff_alpha(counted(raters)) == pytest.approx(expected, abs=5e-4)


def naive_alpha(units: list[list[int]]) -> float:
    """One minus the share of unlike pairs within units over that among all answers, pair by pair."""
    units = [unit for unit in units if len(unit) >= 2]
    everyone = [value for unit in units for value in unit]
    observed = sum(sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units) / len(everyone)
    pairs = list(combinations(everyone, 2))
    return 1.0 - observed / (sum(a != b for a, b in pairs) / len(pairs))


def test_alpha_against_a_naive_loop() -> None:
    draws = np.random.default_rng(1)
    for _ in range(20):
        units = [draws.integers(0, 3, draws.integers(0, 6)).tolist() for _ in range(9)]
        counts = np.array([[unit.count(value) for value in range(3)] for unit in units])
        assert krippendorff_alpha(counts) == pytest.approx(naive_alpha(units), abs=1e-12)


def test_alpha_where_there_is_none() -> None:
    assert krippendorff_alpha([[1, 0], [0, 1]]) is None, "nobody answered twice"
    assert krippendorff_alpha([[3, 0], [2, 0]]) is None, "all answers are alike"
    assert krippendorff_alpha(np.zeros((0, 2))) is None and alpha_interval(np.zeros((0, 2))) is None


def test_alpha_interval_covers_the_truth() -> None:
    """Raters who say the truth with probability 0.9: two answers agree in 0.82, chance is 0.5, so alpha is 0.64."""
    draws = np.random.default_rng(2)
    covered = []
    for _ in range(20):
        truth = draws.integers(0, 2, 80)
        said = np.where(draws.random((3, 80)) < 0.9, truth, 1 - truth)
        low, high = alpha_interval(np.stack([3 - said.sum(axis=0), said.sum(axis=0)], axis=1)) or (1.0, 0.0)
        assert 0.1 < high - low < 0.4
        covered.append(low <= 0.64 <= high)
    assert sum(covered) >= 16, "19 of 20 are expected"


# A study whose answers are known


def answer_all(store: Store, rater: int, wrong: set[int] = frozenset(), until: int = TOTAL) -> None:  # type: ignore[assignment]
    """Answers trials of a rater; those whose number is in ``wrong`` wrongly, the n-th of them within 1000 + n ms."""
    store.consent(rater)
    for place in range(until):
        (trial,) = store._all("SELECT trial FROM showings WHERE rater = ? AND place = ?", (rater, place))[0]
        choice = wrong_choice if trial in wrong else right_choice
        store.answer(rater, place, f"id-{place:05d}", choice(store, rater, place), 1000 + place)


def trials_of(store: Store, task: str, kind: str) -> list[int]:
    return [trial for (trial,) in store._all("SELECT trial FROM trials WHERE task = ? AND kind = ?", (task, kind))]


def test_scores_of_known_answers(store: Store) -> None:
    pairs, variants = trials_of(store, "real-or-generated", "pair"), trials_of(store, "same-person", "variant")
    assert (len(pairs), len(variants)) == (4, 2)
    answer_all(store, 1, {pairs[0], variants[0]})
    answer_all(store, 2, {pairs[0]})
    found = score_study(store, min_answers=2)
    real, same = found["tasks"]["real-or-generated"], found["tasks"]["same-person"]
    assert (real["answers"], real["error_rate"]) == (8, 2 / 8) and (same["answers"], same["error_rate"]) == (8, 1 / 8)
    assert (real["low"], real["high"]) == wilson_interval(2, 8)
    assert {kind: (v["answers"], v["error_rate"]) for kind, v in same["by_kind"].items()} == {
        "variant": (4, 1 / 4),
        "others": (2, 0.0),
        "other-variant": (2, 0.0),
    }
    d_prime = real["d_prime"]
    assert d_prime["value"] == pytest.approx(math.sqrt(2) * norm.ppf(6 / 8))
    assert d_prime["low"] == pytest.approx(math.sqrt(2) * norm.ppf(1 - real["high"]))
    assert d_prime["low"] < d_prime["value"] < d_prime["high"]
    # Both were wrong at the same pair, and right at the three others.
    assert real["agreement"]["alpha"] == pytest.approx(naive_alpha([[0, 0], [1, 1], [1, 1], [1, 1]])) == 1.0
    said = [["d", "s"], ["s", "s"], ["d", "d"], ["d", "d"]]
    assert same["agreement"]["alpha"] == pytest.approx(naive_alpha([["sd".index(a) for a in u] for u in said]))
    assert real["median_ms"] == pytest.approx(
        np.median([a["ms"] for a in store.answers() if a["task"] == "real-or-generated" and a["kind"] != "catch"])
    )
    assert found["flagged"] == [] and found["without_flagged"] is None
    assert [(r["state"], r["answers"], r["of"]) for r in found["raters"]] == [
        ("finished", TOTAL, TOTAL),
        ("finished", TOTAL, TOTAL),
        ("invited", 0, TOTAL),
    ]


def test_by_edit_and_by_group_against_a_naive_loop(store: Store) -> None:
    pairs = trials_of(store, "real-or-generated", "pair")
    variants = trials_of(store, "same-person", "variant")
    answer_all(store, 1, {pairs[1], pairs[2], variants[1]})
    answer_all(store, 2, {pairs[3]}, until=7)
    found = score_study(store, min_answers=1)
    rows = [a for a in store.answers() if a["kind"] in ("pair", "variant")]
    for task in ("real-or-generated", "same-person"):
        mine = [a for a in rows if a["task"] == task]
        for edit in ("fine", "middle"):
            told = [a["choice"] != a["answer"] for a in mine if edit in a["edits"]]
            share = found["tasks"][task]["by_edit"].get(edit, {"answers": 0, "error_rate": None})
            assert share["answers"] == len(told)
            assert share["error_rate"] == (sum(told) / len(told) if told else None)
        for value in ("Female", "Male"):
            told = [a["choice"] != a["answer"] for a in mine if a["groups"]["gender"] == value]
            if told:
                assert found["tasks"][task]["by_group"]["gender"][value]["error_rate"] == sum(told) / len(told)
    assert sum(s["answers"] for s in found["tasks"]["real-or-generated"]["by_group"]["gender"].values()) == len(
        [a for a in rows if a["task"] == "real-or-generated"]
    )


def test_who_fails_catch_trials_is_flagged_and_left_out(store: Store) -> None:
    pairs = trials_of(store, "real-or-generated", "pair")
    catch = trials_of(store, "real-or-generated", "catch") + trials_of(store, "same-person", "catch")
    assert len(catch) == 4
    answer_all(store, 1, {pairs[0]})
    answer_all(store, 2, {*pairs, *catch[:1]})
    found = score_study(store, min_answers=1)
    assert found["flagged"] == [2]
    assert [(r["failed_catch"], r["catch"]) for r in found["raters"]] == [(0, 4), (1, 4), (0, 0)]
    assert found["tasks"]["real-or-generated"]["error_rate"] == 5 / 8
    assert found["without_flagged"]["real-or-generated"]["error_rate"] == 1 / 4
    assert "rater 2 (1 of 4)" in lines(found)["flagged"]
    assert lines(found)["real-or-generated wrong, without flagged"].startswith("25.0 %")


def test_too_few_answers_give_no_figure(store: Store) -> None:
    answer_all(store, 1)
    found = score_study(store)
    for task in found["tasks"].values():
        shares = [task, *task["by_kind"].values(), *task["by_edit"].values(), *task["by_group"]["gender"].values()]
        assert all(s["error_rate"] is None and s["why"].startswith("too few answers") for s in shares)
        assert task["agreement"]["alpha"] is None and "too few" in task["agreement"]["why"]
    assert found["tasks"]["real-or-generated"]["d_prime"] == {"value": None, "low": None, "high": None}
    few = [{"correct": True}] * (MIN_ANSWERS - 1)
    assert share_of_errors(few)["error_rate"] is None and share_of_errors([*few, *few[:1]])["error_rate"] == 0.0
    low, high = wilson_interval(MIN_ANSWERS // 2, MIN_ANSWERS)
    assert (high - low) / 2 == pytest.approx(0.2, abs=0.001), "what the limit is set by"


def test_a_withdrawn_rater_is_no_part_of_any_figure(store: Store) -> None:
    answer_all(store, 1)
    answer_all(store, 2, set(range(TOTAL)))
    store.withdraw(2)
    found = score_study(store, min_answers=1)
    assert found["answers"] == TOTAL and found["tasks"]["real-or-generated"]["error_rate"] == 0.0
    assert [r["state"] for r in found["raters"]] == ["finished", "withdrawn", "invited"] and found["flagged"] == []


def test_answers_after_a_reload_are_counted(store: Store) -> None:
    trial = store.consent(1)["trial"]
    for _ in range(2):
        assert store.picture(1, trial["left"]) and store.picture(1, trial["right"])
    answer_all(store, 1)
    again = score_study(store, min_answers=1)["tasks"]["real-or-generated"]["seen_again"]
    (kind,) = store._all("SELECT kind FROM showings NATURAL JOIN trials WHERE rater = 1 AND place = 0")[0]
    assert again == (kind != "catch")


def test_figures_are_json_and_the_page_has_them(store: Store, tmp_path: Path) -> None:
    answer_all(store, 1, set(trials_of(store, "same-person", "variant")))
    answer_all(store, 2)
    found = score_study(store, min_answers=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    write_report(found, tmp_path / "scores.html")
    html = (tmp_path / "scores.html").read_text()
    for text in ("Human evaluation", percent(found["tasks"]["same-person"]), "no identities", "fine, middle"):
        assert text in html
    assert "<img" not in html and "secret" not in html and store.tokens()[1] not in html
    shown = lines(found)
    assert shown["answers"] == str(2 * TOTAL) and all(isinstance(value, str) for value in shown.values())


def test_texts_of_edges() -> None:
    all_right: dict[str, Any] = {"error_rate": 0.0, "low": 0.0, "high": 0.16, "answers": 20}
    assert percent(all_right) == "0.0 % (0.0 to 16.0) of 20"
    from ganaug.study.report import _d_prime

    assert _d_prime({"value": None, "low": 1.4, "high": None}) == "infinite (at least 1.40)"
    assert _d_prime({"value": 0.5, "low": 0.1, "high": 0.9}) == "0.50 (0.10 to 0.90)"
    assert _d_prime({"value": None, "low": None, "high": None}) == ""
