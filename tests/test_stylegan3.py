"""StyleGAN3: numbers of the layers against published ones, the fast network against its textbook form, and reading."""

import copy
import json
import math
import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from naive_stylegan3 import naive_resample, naive_synthesis
from published_files import Persistent, nvidia_pickle, stylegan3_module
from torch import Tensor

from ganaug.alias_free import LayerSpec, kaiser_lowpass, layer_specs, radial_lowpass
from ganaug.errors import CheckpointError
from ganaug.generators.filtered_relu import filtered_leaky_relu
from ganaug.generators.stylegan3 import StyleGAN3, StyleGAN3Config, input_transform
from ganaug.interfaces import Generator
from ganaug.published import PublishedModel, stylegan2, stylegan3
from ganaug.published.container import open_tree

SIZES: dict[str, Any] = {"channel_base": 96, "channel_max": 7, "z_dim": 12, "w_dim": 10, "num_layers": 6}
T = StyleGAN3Config.scaled(16, **SIZES)
R = StyleGAN3Config.scaled(16, conv_kernel=1, use_radial_filters=True, **SIZES)
# No number at its default.
ODD = StyleGAN3Config.scaled(
    32,
    **{**SIZES, "num_layers": 5},
    num_critical=1,
    first_cutoff=1.5,
    first_stopband=3.5,
    last_stopband_rel=1.4,
    margin_size=7,
    filter_size=4,
    lrelu_upsampling=3,
    conv_clamp=0.75,
    output_scale=0.5,
    mapping_layers=3,
    c_dim=4,
)
SETTINGS = (
    "first_cutoff",
    "first_stopband",
    "last_stopband_rel",
    "filter_size",
    "lrelu_upsampling",
    "use_radial_filters",
)
CONFIGS = {"T": T, "R": R, "odd": ODD}


def randomized(config: StyleGAN3Config, seed: int = 0) -> StyleGAN3:
    """Every tensor but the filters random, also those that start at a constant."""
    rng = torch.Generator().manual_seed(seed)
    generator = StyleGAN3(config).eval().requires_grad_(False)
    for name, tensor in sorted(generator.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=rng)
        if name.endswith("filter"):
            continue
        if name.endswith("magnitude_ema"):
            tensor.copy_(0.5 + noise.square())
        elif name.endswith("transform"):
            tensor.copy_(input_transform(20.0, (0.1, -0.05)))
        elif name.endswith("freqs"):
            tensor.copy_(noise * config.first_cutoff)  # some beyond the cutoff
        elif "affine.bias" in name:
            tensor.copy_(1.0 + 0.3 * noise)
        else:
            tensor.copy_(noise * (100.0 if name.startswith("map_network.fc") and name.endswith("weight") else 1.0))
    return generator


def latents(generator: StyleGAN3, batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, *generator.latent_spec.shape, generator=torch.Generator().manual_seed(seed))


# --- numbers of the layers ---


def names(config: StyleGAN3Config) -> str:
    return " ".join(f"L{i}_{spec.out_size}_{spec.out_channels}" for i, spec in enumerate(layer_specs(config)))


def test_schedule_is_that_of_published_networks() -> None:
    """Layer names of NVIDIA's stylegan3-t-ffhq-1024x1024 and stylegan3-r-ffhqu-256x256."""
    assert names(StyleGAN3Config.scaled(1024)) == (
        "L0_36_512 L1_36_512 L2_52_512 L3_52_512 L4_84_512 L5_148_512 L6_148_512 L7_276_323 L8_276_203 L9_532_128 "
        "L10_1044_81 L11_1044_51 L12_1044_32 L13_1024_32 L14_1024_3"
    )
    r = StyleGAN3Config.scaled(256, channel_base=32768, channel_max=1024, conv_kernel=1, use_radial_filters=True)
    assert names(r) == (
        "L0_36_1024 L1_36_1024 L2_36_1024 L3_52_1024 L4_52_1024 L5_84_1024 L6_84_1024 L7_148_724 L8_148_512 "
        "L9_148_362 L10_276_256 L11_276_181 L12_276_128 L13_256_128 L14_256_3"
    )


