"""What came out of a study: error rates with intervals, agreement, response times, and raters who did not look."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from ganaug.faces.face_dataset import natural
from ganaug.intervals import wilson_interval
from ganaug.study.agreement import alpha_interval, krippendorff_alpha
from ganaug.study.sensitivity import d_prime_of_pairs
from ganaug.study.store import Store
from ganaug.study.tasks import REAL_OR_GENERATED, SAME_PERSON

# Below so many answers no share is told: its 95 % interval, at a share of a half, is wider than 0.5 +- 0.2.
MIN_ANSWERS = 20
# A rater who fails more than this share of the catch trials is flagged. Set so that of two tasks with 4 each, one slip
# passes; a rater who guesses passes with a chance of 9 / 256.
MAX_FAILED_CATCH = 0.2

CATCH = "catch"
Answer = Mapping[str, Any]


def score_study(store: Store, min_answers: int = MIN_ANSWERS) -> dict[str, Any]:
    """Figures of a study, so far as it has come.

    Error rates count answers to trials that are no catch trials. Their intervals (95 %, Wilson) take answers as
    independent; those of one rater, or to one pair, are not quite, so that the true intervals are somewhat wider.

    Args:
        store: The study.
        min_answers: Least answers for a share to be told.

    Returns:
        ``tasks``: task -> figures; ``without_flagged``: the same without raters who failed catch trials, None if there
        are none; ``raters``; and what the pictures were made by.
    """
    answers = [{**row, "correct": row["choice"] == row["answer"]} for row in store.answers()]
    raters = [_rater(row, [a for a in answers if a["rater"] == row["rater"]], min_answers) for row in store.raters()]
    flagged = {row["rater"] for row in raters if row["flagged"]}
    kept = [a for a in answers if a["rater"] not in flagged]
    tasks, meta = store.meta["tasks"], store.meta
    return {
        **{name: meta[name] for name in ("generator", "fingerprint", "edits", "paste", "photos", "exposure_ms")},
        "persons_known": meta["persons_known"],
        "answers": len(answers),
        "raters": raters,
        "flagged": sorted(flagged),
        "tasks": {task: _task(task, answers, min_answers) for task in tasks},
        "without_flagged": {task: _task(task, kept, min_answers) for task in tasks} if flagged else None,
    }


def share_of_errors(answers: Sequence[Answer], min_answers: int = MIN_ANSWERS) -> dict[str, Any]:
    """Wrong answers among some: ``answers``, ``error_rate``, ``low`` and ``high``; or why there is no figure.

    Example:
        >>> share_of_errors([{"correct": True}] * 3)["why"]
        'too few answers: 3 of at least 20'
    """
    total = len(answers)
    if total < max(min_answers, 1):
        why = f"too few answers: {total} of at least {min_answers}"
        return {"answers": total, "error_rate": None, "low": None, "high": None, "why": why}
    wrong = sum(not answer["correct"] for answer in answers)
    low, high = wilson_interval(wrong, total)
    return {"answers": total, "error_rate": wrong / total, "low": low, "high": high}


def _task(task: str, answers: Sequence[Answer], min_answers: int) -> dict[str, Any]:
    """Figures of one task."""
    mine = [a for a in answers if a["task"] == task and a["kind"] != CATCH]
    # Edits and groups are told where a variant can go wrong: taken for a photo, or for somebody else.
    edited = mine if task == REAL_OR_GENERATED else [a for a in mine if a["kind"] == "variant"]
    by_group = {
        name: _by(edited, lambda a, name=name: [a["groups"][name]] if name in a["groups"] else [], min_answers)  # type: ignore[misc]
        for name in sorted({name for a in edited for name in a["groups"]})
    }
    figures = {
        **share_of_errors(mine, min_answers),
        "by_kind": _by(mine, lambda a: [a["kind"]], min_answers) if task == SAME_PERSON else {},
        "by_edit": _by(edited, lambda a: a["edits"], min_answers),
        "by_group": by_group,
        "median_ms": float(median(a["ms"] for a in mine)) if mine else None,
        "seen_again": sum(a["views"] > 1 for a in mine),
        "agreement": _agreement(task, mine, min_answers),
    }
    if task == REAL_OR_GENERATED:
        figures["d_prime"] = _d_prime(figures)
    return figures


def _by(
    answers: Sequence[Answer], values_of: Callable[[Answer], Iterable[str]], min_answers: int
) -> dict[str, dict[str, Any]]:
    """Errors for each value; an answer with several counts for each of them."""
    parts: dict[str, list[Answer]] = {}
    for answer in answers:
        for value in values_of(answer):
            parts.setdefault(value, []).append(answer)
    return {value: share_of_errors(parts[value], min_answers) for value in sorted(parts, key=natural)}


def _d_prime(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """d' of a forced choice; its interval is that of the error rate, carried over. None is infinite, or not known."""
    if figures["error_rate"] is None:
        return {"value": None, "low": None, "high": None}
    ends = {"value": figures["error_rate"], "low": figures["high"], "high": figures["low"]}
    return {name: d_prime_of_pairs(1.0 - error) for name, error in ends.items()}


def _agreement(task: str, answers: Sequence[Answer], min_answers: int) -> dict[str, Any]:
    """Krippendorff's alpha. Of pairs, on whether they are told apart; of persons, on what was said."""
    key = "correct" if task == REAL_OR_GENERATED else "choice"
    trials = {trial: row for row, trial in enumerate(sorted({a["trial"] for a in answers}))}
    values = {value: column for column, value in enumerate(sorted({a[key] for a in answers}))}
    counts = np.zeros((len(trials), max(len(values), 2)), np.int64)
    for answer in answers:
        counts[trials[answer["trial"]], values[answer[key]]] += 1
    shared = counts[counts.sum(axis=1) >= 2]
    figures: dict[str, Any] = {"trials": len(shared), "alpha": None, "low": None, "high": None}
    if shared.sum() < min_answers:
        return figures | {
            "why": f"too few answers: {int(shared.sum())} to pairs that two raters saw, of at least {min_answers}"
        }
    alpha = krippendorff_alpha(shared)
    if alpha is None:
        return figures | {"why": "all answers are alike"}
    low, high = alpha_interval(shared) or (None, None)
    return figures | {"alpha": alpha, "low": low, "high": high}


def _rater(row: Mapping[str, Any], answers: Sequence[Answer], min_answers: int) -> dict[str, Any]:
    """One rater: how far, how well, and whether the catch trials were passed."""
    caught = [a for a in answers if a["kind"] == CATCH]
    failed = sum(not a["correct"] for a in caught)
    state = "withdrawn" if row["withdrawn"] else "invited" if not row["consented"] else "started"
    if row["total"] and row["answers"] == row["total"]:
        state = "finished"
    return {
        "rater": row["rater"],
        "state": state,
        "answers": row["answers"],
        "of": row["total"],
        "catch": len(caught),
        "failed_catch": failed,
        "flagged": failed > MAX_FAILED_CATCH * len(caught),
        "errors": share_of_errors([a for a in answers if a["kind"] != CATCH], min_answers),
        "median_ms": float(median(a["ms"] for a in answers)) if answers else None,
    }
