"""The degradation of real and generated samples: against Pillow's files and filters, its draws, and in the loader."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import QUALITY, RESOLUTION, Faces, make_header, random_image, random_latents
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from ganaug.cache import LatentCache, Record
from ganaug.dataset import GANAugmentedDataset
from ganaug.degrade import Degradation, DegradationConfig, coarsen, variant_pixels
from ganaug.faces.align import Alignment
from ganaug.interfaces import UserInputError
from ganaug.jpeg import jpeg, quantisation_tables
from ganaug.policy import AugmentationPolicy
from ganaug.provenance import BatchRecipe, Recipe
from ganaug.rng import hash_text
from ganaug.stage import replay


def pictures(count: int, width: int, height: int, seed: int = 0) -> Tensor:
    """``(count, 3, height, width)`` uint8: smooth colours with some texture."""
    rng = np.random.default_rng(seed)
    images = np.stack([np.asarray(random_image(rng, width, height)) for _ in range(count)]).astype(np.float64)
    noisy = images + rng.normal(0.0, 6.0, images.shape)
    return torch.from_numpy(noisy.clip(0, 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def through_pillow(image: Tensor, quality: int) -> tuple[Tensor, dict[int, list[int]]]:
    """``(3, H, W)`` uint8 as it comes back from a JPEG file, and the file's quantisation tables."""
    data = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(data, "JPEG", quality=quality)
    opened = Image.open(data)
    return torch.from_numpy(np.array(opened)).permute(2, 0, 1), dict(opened.quantization)


# ------------------------------------------------------------------------------------------------ JPEG


def test_quantisation_tables_are_those_of_files() -> None:
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    tables = quantisation_tables(torch.arange(1, 101))
    for quality in range(1, 101):
        _, expected = through_pillow(image, quality)
        assert tables[quality - 1].flatten(1).tolist() == [expected[0], expected[1]], quality


@pytest.mark.parametrize(("width", "height"), [(64, 48), (61, 35), (8, 100), (33, 18), (5, 5), (1, 1)])
def test_jpeg_is_that_of_pillow(width: int, height: int) -> None:
    qualities = [10, 40, 60, 75, 85, 95, 100]
    images = pictures(len(qualities), width, height)
    mine = jpeg(images.float() / 255, torch.tensor(qualities)) * 255
    assert (mine - mine.round()).abs().max() < 1e-4
    for image, result, quality in zip(images, mine, qualities, strict=True):
        expected, _ = through_pillow(image, quality)
        difference = (result - expected).abs()
        # libjpeg's transform has 13 bits: now and then a coefficient falls to the other side.
        loss = (image.float() - expected).abs().mean()
        assert difference.mean() < 0.15 * loss + 0.1, (quality, difference.mean(), loss)


def test_jpeg_of_flat_colours_is_exact() -> None:
    """All coefficients but one vanish, and that one is often a tie."""
    colours = torch.tensor([(g, 255 - g, 7 * g % 256) for g in (0, 1, 64, 127, 128, 129, 200, 255)] + [(255,) * 3])
    images = colours[:, :, None, None].expand(-1, -1, 16, 16).to(torch.uint8)
    for quality in (1, 7, 20, 30, 50, 66, 75, 92, 100):
        mine = jpeg(images.float() / 255, torch.full((len(images),), quality)) * 255
        expected = torch.stack([through_pillow(image, quality)[0] for image in images])
        assert torch.equal(mine.round().to(torch.uint8), expected), quality


def test_jpeg_does_not_depend_on_the_batch() -> None:
    images, quality = pictures(9, 50, 34).float() / 255, torch.tensor([1, 20, 35, 50, 65, 75, 90, 95, 100])
    together = jpeg(images, quality)
    for i in range(9):
        assert torch.equal(jpeg(images[i : i + 1], quality[i : i + 1])[0], together[i])
    large = pictures(3, 300, 300).float() / 255  # several chunks
    parts = [jpeg(large[i : i + 1], quality[i : i + 1])[0] for i in range(3)]
    assert torch.equal(jpeg(large, quality[:3]), torch.stack(parts))


