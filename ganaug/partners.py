"""Whose latents may be mixed into a face."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass
class PartnerPool:
    """Faces that may be mixed into others: those of the wrapped dataset that have latents.

    Attributes:
        keys: ``M`` different keys, sorted within each group.
        group_of: Group (label) of a dataset index -> ``(N,)`` int64; all zero when labels play no part.
        start: ``(G,)`` first position of each group in ``keys``.
        count: ``(G,)`` members of each group.
        position: ``(N,)`` position of a dataset index in ``keys``, -1 for those without latents.
        poor: ``(N,)`` bool: has latents, but neither variants nor others' partners may be made of them; empty for none.
    """

    keys: list[str]
    group_of: NDArray[np.int64]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    position: NDArray[np.int64]
    poor: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not len(self.poor):
            self.poor = np.zeros(len(self.position), bool)

    @classmethod
    def build(
        cls,
        keys: Sequence[str],
        has_latent: NDArray[np.bool_],
        groups: NDArray[np.int64] | None,
        poor: NDArray[np.bool_] | None = None,
    ) -> "PartnerPool":
        """Pool over dataset indices ``0 .. N-1`` with these keys; partners come from the same group."""
        group_of = np.zeros(len(keys), np.int64) if groups is None else groups
        # A set: a dataset that lists a face twice (oversampling) has it once here, so that it never meets itself.
        named = {i: (int(group_of[i]), keys[i]) for i in np.flatnonzero(has_latent).tolist()}
        members = sorted(set(named.values()))
        places = {member: place for place, member in enumerate(members)}
        num_groups = int(group_of.max(initial=0)) + 1
        count = np.bincount([group for group, _ in members], minlength=num_groups).astype(np.int64)
        position = np.full(len(keys), -1, np.int64)
        for index, member in named.items():
            position[index] = places[member]
        refused = np.zeros(len(keys), bool) if poor is None else poor & has_latent
        return cls([key for _, key in members], group_of, np.cumsum(count) - count, count, position, refused)

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: variants may be made of them."""
        return (self.position >= 0) & ~self.poor

    @cached_property
    def _refused(self) -> NDArray[np.bool_]:
        """``(M,)`` bool, which of ``keys`` are poor."""
        refused = np.zeros(len(self.keys), bool)
        refused[self.position[self.poor]] = True
        return refused

    @cached_property
    def _good(self) -> NDArray[np.int64]:
        """Positions in ``keys`` of the others, ascending."""
        return np.flatnonzero(~self._refused)

    def draw(self, indices: NDArray[np.int64], uniform: NDArray[np.float64], fallback: Sequence[str]) -> list[str]:
        """One partner per dataset index, never the sample itself unless it is alone in its group.

        One that is poor is replaced by a good one, equally likely each: who drew a good one keeps it, whoever is poor.

        Args:
            indices: ``(B,)`` dataset indices.
            uniform: ``(B,)`` in [0, 1).
            fallback: ``B`` keys, used where the group is empty.
        """
        group = self.group_of[indices]
        count, start = self.count[group], self.start[group]
        own = self.position[indices] - start
        inside = self.position[indices] >= 0
        choices = np.maximum(count - inside, 1)
        pick = np.minimum((uniform * choices).astype(np.int64), choices - 1)
        rest = uniform * choices - pick  # what the draw holds beyond the pick is as uniform as the draw
        pick = np.where(inside & (pick >= own) & (count > 1), pick + 1, pick)
        place = start + pick
        if len(self._good) < len(self.keys):
            place = self._spare_poor(indices, place, rest)
        return [self.keys[p] if c > 0 else f for p, c, f in zip(place, count, fallback, strict=True)]

    def _spare_poor(
        self, indices: NDArray[np.int64], place: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """``place (B,)`` with poor ones replaced; by the sample itself where its group has no other good one."""
        group, own = self.group_of[indices], self.position[indices]
        low, high = (np.searchsorted(self._good, end) for end in (self.start[group], (self.start + self.count)[group]))
        is_good = self.usable[indices]
        choices = high - low - is_good
        pick = low + np.minimum((uniform * choices).astype(np.int64), np.maximum(choices - 1, 0))
        pick += is_good & (pick >= np.searchsorted(self._good, own))
        other = np.append(self._good, 0)[np.minimum(pick, len(self._good))]
        other = np.where(choices > 0, other, np.where(own >= 0, own, place))
        return np.where(self._refused[np.minimum(place, len(self.keys) - 1)], other, place)
