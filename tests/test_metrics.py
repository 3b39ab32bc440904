"""Metrics of sets against scipy, torchmetrics, torch-fidelity, closed forms and naive loops."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ganaug.errors import UserInputError
from ganaug.features import PerceptualFeatures, PooledFeatures
from ganaug.metrics import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
    frechet_distance,
    kernel,
    kernel_distance,
    neighbours,
    precision_recall,
)

METRICS = [FrechetDistance, KernelDistance, PrecisionRecall]


def normal(count: int, dim: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) / math.sqrt(dim)
    return torch.from_numpy(rng.normal(size=(count, dim)) @ mixing * scale + shift)


def test_frechet_equals_scipy() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="scipy comes with scikit-learn")
    a, b = normal(200, 7, 0), normal(150, 7, 1, 1.5, 0.3)
    ca, cb = np.cov(a.numpy().T), np.cov(b.numpy().T)
    shift = a.numpy().mean(axis=0) - b.numpy().mean(axis=0)
    expected = shift @ shift + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


class Through(nn.Module):
    """torchmetrics takes images and a network; here the images are the features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def shown(metric: Any, real: Tensor, made: Tensor) -> Any:
    """A torchmetrics metric of two sets, in float64, fed in batches."""
    metric.set_dtype(torch.float64)
    for is_real, features in ((True, real), (False, made)):
        for part in features.split(64):
            metric.update(part, real=is_real)
    return metric.compute()


@pytest.mark.parametrize(("count", "dim"), [(300, 8), (90, 64), (20, 40)])
def test_frechet_equals_torchmetrics(count: int, dim: int) -> None:
    image = pytest.importorskip("torchmetrics.image", reason="torchmetrics comes with the extra eval")
    a, b = normal(count, dim, 0), normal(count - 5, dim, 1, 1.3, 0.2)
    expected = shown(image.fid.FrechetInceptionDistance(feature=Through(dim)), a, b)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_of_diagonal_gaussians() -> None:
    """|m - n|^2 + sum of (s_i - t_i)^2; the points 0 +- s e_i have just such a covariance."""

    def axes(mean: list[float], spread: list[float]) -> Tensor:
        points = torch.diag(torch.tensor(spread, dtype=torch.float64))
        return torch.cat([points, -points]) + torch.tensor(mean, dtype=torch.float64)

    a, b = axes([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]), axes([0.5, 1.0, 0.0], [2.0, 2.0, 1.0])
    variance = 2.0 / 5.0  # two points of six per axis, divided by 6 - 1
    expected = 0.25 + 4.0 + variance * (1.0 + 0.0 + 4.0)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_with_fewer_images_than_dimensions() -> None:
    """tr (AB)^1/2 is the sum of singular values of X Y^T for A = X^T X, B = Y^T Y."""
    a, b = normal(5, 20, 0), normal(8, 20, 1, 2.0)
    x, y = ((f - f.mean(dim=0)).numpy() / math.sqrt(len(f) - 1) for f in (a, b))
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum().item()
    expected = shift + (x**2).sum() + (y**2).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_frechet_survives_a_large_mean() -> None:
    """Sums of raw products would lose all digits: 1e7 squared is 1e14, the spread about 1."""
    a, b = normal(100, 4, 0), normal(90, 4, 1, 2.0)
    metric = FrechetDistance()
    for real, features in ((True, a), (False, b)):
        for part in (features + 1e7).split(7):
            metric.update(part, real)
    assert metric.compute() == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_frechet_of_lost_numbers_is_nan() -> None:
    lost = torch.ones(5, 3)
    lost[2, 1] = math.inf
    assert math.isnan(frechet_distance(torch.rand(5, 3), lost))


def naive_kernel_distance(a: Tensor, b: Tensor) -> float:
    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    m, n = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_b = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


@pytest.mark.parametrize("block", [3, 1024])
def test_kernel_distance_equals_loops(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(kernel, "BLOCK_ROWS", block)
    a, b = normal(11, 5, 0), normal(8, 5, 1, 1.0, 0.5)
    assert kernel_distance(a, b) == pytest.approx(naive_kernel_distance(a, b), rel=1e-10)


def test_kernel_distance_is_unbiased() -> None:
    """Of four against four images of one kind the mean is 0; with the pairs (i, i) it would be 5.4."""
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 8, 3)))
    values = np.array([kernel_distance(p[:4], p[4:]) for p in points])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert values.min() < 0


