"""StyleGAN2 files of other projects: read, held against the textbook form, and refused with the reason."""

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive_stylegan2 as naive
import pytest
import torch
from published_files import Persistent, nvidia_pickle
from stylegan2_files import (
    mmagic_checkpoint,
    nvidia_module,
    nvidia_snapshot,
    nvidia_tensors,
    pti_file,
    random_stylegan2,
    rosinality_converted,
    rosinality_state,
    rosinality_training,
    saved,
)
from torch import Tensor

from ganaug import load_generator
from ganaug.errors import CheckpointError
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.published import rosinality, stylegan2
from ganaug.published.formats import read_model
from ganaug.published.tree import InertModule

SMALL = StyleGAN2Config(8, z_dim=5, w_dim=6, mapping_layers=2, channels=(4, 3))
SQUARE = replace(SMALL, z_dim=6)  # rosinality's mapping network takes as many numbers as it gives
CONFIGS = {
    "8px": SMALL,
    "32px": StyleGAN2Config(32, z_dim=6, w_dim=6, mapping_layers=8, channels=(7, 5, 4, 3)),
    "conditional": StyleGAN2Config(16, z_dim=4, w_dim=6, mapping_layers=3, channels=(5, 4, 3), c_dim=3),
    "clamped": StyleGAN2Config(16, z_dim=4, w_dim=6, mapping_layers=2, channels=(5, 4, 3), conv_clamp=0.5),
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def opened(folder: Path, contents: bytes) -> StyleGAN2:
    path = folder / "file"
    path.write_bytes(contents)
    generator = load_generator(path)
    assert isinstance(generator, StyleGAN2)
    return generator


def check_against_textbook(generator: StyleGAN2, original: StyleGAN2, lr_multiplier: float = 0.01) -> None:
    """W, truncated W and images, computed in float64 from the tensors that were written."""
    config = original.config
    tensors = {name: tensor.double() for name, tensor in nvidia_tensors(original).items()}
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(3, config.z_dim, generator=rng)
    c = torch.eye(config.c_dim)[[0, 2, 1]] if config.c_dim else None
    wide = None if c is None else c.double()
    for psi in (1.0, 0.6):
        expected = naive.mapping(tensors, z.double(), wide, psi, lr_multiplier)
        w_plus = generator.mapping(z, c, truncation_psi=psi)
        assert w_plus.shape == (3, generator.latent_spec.num_ws, config.w_dim)
        for row in range(w_plus.shape[1]):
            assert relative_error(w_plus[:, row], expected) < 2e-6
    w_plus = torch.randn(3, *generator.latent_spec.shape, generator=rng)
    for noise in ("const", "none"):
        expected = naive.synthesis(tensors, w_plus.double(), noise, config.conv_clamp)
        assert relative_error(generator.synthesis(w_plus, noise=noise), expected) < 5e-6


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dialect", ["ada", "sg3"])
def test_nvidia_snapshot_equals_the_textbook_form(tmp_path: Path, name: str, dialect: str) -> None:
    original = random_stylegan2(CONFIGS[name])
    generator = opened(tmp_path, nvidia_snapshot(original, dialect))
    assert generator.config == CONFIGS[name]
    assert generator.fingerprint == original.fingerprint
    check_against_textbook(generator, original)


def test_clamp_matters_in_the_test_above() -> None:
    original = random_stylegan2(CONFIGS["clamped"])
    tensors = nvidia_tensors(original)
    w_plus = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    free, clamped = (naive.synthesis(tensors, w_plus, "const", clamp) for clamp in (None, 0.5))
    assert relative_error(clamped, free) > 0.1


@pytest.mark.parametrize("name", ["8px", "conditional", "clamped"])
def test_pti_module_equals_the_textbook_form(tmp_path: Path, name: str) -> None:
    original = random_stylegan2(CONFIGS[name])
    generator = opened(tmp_path, pti_file(original))
    assert generator.config == CONFIGS[name]
    check_against_textbook(generator, original)
    assert read_model(tmp_path / "file").description["network"] == "module"


ROSINALITY: dict[str, Callable[[StyleGAN2], dict[str, Any]]] = {
    "converted": rosinality_converted,
    "training": rosinality_training,
    "bare": rosinality_state,
    "mmagic": mmagic_checkpoint,
    "DataParallel": lambda generator: {
        "g_ema": {f"module.{name}": tensor for name, tensor in rosinality_state(generator).items()}
    },
    "mmagic average": lambda generator: {
        "state_dict": {
            "generator_ema.steps": torch.tensor(5),
            **{
                name.replace("generator_ema.", "generator_ema.module."): tensor
                for name, tensor in mmagic_checkpoint(generator)["state_dict"].items()
            },
        }
    },
}


@pytest.mark.parametrize("size", [8, 32])
@pytest.mark.parametrize("kind", ROSINALITY)
def test_rosinality_and_mmagic_equal_the_textbook_form(tmp_path: Path, kind: str, size: int) -> None:
    original = random_stylegan2(SQUARE if size == 8 else CONFIGS["32px"])
    generator = opened(tmp_path, saved(ROSINALITY[kind](original)))
    assert generator.weights_fingerprint == original.weights_fingerprint
    if kind == "converted":
        assert generator.mean_latent is None
        assert generator.fingerprint == original.fingerprint
    else:
        assert set(generator.mean_latent or {}) == {"seed", "num_samples"}
        original.map_network.w_avg.copy_(generator.w_avg)
    check_against_textbook(generator, original)


def test_one_fingerprint_for_one_network(tmp_path: Path) -> None:
    original = random_stylegan2(SQUARE)
    files = [nvidia_snapshot(original), nvidia_snapshot(original, "sg3"), pti_file(original)]
    files += [saved(rosinality_converted(original))]
    assert {opened(tmp_path, contents).fingerprint for contents in files} == {original.fingerprint}
    clamped = opened(tmp_path, nvidia_snapshot(random_stylegan2(replace(SQUARE, conv_clamp=256.0))))
    training = opened(tmp_path, saved(rosinality_training(original)))
    assert len({original.fingerprint, clamped.fingerprint, training.fingerprint}) == 3
    assert {g.weights_fingerprint for g in (clamped, training)} == {original.weights_fingerprint}
    assert original.weights_fingerprint != original.fingerprint


def test_weights_fingerprint_sees_every_tensor_but_the_mean() -> None:
    reference = random_stylegan2(CONFIGS["conditional"])
    for name in reference.state_dict():
        changed = copy.deepcopy(reference)
        assert changed.weights_fingerprint == reference.weights_fingerprint
        changed.state_dict()[name].reshape(-1)[:1].add_(1.0)
        assert (changed.weights_fingerprint == reference.weights_fingerprint) == name.endswith("w_avg"), name


def test_fingerprint_of_an_estimated_mean_is_that_of_its_recipe() -> None:
    generator = random_stylegan2(SMALL)
    seen = {generator.fingerprint}
    for recipe in ({"seed": 0, "num_samples": 10}, {"seed": 1, "num_samples": 10}):
        generator.mean_latent = recipe
        before = generator.fingerprint
        generator.map_network.w_avg.add_(1e-6)
        assert generator.fingerprint == before
        generator.synthesis_network.b4.const.add_(1e-6)
        assert generator.fingerprint != before
        generator.synthesis_network.b4.const.copy_(random_stylegan2(SMALL).synthesis_network.b4.const)
        seen.add(before)
    assert len(seen) == 3


@pytest.mark.parametrize("multiplier", [0.01, 1.0, 0.002])
def test_other_learning_rate_multipliers_are_folded_in(tmp_path: Path, multiplier: float) -> None:
    original = random_stylegan2(CONFIGS["conditional"])
    for i in range(3):
        layer = original.map_network.get_submodule(f"fc{i}")
        layer.weight.mul_(0.01 / multiplier)
        layer.bias.mul_(0.01 / multiplier)
    stored = {
        f"mapping.fc{i}": {"weight_gain": multiplier / (10 if i == 0 else 6) ** 0.5, "bias_gain": multiplier}
        for i in range(3)
    }
    generator = opened(tmp_path, nvidia_snapshot(original, stored=stored))
    check_against_textbook(generator, original, lr_multiplier=multiplier)
    if multiplier == 0.01:
        assert torch.equal(generator.map_network.fc0.weight, original.map_network.fc0.weight)


CONVOLUTIONS = [f"synthesis.{name}" for name in ("b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb")]


def test_clamp_is_that_of_the_layers(tmp_path: Path) -> None:
    """The StyleGAN3 repository clamps at 256 unless told otherwise, and its arguments need not say so."""
    original = random_stylegan2(SMALL)
    stored = {name: {"conv_clamp": 256} for name in CONVOLUTIONS}
    assert opened(tmp_path, nvidia_snapshot(original, "sg3", stored=stored)).config.conv_clamp == 256.0
    options = {"_init_kwargs": {"synthesis_kwargs": {"conv_clamp": 8}}}
    assert opened(tmp_path, nvidia_snapshot(original, stored={"": options})).config.conv_clamp is None
    assert opened(tmp_path, nvidia_snapshot(original, stored={"": options}, dialect="sg3")).config.conv_clamp is None


def without_clamps(module: InertModule) -> None:
    for block in module.children["synthesis"].children.values():
        for layer in block.children.values():
            del layer.state["conv_clamp"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("options", [{"synthesis_kwargs": {"conv_clamp": 8}}, {"conv_clamp": 8}, {}])
def test_clamp_of_the_arguments_where_layers_hold_none(options: dict[str, Any]) -> None:
    module = inert(nvidia_module(random_stylegan2(SMALL), stored={"": {"_init_kwargs": options}}))
    without_clamps(module)
    model = stylegan2.read({"G_ema": module})
    assert model is not None
    assert model.description["config"]["conv_clamp"] == (8.0 if options else None)


def inert(written: Persistent) -> InertModule:
    """What the reader makes of a module, without a file."""
    state = dict(written.state)
    state["_modules"] = {name: inert(child) for name, child in state["_modules"].items()}
    return InertModule(written.class_name, state)


def test_average_is_preferred_and_missing_average_is_told(tmp_path: Path) -> None:
    original = random_stylegan2(SQUARE)
    without = (nvidia_pickle({"G": nvidia_module(original), "G_ema": None}), saved({"g": rosinality_state(original)}))
    for contents in without:
        assert opened(tmp_path, contents).weights_fingerprint == original.weights_fingerprint
        assert read_model(tmp_path / "file").description["network"] in ("G", "g")
    for contents in (nvidia_snapshot(original), saved(rosinality_training(original))):
        assert opened(tmp_path, contents).weights_fingerprint == original.weights_fingerprint
        assert read_model(tmp_path / "file").description["network"] in ("G_ema", "g_ema")


def test_without_noise_maps_or_mean(tmp_path: Path) -> None:
    original = random_stylegan2(SQUARE)
    endings = ("noise_const", "noise_strength", "w_avg")
    left_out = {name: None for name in nvidia_tensors(original) if name.endswith(endings)}
    old = {name: tensor for name, tensor in rosinality_state(original).items() if not name.startswith("noises.")}
    files = ((nvidia_snapshot(original, changed=left_out), True), (saved({"g_ema": old}), False))
    for contents, unnoised in files:
        generator = opened(tmp_path, contents)
        assert generator.mean_latent is not None
        w_plus = generator.mapping(torch.randn(2, 6, generator=torch.Generator().manual_seed(0)))
        expected = original.synthesis(w_plus, noise="none")
        assert relative_error(generator.synthesis(w_plus, noise="const"), expected) < 1e-6
        # The strengths of the old file are kept, those of a network without noise are zero.
        assert (relative_error(generator.synthesis(w_plus, noise="random"), expected) < 1e-6) == unnoised


def test_half_precision_and_layout_in_memory(tmp_path: Path) -> None:
    original = random_stylegan2(SMALL)
    for name, tensor in original.state_dict().items():
        tensor.copy_(tensor.half().float())
        assert tensor.dtype == torch.float32, name
    halved = {
        name: tensor.half().to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor.half()
        for name, tensor in nvidia_tensors(original).items()
    }
    generator = opened(tmp_path, nvidia_snapshot(original, changed=halved))
    assert generator.fingerprint == original.fingerprint


@pytest.mark.parametrize("rows", [(), (1,), (4,)])
def test_mean_latent_in_rows(rows: tuple[int, ...]) -> None:
    original = random_stylegan2(SQUARE)
    mean = original.w_avg.expand(*rows, 6).clone()
    state = rosinality.rosinality_generator(rosinality_state(original), mean)[1]
    assert torch.equal(state["map_network.w_avg"], original.w_avg)
    if rows == (4,):
        mean[2, 3] += 0.1  # the mean of an encoder's codes
        assert "map_network.w_avg" not in rosinality.rosinality_generator(rosinality_state(original), mean)[1]


def test_weights_without_the_axis_for_samples() -> None:
    original = random_stylegan2(SQUARE)
    flat = {name: tensor[0] if tensor.ndim == 5 else tensor for name, tensor in rosinality_state(original).items()}
    state = rosinality.rosinality_generator(flat)[1]
    for name, tensor in original.state_dict().items():
        if not name.endswith("w_avg"):
            assert torch.equal(state[name], tensor)


# What is done to a file -> what its refusal says.
NVIDIA_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "residual": ({"stored": {"synthesis.b8": {"architecture": "resnet"}}}, "architecture is 'resnet', but only 'skip'"),
    "activation": ({"stored": {"synthesis.b8.conv0": {"activation": "relu"}}}, r"conv0.activation is 'relu'"),
    "mapping": ({"stored": {"mapping.fc1": {"activation": "linear"}}}, r"mapping.fc1.activation is 'linear'"),
    "gain": ({"stored": {"synthesis.b8.conv1": {"act_gain": 1.0}}}, "activation gain 1, expected the square root of 2"),
    "no number": ({"stored": {"mapping.fc0": {"bias_gain": [1]}}}, "bias_gain is of type list, expected a number"),
    "too long": ({"stored": {"mapping.fc0": {"bias_gain": 10**20}}}, "bias_gain is of type int, expected a number"),
    "negative": ({"stored": {"mapping.fc0": {"weight_gain": -1.0}}}, "weight_gain is -1, expected a positive number"),
    "clamps": ({"stored": {"synthesis.b8.conv0": {"conv_clamp": 8}}}, "layers clamp at different values"),
    "clamp": ({"stored": {name: {"conv_clamp": 0} for name in CONVOLUTIONS}}, "conv_clamp is 0, expected a positive"),
    "says": ({"stored": {"": {"img_resolution": 64}}}, "img_resolution is 64, but its tensors are those of 8"),
    "layers": ({"stored": {"mapping": {"num_layers": 8}}}, "num_layers is 8, but its tensors are those of 2"),
    "filter": ({"changed": {"synthesis.b8.conv0.resample_filter": torch.full((4, 4), 1 / 16)}}, "not the resampling"),
    "long filter": ({"changed": {"synthesis.b8.resample_filter": torch.full((8,), 1 / 8)}}, "not the resampling"),
    "tall": (
        {"changed": {"synthesis.b4.const": torch.zeros(4, 8, 4)}},
        "starts from 8x4 px, expected 4x4",
    ),
    "shape": (
        {"changed": {"synthesis.b8.conv1.bias": torch.zeros(4)}},
        r"bias has shape \(4,\), expected \(3,\)",
    ),
    "unknown": ({"changed": {"synthesis.b8.skip.weight": torch.zeros(3, 4, 1, 1)}}, "has no synthesis.b8.skip.weight"),
    "elsewhere": ({"changed": {"encoder.weight": torch.zeros(3)}}, "has no encoder.weight"),
    "missing": ({"changed": {"synthesis.b8.conv0.weight": None}}, r"missing.*synthesis_network.b8.conv0.weight"),
    "one noise": ({"changed": {"synthesis.b8.conv0.noise_const": None}}, r"missing.*b8.conv0.noise_const"),
    "integers": ({"changed": {"mapping.fc0.bias": torch.zeros(6, dtype=torch.int64)}}, "fc0.bias is torch.int64"),
    "empty": ({"changed": {"synthesis.b8.torgb.weight": torch.zeros(0, 3, 1, 1)}}, "which fits no StyleGAN2"),
    "no mapping": ({"changed": {"mapping.fc0.weight": None, "mapping.fc0.bias": None}}, "missing.*fc0.weight"),
    "gap": ({"changed": {"synthesis.b32.const": torch.zeros(1)}}, "blocks make 4, 8, 32 px"),
    "channels": (
        {"changed": {f"synthesis.b{r}.torgb.weight": torch.zeros(4, c, 1, 1) for r, c in ((4, 4), (8, 3))}},
        r"4 channels, expected 3 \(RGB\)",
    ),
    "layer_features": ({"changed": {"mapping.fc0.weight": torch.zeros(9, 5)}}, "9 wide, expected 6 as w"),
    "embed_features": ({"changed": {"mapping.embed.weight": torch.zeros(9, 3)}}, "embedded in 9 numbers"),
}


@pytest.mark.parametrize("case", NVIDIA_REFUSED)
def test_nvidia_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    options, reason = NVIDIA_REFUSED[case]
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_snapshot(random_stylegan2(SMALL), **options))
    with pytest.raises(CheckpointError, match=rf"network\.pkl: .*{reason}"):
        load_generator(path)


