"""Directions fitted to labels: closed forms, scikit-learn and SciPy as judges, and what must not be fitted."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from ganaug.edits.directions import Direction
from ganaug.edits.fitting import METHODS, correlations, fit_direction
from ganaug.edits.label_table import LabelColumns
from ganaug.edits.pairs import find_pairs, pair_direction
from ganaug.edits.scores import least_squares, logistic_scale, probability, quality_of_classes, quality_of_numbers
from ganaug.edits.sefa import closed_form_directions, spread
from ganaug.edits.span import Span
from ganaug.edits.stored import load_directions, open_directions, update_directions, write_directions
from ganaug.edits.target import Gauge
from ganaug.edits.whitening import Whitening, freed, orthonormal
from ganaug.errors import CheckpointError, UserInputError
from ganaug.faces.matching import match_keys
from ganaug.faces.quantities import quantities
from ganaug.generators import VAE, SemanticStyleGAN, SemanticStyleGANConfig, StyleGAN2, StyleGAN2Config, VAEConfig
from ganaug.generators.prior import LatentPrior
from ganaug.generators.stylegan3 import StyleGAN3, StyleGAN3Config
from ganaug.layers import EqualLinear

K, L, D = 6, 6, 10
NONE = np.zeros((K, 0))
Numbers = NDArray[np.float64]


def keys(count: int) -> list[str]:
    return [f"{i:05d}.jpg" for i in range(count)]


def unit(vector: Numbers) -> Numbers:
    return vector / np.linalg.norm(vector)


def covariance(seed: int = 0) -> Numbers:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(K, K)))[0]
    return turn @ np.diag(np.linspace(0.3, 2.0, K)) @ turn.T


def two_gaussians(count: int = 3000, seed: int = 0) -> tuple[Numbers, Numbers, Numbers]:
    """Codes, labels, and the normal of the boundary that Fisher's linear discriminant has."""
    rng = np.random.default_rng(seed)
    gap, cov = rng.normal(size=K), covariance()
    target = (np.arange(count) % 2).astype(np.float64)
    z = rng.multivariate_normal(np.zeros(K), cov, count) + np.outer(target - 0.5, gap)
    return z, target, unit(np.linalg.solve(cov, gap))


def build(seed: int = 0, prior: bool = True) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGAN2(StyleGAN2Config(16, 12, D, 2, (6, 6, 6))).eval().requires_grad_(False)
        if prior:
            codes = torch.randn(300, L * D) @ torch.randn(L * D, L * D) + 3.0
            generator.prior = LatentPrior.fit(codes.unflatten(1, (L, D)), num_components=20)
    return generator


# Closed forms


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_two_gaussians_give_fishers_discriminant(method: str) -> None:
    pytest.importorskip("sklearn")
    z, target, expected = two_gaussians()
    found = fit_direction(z, target, method, keys(len(z)), NONE)  # type: ignore[arg-type]
    assert np.linalg.norm(found.vector) == pytest.approx(1.0, abs=1e-12)
    assert found.vector @ expected > 0.99
    # The best there is: half the distance of the means in units of the spread, through the normal distribution.
    stats = pytest.importorskip("scipy.stats")
    assert found.measured["accuracy"] == pytest.approx(stats.norm.cdf(_half_gap()), abs=0.02)
    assert found.measured["baseline"] == 0.5 and found.measured["ece"] < 0.04


def _half_gap() -> float:
    gap = np.random.default_rng(0).normal(size=K)
    return float(np.sqrt(gap @ np.linalg.solve(covariance(), gap)) / 2)


def test_numbers_give_the_regression() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    z = rng.multivariate_normal(np.zeros(K), covariance(), 3000)
    beta, noise = rng.normal(size=K), 0.7
    target = 30 + 5 * (z @ beta + rng.normal(0, noise, 3000))
    found = fit_direction(z, target, "ridge", keys(3000), NONE)
    assert found.vector @ unit(beta) > 0.999
    explained = beta @ covariance() @ beta
    assert found.measured["r2"] == pytest.approx(explained / (explained + noise**2), abs=0.02)
    assert found.slope == pytest.approx(5 * np.linalg.norm(beta), rel=0.02)
    assert found.intercept == pytest.approx(30, abs=0.3)
    assert found.measured["mean_absolute_error"] == pytest.approx(5 * noise * np.sqrt(2 / np.pi), rel=0.05)


