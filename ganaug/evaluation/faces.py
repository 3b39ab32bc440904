"""Photos of a cache, their inversions and their variants, all in the generator's framing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.batches import FileHasher
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.align import Alignment, align
from ganaug.faces.chips import ChipCutter
from ganaug.faces.framing import framed
from ganaug.faces.paste import aligned_to_item, chip_to_item
from ganaug.faces.photos import Photo
from ganaug.interfaces import Edit, ImageError
from ganaug.latents import split_anchor
from ganaug.preview import only
from ganaug.provenance import BatchRecipe, Source
from ganaug.stage import DeviceStage
from ganaug.strength_sheets import strengths_of

_REASONS = {Source.STALE: "the photo has changed since", Source.DAMAGED: "its record is damaged"}


@dataclass
class FaceBatch:
    """K photos that can be measured.

    Attributes:
        members: ``(K,)`` indices of the dataset.
        keys: Their keys.
        items: ``(K, 3, S, S)`` on the device, in [0, 1].
        latents: Of the photos, see :meth:`ganaug.latent_reader.LatentReader.latents_for`.
        places: ``(K, 2, 3)`` on the CPU, chip to item pixels.
        photos: ``(K, 3, R, R)`` in [-1, 1], the photos in the generator's framing.
        inversions: The same of what the generator makes of them.
    """

    members: NDArray[np.int64]
    keys: list[str]
    items: Tensor
    latents: dict[str, Tensor]
    places: Tensor
    photos: Tensor
    inversions: Tensor


@dataclass
class Variants:
    """What an edit makes of a batch.

    Attributes:
        served: ``(K, 3, S, S)`` in [0, 1], as a training loop would get them.
        pictures: ``(K, 3, R, R)`` in [-1, 1], the same in the generator's framing.
        before: ``(K, L, D)``, where the move began: the anchor, of records that have one.
        after: ``(K, L, D)``, where it ended.
        sign: ``(K,)`` 1 or -1: which way an edit went that goes both ways.
    """

    served: Tensor
    pictures: Tensor
    before: Tensor
    after: Tensor
    sign: Tensor


class FaceReader:
    """Reads photos of a wrapped :class:`ganaug.cached_faces.PhotoDataset` and makes variants of them.

    Args:
        train: The dataset, with ``ratio=1`` and without classical augmentation.
        device: Where to work.

    Attributes:
        left_out: Key -> why a photo could not be measured.
    """

    def __init__(self, train: GANAugmentedDataset, device: torch.device) -> None:
        self.train = train
        self.stage = DeviceStage(train, device)
        self.resolution = train.generator.img_resolution
        self.left_out: dict[str, str] = {}
        self._hasher = FileHasher()

    @property
    def keeps_photo(self) -> bool:
        """Whether variants are photos with a change, so that the photo is what they are to be compared with."""
        return self.stage.augmenter.residual is not None

    @torch.no_grad()
    def read(self, members: Sequence[int]) -> FaceBatch | None:
        """Those of some photos that can be read and have sound records; None if none of them."""
        images: list[Tensor] = []
        found: list[int] = []
        hashes: list[NDArray[np.uint8]] = []
        for index in members:
            item = self.train.items[index]
            try:
                images.append(self.train.dataset[index][0])
            except ImageError as error:
                self.left_out[item.key] = str(error)
                continue
            found.append(index)
            hashes.append(np.frombuffer(bytes(32) if item.path is None else self._hasher(item.path), np.uint8))
        if not found:
            return None
        at = np.array(found, np.int64)
        keys = [self.train.items[i].key for i in found]
        recipe = only(self.train, at, keys)
        latents = self.train.latents_for(recipe, np.stack(hashes))
        for key, source in zip(keys, recipe.source.tolist(), strict=True):
            if source != Source.GENERATED:
                self.left_out[key] = _REASONS.get(Source(source), "it has no record")
        sound = np.flatnonzero(recipe.is_generated)
        if not len(sound):
            return None
        items = torch.stack([images[i] for i in sound]).to(self.stage.device).float() / 255.0
        places = chip_to_item(latents["geometry"].cpu(), self.resolution, _size(items), self.train.fit)
        kept = [keys[i] for i in sound]
        codes = self.stage.augmenter.edit(only(self.train, at[sound], kept), np.arange(len(kept)), latents)
        inversions = self.stage.augmenter.render(codes, latents.get("delta")) * 2.0 - 1.0
        photos = framed(items, places, self.resolution)
        return FaceBatch(at[sound], kept, items, latents, places, photos, inversions)

    @torch.no_grad()
    def variants(self, batch: FaceBatch, edit: Edit, strength: float | None, signed: bool = False) -> Variants:
        """An edit at one strength.

        Args:
            batch: Photos.
            edit: The edit; all but its strength is drawn as for epoch 0.
            strength: Magnitude; the way of edits that go both ways is drawn. None for edits without strengths.
            signed: ``strength`` says the way, too.
        """
        recipe = only(self.train, batch.members, batch.keys, edit)
        latents = batch.latents | self.train.latents_for(recipe)
        at = np.arange(len(batch.keys))
        sign = torch.ones(len(at))
        if strength is not None:
            drawn = recipe.edit_params[edit.name]["strength"]
            if not signed:
                sign = torch.where(drawn < 0.0, -1.0, 1.0)
            recipe.edit_params[edit.name]["strength"] = sign * strength
        code, anchor = split_anchor(batch.latents["self"].to(self.stage.device).float())
        after = anchor + (self.stage.augmenter.edit(recipe, at, latents) - code)
        served = self.stage.augmenter.generate(batch.items, recipe, at, latents)
        return Variants(served, self.framed(served, self.places_served(batch)), anchor, after, sign)

    @torch.no_grad()
    def served(self, batch: FaceBatch, epoch: int) -> tuple[Tensor, Tensor, BatchRecipe]:
        """What a training loop gets of the photos in an epoch; where the gate refuses all variants, the photo itself.

        Returns:
            ``(K, 3, S, S)`` in [0, 1]; ``(K, 2, 3)`` on the CPU, chip to item pixels; what became of each.
        """
        recipe = self.train.draw(batch.members.tolist(), epoch)
        latents = self.train.latents_for(recipe)
        rows = np.flatnonzero(recipe.is_generated)
        at = torch.from_numpy(rows).to(self.stage.device)
        shown = self.stage.augmenter.serve(batch.items[at], recipe, rows, latents)
        is_variant = torch.from_numpy(recipe.is_generated)[:, None, None]
        return (
            batch.items.index_copy(0, at, shown),
            torch.where(is_variant, self.places_served(batch), batch.places),
            recipe,
        )

    def places_served(self, batch: FaceBatch) -> Tensor:
        """``(K, 2, 3)`` on the CPU: chip to pixels of what is served."""
        if self.train.paste != "aligned":
            return batch.places
        return aligned_to_item(self.resolution, _size(batch.items)).expand(len(batch.keys), -1, -1)

    def framed(self, items: Tensor, places: Tensor) -> Tensor:
        """``(K, 3, S, S)`` in [0, 1] -> ``(K, 3, R, R)`` in [-1, 1]."""
        return framed(items, places, self.resolution)


class RealFaces:
    """Chips of photos that are in no cache, framed as those of the cache are.

    Args:
        photos: The photos.
        train: Dataset of the cache.
        device: Where to work.
    """

    def __init__(self, photos: Sequence[Photo], train: GANAugmentedDataset, device: torch.device) -> None:
        self.photos, self.train, self.device = photos, train, device
        self._cutter = ChipCutter(Alignment.from_dict(dict(train.header.alignment)), None, device)

    @torch.no_grad()
    def read(self, members: Sequence[int], item_size: int) -> Tensor | None:
        """``(K, 3, R, R)`` in [-1, 1]: the first face of each photo that has one; None if none has.

        Args:
            members: Numbers of the photos.
            item_size: Side of the items that photos become first, in pixels, as those of the cache do.
        """
        items, geometry, crop = [], [], Alignment(size=item_size)
        for reading in self._cutter.finish([self._cutter.read(self.photos[i]) for i in members]):
            if not reading.chips:
                continue
            chip = reading.chips[0]
            square, _ = align(reading.photo.read()[0], crop)
            items.append(torch.from_numpy(square.copy()).permute(2, 0, 1))
            geometry.append(torch.from_numpy(np.append(chip.transform.reshape(-1), chip.photo_size)).float())
        if not items:
            return None
        stacked = torch.stack(items).to(self.device).float() / 255.0
        resolution = self.train.generator.img_resolution
        places = chip_to_item(torch.stack(geometry), resolution, _size(stacked), self.train.fit)
        return framed(stacked, places, resolution)


def magnitudes_of(edit: Edit, count: int) -> list[float | None]:
    """Strengths of an edit without their signs, from weak to strong; ``[None]`` for edits without strengths.

    Example:
        >>> from ganaug.edits import Direction
        >>> magnitudes_of(Direction("up", torch.ones(4), 1.0, [0], {"age"}, strength=(1.0, 2.0)), 3)
        [1.0, 1.5, 2.0]
    """
    signed = strengths_of(edit, 2 * count) if goes_both_ways(edit) else strengths_of(edit, count)
    return [*sorted({abs(strength) for strength in signed})] or [None]


def goes_both_ways(edit: Edit) -> bool:
    """Whether an edit's strengths have both signs."""
    strengths = strengths_of(edit, 2)
    return bool(strengths) and min(strengths) < 0.0 < max(strengths)


def _size(items: Tensor) -> tuple[int, int]:
    return (items.shape[2], items.shape[3])
