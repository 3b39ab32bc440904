"""Low-rank deltas: against weights that are added up image by image, and all the way from an inverter to a batch."""

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import QUALITY, RESOLUTION, Faces, make_header, random_generator, random_latents
from PIL import Image
from test_stylegan2 import CONFIG, randomized
from torch import Tensor

from ganaug import GANAugmentedDataset
from ganaug.cache import LatentCache, Record
from ganaug.cached_faces import InversionDataset, draw_records
from ganaug.faces.align import Alignment, align, to_unit_range
from ganaug.features import PerceptualFeatures
from ganaug.generators import StyleGAN2, load_generator
from ganaug.generators.deltas import BIAS_UNIT, NOISE_UNIT, TORGB_UNIT, DeltaLayout, LayerDelta
from ganaug.generators.stylegan2 import SynthesisLayer, ToRGB
from ganaug.interfaces import Inverter, UserInputError
from ganaug.inversion import LatentEncoder, OptimizationInverter, PivotalInverter, build_inverter
from ganaug.layers import fir_kernel, upsample2d
from ganaug.stage import replay

BLOCKS = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return randomized(CONFIG)


@pytest.fixture(scope="module")
def layout(generator: StyleGAN2) -> DeltaLayout:
    ranks = {"b4.conv1": 1, "b8.conv0": 2, "b16.conv1": 3, "b32.conv0": 2, "b32.conv1": 1}
    return generator.delta_layout(ranks, noise=["b8.conv1", "b32.conv0"])


def some_numbers(layout: DeltaLayout, count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, layout.size, generator=torch.Generator().manual_seed(seed))


def some_codes(generator: StyleGAN2, count: int = 3) -> Tensor:
    return torch.randn(count, *generator.latent_spec.shape, generator=torch.Generator().manual_seed(1))


def naive_layer(layer: SynthesisLayer, x: Tensor, w: Tensor, change: dict[str, Tensor]) -> Tensor:
    """One image: the weights are added up, scaled by the style and divided by the norm of what they were before."""
    style = w @ layer.affine.weight.t() / math.sqrt(w.shape[1]) + layer.affine.bias
    before = layer.weight * style[0, None, :, None, None]
    weight = layer.weight
    if "out" in change:
        a, b = change["out"], change["taps"]  # (O, r), (9 r, I)
        rank, channels = a.shape[1], b.shape[1]
        taps = b.reshape(rank, 3, 3, channels)
        if not layer.up:
            taps = taps.flip(1, 2)
        weight = weight + torch.einsum("or,rhwi->oihw", a, taps) / math.sqrt(9 * channels)
    weight = weight * style[0, None, :, None, None] / (before.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if layer.up:
        y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        kernel = fir_kernel(gain=4.0).expand(len(weight), 1, 4, 4)
        y = F.conv2d(y, kernel, padding=1, groups=len(weight))
    else:
        y = F.conv2d(x, weight, padding=1)
    y = y + layer.noise_const * layer.noise_strength
    if "noise" in change:
        y = y + NOISE_UNIT * change["noise"]
    y = y + layer.bias[:, None, None]
    return torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)


def naive_torgb(layer: ToRGB, x: Tensor, w: Tensor, change: dict[str, Tensor]) -> Tensor:
    style = (w @ layer.affine.weight.t() / math.sqrt(w.shape[1]) + layer.affine.bias) / math.sqrt(x.shape[1])
    weight, bias = layer.weight, layer.bias
    if "weight" in change:
        weight, bias = weight + TORGB_UNIT * change["weight"][:, :, None, None], bias + BIAS_UNIT * change["bias"]
    return F.conv2d(x, weight * style[0, None, :, None, None], bias)


