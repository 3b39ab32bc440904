"""From a batch of a worker to an augmented batch on the device: the one callable that loader and collate share."""

import copy
import warnings
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import get_worker_info

from ganaug.augment import BatchAugmenter
from ganaug.batches import FileHasher, HostBatch, HostCollate, add_info, fetch, find_images, move_to, replace_at
from ganaug.dataset import GANAugmentedDataset
from ganaug.edits.subspace import Subspace
from ganaug.faces.normalization import RANGE_TOLERANCE, restore_unchanged
from ganaug.faces.orientation import UPRIGHT, geometry_as_stored
from ganaug.gate import Gate
from ganaug.gatekeeper import Gatekeeper
from ganaug.interfaces import Generator, UserInputError, resolve_device
from ganaug.latents import split_anchor
from ganaug.provenance import BatchRecipe, Recipe, Source
from ganaug.relabel import RelabelFunction, SoftLabels, call_relabel, find_labels, make_soft_labels


class DeviceStage:
    """The one callable that turns a batch from a worker into an augmented batch on the device.

    Used by :class:`AugmentedLoader` in the main process, and by :class:`AugmentingCollate` where there are no workers.

    Args:
        train: The wrapped dataset.
        device: Where variants are made and batches arrive.
        return_info: Add provenance to every batch.
        gated: Let the dataset's gates look at variants. False where they have done so before.

    Raises:
        UserInputError: For a device that is not there, or CUDA inside a worker.
    """

    def __init__(
        self, train: GANAugmentedDataset, device: str | torch.device, return_info: bool = False, gated: bool = True
    ) -> None:
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
        self.augmenter = BatchAugmenter(
            generator,
            list(train.policy.edits),
            classical,
            degradation=train.degradation,
            paste_mode=train.paste,
            fit=train.fit,
            background=train.background,
            chip_points=train.chip_points,
            gatekeeper=self._make_gatekeeper() if gated and train.gates else None,
            freed_of=self._find_subspace(),
            residual=train.residual,
            delta_layout=train.delta_layout,
            noise=train.header.noise,
        )
        self.soft_labels: SoftLabels | None = None
        if train.relabel == "soft":
            self.soft_labels = make_soft_labels(train.preservation.label, train.preservation.reason, train.dataset)
        self._labels_checked = False
        self.augmenter.tells = return_info
        self.normalization = None if train.normalization is None else train.normalization.to(self.device)
        self._range_checked = False
        self._told_of_turned = False

    def _find_subspace(self) -> Subspace | None:
        """What moves are freed of, on the device."""
        if not self.train.policy.may_generate and not len(self.train.extras):
            return None
        subspace = self.train.preservation.subspace
        return None if subspace is None else subspace.to(self.device)

    def _make_gatekeeper(self) -> Gatekeeper:
        """The gates on the device; the dataset keeps its own on the CPU, as the generator."""
        gates: list[Gate] = []
        for gate in self.train.gates:
            if isinstance(gate, torch.nn.Module) and self.device.type != "cpu":
                gate = copy.deepcopy(gate).to(self.device)
            gates.append(gate)
        train = self.train
        return Gatekeeper(gates, train.generator.img_resolution, train.chip_template, remember=True)

    def __call__(self, host: HostBatch, epoch: int) -> Any:
        """Augments one batch."""
        if self._has_nothing_to_do(epoch) and not host.from_pil:
            self.train.counts[Source.REAL.name.lower()] += len(host.indices)
            return move_to(host.batch, self.device)
        recipe = self.train.draw(host.indices, epoch)
        return self.apply(host, recipe)

    def _has_nothing_to_do(self, epoch: int) -> bool:
        """Whether batches of an epoch go through as they are; then they cost what a plain DataLoader's cost."""
        train = self.train
        if self.return_info or any(x is not None for x in (train.classical, train.degradation, train.relabel)):
            return False
        return self.train.policy.ratio_at(epoch) == 0.0 and not len(self.train.extras)

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
        self._turn(host, recipe, latents)
        rows = np.flatnonzero(recipe.is_generated)
        batch = move_to(host.batch, self.device)
        images = batch[where]
        if host.from_pil and images.dtype == torch.uint8:
            images = images.float() / 255.0
        images = self._augment(images, recipe, latents)
        self.train.count(recipe)  # the gate has its word in it
        batch = replace_at(batch, where, images)
        if self.train.relabel is not None:
            at = find_labels(batch, where, self.train.label_key)
            batch = replace_at(batch, at, self._relabel(batch[at], host, recipe, rows, latents))
        return add_info(batch, self._info(host, recipe)) if self.return_info else batch

    def _relabel(
        self,
        labels: torch.Tensor,
        host: HostBatch,
        recipe: BatchRecipe,
        rows: np.ndarray,
        latents: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Labels of what was served; ``rows`` are the samples that ``latents`` are of, rejected ones among them."""
        if self.soft_labels is None:
            return call_relabel(cast(RelabelFunction, self.train.relabel), labels, recipe)
        indices = self.train.extras.resolve(host.indices)[0]
        if not self._labels_checked:
            self._labels_checked = True
            self.soft_labels.check(labels, indices)
        own = latents.get("self", torch.empty(0, *self.train.generator.latent_spec.shape))
        own = own.to(self.device, non_blocking=True).float()
        code, anchor = split_anchor(own)
        move = self.augmenter.edit(recipe, rows, {**latents, "self": own}) - code
        kept = recipe.scale[rows] * recipe.is_generated[rows]  # 0 where a gate refused the variant
        move = move * torch.from_numpy(kept).to(self.device, non_blocking=True)[:, None, None]
        return self.soft_labels(indices, rows, anchor, anchor + move)

    def _turn(self, host: HostBatch, recipe: BatchRecipe, latents: dict[str, torch.Tensor]) -> None:
        """Lays variants down where the items lie as the camera stored them; says so once."""
        if host.turned is None or "geometry" not in latents:
            return
        turned = host.turned[recipe.is_generated]
        latents["geometry"] = geometry_as_stored(latents["geometry"], turned)
        if not self._told_of_turned and (turned > UPRIGHT).any():
            self._told_of_turned = True
            key = recipe.keys[int((recipe.is_generated & (host.turned > UPRIGHT)).argmax())]
            warnings.warn(
                f"the base dataset ignores the EXIF orientation of {key!r} and others: these faces lie on their side, "
                "upside down or mirrored, and their variants too. Apply PIL.ImageOps.exif_transpose where it opens "
                "files to train on upright faces",
                stacklevel=2,
            )

    def _augment(self, images: torch.Tensor, recipe: BatchRecipe, latents: dict[str, torch.Tensor]) -> torch.Tensor:
        """Augments ``(B, 3, H, W)`` of any range and class that items may have; both come back."""
        kind = type(images)
        images = images.as_subclass(torch.Tensor)  # a tv_tensor would dispatch every operation through Python
        normalization = self.normalization
        if normalization is None and images.dtype != torch.float64:  # float32 holds the others exactly
            augmented = self.augmenter(images, recipe, latents)
        else:
            unit = images.float() if normalization is None else normalization.to_unit(images).clamp(0.0, 1.0)
            augmented = self.augmenter(unit, recipe, latents)
            augmented = images if augmented is unit else restore_unchanged(augmented, unit, images, normalization)
        return augmented.as_subclass(kind)

    def _check_range(self, images: torch.Tensor) -> None:
        """Looks at the first batch only: float images outside [0, 1] would be clamped to nonsense."""
        if self._range_checked or not images.numel():
            return
        self._range_checked = True
        normalization = self.train.normalization
        if images.dtype == torch.uint8:
            if normalization is not None:
                raise UserInputError(
                    f"the items are uint8 or PIL images, so they are not normalised by {normalization}; say "
                    "normalize=None"
                )
            return
        if not images.is_floating_point():
            raise UserInputError(f"images must be uint8 or float in [0, 1], got {images.dtype}")
        low, high = float(images.min()), float(images.max())
        if normalization is None:
            unit, got = (low, high), f"float images must be in [0, 1], got {low:.3g} to {high:.3g}"
            advice = "if the base dataset normalises them in a function of its own, say normalize=(mean, std)"
        else:
            images = normalization.to_unit(images)
            unit = float(images.min()), float(images.max())
            got = (
                f"images of {low:.3g} to {high:.3g} give {unit[0]:.3g} to {unit[1]:.3g} when the normalisation by "
                f"{normalization} is undone; expected [0, 1]"
            )
            advice = "say normalize=(mean, std) for images in [0, 1], or normalize=None if they are not normalised"
        if not (unit[0] >= -RANGE_TOLERANCE and unit[1] <= 1.0 + RANGE_TOLERANCE):  # NaN is neither
            raise UserInputError(f"{got}; {advice}")

    def _info(self, host: HostBatch, recipe: BatchRecipe) -> dict[str, Any]:
        generated = torch.from_numpy(recipe.is_generated.copy())
        return {
            "is_generated": generated.to(self.device, non_blocking=True),
            "identity_score": torch.from_numpy(recipe.identity.copy()).to(self.device, non_blocking=True),
            "source_index": torch.from_numpy(self.train.extras.resolve(host.indices)[0]).to(
                self.device, non_blocking=True
            ),
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
        train: The wrapped dataset, with the same cache, edits, classical augmentation and degradation.
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
    stage = DeviceStage(train, device, gated=False)  # the recipe says what the gate said
    drawn = train.draw([index], recipe.epoch)
    classical, degradation = (
        {name: value.dtype for name, value in params.items()} for params in (drawn.classical, drawn.degradation)
    )
    names = [edit.name for edit in train.policy.edits]
    batch = BatchRecipe.from_rows([recipe], names, classical, degradation)
    host = HostCollate()(fetch(train.dataset, [index], train.paths_to_check, FileHasher()))
    return stage.apply(host._replace(hashes=None), batch)  # also where the file has changed since
