"""Files of pSp, e4e and ReStyle against their papers' networks, row by row."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import naive_encoders
import numpy as np
import pytest
import torch
from naive_encoders import Layout, published_file, random_state
from PIL import Image
from stylegan2_files import random_stylegan2, rosinality_state
from torch import Tensor

from ganaug import checkpoints
from ganaug.errors import CheckpointError, UserInputError
from ganaug.generators import StyleGAN2, StyleGAN2Config, load_generator
from ganaug.interfaces import Inverter
from ganaug.inversion import EncoderInverter, OptimizationInverter, build_inverter, load_encoder
from ganaug.inversion.feature_pyramid import FeaturePyramidEncoder, PyramidConfig
from ganaug.published import PublishedModel
from ganaug.published.encoders import read

TINY = Layout(
    channels=(4, 4, 6, 8, 12), blocks=(2, 2, 3, 1), reduction=2, depth=1, rows=8, w_dim=10
)  # sees 32 px: 16 times 2 ** depth
SIZE = 32
LAYOUTS = [
    replace(TINY, encoder_type="GradualStyleEncoder"),
    replace(TINY, encoder_type="GradualStyleEncoder", reduction=0),  # IR without squeeze-and-excitation
    TINY,
    replace(TINY, encoder_type="GradualStyleEncoder", input_nc=6),
    replace(TINY, encoder_type="BackboneEncoder", input_nc=6),
    replace(TINY, encoder_type="ProgressiveBackboneEncoder", input_nc=6),
    replace(TINY, encoder_type="ResNetGradualStyleEncoder"),
    replace(TINY, encoder_type="ResNetBackboneEncoder", input_nc=6),
    replace(TINY, encoder_type="ResNetProgressiveBackboneEncoder", input_nc=6),
    replace(TINY, encoder_type="BackboneEncoderUsingLastLayerIntoW"),
    replace(TINY, encoder_type="WEncoder"),
    replace(TINY, encoder_type="BackboneEncoderUsingLastLayerIntoWPlus"),
]


def make_generator(resolution: int = SIZE) -> StyleGAN2:
    channels = (6, 6, 5, 4, 4)[: resolution.bit_length() - 2]
    return random_stylegan2(StyleGAN2Config(resolution, 10, 10, 2, channels))


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return make_generator()


def drawn(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def file_of(layout: Layout, generator: StyleGAN2, **options: Any) -> dict[str, Any]:
    """A file as the projects write it; ``latent_avg`` holds the mean once per row."""
    decoder = rosinality_state(generator)
    mean = generator.w_avg.repeat(generator.latent_spec.num_ws, 1)
    contents: dict[str, Any] = published_file(layout, random_state(layout), decoder, mean, **options)
    return contents


def model_of(tree: Any) -> PublishedModel:
    model = read(tree)
    assert model is not None
    return model


def encoder_of(model: PublishedModel) -> FeaturePyramidEncoder:
    encoder = FeaturePyramidEncoder.unfilled(PyramidConfig.from_dict(model.description["encoder_config"]))
    encoder.load_state_dict(model.parts["encoder"])
    return encoder.eval().requires_grad_(False)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x.encoder_type}-{x.input_nc}-{x.reduction}")
def test_latents_are_those_of_the_naive_network(layout: Layout, generator: StyleGAN2) -> None:
    options = {"n_iters_per_batch": 3} if layout.input_nc == 6 else {}
    tree = file_of(layout, generator, **options)
    encoder = encoder_of(model_of(tree))
    size = encoder.config.input_size
    into_w = layout.encoder_type in ("WEncoder",) or "LastLayer" in layout.encoder_type
    assert size == (256 if into_w else SIZE)
    images = drawn(2, 3, size, size).clamp(-1, 1)
    found = encoder.encode(images, generator)
    state = random_state(layout)
    for i in range(2):
        wanted = naive_encoders.naive_encode(
            layout, state, images[i : i + 1], tree["latent_avg"], generator.synthesis, iterations=3
        )
        assert float((wanted - tree["latent_avg"]).abs().max()) > 0.1  # the network says something
        assert float((found[i : i + 1] - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def test_the_generator_is_the_one_in_the_file(generator: StyleGAN2) -> None:
    model = model_of(file_of(TINY, generator))
    assert model.description["family"] == "stylegan2"
    assert set(model.parts["generator"]) == set(generator.state_dict())
    for name, tensor in generator.state_dict().items():
        torch.testing.assert_close(model.parts["generator"][name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("resolution", [16, 64])
def test_photos_are_scaled_as_pillow_scales_them(resolution: int) -> None:
    generator = make_generator(resolution)
    layout = replace(TINY, rows=generator.latent_spec.num_ws)
    encoder = encoder_of(model_of(file_of(layout, generator)))
    images = drawn(1, 3, resolution, resolution).clamp(-1, 1)
    scaled = [
        np.asarray(Image.fromarray(channel.numpy()).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for channel in images[0]
    ]
    wanted = encoder.latent_avg + encoder(torch.from_numpy(np.stack(scaled))[None])
    torch.testing.assert_close(encoder.encode(images, generator), wanted, rtol=1e-4, atol=1e-5)


def test_e4e_of_the_published_size() -> None:
    """checkpoints.md 5.4: 621 tensors and 267 million parameters, mean latent (18, 512), 256 px."""
    shapes = naive_encoders.shapes(Layout())
    on_meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert len(on_meta) == 621
    assert round(sum(t.numel() for t in on_meta.values()) / 1e6) == 267
    config = StyleGAN2Config(1024, 512, 512, 8, (512, 512, 512, 512, 512, 256, 128, 64, 32))
    with torch.device("meta"):
        decoder = StyleGAN2(config)
    model = model_of(published_file(Layout(), on_meta, rosinality_state(decoder), torch.zeros(18, 512)))
    assert model.description["encoder"] == "e4e"
    with torch.device("meta"):
        encoder = FeaturePyramidEncoder(PyramidConfig.from_dict(model.description["encoder_config"]))
    encoder.load_state_dict(model.parts["encoder"], assign=True)
    assert encoder.config == PyramidConfig(18, 512, offsets=True)  # all defaults are those of the published file
    # Each of the 4 + 49 normalisations behind a convolution leaves 1 of its 4 vectors, each of the 24 before one 2.
    norms = [name for name in shapes if name.endswith("running_mean")]
    inner = sum(shapes[name][0] for name in norms if ".res_layer.0." in name)
    outer = sum(shapes[name][0] for name in norms) - inner
    counted = sum(t.numel() for t in model.parts["encoder"].values())
    assert counted == sum(t.numel() for t in on_meta.values()) - len(norms) - 2 * inner - 3 * outer + 18 * 512


@pytest.mark.parametrize(
    ("change", "method"),
    [
        (lambda mean: mean[0], "one row, flat"),
        (lambda mean: mean[:1], "one row"),
        (lambda mean: mean[None], "a batch of one"),
        (lambda mean: torch.cat([mean, mean, mean]), "more rows than the generator takes"),
        (lambda mean: mean.half(), "half precision"),
    ],
)
def test_forms_of_the_mean_latent(change: Callable[[Tensor], Tensor], method: str, generator: StyleGAN2) -> None:
    tree = file_of(TINY, generator)
    tree["latent_avg"] = change(tree["latent_avg"])
    model = model_of(tree)
    wanted = generator.w_avg.half().float() if method == "half precision" else generator.w_avg
    assert torch.equal(model.parts["encoder"]["latent_avg"], wanted.expand(8, 10))
    torch.testing.assert_close(model.parts["generator"]["map_network.w_avg"], wanted, rtol=0, atol=0)


def test_a_mean_of_codes_is_no_mean_of_w(generator: StyleGAN2) -> None:
    tree = file_of(TINY, generator)
    tree["latent_avg"] = drawn(8, 10)
    model = model_of(tree)
    assert torch.equal(model.parts["encoder"]["latent_avg"], tree["latent_avg"])
    assert "map_network.w_avg" not in model.parts["generator"]


def test_the_options_are_honoured(generator: StyleGAN2) -> None:
    plain = file_of(TINY, generator, start_from_latent_avg=False)
    assert model_of(plain).parts["encoder"]["latent_avg"].count_nonzero() == 0
    del plain["latent_avg"]
    assert model_of(plain).parts["encoder"]["latent_avg"].count_nonzero() == 0
    restyle = replace(TINY, encoder_type="BackboneEncoder", input_nc=6)
    iterative = file_of(restyle, generator, start_from_latent_avg=False, n_iters_per_batch=4)  # which it never reads
    assert torch.equal(model_of(iterative).parts["encoder"]["latent_avg"], iterative["latent_avg"])
    assert model_of(iterative).description["encoder_config"]["iterations"] == 4
    del iterative["opts"]["n_iters_per_batch"]
    assert model_of(iterative).description["encoder_config"]["iterations"] == 5
    single = file_of(TINY, generator, start_from_latent_avg=False, n_iters_per_batch=4)  # ReStyle's, but sees one photo
    assert torch.equal(model_of(single).parts["encoder"]["latent_avg"], single["latent_avg"])
    assert model_of(single).description["encoder_config"]["iterations"] == 1
    spaced = file_of(TINY, generator)
    wanted = model_of(spaced)
    spaced |= {"opts": Namespace(**spaced["opts"]), "global_step": 5, "optimizer": {"state": {}}, "best_val_loss": None}
    found = model_of(spaced)
    assert found.description == wanted.description
    assert all(torch.equal(found.parts["encoder"][name], t) for name, t in wanted.parts["encoder"].items())


def test_rows_that_the_generator_does_not_take_are_left_out(generator: StyleGAN2) -> None:
    many = replace(TINY, encoder_type="GradualStyleEncoder", rows=18)
    encoder = encoder_of(model_of(file_of(many, generator)))
    images = drawn(1, 3, SIZE, SIZE)
    wanted = naive_encoders.naive_rows(many, random_state(many), images)[:, :8]
    torch.testing.assert_close(encoder(images), wanted, rtol=1e-4, atol=1e-5)
    flat = replace(TINY, encoder_type="BackboneEncoderUsingLastLayerIntoWPlus", rows=18)
    large = drawn(1, 3, 256, 256)
    found = encoder_of(model_of(file_of(flat, generator)))(large)
    wanted = naive_encoders.naive_rows(flat, random_state(flat), large)[:, :8]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_bad_photo_harms_only_itself(generator: StyleGAN2) -> None:
    layout = replace(TINY, encoder_type="BackboneEncoder", input_nc=6)
    inverter = EncoderInverter(generator, encoder_of(model_of(file_of(layout, generator))))
    images = drawn(3, 3, SIZE, SIZE).clamp(-1, 1)
    wanted = inverter.invert(images).w_plus
    images[1] = float("nan")
    found = inverter.invert(images).w_plus
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[2], wanted[2])
    assert found[1].isnan().all()


@pytest.mark.parametrize("layout", [LAYOUTS[0], TINY, LAYOUTS[4]], ids=["psp", "e4e", "restyle"])
def test_converted_to_one_file_with_both(layout: Layout, generator: StyleGAN2, tmp_path: Path) -> None:
    model = model_of(file_of(layout, generator))
    path = tmp_path / "both.safetensors"
    checkpoints.write(path, model.parts, model.description, half=False)
    opened = load_generator(path)
    images = drawn(2, 3, SIZE, SIZE).clamp(-1, 1)
    wanted = encoder_of(model).encode(images, generator)
    encoder = load_encoder(path)
    assert isinstance(encoder, FeaturePyramidEncoder)
    torch.testing.assert_close(encoder.encode(images, opened), wanted, rtol=1e-5, atol=1e-5)
    iterations = {"iterations": 5} if layout.input_nc == 6 else {}
    told = {"encoder": model.description["encoder"], **iterations}
    plain = build_inverter("encoder", opened, path, torch.device("cpu"), 0)
    assert isinstance(plain, Inverter)
    assert plain.settings == {"name": "encoder", **told}
    hybrid = OptimizationInverter(opened, None, encoder, steps=2)
    assert hybrid.settings.items() >= {"name": "hybrid", "steps": 2, **told}.items()
    found = hybrid.invert(images)
    assert found.anchor is not None
    torch.testing.assert_close(found.anchor, wanted, rtol=1e-5, atol=1e-5)
    assert (hybrid.invert(images).quality["mse"] <= plain.invert(images).quality["mse"]).all()


def test_another_generator_is_refused() -> None:
    encoder = encoder_of(model_of(file_of(TINY, make_generator())))
    with pytest.raises(UserInputError, match=r"latents of shape \(8, 10\).*takes \(6, 10\)"):
        encoder.encode(drawn(1, 3, 16, 16), make_generator(16))


def _without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tree: tree["state_dict"].pop(name)


REFUSED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda t: t["state_dict"].update({"hypernet.conv1.weight": torch.zeros(1)}), "HyperStyle"),
    (lambda t: t["state_dict"].update({"extra.weight": torch.zeros(1)}), "'extra.weight'"),
    (lambda t: t["state_dict"].update({"encoder.body.7.extra": torch.zeros(1)}), "'body.7.extra'"),
    (lambda t: t["state_dict"].update({"encoder.latlayer1.bias": "text"}), "'encoder.latlayer1.bias'"),
    (lambda t: t["state_dict"].update({"encoder.latlayer1.bias": torch.zeros(3)}), r"\(3,\), expected \(12\)"),
    (_without("encoder.body.3.res_layer.4.running_var"), "no weights 'body.3.res_layer.4.running_var'"),
    (_without("encoder.styles.7.convs.4.weight"), "no weights 'styles.7.convs.4.weight'"),
    (_without("encoder.styles.0.convs.0.weight"), "no weights 'styles.0.convs.0.weight'"),
    (_without("decoder.conv1.conv.weight"), "conv1.weight"),
    (lambda t: t.update(state_dict={k: v for k, v in t["state_dict"].items() if "decoder" not in k}), "without its"),
    (lambda t: t.pop("opts"), "opts"),
    (lambda t: t["opts"].pop("encoder_type"), "encoder_type 'None'"),
    (lambda t: t["opts"].update(encoder_type="StyleCLIPMapper"), "encoder_type 'StyleCLIPMapper'.*Encoder4Editing"),
    (
        lambda t: t["opts"].update(encoder_type="BackboneEncoder"),
        "weights that the encoder_type of its opt",
    ),
    (lambda t: t["opts"].update(label_nc=19), "label maps"),
    (lambda t: t["opts"].update(dataset_type="cars_encode"), "4:3"),
    (lambda t: t.pop("latent_avg"), "lacks latent_avg"),
    (lambda t: t.update(latent_avg="text"), "latent_avg is not a tensor"),
    (lambda t: t.update(latent_avg=torch.zeros(5, 10)), r"latent_avg has shape \(5, 10\)"),
    (lambda t: t.update(latent_avg=torch.zeros(2, 2, 2)), r"latent_avg has shape \(2, 2, 2\)"),
]


@pytest.mark.parametrize(("spoil", "reason"), REFUSED)
def test_refused_with_the_reason(spoil: Callable[[dict[str, Any]], Any], reason: str, generator: StyleGAN2) -> None:
    tree = file_of(TINY, generator)
    spoil(tree)
    with pytest.raises(CheckpointError, match=reason):
        read(tree)


@pytest.mark.parametrize(("channels", "reason"), [(1, "reads 1 channels"), (19, "reads 19 channels")])
def test_encoders_of_other_pictures_are_refused(channels: int, reason: str, generator: StyleGAN2) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read(file_of(replace(TINY, input_nc=channels), generator))


@pytest.mark.parametrize("count", [0, 101, "5", None])
def test_senseless_iterations_are_refused(count: Any, generator: StyleGAN2) -> None:
    layout = replace(TINY, encoder_type="BackboneEncoder", input_nc=6)
    with pytest.raises(CheckpointError, match="n_iters_per_batch"):
        read(file_of(layout, generator, n_iters_per_batch=count))


@pytest.mark.parametrize(
    "tree",
    [None, [1], {}, {"state_dict": None}, {"state_dict": {}}, {"state_dict": {"encoder.conv1.weight": torch.zeros(1)}}],
)
def test_other_layouts_are_left_to_others(tree: Any) -> None:
    assert read(tree) is None
