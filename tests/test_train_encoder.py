"""Training an encoder for a frozen generator: losses by hand, exact resume, and a model file that opens again."""

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import RESOLUTION, random_generator, write_model
from PIL import Image
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.cli import main
from ganaug.features import load_perceptual_features
from ganaug.generators import VAE, LatentPrior, VAEConfig, load_generator, load_prior
from ganaug.interfaces import CheckpointError, UserInputError
from ganaug.inversion import LatentEncoder, load_encoder
from ganaug.inversion.vae import VAEEncoder
from ganaug.training.data import RealImages
from ganaug.training.encoder import EncoderTrainer, offset_penalty
from ganaug.training.encoder_config import EncoderConfig
from ganaug.training.encoder_source import open_source
from ganaug.training.identity import identity_loss, load_embedder
from ganaug.training.parallel import Processes
from ganaug.training.run_encoder import export

CPU = torch.device("cpu")
TINY = EncoderConfig(kimg=0.08, batch_size=4, learning_rate=0.01, warmup_kimg=0.0, ema_rampup=0.5, snapshot_kimg=0.04)


def chips(count: int, seed: int = 1) -> np.ndarray:
    """``(count, 16, 16, 3)`` uint8: what the random generator draws, so that an encoder can succeed."""
    generator = random_generator()
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    images = generator.synthesis(generator.mapping(z)).clamp(-1, 1)
    return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def to_tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def trainer(model: Path, config: EncoderConfig = TINY, embedder: "Embed | None" = None) -> EncoderTrainer:
    images = RealImages(chips(24), config.seed)
    return EncoderTrainer(config, open_source(model, CPU), images, Processes(CPU), embedder=embedder)


class Embed(nn.Module):
    """A linear map of the image to a unit vector."""

    embedding_dim = 5

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(5, 3 * RESOLUTION**2, generator=torch.Generator().manual_seed(3))
        self.weight = nn.Parameter(values)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.flatten(1) @ self.weight.t(), dim=1)


