"""From the cache to a batch: the latents that its recipe asks for, and what becomes of samples without."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug.cache import DAMAGED, FOUND, LatentCache, ManyLatents
from ganaug.degrade import variant_pixels
from ganaug.interfaces import UserInputError
from ganaug.latents import split_anchor
from ganaug.min_quality import meets
from ganaug.provenance import BatchRecipe, Source

_AT_ONCE = 1024  # records; bounds the memory of reading what is known of many
_TYPICAL_RECORDS = 256  # enough for a median, few enough to be read at once


def read_anchors(cache: LatentCache, keys: Sequence[str]) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """What edits of photos start from: anchors where records have them, else codes.

    Args:
        cache: The cache.
        keys: ``N`` keys.

    Returns:
        ``(M, L, D)`` float32 of the records that could be read, and ``(N,)`` which they are.
    """
    many = cache.get_many(keys)
    found = many.status == FOUND
    return split_anchor(torch.from_numpy(many.latents[found]).float())[1], found


class LatentReader:
    """Reads what batches of one dataset need from its cache.

    Args:
        cache: The cache.
        keys: ``N`` keys, one for each index of the dataset.
    """

    def __init__(self, cache: LatentCache, keys: Sequence[str]) -> None:
        self.cache, self.keys, self.header = cache, keys, cache.header
        self._variant_pixels = np.full(len(keys), np.nan)  # of indices met so far
        self._quality = np.full((len(keys), len(self.header.quality_names)), np.inf)  # inf: not met so far
        self._warned: set[Source] = set()

    def variant_pixels_of(self, indices: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """How finely the generator draws each sample, see :func:`ganaug.degrade.variant_pixels`.

        The cache is read once for each sample, real or not: a real photo loses what its own variant would.

        Args:
            indices: ``(B,)`` dataset indices.

        Returns:
            ``(B,)``; the median of the others for samples without latents. None for chips cut from the centre, where
            each variant fills its item.
        """
        if self.header.alignment["mode"] == "center":
            return None
        new = np.unique(indices[np.isnan(self._variant_pixels[indices])])
        if len(new):
            found = self.cache.get_many([self.keys[i] for i in new])
            self._variant_pixels[new] = variant_pixels(found.transforms, found.photo_sizes, self._typical_pixels)
        return self._variant_pixels[indices]

    def require_quality(self, name: str, option: str = "quality_weight") -> None:
        """Raises UserInputError if the records have no figure of the name that an option asks for."""
        names = self.header.quality_names
        if name not in names:
            raise UserInputError(
                f"{option} asks for {name!r}, but the records of {self.cache.path} hold {', '.join(names)}; ask for "
                "one of these, or run `ganaug precompute` into a new folder"
            )

    def quality_of(self, indices: NDArray[np.int64], name: str) -> NDArray[np.float64]:
        """A figure of the inversions of some samples. The cache is read once for each sample.

        Args:
            indices: ``(B,)`` dataset indices.
            name: One of the header's ``quality_names``.

        Returns:
            ``(B,)``; NaN for samples without latents, and where the figure is not finite.
        """
        column = self._quality[:, self.header.quality_names.index(name)]
        new = np.unique(indices[np.isinf(column[indices])])
        for part in np.split(new, range(_AT_ONCE, len(new), _AT_ONCE)) if len(new) else ():
            found = self.cache.get_qualities([self.keys[i] for i in part])
            self._quality[part] = np.where(np.isfinite(found), found, np.nan)
        return column[indices]

    def poor(self, bounds: Mapping[str, float], has_latent: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which samples have records that do not meet bounds, see :func:`ganaug.min_quality.meets`.

        Args:
            bounds: Name of a figure -> the worst that passes; empty for none.
            has_latent: ``(N,)`` bool, which samples have records.

        Returns:
            ``(N,)`` bool. Damaged records are none of them: when their latents are asked for, that is what is told.

        Raises:
            UserInputError: If no record meets them.
        """
        poor = np.zeros(len(self.keys), bool)
        if not bounds:
            return poor
        members = np.flatnonzero(has_latent)
        figures = {name: self.quality_of(members, name) for name in bounds}
        poor[members] = ~meets(figures, bounds)
        unknown = members[np.isnan(self._quality[members]).all(axis=1)]
        poor[unknown[self.cache.get_many([self.keys[i] for i in unknown]).status != FOUND]] = False
        if len(members) and poor[members].all():
            known = {name: values[np.isfinite(values)] for name, values in figures.items()}
            medians = {name: float(np.median(values).round(4)) for name, values in known.items() if len(values)}
            raise UserInputError(
                f"min_quality={dict(bounds)} leaves none of {len(members)} samples: the medians of their records are "
                f"{medians}; ask for less, or invert with more --steps"
            )
        return poor

    @cached_property
    def _typical_pixels(self) -> float:
        """Median over the first records of the cache."""
        found = self.cache.get_many(sorted(self.cache.keys())[:_TYPICAL_RECORDS])
        pixels = variant_pixels(found.transforms, found.photo_sizes, unknown=np.nan)
        known = pixels[np.isfinite(pixels)]
        return float(np.median(known)) if len(known) else float(self.header.alignment["size"])

    def latents_for(self, recipe: BatchRecipe, hashes: NDArray[np.uint8] | None = None) -> dict[str, torch.Tensor]:
        """Latents that a batch needs, in one transaction; samples whose record cannot be used become real.

        Args:
            recipe: Changed in place where a record is missing, damaged or stale.
            hashes: ``(B, 32)`` sha256 of the samples' files now, if known.

        Returns:
            ``"self"`` and the name of each edit with a partner -> ``(K, L, D)`` for the K generated samples, and
            ``"geometry"`` -> ``(K, 8)`` float32, their matrices from photo to chip and sizes of photos; ``"delta"`` ->
            ``(K, P)`` of the stored dtype where records change the generator, those of the samples themselves, not of
            partners. Empty for none.
        """
        wanted = np.flatnonzero(recipe.is_generated)
        if not len(wanted):
            return {}
        groups = {"self": [recipe.keys[i] for i in wanted]}
        groups |= {name: [keys[i] for i in wanted] for name, keys in recipe.partners.items()}
        found = self.cache.get_many([key for keys in groups.values() for key in keys])
        blocks = {name: slice(n * len(wanted), (n + 1) * len(wanted)) for n, name in enumerate(groups)}
        self._refuse_unusable(recipe, wanted, found, blocks, hashes)
        usable = recipe.is_generated[wanted]
        latents = {name: torch.from_numpy(found.latents[block][usable]) for name, block in blocks.items()}
        own = {"geometry": found.geometry} | ({} if found.delta is None else {"delta": found.delta})
        return latents | {name: torch.from_numpy(values[: len(wanted)][usable]) for name, values in own.items()}

    def _refuse_unusable(
        self,
        recipe: BatchRecipe,
        wanted: NDArray[np.int64],
        found: ManyLatents,
        blocks: dict[str, slice],
        hashes: NDArray[np.uint8] | None,
    ) -> None:
        own = found.status[: len(wanted)]
        recipe.source[wanted[own != FOUND]] = Source.NO_LATENT
        recipe.source[wanted[own == DAMAGED]] = Source.DAMAGED
        if hashes is not None and hashes.size:
            now, then = hashes[wanted], found.source_hashes[: len(wanted)]
            # Zeros: the file could not be read, the sample has none, or the record was made from none.
            stale = (own == FOUND) & (now != then).any(axis=1) & now.any(axis=1) & then.any(axis=1)
            recipe.source[wanted[stale]] = Source.STALE
        for column, name in enumerate(recipe.edit_names):
            if name in blocks:  # an edit whose partner cannot be read is left out
                recipe.active[wanted[found.status[blocks[name]] != FOUND], column] = False
        self._warn_of_unusable(recipe)

    def _warn_of_unusable(self, recipe: BatchRecipe) -> None:
        """Says once for each reason why a record was not used."""
        reasons = {Source.STALE: "its image has changed since", Source.DAMAGED: "its record fails the checksum"}
        for source, why in reasons.items():
            found = np.flatnonzero(recipe.source == source)
            if len(found) and source not in self._warned:
                self._warned.add(source)
                warnings.warn(
                    f"no variant for {recipe.keys[int(found[0])]!r} in {self.cache.path}: {why}; the real image is "
                    "used. Run `ganaug precompute` again to repair. Further cases are only counted (.counts).",
                    stacklevel=2,
                )
