"""Identity embedders: shape, scale and sizes, what folding changes (nothing), files that are none, and facenet."""

import inspect
import json
import math
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug import checkpoints, load_generator
from ganaug.embedders import (
    EMBEDDERS,
    AttributeClassifier,
    EmbedderArchitecture,
    FaceEmbedder,
    Facenet,
    load_embedder,
)
from ganaug.errors import CheckpointError, UserInputError
from ganaug.faces.templates import TEMPLATES
from ganaug.generators import load_prior
from ganaug.interfaces import Embedder
from ganaug.training.embedder_batches import ViewAugmentation
from ganaug.training.embedder_network import EmbedderNetwork

TINY = EmbedderArchitecture(
    img_resolution=16,
    channels=(4, 6, 8),
    embedding_dim=12,
    attributes={"age": ("0-9", "10-19", "20-29"), "gender": ("Female", "Male")},
    values={"age": (5.0, 15.0, 25.0)},
)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained_network(architecture: EmbedderArchitecture = TINY) -> EmbedderNetwork:
    """Random weights, and batch norms that are far from doing nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = EmbedderNetwork(architecture)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.2, 3.0)
    return network.eval()


def write(path: Path, embedder: FaceEmbedder, **changed: Any) -> Path:
    description = {
        "family": "face_embedder",
        "config": embedder.architecture.to_dict(),
        "template": embedder.template,
        "threshold": embedder.threshold,
        **changed,
    }
    checkpoints.write(path, {"embedder": embedder.state_dict()}, description, half=False)
    return path


def test_folding_changes_nothing() -> None:
    network = trained_network()
    images = noise(5, 16)
    with torch.no_grad():
        features, logits = network(images)
        folded = network.folded("fairface")
        assert torch.allclose(folded.features(images), features, atol=1e-5)
        assert torch.allclose(folded.logits(folded.features(images)), logits, atol=1e-5)
        assert torch.equal(network(images)[0], features)  # the network itself is as it was
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert features.std() > 0.1  # or a network of zeros would pass


def test_any_size_gives_unit_vectors() -> None:
    embedder = trained_network().folded("fairface")
    for height, width in ((16, 16), (40, 40), (9, 13), (64, 20)):
        images = noise(3, 64)[:, :, :height, :width]
        found = embedder(images)
        assert found.shape == (3, 12)
        assert found.dtype == torch.float32
        assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)
        by_hand = F.interpolate(images, (16, 16), mode="bilinear", antialias=True, align_corners=False)
        assert torch.allclose(found, embedder(by_hand), atol=1e-6)
    assert torch.equal(embedder(noise(3, 16).double()), embedder(noise(3, 16)))
    assert embedder(noise(0, 16).reshape(0, 3, 16, 16)).shape == (0, 12)
    with pytest.raises(UserInputError, match=r"\(B, 3, H, W\).*got shape \(3, 16, 16\)"):
        embedder(noise(1, 16)[0])


def test_a_row_depends_on_its_own_image() -> None:
    embedder = trained_network().folded("fairface")
    images = noise(4, 16)
    alone = torch.cat([embedder(image[None]) for image in images])
    assert torch.allclose(embedder(images), alone, atol=1e-6)


def test_attributes_are_probabilities_and_expected_values() -> None:
    embedder = trained_network().folded("fairface")
    told = embedder.attributes(noise(4, 16))
    logits = embedder.logits(embedder.features(noise(4, 16)))
    assert told["gender"].shape == (4, 2)
    for row, (ages, genders) in enumerate(zip(logits[:, :3].tolist(), logits[:, 3:].tolist(), strict=True)):
        weights = [math.exp(x) for x in ages]
        expected = sum(w * v for w, v in zip(weights, (5.0, 15.0, 25.0), strict=True)) / sum(weights)
        assert float(told["age"][row]) == pytest.approx(expected, abs=1e-4)
        assert float(told["gender"][row, 1]) == pytest.approx(1 / (1 + math.exp(genders[0] - genders[1])), abs=1e-5)
    bare = FaceEmbedder(EmbedderArchitecture(16, (4, 8)))
    assert bare.attribute_classes == {}
    with pytest.raises(UserInputError, match="without attributes"):
        bare.attributes(noise(1, 16))


def test_heads_as_classifiers() -> None:
    embedder = load_embedder()
    assert isinstance(embedder, FaceEmbedder)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    for name in ("gender", "race"):
        classifier = AttributeClassifier(embedder, name)
        assert classifier.classes == embedder.attribute_classes[name] and not classifier.training
        torch.testing.assert_close(classifier(images).softmax(dim=1), embedder.attributes(images)[name])
    with pytest.raises(UserInputError, match="no head for 'beard'; it has age, gender, race"):
        AttributeClassifier(embedder, "beard")


@pytest.mark.parametrize("copied", [False, True], ids=["fresh", "pickled"])
def test_contract(tmp_path: Path, copied: bool) -> None:
    """What a gate relies on, of the bundled embedder and of a file."""
    own = write(tmp_path / "own.safetensors", trained_network().folded("ffhq", 0.25))
    for name, dim, template in (("identity64", 128, "fairface"), (own, 12, "ffhq")):
        embedder = load_embedder(name)
        images = noise(2, 64)
        before = embedder(images)
        if copied:
            embedder = pickle.loads(pickle.dumps(embedder))
        assert isinstance(embedder, Embedder)
        assert torch.equal(embedder(images), before)
        assert (embedder.embedding_dim, embedder.template) == (dim, template)
        assert -1 < embedder.threshold < 1
        assert not embedder.training
        assert not any(p.requires_grad for p in embedder.parameters())
        images.requires_grad_(True)
        (gradient,) = torch.autograd.grad(embedder(images)[:, 0].sum(), images)
        assert gradient.abs().sum() > 0
    assert load_embedder(own).threshold == 0.25


def test_bundled_embedder_is_small_and_knows_faces() -> None:
    """Of drawn faces, an augmented view is nearest to its own face; two different ones fall below the threshold."""
    embedder = load_embedder()
    generator = load_generator("faces64")
    codes = load_prior("faces64").sample(24, torch.Generator().manual_seed(0))
    with torch.no_grad():
        faces = generator.synthesis(codes).clamp(-1, 1)
        views = ViewAugmentation()(
            faces,
            torch.rand(
                24, ViewAugmentation.num_uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
            ).numpy(),
        )
        cosines = embedder(faces) @ embedder(views).t()
    own = cosines.diagonal()
    others = cosines[~torch.eye(24, dtype=torch.bool)]
    assert (cosines.argmax(dim=1) == torch.arange(24)).float().mean() >= 0.8
    assert (own >= embedder.threshold).float().mean() >= 0.8
    assert (others < embedder.threshold).float().mean() >= 0.95
    told = embedder.attributes(faces)
    assert set(told) == {"age", "gender", "race"}
    assert bool(((told["age"] > 0) & (told["age"] < 80)).all())

    counted = 0

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal counted
        counted += output[0].numel() * module.weight[0].numel()

    for module in embedder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    embedder(noise(1, 64))
    assert counted < 18e6


def test_card_is_about_the_bundled_file() -> None:
    card = (checkpoints.ASSETS / "identity64.md").read_text()
    described = checkpoints.read_metadata(checkpoints.BUNDLED["identity64"])
    assert "CC BY 4.0" in described["licence"]
    assert "London" in described["licence"]
    assert "CC BY 4.0" in card
    assert f"{described['threshold']:.4f}" in card
    assert f"{described['training']['images_seen']:,}" in card
    assert described["calibration"]["false_accept_rate"] == 0.001
    assert "/" not in json.dumps([described["training"]["data"], described["calibration"]["data"]])
    assert checkpoints.BUNDLED["identity64"].stat().st_size < 2e6


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"family": "stylegan2"}, "expected 'face_embedder'"),
        ({"template": "passport"}, "unknown template 'passport'"),
        ({"threshold": 1.5}, "no cosine"),
        ({"threshold": "high"}, "damaged or incomplete"),
        ({"threshold": float("nan")}, "no cosine"),
        ({"config": {"img_resolution": 16, "channels": []}}, "sizes must be"),
        ({"config": {"img_resolution": 12, "channels": [4, 4, 4]}}, "cannot be halved"),
        ({"config": {"img_resolution": 16, "channels": [4, 6, 9]}}, "do not fit"),
        ({"config": {"img_resolution": 16, "channels": [10**9]}}, "sizes must be"),
        ({"config": {"depth": 3}}, "damaged or incomplete"),
        ({"config": None}, "damaged or incomplete"),
    ],
)
def test_files_that_are_damaged(tmp_path: Path, changed: dict[str, Any], what: str) -> None:
    path = write(tmp_path / "odd.safetensors", trained_network().folded("fairface"), **changed)
    with pytest.raises(CheckpointError, match=what) as caught:
        load_embedder(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_embedders(tmp_path: Path, model_file: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no embedder, but encoder, features, generator"):
        load_embedder(model_file)
    with pytest.raises(CheckpointError, match=r"no model 'identity65'.*identity64"):
        load_embedder("identity65")
    broken = trained_network().folded("fairface")
    with torch.no_grad():
        broken.fc.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"embedder\.fc\.bias has NaN"):
        load_embedder(write(tmp_path / "nan.safetensors", broken))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoints.BUNDLED["identity64"].read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_embedder(cut)
    with pytest.raises(CheckpointError, match="family 'face_embedder' is not known"):
        load_generator(checkpoints.BUNDLED["identity64"])


def test_facenet_gets_what_its_network_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpretrained, and small: the range and the size are what is ours."""
    asked = []

    class Stand(nn.Module):
        def __init__(self, pretrained: str) -> None:
            super().__init__()
            asked.append(pretrained)
            self.fc = nn.Linear(3, 512)

        def forward(self, x: Tensor) -> Tensor:
            asked.append((tuple(x.shape), float(x.min()), float(x.max())))
            return self.fc(x.mean(dim=(2, 3)))

    module = types.ModuleType("facenet_pytorch")
    module.InceptionResnetV1 = Stand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facenet_pytorch", module)
    embedder = load_embedder("facenet")
    assert isinstance(embedder, Facenet)
    assert isinstance(embedder, Embedder)
    assert embedder.template in TEMPLATES
    assert embedder.threshold == pytest.approx(0.379)  # 2 - 2 cos = 1.242
    images = noise(2, 64)
    images[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    found = embedder(images)
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)
    assert found.shape == (2, embedder.embedding_dim)
    black_and_white = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 160, 160)
    embedder(black_and_white)
    assert asked[0] == "vggface2"
    shape, low, high = asked[-1]
    assert shape == (2, 3, 160, 160)
    assert (low, high) == pytest.approx(((0 - 127.5) / 128, (255 - 127.5) / 128))


def test_facenet_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(UserInputError, match=r"pip install 'ganaug\[faces\]', or use 'identity64'"):
        load_embedder("facenet")

    def offline(pretrained: str) -> nn.Module:
        raise ConnectionError("no route to host")

    module = types.ModuleType("facenet_pytorch")
    module.InceptionResnetV1 = offline  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "facenet_pytorch", module)
    with pytest.raises(UserInputError, match=r"could not get its weights .*no route to host; go online once"):
        load_embedder("facenet")


def test_genuine_facenet_is_called_as_its_class_wants() -> None:
    """Its 27 million weights take seconds to draw, so the class is looked at only."""
    facenet = pytest.importorskip("facenet_pytorch")
    parameters = inspect.signature(facenet.InceptionResnetV1).parameters
    assert parameters["pretrained"].default is None
    assert parameters["classify"].default is False  # embeddings, not logits
    assert "vggface2" in inspect.getsource(sys.modules[facenet.InceptionResnetV1.__module__])


def test_registry_names() -> None:
    assert set(EMBEDDERS) == {"identity64", "facenet"}
