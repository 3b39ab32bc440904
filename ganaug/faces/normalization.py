"""Items that a base dataset has normalised: back to [0, 1] for the variant, and to the user's numbers again."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ganaug.faces.transforms import class_names, dataset_steps
from ganaug.interfaces import UserInputError

Normalize = Literal["auto"] | tuple[Sequence[float], Sequence[float]] | None

# Steps that end in (x - mean) / std and keep both as attributes. ImageClassification is what torchvision's
# ``weights.transforms()`` gives.
NORMALIZING = frozenset({"Normalize", "ImageClassification"})

# How far outside [0, 1] is taken for rounding. bfloat16 keeps 8 bits: 2.6, which is white by ImageNet's numbers, is off
# by 2^-9 of itself at most, and that is 0.001 when multiplied with the std of 0.23.
RANGE_TOLERANCE = 5e-3


class Normalization:
    """``(x - mean) / std`` per channel of images in [0, 1], and its inverse.

    Args:
        mean: Three numbers, or one for all channels.
        std: As ``mean``; above 0.

    Raises:
        UserInputError: For other numbers than these.

    Example:
        >>> half = Normalization([0.5], [0.5])
        >>> half.to_unit(torch.full((1, 3, 1, 1), -1.0)).flatten().tolist()
        [0.0, 0.0, 0.0]
    """

    def __init__(self, mean: Any, std: Any) -> None:
        try:
            self.mean, self.std = (
                torch.as_tensor(values, dtype=torch.float32).reshape(-1).expand(3).reshape(3, 1, 1)
                for values in (mean, std)
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserInputError(
                "normalize takes (mean, std) of three numbers each, for images in [0, 1]; got "
                f"mean={mean!r}, std={std!r}"
            ) from error
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.std).all() and (self.std > 0).all()):
            raise UserInputError(f"normalize needs finite means and stds above 0, got {self}")

    def to(self, device: torch.device) -> "Normalization":
        """The same with its numbers on ``device``."""
        moved = object.__new__(Normalization)
        moved.mean, moved.std = self.mean.to(device), self.std.to(device)
        return moved

    def then(self, other: "Normalization") -> "Normalization":
        """This one and another after it, as one."""
        return Normalization(self.mean + self.std * other.mean, self.std * other.std)

    def to_unit(self, images: Tensor) -> Tensor:
        """``(..., 3, H, W)`` normalised, any float dtype -> float32 in [0, 1], but for rounding."""
        return images.float() * self.std + self.mean

    def from_unit(self, images: Tensor) -> Tensor:
        """``(..., 3, H, W)`` in [0, 1] -> normalised, by torchvision's formula and in its order of rounding."""
        return (images - self.mean) / self.std

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Normalization):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.std, other.std)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        mean, std = ([round(v, 6) for v in values.flatten().tolist()] for values in (self.mean, self.std))
        return f"mean={mean}, std={std}"


def resolve_normalization(normalize: Normalize, dataset: Any) -> Normalization | None:
    """How a dataset's items are normalised.

    Args:
        normalize: ``"auto"``: what the dataset's transform says; None: they are not; or ``(mean, std)``.
        dataset: Read for ``"auto"`` only.

    Raises:
        UserInputError: For anything else, and if parts of a ``ConcatDataset`` are normalised differently.
    """
    if normalize is None:
        return None
    if normalize == "auto":
        return find_normalization(dataset)
    if isinstance(normalize, (tuple, list)) and len(normalize) == 2:
        return Normalization(*normalize)
    raise UserInputError(f"normalize must be 'auto', None or (mean, std), got {normalize!r}")


def find_normalization(dataset: Any) -> Normalization | None:
    """What the transform of a dataset normalises by; None if no step that can be seen does.

    Raises:
        UserInputError: If parts of a ``ConcatDataset`` are normalised differently: a batch would hold both.
    """
    found = [_of_steps(steps) for steps in dataset_steps(dataset)]
    first = found[0] if found else None
    other = next((part for part in found if part != first), first)
    if other != first:
        told = [f"by {part}" if part is not None else "not at all, as far as can be seen" for part in (first, other)]
        raise UserInputError(
            f"parts of the dataset are normalised differently: {told[0]}; {told[1]}. Give all parts the same "
            "Normalize, or say normalize=(mean, std) if they come out alike"
        )
    return first


def _of_steps(steps: Sequence[Any]) -> Normalization | None:
    total: Normalization | None = None
    for step in steps:
        if class_names(step) & NORMALIZING and hasattr(step, "mean") and hasattr(step, "std"):
            this = Normalization(step.mean, step.std)
            total = this if total is None else total.then(this)
    return total


def restore_unchanged(changed: Tensor, unit: Tensor, images: Tensor, normalization: Normalization | None) -> Tensor:
    """Augmented images in the user's numbers again; what the augmentation left alone is bit for bit what came in.

    Args:
        changed: ``(B, 3, H, W)`` float32 in [0, 1], what augmentation made of ``unit``.
        unit: ``(B, 3, H, W)`` float32 in [0, 1], what it was given.
        images: ``(B, 3, H, W)`` float of any precision, what ``unit`` was made of.
        normalization: None if ``images`` are in [0, 1].
    """
    again = changed if normalization is None else normalization.from_unit(changed)
    return torch.where(changed == unit, images, again.to(images.dtype))
