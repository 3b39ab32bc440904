"""Local moves of rows: a linear generator whose rows paint known places, and formulas by a naive loop."""

import math

import pytest
import torch
from torch import Tensor

from ganaug.edits.regions import (
    REGIONS,
    RegionEnergy,
    RowBasis,
    localisation,
    picture_changes,
    region_core,
    region_mask,
)
from ganaug.faces.templates import template_points
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.interfaces import Generator, LatentSpec, UserInputError

SIZE = 8
LEFT = torch.zeros(SIZE, SIZE)
LEFT[:, :4] = 1.0


class Painter:
    """Adds 0.1 times each number of a code to pixels of its own; the last number of row 1 to all pixels."""

    latent_spec = LatentSpec("w_plus", 2, 3)
    img_resolution = SIZE
    z_dim = 3
    fingerprint = "painter"
    w_avg = torch.zeros(3)

    def __init__(self) -> None:
        self.paint = torch.zeros(2, 3, 3, SIZE, SIZE)
        self.paint[0, 0, 0, :, :4] = 0.1  # red on the left
        self.paint[0, 1, 1, :2, :4] = 0.1  # green in a corner of the left
        self.paint[0, 2, 2, :, 4:] = 0.1  # blue on the right
        self.paint[1, 0, 1, :, :4] = 0.1  # green on the left, and a little on the right
        self.paint[1, 0, 1, :, 4:] = 0.02
        self.paint[1, 1, 0, 5:, 5:] = 0.1  # red in a corner of the right
        self.paint[1, 2] = 0.1  # everything

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, w_plus: Tensor, noise: str = "const") -> Tensor:
        return torch.tensordot(w_plus, self.paint, dims=2)


@pytest.fixture
def painter() -> Generator:
    return Painter()  # type: ignore[return-value]


UNITS = RowBasis(torch.eye(3).repeat(2, 1, 1))


def energy(painter: Generator) -> RegionEnergy:
    return RegionEnergy.measure(painter, torch.randn(3, 2, 3) * 0.1, UNITS, {"left": LEFT, "right": 1 - LEFT})


def test_changes_of_a_linear_generator_are_its_matrix(painter: Generator) -> None:
    changes = picture_changes(painter, torch.randn(2, 3) * 0.1, UNITS, LEFT[None])
    torch.testing.assert_close(changes, painter.paint.flatten(0, 1) / 2)  # type: ignore[attr-defined]  # [-1, 1] -> [0, 1]
    with pytest.raises(UserInputError, match=r"masks of \(4, 4\) do not fit pictures of 8 x 8"):
        picture_changes(painter, torch.zeros(2, 3), UNITS, torch.ones(1, 4, 4))


def test_energy_is_the_mean_squared_change(painter: Generator) -> None:
    found = energy(painter)
    move = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    picture = torch.zeros(3, SIZE, SIZE)
    for row in range(2):
        for number in range(3):
            picture += move[row, number] * painter.paint[row, number] / 2  # type: ignore[attr-defined]
    v = move.flatten().double()
    assert float(v @ found.inside["left"] @ v) == pytest.approx(float(picture[:, :, :4].square().mean()), rel=1e-5)
    assert float(v @ found.outside["left"] @ v) == pytest.approx(float(picture[:, :, 4:].square().mean()), rel=1e-5)
    assert torch.allclose(found.inside["left"], found.outside["right"])


def test_axes_stay_inside_and_come_by_size(painter: Generator) -> None:
    axes = energy(painter).axes("left", 6, penalty=10.0)
    flat = axes.flatten(1)
    torch.testing.assert_close(flat @ flat.t(), torch.eye(len(axes)), atol=1e-5, rtol=0)
    changes = [float(painter.synthesis(axis[None])[0, :, :, :4].square().sum()) for axis in axes]
    assert changes == sorted(changes, reverse=True)
    assert len(axes) == 3, "red, green and the corner; what paints everything and what paints the right are left out"
    assert flat[:, 2].abs().max() < 0.15 and flat[:, 4:].abs().max() < 0.15, "used a little, against the leak"
    for seed in range(5):
        weights = torch.randn(len(axes), generator=torch.Generator().manual_seed(seed))
        inside, outside = localisation(painter, torch.zeros(1, 2, 3), torch.tensordot(weights, axes, 1)[None], LEFT)
        assert outside <= inside / 10 + 1e-9, "any combination keeps the condition"
    everywhere = RegionEnergy(
        UNITS, {"a": torch.eye(6).double()}, {"a": torch.eye(6).double()}, torch.zeros(6, 3, 8, 8)
    )
    with pytest.raises(UserInputError, match="no move of this generator's rows changes 'a'"):
        everywhere.axes("a", 2)


