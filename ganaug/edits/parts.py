"""Swapping a part of a face with a partner's, for generators whose latents have rows for it (arXiv 2112.02236)."""

from collections.abc import Callable, Sequence

from ganaug.edits.names import NAMED_TOUCHES
from ganaug.edits.style_mixing import StyleMixing
from ganaug.interfaces import Edit, Generator, UserInputError

# What a part may change, by what it shows: its shape and its texture move together. Hair and hats bear on the gender
# and the age that a face is taken for; the features that tell people apart are "identity".
PART_TOUCHES: dict[str, frozenset[str]] = {
    "background": frozenset({"background"}),
    "face": frozenset({"identity", "shape", "skin", "age", "gender", "expression", "makeup", "lighting"}),
    "eye": frozenset({"identity", "eyes", "expression", "gender", "makeup"}),
    "eyebrow": frozenset({"identity", "brows", "expression", "gender", "makeup"}),
    "mouth": frozenset({"identity", "mouth", "expression", "gender", "makeup"}),
    "nose": frozenset({"identity", "nose"}),
    "ear": frozenset({"ears"}),
    "hair": frozenset({"hair", "gender", "age"}),
    "neck": frozenset({"neck", "skin"}),
    "cloth": frozenset({"cloth"}),
    "glasses": frozenset({"glasses"}),
    "hat": frozenset({"hat", "hair", "gender"}),
    "earring": frozenset({"earring", "gender"}),
}
# Nothing is known about a part without a name, so it counts as changing everything.
UNKNOWN_TOUCHES = frozenset[str]().union(*PART_TOUCHES.values(), *NAMED_TOUCHES.values())


class PartSwap(StyleMixing):
    """Moves a part's rows to, or most of the way to, those of a partner's latents; every other row stays as it is.

    Args:
        part: Name of the part, and of the edit.
        rows: Rows of ``w_plus`` that the part owns, see ``latent_spec.parts``.
        touches: Attributes that the part carries.
        strength: Range of the mixing weight; 1 is the partner's part.

    Example:
        >>> import torch
        >>> edit = PartSwap("hair", rows=[1], touches={"hair"})
        >>> params = {"partner": torch.ones(1, 2, 3), "strength": torch.tensor([1.0])}
        >>> edit.apply(torch.zeros(1, 2, 3), params)[0, :, 0].tolist()
        [0.0, 1.0]
    """

    def __init__(
        self,
        part: str,
        rows: Sequence[int],
        touches: set[str] | frozenset[str],
        strength: tuple[float, float] = (0.8, 1.0),
    ) -> None:
        super().__init__(part, rows, touches, strength)


def part_swap(part: str) -> Callable[[Generator], Edit]:
    """Function that makes the swap of a part for a generator.

    That function raises:
        UserInputError: If the generator has no such part; the message lists those that it has.
    """

    def build(generator: Generator) -> Edit:
        parts = generator.latent_spec.parts
        if part not in parts:
            has = f"the parts {', '.join(parts)}" if parts else "no parts (a SemanticStyleGAN has)"
            raise UserInputError(f"edit {part!r} swaps a part of a face, and this generator has {has}")
        return PartSwap(part, parts[part], PART_TOUCHES.get(part, UNKNOWN_TOUCHES))

    return build
