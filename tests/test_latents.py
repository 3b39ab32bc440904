"""Random latents of conditional and unconditional generators, and what is built on them."""

import math

import numpy as np
import pytest
import torch

from ganaug.edits import build_edits
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.inversion.optimization import OptimizationInverter
from ganaug.latents import draw_condition, draw_latents, principal_axes

CONDITIONAL = StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), c_dim=5, label_sizes=(2, 3))


def build(config: StyleGAN2Config) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleGAN2(config).eval().requires_grad_(False)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_labels_are_one_hot_and_even() -> None:
    c = draw_condition(build(CONDITIONAL), 6000, rng())
    assert c is not None
    assert torch.equal(c[:, :2].sum(dim=1), torch.ones(6000))
    assert torch.equal(c[:, 2:].sum(dim=1), torch.ones(6000))
    for share, p in zip(c.mean(dim=0).tolist(), (1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3), strict=True):
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 6000)


def test_one_label_when_sizes_are_not_said() -> None:
    c = draw_condition(build(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), c_dim=4)), 50, rng())
    assert c is not None
    assert torch.equal(c.sum(dim=1), torch.ones(50))
    with pytest.raises(ValueError, match="must add up to c_dim, 5"):
        StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), c_dim=5, label_sizes=(2, 2))


def test_unconditional_latents_are_the_mapping_of_z() -> None:
    generator = build(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8)))
    assert draw_condition(generator, 3, rng()) is None
    expected = generator.mapping(torch.randn(3, 8, generator=rng()))
    torch.testing.assert_close(draw_latents(generator, 3, rng()), expected)


def test_inversion_and_edits_work_on_a_conditional_generator() -> None:
    generator = build(CONDITIONAL)
    images = generator.synthesis(draw_latents(generator, 2, rng()))
    found = OptimizationInverter(generator, steps=3).invert(images)
    assert found.w_plus.shape == (2, *generator.latent_spec.shape)
    (edit,) = build_edits(["pca1"], generator)
    moved = edit.apply(found.w_plus, edit.sample_params(torch.full((2, 16), 0.9)))
    assert not torch.equal(moved, found.w_plus)


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_principal_axes_equal_numpy(shape: tuple[int, int]) -> None:
    codes = np.random.default_rng(0).normal(size=shape) @ np.diag(np.linspace(3, 0.5, shape[1]))
    mean, axes, std = principal_axes(torch.from_numpy(codes), 4)
    _, singular, rows = np.linalg.svd(codes - codes.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, codes.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, singular[:4] / np.sqrt(shape[0] - 1), rtol=1e-5)
    np.testing.assert_allclose(np.abs((axes.numpy() * rows[:4]).sum(axis=1)), 1.0, rtol=1e-5)
    assert len(principal_axes(torch.from_numpy(codes[:4]), 10)[2]) == 3
