"""How the field inverts a folder: a Python loop, one photo at a time, each with weights scaled for it alone.

StyleGAN2's projector (arXiv 1912.04958, appendix D) in the space W+ (arXiv 1904.03189). The synthesis network is the
textbook form, whose modulated convolutions scale the weights and run in one group per sample
(benchmarks/synthesis.py). The loss is that of :class:`ganaug.inversion.OptimizationInverter`, so that the difference is
the loop and nothing else; what projects ship computes VGG16 besides, and is slower still.
"""

import math

import torch
from synthesis import grouped_synthesis
from torch import Tensor

from ganaug.features import PerceptualFeatures, feature_distance
from ganaug.generators import StyleGAN2
from ganaug.latents import draw_latents

LEARNING_RATE = 0.1  # arXiv 1912.04958, appendix D
WARM_UP, RAMP_DOWN = 0.05, 0.25  # shares of the steps (same)
FEATURE_WEIGHT, PRIOR_WEIGHT = 0.2, 0.002  # those of the inverter "optimization"


def project_one(
    generator: StyleGAN2, features: PerceptualFeatures, photo: Tensor, steps: int, spread: Tensor
) -> Tensor:
    """``w_plus (1, L, D)`` for one photo ``(1, 3, R, R)`` in [-1, 1]; ``spread (D,)`` is the deviation of W."""
    start = generator.w_avg.expand(1, generator.latent_spec.num_ws, -1)
    w_plus = start.clone().requires_grad_(True)
    target = features(photo)
    optimizer = torch.optim.Adam([w_plus], lr=LEARNING_RATE)
    for step in range(steps):
        t = step / steps
        down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - t) / RAMP_DOWN))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * down * min(1.0, (t + 1.0 / steps) / WARM_UP)
        optimizer.zero_grad()
        made = grouped_synthesis(generator, w_plus)
        loss = (made - photo).square().mean() + FEATURE_WEIGHT * feature_distance(features(made), target)[0]
        loss = loss + PRIOR_WEIGHT * ((w_plus - start) / spread).square().mean()
        loss.backward()
        optimizer.step()
    return w_plus.detach()


def project_folder(generator: StyleGAN2, features: PerceptualFeatures, photos: Tensor, steps: int) -> Tensor:
    """``w_plus (N, L, D)`` for ``photos (N, 3, R, R)``, one after the other."""
    spread = draw_latents(generator, 2048, torch.Generator().manual_seed(0))[:, 0].std(dim=0) + 1e-3
    return torch.cat([project_one(generator, features, photo[None], steps, spread) for photo in photos])
