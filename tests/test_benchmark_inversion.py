"""What benchmarks/inversion.py measures with: the loop of peers, comparisons on the same photos, and verdicts."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, RESOLUTION, random_generator

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import inversion
import inversion_report as report
from inversion_peers import project_folder

from ganaug.features import load_perceptual_features
from ganaug.inversion import DEFAULT_STEPS, OptimizationInverter


def result(name: str, method: str, steps: int | None, mse: list[float], **more: Any) -> report.Result:
    """A result with the same numbers for all measures but PSNR and identity."""
    measures = {"mse": mse, "perceptual": mse, "ssim": mse, "psnr": [-10 * math.log10(x) for x in mse]}
    measures["identity"] = [1 - x for x in mse]
    found = {"set": name, "method": method, "steps": steps, "photos": len(mse), "seconds_per_image": 1.0}
    return {**found, "record_bytes": 5000, "measures": measures, **more}


def test_the_loop_of_peers_finds_what_the_inverter_finds(model_file):
    generator, features = random_generator(), load_perceptual_features(model_file)
    photos = torch.rand(3, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alone = project_folder(generator, features, photos, steps=8)
    ours = OptimizationInverter(generator, features, steps=8).invert(photos)
    assert alone.shape == (3, 2 * len(CONFIG.channels), CONFIG.w_dim)
    assert (alone - generator.w_avg).abs().max() > 0.1
    torch.testing.assert_close(alone, ours.w_plus, atol=2e-3, rtol=0)


def test_methods_are_compared_on_the_photos_that_both_saw():
    many, few = result("val", "hybrid", 50, [0.1, 0.3, 0.8]), result("val", "peers", 400, [0.05, 0.15])
    ratio, low, high = report.ratio_of_means(few, many, "mse")
    assert ratio == pytest.approx(0.5) and low == pytest.approx(0.5) and high == pytest.approx(0.5)
    # Two easy photos, and each 0.05 and 0.15 better than the anchor: 0.4 - 0.1 on all three.
    mean, error = report.as_if_on_all(few, many, "mse")
    assert mean == pytest.approx(0.4 - 0.1) and error == pytest.approx(0.05)
    assert report.as_if_on_all(many, many, "mse") == (pytest.approx(0.4), 0.0)


def test_the_interval_of_a_ratio_covers_what_photos_differ():
    rng = np.random.default_rng(0)
    reference, other = rng.uniform(1, 2, 400), rng.uniform(1, 2, 400)
    ratio, low, high = report.ratio_of_means(
        result("val", "hybrid", 50, other.tolist()), result("val", "optimization", 400, reference.tolist()), "mse"
    )
    assert ratio == pytest.approx(other.mean() / reference.mean())
    # The delta method for a ratio of independent means of uniform numbers: sqrt(2) * (1 / sqrt(12)) / 1.5 / sqrt(400).
    expected = 1.96 * math.sqrt(2 / 12) / 1.5 / 20
    assert high - ratio == pytest.approx(expected, rel=0.15) and ratio - low == pytest.approx(expected, rel=0.15)


def test_rows_and_table():
    results = [
        result("val", "encoder", None, [0.04, 0.04, 0.04]),
        result("val", "optimization", 50, [0.02, 0.02]),
        result("val", "optimization", 400, [0.01, 0.01], seconds_per_image=4.0),
    ]
    rows = report.rows_of(results)
    assert [row["mse_ratio"] for row in rows] == pytest.approx([4.0, 2.0, 1.0])  # the most steps are the reference
    lines = report.table(rows).splitlines()
    assert lines[2].startswith("| encoder | 3 | 1 | 1 | 14.0 ± 0.0 | 40.00 ± 0.00 | 4.00 |")
    assert lines[4].startswith("| optimization in W+, 400 | 2 | 4 | 0.25 |") and lines[4].endswith("| 5 |")
    assert "nan" not in report.table(report.rows_of([result("val", "encoder", None, [0.04])]))


def test_overview_has_a_line_for_each_inverter_and_a_column_for_each_set():
    results = [
        result("val", "hybrid", 10, [0.1, 0.1]),
        result("val", "hybrid", 50, [0.1, 0.1], default=True, seconds_per_image=0.5),
        result("val", "optimization", 50, [0.1, 0.1]),
        result("val", "optimization", 400, [0.01, 0.01], seconds_per_image=4.0),
        result("london", "hybrid", 50, [0.001, 0.001], default=True),
    ]
    assert report.overview(report.rows_of(results)).splitlines() == [
        "| inverter, steps | s an image | kept, KB | PSNR, dB: val, london | identity: val, london |",
        "|---|---|---|---|---|",
        "| hybrid, 50 | 0.5 | 5 | 10.0, 30.0 | 0.90, 1.00 |",
        "| optimization in W+, 400 | 4 | 5 | 20.0, - | 0.99, - |",
    ]


def verdict(texts: list[tuple[str, bool]], words: str) -> bool:
    (met,) = [met for text, met in texts if words in text]
    return met


@pytest.mark.parametrize(("seconds", "mse", "met"), [(0.4, 0.01, True), (0.41, 0.01, False), (0.4, 0.0101, False)])
def test_hybrid_must_be_as_good_in_a_tenth_of_the_time(seconds, mse, met):
    results = [
        result("val", "hybrid", 20, [1e-6, 1e-6], seconds_per_image=1e-3),  # not what precompute takes
        result("val", "hybrid", 50, [mse, mse], seconds_per_image=seconds, default=True),
        result("val", "optimization", 400, [0.01, 0.01], seconds_per_image=4.0),
    ]
    assert verdict(report.checks(results, None), "hybrid, 50 over optimization in W+, 400") == met


def test_the_result_with_the_default_steps_is_looked_at_else_the_one_with_the_most():
    few, many, encoder = (
        result("val", name, steps, [0.1]) for name, steps in (("hybrid", 20), ("hybrid", 60), ("encoder", None))
    )
    assert report.find([few, many, encoder], "val", "hybrid") is many
    usual = {**few, "default": True}
    assert report.find([many, usual], "val", "hybrid") is usual
    assert report.find([few, encoder], "val", "encoder") is encoder and report.find([few], "london", "hybrid") is None


def test_what_tuning_must_gain_and_deltas_must_keep():
    def of(classic: float, deltas: float) -> list[tuple[str, bool]]:
        results = [
            result("london", "optimization", 400, [0.09, 0.09, 0.09]),
            result("london", "tuning", 300, [classic, classic]),
            result("london", "pivotal", 100, [deltas, deltas, 0.5], record_bytes=99_000),
        ]
        return report.checks(results, {"loop": (2.0, 2.6, 3.0), "peers": (2.0, 2.4, 3.0), "delta": (1.1, 1.6, 2.0)})

    good = of(0.01, 0.018)
    assert (
        verdict(good, "pivotal, one photo, 300 over")
        and verdict(good, "keeps")
        and verdict(good, "a record of pivotal, deltas, 100")
    )
    assert not verdict(of(0.04, 0.04), "pivotal, one photo, 300 over")
    assert not verdict(of(0.01, 0.03), "keeps")
    assert "keeps 90 %" in next(text for text, _ in good if "keeps" in text)
    assert verdict(good, "identity of pivotal, one photo, 300") and not verdict(
        good, "identity of pivotal, deltas, 100"
    )
    assert verdict(good, "our own loop") and not verdict(good, "peers ship")
    assert not verdict(good, "with deltas over without")


def test_one_generator_must_halve_the_error_within_an_hour():
    run = {"faces": 512, "seconds": 3600.0, "mse_before": 0.02, "mse_after": 0.01}
    assert report.tuned_check(run)[1]
    for worse in ({"faces": 511}, {"seconds": 3601.0}, {"mse_after": 0.0101}):
        assert not report.tuned_check(run | worse)[1]


def test_results_are_kept_until_something_that_decides_them_changes(tmp_path):
    made = []

    def make() -> dict[str, Any]:
        made.append(len(made))
        return {"value": len(made)}

    path, first, second = tmp_path / "r.json", inversion.key_of({"steps": 5}), inversion.key_of({"steps": 6})
    assert inversion.kept(path, first, make) == inversion.kept(path, first, make) == {"key": first, "value": 1}
    assert inversion.kept(path, second, make)["value"] == 2
    assert list(tmp_path.iterdir()) == [path]


def test_methods_by_name_and_by_steps():
    assert inversion.select(None, False) == list(inversion.METHODS)
    assert sum(method.default for method in inversion.METHODS if method.name == "hybrid") == 1
    usual = DEFAULT_STEPS["hybrid"]
    chosen = inversion.select(f"encoder,hybrid:7,hybrid:{usual}", False)
    assert [(method.name, method.steps, method.default) for method in chosen] == [
        ("encoder", None, False),
        ("hybrid", 7, False),
        ("hybrid", usual, True),
    ]
    assert [method.steps for method in inversion.select("optimization", True)] == [5, 10, 20, 40]
    with pytest.raises(SystemExit, match="unknown inverter 'pti'"):
        inversion.select("pti", False)
