"""From a batch, its recipe and latents to an augmented batch: pure, on the device, no draws."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation
from ganaug.faces.align import to_unit_range
from ganaug.faces.geometry import Fit
from ganaug.faces.masks import Background, foreground_of_logits, landmark_masks
from ganaug.faces.paste import Paste, aligned_to_item, chip_to_item, paste, paste_aligned, paste_whole
from ganaug.faces.warp import warp
from ganaug.interfaces import Edit, Generator, UserInputError
from ganaug.provenance import BatchRecipe
from ganaug.rng import hash_text

MAX_BATCH = 256  # bounds memory
# Feature maps of more faces leave the caches: at 64 px, 128 at a time cost twice as much each as 16 (one core).
MAX_BATCH_CPU = 16


class BatchAugmenter:
    """Makes the variants of a batch and applies classical augmentation.

    Args:
        generator: Generator on the device.
        edits: All edits that recipes may name, in order of application.
        classical: Classical augmentation or None; see :class:`ganaug.dataset.GANAugmentedDataset`.
        max_batch: Faces that the generator draws at a time; None: 256, and 16 on a CPU.
        degradation: What real and generated samples alike go through before classical augmentation, or None.
        paste_mode: How variants come into the items, see :class:`ganaug.dataset.GANAugmentedDataset`.
        fit: How the dataset made items of photos, see :func:`ganaug.faces.geometry.photo_to_item`.
        background: What becomes of the background of variants; None to leave it.
        chip_points: ``(5, 2)`` points of the face in [0, 1] of the chip, for a background without a parser and a
            generator without parts.
    """

    def __init__(
        self,
        generator: Generator,
        edits: list[Edit],
        classical: nn.Module | None,
        max_batch: int | None = None,
        degradation: Degradation | None = None,
        *,
        paste_mode: Paste = "paste",
        fit: Fit = "auto",
        background: Background | None = None,
        chip_points: Tensor | None = None,
    ) -> None:
        self.generator = generator
        self.edits = edits
        self.classical = classical
        self.max_batch = max_batch or (MAX_BATCH_CPU if generator.w_avg.device.type == "cpu" else MAX_BATCH)
        self.degradation = degradation
        self.paste_mode = paste_mode
        self.fit = fit
        self.background = background
        self.chip_points = chip_points
        self.device = generator.w_avg.device

    @torch.no_grad()
    def __call__(self, images: Tensor, recipe: BatchRecipe, latents: dict[str, Tensor]) -> Tensor:
        """Augments images.

        Args:
            images: ``(B, 3, H, W)`` on the device, uint8 or float in [0, 1].
            recipe: What each of the B samples receives.
            latents: ``"self"`` and each partner edit -> ``(K, L, D)``, or ``(K, 2, L, D)`` with anchors, for the K
                generated samples, on any device; and ``"geometry"`` ``(K, 8)``, best on the CPU, see
                :func:`ganaug.faces.paste.chip_to_item`. Without it, chips are the items' largest centred squares.

        Returns:
            ``(B, 3, H, W)`` of the same dtype; the very tensor that came in if there is nothing to do.
        """
        rows = np.flatnonzero(recipe.is_generated)
        if not len(rows) and self.classical is None and self.degradation is None:
            return images
        result = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        if len(rows):
            at = torch.from_numpy(rows).to(self.device, non_blocking=True)
            result = result.index_copy(0, at, self.generate(result.index_select(0, at), recipe, rows, latents))
        if self.degradation is not None:
            result = self.degradation(result, recipe.degradation)
        if self.classical is not None:
            result = self._apply_classical(result, recipe)
        if images.dtype == torch.uint8:
            return (result * 255.0).round().to(torch.uint8)
        return result.to(images.dtype)

    @torch.no_grad()
    def generate(self, items: Tensor, recipe: BatchRecipe, rows: np.ndarray, latents: dict[str, Tensor]) -> Tensor:
        """Variants of items, in the items' own framing.

        Args:
            items: ``(K, 3, H, W)`` on the device, in [0, 1]: the samples in ``rows``.
            recipe: What each sample receives.
            rows: ``(K,)`` places of the generated samples in the recipe.
            latents: See :meth:`__call__`.

        Returns:
            ``(K, 3, H, W)`` in [0, 1].
        """
        size, resolution = (items.shape[2], items.shape[3]), self.generator.img_resolution
        latents = {**latents, "self": latents["self"].to(self.device, non_blocking=True).float()}  # once
        edited = self.edit(recipe, rows, latents)
        if self.paste_mode == "aligned":
            matrices = aligned_to_item(resolution, size).expand(len(items), -1, -1)
            result = paste_aligned(self.render(edited), size)
        else:
            geometry = latents["geometry"].cpu() if "geometry" in latents else torch.zeros(len(items), 8)
            matrices = chip_to_item(geometry, resolution, size, self.fit)
            if self.paste_mode == "paste":
                own = latents["self"]
                code = own[:, 0] if own.ndim == 4 else own
                drawn, base = self.render(torch.cat([edited, code])).chunk(2)
                result = paste(items, drawn, base, matrices)
            else:
                result = paste_whole(items, self.render(edited), matrices)
        if self.background is None:
            return result
        return self.background.apply(result, self._foreground(self.background, result, edited, matrices))

    def _foreground(self, background: Background, items: Tensor, w_plus: Tensor, matrices: Tensor) -> Tensor:
        """``(K, 1, H, W)`` in [0, 1]: what is not background in variants ``(K, 3, H, W)``."""
        if background.parser is not None:
            return background.foreground(items)
        parts, resolution = list(self.generator.latent_spec.parts), self.generator.img_resolution
        if "background" in parts:
            number = (parts.index("background"),)
            draw: Callable[..., tuple[Tensor, Tensor]] = self.generator.synthesis  # type: ignore[assignment]
            logits = [draw(part, return_parts=True)[1] for part in w_plus.split(self.max_batch)]
            foreground = foreground_of_logits(torch.cat(logits).float(), number)
        elif self.chip_points is None:
            raise UserInputError("to find the background, a parser or the chip's points are needed")
        else:
            masks = landmark_masks(self.chip_points[None] * resolution, (resolution, resolution))
            foreground = 1.0 - masks[:, :1].to(self.device, non_blocking=True).expand(len(items), -1, -1, -1)
        return warp(foreground, matrices, (items.shape[2], items.shape[3]))

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
