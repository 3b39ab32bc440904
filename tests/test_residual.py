"""Photo plus change: closed forms, bits that must not move, and the same through the loader, the gate and export."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import QUALITY, RESOLUTION, Faces, Items, make_header, random_latents
from PIL import Image
from torch import Tensor

from ganaug import GANAugmentedDataset, LatentCache, Record, Source
from ganaug.cli import main
from ganaug.export import export_variants
from ganaug.faces import paste as pasting
from ganaug.faces.align import to_unit_range
from ganaug.faces.geometry import apply_points, invert
from ganaug.faces.paste import aligned_to_item, chip_to_item, paste
from ganaug.faces.residual import check_residual, reframed
from ganaug.interfaces import UserInputError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from residual import second_share
from tuned_edits import share_of

SIZE = 32
HERE = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def similarity(scale: float, angle_deg: float, x: float, y: float) -> Tensor:
    """``(1, 2, 3)``: turned and scaled, then the chip's corner goes to (x, y)."""
    c, s = scale * math.cos(math.radians(angle_deg)), scale * math.sin(math.radians(angle_deg))
    return torch.tensor([[[c, -s, x], [s, c, y]]])


def smooth(count: int, height: int, width: int, seed: int, cells: int = 8) -> Tensor:
    """``(count, 3, H, W)`` in [0.3, 0.7]."""
    grid = torch.rand(count, 3, cells, cells, generator=torch.Generator().manual_seed(seed))
    return 0.3 + 0.4 * F.interpolate(grid, (height, width), mode="bilinear", antialias=True)


# ------------------------------------------------------------------------------------------ the formula


@pytest.mark.parametrize("fades", [True, False])
def test_all_of_the_photo_and_all_of_the_change(fades: bool) -> None:
    """``x + G(edit(w)) - G(w)``, though everything has another structure, where a chip is its item."""
    items, base, edited = (smooth(2, SIZE, SIZE, seed, cells=32) for seed in range(3))
    edited = edited - 0.15
    matrices = HERE.expand(2, -1, -1)
    result = paste(items, edited, base, matrices, 1.0, fades)
    expected = (items + edited - base).clamp(0, 1)
    assert float((edited - base).abs().amax(dim=1).mean()) > 0.15
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)
    replaced = paste(items, edited, base, matrices, 0.0, fades)
    assert float((replaced - expected).abs().mean()) > 0.02, "by default it is not the same"


def test_shares_in_between_mix_the_two_ends() -> None:
    # Of half the contrast: nothing is clipped.
    items, base, edited = (0.25 + 0.5 * smooth(2, SIZE, SIZE, seed, cells=32) for seed in range(3))
    matrices = torch.cat([similarity(0.7, 20.0, 9.0, 3.0), similarity(1.2, -8.0, -2.0, 1.0)])
    none, some, all_of_it = (paste(items, edited, base, matrices, share) for share in (0.0, 0.3, 1.0))
    torch.testing.assert_close(some, 0.7 * none + 0.3 * all_of_it, atol=1e-5, rtol=0)
    assert float((none - all_of_it).abs().max()) > 0.05
    assert torch.equal(none, paste(items, edited, base, matrices)), "the default is 0"


