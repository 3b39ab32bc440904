"""Curvature against exact derivatives, and L-BFGS against closed forms, PyTorch's own and Adam."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganaug.errors import CheckpointError, UserInputError
from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.inversion import LatentEncoder
from ganaug.inversion.curvature import (
    REST,
    Curvature,
    curvature_of,
    estimate_curvature,
    read_curvature,
    typical_codes,
    write_curvature,
)
from ganaug.inversion.descent import Descent, Progress
from ganaug.inversion.optimization import OptimizationInverter
from ganaug.inversion.quasi_newton import Pairs, QuasiNewton, inverse_times

CHANNELS = (8, 8, 8)


@pytest.fixture(scope="module")
def networks() -> tuple[StyleGAN2, PerceptualFeatures, LatentEncoder]:
    rng_state = torch.get_rng_state()
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(16, 8, 8, 2, CHANNELS)).eval().requires_grad_(False)
    features = PerceptualFeatures(CHANNELS, 16).eval()
    encoder = LatentEncoder(CHANNELS, 6, 8).eval().requires_grad_(False)
    torch.set_rng_state(rng_state)
    return generator, features, encoder


def exact_hessian(generator: StyleGAN2, features: PerceptualFeatures | None, code: Tensor) -> Tensor:
    """Second derivative of the loss at a code whose own image is the photo: there it is Gauss-Newton's matrix."""
    photo = generator.synthesis(code[None])
    maps = None if features is None else features(photo)

    def loss(flat: Tensor) -> Tensor:
        made = generator.synthesis(flat.view(1, *code.shape))
        found = (made - photo).square().mean()
        if features is not None and maps is not None:
            found = found + 0.2 * feature_distance(features(made), maps).sum()
        return found

    return torch.autograd.functional.hessian(loss, code.flatten())


@pytest.mark.parametrize("with_features", [False, True])
def test_estimate_is_the_hessian(
    networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder], with_features: bool
) -> None:
    generator, features, encoder = networks
    used = features if with_features else None
    code = typical_codes(generator, encoder, 1)
    found = estimate_curvature(generator, used, code.expand(16, -1, -1), num_projections=300)
    axes = torch.nn.functional.normalize(found.axes.float(), dim=1)
    exact = exact_hessian(generator, used, code[0])
    estimated = axes.t() @ (found.values[:, None] * axes)
    assert (estimated - exact).norm() < 0.08 * exact.norm()
    values = torch.linalg.eigvalsh(exact).flip(0)
    torch.testing.assert_close(found.values[:6], values[:6], rtol=0.15, atol=0.0)


def test_every_code_counts_alike(networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder]) -> None:
    generator, features, encoder = networks
    codes = typical_codes(generator, encoder, 2)
    exact = [exact_hessian(generator, features, code) for code in codes]
    scale = sum(float(h.trace()) for h in exact) / 2
    mean = sum((h / h.trace() * scale / 2 for h in exact), torch.zeros_like(exact[0]))
    found = estimate_curvature(generator, features, codes.repeat(8, 1, 1), num_projections=300)
    axes = torch.nn.functional.normalize(found.axes.float(), dim=1)
    assert (axes.t() @ (found.values[:, None] * axes) - mean).norm() < 0.08 * mean.norm()


def test_few_projections_span_what_they_saw(networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder]) -> None:
    """With fewer projections than numbers in a code the smaller of two products is taken apart: the same answer."""
    generator, features, encoder = networks
    codes = typical_codes(generator, encoder, 4)
    few = estimate_curvature(generator, features, codes, num_projections=8)  # 32 of 48
    many = estimate_curvature(generator, features, codes, num_projections=12)
    assert len(few.values) <= 32 < len(many.values) <= 48
    assert (few.values[:-1] >= few.values[1:]).all()
    assert float(few.values.sum()) == pytest.approx(float(many.values.sum()), rel=0.3)
    assert len(estimate_curvature(generator, features, codes, num_axes=5).values) == 5


def test_whitening_makes_the_hessian_round() -> None:
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=rng)).Q
    values = torch.logspace(2, 0, 20)
    hessian = basis[:20].t() @ (values[:, None] * basis[:20]) + REST * basis[20:].t() @ basis[20:]
    whiten = Curvature.of(basis[:20], values, {}).whitening(torch.device("cpu"))
    matrix = whiten(torch.eye(40))
    torch.testing.assert_close(matrix, matrix.t())
    found = torch.linalg.eigvalsh(matrix @ hessian @ matrix)
    assert found.min() > 0.8  # 1 but for axes in int8
    assert found.max() < 1.3