def test_geometry_of_a_published_file() -> None:
    """Numbers stored in the layers of a 32 px network that the original project wrote."""
    specs = layer_specs(StyleGAN3Config.scaled(32, channel_base=512, channel_max=16))
    assert [spec.out_size for spec in specs] == [36] * 5 + [52] * 8 + [32] * 2
    assert [spec.in_rate for spec in specs] == [16] * 6 + [32] * 9
    assert [spec.padding for spec in specs] == [(9, 8)] * 5 + [(-6, -9)] + [(9, 8)] * 7 + [(-11, -12), (0, 0)]
    rising = specs[5]
    assert (rising.up, rising.up_taps, rising.down, rising.down_taps) == (4, 24, 2, 12)
    rgb = specs[14]
    assert (rgb.up, rgb.up_taps, rgb.down, rgb.down_taps, rgb.kernel) == (1, 1, 1, 1, 1)
    assert rgb.up_filter() is None and rgb.down_filter() is None
    late = specs[11]
    assert late.in_cutoff == pytest.approx(11.313708498984761, rel=1e-12)
    assert late.out_cutoff == pytest.approx(13.454342644059432, rel=1e-12)
    assert late.in_half_width == pytest.approx(4.686291501015239, rel=1e-12)
    assert late.out_half_width == pytest.approx(3.8932872807632624, rel=1e-12)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_padding_makes_sizes_fit_and_keeps_the_centre(config: StyleGAN3Config) -> None:
    for spec in layer_specs(config):
        x = torch.ones(1, 1, spec.in_size + spec.kernel - 1, spec.in_size + spec.kernel - 1)
        up = None if spec.up_taps == 1 else torch.ones(spec.up_taps)
        down = None if spec.down_taps == 1 else torch.ones(spec.down_taps)
        wide = naive_resample(x, up, spec.up, 1, spec.padding)
        assert naive_resample(wide, down, 1, spec.down, (0, 0)).shape[2:] == (spec.out_size, spec.out_size)
        # Output o is centred on this sample of the padded signal, in which input j stands at up * j + padding[0].
        filters = (spec.up_taps + spec.down_taps - 2) / 2
        centre_out = (spec.out_size - 1) / 2 * spec.down + filters
        centre_in = (spec.in_size + spec.kernel - 2) / 2 * spec.up + spec.padding[0]
        assert abs(centre_in - centre_out) <= 0.5


def test_filters_are_those_of_scipy() -> None:
    """First halves of scipy.signal.firwin(12, 2, width=12, fs=32) and firwin(6, 3, width=2, fs=20), scipy 1.17."""
    stored = {
        (12, 2, 12, 32): [0.00079190215, 0.0100183182, 0.0389495225, 0.0924127899, 0.156525615, 0.201301852],
        (6, 3, 2, 20): [0.0764736313, 0.1780309, 0.245495469],
    }
    for (taps, cutoff, width, rate), expected in stored.items():
        ours = kaiser_lowpass(taps, cutoff, width, rate)
        torch.testing.assert_close(ours, torch.tensor(expected + expected[::-1]), rtol=1e-6, atol=1e-8)


def test_filters_against_an_installed_scipy() -> None:
    signal = pytest.importorskip("scipy.signal")
    special = pytest.importorskip("scipy.special")
    for taps, cutoff, width, rate in (
        (12, 2.0, 12.0, 32.0),
        (24, 9.5, 11.0, 128.0),
        (6, 3.0, 2.0, 20.0),
        (7, 3.0, 2.0, 9.0),
    ):
        separable = torch.from_numpy(signal.firwin(taps, cutoff, width=width, fs=rate)).float()
        torch.testing.assert_close(kaiser_lowpass(taps, cutoff, width, rate), separable, rtol=1e-6, atol=1e-8)
        window = np.kaiser(taps, signal.kaiser_beta(signal.kaiser_atten(taps, width / (rate / 2))))
        expected = np.zeros((taps, taps))
        for i in range(taps):
            for j in range(taps):
                radius = max(math.hypot(i - (taps - 1) / 2, j - (taps - 1) / 2), 1e-9) / rate
                jinc = special.j1(2 * math.pi * cutoff * radius) / (math.pi * radius)
                expected[i, j] = jinc * window[i] * window[j]
        radial = torch.from_numpy(expected / expected.sum()).float()
        torch.testing.assert_close(radial_lowpass(taps, cutoff, width, rate), radial, rtol=1e-6, atol=1e-8)


