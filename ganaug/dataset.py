"""The wrapper around a face dataset: knows which of its samples have latents, and draws their recipes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from ganaug import rng
from ganaug.batches import FileHasher, IndexedItems, fetch
from ganaug.cache import LatentCache
from ganaug.chip_framing import background_points, chip_template
from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation, DegradationConfig
from ganaug.edits.table import Directions
from ganaug.extras import Extra, Extras, GroupCount, check_extra
from ganaug.faces.geometry import FITS, Fit
from ganaug.faces.masks import Background, make_background
from ganaug.faces.normalization import Normalize, resolve_normalization
from ganaug.faces.paste import PASTES, Paste
from ganaug.faces.residual import check_residual
from ganaug.faces.sources import Item, label_name, label_values, list_items, list_labels
from ganaug.faces.transforms import warn_of_random_steps
from ganaug.gate import Gate, choose_gates, watched_by
from ganaug.generators import load_generator
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import CacheError, Edit, Generator, UserInputError
from ganaug.latent_reader import LatentReader
from ganaug.min_quality import MinQuality, resolve_min_quality
from ganaug.partners import PartnerPool
from ganaug.policy import AugmentationPolicy
from ganaug.preservation import Preservation, choose_edits, fitted_labels, readable_attributes
from ganaug.provenance import BatchRecipe, Source
from ganaug.ratios import Ratio, quality_weights, require_groups
from ganaug.relabel import Relabel, check_relabel
from ganaug.traits import Groups, Traits

if TYPE_CHECKING:  # the layers above; imported late so that the wrapper stays below them
    from ganaug.loader import AugmentedLoader, AugmentingCollate

Classical = Literal["default"] | nn.Module | None


class GANAugmentedDataset(Dataset[Any]):
    """Any map-style face dataset, with semantic variants of its own faces in every batch.

    Indexing gives the base dataset's items unchanged, so a plain ``DataLoader(train)`` sees the real images. Variants
    are made batch by batch by :meth:`loader` (any number of workers) or :meth:`collate` (``num_workers=0``).

    Args:
        dataset: Map-style dataset with tuple or dict items holding one RGB image each (PIL, uint8, float in
            [0, 1], or normalised: see ``normalize``). Its transform must not be random; a warning says so if it is.
            ``Subset`` and ``ConcatDataset`` are looked through.
        cache: Latent cache made by ``ganaug precompute``, or its path.
        ratio: Expected share of generated samples in [0, 1], or a function of the epoch that returns it, or a mapping
            that gives each group its own (see ``groups``).
        edits: Names of edits (see ``ganaug.EDITS``) or :class:`ganaug.interfaces.Edit` objects.
        classical: ``"default"``, None, a :class:`ClassicalAugmentation`, or any module that maps images to images
            (applied sample by sample, seeded by the recipe).
        preserve: What must not change: attributes such as ``"identity"``, and ``"label"``. Edits given by name that
            touch a preserved attribute are refused, unless a gate watches it or the generator's edit table has a
            direction for it, from which moves are then freed; edits left to the default are left out instead. For the
            label, partner faces come from the same label and moves are freed of the directions that tell the labels
            apart, see :attr:`preservation`.
        seed: Decides every draw, together with epoch and sample key.
        key: Index -> key of the cache's record. Default: the file's path relative to the dataset's root, else the
            index.
        generator: Generator to use instead of the one named in the cache; its fingerprint must match.
        policy: Replaces ``ratio``, ``edits``, ``preserve`` and ``seed``; its edits may be names too.
        normalize: How the items are normalised; batches come back the same way. ``"auto"`` finds ``Normalize`` in the
            dataset's ``transform``; ``(mean, std)`` says it where it cannot be seen (in a function of yours); None for
            items in [0, 1].
        degradation: ``"match"`` gives real and generated samples the same loss of detail, that of the generator, and
            the same JPEG compression, so that neither marks the variants; also where ``ratio`` is 0. A
            :class:`DegradationConfig` says how much of each. None for neither.
        paste: How variants come back. ``"paste"``: in the framing of your own items; what the edit changed is blended
            in, and all other pixels keep their very bits. ``"aligned"``: in the framing of the generator, for items
            that are cut like its chips or networks that do not mind. ``"whole"``: all that the generator drew, laid
            over the item with a hard edge. The first draws twice as many faces as the others.
        background: What becomes of the background of generated samples, of real ones nothing: ``"keep"``, ``"blur"``,
            ``"remove"`` (grey), a colour ``(3,)`` or picture ``(3, h, w)`` to put there, or a :class:`Background` with
            a parsing network of yours.
        fit: How the dataset makes items of photos: ``"square"``, their centred squares, as Resize and CenterCrop do;
            ``"stretch"``, all of them, as ``Resize((h, w))`` does; ``"auto"``, the second where the aspect ratios are
            equal, else the first.
        groups: Group of every sample, for ratios by group and ``extra="balance"``: a value per sample, or the name of
            an attribute of the dataset (``"race"`` of a :class:`FaceDataset`); None for its labels.
        extra: Extra samples behind those of the dataset, each a variant for sure of one of its photos: so many for
            every photo that has latents, or ``"balance"``, which fills every group up to the size of the largest. They
            have the label of their photo; where no variant can be made, the photo is served. ``len`` counts them.
        max_extra: Most variants of one photo that ``"balance"`` makes.
        gate: Who looks at every variant before it is served: ``"auto"``, the bundled embedder if ``preserve`` has
            ``"identity"``, ``"gender"`` or ``"race"``, or a label of these names; gates of yours, see
            :mod:`ganaug.gate`; None for nobody. A variant that fails is made again with half of the move, then with a
            quarter, and then the real item is served (``counts["rejected"]``).
        relabel: Labels that follow the variants, so that ``preserve=["label"]`` need not keep edits from changing what
            the label says: ``"soft"``, class probabilities ``(B, C)`` (:class:`ganaug.relabel.SoftLabels`), or a
            function ``(labels (B,), BatchRecipe) -> labels``, called after augmentation. None: labels stay.
        label_key: Key or position of the labels in a batch, where relabel does not find them by itself.
        directions: More edits whose names may be used: a file of ``ganaug directions``, or Edit objects.
        residual: With a number, every ``paste`` serves the photo plus what the edit changed, in its own framing. The
            number is the share of the photo's own details that stays where the edit puts others, from 0, what
            ``"paste"`` does by default, to 1: ``photo + mask * (G(edit(w)) - G(w))``, which keeps jewellery, glasses,
            single hairs and backgrounds that the generator cannot draw. Shapes that move (pose, another mouth) then
            leave the outlines of the old ones behind; see :mod:`ganaug.faces.residual`. Draws twice as many faces, as
            ``"paste"`` does. None: ``"aligned"`` and ``"whole"`` serve the generator's own picture.
        min_quality: Least PSNR, in dB, of the inversions that are used, or figure of the records -> the worst that
            passes: ``{"psnr": 20.0, "identity": 0.8}``; of ``mse`` and ``perceptual`` less is better. Samples that do
            not meet it are served as they are, nobody's partner, and counted (``counts["low_quality"]``) where a
            variant was drawn: the share of generated samples falls below ``ratio`` by theirs, and the draws of the
            others stay, but for partners that do not meet it. A policy with ``mode="exact"`` takes others of the batch
            instead. None uses every record.

    Raises:
        UserInputError: For arguments out of range, and for edits that touch what ``preserve`` protects.
        CacheError: For a cache that is missing, damaged, or of another generator.

    Example:
        ::

            base = torchvision.datasets.ImageFolder("faces/")
            train = ganaug.GANAugmentedDataset(base, cache="faces.lmdb", ratio=0.5, preserve=["identity"])
            for images, labels in train.loader(batch_size=64, shuffle=True, num_workers=4, device="cuda"):
                ...
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        cache: str | Path | LatentCache,
        ratio: Ratio = 0.5,
        edits: Sequence[str | Edit] | None = None,
        classical: Classical = "default",
        preserve: Sequence[str] = (),
        seed: int = 0,
        key: Callable[[int], str] | None = None,
        generator: Generator | None = None,
        policy: AugmentationPolicy | None = None,
        *,
        normalize: Normalize = "auto",
        degradation: Literal["match"] | DegradationConfig | None = None,
        paste: Paste = "paste",
        background: str | torch.Tensor | Background = "keep",
        fit: Fit = "auto",
        gate: Literal["auto"] | Gate | Sequence[Gate] | None = "auto",
        groups: Sequence[Any] | str | None = None,
        extra: Extra = 0,
        max_extra: int = 8,
        relabel: Relabel = None,
        label_key: str | int | None = None,
        directions: Directions | None = None,
        min_quality: MinQuality = None,
        residual: float | None = None,
    ) -> None:
        self.dataset = dataset
        self.cache = cache if isinstance(cache, LatentCache) else LatentCache(cache)
        self.items: list[Item] = list_items(dataset, key)
        self.header = self.cache.header
        self.reader = LatentReader(self.cache, [item.key for item in self.items])
        self.generator = generator if generator is not None else load_generator(self.header.generator)
        self.cache.check_generator(self.generator.fingerprint, self.generator.latent_spec)
        described = self.header.delta
        self.delta_layout = None if described is None else DeltaLayout.of(described, self.generator)
        given = policy if policy is not None else AugmentationPolicy(ratio, (), preserve, seed=seed)
        named = label_name(dataset) if "label" in given.preserve and relabel is None else None
        self.gates = choose_gates(gate, [*given.preserve, *([] if named is None else [named])])
        check_relabel(relabel, label_key)
        self.relabel, self.label_key = relabel, label_key
        free = frozenset(readable_attributes(given.preserve, self.generator))
        subjects = free | (set() if named is None else {named})
        chosen, watched = given.edits, watched_by(self.gates) | free
        if policy is None or policy.has_names:
            wanted = edits if policy is None else chosen
            chosen = choose_edits(wanted, given.preserve, self.generator, watched, subjects, directions)
        unchanged = chosen is given.edits and watched == given.watched
        self.policy = given if unchanged else replace(given, edits=chosen, watched=watched)
        self.classical: nn.Module | None = ClassicalAugmentation() if classical == "default" else classical
        if self.classical is not None and not isinstance(self.classical, nn.Module):
            raise UserInputError(f"classical must be 'default', None or a torch module, got {classical!r}")
        if paste not in PASTES:
            raise UserInputError(f"unknown paste {paste!r}: expected one of {', '.join(PASTES)}")
        if fit not in FITS:
            raise UserInputError(f"unknown fit {fit!r}: expected one of {', '.join(FITS)}")
        self.paste, self.fit, self.residual = paste, fit, check_residual(residual)
        self.background = make_background(background)
        self.chip_template = chip_template(self.header)
        self.chip_points = background_points(self.background, self.generator, self.header.generator, self.chip_template)
        self.normalization = resolve_normalization(normalize, dataset)
        self.degradation = None if degradation is None else Degradation(degradation, self.generator.img_resolution)
        check_extra(extra, max_extra)
        may_generate = self.policy.may_generate or extra != 0
        if may_generate:
            warn_of_random_steps(dataset)
        self.epoch = 0
        self.counts: Counter[str] = Counter()
        self._hasher = FileHasher()
        if may_generate and "label" in self.policy.preserve and self.labels is None:
            raise UserInputError(
                f"preserve has 'label', but {type(dataset).__name__} keeps no labels (.targets, .labels or .y); "
                "set such an attribute, or preserve named attributes instead"
            )
        if may_generate and self.policy.needs_labels and self.labels is None:
            raise UserInputError(
                f"edits {', '.join(self.policy.needs_labels)} need the label of every sample, but "
                f"{type(dataset).__name__} keeps none (.targets, .labels or .y); set such an attribute"
            )
        by_group = isinstance(self.policy.ratio, Mapping) or extra == "balance"
        self.groups = Groups.build(groups, dataset, len(self.items)) if by_group or groups is not None else None
        if self.groups is not None:
            require_groups(self.policy.ratio, self.groups.names)
        if self.policy.quality_weight is not None:
            self.reader.require_quality(self.policy.quality_weight[0])
        self.min_quality = resolve_min_quality(min_quality)
        for name in self.min_quality:
            self.reader.require_quality(name, "min_quality")
        self.extras = Extras.none(len(self.items))
        if extra != 0:
            usable = self.pool.usable
            if self.policy.quality_weight is not None:  # what is too poor for a variant is too poor for an extra one
                name, none, full = self.policy.quality_weight
                weights = quality_weights(self.reader.quality_of(np.arange(len(usable)), name), none, full)
                usable = usable & (weights > 0.0)
            self.extras = Extras.build(extra, max_extra, usable, self.key_hashes, self.groups, self.policy.seed)

    def __len__(self) -> int:
        return len(self.items) + len(self.extras)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index if self.base_indices is None else int(self.base_indices[index])]

    def __getitems__(self, indices: list[int]) -> IndexedItems:
        """Items of a batch, with their indices. DataLoader calls this instead of ``__getitem__``."""
        return fetch(self.dataset, indices, self.paths_to_check, self._hasher, self.base_indices)

    @cached_property
    def paths_to_check(self) -> list[str | None] | None:
        """Files whose content decides whether a latent is still good; None when nothing can be generated."""
        return [item.path for item in self.items] if self.policy.may_generate or len(self.extras) else None

    @cached_property
    def base_indices(self) -> NDArray[np.int64] | None:
        """``(len,)`` index in the base dataset behind every index; None where each is its own, without extras."""
        return self.extras.all_bases if len(self.extras) else None

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """``(N,)`` class number of every sample of the base dataset, or None if it keeps no labels."""
        return list_labels(self.dataset)

    @cached_property
    def key_hashes(self) -> NDArray[np.int64]:
        """``(N,)`` int64: :func:`ganaug.rng.hash_text` of every key."""
        return np.array([rng.hash_text(item.key) for item in self.items], np.int64)

    @cached_property
    def pool(self) -> PartnerPool:
        """Faces of this dataset that have latents, grouped by label if the label is to be preserved."""
        known = set(self.cache.keys())
        keys = [item.key for item in self.items]
        has_latent = np.array([key in known for key in keys], bool)
        if len(keys) and not has_latent.any():
            example = next(iter(sorted(known)), "nothing")
            raise CacheError(
                f"none of the {len(keys)} samples has latents in {self.cache.path}: the dataset's keys look like "
                f"{keys[0]!r}, the cache's like {example!r}; run `ganaug precompute` on the same root, or give key="
            )
        poor = self.reader.poor(self.min_quality, has_latent)
        return PartnerPool.build(keys, has_latent, self.labels if "label" in self.policy.preserve else None, poor)

    @cached_property
    def preservation(self) -> Preservation:
        """What ``preserve`` came to; fitted to the cached codes at the first use, by :meth:`loader` at the latest.

        Raises:
            UserInputError: For an edit that moves mostly along what is to be preserved; gives the numbers.
        """
        soft = self.relabel == "soft"
        if not self.policy.preserve and not soft:
            return Preservation()
        return Preservation.fit(
            self.policy,
            self.generator,
            self.cache,
            [item.key for item in self.items],
            self.pool,
            fitted_labels(label_values(self.dataset)),
            label_name=label_name(self.dataset),
            relabels=self.relabel is not None,
            soft=soft,
            watched=bool(watched_by(self.gates) & {"identity", "label"}),
        )

    @property
    def coverage(self) -> float:
        """Share of the samples that have latents."""
        return float((self.pool.position >= 0).mean()) if len(self.items) else 0.0

    def group_counts(self) -> dict[str, GroupCount]:
        """Samples of every group, before and after the extra ones; by the labels where no groups were given."""
        return self.extras.counts(self.groups or Groups.build(None, self.dataset, len(self.items)))

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that :meth:`collate` draws for; :meth:`loader` counts by itself."""
        if epoch < 0:
            raise UserInputError(f"epoch must be 0 or more, got {epoch}")
        self.epoch = int(epoch)

    def draw(self, indices: Sequence[int], epoch: int) -> BatchRecipe:
        """Recipes of some samples in an epoch, before the cache is read. The same whatever the batch.

        Args:
            indices: Indices of this dataset, those of extra variants included.
            epoch: Epoch number.
        """
        at, variant = self.extras.resolve(indices)
        keys, hashes = [self.items[i].key for i in at], self.key_hashes[at]
        if len(self.extras):
            hashes = rng.numbered(hashes, variant)
        pool = self.pool if self.policy.ratio_at(epoch) > 0.0 or len(self.extras) else None
        classical = self.classical if isinstance(self.classical, ClassicalAugmentation) else None
        fills = self.paste == "aligned"  # then each variant fills its item
        pixels = None if self.degradation is None or fills else self.reader.variant_pixels_of(at)
        traits = self._traits(at, variant)
        return self.policy.draw(at, keys, hashes, epoch, pool, classical, self.degradation, pixels, traits)

    def _traits(self, at: NDArray[np.int64], variant: NDArray[np.int64]) -> Traits:
        """What the policy asks to know of samples of the base dataset."""
        policy, groups, labels = self.policy, self.groups, self.labels if self.policy.needs_labels else None
        return Traits(
            group=None if groups is None else groups.of[at],
            group_names=() if groups is None else groups.names,
            quality=None if policy.quality_weight is None else self.reader.quality_of(at, policy.quality_weight[0]),
            label=None if labels is None else labels[at],
            variant=variant if len(self.extras) else None,
        )

    def latents_for(self, recipe: BatchRecipe, hashes: NDArray[np.uint8] | None = None) -> dict[str, torch.Tensor]:
        """Latents that a batch needs, see :meth:`ganaug.latent_reader.LatentReader.latents_for`."""
        return self.reader.latents_for(recipe, hashes)

    def count(self, recipe: BatchRecipe) -> None:
        """Adds a batch that was served to ``counts``."""
        for source, number in enumerate(np.bincount(recipe.source).tolist()):
            if number:
                self.counts[Source(source).name.lower()] += number

    def loader(
        self,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> "AugmentedLoader":
        """A loader whose batches are augmented on ``device``.

        Args:
            batch_size: Samples per batch.
            shuffle: New order each epoch, decided by (seed, epoch).
            num_workers: Processes that read images; they never touch ``device``.
            device: Where variants are made and batches arrive.
            **options: Further arguments of ``torch.utils.data.DataLoader``, and ``return_info=True`` for provenance in
                every batch.
        """
        from ganaug.loader import AugmentedLoader

        return AugmentedLoader(
            self, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, device=device, **options
        )

    def collate(self, device: str | torch.device = "cpu", **options: Any) -> "AugmentingCollate":
        """A ``collate_fn`` for ``DataLoader(train, num_workers=0)``; it uses the epoch given to :meth:`set_epoch`.

        Args:
            device: Where variants are made and batches arrive.
            **options: ``base_collate`` and ``return_info``, see :class:`ganaug.loader.AugmentingCollate`.
        """
        from ganaug.loader import AugmentingCollate

        return AugmentingCollate(self, device, **options)

    def __repr__(self) -> str:
        names = [edit.name for edit in self.policy.edits]
        cache, ratio = str(self.cache.path), self.policy.ratio
        return f"GANAugmentedDataset({self.dataset!r}, cache={cache!r}, ratio={ratio}, edits={names})"