@pytest.mark.parametrize("seed", [0, 7])
def test_kernel_distance_of_subsets_equals_torchmetrics(seed: int) -> None:
    image = pytest.importorskip("torchmetrics.image", reason="torchmetrics comes with the extra eval")
    a, b = normal(60, 6, 0), normal(50, 6, 1, 1.2, 0.3)
    theirs = image.kid.KernelInceptionDistance(feature=Through(6), subsets=9, subset_size=20)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mean, std = shown(theirs, a, b)
    metric = KernelDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert metric.compute_subsets(9, 20, seed=seed) == pytest.approx((float(mean), float(std)), rel=1e-9)
    assert metric.compute_subsets(9, 20, seed=seed + 1) != metric.compute_subsets(9, 20, seed=seed)


def test_all_subsets_together_give_the_distance_of_all_pairs() -> None:
    a, b = normal(5, 3, 0), normal(5, 3, 1, 1.2, 0.3)
    rows = [list(chosen) for chosen in combinations(range(5), 3)]
    values = [kernel_distance(a[i], b[j]) for i in rows for j in rows]
    assert math.fsum(values) / len(values) == pytest.approx(kernel_distance(a, b), rel=1e-12)
    metric = KernelDistance()
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert metric.compute_subsets(2, 5) == pytest.approx((kernel_distance(a, b), 0.0), abs=1e-12)  # the whole sets
    with pytest.raises(UserInputError, match="5 real images, at least 6"):
        metric.compute_subsets(2, 6)
    with pytest.raises(UserInputError, match="got 0 of 5"):
        metric.compute_subsets(0, 5)


def test_precision_and_recall_equal_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity comes with torchmetrics[image]")
    real, made = normal(80, 5, 0), normal(70, 5, 1, 0.9, 0.4)
    expected = prc.calculate_precision_recall_full(made, real, neighborhood=3)
    assert 0.1 < min(expected) < max(expected) < 0.95
    assert precision_recall(real, made) == pytest.approx(expected, rel=1e-6)


def sharp_logits(count: int = 60, classes: int = 7) -> Tensor:
    return 3.0 * torch.from_numpy(np.random.default_rng(4).normal(size=(count, classes)))


@pytest.mark.parametrize("splits", [1, 4])
def test_inception_score_equals_torch_fidelity(splits: int) -> None:
    """Theirs takes parts of neighbours, ours deals images out: neighbours there are ``splits`` apart here."""
    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity comes with torchmetrics[image]")
    logits = sharp_logits()
    expected = isc.isc_features_to_metric(logits, splits=splits, shuffle=False)
    metric = InceptionScore(splits)
    for part in logits.unflatten(0, (splits, -1)).transpose(0, 1).flatten(0, 1).float().split(11):
        metric.update(part)
    assert metric.compute() == pytest.approx(tuple(expected.values()), rel=1e-6, abs=1e-9)
    assert metric.count == 60


