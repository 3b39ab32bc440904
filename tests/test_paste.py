"""Paste-back: the formula against a loop over pixels, closed forms, and bits that must not move."""

import hashlib
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import QUALITY, Faces, Items, make_header, random_latents
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms.functional import pil_to_tensor

from ganaug import GANAugmentedDataset, LatentCache, Record
from ganaug.faces import paste as pasting
from ganaug.faces.geometry import apply_points, invert
from ganaug.faces.paste import aligned_to_item, chip_to_item, fade, paste, paste_aligned, paste_whole
from ganaug.interfaces import UserInputError
from ganaug.preview import preview_sheet


def similarity(scale: float, angle_deg: float, x: float, y: float) -> Tensor:
    """``(1, 2, 3)``: turned and scaled, then the chip's corner goes to (x, y)."""
    c, s = scale * math.cos(math.radians(angle_deg)), scale * math.sin(math.radians(angle_deg))
    return torch.tensor([[[c, -s, x], [s, c, y]]])


def smooth(count: int, height: int, width: int, seed: int, cells: int = 4) -> Tensor:
    """``(count, 3, H, W)`` in [0.1, 0.9], as smooth as a face."""
    grid = torch.rand(count, 3, cells, cells, generator=torch.Generator().manual_seed(seed))
    return 0.1 + 0.8 * F.interpolate(grid, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


# ------------------------------------------------------------------------------- a loop over pixels


def cubic(x: float) -> float:
    """Keys' kernel with a = -0.75."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def linear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def halved(image: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels; over what is there at odd edges."""
    rows, columns = (image.shape[1] + 1) // 2, (image.shape[2] + 1) // 2
    out = np.zeros((len(image), rows, columns))
    for row in range(rows):
        for column in range(columns):
            out[:, row, column] = image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(axis=(1, 2))
    return out


def look_up(image: np.ndarray, x: float, y: float, kernel: Any, mirrored: bool = False) -> np.ndarray:
    """``image (C, H, W)`` at a point; outside it is mirrored or its edge goes on."""

    def index(i: int, size: int) -> int:
        if mirrored:
            i = i % (2 * size)
            return min(i, 2 * size - 1 - i)
        return min(max(i, 0), size - 1)

    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = np.zeros(len(image))
    for row in range(top - 1, top + 3):
        for column in range(left - 1, left + 3):
            weight = kernel(y - 0.5 - row) * kernel(x - 0.5 - column)
            total += weight * image[:, index(row, image.shape[1]), index(column, image.shape[2])]
    return total


def naive_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    size = image.shape[-1]
    sigma = sigma * size / 64
    out = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            weight = np.array(
                [
                    [math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2)) for j in range(size)]
                    for i in range(size)
                ]
            )
            out[..., row, column] = (image * weight).sum(axis=(-1, -2)) / weight.sum()
    return out


