"""A look at what the augmentation does: photo, inversion, every edit, and what a training loop would see."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ganaug.batches import FileHasher, HostCollate, fetch, find_images
from ganaug.dataset import GANAugmentedDataset
from ganaug.interfaces import CacheError, Edit
from ganaug.provenance import BatchRecipe, Source
from ganaug.sheet import contact_sheet
from ganaug.stage import DeviceStage
from ganaug.synthetic import check_png, save_synthetic


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
    check_png(out, "the contact sheet")
    members, photos = preview_faces(train, num_faces)
    stage = DeviceStage(train, device or torch.device("cpu"))
    keys = [train.items[i].key for i in members]
    rows = [("photo", photos), ("inversion", _inversions(stage, only(train, members, keys)))]
    rows += [(edit.name, _variants(stage, photos, only(train, members, keys, edit))) for edit in train.policy.edits]
    rows += [(f"as served,\nepoch {epoch}", _served(stage, photos, train, members, epoch)) for epoch in range(2)]
    sheet = contact_sheet([(caption, images.cpu()) for caption, images in rows])
    mark = {"generator": train.header.fingerprint, "edits": [edit.name for edit in train.policy.edits]}
    save_synthetic(sheet, out, mark)
    return sheet


def preview_faces(train: GANAugmentedDataset, num_faces: int) -> tuple[NDArray[np.int64], Tensor]:
    """Indices ``(N,)`` of the first samples that have latents, and their items ``(N, 3, H, W)`` in [0, 1].

    Raises:
        CacheError: If no sample has any.
    """
    members = np.flatnonzero(train.pool.usable)[:num_faces]
    if not len(members):
        raise CacheError(f"no sample of the dataset has latents in {train.cache.path}")
    host = HostCollate()(fetch(train.dataset, members.tolist(), None, FileHasher()))
    photos: Tensor = host.batch[find_images(host.batch)]
    photos = photos.float() / 255.0 if photos.dtype == torch.uint8 else photos.float()
    if train.normalization is not None:
        photos = train.normalization.to_unit(photos).clamp(0.0, 1.0)
    return members, photos


def only(
    train: GANAugmentedDataset, members: NDArray[np.int64], keys: list[str], edit: Edit | None = None
) -> BatchRecipe:
    """Recipes in which every sample receives just this edit, with the parameters of epoch 0."""
    source = np.full(len(keys), Source.GENERATED, np.uint8)
    active = np.ones((len(keys), 0 if edit is None else 1), bool)
    recipe = BatchRecipe(keys, 0, train.policy.seed, source, active, (), {}, {}, {})
    if edit is not None:
        label = None if train.labels is None else train.labels[members]
        params, partners = train.policy.draw_edit(edit, members, keys, train.key_hashes[members], 0, train.pool, label)
        recipe.edit_names, recipe.edit_params = (edit.name,), {edit.name: params}
        if partners is not None:
            recipe.partners = {edit.name: partners}
    return recipe


def _inversions(stage: DeviceStage, recipe: BatchRecipe) -> Tensor:
    """The generator's faces before any edit, ``(B, 3, R, R)`` in [0, 1]."""
    latents = stage.train.latents_for(recipe)
    codes = stage.augmenter.edit(recipe, np.flatnonzero(recipe.is_generated), latents)
    return stage.augmenter.render(codes, latents.get("delta"))


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
