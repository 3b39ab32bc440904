"""A step of the GAN trainer: gradients, draws, averages, the adaptive p, and what happens when numbers are lost."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training_helpers import BUSY, CPU, TINY, trainer, weights

from ganaug.features import feature_distance
from ganaug.training.config import TrainConfig
from ganaug.training.gan import GANTrainer
from ganaug.training.parallel import keyed_generator

STILL = replace(TINY, augment_p=0.0, ada_target=None)  # what the discriminator sees is not augmented


def gradients_of_a_step(t: GANTrainer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor | None]]:
    """All gradients when the discriminator would have been stepped, and when the generator would have been."""
    seen: list[dict[str, Tensor | None]] = []

    def record(_: torch.optim.Adam) -> None:
        named = ((f"{m}.{k}", p) for m, module in t.state.modules().items() for k, p in module.named_parameters())
        seen.append({name: None if p.grad is None else p.grad.clone() for name, p in named})

    monkeypatch.setattr(t, "_apply", record)
    t.step()
    return seen


def naive_losses(t: GANTrainer) -> tuple[Tensor, Tensor, dict[str, torch.nn.Module]]:
    """Losses of the first step, written from the papers, on copies of the networks: nothing detached or shared."""
    config, names = t.config, ("generator", "discriminator", "encoder")
    networks = {name: copy.deepcopy(t.state.modules()[name]) for name in names}
    generator, discriminator, encoder = (networks[name] for name in names)
    real, rng = t.images.batch(0, 4), keyed_generator(CPU, config.seed, 0, 0, "generate")
    first, second = torch.randn(2, 2, config.z_dim, generator=rng)
    cut = torch.randint(1, 6, (2, 1), generator=rng)
    mixed = torch.rand(2, 1, generator=rng) < config.style_mixing_p
    rows = []
    for i in range(2):
        w = [generator.map_network(z[None])[0] for z in (first[i], second[i])]
        rows.append(torch.stack([w[int(bool(mixed[i]) and row >= int(cut[i]))] for row in range(6)]))
    base, offsets = encoder(real[:2])
    w_plus = torch.cat([torch.stack(rows), base[:, None] + offsets])  # the mean of W is still zero
    images = generator.synthesis_network(w_plus, "random", None, rng)
    fake_logits, maps = discriminator(images)
    real_logits, _ = discriminator(real)
    probe = real[:2].clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(probe)[0].sum(), probe, create_graph=True)
    r1 = slope.flatten(1).norm(dim=1).square().mean()
    gamma = 0.0002 * 16**2 / 4
    for_d = -F.logsigmoid(real_logits).mean() - F.logsigmoid(-fake_logits).mean()
    for_d = for_d + gamma / 2 * r1 * config.r1_interval
    pixel = F.l1_loss(images[2:], real[:2])
    feature = feature_distance([m[2:] for m in maps], discriminator.trunk(real[:2])).mean()
    found = encoder.encode(images[:2].detach(), generator)
    wanted = w_plus[:2].detach()
    spread = float(wanted[:, 0].numpy().var(axis=0).mean()) + 1e-4
    latent = F.mse_loss(found, wanted) / spread
    for_g = -F.logsigmoid(fake_logits).mean() + config.pixel_weight * pixel + config.feature_weight * feature
    for_g = for_g + config.offset_weight * offsets.square().mean() + config.latent_weight * min(latent, 10.0)
    return for_d, for_g, networks


def test_gradients_equal_the_naive_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network is trained by its own loss alone: the steps share images, and no gradient leaks between them."""
    t = trainer(STILL)
    for_d, for_g, networks = naive_losses(t)
    at_d, at_g = gradients_of_a_step(t, monkeypatch)
    expected = {}
    for loss, names in ((for_d, ("discriminator",)), (for_g, ("generator", "encoder"))):
        parameters = {f"{m}.{k}": p for m in names for k, p in networks[m].named_parameters()}
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        expected |= dict(zip(parameters, found, strict=True))
    trained = [name for name in at_g if not name.split(".")[0].endswith("_ema")]
    assert set(trained) == set(expected) and len(trained) > 60
    for name in trained:
        in_time, other = (at_d, at_g) if name.startswith("discriminator.") else (at_g, at_d)
        torch.testing.assert_close(
            in_time[name], expected[name], rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
        # Not yet there while the discriminator learns; not touched while the generator does.
        assert other[name] is None if in_time is at_g else torch.equal(other[name], in_time[name]), name
    assert all(at_g[name] is None for name in at_g if name not in trained)
    assert sum(bool(value.abs().max() > 0) for name, value in at_g.items() if name in trained) > 55


def test_networks_and_averages_move() -> None:
    t = trainer(BUSY)
    before = weights(t)
    for _ in range(4):
        figures = t.step()
    after = weights(t)
    assert not [name for name in before if torch.equal(before[name], after[name]) and "noise_const" not in name]
    assert all(value.isfinite() for value in figures.values())


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    trainer().step()
    assert torch.equal(before, torch.get_rng_state())


def test_lazy_losses_come_at_their_intervals() -> None:
    t = trainer(BUSY)
    steps = [t.step() for _ in range(7)]
    for name, interval in {
        "r1": BUSY.r1_interval,
        "path_length": BUSY.pl_interval,
        "latent": BUSY.latent_interval,
    }.items():
        assert [k for k, figures in enumerate(steps) if name in figures] == list(range(0, 7, interval))
    assert "gp" not in steps[0]
    figures = trainer(replace(BUSY, loss="wgan-gp")).step()
    assert "gp" in figures and "r1" not in figures


def test_mean_path_length_follows_slowly() -> None:
    t, mean = trainer(replace(BUSY, pl_interval=1)), 0.0
    lengths: list[float] = []
    part = t._path_length_part
    t._path_length_part = lambda *args: lengths.append(part(*args)) or lengths[-1]  # type: ignore[method-assign]
    for step in range(3):
        t.step()
        mean += 0.01 * (float(lengths[step]) - mean)
        assert float(t.state.path_mean) == pytest.approx(mean, rel=1e-5) and mean > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"reconstructed_share": 0.0},
        {"reconstructed_share": 1.0},
        {"accumulate": 4},
        {"prior_share": 1.0, "pl_weight": 2.0},
        {"with_encoder": False, "condition": ("gender", "glasses"), "pl_weight": 2.0},
    ],
)
def test_corners_of_the_settings(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """No samples, no reconstructions, parts of one image, all samples around codes."""
    monkeypatch.setattr("ganaug.training.gan_state.NUM_RECENT_CODES", 4)
    t = trainer(replace(TINY, **changes))
    for _ in range(3):
        assert all(value.isfinite() for value in t.step().values())


# Latents


def drawn_latents(config: TrainConfig, count: int, codes: np.ndarray | None = None) -> Tensor:
    t = trainer(config)
    if codes is not None:
        t.state.codes, t.state.num_codes = torch.from_numpy(codes).float(), len(codes)
    with torch.no_grad():
        return t._sample_latents(count, None, torch.Generator().manual_seed(5), config.prior_share)


def correlated_codes(count: int = 12) -> np.ndarray:
    draw = np.random.default_rng(3)
    return draw.normal(size=(count, 5)) @ draw.normal(size=(5, 48)) + draw.normal(size=48)


def test_samples_around_codes_have_their_mean_and_covariance() -> None:
    codes, count = correlated_codes(), 20000
    drawn = drawn_latents(replace(TINY, prior_share=1.0), count, codes).flatten(1).double().numpy()
    wanted = np.cov(codes.T, bias=True)
    spread = np.sqrt(np.diag(wanted))
    assert np.abs((drawn.mean(axis=0) - codes.mean(axis=0)) / spread).max() < 5 / math.sqrt(count)
    error = np.sqrt((np.outer(spread, spread) ** 2 + wanted**2) / count)  # of a Gaussian's covariance
    assert np.abs((np.cov(drawn.T, bias=True) - wanted) / error).max() < 5.5  # the largest of 1176
    assert np.linalg.matrix_rank(drawn[:100] - drawn[:100].mean(axis=0), tol=1e-3) == 5


def test_share_of_samples_around_codes() -> None:
    codes = correlated_codes()
    plain = replace(TINY, style_mixing_p=0.0)
    drawn = drawn_latents(replace(plain, prior_share=0.25), 8, codes)
    from_z = (drawn == drawn[:, :1]).all(dim=2).all(dim=1)  # all rows are one w
    assert from_z.tolist() == [True] * 6 + [False] * 2
    assert (drawn_latents(replace(plain, prior_share=0.0), 8, codes).var(dim=1) == 0).all()
    assert (drawn_latents(plain, 8).var(dim=1) < 1e-12).all(), "there are no codes yet"


def test_style_mixing() -> None:
    count = 4000
    config = replace(TINY, prior_share=0.0)
    drawn = drawn_latents(replace(config, style_mixing_p=0.3), count)
    changes = (drawn[:, 1:] != drawn[:, :-1]).any(dim=2)
    assert set(changes.sum(dim=1).tolist()) == {0, 1}
    assert abs(float(changes.any(dim=1).float().mean()) - 0.3) < 5 * math.sqrt(0.21 / count)
    by_row = changes.float().mean(dim=0)  # the row where it changes is uniform
    assert (by_row - 0.06).abs().max() < 5 * math.sqrt(0.06 * 0.94 / count)


def test_ring_keeps_the_newest_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganaug.training.gan_state.NUM_RECENT_CODES", 5)
    t = trainer()
    for start in (0, 2, 4, 6):
        assert t.state.codes_full is (start > 5)
        t._remember(torch.arange(start, start + 2.0)[:, None, None].expand(2, 6, 8))
    assert t.state.codes[:, 0].tolist() == [5.0, 6.0, 7.0, 3.0, 4.0] and (t.state.codes.var(dim=1) == 0).all()
    t.step()  # one code for each of two reconstructed photos
    assert t.state.num_codes == 10


# The adaptive p


def forced(config: TrainConfig, signs: list[float]) -> list[float]:
    """p after each step, where the discriminator's outputs are ``signs``, one a step."""
    t, judge = trainer(config), GANTrainer._judge

    def judged(images: Tensor, c: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        logits, maps = judge(t, images, c)
        return logits * 0.0 + signs[t.state.step], maps

    t._judge = judged  # type: ignore[method-assign]
    found = []
    for _ in signs:
        t.step()
        found.append(float(t.state.augment_p))
    return found


def test_p_rises_while_the_discriminator_is_sure() -> None:
    """Every second step by 8 of 200 images, up to the bound."""
    config = replace(TINY, augment_p=0.1, ada_interval=2, ada_kimg=0.2, ada_target=0.6, max_augment_p=0.17)
    assert forced(config, [1.0] * 6) == pytest.approx([0.1, 0.14, 0.14, 0.17, 0.17, 0.17])
    assert forced(config, [-1.0] * 6) == pytest.approx([0.1, 0.06, 0.06, 0.02, 0.02, 0.0], abs=1e-7)
    assert forced(replace(config, ada_target=None), [1.0] * 3) == pytest.approx([0.1] * 3)


def test_p_follows_the_mean_since_it_last_changed() -> None:
    config = replace(TINY, augment_p=0.4, ada_interval=3, ada_kimg=0.12)  # 12 of 120 images
    for target, p in ((0.3, 0.5), (0.35, 0.3)):  # signs 1, 1, -1 have mean 1/3, signs -1, -1, 1 the opposite
        assert forced(replace(config, ada_target=target), [1.0, 1.0, -1.0])[-1] == pytest.approx(p)
    assert forced(replace(config, ada_target=0.0), [1, 1, -1, -1, -1, 1])[2::3] == pytest.approx([0.5, 0.4])


# Averages and the learning rate


def test_average_is_the_textbook_one() -> None:
    t = trainer(replace(TINY, ema_rampup=1e9))
    name = "synthesis_network.b16.conv1.weight"
    averaged = t.state.generator_ema.state_dict()[name].clone()
    weight = 1 - 0.5 ** (TINY.batch_size / (TINY.ema_kimg * 1000))
    for _ in range(3):
        t.step()
        averaged += weight * (t.state.generator.state_dict()[name] - averaged)
        torch.testing.assert_close(t.state.generator_ema.state_dict()[name], averaged)


def test_average_is_quicker_at_first() -> None:
    """Half-life: a twentieth of the images shown, at least one; buffers are copied."""
    t = trainer(replace(TINY, ema_rampup=0.5))
    for encoder, name in ((False, "synthesis_network.b8.conv0.weight"), (True, "base.weight")):
        averaged, current = t.state.averaged()[encoder]
        for _ in range(2):
            before = averaged.state_dict()[name].clone()
            t.step()
            half_life = 0.5 * t.images_seen
            kept = 0.5 ** (4 / half_life)
            expected = kept * before + (1 - kept) * current.state_dict()[name]
            torch.testing.assert_close(averaged.state_dict()[name], expected)
    assert torch.equal(t.state.generator_ema.w_avg, t.state.generator.w_avg)


def test_mean_of_w_is_a_running_mean() -> None:
    t, mean = trainer(), torch.zeros(8)
    for step in range(1, 4):
        t.step()
        z = torch.randn(4, 8, generator=keyed_generator(CPU, TINY.seed, step, 0, "w_avg"))
        with torch.no_grad():
            mean = 0.998 * mean + 0.002 * t.state.generator.map_network(z).mean(dim=0)
        torch.testing.assert_close(t.state.generator.w_avg, mean)


def test_rate_reaches_the_optimisers() -> None:
    t = trainer(replace(TINY, kimg=0.016, decay_fraction=0.5))
    for factor in (1.0, 1.0, 1.0, 0.55, 0.1):  # at 0, 4, 8, 12, 16 and more images
        t.step()
        for optimizer in (t.state.g_optimizer, t.state.d_optimizer):
            assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([TINY.learning_rate * factor])


def test_reconstruction_improves() -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)[None, :, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    t = trainer(replace(TINY, pixel_weight=20.0, kimg=1.0), ramp)
    pixel = [float(t.step()["pixel"]) for _ in range(30)]
    assert np.mean(pixel[-5:]) < 0.8 * np.mean(pixel[:5])


# Lost numbers


def test_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    t, path = trainer(), tmp_path / "checkpoint.pt"
    t.step()
    t.save(path)
    kept = path.read_bytes()
    with torch.no_grad():
        t.state.generator.synthesis_network.b4.const.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite after 8 images"):
        t.step()
    with pytest.raises(FloatingPointError, match="not finite"):
        t.save(path)
    assert path.read_bytes() == kept and not path.with_suffix(".tmp").exists()
    t.load(path)
    assert t.images_seen == 4
    t.step()


def test_lost_weights_are_not_saved(tmp_path: Path) -> None:
    """A finite loss can have a gradient that is not."""
    t = trainer()
    t.step()
    with torch.no_grad():
        t.state.encoder_ema.base.bias[0] = math.inf
    with pytest.raises(FloatingPointError, match="weights are not finite after 4 images"):
        t.save(tmp_path / "checkpoint.pt")
    assert list(tmp_path.iterdir()) == []


# What it shows and ships


def test_samples_pictures_and_parts_do_not_move_the_run() -> None:
    t, alone = trainer(), trainer()
    for _ in range(2):
        t.step()
        alone.step()
        before = weights(t)
        assert torch.equal(t.samples(3, 1), t.samples(3, 1)) and not torch.equal(t.samples(3, 1), t.samples(3, 2))
        assert t.reconstruct(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 16, 16)
        assert set(t.parts()) == {"generator", "encoder", "features", "discriminator", "prior"}
        assert all(torch.equal(value, before[name]) for name, value in weights(t).items())
    assert all(torch.equal(value, weights(alone)[name]) for name, value in weights(t).items())


def test_samples_come_from_z_where_the_prior_does_not_fit() -> None:
    for changes in ({"with_encoder": False}, {"condition": ("gender", "glasses")}):
        t = trainer(replace(TINY, **changes))
        t.step()
        z = torch.randn(5, 8, generator=keyed_generator(CPU, 3, "samples"))
        c = t.images.labels_at(3 * 5, 5) if t.c_dim else None
        generator = t.state.generator_ema
        torch.testing.assert_close(t.samples(5, 3), generator.synthesis(generator.mapping(z, c)))
    assert trainer(replace(TINY, with_encoder=False)).reconstruct(torch.zeros(1, 3, 16, 16)) is None
