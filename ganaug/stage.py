"""From a batch of a worker to an augmented batch on the device: the one callable that loader and collate share."""

import copy
from typing import Any, cast

import torch
from torch.utils.data import get_worker_info

from ganaug.augment import BatchAugmenter
from ganaug.batches import FileHasher, HostBatch, HostCollate, add_info, find_images, move_to, replace_at
from ganaug.dataset import GANAugmentedDataset, fetch
from ganaug.interfaces import Generator, UserInputError, resolve_device
from ganaug.provenance import BatchRecipe, Recipe, Source


class DeviceStage:
    """The one callable that turns a batch from a worker into an augmented batch on the device.

    Used by :class:`AugmentedLoader` in the main process, and by :class:`AugmentingCollate` where there are no workers.

    Args:
        train: The wrapped dataset.
        device: Where variants are made and batches arrive.
        return_info: Add provenance to every batch.

    Raises:
        UserInputError: For a device that is not there, or CUDA inside a worker.
    """

    def __init__(self, train: GANAugmentedDataset, device: str | torch.device, return_info: bool = False) -> None:
        self.device = resolve_device(device)
        refuse_cuda_in_worker(self.device)
        self.train = train
        self.return_info = return_info
        classical = train.classical
        if classical is not None and self.device.type != "cpu":
            classical = copy.deepcopy(classical).to(self.device)
        # The dataset keeps its generator on the CPU, so that it can be pickled and shared by loaders of several
        # devices.
        generator = train.generator
        if generator.w_avg.device != self.device:
            module = copy.deepcopy(cast(torch.nn.Module, generator))
            generator = cast(Generator, module.to(self.device))
        self.augmenter = BatchAugmenter(generator, list(train.policy.edits), classical)
        self._range_checked = False

    def __call__(self, host: HostBatch, epoch: int) -> Any:
        """Augments one batch."""
        if self._has_nothing_to_do(epoch) and not host.from_pil:
            self.train.counts[Source.REAL.name.lower()] += len(host.indices)
            return move_to(host.batch, self.device)
        recipe = self.train.draw(host.indices, epoch)
        return self.apply(host, recipe)

    def _has_nothing_to_do(self, epoch: int) -> bool:
        """Whether batches of an epoch go through as they are; then they cost what a plain DataLoader's cost."""
        return not self.return_info and self.train.classical is None and self.train.policy.ratio_at(epoch) == 0.0

    def apply(self, host: HostBatch, recipe: BatchRecipe) -> Any:
        """Augments one batch by a given recipe."""
        where = find_images(host.batch)
        images = host.batch[where]
        if len(images) != len(recipe):
            raise UserInputError(
                f"the base collate made {len(images)} images of {len(recipe)} samples; it must keep them all"
            )
        self._check_range(images)
        latents = self.train.latents_for(recipe, host.hashes)
        self.train.count(recipe)
        batch = move_to(host.batch, self.device)
        images = batch[where]
        if host.from_pil and images.dtype == torch.uint8:
            images = images.float() / 255.0
        images = self.augmenter(images, recipe, latents)
        batch = replace_at(batch, where, images)
        return add_info(batch, self._info(host, recipe)) if self.return_info else batch

    def _check_range(self, images: torch.Tensor) -> None:
        """Looks at the first batch only: float images outside [0, 1] would be clamped to nonsense."""
        if self._range_checked or not images.numel():
            return
        self._range_checked = True
        if images.dtype == torch.uint8:
            return
        if not images.is_floating_point():
            raise UserInputError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
        low, high = float(images.min()), float(images.max())
        if low < -1e-3 or high > 1.0 + 1e-3:
            raise UserInputError(
                f"float images must be in [0, 1], got {low:.3g} to {high:.3g}; take Normalize out of the base "
                "dataset's transform and normalise the batch after the loader"
            )

    def _info(self, host: HostBatch, recipe: BatchRecipe) -> dict[str, Any]:
        generated = torch.from_numpy(recipe.is_generated.copy())
        return {
            "is_generated": generated.to(self.device, non_blocking=True),
            "source_index": torch.tensor(host.indices, dtype=torch.int64).to(self.device, non_blocking=True),
            "source_key": recipe.keys,
            "recipe": recipe.rows(),
        }


def refuse_cuda_in_worker(device: torch.device) -> None:
    """Raises UserInputError inside a DataLoader worker when ``device`` is not the CPU."""
    if device.type != "cpu" and get_worker_info() is not None:
        raise UserInputError(
            f"variants cannot be made on {device} inside a DataLoader worker (a forked worker cannot use CUDA); use "
            f"train.loader(num_workers=..., device={str(device)!r}), or num_workers=0 with train.collate()"
        )


def replay(train: GANAugmentedDataset, recipe: Recipe, device: str | torch.device = "cpu") -> Any:
    """Makes one sample again from its recipe.

    Args:
        train: The wrapped dataset, with the same cache, edits and classical augmentation.
        recipe: From ``return_info=True``, or read back with :meth:`Recipe.from_dict`.
        device: Where to make it.

    Returns:
        A batch of one, in the container of the base dataset.

    Raises:
        UserInputError: If the dataset has no sample of that key.
    """
    index = next((i for i, item in enumerate(train.items) if item.key == recipe.key), None)
    if index is None:
        raise UserInputError(f"no sample with key {recipe.key!r} in this dataset")
    stage = DeviceStage(train, device)
    dtypes = {name: value.dtype for name, value in train.draw([index], recipe.epoch).classical.items()}
    names = [edit.name for edit in train.policy.edits]
    batch = BatchRecipe.from_rows([recipe], names, dtypes)
    host = HostCollate()(fetch(train.dataset, [index], None, FileHasher()))
    return stage.apply(host, batch)
