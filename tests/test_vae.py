"""The VAE family: decoder, encoder, losses, training, and the main job on a model file of it."""

import math
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_faces
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ganaug import GANAugmentedDataset, checkpoints, load_generator
from ganaug.cache import LatentCache
from ganaug.faces.photos import photos_in_folder
from ganaug.features import PerceptualFeatures, feature_distance, load_perceptual_features
from ganaug.generators import GENERATORS, LatentPrior, load_prior
from ganaug.generators.vae import VAE, VAEConfig
from ganaug.interfaces import CheckpointError, Generator, Inverter, UserInputError
from ganaug.inversion import INVERTERS, build_inverter, load_encoder
from ganaug.inversion.vae import VAEEncoder, kl_divergence, sample_posterior
from ganaug.precompute import make_header, precompute
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.parallel import Processes
from ganaug.training.vae import VAETrainer

CPU = torch.device("cpu")
CONFIG = VAEConfig(16, 10, (12, 10, 8))
TINY = TrainConfig(
    family="vae",
    resolution=16,
    kimg=0.04,
    batch_size=4,
    w_dim=8,
    generator_channels=(8, 8, 8),
    discriminator_channels=(8, 8, 8),
    kl_warmup_kimg=0.016,
    snapshot_kimg=0.02,
)
FEATURE_CHANNELS = (6, 10, 12, 14)  # a trunk of 32 px: neither the size nor the channels of the encoder


def randomized(seed: int = 0) -> VAE:
    """A decoder in which every parameter is random, also those that start at zero."""
    rng = torch.Generator().manual_seed(seed)
    generator = VAE(CONFIG).eval().requires_grad_(False)
    for name, tensor in generator.named_parameters():
        if not name.endswith("noise_strength"):
            tensor.copy_(torch.randn(tensor.shape, generator=rng) + float("affine.bias" in name))
    for name, tensor in generator.named_buffers():
        if name.endswith("noise_const"):
            tensor.copy_(torch.randn(tensor.shape, generator=rng))
    return generator


def make_features(seed: int = 3) -> PerceptualFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PerceptualFeatures(FEATURE_CHANNELS, 32).eval()


def chips(count: int = 12) -> np.ndarray:
    """Smooth random images: noise would leave nothing to learn."""
    grid = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (count, 3, 3, 3)))
    smooth = F.interpolate(grid, (16, 16), mode="bilinear", align_corners=True)
    return smooth.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def trainer(config: TrainConfig = TINY) -> VAETrainer:
    return VAETrainer(config, RealImages(chips(), config.seed), Processes(CPU), features=make_features())


def spy(t: VAETrainer) -> list[tuple[Tensor, Tensor]]:
    """The photos and draws that a trainer's loss is called with from now on."""
    seen: list[tuple[Tensor, Tensor]] = []
    losses = t.losses

    def call(photos: Tensor, noise: Tensor) -> dict[str, Tensor]:
        seen.append((photos, noise))
        return losses(photos, noise)

    t.losses = call  # type: ignore[method-assign]
    return seen


def weights(t: VAETrainer) -> dict[str, Tensor]:
    parts = {"generator": t.generator, "encoder": t.encoder, "g_ema": t.generator_ema, "e_ema": t.encoder_ema}
    return {f"{m}.{k}": v.clone() for m, module in parts.items() for k, v in module.state_dict().items()}


