"""Inversion: it finds what the generator can say, image by image, and reports quality honestly."""

import math

import numpy as np
import pytest
import torch

from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import Inverter, UserInputError
from ganaug.inversion import EncoderInverter, LatentEncoder, OptimizationInverter, build_inverter
from ganaug.inversion.descent import Plateau
from ganaug.inversion.quality import reconstruction_quality

CHANNELS = (6, 8, 8)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleGAN2(StyleGAN2Config(16, 12, 10, 2, (8, 8, 8))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def features() -> PerceptualFeatures:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PerceptualFeatures(CHANNELS, 16).eval()


@pytest.fixture(scope="module")
def encoder(generator: StyleGAN2) -> LatentEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return LatentEncoder(CHANNELS, *generator.latent_spec.shape).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(generator: StyleGAN2) -> torch.Tensor:
    z = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
    return generator.synthesis(generator.mapping(z)).clamp(-1, 1)


@pytest.mark.parametrize("kind", ["optimization", "encoder", "hybrid"])
def test_contract(kind: str, generator: StyleGAN2, features: PerceptualFeatures, encoder: LatentEncoder) -> None:
    inverter: Inverter
    if kind == "encoder":
        inverter = EncoderInverter(generator, encoder)
    else:
        inverter = OptimizationInverter(generator, features, encoder if kind == "hybrid" else None, steps=3)
    assert isinstance(inverter, Inverter)
    assert inverter.name == kind == inverter.settings["name"]
    found = inverter.invert(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert found.w_plus.shape == (3, *generator.latent_spec.shape)
    assert not found.w_plus.requires_grad
    assert all(v.shape == (3,) and torch.isfinite(v).all() for v in found.quality.values())
    steps = () if kind == "encoder" else ("steps", "seconds")
    assert tuple(found.quality) == inverter.quality_names == ("mse", "psnr", "ssim", *steps)


def test_reaches_what_the_generator_can_say(generator: StyleGAN2, photos: torch.Tensor) -> None:
    inverter = OptimizationInverter(generator, steps=150, prior_weight=0.0)
    start = reconstruction_quality(generator.synthesis(generator.w_avg.expand(4, 6, -1)), photos)["mse"]
    found = inverter.invert(photos)
    assert (found.quality["mse"] < 0.2 * start).all()
    again = generator.synthesis(found.w_plus)
    torch.testing.assert_close(found.quality["mse"], reconstruction_quality(again, photos)["mse"])


def test_w_space_has_equal_rows(generator: StyleGAN2, photos: torch.Tensor) -> None:
    found = OptimizationInverter(generator, space="w", steps=5).invert(photos)
    assert torch.equal(found.w_plus, found.w_plus[:, :1].expand_as(found.w_plus))
    plus = OptimizationInverter(generator, space="w_plus", steps=5).invert(photos)
    assert not torch.equal(plus.w_plus, plus.w_plus[:, :1].expand_as(plus.w_plus))


def test_noise_maps_fixed_none_or_optimised(generator: StyleGAN2, photos: torch.Tensor) -> None:
    grainy = (photos + 0.1 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(3))).clamp(-1, 1)
    const, none, found = (
        OptimizationInverter(generator, steps=60, noise=noise) for noise in ("const", "none", "optimized")
    )
    assert const.delta is none.delta is None
    silent = none.invert(grainy)
    mse = reconstruction_quality(generator.synthesis(silent.w_plus, noise="none"), grainy)["mse"]
    torch.testing.assert_close(silent.quality["mse"], mse)
    own = found.invert(grainy, 2)
    assert found.delta is not None
    assert own.delta is not None
    # A map of its own for each convolution: 4, 8, 8, 16 and 16 px.
    assert own.delta.shape == (4, 16 + 2 * 64 + 2 * 256) == (4, found.delta["size"])
    drawn = generator.synthesis(own.w_plus, delta=DeltaLayout.of(found.delta, generator).bind(own.delta))
    torch.testing.assert_close(own.quality["mse"], reconstruction_quality(drawn, grainy)["mse"])
    assert (own.quality["mse"] < 0.7 * const.invert(grainy).quality["mse"]).all()
    quiet = OptimizationInverter(generator, steps=60, noise="optimized", noise_weight=10.0).invert(grainy)
    assert quiet.delta is not None
    assert quiet.delta.norm() < 0.5 * own.delta.norm()
    assert [i.settings.get("noise") for i in (const, none, found)] == [None, "none", "optimized"]
    with pytest.raises(UserInputError, match="noise must be 'const', 'none' or 'optimized', got 'random'"):
        OptimizationInverter(generator, noise="random")  # type: ignore[arg-type]


def test_early_stop_refills_and_costs_little(generator: StyleGAN2, photos: torch.Tensor) -> None:
    full = OptimizationInverter(generator, steps=80)
    stopped = OptimizationInverter(generator, steps=80, plateau=Plateau(5, 0.05))
    assert (full.refills, stopped.refills) == (False, True)
    assert "patience" not in full.settings
    assert (stopped.settings["patience"], stopped.settings["tolerance"]) == (5, 0.05)
    a, b = full.invert(photos), stopped.invert(photos, 2)
    assert a.quality["steps"].tolist() == [80.0] * 4
    assert 30 < b.quality["steps"].mean() < 80
    assert b.quality["psnr"].mean() > a.quality["psnr"].mean() - 1.5
    assert (b.quality["seconds"] > 0).all()


def test_prior_pulls_towards_the_mean(generator: StyleGAN2, photos: torch.Tensor) -> None:
    away = [
        (OptimizationInverter(generator, steps=60, prior_weight=p).invert(photos).w_plus - generator.w_avg).norm()
        for p in (0.0, 1.0)
    ]
    assert away[1] < 0.7 * away[0]


def test_perceptual_loss_lowers_the_perceptual_distance(
    generator: StyleGAN2, features: PerceptualFeatures, photos: torch.Tensor
) -> None:
    def distance(weight: float) -> float:
        found = OptimizationInverter(generator, features, steps=40, feature_weight=weight, pixel_weight=0.05)
        made = generator.synthesis(found.invert(photos).w_plus)
        return float(feature_distance(features(made), features(photos)).mean())

    assert distance(5.0) < distance(0.0)


def test_one_bad_image_harms_only_itself(
    generator: StyleGAN2, features: PerceptualFeatures, photos: torch.Tensor
) -> None:
    inverter = OptimizationInverter(generator, features, steps=10)
    bad = photos.clone()
    bad[1] = float("nan")
    alone, beside = inverter.invert(photos), inverter.invert(bad)
    good = [0, 2, 3]
    assert torch.equal(alone.w_plus[good], beside.w_plus[good])
    assert not torch.isfinite(beside.w_plus[1]).all()
    assert math.isnan(beside.quality["mse"][1])
    assert torch.isfinite(beside.quality["mse"][good]).all()


def test_batch_does_not_matter(generator: StyleGAN2, features: PerceptualFeatures, photos: torch.Tensor) -> None:
    inverter = OptimizationInverter(generator, features, steps=10)
    together = inverter.invert(photos).w_plus
    apart = torch.cat([inverter.invert(photo[None]).w_plus for photo in photos])
    # A convolution of another batch size may round differently; ten steps of Adam amplify that a little.
    torch.testing.assert_close(together, apart, rtol=1e-2, atol=1e-2)


def test_quality_equals_naive_formulas() -> None:
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.uniform(-1, 1, (2, 3, 24, 24)).astype(np.float32)) for _ in range(2))
    quality = reconstruction_quality(x, y)
    a, b = x.double().numpy() / 2 + 0.5, y.double().numpy() / 2 + 0.5
    mse = ((a - b) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(quality["mse"], mse, rtol=1e-5)
    np.testing.assert_allclose(quality["psnr"], 10 * np.log10(1 / mse), rtol=1e-5)
    # Structural similarity (Wang et al. 2004, equation 13), 11x11 Gaussian window of sigma 1.5, valid part only.
    t = np.arange(11) - 5
    g = np.exp(-(t**2) / (2 * 1.5**2))
    window = np.outer(g, g) / g.sum() ** 2
    for sample in range(2):
        values = []
        for channel in range(3):
            for top in range(24 - 10):
                for left in range(24 - 10):
                    p = a[sample, channel, top : top + 11, left : left + 11]
                    q = b[sample, channel, top : top + 11, left : left + 11]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                    cov = (window * p * q).sum() - mp * mq
                    c1, c2 = 0.01**2, 0.03**2
                    top_part = (2 * mp * mq + c1) * (2 * cov + c2)
                    values.append(top_part / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        assert quality["ssim"][sample] == pytest.approx(np.mean(values), abs=1e-4)
    assert reconstruction_quality(x, x)["psnr"].tolist() == [60.0, 60.0]
    assert reconstruction_quality(x, x)["ssim"].tolist() == pytest.approx([1.0, 1.0])


def test_feature_distance_equals_naive_loop() -> None:
    a, b = ([torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)] for _ in range(2))
    expected = torch.zeros(2)
    for x, y in zip(a, b, strict=True):
        for sample in range(2):
            total = 0.0
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    p, q = x[sample, :, i, j], y[sample, :, i, j]
                    total += float((p / p.norm() - q / q.norm()).square().sum())
            expected[sample] += total / (x.shape[2] * x.shape[3]) / 2
    torch.testing.assert_close(feature_distance(a, b), expected)
    torch.testing.assert_close(feature_distance(a, a), torch.zeros(2), atol=1e-6, rtol=0)


def test_bad_arguments(generator: StyleGAN2) -> None:
    with pytest.raises(UserInputError, match="steps must be at least 1"):
        OptimizationInverter(generator, steps=0)
    with pytest.raises(UserInputError, match="space must be"):
        OptimizationInverter(generator, space="z")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, 16, 16\)"):
        OptimizationInverter(generator).invert(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserInputError, match="unknown inverter 'magic'"):
        build_inverter("magic", generator, "faces64", torch.device("cpu"), 1)