def test_labels_that_say_nothing_are_not_learnt() -> None:
    """Cross-validation: 40 coordinates fit 120 random labels perfectly, and predict no other."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(2)
    z, target = rng.normal(size=(120, 40)), (np.arange(120) % 2).astype(float)
    found = fit_direction(z, target, "logistic", keys(120), np.zeros((40, 0)))
    assert 0.3 < found.measured["accuracy"] < 0.68 and 0.3 < found.measured["auc"] < 0.68


def test_photos_of_a_person_are_tested_together() -> None:
    """Five like photos of each person, whose label is drawn: known people are recognised, new ones are not."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(60), 5)
    z = rng.normal(size=(60, 60))[people]
    target = rng.integers(0, 2, 60)[people].astype(float)
    basis, names = np.zeros((60, 0)), keys(300)
    alone = fit_direction(z, target, "logistic", names, basis).measured["accuracy"]
    together = fit_direction(z, target, "logistic", names, basis, people=[str(p) for p in people])
    assert alone > 0.9 and together.measured["accuracy"] < 0.65


@pytest.mark.parametrize("method", METHODS)
def test_fitted_twice_is_equal(method: str) -> None:
    pytest.importorskip("sklearn")
    z, target, _ = two_gaussians(200)
    first, second = (fit_direction(z, target, method, keys(200), NONE, seed=4) for _ in range(2))  # type: ignore[arg-type]
    assert first.vector.tobytes() == second.vector.tobytes()
    assert first.coordinates.tobytes() == second.coordinates.tobytes()
    assert (first.slope, first.intercept, first.measured) == (second.slope, second.intercept, second.measured)
    order = np.random.default_rng(0).permutation(200)
    shuffled = fit_direction(z[order], target[order], method, [keys(200)[i] for i in order], NONE, seed=4)  # type: ignore[arg-type]
    np.testing.assert_allclose(shuffled.coordinates, first.coordinates[order], atol=1e-3)
    other = fit_direction(z, target, method, keys(200), NONE, seed=5)  # type: ignore[arg-type]
    assert not np.array_equal(other.coordinates, first.coordinates)


def test_final_fit_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    z, target, _ = two_gaussians(300)
    found = fit_direction(z, target, "logistic", keys(300), NONE)
    model = linear_model.LogisticRegression(C=found.measured["regularisation"], max_iter=10_000).fit(z, target)
    np.testing.assert_allclose(found.vector, unit(model.coef_[0]), atol=1e-12)


# Scores


def test_logistic_scale_minimises_platts_loss() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(5)
    target = (rng.random(200) < 0.3).astype(float)
    for gap in (0.5, 2.0, 50.0):  # the last: classes that do not overlap
        s = rng.normal(size=200) + gap * target
        wanted = np.where(target > 0, (target.sum() + 1) / (target.sum() + 2), 1 / ((1 - target).sum() + 2))

        def loss(x: Numbers, s: Numbers = s, wanted: Numbers = wanted) -> float:
            raw = x[0] * s + x[1]
            return float((np.logaddexp(0, raw) - wanted * raw).sum())

        best = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9})
        found = np.array(logistic_scale(s, target))
        assert loss(found) <= best.fun + 1e-7
        assert np.isfinite(found).all() and found[0] > 0


def test_quality_of_classes_by_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(6)
    scores = rng.random(500).round(2)  # with ties
    target = (rng.random(500) < scores**2).astype(float)
    found = quality_of_classes(target, scores)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(target, scores > 0.5), abs=1e-4)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(target, scores > 0.5), abs=1e-4)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(target, scores), abs=1e-4)
    assert found["loss"] == pytest.approx(metrics.log_loss(target, scores.clip(1e-12, 1 - 1e-12)), rel=1e-6)
    shifted = scores + 1e-9  # scikit-learn's bins are closed above, these below
    share, mean = calibration.calibration_curve(target, shifted.clip(0, 1), n_bins=10)
    np.testing.assert_allclose([row[1:] for row in found["reliability"]], np.stack([mean, share], 1), atol=1e-4)
    weights = np.array([row[0] for row in found["reliability"]]) / 500
    assert found["ece"] == pytest.approx(float(weights @ np.abs(mean - share)), abs=1e-4) and found["ece"] > 0.05