def test_radial_filter_is_round_and_of_unit_gain() -> None:
    filter_ = radial_lowpass(12, 4.0, 8.0, 64.0).double()
    assert float(filter_.sum()) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(filter_, filter_.t())
    torch.testing.assert_close(filter_, filter_.flip(0))

    def gain(filter_: Tensor, angle_deg: float, frequency: float) -> float:
        t = (torch.arange(12) - 5.5) / 64
        angle = math.radians(angle_deg)
        phase = 2 * math.pi * frequency * (math.cos(angle) * t[:, None] + math.sin(angle) * t)
        return float((filter_ * phase.cos()).sum())

    line = kaiser_lowpass(12, 8.0, 8.0, 64.0).double()
    square = torch.outer(line, line)
    filter_ = radial_lowpass(12, 8.0, 8.0, 64.0).double()
    spread = [abs(gain(f, 0.0, 8.0) - gain(f, 45.0, 8.0)) for f in (filter_, square)]
    assert spread[0] < 0.6 * spread[1]  # the window is not round, the rest is
    assert abs(gain(filter_, 30.0, 16.0)) < 0.05 < gain(filter_, 30.0, 8.0)


# --- the nonlinearity ---


def textbook(
    x: Tensor,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    up: int,
    down: int,
    padding: tuple[int, int],
    clamp: float | None,
) -> Tensor:
    x = naive_resample(x, None if up_filter is None else up_filter * up, up, 1, padding)
    x = F.leaky_relu(x, 0.2)
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return naive_resample(x, down_filter, 1, down, (0, 0))


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize(
    "height, width, up, up_taps, down, down_taps, padding, radial",
    [
        (9, 9, 2, 12, 2, 12, (9, 8), False),
        (20, 14, 4, 24, 2, 12, (20, 19), False),
        (40, 40, 2, 12, 4, 24, (9, 8), False),
        (30, 30, 2, 12, 2, 12, (-11, -12), False),
        (26, 31, 2, 12, 2, 12, (9, 8), True),
        (30, 33, 2, 12, 2, 12, (-11, -12), True),
        (12, 13, 1, 1, 3, 5, (-3, 2), True),
        (12, 12, 1, 1, 1, 1, (1, 0), False),
        (12, 12, 2, 7, 1, 1, (3, 3), False),
        (10, 10, 2, 3, 2, 2, (-8, -6), False),
        (10, 10, 2, 3, 2, 12, (14, 13), False),
    ],
)
def test_filtered_leaky_relu_and_its_gradient(
    height: int,
    width: int,
    up: int,
    up_taps: int,
    down: int,
    down_taps: int,
    padding: tuple[int, int],
    radial: bool,
    clamp: float | None,
) -> None:
    """Random filters, neither symmetric nor smooth, over several tiles; every border case of padding and cropping."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    x = draw(2, 3, height, width).requires_grad_()
    up_filter = None if up_taps == 1 else draw(up_taps)
    down_filter = None if down_taps == 1 else draw(*[down_taps] * (2 if radial else 1))
    expected = textbook(x, up_filter, down_filter, up, down, padding, clamp)
    actual = filtered_leaky_relu(x, up_filter, down_filter, up=up, down=down, padding=padding, clamp=clamp)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    towards = draw(*expected.shape)
    (theirs,) = torch.autograd.grad(expected, x, towards)
    (mine,) = torch.autograd.grad(actual, x, towards)
    assert theirs.abs().max() > 0
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def test_filtered_leaky_relu_depends_on_its_own_sample() -> None:
    taps = kaiser_lowpass(12, 4.0, 4.0, 32.0)
    x = torch.randn(3, 5, 16, 16, generator=torch.Generator().manual_seed(0))

    def run(x: Tensor) -> Tensor:
        return filtered_leaky_relu(x, taps, taps, up=2, down=2, padding=(11, 10), clamp=256.0)

    torch.testing.assert_close(run(x)[1:2], run(x[1:2]), rtol=0, atol=0)


# --- the network ---


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_synthesis_equals_textbook_form(config: StyleGAN3Config, batch: int) -> None:
    generator = randomized(config)
    w_plus = latents(generator, batch)
    expected = naive_synthesis(copy.deepcopy(generator).double(), w_plus.double())
    actual = generator.to(memory_format=torch.channels_last).synthesis(w_plus)
    assert expected.std() > 0.02
    assert (actual - expected).abs().max() / expected.abs().max() < 2e-5


@pytest.mark.parametrize("config", [T, R], ids=["T", "R"])
def test_gradient_equals_textbook_form(config: StyleGAN3Config) -> None:
    generator = randomized(config).double()
    generator.synthesis_network.requires_grad_(True)
    w_plus = latents(generator, 2).double()
    target = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).double()
    w_plus.requires_grad_()
    wanted = [w_plus, *generator.synthesis_network.parameters()]
    mine = torch.autograd.grad((generator.synthesis_network(w_plus) * target).sum(), wanted)
    theirs = torch.autograd.grad((naive_synthesis(generator, w_plus) * target).sum(), wanted)
    for ours, reference in zip(mine, theirs, strict=True):
        assert reference.abs().max() > 0
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)


def test_transform_equals_textbook_form_and_replaces_the_stored_one() -> None:
    generator = randomized(T)
    w_plus = latents(generator, 2)
    stored = generator.synthesis_network.input.transform.clone()
    assert torch.equal(generator.synthesis(w_plus), generator.synthesis(w_plus, transform=stored))
    each = torch.stack([input_transform(-30.0), input_transform(0.0, (0.2, 0.1))])
    moved = generator.synthesis(w_plus, transform=each)
    expected = naive_synthesis(copy.deepcopy(generator).double(), w_plus.double(), each.double())
    assert (moved - expected).abs().max() / expected.abs().max() < 2e-5
    torch.testing.assert_close(moved[1:], generator.synthesis(w_plus[1:], transform=each[1]), rtol=1e-4, atol=1e-5)
    assert torch.equal(generator.synthesis_network.input.transform, stored)


def test_transform_moves_the_picture() -> None:
    """A quarter turn and whole-pixel shifts of the Fourier features, which are exact, in the directions promised."""
    network = randomized(replace(T, channels=(5,) * 6)).synthesis_network.input
    network.transform.copy_(torch.eye(3))
    network.affine.weight.zero_()
    network.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    w = torch.zeros(1, 10)
    still = network(w)
    turned = network(w, input_transform(90.0))
    torch.testing.assert_close(turned, still.rot90(1, dims=(2, 3)), rtol=1e-4, atol=1e-4)  # rot90: counter-clockwise
    moved = network(w, input_transform(shift=(3 / 16, 2 / 16)))  # 16 samples per image width: 3 right, 2 down
    torch.testing.assert_close(moved[:, :, 2:, 3:], still[:, :, :-2, :-3], rtol=1e-4, atol=1e-4)


def test_shift_of_the_input_shifts_the_image() -> None:
    """Translation equivariance, what the design is for: inside the margins, a whole pixel of the image is exact."""
    generator = randomized(replace(StyleGAN3Config.scaled(32, **SIZES), first_cutoff=1.0, first_stopband=6.0))
    w_plus = latents(generator, 1)
    still = generator.synthesis(w_plus, transform=torch.eye(3))
    moved = generator.synthesis(w_plus, transform=input_transform(shift=(2 / 32, 0.0)))
    error = (moved[..., 2:] - still[..., :-2])[:, :, 8:-8, 8:-8].std() / still.std()
    unmoved = (moved - still)[:, :, 8:-8, 8:-8].std() / still.std()
    assert error < 0.1 * unmoved


def test_noise_has_no_effect() -> None:
    generator = randomized(T)
    w_plus = latents(generator, 1)
    images = [generator.synthesis(w_plus, noise) for noise in ("const", "none", "random")]
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])


def test_mapping_equals_naive_loop() -> None:
    generator = randomized(ODD)
    network = generator.map_network
    z = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    c = torch.eye(4)[[2, 0, 3]]
    for row in range(3):
        embedded = network.embed.weight @ c[row] / 2 + network.embed.bias
        x = torch.cat([v / v.square().mean().sqrt() for v in (z[row], embedded)])
        for i in range(3):
            layer = network.get_submodule(f"fc{i}")
            y = layer.weight @ x * 0.01 / math.sqrt(len(x)) + layer.bias * 0.01
            x = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
        torch.testing.assert_close(generator.mapping(z, c)[row], x.expand(7, -1), rtol=1e-4, atol=1e-5)
        half = torch.lerp(generator.w_avg, x, 0.5).expand(7, -1)
        torch.testing.assert_close(generator.mapping(z, c, 0.5)[row], half, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_contract(config: StyleGAN3Config, fresh: bool) -> None:
    generator = randomized(config)
    if not fresh:
        generator = pickle.loads(pickle.dumps(generator))
    assert isinstance(generator, Generator)
    spec = generator.latent_spec
    assert spec.num_ws == len(config.channels) + 2
    c = torch.eye(4)[:2] if config.c_dim else None
    w_plus = generator.mapping(torch.randn(2, generator.z_dim), c)
    assert w_plus.shape == (2, spec.num_ws, spec.w_dim)
    images = generator.synthesis(w_plus)
    assert images.shape == (2, 3, generator.img_resolution, generator.img_resolution)
    assert images.dtype == torch.float32
    assert generator.w_avg.shape == (spec.w_dim,)
    assert generator.fingerprint == randomized(config).fingerprint
    assert StyleGAN3Config.from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_fingerprint_sees_every_tensor_and_the_architecture() -> None:
    reference = randomized(R).fingerprint
    for name in randomized(R).state_dict():
        changed = randomized(R)
        changed.state_dict()[name].reshape(-1)[:1].add_(1.0)
        assert changed.fingerprint != reference, name
    scaled = StyleGAN3(replace(R, output_scale=1.0))
    scaled.load_state_dict(randomized(R).state_dict())
    assert scaled.fingerprint != reference


def test_half_precision_is_close() -> None:
    """What a GPU computes in; float16 must not overflow or lose the image."""
    generator = randomized(T)
    w_plus = latents(generator, 2)
    exact = generator.synthesis(w_plus)
    half = generator.synthesis_network(w_plus, "const", torch.float16)
    assert half.dtype == torch.float32
    assert (half - exact).std() < 0.02 * exact.std()


def test_bad_arguments() -> None:
    generator = randomized(T)
    with pytest.raises(ValueError, match=r"expected w_plus of shape \(B, 8, 10\), got \(2, 10\)"):
        generator.synthesis(torch.zeros(2, 10))
    with pytest.raises(ValueError, match="noise must be"):
        generator.synthesis(torch.zeros(2, 8, 10), noise="loud")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected transform of shape \(3, 3\) or \(2, 3, 3\), got \(3, 3, 3\)"):
        generator.synthesis(torch.zeros(2, 8, 10), transform=torch.eye(3).expand(3, 3, 3))
    with pytest.raises(ValueError, match="unconditional"):
        generator.mapping(torch.zeros(2, 12), torch.zeros(2, 3))
    for wrong, message in {
        "img_resolution": (3, "img_resolution must be in"),
        "num_critical": (6, "num_critical must be in"),
        "conv_kernel": (5, "conv_kernel must be 1 or 3"),
        "first_cutoff": (8.0, "first_cutoff must be in"),
        "first_stopband": (1.0, "stopbands must lie above cutoffs"),
        "conv_clamp": (0.0, "conv_clamp must be positive"),
        "channels": ((4, 0), "positive numbers"),
    }.items():
        with pytest.raises(ValueError, match=message[1]):
            replace(T, **{wrong: message[0]})


# --- reading ---


def as_read(module: Persistent, tmp_path: Path, key: str | None = "G_ema") -> PublishedModel | None:
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_pickle(module if key is None else {key: module, "training_set_kwargs": None}))
    return stylegan3.read(open_tree(path))


def module_of(generator: StyleGAN3) -> Persistent:
    defaults = StyleGAN3Config()
    return stylegan3_module(
        generator,
        channel_base=96,
        **{
            name: getattr(generator.config, name)
            for name in SETTINGS
            if getattr(generator.config, name) != getattr(defaults, name)
        },
    )


@pytest.mark.parametrize("key", ["G_ema", "G", None])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_reading_gives_the_network_back(config: StyleGAN3Config, key: str | None, tmp_path: Path) -> None:
    """A snapshot, one without an average, and a bare module as PTI saves it."""
    generator = randomized(config)
    model = as_read(module_of(generator), tmp_path, key)
    assert model is not None
    assert model.description["family"] == "stylegan3"
    again = StyleGAN3(StyleGAN3Config.from_dict(json.loads(json.dumps(model.description["config"])))).eval()
    again.load_state_dict(model.parts["generator"])
    assert again.fingerprint == generator.fingerprint


def test_other_networks_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_pickle({"G_ema": module_of(randomized(T))}))
    assert stylegan2.read(open_tree(path)) is None
    for tree in ({}, [], {"g_ema": {}}, {"state_dict": {}}):
        assert stylegan3.read(tree) is None


def changed(path: str, name: str, value: Any) -> Persistent:
    """A file of T in which a module, or the tensors of one, say something else."""
    module = module_of(randomized(T))
    inner = module
    for part in filter(None, path.split(".")):
        inner = inner.state["_modules"][part]
    for kind in ("_parameters", "_buffers"):
        if name in inner.state[kind]:
            if value is None:
                del inner.state[kind][name]
            else:
                inner.state[kind][name] = value
            return module
    inner.state[name] = value
    return module


@pytest.mark.parametrize(
    "path, name, value, reason",
    [
        ("synthesis.L0_36_7", "padding", [8, 9, 8, 9], "L0_36_7.padding is .*, but the network's settings make it"),
        ("synthesis.L0_36_7", "in_size", np.array([36, 52]), "L0_36_7.in_size is"),
        ("synthesis.L0_36_7", "up_factor", 4, "L0_36_7.up_factor is 4"),
        ("synthesis.L0_36_7", "out_cutoff", 2.5, "L0_36_7.out_cutoff is 2.5"),
        ("synthesis.L0_36_7", "conv_clamp", 1, "clamp at different values"),
        ("synthesis.input", "bandwidth", 3.0, "input.bandwidth is 3.0"),
        ("synthesis.L1_36_7", "up_filter", torch.ones(10), r"up_filter has shape \(10,\), expected \(12,\)"),
        ("synthesis.L1_36_7", "down_filter", torch.ones(12, 12), r"down_filter has shape \(12, 12\)"),
        ("synthesis.L1_36_7", "down_filter", None, "tensor is missing.*layers.1.down_filter"),
        ("synthesis.L1_36_7", "weight", torch.ones(7, 7), "expected 4 axes"),
        ("synthesis.L1_36_7", "bias", torch.ones(7, dtype=torch.int64), "expected numbers with a fraction"),
        ("synthesis.input", "freqs", torch.ones(7, 3), r"freqs has shape \(7, 3\)"),
        ("synthesis", "margin_size", 11, "L0_36_7 is L0_38_7|input.size"),
        ("synthesis", "margin_size", 10**7, "settings make no StyleGAN3: margin_size"),
        ("synthesis", "img_resolution", 1 << 40, "settings make no StyleGAN3|expected a number"),
        ("synthesis", "num_critical", "two", "num_critical is 'two', expected a number"),
        ("synthesis", "num_critical", 1.5, "expected a whole number"),
        ("synthesis", "num_layers", 9, "synthesis.num_layers is 9"),
        ("synthesis", "_init_kwargs", {"first_cutoff": math.nan}, "first_cutoff is .*expected a number"),
        ("synthesis", "_init_kwargs", {"superres": True}, "made with 'superres', which is not known"),
        ("synthesis", "_init_kwargs", {"superres": np.zeros(3)}, "made with 'superres', which is not known"),
        ("", "img_channels", 1, "img_channels is 1"),
        ("mapping.fc0", "activation", "relu", "mapping.fc0.activation is 'relu'"),
        ("mapping", "num_layers", 3, "mapping.num_layers is 3"),
        ("mapping.fc0", "weight", None, "tensor is missing"),
    ],
)
def test_another_network_is_refused_with_the_reason(
    path: str, name: str, value: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        as_read(changed(path, name, value), tmp_path)


def test_learning_rate_multiplier_of_the_file_is_honoured(tmp_path: Path) -> None:
    """A mapping network of multiplier 1 stores the gains that its layers apply."""
    generator = randomized(T)
    module = module_of(generator)
    for i in range(2):
        layer = module.state["_modules"]["mapping"].state["_modules"][f"fc{i}"]
        inputs = layer.state["_parameters"]["weight"].shape[1]
        layer.state.update(weight_gain=np.float64(0.1 / math.sqrt(inputs)), bias_gain=0.1, activation="lrelu")
    model = as_read(module, tmp_path)
    assert model is not None
    for name in ("map_network.fc0.weight", "map_network.fc1.bias"):
        torch.testing.assert_close(model.parts["generator"][name], 10 * generator.state_dict()[name])


def test_a_missing_mean_latent_is_left_out(tmp_path: Path) -> None:
    model = as_read(changed("mapping", "w_avg", None), tmp_path)
    assert model is not None and "map_network.w_avg" not in model.parts["generator"]


def test_layer_specs_are_plain_numbers() -> None:
    assert all(isinstance(spec, LayerSpec) and type(spec.in_size) is int for spec in layer_specs(T))