@pytest.fixture(scope="module")
def vae_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of a VAE after a few steps."""
    t = trainer()
    for _ in range(4):
        t.step()
    path = tmp_path_factory.mktemp("vae") / "vae16.safetensors"
    checkpoints.write(path, t.parts(), {**t.description(), "licence": "drawn here"})
    return path


# ---- decoder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [True, False])
def test_contract(fresh: bool) -> None:
    generator = randomized()
    if not fresh:
        generator = pickle.loads(pickle.dumps(generator))
    assert isinstance(generator, Generator)
    spec = generator.latent_spec
    assert (spec.num_ws, spec.w_dim, generator.z_dim) == (6, 10, 60)
    w_plus = generator.mapping(torch.randn(3, generator.z_dim))
    assert w_plus.shape == (3, spec.num_ws, spec.w_dim)
    images = generator.synthesis(w_plus)
    assert (images.shape, images.dtype) == ((3, 3, 16, 16), torch.float32)
    assert torch.equal(generator.w_avg, torch.zeros(10))
    assert generator.fingerprint == randomized().fingerprint
    assert generator.fingerprint != randomized(1).fingerprint


def test_registry_builds_it_from_json() -> None:
    built = GENERATORS["vae"]({"img_resolution": 16, "w_dim": 10, "channels": [12, 10, 8]})
    assert isinstance(built, VAE)
    assert built.config == CONFIG


def test_mapping_draws_from_the_prior_that_was_set() -> None:
    generator = randomized()
    z = torch.randn(2, 60)
    torch.testing.assert_close(generator.mapping(z).flatten(1), z)  # N(0, I) until a prior is fitted
    before = generator.fingerprint
    prior = LatentPrior.fit(torch.randn(9, 6, 10) * 2.0 + 1.0)  # 8 components, the other axes become 0
    generator.set_prior(prior)
    w_plus = generator.mapping(z)
    for row in range(2):
        expected = prior.mean.clone()
        for number, (std, component) in enumerate(zip(prior.std, prior.components, strict=True)):
            expected += z[row, number] * std * component
        torch.testing.assert_close(w_plus[row], expected, rtol=1e-4, atol=1e-5)
    half = generator.mapping(z, truncation_psi=0.5)
    torch.testing.assert_close(half, (w_plus + prior.mean) / 2, rtol=1e-4, atol=1e-5)
    assert generator.fingerprint != before


def naive_synthesis(generator: VAE, w_plus: Tensor) -> Tensor:
    """Equations 1 to 3 of arXiv 1912.04958 and figure 7's output skips: one sample and one layer at a time."""
    kernel = torch.outer(taps := torch.tensor([1.0, 3.0, 3.0, 1.0]), taps).to(w_plus.dtype) / 16

    def affine(layer: torch.nn.Module, w: Tensor) -> Tensor:
        return layer.affine.weight @ w / math.sqrt(len(w)) + layer.affine.bias

    def convolution(layer: torch.nn.Module, x: Tensor, w: Tensor, up: bool) -> Tensor:
        weight = layer.weight * affine(layer, w)[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = F.conv2d(x, kernel.expand(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
        else:
            x = F.conv2d(x, weight, padding=1)
        return F.leaky_relu(x + layer.bias[None, :, None, None], 0.2) * math.sqrt(2)

    images = []
    for rows in w_plus:
        image, x, row = torch.zeros(1, 3, 2, 2, dtype=w_plus.dtype), torch.empty(0), 0
        for size in (4, 8, 16):
            block = generator.synthesis_network.get_submodule(f"b{size}")
            if size == 4:
                x = block.const[None]
            else:
                x, row = convolution(block.conv0, x, rows[row], True), row + 1
            x, row = convolution(block.conv1, x, rows[row], False), row + 1
            style = affine(block.torgb, rows[row]) / math.sqrt(x.shape[1])
            rgb = torch.einsum("bchw,oc,c->bohw", x, block.torgb.weight[:, :, 0, 0], style)
            image = F.conv_transpose2d(image, kernel.expand(3, 1, 4, 4), stride=2, padding=1, groups=3)
            image = image + rgb + block.torgb.bias[None, :, None, None]
        images.append(image)
    return torch.cat(images)


def test_decoder_equals_naive_loop() -> None:
    generator = randomized()
    w_plus = torch.randn(3, 6, 10)
    expected = naive_synthesis(pickle.loads(pickle.dumps(generator)).double(), w_plus.double()).float()
    assert expected.std() > 0.5
    for noise in ("const", "none", "random"):  # there are no noise inputs
        torch.testing.assert_close(generator.synthesis(w_plus, noise), expected, rtol=1e-4, atol=1e-4)


def test_bad_arguments() -> None:
    generator = randomized()
    with pytest.raises(ValueError, match="unconditional: c must be None"):
        generator.mapping(torch.zeros(2, 60), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected z of shape \(B, 60\), got \(2, 10\)"):
        generator.mapping(torch.zeros(2, 10))
    with pytest.raises(ValueError, match=r"expected w_plus of shape \(B, 6, 10\), got \(2, 10\)"):
        generator.synthesis(torch.zeros(2, 10))
    with pytest.raises(ValueError, match="noise must be"):
        generator.synthesis(torch.zeros(2, 6, 10), "loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 5 resolutions"):
        VAEConfig(64, 8, (8, 8))


# ---- losses ---------------------------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions() -> None:
    mean, log_variance = torch.randn(4, 6, 10), torch.randn(4, 6, 10)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros(6, 10), torch.ones(6, 10))
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=(1, 2))
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert kl_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)).item() == 0.0


