"""Inversion by optimisation, batched, from the generator's mean or from an encoder's guess.

StyleGAN2's projector (arXiv 1912.04958, appendix D) with W+ (arXiv 1904.03189) as the default space: Adam on the
latents, learning rate warmed up and ramped down, pixel and perceptual loss, pulled towards the mean of W in units of
W's own spread. The loss is summed over the batch and Adam works element by element, so each image's path is its own: a
bad image harms only itself.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.interfaces import Generator, Inversion, UserInputError
from ganaug.inversion.encoder import Encoder
from ganaug.inversion.quality import QualityJudge
from ganaug.latents import draw_latents

WARM_UP = 0.05  # share of the steps (arXiv 1912.04958, appendix D)
RAMP_DOWN = 0.25  # share of the steps (same)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up times cosine ramp-down, in (0, 1] (arXiv 1912.04958, appendix D)."""
    t = step / steps
    down = min(1.0, (1.0 - t) / RAMP_DOWN)
    return (0.5 - 0.5 * math.cos(math.pi * down)) * min(1.0, (t + 1.0 / steps) / WARM_UP)


class OptimizationInverter:
    """Finds latents whose image resembles the photo; fulfils :class:`ganaug.interfaces.Inverter`.

    Args:
        generator: Generator to invert.
        features: Perceptual features, or None for pixels alone.
        encoder: Starting point; None starts from ``w_avg``.
        space: ``"w_plus"`` (one code per row) or ``"w"`` (one code for all rows; needs no encoder).
        steps: Optimisation steps.
        learning_rate: Adam's rate at its highest; None: 0.1 from the mean (arXiv 1912.04958), 0.05 from an encoder.
        pixel_weight: Weight of the mean squared error of images in [-1, 1].
        feature_weight: Weight of the perceptual distance.
        prior_weight: Weight of the squared distance to the starting point (``w_avg`` or the encoder's guess), in
            standard deviations of W; None: 0.002 from the mean, 0.1 from an encoder. Codes that stray far from where
            the generator was trained reconstruct better and edit worse (arXiv 2102.02766, section 3).
        features_of: Model whose features these are, where they are not the generator's own; kept in ``settings``.
        judge: What is measured of each inversion.

    Raises:
        UserInputError: For an unknown space or fewer than one step.
    """

    delta = None
    refills = False

    def __init__(
        self,
        generator: Generator,
        features: PerceptualFeatures | None = None,
        encoder: Encoder | None = None,
        *,
        space: Literal["w", "w_plus"] = "w_plus",
        steps: int = 100,
        learning_rate: float | None = None,
        pixel_weight: float = 1.0,
        feature_weight: float = 0.2,
        prior_weight: float | None = None,
        features_of: str | None = None,
        judge: QualityJudge | None = None,
    ) -> None:
        if space not in ("w", "w_plus"):
            raise UserInputError(f"space must be 'w' or 'w_plus', got {space!r}")
        if steps < 1:
            raise UserInputError(f"steps must be at least 1, got {steps}")
        self.name = "optimization" if encoder is None else "hybrid"
        self.generator, self.features, self.encoder = generator, features, encoder
        self.space, self.steps = space, steps
        self.learning_rate = learning_rate if learning_rate is not None else (0.1 if encoder is None else 0.05)
        self.pixel_weight, self.feature_weight = pixel_weight, feature_weight
        self.prior_weight = prior_weight if prior_weight is not None else (0.002 if encoder is None else 0.1)
        self.anchored = encoder is not None
        self.features_of = features_of
        self.judge = judge or QualityJudge()
        self.quality_names = self.judge.names
        self._spread = _spread_of_w(generator)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result."""
        return {
            "name": self.name,
            "space": self.space,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "pixel_weight": self.pixel_weight,
            "feature_weight": self.feature_weight if self.features is not None else 0.0,
            "prior_weight": self.prior_weight,
            **({} if self.features_of is None else {"features_of": self.features_of}),
            **({} if self.encoder is None else self.encoder.settings),
            **self.judge.settings,
        }

    def _start(self, images: Tensor) -> Tensor:
        num_ws = self.generator.latent_spec.num_ws
        if self.encoder is not None:
            w_plus = self.encoder.encode(images, self.generator)
        else:
            w_plus = self.generator.w_avg.expand(images.shape[0], num_ws, -1)
        return w_plus.mean(dim=1, keepdim=True) if self.space == "w" else w_plus

    def loss(self, w_plus: Tensor, start: Tensor, images: Tensor, target_maps: list[Tensor] | None) -> Tensor:
        """Loss per image ``(B,)``."""
        made = self.generator.synthesis(w_plus)
        loss = self.pixel_weight * (made - images).square().mean(dim=(1, 2, 3))
        if self.features is not None and target_maps is not None:
            loss = loss + self.feature_weight * feature_distance(self.features(made), target_maps)
        away = (w_plus - start) / self._spread
        return loss + self.prior_weight * away.square().mean(dim=(1, 2))

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        """See :meth:`ganaug.interfaces.Inverter.invert`."""
        size = self.generator.img_resolution
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}")
        num_ws = self.generator.latent_spec.num_ws
        with torch.no_grad():
            start = self._start(images)
            code = start.clone()
            target_maps = self.features(images) if self.features is not None else None
        code.requires_grad_(True)
        optimizer = torch.optim.Adam([code], lr=self.learning_rate, betas=(0.9, 0.999))
        for step in range(self.steps):
            optimizer.param_groups[0]["lr"] = self.learning_rate * learning_rate_factor(step, self.steps)
            optimizer.zero_grad(set_to_none=True)
            self.loss(code.expand(-1, num_ws, -1), start, images, target_maps).sum().backward()
            optimizer.step()
        with torch.no_grad():
            w_plus = code.detach().expand(-1, num_ws, -1).contiguous()
            quality = self.judge(self.generator.synthesis(w_plus), images)
            anchor = start.expand(-1, num_ws, -1).contiguous() if self.anchored else None
            return Inversion(w_plus, quality, anchor)


@torch.no_grad()
def _spread_of_w(generator: Generator) -> Tensor:
    """``(D,)`` standard deviation of W, from 2,048 z of a fixed seed."""
    return draw_latents(generator, 2048, torch.Generator().manual_seed(0))[:, 0].std(dim=0) + 1e-3
