"""Edits: closed forms, and one contract over every registry entry."""

import math
import pickle

import numpy as np
import pytest
import torch

from ganaug.edits import EDITS, ROW_RANGES, Direction, StyleMixing, build_edits, principal_components, rows_of
from ganaug.edits.parts import PART_TOUCHES
from ganaug.generators import VAE, LatentPrior, StyleGAN2, StyleGAN2Config, VAEConfig
from ganaug.generators.semantic import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, UserInputError


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleGAN2(StyleGAN2Config(16, 12, 10, 2, (6, 6, 6))).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def generator_of_parts() -> SemanticStyleGAN:
    return SemanticStyleGAN(SemanticStyleGANConfig(16, 10, 2, 13, 3, 1, 2, 4, 8, 6, (6, 6)))


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", EDITS)
def test_contract(name: str, fresh: bool, generator: StyleGAN2, generator_of_parts: SemanticStyleGAN) -> None:
    made_for = generator_of_parts if name.removeprefix("jitter_") in PART_TOUCHES else generator
    (edit,) = build_edits([name], made_for)
    if not fresh:
        edit = pickle.loads(pickle.dumps(edit))
    assert isinstance(edit, Edit)
    assert edit.name == name
    assert edit.touches, "an edit that touches nothing is no edit"
    uniforms = torch.rand(5, NUM_EDIT_UNIFORMS, dtype=torch.float64)
    params = edit.sample_params(uniforms)
    assert all(len(value) == 5 for value in params.values())
    again = edit.sample_params(uniforms[2:3])
    assert all(torch.equal(params[k][2:3], again[k]) for k in params), "a row depends on its own numbers alone"
    if edit.needs_partner:
        params["partner"] = torch.randn(5, *made_for.latent_spec.shape)
    w_plus = torch.randn(5, *made_for.latent_spec.shape)
    before = w_plus.clone()
    edited = edit.apply(w_plus, params)
    assert torch.equal(w_plus, before), "edits are pure"
    assert edited.shape == w_plus.shape
    assert torch.equal(edited, edit.apply(w_plus, params))
    row = edit.apply(w_plus[1:2], {k: v[1:2] for k, v in params.items()})
    assert torch.equal(edited[1:2], row), "a row depends on its own latents alone"
    still = edit.apply(w_plus, {**params, "strength": torch.zeros(5)})
    assert torch.equal(still, w_plus), "strength 0 changes nothing"


def test_style_mixing_by_hand() -> None:
    edit = StyleMixing("some", rows=[0, 2], touches={"hair"})
    w, partner = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    strength = np.array([0.25, 1.0], np.float32)
    expected = w.copy()
    for b in range(2):
        for row in (0, 2):
            expected[b, row] = (1 - strength[b]) * w[b, row] + strength[b] * partner[b, row]
    params = {"partner": torch.from_numpy(partner), "strength": torch.from_numpy(strength)}
    np.testing.assert_allclose(edit.apply(torch.from_numpy(w), params), expected, rtol=1e-5)


def test_style_mixing_strength_range() -> None:
    edit = StyleMixing("some", rows=[0], touches={"hair"}, strength=(0.2, 0.6))
    uniforms = torch.zeros(3, NUM_EDIT_UNIFORMS)
    uniforms[:, 0] = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(edit.sample_params(uniforms)["strength"], torch.tensor([0.2, 0.4, 0.6]))


