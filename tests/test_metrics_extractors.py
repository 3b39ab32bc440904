"""Where features come from, and under which name."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import CONFIG, random_generator
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.embedders import load_embedder
from ganaug.errors import CheckpointError, UserInputError
from ganaug.features import PooledFeatures, load_perceptual_features
from ganaug.known_weights import digest
from ganaug.metrics import Extractor, extractors, load_extractor

INCEPTION = "torch_fidelity.feature_extractor_inceptionv3"


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever is on this machine's disk; returns torch.hub's folder of weights."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder


def images(side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2


def test_bundled_features_without_inception(model_file: Path) -> None:
    extractor = load_extractor()
    assert (extractor.name, extractor.comparable) == ("discriminator-faces64", False)
    expected = PooledFeatures(load_perceptual_features(), "")(images().clamp(-1, 1))
    torch.testing.assert_close(extractor(images()), expected)
    assert extractor(images().double()).dtype == torch.float32
    assert extractor.logits(images()) is None
    own = load_extractor(model=model_file)
    assert own.name == load_extractor(model_file).name == load_extractor("perceptual", model_file).name
    assert own.name == "discriminator-random16"


def test_generator_without_discriminator_falls_back(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "published.safetensors"
    description = {"family": "stylegan2", "config": asdict(CONFIG)}
    checkpoints.write(path, {"generator": random_generator().state_dict()}, description, half=False)
    assert load_extractor(model=path).name == "discriminator-faces64"
    with pytest.raises(CheckpointError):
        load_extractor("perceptual", model=path)


def test_embedder_by_name() -> None:
    extractor = load_extractor("identity64")
    assert extractor.name == "embedder-identity64"
    torch.testing.assert_close(extractor(images()), load_embedder("identity64")(images().clamp(-1, 1)))


def test_wrong_images() -> None:
    extractor = Extractor("mean", lambda x: (x.mean(dim=(2, 3)), None))
    assert not extractor(torch.zeros(1, 3, 4, 4, requires_grad=True)).requires_grad
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(UserInputError, match="expected float images"):
            extractor(wrong)


def test_inception_is_not_downloaded(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("downloads"))
    with pytest.raises(UserInputError, match=f"no file weights-inception-.*pth in {empty_hub}"):
        load_extractor("inception")
    with pytest.raises(CheckpointError, match=r"there is no file .*mine\.pth"):
        load_extractor(empty_hub / "mine.pth")
    (empty_hub / extractors.INCEPTION_FILES[1]).write_bytes(b"something else")
    for name in (None, "inception", empty_hub / extractors.INCEPTION_FILES[1]):
        with pytest.raises(CheckpointError, match=r"is not Inception's file of https.*sha256 .*fetch it again"):
            load_extractor(name)


class Stub(nn.Module):
    """As torch-fidelity's network is called: weights from a file, uint8 images, the features asked for."""

    def __init__(self, name: str, features_list: list[str], path: str) -> None:
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        self.fc = nn.Linear(3, 4, bias=False)
        self.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.dtype == torch.uint8
        features = x.float().mean(dim=(2, 3))
        return features, self.fc(features)


def test_inception_with_its_file(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip(INCEPTION, reason="torch-fidelity comes with torchmetrics[image]")
    path = empty_hub / extractors.INCEPTION_FILES[0]
    weight = torch.arange(12.0).view(4, 3)
    torch.save({"fc.weight": weight}, path)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest(path))
    with pytest.raises(CheckpointError, match="does not hold Inception's weights: RuntimeError"):
        load_extractor("inception")  # into the real network
    monkeypatch.setattr(fidelity, "FeatureExtractorInceptionV3", Stub)
    for name in (None, "inception", path):
        extractor = load_extractor(name)
        assert (extractor.name, extractor.comparable) == ("inception-2015-12-05", True)
    features = (images().clamp(-1, 1) * 127.5 + 127.5).round().mean(dim=(2, 3))
    torch.testing.assert_close(extractor(images()), features)
    torch.testing.assert_close(extractor.logits(images()), features @ weight.t())
    for hidden in ("torch_fidelity", INCEPTION):
        monkeypatch.setitem(sys.modules, hidden, None)
    assert load_extractor().name == "discriminator-faces64"
    with pytest.raises(UserInputError, match=r"needs torch-fidelity: pip install 'ganaug\[eval\]'"):
        load_extractor("inception")


def test_real_inception_takes_our_images(empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true network with random weights: its shapes, its input type and its calling convention are as assumed."""
    fidelity = pytest.importorskip(INCEPTION, reason="torch-fidelity comes with torchmetrics[image]")
    path = empty_hub / extractors.INCEPTION_FILES[0]
    path.write_bytes(b"")
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", digest(path))
    monkeypatch.setattr(fidelity.torch, "load", lambda *_, **__: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    extractor = load_extractor("inception")
    features, logits = extractor.both(images(8)[:1])
    assert features.shape == (1, 2048) and logits is not None and logits.shape == (1, 1008)