def weights(t: EncoderTrainer) -> dict[str, Tensor]:
    pairs = {"encoder": t.encoder, "encoder_ema": t.encoder_ema}
    return {f"{m}.{k}": v.clone() for m, module in pairs.items() for k, v in module.state_dict().items()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, chip in enumerate(chips(20)):
        Image.fromarray(chip).save(folder / f"{number:02d}.png")
    return folder


# Losses


def test_offset_penalty_equals_naive_loop() -> None:
    offsets = torch.randn(3, 4, 5)
    total = 0.0
    for sample in offsets.numpy():
        for row in sample:
            total += math.sqrt(sum(float(value) ** 2 for value in row))
    assert float(offset_penalty(offsets, 0.3)) == pytest.approx(total / 3 / (4 * 0.3 * math.sqrt(5)), rel=1e-5)


def test_offset_penalty_starts_without_nan() -> None:
    offsets = torch.zeros(2, 3, 4, requires_grad=True)
    offset_penalty(offsets, 1.0).backward()
    assert offsets.grad is not None and torch.equal(offsets.grad, torch.zeros(2, 3, 4))


def test_losses_by_hand(model_file: Path) -> None:
    t = trainer(model_file, embedder=Embed())
    with torch.no_grad():
        t.encoder.offsets.weight.normal_(generator=torch.Generator().manual_seed(5))
    generator = t.source.generator
    photos = to_tensor(chips(3, seed=9))
    known = generator.mapping(torch.randn(2, generator.z_dim))
    losses = {name: float(value.detach()) for name, value in t.losses(photos, known).items()}

    samples = generator.synthesis(known).clamp(-1, 1)
    base, offsets = (part.detach() for part in t.encoder(torch.cat([photos, samples])))
    codes = generator.w_avg + base[:, None] + offsets
    images = generator.synthesis(codes)
    many = generator.mapping(torch.randn(20000, generator.z_dim))[:, 0]
    variance = np.cov(many.double().numpy().T).trace() / many.shape[1]
    assert t.w_std == pytest.approx(math.sqrt(variance), rel=0.1)
    assert losses["pixel"] == pytest.approx(np.abs(images.numpy() - torch.cat([photos, samples]).numpy()).mean())
    latent = np.square(codes[3:].numpy() - known.numpy()).mean() / t.w_std**2
    assert losses["latent"] == pytest.approx(latent, rel=1e-4)
    assert losses["offset"] == pytest.approx(float(offset_penalty(offsets, t.w_std)), rel=1e-5)
    embedded = Embed()
    pairs = zip(embedded(images[:3]).detach().numpy(), embedded(photos).detach().numpy(), strict=True)
    assert losses["identity"] == pytest.approx(1 - np.mean([a @ b for a, b in pairs]), rel=1e-4)


def test_identity_gradient_reaches_the_encoder_alone(model_file: Path) -> None:
    embedder = Embed()
    t = trainer(model_file, embedder=embedder)
    generator = t.source.generator
    identity = t.losses(to_tensor(chips(3, seed=9)), generator.mapping(torch.randn(1, generator.z_dim)))["identity"]
    gradients = torch.autograd.grad(identity, list(t.encoder.trunk.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)
    assert not any(parameter.requires_grad for parameter in generator.parameters())  # type: ignore[attr-defined]
    image = torch.randn(2, 3, RESOLUTION, RESOLUTION)
    with torch.no_grad():
        assert float(identity_loss(embedder, image, image)) == pytest.approx(0.0, abs=1e-5)
        assert float(identity_loss(embedder, image, -image)) == pytest.approx(2.0, abs=1e-5)


def test_samples_come_from_z_and_prior(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.safetensors")
    t = trainer(model)
    assert t.source.prior is None
    known = t._known_latents(8)
    assert known.shape == (8, *t.source.generator.latent_spec.shape)
    assert torch.equal(known, trainer(model)._known_latents(8)), "same step, same draws"
    t.step()
    assert not torch.equal(known, t._known_latents(8)), "another step, other draws"
    far = LatentPrior.fit(100.0 + torch.randn(50, *known.shape[1:]))
    t.source = replace(t.source, prior=far)
    assert (t._known_latents(8).mean(dim=(1, 2)) > 50).tolist() == [False] * 4 + [True] * 4


# The run


def test_held_out_error_falls(model_file: Path) -> None:
    t = trainer(model_file, replace(TINY, kimg=0.6))
    held_out = to_tensor(chips(16, seed=2))

    def error() -> float:
        return float((t.reconstruct(held_out) - held_out).square().mean())

    before = error()
    for _ in range(100):
        figures = t.step()
    assert error() < 0.6 * before
    assert float(figures["latent"]) < 1.0, "better than answering with the mean of W"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resume_is_exact(model_file: Path, tmp_path: Path, precision: str) -> None:
    config = replace(TINY, precision=precision, opening_kimg=0.02)
    whole, first, second = (trainer(model_file, config) for _ in range(3))
    figures = [whole.step() for _ in range(8)]
    for _ in range(4):
        first.step()
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert [second.step() for _ in range(4)] == figures[4:]
    mine, theirs = weights(whole), weights(second)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert second.images_seen == 32


def test_training_leaves_the_global_generator_alone(model_file: Path) -> None:
    source = open_source(model_file, CPU)
    images = RealImages(chips(8), 0)
    before = torch.get_rng_state()
    EncoderTrainer(TINY, source, images, Processes(CPU)).step()
    assert torch.equal(before, torch.get_rng_state())


def test_rows_open_one_after_another(model_file: Path) -> None:
    t = trainer(model_file, replace(TINY, opening_kimg=0.024))  # six rows, one a step of 4 images
    weight = t.encoder.offsets.weight
    for opened in range(7):
        rows = weight.detach().reshape(6, -1).any(dim=1)
        # A row that opens now is trained by the step that follows.
        assert rows.tolist() == [row < opened - 1 for row in range(6)]
        assert t._open_rows()[:, 0].sum() == opened
        t.step()


def test_average_is_the_textbook_one(model_file: Path) -> None:
    t = trainer(model_file, replace(TINY, ema_rampup=1e9))
    averaged = t.encoder_ema.fc.weight.clone()
    weight = 1 - 0.5 ** (TINY.batch_size / (TINY.ema_kimg * 1000))
    for _ in range(3):
        t.step()
        averaged += weight * (t.encoder.fc.weight.detach() - averaged)
        torch.testing.assert_close(t.encoder_ema.fc.weight, averaged)


def test_rate_rises_stays_and_falls(model_file: Path) -> None:
    t = trainer(model_file, replace(TINY, kimg=1.0, warmup_kimg=0.1, decay_fraction=0.25))
    rates = []
    for seen in (0, 46, 96, 750, 875, 1000):
        t.images_seen = seen
        rates.append(t._rate() / TINY.learning_rate)
    assert rates == pytest.approx([0.04, 0.5, 1.0, 1.0, 0.5, 0.1])


def test_nan_stops_the_run_before_the_weights_are_touched(model_file: Path) -> None:
    t = trainer(model_file)
    t.step()
    good = weights(t)
    t.source.generator.w_avg.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite after 4 images"):
        t.step()
    after = weights(t)
    assert all(torch.equal(good[name], after[name]) for name in good)


def test_continues_from_the_files_encoder(model_file: Path, tmp_path: Path) -> None:
    t = trainer(model_file, replace(TINY, continue_encoder=True))
    stored = load_encoder(model_file).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in t.encoder.state_dict().items())
    fresh = trainer(model_file).encoder.state_dict()
    assert not torch.equal(fresh["fc.weight"], stored["fc.weight"])
    parts = {"generator": random_generator().state_dict()}
    described = {k: v for k, v in checkpoints.read_metadata(model_file).items() if k in ("family", "config")}
    bare = tmp_path / "bare.safetensors"
    checkpoints.write(bare, parts, described)
    with pytest.raises(UserInputError, match="no encoder to continue"):
        trainer(bare, replace(TINY, continue_encoder=True))
    t = trainer(bare)  # features of the bundled model, which looks at 64 px
    assert all(math.isfinite(float(value)) for value in t.step().values())


def test_other_settings_do_not_resume(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trainer(model_file).save(path)
    with pytest.raises(CheckpointError, match=r"latent_weight: 0\.25 there, 2\.0 here"):
        trainer(model_file, replace(TINY, latent_weight=2.0)).load(path)
    with pytest.raises(CheckpointError, match="made for generator"):
        trainer(write_model(tmp_path / "other.safetensors", seed=5)).load(path)


def test_config() -> None:
    config = EncoderConfig(embedder="a.b:c")
    assert EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for mistake in ({"precision": "int8"}, {"kimg": 0}, {"sample_share": 1.5}, {"pixel_weight": -1}, {"batch_size": 0}):
        with pytest.raises(UserInputError, match=next(iter(mistake))):
            EncoderConfig(**mistake)  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="fresh encoder"):
        EncoderConfig(continue_encoder=True, opening_kimg=1.0)
    with pytest.raises(UserInputError, match=r"unknown setting.*nonsense"):
        EncoderConfig.from_dict({"nonsense": 1})


class Share(Processes):
    """One of two processes, without the other."""

    def __init__(self, rank: int) -> None:
        super().__init__(CPU)
        self.rank, self.world = rank, 2

    def average(self, tensors: Iterable[Tensor]) -> None:
        pass


def test_two_processes_share_a_batch(model_file: Path) -> None:
    def gradients(processes: Processes) -> list[Tensor]:
        t = EncoderTrainer(TINY, open_source(model_file, CPU), RealImages(chips(8), 0), processes)
        t.step()
        assert t.images_seen == TINY.batch_size
        return [parameter.grad for parameter in t.encoder.parameters() if parameter.grad is not None]

    whole, first, second = gradients(Processes(CPU)), gradients(Share(0)), gradients(Share(1))
    for a, b, c in zip(whole, first, second, strict=True):
        torch.testing.assert_close((b + c) / 2, a, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserInputError, match="batch_size 3 cannot be shared by 2 processes"):
        EncoderTrainer(replace(TINY, batch_size=3), open_source(model_file, CPU), RealImages(chips(8), 0), Share(0))


def test_other_families(tmp_path: Path) -> None:
    """A VAE: rows of their own, so no W to keep to; the file's encoder is of another kind."""
    config = VAEConfig(RESOLUTION, w_dim=8, channels=(8, 8, 8))
    generator, encoder = VAE(config), VAEEncoder((8, 8, 8), 6, 8)
    described = {"family": "vae", "config": asdict(config), "encoder_channels": [8, 8, 8]}
    path, out = tmp_path / "vae.safetensors", tmp_path / "out.safetensors"
    checkpoints.write(path, {"generator": generator.state_dict(), "encoder": encoder.state_dict()}, described)
    t = trainer(path)
    assert not t.has_w and float(t.step()["offset"]) == 0.0
    assert t.w_std == pytest.approx(1.0, rel=0.05)
    export(t, out)
    opened = load_encoder(out)
    assert isinstance(opened, LatentEncoder) and load_generator(out).fingerprint == load_generator(path).fingerprint
    with pytest.raises(UserInputError, match="no encoder to continue"):
        trainer(path, replace(TINY, continue_encoder=True))
    assert trainer(out, replace(TINY, continue_encoder=True)).encoder.num_ws == 6


# From folder to model file


def test_writes_a_model_file_that_opens(model_file: Path, photos: Path, tmp_path: Path) -> None:
    out, before = tmp_path / "run", load_generator(model_file)
    arguments = ["train-encoder", "--generator", model_file, "--data", photos, "--out", out, "--batch-size", 4]
    report = tmp_path / "figures.json"
    options = ["--kimg", 0.04, "--learning-rate", 0.01, "--licence", "drawn here", "--json", report]
    assert main([str(argument) for argument in (*arguments, *options)]) == 0
    figures = json.loads(report.read_text())
    model = out / "model.safetensors"
    assert figures["fingerprint"] == before.fingerprint == load_generator(model).fingerprint
    assert figures["model"] == str(model) and figures["held_out"] == 2
    assert figures["images_seen"] in (40, json.loads((out / "best.json").read_text())["images"])

    generator, encoder, features = load_generator(model), load_encoder(model), load_perceptual_features(model)
    images = to_tensor(chips(4))
    codes = encoder.encode(images, generator)
    assert codes.shape == (4, *generator.latent_spec.shape)
    stored = load_perceptual_features(model_file).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in features.state_dict().items())
    drawn = load_prior(model).sample(3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, *generator.latent_spec.shape)
    described, original = checkpoints.read_metadata(model), checkpoints.read_metadata(model_file)
    assert {name: described[name] for name in original} == original
    (entry,) = described["encoder_training"]
    assert (entry["licence"], entry["data"], entry["batch_size"]) == ("drawn here", "photos: 18 images", 4)

    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 40 and lines[-1]["held_out_mse"] > 0 and "frechet" not in lines[-1]
    assert list(out.glob("samples-*.png"))
    assert main([str(argument) for argument in arguments]) != 0, "a folder with a run needs --resume"
    assert main([str(argument) for argument in (*arguments, "--resume", "--kimg", 0.06, "--json", report)]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 60
    second = tmp_path / "second"
    options = ["--continue-encoder", "--kimg", 0.004, "--data", photos, "--batch-size", 4]
    continued = ["train-encoder", "--generator", model, "--out", second, *options]
    assert main([str(argument) for argument in continued]) == 0
    entries = checkpoints.read_metadata(second / "model.safetensors")["encoder_training"]
    assert [len(entries), entries[0]["licence"]] == [2, "not stated"], "resumed without --licence"


def test_half_precision_stays_half(photos: Path, tmp_path: Path) -> None:
    """A generator that was stored as float16 is exactly that again; one of float32 is not rounded."""
    path = tmp_path / "half.safetensors"
    described = checkpoints.read_metadata(write_model(tmp_path / "m.safetensors"))
    checkpoints.write(path, {"generator": random_generator().state_dict()}, described, half=True)
    arguments = ["train-encoder", "--generator", path, "--data", photos, "--out", tmp_path / "run"]
    assert main([str(a) for a in (*arguments, "--batch-size", 2, "--kimg", 0.002)]) == 0
    model = tmp_path / "run" / "model.safetensors"
    assert load_generator(model).fingerprint == load_generator(path).fingerprint
    parts = [checkpoints.read_part(model, part) for part in ("generator", "encoder", "prior")]
    assert model.stat().st_size < 1.2 * 2 * sum(tensor.numel() for part in parts for tensor in part.values())


# Mistakes


@pytest.fixture
def module_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the working directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])

    def write(code: str) -> str:
        name = f"embedders_{abs(hash((tmp_path, code)))}"
        (tmp_path / f"{name}.py").write_text("import torch\nimport torch.nn.functional as F\n" + code)
        return name

    return write


