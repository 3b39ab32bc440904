"""Alignment: the chip, and the matrix that says where it was in the photo."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range

SIZES = [(64, 64), (200, 120), (120, 200), (65, 64), (16, 400), (31, 33), (301, 300)]


@pytest.mark.parametrize("size", SIZES)
def test_matrix_is_crop_then_scale(size: tuple[int, int]) -> None:
    """Against crop and scale written out, on corners of the square and random points."""
    width, height = size
    chip, matrix = align(Image.new("RGB", size), Alignment(size=48))
    assert chip.shape == (48, 48, 3) and chip.dtype == np.uint8
    assert matrix.shape == (2, 3) and matrix.dtype == np.float32
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    points = np.random.default_rng(0).uniform(0, 1, (20, 2)) * [width, height]
    corners = [(left, top), (left + side, top), (left, top + side), (left + side, top + side)]
    for x, y in [*corners, *points]:
        want = ((x - left) / side * 48, (y - top) / side * 48)
        np.testing.assert_allclose(matrix @ np.array([x, y, 1.0]), want, atol=1e-3)
    np.testing.assert_allclose([matrix @ np.array([x, y, 1.0]) for x, y in corners[::3]], [[0, 0], [48, 48]], atol=1e-3)


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (256, 256), (90, 61)])
@pytest.mark.parametrize("chip_size", [32, 64, 160])
def test_marks_land_where_the_matrix_says(size: tuple[int, int], chip_size: int) -> None:
    """A white square is drawn in the photo; its centre of mass in the chip is where the matrix puts its centre."""
    side = min(size)
    radius = max(3, round(side / 16))
    rng = np.random.default_rng(1)
    for _ in range(5):
        centre = (np.array(size) / 2 + rng.uniform(-0.5, 0.5, 2) * (side - 6 * radius)).astype(int)
        photo = Image.new("RGB", size)
        box = [int(centre[0]) - radius, int(centre[1]) - radius, int(centre[0]) + radius, int(centre[1]) + radius]
        ImageDraw.Draw(photo).rectangle(box, fill=(255, 255, 255))  # inclusive: 2 * radius + 1 pixels
        chip, matrix = align(photo, Alignment(size=chip_size))
        weight = chip[..., 0].astype(np.float64)
        rows, columns = np.mgrid[0:chip_size, 0:chip_size] + 0.5  # centres of pixels are at half-integers
        got = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        want = matrix @ np.array([centre[0] + 0.5, centre[1] + 0.5, 1.0])
        np.testing.assert_allclose(got, want, atol=0.12)


def test_exact_size_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    chip, matrix = align(Image.fromarray(pixels), Alignment(size=64))
    np.testing.assert_array_equal(chip, pixels)
    np.testing.assert_array_equal(matrix, np.eye(2, 3, dtype=np.float32))


def test_even_crop_without_scaling_is_a_slice() -> None:
    """64 px out of 100x64: whole pixels, so the filter has nothing to do."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    chip, matrix = align(Image.fromarray(pixels), Alignment(size=64))
    np.testing.assert_array_equal(chip, pixels[:, 18:82])
    np.testing.assert_array_equal(matrix, np.array([[1, 0, -18], [0, 1, 0]], np.float32))


def test_shrinking_is_antialiased() -> None:
    """One-pixel stripes become grey, not stripes of another width."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    chip, _ = align(Image.fromarray(stripes), Alignment(size=64))
    inner = chip[:, 4:-4].astype(int)
    assert np.abs(inner - 128).max() <= 2


def test_alignment_round_trip_and_refusal() -> None:
    alignment = Alignment(size=128)
    assert Alignment.from_dict(json.loads(json.dumps(alignment.to_dict()))) == alignment
    with pytest.raises(ValueError, match="unknown alignment mode 'arcface'"):
        Alignment(mode="arcface")


def test_ranges() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    model = to_model_range(grey)
    assert model.dtype == torch.float32 and model.min() == -1.0 and model.max() == 1.0
    torch.testing.assert_close(to_model_range(grey.double() / 255), model)
    assert torch.equal((to_unit_range(model) * 255).round().to(torch.uint8), grey)
    assert to_unit_range(torch.tensor([-1.5, 0.0, 1.5])).tolist() == [0.0, 0.5, 1.0]
