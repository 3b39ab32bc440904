"""Pictures of a study: photos and variants as the loader serves them, encoded so that nothing but pixels differs."""

import copy
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ganaug import rng
from ganaug.batches import find_images
from ganaug.dataset import GANAugmentedDataset
from ganaug.export import as_uint8
from ganaug.interfaces import UserInputError
from ganaug.provenance import Recipe
from ganaug.study.plan import Shown

NUM_BLOCKS = 8  # along each side of a distorted picture: no eye or mouth stays whole


class Pictures:
    """Photos and variants of a wrapped dataset, each served once.

    Args:
        train: Wrapped dataset that makes a variant of every sample (``ratio=1``), without classical augmentation.
        batch_size: Faces at a time.
        device: Where variants are made.

    Raises:
        UserInputError: If ``train`` would serve other than that.
    """

    def __init__(self, train: GANAugmentedDataset, batch_size: int = 32, device: str | torch.device = "cpu") -> None:
        if train.policy.ratio_at(0) != 1.0 or train.classical is not None or len(train.extras):
            raise UserInputError(
                "a study shows variants alone: wrap the photos with ratio=1.0, classical=None, extra=0"
            )
        self.train, self.batch_size, self.device = train, batch_size, device
        self.recipes: dict[int, Recipe] = {}
        self._variants: dict[int, bytes | None] = {}
        # Photos come through the same loader: where it degrades both alike, so are they.
        self._real = copy.copy(train)
        self._real.policy = replace(train.policy, ratio=0.0)
        self._photos: dict[int, bytes] = {}

    def with_variant(self, indices: Sequence[int], count: int) -> list[int]:
        """The first ``count`` of some samples that a variant is served of: no gate refuses it, the record is whole."""
        found: list[int] = []
        at = 0
        with tqdm(total=count, desc="variants", disable=None) as bar:
            while len(found) < count and at < len(indices):
                batch = indices[at : at + min(self.batch_size, count - len(found))]
                at += len(batch)
                self._draw(batch)
                made = [i for i in batch if self._variants[i] is not None]
                found += made
                bar.update(len(made))
        return found

    def png(self, shown: Shown, seed: int) -> bytes:
        """The file of a picture.

        Args:
            shown: Which.
            seed: Of the distortion.
        """
        if shown.kind == "variant":
            made = self._variants[shown.index]
            if made is None:
                raise ValueError(f"sample {shown.index} has no variant")
            return made
        photo = self._photos[shown.index]
        return photo if shown.kind == "photo" else distorted(photo, seed, shown.index)

    def read_photos(self, indices: Sequence[int]) -> None:
        """Reads the photos that :meth:`png` will be asked for."""
        wanted = [i for i in dict.fromkeys(indices) if i not in self._photos]
        for index, _, data in self._served(self._real, wanted):
            self._photos[index] = data

    def _draw(self, indices: Sequence[int]) -> None:
        wanted = [i for i in indices if i not in self._variants]
        for index, recipe, data in self._served(self.train, wanted):
            self._variants[index] = data if recipe.is_generated else None
            self.recipes[index] = recipe

    def _served(self, train: GANAugmentedDataset, indices: Sequence[int]) -> Iterator[tuple[int, Recipe, bytes]]:
        """Samples of epoch 0, as the loader serves them."""
        loader = train.loader(self.batch_size, sampler=list(indices), device=self.device, return_info=True)
        at = iter(indices)
        for batch in loader if indices else ():
            info: dict[str, Any] = batch if isinstance(batch, dict) else batch[-1]
            for recipe, image in zip(info["recipe"], as_uint8(train, batch[find_images(batch)]), strict=True):
                yield next(at), recipe, encode(image)


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """``(H, W, 3)`` -> PNG without any text or time in it, the same way whatever is shown.

    The mark of generated pictures (:mod:`ganaug.synthetic`) would be the answer; the study's database keeps it.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def distorted(png: bytes, seed: int, key: int) -> bytes:
    """A picture with its blocks in another order: of the same colours, but nobody can be seen."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = (max(side // NUM_BLOCKS, 1) for side in pixels.shape[:2])
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    whole = pixels[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    blocks = whole.swapaxes(1, 2).reshape(rows * columns, height, width, 3)
    blocks = blocks[rng.permutation(seed, key, len(blocks), "study blocks")]
    shuffled = pixels.copy()
    mixed = blocks.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    shuffled[: rows * height, : columns * width] = mixed.reshape(rows * height, columns * width, 3)
    return encode(shuffled)
