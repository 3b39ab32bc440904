"""Adaptive augmentation of what the discriminator sees (arXiv 2006.06676): differentiable, batched, drawn per sample.

Real and generated images get the same distribution of augmentations. As long as each is skipped often enough, the
generator still learns the clean distribution (section 2.2). The operations and widths are those of appendix B, with
three left out or narrowed, because face chips are upright: quarter turns, flips in brightness, and rotations by any
angle. Horizontal flips belong to the data.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Widths of the draws (arXiv 2006.06676, appendix B), shift as a share of the width; rotation is ours (see above).
SHIFT_STD = 0.125
LOG2_SCALE_STD = 0.2
ROTATION_STD_DEG = 10.0
BRIGHTNESS_STD = 0.2
LOG2_CONTRAST_STD = 0.5
LOG2_SATURATION_STD = 1.0
NUM_OPERATIONS = 8


@dataclass(frozen=True)
class Augmentation:
    """One draw per sample.

    Attributes:
        theta: ``(B, 2, 3)`` where each output position is read from, in coordinates from -1 to 1.
        color: ``(B, 3, 4)`` matrix and offset applied to RGB in [-1, 1].
        moved: ``(B,)`` bool, whether ``theta`` differs from the identity.
    """

    theta: Tensor
    color: Tensor
    moved: Tensor

    def __getitem__(self, rows: slice) -> "Augmentation":
        return Augmentation(self.theta[rows], self.color[rows], self.moved[rows])


def _color_matrices(values: Tensor, angle: Tensor, active: Tensor) -> Tensor:
    """``(B, 3, 4)`` from normal ``values (B, 3)``, hue ``angle (B,)`` and ``active (B, 4)``."""
    batch, device = len(values), values.device
    eye = torch.eye(3, device=device).expand(batch, 3, 3)
    grey = torch.full((3, 3), 1.0 / 3.0, device=device)  # projection on the luma axis (1, 1, 1) / sqrt(3)
    # Rotation about the luma axis, Rodrigues' formula: cos I + sin K + (1 - cos) v v^T.
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=device) / math.sqrt(3.0)
    angle = (angle * active[:, 3])[:, None, None]
    hue = torch.cos(angle) * eye + torch.sin(angle) * across + (1.0 - torch.cos(angle)) * grey
    contrast = torch.exp2(values[:, 1] * LOG2_CONTRAST_STD * active[:, 1])[:, None, None]
    saturation = torch.exp2(values[:, 2] * LOG2_SATURATION_STD * active[:, 2])[:, None, None]
    matrix = (grey + (eye - grey) * saturation) @ hue * contrast
    offset = (values[:, 0] * BRIGHTNESS_STD * active[:, 0])[:, None, None] * contrast
    return torch.cat([matrix, offset.expand(batch, 3, 1)], dim=2)


def draw_augmentation(batch: int, p: float | Tensor, rng: torch.Generator, device: torch.device) -> Augmentation:
    """Draws for ``batch`` samples; each operation is active with probability ``p``.

    Args:
        batch: Number of samples.
        p: Probability, a number or a scalar tensor (so that adapting it needs no trip to the host).
        rng: Where draws come from, on ``device``.
        device: Where the result lives.
    """
    normal = torch.randn(batch, 8, generator=rng, device=device)
    turn = (torch.rand(batch, generator=rng, device=device) * 2.0 - 1.0) * math.pi
    active = (torch.rand(batch, NUM_OPERATIONS, generator=rng, device=device) < p).float()
    geometric, colored = active[:, :4], active[:, 4:]
    shift = normal[:, 0:2] * SHIFT_STD * 2.0 * geometric[:, 0:1]  # 2: coordinates run from -1 to 1
    scale = torch.exp2(normal[:, 2] * LOG2_SCALE_STD * geometric[:, 1])
    angle = normal[:, 3] * math.radians(ROTATION_STD_DEG) * geometric[:, 2]
    stretch = torch.exp2(normal[:, 4] * LOG2_SCALE_STD * geometric[:, 3])
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([cos * scale * stretch, -sin * scale / stretch, shift[:, 0]], dim=1)]
    rows += [torch.stack([sin * scale * stretch, cos * scale / stretch, shift[:, 1]], dim=1)]
    color = _color_matrices(normal[:, 5:8], turn, colored)
    return Augmentation(torch.stack(rows, dim=1), color, geometric.amax(dim=1) > 0)


def augment(images: Tensor, drawn: Augmentation) -> Tensor:
    """Applies :func:`draw_augmentation`'s parameters.

    Args:
        images: ``(B, 3, H, W)`` in [-1, 1].
        drawn: One row per sample.

    Returns:
        ``(B, 3, H, W)``; may leave [-1, 1]. What comes in from outside is the picture mirrored at its border.
    """
    grid = F.affine_grid(drawn.theta.to(images.dtype), list(images.shape), align_corners=False)
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Rows that stay where they are must not pass through the resampler: its rounding would mark them.
    x = torch.where(drawn.moved[:, None, None, None], warped, images)
    color = drawn.color.to(images.dtype)
    return torch.einsum("bij,bjhw->bihw", color[:, :, :3], x) + color[:, :, 3, None, None]


def adapted(p: Tensor, sign: Tensor, images: int, target: float, kimg: float, maximum: float) -> Tensor:
    """The next p: up while the discriminator is surer of real images than ``target``, down otherwise.

    Args:
        p: Probability so far, scalar.
        sign: Mean sign of the discriminator's outputs on real images since the last change, r_t of arXiv 2006.06676,
            section 3.1; overfitting drives it to 1.
        images: Real images since the last change.
        target: Wanted r_t.
        kimg: Thousands of images in which p may go from 0 to 1.
        maximum: Upper bound.
    """
    return (p + torch.sign(sign - target) * (images / (kimg * 1000.0))).clamp(0.0, maximum)