def test_a_core_may_be_less_than_what_is_not_outside(painter: Generator) -> None:
    top = torch.zeros(SIZE, SIZE)
    top[:2, :4] = 1.0
    found = RegionEnergy.measure(painter, torch.zeros(1, 2, 3), UNITS, {"left": LEFT}, {"left": top})
    green = torch.tensor([0.0, 1, 0, 0, 0, 0]).double()
    assert float(green @ found.inside["left"] @ green) == pytest.approx(0.05**2 / 3)
    assert float(green @ found.outside["left"] @ green) == 0.0


def test_towards_a_colour(painter: Generator) -> None:
    red = LEFT * torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    move = energy(painter).towards("left", red, penalty=50.0)
    assert move.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert move[0, 0] > 0.95, "the number that paints red on the left"


def test_localised_keeps_what_is_inside(painter: Generator) -> None:
    both = torch.zeros(2, 3)
    both[0, 0], both[0, 2] = 1.0, 1.0  # red on the left, blue on the right
    move = energy(painter).localised("left", both, penalty=1000.0)
    before, after = (painter.synthesis(m[None])[0] for m in (both, move))
    assert after[:, :, 4:].norm() < 0.1 * before[:, :, 4:].norm()
    cosine = torch.nn.functional.cosine_similarity(after[:, :, :4].flatten(), before[:, :, :4].flatten(), dim=0)
    assert cosine > 0.95
    assert after[:, :, :4].norm().item() == pytest.approx(before[:, :, :4].norm().item(), rel=1e-4)


def test_row_basis_is_one_standard_deviation() -> None:
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([[3.0, 1.0, 0.1], [0.5, 2.0, 0.2]])
    basis = RowBasis.of(torch.randn(4000, 2, 3, generator=rng) * spread + 5.0, num_axes=2)
    assert len(basis) == 4
    lengths = basis.moves.norm(dim=2)
    torch.testing.assert_close(lengths, torch.tensor([[3.0, 1.0], [2.0, 0.5]]), rtol=0.05, atol=0)
    weights = torch.tensor([[1.0, -2.0, 0.5, 0.0]])
    torch.testing.assert_close(basis.weights_of(basis.combine(weights)[0]), weights[0], atol=1e-5, rtol=1e-5)


def test_localisation_by_a_naive_loop(painter: Generator) -> None:
    rng = torch.Generator().manual_seed(0)
    codes, edited = (torch.randn(40, 2, 3, generator=rng) * 0.3 for _ in range(2))
    inside, outside = localisation(painter, codes, edited, LEFT)
    sums = [0.0, 0.0]
    for before, after in zip(codes, edited, strict=True):
        a, b = (painter.synthesis(w[None])[0].clamp(-1, 1) / 2 for w in (before, after))
        sums[0] += float(((a - b) ** 2)[:, :, :4].mean()) / 40
        sums[1] += float(((a - b) ** 2)[:, :, 4:].mean()) / 40
    assert (inside, outside) == pytest.approx(sums, rel=1e-5)
    assert localisation(painter, codes, edited, list(LEFT.expand(40, -1, -1))) == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("size", [64, 256])
def test_masks_lie_on_the_points(size: int) -> None:
    left, right, nose, *corners = template_points("fairface", (size, size)).astype(int)
    for name, points in {"eyes": [left, right], "nose": [nose], "mouth": corners, "glasses": [left]}.items():
        mask = region_mask(name, size)
        assert mask.shape == (size, size) and all(mask[y, x] == 1 for x, y in points), name
    background = region_mask("background", size)
    assert background[0, 0] == 1 and background[-1, 0] == 1 and background[size // 2, size // 2] == 0
    assert region_core("background", size)[-1, 0] == 0 and region_core("background", size)[0, 0] == 1
    assert torch.equal(region_core("mouth", size), region_mask("mouth", size))
    shares = {name: float(region_mask(name, size).mean()) for name in REGIONS}
    assert all(math.isclose(float(region_mask(name, 64).mean()), share, abs_tol=0.02) for name, share in shares.items())


def test_unknown_region() -> None:
    with pytest.raises(UserInputError, match="no region 'teeth' in a face: expected one of hair"):
        region_mask("teeth", 64)


def test_runs_on_a_generator_with_rows() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGAN2(StyleGAN2Config(8, 6, 6, 2, (4, 4))).eval().requires_grad_(False)
    basis = RowBasis.of(torch.randn(20, 4, 6), num_axes=2)
    found = RegionEnergy.measure(generator, torch.randn(2, 4, 6), basis, {"left": LEFT})
    assert found.inside["left"].shape == (8, 8) and found.mean.shape == (8, 3, 8, 8)
    assert float(torch.linalg.eigvalsh(found.inside["left"]).min()) > -1e-9
