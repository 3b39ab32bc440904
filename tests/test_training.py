"""Training: losses by hand, exact resume, and a model file that opens again."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganaug import load_generator
from ganaug.features import load_perceptual_features
from ganaug.generators import LatentPrior, load_prior
from ganaug.interfaces import CheckpointError, UserInputError
from ganaug.inversion import load_encoder
from ganaug.training.augment import augment, draw_augmentation
from ganaug.training.config import PRESETS, TrainConfig
from ganaug.training.data import RealImages, pack_images
from ganaug.training.discriminator import Discriminator, minibatch_stddev
from ganaug.training.loop import Trainer
from ganaug.training.run import train

CPU = torch.device("cpu")
TINY = TrainConfig(
    resolution=16,
    kimg=0.04,
    batch_size=4,
    z_dim=8,
    w_dim=8,
    mapping_layers=2,
    generator_channels=(8, 8, 8),
    discriminator_channels=(8, 8, 8),
    r1_interval=3,
    latent_interval=2,
    snapshot_kimg=0.02,
)


def chips(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def trainer(config: TrainConfig = TINY) -> Trainer:
    return Trainer(config, RealImages(chips(), config.seed), torch.zeros(2, 3, 16, 16), CPU)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, chip in enumerate(chips(20)):
        Image.fromarray(chip).resize((24, 24)).save(folder / f"{number:02d}.png")
    return folder


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    return {f"{m}.{k}": v.clone() for m, module in t.state.modules().items() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resume_is_exact(tmp_path: Path, precision: str) -> None:
    config = replace(TINY, precision=precision)
    whole, first, second = trainer(config), trainer(config), trainer(config)
    figures = [whole.step() for _ in range(8)]
    for _ in range(4):
        first.step()
    first.save(tmp_path)
    second.load(tmp_path)
    assert [second.step() for _ in range(4)] == figures[4:]
    mine, theirs = weights(whole), weights(second)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert second.state.images_seen == 32


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    trainer().step()
    assert torch.equal(before, torch.get_rng_state())


def test_networks_and_averages_move() -> None:
    t = trainer()
    before = weights(t)
    for _ in range(3):
        t.step()
    after = weights(t)
    still = [name for name in before if torch.equal(before[name], after[name]) and "noise_const" not in name]
    assert not still


def test_average_is_the_textbook_one() -> None:
    t = trainer(replace(TINY, ema_rampup=1e9))
    name = "synthesis_network.b16.conv1.weight"
    averaged = t.state.generator_ema.state_dict()[name].clone()
    weight = 1 - 0.5 ** (TINY.batch_size / (TINY.ema_kimg * 1000))
    for _ in range(3):
        t.step()
        averaged += weight * (t.state.generator.state_dict()[name] - averaged)
        torch.testing.assert_close(t.state.generator_ema.state_dict()[name], averaged)


def test_reconstruction_improves() -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)[None, :, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    t = Trainer(replace(TINY, pixel_weight=20.0), RealImages(ramp, 0), torch.zeros(1, 3, 16, 16), CPU)
    pixel = [t.step()["pixel"] for _ in range(60)]
    assert np.mean(pixel[-5:]) < 0.8 * np.mean(pixel[:5])


def test_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    t = trainer()
    t.step()
    t.save(tmp_path)
    with torch.no_grad():
        t.state.generator.synthesis_network.b4.const.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite after"):
        t.step()
    trainer().load(tmp_path)


def test_rate_is_constant_then_falls_to_a_tenth() -> None:
    t = trainer(replace(TINY, kimg=1.0, decay_fraction=0.25))
    rates = []
    for seen in (0, 500, 750, 875, 1000):
        t.state.images_seen = seen
        rates.append(t._rate() / TINY.learning_rate)
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.55, 0.1])


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    trainer().save(tmp_path)
    with pytest.raises(CheckpointError, match="batch_size: 4 there, 2 here"):
        trainer(replace(TINY, batch_size=2)).load(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer().load(tmp_path)


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


def test_r1_equals_finite_differences() -> None:
    """The penalty is the squared gradient of the logit with respect to the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = Discriminator((4, 4, 4)).double()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(image)[0].sum(), image)
    step = 1e-5
    for c, i, j in ((0, 3, 4), (2, 15, 0), (1, 8, 8)):
        moved = [image.detach().clone() for _ in range(2)]
        moved[0][0, c, i, j] += step
        moved[1][0, c, i, j] -= step
        slope = (discriminator(moved[0])[0] - discriminator(moved[1])[0]) / (2 * step)
        assert float(gradient[0, c, i, j]) == pytest.approx(slope.item(), rel=1e-4)


