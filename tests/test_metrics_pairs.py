"""Metrics of pairs and variants against torchmetrics, kornia, closed forms and naive loops."""

import math
from collections.abc import Sequence
from itertools import combinations, product
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from kornia.metrics import ssim
from torch import Tensor, nn

from ganaug.errors import UserInputError
from ganaug.features import PerceptualFeatures, feature_distance, load_perceptual_features
from ganaug.lpips import Lpips
from ganaug.metrics import (
    AttributeConsistency,
    EditLocalisation,
    IdentityDiversity,
    IdentityPreservation,
    MultiScaleSSIM,
    PerceptualDistance,
    PerceptualDiversity,
    multi_scale_ssim,
)
from ganaug.metrics.ssim import EXPONENTS, scales_that_fit


def images(count: int, side: int = 16, seed: int = 0) -> Tensor:
    """Smooth noise in [-1, 1]."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 3, 6, 6))).float()
    return F.interpolate(coarse, (side, side), mode="bilinear")


class MeanColour(nn.Module):
    """A network whose distance one can compute in the head: that between mean colours."""

    name = "mean-colour"

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images.mean(dim=(2, 3), keepdim=True)]

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        return (a[0] - b[0]).abs().sum(dim=(1, 2, 3))


def check_summary(found: dict[str, float], values: list[float], rel: float = 1e-9) -> None:
    expected = {"count": len(values), "mean": mean(values), "std": stdev(values), "median": median(values)}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=rel)


def test_perceptual_distance_of_pairs() -> None:
    a, b = images(7, seed=0), images(7, seed=1)
    metric = PerceptualDistance(MeanColour())
    for x, y in zip(a.split(3), b.split(3), strict=True):
        metric.update(x, y)
    metric.update(a[:0], b[:0])
    expected = [float((x.mean((1, 2)) - y.mean((1, 2))).abs().sum()) for x, y in zip(a, b, strict=True)]
    check_summary(metric.compute(), expected, 1e-5)
    assert len(metric.values) == metric.count == 7


def random_lpips() -> tuple[Lpips, Any]:
    """The same random network in this package and in torchmetrics."""
    functional = pytest.importorskip("torchmetrics.functional.image.lpips", reason="comes with the extra eval")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = functional._LPIPS(pretrained=False, net="squeeze", pnet_rand=True, use_dropout=False).eval()
        features = torchvision.models.squeezenet1_1(weights=None).features
    slices = theirs.net.slices if hasattr(theirs.net, "slices") else theirs.net
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    for number, layer in enumerate(features):
        layer.load_state_dict(layers[str(number)].state_dict())
    for lin in theirs.lins:
        lin.model[-1].weight.data.abs_()
    weights = [lin.model[-1].weight.detach().flatten() for lin in theirs.lins]
    return Lpips("squeezenet1_1", features.eval(), weights), theirs


def test_lpips_equals_torchmetrics() -> None:
    ours, theirs = random_lpips()
    a, b = images(4, 64, 0), images(4, 64, 1)
    metric = PerceptualDistance(ours)
    metric.update(a, b)
    expected = theirs(a, b).flatten().double()
    assert float(expected.min()) > 1e-3
    torch.testing.assert_close(metric.values, expected, rtol=1e-4, atol=1e-6)
    diversity = PerceptualDiversity(ours)
    diversity.update(a[:3][None])
    pairs = [float(theirs(a[i : i + 1], a[j : j + 1])) for i, j in combinations(range(3), 2)]
    assert float(diversity.values[0]) == pytest.approx(mean(pairs), rel=1e-4)


def test_bundled_features_compare() -> None:
    features = load_perceptual_features()
    a, b = images(3, 64, 0), images(3, 64, 1)
    metric = PerceptualDistance(features)
    metric.update(a, b)
    torch.testing.assert_close(metric.values, feature_distance(features(a), features(b)).double())
    metric.reset()
    metric.update(a, a)
    assert metric.compute()["mean"] == pytest.approx(0.0, abs=1e-6)
    assert metric.values.min() >= 0


@pytest.mark.parametrize("count", [2, 4])
def test_perceptual_diversity_equals_loops(count: int) -> None:
    variants = images(5 * count, seed=3).unflatten(0, (5, count))
    colours = variants.mean(dim=(3, 4))
    expected = [
        mean(float((photo[i] - photo[j]).abs().sum()) for i in range(count) for j in range(i)) for photo in colours
    ]
    metric = PerceptualDiversity(MeanColour())
    metric.update(variants[:2])
    metric.update(variants[2:])
    check_summary(metric.compute(), expected, 1e-5)


def test_perceptual_metrics_refuse_wrong_shapes() -> None:
    with pytest.raises(UserInputError, match="at least 2 of each photo"):
        PerceptualDiversity(MeanColour()).update(images(3)[:, None])
    with pytest.raises(UserInputError, match="of one shape"):
        PerceptualDistance(MeanColour()).update(images(3), images(2))
    with pytest.raises(UserInputError, match="shown nothing"):
        PerceptualDistance(MeanColour()).compute()


@pytest.mark.parametrize(("height", "width", "scales"), [(64, 64, 3), (48, 72, 3), (176, 180, 5), (33, 30, 2)])
def test_ms_ssim_equals_torchmetrics(height: int, width: int, scales: int) -> None:
    functional = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics comes with the extra eval")
    assert scales_that_fit(height, width) == scales
    a = images(3, 180, 0)[:, :, :height, :width]
    b = (a + 0.3 * images(3, 180, 1)[:, :, :height, :width]).clamp(-1, 1)
    betas = tuple(weight / sum(EXPONENTS[:scales]) for weight in EXPONENTS[:scales])
    expected = functional.multiscale_structural_similarity_index_measure(
        a.double() / 2 + 0.5, b.double() / 2 + 0.5, data_range=1.0, betas=betas, reduction="none"
    )
    assert 0.1 < float(expected.min()) < float(expected.max()) < 0.999
    torch.testing.assert_close(multi_scale_ssim(a, b), expected.double(), rtol=1e-5, atol=1e-6)
    metric = MultiScaleSSIM()
    metric.update(a[:2], b[:2])
    metric.update(a[2:], b[2:])
    assert metric.compute()["scales"] == scales
    check_summary(metric.compute(), expected.tolist(), 1e-5)


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    a, b = images(2, 20, 0), images(2, 20, 1)
    single = ssim(a.double() / 2 + 0.5, b.double() / 2 + 0.5, 11).mean(dim=(1, 2, 3)).clamp(min=0)
    torch.testing.assert_close(multi_scale_ssim(a, b), single, rtol=1e-6, atol=1e-9)


def test_ms_ssim_bounds_and_mistakes() -> None:
    a = images(2, 32)
    torch.testing.assert_close(multi_scale_ssim(a, a), torch.ones(2).double())
    assert float(multi_scale_ssim(a, -a).max()) < 0.3
    with pytest.raises(UserInputError, match="at least 11 px, got 10 x 10"):
        multi_scale_ssim(images(1, 10), images(1, 10))
    metric = MultiScaleSSIM()
    metric.update(a, a)
    metric.update(images(1, 64), images(1, 64))
    with pytest.raises(UserInputError, match="images of 2 and of 3 scales"):
        metric.compute()


def embeddings(count: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim))) * 3.0


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_identity_preservation_equals_loops() -> None:
    a, b = embeddings(30), embeddings(30) + embeddings(30, 1)
    metric = IdentityPreservation(threshold=0.6)
    for x, y in zip(a.split(8), b.split(8), strict=True):
        metric.update(x, y)
    expected = [cosine(x, y) for x, y in zip(a, b, strict=True)]
    found = metric.compute()
    check_summary(found, expected)
    assert found["share"] == sum(value >= 0.6 for value in expected) / 30
    assert 0.1 < found["share"] < 0.9
    with pytest.raises(UserInputError, match="must be a cosine"):
        IdentityPreservation(1.5)
    with pytest.raises(UserInputError, match="of one shape"):
        metric.update(a, b[:3])


def test_identity_of_lost_numbers_is_nan() -> None:
    metric = IdentityPreservation(0.0)
    metric.update(torch.tensor([[1.0, math.nan], [1.0, 0.0]]), torch.ones(2, 2))
    assert math.isnan(metric.compute()["mean"])


def test_identity_diversity_equals_loops() -> None:
    v = embeddings(12)
    photos = ["a", "b", "a", "c", "a", "b", "d", "a", "e", "b", "a", "e"]
    metric = IdentityDiversity()
    for start in (0, 5, 6):
        metric.update(v[start : start + {0: 5, 5: 1, 6: 6}[start]], photos[start : start + {0: 5, 5: 1, 6: 6}[start]])
    within = []
    for name in "abe":
        members = [x for x, photo in zip(v, photos, strict=True) if photo == name]
        within.append(mean(cosine(x, y) for x, y in combinations(members, 2)))
    between = [cosine(v[i], v[j]) for i, j in product(range(12), range(12)) if photos[i] != photos[j]]
    assert metric.compute() == pytest.approx(
        {"photos": 5, "variants": 12, "within": mean(within), "within_std": stdev(within), "between": mean(between)}
    )


def test_identity_diversity_of_too_few() -> None:
    metric = IdentityDiversity()
    with pytest.raises(UserInputError, match="shown nothing"):
        metric.compute()
    metric.update(embeddings(1), torch.tensor([3]))
    found = metric.compute()
    assert math.isnan(found["within"]) and math.isnan(found["between"]) and found["photos"] == 1
    metric.update(embeddings(1), torch.tensor([3]))  # the same photo, whether its number comes in one batch or two
    assert metric.compute()["within"] == pytest.approx(1.0)
    with pytest.raises(UserInputError, match="a photo for each of 2 variants, got 1"):
        metric.update(embeddings(2), ["a"])
    with pytest.raises(UserInputError, match="of 5 numbers as before, got 4"):
        metric.update(embeddings(2, dim=4), ["a", "b"])


def test_attribute_consistency_equals_loops() -> None:
    rng = np.random.default_rng(0)
    age = rng.normal(40, 10, (2, 20))
    gender = rng.dirichlet([1, 1, 1], (2, 20))
    age[1, 4] = math.nan
    metric = AttributeConsistency({"age": 6.0})
    for rows in (slice(0, 3), slice(3, 20)):
        before, after = ({"age": torch.tensor(age[s, rows]), "gender": torch.tensor(gender[s, rows])} for s in (0, 1))
        metric.update(before, after)
    found = metric.compute()
    assert list(found) == ["age", "gender"]
    moves = [float(b - a) for a, b in zip(*age, strict=True) if math.isfinite(b)]
    sizes = [abs(move) for move in moves]
    kept = sum(size <= 6.0 for size in sizes) / 19
    assert 0 < kept < 1
    expected = {"count": 19, "kept": kept, "size": mean(sizes), "std": stdev(sizes), "drift": mean(moves)}
    assert found["age"] == pytest.approx(expected)
    sizes = [sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2 for a, b in zip(*gender, strict=True)]
    kept = sum(int(a.argmax() == b.argmax()) for a, b in zip(*gender, strict=True)) / 20
    drift = sum(abs(mean(b[c] - a[c] for a, b in zip(*gender, strict=True))) for c in range(3)) / 2
    expected = {"count": 20, "kept": kept, "size": mean(sizes), "std": stdev(sizes), "drift": drift}
    assert found["gender"] == pytest.approx(expected)


def test_attribute_consistency_mistakes() -> None:
    with pytest.raises(UserInputError, match="must be 0 or more, got -1"):
        AttributeConsistency({"age": -1.0})
    metric = AttributeConsistency({"age": 1.0})
    two, classes = torch.zeros(2), torch.zeros(2, 3)
    with pytest.raises(UserInputError, match="shown nothing"):
        metric.compute()
    with pytest.raises(UserInputError, match=r"scores of \['age'\] twice"):
        metric.update({"age": two}, {})
    with pytest.raises(UserInputError, match="'pose' need a tolerance"):
        metric.update({"age": two, "pose": two}, {"age": two, "pose": two})
    with pytest.raises(UserInputError, match="'age' need no tolerance"):
        metric.update({"age": classes}, {"age": classes})
    with pytest.raises(UserInputError, match="of one shape"):
        metric.update({"age": two}, {"age": two[:1]})
    with pytest.raises(UserInputError, match="shown nothing"):
        metric.compute()  # a refused batch leaves nothing behind
    metric.update({"gender": classes}, {"gender": classes})
    with pytest.raises(UserInputError, match="3 classes of 'gender' as before, got 2"):
        metric.update({"gender": classes[:, :2]}, {"gender": classes[:, :2]})


def test_edit_localisation_equals_loops() -> None:
    before = images(6, 8)
    inside = torch.from_numpy(np.random.default_rng(1).random((6, 8, 8)) < 0.4)
    after = before + inside[:, None] * 0.5 * images(6, 8, 5) + 0.1 * images(6, 8, 6)
    inside[2], inside[3] = False, True
    metric = EditLocalisation(limit=0.2)
    metric.update(before[:4], after[:4], inside[:4])
    metric.update(before[4:], after[4:], inside[4:])
    into, out = [], []
    for number in (0, 1, 4, 5):
        sides: dict[bool, list[float]] = {True: [], False: []}
        for y, x in product(range(8), range(8)):
            change = [(float(after[number, c, y, x]) - float(before[number, c, y, x])) ** 2 for c in range(3)]
            sides[bool(inside[number, y, x])].append(mean(change))
        into.append(mean(sides[True]))
        out.append(mean(sides[False]))
    share = sum(o <= 0.2 * i for o, i in zip(out, into, strict=True)) / 4
    expected = {
        "count": 4,
        "inside": mean(into),
        "outside": mean(out),
        "ratio": mean(out) / mean(into),
        "share": share,
    }
    assert metric.compute() == pytest.approx(expected)
    assert torch.isnan(metric.values).tolist() == [False, False, True, True, False, False]


def test_edit_localisation_of_nothing() -> None:
    metric = EditLocalisation()
    empty = torch.zeros(1, 8, 8, dtype=torch.bool)
    metric.update(images(1, 8), images(1, 8, 1), empty)
    found = metric.compute()
    assert found["count"] == 0 and math.isnan(found["ratio"]) and math.isnan(found["share"])
    with pytest.raises(UserInputError, match=r"a bool mask \(1, 8, 8\), got torch.float32"):
        metric.update(images(1, 8), images(1, 8), empty.float())
    with pytest.raises(UserInputError, match="limit must be 0"):
        EditLocalisation(-1.0)


def test_perceptual_features_have_a_distance() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = PerceptualFeatures((4, 5, 6), 16).eval()
    a, b = trunk(images(3)), trunk(images(3, seed=1))
    torch.testing.assert_close(trunk.distance(a, b), feature_distance(a, b))
    assert float(trunk.distance(a, a).min()) >= 0
