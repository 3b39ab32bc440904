import math

import numpy as np
import pytest

from ganaug.checkpoints import open_model
from ganaug.faces.templates import (
    TEMPLATES,
    ffhq_similarity,
    recognise_chip,
    recognise_points,
    template_of,
    template_points,
)
from ganaug.interfaces import UserInputError


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_points_are_a_face_in_the_agreed_order(name: str) -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = points = TEMPLATES[name]
    assert points.shape == (5, 2) and (points > 0).all() and (points < 1).all()
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert abs(left_eye[1] - right_eye[1]) < 0.01  # upright


def test_published_pixels() -> None:
    """ArcFace's and SphereFace's reference points (pixel centres from 0) and CelebA's mean landmarks."""
    assert template_points("arcface", (112, 112))[0] == pytest.approx([38.2946 + 0.5, 51.6963 + 0.5])
    assert template_points("arcface", (224, 224))[4] == pytest.approx([2 * 71.2299, 2 * 92.7041])
    assert template_points("sphereface", (96, 112))[3] == pytest.approx([33.5493 + 0.5, 92.3655 + 0.5])
    assert template_points("celeba", (178, 218)) == pytest.approx(
        np.array([[69, 111], [108, 111], [88, 136], [72, 152], [105, 152]])
    )
    assert template_points("celeba", (178, 178))[0] == pytest.approx([69, 91])  # the centred square alone
    with pytest.raises(UserInputError, match=r"unknown template 'ffqh': expected one of arcface, celeba"):
        template_points("ffqh", (64, 64))


def test_dlib_agrees_with_its_own_five_point_face_and_with_fairface() -> None:
    """dlib's other mean face, of 5 points: the corners of the eyes. FairFace's chips are dlib's."""
    corners = np.array([[0.1205750620789, 0.2137274526848], [0.3340850613712, 0.2290642403242]])
    assert TEMPLATES["dlib"][0] == pytest.approx((corners.mean(axis=0) + 0.25) / 1.5, abs=0.005)
    assert TEMPLATES["dlib"] == pytest.approx(TEMPLATES["fairface"], abs=0.012)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def naive_quad(points: np.ndarray) -> list[np.ndarray]:
    """FFHQ's rectangle (upper left, lower left, lower right, upper right), with plain numbers, from the paper."""
    (ax, ay), (bx, by), _, (cx, cy), (dx, dy) = points
    eye, mouth = ((ax + bx) / 2, (ay + by) / 2), ((cx + dx) / 2, (cy + dy) / 2)
    down = (mouth[0] - eye[0], mouth[1] - eye[1])
    x = (bx - ax + down[1], by - ay - down[0])
    half = max(2.0 * math.hypot(bx - ax, by - ay), 1.8 * math.hypot(*down))
    x = (x[0] / math.hypot(*x) * half, x[1] / math.hypot(*x) * half)
    y = (-x[1], x[0])
    centre = (eye[0] + 0.1 * down[0], eye[1] + 0.1 * down[1])
    signs = ((-1, -1), (-1, 1), (1, 1), (1, -1))
    return [np.array([centre[i] + p * x[i] + q * y[i] for i in (0, 1)]) for p, q in signs]


def test_ffhq_crop_of_an_upright_face() -> None:
    """Eyes 100 px apart at y = 200, mouth at y = 300: side 400, centre (500, 210)."""
    points = np.array([[450, 200], [550, 200], [500, 250], [470, 300], [530, 300]])
    assert ffhq_similarity(points) == pytest.approx(np.array([[1 / 400, 0, -300 / 400], [0, 1 / 400, -10 / 400]]))
    points[3:, 1] = 350  # a long face: 3.6 * 150 px
    assert ffhq_similarity(points)[0, 0] == pytest.approx(1 / 540)


def test_ffhq_crop_of_any_face_is_the_papers_rectangle() -> None:
    rng = np.random.default_rng(0)
    faces = TEMPLATES["arcface"] * 112 + rng.normal(0, 4, (20, 5, 2))
    angles = rng.uniform(-math.pi, math.pi, 20)
    turns = np.array([[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in angles])
    faces = faces @ turns.transpose(0, 2, 1) * rng.uniform(0.1, 30, (20, 1, 1)) + rng.uniform(-500, 500, (20, 1, 2))
    matrices = ffhq_similarity(faces)
    for face, matrix in zip(faces, matrices, strict=True):
        corners = apply(matrix, np.array(naive_quad(face)))
        assert corners == pytest.approx(np.array([[0, 0], [0, 1], [1, 1], [1, 0]]), abs=1e-9)
        assert np.linalg.det(matrix[:, :2]) > 0  # never mirrored


def test_ffhq_template_is_what_the_recipe_makes() -> None:
    assert apply(ffhq_similarity(TEMPLATES["ffhq"] * 512), TEMPLATES["ffhq"] * 512) == pytest.approx(
        TEMPLATES["ffhq"], abs=1e-3
    )


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.full((2, 5, 2), 7.0)])
def test_ffhq_refuses_points_without_extent(points: np.ndarray) -> None:
    with pytest.raises(UserInputError, match="one place or are not finite"):
        ffhq_similarity(points)
    with pytest.raises(UserInputError, match=r"\(\.\.\., 5, 2\), got \(4, 2\)"):
        ffhq_similarity(np.zeros((4, 2)))


def test_recognises_sizes_that_one_alignment_alone_has() -> None:
    sizes = [(112, 112), (178, 218), (96, 112), (112, 96), (218, 178), (128, 128), (256, 256), (1024, 1024)]
    names = ["arcface", "celeba", "sphereface", None, None, None, None, None]
    assert [recognise_chip(size) for size in sizes] == names


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_recognises_aligned_photos_by_their_points(name: str) -> None:
    """Points of real aligned faces scatter by some 5 % of the eye distance; a third may be detected quite wrongly."""
    rng = np.random.default_rng(1)
    size = (178, 218) if name == "celeba" else (200, 200)
    points = template_points(name, size) + rng.normal(0, 2.0, (30, 5, 2))
    points[::3] += 70
    assert recognise_points(points, size) == name
    assert recognise_points(points, np.tile(size, (30, 1))) == name


def test_recognises_no_template_in_loose_photos() -> None:
    rng = np.random.default_rng(2)
    shifted = template_points("ffhq", (200, 200)) + rng.uniform(-40, 40, (30, 1, 2))
    assert recognise_points(shifted, (200, 200)) is None
    with pytest.raises(UserInputError, match=r"\(N, 5, 2\) with N >= 1, got \(0, 5, 2\)"):
        recognise_points(np.zeros((0, 5, 2)), (200, 200))


def test_template_of_a_generator() -> None:
    assert template_of(open_model("faces64").description) == "fairface"
    assert template_of({"family": "stylegan3", "layout": "nvidia"}) == "ffhq"
    assert template_of({"family": "stylegan2", "layout": "nvidia", "template": "arcface"}) == "arcface"
    assert template_of({"family": "stylegan2", "training": {"data": "hers: 400 images"}}) is None
    assert template_of({"family": "stylegan2"}) is None