def test_r1_weight_rule() -> None:
    assert TrainConfig(resolution=64, batch_size=16).effective_r1_gamma == pytest.approx(0.0002 * 4096 / 16)
    assert TrainConfig(r1_gamma=3.0).effective_r1_gamma == 3.0


def test_presets_survive_json() -> None:
    for config in PRESETS.values():
        assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        config.generator()  # the channel tables fit the resolutions


def test_augmentation_by_hand() -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    identity = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]]).repeat(2, 1)
    torch.testing.assert_close(augment(images, identity), images)
    params = identity.clone()
    params[1] = torch.tensor([0.25, 1.0, 1.0, 2 / 16, -1 / 16])  # brighter; reads 2 px to the right, 1 px above
    out = augment(images, params)
    torch.testing.assert_close(out[0], images[0])
    torch.testing.assert_close(out[1][:, 1:, :-2], images[1][:, :-1, 2:] + 0.25)
    assert (out[1][:, 0] == -1).all()
    params = identity.clone()
    params[0, 1], params[1, 2] = 0.0, 0.0  # no saturation; no contrast
    out = augment(images, params)
    torch.testing.assert_close(out[0], images[0].mean(dim=0, keepdim=True).expand(3, -1, -1))
    torch.testing.assert_close(out[1], images[1].mean().expand(3, 16, 16))


def test_augmentation_frequency_and_gradient() -> None:
    params = draw_augmentation(20000, 0.2, torch.Generator().manual_seed(0), CPU)
    for column, still in ((0, 0.0), (1, 1.0), (2, 1.0)):
        share = float((params[:, column] != still).float().mean())
        assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 20000)
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augment(x, params[:4].double()), images, fast_mode=True)


def test_real_images_in_keyed_order() -> None:
    data = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8) * 10
    images = RealImages(data, seed=1)
    values = ((images.batch(0, 15)[:, 0, 0, 0] + 1) * 127.5 / 10).round().int().tolist()
    for epoch in range(3):  # every image once per epoch, in another order
        assert sorted(values[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert values[:5] != values[5:10]
    again = RealImages(data, seed=1)
    torch.testing.assert_close(again.batch(7, 6), images.batch(0, 13)[7:])
    half = RealImages(data, 1, np.array([1, 3])).batch(0, 8)
    assert set(((half[:, 0, 0, 0] + 1) * 12.75).round().int().tolist()) == {1, 3}


def test_packing_leaves_out_bad_files(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG nonsense")
    packed, failed = pack_images(photos, tmp_path, 16)
    assert (packed.shape, failed) == ((20, 16, 16, 3), 1)
    again, failed = pack_images(photos, tmp_path, 16)
    assert np.array_equal(packed, again)
    assert failed == 1


def test_train_writes_a_model_that_opens(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    figures = train(photos, out, TINY, CPU, licence="drawn here")
    assert figures["images_seen"] == 40
    model = figures["model"]
    generator, encoder, features = load_generator(model), load_encoder(model), load_perceptual_features(model)
    images = generator.synthesis(generator.mapping(torch.randn(2, 8)))
    assert images.shape == (2, 3, 16, 16)
    assert encoder.encode(images, generator.w_avg).shape == (2, *generator.latent_spec.shape)
    assert len(features(images)) == 2
    drawn = load_prior(model).sample(3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, *generator.latent_spec.shape)
    assert (out / "samples-000000.png").exists()
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 40
    assert all(math.isfinite(v) for line in lines for v in line.values())
    with pytest.raises(UserInputError, match="--resume"):
        train(photos, out, TINY, CPU)
    resumed = train(photos, out, replace(TINY, kimg=0.06), CPU, resume=True)
    assert resumed["images_seen"] == 60


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


def test_too_few_photos(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number, chip in enumerate(chips(10)):
        Image.fromarray(chip).save(folder / f"{number}.png")
    with pytest.raises(UserInputError, match="has 10 readable images, training needs at least 16"):
        train(folder, tmp_path / "out", TINY, CPU)
