"""What is measured of inversions: against closed forms and naive loops, row by row."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganaug.embedders import EmbedderArchitecture, FaceEmbedder
from ganaug.faces.align import to_unit_range
from ganaug.features import PerceptualFeatures
from ganaug.gate import IdentityGate
from ganaug.gatekeeper import Gatekeeper
from ganaug.interfaces import UserInputError
from ganaug.inversion import QualityJudge, quality
from ganaug.inversion.quality import make_judge

SIZE = 32


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def features() -> PerceptualFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return PerceptualFeatures((6, 8, 8), 16).eval()


@pytest.fixture(scope="module")
def embedder() -> FaceEmbedder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = FaceEmbedder(EmbedderArchitecture(24, (4, 8), 6), "arcface", 0.25)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    """Seven smooth pictures and what might be their inversions, some pixels out of range."""
    coarse = torch.rand(7, 3, 5, 5, generator=seeded(3)) * 2 - 1
    photos = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(-1, 1)
    return photos + 0.3 * torch.randn(photos.shape, generator=seeded(4)), photos


def test_names_and_settings(features: PerceptualFeatures, embedder: FaceEmbedder) -> None:
    assert QualityJudge().names == ("mse", "psnr", "ssim") and QualityJudge().settings == {}
    assert QualityJudge(features).names == ("mse", "psnr", "ssim", "perceptual")
    assert QualityJudge(None, embedder).names == ("mse", "psnr", "ssim", "identity")
    judge = QualityJudge(features, embedder, template="fairface", features_of="one", embedder_of="two")
    assert judge.names == ("mse", "psnr", "ssim", "perceptual", "identity")
    told = judge.settings["judge"]
    assert told["perceptual"].startswith("one ") and told["identity"].startswith("two ")
    assert (told["template"], told["same_person"]) == ("fairface", 0.25)
    with torch.random.fork_rng(devices=[]):  # another network of the same name
        torch.manual_seed(9)
        other = PerceptualFeatures((6, 8, 8), 16).eval()
    assert QualityJudge(other, features_of="one").settings["judge"]["perceptual"] != told["perceptual"]
    assert QualityJudge(features, features_of="one").settings["judge"]["perceptual"] == told["perceptual"]


def test_closed_forms(features: PerceptualFeatures, embedder: FaceEmbedder, pairs: tuple[Tensor, Tensor]) -> None:
    judge = QualityJudge(features, embedder, template="fairface")
    same = judge(pairs[1], pairs[1])
    assert same["mse"].tolist() == [0.0] * 7 and same["psnr"].tolist() == [60.0] * 7
    assert torch.allclose(same["ssim"], torch.ones(7)) and torch.allclose(same["identity"], torch.ones(7))
    assert (same["perceptual"] >= 0).all() and (same["perceptual"] < 1e-6).all()
    grey = torch.zeros(1, 3, SIZE, SIZE)
    told = judge(grey + 0.2, grey)  # 0.1 in [0, 1]
    assert float(told["mse"]) == pytest.approx(0.01) and float(told["psnr"]) == pytest.approx(20.0)
    # Of flat pictures, SSIM is its luminance term (Wang et al. 2004, equation 6), C1 = 0.01^2.
    assert float(told["ssim"]) == pytest.approx((2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4), abs=1e-4)


def test_perceptual_is_the_naive_loop(features: PerceptualFeatures, pairs: tuple[Tensor, Tensor]) -> None:
    told = QualityJudge(features)(*pairs)["perceptual"]
    for i in range(7):
        layers = []
        shown = [image[i : i + 1].clamp(-1, 1) for image in pairs]  # as it would be seen
        for x, y in zip(*(features(image) for image in shown), strict=True):
            x, y = x[0].double(), y[0].double()
            places = [
                float(((x[:, r, c] / x[:, r, c].norm() - y[:, r, c] / y[:, r, c].norm()) ** 2).sum())
                for r in range(x.shape[1])
                for c in range(x.shape[2])
            ]
            layers.append(sum(places) / len(places))
        assert float(told[i]) == pytest.approx(sum(layers) / len(layers), rel=1e-4)


@pytest.mark.parametrize("template", ["fairface", "arcface", None])
def test_identity_is_what_a_gate_would_say(
    template: str | None, embedder: FaceEmbedder, pairs: tuple[Tensor, Tensor]
) -> None:
    told = QualityJudge(None, embedder, template=template)(*pairs)["identity"]
    keeper = Gatekeeper([IdentityGate(embedder)], SIZE, template)
    places = torch.eye(2, 3).expand(7, 2, 3)  # items that are the chips
    made, photos = (to_unit_range(images) for images in pairs)
    seen = keeper.look_at_photos(photos, places, [str(i) for i in range(7)])
    assert torch.allclose(told, keeper.judge(made, places, seen)[0], atol=1e-6)
    assert told.std() > 1e-3  # it says something


def test_the_framing_matters(embedder: FaceEmbedder, pairs: tuple[Tensor, Tensor]) -> None:
    """The embedder was trained on other crops than the generator's: it is shown its own."""
    told = [QualityJudge(None, embedder, template=name)(*pairs)["identity"] for name in ("arcface", "fairface")]
    assert not torch.allclose(*told, atol=1e-3)