# ------------------------------------------------------------------------------------------ resolution


def down_and_up(image: Tensor, side: tuple[int, int]) -> Tensor:
    """Cut as a chip by Pillow (floats, no rounding) and placed as torch's ``interpolate`` enlarges."""
    small = [
        np.asarray(Image.fromarray(c.numpy().astype(np.float32)).resize(side[::-1], Image.Resampling.LANCZOS))
        for c in image
    ]
    chip = torch.from_numpy(np.stack(small))[None].clamp(0, 1)
    return F.interpolate(chip, tuple(image.shape[1:]), mode="bicubic", align_corners=False)[0].clamp(0, 1)


@pytest.mark.parametrize(("size", "side"), [(40, 16), (40, 13), (41, 40), (37, 5), (16, 4)])
def test_coarsen_is_pillow_then_interpolate(size: int, side: int) -> None:
    images = pictures(2, size, size).float() / 255
    expected = torch.stack([down_and_up(image, (side, side)) for image in images])
    assert torch.allclose(coarsen(images, torch.full((2,), float(side))), expected, atol=1e-5)


def test_coarsen_along_the_longer_side() -> None:
    """60x40 at 16 px: 24 cells along the longer side, which end where the image does."""
    images = pictures(1, 60, 40).float() / 255
    expected = down_and_up(images[0], (16, 24))
    assert torch.allclose(coarsen(images, torch.tensor([16.0]))[0], expected, atol=1e-5)
    upright = coarsen(images.transpose(2, 3).contiguous(), torch.tensor([16.0])).transpose(2, 3)
    assert torch.allclose(upright[0], expected, atol=1e-5)


def test_coarsen_keeps_the_grid_of_the_centred_square() -> None:
    """Inside, a 70x40 image gives what its centred square of 40 px does: that is where the chip lies."""
    images = pictures(1, 70, 40).float() / 255
    square = coarsen(images[..., 15:55], torch.tensor([20.0]))
    whole = coarsen(images, torch.tensor([20.0]))[..., 15:55]
    assert torch.allclose(whole[..., 12:-12], square[..., 12:-12], atol=1e-6)


def test_coarsen_row_by_row() -> None:
    images = pictures(6, 45, 33).float() / 255
    resolution = torch.tensor([8.0, 0.0, 13.7, 33.0, 500.0, 32.5])
    together = coarsen(images, resolution)
    for i in range(6):
        assert torch.equal(coarsen(images[i : i + 1], resolution[i : i + 1])[0], together[i]), i
    untouched = [i for i in range(6) if torch.equal(together[i], images[i])]
    assert untouched == [1, 3, 4]
    assert coarsen(images, torch.zeros(6)) is images


@pytest.mark.parametrize("resolution", [4.0, 7.3, 19.9])
def test_coarsen_keeps_flat_images(resolution: float) -> None:
    flat = torch.full((1, 3, 30, 21), 0.3)
    assert torch.allclose(coarsen(flat, torch.tensor([resolution])), flat, atol=1e-6)


def test_coarsen_removes_what_the_chip_cannot_hold() -> None:
    """A wave of 3 px period vanishes at a third of the size, one of 24 px stays."""
    x = torch.arange(96) + 0.5
    for period, kept in ((3, 0.02), (24, 0.9)):
        wave = (0.5 + 0.4 * (2 * math.pi * x / period).cos()).expand(1, 3, 96, 96).contiguous()
        left = coarsen(wave, torch.tensor([32.0]))[..., 12:-12, 12:-12].std() / wave[..., 12:-12, 12:-12].std()
        assert left < kept if period == 3 else left > kept


def test_variant_pixels() -> None:
    angle = 0.7
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    transforms = np.zeros((3, 2, 3), np.float32)
    transforms[0, :, :2] = 0.25 * rotation
    transforms[1, :, :2] = 2.0 * np.eye(2)
    sizes = np.array([[640, 480], [0, 0], [100, 100]], np.float32)
    assert variant_pixels(transforms, sizes, unknown=64.0) == pytest.approx([120.0, 64.0, 64.0])


