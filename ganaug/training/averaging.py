"""The running average of weights that ships (arXiv 1912.04958, appendix B; ramp-up of arXiv 2006.06676)."""

from typing import Protocol

import torch
from torch import Tensor, nn


class AveragingSettings(Protocol):
    """What a configuration says about averages, see :class:`ganaug.training.config.TrainConfig`."""

    @property
    def batch_size(self) -> int: ...

    @property
    def ema_kimg(self) -> float: ...

    @property
    def ema_rampup(self) -> float: ...


@torch.no_grad()
def update_average(averaged: nn.Module, current: nn.Module, config: AveragingSettings, images_seen: int) -> None:
    """Moves ``averaged`` towards ``current`` after a step; buffers, which are not trained, are copied.

    Args:
        averaged: Changed in place.
        current: The same architecture.
        config: Half-life, its ramp-up and the images of a step.
        images_seen: Images shown so far, those of this step included.
    """
    half_life = min(config.ema_kimg * 1000, max(images_seen * config.ema_rampup, 1.0))
    weight = 1.0 - 0.5 ** (config.batch_size / half_life)
    mine: list[Tensor] = list(averaged.parameters())
    theirs: list[Tensor] = list(current.parameters())
    torch._foreach_lerp_(mine, theirs, weight)
    for kept, new in zip(averaged.buffers(), current.buffers(), strict=True):
        kept.copy_(new)