def test_size_is_bounded() -> None:
    """Blocks of one channel and without noise maps: a file of some kilobytes for a network of gigabytes."""
    tiny = rosinality_state(random_stylegan2(StyleGAN2Config(8, 2, 2, 1, (1, 1))))
    state = {name: tensor for name, tensor in tiny.items() if not name.startswith("noises.")}
    for i in range(1, 10):
        for name, tensor in tiny.items():
            state[name.replace("convs.0", f"convs.{2 * i}").replace("convs.1", f"convs.{2 * i + 1}")] = tensor
            state[name.replace("to_rgbs.0", f"to_rgbs.{i}")] = tensor
    state = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    with pytest.raises(CheckpointError, match="it makes 4096 px, expected 8 to 2048"):
        rosinality.rosinality_generator(state)


def rosinality_with(**changed: Tensor | None) -> dict[str, Any]:
    state = {**rosinality_state(random_stylegan2(SQUARE)), **changed}
    return {"g_ema": {name: tensor for name, tensor in state.items() if tensor is not None}}


OTHER_REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "discriminator": (lambda: {"d": {"final_linear.0.weight": torch.zeros(2, 2)}}, "discriminator and no generator"),
    "bare discriminator": (lambda: {"final_linear.0.weight": torch.zeros(2, 2)}, "discriminator and no generator"),
    "GFPGAN": (lambda: {"params_ema": {"stylegan_decoder.style_mlp.1.weight": torch.zeros(2, 2)}}, "GFPGAN"),
    "BasicSR": (lambda: {"params_ema": {"style_mlp.1.weight": torch.zeros(2, 2)}}, "BasicSR"),
    "filter": (
        lambda: rosinality_with(**{"to_rgbs.0.upsample.kernel": torch.ones(4, 4)}),
        "kernel is not the",
    ),
    "wavelets": (lambda: rosinality_with(**{"iwt.ll": torch.ones(2, 2)}), "has no iwt.ll"),
    "SWAGAN": (lambda: rosinality_with(**{"to_rgb1.conv.weight": torch.zeros(1, 12, 4, 1, 1)}), "12 channels"),
    "twice": (
        lambda: rosinality_with(**{"conv1.bias": torch.zeros(4)}),
        "conv1.bias stand for",
    ),
    "missing": (lambda: rosinality_with(**{"convs.1.activate.bias": None}), "missing.*b8.conv1.bias"),
    "mean": (
        lambda: {**rosinality_with(), "latent_avg": torch.zeros(7)},
        r"latent_avg has shape \(7,\)",
    ),
    "conditional mmagic": (
        lambda: {
            "state_dict": {
                **mmagic_checkpoint(random_stylegan2(SQUARE))["state_dict"],
                "generator_ema.embed.bias": torch.zeros(6),
            }
        },
        "conditional StyleGAN2 of mmagic",
    ),
}


