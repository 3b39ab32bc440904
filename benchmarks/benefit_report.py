"""Tables of benchmarks/benefit.py: means over seeds, and differences to the best plain recipe with intervals."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from benefit_recipes import PLAIN, PRIMARY
from scipy import stats

LEVEL = 0.95
# Each with the same recipe without variants.
PAIRS = (
    ("gan", "none"),
    ("gan+classical 0.25", "classical"),
    ("gan+classical 0.5", "classical"),
    ("gan+classical 0.75", "classical"),
    ("gan+classical 0.5 gated", "classical"),
    ("gan+randaugment 0.5", "randaugment"),
)
ASKED = 0.02  # points of accuracy over the best plain recipe

Results = Sequence[dict[str, Any]]


def by_seed(results: Results, task: str, size: int, recipe: str, figure: str) -> dict[int, float]:
    """Seed -> figure."""
    return {
        r["seed"]: r[figure]
        for r in results
        if (r["task"], r["size"], r["recipe"]) == (task, size, recipe) and figure in r
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval by Student's t; the half is NaN for one value.

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])  # t of 2 degrees: 4.303; standard error 1 / sqrt(3)
        >>> round(mean, 3), round(half, 3)
        (2.0, 2.484)
    """
    x = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), math.nan
    return float(x.mean()), float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))


def difference(results: Results, task: str, size: int, recipe: str, other: str, figure: str) -> tuple[float, float]:
    """Mean and half interval of ``recipe - other`` over the seeds that both have: same photos, same test set."""
    a, b = (by_seed(results, task, size, name, figure) for name in (recipe, other))
    both = sorted(a.keys() & b.keys())
    return interval([a[seed] - b[seed] for seed in both]) if both else (math.nan, math.nan)


def best_plain(results: Results, task: str, size: int) -> str | None:
    """The plain recipe with the highest mean accuracy on the test set: the choice favours what is to be beaten."""
    means = {name: by_seed(results, task, size, name, "accuracy") for name in PLAIN}
    means = {name: float(np.mean(list(found.values()))) for name, found in means.items() if found}
    return max(means, key=lambda name: means[name]) if means else None


def report(results: Results) -> tuple[dict[str, Any], str]:
    """Figures, and the same as Markdown."""
    cells: dict[int, list[str]] = defaultdict(list)
    for r in results:
        if r["task"] not in cells[r["size"]]:
            cells[r["size"]].append(r["task"])
    figures: dict[str, Any] = {"rows": [], "verdict": [], "pairs": []}
    lines: list[str] = []
    for size in sorted(cells, key=lambda s: s or math.inf):
        tasks = cells[size]
        recipes = list(dict.fromkeys(r["recipe"] for r in results if r["size"] == size))
        lines += [f"**{f'{size} photos' if size else 'All photos'} of each class: accuracy, %**", ""]
        lines += ["| recipe | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
        for recipe in recipes:
            row = []
            for task in tasks:
                found = by_seed(results, task, size, recipe, "accuracy")
                if not found:
                    row.append("")
                    continue
                mean, half = interval(list(found.values()))
                row.append(f"{100 * mean:.1f} ± {100 * half:.1f}")
                figures["rows"].append(
                    {"task": task, "size": size, "recipe": recipe, "seeds": len(found), "accuracy": mean, "half": half}
                    | {name: mean_of(results, task, size, recipe, name) for name in OTHERS}
                )
            lines.append(f"| {recipe} | " + " | ".join(row) + " |")
        lines += ["", *verdict(results, size, tasks, figures), "", *pairs(results, size, tasks, figures), ""]
    return figures, "\n".join(lines) + "\n"


OTHERS = ("calibration_error", "nll", "worst_group", "gap", "seconds_per_step", "served_as_photo")


def mean_of(results: Results, task: str, size: int, recipe: str, figure: str) -> float | None:
    found = by_seed(results, task, size, recipe, figure)
    return float(np.mean(list(found.values()))) if found else None


def verdict(results: Results, size: int, tasks: Sequence[str], figures: dict[str, Any]) -> list[str]:
    """The primary recipe against the best plain one, task by task."""
    lines = [
        f"| {PRIMARY} minus the best plain recipe | best plain | accuracy, points | calibration error, points | "
        "worst group, points | gap of groups, points |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        best = best_plain(results, task, size)
        if best is None or not by_seed(results, task, size, PRIMARY, "accuracy"):
            continue
        row, entry = [], {"task": task, "size": size, "best": best}
        for figure in ("accuracy", "calibration_error", "worst_group", "gap"):
            mean, half = difference(results, task, size, PRIMARY, best, figure)
            entry[figure] = [mean, half]
            row.append("" if math.isnan(mean) else f"{100 * mean:+.1f} ± {100 * half:.1f}")
        mean, half = entry["accuracy"]
        entry["reached"] = bool(mean >= ASKED and mean - half > 0)
        figures["verdict"].append(entry)
        lines.append(f"| {task} | {best} | " + " | ".join(row) + " |")
    return lines if len(lines) > 2 else []


def pairs(results: Results, size: int, tasks: Sequence[str], figures: dict[str, Any]) -> list[str]:
    """What variants add to a recipe: points of accuracy with, minus without."""
    lines = ["| accuracy, points | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for recipe, other in PAIRS:
        row = []
        for task in tasks:
            mean, half = difference(results, task, size, recipe, other, "accuracy")
            row.append("" if math.isnan(mean) else f"{100 * mean:+.1f} ± {100 * half:.1f}")
            entry = {"task": task, "size": size, "recipe": recipe, "other": other, "accuracy": [mean, half]}
            entry["calibration_error"] = list(difference(results, task, size, recipe, other, "calibration_error"))
            figures["pairs"] += [] if math.isnan(mean) else [entry]
        if any(row):
            lines.append(f"| {recipe} minus {other} | " + " | ".join(row) + " |")
    return lines if len(lines) > 2 else []