def test_quality_of_numbers_by_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(7)
    target = rng.normal(40, 15, 200)
    scores = target + rng.normal(3, 8, 200)
    found = quality_of_numbers(target, scores)
    assert found["r2"] == pytest.approx(metrics.r2_score(target, scores), abs=1e-4)
    assert found["mean_absolute_error"] == pytest.approx(metrics.mean_absolute_error(target, scores), abs=1e-4)
    assert found["correlation"] == pytest.approx(np.corrcoef(target, scores)[0, 1], abs=1e-4)
    assert found["baseline_error"] == pytest.approx(np.abs(target - np.median(target)).mean(), abs=1e-4)
    assert found["range"] == [target.min(), target.max()]
    assert [row[0] for row in found["reliability"]] == [20] * 10
    assert found["calibration_error"] > 2.0  # the scores are three too high
    np.testing.assert_allclose(least_squares(scores, target), np.polyfit(scores, target, 1), rtol=1e-9)


def test_probability_does_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert probability(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_correlations_leave_missing_values_out() -> None:
    rng = np.random.default_rng(8)
    s = rng.normal(size=50)
    age = 2 * s + rng.normal(size=50)
    holes = age.copy()
    holes[::7] = np.nan
    found = correlations(s, {"age": age, "holes": holes, "constant": np.ones(50), "empty": np.full(50, np.nan)})
    assert found["age"] == pytest.approx(np.corrcoef(s, age)[0, 1], abs=1e-4)
    seen = np.isfinite(holes)
    assert found["holes"] == pytest.approx(np.corrcoef(s[seen], age[seen])[0, 1], abs=1e-4)
    assert set(found) == {"age", "holes"}


# Whitened coordinates, and directions that are free of others


def test_whitening() -> None:
    generator = build()
    white = Whitening.of(generator)
    assert generator.prior is not None
    codes = generator.prior.sample(4000, torch.Generator().manual_seed(0))
    z = white.coordinates(codes.numpy())
    np.testing.assert_allclose(np.cov(z.T), np.eye(20), atol=0.1)
    vector = unit(np.random.default_rng(0).normal(size=20))
    moved = white.coordinates((codes + white.move(vector)).numpy())
    np.testing.assert_allclose(moved - z, np.tile(vector, (4000, 1)), atol=1e-3)
    weights, bias = white.reading(vector)
    np.testing.assert_allclose((codes * weights).sum(dim=(1, 2)).numpy() + bias, z @ vector, atol=1e-3)


def test_whitening_of_codes_at_hand() -> None:
    """Without a prior: the codes' own components; those along which nothing varies are left out."""
    generator = build(prior=False)
    codes = torch.from_numpy(np.random.default_rng(0).normal(size=(500, 1, D))).float().expand(-1, L, -1).contiguous()
    white = Whitening.of(generator, codes)
    assert len(white) == D
    np.testing.assert_allclose(np.cov(white.coordinates(codes.numpy()).T), np.eye(D), atol=1e-4)
    for nothing in (None, codes[:1], codes[:1].expand(9, -1, -1)):
        with pytest.raises(UserInputError, match="has no prior, and the codes at hand do not differ"):
            Whitening.of(generator, nothing)


def test_orthonormal_basis_of_dependent_vectors() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, K))
    basis = orthonormal(np.stack([a, b, a - 3 * b, np.zeros(K)], axis=1))
    assert basis.shape == (K, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ a), a, atol=1e-12)
    c = rng.normal(size=K)
    span = np.stack([a, b], axis=1)
    expected = unit(c - span @ np.linalg.lstsq(span, c, rcond=None)[0])  # the normal equations' residual
    np.testing.assert_allclose(freed(c, basis), expected, atol=1e-12)
    with pytest.raises(UserInputError, match="nothing is left of it"):
        freed(2 * a + b, basis)