def test_posterior_draws_have_its_mean_and_variance() -> None:
    mean, log_variance = torch.tensor([[1.5, -0.5]]), torch.tensor([[-1.0, 0.5]])
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = sample_posterior(mean, log_variance, noise)
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), log_variance[0].exp(), atol=0.03, rtol=0)


def test_loss_is_the_weighted_sum_and_its_gradient_is_right() -> None:
    """Against the terms computed apart, and finite differences."""
    t = trainer(replace(TINY, pixel_weight=2.0, feature_weight=3.0, kl_weight=50.0, kl_warmup_kimg=0.0))
    photos = t.images.batch(0, 2)
    noise = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))

    def loss() -> Tensor:
        mean, log_variance = t.encoder(photos)
        images = t.generator.synthesis_network(mean + (log_variance / 2).exp() * noise, "none")
        distance = feature_distance(t.features(images), t.features(photos)).mean()
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
        )
        return 2.0 * (images - photos).abs().mean() + 3.0 * distance + 50.0 * kl.sum() / 2 / (3 * 16 * 16)

    found = t.losses(photos, noise)
    expected = loss()
    torch.testing.assert_close(found["loss"], expected)
    found["loss"].backward()
    for parameter, gradient in zip(t.parameters, torch.autograd.grad(expected, t.parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    for parameter in (t.encoder.log_variance.bias, t.encoder.mean.bias):
        direction = parameter.grad / parameter.grad.norm()
        values = []
        with torch.no_grad():
            for step in (5e-3, -5e-3):
                parameter += step * direction
                values.append(float(t.losses(photos, noise)["loss"]))
                parameter -= step * direction
        slope = (values[0] - values[1]) / 1e-2
        assert float(parameter.grad.norm()) == pytest.approx(slope, rel=2e-2)


def test_kl_weight_warms_up_linearly() -> None:
    t = trainer(replace(TINY, kl_weight=0.5, kl_warmup_kimg=0.016))
    found = []
    for _ in range(6):
        found.append(t.kl_weight())
        t.step()
    assert found == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5, 0.5])
    assert trainer(replace(TINY, kl_weight=0.5, kl_warmup_kimg=0.0)).kl_weight() == 0.5


# ---- training -------------------------------------------------------------------------------------------------------


def test_training_brings_photos_back() -> None:
    t = trainer(replace(TINY, kimg=1.0, learning_rate=0.02))
    photos = t.images.batch(0, 8)
    error = [float((t.reconstruct(photos) - photos).abs().mean())]
    figures = [float(t.step()["loss"]) for _ in range(40)]
    error.append(float((t.reconstruct(photos) - photos).abs().mean()))
    assert np.mean(figures[-5:]) < 0.7 * np.mean(figures[:5])
    assert error[1] < 0.6 * error[0]


def test_the_kl_alone_makes_the_posterior_the_prior() -> None:
    alone = {"pixel_weight": 0.0, "feature_weight": 0.0, "kl_weight": 100.0, "kl_warmup_kimg": 0.0}
    t = trainer(replace(TINY, kimg=1.0, learning_rate=0.05, **alone))
    kl = [float(t.step()["kl"]) for _ in range(50)]
    assert kl[-1] < 0.1 * kl[0]
    _, log_variance = t.encoder(t.images.batch(0, 4))
    assert log_variance.abs().mean() < 0.3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resume_is_exact(tmp_path: Path, precision: str) -> None:
    config = replace(TINY, precision=precision)
    whole, first, second = trainer(config), trainer(config), trainer(config)
    figures = [whole.step() for _ in range(6)]
    for _ in range(3):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert [second.step() for _ in range(3)] == figures[3:]
    mine, theirs = weights(whole), weights(second)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert second.images_seen == 24


