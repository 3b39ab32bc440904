"""What benchmarks/benefit.py measures with: training sets, calibration, differences over seeds, and going on."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import benefit_report as report
import benefit_results
from benefit_recipes import PLAIN, PRIMARY, RECIPES, Recipe, without_variants
from benefit_tasks import Chips, Part, Task, few_of_each
from benefit_training import batches, calibration_error, measure, train

ROWS = [{"file": f"{label}{i}.jpg", "label": label} for label, count in (("a", 9), ("b", 4)) for i in range(count)]


def line(recipe: str, seed: int, accuracy: float, task: str = "race", **more: float) -> dict:
    return {"recipe": recipe, "task": task, "size": 30, "seed": seed, "accuracy": accuracy, **more}


def chips(folder: Path, count: int = 6) -> Chips:
    """Black and white pictures, by class."""
    part = Part("x", [f"{i}.png" for i in range(count)], np.arange(count) % 2, ["even", "odd"] * (count // 2))
    for i, name in enumerate(part.names):
        Image.fromarray(np.full((64, 64, 3), 255 * (i % 2), np.uint8)).save(folder / name)
    return Chips(folder, part, 2)


def test_smaller_training_sets_are_part_of_larger_ones():
    sets = [{r["file"] for r in few_of_each(ROWS, lambda r: r["label"], size, seed=3)} for size in (2, 4, 6, 0)]
    assert [len(found) for found in sets] == [4, 8, 10, 13]  # of b there are four
    assert sets[0] < sets[1] < sets[2] < sets[3]
    assert sets[0] != {r["file"] for r in few_of_each(ROWS, lambda r: r["label"], 2, seed=4)}


def test_calibration_is_the_mean_distance_from_the_diagonal():
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration_error(confidence, rng.random(200_000) < confidence) < 0.01
    assert calibration_error(confidence, rng.random(200_000) < confidence - 0.1 * (confidence > 0.5)) == pytest.approx(
        0.05, abs=0.01
    )


def test_intervals_are_those_of_paired_differences():
    plain, ours = [0.50, 0.60, 0.40], [0.53, 0.64, 0.45]
    results = [line("classical", s, a) for s, a in enumerate(plain)] + [line(PRIMARY, s, a) for s, a in enumerate(ours)]
    mean, half = report.difference(results, "race", 30, PRIMARY, "classical", "accuracy")
    # Differences 0.03, 0.04, 0.05: standard error 0.01 / sqrt(3), Student's t of 2 degrees 4.3027.
    assert mean == pytest.approx(0.04) and half == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-4)


def test_the_best_plain_recipe_is_what_has_to_be_beaten():
    results = [line("none", 0, 0.5), line("classical", 0, 0.6), line("randaugment", 0, 0.7), line(PRIMARY, 0, 0.65)]
    assert report.best_plain(results, "race", 30) == "randaugment"
    results += [{**r, "seed": 1, "accuracy": r["accuracy"] + 0.001} for r in results]
    figures, markdown = report.report(results)
    (verdict,) = [d for d in figures["differences"] if d["other"] == "randaugment"]
    assert verdict["mean"] == pytest.approx(-0.05) and not verdict["reached"]
    assert "Best plain recipe: race randaugment." in markdown
    assert f"| {PRIMARY} minus the best plain | **-5.0 ± 0.0** |" in markdown
    assert f"| {PRIMARY} minus classical | **+5.0 ± 0.0** |" in markdown


def test_tables_count_seeds_and_mark_what_excludes_0():
    results = [line("classical", s, a) for s, a in enumerate((0.50, 0.60, 0.40))]
    results += [line(PRIMARY, s, a, gap=0.1) for s, a in enumerate((0.53, 0.64, 0.45))]
    results += [line("classical", s, 0.5, "age") for s in range(2)] + [
        line(PRIMARY, s, 0.4 + s / 5, "age") for s in (0, 1)
    ]
    markdown = report.report(results)[1]
    assert (
        "| accuracy, %; 3 seeds | race | age |" in markdown
        and "| classical | 50.0 ± 24.8 | 50.0 ± 0.0 (2) |" in markdown
    )
    # 4 points, half interval 4.3027 / sqrt(3); -10 and 10 points, standard error 10, t of one degree 12.7062.
    assert "| gan+classical 0.5 minus classical | **+4.0 ± 2.5** | +0.0 ± 127.1 (2) |" in markdown
    assert "gap between" not in markdown  # classical has none to compare with


def test_every_recipe_is_compared_with_plain_ones_that_are_run():
    assert set(PLAIN) <= set(RECIPES) and PRIMARY in RECIPES
    assert all((recipe.ratio > 0) == (recipe.variants is not None) for recipe in RECIPES.values())
    assert [
        without_variants(name) for name in ("gan gated", "gan+randaugment 0.5", "hybrid", "classical, same time")
    ] == [
        "none",
        "randaugment",
        "classical",
        "classical",
    ]


def test_all_recipes_see_the_same_photos_and_variants_by_ratio(tmp_path):
    data = chips(tmp_path)
    variants = torch.full((2, 6, 3, 64, 64), 128, dtype=torch.uint8)
    plain = list(batches(data, None, Recipe(), 20, seed=5))
    mixed = list(batches(data, variants, Recipe(None, 0.25, "default"), 20, seed=5))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, mixed, strict=True))
    made = torch.stack([(images == 128 / 255).all(dim=(1, 2, 3)) for images, _ in mixed])
    assert made.float().mean().item() == pytest.approx(0.25, abs=0.06)  # of 640 draws: 3.5 standard errors
    real = [b[0][~m] for b, m in zip(mixed, made, strict=True)]
    assert all(torch.equal(x, a[0][~m]) for x, a, m in zip(real, plain, made, strict=True))


def test_a_network_learns_what_can_be_learned(tmp_path):
    data = chips(tmp_path)
    part = Part("x", [f"{i}.png" for i in range(6)], np.arange(6) % 2, ["even", "odd"] * 3)
    task = Task("black or white", ["black", "white"], part, part, steps=80)
    network, seconds = train(task, data, None, Recipe(), 0, None, "cpu")
    figures = measure(network, task, data, "cpu")
    assert figures["accuracy"] == 1.0 and figures["worst_group"] == 1.0 and figures["gap"] == 0.0 and seconds > 0


def test_a_line_that_a_kill_cut_off_is_run_again(tmp_path):
    whole = json.dumps(line("none", 0, 0.5))
    (tmp_path / "results.jsonl").write_text(f"{whole}\n{whole[:20]}")
    assert benefit_results.read_results(tmp_path) == [json.loads(whole)]
    with benefit_results.open_results(tmp_path) as file:
        file.write(whole + "\n")
    assert benefit_results.read_results(tmp_path) == [json.loads(whole)] * 2
    assert benefit_results.read_results(tmp_path / "not-yet-there") == []
