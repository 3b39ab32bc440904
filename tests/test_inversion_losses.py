"""Terms of the inversion loss against closed forms and naive loops, and that each does what it is for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import RESOLUTION, random_generator
from torch import Tensor

from ganaug.embedders import EmbedderArchitecture, FaceEmbedder
from ganaug.errors import CheckpointError, UserInputError
from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators.prior import LatentPrior
from ganaug.generators.semantic import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.generators.stylegan2 import StyleGAN2
from ganaug.inversion import OptimizationInverter
from ganaug.inversion.descent import Plateau
from ganaug.inversion.losses import (
    NARROWEST,
    IdentityLoss,
    InversionLoss,
    LossTerm,
    LpipsLoss,
    Made,
    PartsLoss,
    PerceptualLoss,
    PixelLoss,
    StartLoss,
    WhitenedLoss,
)
from ganaug.lpips import IMAGENET_MEAN, IMAGENET_STD, TAPS, Lpips, load_lpips


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return random_generator()


@pytest.fixture(scope="module")
def semantic() -> SemanticStyleGAN:
    config = SemanticStyleGANConfig(16, 8, 2, 3, 4, 1, 2, 4, 8, 8, (8, 8), transparent=())
    return seeded(lambda: SemanticStyleGAN(config))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def features() -> PerceptualFeatures:
    return seeded(lambda: PerceptualFeatures((6, 8, 8), RESOLUTION))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    return seeded(lambda: FaceEmbedder(EmbedderArchitecture(16, (4, 8), 6)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    features = seeded(lambda: torchvision.models.squeezenet1_1(weights=None).features)
    weights = [draw(width, seed=i).abs() for i, width in enumerate((64, 128, 256, 384, 384, 512, 512))]
    return Lpips("squeezenet1_1", features, weights)


def value(term: LossTerm, made: Made, images: Tensor, start: Tensor | None = None) -> Tensor:
    return term(made, term.targets(images, made.w_plus if start is None else start))


def test_sum_of_terms(generator: StyleGAN2, features: PerceptualFeatures, embedder: FaceEmbedder) -> None:
    photos, w_plus = draw(3, 3, 16, 16).clamp(-1, 1), draw(3, *generator.latent_spec.shape, seed=1)
    start = draw(3, *generator.latent_spec.shape, seed=2)
    loss = InversionLoss(
        [
            PixelLoss(2.0),
            PerceptualLoss(features, 0.3, of="somebody's"),
            IdentityLoss(embedder, "own", 0.5),
            StartLoss(generator, 0.0),
        ]
    )
    made = loss.make(generator, w_plus.requires_grad_(True))
    total = loss(made, loss.targets(photos, start))
    pixel = ((made.images - photos) ** 2).flatten(1).mean(dim=1)
    perceptual = feature_distance(features(made.images), features(photos))
    a, b = embedder(made.images), embedder(photos)
    identity = 1 - (a * b).sum(dim=1)
    torch.testing.assert_close(total, 2.0 * pixel + 0.3 * perceptual + 0.5 * identity)
    assert loss.settings == {
        "pixel_weight": 2.0,
        "feature_weight": 0.3,
        "features_of": "somebody's",
        "identity_weight": 0.5,
        "identity_of": "own",
        "prior_weight": 0.0,
    }
    # A row is its own: its gradient is that of the row alone.
    (gradient,) = torch.autograd.grad(total.sum(), w_plus)
    row = w_plus[1:2].detach().requires_grad_(True)
    alone = loss(loss.make(generator, row), loss.targets(photos[1:2], start[1:2]))
    (own,) = torch.autograd.grad(alone.sum(), row)
    torch.testing.assert_close(gradient[1:2], own, rtol=1e-3, atol=1e-6)


def test_distance_to_the_start(generator: StyleGAN2) -> None:
    start = draw(2, *generator.latent_spec.shape)
    spread = StartLoss(generator, 1.0)._spread
    z = torch.randn(2048, generator.z_dim, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread, generator.mapping(z)[:, 0].std(dim=0) + 1e-3)
    moved = start + 3.0 * spread * torch.tensor([0.0, 1.0])[:, None, None]
    found = value(StartLoss(generator, 1.0), Made(torch.zeros(2), moved), torch.zeros(2), start)
    torch.testing.assert_close(found, torch.tensor([0.0, 9.0]))


def test_whitened_distance_of_draws(generator: StyleGAN2) -> None:
    term = WhitenedLoss(generator, 1.0)
    w_plus = generator.mapping(draw(500, generator.z_dim, seed=3))
    found = value(term, Made(torch.zeros(500), w_plus), torch.zeros(500))
    # Mahalanobis distance by numpy, with axes widened where W is a sheet.
    z = torch.randn(4096, generator.z_dim, generator=torch.Generator().manual_seed(0))
    draws = generator.mapping(z)[:, 0].double().numpy()
    variances, axes = np.linalg.eigh(np.cov(draws.T))
    std = np.sqrt(variances).clip(min=NARROWEST * np.sqrt(variances.max()))
    away = (w_plus[:, 0].double().numpy() - draws.mean(axis=0)) @ axes / std
    np.testing.assert_allclose(found, (away**2).mean(axis=1), rtol=1e-3)
    assert 0.3 < float(found.mean()) <= 1.1
    # Rows count by themselves.
    mixed = w_plus.clone()
    mixed[0, 0] = w_plus[1, 0]
    rows = generator.latent_spec.num_ws
    expected = ((rows - 1) * found[0] + found[1]) / rows
    torch.testing.assert_close(value(term, Made(torch.zeros(500), mixed), torch.zeros(500))[0], expected)


def test_whitened_distance_of_a_prior() -> None:
    generator = random_generator(1)
    shape = generator.latent_spec.shape
    axes = torch.linalg.qr(draw(math.prod(shape), 5)).Q.t().reshape(5, *shape)
    generator.prior = LatentPrior(draw(*shape, seed=1), axes, torch.tensor([2.0, 1.0, 0.5, 0.4, 0.3]))
    term = WhitenedLoss(generator, 1.0)
    codes = generator.prior.sample(20, torch.Generator().manual_seed(4))
    found = value(term, Made(torch.zeros(20), codes), torch.zeros(20))
    expected = generator.prior.distance(codes).square() * 5 / math.prod(shape)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    beside = (
        torch.linalg.qr(torch.cat([axes.flatten(1), draw(1, math.prod(shape), seed=5)]).t()).Q[:, -1].reshape(shape)
    )
    off = value(term, Made(torch.zeros(1), codes[:1] + 0.6 * beside), torch.zeros(1)) - found[:1]
    torch.testing.assert_close(off, torch.full((1,), (0.6 / 0.3) ** 2 / math.prod(shape)), rtol=1e-2, atol=1e-4)


def test_parts_loss_equals_naive_loop() -> None:
    logits, seen = draw(2, 3, 4, 4), torch.randint(-1, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    seen[1] = -1  # the parser knows nothing of the second
    term = PartsLoss(lambda images: seen, "fixed")
    found = value(term, Made(torch.zeros(2, 3, 4, 4), torch.zeros(2), logits), torch.zeros(2, 3, 4, 4))
    wrong = []
    for i in range(4):
        for j in range(4):
            if seen[0, i, j] >= 0:
                odds = logits[0, :, i, j].exp()
                wrong.append(-math.log(float(odds[seen[0, i, j]] / odds.sum())))
    assert found.tolist() == pytest.approx([np.mean(wrong), 0.0], rel=1e-5)


def test_parts_pull_parts_into_place(semantic: SemanticStyleGAN) -> None:
    with torch.no_grad():
        w_plus = draw(3, *semantic.latent_spec.shape, seed=1) * 2.0
        photos, logits = semantic.synthesis(w_plus, return_parts=True)
    wanted = logits.argmax(dim=1)

    def right(weight: float) -> float:
        # No pixels, which show where parts are.
        term = PartsLoss(lambda images: wanted, "truth", weight)
        inverter = OptimizationInverter(semantic, steps=25, pixel_weight=0.0, prior_weight=0.0001, terms=[term])
        assert inverter.settings["parts_weight"] == weight
        made = semantic.synthesis(inverter.invert(photos).w_plus, return_parts=True)[1]
        return float((made.argmax(dim=1) == wanted).float().mean())

    assert right(1.0) > right(0.0) + 0.2


def test_codes_of_parts(semantic: SemanticStyleGAN) -> None:
    photos = semantic.synthesis(draw(2, *semantic.latent_spec.shape, seed=1)).clamp(-1, 1)
    found = OptimizationInverter(semantic, space="parts", steps=30, plateau=Plateau(2, 0.1)).invert(photos, 1)
    assert semantic.latent_spec.parts == {"background": (1, 2), "part1": (3, 4), "part2": (5, 6)}
    codes = found.w_plus
    for first, second in semantic.latent_spec.parts.values():
        assert torch.equal(codes[:, first], codes[:, second])
    assert len({tuple(row.tolist()) for row in codes[0]}) == 4  # three parts and what they share
    start = (semantic.synthesis(semantic.w_avg.expand(2, 7, -1)) - photos).square().mean(dim=(1, 2, 3)) / 4
    assert (found.quality["mse"] < 0.8 * start).all()


def test_parts_are_asked_of_generators_that_have_them(generator: StyleGAN2, semantic: SemanticStyleGAN) -> None:
    with pytest.raises(UserInputError, match="space 'parts' needs a generator with parts"):
        OptimizationInverter(generator, space="parts")
    with pytest.raises(UserInputError, match="the generator has no parts"):
        OptimizationInverter(generator, terms=[PartsLoss(lambda images: images, "x")])
    inverter = OptimizationInverter(semantic, steps=1, terms=[PartsLoss(lambda images: images[:, 0], "x")])
    with pytest.raises(UserInputError, match=r"parser 'x' turned images .* expected one int64 number of a part"):
        inverter.invert(torch.zeros(1, 3, 16, 16))


def test_identity_term_brings_identity_closer(generator: StyleGAN2, embedder: FaceEmbedder) -> None:
    photos = generator.synthesis(generator.mapping(draw(2, generator.z_dim))).clamp(-1, 1)

    def cosine(weight: float) -> Tensor:
        inverter = OptimizationInverter(generator, steps=20, terms=[IdentityLoss(embedder, "own", weight)])
        made = generator.synthesis(inverter.invert(photos).w_plus)
        return F.cosine_similarity(embedder(made), embedder(photos))

    assert (1 - cosine(1.0)).sum() < 0.6 * (1 - cosine(0.0)).sum()


def test_lpips_equals_naive_loop(lpips: Lpips) -> None:
    a, b = draw(2, 3, 40, 40).clamp(-1, 1), draw(2, 3, 40, 40, seed=1).clamp(-1, 1)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    weights = [draw(width, seed=i).abs().double() for i, width in enumerate((64, 128, 256, 384, 384, 512, 512))]
    expected = []
    for first, second in zip(a, b, strict=True):
        x, y, total = ((first / 2 + 0.5 - mean) / std)[None], ((second / 2 + 0.5 - mean) / std)[None], 0.0
        stage = iter(weights)
        for number, layer in enumerate(lpips.layers):
            x, y = layer(x), layer(y)
            if number in TAPS["squeezenet1_1"]:
                w = next(stage)
                unit_x, unit_y = (t[0].double() / t[0].double().norm(dim=0).clamp(min=1e-12) for t in (x, y))
                total += float((w[:, None, None] * (unit_x - unit_y) ** 2).sum(dim=0).mean())
        expected.append(total)
    term = LpipsLoss(lpips, 0.5)
    found = value(term, Made(a.requires_grad_(True), torch.zeros(2)), b)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert torch.autograd.grad(found.sum(), a)[0].isfinite().all()
    assert term.settings == {"lpips_weight": 0.5, "lpips_of": "lpips-squeezenet1_1"}
    black = torch.full((1, 3, 40, 40), -1.0, requires_grad=True)  # all-zero activations, maybe
    assert torch.autograd.grad(value(term, Made(black, torch.zeros(1)), b[:1]).sum(), black)[0].isfinite().all()


def test_lpips_from_files(lpips: Lpips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    linear, folder = tmp_path / "lpips_squeeze_v0.1.pth", tmp_path / "hub" / "checkpoints"
    torch.save({f"lin{i}.model.1.weight": s.square().reshape(1, -1, 1, 1) for i, s in enumerate(lpips.scales)}, linear)
    with pytest.raises(UserInputError, match=r"needs torchvision's weights of squeezenet1_1.*fetch https://.*\.pth"):
        load_lpips(linear, "squeezenet1_1")
    folder.mkdir(parents=True)
    state = {f"features.{name}": tensor for name, tensor in lpips.layers.state_dict().items()}
    torch.save(state | {"classifier.1.bias": torch.zeros(3)}, folder / "squeezenet1_1-b8a52dc0.pth")
    found = load_lpips(linear, "squeezenet1_1")
    images = draw(1, 3, 40, 40)
    for x, y in zip(found(images), lpips(images), strict=True):
        torch.testing.assert_close(x, y)
    with pytest.raises(UserInputError, match="unknown network 'resnet'"):
        load_lpips(linear, "resnet")
    with pytest.raises(CheckpointError, match="does not hold the weights of alexnet"):
        load_lpips(linear, "alexnet", folder / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(CheckpointError, match="does not hold LPIPS's linear layers"):
        load_lpips(folder / "squeezenet1_1-b8a52dc0.pth", "squeezenet1_1")
    with pytest.raises(CheckpointError, match="do not fit a network"):
        Lpips("squeezenet1_1", lpips.layers, [torch.ones(3)] * 7)
    linear.write_bytes(b"no file of torch")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_lpips(linear, "squeezenet1_1")