@pytest.mark.parametrize("residual", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("fades", [True, False])
def test_an_exact_inversion_has_no_residual(residual: float, fades: bool) -> None:
    """Then any share gives the edited picture: nothing is left to shine through."""
    base, edited = smooth(1, SIZE, SIZE, 1, cells=32), smooth(1, SIZE, SIZE, 2, cells=32) - 0.15
    torch.testing.assert_close(paste(base, edited, base, HERE, residual, fades), edited, atol=2e-5, rtol=0)


@pytest.mark.parametrize("fades", [True, False])
def test_no_bit_moves_outside_the_edit(fades: bool) -> None:
    items, base = smooth(1, 60, 50, 0), smooth(1, SIZE, SIZE, 1)
    matrix = similarity(1.1, 14.0, 12.0, 5.0)
    assert torch.equal(paste(items, base, base, matrix, 1.0, fades), items)
    edited = base.clone()
    edited[:, :, 12:20, 12:20] += 0.25
    result = paste(items, edited, base, matrix, 1.0, fades)
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(50) + 0.5, indexing="ij")
    place = apply_points(invert(matrix)[0], torch.stack([x, y], dim=-1).flatten(0, 1)).unflatten(0, (60, 50))
    far = ((place < 6) | (place > 26)).any(dim=-1)  # the mask is blurred by 0.75 px here
    near = ((place > 14) & (place < 18)).all(dim=-1)
    assert torch.equal(result[0, :, far], items[0, :, far])
    torch.testing.assert_close(result[0, :, near], items[0, :, near] + 0.25, atol=0.01, rtol=0)


def test_without_fading_the_chip_ends_with_a_hard_edge() -> None:
    items, base = smooth(1, 48, 48, 0), smooth(1, 16, 16, 1)
    result = paste(items, base + 0.2, base, similarity(1.0, 0.0, 10.0, 20.0), 1.0, fades=False)
    expected = items.clone()
    expected[:, :, 20:36, 10:26] += 0.2
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)
    outside = torch.ones(48, 48, dtype=torch.bool)
    outside[20:36, 10:26] = False
    assert torch.equal(result[0, :, outside], items[0, :, outside])


# ---------------------------------------------------------------------------------------- the benchmarks


def test_shares_of_details_are_found_again() -> None:
    """What benchmarks/residual.py calls kept and ghost: coefficients of a mixture, where the weights look."""
    rng = torch.Generator().manual_seed(0)
    first, second, junk = torch.randn(3, 2, 1, 16, 16, generator=rng)
    weight = torch.zeros(2, 1, 16, 16)
    weight[0, :, :8] = 1.0  # of the second picture, nothing
    mixed = torch.where(weight > 0, 0.9 * first + 0.3 * second, junk)
    found = second_share(mixed, first, second, weight)
    assert float(found[0]) == pytest.approx(0.3, abs=1e-5) and bool(found[1].isnan())


def test_shares_of_movement_have_an_interval_over_faces() -> None:
    rng = torch.Generator().manual_seed(0)
    plain = torch.rand(200, generator=rng) + 0.5
    half = share_of(0.5 * plain, plain)
    assert half == pytest.approx({"share": 0.5, "low": 0.5, "high": 0.5})
    noise = torch.randn(200, generator=rng)
    noisy = share_of(torch.cat([plain + noise, torch.tensor([math.nan])]), torch.cat([plain, plain[:1]]))
    # A ratio of means over N faces scatters by std / (mean sqrt(N)) when only its top is noisy; 95 % are 3.92 of these.
    expected = 3.92 * float(noise.std() / (plain.mean() * 200**0.5))
    assert noisy["high"] - noisy["low"] == pytest.approx(expected, rel=0.15)


# ------------------------------------------------------------------------------------------ the framing


def test_reframed_items_are_cut_and_turned() -> None:
    """Shifts by whole pixels, a quarter turn and a mirrored border, in tensor indexing."""
    items = smooth(3, 24, 24, 0)
    in_items = torch.cat([similarity(1.0, 0.0, 4.0, 2.0), similarity(1.0, 90.0, 24.0, 0.0), HERE])
    served = reframed(items, in_items, HERE.expand(3, -1, -1))
    rows, columns = [*range(2, 24), 23, 22], [*range(4, 24), 23, 22, 21, 20]
    torch.testing.assert_close(served[0], items[0][:, rows][:, :, columns], atol=2e-5, rtol=0)
    torch.testing.assert_close(served[1], items[1].rot90(1, (1, 2)), atol=2e-5, rtol=0)
    assert torch.equal(served[2], items[2]), "an item that lies there already keeps its bits beside others"


