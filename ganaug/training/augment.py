"""Augmentation of what the discriminator sees: differentiable, batched, each with its own probability per sample.

Real and generated images get the same distribution of augmentations, so the generator still learns the clean one as
long as p is well below 1 (arXiv 2006.06676, section 2.2; the operations are those of arXiv 2006.10738).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_augmentation(batch: int, p: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Parameters ``(batch, 5)``: brightness, saturation, contrast, shift x, shift y (shares of the width)."""
    values = torch.rand(batch, 5, generator=generator, device=device)
    active = (torch.rand(batch, 4, generator=generator, device=device) < p).float()
    brightness = (values[:, 0] - 0.5) * active[:, 0]
    saturation = 1.0 + (values[:, 1] * 2.0 - 1.0) * active[:, 1]
    contrast = 1.0 + (values[:, 2] - 0.5) * active[:, 2]
    shift = (values[:, 3:5] - 0.5) * 0.25 * active[:, 3:4]
    return torch.cat([torch.stack([brightness, saturation, contrast], dim=1), shift], dim=1)


def augment(images: Tensor, params: Tensor) -> Tensor:
    """Applies :func:`draw_augmentation`'s parameters.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        params: ``(B, 5)``.

    Returns:
        ``(B, 3, H, W)``.
    """
    brightness, saturation, contrast = (params[:, i, None, None, None] for i in range(3))
    x = images + brightness
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * saturation
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * contrast
    # Whole-pixel shifts by indexing, so that nothing is resampled; what comes in from outside is black (-1).
    height, width = x.shape[2:]
    moves = (params[:, 3:5] * width).round().long()
    margin = int(width * 0.125) + 1
    padded = F.pad(x, (margin, margin, margin, margin), value=-1.0)
    ys = torch.arange(height, device=x.device)[None] + margin + moves[:, 1:2]
    xs = torch.arange(width, device=x.device)[None] + margin + moves[:, 0:1]
    rows = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[rows, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
