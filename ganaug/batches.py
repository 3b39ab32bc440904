"""Batches on their way: from items in a worker to a container of tensors, and the image inside that container."""

import copy
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ganaug.faces.orientation import UPRIGHT, exif_orientation, shown_as_stored
from ganaug.interfaces import UserInputError

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "input")
HASH_BYTES = 32


class IndexedItems(list[Any]):
    """Items of one batch together with their indices; otherwise a plain list, so any ``collate_fn`` takes it.

    Attributes:
        indices: ``B`` dataset indices.
        hashes: ``(B, 32)`` uint8 sha256 of each item's file now, zeros where unknown; None when nobody asked.
        turned: ``(B,)`` uint8, EXIF orientation of each item that lies as its file does, else 1; None if all are 1.
    """

    indices: list[int]
    hashes: NDArray[np.uint8] | None = None
    turned: NDArray[np.uint8] | None = None


class HostBatch(NamedTuple):
    """What a worker hands to the main process.

    Nothing beside the user's container is a tensor: each tensor crosses through shared memory of its own, which costs
    more than these few bytes do inside the message.

    Attributes:
        batch: What the base collate made.
        indices: ``B`` dataset indices.
        hashes: ``(B, 32)`` uint8, or None when sources are not checked.
        from_pil: Whether the images were PIL images (and come back as float in [0, 1]).
        turned: See :class:`IndexedItems`.
    """

    batch: Any
    indices: list[int]
    hashes: NDArray[np.uint8] | None
    from_pil: bool
    turned: NDArray[np.uint8] | None = None


class FileHasher:
    """sha256 of files, read again only when size or modification time have changed. One per process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], bytes]] = {}
        self._orientations: dict[str, int] = {}  # of files that EXIF turns and whose items have not been looked at
        self._turned: dict[str, int] = {}

    def __call__(self, path: str) -> bytes:
        """32 bytes; zeros if the file cannot be read (then the item itself decides what happens)."""
        try:
            stat = os.stat(path)
            signature = (stat.st_mtime_ns, stat.st_size)
            known = self._known.get(path)
            if known is None or known[0] != signature:
                with open(path, "rb") as file:
                    data = file.read()
                known = (signature, hashlib.sha256(data).digest())
                self._known[path] = known
                self._turned.pop(path, None)
                if (orientation := exif_orientation(data)) != UPRIGHT:
                    self._orientations[path] = orientation
            return known[1]
        except OSError:
            return bytes(HASH_BYTES)

    def turned(self, path: str, item: Any) -> int:
        """EXIF orientation of a file that was hashed, if ``item`` lies as the file does; else 1."""
        orientation = self._orientations.pop(path, UPRIGHT)
        if orientation != UPRIGHT:
            image = next((v for v in _values(item) if isinstance(v, Image.Image) or _is_image(v)), None)
            if image is not None and shown_as_stored(image, path, orientation):
                self._turned[path] = orientation
        return self._turned.get(path, UPRIGHT)


def fetch(
    dataset: Dataset[Any],
    indices: Sequence[int],
    paths: Sequence[str | None] | None,
    hasher: FileHasher,
    bases: NDArray[np.int64] | None = None,
) -> IndexedItems:
    """Items of a batch with their indices and, if ``paths`` are given, what their files hold now.

    Args:
        dataset: The base dataset.
        indices: ``B`` indices, which the items keep.
        paths: File of each item of ``dataset``.
        hasher: Reads the files.
        bases: Index in ``dataset`` behind each index, where they differ: see :class:`ganaug.extras.Extras`.
    """
    given = list(indices)
    indices = given if bases is None else bases[given].tolist()
    if callable(getattr(dataset, "__getitems__", None)):
        items = IndexedItems(dataset.__getitems__(list(indices)))  # type: ignore[attr-defined]
    else:
        items = IndexedItems([dataset[i] for i in indices])
    items.indices = given
    if paths is not None:
        hashes, turned = np.zeros((len(indices), HASH_BYTES), np.uint8), np.ones(len(indices), np.uint8)
        for row, index in enumerate(indices):
            path = paths[index]
            if path is not None:
                hashes[row] = np.frombuffer(hasher(path), np.uint8)
                turned[row] = hasher.turned(path, items[row])
        items.hashes, items.turned = hashes, turned if turned.max(initial=1) > 1 else None
    return items


def pil_to_tensor(image: Image.Image) -> Tensor:
    """PIL image -> ``(3, H, W)`` uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _holds_pil(items: Sequence[Any]) -> bool:
    """Whether there is a PIL image at the top level of any item. By type, of which there are few: this runs per batch.

    Raises:
        UserInputError: If an item is neither tuple, list nor dict.
    """
    wrong = next((kind for kind in set(map(type, items)) if not issubclass(kind, (tuple, list, dict))), None)
    if wrong is not None:
        raise UserInputError(
            f"items must be tuples or dicts with an image in them, got {wrong.__name__}; "
            "return (image,) or {'image': image}"
        )
    kinds: set[type] = set()
    for item in items:
        kinds.update(map(type, item.values() if isinstance(item, dict) else item))
    return any(issubclass(kind, Image.Image) for kind in kinds)