# ------------------------------------------------------------------------------------- parameters, draws


def test_parameters() -> None:
    degradation = Degradation(DegradationConfig(resolution=32, jpeg_quality=(70, 79), p=0.25), chip_side=64)
    uniforms = np.array([[0.2, 0.0], [0.2, 0.999], [0.3, 0.5], [0.2, 0.5]])
    params = degradation.make_params(uniforms, np.array([64.0, 90.0, 64.0, 1.0]))
    assert params["resolution"].tolist() == [32.0, 45.0, 0.0, 4.0] and params["resolution"].dtype == torch.float32
    assert params["jpeg_quality"].tolist() == [70, 79, 0, 75] and params["jpeg_quality"].dtype == torch.int64
    many = np.stack([np.zeros(1000), (np.arange(1000) + 0.5) / 1000], 1)
    counts = np.bincount(degradation.make_params(many, None)["jpeg_quality"].numpy())
    assert counts[70:].tolist() == [100] * 10 and counts[:70].sum() == 0
    only_jpeg = Degradation(DegradationConfig(resolution=None), 64).make_params(uniforms, None)
    assert only_jpeg["resolution"].tolist() == [0.0] * 4
    only_resolution = Degradation(DegradationConfig(jpeg_quality=None), 64).make_params(uniforms, None)
    assert only_resolution["jpeg_quality"].tolist() == [0] * 4 and only_resolution["resolution"].tolist() == [64.0] * 4


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"resolution": 3}, "resolution must be .* got 3"),
        ({"resolution": "half"}, "got 'half'"),
        ({"resolution": True}, "got True"),
        ({"jpeg_quality": (90, 60)}, "ascending order"),
        ({"jpeg_quality": (0, 60)}, r"in \[1, 100\], got \(0, 60\)"),
        ({"jpeg_quality": 75}, "got 75"),
        ({"jpeg_quality": (70.5, 80)}, "whole numbers"),
        ({"p": 1.5}, r"p must be a number in \[0, 1\], got 1.5"),
        ({"p": float("nan")}, "got nan"),
        ({"resolution": None, "jpeg_quality": None}, "both None"),
    ],
)
def test_mistakes(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserInputError, match=what):
        DegradationConfig(**options)


def test_other_degradations_are_refused(faces: Faces) -> None:
    with pytest.raises(UserInputError, match="None, 'match' or a DegradationConfig, got 'jpeg'"):
        GANAugmentedDataset(ImageFolder(str(faces.root)), faces.cache, degradation="jpeg")  # type: ignore[arg-type]


def test_every_sample_ends_on_the_grid_of_files() -> None:
    images = torch.rand(8, 3, 20, 20)
    for config in (DegradationConfig(p=0.5), DegradationConfig(jpeg_quality=None), DegradationConfig(p=0.0)):
        degradation = Degradation(config, 10)
        params = degradation.make_params(np.stack([np.arange(8) / 8, np.zeros(8)], 1), None)
        result = degradation(images, params)
        assert torch.equal(result, (result * 255).round() / 255)
        whole = (images * 255).round() / 255
        same = [torch.equal(a, b) for a, b in zip(result, whole, strict=True)]
        assert same == [i / 8 >= config.p for i in range(8)]


def test_draws_depend_on_the_sample_alone() -> None:
    keys = [f"face {i}" for i in range(300)]
    hashes = np.array([hash_text(key) for key in keys], np.int64)
    degradation = Degradation(DegradationConfig(jpeg_quality=(60, 95), p=0.5), 64)

    def draw(at: np.ndarray, epoch: int = 0, seed: int = 0) -> BatchRecipe:
        policy = AugmentationPolicy(0.0, seed=seed)
        return policy.draw(at, [keys[i] for i in at], hashes[at], epoch, None, None, degradation)

    together = draw(np.arange(300)).rows()
    order = np.random.default_rng(0).permutation(300)
    for start in range(0, 300, 7):
        at = order[start : start + 7]
        assert draw(at).rows() == [together[i] for i in at]
    qualities = np.array([row.degradation["jpeg_quality"] for row in together])
    assert 100 < (qualities > 0).sum() < 200 and qualities.max() <= 95 and qualities[qualities > 0].min() >= 60
    for other in (draw(np.arange(300), epoch=1), draw(np.arange(300), seed=1)):
        assert (other.degradation["jpeg_quality"].numpy() != qualities).mean() > 0.5


