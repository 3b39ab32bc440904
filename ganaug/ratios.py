"""How likely a variant is: one ratio for all, one for each group, less for samples whose inversion is poor."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganaug.interfaces import UserInputError
from ganaug.min_quality import SMALLER_IS_BETTER
from ganaug.schedules import check_ratio
from ganaug.traits import Traits

OneRatio = float | Callable[[int], float]
Ratio = OneRatio | Mapping[Any, OneRatio]


def resolve_ratio(ratio: Ratio) -> OneRatio | dict[str, OneRatio]:
    """A ratio as it was given, checked; names of groups as text.

    Raises:
        UserInputError: For a number outside [0, 1], or a mapping without groups.
    """
    if callable(ratio):
        return ratio
    if not isinstance(ratio, Mapping):
        return check_ratio(ratio)
    if not ratio:
        raise UserInputError("ratio is a mapping without groups; expected group -> ratio, or one number")
    return {str(group): value if callable(value) else check_ratio(value) for group, value in ratio.items()}


def _at(ratio: OneRatio, epoch: int) -> float:
    return check_ratio(ratio(epoch) if callable(ratio) else ratio)


def largest_ratio(ratio: Ratio, epoch: int) -> float:
    """The ratio in an epoch, checked; the largest where there is one for each group."""
    return max(_at(r, epoch) for r in (ratio.values() if isinstance(ratio, Mapping) else [ratio]))


def may_exceed_zero(ratio: Ratio) -> bool:
    """False when no epoch can have generated samples."""
    return any(callable(r) or r > 0.0 for r in (ratio.values() if isinstance(ratio, Mapping) else [ratio]))


def require_groups(ratio: Ratio, names: Sequence[str]) -> None:
    """Raises UserInputError if groups of a dataset have no ratio."""
    missing = [name for name in names if isinstance(ratio, Mapping) and name not in ratio]
    if missing and isinstance(ratio, Mapping):
        raise UserInputError(
            f"ratio has no value for the group(s) {_list(missing)}; it has {_list(list(ratio))}. Give every group one"
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def resolve_quality_weight(given: Any) -> tuple[str, float, float] | None:
    """``quality_weight`` checked.

    Raises:
        UserInputError: Unless it is None or a name and two different finite numbers, the worse one first.
    """
    if given is None:
        return None
    try:
        name, none, full = given
        numbers = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in (none, full))
    except (TypeError, ValueError):
        numbers = False
    if not numbers or not isinstance(name, str) or none == full:
        raise UserInputError(
            "quality_weight must be a figure of the records and two different values of it, for no variants and for all"
            f" of them, such as ('ssim', 0.4, 0.6); got {given!r}"
        )
    if name in ("psnr", "ssim", "identity", *SMALLER_IS_BETTER) and (none > full) != (name in SMALLER_IS_BETTER):
        better = "smaller" if name in SMALLER_IS_BETTER else "larger"
        raise UserInputError(
            f"quality_weight {given!r}: a {better} {name} is better, so that it gives the poor inversions the variants "
            f"and the good ones none; expected ({name!r}, {full}, {none})"
        )
    return name, float(none), float(full)


def quality_weights(quality: NDArray[np.float64], none: float, full: float) -> NDArray[np.float64]:
    """Factors of the ratio in [0, 1], 0 at ``none`` and beyond, 1 at ``full``, on a line between; 0 for NaN.

    Example:
        >>> quality_weights(np.array([0.3, 0.5, 0.9, np.nan]), none=0.4, full=0.6).round(3).tolist()
        [0.0, 0.5, 1.0, 0.0]
    """
    return np.nan_to_num(((quality - none) / (full - none)).clip(0.0, 1.0), nan=0.0)


def chances(
    ratio: Ratio,
    epoch: int,
    traits: Traits,
    has_latent: NDArray[np.bool_],
    quality_weight: tuple[str, float, float] | None = None,
) -> float | NDArray[np.float64]:
    """Chance of a variant, for all samples of a batch or for each.

    Args:
        ratio: As from :func:`resolve_ratio`.
        epoch: Epoch number.
        traits: Groups where ``ratio`` goes by them, quality where ``quality_weight`` is given.
        has_latent: ``(B,)``; samples without count at their full ratio, so that the counts tell how many there were.
        quality_weight: As from :func:`resolve_quality_weight`.

    Raises:
        UserInputError: Where groups or qualities are needed and not there.
    """
    result: float | NDArray[np.float64]
    if isinstance(ratio, Mapping):
        if traits.group is None:
            raise UserInputError("ratio is given by group, but no groups are known; wrap the dataset with groups=")
        present, place = np.unique(traits.group, return_inverse=True)
        names = [traits.group_names[number] for number in present]
        require_groups(ratio, names)
        result = np.array([_at(ratio[name], epoch) for name in names])[place]
    else:
        result = _at(ratio, epoch)
    if quality_weight is not None:
        name, none, full = quality_weight
        if traits.quality is None:
            raise UserInputError(f"quality_weight names {name!r}, but the quality of the samples is not known")
        result = result * np.where(has_latent, quality_weights(traits.quality, none, full), 1.0)
    return result


def choose_exactly(
    uniform: NDArray[np.float64], chance: float | NDArray[np.float64], has_latent: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """As many of a batch as its chances add up to, rounded; those with latents first.

    With one chance for all, those with the smallest draws. With chances of their own, those with the smallest
    ``draw / chance``, which is sequential Poisson sampling (Ohlsson, Journal of Official Statistics 14(2), 1998,
    section 2): a fixed number, and each is chosen about as often as its chance says.

    Args:
        uniform: ``(B,)`` draws in [0, 1).
        chance: In [0, 1].
        has_latent: ``(B,)``; others are chosen only where there are not enough.

    Returns:
        ``(B,)`` bool.
    """
    chosen = np.zeros(len(uniform), bool)
    if isinstance(chance, float):
        order, count = np.lexsort((uniform, ~has_latent)), round(chance * len(uniform))
    else:
        # Below 0, that is first of all, where the chance is 1; last of all where it is 0.
        rank = np.where(chance >= 1.0, uniform - 1.0, uniform / np.where(chance > 0.0, chance, 1.0))
        order, count = np.lexsort((rank, ~has_latent, chance <= 0.0)), round(float(chance.sum()))
    chosen[order[:count]] = True
    return chosen
