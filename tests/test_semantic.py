"""SemanticStyleGAN: network and reader against the textbook form, and hair swapped through the main job."""

import argparse
import copy
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_faces
from naive_semantic import as_published, naive_published, naive_synthesis
from published_files import SEMANTIC_ARGS, semantic_file
from torch import Tensor
from torchvision.datasets import ImageFolder

from ganaug.cache import LatentCache
from ganaug.dataset import GANAugmentedDataset
from ganaug.edits import build_edits, default_edits, edits_for
from ganaug.errors import CheckpointError, UserInputError
from ganaug.faces.photos import photos_in_folder
from ganaug.generators import StyleGAN2, StyleGAN2Config, load_generator
from ganaug.generators.semantic import FACE_PARTS, SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.interfaces import Generator
from ganaug.inversion import OptimizationInverter
from ganaug.precompute import make_header, precompute
from ganaug.published.semantic import read

CPU = torch.device("cpu")

# Names in args -> sizes unlike the default ones: other counts, a start below half the coarse size, no refinement.
DIALECTS: dict[str, dict[str, Any]] = {
    "default": {},
    "scenes": {"seg_dim": 5, "transparent_dims": [3, 10, 12], "latent": 7, "n_mlp": 3},
    "no transparency": {"transparent_dims": ()},
    "no refinement": {"residual_refine": False},
    "deep start": {"min_feat_size": 4, "channels": (11, 8, 6)},
    "coarse joins last": {"size": 64, "coarse_size": 32, "min_feat_size": 16},
    "coarse never joins": {"coarse_size": 24},
    "no shared rows": {"base_layers": 0, "depth_layers": 1},
    "all shape": {"depth_layers": 4},
    "all shared": {"base_layers": 3},
    "no depth": {"base_layers": 0, "depth_layers": 0},
    "two parts": {"seg_dim": 2, "transparent_dims": (0, 1)},
}


def from_file(file: dict[str, Any]) -> SemanticStyleGAN:
    model = read(file)
    assert model is not None
    generator = SemanticStyleGAN(SemanticStyleGANConfig.from_dict(model.description["config"]))
    tensors = model.parts["generator"]
    left_out = generator.load_state_dict(tensors, strict=False)
    assert (left_out.missing_keys, left_out.unexpected_keys) == (["map_network.w_avg"], [])
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    return generator.eval().requires_grad_(False)


