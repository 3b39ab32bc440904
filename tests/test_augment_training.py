"""What the discriminator's augmentations do, how often and how much; the controller of p."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ganaug.training.augment import Augmentation, _color_matrices, adapted, augment, draw_augmentation

CPU = torch.device("cpu")
OPERATIONS = ("shift", "scale", "rotation", "stretch", "brightness", "contrast", "saturation", "hue")
EYE = torch.eye(2, 3)


def draw(batch: int, p: float | Tensor, seed: int = 0) -> Augmentation:
    return draw_augmentation(batch, p, torch.Generator().manual_seed(seed), CPU)


def moved(theta: Tensor) -> Augmentation:
    """``theta (B, 2, 3)`` and no change of colour."""
    return Augmentation(theta, torch.eye(3, 4).repeat(len(theta), 1, 1), torch.ones(len(theta), dtype=torch.bool))


def colored(values: list[float], angle: float = 0.0) -> Augmentation:
    """Brightness, contrast and saturation in standard deviations, hue in radians; nothing is moved."""
    active = torch.tensor([[*(float(v != 0) for v in values), float(angle != 0)]])
    color = _color_matrices(torch.tensor([values]), torch.tensor([angle]), active)
    return Augmentation(EYE[None], color, torch.zeros(1, dtype=torch.bool))


def pictures(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1


def recovered(drawn: Augmentation) -> dict[str, np.ndarray]:
    """The drawn parameters, found again in the matrices: zero where an operation was left out."""
    theta, color = drawn.theta.double().numpy(), drawn.color.double().numpy()
    # Rotation times diag(s t, s / t): lengths of the columns, direction of the first.
    first, second = np.linalg.norm(theta[:, :, 0], axis=1), np.linalg.norm(theta[:, :, 1], axis=1)
    matrix, offset = color[:, :, :3], color[:, 0, 3]
    contrast = matrix.sum(axis=2).mean(axis=1)  # grey stays grey, contrast times as far
    across = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])  # plane of saturation and hue
    plane = across @ matrix @ across.T / contrast[:, None, None]
    found = {
        "shift": theta[:, :, 2] / 2,  # coordinates run from -1 to 1
        "scale": np.log2(first * second) / 2,
        "rotation": np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0])),
        "stretch": np.log2(first / second) / 2,
        "brightness": offset / contrast,
        "contrast": np.log2(contrast),
        "saturation": np.log2(np.linalg.det(plane)) / 2,
        "hue": np.arctan2(plane[:, 1, 0] - plane[:, 0, 1], plane[:, 0, 0] + plane[:, 1, 1]),
    }
    return {name: np.where(np.abs(value) < 2e-6, 0.0, value) for name, value in found.items()}


def test_left_out_means_untouched() -> None:
    images, drawn = pictures(64), draw(64, 0.0)
    assert torch.equal(augment(images, drawn), images)
    assert not drawn.moved.any() and torch.equal(drawn.theta, EYE.expand(64, 2, 3))


def test_rows_that_are_left_out_are_untouched_beside_others() -> None:
    images, drawn = pictures(400), draw(400, 0.1)
    same = (augment(images, drawn) == images).flatten(1).all(dim=1).numpy()
    nothing = np.ones(400, bool)
    for value in recovered(drawn).values():
        nothing &= ~(value.reshape(400, -1) != 0).any(axis=1)
    assert (same == nothing).all() and 100 < nothing.sum() < 260  # 0.9^8 of 400 are 172


def test_each_operation_has_frequency_p_and_its_own_draw() -> None:
    count, p = 20000, 0.3
    found = recovered(draw(count, p))
    active = {name: value.reshape(count, -1).any(axis=1) for name, value in found.items()}
    assert tuple(active) == OPERATIONS
    for name, rows in active.items():
        assert abs(rows.mean() - p) < 5 * math.sqrt(p * (1 - p) / count), name
    for a, b in itertools.combinations(OPERATIONS, 2):
        both = p * p
        assert abs((active[a] & active[b]).mean() - both) < 5 * math.sqrt(both * (1 - both) / count), (a, b)


def test_widths() -> None:
    """Those of arXiv 2006.06676, appendix B; rotations are ours."""
    count = 20000
    found = recovered(draw(count, 1.0))
    widths = {"scale": 0.2, "rotation": 10.0, "stretch": 0.2, "brightness": 0.2, "contrast": 0.5, "saturation": 1.0}
    draws = {name: found[name] for name in widths} | {"x": found["shift"][:, 0], "y": found["shift"][:, 1]}
    for name, width in (widths | {"x": 0.125, "y": 0.125}).items():
        values = draws[name]
        assert (values != 0).mean() > 0.999
        assert values.std() == pytest.approx(width, rel=5 / math.sqrt(2 * count)), name
        assert abs(values.mean()) < 5 * width / math.sqrt(count), name
        assert (np.abs(values) < width).mean() == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.018)  # normal
    hue = found["hue"]
    assert np.histogram(hue, bins=8, range=(-math.pi, math.pi))[0].min() > count / 8 * 0.9
    correlation = np.corrcoef(np.stack([*draws.values(), hue]))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / math.sqrt(count)


def test_a_tensor_as_p() -> None:
    for p in (0.0, 0.25, 1.0):
        by_number, by_tensor = draw(32, p), draw(32, torch.tensor(p))
        assert torch.equal(by_number.theta, by_tensor.theta) and torch.equal(by_number.color, by_tensor.color)


def test_rows_are_drawn_once() -> None:
    """A slice of a draw does to a slice of the images what the whole does to the whole."""
    images, drawn = pictures(6), draw(6, 0.7)
    assert torch.equal(augment(images[2:5], drawn[2:5]), augment(images, drawn)[2:5])


def test_whole_pixels_are_moved_exactly() -> None:
    """Reads 3 px to the right and 2 px above; beyond its border the picture is mirrored."""
    images, theta = pictures(), EYE[None].clone()
    theta[0, :, 2] = torch.tensor([3.0, -2.0]) * 2 / 16
    mirrored = np.pad(images[0].numpy(), ((0, 0), (2, 0), (0, 3)), mode="symmetric")
    np.testing.assert_allclose(augment(images, moved(theta))[0].numpy(), mirrored[:, :16, 3:], atol=1e-5)


def test_quarter_turn_and_enlargement() -> None:
    images = pictures()
    turned = augment(images, moved(torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])))
    torch.testing.assert_close(turned, torch.rot90(images, 1, (2, 3)), atol=1e-5, rtol=0)
    # At twice the size, output pixel 8 + k (centre k + 0.5 from the middle) reads (k + 0.5) / 2 from it.
    ramp = (torch.arange(16.0) - 7.5).expand(1, 3, 16, 16)
    enlarged = augment(ramp, moved(EYE[None] * 0.5))
    torch.testing.assert_close(enlarged, ramp / 2, atol=1e-5, rtol=0)


def test_brightness_and_contrast_by_hand() -> None:
    images = pictures()
    torch.testing.assert_close(augment(images, colored([1.5, 0, 0])), images + 0.3)
    torch.testing.assert_close(augment(images, colored([0, 2.0, 0])), images * 2.0)
    torch.testing.assert_close(augment(images, colored([1.0, -2.0, 0])), (images + 0.2) / 2.0)


def test_saturation_by_hand() -> None:
    images = pictures()
    grey = images.mean(dim=1, keepdim=True)
    torch.testing.assert_close(augment(images, colored([0, 0, 1.0])), grey + (images - grey) * 2.0)
    torch.testing.assert_close(augment(images, colored([0, 0, -1000.0])), grey.expand(-1, 3, -1, -1))


def test_hue_turns_about_the_grey_axis() -> None:
    """Rodrigues' formula equals the exponential of the axis's cross product; lengths and grey stay."""
    axis = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    cross = torch.linalg.cross(axis.expand(3, 3), torch.eye(3, dtype=torch.float64)).T  # cross @ x = axis x x
    for angle in (-3.0, -0.7, 0.4, 2 * math.pi / 3):
        matrix = colored([0, 0, 0], angle).color[0, :, :3]
        torch.testing.assert_close(matrix.double(), torch.matrix_exp(angle * cross), atol=1e-6, rtol=0)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-6, rtol=0)
        images = pictures()
        shown = augment(images, colored([0, 0, 0], angle))
        torch.testing.assert_close(shown.mean(dim=1), images.mean(dim=1), atol=1e-6, rtol=0)
    thirds = colored([0, 0, 0], 2 * math.pi / 3).color[0, :, :3]  # red -> green -> blue
    torch.testing.assert_close(thirds, torch.eye(3).roll(1, 0), atol=1e-6, rtol=0)


def test_gradient() -> None:
    images = pictures(3).double()[:, :, :6, :6].requires_grad_(True)
    for p in (0.0, 1.0):
        drawn = draw(3, p, seed=3)
        exact = Augmentation(drawn.theta.double(), drawn.color.double(), drawn.moved)
        assert torch.autograd.gradcheck(lambda x, exact=exact: augment(x, exact), images)


@pytest.mark.parametrize(
    ("p", "sign", "expected"),
    [
        (0.3, 0.9, 0.31),
        (0.3, 0.1, 0.29),
        (0.3, 0.6, 0.3),
        (0.795, 1.0, 0.8),
        (0.8, 1.0, 0.8),
        (0.005, -1.0, 0.0),
        (0.0, -1.0, 0.0),
    ],
)
def test_p_moves_by_a_fixed_amount(p: float, sign: float, expected: float) -> None:
    """40 of 4000 images: a hundredth."""
    found = adapted(torch.tensor(p), torch.tensor(sign), 40, target=0.6, kimg=4.0, maximum=0.8)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_p_goes_from_0_to_1_in_the_given_time() -> None:
    p, steps = torch.tensor(0.0), 0
    while p < 1.0 - 1e-4:
        p, steps = adapted(p, torch.tensor(1.0), 64, target=0.6, kimg=3.2, maximum=1.0), steps + 1
    assert steps * 64 == 3200