def test_networks_and_averages_move() -> None:
    t = trainer()
    before = weights(t)
    for _ in range(3):
        t.step()
    after = weights(t)
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert all(name.endswith(("noise_const", "noise_strength", "center", "axes")) for name in still), still


def test_average_is_the_textbook_one() -> None:
    t = trainer(replace(TINY, ema_rampup=1e9))
    averaged = t.encoder_ema.state_dict()["mean.weight"].clone()
    weight = 1 - 0.5 ** (TINY.batch_size / (TINY.ema_kimg * 1000))
    for _ in range(3):
        t.step()
        averaged += weight * (t.encoder.state_dict()["mean.weight"] - averaged)
    torch.testing.assert_close(t.encoder_ema.state_dict()["mean.weight"], averaged)


def test_accumulated_parts_give_the_gradient_of_the_batch() -> None:
    """Two parts, against one call with the photos and draws of both."""
    t, reference = trainer(replace(TINY, accumulate=2)), trainer(TINY)
    seen = spy(t)
    t.step()
    assert [len(photos) for photos, _ in seen] == [2, 2]
    assert not torch.equal(seen[0][1], seen[1][1])
    photos, noise = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(photos, reference.images.batch(0, 4))
    reference.losses(photos, noise)["loss"].backward()
    for mine, theirs in zip(t.parameters, reference.parameters, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_processes_share_the_parts() -> None:
    """The second of two processes works on what a single one has as its second part."""
    alone, second = trainer(replace(TINY, accumulate=2)), Processes(CPU)
    second.rank, second.world = 1, 2
    second.average_gradients = lambda parameters: None  # type: ignore[method-assign]
    shared = VAETrainer(TINY, RealImages(chips(), TINY.seed), second, features=make_features())
    mine, theirs = spy(shared), spy(alone)
    shared.step()
    alone.step()
    assert len(mine) == 1
    assert not shared.is_main
    assert all(torch.equal(a, b) for a, b in zip(mine[0], theirs[1], strict=True))


def test_nan_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    t = trainer()
    t.step()
    t.save(tmp_path / "checkpoint.pt")
    with torch.no_grad():
        t.encoder.mean.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite after 8 images"):
        t.step()
    with pytest.raises(FloatingPointError):
        t.save(tmp_path / "checkpoint.pt")
    again = trainer()
    again.load(tmp_path / "checkpoint.pt")
    assert again.images_seen == 4
    again.step()


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trainer().save(path)
    with pytest.raises(CheckpointError, match="batch_size: 4 there, 2 here"):
        trainer(replace(TINY, batch_size=2)).load(path)
    other = PerceptualFeatures((8, 8, 8), 16)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        VAETrainer(TINY, RealImages(chips(), 0), Processes(CPU), features=other).load(path)
    trainer(replace(TINY, kimg=9.0)).load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        trainer().load(path)


def test_what_it_cannot_train() -> None:
    with pytest.raises(UserInputError, match="trains family 'vae', got 'stylegan2'"):
        trainer(replace(TINY, family="stylegan2"))
    with pytest.raises(UserInputError, match="unconditional: leave out the condition age, gender"):
        trainer(replace(TINY, condition=("age", "gender")))
    with pytest.raises(UserInputError, match="batch of 4 cannot be cut"):
        trainer(replace(TINY, accumulate=3))


def test_training_leaves_the_global_generator_and_the_features_alone() -> None:
    before, features = torch.get_rng_state(), make_features()
    t = VAETrainer(TINY, RealImages(chips(), 0), Processes(CPU), features=features)
    t.step()
    t.samples(2, 0)
    assert torch.equal(before, torch.get_rng_state())
    for mine, theirs in zip(features.parameters(), t.features.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs


def test_samples_are_keyed() -> None:
    t = trainer()
    assert t.samples(3, 5).shape == (3, 3, 16, 16)
    assert torch.equal(t.samples(3, 5), t.samples(3, 5))
    assert not torch.equal(t.samples(3, 5), t.samples(3, 6))


# ---- model file and main job ----------------------------------------------------------------------------------------


def test_model_file_opens(vae_model: Path) -> None:
    generator, encoder, features = (
        load_generator(vae_model),
        load_encoder(vae_model),
        load_perceptual_features(vae_model),
    )
    assert isinstance(generator, VAE)
    assert isinstance(encoder, VAEEncoder)
    assert features.img_resolution == 32
    assert features.trunk.channels == FEATURE_CHANNELS
    photos = RealImages(chips(), 0).batch(0, 3)
    expected = feature_distance(make_features()(photos), make_features()(-photos))
    torch.testing.assert_close(feature_distance(features(photos), features(-photos)), expected, rtol=2e-3, atol=2e-3)
    assert load_prior(vae_model).sample(3, torch.Generator().manual_seed(0)).shape == (3, 6, 8)
    t = trainer()
    for _ in range(4):
        t.step()
    mine = generator.synthesis(encoder.encode(photos, generator))
    torch.testing.assert_close(mine, t.reconstruct(photos), rtol=0.01, atol=0.01)  # float16 weights
    assert asdict(generator.config) == asdict(VAEConfig(16, 8, (8, 8, 8)))


def test_file_without_encoder_channels_is_refused(vae_model: Path, tmp_path: Path) -> None:
    described = checkpoints.read_metadata(vae_model)
    del described["encoder_channels"]
    parts = {part: checkpoints.read_part(vae_model, part) for part in ("generator", "encoder", "features")}
    checkpoints.write(tmp_path / "bad.safetensors", parts, described)
    with pytest.raises(
        CheckpointError, match="configuration is damaged or incomplete: KeyError\\('encoder_channels'\\)"
    ):
        load_encoder(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("name", sorted(INVERTERS))
def test_every_inverter_works_on_it(name: str, vae_model: Path) -> None:
    inverter = build_inverter(name, load_generator(vae_model), vae_model, CPU, steps=20)
    assert isinstance(inverter, Inverter)
    photos = RealImages(chips(), 0).batch(0, 3)
    found = inverter.invert(photos)
    assert found.w_plus.shape == (3, 6, 8)
    assert all(torch.isfinite(values).all() for values in found.quality.values())
    if name == "hybrid":
        encoded = build_inverter("encoder", load_generator(vae_model), vae_model, CPU, steps=1).invert(photos)
        assert (found.quality["mse"] < encoded.quality["mse"]).all()
        torch.testing.assert_close(found.anchor, encoded.w_plus)


def test_photos_to_cache_to_edited_batches(vae_model: Path, tmp_path: Path) -> None:
    keys = write_faces(tmp_path / "images", per_class=4)
    generator = load_generator(vae_model)
    inverter = build_inverter("hybrid", generator, vae_model, CPU, steps=3)
    cache = LatentCache.create(tmp_path / "faces.lmdb", make_header(generator, vae_model, inverter))
    result = precompute(photos_in_folder(tmp_path / "images"), cache, inverter, CPU, progress=False)
    assert (result.images, result.failed) == (len(keys), 0)
    base = ImageFolder(str(tmp_path / "images"), transform=pil_to_tensor)
    train = GANAugmentedDataset(base, cache, ratio=1.0, edits=["coarse", "middle", "fine", "pca1"], preserve=[])
    images, labels = next(iter(train.loader(batch_size=8, shuffle=False, device="cpu")))
    assert images.shape == (8, 3, 20, 20)
    assert labels.tolist() == [label for _, label in base.samples]
    assert train.counts["generated"] == 8
    plain = torch.stack([base[i][0] for i in range(8)]).float()
    scale = 255.0 if images.dtype != torch.uint8 else 1.0
    assert ((images.float() * scale - plain).abs().mean(dim=(1, 2, 3)) > 1.0).all()
