"""Alignment: the chip, and the matrix that says where it was in the photo."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ganaug.faces.align import Alignment, align, similarity, to_model_range, to_unit_range
from ganaug.faces.cut import cut
from ganaug.faces.templates import TEMPLATES, ffhq_similarity
from ganaug.interfaces import ImageError, UserInputError

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
    assert alignment.to_dict() == {"mode": "center", "size": 128}  # nothing that plays no part in it
    full = Alignment("points", 128, "ffhq", which_face="all", chips=None, detector="mtcnn")
    assert Alignment.from_dict(json.loads(json.dumps(full.to_dict()))) == full
    for values, message in (
        ({"mode": "arcface"}, "unknown alignment mode 'arcface': expected 'center' or 'points'"),
        ({"mode": "points"}, "needs a template, one of arcface, .*; got None"),
        ({"mode": "points", "template": "vgg"}, "needs a template, one of arcface, .*; got 'vgg'"),
        ({"mode": "points", "template": "ffhq", "which_face": "best"}, "unknown which_face 'best'"),
        ({"mode": "points", "template": "ffhq", "chips": "vgg"}, "unknown chips 'vgg'"),
        ({"template": "ffhq"}, "are for alignment mode 'points', got mode 'center'"),
        ({"detector": "mtcnn"}, "are for alignment mode 'points', got mode 'center'"),
        ({"which_face": "all"}, "are for alignment mode 'points', got mode 'center'"),
    ):
        with pytest.raises(UserInputError, match=message):
            Alignment(**values)


def test_ranges() -> None:
    grey = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    model = to_model_range(grey)
    assert model.dtype == torch.float32 and model.min() == -1.0 and model.max() == 1.0
    torch.testing.assert_close(to_model_range(grey.double() / 255), model)
    assert torch.equal((to_unit_range(model) * 255).round().to(torch.uint8), grey)
    assert to_unit_range(torch.tensor([-1.5, 0.0, 1.5])).tolist() == [0.0, 0.5, 1.0]


# --- By five points ---------------------------------------------------------------------------------------------------


def random_similarity(rng: np.random.Generator, low: float = 0.02, high: float = 5.0) -> np.ndarray:
    """``(2, 3)``: any turn, a scale between the two, shifts of up to 2000 px."""
    factor = np.exp(rng.uniform(np.log(low), np.log(high)) + 1j * rng.uniform(0, 2 * np.pi))
    x, y = rng.uniform(-2000, 2000, 2)
    return np.array([[factor.real, -factor.imag, x], [factor.imag, factor.real, y]])


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_similarity_is_found_again(template: str) -> None:
    """A template's own points, moved by a similarity: the inverse is found, to rounding."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        truth = random_similarity(rng)
        chip = TEMPLATES[template] * 128
        found = similarity(moved(truth, chip), template, 128)
        if template == "ffhq":  # the recipe's crop, not the mean points: moves along with the points all the same
            np.testing.assert_allclose(
                moved(found, moved(truth, chip)), moved(ffhq_similarity(chip) * 128, chip), atol=1e-6
            )
        else:
            np.testing.assert_allclose(moved(found, moved(truth, chip)), chip, atol=1e-6)
        np.testing.assert_allclose(found[0, 0], found[1, 1])
        np.testing.assert_allclose(found[0, 1], -found[1, 0])


def test_no_similarity_is_nearer_than_the_one_found() -> None:
    """Against NumPy's least squares over (a, b, x, y), for points that fit no template exactly."""
    rng = np.random.default_rng(1)
    for template in ("fairface", "arcface", "dlib", "celeba"):
        points = moved(random_similarity(rng), TEMPLATES[template] + rng.normal(0, 0.04, (5, 2)))
        x, y = points.T
        one, zero = np.ones(5), np.zeros(5)
        system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        a, b, *shift = np.linalg.lstsq(system, (TEMPLATES[template] * 64).T.reshape(-1), rcond=None)[0]
        want = np.array([[a, -b, shift[0]], [b, a, shift[1]]])
        np.testing.assert_allclose(similarity(points, template, 64), want, rtol=1e-6, atol=1e-6)