def test_free_of_a_set(tmp_path: Path) -> None:
    """After storing: one standard deviation along it changes what each of the others reads by less than 1e-6."""
    pytest.importorskip("sklearn")
    generator = build()
    white = Whitening.of(generator)
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(3, 20))
    moves = [white.move(unit(v)) for v in vectors]
    weights, bias = white.reading(vectors[0])
    calibrated = Direction(
        "a",
        moves[0],
        float(moves[0].norm()),
        range(L),
        set(),
        calibration=Gauge(weights * 3, bias, "identity", (-9.0, 9.0)),
    )
    plain = Direction("b", moves[1], float(moves[1].norm()), range(L), set())
    outside = torch.randn(L, D, generator=torch.Generator().manual_seed(0))  # mostly not among the prior's components
    others = [calibrated, plain, Span("c", torch.stack([moves[2], outside]), set())]
    normals = white.normals(others)
    assert normals.shape == (20, 4)
    z = rng.normal(size=(300, 20))
    target = (z @ vectors.sum(axis=0) + rng.normal(size=300) > 0).astype(float)
    bound = fit_direction(z, target, "logistic", keys(300), np.zeros((20, 0)))
    free = fit_direction(z, target, "logistic", keys(300), orthonormal(normals))
    assert np.abs(unit(vectors[0]) @ bound.vector) > 0.2  # there is something to be freed of
    move = white.move(free.vector)
    path = tmp_path / "free.safetensors"
    write_directions(path, [Direction("free", move, float(move.norm()), range(L), set())], generator)
    (loaded,) = load_directions(path, generator)
    code = torch.randn(1, L, D, generator=torch.Generator().manual_seed(1))
    step = (loaded.apply(torch.zeros(1, L, D), {"strength": torch.ones(1)})[0]).double().numpy()
    change = white.coordinates(code.double().numpy() + step) - white.coordinates(code.double().numpy())
    for vector in vectors:
        assert abs(float(change[0] @ unit(vector))) < 1e-6
    assert calibrated.calibration is not None
    assert abs(float((calibrated.calibration.weights.double().numpy() * step).sum())) < 1e-6
    with pytest.raises(UserInputError, match="expected one that moves along directions"):
        white.normals([_Other()])  # type: ignore[list-item]


class _Other:
    name = "mix"
    touches: frozenset[str] = frozenset()
    needs_partner = True


# What cannot be fitted


@pytest.mark.parametrize(
    ("target", "method", "message"),
    [
        ([0, 1] * 9, "logistic", "18 labelled faces have latents, expected at least 20"),
        ([1] * 30, "logistic", "all 30 labelled faces have the same label"),
        ([2.5] * 30, "ridge", "all 30 labelled faces have the same label"),
        ([0] * 30 + [1] * 4, "svm", "a class has only 4 of the 34 faces, expected at least 5"),
    ],
)
def test_too_little_to_fit(target: Sequence[float], method: str, message: str) -> None:
    pytest.importorskip("sklearn")
    z = np.random.default_rng(0).normal(size=(len(target), K))
    with pytest.raises(UserInputError, match=message):
        fit_direction(z, np.array(target, float), method, keys(len(target)), NONE)  # type: ignore[arg-type]


def test_too_few_people() -> None:
    pytest.importorskip("sklearn")
    z, target, _ = two_gaussians(40)
    with pytest.raises(UserInputError, match="of 2 people, too few"):
        fit_direction(z, target, "logistic", keys(40), NONE, people=["ann" if t else "bob" for t in target])


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    z, target, _ = two_gaussians(40)
    with pytest.raises(UserInputError, match=r"needs scikit-learn: pip install 'ganaug\[directions\]'"):
        fit_direction(z, target, "logistic", keys(40), NONE)


# Pairs