def test_estimates_and_files_are_the_same_every_time(
    networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder], tmp_path: Path
) -> None:
    generator, features, encoder = networks
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        codes = typical_codes(generator, encoder, 20)
        write_curvature(path, estimate_curvature(generator, features, codes), generator.fingerprint)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    read = read_curvature(paths[0])
    assert torch.equal(read.axes, estimate_curvature(generator, features, codes).axes)
    assert read.settings == {"curvature": {"codes": 20, "projections": 8, "axes": 512, "seed": 0}}
    whole = paths[0].read_bytes()
    paths[1].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_curvature(paths[1])
    paths[1].write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="not a readable file"):
        read_curvature(paths[1])


def test_bundled_file_is_found_by_fingerprint(
    networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, features, encoder = networks
    codes = typical_codes(generator, encoder, 3, seed=1)
    stored = estimate_curvature(generator, features, codes, num_projections=3)
    monkeypatch.setattr("ganaug.inversion.curvature.ASSETS", tmp_path)
    write_curvature(tmp_path / "x.curvature.safetensors", stored, "another generator")
    assert curvature_of(generator, features, encoder).recipe["codes"] == 256
    write_curvature(tmp_path / "y.curvature.safetensors", stored, generator.fingerprint)
    assert torch.equal(curvature_of(generator, features, encoder).axes, stored.axes)
    monkeypatch.setattr(generator, "tuned_from", ("another generator",))
    (tmp_path / "y.curvature.safetensors").unlink()
    assert curvature_of(generator, features, encoder).recipe["codes"] == 3


class Quadratic:
    """``(c - t)^T A (c - t) / 2``, each image with a target and a scale of its own; may forbid far places."""

    def __init__(self, hessian: Tensor, far: float = torch.inf) -> None:
        self.hessian, self.far = hessian, far

    def start(self, images: Tensor) -> dict[str, Tensor]:
        return {"code": torch.zeros(len(images), len(self.hessian))}

    def targets(self, images: Tensor, start: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"at": images.flatten(1)[:, : len(self.hessian)], "scale": images.flatten(1)[:, -1].exp()}

    def loss(self, params: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        away = params["code"] - targets["at"]
        loss = 0.5 * targets["scale"] * ((away @ self.hessian) * away).sum(dim=1)
        return torch.where(away.norm(dim=1) > self.far, torch.nan, loss)


def photos(count: int) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def hessian(condition: float, size: int = 24) -> Tensor:
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(1))).Q
    return basis.t() @ (torch.logspace(0, -float(torch.tensor(condition).log10()), size)[:, None] * basis)


def test_a_quadratic_is_solved_exactly() -> None:
    """With the true curvature and step length 1 the second place is the minimum, if the scale is 1, too."""
    bowl = hessian(1e3)
    values, axes = torch.linalg.eigh(bowl)
    root = axes @ torch.diag(values.rsqrt()) @ axes.t()
    images = photos(5)
    images[:, -1, -1, -1] = 0.0
    found = Descent(Quadratic(bowl), {"code": 1.0}, 3, rule=QuasiNewton(lambda x: x @ root)).run(images)
    torch.testing.assert_close(found.params["code"], images.flatten(1)[:, :24], rtol=1e-2, atol=1e-2)
    # Images of other scales learn theirs from the first pair.
    images = photos(5)
    found = Descent(Quadratic(bowl), {"code": 0.5}, 8, rule=QuasiNewton(lambda x: x @ root)).run(images)
    torch.testing.assert_close(found.params["code"], images.flatten(1)[:, :24], rtol=1e-2, atol=1e-2)


def test_what_no_pair_tells_curves_like_the_newest_one() -> None:
    """The inverse Hessian before any pair is the geometric mean of Barzilai and Borwein's two steps: ``|s| / |y|``."""
    rule, curves, code = QuasiNewton(lambda x: x), torch.tensor([1.0, 0.1, 0.01]), torch.tensor([[1.0, -2.0, 3.0]])
    state, still, previous = rule.begin(code), torch.zeros(1), code
    progress = Progress(0.5, still, still, still == 0, still != 0)
    for _ in range(3):
        before, loss = code, (0.5 * curves * code.square()).sum(dim=1)
        code, _ = rule.move(code, curves * code, loss, progress, state)
        seen, gamma = float(state["pairs"]), float(state["gamma"])
        if seen:
            step = before - previous
            assert gamma == pytest.approx(float(step.norm() / (curves * step).norm()), rel=1e-4)
        previous = before
    assert seen == 2


def test_it_beats_adam_and_keeps_up_with_the_library() -> None:
    bowl, images, identity = hessian(1e3), photos(4), lambda x: x
    steps = 30
    found = Descent(Quadratic(bowl), {"code": 0.5}, steps, rule=QuasiNewton(identity)).run(images)
    adam = Descent(Quadratic(bowl), {"code": 0.1}, steps).run(images)
    assert (found.loss < 0.5 * adam.loss).all()
    problem = Quadratic(bowl)
    for i in range(4):
        code = torch.zeros(1, 24, requires_grad=True)
        targets = problem.targets(images[i : i + 1], {})
        library = torch.optim.LBFGS([code], lr=1.0, max_iter=steps, max_eval=steps, history_size=20)

        def evaluate(code: Tensor = code, targets: dict[str, Tensor] = targets) -> Tensor:
            code.grad = None
            loss = problem.loss({"code": code}, targets).sum()
            loss.backward()
            return loss

        library.step(evaluate)
        assert found.loss[i] < 3.0 * evaluate().detach()