def face_photo(points: np.ndarray, size: tuple[int, int], radius: float) -> Image.Image:
    """White dots with soft edges at five points, on black."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    photo = np.zeros((size[1], size[0]))
    for px, py in points:
        photo += np.exp(-((x[None, :] - px) ** 2 + (y[:, None] - py) ** 2) / (2 * radius**2))
    return Image.fromarray(np.repeat(np.rint(photo.clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])  # photo pixels per pixel of the chip
@pytest.mark.parametrize("angle_deg", [0.0, 25.0, -140.0])
def test_dots_land_on_the_template(scale: float, angle_deg: float) -> None:
    """Dots drawn at the points of a turned face: their centres of mass in the chip are the template's points."""
    chip_points = TEMPLATES["fairface"] * 96
    factor = scale * np.exp(1j * np.deg2rad(angle_deg))
    turned = np.array([[factor.real, -factor.imag, 0], [factor.imag, factor.real, 0]])
    corners = moved(turned, np.array([[0, 0], [96, 0], [0, 96], [96, 96]]))
    turned[:, 2] = 5 - corners.min(axis=0)
    width, height = np.ceil(np.ptp(corners, axis=0) + 10).astype(int)
    points = moved(turned, chip_points)
    photo = face_photo(points, (int(width), int(height)), 3 * scale)
    chip, matrix = align(photo, Alignment("points", 96, "fairface"), points)
    assert chip.shape == (96, 96, 3) and chip.dtype == np.uint8 and matrix.dtype == np.float32
    np.testing.assert_allclose(moved(matrix, points), chip_points, atol=1e-3)
    for x, y in chip_points:
        left, top = round(x) - 10, round(y) - 10
        window = chip[top : top + 20, left : left + 20, 0].astype(np.float64)
        rows, columns = np.mgrid[top : top + 20, left : left + 20] + 0.5
        got = np.array([(window * columns).sum(), (window * rows).sum()]) / window.sum()
        np.testing.assert_allclose(got, (x, y), atol=0.1)


def photo_of(seed: int, size: tuple[int, int], detail: int = 30) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((first.astype(np.float64) - second) ** 2)))


@pytest.mark.parametrize("side", [40.0, 64.0, 90.5, 200.0, 371.0])
def test_an_upright_cut_is_pillows_resize(side: float) -> None:
    """Enlarged, shrunk a little and a lot; Pillow's own bicubic is 35 to 40 dB from its Lanczos here."""
    photo = photo_of(int(side), (400, 400), detail=int(400 / side * 20))
    left, top = 17.25, 20.5
    matrix = np.array([[64 / side, 0, -left * 64 / side], [0, 64 / side, -top * 64 / side]])
    want = np.asarray(photo.resize((64, 64), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)))
    got = cut(photo, matrix, 64)
    assert psnr(got, want) > 45
    rim = np.ones((64, 64), bool)
    rim[1:-1, 1:-1] = False
    assert psnr(got[rim], want[rim]) > 45  # which sees what lies around the chip, as Pillow's box does


def test_a_turned_cut_is_that_of_the_turned_photo() -> None:
    """By a quarter: the same pixels from a photo that Pillow turned first."""
    photo = photo_of(2, (300, 200))
    turned = photo.transpose(Image.Transpose.ROTATE_270)  # clockwise: (x, y) -> (200 - y, x)
    matrix = np.array([[0.4, 0.0, -10.0], [0.0, 0.4, -8.0]])
    quarter = np.array([[0.0, -1.0, 200.0], [1.0, 0.0, 0.0]])
    inner = np.concatenate([quarter, [[0, 0, 1]]])
    want, got = cut(turned, matrix, 48), cut(photo, matrix @ inner, 48)
    assert np.abs(want.astype(int) - got).max() <= 1


