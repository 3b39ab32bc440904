"""What an edit did to scores, pixels and identity: pure functions of tensors, without data or networks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

LOCAL = 0.25  # outside over inside: mean squared change of a local edit, and movement of other attributes, at most
SAME_PERSON = 0.5  # cosine of MobileFaceNet
VISIBLE = 0.5  # standard deviations that an attribute without a direction moves where an edit shows


def standard_moves(before: Tensor, after: Tensor, std: Tensor) -> Tensor:
    """``(N, K)`` changes of scores in standard deviations ``(K,)``."""
    return (after - before) / std.clamp(min=1e-8)


def sizes(moves: Tensor) -> Tensor:
    """``(N, K)`` -> ``(N,)``: root mean square over the columns, so that one with seven is no larger than one."""
    return moves.square().mean(dim=1).sqrt()


def share_moved(moves: Tensor, signs: Tensor | None) -> float:
    """Share of faces whose score moves as intended.

    Args:
        moves: ``(N, K)`` in standard deviations.
        signs: ``(N,)``, +1 or -1: which way the first column should go; None if any way is right, then faces count of
            which any column moves by :data:`VISIBLE` or more.
    """
    moved = moves.abs().amax(dim=1) >= VISIBLE if signs is None else moves[:, 0] * signs > 0
    return float(moved.double().mean())


def movement(moves: Tensor, signs: Tensor | None) -> dict[str, float]:
    """Mean size, and the drift: how far the mean of ``signs * moves`` lies from zero. Noise adds to the first alone.

    Without signs the drift is that of the moves as they are.
    """
    along = moves if signs is None else moves * signs[:, None]
    return {"size": float(sizes(moves).mean()), "drift": float(sizes(along.mean(dim=0, keepdim=True))[0])}


def worst_other(
    moved: Mapping[str, Mapping[str, float]], intended: str, touched: Sequence[str], kind: str, directed: bool
) -> tuple[str | None, float]:
    """Which attribute that an edit neither intends nor touches moves most, and how far against the intended one.

    Args:
        moved: Attribute -> what :func:`movement` gives.
        intended: Name of an attribute.
        touched: Names that do not count.
        kind: ``"size"`` or ``"drift"``.
        directed: Whether the intended attribute drifts; else any drift is compared with its size.

    Returns:
        ``(name, ratio)``; ``(None, 0.0)`` where every attribute is touched.
    """
    others = {name: values[kind] for name, values in moved.items() if name != intended and name not in touched}
    if not others:
        return None, 0.0
    name = max(others, key=lambda other: others[other])
    return name, others[name] / max(moved[intended][kind if directed else "size"], 1e-12)


def change_in_and_out(before: Tensor, after: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared change of the pixels inside and outside of a mask, each ``(N,)``; NaN for an empty side.

    Args:
        before: ``(N, C, H, W)``.
        after: The same shape.
        inside: ``(N, H, W)`` bool.
    """
    change = (after - before).square().mean(dim=1)
    weight = inside.to(change.dtype)
    dims = (1, 2)
    return (
        (change * weight).sum(dims) / weight.sum(dims),
        (change * (1 - weight)).sum(dims) / (1 - weight).sum(dims),
    )


def localisation(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Ratio of the mean changes outside and inside, and the share of faces whose own ratio is :data:`LOCAL` or less.

    Faces without a part, or without anything else, do not count.
    """
    known = torch.isfinite(inside) & torch.isfinite(outside)
    if not known.any():
        return {"faces": 0, "ratio": float("nan"), "share": float("nan")}
    into, out = inside[known].double(), outside[known].double()
    return {
        "faces": int(known.sum()),
        "ratio": float(out.mean() / into.mean().clamp(min=1e-20)),
        "share": float((out <= LOCAL * into).double().mean()),
    }


def likeness(cosines: Tensor, threshold: float = SAME_PERSON) -> dict[str, float]:
    """Median of ``(N,)`` and share of at least ``threshold``; NaN for none."""
    if not len(cosines):
        return {"median": float("nan"), "share": float("nan")}
    return {"median": float(cosines.median()), "share": float((cosines >= threshold).double().mean())}


def threshold_figures(scores: Tensor, cosines: Tensor, threshold: float) -> dict[str, float]:
    """What a gate at ``threshold`` would accept of ``(N,)`` variants by its scores, and how alike the judge finds that.

    Scores that are not finite do not pass.
    """
    passed = scores >= threshold
    return {"accepted": float(passed.double().mean()), **likeness(cosines[passed])}


def flip_rate(first: Tensor, second: Tensor) -> float:
    """Share of ``(N,)`` verdicts that differ."""
    return float((first != second).double().mean())
