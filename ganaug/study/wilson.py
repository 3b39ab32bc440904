"""Shares of answers with their intervals, and what they say of a rater's sensitivity."""

import math
from statistics import NormalDist

CONFIDENCE = 0.95


def wilson_interval(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, JASA 22, 1927, doi 10.1080/01621459.1927.10502953).

    Brown, Cai and DasGupta recommend it for small samples ("Interval Estimation for a Binomial Proportion", Statistical
    Science 16(2), 2001, section 5): it neither leaves [0, 1] nor shrinks to a point at 0 and 1.

    Args:
        count: How many of ``total``.
        total: At least 1.
        confidence: Above 0, below 1.

    Returns:
        Low and high end.

    Raises:
        ValueError: For numbers out of range.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0, 10)]
        [0.0, 0.278]
    """
    if not (0 <= count <= total and total >= 1 and 0.0 < confidence < 1.0):
        raise ValueError(f"expected 0 <= count <= total, total >= 1, got {count} of {total} at {confidence}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # At the ends of the range the formula gives them exactly; floating point does not.
    return (0.0 if count == 0 else middle - half, 1.0 if count == total else middle + half)


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
