"""The Gaussian over codes of training photos that goes into a model file (arXiv 1903.12436, section 4)."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ganaug import rng
from ganaug.faces.align import to_model_range
from ganaug.generators.prior import LatentPrior
from ganaug.training.data import RealImages

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
    photos = (to_model_range(torch.from_numpy(images.chips[part]).permute(0, 3, 1, 2)) for part in parts)
    return LatentPrior.fit(torch.cat([encode(batch) for batch in photos]))
