"""Tables of benchmarks/benefit.py: means over seeds, and paired differences with intervals."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from benefit_recipes import ABLATION, EQUAL_TIME, PLAIN, PRIMARY, RECIPES, without_variants
from scipy import stats

LEVEL = 0.95
ASKED = 0.02  # points of accuracy over the best plain recipe
FIGURES = {
    "accuracy": "accuracy, points",
    "calibration_error": "calibration error, points (lower is better)",
    "worst_group": "accuracy of the worst group, points",
    "gap": "gap between the best and the worst group, points (lower is better)",
}
OTHERS = ("calibration_error", "nll", "worst_group", "gap", "seconds_per_step", "served_as_photo")

Results = Sequence[dict[str, Any]]
Pair = tuple[str, str]  # a recipe and what it is compared with


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


def differences(results: Results, task: str, size: int, recipe: str, other: str, figure: str) -> list[float]:
    """``recipe - other`` for each seed that both have: same photos, same test set."""
    a, b = (by_seed(results, task, size, name, figure) for name in (recipe, other))
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def difference(results: Results, task: str, size: int, recipe: str, other: str, figure: str) -> tuple[float, float]:
    """Mean and half interval of :func:`differences`."""
    found = differences(results, task, size, recipe, other, figure)
    return interval(found) if found else (math.nan, math.nan)


def best_plain(results: Results, task: str, size: int) -> str | None:
    """The plain recipe with the highest mean accuracy on the test set: the choice favours what is to be beaten."""
    means = {name: by_seed(results, task, size, name, "accuracy") for name in PLAIN}
    means = {name: float(np.mean(list(found.values()))) for name, found in means.items() if found}
    return max(means, key=lambda name: means[name]) if means else None


def report(results: Results) -> tuple[dict[str, Any], str]:
    """Figures, and the same as Markdown.

    A cell of a table that has not as many seeds as most cells of its table says its own number in brackets. Differences
    whose interval excludes 0 are bold.
    """
    figures: dict[str, Any] = {"rows": [], "differences": []}
    lines: list[str] = []
    for size in sorted({r["size"] for r in results}, key=lambda s: s or math.inf):
        lines += report_size([r for r in results if r["size"] == size], size, figures)
    return figures, "\n".join(lines)


def report_size(results: Results, size: int, figures: dict[str, Any]) -> list[str]:
    """The tables of one size of training sets; adds what is in them to ``figures``."""
    tasks = list(dict.fromkeys(r["task"] for r in results))
    order = list({**RECIPES, **ABLATION})
    recipes = sorted({r["recipe"] for r in results}, key=order.index)
    lines = [f"**{f'{size} photos' if size else 'All photos'} of each class**", ""]
    main = [name for name in recipes if name in RECIPES]
    lines += table("accuracy, %", tasks, main, lambda task, name: mean_cell(results, task, size, name, figures))
    best = {task: best_plain(results, task, size) for task in tasks}
    lines += [f"Best plain recipe: {', '.join(f'{task} {best[task]}' for task in tasks)}.", ""]
    ours = [name for name in main if RECIPES[name].variants]
    pairs = {f"{name} minus the best plain": {task: (name, best[task]) for task in tasks} for name in ours}
    lines += compare(results, size, tasks, pairs, "accuracy", figures)
    pairs = same(tasks, [*((name, without_variants(name)) for name in main), (PRIMARY, EQUAL_TIME)])
    for figure in FIGURES:
        lines += compare(results, size, tasks, pairs, figure, figures)
    varied = [name for name in recipes if name in ABLATION]
    varied += [name for name in main if name.startswith("gan+classical") and name != PRIMARY]
    for other in (PRIMARY, "classical"):
        pairs = same(tasks, [(name, other) for name in varied if name in ABLATION or other == PRIMARY])
        lines += compare(results, size, tasks, pairs, "accuracy", figures)
    return lines


def same(tasks: Sequence[str], pairs: Sequence[Pair]) -> dict[str, dict[str, Pair]]:
    """Rows that compare the same two recipes in every task."""
    return {f"{a} minus {b}": dict.fromkeys(tasks, (a, b)) for a, b in pairs if a != b}


def mean_cell(results: Results, task: str, size: int, recipe: str, figures: dict[str, Any]) -> tuple[str, int]:
    found = by_seed(results, task, size, recipe, "accuracy")
    if not found:
        return "", 0
    mean, half = interval(list(found.values()))
    entry = {"task": task, "size": size, "recipe": recipe, "seeds": len(found), "accuracy": mean, "half": half}
    others = {name: list(by_seed(results, task, size, recipe, name).values()) for name in OTHERS}
    figures["rows"].append(entry | {name: float(np.mean(some)) for name, some in others.items() if some})
    return f"{100 * mean:.1f} ± {100 * half:.1f}", len(found)


def compare(
    results: Results,
    size: int,
    tasks: Sequence[str],
    pairs: Mapping[str, Mapping[str, tuple[str, str | None]]],
    figure: str,
    figures: dict[str, Any],
) -> list[str]:
    """A table of differences; ``pairs`` maps the name of a row to what is compared for each task."""

    def cell(task: str, row: str) -> tuple[str, int]:
        recipe, other = pairs[row][task]
        found = differences(results, task, size, recipe, other or "", figure)
        if not found:
            return "", 0
        mean, half = interval(found)
        entry = {"task": task, "size": size, "recipe": recipe, "other": other, "figure": figure, "seeds": len(found)}
        sure = abs(mean) > half
        if figure == "accuracy":
            entry["reached"] = bool(mean >= ASKED and sure)
        figures["differences"].append(entry | {"mean": mean, "half": half})
        text = f"{100 * mean:+.1f} ± {100 * half:.1f}"
        return f"**{text}**" if sure else text, len(found)

    return table(FIGURES[figure], tasks, list(pairs), cell)


def table(
    title: str, tasks: Sequence[str], rows: Sequence[str], cell: Callable[[str, str], tuple[str, int]]
) -> list[str]:
    """Lines of a Markdown table; rows without a cell are left out, and the table if it has none."""
    cells = {row: [cell(task, row) for task in tasks] for row in rows}
    cells = {row: found for row, found in cells.items() if any(seeds for _, seeds in found)}
    counts = Counter(seeds for found in cells.values() for _, seeds in found if seeds)
    if not counts:
        return []
    usual = max(counts, key=lambda seeds: (counts[seeds], seeds))
    lines = [f"| {title}; {usual} seeds | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for row, found in cells.items():
        texts = [text if seeds in (0, usual) else f"{text} ({seeds})" for text, seeds in found]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return [*lines, ""]
