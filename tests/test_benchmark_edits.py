"""What benchmarks/edits.py measures with, against loops over faces."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import attributes
import edit_measures as measures


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_moves_are_in_standard_deviations_and_columns_count_alike(rng):
    before, after, std = torch.rand(5, 3, generator=rng), torch.rand(5, 3, generator=rng), torch.tensor([1.0, 2.0, 4.0])
    moves = measures.standard_moves(before, after, std)
    for n in range(5):
        for k in range(3):
            assert float(moves[n, k]) == pytest.approx(float(after[n, k] - before[n, k]) / 2**k, rel=1e-5)
        naive = math.sqrt(sum(float(moves[n, k]) ** 2 for k in range(3)) / 3)
        assert float(measures.sizes(moves)[n]) == pytest.approx(naive, rel=1e-5)
    # One column, and the same number in seven columns: equally far.
    assert measures.sizes(torch.full((1, 1), -2.0)) == measures.sizes(torch.full((1, 7), -2.0)) == 2.0


def test_share_moved_asks_for_the_right_way_or_for_enough():
    moves, signs = torch.tensor([[0.1], [-0.2], [3.0], [0.0]]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    assert measures.share_moved(moves, signs) == 0.5  # right, right, wrong, not at all
    assert measures.share_moved(moves, None) == 0.25  # only the third is visible
    several = torch.tensor([[0.1, -0.6, 0.0], [0.4, 0.4, 0.4]])  # one of them is enough, many small ones are not
    assert measures.share_moved(several, None) == 0.5


def test_noise_adds_to_the_size_of_a_movement_and_not_to_its_drift():
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert measures.movement(torch.tensor([[2.0], [-2.0], [2.0], [-2.0]]), signs) == {"size": 2.0, "drift": 2.0}
    assert measures.movement(torch.tensor([[2.0], [2.0], [-2.0], [-2.0]]), signs) == {"size": 2.0, "drift": 0.0}


def test_worst_other_leaves_out_what_is_intended_or_touched():
    moved = {
        name: {"size": size, "drift": size / 2}
        for name, size in {"age": 2.0, "gender": 1.5, "race": 0.4, "pose": 0.1}.items()
    }
    assert measures.worst_other(moved, "age", ["gender"], "size", True) == ("race", 0.2)
    assert measures.worst_other(moved, "age", ["gender"], "drift", True) == ("race", 0.2)
    assert measures.worst_other(moved, "age", ["gender", "race", "pose"], "size", True) == (None, 0.0)
    # An edit that goes every way has no drift of its own to compare with.
    assert measures.worst_other(moved, "age", ["gender"], "drift", False) == ("race", 0.1)


def test_change_inside_and_outside_against_a_loop(rng):
    before, after = torch.rand(3, 3, 6, 5, generator=rng), torch.rand(3, 3, 6, 5, generator=rng)
    mask = torch.rand(3, 6, 5, generator=rng) < 0.4
    mask[2] = False
    inside, outside = measures.change_in_and_out(before, after, mask)
    for n in range(2):
        sums = {True: [0.0, 0], False: [0.0, 0]}
        for y in range(6):
            for x in range(5):
                change = sum(float(after[n, c, y, x] - before[n, c, y, x]) ** 2 for c in range(3)) / 3
                sums[bool(mask[n, y, x])][0] += change
                sums[bool(mask[n, y, x])][1] += 1
        assert float(inside[n]) == pytest.approx(sums[True][0] / sums[True][1], rel=1e-4)
        assert float(outside[n]) == pytest.approx(sums[False][0] / sums[False][1], rel=1e-4)
    assert math.isnan(float(inside[2])) and float(outside[2]) > 0
    found = measures.localisation(torch.tensor([4.0, 1.0, math.nan]), torch.tensor([1.0, 1.0, 1.0]))
    assert found == {"faces": 2, "ratio": 0.4, "share": 0.5}
    assert measures.localisation(inside[2:], outside[2:])["faces"] == 0


def test_likeness_and_what_a_threshold_would_accept():
    assert measures.likeness(torch.tensor([0.2, 0.5, 0.9])) == {"median": 0.5, "share": pytest.approx(2 / 3)}
    assert math.isnan(measures.likeness(torch.empty(0))["share"])
    scores, cosines = torch.tensor([0.9, 0.6, 0.3, math.nan]), torch.tensor([0.8, 0.4, 0.9, 0.9])
    assert measures.threshold_figures(scores, cosines, 0.5) == {
        "accepted": 0.5,
        "median": pytest.approx(0.4),
        "share": 0.5,
    }
    assert measures.threshold_figures(scores, cosines, 0.7)["share"] == 1.0
    assert measures.flip_rate(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])) == 0.5


def test_yaw_is_the_nose_between_the_eyes_whatever_the_roll():
    face = torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [0.5, 1.0], [-0.5, 2.0], [0.5, 2.0]]])
    turned = face @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) * 3 + 7
    assert float(attributes.yaw_of(face)) == pytest.approx(0.25)
    assert float(attributes.yaw_of(turned)) == pytest.approx(0.25)


def test_augmented_views_carry_their_points_along(rng):
    """A white spot at each point is white in the view at the moved point, in mirror images too."""
    places = torch.tensor([[-0.4, -0.4], [0.4, -0.4], [0.0, 0.05], [-0.35, 0.4], [0.35, 0.4]])
    points = places.expand(24, 5, 2).clone()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    pixels = (torch.stack([x, y], -1) + 0.5) / 32 - 1
    spots = ((pixels[:, :, None] - places).norm(dim=3).min(dim=2).values < 0.06).float()
    views, moved = attributes.augment(spots.expand(24, 3, 64, 64), points, rng)
    at = torch.nn.functional.grid_sample(views.mean(1, keepdim=True), moved[:, :, None], align_corners=False)
    seen = (moved.abs() < 0.9).all(dim=2)
    background = views.mean(dim=(1, 2, 3))
    assert seen.float().mean() > 0.9
    assert ((at[:, 0, :, 0] - background[:, None])[seen] > 0.2).all()
    # Points are named by the side of the picture that they lie on, so a mirror image swaps them.
    assert (moved[:, 0, 0] < moved[:, 1, 0]).all() and (moved[:, 3, 0] < moved[:, 4, 0]).all()


def test_light_is_measured_on_the_face(rng):
    points = torch.tensor([[[-0.35, -0.4], [0.35, -0.4], [0.0, 0.0], [-0.3, 0.35], [0.3, 0.35]]])
    flat = torch.full((1, 3, 64, 64), 0.4)
    lit = flat.clone()
    lit[..., 32:] = 0.6
    red = flat.clone()
    red[:, 0] = 0.6
    light, skin = (attributes.light_and_colour(flat, points)[name] for name in ("lighting", "skin"))
    torch.testing.assert_close(light, torch.tensor([[0.4, 0.0, 0.0, 0.0, 0.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(skin, torch.zeros(1, 2), atol=1e-6, rtol=0)
    side = attributes.light_and_colour(lit, points)["lighting"][0]
    torch.testing.assert_close(side, torch.tensor([0.5, 0.2, 0.0, 0.1, 0.0]), atol=2e-3, rtol=0)
    luma = 0.4 + 0.2 * 0.299
    colour = attributes.light_and_colour(red, points)["skin"][0]
    torch.testing.assert_close(colour, torch.tensor([0.4 - luma, 0.6 - luma]), atol=1e-5, rtol=0)
