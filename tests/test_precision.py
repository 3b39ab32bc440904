"""Fast convolutions: only inside the context, only where the device has them, and close to float32."""

import pytest
import torch

from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.inversion.losses import Made, PerceptualLoss
from ganaug.precision import fast_convolutions, fast_dtype, multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganaug.precision.multiplies_bfloat16", lambda device_type: True)


def test_asked_for_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_dtype(CPU) is None
    with fast_convolutions():
        assert fast_dtype(CPU) == torch.bfloat16
        with fast_convolutions(False):
            assert fast_dtype(CPU) is None
        assert fast_dtype(CPU) == torch.bfloat16
    with pytest.raises(KeyError), fast_convolutions():
        raise KeyError
    assert fast_dtype(CPU) is None
    monkeypatch.setattr("ganaug.precision.multiplies_bfloat16", lambda device_type: False)
    with fast_convolutions():
        assert fast_dtype(CPU) is None


def test_what_devices_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not multiplies_bfloat16("mps")
    for can in (True, False):
        multiplies_bfloat16.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda can=can: can, raising=False)
        assert multiplies_bfloat16("cpu") == (can and torch.backends.mkldnn.is_available())
    monkeypatch.undo()
    multiplies_bfloat16.cache_clear()


def test_images_distances_and_gradients_are_close_and_float32() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGAN2(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8))).eval().requires_grad_(False)
        features = PerceptualFeatures((8, 8, 8), 16).eval()
    codes = generator.mapping(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)))
    photos = generator.synthesis(codes.flip(0))
    term = PerceptualLoss(features)
    targets = term.targets(photos, codes)

    def look() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        code = codes.clone().requires_grad_(True)
        made = generator.synthesis(code)
        distance = term(Made(made, code), targets)
        ((made - photos).square().mean() + distance.sum()).backward()
        assert code.grad is not None
        return made.detach(), distance.detach(), code.grad

    exact = look()
    with fast_convolutions():
        fast = look()
    for a, b in zip(exact, fast, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).norm() < 0.15 * a.norm()
    torch.testing.assert_close(exact[1], feature_distance(features(exact[0]), features(photos)))
