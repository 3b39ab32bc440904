"""Multi-scale structural similarity of pairs of images."""

import math

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.faces.align import to_unit_range
from ganaug.metrics.per_item import PerItem, summary
from ganaug.metrics.perceptual import check_pair

# Wang, Simoncelli and Bovik, Multi-scale structural similarity for image quality assessment (Asilomar 2003), section
# 3.2: exponents of the scales, finest first.
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5  # pixels; Wang et al., IEEE TIP 13 (2004), section III.C; the constants K1 and K2 too
C1, C2 = 0.01**2, 0.03**2  # of images in [0, 1]


def scales_that_fit(height: int, width: int) -> int:
    """How many scales of an image hold a whole window, each half as large as the one before; 5 at most.

    Example:
        >>> scales_that_fit(64, 64), scales_that_fit(176, 200), scales_that_fit(10, 64)
        (3, 5, 0)
    """
    side = min(height, width)
    return sum(side >> scale >= WINDOW for scale in range(len(EXPONENTS)))


def multi_scale_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Similarity of pairs by as many scales as fit (equation 7 of the 2003 paper), with the exponents scaled to sum 1.

    Contrast and structure are averaged over the windows that lie in the image; the coarsest scale, whose luminance
    counts too, also has those that reach over its border and see it reflected. Negative correlations count as 0. Both
    as torchmetrics does it by default.

    Args:
        a: ``(B, C, H, W)`` in [-1, 1], sides at least 11.
        b: The same shape.

    Returns:
        ``(B,)`` float64 in 0 to 1; 1 for equal images.

    Raises:
        UserInputError: For shapes that differ, or smaller images.
    """
    check_pair(a, b)
    scales = scales_that_fit(a.shape[2], a.shape[3])
    if not scales:
        raise UserInputError(f"MS-SSIM needs images of at least {WINDOW} px, got {a.shape[2]} x {a.shape[3]}")
    # Variances are small differences of means of squares: float64.
    x, y = to_unit_range(a).double(), to_unit_range(b).double()
    exponents = [weight / math.fsum(EXPONENTS[:scales]) for weight in EXPONENTS[:scales]]
    similarity = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for scale, exponent in enumerate(exponents):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        means = gaussian_blur2d(torch.cat([x, y, x * x, y * y, x * y], 1), (WINDOW, WINDOW), (SIGMA, SIGMA), "reflect")
        mx, my, xx, yy, xy = means.chunk(5, dim=1)
        structure = (2.0 * (xy - mx * my) + C2) / ((xx - mx * mx).clamp(min=0) + (yy - my * my).clamp(min=0) + C2)
        if scale + 1 == scales:
            found = (structure * (2.0 * mx * my + C1) / (mx * mx + my * my + C1)).mean(dim=(1, 2, 3))
        else:
            border = WINDOW // 2
            found = structure[:, :, border:-border, border:-border].mean(dim=(1, 2, 3))
        similarity = similarity * found.clamp(min=0) ** exponent
    return similarity


class MultiScaleSSIM(PerItem):
    """Structural similarity of pairs: of a photo and its inversion, or of variants, where low means diverse.

    The latter is the measure of diversity of arXiv 1610.09585 (section 4.2).

    Five scales need images of 176 px. Smaller ones have as many as fit, three at 64 px, with the exponents of those
    scaled to sum 1: figures of different sizes are not comparable, hence ``scales`` stands among them. At sizes that
    torchmetrics accepts it gives what that gives with ``data_range=1.0`` and the same exponents.
    """

    def update(self, a: Tensor, b: Tensor) -> None:
        """Adds the pairs ``(a[i], b[i])``, ``(B, C, H, W)`` each, in [-1, 1].

        Raises:
            UserInputError: For shapes that differ, images below 11 px, or after :meth:`reduce`.
        """
        with torch.no_grad():
            found = multi_scale_ssim(a, b)
        # The number of scales travels with each value: processes may be shown images of different sizes.
        self._add(found, torch.full_like(found, scales_that_fit(a.shape[2], a.shape[3])))

    def compute(self) -> dict[str, float]:
        """``count`` of pairs, ``mean``, ``std`` and ``median``, and ``scales``.

        Raises:
            UserInputError: Before the first pair, or for images with different numbers of scales.
        """
        values, scales = self._columns()
        least, most = int(scales.min()), int(scales.max())
        if least != most:
            raise UserInputError(f"images of {least} and of {most} scales are not comparable: use one size")
        return {**summary(values), "scales": least}