def test_a_stored_matrix_cuts_the_same_chip() -> None:
    """What a cache stores is enough to see the chip again."""
    photo, points = photo_of(3, (150, 130)), TEMPLATES["dlib"] * 70 + [30.5, 22.25]
    chip, matrix = align(photo, Alignment("points", 32, "arcface"), points)
    np.testing.assert_array_equal(cut(photo, matrix, 32), chip)


def test_beyond_the_photo_it_is_mirrored_blurred_and_fades() -> None:
    """A chip that reaches over the left edge by 40 %: the mirror image near the edge, the median colour far from it."""
    photo = photo_of(4, (200, 200), detail=25)
    chip = cut(photo, np.array([[0.5, 0.0, 40.0], [0.0, 0.5, 0.0]]), 100).astype(np.float64)
    inside = np.asarray(photo.resize((60, 100), Image.Resampling.LANCZOS, box=(0, 0, 120, 200)), dtype=np.float64)
    assert psnr(chip[:, 40:], inside) > 45  # pixels of the photo are left alone, up to the edge
    mirrored = inside[:, 39::-1]
    assert np.abs(chip[:, 39] - mirrored[:, 39]).mean() < 4  # the nearest column is barely changed,
    detail = [np.abs(np.diff(chip[:, column], axis=0)).mean() for column in (39, 30, 20, 10, 0)]
    assert detail[0] > 1.5 * detail[1] > 1.5 * detail[2] and detail[2] > detail[3] > detail[4]  # then ever smoother,
    median = np.median(inside, axis=(0, 1))
    assert np.abs(chip[:, 0] - median).mean() < 3 < np.abs(mirrored[:, 0] - median).mean()  # to one colour


@pytest.mark.parametrize("scale", [0.2, 0.7, 2.0])
@pytest.mark.parametrize("corner", [(-30, -20), (70, -10), (-140, 50), (-70, -60)])
def test_the_mirror_image_is_that_of_a_padded_photo(
    scale: float, corner: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against NumPy's symmetric padding, three times the photo on every side; turned chips, some larger than it."""
    monkeypatch.setattr("ganaug.faces.cut._outside", lambda *_: None)  # neither blur nor colour
    photo, pad = photo_of(5, (120, 80), detail=8), 240
    padded = Image.fromarray(np.pad(np.asarray(photo), ((pad, pad), (pad, pad), (0, 0)), mode="symmetric"))
    factor = scale * np.exp(0.3j)
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    size = round(150 * scale)
    matrix = np.concatenate([linear, -linear @ np.array(corner)[:, None]], axis=1)
    shifted = np.concatenate([linear, -linear @ (np.array(corner) + pad)[:, None]], axis=1)
    assert psnr(cut(photo, matrix, size), cut(padded, shifted, size)) > 38


FACE = TEMPLATES["fairface"] * 60 + 20


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (None, "no points of a face are known"),
        (FACE[:4], "must be five finite pairs"),
        (FACE * np.nan, "must be five finite pairs"),
        (FACE + 100, "outside the photo of 100x100 px; they must be in pixels"),
        (FACE / 100, "must be in pixels, not in \\[0, 1\\]"),
        (FACE[[1, 0, 2, 4, 3]], "are those of a mirror image; expected left eye, right eye"),
    ],
)
def test_points_that_are_no_face(points: np.ndarray | None, message: str) -> None:
    for template in ("fairface", "ffhq"):
        with pytest.raises(ImageError, match=message):
            align(Image.new("RGB", (100, 100)), Alignment("points", 32, template), points)


def test_a_profile_and_a_head_upside_down_are_faces() -> None:
    """Of a profile, a detector may put the eyes in the wrong order by a little."""
    profile = FACE.copy()
    profile[:, 0] = [50, 47, 30, 44, 43]
    for points in (profile, 100 - FACE):
        for template in ("fairface", "ffhq"):
            _, matrix = align(Image.new("RGB", (100, 100)), Alignment("points", 32, template), points)
            assert np.isfinite(matrix).all() and 0.1 < np.sqrt(np.linalg.det(matrix[:, :2])) < 1.5