def test_pairs() -> None:
    rng = np.random.default_rng(10)
    true = unit(rng.normal(size=K))
    people = rng.normal(size=(40, K)) * 3
    without, with_it = people + rng.normal(size=(40, K)) * 0.4, people + true + rng.normal(size=(40, K)) * 0.4
    found = pair_direction(without, with_it, NONE)
    np.testing.assert_allclose(found.vector, unit((with_it - without).mean(axis=0)), atol=1e-12)
    right, moves = 0, []
    for out in range(40):
        rest = [i for i in range(40) if i != out]
        vector = unit((with_it[rest] - without[rest]).mean(axis=0))
        moves.append(float((with_it[out] - without[out]) @ vector))
        right += moves[-1] > 0
    assert found.measured["pair_accuracy"] == round(right / 40, 4)
    assert found.measured["mean_move"] == round(float(np.mean(moves)), 4)
    assert found.measured["pairs"] == 40 and found.measured["faces"] == 80
    free = pair_direction(without, with_it, orthonormal(true[:, None]))
    assert abs(free.vector @ true) < 1e-12 and free.measured["pair_accuracy"] < 0.8
    with pytest.raises(UserInputError, match="4 pairs have latents, expected at least 5"):
        pair_direction(without[:4], with_it[:4], NONE)
    with pytest.raises(UserInputError, match="same latents"):
        pair_direction(without, without, NONE)


def test_find_pairs() -> None:
    people = ["b", "b", "a", "", "a", "c", "a", "b"]
    has_it = [True, False, False, True, True, True, None, True]
    assert find_pairs(people, has_it) == ([2, 1], [4, 0])


# SeFa


def _tiny(family: str) -> StyleGAN2 | StyleGAN3 | VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "stylegan3":
            config = StyleGAN3Config.scaled(16, channel_base=64, channel_max=8, num_layers=4, z_dim=12, w_dim=12)
            return StyleGAN3(config).eval().requires_grad_(False)
        if family == "vae":
            return VAE(VAEConfig(16, 12, (8, 8, 8))).eval().requires_grad_(False)
        return build(prior=False)


@pytest.mark.parametrize("family", ["stylegan2", "stylegan3", "vae"])
@pytest.mark.parametrize("chosen", [None, [1, 2]])
def test_sefa(family: str, chosen: list[int] | None) -> None:
    """Against the right singular vectors of what the layers do to a unit step in one row, seen from outside."""
    generator = _tiny(family)
    num_ws, w_dim = generator.latent_spec.shape
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> None:
        module = generator.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out: seen.__setitem__(name, out.detach().double()))

    affines = [name for name, m in generator.named_modules() if name.endswith("affine") and isinstance(m, EqualLinear)]
    last = [name for name in affines if "torgb" in name or name.endswith(".input.affine")]
    if family == "stylegan3":  # the layer that makes RGB
        last.append(affines[-1])
    for name in affines:
        watch(name)
    generator.synthesis(torch.zeros(1, num_ws, w_dim))
    start = dict(seen)
    blocks = []
    for row in range(num_ws) if chosen is None else chosen:
        steps = torch.zeros(w_dim, num_ws, w_dim)
        steps[:, row] = torch.eye(w_dim)
        generator.synthesis(steps)
        changes = [seen[name] - start[name] for name in affines if name not in last]  # (D, C) each
        blocks += [change for change in changes if change.abs().max() > 0]
    right = np.linalg.svd(torch.cat(blocks, dim=1).t().numpy())[2][:3]
    found = closed_form_directions(generator, 3, chosen)
    np.testing.assert_allclose(np.abs((found.components.numpy() * right).sum(axis=1)), 1.0, atol=1e-4)
    assert (found.components.gather(1, found.components.abs().argmax(1, keepdim=True)) > 0).all()
    assert (found.std > 0).all()


def test_sefa_refusals() -> None:
    config = SemanticStyleGANConfig(16, 8, 2, 3, 4, 1, 2, 4, 8, 8, (8, 8), transparent=())
    semantic = SemanticStyleGAN(config).eval().requires_grad_(False)
    with pytest.raises(UserInputError, match="this one is semantic_stylegan; use --method pca"):
        closed_form_directions(semantic)
    with pytest.raises(UserInputError, match=r"rows \[5\] feed no convolution"):  # toRGB alone
        closed_form_directions(build(prior=False), rows=[5])
    with pytest.raises(UserInputError, match="expected some of 0 to 5"):
        closed_form_directions(build(prior=False), rows=[6])


