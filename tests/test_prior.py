"""The Gaussian over codes that goes into a model file."""

import numpy as np
import pytest
import torch
from training_helpers import chips

from ganaug.generators import LatentPrior
from ganaug.training.data import RealImages, to_images
from ganaug.training.prior import fit_prior


def test_prior_equals_numpy() -> None:
    codes = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.tensor([3.0, 1.0, 0.2])
    )
    prior = LatentPrior.fit(codes, num_components=4)
    flat = codes.flatten(1).double().numpy()
    _, singular, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(prior.std, singular[:4] / np.sqrt(39), rtol=1e-4)
    cosines = (prior.components.flatten(1).double().numpy() * rows[:4]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, rtol=1e-4)
    drawn = prior.sample(20000, torch.Generator().manual_seed(1)).flatten(1).double()
    kept = rows[:4].T @ np.diag(singular[:4] ** 2 / 39) @ rows[:4]
    np.testing.assert_allclose(np.cov(drawn.numpy().T), kept, atol=0.03 * kept.max())
    np.testing.assert_allclose(drawn.mean(dim=0), flat.mean(axis=0), atol=0.1)
    still = prior.sample(2, torch.Generator().manual_seed(1), truncation_psi=0.0)
    torch.testing.assert_close(still, prior.mean.expand(2, -1, -1))
    assert LatentPrior.fit(codes[:3]).std.shape == (2,)
    whitened = (drawn.numpy() - flat.mean(axis=0)) @ rows[:4].T / (singular[:4] / np.sqrt(39))
    distance = prior.distance(drawn.float().unflatten(1, (2, 3)))
    np.testing.assert_allclose(distance, np.sqrt((whitened**2).mean(axis=1)), rtol=1e-3)
    assert float(distance.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_prior_of_a_run_is_fitted_to_its_training_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are trained on, as they are (not mirrored), a part at a time."""
    monkeypatch.setattr("ganaug.training.prior.ENCODED_AT_ONCE", 3)
    images, members = chips(12), np.array([0, 2, 3, 5, 7, 8, 10, 11])
    sizes = []

    def encode(photos: torch.Tensor) -> torch.Tensor:
        sizes.append(len(photos))
        return photos[:, :, :2, 0]  # (B, 3, 2)

    found = fit_prior(encode, RealImages(images, 0, members), limit=100)
    expected = LatentPrior.fit(to_images(images[members])[:, :, :2, 0])
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name].abs(), value.abs(), rtol=1e-4, atol=1e-5)
    assert max(sizes) <= 3 and sum(sizes) == len(members)


def test_prior_of_some_photos_is_that_of_a_sorted_folder() -> None:
    """A tenth of photos that are sorted by brightness are not the darkest ones."""
    images = (np.arange(250, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)).copy()
    seen = []

    def encode(photos: torch.Tensor) -> torch.Tensor:
        seen.extend(((photos[:, 0, 0, 0] + 1) * 127.5).round().int().tolist())
        return photos[:, :, :2, 0]

    fit_prior(encode, RealImages(images, 0), limit=25)
    assert len(set(seen)) == 25
    assert abs(np.mean(seen) - 124.5) < 3 * 72 / 5  # three standard errors; the darkest 25 have a mean of 12
