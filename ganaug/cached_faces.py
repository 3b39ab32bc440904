"""The faces of a cache as datasets: their photos, cut square, or what the generator makes of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ganaug.cache import LatentCache, Record
from ganaug.faces.align import Alignment, align, to_unit_range
from ganaug.faces.chips import face_key
from ganaug.faces.face_dataset import natural
from ganaug.faces.photos import Photo
from ganaug.faces.sources import Item
from ganaug.generators import load_generator
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import CacheError, Generator, Noise, UserInputError
from ganaug.latents import split_anchor

MIN_PHOTO_SIZE = 128  # pixels


class PhotoDataset(Dataset[tuple[Tensor, int]]):
    """Photos that have records in a cache: their largest centred squares, ``(3, S, S)`` uint8, and a class number.

    A photo of several faces is there once for each that has a record.

    Args:
        photos: Of the source that was precomputed, see :func:`ganaug.faces.photos.photos_from`.
        cache: The cache, or its path.
        size: S; default: the generator's resolution, or 128 where that is less, so that what is kept of a photo can be
            seen.
        label: Attribute of the photos that is the class; default: ``label``, else the folder that a photo lies in.

    Attributes:
        targets: Class number of every item.
        classes: Name of each class.

    Raises:
        CacheError: If no photo has a record.
        UserInputError: If the photos have no such attribute.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        cache: str | Path | LatentCache,
        size: int | None = None,
        label: str | None = None,
    ) -> None:
        opened = cache if isinstance(cache, LatentCache) else LatentCache(cache)
        chip_size = Alignment.from_dict(dict(opened.header.alignment)).size
        self.crop = Alignment(size=max(chip_size, MIN_PHOTO_SIZE) if size is None else size)
        known = set(opened.keys())
        self.faces = [(key, photo) for photo in photos for key in _faces_of(photo.key, known)]
        if not known:
            raise CacheError(f"there is no record in {opened.path}; fill it with `ganaug precompute`")
        if not self.faces:
            example = f", for example not {photos[0].path or photos[0].key!r}" if photos else ""
            raise CacheError(
                f"none of {len(photos)} photos has a record in {opened.path}{example}; give those that were precomputed"
            )
        self.classes, self.targets = _classes([photo for _, photo in self.faces], label)

    def face_items(self) -> list[Item]:
        """Key and file of every item, for :func:`ganaug.faces.sources.list_items`."""
        return [Item(key, photo.path) for key, photo in self.faces]

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        square, _ = align(self.faces[index][1].read()[0], self.crop)
        return torch.from_numpy(square.copy()).permute(2, 0, 1), self.targets[index]


def _faces_of(key: str, known: set[str]) -> list[str]:
    """Keys of all faces of a photo that are known: the first, and further ones as long as they follow each other."""
    found = [key] if key in known else []
    while (further := face_key(key, len(found))) in known and found:
        found.append(further)
    return found


def _classes(photos: Sequence[Photo], label: str | None) -> tuple[list[str], list[int]]:
    """Names of the classes, and the number of each photo's."""
    if label is None and all("label" in photo.attributes for photo in photos):
        label = "label"
    if label is None:
        values = [photo.key.rpartition("/")[0] for photo in photos]
    else:
        without = next((photo for photo in photos if label not in photo.attributes), None)
        if without is not None:
            has = ", ".join(without.attributes) or "none"
            raise UserInputError(f"{without.key} has no attribute {label!r} to take as its label; it has {has}")
        values = [photo.attributes[label] for photo in photos]
    classes = sorted(set(values), key=natural)
    number = {value: place for place, value in enumerate(classes)}
    return classes, [number[value] for value in values]


@torch.no_grad()
def draw_records(
    records: Sequence[Record], generator: Generator, delta: Mapping[str, Any] | None = None, noise: Noise = "const"
) -> Tensor:
    """What a generator draws of records.

    Args:
        records: B of them, of one cache.
        generator: That of the cache.
        delta: ``delta`` of the cache's header.
        noise: ``noise`` of the cache's header.

    Returns:
        ``(B, 3, R, R)``, nominally in [-1, 1], on the generator's device.

    Raises:
        UserInputError: If the generator cannot draw with deltas.
    """
    device = generator.w_avg.device
    code = split_anchor(torch.from_numpy(np.stack([record.latents for record in records])).float())[0].to(device)
    numbers = [record.delta for record in records if record.delta is not None]
    if delta is None:
        if numbers:
            raise ValueError("the records have deltas: give the layout that their header describes")
        return generator.synthesis(code, noise)
    change = DeltaLayout.of(delta, generator).bind(torch.from_numpy(np.stack(numbers)).to(device))
    draw: Callable[..., Tensor] = generator.synthesis
    return draw(code, noise, delta=change)


class InversionDataset(Dataset[tuple[Tensor, int]]):
    """The faces of a cache, drawn by its generator: for a look without the photos.

    These items are the generator's own chips: wrap them with ``paste="aligned"``.
    """

    def __init__(self, cache: str | Path) -> None:
        self.cache = LatentCache(cache)
        self.files = self.cache.keys()
        self.generator = load_generator(self.cache.header.generator)
        self.header = self.cache.header

    def __len__(self) -> int:
        return len(self.files)

    @torch.no_grad()
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        record, header = self.cache.get(self.files[index]), self.header
        image = to_unit_range(draw_records([record], self.generator, header.delta, header.noise))[0]
        return (image * 255).round().to(torch.uint8), 0
