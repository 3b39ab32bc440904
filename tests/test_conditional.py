"""Conditional networks: projection in the discriminator, gradients, w_avg; frozen blocks."""

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from ganaug.errors import UserInputError
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.training.discriminator import Discriminator

CHANNELS = (4, 6, 8)  # at 16, 8 and 4 px


def seeded(c_dim: int, channels: tuple[int, ...] = CHANNELS) -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator(channels, c_dim)
        for parameter in discriminator.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return discriminator


def test_projection_by_hand() -> None:
    """Logit = image features . direction(c) / sqrt(M), one number at a time; M = 8."""
    discriminator = seeded(3).requires_grad_(False)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    c = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]])
    seen = []
    hook = discriminator.out.register_forward_hook(lambda _, __, features: seen.append(features))
    logits, maps = discriminator(images, c)
    hook.remove()
    condition = discriminator.condition
    for row in range(4):
        column = int(c[row].argmax())
        x = condition.embed.weight[:, column] / math.sqrt(3) + condition.embed.bias
        x = x / math.sqrt(float(x.square().sum()) / 8)
        for layer in (condition.fc0, condition.fc1):
            y = [
                sum(float(layer.weight[o, i] * x[i]) for i in range(8)) * 0.01 / math.sqrt(8) + layer.bias[o] * 0.01
                for o in range(8)
            ]
            x = torch.tensor([v * math.sqrt(2) * (1.0 if v > 0 else 0.2) for v in y])
        expected = sum(float(seen[0][row, k] * x[k]) for k in range(8)) / math.sqrt(8)
        assert float(logits[row]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert abs(expected) > 1e-4
    assert [m.shape[2] for m in maps] == [8, 4]
    moved, _ = discriminator(images, c.roll(1, 0))
    assert not torch.allclose(moved, logits)


def test_unconditional_discriminator_is_as_before() -> None:
    discriminator = seeded(0)
    names = {name for name, _ in discriminator.named_parameters()}
    assert {name.partition(".")[0] for name in names} == {"trunk", "conv", "fc", "out"}
    assert discriminator.out.weight.shape == (1, 8)
    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="unconditional: c must be None"):
        discriminator(images, torch.zeros(2, 3))
    for c in (None, torch.zeros(2, 4), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"expected c of shape \(2, 3\)"):
            seeded(3)(images, c)


def test_gradient_reaches_every_weight() -> None:
    """Through generator and discriminator, also into the column of each class that is in the batch, and no other."""
    generator = StyleGAN2(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), c_dim=4))
    discriminator = seeded(4)
    c = F.one_hot(torch.tensor([0, 2, 2]), 4)
    images = generator.synthesis(generator.mapping(torch.randn(3, 8), c), noise="random")
    discriminator(images, c)[0].sum().backward()
    for network in (generator, discriminator):
        without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert not without
    for embed in (generator.map_network.embed, discriminator.condition.embed):
        assert (embed.weight.grad.abs().amax(dim=0) > 0).tolist() == [True, False, True, False]


def test_class_can_be_learnt() -> None:
    """A few steps tell images of one class from those of the other by the condition alone."""
    discriminator = seeded(2, (6, 6))
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01, betas=(0.0, 0.99))
    bright = torch.ones(4, 3, 8, 8) * torch.tensor([0.5, 0.5, -0.5, -0.5])[:, None, None, None]
    right = F.one_hot(torch.tensor([0, 0, 1, 1]), 2)
    for _ in range(25):
        real, _ = discriminator(bright, right)
        fake, _ = discriminator(bright, right.flip(1))  # the same images under the other label
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 < 2 * math.log(2)


def test_w_avg_is_a_mean_over_conditions() -> None:
    """Truncation to 0 is the same face for every condition."""
    generator = StyleGAN2(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), c_dim=2)).eval().requires_grad_(False)
    z, c = torch.randn(512, 8), torch.eye(2).repeat(256, 1)
    generator.w_avg.copy_(generator.mapping(z, c)[:, 0].mean(dim=0))
    by_class = [generator.mapping(z[k::2], c[k::2])[:, 0].mean(dim=0) for k in range(2)]
    assert (by_class[0] - by_class[1]).norm() > 0.1 * by_class[0].norm()
    torch.testing.assert_close(generator.w_avg, (by_class[0] + by_class[1]) / 2)
    still = generator.mapping(z[:2], c[:2], truncation_psi=0.0)
    torch.testing.assert_close(still, generator.w_avg.expand(2, 6, -1))


def test_discriminator_pickles() -> None:
    discriminator = seeded(3)
    images, c = torch.randn(3, 3, 16, 16), torch.eye(3)
    assert torch.equal(pickle.loads(pickle.dumps(discriminator))(images, c)[0], discriminator(images, c)[0])


def test_frozen_blocks_do_not_learn() -> None:
    discriminator = seeded(3)
    discriminator.freeze(1)
    before = {name: p.detach().clone() for name, p in discriminator.named_parameters()}
    optimizer = torch.optim.Adam([p for p in discriminator.parameters() if p.requires_grad])
    discriminator(torch.randn(3, 3, 16, 16), torch.eye(3))[0].sum().backward()
    optimizer.step()
    for name, p in discriminator.named_parameters():
        assert torch.equal(p, before[name]) is name.startswith(("trunk.fromrgb", "trunk.blocks.0")), name
    everything = seeded(0)
    everything.freeze(0)
    assert all(p.requires_grad for p in everything.parameters())
    for count in (-1, 3):
        with pytest.raises(UserInputError, match=f"freeze_d must lie in 0 to 2.* got {count}"):
            everything.freeze(count)
