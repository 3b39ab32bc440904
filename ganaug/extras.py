"""Extra variants: samples that a wrapped dataset has beyond those of its base, to fill groups that are small.

An extra sample is a variant for sure of one item of the base dataset, its v-th. It has the item's label and container;
its draws are keyed by the sample key and v, so that neither the item nor its other variants are moved by it.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganaug import rng
from ganaug.interfaces import UserInputError
from ganaug.traits import Groups

Extra = int | Literal["balance"]
Ints = NDArray[np.int64]


class GroupCount(NamedTuple):
    """Samples of a group.

    Attributes:
        before: In the base dataset.
        after: With the extra variants.
    """

    before: int
    after: int


@dataclass(frozen=True)
class Extras:
    """Which item each extra sample is a variant of. Indices ``N .. N + E - 1`` follow those of the base dataset.

    Attributes:
        num_base: N.
        base: ``(E,)`` index of the item.
        variant: ``(E,)`` number of the variant, from 1; counted per key, for datasets that list a photo twice.
    """

    num_base: int
    base: Ints
    variant: Ints

    @classmethod
    def none(cls, num_base: int) -> "Extras":
        """No extra samples."""
        return cls(num_base, np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def build(
        cls,
        extra: Extra,
        max_extra: int,
        usable: NDArray[np.bool_],
        hashes: Ints,
        groups: Groups | None,
        seed: int,
    ) -> "Extras":
        """Extra samples of a dataset.

        Args:
            extra: Variants of every photo; ``"balance"``: as many as every group lacks to be as large as the largest.
            max_extra: Most variants of one photo that ``"balance"`` makes.
            usable: ``(N,)`` whether variants can be made of an item.
            hashes: ``(N,)`` :func:`ganaug.rng.hash_text` of the keys.
            groups: For ``"balance"``.
            seed: Decides which photos of a group have one variant more than others.
        """
        members = np.flatnonzero(usable)
        if extra == "balance":
            if groups is None:
                raise UserInputError("extra='balance' needs groups")
            base = _balance(groups, max_extra, members, hashes, seed)
        else:
            base = np.tile(members, extra)
        return cls(len(usable), base, _count_up(hashes[base]))

    def __len__(self) -> int:
        return len(self.base)

    @property
    def all_bases(self) -> Ints:
        """``(N + E,)`` index of the item behind every index."""
        return np.concatenate([np.arange(self.num_base), self.base])

    def resolve(self, indices: Sequence[int] | Ints) -> tuple[Ints, Ints]:
        """Items behind indices.

        Args:
            indices: ``(B,)`` in ``0 .. N + E - 1``.

        Returns:
            ``(B,)`` index in the base dataset, and ``(B,)`` number of the variant, 0 for the item itself.
        """
        at = np.asarray(indices, np.int64)
        variant = np.zeros(len(at), np.int64)
        virtual = at >= self.num_base
        if virtual.any():
            at, places = at.copy(), at[virtual] - self.num_base
            at[virtual], variant[virtual] = self.base[places], self.variant[places]
        return at, variant

    def counts(self, groups: Groups) -> dict[str, GroupCount]:
        """Samples of every group, before and after."""
        before = groups.counts
        after = before + np.bincount(groups.of[self.base], minlength=len(before))
        return {name: GroupCount(int(b), int(a)) for name, b, a in zip(groups.names, before, after, strict=True)}


def check_extra(extra: Extra, max_extra: int) -> None:
    """Raises UserInputError for what is no number of extra variants."""
    if extra != "balance" and (isinstance(extra, bool) or not isinstance(extra, Integral) or extra < 0):
        raise UserInputError(
            f"extra is the number of extra variants of every photo, 0 or more, or 'balance'; got {extra!r}"
        )
    if isinstance(max_extra, bool) or not isinstance(max_extra, Integral) or max_extra < 1:
        raise UserInputError(f"max_extra, the most variants of one photo, must be at least 1; got {max_extra!r}")


def _balance(groups: Groups, max_extra: int, members: Ints, hashes: Ints, seed: int) -> Ints:
    """``(E,)`` items that fill every group up to the largest one's size, all first variants before all second ones."""
    lacking = groups.counts.max(initial=0) - groups.counts
    # Members of a group in an order of their own: the first ones get one variant more.
    order = rng.uniforms(seed, 0, hashes[members], "extra", 1)[:, 0]
    members = members[np.lexsort((members, order, groups.of[members]))]
    ends = np.searchsorted(groups.of[members], np.arange(1, len(groups.names)))
    rounds: list[tuple[int, Ints]] = []
    short = []
    for name, lack, mine in zip(groups.names, lacking.tolist(), np.split(members, ends), strict=True):
        full, rest = divmod(lack, len(mine)) if len(mine) else (0, 0)
        if full >= max_extra:
            full, rest = max_extra, 0
        rounds += [*((n, mine) for n in range(full)), (full, mine[:rest])]
        filled = full * len(mine) + rest
        if filled < lack:
            short.append(f"{name!r} ({filled} of {lack}, from {len(mine)} usable photos)")
    if short:
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        warnings.warn(
            f"extra='balance' cannot fill every group with at most {max_extra} variants of a photo: "
            f"{', '.join(short[:5])}{more}. Give max_extra= more, or run `ganaug precompute` on more of the photos",
            stacklevel=4,
        )
    parts = [part for _, part in sorted(rounds, key=lambda pair: pair[0])]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _count_up(values: Ints) -> Ints:
    """How many equal values stand before each, and 1.

    Example:
        >>> _count_up(np.array([5, 7, 5, 5])).tolist()
        [1, 1, 2, 3]
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(values)])
    lengths = np.diff(np.append(starts, len(values)))
    counted = np.empty(len(values), np.int64)
    counted[order] = np.arange(len(values)) - np.repeat(starts, lengths) + 1
    return counted