def test_rows_are_their_own(
    features: PerceptualFeatures,
    embedder: FaceEmbedder,
    pairs: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = QualityJudge(features, embedder, template="fairface")
    whole = judge(*pairs)
    single = [judge(made[None], photo[None]) for made, photo in zip(*pairs, strict=True)]
    monkeypatch.setattr(quality, "_AT_ONCE_CPU", 3)
    parts = judge(*pairs)
    photos = pairs[1].clone()
    photos[2, 0, 5, 5] = float("nan")
    hurt = judge(pairs[0], photos)
    others = [0, 1, 3, 4, 5, 6]
    assert tuple(whole) == judge.names
    for name, values in whole.items():
        assert values.shape == (7,) and values.dtype == torch.float32 and values.isfinite().all()
        assert torch.allclose(values, torch.cat([one[name] for one in single]), rtol=1e-5, atol=1e-6)
        assert torch.allclose(values, parts[name], rtol=1e-5, atol=1e-6)
        assert hurt[name][2].isnan()
        assert torch.allclose(hurt[name][others], values[others], rtol=1e-5, atol=1e-6)


def test_no_image(features: PerceptualFeatures, embedder: FaceEmbedder) -> None:
    told = QualityJudge(features, embedder)(torch.empty(0, 3, SIZE, SIZE), torch.empty(0, 3, SIZE, SIZE))
    assert {name: tuple(values.shape) for name, values in told.items()}.keys() == set(
        QualityJudge(features, embedder).names
    )
    assert all(values.shape == (0,) for values in told.values())


def test_make_judge(model_file: Path, tmp_path: Path) -> None:
    judge = make_judge(model_file)
    assert judge.names == ("mse", "psnr", "ssim", "perceptual", "identity")
    told = judge.settings["judge"]
    assert told["perceptual"].startswith("random16 ") and told["identity"].startswith("identity64 ")
    assert told["template"] is None and 0.5 < told["same_person"] < 1.0
    assert make_judge(model_file, template="ffhq").settings["judge"]["template"] == "ffhq"
    assert make_judge("faces64").settings["judge"]["template"] == "fairface"
    alone = make_judge(model_file, None)
    assert alone.names == ("mse", "psnr", "ssim", "perceptual") and "identity" not in alone.settings["judge"]
    bundled = make_judge("identity64", None)  # a model without features of its own
    assert bundled.settings["judge"]["perceptual"] == make_judge("faces64", None).settings["judge"]["perceptual"]


def test_networks_that_will_not_do(embedder: FaceEmbedder) -> None:
    with pytest.raises(UserInputError, match=r"the embedder \(FaceEmbedder\) is in training mode"):
        QualityJudge(None, FaceEmbedder(EmbedderArchitecture(16, (4, 8))))
