"""The Gaussian over codes of training photos that goes into a model file (arXiv 1903.12436, section 4)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ganaug import rng
from ganaug.generators.prior import LatentPrior
from ganaug.training.data import RealImages, to_images

MAX_PRIOR_IMAGES = 8192
ENCODED_AT_ONCE = 128


@torch.no_grad()
def fit_prior(encode: Callable[[Tensor], Tensor], images: RealImages, limit: int = MAX_PRIOR_IMAGES) -> LatentPrior:
    """Fits a prior to ``limit`` training photos, picked at random: folders are often sorted by class or age.

    Args:
        encode: ``(B, 3, R, R)`` in [-1, 1], on the CPU -> ``w_plus (B, L, D)``.
        images: Training photos.
        limit: How many of them to use.
    """
    order = rng.permutation(images.seed, 0, len(images.members), "prior")
    members = images.members[np.sort(order[:limit])]
    parts = np.array_split(members, math.ceil(len(members) / ENCODED_AT_ONCE))
    return LatentPrior.fit(torch.cat([encode(to_images(images.chips[part])) for part in parts]))