def test_chips_of_the_items_own_framing_stay_to_the_bit() -> None:
    items = smooth(2, 20, 27, 0)
    in_items = chip_to_item(torch.zeros(2, 8), 16, (27, 27))
    square = smooth(2, 27, 27, 0)
    assert torch.equal(reframed(square, in_items, aligned_to_item(16, (27, 27)).expand(2, -1, -1)), square)
    # A chip of the largest square is smaller than the chip that covers the item.
    moved = reframed(items, chip_to_item(torch.zeros(2, 8), 16, (20, 27)), aligned_to_item(16, (20, 27)))
    assert moved.shape == items.shape and not torch.equal(moved, items)


@pytest.mark.parametrize("residual", [-0.1, 1.5, math.nan, True, "1"])
def test_what_is_no_share_is_refused(faces: Faces, residual: Any) -> None:
    with pytest.raises(UserInputError, match=r"residual is the share .* \[0, 1\], or None; got"):
        wrap(faces, LatentCache(faces.cache), photos(20, 20), residual=residual)
    assert check_residual(None) is None and check_residual(1) == 1.0


# ------------------------------------------------------------------------------------ through the loader


class Opposite:
    """Another face altogether."""

    name, touches, needs_partner = "opposite", frozenset({"identity"}), False

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return -w_plus


def photos(height: int, width: int) -> Tensor:
    return smooth(22, height, width, 3)


def wrap(faces: Faces, cache: LatentCache, images: Tensor, **options: Any) -> GANAugmentedDataset:
    items = Items([(image, i) for i, image in enumerate(images)])
    settings = {"ratio": 1.0, "edits": [Opposite()], "classical": None, "key": faces.keys.__getitem__, **options}
    return GANAugmentedDataset(items, cache, **settings)


def served(train: GANAugmentedDataset, **options: Any) -> Tensor:
    images: Tensor = next(iter(train.loader(batch_size=22, **options)))[0]
    return images


@pytest.fixture
def loose(tmp_path: Path, faces: Faces) -> LatentCache:
    """Faces that take up a part of their photos of 60 x 50 pixels, each somewhere else."""
    cache = LatentCache.create(tmp_path / "loose.lmdb", make_header(faces.model))
    records = []
    for number, key in enumerate(faces.keys):
        transform = invert(similarity(1.5, 3.0 * number, 10.0 + number, 12.0))[0].numpy()
        records.append(Record(key, random_latents(key), QUALITY, transform, "0" * 64, (60, 50)))
    cache.put_many(records)
    return cache


