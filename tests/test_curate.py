"""Curating: measures against closed forms, the search against the naive one, lists that can be fed back."""

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageFilter

from ganaug.curate import CurateLimits, curate, report, write_list, write_report
from ganaug.faces import duplicates
from ganaug.faces.datasets import FaceDataset, from_csv, open_dataset
from ganaug.faces.duplicates import find_duplicates, hamming, near_pairs, similarity
from ganaug.faces.measures import difference_hash, face_box, head_pose, measure
from ganaug.faces.photos import Photo, photos_in_folder, photos_of_dataset
from ganaug.interfaces import ImageError, UserInputError

OFF = CurateLimits(*[None] * 9)
FRONTAL = np.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.1, 0.64], [-0.8, 2.2, 0.0], [0.8, 2.2, 0.0]])


def scene(seed: int, size: tuple[int, int] = (96, 96), cells: int = 12) -> Image.Image:
    """Random shapes with edges; no two seeds look alike."""
    grid = np.random.default_rng(seed).integers(30, 226, (cells, cells, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((480, 480), Image.Resampling.NEAREST).resize(size, Image.Resampling.LANCZOS)


def saved(image: Image.Image, path: Path, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = scene(0, (128, 128))
    points = np.array([[38.0, 64.0], [90.0, 64.0], [64, 64], [40, 64], [88, 64]])  # 52 px apart: the whole image
    assert face_box(image.size, points) == (0, 0, 128, 128)
    luma = np.asarray(image.convert("L"), np.float64)
    expected = scipy.ndimage.laplace(luma)[1:-1, 1:-1].var()
    assert measure(image, points).sharpness == pytest.approx(expected, rel=1e-5)
    blurs = [measure(image.filter(ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 1, 2, 4)]
    assert blurs == sorted(blurs, reverse=True) and blurs[0] > 20 * blurs[2]


def test_exposure_and_colour_have_closed_forms() -> None:
    pixels = np.full((100, 100, 3), 100, np.uint8)
    pixels[:, :50] = 0  # the left half is black
    found = measure(Image.fromarray(pixels))
    assert found.clipped == pytest.approx(0.5, abs=0.01)
    assert found.mean_luma == pytest.approx(50, abs=1)
    assert found.chroma == 0 and (found.width, found.height) == (100, 100)
    orange = measure(Image.new("RGB", (40, 60), (200, 120, 30)))
    assert orange.chroma == 170 and orange.sharpness == 0 and orange.clipped == 0
    assert orange.mean_luma == pytest.approx(0.299 * 200 + 0.587 * 120 + 0.114 * 30, abs=0.6)  # ITU-R BT.601
    assert measure(Image.new("RGB", (40, 40), "white")).clipped == 1.0


def test_face_box_follows_the_points() -> None:
    points = np.array([[40.0, 50.0], [60, 50], [50, 60], [42, 70], [58, 70]])  # 20 px apart, mouth 20 px below
    assert face_box((200, 100), points) == (25.0, 35.0, 75.0, 85.0)
    assert face_box((200, 100), None) == (62.5, 12.5, 137.5, 87.5)
    left, top, right, bottom = face_box((64, 64), points + 500)  # nonsense points still give a box
    assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64


def test_difference_hash_by_hand() -> None:
    # 9x8 cells: every row rises but for its last step; so bits 11111110 eight times.
    row = [10, 20, 30, 40, 50, 60, 70, 80, 5]
    small = Image.fromarray(np.tile(np.uint8(row), (8, 1)))
    assert difference_hash(small) == int("fe" * 8, 16)
    assert difference_hash(small.resize((90, 80), Image.Resampling.NEAREST)) == int("fe" * 8, 16)
    assert difference_hash(Image.new("L", (30, 30), 128)) == 0


@pytest.mark.parametrize("yaw", [-60, -30, 0, 20, 45])
@pytest.mark.parametrize("roll", [-40, 0, 25])
def test_head_pose_of_a_projected_head(yaw: int, roll: int) -> None:
    """A head of five points in space, turned and then seen from far away."""
    turn, lean = math.radians(yaw), math.radians(roll)
    seen = np.stack([FRONTAL[:, 0] * math.cos(turn) + FRONTAL[:, 2] * math.sin(turn), FRONTAL[:, 1]], axis=1)
    leaning = seen @ np.array([[math.cos(lean), math.sin(lean)], [-math.sin(lean), math.cos(lean)]])
    assert head_pose(leaning * 17 + 300) == pytest.approx((yaw, roll), abs=1e-6)
    mirrored = leaning[[1, 0, 2, 4, 3]] * [-1, 1]
    assert head_pose(mirrored) == pytest.approx((-yaw, -roll), abs=1e-6)


def test_head_pose_of_nonsense_is_not_known() -> None:
    assert all(math.isnan(v) for v in head_pose(np.zeros((5, 2))))
    assert all(math.isnan(v) for v in head_pose(np.full((5, 2), np.nan)))


def crowded_hashes(count: int, seed: int) -> np.ndarray:
    """Hashes of which many are near each other, some equal."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 1 << 63, count // 6, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = centres[rng.integers(0, len(centres), count)]
    for _ in range(6):
        flip = np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
        hashes = np.where(rng.random(count) < 0.6, hashes ^ flip, hashes)
    hashes[: count // 10] = hashes[-(count // 10) :]
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 13, 32])
def test_near_pairs_are_those_of_the_naive_search(distance: int) -> None:
    hashes = crowded_hashes(150, distance)
    values = [int(value) for value in hashes]
    naive = [
        [i, j]
        for i, j in itertools.combinations(range(len(values)), 2)
        if bin(values[i] ^ values[j]).count("1") <= distance
    ]
    assert near_pairs(hashes, distance).tolist() == naive and naive


def test_near_pairs_of_none_and_of_equals() -> None:
    assert near_pairs(np.zeros(0, np.uint64), 6).shape == (0, 2)
    assert near_pairs(np.array([5], np.uint64), 6).shape == (0, 2)
    assert len(near_pairs(np.zeros(40, np.uint64), 3)) == 40 * 39 // 2


def test_hamming_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = crowded_hashes(64, 1).reshape(8, 8), crowded_hashes(64, 2).reshape(8, 8)
    different = [[int(a) ^ int(b) for a, b in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
    expected = [[bin(bits).count("1") for bits in row] for row in different]
    assert hamming(first, second).tolist() == expected
    monkeypatch.setattr(duplicates, "_bitwise_count", None)
    assert hamming(first, second).tolist() == expected


def test_similarity_ignores_light_and_contrast() -> None:
    one = np.asarray(scene(1, (32, 32)).convert("L")).astype(np.float64)
    stack = np.stack([one, one * 0.5 + 40, 255 - one, np.full_like(one, 9)]).round().astype(np.uint8)
    values = similarity(stack, np.array([[0, 0], [0, 1], [0, 2], [0, 3]]))
    np.testing.assert_allclose(values, [1, 1, -1, 0], atol=2e-3)


def test_duplicates_stand_behind_a_photo_that_stays() -> None:
    """A chain a - b - c, where a and c are too far apart: c does not stand behind a."""
    hashes = np.array([0b0, 0b1111, 0b11111111], np.uint64)
    likenesses = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (3, 1, 1))
    likenesses[1, 0, 0], likenesses[2, 0, 1] = 7, 9  # not equal
    assert find_duplicates(hashes, likenesses, np.array([0, 1, 2]), 4).tolist() == [-1, 0, -1]
    assert find_duplicates(hashes, likenesses, np.array([1, 0, 2]), 4).tolist() == [1, -1, 1]
    assert find_duplicates(hashes, likenesses, np.array([0, 1, 2]), 3).tolist() == [-1, -1, -1]
    # Copies of a duplicate are duplicates of the one that stays.
    doubled = find_duplicates(hashes[[0, 1, 1]], likenesses[[0, 1, 1]], np.array([0, 1, 2]), 4)
    assert doubled.tolist() == [-1, 0, 0]


def test_near_equal_photos_of_different_things_are_no_duplicates() -> None:
    """Equal hashes alone are not enough: the thumbnails must agree."""
    likenesses = np.stack([np.asarray(scene(seed, (32, 32)).convert("L")) for seed in (1, 2)])
    assert find_duplicates(np.zeros(2, np.uint64), likenesses, np.array([0, 1]), 6).tolist() == [-1, -1]


def test_copies_are_found_and_the_best_stays(tmp_path: Path) -> None:
    for seed in range(6):
        saved(scene(seed), tmp_path / f"{seed}.png")
    big = scene(0, (192, 192))
    saved(big, tmp_path / "big.png")  # the largest copy of 0
    saved(big.resize((70, 70), Image.Resampling.LANCZOS), tmp_path / "small.jpg", quality=60)
    saved(scene(1).convert("L"), tmp_path / "grey.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "2.png").read_bytes())
    found = curate(photos_in_folder(tmp_path), dataclasses.replace(OFF, max_duplicate_distance=6), progress=False)
    keys = [photo.key for photo in found.photos]
    behind = {keys[i]: keys[j] for i, j in enumerate(found.duplicate_of.tolist()) if j >= 0}
    assert behind == {"0.png": "big.png", "small.jpg": "big.png", "grey.png": "1.png", "copy.png": "2.png"}
    assert [keys[i] for i in np.flatnonzero(found.kept)] == ["1.png", "2.png", "3.png", "4.png", "5.png", "big.png"]


def test_a_spoilt_photo_never_pushes_out_a_good_one() -> None:
    """The larger copy is too dark; so the smaller one stays."""
    good, large = scene(3), scene(3, (192, 192)).point(lambda value: value // 5)
    photos = [Photo(name, lambda i=image: (i, "")) for name, image in (("large", large), ("good", good))]  # type: ignore[misc]
    found = curate(photos, CurateLimits(), progress=False)
    assert found.reasons == [("too dark", "duplicate"), ()]


def spoilt_set(root: Path) -> FaceDataset:
    """One photo for every reason, with groups and points."""
    turned = np.float32([[20, 30], [60, 30], [64, 45], [25, 70], [55, 70]])
    leaning = np.float32([[20, 20], [60, 60], [28, 52], [0, 60], [30, 90]])
    frontal = np.float32([[28, 36], [68, 36], [48, 55], [32, 75], [64, 75]])
    sharp = scene(10)
    bright_half = scene(13).convert("L").point(lambda v: 255 if v > 125 else 0)
    files = {
        "fine.png": (sharp, frontal),
        "again.jpg": (sharp.resize((90, 90)), frontal),
        "blurred.png": (scene(11).filter(ImageFilter.GaussianBlur(8)), frontal),
        "bright.png": (scene(12).point(lambda v: 215 + v // 8), frontal),
        "clipped.png": (Image.composite(scene(13), Image.new("RGB", (96, 96)), bright_half), frontal),
        "dark.png": (scene(14).point(lambda v: v // 6), frontal),
        "grey.png": (scene(15).convert("L"), None),
        "tilted.png": (scene(16), leaning),
        "tiny.png": (scene(17, (40, 60)), None),
        "torn.png": (scene(18), None),
        "turned.png": (scene(19), turned),
    }
    for name, (image, _) in files.items():
        saved(image, root / name)
    torn = root / "torn.png"
    torn.write_bytes(torn.read_bytes()[:500])
    points = np.stack([np.full((5, 2), np.nan) if p is None else p for _, p in files.values()])
    sides = ["left" if i % 2 else "right" for i in range(len(files))]
    people = [f"p{i // 2}" for i in range(len(files))]
    return FaceDataset(root, list(files), identities=people, groups={"side": sides, "width": sides}, landmarks=points)


STRICT = CurateLimits(min_sharpness=2, min_chroma=4, max_yaw_deg=30, max_roll_deg=20)
EXPECTED = {
    "fine.png": (),
    "again.jpg": ("duplicate",),
    "blurred.png": ("blurred",),
    "bright.png": ("too bright",),
    "clipped.png": ("clipped",),
    "dark.png": ("too dark",),
    "grey.png": ("grey",),
    "tilted.png": ("tilted",),
    "tiny.png": ("too small",),
    "torn.png": ("unreadable",),
    "turned.png": ("turned",),
}


def test_every_reason(tmp_path: Path) -> None:
    found = curate(photos_of_dataset(spoilt_set(tmp_path)), STRICT, progress=False)
    assert {photo.key: reasons for photo, reasons in zip(found.photos, found.reasons, strict=True)} == EXPECTED
    threaded = curate(found.photos, STRICT, num_threads=3, progress=False)
    assert threaded.reasons == found.reasons
    for name, values in found.measures.items():
        np.testing.assert_array_equal(threaded.measures[name], values)
    # Without a limit there is no reason, whatever the measures.
    lenient = curate(found.photos, OFF, progress=False)
    assert [bool(reasons) for reasons in lenient.reasons] == [photo.key == "torn.png" for photo in found.photos]


def test_list_and_report(tmp_path: Path) -> None:
    dataset = spoilt_set(tmp_path / "images")
    found = curate(photos_of_dataset(dataset), STRICT, progress=False)
    write_list(found, tmp_path / "list.csv")
    with open(tmp_path / "list.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == dataset.files.tolist()
    assert {row["key"] for row in rows if row["kept"] == "1"} == {"fine.png"}
    again, torn = rows[1], rows[9]
    assert again["duplicate_of"] == "fine.png" and again["reasons"] == "duplicate" and len(again["dhash"]) == 16
    assert again["sha256"] == dataset.read_photo(1)[1] and float(again["width"]) == 90
    assert "torn.png" in torn["error"] and torn["sharpness"] == torn["dhash"] == torn["yaw_deg"] == ""
    assert rows[0]["side"] == "right" and rows[0]["group_width"] == "right" and rows[0]["identity"] == "p0"
    figures = write_report(found, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == figures == report(found)
    assert figures["photos"] == 11 and figures["kept"] == 1
    assert figures["reasons"] == {reasons[0]: 1 for reasons in EXPECTED.values() if reasons}
    assert figures["groups"]["side"] == {
        "left": {"photos": 5, "kept": 0, "share": 0.0},
        "right": {"photos": 6, "kept": 1, "share": 0.1667},
    }
    assert figures["duplicates_that_differ_in"] == {"side": 1, "width": 1}


def test_many_identities_are_summed_up(tmp_path: Path) -> None:
    photos = [Photo(str(i), lambda: (scene(0), ""), attributes={"identity": str(i // 2)}) for i in range(100)]
    counts = report(curate(photos, OFF, progress=False))["groups"]["identity"]
    assert counts["values"] == 50 and counts["kept_photos_per_value"] == {"min": 2, "median": 2.0, "max": 2}


def test_list_is_fed_back(tmp_path: Path) -> None:
    dataset = spoilt_set(tmp_path / "images")
    found = curate(photos_of_dataset(dataset), dataclasses.replace(STRICT, max_yaw_deg=None), progress=False)
    write_list(found, tmp_path / "list.csv")
    back = from_csv(tmp_path / "list.csv", tmp_path / "images", target="identity", identity="identity", groups=["side"])
    assert back.files.tolist() == ["fine.png", "turned.png"]
    assert back.identities is not None and back.identities.tolist() == ["p0", "p5"]
    np.testing.assert_allclose(back.landmarks, dataset.landmarks[[0, 10]], atol=0.005)  # type: ignore[index, arg-type]


def test_list_of_a_folder_has_no_empty_columns(tmp_path: Path) -> None:
    saved(scene(0), tmp_path / "a b, c.png")
    write_list(curate(photos_in_folder(tmp_path), progress=False), tmp_path / "list.csv")
    text = (tmp_path / "list.csv").read_text()
    assert "left_eye" not in text and text.splitlines()[1].startswith('"a b, c.png",1,,,96,96,')
    assert open_dataset("csv", tmp_path / "list.csv").files.tolist() == ["a b, c.png"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_size": -1}, "min_size must be 0 or more, got -1"),
        ({"max_clipped": math.nan}, "max_clipped must be 0 or more, got nan"),
        ({"max_duplicate_distance": 40}, "whole number of bits up to 32 of 64, got 40"),
        ({"max_duplicate_distance": 2.5}, "whole number of bits up to 32 of 64, got 2.5"),
    ],
)
def test_impossible_limits(limits: dict[str, float], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        CurateLimits(**limits)  # type: ignore[arg-type]


def test_nothing_to_curate() -> None:
    with pytest.raises(UserInputError, match="expected photos and at least one thread, got 0 and 1"):
        curate([])


def test_nothing_readable() -> None:
    def fail() -> tuple[Image.Image, str]:
        raise ImageError("x: damaged\nor worse")

    found = curate([Photo("x", fail)], progress=False)
    assert found.reasons == [("unreadable",)] and report(found)["measures"] == {}
    assert found.errors == ["x: damaged\nor worse"]


def test_flags_say_the_defaults() -> None:
    from ganaug.cli import CURATE_LIMITS, _limit

    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in CURATE_LIMITS]
    assert names == [field.name for field in dataclasses.fields(CurateLimits)]
    for name, (_, default, _) in zip(names, CURATE_LIMITS, strict=True):
        assert _limit(default) == getattr(CurateLimits(), name)
