"""Adam on many images at once, each on its own: finished images leave their slots, and waiting ones take their places.

Adam (arXiv 1412.6980, algorithm 1) works element by element, so a batch of images whose losses are summed is a batch of
separate runs, if moments, step counts and learning rates are kept per image. Then images need not start or end
together: the batch stays full until nothing waits. A row depends on its own image alone, up to the rounding of the
networks at another batch size: with the bundled ones its numbers are, to the bit, the same in every slot and beside
every other image while the number of slots is the same.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ganaug.errors import UserInputError

WARM_UP = 0.05  # share of the steps (arXiv 1912.04958, appendix D)
RAMP_DOWN = 0.25  # share of the steps (same)

BETAS = (0.9, 0.999)  # arXiv 1412.6980, algorithm 1, as is the next
EPSILON = 1e-8

# Steps between two looks at which images are done; each look waits for the device. It decides no result.
CHECK_EVERY = 10

Tensors = dict[str, Tensor]


class Problem(Protocol):
    """What is minimised. In all tensors the first dimension is the image, and a row depends on its own image alone."""

    def start(self, images: Tensor) -> Tensors:
        """``images (B, 3, H, W)`` -> name -> what is optimised, ``(B, ...)`` float32, where it begins."""
        ...

    def targets(self, images: Tensor, start: Tensors) -> Tensors:
        """Whatever else :meth:`loss` needs of each image, ``(B, ...)`` each; made once, when the image comes in."""
        ...

    def loss(self, params: Tensors, targets: Tensors) -> Tensor:
        """``(B,)``, with gradients to ``params``. Beside what :meth:`targets` gave, ``targets`` hold ``"step" (B,)``,
        the steps that each image has had; all of them in a slot without an image.
        """
        ...


@dataclass(frozen=True)
class Plateau:
    """When an image has had enough: its mean loss over ``patience`` steps fell by less than ``tolerance`` of itself.

    Then its learning rate ramps down early, over a third of the steps it has had, so that the ramp takes the same share
    of all its steps as in a full run.

    Photos of one kind need much the same number of steps, and then a smaller number for all does as well: on FairFace
    val ``Plateau(10, 0.05)`` took 87 of 100 steps of the hybrid inverter and lost 0.11 dB, where 80 for all lost 0.24;
    ``Plateau(20, 0.04)`` took 291 of 400 from the mean and lost 0.57 dB. It pays where some images are far easier than
    others, or where nobody has tried how many steps are enough.

    Attributes:
        patience: Steps over which losses are averaged, and after which they are compared.
        tolerance: Share of the loss, between 0 and 1.
    """

    patience: int = 20
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise UserInputError(f"patience must be at least 1 step, got {self.patience}")
        if not 0.0 <= self.tolerance < 1.0:
            raise UserInputError(f"tolerance must be at least 0 and below 1, got {self.tolerance}")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able."""
        return {"patience": self.patience, "tolerance": self.tolerance}


@dataclass(frozen=True)
class Progress:
    """Where a batch of images stands.

    Attributes:
        rate: The parameter's learning rate at its highest.
        factor: ``(B,)``, of the schedule.
        step: ``(B,)`` steps, with this one.
        running: ``(B,)`` bool: whether the image still moves.
        last: ``(B,)`` bool: whether this is its last step.
    """

    rate: float
    factor: Tensor
    step: Tensor
    running: Tensor
    last: Tensor


