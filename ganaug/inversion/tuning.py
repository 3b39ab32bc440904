"""Pivotal tuning: the weights of a generator, adapted to codes that were found for one photo or for all of a cache.

Pivotal Tuning Inversion (arXiv 2106.05744). The codes are pivots from which the synthesis network learns to draw the
photos (section 3.1, equation 3). At codes near the pivots it is held to what it drew before (section 3.2, equations 4
to 6), so that what edited before still edits. Mapping network, mean and prior stay as they are.

Beyond the paper, one generator may serve many photos, in batches. Then the codes may follow the weights, at a rate of
their own and held near to where they were found.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ganaug import rng
from ganaug.errors import UserInputError
from ganaug.faces.align import to_model_range
from ganaug.generators import Network
from ganaug.inversion.descent import BETAS, EPSILON
from ganaug.inversion.losses import InversionLoss
from ganaug.latents import draw_latents

WARM_UP = 20  # steps until Adam's second moments are worth dividing by
RAMP_DOWN = 0.75  # share of the steps: the noise of small batches is what is left in the end

# One photo: a code is looked at beside each, as in the paper, and the pivot stays where it is.
CLASSIC: dict[str, Any] = {
    "steps": 300,
    "batch_size": 1,
    "learning_rate": 4e-3,
    "code_learning_rate": 0.0,
    "locality_weight": 0.05,
    "locality_share": 1.0,
}
EPOCHS = 200  # how often each of many photos is looked at

_SPREAD_SAMPLES = 2048  # random codes that tell how far faces lie apart, where the model has no prior


@dataclass(frozen=True)
class TuningConfig:
    """How a generator is tuned; all of it decides the result. The defaults of numbers were set by trials on faces64.

    Attributes:
        steps: Optimisation steps.
        batch_size: Photos in a step; all of them where there are fewer.
        learning_rate: Adam's rate on the weights at its highest. The paper has 3e-4 for images of 1024 px and LPIPS.
        code_learning_rate: Adam's rate on the codes; 0 leaves the pivots where they are, as the paper does.
        locality_weight: Weight of the regulariser; 0 leaves it out.
        locality_distance: How far from a pivot it looks, in spreads of the codes of faces (:func:`spread_of_faces`).
        locality_share: Codes that it looks at in a step, per photo of the batch; one at least.
        seed: Of the order of the photos and of the regulariser's draws.

    Raises:
        UserInputError: For numbers out of range.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 2e-3
    code_learning_rate: float = 0.03
    locality_weight: float = 0.1
    locality_distance: float = 0.5
    locality_share: float = 0.0625
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "code_learning_rate", "locality_weight", "locality_distance", "locality_share"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise UserInputError(f"{name} must be a number from 0 up, got {value}")

    @classmethod
    def for_photos(cls, num_photos: int, **given: Any) -> "TuningConfig":
        """The defaults for a number of photos: classic tuning for one, else one generator for all.

        Args:
            num_photos: How many.
            given: Fields with other values than these; None is as good as left out.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if num_photos == 1:
            return cls(**{**CLASSIC, **given})
        batch = max(min(given.get("batch_size", cls.batch_size), num_photos), 1)
        return cls(**{"steps": max(math.ceil(num_photos / batch) * EPOCHS, CLASSIC["steps"]), **given})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Tuned:
    """What tuning gives.

    Attributes:
        generator: A copy with other weights in its synthesis network.
        codes: ``(N, L, D)`` float32: the pivots, or where they went.
    """

    generator: Network
    codes: Tensor


def tune(generator: Network, codes: Tensor, photos: Tensor, objective: InversionLoss, config: TuningConfig) -> Tuned:
    """Tunes a copy of a generator to photos, from beginning to end; arguments as for :class:`Tuner`."""
    tuner = Tuner(generator, codes, photos, objective, config)
    while tuner.steps_done < config.steps:
        tuner.step()
    return tuner.result()


def spread_of_faces(generator: Network) -> float:
    """Root mean square distance of the codes of faces from their mean, over all ``L * D`` numbers.

    Of the generator's prior, which was fitted to photos; else of random codes from a fixed seed.
    """
    if generator.prior is not None:
        return float(generator.prior.std.square().sum().sqrt())
    with torch.no_grad():
        codes = draw_latents(generator, _SPREAD_SAMPLES, torch.Generator().manual_seed(0))
    return float(codes.var(dim=0).sum().sqrt())


def codes_near(pivots: Tensor, towards: Tensor, distance: float) -> Tensor:
    """Codes at a distance from the pivots, on the way to others (arXiv 2106.05744, equation 4).

    Args:
        pivots: ``(K, L, D)``.
        towards: ``(K, L, D)``.
        distance: Euclidean, over all ``L * D`` numbers.
    """
    away = towards - pivots
    return pivots + away * (distance / away.flatten(1).norm(dim=1).clamp(min=EPSILON))[:, None, None]


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, full rate, cosine ramp-down to 0 (arXiv 1912.04958, appendix D, has this for codes)."""
    down = min(1.0, (1.0 - step / steps) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, (step + 1) / WARM_UP)


