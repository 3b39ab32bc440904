"""The fast StyleGAN2 against the textbook form: per-sample weights, zero insertion, explicit FIR."""

import copy
import hashlib
import json
import math
import pickle
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.generators.stylegan2 import SynthesisLayer, ToRGB
from ganaug.interfaces import Generator
from ganaug.layers import fir_kernel, upsample2d

CONFIG = StyleGAN2Config(img_resolution=32, z_dim=24, w_dim=16, mapping_layers=3, channels=(12, 10, 8, 6))


def randomized(config: StyleGAN2Config, seed: int = 0) -> StyleGAN2:
    """Every parameter random, also those that start at zero (noise strength, biases)."""
    rng = torch.Generator().manual_seed(seed)
    generator = StyleGAN2(config).eval().requires_grad_(False)
    for name, tensor in generator.named_parameters():
        scale = 0.3 if "bias" in name or "strength" in name else 1.0
        tensor.copy_(torch.randn(tensor.shape, generator=rng) * scale)
        if "affine.bias" in name:
            tensor.add_(1.0)
        if name.startswith("map_network") and name.endswith("weight"):
            tensor.mul_(100.0)
    for name, tensor in generator.named_buffers():
        if name.endswith(("noise_const", "w_avg")):
            tensor.copy_(torch.randn(tensor.shape, generator=rng))
    return generator