def naive_synthesis(generator: StyleGAN2, w_plus: Tensor, layout: DeltaLayout, numbers: Tensor) -> Tensor:
    """Image by image; numbers are taken off the front one after the other, in the order of the documentation."""
    images = []
    for code, row in zip(w_plus, numbers, strict=True):
        rest = row

        def take(*shape: int) -> Tensor:
            nonlocal rest
            piece, rest = rest[: math.prod(shape)].reshape(shape), rest[math.prod(shape) :]
            return piece

        changes: dict[str, dict[str, Tensor]] = {}
        for block in BLOCKS:
            for name in ("conv0", "conv1", "torgb"):
                full = f"b{block}.{name}"
                if full == "b4.conv0":
                    continue
                layer = generator.synthesis_network.get_submodule(full)
                out, channels = layer.weight.shape[:2]
                found = changes.setdefault(full, {})
                if layout.ranks.get(full):
                    rank = layout.ranks[full]
                    found |= {"out": take(out, rank), "taps": take(9 * rank, channels)}
                if full in layout.noise:
                    found["noise"] = take(1, block, block)
                if name == "torgb" and layout.torgb:
                    found |= {"weight": take(3, channels), "bias": take(3)}
        assert not len(rest)
        network, image = generator.synthesis_network, None
        x = network.get_submodule("b4").const[None]
        for number, block in enumerate(BLOCKS):
            layers, first = network.get_submodule(f"b{block}"), max(2 * number - 1, 0)
            for name in ("conv0", "conv1")[number == 0 :]:
                x = naive_layer(getattr(layers, name), x, code[first : first + 1], changes[f"b{block}.{name}"])
                first += 1
            rgb = naive_torgb(layers.torgb, x, code[first : first + 1], changes[f"b{block}.torgb"])
            image = rgb if image is None else upsample2d(image, fir_kernel(gain=4.0)) + rgb
        images.append(image)
    return torch.cat([image for image in images if image is not None])


def test_equals_weights_added_up_image_by_image(generator: StyleGAN2, layout: DeltaLayout) -> None:
    codes, numbers = some_codes(generator), some_numbers(layout)
    got = generator.synthesis(codes, delta=layout.bind(numbers))
    wanted = naive_synthesis(generator, codes, layout, numbers)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (got - generator.synthesis(codes)).abs().mean() > 0.1  # the deltas are no small matter


def test_gradients_equal_those_of_the_naive_form(generator: StyleGAN2, layout: DeltaLayout) -> None:
    codes, numbers = some_codes(generator, 2), some_numbers(layout, 2).requires_grad_(True)
    weights = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad((generator.synthesis(codes, delta=layout.bind(numbers)) * weights).sum(), numbers)[0]
    wanted = torch.autograd.grad((naive_synthesis(generator, codes, layout, numbers) * weights).sum(), numbers)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))


def test_the_start_changes_nothing(generator: StyleGAN2, layout: DeltaLayout) -> None:
    codes, start = some_codes(generator), layout.start()
    drawn = generator.synthesis(codes, delta=layout.bind(start.expand(3, -1)))
    torch.testing.assert_close(drawn, generator.synthesis(codes), rtol=1e-5, atol=1e-5)
    zeros = generator.synthesis(codes, delta=layout.bind(torch.zeros(3, layout.size)))
    torch.testing.assert_close(zeros, generator.synthesis(codes), rtol=1e-5, atol=1e-5)
    # and from there each image finds its way: whatever multiplies B gets a gradient at once
    numbers = start.expand(2, -1).clone().requires_grad_(True)
    loss = generator.synthesis(codes[:2], delta=layout.bind(numbers)).square().sum()
    gradient = torch.autograd.grad(loss, numbers)[0]
    assert (gradient[:, start == 0.0] != 0.0).float().mean() > 0.95