@pytest.mark.parametrize("case", OTHER_REFUSED)
def test_others_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    contents, reason = OTHER_REFUSED[case]
    path = tmp_path / "network.pt"
    path.write_bytes(saved(contents()))
    with pytest.raises(CheckpointError, match=rf"network\.pt: .*({reason})"):
        load_generator(path)


def test_nvidia_discriminator_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.pkl"
    for contents in ({"D": Persistent("Discriminator", {"x": torch.zeros(1)})}, Persistent("Discriminator", {})):
        path.write_bytes(nvidia_pickle(contents))
        with pytest.raises(CheckpointError, match="discriminator and no generator"):
            load_generator(path)


def test_other_layouts_are_left_to_others() -> None:
    stylegan3 = Persistent("Generator", {"mapping.w_avg": torch.zeros(2), "synthesis.input.weight": torch.zeros(2, 2)})
    semantic = {
        "g_ema": {"style.1.weight": torch.zeros(2, 2), "local_nets.0.linears.0.conv.weight": torch.zeros(2, 2)},
        "d": {"final_linear.0.weight": torch.zeros(2, 2)},
    }
    encoder = {"state_dict": {f"decoder.{name}": tensor for name, tensor in rosinality_with()["g_ema"].items()}}
    for tree in ({"G_ema": inert(stylegan3)}, inert(stylegan3), semantic, encoder, {}, [], None, torch.zeros(2)):
        assert stylegan2.read(tree) is None
        assert rosinality.read(tree) is None


def test_writers_write_what_torch_loads() -> None:
    """rosinality's files hold plain tensors: its own users open them with ``torch.load``."""
    contents = torch.load(io.BytesIO(saved(rosinality_converted(random_stylegan2(SQUARE)))), weights_only=True)
    assert contents["g_ema"]["convs.0.conv.weight"].shape == (1, 3, 4, 3, 3)
    assert contents["g_ema"]["noises.noise_2"].shape == (1, 1, 8, 8)
