"""From a batch, its recipe and latents to an augmented batch: pure, on the device, no draws."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from ganaug.classical import ClassicalAugmentation
from ganaug.degrade import Degradation
from ganaug.edits.subspace import Subspace
from ganaug.faces.align import to_unit_range
from ganaug.faces.geometry import Fit
from ganaug.faces.masks import Background, foreground_of_logits, landmark_masks
from ganaug.faces.paste import Paste, aligned_to_item, chip_to_item, paste, paste_aligned, paste_whole
from ganaug.faces.residual import reframed
from ganaug.faces.warp import warp
from ganaug.gatekeeper import Gatekeeper
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import Edit, Generator, Noise, UserInputError
from ganaug.latents import split_anchor
from ganaug.provenance import BatchRecipe, Source
from ganaug.rng import hash_text

MAX_BATCH = 256  # bounds memory
# Feature maps of more faces leave the caches: at 64 px, 128 at a time cost twice as much each as 16 (one core).
MAX_BATCH_CPU = 16

# What is left of the move, from one attempt to the next, of a variant that a gate refuses.
BACK_OFF = (1.0, 0.5, 0.25)


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
        gatekeeper: Gates that variants have to pass, or None for none.
        freed_of: Directions that no variant moves along, on the device; see :mod:`ganaug.preservation`. None for none.
        delta_layout: Where the numbers of ``latents["delta"]`` belong; None where records change nothing in the
            generator.
        noise: Noise maps that faces are drawn with, see :attr:`ganaug.cache_header.CacheHeader.noise`.
        residual: How much of a photo's details stays in its variants, see :class:`ganaug.dataset.GANAugmentedDataset`.

    Attributes:
        tells: Whether recipes are told of variants without finite pixels where there is no gate, though on a GPU the
            host has to wait for it. The items are served in their place either way; on a CPU recipes are always told.
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
        gatekeeper: Gatekeeper | None = None,
        freed_of: Subspace | None = None,
        residual: float | None = None,
        delta_layout: DeltaLayout | None = None,
        noise: Noise = "const",
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
        self.gatekeeper = gatekeeper
        self.freed_of = freed_of
        self.residual = 0.0 if residual is None and paste_mode == "paste" else residual
        self.delta_layout, self.noise = delta_layout, noise
        self.tells = False
        self.device = generator.w_avg.device

    @torch.no_grad()
    def __call__(self, images: Tensor, recipe: BatchRecipe, latents: dict[str, Tensor]) -> Tensor:
        """Augments images.

        Args:
            images: ``(B, 3, H, W)`` on the device, uint8 or float in [0, 1].
            recipe: What each of the B samples receives; outcomes of the gate are written into it, see :meth:`serve`.
            latents: ``"self"`` and each partner edit -> ``(K, L, D)``, or ``(K, 2, L, D)`` with anchors, for the K
                generated samples, on any device; and ``"geometry"`` ``(K, 8)``, best on the CPU, see
                :func:`ganaug.faces.paste.chip_to_item`. Without it, chips are the items' largest centred squares.
                ``"delta"`` ``(K, P)`` where records change the generator.

        Returns:
            ``(B, 3, H, W)`` of the same dtype; the very tensor that came in if there is nothing to do.
        """
        rows = np.flatnonzero(recipe.is_generated)
        if not len(rows) and self.classical is None and self.degradation is None:
            return images
        result = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        if len(rows):
            at = torch.from_numpy(rows).to(self.device, non_blocking=True)
            result = result.index_copy(0, at, self.serve(result.index_select(0, at), recipe, rows, latents))
        if self.degradation is not None:
            result = self.degradation(result, recipe.degradation)
        if self.classical is not None:
            result = self._apply_classical(result, recipe)
        if images.dtype == torch.uint8:
            return (result * 255.0).round().to(torch.uint8)
        return result.to(images.dtype)

    @torch.no_grad()
    def serve(self, items: Tensor, recipe: BatchRecipe, rows: np.ndarray, latents: dict[str, Tensor]) -> Tensor:
        """Variants that pass the gate, and the items themselves where none does.

        Those that fail are drawn again with half of the edits' move, then with a quarter, and the others are not
        touched. Every round waits for the device once. Without a gate there is one round, in which pixels that are not
        finite fail.

        Args:
            items: ``(K, 3, H, W)`` on the device, in [0, 1]: the samples in ``rows``.
            recipe: What each sample receives. ``scale``, ``identity``, ``attempts`` and, where items are served,
                ``source`` of ``rows`` are changed in place.
            rows: ``(K,)`` places of the generated samples in the recipe.
            latents: See :meth:`__call__`.

        Returns:
            ``(K, 3, H, W)`` in [0, 1].
        """
        variants, keeper = _Variants(self, items, recipe, rows, latents), self.gatekeeper
        drawn, finite = variants.draw()
        if keeper is None:
            if self.tells or self.device.type == "cpu":
                recipe.source[rows[~finite.cpu().numpy()]] = Source.REJECTED
            return torch.where(finite[:, None, None, None], drawn, items)
        photos = keeper.look_at_photos(items, variants.in_items, [recipe.keys[row] for row in rows])
        scale, failed = recipe.scale[rows], np.arange(len(rows))
        for number, factor in enumerate(BACK_OFF):
            if number:
                at = torch.from_numpy(failed).to(self.device, non_blocking=True)
                shown, finite = variants.draw_again(scale[failed] * np.float32(factor), failed, at)
                seen = [None if one is None else one.index_select(0, at) for one in photos]
                drawn = drawn.index_copy(0, at, shown)
            else:
                shown, seen = drawn, photos
            score, passed = keeper.judge(shown, variants.in_served[torch.from_numpy(failed)], seen)
            told = torch.stack([score, (passed & finite).float()]).cpu().numpy()
            recipe.scale[rows[failed]] = scale[failed] * np.float32(factor)
            recipe.identity[rows[failed]] = told[0]
            recipe.attempts[rows[failed]] += 1
            failed = failed[told[1] == 0.0]
            if not len(failed):
                return drawn
        recipe.source[rows[failed]] = Source.REJECTED
        at = torch.from_numpy(failed).to(self.device, non_blocking=True)
        return drawn.index_copy(0, at, items.index_select(0, at))

    @torch.no_grad()
    def generate(self, items: Tensor, recipe: BatchRecipe, rows: np.ndarray, latents: dict[str, Tensor]) -> Tensor:
        """Variants of items, in the items' own framing, whatever a gate would say. Arguments as :meth:`serve`."""
        return _Variants(self, items, recipe, rows, latents).draw()[0]

    def foreground(self, background: Background, items: Tensor, w_plus: Tensor, matrices: Tensor) -> Tensor:
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
        """Edited ``w_plus (K, L, D)`` of the samples in ``rows``, at full scale.

        Where records hold an anchor (see :class:`ganaug.interfaces.Inversion`), edits move the anchor and the move is
        added to the code: ``w + (edit(anchor) - anchor)``, with the anchors of partners.
        """
        own = latents["self"].to(self.device, non_blocking=True).float()
        code, anchor = split_anchor(own)
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
                params["partner"] = split_anchor(partner)[1]
            mask = torch.from_numpy(active).to(self.device, non_blocking=True)
            edited = torch.where(mask[:, None, None], edit.apply(edited, params), edited)
        if self.freed_of is not None:
            return code + self.freed_of.remove(edited - anchor)
        return edited if code is anchor else code + (edited - anchor)

    def render(self, w_plus: Tensor, delta: Tensor | None = None) -> Tensor:
        """``w_plus (K, L, D)`` and changes ``delta (K, P)`` of the generator -> images ``(K, 3, R, R)`` in [0, 1].

        A variant is drawn with the delta of its own record: what was tuned is the generator near that photo's code.
        """
        parts, draw, noise = w_plus.split(self.max_batch), self.generator.synthesis, self.noise
        if delta is None or self.delta_layout is None:
            return torch.cat([to_unit_range(draw(part, noise)) for part in parts])
        tuned: Callable[..., Tensor] = draw
        changes = map(self.delta_layout.bind, delta.split(self.max_batch))
        return torch.cat(
            [to_unit_range(tuned(part, noise, delta=change)) for part, change in zip(parts, changes, strict=True)]
        )

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
            for image, key, variant in zip(images.split(1), recipe.keys, recipe.variant.tolist(), strict=True):
                number = f" variant {variant}" if variant else ""
                seed = hash_text(f"{recipe.seed} {recipe.epoch} {key} classical module{number}")
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