def test_a_row_is_its_own_images(generator: StyleGAN2, layout: DeltaLayout) -> None:
    codes, numbers = some_codes(generator), some_numbers(layout)
    together = generator.synthesis(codes, delta=layout.bind(numbers))
    alone = [generator.synthesis(c[None], delta=layout.bind(n[None])) for c, n in zip(codes, numbers, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_bfloat16(generator: StyleGAN2, layout: DeltaLayout) -> None:
    """What CUDA runs: eight bits, so some percent of the picture's spread."""
    codes, numbers = some_codes(generator), some_numbers(layout) * 0.3
    exact = generator.synthesis(codes, delta=layout.bind(numbers))
    rough = generator.synthesis_network(codes, "const", torch.bfloat16, delta=layout.bind(numbers))
    assert rough.dtype == torch.float32
    plain = generator.synthesis_network(codes, "const", torch.bfloat16)
    error = (rough - exact).square().mean().sqrt()
    assert error < 1.5 * (plain - generator.synthesis(codes)).square().mean().sqrt() + 1e-3


def test_the_folded_upsampling_of_gpus(
    generator: StyleGAN2, layout: DeltaLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, numbers = some_codes(generator), some_numbers(layout)
    plain = generator.synthesis(codes, delta=layout.bind(numbers))
    upsample = SynthesisLayer.upsample
    monkeypatch.setattr(SynthesisLayer, "upsample", lambda self, x, folded: upsample(self, x, True))
    torch.testing.assert_close(generator.synthesis(codes, delta=layout.bind(numbers)), plain, rtol=1e-4, atol=1e-4)


def test_only_noise_maps(generator: StyleGAN2) -> None:
    """A delta of rank 0: the stored map of a layer, changed for each image."""
    layout = generator.delta_layout(0, torgb=False, noise=["b16.conv1"])
    assert layout.size == 256
    codes, numbers = some_codes(generator, 2), some_numbers(layout, 2)
    for row in range(2):
        other = copy.deepcopy(generator)
        layer = other.synthesis_network.get_submodule("b16.conv1")
        layer.noise_const += NOISE_UNIT * numbers[row].reshape(16, 16) / layer.noise_strength
        got = generator.synthesis(codes[row : row + 1], delta=layout.bind(numbers[row : row + 1]))
        torch.testing.assert_close(got, other.synthesis(codes[row : row + 1]), rtol=1e-4, atol=1e-4)
        # what asks for no noise gets none
        without = generator.synthesis(codes[row : row + 1], noise="none", delta=layout.bind(numbers[row : row + 1]))
        torch.testing.assert_close(without, generator.synthesis(codes[row : row + 1], noise="none"))


def test_float16_loses_next_to_nothing(generator: StyleGAN2) -> None:
    layout = generator.delta_layout(2, noise=True)
    codes, numbers = some_codes(generator), some_numbers(layout)
    exact = generator.synthesis(codes, delta=layout.bind(numbers))
    stored = generator.synthesis(codes, delta=layout.bind(numbers.half()))
    assert (stored - exact).square().mean() < 1e-6 * exact.square().mean()


def test_layouts_go_through_json(generator: StyleGAN2, layout: DeltaLayout) -> None:
    described = json.loads(json.dumps(layout.to_dict()))
    assert DeltaLayout.of(described, generator) == layout and described["kind"] == "low_rank"
    assert described["size"] == layout.size == layout.start().numel()
    full = generator.delta_layout()
    assert set(full.ranks) <= {name for name, shape in full.shapes.items() if shape.kernel == 3}
    assert pickle.loads(pickle.dumps(full)) == full


def test_layouts_that_are_refused(generator: StyleGAN2, layout: DeltaLayout, model_file: Path) -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: generator.delta_layout({"b64.conv1": 1}), "no layer 'b64.conv1'"),
        (lambda: generator.delta_layout({"b4.torgb": 1}), "no layer 'b4.torgb'"),
        (lambda: generator.delta_layout(-1), "whole numbers from 0 up"),
        (lambda: generator.delta_layout(0, torgb=False, noise=False), "changes nothing"),
        (lambda: DeltaLayout.build(torch.nn.Linear(2, 2)), "family 'Linear' cannot draw with deltas"),
        (lambda: DeltaLayout.of({**layout.to_dict(), "kind": "x"}, generator), "kind 'x'"),
        (lambda: DeltaLayout.of({"kind": "low_rank", "size": 3}, generator), "lacks a field"),
        (lambda: DeltaLayout.of(layout.to_dict(), load_generator(model_file)), "no layer 'b32.conv"),
        (lambda: DeltaLayout.of({**layout.to_dict(), "size": 3}, generator), "deltas of 3 numbers"),
    ]
    for make, why in wrong:
        with pytest.raises(UserInputError, match=why):
            make()
    with pytest.raises(ValueError, match=r"expected deltas of shape \(B, \d+\), got \(2, 3\)"):
        layout.bind(torch.zeros(2, 3))


# ------------------------------------------------------------------------------------------------------- inversion


@pytest.fixture(scope="module")
def small() -> StyleGAN2:
    return random_generator()


@pytest.fixture(scope="module")
def features() -> PerceptualFeatures:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return PerceptualFeatures((6, 8, 8), RESOLUTION).eval()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """What the generator cannot say: smooth random colours."""
    rough = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return F.interpolate(rough, (RESOLUTION, RESOLUTION), mode="bicubic", align_corners=True).clamp(-1, 1)


def test_pivotal_fulfils_the_contract(small: StyleGAN2, features: PerceptualFeatures, photos: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = LatentEncoder((6, 8, 8), *small.latent_spec.shape).eval().requires_grad_(False)
    inverter = PivotalInverter(OptimizationInverter(small, features, encoder, steps=2), steps=3)
    assert isinstance(inverter, Inverter) and inverter.name == "pivotal" == inverter.settings["name"]
    json.dumps([inverter.settings, inverter.delta])
    found = inverter.invert(photos, batch_size=3)
    assert found.delta is not None and inverter.delta is not None
    assert found.delta.shape == (4, inverter.delta["size"]) and not found.delta.requires_grad
    assert tuple(found.quality) == inverter.quality_names == ("mse", "psnr", "ssim", "steps", "seconds")
    assert found.quality["steps"].tolist() == [5.0] * 4
    torch.testing.assert_close(found.anchor, encoder.encode(photos, small), rtol=1e-4, atol=1e-4)
    drawn = small.synthesis(found.w_plus, delta=DeltaLayout.of(inverter.delta, small).bind(found.delta))
    mse = (to_unit_range(drawn) - to_unit_range(photos)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found.quality["mse"], mse)


def test_it_says_more_than_codes_can(small: StyleGAN2, photos: Tensor) -> None:
    codes = OptimizationInverter(small, steps=90, prior_weight=0.0).invert(photos).quality["mse"]
    tuned = PivotalInverter(OptimizationInverter(small, steps=30, prior_weight=0.0), steps=60).invert(photos)
    assert (tuned.quality["mse"] < 0.6 * codes).all()
    assert tuned.delta is not None and tuned.delta.abs().mean() > 0.05 and tuned.delta.abs().max() < 100.0


def test_rows_depend_on_their_own_image(small: StyleGAN2, features: PerceptualFeatures, photos: Tensor) -> None:
    """Also where a bad image leaves early and another takes its slot, out of step with its neighbours."""
    inverter = PivotalInverter(OptimizationInverter(small, features, steps=3), steps=7, locality_every=2)
    bad = torch.cat([torch.full_like(photos[:1], float("nan")), photos])
    bad[0, 0, 0, 0] = 1e30  # finite, and its loss is not
    bad[0].clamp_(-1e30, 1e30).nan_to_num_(1e30)
    beside, alone = inverter.invert(bad, batch_size=2), [inverter.invert(photo[None]) for photo in photos]
    assert beside.delta is not None and not torch.isfinite(beside.delta[0]).any()
    for row, found in enumerate(alone, start=1):
        assert found.delta is not None
        torch.testing.assert_close(beside.w_plus[row], found.w_plus[0], rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(beside.delta[row], found.delta[0], rtol=2e-2, atol=5e-2)


def test_locality_keeps_the_generator_near_the_code(small: StyleGAN2, photos: Tensor) -> None:
    """Arxiv 2106.05744, section 3.2: other codes are drawn as the untuned generator draws them."""
    far = torch.Generator().manual_seed(99)
    moves = []
    for weight in (0.0, 3.0):
        pivot = OptimizationInverter(small, steps=10, prior_weight=0.0)
        inverter = PivotalInverter(pivot, steps=40, locality_weight=weight, locality_every=2)
        found = inverter.invert(photos)
        assert found.delta is not None
        codes = torch.lerp(found.w_plus, small.mapping(torch.randn(4, small.z_dim, generator=far)), 0.5)
        tuned = small.synthesis(codes, delta=inverter.layout.bind(found.delta))
        moves.append(float((tuned - small.synthesis(codes)).square().mean()))
    assert moves[1] < 0.7 * moves[0]


def test_locality_is_a_distance_near_the_code_every_few_steps(small: StyleGAN2, features: PerceptualFeatures) -> None:
    pivot = OptimizationInverter(small, features, steps=3)
    inverter = PivotalInverter(pivot, steps=3, locality_weight=2.0, locality_every=5, locality_distance=0.25)
    numbers, code = some_numbers(inverter.layout, 3), some_codes(small)
    got = inverter._locality(code, inverter.layout.bind(numbers), torch.tensor([5.0, 6.0, 10.0]))
    assert got[1] == 0.0 and (got[[0, 2]] > 0.0).all()
    for row, number in ((0, 1), (2, 2)):
        near = (0.75 * code[row] + 0.25 * inverter._towards[number])[None]
        tuned = small.synthesis(near, delta=inverter.layout.bind(numbers[row : row + 1]))
        wanted = (tuned - small.synthesis(near)).square().mean()
        for one, other in zip(features(tuned), features(small.synthesis(near)), strict=True):
            cosine = F.cosine_similarity(one, other, dim=1)
            wanted = wanted + 0.2 * (2 - 2 * cosine).mean() / len(features(tuned))
        torch.testing.assert_close(got[row], 2.0 * wanted, rtol=1e-4, atol=1e-5)


def test_pivotal_arguments(small: StyleGAN2) -> None:
    pivot = OptimizationInverter(small, steps=1)
    with pytest.raises(UserInputError, match="locality_distance must be above 0"):
        PivotalInverter(pivot, locality_distance=0.0)
    with pytest.raises(UserInputError, match="stored noise maps"):
        PivotalInverter(OptimizationInverter(small, noise="optimized"))
    with pytest.raises(ValueError, match="expected images of shape"):
        PivotalInverter(pivot).invert(torch.zeros(1, 3, 8, 8))


def test_pivotal_is_an_inverter_by_name(model_file: Path, photos: Tensor) -> None:
    """A quarter of the steps is the pivot's."""
    generator = load_generator(model_file)
    inverter = build_inverter("pivotal", generator, model_file, torch.device("cpu"), steps=8)
    assert inverter.settings["steps"] == 2 and inverter.settings["tuning_steps"] == 6 and inverter.anchored
    assert inverter.invert(photos[:2]).quality["steps"].tolist() == [8.0, 8.0]


# --------------------------------------------------------------------------------------------------------- serving


@pytest.fixture
def tuned(faces: Faces, tmp_path: Path) -> Iterator[Faces]:
    """The faces with a cache whose records change the generator."""
    generator = load_generator(faces.model)
    layout = DeltaLayout.build(generator, 1)
    cache = LatentCache.create(tmp_path / "tuned.lmdb", replace(make_header(faces.model), delta=layout.to_dict()))
    records = []
    for number, key in enumerate(faces.keys):
        _, transform = align(Image.open(faces.root / key), Alignment(size=RESOLUTION))
        source = LatentCache(faces.cache).get(key).source_hash
        delta = some_numbers(layout, 1, seed=number)[0].numpy().astype(np.float16)
        records.append(Record(key, random_latents(key), QUALITY, transform, source, delta=delta))
    cache.put_many(records)
    yield replace(faces, cache=tmp_path / "tuned.lmdb")
    cache.close()


@dataclass
class Move:
    """All rows along one direction."""

    strength: float
    name = "move"
    touches = frozenset({"lighting"})
    needs_partner = False

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {"by": torch.full((len(uniforms),), self.strength)}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return w_plus + params["by"][:, None, None] / w_plus.shape[2] ** 0.5


def wrapped(faces: Faces, move: float, **options: Any) -> GANAugmentedDataset:
    """Every sample a variant."""
    edit = Move(move)
    base = InversionDataset(faces.cache) if options.get("paste") == "aligned" else _Photos(faces)
    return GANAugmentedDataset(
        base, faces.cache, ratio=1.0, edits=[edit], classical=None, key=faces.keys.__getitem__, **options
    )


class _Photos(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, faces: Faces) -> None:
        self.files = [faces.root / key for key in faces.keys]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = np.array(Image.open(self.files[index]).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255.0, index


def reconstruction(faces: Faces, key: str, move: float = 0.0) -> Tensor:
    """One record, drawn by hand."""
    generator, record = load_generator(faces.model), LatentCache(faces.cache).get(key)
    assert record.delta is not None
    header = LatentCache(faces.cache).header
    assert header.delta is not None
    code = torch.from_numpy(record.latents).float()[None]
    code = code + move / code.shape[2] ** 0.5
    change = DeltaLayout.of(header.delta, generator).bind(torch.from_numpy(record.delta)[None])
    assert isinstance(generator, StyleGAN2)
    return to_unit_range(generator.synthesis(code, delta=change))[0]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_variants_are_drawn_by_the_generator_of_their_own_record(tuned: Faces, num_workers: int) -> None:
    """With more faces than are drawn at a time, and the last ones beside others than the first."""
    for move in (0.0, 1.5):
        train = wrapped(tuned, move, paste="aligned")
        batch, _ = next(iter(train.loader(batch_size=20, num_workers=num_workers)))
        for row, key in enumerate(tuned.keys[:20]):
            wanted = reconstruction(tuned, key, move)
            torch.testing.assert_close(batch[row].float() / 255.0, wanted, rtol=0.0, atol=0.51 / 255 + 1e-4)


def test_no_edit_leaves_the_photo(tuned: Faces) -> None:
    """The base that a variant is compared with is drawn with the delta, too."""
    train = wrapped(tuned, 0.0)
    batch, index = next(iter(train.loader(batch_size=22)))
    items = torch.stack([train.dataset[i][0] for i in index.tolist()])
    torch.testing.assert_close(batch, items, rtol=0.0, atol=2e-3)
    moved, _ = next(iter(wrapped(tuned, 1.5).loader(batch_size=22)))
    assert ((moved - items).abs().flatten(1).amax(dim=1) > 0.02).all()


class Sceptic:
    """A gate that wants the move halved: the second round is drawn from a selection of rows."""

    watches: frozenset[str] = frozenset()
    template = size = None
    compares = False

    def __init__(self) -> None:
        self.rounds = 0

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1]

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        self.rounds += 1
        passed = torch.ones(len(served), dtype=torch.bool)
        if self.rounds == 1:
            passed[1::2] = False
        return torch.zeros(len(served)), passed


def test_variants_of_a_second_round(tuned: Faces) -> None:
    train = wrapped(tuned, 1.0, paste="aligned", gate=Sceptic())
    batch, _ = next(iter(train.loader(batch_size=6)))
    for row, key in enumerate(tuned.keys[:6]):
        wanted = reconstruction(tuned, key, 0.5 if row % 2 else 1.0)
        torch.testing.assert_close(batch[row].float() / 255.0, wanted, rtol=0.0, atol=0.51 / 255 + 1e-4)


def test_replay_and_pickling(tuned: Faces) -> None:
    train = pickle.loads(pickle.dumps(wrapped(tuned, 1.0)))
    *_, info = batch = next(iter(train.loader(batch_size=4, return_info=True)))
    again = replay(train, info["recipe"][2])
    torch.testing.assert_close(again[0][0], batch[0][2], rtol=1e-4, atol=1e-4)


def test_records_are_drawn_with_their_deltas(tuned: Faces) -> None:
    items, cache = InversionDataset(tuned.cache), LatentCache(tuned.cache)
    wanted = reconstruction(tuned, items.files[3])
    torch.testing.assert_close(items[3][0].float() / 255.0, wanted, rtol=0.0, atol=0.51 / 255 + 1e-4)
    with pytest.raises(ValueError, match="give the layout"):
        draw_records([cache.get(items.files[3])], items.generator)


def test_a_generator_that_cannot_is_refused(tuned: Faces) -> None:
    class Plain:
        """The same generator in a wrapper of a user's own, without the argument."""

        family = "plain"

        def __init__(self, inner: StyleGAN2) -> None:
            self.latent_spec, self.img_resolution, self.z_dim = inner.latent_spec, inner.img_resolution, inner.z_dim
            self.w_avg, self.fingerprint = inner.w_avg, inner.fingerprint

    with pytest.raises(UserInputError, match="family 'plain' cannot draw with deltas"):
        wrapped_with = load_generator(tuned.model)
        assert isinstance(wrapped_with, StyleGAN2)
        GANAugmentedDataset(
            _Photos(tuned),
            tuned.cache,
            edits=[],
            key=tuned.keys.__getitem__,
            generator=Plain(wrapped_with),  # type: ignore[arg-type]
        )


def test_parts_of_a_delta() -> None:
    assert LayerDelta().add_to(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3), None).sum() == 18.0


def test_latents_found_without_noise_are_drawn_without(faces: Faces, tmp_path: Path) -> None:
    header = make_header(faces.model)
    header = replace(header, inverter={**header.inverter, "noise": "none"})
    cache, key = LatentCache.create(tmp_path / "quiet.lmdb", header), faces.keys[3]
    cache.put_many([LatentCache(faces.cache).get(key) for key in faces.keys])
    code = torch.from_numpy(cache.get(key).latents).float()[None]
    generator = load_generator(faces.model)
    quiet, loud = (to_unit_range(generator.synthesis(code, noise))[0] for noise in ("none", "const"))
    assert (quiet - loud).abs().max() > 0.01
    train = wrapped(replace(faces, cache=tmp_path / "quiet.lmdb"), 0.0, paste="aligned")
    served = train.loader(batch_size=4)
    images = next(iter(served))[0]
    torch.testing.assert_close(images[3].float() / 255.0, quiet, rtol=0.0, atol=0.51 / 255 + 1e-4)
    cache.close()