def naive_step(x: float, low: float, high: float) -> float:
    t = min(max((x - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def naive_paste(item: np.ndarray, edited: np.ndarray, base: np.ndarray, matrix: np.ndarray, faded: np.ndarray):  # type: ignore[no-untyped-def]
    """One item ``(3, H, W)`` and one chip ``(3, R, R)``, R <= 64; also where the mask is below the threshold."""
    size = edited.shape[-1]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    changed = naive_blur(np.abs(edited - base).max(axis=0), 1.5)
    weights = np.array([0.299, 0.587, 0.114])
    lumas = [np.tensordot(weights, image, 1) for image in (edited, base)]
    new, old, both = (naive_blur((luma - naive_blur(luma, 1.5)) ** 2, 2.0) for luma in (*lumas, lumas[0] - lumas[1]))
    cells = size // 4  # of four pixels, as are those of the item halved twice
    quarter, cell_matrix = halved(halved(item)), matrix * [4.0, 4.0, 1.0]
    coarse = np.zeros((3, cells, cells))
    for row in range(cells):
        for column in range(cells):
            x, y = cell_matrix @ [column + 0.5, row + 0.5, 1.0]
            block = base[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            coarse[:, row, column] = look_up(quarter, x / 4, y / 4, linear, mirrored=True) - block.mean(axis=(1, 2))
    coarse = naive_blur(coarse, 4.0)
    tone = np.zeros_like(base)
    for row in range(size):
        for column in range(size):
            tone[:, row, column] = look_up(coarse, (column + 0.5) / 4, (row + 0.5) / 4, linear)
    layers = np.zeros((5, size, size))
    for row in range(size):
        for column in range(size):
            at = (slice(None), row, column)
            mask = naive_step(changed[row, column], 0.015, 0.05) * faded[row, column]
            ratio = both[row, column] / (new[row, column] + old[row, column] + 0.025**2)
            replaced = mask * naive_step(ratio, 0.15, 0.5)
            layers[:3, row, column] = mask * (edited[at] - base[at]) + replaced * (base[at] + tone[at])
            layers[3:, row, column] = replaced, mask
    result, masks = item.copy(), np.zeros(item.shape[1:])
    for row in range(item.shape[1]):
        for column in range(item.shape[2]):
            x, y = inverse @ [column + 0.5, row + 0.5, 1.0]
            *layer, replaced, masks[row, column] = look_up(layers, x, y, cubic)
            result[:, row, column] = np.clip((1 - replaced) * item[:, row, column] + layer, 0, 1)
    return result, masks


@pytest.mark.parametrize("matrix", [similarity(1.0, 0.0, 3.3, 1.8), similarity(1.0, 24.0, 8.0, -1.0)])
def test_paste_equals_a_loop_over_pixels(matrix: Tensor) -> None:
    items = smooth(1, 22, 25, seed=0, cells=8)
    base, edited = smooth(1, 16, 16, seed=1, cells=5), smooth(1, 16, 16, seed=2, cells=9)
    edited[:, :, :, :6] = base[:, :, :, :6] + 0.02  # a tint on one side, and another face on the other
    edited[:, :, :4] = base[:, :, :4]  # and nothing above
    faded = fade(matrix, (22, 25), 16)[0, 0].double().numpy()
    arrays = (values[0].double().numpy() for values in (items, edited, base, matrix))
    expected, masks = naive_paste(*arrays, faded)
    pasted = paste(items, edited, base, matrix)[0].double().numpy()
    shown = masks > 1 / 512
    assert 0.1 < shown.mean() < 0.9  # the test sees both
    assert np.abs(pasted - expected)[:, shown].max() < 2e-5
    assert (pasted == items[0].double().numpy())[:, masks < 1 / 512 - 1e-4].all()
    assert np.abs(pasted - items[0].double().numpy()).max() > 0.1


# ------------------------------------------------------------------------------------- closed forms

FRAMES = {
    "the chip itself": ((64, 64), similarity(1.0, 0.0, 0.0, 0.0)),
    "larger": ((144, 144), similarity(2.25, 0.0, 0.0, 0.0)),
    "smaller": ((40, 40), similarity(0.625, 0.0, 0.0, 0.0)),
    "loose": ((200, 160), similarity(1.4, 0.0, 30.0, 50.0)),
    "loose and turned": ((150, 170), similarity(1.1, -35.0, 40.0, 80.0)),
    "small in a photo": ((120, 100), similarity(0.3, 10.0, 50.0, 40.0)),
    "beyond the photo": ((90, 90), similarity(1.5, 8.0, -10.0, 12.0)),
    "stretched": ((64, 96), torch.tensor([[[1.5, 0.0, 0.0], [0.0, 1.0, 0.0]]])),
    "mirrored": ((80, 90), torch.tensor([[[-1.0, 0.0, 77.0], [0.0, 1.0, 8.0]]])),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_nothing_changed_means_nothing_changes(frame: str) -> None:
    """However bad the inversion: to the bit, everywhere."""
    (height, width), matrix = FRAMES[frame]
    items, base = smooth(2, height, width, 0), smooth(2, 64, 64, 1)
    for noise in (0.0, 1e-6):  # of a batch of another size
        edited = (base + noise).clamp(0, 1)
        assert torch.equal(paste(items, edited, base, matrix.expand(2, -1, -1)), items)


@pytest.mark.parametrize("frame", ["the chip itself", "larger", "smaller", "stretched"])
def test_a_tint_of_a_chip_that_is_the_whole_item(frame: str) -> None:
    """Light and colour are added: the photo's own detail stays, up to the very edge, without any seam."""
    (height, width), matrix = FRAMES[frame]
    items = 0.2 + 0.5 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    base = smooth(1, 64, 64, 1) * 0.5 + 0.2
    tint = torch.tensor([0.1, -0.08, 0.06])[:, None, None]
    torch.testing.assert_close(paste(items, base + tint, base, matrix), items + tint, atol=2e-5, rtol=0)


@pytest.mark.parametrize("frame", ["loose", "loose and turned", "small in a photo", "mirrored"])
def test_a_tint_in_a_loose_crop_ends_before_the_chip(frame: str) -> None:
    (height, width), matrix = FRAMES[frame]
    items = 0.2 + 0.5 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    base = smooth(1, 64, 64, 1) * 0.5 + 0.2
    change = paste(items, base + 0.1, base, matrix) - items
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    place = (
        apply_points(invert(matrix), torch.stack([x, y], -1).flatten(0, 1))[0].unflatten(0, (height, width)) / 32 - 1
    )
    radius = place.norm(dim=-1)
    assert float((change[0, :, radius < 0.3] - 0.1).abs().max()) < 1e-3
    assert torch.equal(change[0, :, place.abs().amax(-1) > 1], torch.zeros_like(change[0, :, place.abs().amax(-1) > 1]))
    assert float(change.min()) >= -1e-6 and float(change.max()) < 0.1 + 1e-3
    # No step anywhere: from one pixel to the next it falls by little.
    scale = float(matrix[0, :, 0].norm())
    assert float(change.diff(dim=2).abs().max()) < 0.02 / min(scale, 1.0)


def test_where_the_photo_is_the_inversion_the_result_is_the_edit() -> None:
    """photo == base: photo + (edited - base) and edited + tone are the same, so `moved` must not matter."""
    base, edited = smooth(1, 64, 64, 1), smooth(1, 64, 64, 2, cells=12)
    matrix = similarity(1.0, 0.0, 0.0, 0.0)
    changed = pasting._changed(edited - base)
    expected = torch.where(changed > 1 / 512, base + changed * (edited - base), base)
    torch.testing.assert_close(paste(base, edited, base, matrix), expected, atol=1e-5, rtol=0)
    assert float(changed.mean()) > 0.9


def test_old_details_shine_through_a_new_colour_but_not_a_new_structure() -> None:
    base = smooth(1, 64, 64, 1, cells=24) * 0.5 + 0.2
    texture = 0.05 * (torch.arange(64) % 2 * 2 - 1.0)  # what the generator does not know, such as hair
    photo, matrix = base + texture, similarity(1.0, 0.0, 0.0, 0.0)

    def texture_left(edited: Tensor) -> float:
        pasted = paste(photo, edited, base, matrix)
        return float((pasted - edited).mul(texture).sum() / (texture.expand_as(photo) ** 2).sum())

    assert texture_left(base + 0.1) == pytest.approx(1.0, abs=1e-3)
    assert texture_left(0.7 * base + 0.1) == pytest.approx(1.0, abs=0.05)  # less contrast: the same structure
    other = smooth(1, 64, 64, 2, cells=24) * 0.5 + 0.2
    assert texture_left(other) < 0.15


def test_a_new_structure_takes_the_tone_of_the_photo() -> None:
    """A photo that is redder than its inversion: what replaces its structure is redder by as much."""
    base = smooth(1, 64, 64, 1, cells=12) * 0.5 + 0.2
    other = smooth(1, 64, 64, 2, cells=12) * 0.5 + 0.2
    shift = torch.tensor([0.12, 0.0, -0.05])[:, None, None]
    pasted = paste(base + shift, other, base, similarity(1.0, 0.0, 0.0, 0.0))
    changed = pasting._changed(other - base)[0, 0] == 1
    torch.testing.assert_close(pasted[0, :, changed], (other + shift)[0, :, changed], atol=1e-5, rtol=0)


@pytest.mark.parametrize("resolution", [16, 64, 128, 256])
def test_a_local_edit_leaves_the_rest_to_the_bit(resolution: int) -> None:
    """Whatever the generator's resolution: what changed is measured at 64 pixels."""
    items, base = smooth(1, 90, 90, 0), smooth(1, resolution, resolution, 1)
    edited = base.clone()
    third = resolution // 3
    edited[:, :, third : 2 * third, third : 2 * third] = 1.0 - base[:, :, third : 2 * third, third : 2 * third]
    moved = (paste(items, edited, base, similarity(90 / resolution, 0.0, 0.0, 0.0)) != items).any(dim=1)[0]
    assert moved[35:55, 35:55].all()
    assert not moved[:15].any() and not moved[:, :15].any() and not moved[-15:].any() and not moved[:, -15:].any()


def test_a_row_does_not_depend_on_its_batch() -> None:
    items, base, edited = smooth(6, 100, 120, 0), smooth(6, 64, 64, 1, 12), smooth(6, 64, 64, 2, 12)
    matrices = torch.cat([similarity(s, 7.0 * s, 20.0, 15.0) for s in (0.3, 0.9, 1.0, 1.5, 0.6, 1.2)])
    together = paste(items, edited, base, matrices)
    for i in range(6):
        alone = paste(items[i : i + 1], edited[i : i + 1], base[i : i + 1], matrices[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    assert float((together - items).abs().amax(dim=(1, 2, 3)).min()) > 0.1


def test_results_stay_in_range() -> None:
    generator = torch.Generator().manual_seed(0)
    items, base, edited = (torch.rand(4, 3, 64, 64, generator=generator).round() for _ in range(3))
    pasted = paste(items, edited, base, similarity(1.0, 0.0, 0.0, 0.0).expand(4, -1, -1))
    assert float(pasted.min()) >= 0.0 and float(pasted.max()) <= 1.0


# ---------------------------------------------------------------------------------------- the fading


@pytest.mark.parametrize("frame", ["the chip itself", "larger", "smaller", "stretched"])
def test_no_fading_where_chip_and_item_end_together(frame: str) -> None:
    size, matrix = FRAMES[frame]
    assert torch.equal(fade(matrix, size, 64), torch.ones(1, 1, 64, 64))


def test_fading_only_where_the_item_goes_on() -> None:
    """A portrait: the item goes on above and below the chip, not beside it, where only the photo itself cuts hair."""
    faded = fade(similarity(1.0, 0.0, 0.0, 21.0), (106, 64), 64)[0, 0]
    assert (faded[[0, -1]] == 0).all() and (faded[26:38] == 1).all()
    assert (faded == faded[:, :1]).all() and (faded == faded.flip(0)).all()
    assert (faded[:32].diff(dim=0) >= 0).all()
    beside = fade(similarity(1.0, 0.0, 21.0, 0.0), (64, 106), 64)[0, 0]
    assert torch.equal(beside, faded.T)
    left = fade(similarity(1.0, 0.0, 21.0, 0.0), (64, 85), 64)[0, 0]
    assert torch.equal(left[:, :32], faded.T[:, :32]) and (left[:, 32:] == 1).all()


def test_fading_grows_with_what_lies_beyond() -> None:
    faded = [fade(similarity(1.0, 0.0, x, 0.0), (64, 64 + round(x)), 64)[0, 0, 32] for x in (0.4, 2.0, 6.0, 13.3, 30.0)]
    assert (faded[0] == 1).all()  # rounding of a crop
    for less, more in itertools.pairwise(faded[1:]):
        assert (more <= less).all() and float(more[0]) == 0.0
    torch.testing.assert_close(faded[3], faded[4], atol=1e-5, rtol=0)  # full width from a fifth of the chip on


# -------------------------------------------------------------------------- where chips lie in items


@pytest.mark.parametrize(("photo", "item"), [((200, 150), (64, 64)), ((150, 200), (64, 64)), ((99, 70), (50, 50))])
def test_square_fit_is_resize_and_center_crop(photo: tuple[int, int], item: tuple[int, int]) -> None:
    """A marked pixel of the photo lies in torchvision's item where the matrices say."""
    width, height = photo
    transform = similarity(0.5, 20.0, -7.0, 11.0)
    geometry = torch.cat([transform.flatten(), torch.tensor([width, height])])[None]
    matrix = chip_to_item(geometry, 64, item, "square")
    for x, y in ((width // 2 + 9, height // 2 - 13), (width // 2 - 20, height // 2 + 8)):
        image = torch.zeros(1, height, width)
        image[0, y - 2 : y + 3, x - 2 : x + 3] = 1.0
        shown = CenterCrop(item)(Resize(item[0], antialias=True)(image))[0]
        rows, columns = torch.meshgrid(torch.arange(item[0]) + 0.5, torch.arange(item[1]) + 0.5, indexing="ij")
        seen = torch.stack([(shown * columns).sum(), (shown * rows).sum()]) / shown.sum()
        in_chip = apply_points(transform[0], torch.tensor([[x + 0.5, y + 0.5]]))
        # Resize and CenterCrop round to whole pixels.
        assert float((apply_points(matrix[0], in_chip)[0] - seen).abs().max()) < 0.75


def test_stretch_fit_and_auto() -> None:
    transform = torch.tensor([[0.5, 0.0, -3.0], [0.0, 0.5, 4.0]])
    geometry = torch.cat([transform.flatten(), torch.tensor([200.0, 100.0])])[None]
    chip = torch.tensor([[17.0, 24.0]])
    photo = torch.tensor([40.0, 40.0])  # (17 + 3) / 0.5, (24 - 4) / 0.5
    for fit, item, expected in (
        ("stretch", (50, 50), photo * torch.tensor([0.25, 0.5])),
        ("auto", (50, 100), photo * 0.5),
        ("auto", (50, 50), (photo - torch.tensor([50.0, 0.0])) * 0.5),
        ("square", (50, 100), photo * 0.5),
    ):
        found = apply_points(chip_to_item(geometry, 64, item, fit), chip)[0, 0]  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected)


def test_unknown_geometry_is_the_centred_square() -> None:
    known = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 128.0, 128.0]])
    nonsense = torch.tensor([[3.0, 1.0, 9.0, 2.0, 5.0, 1.0, 0.0, 0.0]])
    matrices = chip_to_item(torch.cat([torch.zeros(1, 8), known, nonsense]), 64, (40, 60))
    square = [[0.625, 0.0, 10.0], [0.0, 0.625, 0.0]]
    assert matrices.tolist() == [square, square, square]  # a square photo's square is the item's too


# ---------------------------------------------------------------------------------- whole and aligned


def test_whole_replaces_the_chip_and_nothing_else() -> None:
    items, variants = smooth(2, 60, 50, 0), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = items.clone()
    expected[0, :, 20:36, 7:23] = variants[0]
    expected[1, :, 11:27, 5:21] = variants[1].rot90(-1, (1, 2))  # clockwise, as seen
    matrices = torch.cat([similarity(1.0, 0.0, 7.0, 20.0), similarity(1.0, 90.0, 21.0, 11.0)])
    torch.testing.assert_close(paste_whole(items, variants, matrices), expected, atol=2e-5, rtol=0)
    outside = torch.ones(60, 50, dtype=torch.bool)
    outside[20:36, 7:23] = False
    assert torch.equal(paste_whole(items, variants, matrices)[0, :, outside], items[0, :, outside])


@pytest.mark.parametrize("size", [(16, 16), (20, 20), (12, 12), (20, 27), (12, 9)])
def test_aligned_covers_the_item(size: tuple[int, int]) -> None:
    variants = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    side = max(size)
    scaled = F.interpolate(variants, (side, side), mode="bicubic", antialias=side < 16).clamp(0, 1)
    expected = CenterCrop(size)(scaled) if (side - min(size)) % 2 == 0 else None
    placed = paste_aligned(variants, size)
    assert placed.shape == (2, 3, *size)
    if expected is not None:
        assert torch.equal(placed, expected)
    if size == (16, 16):
        assert torch.equal(placed, variants)
    if side >= 16:  # the matrix says the same
        whole = paste_whole(torch.zeros_like(placed), variants, aligned_to_item(16, size).expand(2, -1, -1))
        torch.testing.assert_close(placed, whole, atol=1e-5, rtol=0)


# --------------------------------------------------------------------------------- through the loader


@pytest.fixture
def loose(tmp_path: Path, faces: Faces) -> LatentCache:
    """A cache of faces that take up a part of their photos of 80 x 60 pixels, each somewhere else."""
    cache = LatentCache.create(tmp_path / "loose.lmdb", make_header(faces.model))
    records = []
    for number, key in enumerate(faces.keys):
        transform = invert(similarity(1.5, 3.0 * number, 10.0 + number, 12.0))[0].numpy()
        records.append(Record(key, random_latents(key), QUALITY, transform, hashlib.sha256().hexdigest(), (80, 60)))
    cache.put_many(records)
    return cache


def photos(dtype: torch.dtype, height: int = 60, width: int = 80) -> Tensor:
    images = smooth(22, height, width, 0)
    return (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)


def wrap(faces: Faces, cache: LatentCache, images: Tensor, **options: Any) -> GANAugmentedDataset:
    items = Items([(image, i) for i, image in enumerate(images)])
    settings = {"ratio": 1.0, "edits": ["middle", "fine"], "classical": None, "key": faces.keys.__getitem__, **options}
    return GANAugmentedDataset(items, cache, **settings)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_bits_outside_the_chip(faces: Faces, loose: LatentCache, dtype: torch.dtype) -> None:
    images = photos(dtype)
    served = next(iter(wrap(faces, loose, images).loader(batch_size=22)))[0]
    assert served.dtype == dtype
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    centres = torch.stack([x, y], -1).flatten(0, 1)
    for number in range(22):
        place = apply_points(torch.from_numpy(loose.get(faces.keys[number]).transform), centres)
        inside = ((place > 0) & (place < 16)).all(dim=1).unflatten(0, (60, 80))
        assert torch.equal(served[number, :, ~inside], images[number, :, ~inside])
        assert float((served[number].double() != images[number].double())[:, inside].double().mean()) > 0.3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_no_edit_gives_the_item_to_the_bit(faces: Faces, loose: LatentCache, dtype: torch.dtype) -> None:
    images = photos(dtype)
    loader = wrap(faces, loose, images, edits=[]).loader(batch_size=7, return_info=True)
    served = [(batch, info) for batch, _, info in loader]
    assert torch.equal(torch.cat([batch for batch, _ in served]), images)
    assert all(info["is_generated"].all() for _, info in served)


def test_no_edit_of_an_anchored_record(faces: Faces, tmp_path: Path) -> None:
    """What an edit changes is measured against the code itself, not against the anchor that edits move."""
    header = make_header(faces.model)
    cache = LatentCache.create(tmp_path / "anchored.lmdb", replace(header, anchored=True))
    square = np.eye(2, 3, dtype=np.float32)
    for key in faces.keys:
        both = np.stack([random_latents(key), random_latents(key + " anchor")])
        cache.put_many([Record(key, both, QUALITY, square, "0" * 64)])
    images = photos(torch.float32)
    assert torch.equal(next(iter(wrap(faces, cache, images, edits=[]).loader(batch_size=22)))[0], images)
    assert not torch.equal(next(iter(wrap(faces, cache, images).loader(batch_size=22)))[0], images)


@pytest.mark.parametrize("mode", ["paste", "whole", "aligned"])
def test_batch_size_changes_nothing(faces: Faces, loose: LatentCache, mode: str) -> None:
    train = wrap(faces, loose, photos(torch.float32), paste=mode)
    whole = next(iter(train.loader(batch_size=22)))[0]
    for batch_size in (1, 5):
        parts = torch.cat([images for images, _ in train.loader(batch_size=batch_size)])
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_items_are_centre_crops_or_whole_photos(faces: Faces, loose: LatentCache) -> None:
    """The same edit at half the size: what changed lies at half the place."""
    full = photos(torch.float32)
    small = F.interpolate(full, (30, 40), mode="bilinear", antialias=True)
    crop = full[:, :, :, 10:70]
    changes = []
    for images in (full, small, crop):
        served = next(iter(wrap(faces, loose, images).loader(batch_size=22)))[0]
        changes.append((served - images).abs().amax(dim=1, keepdim=True))
    # Faces at the very border of the crop: there the variant no longer fades.
    assert float((changes[2] - changes[0][:, :, :, 10:70])[:, :, :, 8:].abs().mean()) < 0.03 * float(changes[0].mean())
    shrunk = F.interpolate(changes[0], (30, 40), mode="bilinear", antialias=True)
    assert float((changes[1] - shrunk).abs().mean()) < 0.1 * float(shrunk.mean())
    stretched = F.interpolate(full, (60, 60), mode="bilinear", antialias=True)
    served = next(iter(wrap(faces, loose, stretched, fit="stretch").loader(batch_size=22)))[0]
    change = F.interpolate((served - stretched).abs().amax(dim=1, keepdim=True), (60, 80), mode="bilinear")
    assert float((change - changes[0]).abs().mean()) < 0.3 * float(changes[0].mean())


def test_geometry_of_the_samples_that_are_generated(faces: Faces, loose: LatentCache) -> None:
    gone = (3, 4, 17)
    loose.forget([faces.keys[i] for i in gone])
    train = wrap(faces, loose, photos(torch.float32))
    recipe = train.draw(range(22), 0)
    recipe.source[:] = 1  # all generated; three of them have no record
    geometry = train.latents_for(recipe)["geometry"]
    kept = [i for i in range(22) if i not in gone]
    assert geometry.shape == (19, 8) and geometry.dtype == torch.float32
    for row, number in zip(geometry, kept, strict=True):
        record = loose.get(faces.keys[number])
        assert row[:6].tolist() == record.transform.flatten().tolist() and row[6:].tolist() == [80.0, 60.0]


def test_rows_of_the_preview(faces: Faces, tmp_path: Path) -> None:
    """One row each for photo, inversion and edit, and two as served; items of their own size are pasted into."""
    images = [pil_to_tensor(Image.open(faces.root / key).convert("RGB")) for key in faces.keys]
    train = GANAugmentedDataset(
        Items([(image, 0) for image in images]), faces.cache, ratio=1.0, edits=["fine"], key=faces.keys.__getitem__
    )
    sheet = preview_sheet(train, tmp_path / "sheet.png", num_faces=4)
    assert sheet.height == 5 * 100 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paste": "glue"}, "unknown paste 'glue': expected one of paste, aligned, whole"),
        ({"fit": "cover"}, "unknown fit 'cover': expected one of auto, square, stretch"),
    ],
)
def test_unknown_names_are_refused(faces: Faces, options: dict[str, str], message: str) -> None:
    cache = LatentCache(faces.cache)
    with pytest.raises(UserInputError, match=message):
        wrap(faces, cache, photos(torch.float32), **options)