class Rule(Protocol):
    """How gradients move parameters. In all tensors the first dimension is the image."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: what decides the result beside the learning rate, as far as it is not the default."""
        ...

    def begin(self, param: Tensor) -> Tensors:
        """What is kept of each image between steps, ``(B, ...)`` each, as it begins."""
        ...

    def move(
        self, param: Tensor, gradient: Tensor, loss: Tensor, progress: Progress, state: Tensors
    ) -> tuple[Tensor, Tensor]:
        """Where to look next, and the loss ``(B,)`` of the best known place; writes into ``state``."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (arXiv 1412.6980, algorithm 1).

    Attributes:
        betas: Decay of the moments.
    """

    betas: tuple[float, float] = BETAS

    @property
    def settings(self) -> dict[str, Any]:
        """See :class:`Rule`."""
        return {} if self.betas == BETAS else {"betas": list(self.betas)}

    def begin(self, param: Tensor) -> Tensors:
        """Two moments."""
        return {"first": torch.zeros_like(param), "second": torch.zeros_like(param)}

    def move(
        self, param: Tensor, gradient: Tensor, loss: Tensor, progress: Progress, state: Tensors
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.move`."""
        decay1, decay2 = self.betas
        bias1, bias2 = 1.0 - decay1**progress.step, (1.0 - decay2**progress.step).sqrt()
        first, second = state["first"], state["second"]
        first.lerp_(gradient, 1.0 - decay1)
        second.mul_(decay2).addcmul_(gradient, gradient, value=1.0 - decay2)
        shape = (-1,) + (1,) * (gradient.ndim - 1)
        rate = (progress.rate * progress.factor / bias1).view(shape)
        return param - first * rate / (second.sqrt() / bias2.view(shape) + EPSILON), loss


@dataclass(frozen=True)
class Found:
    """What a descent found, in the order of its images.

    Attributes:
        params: Name -> ``(N, ...)``; NaN for an image whose loss was not finite.
        start: The same, where it began.
        loss: ``(N,)`` at the last step.
        steps: ``(N,)`` float32.
        seconds: ``(N,)`` float32: an image's share of the time it was worked on, so that their sum is the duration.
    """

    params: Tensors
    start: Tensors
    loss: Tensor
    steps: Tensor
    seconds: Tensor


def learning_rate_factor(step: Tensor, end: Tensor, warm_up: float, ramp_down: Tensor) -> Tensor:
    """Linear warm-up times cosine ramp-down (arXiv 1912.04958, appendix D), in [0, 1]; 0 from ``end`` on.

    Args:
        step: ``(B,)`` steps done.
        end: ``(B,)`` steps there will be.
        warm_up: Steps until the rate is full.
        ramp_down: Steps over which it falls to 0, the last before ``end``.
    """
    down = ((end - step) / ramp_down).clamp(0.0, 1.0)
    return (0.5 - 0.5 * (torch.pi * down).cos()) * ((step + 1.0) / warm_up).clamp(max=1.0)


class Descent:
    """Minimises a problem for each of many images.

    Args:
        problem: What is minimised.
        rates: Name of a parameter -> its learning rate at its highest.
        steps: Most steps an image gets.
        plateau: Ends images early; None gives all the same number of steps.
        rule: How gradients move parameters.

    Raises:
        UserInputError: For fewer than one step.
    """

    def __init__(
        self,
        problem: Problem,
        rates: Mapping[str, float],
        steps: int,
        *,
        plateau: Plateau | None = None,
        rule: Rule | None = None,
    ) -> None:
        if steps < 1:
            raise UserInputError(f"steps must be at least 1, got {steps}")
        self.problem, self.rates, self.steps = problem, dict(rates), steps
        self.plateau, self.rule = plateau, rule or Adam()

    def run(self, images: Tensor, batch_size: int | None = None, device: torch.device | None = None) -> Found:
        """Minimises for ``images (N, 3, H, W)``.

        An image with numbers that are not finite, or whose loss becomes so, ends with NaN and costs nothing more.

        Args:
            images: On any device.
            batch_size: Slots; None: one for each image.
            device: Where to work; None: where the images are.
        """
        size = max(min(batch_size or len(images), len(images)), 1)
        return _Slots(self, images, size, device or images.device).run()


class _Slots:
    """The state of one call: a fixed number of rows, and which image each of them works on.

    Attributes:
        owner: Number of the image in each slot, or None; an empty slot's row is worked on too, and nobody looks at it.
        state: What there is of each row, first dimension the slot.
        more: Whether images wait or are worked on.
    """

    def __init__(self, descent: Descent, images: Tensor, size: int, device: torch.device) -> None:
        self.descent, self.images, self.size, self.device = descent, images, size, device
        self.owner: list[int | None] = [None] * size
        self.state: dict[tuple[str, str], Tensor] = {}
        self.found: Found | None = None
        self.waiting, self.more = self._prepared(), True
        self.since = time.perf_counter()

    def run(self) -> Found:
        ahead = self.descent.steps
        while self.more:
            ahead = self._enter(ahead)
            if any(number is not None for number in self.owner):
                for _ in range(min(ahead, CHECK_EVERY)):
                    self._step()
                ahead = self._leave()
        if self.found is None:
            raise ValueError("expected at least one image, got none")
        return self.found

    def _prepared(self) -> Iterator[tuple[int, dict[tuple[str, str], Tensor] | None]]:
        """Images one after the other, with their rows as they begin, or None for one that is not finite.

        They are prepared ``size`` at a time, whichever slots are free, so that no batch size depends on who ended when.
        """
        last = len(self.images) - 1
        for first in range(0, len(self.images), self.size):
            block = [min(first + i, last) for i in range(self.size)]
            images = self.images[block].to(self.device)
            with torch.no_grad():
                start = self.descent.problem.start(images)
                rows = self._begun(start, self.descent.problem.targets(images, start))
            if self.found is None:
                self.found = self._nothing_found(rows)
                self.state = {key: tensor.clone() for key, tensor in rows.items()}
                self.state["row", "end"].zero_()  # storage that images are about to enter
            count = len(set(block))
            for name, tensor in self.found.start.items():
                tensor[first : first + count] = rows["param", name][:count]
            finite = images.flatten(1).isfinite().all(dim=1).tolist()
            for i in range(count):
                yield first + i, {key: tensor[i] for key, tensor in rows.items()} if finite[i] else None

    def _begun(self, start: Tensors, targets: Tensors) -> dict[tuple[str, str], Tensor]:
        rows = {("target", name): tensor for name, tensor in targets.items()}
        for name in self.descent.rates:
            rows["param", name] = start[name].float()
            kept = self.descent.rule.begin(rows["param", name])
            rows |= {(f"rule {name}", key): value for key, value in kept.items()}
        steps = float(self.descent.steps)
        # "sum" is of the losses since the last comparison, "before" the sum that was compared last.
        begun = {"step": 0.0, "end": steps, "ramp": RAMP_DOWN * steps, "loss": 0.0, "sum": 0.0, "before": torch.inf}
        return rows | {("row", n): torch.full((self.size,), v, device=self.device) for n, v in begun.items()}

    def _nothing_found(self, rows: dict[tuple[str, str], Tensor]) -> Found:
        """NaN everywhere: what stays of an image that never enters."""
        count = len(self.images)

        def empty(name: str) -> Tensor:
            return torch.full((count, *rows["param", name].shape[1:]), torch.nan, device=self.device)

        names = self.descent.rates
        loss, steps, seconds = torch.full((count,), torch.nan), torch.zeros(count), torch.zeros(count)
        return Found({n: empty(n) for n in names}, {n: empty(n) for n in names}, loss, steps, seconds)

    def _enter(self, ahead: int) -> int:
        """Fills empty slots; returns how many steps there are until some image is done, ``ahead`` or less."""
        for slot in [i for i, number in enumerate(self.owner) if number is None]:
            entering = next(self.waiting, None)
            if entering is None:
                self._shrink()
                self.more = any(number is not None for number in self.owner)
                break
            number, row = entering
            if row is None:  # its slot stays empty for a few steps, and the others have the slots they would have
                continue
            self.owner[slot] = number
            for key, tensor in row.items():
                self.state[key][slot] = tensor
            ahead = min(ahead, self.descent.steps)
        return ahead

    def _shrink(self) -> None:
        """Halves the number of slots while half of them are empty: sixteen cost more than three times what four do."""
        slots = sorted(range(len(self.owner)), key=lambda slot: self.owner[slot] is None)  # stable: the empty ones last
        working = sum(number is not None for number in self.owner)
        count = len(slots)
        while count > 1 and count // 2 >= working:
            count //= 2
        if count < len(slots):
            self.owner = [self.owner[slot] for slot in slots[:count]]
            self.state = {key: tensor[slots[:count]] for key, tensor in self.state.items()}

    def _leave(self) -> int:
        """Takes out the images that are done; returns how many steps there are until the next one is, at least 1."""
        step, end, loss = torch.stack([self.state["row", name] for name in ("step", "end", "loss")]).tolist()
        now = time.perf_counter()
        working = [slot for slot, number in enumerate(self.owner) if number is not None]
        share, self.since = (now - self.since) / len(working), now
        ahead = self.descent.steps
        for slot in working:
            number = self.owner[slot]
            if number is None or self.found is None:
                continue
            self.found.seconds[number] += share
            if step[slot] < end[slot] and math.isfinite(loss[slot]):
                ahead = min(ahead, math.ceil(end[slot] - step[slot]))
                continue
            self.found.loss[number], self.found.steps[number] = loss[slot], step[slot]
            for name, found in self.found.params.items():
                if math.isfinite(loss[slot]):
                    found[number] = self.state["param", name][slot]
            self.owner[slot] = None
            self.state["row", "end"][slot] = 0.0
        return ahead

    def _step(self) -> None:
        descent, state = self.descent, self.state
        params = {name: state["param", name].detach().requires_grad_(True) for name in descent.rates}
        targets = {name: tensor for (kind, name), tensor in state.items() if kind == "target"}
        step, end = state["row", "step"], state["row", "end"]
        running = step < end
        # An empty slot may never have had an image: at step 0 for ever, it would look like one that has just begun.
        targets["step"] = torch.where(running, step, float(descent.steps))
        with torch.enable_grad():
            loss = descent.problem.loss(params, targets)
            gradients = torch.autograd.grad(loss.sum(), list(params.values()))
        factor = learning_rate_factor(step, end, WARM_UP * descent.steps, state["row", "ramp"])
        step += running
        standing = torch.zeros_like(loss)
        for (name, rate), gradient in zip(descent.rates.items(), gradients, strict=True):
            progress = Progress(rate, factor, step, running, running & (step >= end))
            kept = {key: tensor for (kind, key), tensor in state.items() if kind == f"rule {name}"}
            ahead, standing = descent.rule.move(params[name].detach(), gradient, loss.detach(), progress, kept)
            # Not a product with 0: an image that is done must keep its numbers beside a gradient that is not finite.
            shape = (-1,) + (1,) * (gradient.ndim - 1)
            state["param", name] = torch.where(running.view(shape), ahead, state["param", name])
        state["row", "loss"] = torch.where(running, standing, state["row", "loss"])
        if descent.plateau is not None:
            self._look_for_plateau(descent.plateau)

    def _look_for_plateau(self, plateau: Plateau) -> None:
        """Brings the end nearer, by an image's own steps alone; nothing here waits for the device."""
        row = {name: self.state["row", name] for name in ("step", "end", "ramp", "loss", "sum", "before")}
        row["sum"] += row["loss"]
        compared = row["step"] % plateau.patience == 0
        ramp = (row["step"] / 3.0).floor().clamp(min=1.0)
        flat = compared & (row["sum"] > (1.0 - plateau.tolerance) * row["before"])
        flat &= row["step"] + ramp < row["end"]  # so it happens once
        row["end"].copy_(torch.where(flat, row["step"] + ramp, row["end"]))
        row["ramp"].copy_(torch.where(flat, ramp, row["ramp"]))
        row["before"].copy_(torch.where(compared, row["sum"], row["before"]))
        row["sum"].masked_fill_(compared, 0.0)