EMBEDDER = """
class Embedder:
    embedding_dim = 3
    def __call__(self, images):
        return {}
def make():
    return Embedder()
"""


def test_embedder_of_the_user(module_here: Callable[[str], str]) -> None:
    name = module_here(EMBEDDER.format("F.normalize(images.mean(dim=(2, 3)), dim=1)"))
    embedder = load_embedder(f"{name}:make", CPU, RESOLUTION)
    assert embedder(torch.rand(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(): return 5", "returned int, expected a callable with an attribute embedding_dim"),
        ("def make(): raise RuntimeError('no weights')", "failed: RuntimeError: no weights"),
        ("def other(): pass", "cannot import.*AttributeError"),
        (EMBEDDER.format("images.mean(dim=(1, 2, 3))"), r"into \(2,\), expected \(2, 3\)"),
        (EMBEDDER.format("images.mean(dim=(2, 3)).tolist()"), r"into list, expected \(2, 3\)"),
        (EMBEDDER.format("images.reshape(7)"), "fails at it: RuntimeError"),
        (EMBEDDER.format("images.mean(dim=(2, 3)).detach()"), "no finite gradient"),
        (EMBEDDER.format("torch.ones(2, 3, requires_grad=True) + 0"), "no finite gradient"),
        (EMBEDDER.format("images.mean(dim=(2, 3)) * float('nan')"), "no finite gradient"),
    ],
)
def test_embedders_that_are_none(module_here: Callable[[str], str], code: str, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        load_embedder(f"{module_here(code)}:make", CPU, RESOLUTION)


def test_mistakes_give_one_line(
    model_file: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(photos.iterdir())[:10]:
        (few / path.name).write_bytes(path.read_bytes())
    good = {"--generator": model_file, "--data": photos, "--out": tmp_path / "run"}
    for change, words in (
        ({"--generator": tmp_path / "nowhere.safetensors"}, "no model"),
        ({"--generator": next(photos.iterdir())}, "neither a pickle, a file of torch.save nor a .npy array"),
        ({"--data": few}, "has 10 readable images, training needs at least 16"),
        ({"--data": tmp_path / "nowhere"}, "not there"),
        ({"--held-out": few}, "10 readable images"),
        ({"--embedder": "no_such_module_of_mine:embed"}, "cannot import"),
        ({"--embedder": "nonsense"}, "cannot import"),
        ({"--identity-weight": 1}, "--embedder"),
        ({"--batch-size": 19}, "18 training images are fewer than one batch of 19"),
        ({"--kimg": -1}, "kimg must be above 0"),
        ({"--learning-rate": "nan"}, "learning_rate must be above 0"),
    ):
        arguments = [str(word) for pair in {**good, **change}.items() for word in pair]
        assert main(["train-encoder", *arguments]) == 2
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("decoding")]
        assert out == "" and len(lines) == 1 and words in lines[0], err
