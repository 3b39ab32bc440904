"""The scores of a study in words: lines for the terminal, and a page without any picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganaug.page import Page
from ganaug.study.scores import MAX_FAILED_CATCH
from ganaug.study.tasks import REAL_OR_GENERATED, SAME_PERSON

TITLES = {REAL_OR_GENERATED: "Real or generated?", SAME_PERSON: "Same person?"}
KINDS = {
    "variant": "photo and variant of one person, called different",
    "others": "photos of two persons, called the same",
    "other-variant": "photo and variant of two persons, called the same",
}
_MEANING = {
    REAL_OR_GENERATED: "Wrong: the photo was named. 50 % is what guessing gives, with a d' of 0: nobody can tell.",
    SAME_PERSON: "Wrong: one person was called two, or two were called the same.",
}


def percent(share: Mapping[str, Any]) -> str:
    """An error rate with its interval, or why there is none.

    Example:
        >>> percent({"error_rate": 0.25, "low": 0.2, "high": 0.31, "answers": 200})
        '25.0 % (20.0 to 31.0) of 200'
    """
    if share["error_rate"] is None:
        return str(share["why"])
    rate, low, high = (100 * share[name] for name in ("error_rate", "low", "high"))
    return f"{rate:.1f} % ({low:.1f} to {high:.1f}) of {share['answers']}"


def _agreement(found: Mapping[str, Any]) -> str:
    if found["alpha"] is None:
        return str(found["why"])
    interval = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return f"{found['alpha']:.2f}{interval}, {found['trials']} pairs"


def _d_prime(found: Mapping[str, Any]) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if low is None and value is None:
        return ""
    inside = f"{low:.2f} to {'infinity' if high is None else f'{high:.2f}'}"
    return f"infinite (at least {low:.2f})" if value is None else f"{value:.2f} ({inside})"


def lines(figures: Mapping[str, Any]) -> dict[str, str]:
    """Figures of :func:`ganaug.study.scores.score_study` for the terminal."""
    raters = figures["raters"]
    states = [row["state"] for row in raters]
    told = {
        "raters": ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)),
        "answers": str(figures["answers"]),
        "flagged": _flagged(figures),
    }
    for task, found in figures["tasks"].items():
        told |= _task_lines(task, found)
    for task, found in (figures["without_flagged"] or {}).items():
        told[f"{task} wrong, without flagged"] = percent(found)
    return told


def _flagged(figures: Mapping[str, Any]) -> str:
    rows = [row for row in figures["raters"] if row["flagged"]]
    return ", ".join(f"rater {row['rater']} ({row['failed_catch']} of {row['catch']})" for row in rows) or "none"


def _task_lines(task: str, found: Mapping[str, Any]) -> dict[str, str]:
    told = {f"{task} wrong": percent(found)}
    told |= {f"  {KINDS[kind]}": percent(share) for kind, share in found["by_kind"].items()}
    if found.get("d_prime") and (d_prime := _d_prime(found["d_prime"])):
        told["  d'"] = d_prime
    parts = {"edit": found["by_edit"], **found["by_group"]}
    shares = {f"{name} {value}": share for name, values in parts.items() for value, share in values.items()}
    told |= {f"  {task}, {name}": percent(s) for name, s in shares.items() if s["error_rate"] is not None}
    if few := [f"{name} ({share['answers']})" for name, share in shares.items() if share["error_rate"] is None]:
        told[f"  {task}, too few answers"] = ", ".join(few)
    told[f"  {task}, alpha"] = _agreement(found["agreement"])
    if found["median_ms"] is not None:
        told[f"  {task}, median time"] = f"{found['median_ms'] / 1000:.1f} s"
    if found["seen_again"]:
        told[f"  {task}, seen again"] = f"{found['seen_again']} answers after a reload"
    return told


def write_report(figures: Mapping[str, Any], path: str | Path) -> None:
    """Writes the scores as one HTML page. It holds no picture, and no answer of a single rater.

    Args:
        figures: Of :func:`ganaug.study.scores.score_study`.
        path: File, ``.html``.
    """
    finished = sum(row["state"] == "finished" for row in figures["raters"])
    lead = f"{figures['answers']} answers of {len(figures['raters'])} raters invited, {finished} of whom have finished."
    page = Page("Human evaluation", lead)
    page.text(
        f"Pictures by {figures['generator']} ({str(figures['fingerprint'])[:12]}), {figures['photos']} photos with "
        f"records, edits {', '.join(figures['edits'])}, served as {figures['paste']!r}. "
        + (f"Shown for {figures['exposure_ms']} ms. " if figures["exposure_ms"] else "Shown until the answer. ")
        + "Error rates stand with 95 % intervals (Wilson), which take answers as independent: those of one rater are "
        "not quite, and the true intervals are somewhat wider."
    )
    if not figures["persons_known"] and SAME_PERSON in figures["tasks"]:
        page.warning("The photos have no identities: every photo was taken for another person.")
    for task, found in figures["tasks"].items():
        _add_task(page, task, found, (figures["without_flagged"] or {}).get(task))
    page.heading("Raters")
    page.text(
        f"Flagged: more than {100 * MAX_FAILED_CATCH:.0f} % of the catch trials failed. "
        f"Flagged now: {_flagged(figures)}."
    )
    columns = ["rater", "state", "answers", "of", "catch trials failed", "of them", "wrong", "median time (s)"]
    rows = [
        [
            f"{row['rater']}{' (flagged)' if row['flagged'] else ''}",
            row["state"],
            row["answers"],
            row["of"],
            row["failed_catch"],
            row["catch"],
            percent(row["errors"]),
            None if row["median_ms"] is None else round(row["median_ms"] / 1000, 1),
        ]
        for row in figures["raters"]
    ]
    page.table(columns, rows)
    page.write(path)


def _add_task(page: Page, task: str, found: Mapping[str, Any], without: Mapping[str, Any] | None) -> None:
    page.heading(TITLES[task])
    page.text(_MEANING[task])
    rows: list[list[str]] = [["all", percent(found)]]
    rows += [[KINDS[kind], percent(share)] for kind, share in found["by_kind"].items()]
    rows += [] if without is None else [["all, without flagged raters", percent(without)]]
    page.table(["answers", "wrong"], rows)
    d_prime = _d_prime(found["d_prime"]) if "d_prime" in found else ""
    time = "" if found["median_ms"] is None else f"Median response time {found['median_ms'] / 1000:.1f} s. "
    page.text(
        time + (f"d' {d_prime}. " if d_prime else "") + f"Agreement of raters (Krippendorff's alpha): "
        f"{_agreement(found['agreement'])}."
        + (
            f" {found['seen_again']} answers were given after a reload showed the pair again."
            if found["seen_again"]
            else ""
        )
    )
    variants = "variants" if task == REAL_OR_GENERATED else "photo and variant of one person"
    parts = {"edit": found["by_edit"], **found["by_group"]}
    for name, shares in parts.items():
        if shares:
            page.heading(f"By {name}, {variants}", level=3)
            _add_shares(page, name, shares)


def _add_shares(page: Page, name: str, shares: Mapping[str, Mapping[str, Any]]) -> None:
    told = {value: share for value, share in shares.items() if share["error_rate"] is not None}
    if told:
        intervals: Sequence[tuple[float, float] | None] = [(s["low"], s["high"]) for s in told.values()]
        rates = [share["error_rate"] for share in told.values()]
        page.bars(list(told), rates, f"Share of wrong answers by {name}.", intervals)
    page.table([name, "wrong"], [[value, percent(share)] for value, share in shares.items()])