def _convert_item(item: Any) -> Any:
    """Replaces PIL images at the top level of a tuple, list or dict; the container type is kept."""
    if isinstance(item, dict):
        return _update(item, {k: pil_to_tensor(v) for k, v in item.items() if isinstance(v, Image.Image)})
    values = [pil_to_tensor(v) if isinstance(v, Image.Image) else v for v in item]
    if isinstance(item, tuple):
        return type(item)(*values) if hasattr(item, "_fields") else tuple(values)
    return values


class HostCollate:
    """Collates in the worker: PIL images to uint8 tensors, then the base collate. Never touches a device.

    Args:
        base_collate: What makes the container; torch's ``default_collate`` unless the user has another.
    """

    def __init__(self, base_collate: Callable[[Any], Any] = default_collate) -> None:
        self.base_collate = base_collate

    def __call__(self, items: Sequence[Any]) -> HostBatch:
        """``items`` as fetched by a DataLoader.

        Raises:
            UserInputError: If the items carry no indices, are no tuples or dicts, or hold images of different sizes.
        """
        if not isinstance(items, IndexedItems):
            raise UserInputError(
                "this batch was not fetched through GANAugmentedDataset, so its samples are not known; "
                "wrap the combined dataset instead: GANAugmentedDataset(ConcatDataset([...]), cache=...)"
            )
        from_pil = _holds_pil(items)
        converted = [_convert_item(item) for item in items] if from_pil else list(items)
        try:
            batch = self.base_collate(converted)
        except RuntimeError as error:
            sizes = sorted({tuple(v.shape) for item in converted for v in _values(item) if _is_image(v)})
            if len(sizes) > 1:
                raise UserInputError(
                    f"images of one batch have different sizes {sizes}; add a Resize transform to the base dataset"
                ) from error
            raise
        return HostBatch(batch, items.indices, items.hashes, from_pil, items.turned)


def _values(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3


def find_images(batch: Any) -> Any:
    """Key or position of the images in a collated container.

    The first ``(B, 3, H, W)`` tensor that is no mask (three masks per sample, as a ``tv_tensors.Mask``); in a dict, the
    usual names are looked at first.

    Raises:
        UserInputError: If there is none.
    """
    if isinstance(batch, dict):
        names = [k for k in IMAGE_KEYS if k in batch] + [k for k in batch if k not in IMAGE_KEYS]
        pairs = [(k, batch[k]) for k in names]
    elif isinstance(batch, (tuple, list)):
        pairs = list(enumerate(batch))
    else:
        pairs = []
    for where, value in pairs:
        if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == 3 and type(value).__name__ != "Mask":
            return where
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for _, v in pairs]
    raise UserInputError(
        f"no RGB images (B, 3, H, W) found at the top level of the batch; it holds {shapes or type(batch).__name__}"
    )


def _update(batch: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """A copy with other or more entries, of the same type: also an ``OrderedDict`` or a subclass, as torch does."""
    updated = copy.copy(batch)
    updated.update(values)
    return updated


def replace_at(batch: Any, where: Any, value: Any) -> Any:
    """A copy of the container with one entry replaced; its type is kept."""
    if isinstance(batch, dict):
        return _update(batch, {where: value})
    values = list(batch)
    values[where] = value
    if isinstance(batch, tuple):
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    return values


def move_to(batch: Any, device: torch.device) -> Any:
    """Moves every tensor in nested tuples, lists and dicts, without waiting; other values stay as they are."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return _update(batch, {k: move_to(v, device) for k, v in batch.items()})
    if isinstance(batch, tuple):
        moved = [move_to(v, device) for v in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else tuple(moved)
    if isinstance(batch, list):
        return [move_to(v, device) for v in batch]
    return batch


def add_info(batch: Any, info: dict[str, Any]) -> Any:
    """Puts extra information into the container: more keys of a dict, or one more element."""
    if isinstance(batch, dict):
        return _update(batch, info)
    values = [*batch, info]
    return tuple(values) if isinstance(batch, tuple) else values