def codes(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference over largest value."""
    scale = expected.abs().max()
    assert scale > 0.1
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() / scale < tolerance


@pytest.mark.parametrize("name", DIALECTS)
def test_file_gives_what_the_textbook_form_makes_of_it(name: str) -> None:
    file = semantic_file(**DIALECTS[name])
    generator = from_file(file).to(memory_format=torch.channels_last)
    args = file["args"]
    exact = {key: tensor.double() for key, tensor in file["g_ema"].items()}
    num_ws = args.base_layers + 2 * args.seg_dim
    assert generator.latent_spec.shape == (num_ws, args.latent)
    assert generator.synthesis(codes((0, num_ws, args.latent))).shape == (0, 3, args.size, args.size)
    for rows in (num_ws, args.seg_dim * args.local_layers):
        w_plus = codes((3, rows, args.latent))
        images, parts = naive_published(exact, args, w_plus.double())
        made, logits = generator.synthesis(w_plus, return_parts=True)
        assert_close(made, images.float())
        assert_close(logits, parts.float())
        assert_close(generator.synthesis(w_plus), images.float())  # nothing is computed for the parts
    silent, _ = naive_published(exact, args, w_plus.double(), noise=False)
    assert_close(generator.synthesis(w_plus, noise="none"), silent.float())


def test_half_precision_and_training_files() -> None:
    file = semantic_file()
    half = {name: tensor.half() for name, tensor in file["g_ema"].items()}
    rounded = {name: tensor.double() for name, tensor in half.items()}
    w_plus = codes((2, 28, 12))
    training = {"g": {}, "d": {"final_linear.0.weight": torch.zeros(1)}, "g_optim": {}, "g_ema": half}
    generator = from_file({**training, "args": vars(file["args"])})  # args as a plain dict
    assert_close(generator.synthesis(w_plus), naive_published(rounded, file["args"], w_plus.double())[0].float())


def test_blocks_of_pixels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = from_file(semantic_file())
    w_plus = codes((2, 28, 12))
    whole = generator.synthesis(w_plus, return_parts=True)
    monkeypatch.setattr("ganaug.generators.semantic_local.PIXELS_PER_BLOCK", 37)
    for pieces, reference in zip(generator.synthesis(w_plus, return_parts=True), whole, strict=True):
        assert_close(pieces, reference)


def test_generator_in_published_form_and_back() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = SemanticStyleGAN(from_file(semantic_file()).config).eval().requires_grad_(False)
    tensors, args = as_published(generator)
    state = read({"g_ema": tensors, "args": argparse.Namespace(**vars(args))}).parts["generator"]  # type: ignore[union-attr]
    for name, tensor in generator.state_dict().items():
        if name != "map_network.w_avg":
            torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-7)
    w_plus = codes((2, 28, 12))
    for actual, expected in zip(
        generator.synthesis(w_plus, return_parts=True), naive_synthesis(generator, w_plus), strict=True
    ):
        assert_close(actual, expected)


def test_gradient_equals_textbook_form() -> None:
    file = semantic_file(seg_dim=4, transparent_dims=(2,))
    generator = from_file(file).double()
    generator.synthesis_network.local.position.copy_(_fourier(file["args"]))
    exact = {name: tensor.double() for name, tensor in file["g_ema"].items()}
    a = codes((2, 10, 12)).double().requires_grad_()
    b = a.detach().clone().requires_grad_()
    targets = codes((2, 3, 32, 32), 2).double(), codes((2, 4, 32, 32), 3).double()

    def gradient(made: tuple[Tensor, Tensor], w: Tensor) -> Tensor:
        return torch.autograd.grad(sum((x * y).sum() for x, y in zip(made, targets, strict=True)), w)[0]

    mine = gradient(_in_double(generator, a), a)
    theirs = gradient(naive_published(exact, file["args"], b), b)
    assert_close(mine, theirs)


def _in_double(generator: SemanticStyleGAN, w_plus: Tensor) -> tuple[Tensor, Tensor]:
    images, parts = generator.synthesis_network(w_plus, return_parts=True)
    return images.double(), parts.double()


def _fourier(args: Any) -> Tensor:
    axis = torch.linspace(-1, 1, args.coarse_size, dtype=torch.float64)
    grid = torch.stack([axis.repeat(args.coarse_size), axis.repeat_interleave(args.coarse_size)])
    bands = [grid]
    for i in range(args.size.bit_length() - 1):
        bands += [(2**i * grid).sin(), (2**i * grid).cos()]
    return torch.cat(bands)


def test_mapping_and_truncation() -> None:
    file = semantic_file()
    generator = from_file(file)
    generator.w_avg.copy_(codes((12,), 5))
    z = codes((4, 12))
    x = z / (z.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in (1, 2):
        weight, bias = file["g_ema"][f"style.{i}.weight"], file["g_ema"][f"style.{i}.bias"]
        x = x @ (weight * 0.01 / 12**0.5).t() + bias * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
    w_plus = generator.mapping(z)
    assert w_plus.shape == (4, 28, 12)
    torch.testing.assert_close(w_plus, x[:, None].expand(4, 28, 12))
    half = generator.w_avg + 0.5 * (x - generator.w_avg)
    torch.testing.assert_close(generator.mapping(z, truncation_psi=0.5)[:, 7], half)


def test_published_row_layout() -> None:
    """The released models' table: two shared rows, then shape and texture of each part."""
    config = SemanticStyleGANConfig()
    assert config.num_ws == 28
    assert list(config.parts) == list(FACE_PARTS)
    assert config.parts["background"] == (2, 3) and config.parts["face"] == (4, 5) and config.parts["hair"] == (16, 17)
    assert config.parts["earring"] == (26, 27)
    owned = [row for rows in config.parts.values() for row in rows]
    assert owned == list(range(2, 28))
    assert config.row_of_layer[0] == [2] * 6 + [3] * 4
    assert config.row_of_layer[7] == [0, 1] + [16] * 4 + [17] * 4
    scene = replace(config, num_parts=3, transparent=())
    assert scene.parts == {"background": (2, 3), "part1": (4, 5), "part2": (6, 7)}
    # As many rows as layers of all parts: the project takes them for a row of each layer, of which none is shared.
    twofold = replace(config, num_parts=2, local_layers=3, depth_layers=2, transparent=())
    assert twofold.num_ws == 6 and twofold.parts == {"background": (0, 1, 2), "part1": (3, 4, 5)}


def test_a_part_reacts_to_its_own_rows_alone() -> None:
    """Rows of one part leave the depths and features of all others as they are, bit for bit."""
    generator = from_file(semantic_file())
    network = generator.synthesis_network
    w_plus = codes((2, 28, 12))

    def layers(w: Tensor) -> tuple[Tensor, Tensor]:
        local = network.local
        return local.layers(local.position_weight @ local.position, local.modulated(network.expand(w)))

    x, depth = layers(w_plus)
    assert (depth[:, 0] == 0).all()
    for k, rows in enumerate(generator.latent_spec.parts.values()):
        changed = w_plus.clone()
        changed[:, list(rows)] += 1.0
        y, moved = layers(changed)
        others = [part for part in range(13) if part != k]
        assert torch.equal(y[:, others], x[:, others]) and torch.equal(moved[:, others], depth[:, others])
        assert not torch.equal(y[:, k], x[:, k])
        assert k == 0 or not torch.equal(moved[:, k], depth[:, k])
        texture = w_plus.clone()
        texture[:, rows[1]] += 1.0
        assert torch.equal(layers(texture)[1], depth)


@pytest.mark.parametrize("fresh", [True, False])
def test_contract(fresh: bool) -> None:
    generator = from_file(semantic_file())
    reference = generator.fingerprint
    if not fresh:
        generator = pickle.loads(pickle.dumps(generator))
    assert isinstance(generator, Generator)
    w_plus = generator.mapping(codes((3, generator.z_dim)))
    images = generator.synthesis(w_plus)
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.float32
    assert generator.w_avg.shape == (12,)
    assert generator.fingerprint == reference
    assert SemanticStyleGANConfig.from_dict({**asdict(generator.config), "channels": [12, 9]}) == generator.config
    changed = copy.deepcopy(generator)
    changed.synthesis_network.local.depth_bias[0] += 1.0
    assert changed.fingerprint != reference


def test_random_noise_differs_and_can_be_seeded() -> None:
    generator = from_file(semantic_file())
    w_plus = codes((2, 28, 12))
    draw = [
        generator.synthesis_network(w_plus, "random", None, torch.Generator().manual_seed(seed))[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_bad_arguments() -> None:
    generator = from_file(semantic_file())
    with pytest.raises(ValueError, match=r"shape \(B, 28, 12\) or \(B, 52, 12\), got \(2, 27, 12\)"):
        generator.synthesis(torch.zeros(2, 27, 12))
    with pytest.raises(ValueError, match="noise must be"):
        generator.synthesis(torch.zeros(2, 28, 12), noise="loud")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="unconditional"):
        generator.mapping(torch.zeros(2, 12), torch.zeros(2, 1))
    config = SemanticStyleGANConfig()
    for changes, message in (
        ({"img_resolution": 300}, "power of two"),
        ({"channels": ()}, "cannot be reached"),
        ({"coarse_resolution": 512}, "multiple of 16"),
        ({"coarse_resolution": 40}, "multiple of 16"),
        ({"base_layers": 7}, "base_layers <= depth_layers"),
        ({"num_parts": 1}, "at least 2"),
        ({"transparent": (13,)}, "from 0 to 12"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **changes)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------- files that cannot be served


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda file: file["g_ema"].pop(name)


def _set(name: str, tensor: Tensor) -> Callable[[dict[str, Any]], None]:
    return lambda file: file["g_ema"].update({name: tensor})


def _argue(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda file: setattr(file["args"], name, value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.pop("args"), "args lack base_layers, depth_layers, residual_refine, transparent_dims"),
        (_argue("residual_refine", None), "args lack residual_refine, which no tensor tells"),
        (_argue("base_layers", "two"), "base_layers 'two', expected a whole number"),
        (_argue("transparent_dims", 3), "transparent_dims '3', expected numbers of parts"),
        (_argue("size", torch.zeros(2)), "args say size tensor"),
        (_argue("residual_refine", "yes"), "residual_refine 'yes'"),
        (lambda file: [file["g_ema"].pop(f"local_nets.{k}.linears.0.conv.weight") for k in range(1, 13)], "one local"),
        (_argue("size", 64), "args say size 64, its tensors 32"),
        (_argue("min_feat_size", 16), "args say min_feat_size 16, its tensors 8"),
        (_argue("coarse_size", 8), "args say coarse_size 8, its tensors 16"),
        (_argue("n_mlp", 8), "args say n_mlp 8, its tensors 2"),
        (_without("style.2.bias"), "tensor style.2.bias is missing"),
        (_without("local_nets.12.to_depth.bias"), "tensor local_nets.12.to_depth.bias is missing"),
        (_without("render_net.noises.noise_0"), "noise_0 is missing"),
        (_set("local_nets.0.to_depth.bias", torch.zeros(1, 1, 1, 1)), "has no local_nets.0.to_depth.bias"),
        (_set("pos_embed.weights", torch.zeros(8, 18, 1, 1)), r"shape \(8, 18, 1, 1\), expected \(8, 22, 1, 1\)"),
        (_set("style.1.bias", torch.zeros(12, dtype=torch.int64)), "expected numbers with a fraction"),
        (_set("render_net.convs.0.blur.kernel", torch.ones(4, 4)), "not the resampling filter"),
        (_set("render_net.noises.noise_0", torch.zeros(1, 1, 1 << 13, 1).expand(1, 1, 1 << 13, 1 << 13)), "16384 px"),
        (_set("render_net.noises.noise_0", torch.zeros(1, 1, 12, 12)), "24 px"),
    ],
)
def test_other_files_are_refused_with_the_reason(damage: Callable[[dict[str, Any]], None], message: str) -> None:
    file = semantic_file()
    damage(file)
    with pytest.raises(CheckpointError, match=message):
        read(file)


def test_other_layouts_are_left_to_others() -> None:
    for tree in ([], {}, {"g_ema": {"input.input": torch.zeros(1)}}, {"g_ema": 3}, torch.zeros(2)):
        assert read(tree) is None


def test_sizes_that_args_do_not_tell_are_read_off_the_tensors() -> None:
    file = semantic_file()
    complete = read(file)
    known = {name: SEMANTIC_ARGS[name] for name in ("base_layers", "depth_layers", "residual_refine")}
    bare = read({**file, "args": {**known, "transparent_dims": (10, 12)}})
    assert complete is not None and bare is not None and complete.description == bare.description
    with pytest.raises(CheckpointError, match="lack coarse_size, which its tensors do not tell"):
        read({**semantic_file(coarse_size=24), "args": {**known, "transparent_dims": ()}})


# ---------------------------------------------------------------------------------- the main job


def test_hair_through_the_main_job(tmp_path: Path) -> None:
    """File -> latents of photos -> batches with hair of other faces; nothing else of the face is another's.

    What holds exactly: only the hair's two rows differ, so where neither face's hair is the nearest part, the coarse
    masks name the same part as before. The render net refines those masks looking at a neighbourhood, so that the
    final segmentation follows them as far as it was trained to; this file's refinement is small.
    """
    file = semantic_file(refinement=0.01)
    file["g_ema"]["local_nets.7.to_depth.bias"] += 2.0  # so that there is hair to see
    path = tmp_path / "faces.pt"
    torch.save(file, path)
    keys = write_faces(tmp_path / "images", per_class=4, size=(32, 32))
    generator = load_generator(path)
    assert isinstance(generator, SemanticStyleGAN)
    inverter = OptimizationInverter(generator, steps=4, learning_rate=1.5)
    cache = LatentCache.create(tmp_path / "faces.lmdb", make_header(generator, path, inverter))
    assert precompute(photos_in_folder(tmp_path / "images"), cache, inverter, CPU, progress=False).inverted == 8

    train = GANAugmentedDataset(
        ImageFolder(tmp_path / "images"),
        cache.path,
        ratio=1.0,
        edits=["hair"],
        classical=None,
        preserve=["identity"],
        paste="whole",
        gate=None,  # what a generator of random weights draws is nobody
    )
    assert train.cache.header.latent_spec == generator.latent_spec
    images, _, info = next(iter(train.loader(batch_size=8, return_info=True)))
    rows = list(generator.latent_spec.parts["hair"])
    own, edited = [], []
    for recipe in info["recipe"]:
        (applied,) = recipe.edits
        assert recipe.is_generated and applied.name == "hair" and applied.partner in set(keys) - {recipe.key}
        code, partner = (torch.from_numpy(cache.get(key).latents).float() for key in (recipe.key, applied.partner))
        own.append(code)
        edited.append(code.clone())
        edited[-1][rows] += applied.params["strength"] * (partner - code)[rows]
        assert 0.8 <= applied.params["strength"] <= 1.0
    before, after = torch.stack(own), torch.stack(edited)
    variants, parts = generator.synthesis(after, return_parts=True)
    torch.testing.assert_close(images, ((variants + 1) / 2).clamp(0, 1), rtol=0, atol=1e-4)

    network, hair = generator.synthesis_network, FACE_PARTS.index("hair")
    coarse = [network.local(network.expand(w_plus))[1].argmax(dim=1) for w_plus in (before, after)]
    final = [generator.synthesis(before, return_parts=True)[1].argmax(dim=1), parts.argmax(dim=1)]
    for was, now in (coarse, final):
        elsewhere = (was != hair) & (now != hair)
        assert 0.02 < (was != now).float().mean() < 0.5, "hair that moves"
        assert elsewhere.float().mean() > 0.3, "more than hair"
        changed = (was != now)[elsewhere].float().mean()
        assert changed == 0 if was is coarse[0] else changed < 0.005
    cache.close()


@pytest.mark.parametrize("name", FACE_PARTS)
def test_every_part_is_an_edit(name: str) -> None:
    generator = from_file(semantic_file())
    (edit,) = build_edits([name], generator)
    assert edit.touches and (name in ("background", "ear", "hair", "neck", "cloth", "glasses", "hat", "earring")) == (
        "identity" not in edit.touches
    )
    w_plus, partner = codes((2, 28, 12)), codes((2, 28, 12), 9)
    swapped = edit.apply(w_plus, {"partner": partner, "strength": torch.tensor([1.0, 0.5])})
    rows = generator.latent_spec.parts[name]
    for row in range(28):
        if row in rows:
            torch.testing.assert_close(swapped[0, row], partner[0, row])
            torch.testing.assert_close(swapped[1, row], (w_plus[1, row] + partner[1, row]) / 2)
        else:
            assert torch.equal(swapped[:, row], w_plus[:, row])


def test_edits_that_a_generator_cannot_have() -> None:
    generator = from_file(semantic_file())
    with pytest.raises(UserInputError, match=r"'fine' mixes resolutions.*expected one of background, face, .* pca7"):
        build_edits(["fine"], generator)
    with pytest.raises(UserInputError, match="unknown edit 'part3': expected one of background"):
        build_edits(["part3"], generator)
    scene = from_file(semantic_file(seg_dim=5))
    assert [edit.name for edit in build_edits(["part3", *default_edits(scene)], scene)] == ["part3", "background"]
    with pytest.raises(UserInputError, match="has the parts background, part1, part2, part3, part4"):
        build_edits(["hair"], scene)
    with pytest.raises(UserInputError, match="has no parts"):
        build_edits(["hair"], StyleGAN2(StyleGAN2Config(16, 12, 10, 2, (6, 6, 6))))
    assert default_edits(generator) == ["hair", "background", "cloth"]
    assert len(build_edits(edits_for(generator), generator)) == 13 + 4 + 8 + 13 + 2  # parts, aliases, pca ...