@pytest.fixture
def sharp_eyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of 16 px have little detail; here any other detail counts as another structure."""
    monkeypatch.setattr(pasting, "MOVED", (0.0, 1e-3))


@pytest.mark.parametrize("residual", [0.25, 1.0])
@pytest.mark.parametrize("mode", ["paste", "aligned", "whole"])
def test_each_mode_serves_the_photo_plus_the_change(
    faces: Faces, loose: LatentCache, sharp_eyes: None, mode: Any, residual: float
) -> None:
    images = photos(50, 60)
    train = wrap(faces, loose, images, paste=mode, residual=residual)
    recipe = train.draw(range(22), 0)
    recipe.source[:] = Source.GENERATED
    latents = train.latents_for(recipe)
    stage = train.loader(batch_size=22).stage
    place = chip_to_item(latents["geometry"], RESOLUTION, (50, 60))
    with torch.no_grad():
        code = latents["self"].float()
        edited = stage.augmenter.edit(recipe, np.arange(22), latents)
        drawn, base = (to_unit_range(train.generator.synthesis(codes)) for codes in (edited, code))
    if mode == "aligned":
        shown = aligned_to_item(RESOLUTION, (50, 60)).expand(22, -1, -1)
        images, place = reframed(images, place, shown), shown
    expected = paste(images, drawn, base, place, residual, mode != "whole")
    torch.testing.assert_close(served(train), expected, atol=1e-5, rtol=0)
    assert float((expected - images).abs().mean()) > 0.005


@pytest.mark.parametrize("residual", [0.0, 1.0])
@pytest.mark.parametrize("mode", ["paste", "aligned", "whole"])
def test_no_edit_is_the_item_to_the_bit(faces: Faces, loose: LatentCache, mode: Any, residual: float) -> None:
    images, options = photos(50, 60), {"paste": mode, "residual": residual, "edits": []}
    if mode != "aligned":
        assert torch.equal(served(wrap(faces, loose, images, **options)), images)
    square = (photos(40, 40) * 255).round().to(torch.uint8)  # chips are cut from their centre: the same framing
    assert torch.equal(served(wrap(faces, LatentCache(faces.cache), square, **options)), square)


def test_without_a_number_nothing_is_new(faces: Faces, loose: LatentCache, sharp_eyes: None) -> None:
    """``"paste"`` is what 0 gives; the others show what the generator drew, whatever the photo."""
    images = photos(50, 60)
    default = served(wrap(faces, loose, images))
    assert torch.equal(default, served(wrap(faces, loose, images, residual=0)))
    assert not torch.equal(default, served(wrap(faces, loose, images, residual=1)))
    bare = served(wrap(faces, loose, images, paste="aligned"))
    assert torch.equal(bare, served(wrap(faces, loose, 1.0 - images, paste="aligned")))
    assert not torch.equal(bare, served(wrap(faces, loose, images, paste="aligned", residual=1)))


class SecondTime:
    """A gate that lets nothing pass before the second attempt."""

    watches: frozenset[str] = frozenset()
    template, size, compares = None, None, False

    def __init__(self) -> None:
        self.attempts = 0

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def judge(self, shown: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        self.attempts += 1
        return torch.zeros(len(shown)), torch.full((len(shown),), self.attempts > 1)


@pytest.mark.parametrize("mode", ["aligned", "whole"])
def test_back_off_halves_the_change_and_keeps_the_photo(faces: Faces, loose: LatentCache, mode: Any) -> None:
    images, options = photos(50, 60), {"paste": mode, "residual": 1.0}
    again = wrap(faces, loose, images, gate=SecondTime(), **options)
    plain = wrap(faces, loose, images, **options)
    recipe = plain.draw(range(22), 0)
    latents, augmenter = plain.latents_for(recipe), plain.loader(batch_size=22).stage.augmenter
    recipe.scale[:] = 0.5
    expected = augmenter(images, recipe, latents)
    torch.testing.assert_close(served(again), expected, atol=1e-5, rtol=0)


def test_export_keeps_to_its_share(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", "--cache", faces.cache, "--images", faces.root, "--edits", "fine", "--size", 24]
    arguments = [str(a) for a in [*arguments, "--paste", "aligned", "--out", tmp_path / "out"]]
    assert main([*arguments, "--residual", "1"]) == 0
    written = np.asarray(Image.open(tmp_path / "out/images/ann/00.jpg.v0.png")).astype(int)
    photo = np.asarray(Image.open(faces.root / "ann/00.jpg").convert("RGB").resize((24, 24), Image.Resampling.LANCZOS))
    assert np.abs(written - photo).mean() < 40 < np.abs(written - (255 - photo)).mean()
    capsys.readouterr()
    assert main(arguments) == 2
    assert "residual 1.0 there, None now" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "other"), "--residual", "2"]) == 2
    assert "got 2.0" in capsys.readouterr().err
    settings = {"ratio": 1.0, "edits": ["fine"]}
    train = wrap(faces, LatentCache(faces.cache), photos(20, 20), **settings)
    export_variants(train, tmp_path / "old", progress=False)
    assert "residual" not in (tmp_path / "old/export.json").read_text(), "exports of older versions can go on"
