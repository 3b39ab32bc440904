"""The wrapper around a face dataset: knows which of its samples have latents, and draws their recipes."""

from collections import Counter
from collections.abc import Callable, Sequence
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
from ganaug.checkpoints import open_model
from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation, DegradationConfig
from ganaug.faces.geometry import FITS, Fit
from ganaug.faces.masks import Background, make_background
from ganaug.faces.normalization import Normalize, resolve_normalization
from ganaug.faces.paste import PASTES, Paste
from ganaug.faces.sources import Item, list_items, list_labels
from ganaug.faces.templates import TEMPLATES, template_of
from ganaug.faces.transforms import warn_of_random_steps
from ganaug.generators import load_generator
from ganaug.interfaces import CacheError, CheckpointError, Edit, Generator, UserInputError
from ganaug.latent_reader import LatentReader
from ganaug.policy import AugmentationPolicy, PartnerPool, Ratio
from ganaug.preservation import choose_edits
from ganaug.provenance import BatchRecipe, Source

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
        ratio: Expected share of generated samples in [0, 1], or a function of the epoch that returns it.
        edits: Names of edits (see ``ganaug.EDITS``) or :class:`ganaug.interfaces.Edit` objects.
        classical: ``"default"``, None, a :class:`ClassicalAugmentation`, or any module that maps images to images
            (applied sample by sample, seeded by the recipe).
        preserve: What must not change: attributes such as ``"identity"``, and ``"label"`` (partner faces are then drawn
            from the same label only). Edits given by name that touch a preserved attribute are refused; edits left to
            the default are left out instead.
        seed: Decides every draw, together with epoch and sample key.
        key: Index -> key of the cache's record. Default: the file's path relative to the dataset's root, else the
            index.
        generator: Generator to use instead of the one named in the cache; its fingerprint must match.
        policy: Replaces ``ratio``, ``edits``, ``preserve`` and ``seed``.
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
    ) -> None:
        self.dataset = dataset
        self.cache = cache if isinstance(cache, LatentCache) else LatentCache(cache)
        self.items: list[Item] = list_items(dataset, key)
        self.header = self.cache.header
        self.reader = LatentReader(self.cache, [item.key for item in self.items])
        self.generator = generator if generator is not None else load_generator(self.header.generator)
        self.cache.check_generator(self.generator.fingerprint, self.generator.latent_spec)
        if policy is None:
            chosen = choose_edits(edits, preserve, self.generator)
            policy = AugmentationPolicy(ratio, chosen, preserve, seed=seed)
        self.policy = policy
        self.classical: nn.Module | None = ClassicalAugmentation() if classical == "default" else classical
        if self.classical is not None and not isinstance(self.classical, nn.Module):
            raise UserInputError(f"classical must be 'default', None or a torch module, got {classical!r}")
        if paste not in PASTES:
            raise UserInputError(f"unknown paste {paste!r}: expected one of {', '.join(PASTES)}")
        if fit not in FITS:
            raise UserInputError(f"unknown fit {fit!r}: expected one of {', '.join(FITS)}")
        self.paste, self.fit = paste, fit
        self.background = make_background(background)
        self.chip_points = self._find_chip_points()
        self.normalization = resolve_normalization(normalize, dataset)
        self.degradation = None if degradation is None else Degradation(degradation, self.generator.img_resolution)
        if self.policy.may_generate:
            warn_of_random_steps(dataset)
        self.epoch = 0
        self.counts: Counter[str] = Counter()
        self._hasher = FileHasher()
        if self.policy.may_generate and "label" in self.policy.preserve and list_labels(dataset) is None:
            raise UserInputError(
                f"preserve has 'label', but {type(dataset).__name__} keeps no labels (.targets, .labels or .y); "
                "set such an attribute, or preserve named attributes instead"
            )

    def _find_chip_points(self) -> torch.Tensor | None:
        """``(5, 2)`` points of the face in [0, 1] of the chip, where the background cannot be found without them."""
        if self.background is None or self.background.parser is not None:
            return None
        if "background" in self.generator.latent_spec.parts:
            return None
        template = self.header.alignment.get("template")
        if template is None:
            try:
                template = template_of(open_model(self.header.generator).description)
            except CheckpointError:  # the generator was given as an object, and its file is gone
                template = None
        if template is None:
            raise UserInputError(
                f"background: generator {self.header.generator} does not say where faces lie in its chips, and has no "
                "parts; give Background(fill, parser=...), or make the cache with --align points --template NAME"
            )
        return torch.from_numpy(TEMPLATES[template]).float()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: list[int]) -> IndexedItems:
        """Items of a batch, with their indices. DataLoader calls this instead of ``__getitem__``."""
        return fetch(self.dataset, indices, self.paths_to_check, self._hasher)

    @cached_property
    def paths_to_check(self) -> list[str | None] | None:
        """Files whose content decides whether a latent is still good; None when nothing can be generated."""
        return [item.path for item in self.items] if self.policy.may_generate else None

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
        groups = list_labels(self.dataset) if "label" in self.policy.preserve else None
        return PartnerPool.build(keys, has_latent, groups)

    @property
    def coverage(self) -> float:
        """Share of the samples that have latents."""
        return float((self.pool.position >= 0).mean()) if len(self) else 0.0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that :meth:`collate` draws for; :meth:`loader` counts by itself."""
        if epoch < 0:
            raise UserInputError(f"epoch must be 0 or more, got {epoch}")
        self.epoch = int(epoch)

    def draw(self, indices: Sequence[int], epoch: int) -> BatchRecipe:
        """Recipes of some samples in an epoch, before the cache is read. The same whatever the batch.

        Args:
            indices: Dataset indices.
            epoch: Epoch number.
        """
        at = np.asarray(indices, np.int64)
        keys = [self.items[i].key for i in at]
        pool = self.pool if self.policy.ratio_at(epoch) > 0.0 else None
        classical = self.classical if isinstance(self.classical, ClassicalAugmentation) else None
        fills = self.paste == "aligned"  # then each variant fills its item
        pixels = None if self.degradation is None or fills else self.reader.variant_pixels_of(at)
        return self.policy.draw(at, keys, self.key_hashes[at], epoch, pool, classical, self.degradation, pixels)

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