def test_spread_of_the_priors_codes() -> None:
    generator = build()
    assert generator.prior is not None
    codes = generator.prior.sample(20000, torch.Generator().manual_seed(0)).double()
    vectors = torch.nn.functional.normalize(torch.randn(2, D, generator=torch.Generator().manual_seed(1)), dim=1)
    expected = (codes[:, [1, 4]] @ vectors.double().t()).var(dim=0).mean(dim=0).sqrt()
    torch.testing.assert_close(spread(vectors, generator, [1, 4]).double(), expected, rtol=0.03, atol=0)


# Tables


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["33", "0.5", "-2"], [33, 0.5, -2]),
        (["0-2", "3-9", "60-69", "more than 70", ""], [1, 6, 64.5, 75, np.nan]),
        (["10 to 20", "20 to 40", ">40", "70+", "NaN"], [15, 30, 50, 80, np.nan]),
        (["<10", "10-20", "under 10"], [5, 15, 5]),
        (["over 18"], [18]),
        (["-5--3", "-3 - 1"], [-4, -1]),
    ],
)
def test_quantities(values: list[str], expected: list[float]) -> None:
    np.testing.assert_array_equal(quantities(values), expected)


@pytest.mark.parametrize("value", ["red", "007", "2020-01", "1e999", "inf", "1-2-3", "a20"])
def test_no_quantities(value: str) -> None:
    assert quantities(["1", value]) is None


def test_keys_of_a_cache_whose_folder_is_not_known() -> None:
    head = ["age", "file"]
    rows = [["1", "train/1.jpg"], ["2", "train/2.jpg"], ["3", "val/1.jpg"]]
    assert match_keys(["1.jpg", "2.jpg"], "t", head, rows, []) == (1, [0, 1])  # val has no 2.jpg
    assert match_keys(["train/1.jpg"], "t", head, rows, []) == (1, [0])
    assert match_keys(["set/train/1.jpg", "set/val/1.jpg"], "t", head, rows, []) == (1, [0, 2])
    with pytest.raises(UserInputError, match="in the folders 'train/' and 'val/': say with --images"):
        match_keys(["1.jpg"], "t", head, rows, [])
    more = [*rows, ["4", "val/3.jpg"]]
    with pytest.raises(UserInputError, match="say with --images"):  # neither has all of them
        match_keys(["1.jpg", "2.jpg", "3.jpg"], "t", head, more, [])
    with pytest.raises(UserInputError, match=r"no column of t names the photos, for example 'x\.jpg'"):
        match_keys(["x.jpg"], "t", head, rows, [])


TABLE = LabelColumns(
    "t.csv",
    {
        "gender": ["f", "m", "m", "NA"],
        "age": ["0-2", "10-19", "20-29", "more than 30"],
        "race": ["a", "b", "c", "a"],
        "one": ["x", "x", "", "x"],
        "none": ["", "na", "NaN", "null"],
        "flag": ["0", "1", "1", ""],
    },
)


