"""What a share of right answers says of a rater's sensitivity."""

import math
from statistics import NormalDist


def d_prime_of_pairs(share_correct: float) -> float | None:
    """Sensitivity d' of a two-alternative forced choice: ``sqrt(2) z(share correct)``.

    Macmillan and Creelman, "Detection Theory: A User's Guide" (2nd ed., 2005), equation 7.2, for an unbiased observer.
    0 is guessing.

    Args:
        share_correct: In [0, 1].

    Returns:
        d'; None where it is infinite, at 0 and 1.

    Example:
        >>> d_prime_of_pairs(0.5)
        0.0
    """
    if not 0.0 < share_correct < 1.0:
        return None
    return math.sqrt(2.0) * NormalDist().inv_cdf(share_correct)