# ------------------------------------------------------------------------------------------ in the loader


class Items(Dataset[tuple[Tensor]]):
    """The pictures of a folder as tensors of 20 px."""

    def __init__(self, root: Path, keys: list[str], kind: torch.dtype = torch.float32) -> None:
        self.root = root
        self.samples = [(str(root / key), 0) for key in keys]
        self.kind = kind

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        with Image.open(self.samples[index][0]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        return (pixels if self.kind is torch.uint8 else pixels.float() / 255,)


def wrap(faces: Faces, kind: torch.dtype = torch.float32, **options: Any) -> GANAugmentedDataset:
    options = {"classical": None, "paste": "whole", "degradation": "match", **options}
    return GANAugmentedDataset(Items(faces.root, faces.keys, kind), faces.cache, **options)


def served(train: GANAugmentedDataset, batch_size: int = 22, epoch: int = 0) -> tuple[Tensor, list[Recipe]]:
    loader = train.loader(batch_size=batch_size, return_info=True)
    loader.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), [row for _, info in batches for row in info["recipe"]]


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_none_changes_nothing(faces: Faces, ratio: float) -> None:
    """Neither the pixels nor any other draw."""
    without, recipes = served(wrap(faces, ratio=ratio, degradation=None, classical="default"))
    _, with_it = served(wrap(faces, ratio=ratio, classical="default"))
    assert all(row.degradation == {} for row in recipes)
    for mine, theirs in zip(recipes, with_it, strict=True):
        assert (mine.source, mine.edits, mine.classical) == (theirs.source, theirs.edits, theirs.classical)
    if ratio == 0.0:
        plain, _ = served(wrap(faces, ratio=0.0, degradation=None))
        assert torch.equal(plain, torch.stack([image for (image,) in Items(faces.root, faces.keys)]))
        assert not torch.equal(plain, without)


def test_real_samples_are_degraded_too(faces: Faces) -> None:
    """At ratio 0, and each as Pillow's Lanczos filter, bicubic enlargement and JPEG at the recipe's quality do it."""
    images, recipes = served(wrap(faces, ratio=0.0))
    plain = [image for (image,) in Items(faces.root, faces.keys)]
    assert len({row.degradation["jpeg_quality"] for row in recipes}) > 5
    differences, losses = [], []
    for image, result, row in zip(plain, images, recipes, strict=True):
        assert row.degradation["resolution"] == RESOLUTION
        coarse = down_and_up(image, (RESOLUTION, RESOLUTION))
        expected, _ = through_pillow((coarse * 255).round().to(torch.uint8), int(row.degradation["jpeg_quality"]))
        differences.append(float((result * 255 - expected).abs().mean()))
        losses.append(float((coarse * 255 - expected).abs().mean()))
        assert (result - image).abs().mean() * 255 > 1.0
    # A file is rounded to 8 bits before it is compressed, too.
    assert np.mean(differences) < 0.25 * np.mean(losses)
    loader = wrap(faces, ratio=0.0).loader(batch_size=22)  # without return_info, the way that has nothing to do
    assert torch.equal(next(iter(loader))[0], images)