def test_targets() -> None:
    (gender,) = TABLE.targets("gender")
    assert gender.label == "m" and gender.is_class
    np.testing.assert_array_equal(gender.values, [0, 1, 1, np.nan])
    np.testing.assert_array_equal(TABLE.targets("gender", "f")[0].values, [1, 0, 0, np.nan])
    (age,) = TABLE.targets("age")
    assert not age.is_class
    np.testing.assert_array_equal(age.values, [1, 14.5, 24.5, 35])
    np.testing.assert_array_equal(TABLE.targets("age", "20-29")[0].values, [0, 0, 1, 0])
    assert [t.label for t in TABLE.targets("race")] == ["a", "b", "c"]
    assert TABLE.targets("flag")[0].label == "1" and not TABLE.targets("flag", method="ridge")[0].is_class


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hair",), "t.csv has no column 'hair'; it has gender, age, race, one, none, flag"),
        (("one",), "column 'one' of t.csv holds only 'x' for the faces"),
        (("none",), "column 'none' of t.csv has no value for any of the 4 faces"),
        (("gender", "x"), "has no class 'x'; it has f, m"),
        (("race", None, "ridge"), "holds a, b, c; ridge needs numbers"),
        (("age", None, "svm"), "holds numbers; use --method ridge, or say with --positive"),
    ],
)
def test_columns_that_cannot_be_used(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        TABLE.targets(*arguments)


def test_other_columns_as_numbers() -> None:
    found = TABLE.numbers(without={"flag"})
    assert set(found) == {"gender=m", "age", "race=a", "race=b", "race=c"}
    np.testing.assert_array_equal(found["gender=m"], [0, 1, 1, np.nan])
    names = LabelColumns("t", {"person": [f"p{i}" for i in range(65)]})
    assert names.numbers(without=()) == {}
    with pytest.raises(UserInputError, match="has 65 classes"):
        names.targets("person")


# Files


def some_edits() -> list[Direction | Span]:
    rng = torch.Generator().manual_seed(0)
    return [
        Direction(
            "age",
            torch.randn(L, D, generator=rng),
            0.7,
            range(L),
            {"age", "identity"},
            (1.5, 3.0),
            {"accuracy": 0.8, "correlations": {"gender=m": -0.1}},
            Gauge(torch.randn(L, D, generator=rng), -0.3, "identity", (1.0, 75.0)),
        ),
        Direction("plain", torch.randn(D, generator=rng), 0.2, [1, 3], set()),
        Span("hair", torch.randn(3, L, D, generator=rng), {"hair"}, (0.5, 2.0), {"faces": 9}),
    ]


def same(first: Direction | Span, second: Direction | Span) -> bool:
    a, b = ({k: v for k, v in vars(edit).items()} for edit in (first, second))
    gauges = [x.pop("calibration", None) for x in (a, b)]
    equal = all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())
    if gauges[0] is None or gauges[1] is None:
        return equal and gauges[0] is gauges[1] is None
    rest = [(gauge.bias, gauge.link, gauge.range) for gauge in gauges]
    return equal and torch.equal(gauges[0].weights, gauges[1].weights) and rest[0] == rest[1]


def test_what_was_read_stays_when_the_file_is_written_over(tmp_path: Path) -> None:
    generator, path, edits = build(), tmp_path / "d.safetensors", some_edits()
    write_directions(path, edits, generator)
    found = open_directions(path, generator)
    with path.open("r+b") as file:  # in place, as cp does; not a new file under the old name
        file.write(bytes(path.stat().st_size))
    assert all(same(a, b) for a, b in zip(edits, found.edits, strict=True))


def test_file_of_all_kinds(tmp_path: Path) -> None:
    generator, path, edits = build(), tmp_path / "d.safetensors", some_edits()
    write_directions(path, edits, generator, {"who": "me"}, {"glasses": "too blurred"})
    found = open_directions(path, generator)
    assert all(same(a, b) for a, b in zip(edits, found.edits, strict=True))
    assert found.unsupported == {"glasses": "too blurred"} and found.source == {"who": "me"}
    assert found.fingerprint == generator.fingerprint and found.family == "stylegan2"
    assert [edit.name for edit in open_directions(path).edits] == ["age", "plain", "hair"]
    first = path.read_bytes()
    write_directions(path, edits, generator, {"who": "me"}, {"glasses": "too blurred"})
    assert path.read_bytes() == first


def test_files_of_the_first_version_are_read(tmp_path: Path) -> None:
    generator, path = build(), tmp_path / "d.safetensors"
    plain = some_edits()[1]
    write_directions(path, [plain], generator)
    described, tensors = taken_apart(path)
    del described["unsupported"]
    for field in ("kind", "measured"):
        del described["directions"][0][field]
    save_file(tensors, path, {"description": json.dumps(described)})
    (found,) = load_directions(path, generator)
    assert same(found, plain)