def test_direction_moves_by_standard_deviations() -> None:
    direction = torch.tensor([3.0, 4.0])  # length 5
    edit = Direction("d", direction, std=0.5, rows=[1], touches={"age"}, strength=(1.0, 3.0))
    moved = edit.apply(torch.zeros(1, 2, 2), {"strength": torch.tensor([2.0])})
    torch.testing.assert_close(moved[0], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    uniforms = torch.zeros(2, NUM_EDIT_UNIFORMS)
    uniforms[:, 0], uniforms[:, 1] = 0.5, torch.tensor([0.1, 0.9])
    torch.testing.assert_close(edit.sample_params(uniforms)["strength"], torch.tensor([-2.0, 2.0]))


def test_direction_of_no_length_is_refused() -> None:
    with pytest.raises(UserInputError, match="non-zero length"):
        Direction("d", torch.zeros(4), 1.0, [0], {"age"})
    with pytest.raises(UserInputError, match=r"\(D,\) or \(L, D\)"):
        Direction("d", torch.ones(2, 4, 1), 1.0, [0], {"age"})


def test_direction_of_its_own_per_row() -> None:
    direction = torch.arange(6.0).reshape(3, 2)
    edit = Direction("d", direction, 2.0, [1, 2], {"age"})
    moved = edit.apply(torch.zeros(2, 3, 2), {"strength": torch.tensor([1.0, -0.5])})
    unit = direction / math.sqrt(sum(i * i for i in range(6)))
    expected = torch.stack([torch.zeros(2), 2.0 * unit[1], 2.0 * unit[2]])
    torch.testing.assert_close(moved, torch.stack([expected, -0.5 * expected]))


def test_components_of_a_generator_whose_rows_differ() -> None:
    vae = VAE(VAEConfig(16, 4, (8, 8, 8))).eval().requires_grad_(False)
    prior = LatentPrior.fit(torch.randn(40, 6, 4, generator=torch.Generator().manual_seed(0)))
    vae.set_prior(prior)
    found = principal_components(vae, num_components=3, num_samples=4000)
    assert found.components.shape == (3, 6, 4)
    torch.testing.assert_close(found.std, prior.std[:3], rtol=0.1, atol=0.0)
    (edit,) = build_edits(["pca1"], vae)
    moved = edit.apply(torch.zeros(1, 6, 4), {"strength": torch.ones(1)})
    assert moved.abs().sum() > 0


def test_directions_are_those_of_photos_where_the_generator_knows_some() -> None:
    generator = StyleGAN2(StyleGAN2Config(16, 4, 4, 2, (4, 4, 4))).eval().requires_grad_(False)
    generator.prior = LatentPrior.fit(torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0)), 2)
    found = principal_components(generator, num_components=3)
    assert found.components.shape == (2, 6, 4) and torch.equal(found.std, generator.prior.std)
    np.testing.assert_allclose(found.components.abs(), generator.prior.components.abs())
    flat = found.components.flatten(1)
    assert (flat.gather(1, flat.abs().argmax(dim=1, keepdim=True)) > 0).all()
    (edit,) = build_edits(["pca1"], generator)
    moved = edit.apply(torch.zeros(1, 6, 4), {"strength": torch.ones(1)})
    torch.testing.assert_close(moved[0], found.components[1] * found.std[1])
    with pytest.raises(UserInputError, match="2 principal directions, so there is no pca2"):
        build_edits(["pca2"], generator)


def test_principal_components_equal_numpy(generator: StyleGAN2) -> None:
    found = principal_components(generator, num_components=4, num_samples=500, seed=3)
    z = torch.randn(500, 12, generator=torch.Generator().manual_seed(3))
    w = generator.mapping(z)[:, 0].double().numpy()
    _, singular, rows = np.linalg.svd(w - w.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.std, singular[:4] / np.sqrt(499), rtol=1e-5)
    np.testing.assert_allclose(np.abs((found.components.double().numpy() * rows[:4]).sum(axis=1)), 1.0, rtol=1e-5)
    again = principal_components(generator, num_components=4, num_samples=500, seed=3)
    assert torch.equal(found.components, again.components)
    largest = found.components.abs().argmax(dim=1, keepdim=True)
    assert (found.components.gather(1, largest) > 0).all()


@pytest.mark.parametrize("num_ws", [4, 6, 8, 10, 12, 14, 16, 18])
def test_row_ranges_cover_every_row_once(num_ws: int) -> None:
    rows = [row for name in ROW_RANGES for row in rows_of(name, num_ws)]
    assert rows == list(range(num_ws))


def test_build_edits_refuses(generator: StyleGAN2) -> None:
    with pytest.raises(UserInputError, match="unknown edit 'beard'"):
        build_edits(["beard"], generator)
    with pytest.raises(UserInputError, match="more than once: fine"):
        build_edits(["fine", "fine"], generator)
    with pytest.raises(UserInputError, match="got int"):
        build_edits([3], generator)  # type: ignore[list-item]