class _Variants:
    """The variants of one batch: what it takes to draw them, and some of them again.

    Args:
        augmenter: Who draws.
        items: ``(K, 3, H, W)`` on the device, in [0, 1].
        recipe: Of the batch.
        rows: ``(K,)`` places of the generated samples in the recipe.
        latents: See :meth:`BatchAugmenter.__call__`.

    Attributes:
        in_items: ``(K, 2, 3)`` on the CPU, chip to pixels of the real items.
        in_served: The same, to pixels of what is served.
    """

    def __init__(
        self,
        augmenter: BatchAugmenter,
        items: Tensor,
        recipe: BatchRecipe,
        rows: np.ndarray,
        latents: dict[str, Tensor],
    ) -> None:
        self.augmenter, self.items = augmenter, items
        size, resolution = (items.shape[2], items.shape[3]), augmenter.generator.img_resolution
        own = latents["self"].to(augmenter.device, non_blocking=True).float()
        self.code = split_anchor(own)[0]
        self.edited = augmenter.edit(recipe, rows, {**latents, "self": own})
        self.delta = latents["delta"].to(augmenter.device, non_blocking=True) if "delta" in latents else None
        self.scale = recipe.scale[rows]
        self.base: Tensor | None = None
        geometry = latents["geometry"].cpu() if "geometry" in latents else torch.zeros(len(items), 8)
        self.in_items = self.in_served = chip_to_item(geometry, resolution, size, augmenter.fit)
        if augmenter.paste_mode == "aligned":
            self.in_served = aligned_to_item(resolution, size).expand(len(items), -1, -1)
            if augmenter.residual is not None:
                self.items = reframed(items, self.in_items, self.in_served)

    def draw(self) -> tuple[Tensor, Tensor]:
        """All of them, at the scale of the recipe: ``(K, 3, H, W)`` in [0, 1], and ``(K,)`` whether they are finite."""
        moved = self.edited
        if (self.scale != 1.0).any():
            whole = torch.from_numpy(self.scale == 1.0).to(moved.device, non_blocking=True)
            moved = torch.where(whole[:, None, None], moved, _scaled(self.code, moved, self.scale))
        if self.augmenter.residual is None:
            return self._put(self.items, self.augmenter.render(moved, self.delta), None, moved, self.in_served)
        twice = None if self.delta is None else self.delta.repeat(2, 1)
        drawn, self.base = self.augmenter.render(torch.cat([moved, self.code]), twice).chunk(2)
        return self._put(self.items, drawn, self.base, moved, self.in_served)

    def draw_again(self, scale: np.ndarray, rows: np.ndarray, at: Tensor) -> tuple[Tensor, Tensor]:
        """Some of them, at other scales ``(N,)``; ``rows (N,)`` says which, ``at`` the same on the device."""
        items, code, edited = (values.index_select(0, at) for values in (self.items, self.code, self.edited))
        moved = _scaled(code, edited, scale)
        base, delta = (None if one is None else one.index_select(0, at) for one in (self.base, self.delta))
        return self._put(
            items, self.augmenter.render(moved, delta), base, moved, self.in_served[torch.from_numpy(rows)]
        )

    def _put(
        self, items: Tensor, drawn: Tensor, base: Tensor | None, w_plus: Tensor, matrices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Chips ``drawn`` of ``w_plus`` into the items that they stand for; and whether their pixels are numbers."""
        augmenter = self.augmenter
        # Of chips: pasting would keep the photo where a change is not a number. A sum of numbers in [0, 1] is finite.
        finite = drawn.flatten(1).sum(dim=1).isfinite()
        if base is not None and augmenter.residual is not None:
            result = paste(items, drawn, base, matrices, augmenter.residual, augmenter.paste_mode != "whole")
        elif augmenter.paste_mode == "aligned":
            result = paste_aligned(drawn, (items.shape[2], items.shape[3]))
        else:
            result = paste_whole(items, drawn, matrices)
        if augmenter.background is not None:
            foreground = augmenter.foreground(augmenter.background, result, w_plus, matrices)
            result = augmenter.background.apply(result, foreground)
        return result, finite


def _scaled(code: Tensor, edited: Tensor, scale: np.ndarray) -> Tensor:
    """``code + scale * (edited - code)``, ``(K, L, D)`` with ``scale (K,)`` of the host."""
    return code + torch.from_numpy(scale).to(code.device, non_blocking=True)[:, None, None] * (edited - code)