def test_inception_score_equals_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image", reason="torchmetrics comes with the extra eval")
    logits = sharp_logits()
    theirs = image.inception.InceptionScore(feature=Through(7), splits=3)
    theirs.update(logits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, std = theirs.compute()  # std divided by N - 1, where the first published code divided by N
        torch.manual_seed(0)
        order = torch.randperm(60)
    metric = InceptionScore(3)
    metric.update(logits[order], numbers=torch.arange(60) // 20)
    assert metric.compute() == pytest.approx((float(mean), float(std) * math.sqrt(2 / 3)), rel=1e-9)


def test_inception_score_in_closed_form() -> None:
    """Of k sure classes in equal shares it is k, of a clueless classifier 1."""
    metric = InceptionScore(2)
    sure = 1e4 * torch.eye(5).repeat(4, 1)
    metric.update(sure, numbers=torch.arange(20).div(5, rounding_mode="floor"))
    assert metric.compute() == pytest.approx((5.0, 0.0))
    metric.reset()
    metric.update(torch.zeros(9, 5))
    assert metric.compute() == pytest.approx((1.0, 0.0))


def test_inception_score_by_numbers_does_not_depend_on_order() -> None:
    logits, order = sharp_logits(), torch.from_numpy(np.random.default_rng(0).permutation(60))
    one, two = InceptionScore(10), InceptionScore(10)
    one.update(logits)
    for part in order.split(7):
        two.update(logits[part], numbers=part)
    assert two.compute() == pytest.approx(one.compute(), rel=1e-12)


def test_inception_score_of_wrong_arguments() -> None:
    with pytest.raises(UserInputError, match="splits must be at least 1"):
        InceptionScore(0)
    metric = InceptionScore(4)
    with pytest.raises(UserInputError, match="0 images fill 0 of 4 parts"):
        metric.compute()
    metric.update(torch.zeros(3, 5))
    with pytest.raises(UserInputError, match="3 images fill 3 of 4 parts"):
        metric.compute()
    with pytest.raises(UserInputError, match="expected 2 whole numbers"):
        metric.update(torch.zeros(2, 5), numbers=torch.arange(3))
    with pytest.raises(UserInputError, match="of 5 numbers as before, got 6"):
        metric.update(torch.zeros(2, 6))


def naive_precision_recall(real: Tensor, made: Tensor, k: int) -> tuple[float, float]:
    def inside(point: Tensor, reference: Tensor) -> bool:
        for i, centre in enumerate(reference):
            others = sorted(math.dist(centre, other) for j, other in enumerate(reference) if j != i)
            if math.dist(point, centre) <= others[k - 1]:
                return True
        return False

    precision = sum(inside(point, real) for point in made) / len(made)
    return precision, sum(inside(point, made) for point in real) / len(real)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [4, 1024])
def test_precision_and_recall_equal_loops(monkeypatch: pytest.MonkeyPatch, k: int, block: int) -> None:
    monkeypatch.setattr(neighbours, "BLOCK_ROWS", block)
    real, made = normal(30, 4, 0), normal(25, 4, 1, 0.9, 0.4)
    found = precision_recall(real, made, k)
    assert found == pytest.approx(naive_precision_recall(real, made, k))
    assert 0 < min(found) < max(found) < 1


def test_precision_and_recall_of_a_collapsed_generator() -> None:
    """One photo again and again: all of it is real, and of all photos only that one is generated."""
    real = normal(40, 30, 0).float() + 1000.0  # where distances by a matrix product would be off by more than 0
    assert precision_recall(real, real[:1].repeat(9, 1)) == (1.0, 1 / 40)


@pytest.mark.parametrize("metric", METRICS)
def test_batches_order_and_reset(metric: Any) -> None:
    real, made = normal(40, 5, 0).float(), normal(30, 5, 1, 1.2, 0.2).float()
    expected = metric()
    expected.update(real, real=True)
    expected.update(made, real=False)
    m = metric()
    for part in (*made[:20].split(6), made[20:]):
        m.update(part, real=False)
    m.update(real[:0], real=True)
    for part in real.split(7):
        m.update(part, real=True)
    assert m.compute() == pytest.approx(expected.compute(), rel=1e-9)
    m.reset(keep_real=True)
    with pytest.raises(UserInputError, match="0 generated images, at least"):
        m.compute()
    m.update(real, real=False)
    same = m.compute()
    assert same == (1.0, 1.0) if metric is PrecisionRecall else same < 1e-6
    m.reset()
    m.update(torch.rand(9, 2), real=False)  # another D: nothing is left of before
    with pytest.raises(UserInputError, match="0 real images, at least"):
        m.compute()


@pytest.mark.parametrize("metric", METRICS)
def test_wrong_features(metric: Any) -> None:
    m = metric()
    with pytest.raises(UserInputError, match=r"shape \(B, D\), got \(2, 3, 4\)"):
        m.update(torch.zeros(2, 3, 4), real=True)
    m.update(torch.zeros(2, 3), real=True)
    with pytest.raises(UserInputError, match="features of 3 numbers as before, got 4"):
        m.update(torch.zeros(2, 4), real=False)
    with pytest.raises(UserInputError, match="k must be at least 1"):
        PrecisionRecall(0)


def test_pooled_features() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = PerceptualFeatures((4, 5, 6, 7), 32).eval()
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    every = [[m[i, c].sum() / m[i, c].numel() for m in trunk(images)[1:] for c in range(m.shape[1])] for i in range(3)]
    plain = PooledFeatures(trunk, "discriminator-test", num_blocks=2)
    torch.testing.assert_close(plain(images), torch.tensor(every))
    projected = PooledFeatures(trunk, "discriminator-test", num_blocks=2, num_features=4)
    torch.testing.assert_close(projected.directions.t() @ projected.directions, torch.eye(4))
    torch.testing.assert_close(projected(images), torch.tensor(every) @ projected.directions)
    again = PooledFeatures(trunk, "discriminator-test", num_blocks=2, num_features=4)
    assert torch.equal(again.directions, projected.directions)
    assert PooledFeatures(trunk, "discriminator-test", num_blocks=9)(images).shape == (3, 18)
