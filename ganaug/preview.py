"""A look at what the augmentation does: photo, inversion, every edit, and what a training loop would see."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.utils.data import Dataset

from ganaug.batches import FileHasher, HostCollate, fetch, find_images
from ganaug.cache import LatentCache
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.align import Alignment, align, to_unit_range
from ganaug.faces.images import find_images as find_image_files
from ganaug.faces.images import read_image
from ganaug.generators import load_generator
from ganaug.interfaces import CacheError, Edit, UserInputError
from ganaug.provenance import BatchRecipe, Source
from ganaug.sheet import contact_sheet
from ganaug.stage import DeviceStage

# PNG text chunk that marks a picture with generated faces in it.
SYNTHETIC_TAG = "ganaug:synthetic"

MIN_PHOTO_SIZE = 128  # pixels


@torch.no_grad()
def preview_sheet(
    train: GANAugmentedDataset, out: Path, num_faces: int = 10, device: torch.device | None = None
) -> Image.Image:
    """Draws and saves a contact sheet of the first samples that have latents.

    Rows: photo, inversion as the generator draws it, one row per edit of the policy as it comes into the photo, and two
    rows as served to a training loop: real and generated at the policy's ratio, drawn edits, classical augmentation.

    Args:
        train: Wrapped dataset.
        out: PNG to write; the text chunk ``ganaug:synthetic`` says that it holds generated faces.
        num_faces: Columns.
        device: Where to make variants.

    Raises:
        CacheError: If no sample has latents.
        UserInputError: If ``out`` is no ``.png``.
    """
    if out.suffix.lower() != ".png":  # other formats have no place for the mark
        raise UserInputError(f"the contact sheet is written as PNG; got {str(out)!r}, expected a name ending in .png")
    members = np.flatnonzero(train.pool.position >= 0)[:num_faces]
    if not len(members):
        raise CacheError(f"no sample of the dataset has latents in {train.cache.path}")
    stage = DeviceStage(train, device or torch.device("cpu"))
    host = HostCollate()(fetch(train.dataset, members.tolist(), None, FileHasher()))
    photos: Tensor = host.batch[find_images(host.batch)]
    photos = photos.float() / 255.0 if photos.dtype == torch.uint8 else photos.float()
    if train.normalization is not None:
        photos = train.normalization.to_unit(photos).clamp(0.0, 1.0)
    keys = [train.items[i].key for i in members]
    rows = [("photo", photos), ("inversion", _inversions(stage, _only(train, members, keys)))]
    rows += [(edit.name, _variants(stage, photos, _only(train, members, keys, edit))) for edit in train.policy.edits]
    rows += [(f"as served,\nepoch {epoch}", _served(stage, photos, train, members, epoch)) for epoch in range(2)]
    sheet = contact_sheet([(caption, images.cpu()) for caption, images in rows])
    info = PngInfo()
    info.add_text(SYNTHETIC_TAG, f"faces made by ganaug with generator {train.header.fingerprint}")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, pnginfo=info)
    return sheet


def _only(
    train: GANAugmentedDataset, members: NDArray[np.int64], keys: list[str], edit: Edit | None = None
) -> BatchRecipe:
    """Recipes in which every sample receives just this edit, with the parameters of epoch 0."""
    source = np.full(len(keys), Source.GENERATED, np.uint8)
    active = np.ones((len(keys), 0 if edit is None else 1), bool)
    recipe = BatchRecipe(keys, 0, train.policy.seed, source, active, (), {}, {}, {})
    if edit is not None:
        params, partners = train.policy.draw_edit(edit, members, keys, train.key_hashes[members], 0, train.pool)
        recipe.edit_names, recipe.edit_params = (edit.name,), {edit.name: params}
        if partners is not None:
            recipe.partners = {edit.name: partners}
    return recipe


def _inversions(stage: DeviceStage, recipe: BatchRecipe) -> Tensor:
    """The generator's faces before any edit, ``(B, 3, R, R)`` in [0, 1]."""
    latents = stage.train.latents_for(recipe)
    return stage.augmenter.render(stage.augmenter.edit(recipe, np.flatnonzero(recipe.is_generated), latents))


def _variants(stage: DeviceStage, photos: Tensor, recipe: BatchRecipe) -> Tensor:
    """Photos ``(B, 3, H, W)`` in [0, 1] with the edit of a recipe, without classical augmentation."""
    latents = stage.train.latents_for(recipe)
    rows = np.flatnonzero(recipe.is_generated)
    items = photos[torch.from_numpy(rows)].to(stage.device)
    return stage.augmenter.generate(items, recipe, rows, latents)


def _served(
    stage: DeviceStage, photos: Tensor, train: GANAugmentedDataset, members: NDArray[np.int64], epoch: int
) -> Tensor:
    """The faces exactly as the loader serves them in an epoch, real and generated."""
    recipe = train.draw(members.tolist(), epoch)
    return stage.augmenter(photos.to(stage.device), recipe, train.latents_for(recipe))


class PhotoDataset(Dataset[tuple[Tensor, int]]):
    """Photos of a folder that have records in a cache: their largest centred squares, ``(3, S, S)`` uint8.

    S is the generator's resolution, or 128 where that is less, so that what is kept of the photo can be seen.
    """

    def __init__(self, root: str | Path, cache: str | Path) -> None:
        opened = LatentCache(cache)
        size = Alignment.from_dict(dict(opened.header.alignment)).size
        self.crop = Alignment(size=max(size, MIN_PHOTO_SIZE))
        known = set(opened.keys())
        self.root = str(root)
        self.samples = [(str(Path(root) / name), 0) for name in find_image_files(root) if name in known]
        if not self.samples:
            raise CacheError(f"no image under {root} has a record in {cache}; give the folder that was precomputed")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        square, _ = align(read_image(self.samples[index][0])[0], self.crop)
        return torch.from_numpy(square.copy()).permute(2, 0, 1), 0


class InversionDataset(Dataset[tuple[Tensor, int]]):
    """The faces of a cache, drawn by its generator: for a look without the photos.

    These items are the generator's own chips: wrap them with ``paste="aligned"``.
    """

    def __init__(self, cache: str | Path) -> None:
        self.cache = LatentCache(cache)
        self.files = self.cache.keys()
        self.generator = load_generator(self.cache.header.generator)

    def __len__(self) -> int:
        return len(self.files)

    @torch.no_grad()
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        latents = torch.from_numpy(self.cache.get(self.files[index]).latents).float()
        code = latents[0] if latents.ndim == 3 else latents  # the first of two is the code, the other its anchor
        image = to_unit_range(self.generator.synthesis(code[None]))[0]
        return (image * 255).round().to(torch.uint8), 0
