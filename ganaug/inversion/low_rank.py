"""Pivotal tuning for a whole data set: a code, and a low-rank change of the generator, for every photo.

Pivotal tuning (arXiv 2106.05744) finds a code first, the pivot, and then changes all weights of the generator until it
draws the photo. Here many photos are tuned at a time, the change is small enough to stand in the photo's record
(:mod:`ganaug.generators.deltas`), and the code may follow.

The code comes first for a reason: what it does not say by then, the change has to, and edits move codes. A generator
that was tuned to one photo should also draw other codes as before, or it would not draw what edits ask for. As in the
paper (section 3.2, locality regularisation), codes on the way from the photo's to random ones are drawn by both, and
the difference is a part of the loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.features import feature_distance
from ganaug.generators.deltas import Delta, DeltaLayout
from ganaug.interfaces import Inversion
from ganaug.inversion.descent import Descent, Tensors
from ganaug.inversion.losses import PerceptualLoss, PixelLoss
from ganaug.inversion.optimization import OptimizationInverter
from ganaug.inversion.quality import require_chips
from ganaug.latents import draw_latents

# Random codes that locality goes towards: more than there are looks. The same for all images.
NUM_TOWARDS = 256
SEED = 0

PIVOT_SHARE = 0.25  # of all steps; set by trials


class PivotalInverter:
    """Finds codes, then low-rank deltas with them; fulfils :class:`ganaug.interfaces.Inverter`.

    Args:
        pivot: Finds the codes, and says by which loss; its generator can draw with deltas.
        layout: What of the generator changes; None: ``generator.delta_layout()``.
        steps: Steps of tuning, after those of ``pivot``.
        learning_rate: Adam's highest rate for codes while the generator is tuned.
        delta_rate: The same for deltas.
        locality_weight: Weight of the distance, of pixels and perceptual as in the loss of ``pivot``, between what the
            tuned and the untuned generator draw near the code.
        locality_distance: How far from the code: share of the way to a random one, in (0, 1].
        locality_every: Steps from one look at it to the next.

    Raises:
        UserInputError: For numbers out of range, a generator that cannot draw with deltas, or a pivot with deltas of
            its own.
    """

    name = "pivotal"
    refills = False

    def __init__(
        self,
        pivot: OptimizationInverter,
        layout: DeltaLayout | None = None,
        *,
        steps: int = 150,
        learning_rate: float = 0.05,
        delta_rate: float = 0.2,
        locality_weight: float = 0.3,
        locality_distance: float = 0.4,
        locality_every: int = 2,
    ) -> None:
        if not 0.0 < locality_distance <= 1.0 or locality_every < 1:
            raise UserInputError(
                "locality_distance must be above 0 and at most 1, and locality_every at least 1, got "
                f"{locality_distance} and {locality_every}"
            )
        if pivot.delta is not None or pivot.noise != "const":
            raise UserInputError("the inverter of the pivot must use the stored noise maps: noise='const'")
        self.pivot, self.generator = pivot, pivot.generator
        self.layout = DeltaLayout.build(self.generator) if layout is None else layout
        self._draw: Callable[..., Tensor] = self.generator.synthesis  # which a layout could be built for
        self.descent = Descent(self, {"code": learning_rate, "delta": delta_rate}, steps)
        self.locality_weight = locality_weight
        self.locality_distance, self.locality_every = locality_distance, locality_every
        self.anchored = pivot.anchored
        self.judge = pivot.judge
        self.quality_names = (*self.judge.names, "steps", "seconds")
        self._begin = self.layout.start().to(self.generator.w_avg.device)
        with torch.no_grad():
            self._towards = draw_latents(self.generator, NUM_TOWARDS, torch.Generator().manual_seed(SEED))

    @property
    def delta(self) -> dict[str, Any]:
        """See :attr:`ganaug.interfaces.Inverter.delta`."""
        return self.layout.to_dict()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, beside the layout of deltas."""
        own = {
            "name": self.name,
            "tuning_steps": self.descent.steps,
            "tuning_rate": self.descent.rates["code"],
            "delta_rate": self.descent.rates["delta"],
            "locality_weight": self.locality_weight,
            "locality_distance": self.locality_distance,
            "locality_every": self.locality_every,
        }
        return self.pivot.settings | own

    def start(self, images: Tensor) -> Tensors:
        """The pivots ``code (B, L, D)``, and ``delta (B, P)`` that changes nothing."""
        found = self.pivot.descent.run(images).params["code"]
        return {"code": self.pivot.to_w_plus(found), "delta": self._begin.expand(len(images), -1)}

    def targets(self, images: Tensor, start: Tensors) -> Tensors:
        """See :meth:`ganaug.inversion.descent.Problem.targets`; codes stay near what they began at, not the pivot."""
        return self.pivot.objective.targets(images, self._anchor(images))

    def loss(self, params: Tensors, targets: Tensors) -> Tensor:
        """Loss per image ``(B,)``, see :meth:`ganaug.inversion.descent.Problem.loss`."""
        code, delta = params["code"], self.layout.bind(params["delta"])
        objective = self.pivot.objective
        loss = objective(objective.make(self.generator, code, delta=delta), targets)
        return loss + self._locality(code.detach(), delta, targets["step"])

    def _locality(self, code: Tensor, delta: Delta, step: Tensor) -> Tensor:
        """Weighted distance ``(B,)`` of tuned and untuned images near ``code``; 0 where it is not an image's turn.

        Which random code an image is drawn near depends on its own ``step (B,)`` alone.
        """
        turn = (step % self.locality_every == 0) & (step > 0)  # at step 0 nothing is tuned
        if self.locality_weight == 0.0 or not bool(turn.any()):
            return torch.zeros_like(step)
        towards = self._towards[(step / self.locality_every).long() % NUM_TOWARDS]
        near = torch.lerp(code, towards, self.locality_distance)
        tuned, distance = self._draw(near, delta=delta), torch.zeros_like(step)
        with torch.no_grad():
            untuned = self._draw(near)
        for term in self.pivot.objective.terms:
            if isinstance(term, PixelLoss):
                distance = distance + term.weight * (tuned - untuned).square().mean(dim=(1, 2, 3))
            elif isinstance(term, PerceptualLoss):
                with torch.no_grad():
                    maps = term.features(untuned)
                distance = distance + term.weight * feature_distance(term.features(tuned), maps)
        return torch.where(turn, self.locality_weight * distance, 0.0)

    def _anchor(self, images: Tensor) -> Tensor:
        """``(B, L, D)`` where the search for the pivot begins."""
        return self.pivot.to_w_plus(self.pivot.start(images)["code"])

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        """See :meth:`ganaug.interfaces.Inverter.invert`."""
        require_chips(images, self.generator)
        device, at_once = self.generator.w_avg.device, batch_size or len(images)
        found = self.descent.run(images, batch_size, device)
        code, delta = found.params["code"], found.params["delta"]

        def draw(part: slice) -> Tensor:
            return self._draw(code[part], delta=self.layout.bind(delta[part]))

        quality = self.judge.of_drawn(draw, images, at_once, device)
        steps = torch.where(found.steps > 0, found.steps + self.pivot.descent.steps, found.steps)
        quality |= {"steps": steps, "seconds": found.seconds}
        anchor = None
        if self.anchored:
            with torch.no_grad():
                anchor = torch.cat([self._anchor(photos.to(device)) for photos in images.split(at_once)])
        return Inversion(code, quality, anchor, delta)