class Tuner:
    """Tunes step by step; what it has reached can be stored and taken up again, bit for bit.

    The draws of a step depend on the seed and the step's number alone.

    Args:
        generator: Not changed. Its device is where the work is done.
        codes: ``(N, L, D)`` pivots, float32; they are edited by moving them, so they are best found with an anchor.
        photos: ``(N, 3, R, R)`` at the generator's resolution: uint8, or float32 in [-1, 1]; on any device.
        objective: What is minimised, for photos and for pictures of the regulariser alike. A
            :class:`ganaug.inversion.losses.StartLoss` in it holds moving codes near to where they were found.
        config: How.

    Attributes:
        generator: The tuned copy.
        codes: ``(N, L, D)``, as they are now.
        steps_done: Steps so far.

    Raises:
        ValueError: If codes and photos do not fit each other or the generator.
    """

    def __init__(
        self, generator: Network, codes: Tensor, photos: Tensor, objective: InversionLoss, config: TuningConfig
    ) -> None:
        size, shape = generator.img_resolution, generator.latent_spec.shape
        if not len(codes) or codes.shape[1:] != shape or tuple(photos.shape) != (len(codes), 3, size, size):
            raise ValueError(
                f"expected codes (N, {shape[0]}, {shape[1]}) and photos (N, 3, {size}, {size}), got "
                f"{tuple(codes.shape)} and {tuple(photos.shape)}"
            )
        self.base, self.photos, self.objective, self.config = generator, photos, objective, config
        self.device = generator.w_avg.device
        self.start = codes.to(self.device, torch.float32).clone()
        self.codes = self.start.clone()
        self.generator = copy.deepcopy(generator)
        # Not the stored noise maps: in trials they took another fifth of a single photo's error, and left specks of it
        # wherever an edit moved the face.
        weights = self.generator.synthesis_network.requires_grad_(True).parameters()
        self.optimizer = torch.optim.Adam(weights, lr=config.learning_rate, betas=BETAS, eps=EPSILON)
        moves = config.code_learning_rate > 0.0
        self._moments = torch.zeros(2, *codes.shape, device=self.device) if moves else None
        self._visits = torch.zeros(len(codes), device=self.device)
        self._distance = config.locality_distance * spread_of_faces(generator)
        self.steps_done = 0

    def step(self) -> Tensor:
        """One step of Adam; returns the mean squared error of each photo before it, ``(B,)``, of images in [0, 1]."""
        config, rows = self.config, self._next_rows()
        factor = learning_rate_factor(self.steps_done, config.steps)
        photos = self.photos[rows].to(self.device)
        photos = to_model_range(photos) if photos.dtype == torch.uint8 else photos.float()
        at = rows.to(self.device)
        pivots = self.codes[at].requires_grad_(self._moments is not None)
        with torch.no_grad():
            near = self._codes_near(pivots)
            wanted = photos if near is None else torch.cat([photos, self.base.synthesis(near)])
            found_at = self.start[at] if near is None else torch.cat([self.start[at], near])
            targets = self.objective.targets(wanted, found_at)
        made = self.objective.make(self.generator, pivots if near is None else torch.cat([pivots, near]))
        loss = self.objective(made, targets)
        total = loss[: len(rows)].mean()
        if near is not None:  # arXiv 2106.05744, equations 5 and 6
            total = total + config.locality_weight * loss[len(rows) :].mean()
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        if pivots.grad is not None:
            self._move_codes(at, pivots.grad * len(rows), config.code_learning_rate * factor)
        self.steps_done += 1
        shown = made.images[: len(rows)].detach().clamp(-1.0, 1.0)
        return (shown - photos).square().mean(dim=(1, 2, 3)) / 4.0

    def result(self) -> Tuned:
        """The tuned generator, frozen, and the codes."""
        self.generator.requires_grad_(False)
        return Tuned(self.generator, self.codes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on beside the arguments of this object."""
        return {
            "steps_done": self.steps_done,
            "weights": self.generator.synthesis_network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "codes": self.codes,
            "moments": self._moments,
            "visits": self._visits,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave, of a tuner that was made with the same arguments."""
        self.generator.synthesis_network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.codes = state["codes"].to(self.device)
        self._moments = None if state["moments"] is None else state["moments"].to(self.device)
        self._visits = state["visits"].to(self.device)
        self.steps_done = int(state["steps_done"])

    def _next_rows(self) -> Tensor:
        """``(B,)``: photos of the next step. No photo comes twice in an epoch; what fills no batch is left out."""
        count = len(self.codes)
        size = min(self.config.batch_size, count)
        epoch, place = divmod(self.steps_done, count // size)
        order = rng.permutation(self.config.seed, epoch, count, "tuning")
        return torch.from_numpy(order[place * size : (place + 1) * size])

    def _codes_near(self, pivots: Tensor) -> Tensor | None:
        """Where the regulariser looks in this step, ``(K, L, D)``; None where there is none."""
        config = self.config
        if config.locality_weight == 0.0:
            return None
        count = min(max(round(config.locality_share * len(pivots)), 1), len(pivots))
        draw = torch.Generator().manual_seed(rng.hash_text(f"locality {config.seed} {self.steps_done}"))
        # Codes of photos lie where the prior is; what the mapping network makes of random z may lie elsewhere.
        prior = self.base.prior
        others = draw_latents(self.base, count, draw) if prior is None else prior.sample(count, draw)
        return codes_near(pivots.detach()[:count], others.to(self.device), self._distance)

    @torch.no_grad()
    def _move_codes(self, at: Tensor, gradient: Tensor, rate: float) -> None:
        """A step of Adam (arXiv 1412.6980, algorithm 1) for some codes, each with a step count of its own."""
        if self._moments is None:
            return
        self._visits[at] += 1.0
        visits = self._visits[at][:, None, None]
        first = self._moments[0, at].lerp(gradient, 1.0 - BETAS[0])
        second = self._moments[1, at].lerp(gradient.square(), 1.0 - BETAS[1])
        self._moments[0, at], self._moments[1, at] = first, second
        first, second = first / (1.0 - BETAS[0] ** visits), second / (1.0 - BETAS[1] ** visits)
        self.codes[at] -= rate * first / (second.sqrt() + EPSILON)