def test_loss_never_rises_and_numbers_that_are_none_are_stepped_back_from() -> None:
    bowl, images = hessian(10.0), photos(6)
    reach = images.flatten(1)[:, :24].norm(dim=1).max() * 1.2
    losses = []
    for steps in range(1, 14):  # a first step 50 times too long leads where there is no loss
        found = Descent(Quadratic(bowl, float(reach)), {"code": 50.0}, steps, rule=QuasiNewton(lambda x: x)).run(images)
        losses.append(found.loss)
    trace = torch.stack(losses)
    assert trace.isfinite().all()
    assert (trace[1:] <= trace[:-1] * (1 + 1e-5)).all()
    assert (trace[-1] < 0.1 * trace[0]).all()
    # No loss to begin with: the image is given up, and the others are not disturbed.
    images[2] = 100.0
    beside = Descent(Quadratic(bowl, float(reach)), {"code": 0.5}, 13, rule=QuasiNewton(lambda x: x)).run(images)
    assert beside.params["code"].isnan().all(dim=1).tolist() == [False, False, True, False, False, False]


def test_slots_and_companions_change_no_bit() -> None:
    class Bowls(Quadratic):
        """Along the axes: a product with a matrix may round by the row."""

        def loss(self, params: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
            away = params["code"] - targets["at"]
            return (away.square() * self.hessian.diagonal() + away**4).sum(dim=1)

    bowl, images = torch.diag(torch.logspace(0, -2, 24)), photos(7)

    def run(order: list[int]) -> Tensor:
        rule = QuasiNewton(lambda x: x, memory=4)
        return Descent(Bowls(bowl), {"code": 0.5}, 9, rule=rule).run(images[order], 3).params["code"]

    found = run(list(range(7)))
    order = [3, 6, 0, 5, 1, 2, 4]
    assert torch.equal(run(order), found[order])


def test_compact_form_is_the_two_loops() -> None:
    """Against Nocedal and Wright, algorithm 7.4, with pairs in a ring, some of them missing."""
    rng = torch.Generator().manual_seed(2)
    batch, memory, size = 3, 5, 12
    bowl = hessian(20.0, size)
    s = torch.randn(batch, memory, size, generator=rng)
    scale = ((s @ bowl) * s).sum(dim=2, keepdim=True).rsqrt()
    s, y = s * scale, (s @ bowl) * scale
    s[1, 2:], y[1, 2:] = 0.0, 0.0  # two pairs so far: the oldest place is the third
    oldest = torch.tensor([0, 2, 3])
    gradient = torch.randn(batch, size, generator=rng)
    gamma = torch.tensor([0.5, 1.0, 2.0])
    found = inverse_times(gradient, gamma, Pairs(s, y, s @ y.transpose(1, 2), y @ y.transpose(1, 2), oldest))
    for i in range(batch):
        pairs = [(s[i, j % memory], y[i, j % memory]) for j in range(int(oldest[i]), int(oldest[i]) + memory)]
        q, alphas = gradient[i].clone(), []
        for step, change in reversed(pairs):
            alphas.append(step @ q)
            q = q - alphas[-1] * change
        q = q * gamma[i]
        for (step, change), alpha in zip(pairs, reversed(alphas), strict=True):
            q = q + step * (alpha - change @ q)
        torch.testing.assert_close(found[i], q, rtol=1e-4, atol=1e-4)


def test_inversion_needs_fewer_steps(networks: tuple[StyleGAN2, PerceptualFeatures, LatentEncoder]) -> None:
    generator, features, encoder = networks
    known = typical_codes(generator, encoder, 6, seed=5)
    rng = torch.Generator().manual_seed(3)
    images = generator.synthesis(known + 0.5 * torch.randn(known.shape, generator=rng))
    curvature = estimate_curvature(generator, features, typical_codes(generator, encoder, 64))
    new = OptimizationInverter(generator, features, encoder, steps=30, prior_weight=0.0, curvature=curvature)
    old = OptimizationInverter(generator, features, encoder, steps=60, prior_weight=0.0)
    assert new.invert(images).quality["mse"].mean() < old.invert(images).quality["mse"].mean()
    assert new.settings["optimizer"] == "quasi_newton"
    assert new.settings["curvature"]["codes"] == 64
    assert "optimizer" not in old.settings
    for wrong in ({"space": "w"}, {"noise": "optimized"}):
        with pytest.raises(UserInputError, match="a curvature is of w_plus alone"):
            OptimizationInverter(generator, features, encoder, curvature=curvature, **wrong)  # type: ignore[arg-type]
