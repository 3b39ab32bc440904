"""From a batch, its recipe and latents to an augmented batch: pure, on the device, no draws."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.classical import ClassicalAugmentation
from ganaug.faces.align import to_unit_range
from ganaug.interfaces import Edit, Generator, UserInputError
from ganaug.provenance import BatchRecipe
from ganaug.rng import hash_text


class BatchAugmenter:
    """Makes the variants of a batch and applies classical augmentation.

    Args:
        generator: Generator on the device.
        edits: All edits that recipes may name, in order of application.
        classical: Classical augmentation or None; see :class:`ganaug.dataset.GANAugmentedDataset`.
        max_batch: Variants made at a time, to bound memory.
    """

    def __init__(
        self, generator: Generator, edits: list[Edit], classical: nn.Module | None, max_batch: int = 256
    ) -> None:
        self.generator = generator
        self.edits = edits
        self.classical = classical
        self.max_batch = max_batch
        self.device = generator.w_avg.device

    @torch.no_grad()
    def __call__(self, images: Tensor, recipe: BatchRecipe, latents: dict[str, Tensor]) -> Tensor:
        """Augments images.

        Args:
            images: ``(B, 3, H, W)`` on the device, uint8 or float in [0, 1].
            recipe: What each of the B samples receives.
            latents: ``"self"`` and each partner edit -> ``(K, L, D)``, or ``(K, 2, L, D)`` with anchors, for the K
                generated samples, on any device.

        Returns:
            ``(B, 3, H, W)`` of the same dtype; the very tensor that came in if there is nothing to do.
        """
        rows = np.flatnonzero(recipe.is_generated)
        if not len(rows) and self.classical is None:
            return images
        result = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        if len(rows):
            variants = self.render(self.edit(recipe, rows, latents))
            at = torch.from_numpy(rows).to(self.device, non_blocking=True)
            result = result.index_copy(0, at, place(variants, result.index_select(0, at)))
        if self.classical is not None:
            result = self._apply_classical(result, recipe)
        if images.dtype == torch.uint8:
            return (result * 255.0).round().to(torch.uint8)
        return result.to(images.dtype)

    def edit(self, recipe: BatchRecipe, rows: np.ndarray, latents: dict[str, Tensor]) -> Tensor:
        """Edited ``w_plus (K, L, D)`` of the samples in ``rows``.

        Where records hold an anchor (see :class:`ganaug.interfaces.Inversion`), edits move the anchor and the move is
        added to the code: ``w + (edit(anchor) - anchor)``, with the anchors of partners.
        """
        own = latents["self"].to(self.device, non_blocking=True).float()
        code, anchor = (own[:, 0], own[:, 1]) if own.ndim == 4 else (own, own)
        edited = anchor
        at = torch.from_numpy(rows)
        for edit in self.edits:
            if edit.name not in recipe.edit_names:
                continue
            active = recipe.active[rows, recipe.edit_names.index(edit.name)]
            if not active.any():
                continue
            params = {k: v[at].to(self.device, non_blocking=True) for k, v in recipe.edit_params[edit.name].items()}
            if edit.needs_partner:
                partner = latents[edit.name].to(self.device, non_blocking=True).float()
                params["partner"] = partner[:, 1] if partner.ndim == 4 else partner
            mask = torch.from_numpy(active).to(self.device, non_blocking=True)
            edited = torch.where(mask[:, None, None], edit.apply(edited, params), edited)
        return code + (edited - anchor) if own.ndim == 4 else edited

    def render(self, w_plus: Tensor) -> Tensor:
        """``w_plus (K, L, D)`` -> images ``(K, 3, R, R)`` in [0, 1]."""
        return torch.cat([to_unit_range(self.generator.synthesis(part)) for part in w_plus.split(self.max_batch)])

    def _apply_classical(self, images: Tensor, recipe: BatchRecipe) -> Tensor:
        if isinstance(self.classical, ClassicalAugmentation):
            params = {k: v.to(self.device, non_blocking=True) for k, v in recipe.classical.items()}
            augmented: Tensor = self.classical(images, params)
            return augmented
        # A module that draws for itself draws from torch's global generator, per batch. One sample at a time from a
        # seed of its own, its draws depend on nothing but (seed, epoch, key), at the price of one call a sample.
        if self.classical is None:
            return images
        cuda = [self.device] if self.device.type == "cuda" else []
        out = []
        with torch.random.fork_rng(devices=cuda):
            for image, key in zip(images.split(1), recipe.keys, strict=True):
                seed = hash_text(f"{recipe.seed} {recipe.epoch} {key} classical module")
                torch.default_generator.manual_seed(seed)
                for index in cuda:
                    torch.cuda.default_generators[index.index or 0].manual_seed(seed)
                out.append(self.classical(image))
                if out[-1].shape != image.shape:
                    raise UserInputError(
                        f"the classical module changed the shape of a sample from {tuple(image.shape)} to "
                        f"{tuple(out[-1].shape)}; it must keep it"
                    )
        return torch.cat(out).clamp(0.0, 1.0)


def place(variants: Tensor, images: Tensor) -> Tensor:
    """Variants at the size and place of the face in the items that they stand for.

    The chip is the largest centred square of the photo (see :mod:`ganaug.faces.align`), so the variant covers that
    square of the item; outside it, in items that are not square, the item's own pixels stay.

    Args:
        variants: ``(K, 3, R, R)`` in [0, 1].
        images: ``(K, 3, H, W)`` in [0, 1].

    Returns:
        ``(K, 3, H, W)`` in [0, 1].
    """
    height, width = images.shape[2:]
    side = min(height, width)
    if variants.shape[2] != side:
        shrinks = side < variants.shape[2]
        variants = F.interpolate(variants, (side, side), mode="bicubic", antialias=shrinks, align_corners=False)
        variants = variants.clamp(0.0, 1.0)
    if height == width:
        return variants
    top, left = (height - side) // 2, (width - side) // 2
    out = images.clone()
    out[:, :, top : top + side, left : left + side] = variants
    return out
