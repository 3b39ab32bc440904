"""Descent: each image is Adam's own run, whatever slot it has, whoever is beside it and whenever it comes in."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.inversion import descent
from ganaug.inversion.descent import BETAS, Descent, Found, Plateau, learning_rate_factor


class Bowl:
    """Quartic bowls: each image has its minimum at its own mean colour. One may break after some steps."""

    def __init__(self, breaks_below: float = 0.0) -> None:
        self.batches: list[int] = []
        self.calls = 0
        self.breaks_below = breaks_below

    def start(self, images: Tensor) -> dict[str, Tensor]:
        self.batches.append(len(images))
        return {"code": torch.zeros(len(images), 2, 3), "delta": torch.zeros(len(images), 3)}

    def targets(self, images: Tensor, start: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"mean": images.mean(dim=(2, 3)), "code": start["code"]}

    def loss(self, params: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        away = params["code"] + params["delta"][:, None] - targets["mean"][:, None]
        loss = (away.square() + away**4).mean(dim=(1, 2)) + 0.01 * params["delta"].square().mean(dim=1)
        return loss + torch.where(loss.detach() < self.breaks_below, math.nan, 0.0)


RATES = {"code": 0.1, "delta": 0.02}


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2.0


def reference(image: Tensor, steps: int, plateau: Plateau | None = None) -> tuple[dict[str, Tensor], list[float]]:
    """PyTorch's Adam on one image, with the paper's schedule written out, and the loss of each step."""
    problem = Bowl()
    params = {name: value.requires_grad_(True) for name, value in problem.start(image[None]).items()}
    targets = problem.targets(image[None], params)
    optimizer = torch.optim.Adam([{"params": [params[name]]} for name in RATES], betas=BETAS)
    step, end, ramp, losses = 0, steps, steps / 4, []
    while step < end:
        factor = (0.5 - 0.5 * math.cos(math.pi * min(1.0, (end - step) / ramp))) * min(1.0, (step + 1) / steps / 0.05)
        for group, rate in zip(optimizer.param_groups, RATES.values(), strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        loss = problem.loss(params, targets).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if plateau and step % plateau.patience == 0 and step >= 2 * plateau.patience:
            now, before = losses[-plateau.patience :], losses[-2 * plateau.patience : -plateau.patience]
            if sum(now) > (1 - plateau.tolerance) * sum(before) and step + step // 3 < end:
                end, ramp = step + step // 3, step // 3
    return {name: value.detach()[0] for name, value in params.items()}, losses


@pytest.mark.parametrize("batch_size", [1, 2, 3, None])
@pytest.mark.parametrize("plateau", [None, Plateau(5, 0.3)])
def test_each_image_is_a_run_of_adam(batch_size: int | None, plateau: Plateau | None) -> None:
    photos = images(5)
    found = Descent(Bowl(), RATES, 60, plateau=plateau).run(photos, batch_size)
    for i, photo in enumerate(photos):
        params, losses = reference(photo, 60, plateau)
        assert found.steps[i] == len(losses)
        assert found.loss[i] == pytest.approx(losses[-1], rel=1e-2)
        for name, value in params.items():
            torch.testing.assert_close(found.params[name][i], value, rtol=1e-3, atol=1e-4)
    assert (found.steps < 60).any() == (plateau is not None)
    assert not found.start["code"].any()
    assert not found.params["code"].requires_grad


def test_slots_companions_and_looks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(11)

    def run(order: Tensor) -> Found:
        return Descent(Bowl(), RATES, 60, plateau=Plateau(5, 0.3)).run(photos[order], 4)

    inorder, shuffle = torch.arange(11), torch.randperm(11, generator=torch.Generator().manual_seed(1))
    found = run(inorder)
    assert len(set(found.steps.tolist())) > 2  # they do leave and enter at different times
    monkeypatch.setattr(descent, "CHECK_EVERY", 3)
    for order in (inorder, shuffle):
        again = run(order)
        assert torch.equal(again.steps, found.steps[order])
        for name, value in found.params.items():
            assert torch.equal(again.params[name], value[order])


def test_batch_stays_full() -> None:
    problem = Bowl()
    found = Descent(problem, RATES, 60, plateau=Plateau(5, 0.3)).run(images(24), 4)
    steps = found.steps
    apart = sum(float(group.max()) for group in steps.split(4))  # each four waiting for the slowest of them
    assert steps.sum() / 4 <= problem.calls < 0.9 * apart
    assert problem.batches == [4] * 6  # prepared so many at a time, whoever left when
    problem = Bowl()
    Descent(problem, RATES, 12).run(images(5), 3)
    assert (problem.calls, problem.batches) == (24, [3, 3])


def test_images_that_are_not_finite_harm_only_themselves() -> None:
    photos = images(6)
    bad = photos.clone()
    bad[1, 0, 0, 0], bad[4, 2, 3, 3] = math.nan, math.inf
    good = [0, 2, 3, 5]
    alone, beside = Descent(Bowl(), RATES, 30).run(photos, 3), Descent(Bowl(), RATES, 30).run(bad, 3)
    for name, value in alone.params.items():
        assert torch.equal(value[good], beside.params[name][good])
        assert beside.params[name][[1, 4]].isnan().all()
    assert beside.steps.tolist() == [30, 0, 30, 30, 0, 30]
    assert beside.loss.isnan().tolist() == [False, True, False, False, True, False]
    bad = photos.clone()
    bad[:4] = math.nan  # none of the first three enters
    torch.testing.assert_close(Descent(Bowl(), RATES, 30).run(bad, 3).params["code"][4:], alone.params["code"][4:])
    assert Descent(Bowl(), RATES, 30).run(bad[:4], 3).params["code"].isnan().all()
    # One whose loss breaks on the way goes at the next look.
    broken = Descent(Bowl(breaks_below=float(alone.loss.median())), RATES, 30).run(photos, 3)
    gone = broken.loss.isnan()
    assert 0 < gone.sum() < 6
    assert broken.params["code"].isnan().all(dim=2).all(dim=1).tolist() == gone.tolist()
    assert torch.equal(broken.params["code"][~gone], alone.params["code"][~gone])


def test_an_empty_slot_looks_like_one_that_is_done() -> None:
    """Who asks for ``step`` may do other things in the beginning, and nobody has begun there."""

    class Asking(Bowl):
        def loss(self, params: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
            asked.append(targets["step"].tolist())
            return super().loss(params, targets)

    asked: list[list[float]] = []
    photos = images(3)
    photos[1] = math.nan
    Descent(Asking(), RATES, 12).run(photos)
    assert asked == [[step, 12.0, step] for step in range(12)]


def test_seconds_add_up_to_the_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(descent.time, "perf_counter", lambda: float(next(clock)))
    problem = Bowl()
    found = Descent(problem, RATES, 30).run(images(5), 2)  # looks at 10, 20, 30 steps of three pairs
    assert found.seconds.tolist() == [1.5] * 4 + [3.0]


def test_schedule() -> None:
    step = torch.arange(101.0)
    factor = learning_rate_factor(step, torch.tensor(100.0), 5.0, torch.tensor(25.0))
    assert factor[[0, 4, 50, 74, 100]].tolist() == pytest.approx([0.2, 1.0, 1.0, 1.0, 0.0])
    assert factor[80] > factor[90] > factor[99] > 0
    assert float(factor[88]) == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 12 / 25), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Descent(Bowl(), RATES, 0), "steps must be at least 1, got 0"),
        (lambda: Plateau(patience=0), "patience must be at least 1 step, got 0"),
        (lambda: Plateau(tolerance=1.0), "tolerance must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_settings(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make()
