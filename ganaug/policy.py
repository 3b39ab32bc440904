"""Which sample receives what. The only place in the package that draws for a batch.

Every draw is keyed by (seed, epoch, sample key, purpose), see :mod:`ganaug.rng`, so that the recipe of a sample does
not depend on batch, worker, rank or resume. The one exception says so: ``mode="exact"``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug import rng
from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, UserInputError
from ganaug.partners import PartnerPool
from ganaug.provenance import BatchRecipe, Source
from ganaug.ratios import (
    Ratio,
    chances,
    choose_exactly,
    largest_ratio,
    may_exceed_zero,
    resolve_quality_weight,
    resolve_ratio,
)
from ganaug.schedules import Schedule
from ganaug.strengths import StrengthDistribution, as_distribution
from ganaug.traits import Traits

# Columns of an edit's numbers behind its own.
_PARTNER, _STRENGTH = NUM_EDIT_UNIFORMS, NUM_EDIT_UNIFORMS + 1


@dataclass
class AugmentationPolicy:
    """Decides, sample by sample, whether a variant is made and which edits it receives.

    Attributes:
        ratio: Expected share of generated samples, in [0, 1], or a function of the epoch that returns it; see
            :mod:`ganaug.schedules`. A mapping gives each group its own: ``{"Black": 0.8, "White": 0.3}``.
        edits: Edits to choose from; names are resolved by the dataset, for its generator.
        preserve: Attributes that must not change, such as ``"identity"``. An edit that touches one is refused.
            ``"label"`` restricts partner faces to those with the same label.
        max_edits: A variant receives between 1 and this many edits, uniformly.
        mode: ``"bernoulli"`` draws each sample by itself; ``"exact"`` makes ``round(ratio * B)`` of every batch, those
            with the smallest draws, so that there the choice depends on the batch. Where samples have ratios of their
            own, it makes as many as these add up to.
        seed: Seed of every draw.
        edit_ratios: Name of an edit -> how often it is chosen relative to the others, whose ratio is 1; 0 is never. A
            variant that receives one edit has the one with ratio 3 three times as often as one with ratio 1; further
            edits are chosen the same way among those left.
        strengths: Name of an edit -> its strength: :class:`~ganaug.strengths.Uniform`, ``Normal``, ``Constant``, or a
            range ``(low, high)``. In place of what the edit would draw; the sign is drawn as the edit does.
        strength_schedule: Function of the epoch whose value, 0 or more, multiplies the strength of every edit that has
            one: ``curriculum(10)`` goes from weak to strong in ten epochs.
        quality_weight: ``("ssim", 0.4, 0.6)``: photos whose inversion has an SSIM of 0.4 or less receive no variants,
            those of 0.6 or more as many as their ratio says, those between a share of them. For errors the first value
            is the larger one: ``("mse", 0.02, 0.005)``.
        watched: Attributes that a gate answers for: edits may touch them though they are to be preserved. A dataset
            puts those of its own gates here; who builds a policy of such :class:`~ganaug.interfaces.Edit` objects says
            it.
    """

    ratio: Ratio = 0.5
    edits: Sequence[Any] = ()  # str | Edit; Edit alone in the policy of a wrapped dataset
    preserve: Sequence[str] = ()
    max_edits: int = 2
    mode: Literal["bernoulli", "exact"] = "bernoulli"
    seed: int = 0
    _: KW_ONLY
    edit_ratios: Mapping[str, float] = field(default_factory=dict)
    strengths: Mapping[str, StrengthDistribution | tuple[float, float]] = field(default_factory=dict)
    strength_schedule: Schedule | None = None
    quality_weight: tuple[str, float, float] | None = None
    watched: frozenset[str] = frozenset()
    _edits: tuple[Edit, ...] = field(init=False, repr=False, default=())
    _names: tuple[str, ...] = field(init=False, repr=False, default=())
    _weights: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.ratio = resolve_ratio(self.ratio)
        if self.mode not in ("bernoulli", "exact"):
            raise UserInputError(f"mode must be 'bernoulli' or 'exact', got {self.mode!r}")
        if self.max_edits < 1:
            raise UserInputError(f"max_edits must be at least 1, got {self.max_edits}")
        if isinstance(self.preserve, str):
            raise UserInputError(f"preserve is a sequence of attribute names, got the string {self.preserve!r}")
        if isinstance(self.edits, str):
            raise UserInputError(f"edits is a sequence of names or Edit objects, got the string {self.edits!r}")
        self._edits = tuple(edit for edit in self.edits if not isinstance(edit, str))
        kept = set(self.preserve) - {"label"} - self.watched
        for edit in self._edits:
            clash = sorted(kept & edit.touches)
            if clash:
                raise UserInputError(
                    f"edit {edit.name!r} touches {', '.join(clash)}, which preserve={list(self.preserve)} forbids; "
                    "leave the edit out or preserve less"
                )
        self._names = tuple(edit.name for edit in self._edits)
        self.quality_weight = resolve_quality_weight(self.quality_weight)
        self.strengths = {name: as_distribution(name, given) for name, given in self.strengths.items()}
        if self.strength_schedule is not None and not callable(self.strength_schedule):
            raise UserInputError(f"strength_schedule is a function of the epoch, got {self.strength_schedule!r}")
        self._weights = self._resolve_edit_ratios()
        if self.has_names:
            return  # what the names stand for is not known yet
        for option in ("edit_ratios", "strengths"):
            unknown = sorted(set(getattr(self, option)) - set(self._names))
            if unknown:
                raise UserInputError(
                    f"{option} names edits that are not there: {', '.join(unknown)}; there are "
                    f"{', '.join(self._names) or 'none'}"
                )
        for edit in self._edits:
            if edit.name in self.strengths:
                self._redraw_strength(edit, edit.sample_params(torch.zeros(1, NUM_EDIT_UNIFORMS).double()), np.zeros(1))

    def _resolve_edit_ratios(self) -> NDArray[np.float64]:
        """``(E,)`` weights; empty where all edits are alike."""
        for name, weight in self.edit_ratios.items():
            number = isinstance(weight, Real) and not isinstance(weight, bool)
            if not number or not 0.0 <= float(weight) < math.inf:
                raise UserInputError(f"edit_ratios[{name!r}] must be a finite number of at least 0, got {weight!r}")
        weights = np.array([self.edit_ratios.get(name, 1.0) for name in self._names], np.float64)
        if len(weights) and not weights.any() and not self.has_names:
            raise UserInputError("edit_ratios are 0 for every edit; give one of them more, or set ratio=0")
        return weights if len(set(weights.tolist())) > 1 else np.empty(0)

    @property
    def has_names(self) -> bool:
        """Whether there are edits of which only the name is known, so that nothing can be drawn yet."""
        return len(self._edits) < len(self.edits)

    @property
    def needs_labels(self) -> list[str]:
        """Names of the edits that are told the label of their sample."""
        return [edit.name for edit in self._edits if getattr(edit, "needs_label", False)]

    def ratio_at(self, epoch: int) -> float:
        """The ratio in an epoch, checked; the largest where there is one for each group."""
        return largest_ratio(self.ratio, epoch)

    @property
    def may_generate(self) -> bool:
        """False when no epoch can have generated samples."""
        return may_exceed_zero(self.ratio)

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
        traits: Traits | None = None,
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
            traits: What else is known of the samples, as far as this policy asks for it.
        """
        seed, traits = self.seed, traits or Traits()
        source = np.full(len(keys), Source.REAL, np.uint8)
        chosen = np.zeros(len(keys), bool)
        if pool is not None and (traits.variant is not None or self.ratio_at(epoch) > 0.0):
            usable = pool.usable[indices]
            chosen = self._choose(hashes, epoch, usable, traits)
            source[chosen & usable] = Source.GENERATED
            source[chosen & ~usable] = Source.NO_LATENT
            source[chosen & pool.poor[indices]] = Source.LOW_QUALITY
        active, params, partners = self._draw_edits(indices, keys, hashes, epoch, chosen, pool, traits)
        drawn = {}
        if classical is not None:
            uniform = rng.uniforms(seed, epoch, hashes, "classical", classical.num_uniforms)
            drawn = classical.make_params(torch.from_numpy(uniform))
        degraded = {}
        if degradation is not None:
            numbers = rng.uniforms(seed, epoch, hashes, "degradation", degradation.num_uniforms)
            degraded = degradation.make_params(numbers, variant_pixels)
        names, variant = self._names, np.zeros(len(keys), np.int64) if traits.variant is None else traits.variant
        return BatchRecipe(
            list(keys), epoch, seed, source, active, names, params, partners, drawn, degraded, variant=variant
        )

    def draw_edit(
        self,
        edit: Edit,
        indices: NDArray[np.int64],
        keys: Sequence[str],
        hashes: NDArray[np.int64],
        epoch: int,
        pool: PartnerPool,
        label: NDArray[np.int64] | None = None,
    ) -> tuple[dict[str, torch.Tensor], list[str] | None]:
        """Parameters of one edit for every sample, and partner keys if it needs them.

        Args:
            edit: The edit.
            indices: ``(B,)`` dataset indices.
            keys: ``B`` sample keys.
            hashes: ``(B,)`` their :func:`ganaug.rng.hash_text`.
            epoch: Epoch number.
            pool: Partner faces.
            label: ``(B,)`` class numbers, for edits that need them.

        Raises:
            UserInputError: If a parameter is not what a recipe holds exactly, or labels are needed and not there.
        """
        numbers = rng.uniforms(self.seed, epoch, hashes, f"edit {edit.name}", _STRENGTH + 1)
        params = dict(edit.sample_params(torch.from_numpy(numbers[:, :NUM_EDIT_UNIFORMS])))
        if edit.name in self.strengths:
            self._redraw_strength(edit, params, numbers[:, _STRENGTH])
        if self.strength_schedule is not None and "strength" in params:
            params["strength"] = params["strength"] * self._strength_factor(epoch)
        if getattr(edit, "needs_label", False):
            if label is None:
                raise UserInputError(f"edit {edit.name!r} needs the label of every sample, and there are none")
            known = getattr(edit, "num_labels", None)
            if known is not None and label.max(initial=0) >= known:
                raise UserInputError(f"edit {edit.name!r} knows {known} labels, but a sample has number {label.max()}")
            params["label"] = torch.from_numpy(label.astype(np.float32))
        for name, values in params.items():
            if values.shape != (len(keys),) or values.dtype != torch.float32:
                raise UserInputError(
                    f"parameter {name!r} of edit {edit.name!r} must be float32 of shape ({len(keys)},), got "
                    f"{values.dtype} of shape {tuple(values.shape)}"
                )
        return params, pool.draw(indices, numbers[:, _PARTNER], keys) if edit.needs_partner else None

    def _redraw_strength(self, edit: Edit, params: dict[str, torch.Tensor], uniform: NDArray[np.float64]) -> None:
        """Puts a strength of ``strengths`` into ``params``; ``uniform`` is ``(B,)``."""
        own, distribution = params.get("strength"), as_distribution(edit.name, self.strengths[edit.name])
        if own is None:
            has = ", ".join(params) or "no parameters"
            raise UserInputError(f"strengths names edit {edit.name!r}, which draws no 'strength' but {has}")
        drawn = distribution.quantile(torch.from_numpy(uniform)).float()
        params["strength"] = drawn if distribution.signed else torch.where(own < 0.0, -drawn, drawn)

    def _strength_factor(self, epoch: int) -> float:
        value: Any = self.strength_schedule(epoch) if self.strength_schedule is not None else 1.0
        if not isinstance(value, Real) or isinstance(value, bool) or not 0.0 <= float(value) < math.inf:
            raise UserInputError(f"strength_schedule must return a finite number of at least 0, got {value!r}")
        return float(value)

    def _choose(
        self, hashes: NDArray[np.int64], epoch: int, usable: NDArray[np.bool_], traits: Traits
    ) -> NDArray[np.bool_]:
        """``(B,)`` bool: of which samples a variant is wanted."""
        uniform = rng.uniforms(self.seed, epoch, hashes, "generate", 1)[:, 0]
        chance = chances(self.ratio, epoch, traits, usable, self.quality_weight)
        certain = np.zeros(len(uniform), bool) if traits.variant is None else traits.variant > 0
        if self.mode == "bernoulli":
            return np.asarray((uniform < chance) | certain)
        base = ~certain  # what the others of a batch add up to, extra variants do not count for
        of_base = chance if isinstance(chance, float) else chance[base]
        certain[base] = choose_exactly(uniform[base], of_base, usable[base])
        return certain

    def _draw_edits(
        self,
        indices: NDArray[np.int64],
        keys: Sequence[str],
        hashes: NDArray[np.int64],
        epoch: int,
        chosen: NDArray[np.bool_],
        pool: PartnerPool | None,
        traits: Traits,
    ) -> tuple[NDArray[np.bool_], dict[str, dict[str, torch.Tensor]], dict[str, list[str]]]:
        """Which edits, with which parameters and partners."""
        if self.has_names:
            names = [edit for edit in self.edits if isinstance(edit, str)]
            raise UserInputError(f"edits {names} are names; GANAugmentedDataset(policy=...) makes edits of them")
        num_edits = len(self._edits)
        active = np.zeros((len(keys), num_edits), bool)
        params: dict[str, dict[str, torch.Tensor]] = {}
        partners: dict[str, list[str]] = {}
        if not num_edits or pool is None or not chosen.any():
            return active, params, partners
        # The first column decides how many, the others rank the edits: the lowest ranks are applied.
        uniform = rng.uniforms(self.seed, epoch, hashes, "edits", 1 + num_edits)
        order, usable = uniform[:, 1:], np.ones(num_edits, bool)
        if len(self._weights):
            # The k smallest of -log(u) / w: weighted choice without replacement, one number per edit, so that it stays
            # keyed (Efraimidis and Spirakis, Information Processing Letters 97(5), 2006, algorithm A).
            usable = self._weights > 0.0
            order = np.full_like(order, np.inf)
            order[:, usable] = -np.log1p(-uniform[:, 1:][:, usable]) / self._weights[usable]
        how_many = 1 + (uniform[:, 0] * min(self.max_edits, int(usable.sum()))).astype(np.int64)
        ranks = order.argsort(axis=1).argsort(axis=1)
        active = (ranks < how_many[:, None]) & chosen[:, None] & usable
        for edit, used in zip(self._edits, usable, strict=True):
            if used:
                params[edit.name], drawn = self.draw_edit(edit, indices, keys, hashes, epoch, pool, traits.label)
                if drawn is not None:
                    partners[edit.name] = drawn
        return active, params, partners