def test_variants_are_degraded_alike(faces: Faces) -> None:
    """A variant receives what its photo would: the same parameters for the same sample and epoch."""
    (_, real), (variants, generated) = (served(wrap(faces, ratio=ratio)) for ratio in (0.0, 1.0))
    assert all(row.is_generated for row in generated)
    assert [row.degradation for row in generated] == [row.degradation for row in real]
    before, _ = served(wrap(faces, ratio=1.0, degradation=None))
    quality = torch.tensor([row.degradation["jpeg_quality"] for row in generated])
    expected = jpeg(coarsen(before, torch.full((22,), float(RESOLUTION))), quality)
    assert torch.equal(variants, expected)


def test_uint8_items(faces: Faces) -> None:
    whole, floats = (served(wrap(faces, kind, ratio=0.0))[0] for kind in (torch.uint8, torch.float32))
    assert whole.dtype == torch.uint8
    assert torch.equal(whole, (floats * 255).round().to(torch.uint8))


def test_batches_and_epochs(faces: Faces) -> None:
    train = wrap(faces, ratio=0.5)
    images, recipes = served(train)
    again, same = served(train, batch_size=5)
    assert same == recipes
    real = torch.tensor([not row.is_generated for row in recipes])
    assert torch.equal(again[real], images[real])
    # Variants of other batch sizes differ by rounding, and JPEG turns a few of those bits into a step.
    assert (again - images).abs().mean() < 1e-3
    _, later = served(train, epoch=1)
    assert [row.degradation for row in later] != [row.degradation for row in recipes]


def test_replay(faces: Faces) -> None:
    train = wrap(faces, ratio=0.5, degradation=DegradationConfig(p=0.7), classical="default")
    images, recipes = served(train, batch_size=1, epoch=2)
    assert {row.degradation["jpeg_quality"] > 0 for row in recipes} == {True, False}
    for image, row in zip(images, recipes, strict=True):
        again = Recipe.from_dict(json.loads(json.dumps(row.to_dict())))
        assert again == row
        assert torch.equal(replay(train, again)[0][0], image)


def test_columns_from_rows(faces: Faces) -> None:
    recipe = wrap(faces, degradation=DegradationConfig(p=0.5)).draw(range(22), 0)
    dtypes = {name: values.dtype for name, values in recipe.degradation.items()}
    again = BatchRecipe.from_rows(recipe.rows(), recipe.edit_names, {}, dtypes)
    for name, values in recipe.degradation.items():
        assert again.degradation[name].dtype == values.dtype and torch.equal(again.degradation[name], values)
    old = {name: value for name, value in recipe.row(0).to_dict().items() if name != "degradation"}
    assert Recipe.from_dict(old).degradation == {}


def test_each_sample_at_its_own_scale(tmp_path: Path, faces: Faces) -> None:
    """Where the alignment differs from face to face, so does the resolution; the median where there is no record."""
    scales = np.linspace(0.3, 0.7, 20)
    records = [
        Record(key, random_latents(key), QUALITY, np.array([[0.0, -scale, 9.0], [scale, 0.0, 2.0]]), "0" * 64, (20, 30))
        for key, scale in zip(faces.keys[:20], scales, strict=True)
    ]
    alignment = Alignment("points", RESOLUTION, template="fairface").to_dict()
    cache = LatentCache.create(tmp_path / "points.lmdb", replace(make_header(faces.model), alignment=alignment))
    cache.put_many(records)
    train = GANAugmentedDataset(
        Items(faces.root, faces.keys), cache, ratio=0.0, classical=None, paste="whole", degradation="match"
    )
    expected = np.append(20 * scales, [np.median(20 * scales)] * 2)
    assert train.draw(range(22), 0).degradation["resolution"].numpy() == pytest.approx(expected, rel=1e-5)
    assert train.draw([3, 21, 3], 1).degradation["resolution"].numpy() == pytest.approx(expected[[3, 21, 3]], rel=1e-5)
    images, rows = served(train)
    assert images.shape == (22, 3, 20, 20) and len({row.degradation["resolution"] for row in rows}) == 21
    aligned = GANAugmentedDataset(Items(faces.root, faces.keys), cache, paste="aligned", degradation="match")
    assert set(aligned.draw(range(22), 0).degradation["resolution"].tolist()) == {float(RESOLUTION)}
