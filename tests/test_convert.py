"""Checkpoints of the field through the commands: inspect, convert, precompute, and fine-tuning from one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Faces
from stylegan2_files import (
    nvidia_snapshot,
    pti_file,
    random_stylegan2,
    rosinality_converted,
    rosinality_training,
    saved,
)
from test_cli import Capture, good, mistake

from ganaug import checkpoints, load_generator
from ganaug.cache import LatentCache
from ganaug.cli import main
from ganaug.convert import convert
from ganaug.generators import StyleGAN2Config
from ganaug.known_weights import KNOWN_WEIGHTS
from ganaug.latents import estimate_mean_latent
from ganaug.training.config import TrainConfig
from ganaug.training.finetune import tuned

CONFIG = StyleGAN2Config(16, z_dim=12, w_dim=12, mapping_layers=3, channels=(10, 8, 6))
GENERATOR = random_stylegan2(CONFIG)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def training_file(tmp_path: Path) -> Path:
    """rosinality's: without a mean latent."""
    return written(tmp_path / "010000.pt", saved(rosinality_training(GENERATOR)))


def test_the_same_weights_have_one_fingerprint_in_every_layout(tmp_path: Path, training_file: Path) -> None:
    files = {
        "ada": written(tmp_path / "ada.pkl", nvidia_snapshot(GENERATOR, "ada")),
        "sg3": written(tmp_path / "sg3.pkl", nvidia_snapshot(GENERATOR, "sg3")),
        "pti": written(tmp_path / "pti.pt", pti_file(GENERATOR)),
        "rosinality": written(tmp_path / "converted.pt", saved(rosinality_converted(GENERATOR))),
    }
    opened = {name: load_generator(path) for name, path in files.items()}
    assert {g.fingerprint for g in opened.values()} == {GENERATOR.fingerprint}
    without_mean: Any = load_generator(training_file)
    assert without_mean.weights_fingerprint == GENERATOR.weights_fingerprint
    assert without_mean.fingerprint != GENERATOR.fingerprint


def test_converting_keeps_fingerprint_outputs_and_the_estimated_mean(tmp_path: Path, training_file: Path) -> None:
    source: Any = load_generator(training_file)
    figures = convert(training_file, tmp_path / "out.safetensors", licence="mine")
    converted: Any = load_generator(tmp_path / "out.safetensors")
    assert figures["fingerprint"] == converted.fingerprint == source.fingerprint
    assert figures["mean latent"] == "estimated from 10000 samples, seed 0"
    assert converted.mean_latent == source.mean_latent == {"seed": 0, "num_samples": 10000}
    assert torch.equal(converted.w_avg, source.w_avg)
    # Another sample of z finds nearly the same mean: it is the mean, not one code.
    torch.testing.assert_close(estimate_mean_latent(source, seed=1), source.w_avg, atol=0.05, rtol=0.05)
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    w_plus = source.mapping(z, truncation_psi=0.5)
    assert torch.equal(converted.mapping(z, truncation_psi=0.5), w_plus)
    torch.testing.assert_close(converted.synthesis(w_plus), source.synthesis(w_plus))
    description = checkpoints.open_model(tmp_path / "out.safetensors").description
    assert description["licence"] == "mine" and description["layout"] == "rosinality"
    assert description["source"]["file"] == "010000.pt" and len(description["source"]["sha256"]) == 64


def test_an_estimated_mean_may_differ_in_its_last_bits(training_file: Path) -> None:
    here: Any = load_generator(training_file)
    elsewhere: Any = load_generator(training_file)
    elsewhere.w_avg.mul_(1 + 1e-6)
    assert not torch.equal(here.w_avg, elsewhere.w_avg)
    assert here.fingerprint == elsewhere.fingerprint
    elsewhere.mean_latent = {"seed": 1, "num_samples": 10000}
    assert here.fingerprint != elsewhere.fingerprint


def test_licence_comes_from_the_table(
    tmp_path: Path, training_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("GANAUG_HOME", str(tmp_path / "home"))
    assert "licence       not stated" in good(capsys, "inspect", training_file)
    sha256 = checkpoints.open_model(training_file).description["source"]["sha256"]
    entry = KNOWN_WEIGHTS["stylegan2-ada-ffhq-1024"]
    changed = type(entry)(**{**vars(entry), "sha256": sha256})
    monkeypatch.setitem(KNOWN_WEIGHTS, "stylegan2-ada-ffhq-1024", changed)
    assert entry.terms.name in good(capsys, "inspect", training_file)
    figures = convert(training_file, tmp_path / "out.safetensors")
    assert figures["licence"] == entry.licence


def test_commands(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path / "ada.pkl", nvidia_snapshot(GENERATOR))
    report = tmp_path / "figures.json"
    out = good(capsys, "convert", source, "--json", report)
    figures = json.loads(report.read_text())
    assert figures["out"] == "ada.safetensors" and (tmp_path / "ada.safetensors").is_file()
    assert figures["family"] == "stylegan2" and figures["resolution"] == 16 and figures["latents"] == "6 x 12 (w_plus)"
    assert figures["parameters"] == sum(p.numel() for p in GENERATOR.parameters())
    assert good(capsys, "inspect", "ada.safetensors") in out
    assert "file of this package already" in mistake(capsys, "convert", "ada.safetensors")
    assert "expected a name that ends in .safetensors" in mistake(capsys, "convert", source, "--out", "x.pt")
    assert "there is no folder" in mistake(capsys, "convert", source, "--out", "nowhere/x.safetensors")
    assert "bundled names" in mistake(capsys, "convert", "missing.pkl")
    assert "run `ganaug fetch" in mistake(capsys, "inspect", "stylegan3-t-ffhq-1024")
    text = written(tmp_path / "text.pkl", b"not a pickle at all")
    assert str(text) in mistake(capsys, "inspect", text)
    numbers = written(tmp_path / "numbers.pt", saved({"a": torch.zeros(3), "b": 1}))
    assert "a dict with a, b is no known generator" in mistake(capsys, "convert", numbers)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: Capture) -> None:
    contents = rosinality_converted(GENERATOR)
    contents["g_ema"]["conv1.conv.weight"][0, 1, 2, 0, 0] = float("nan")
    path = written(tmp_path / "nan.pt", saved(contents))
    line = mistake(capsys, "inspect", path)
    assert str(path) in line and "NaN" in line


def test_precompute_from_a_published_file(tmp_path: Path, faces: Faces, training_file: Path, capsys: Capture) -> None:
    """Without an encoder photos are inverted by optimisation, judged by the bundled features; the header says so."""
    cache = tmp_path / "faces.lmdb"
    arguments = ("precompute", faces.root, "--cache", cache, "--generator", training_file, "--steps", 2, "--limit", 3)
    assert main([str(a) for a in arguments]) == 0
    capsys.readouterr()
    header = LatentCache(cache).header
    assert header.inverter["name"] == "optimization" and header.inverter["features_of"] == "faces64"
    assert header.fingerprint == load_generator(training_file).fingerprint
    assert len(LatentCache(cache)) == 3
    # The converted file is the same generator, so it serves the same cache.
    target = tmp_path / "converted.safetensors"
    convert(training_file, target)
    again = [target if argument is training_file else argument for argument in arguments]
    assert main([str(a) for a in again]) == 0


def test_fine_tuning_starts_from_a_published_file(training_file: Path) -> None:
    config = tuned(TrainConfig(), training_file)
    assert config.resolution == 16 and config.generator_channels == CONFIG.channels
    assert config.mapping_layers == 3 and config.w_dim == 12
    assert len(config.discriminator_channels) == len(CONFIG.channels)
