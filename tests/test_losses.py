"""Adversarial losses and their regularisers, against closed forms and finite differences."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ganaug.training import losses
from ganaug.training.discriminator import Discriminator, minibatch_stddev

REAL, FAKE = [2.0, -1.0, 0.5], [0.25, -3.0, 40.0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def curved_critic(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """``tanh(x A) b``: slopes differ from image to image."""
    return lambda x: torch.tanh(x.flatten(1) @ normal(12, 5, seed=1)) @ weight


def test_non_saturating_by_hand() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    expected = sum(softplus(y) for y in FAKE) / 3 + sum(softplus(-y) for y in REAL) / 3
    assert float(losses.discriminator_loss(real, fake, "non-saturating")) == pytest.approx(expected)
    expected = sum(softplus(-y) for y in FAKE) / 3
    assert float(losses.generator_loss(fake, "non-saturating")) == pytest.approx(expected)


def test_non_saturating_gradient_is_strong_where_the_generator_is_bad() -> None:
    """-log D: slope -sigmoid(-y), near -1 for images that are recognised; log(1 - D) would have none there."""
    fake = torch.tensor([-20.0, 0.0, 20.0], requires_grad=True)
    losses.generator_loss(fake, "non-saturating").backward()
    torch.testing.assert_close(fake.grad, torch.tensor([-1.0, -0.5, 0.0]) / 3)


def test_wgan_with_drift_by_hand() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    expected = sum(FAKE) / 3 - sum(REAL) / 3 + 0.001 * sum(y * y for y in REAL) / 3
    assert float(losses.discriminator_loss(real, fake, "wgan-gp")) == pytest.approx(expected)
    assert float(losses.generator_loss(fake, "wgan-gp")) == pytest.approx(-sum(FAKE) / 3)


def test_r1_equals_finite_differences() -> None:
    weight, images, step = normal(5), normal(4, 3, 2, 2), 1e-5
    critic = curved_critic(weight)

    def by_differences(w: Tensor) -> float:
        total = 0.0
        for pixel in range(12):
            move = torch.zeros(12, dtype=torch.float64)
            move[pixel] = step
            sides = [curved_critic(w)(images + sign * move.view(3, 2, 2)) for sign in (1, -1)]
            total += float(((sides[0] - sides[1]) / (2 * step)).square().sum())
        return total / len(images)

    weight.requires_grad_(True)
    penalty = losses.r1_penalty(critic, images)
    assert penalty.item() == pytest.approx(by_differences(weight.detach()), rel=1e-6)
    penalty.backward()  # what trains the critic: the derivative of the penalty
    for k in range(5):
        move = torch.zeros(5, dtype=torch.float64)
        move[k] = 1e-4
        slope = (by_differences(weight.detach() + move) - by_differences(weight.detach() - move)) / 2e-4
        assert float(weight.grad[k]) == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert not images.requires_grad


def test_r1_of_a_discriminator() -> None:
    """Through all of its layers, the statistic over the batch included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator((4, 4, 4)).double()
    images, direction, step = normal(2, 3, 16, 16, seed=2), normal(2, 3, 16, 16, seed=3), 1e-5
    found: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        found.append(x)
        return discriminator(x)[0]

    penalty = losses.r1_penalty(critic, images)
    (gradient,) = torch.autograd.grad(discriminator(found[0])[0].sum(), found[0])
    sides = [discriminator(images + sign * step * direction)[0].sum() for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx((sides[0] - sides[1]).item() / (2 * step), rel=1e-5)
    expected = np.square(gradient.numpy()).reshape(2, -1).sum(axis=1).mean()
    assert penalty.item() == pytest.approx(expected, rel=1e-9)


def test_slope_penalty_of_a_linear_critic() -> None:
    """f(x) = a . x has slope a everywhere: (|a| - 1)^2."""
    for length in (0.0, 0.25, 1.0, 3.0):
        a = normal(12)
        a = a / a.norm() * length
        penalty = losses.slope_penalty(
            lambda x, a=a: x.flatten(1) @ a,
            normal(4, 3, 2, 2, seed=1),
            normal(4, 3, 2, 2, seed=2),
            torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64),
        )
        assert float(penalty) == pytest.approx((length - 1) ** 2, abs=1e-5)


def test_slope_penalty_looks_between_the_images() -> None:
    """f(x) = |x|^2 / 2 has slope x: the penalty tells where it was taken."""
    real, fake = normal(3, 3, 2, 2, seed=1), normal(3, 3, 2, 2, seed=2).requires_grad_(True)
    mix = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    penalty = losses.slope_penalty(lambda x: x.square().sum(dim=(1, 2, 3)) / 2, real, fake, mix)
    share = mix.numpy()[:, None]
    points = real.flatten(1).numpy() * (1 - share) + fake.detach().flatten(1).numpy() * share
    assert penalty.item() == pytest.approx(np.square(np.linalg.norm(points, axis=1) - 1).mean(), rel=1e-9)
    assert losses.slope_penalty(lambda x: x.sum(dim=(1, 2, 3)) * 0.0, real, fake, mix).isfinite()


def test_slope_penalty_leaves_the_generator_alone() -> None:
    weight, fake = normal(5).requires_grad_(True), normal(3, 3, 2, 2).requires_grad_(True)
    losses.slope_penalty(curved_critic(weight), normal(3, 3, 2, 2, seed=5), fake, torch.rand(3).double()).backward()
    assert fake.grad is None and weight.grad.abs().min() > 0


def test_path_lengths_of_a_linear_map() -> None:
    """images = J w: the gradient is J^T y, per row of w; its squared lengths are averaged over the rows."""
    jacobian, w_plus = normal(4 * 6, 3 * 5 * 5).requires_grad_(True), normal(2, 4, 6, seed=1).requires_grad_(True)
    noise = normal(2, 3, 5, 5, seed=2)
    lengths = losses.path_lengths((w_plus.flatten(1) @ jacobian).view(2, 3, 5, 5), w_plus, noise)
    for row in range(2):
        gradient = jacobian.detach().numpy() @ noise[row].numpy().ravel() / 5.0
        expected = math.sqrt(np.square(gradient.reshape(4, 6)).sum(axis=1).mean())
        assert lengths[row].item() == pytest.approx(expected, rel=1e-9)
    lengths.sum().backward()  # the penalty trains what made the images
    # d|J^T y|/dJ = (J^T y) y^T / |J^T y|, summed over the images.
    expected_gradient = np.zeros_like(jacobian.detach().numpy())
    for row in range(2):
        y = noise[row].numpy().ravel() / 5.0
        projected = jacobian.detach().numpy() @ y
        expected_gradient += np.outer(projected, y) / 4 / lengths[row].item()
    np.testing.assert_allclose(jacobian.grad.numpy(), expected_gradient, rtol=1e-9)


def test_minibatch_stddev_equals_naive_loop() -> None:
    x = torch.randn(8, 3, 2, 2)
    y = minibatch_stddev(x, group_size=4)
    assert torch.equal(y[:, :3], x)
    for m in range(2):  # groups are strided: samples m, m + 2, m + 4, m + 6
        group = x[m::2]
        deviation = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(y[m::2, 3], deviation.expand(4, 2, 2))
    assert minibatch_stddev(torch.randn(3, 2, 4, 4)).shape == (3, 3, 4, 4)
    assert minibatch_stddev(torch.randn(1, 2, 4, 4))[0, 2].abs().max() < 1e-3