def textbook_upsample(x: Tensor) -> Tensor:
    """Zero insertion and a naive loop over the FIR's taps."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(taps, taps) / 64 * 4
    b, c, h, w = x.shape
    stuffed = torch.zeros(b, c, 2 * h, 2 * w, dtype=x.dtype)
    stuffed[:, :, ::2, ::2] = x
    padded = F.pad(stuffed, (2, 1, 2, 1))
    out = torch.zeros_like(stuffed)
    for i in range(4):
        for j in range(4):
            out += kernel[i, j] * padded[:, :, i : i + 2 * h, j : j + 2 * w]
    return out


def textbook_layer(layer: SynthesisLayer, x: Tensor, w: Tensor, noise: bool) -> Tensor:
    """Equations 1 to 3 of arXiv 1912.04958, one sample at a time."""
    out = []
    for row in range(x.shape[0]):
        style = F.linear(w[row], layer.affine.weight) / math.sqrt(w.shape[1]) + layer.affine.bias
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        sample = x[row : row + 1]
        if layer.up:
            y = F.conv_transpose2d(sample, weight.transpose(0, 1), stride=2)
            kernel = fir_kernel(4.0).to(x.dtype)[None, None].repeat(y.shape[1], 1, 1, 1)
            y = F.conv2d(F.pad(y, (1, 1, 1, 1)), kernel, groups=y.shape[1])
        else:
            y = F.conv2d(sample, weight, padding=1)
        if noise:
            y = y + layer.noise_const * layer.noise_strength
        out.append(F.leaky_relu(y + layer.bias[None, :, None, None], 0.2) * math.sqrt(2))
    return torch.cat(out)


def textbook_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    style = F.linear(w, layer.affine.weight) / math.sqrt(w.shape[1]) + layer.affine.bias
    weight = layer.weight[:, :, 0, 0] / math.sqrt(x.shape[1])
    return torch.einsum("bchw,oc,bc->bohw", x, weight, style) + layer.bias[None, :, None, None]


def textbook_synthesis(generator: StyleGAN2, w_plus: Tensor, noise: bool) -> Tensor:
    network = generator.synthesis_network
    x = image = None
    row = 0
    for resolution in network.resolutions:
        block = network.get_submodule(f"b{resolution}")
        if x is None:
            x = block.const[None].repeat(w_plus.shape[0], 1, 1, 1)
        else:
            x = textbook_layer(block.conv0, x, w_plus[:, row], noise)
            row += 1
        x = textbook_layer(block.conv1, x, w_plus[:, row], noise)
        row += 1
        rgb = textbook_rgb(block.torgb, x, w_plus[:, row])
        image = rgb if image is None else textbook_upsample(image) + rgb
    return image


@pytest.mark.parametrize("noise", ["const", "none"])
@pytest.mark.parametrize("batch", [1, 5])
def test_synthesis_equals_textbook_form(noise: str, batch: int) -> None:
    generator = randomized(CONFIG)
    w_plus = torch.randn(batch, *generator.latent_spec.shape, generator=torch.Generator().manual_seed(1))
    expected = textbook_synthesis(copy.deepcopy(generator).double(), w_plus.double(), noise == "const").float()
    actual = generator.to(memory_format=torch.channels_last).synthesis(w_plus, noise=noise)
    scale = expected.abs().max()
    assert scale > 0.5
    assert (actual - expected).abs().max() / scale < 1e-4


def test_gradient_equals_textbook_form() -> None:
    generator = randomized(CONFIG).double()
    w_plus = torch.randn(2, *generator.latent_spec.shape, generator=torch.Generator().manual_seed(2)).double()
    target = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()

    def gradient(images: Tensor, w: Tensor) -> Tensor:
        return torch.autograd.grad((images * target).sum(), w)[0]

    a, b = w_plus.clone().requires_grad_(), w_plus.clone().requires_grad_()
    # The affine layers and maps stay in float64: `synthesis` is for float32, its network is not.
    mine = gradient(generator.synthesis_network(a, "const"), a)
    theirs = gradient(textbook_synthesis(generator, b, True), b)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_folded_upsampling_equals_two_steps() -> None:
    layer = SynthesisLayer(5, 7, 4, 16, up=True, conv_clamp=None)
    x = torch.randn(3, 5, 8, 6)
    torch.testing.assert_close(layer.upsample(x, folded=True), layer.upsample(x, folded=False), rtol=1e-4, atol=1e-4)


def test_upsample_equals_naive_loop() -> None:
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(upsample2d(x, fir_kernel(4.0)), textbook_upsample(x))


def test_upsample_keeps_a_constant_inside() -> None:
    y = upsample2d(torch.ones(1, 1, 8, 8), fir_kernel(4.0))
    torch.testing.assert_close(y[:, :, 2:-2, 2:-2], torch.ones(1, 1, 12, 12))


def test_mapping_equals_naive_loop() -> None:
    generator = randomized(CONFIG)
    z = torch.randn(4, CONFIG.z_dim)
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(CONFIG.mapping_layers):
        layer = generator.map_network.get_submodule(f"fc{i}")
        y = F.linear(x, layer.weight * 0.01 / math.sqrt(x.shape[1]), layer.bias * 0.01)
        x = F.leaky_relu(y, 0.2) * math.sqrt(2)
    w_plus = generator.mapping(z)
    assert w_plus.shape == (4, 8, CONFIG.w_dim)
    for row in range(8):
        torch.testing.assert_close(w_plus[:, row], x)
    half = generator.mapping(z, truncation_psi=0.6)[:, 0]
    torch.testing.assert_close(half, generator.w_avg + 0.6 * (x - generator.w_avg))


CONDITIONAL = replace(CONFIG, c_dim=5)


def test_conditional_mapping_equals_naive_loop() -> None:
    """Published layout: z and the embedded c, each at unit second moment, side by side into ``fc0``."""
    generator = randomized(CONDITIONAL)
    network = generator.map_network
    assert tuple(network.embed.weight.shape) == (CONFIG.w_dim, 5)
    assert tuple(network.fc0.weight.shape) == (CONFIG.w_dim, CONFIG.z_dim + CONFIG.w_dim)
    z = torch.randn(4, CONFIG.z_dim)
    c = F.one_hot(torch.tensor([0, 4, 2, 0]), 5)
    for row in range(4):
        embedded = network.embed.bias.clone()
        for k in range(5):
            embedded += c[row, k] * network.embed.weight[:, k] / math.sqrt(5)
        halves = [z[row] / z[row].square().mean().sqrt(), embedded / embedded.square().mean().sqrt()]
        x = torch.cat(halves)
        for i in range(CONFIG.mapping_layers):
            layer = network.get_submodule(f"fc{i}")
            y = layer.weight @ x * 0.01 / math.sqrt(len(x)) + layer.bias * 0.01
            x = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        torch.testing.assert_close(generator.mapping(z, c)[row], x.expand(8, -1), rtol=1e-4, atol=1e-5)
        half = torch.lerp(generator.w_avg, x, 0.5).expand(8, -1)
        torch.testing.assert_close(generator.mapping(z, c, 0.5)[row], half, rtol=1e-4, atol=1e-5)


def test_fingerprint_of_before_conditions() -> None:
    """An unconditional generator keeps the hash that caches of before ``c_dim`` name."""
    generator = randomized(CONFIG)
    described = {"family": "stylegan2", **asdict(CONFIG)}
    del described["c_dim"], described["label_sizes"]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(generator.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    assert generator.fingerprint == digest.hexdigest()
    del described["family"]
    assert StyleGAN2Config.from_dict(described) == CONFIG  # a model file of before


def test_conv_clamp_bounds_the_image() -> None:
    config = StyleGAN2Config(16, 8, 8, 2, (8, 8, 8), conv_clamp=0.25)
    image = randomized(config).synthesis(torch.randn(2, 6, 8))
    free = randomized(StyleGAN2Config(16, 8, 8, 2, (8, 8, 8))).synthesis(torch.randn(2, 6, 8))
    # Three clamped toRGB outputs, each upsampled by a filter of gain one at most.
    assert image.abs().max() <= 3 * 0.25 + 1e-5 < free.abs().max()


def test_random_noise_differs_and_can_be_seeded() -> None:
    generator = randomized(CONFIG)
    w_plus = generator.mapping(torch.randn(1, CONFIG.z_dim))
    draw = [generator.synthesis_network(w_plus, "random", None, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert not torch.equal(generator.synthesis(w_plus, "const"), generator.synthesis(w_plus, "none"))


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("config", [CONFIG, CONDITIONAL], ids=["unconditional", "conditional"])
def test_contract(config: StyleGAN2Config, fresh: bool) -> None:
    generator = randomized(config)
    if not fresh:
        generator = pickle.loads(pickle.dumps(generator))
    assert isinstance(generator, Generator)
    spec = generator.latent_spec
    c = torch.eye(5)[:3] if config.c_dim else None
    w_plus = generator.mapping(torch.randn(3, generator.z_dim), c)
    assert w_plus.shape == (3, spec.num_ws, spec.w_dim)
    images = generator.synthesis(w_plus)
    assert images.shape == (3, 3, generator.img_resolution, generator.img_resolution)
    assert images.dtype == torch.float32
    assert generator.w_avg.shape == (spec.w_dim,)
    assert generator.fingerprint == randomized(config).fingerprint


def test_fingerprint_sees_every_tensor_and_the_architecture() -> None:
    reference = randomized(CONDITIONAL).fingerprint
    assert randomized(CONDITIONAL).to(memory_format=torch.channels_last).fingerprint == reference
    for name, _ in randomized(CONDITIONAL).state_dict().items():
        changed = randomized(CONDITIONAL)
        assert changed.fingerprint == reference  # also proves that a cached value does not survive the change
        changed.state_dict()[name].reshape(-1)[:1].add_(1.0)
        assert changed.fingerprint != reference, name
    clamped = StyleGAN2(replace(CONDITIONAL, conv_clamp=256.0))
    clamped.load_state_dict(randomized(CONDITIONAL).state_dict())
    assert clamped.fingerprint != reference


def test_bad_arguments() -> None:
    generator = randomized(CONFIG)
    with pytest.raises(ValueError, match=r"expected w_plus of shape \(B, 8, 16\), got \(2, 16\)"):
        generator.synthesis(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="noise must be"):
        generator.synthesis(torch.zeros(2, 8, 16), noise="loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unconditional"):
        generator.mapping(torch.zeros(2, 24), torch.zeros(2, 3))
    conditional = randomized(CONDITIONAL)
    with pytest.raises(ValueError, match=r"conditional: expected c of shape \(2, 5\), got none"):
        conditional.mapping(torch.zeros(2, 24))
    for shape in ((2, 4), (1, 5), (5,)):
        with pytest.raises(ValueError, match=rf"expected c of shape \(2, 5\), got shape \({shape[0]},"):
            conditional.mapping(torch.zeros(2, 24), torch.zeros(shape))
    with pytest.raises(ValueError, match="c_dim must be at least 0"):
        replace(CONFIG, c_dim=-1)
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2Config(img_resolution=48)
    with pytest.raises(ValueError, match="has 5 resolutions"):
        StyleGAN2Config(img_resolution=64, channels=(8, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_close() -> None:
    generator = randomized(CONFIG)
    w_plus = torch.randn(4, *generator.latent_spec.shape)
    expected = generator.synthesis(w_plus)
    actual = generator.cuda().synthesis(w_plus.cuda()).cpu()
    assert (actual - expected).abs().mean() < 0.05 * expected.abs().mean()
