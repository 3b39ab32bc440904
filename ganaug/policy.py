"""Which sample receives what. The only place in the package that draws for a batch.

Every draw is keyed by (seed, epoch, sample key, purpose), see :mod:`ganaug.rng`, so that the recipe of a sample does
not depend on batch, worker, rank or resume. The one exception says so: ``mode="exact"``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug import rng
from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, UserInputError
from ganaug.provenance import BatchRecipe, Source

Ratio = float | Callable[[int], float]


def check_ratio(ratio: float) -> float:
    """``ratio`` as a float.

    Raises:
        UserInputError: Unless it is a number in [0, 1].
    """
    try:
        if isinstance(ratio, (str, bytes)):  # float would take "0.5"
            raise TypeError
        value = float(ratio)
    except (TypeError, ValueError) as error:
        raise UserInputError(f"ratio must be a number in [0, 1] or a function of the epoch, got {ratio!r}") from error
    if not 0.0 <= value <= 1.0:
        raise UserInputError(f"ratio is the expected share of generated samples, between 0 and 1; got {value}")
    return value


def linear_ratio(start: float, end: float, num_epochs: int) -> Callable[[int], float]:
    """A schedule: from ``start`` in epoch 0 to ``end`` in epoch ``num_epochs - 1``, then constant.

    Example:
        >>> schedule = linear_ratio(0.0, 0.5, num_epochs=3)
        >>> [schedule(epoch) for epoch in range(4)]
        [0.0, 0.25, 0.5, 0.5]
    """
    check_ratio(start), check_ratio(end)
    return _Linear(start, end, num_epochs)


@dataclass(frozen=True)
class _Linear:
    start: float
    end: float
    num_epochs: int

    def __call__(self, epoch: int) -> float:
        progress = min(epoch / max(self.num_epochs - 1, 1), 1.0)
        return self.start + (self.end - self.start) * progress


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


@dataclass
class AugmentationPolicy:
    """Decides, sample by sample, whether a variant is made and which edits it receives.

    Attributes:
        ratio: Expected share of generated samples, in [0, 1], or a function of the epoch that returns it.
        edits: Edits to choose from.
        preserve: Attributes that must not change, such as ``"identity"``. An edit that touches one is refused.
            ``"label"`` restricts partner faces to those with the same label.
        max_edits: A variant receives between 1 and this many edits, uniformly.
        mode: ``"bernoulli"`` draws each sample by itself; ``"exact"`` makes ``round(ratio * B)`` of every batch, those
            with the smallest draws, so that there the choice depends on the batch.
        seed: Seed of every draw.
    """

    ratio: Ratio = 0.5
    edits: Sequence[Edit] = ()
    preserve: Sequence[str] = ()
    max_edits: int = 2
    mode: Literal["bernoulli", "exact"] = "bernoulli"
    seed: int = 0
    _names: tuple[str, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if not callable(self.ratio):
            self.ratio = check_ratio(self.ratio)
        if self.mode not in ("bernoulli", "exact"):
            raise UserInputError(f"mode must be 'bernoulli' or 'exact', got {self.mode!r}")
        if self.max_edits < 1:
            raise UserInputError(f"max_edits must be at least 1, got {self.max_edits}")
        if isinstance(self.preserve, str):
            raise UserInputError(f"preserve is a sequence of attribute names, got the string {self.preserve!r}")
        kept = set(self.preserve) - {"label"}
        for edit in self.edits:
            clash = sorted(kept & edit.touches)
            if clash:
                raise UserInputError(
                    f"edit {edit.name!r} touches {', '.join(clash)}, which preserve={list(self.preserve)} forbids; "
                    "leave the edit out or preserve less"
                )
        self._names = tuple(edit.name for edit in self.edits)

    def ratio_at(self, epoch: int) -> float:
        """The ratio in an epoch, checked."""
        return check_ratio(self.ratio(epoch) if callable(self.ratio) else self.ratio)

    @property
    def may_generate(self) -> bool:
        """False when no epoch can have generated samples."""
        return callable(self.ratio) or self.ratio > 0.0

    def draw(
        self,
        indices: NDArray[np.int64],
        keys: Sequence[str],
        hashes: NDArray[np.int64],
        epoch: int,
        pool: PartnerPool | None,
        classical: ClassicalAugmentation | None,
        degradation: Degradation | None = None,
        variant_pixels: NDArray[np.float64] | None = None,
    ) -> BatchRecipe:
        """The recipes of a batch.

        Args:
            indices: ``(B,)`` dataset indices.
            keys: ``B`` sample keys.
            hashes: ``(B,)`` their :func:`ganaug.rng.hash_text`.
            epoch: Epoch number.
            pool: Partner faces; None only when nothing can be generated.
            classical: Classical augmentation, or None.
            degradation: Degradation of real and generated samples, or None.
            variant_pixels: ``(B,)`` for it, see :meth:`ganaug.degrade.Degradation.make_params`; None where all variants
                are as wide as the shorter side of their items.
        """
        seed, ratio = self.seed, self.ratio_at(epoch)
        source = np.full(len(keys), Source.REAL, np.uint8)
        chosen = np.zeros(len(keys), bool)
        if ratio > 0.0 and pool is not None:
            chance = rng.uniforms(seed, epoch, hashes, "generate", 1)[:, 0]
            has_latent = pool.position[indices] >= 0
            chosen = self._choose(chance, ratio, has_latent)
            source[chosen & has_latent] = Source.GENERATED
            source[chosen & ~has_latent] = Source.NO_LATENT
        active, params, partners = self._draw_edits(indices, keys, hashes, epoch, chosen, pool)
        drawn = {}
        if classical is not None:
            uniform = rng.uniforms(seed, epoch, hashes, "classical", classical.num_uniforms)
            drawn = classical.make_params(torch.from_numpy(uniform))
        degraded = {}
        if degradation is not None:
            numbers = rng.uniforms(seed, epoch, hashes, "degradation", degradation.num_uniforms)
            degraded = degradation.make_params(numbers, variant_pixels)
        return BatchRecipe(list(keys), epoch, seed, source, active, self._names, params, partners, drawn, degraded)

    def draw_edit(
        self,
        edit: Edit,
        indices: NDArray[np.int64],
        keys: Sequence[str],
        hashes: NDArray[np.int64],
        epoch: int,
        pool: PartnerPool,
    ) -> tuple[dict[str, torch.Tensor], list[str] | None]:
        """Parameters of one edit for every sample, and partner keys if it needs them.

        Raises:
            UserInputError: If a parameter is not what a recipe holds exactly.
        """
        numbers = rng.uniforms(self.seed, epoch, hashes, f"edit {edit.name}", NUM_EDIT_UNIFORMS + 1)
        params = edit.sample_params(torch.from_numpy(numbers[:, :NUM_EDIT_UNIFORMS]))
        for name, values in params.items():
            if values.shape != (len(keys),) or values.dtype != torch.float32:
                raise UserInputError(
                    f"parameter {name!r} of edit {edit.name!r} must be float32 of shape ({len(keys)},), got "
                    f"{values.dtype} of shape {tuple(values.shape)}"
                )
        return params, pool.draw(indices, numbers[:, -1], keys) if edit.needs_partner else None

    def _choose(self, chance: NDArray[np.float64], ratio: float, has_latent: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if self.mode == "bernoulli":
            return np.asarray(chance < ratio)
        # Exact: samples that have latents come first, so that the batch gets its share if it can.
        order = np.lexsort((chance, ~has_latent))
        chosen = np.zeros(len(chance), bool)
        chosen[order[: round(ratio * len(chance))]] = True
        return chosen

    def _draw_edits(
        self,
        indices: NDArray[np.int64],
        keys: Sequence[str],
        hashes: NDArray[np.int64],
        epoch: int,
        chosen: NDArray[np.bool_],
        pool: PartnerPool | None,
    ) -> tuple[NDArray[np.bool_], dict[str, dict[str, torch.Tensor]], dict[str, list[str]]]:
        """Which edits, with which parameters and partners."""
        num_edits = len(self.edits)
        active = np.zeros((len(keys), num_edits), bool)
        params: dict[str, dict[str, torch.Tensor]] = {}
        partners: dict[str, list[str]] = {}
        if not num_edits or pool is None or not chosen.any():
            return active, params, partners
        # The first column decides how many, the others rank the edits: the lowest ranks are applied.
        uniform = rng.uniforms(self.seed, epoch, hashes, "edits", 1 + num_edits)
        how_many = 1 + (uniform[:, 0] * min(self.max_edits, num_edits)).astype(np.int64)
        ranks = uniform[:, 1:].argsort(axis=1).argsort(axis=1)
        active = (ranks < how_many[:, None]) & chosen[:, None]
        for edit in self.edits:
            params[edit.name], drawn = self.draw_edit(edit, indices, keys, hashes, epoch, pool)
            if drawn is not None:
                partners[edit.name] = drawn
        return active, params, partners