def taken_apart(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:  # type: ignore[type-arg]
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["description"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def test_update_adds_and_replaces(tmp_path: Path) -> None:
    generator, path, edits = build(), tmp_path / "d.safetensors", some_edits()
    update_directions(path, edits[:2], generator, {"age": "a", "plain": "p"}, {"hair": "no codes"})
    new = Direction("age", torch.ones(D), 0.1, [0], {"age"})
    found = update_directions(path, [new, edits[2]], generator, {"age": "b"}, {"hat": "none seen"})
    assert [edit.name for edit in found.edits] == ["age", "plain", "hair"]
    assert same(found.edits[0], new) and same(found.edits[1], edits[1]) and same(found.edits[2], edits[2])
    assert found.source == {"age": "b", "plain": "p"} and found.unsupported == {"hat": "none seen"}
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="with fingerprint"):
        update_directions(path, [new], build(1))
    with pytest.raises(UserInputError, match="names that differ"):
        update_directions(path, [new, new], generator)
    bad = Direction("bad", torch.ones(D), 0.1, [0], {"age"}, measured={"accuracy": float("nan")})
    with pytest.raises(UserInputError, match="cannot be stored"):
        update_directions(path, [bad], generator)
    with pytest.raises(UserInputError, match="printable"):
        update_directions(path, [Direction("a\x1b[2J", torch.ones(D), 0.1, [0], set())], generator)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(CheckpointError, match="not a readable file of directions"):
        update_directions(other, [new], generator)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["directions"][0].update(name="a\x1b[2J"),
        lambda d: d["directions"][0].update(name="x" * 101),
        lambda d: d["directions"][0].update(name=["age"]),
        lambda d: d["directions"][0].update(kind="pickle"),
        lambda d: d["directions"][0].update(kind="span"),
        lambda d: d["directions"][0].update(strength=[2, 1]),
        lambda d: d["directions"][0].update(strength=[0, "nan"]),
        lambda d: d["directions"][0].update(std="inf"),
        lambda d: d["directions"][0].update(rows=[99]),
        lambda d: d["directions"][0].update(touches=5),
        lambda d: d["directions"][0].update(measured=3),
        lambda d: d["directions"][0]["calibration"].update(link="pickle"),
        lambda d: d["directions"][0]["calibration"].update(bias="inf"),
        lambda d: d["directions"][0]["calibration"].update(range=[3, 1]),
        lambda d: d["directions"][0]["calibration"].update(range="wide"),
        lambda d: d["directions"][0].pop("calibration"),
        lambda d: d["directions"].append(dict(d["directions"][0])),
        lambda d: d["directions"].pop(),
        lambda d: d.update(directions={"a": 1}),
        lambda d: d.update(directions=None),
        lambda d: d.update(unsupported=["hair"]),
        lambda d: d.update(unsupported={"hair": "\x07"}),
        lambda d: d.update(source=7),
        lambda d: d.update(family="\x1b"),
    ],
)
def test_hostile_descriptions(tmp_path: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    generator, path = build(), tmp_path / "d.safetensors"
    write_directions(path, some_edits(), generator)
    described, tensors = taken_apart(path)
    spoil(described)
    save_file(tensors, path, {"description": json.dumps(described)})
    for asked in (generator, None):
        with pytest.raises(CheckpointError, match="description is damaged") as caught:
            open_directions(path, asked)
        assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


def test_hostile_numbers(tmp_path: Path) -> None:
    from ganaug.edits.stored import _digest

    generator, path = build(), tmp_path / "d.safetensors"
    write_directions(path, some_edits(), generator)
    described, tensors = taken_apart(path)
    for name, value in (
        ("axes.2", torch.full((3, L, D), float("nan"))),
        ("axes.2", torch.zeros(3, L, D)),
        ("axes.2", torch.ones(3, L, D + 1)),
        ("axes.2", torch.ones(0, L, D)),
        ("axes.2", torch.ones(3, L, D, dtype=torch.int32)),
        ("calibration.0", torch.ones(D)),
        ("direction.0", torch.ones(L, D)),
    ):
        spoilt = {**tensors, name: value}
        save_file(spoilt, path, {"description": json.dumps({**described, "sha256": _digest(spoilt)})})
        with pytest.raises(CheckpointError, match="description is damaged"):
            open_directions(path, generator)
    text = json.dumps(described).replace('"std": 0.7', '"std": NaN')
    save_file(tensors, path, {"description": text})
    with pytest.raises(CheckpointError, match="not a readable file"):
        open_directions(path, generator)
    save_file(tensors, path, {"description": "[" * 100_000})
    with pytest.raises(CheckpointError, match="not a readable file"):
        open_directions(path, generator)
