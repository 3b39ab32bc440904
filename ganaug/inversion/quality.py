"""How close an inversion came, per image."""

from typing import Any

import torch
from kornia.metrics import ssim
from torch import Tensor

from ganaug.faces.align import to_unit_range

QUALITY_NAMES = ("mse", "psnr", "ssim")

# PSNR of two equal images is infinite; records hold finite numbers, and 8-bit images cannot be closer than this.
MAX_PSNR_DB = 60.0


@torch.no_grad()
def reconstruction_quality(reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Distance of reconstructions from their photos.

    Args:
        reconstructions: ``(B, 3, H, W)`` in [-1, 1].
        images: ``(B, 3, H, W)`` in [-1, 1].

    Returns:
        ``mse`` of images in [0, 1], ``psnr`` in dB (at most 60) and ``ssim`` (11x11 Gaussian window, Wang et al. 2004),
        each ``(B,)``; NaN for an image that is not finite.
    """
    x, y = to_unit_range(reconstructions), to_unit_range(images)
    mse = (x - y).square().mean(dim=(1, 2, 3))
    psnr = (-10.0 * mse.log10()).clamp(max=MAX_PSNR_DB)
    return {"mse": mse, "psnr": psnr, "ssim": ssim(x, y, window_size=11, padding="valid").mean(dim=(1, 2, 3))}


class QualityJudge:
    """What is measured of every inversion: distance in pixels, and what networks say if there are any.

    Attributes:
        names: Keys of what :meth:`__call__` returns, in order.
    """

    names: tuple[str, ...] = QUALITY_NAMES

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able: which networks judge. Empty without any."""
        return {}

    def __call__(self, reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] each -> name -> ``(B,)`` float32."""
        return reconstruction_quality(reconstructions, images)
