"""Which inversions are good enough: bounds on the figures that records hold about them."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.interfaces import UserInputError

MinQuality = float | Mapping[str, float] | None

# Figures of which less is better; of all others more is.
SMALLER_IS_BETTER = frozenset({"mse", "perceptual", "steps", "seconds"})


def resolve_min_quality(given: MinQuality) -> dict[str, float]:
    """Bounds as they were given, checked; empty for none.

    Args:
        given: Name of a figure -> the worst that passes: the least PSNR, SSIM or identity, the largest error. A number
            is a PSNR in dB. None for no bounds.

    Raises:
        UserInputError: For anything else.

    Example:
        >>> resolve_min_quality(20), resolve_min_quality({"identity": 0.8, "mse": 0.01})
        ({'psnr': 20.0}, {'identity': 0.8, 'mse': 0.01})
    """
    if given is None:
        return {}
    bounds: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"psnr": given}
    for name, bound in bounds.items():
        number = isinstance(bound, Real) and not isinstance(bound, bool)
        if not isinstance(name, str) or not number or not math.isfinite(float(bound)):
            raise UserInputError(
                "min_quality is a PSNR in dB, or figure -> the worst that passes, such as {'psnr': 20.0, 'ssim': 0.6}; "
                f"got {given!r}"
            )
    if not bounds:
        raise UserInputError("min_quality is a mapping without figures; expected {'psnr': 20.0}, one number, or None")
    return {name: float(bound) for name, bound in bounds.items()}


def meets(figures: Mapping[str, NDArray[np.float64]], bounds: Mapping[str, float]) -> NDArray[np.bool_]:
    """Whether samples meet all bounds. A figure that is not a number meets none: nobody knows that it is good.

    Args:
        figures: Name -> ``(N,)``, for every name in ``bounds``.
        bounds: As from :func:`resolve_min_quality`, at least one.

    Returns:
        ``(N,)``.

    Example:
        >>> meets({"mse": np.array([0.02, 0.01, 0.005, np.nan])}, {"mse": 0.01}).tolist()
        [False, True, True, False]
    """
    passed = [
        figures[name] <= bound if name in SMALLER_IS_BETTER else figures[name] >= bound
        for name, bound in bounds.items()
    ]
    result: NDArray[np.bool_] = np.logical_and.reduce(passed)
    return result
