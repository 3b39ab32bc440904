"""Whose latents may be mixed into a face."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    keys: list[str]
    group_of: NDArray[np.int64]
    start: NDArray[np.int64]
    count: NDArray[np.int64]
    position: NDArray[np.int64]

    @classmethod
    def build(
        cls, keys: Sequence[str], has_latent: NDArray[np.bool_], groups: NDArray[np.int64] | None
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
        return cls([key for _, key in members], group_of, np.cumsum(count) - count, count, position)

    def draw(self, indices: NDArray[np.int64], uniform: NDArray[np.float64], fallback: Sequence[str]) -> list[str]:
        """One partner per dataset index, never the sample itself unless it is alone in its group.

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
        pick = np.where(inside & (pick >= own) & (count > 1), pick + 1, pick)
        return [self.keys[s + p] if c > 0 else f for s, p, c, f in zip(start, pick, count, fallback, strict=True)]
