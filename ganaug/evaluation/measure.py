"""The measuring itself: every photo, its inversion, every edit at every strength, and what a training loop gets."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ganaug.edits.regions import REGIONS, region_mask
from ganaug.edits.target import Target
from ganaug.evaluation.faces import FaceBatch, FaceReader, RealFaces, goes_both_ways, magnitudes_of
from ganaug.evaluation.judges import CodeReader, Judge, Seen
from ganaug.evaluation.realism import MAX_IMAGES
from ganaug.evaluation.tallies import Condition, Measured, Tally
from ganaug.faces.paste import paste_aligned
from ganaug.features import PerceptualFeatures
from ganaug.interfaces import CacheError, Edit
from ganaug.metrics import (
    IdentityDiversity,
    IdentityPreservation,
    InceptionScore,
    PerceptualDiversity,
)
from ganaug.metrics.extractors import Extractor
from ganaug.rng import hash_text, uniforms
from ganaug.sheet import contact_sheet
from ganaug.strength_sheets import strengths_of

NUM_DRAWS = 4  # variants of one photo that are compared with each other
MAX_DIVERSITY = 100  # photos of which that is done: all pairs of pictures take time
_FACE_SIZE = 112  # pixels, on a sheet
_SHEET_STRENGTHS = 4  # rows of an edit that goes both ways


def choose(keys: Sequence[str], limit: int, seed: int = 0) -> list[int]:
    """Places of at most ``limit`` photos in an order that their names and the seed decide."""
    hashes = np.array([hash_text(key) for key in keys], np.int64)
    order = np.argsort(uniforms(seed, 0, hashes, "evaluate", 1)[:, 0], kind="stable")
    return order[:limit].tolist()


class Evaluator:
    """Measures a wrapped dataset.

    Args:
        reader: Of the dataset.
        judge: Identity.
        extractor: Features for realism.
        perceptual: Features for diversity.
        num_strengths: Strengths of every edit.
        real: Real photos to compare with; None: photos of the cache, of which one half is compared with the other.
    """

    def __init__(
        self,
        reader: FaceReader,
        judge: Judge,
        extractor: Extractor,
        perceptual: PerceptualFeatures,
        num_strengths: int,
        real: RealFaces | None = None,
    ) -> None:
        self.reader, self.judge, self.extractor, self.real = reader, judge, extractor, real
        self.edits: list[Edit] = list(reader.train.policy.edits)
        self.codes = CodeReader(reader.train.generator, self.edits)
        self.conditions = [Condition("inversion"), Condition("served")]
        for edit in self.edits:
            self.conditions += [Condition("edit", edit.name, s) for s in magnitudes_of(edit, num_strengths)]
        self._perceptual = perceptual
        self._masks = self._find_masks()
        self._keys: list[str] = []
        self._numbers: list[Tensor] = []
        self._tallies = {each: Tally(IdentityPreservation(judge.threshold)) for each in self.conditions}
        self._real: tuple[list[Tensor], list[Tensor]] = ([], [])  # what is compared with, and the floor
        self._real_inception = InceptionScore()
        self._diversity = (PerceptualDiversity(perceptual), PerceptualDiversity(perceptual))
        self._identity = (IdentityDiversity(), IdentityDiversity())
        self._waiting: Tensor | None = None  # photos of which too few came to compare them with each other
        self._item_size = 0
        self._outcome: list[NDArray[np.uint8]] = []
        self._attempts: list[NDArray[np.uint8]] = []

    def run(self, members: Sequence[int], batch_size: int, num_faces: int, progress: bool = True) -> Measured:
        """Measures photos.

        Args:
            members: Places of the photos in the dataset, in an order that has nothing to do with what they show.
            batch_size: Photos at a time.
            num_faces: Columns of the sheets.
            progress: Show a progress bar.

        Raises:
            CacheError: If not one of the photos can be read.
        """
        reader = self.reader
        sheets: dict[str, Image.Image] = {}
        bar = tqdm(total=len(members) * len(self.conditions), unit="face", disable=None if progress else True)
        with bar:
            bar.set_description("measuring")
            for start in range(0, len(members), batch_size):
                asked = members[start : start + batch_size]
                batch = reader.read(asked)
                if batch is not None:
                    self._measure(batch, bar)
                    if not sheets:
                        sheets = self._sheets(batch, num_faces)
                bar.update((len(asked) - (0 if batch is None else len(batch.keys))) * len(self.conditions))
        if not self._keys:
            key, why = next(iter(reader.left_out.items()))
            raise CacheError(
                f"none of {len(members)} photos of {reader.train.cache.path} can be measured: {key}: {why}"
            )
        if self.real is not None:
            self._read_real(batch_size, progress)
        return Measured(
            self._keys,
            self._tallies,
            self.judge.readings + self.codes.readings,
            torch.cat(self._numbers),
            _joined(self._real[0]),
            _joined(self._real[1]),
            self._real_inception,
            *self._diversity,
            *self._identity,
            np.concatenate(self._attempts).astype(np.int64),
            np.concatenate(self._outcome).astype(np.int64),
            bool(reader.train.gates),
            sheets,
        )

    def _measure(self, batch: FaceBatch, bar: "tqdm[None]") -> None:
        """Adds a batch to everything."""
        place = len(self._keys) + np.arange(len(batch.keys))
        self._keys += batch.keys
        self._item_size = batch.items.shape[-1]
        photos = self.judge.look(batch.items, batch.places)
        inverted = self.judge.look_at_chips(batch.inversions)
        # What variants are compared with: they are photos with a change, or pictures of the generator.
        base = (batch.photos, photos) if self.reader.keeps_photo else (batch.inversions, inverted)
        before = self.codes.numbers(self._anchors(batch))
        self._numbers.append(torch.cat([self.judge.numbers(base[1]), before], dim=1).cpu())
        chosen = self._choose_for_realism(place, batch)
        tally = self._tallies[Condition("inversion")]
        self._add(tally, photos, inverted, batch.inversions, chosen)
        tally.change.append(_change(batch.inversions, batch.photos))
        # No edit: how far the judge's readings move by themselves.
        self._add_moves(tally, photos, inverted, torch.zeros_like(before), torch.ones(len(before)))
        bar.update(len(batch.keys))
        self._serve(batch, photos, chosen, place)
        bar.update(len(batch.keys))
        for edit in self.edits:
            for condition in self.conditions:
                if condition.edit != edit.name:
                    continue
                made = self.reader.variants(batch, edit, condition.strength)
                seen = self.judge.look(made.served, self.reader.places_served(batch))
                tally = self._tallies[condition]
                self._add(tally, photos, seen, made.pictures, chosen)
                tally.change.append(_change(made.pictures, base[0]))
                moved = self.codes.numbers(made.after) - self.codes.numbers(made.before)
                self._add_moves(tally, base[1], seen, moved, made.sign)
                if edit.name in self._masks:
                    mask = self._masks[edit.name].to(base[0].device).expand(len(batch.keys), -1, -1)
                    tally.place.update(base[0], made.pictures, mask)
                bar.update(len(batch.keys))

    def _add(self, tally: Tally, photos: Seen, seen: Seen, pictures: Tensor, chosen: Tensor) -> None:
        tally.identity.update(photos.embeddings, seen.embeddings)
        if len(chosen):
            features, logits = self.extractor.both(pictures[chosen.to(pictures.device)])
            tally.features.append(features.cpu())
            if logits is not None:
                tally.inception.update(logits)

    def _add_moves(self, tally: Tally, before: Seen, now: Seen, codes: Tensor, sign: Tensor) -> None:
        """How far readings moved along the way that the edit went, and whether classes stayed."""
        pictures = self.judge.numbers(now) - self.judge.numbers(before)
        tally.moves.append(torch.cat([pictures, codes], dim=1).cpu() * sign[:, None])
        for name in self.judge.classes:
            same = (now.told[name].argmax(dim=1) == before.told[name].argmax(dim=1)).double().cpu()
            tally.same.setdefault(name, []).append(same)

    def _serve(self, batch: FaceBatch, photos: Seen, chosen: Tensor, place: NDArray[np.int64]) -> None:
        """What a training loop gets, for realism and, of the first photos, for diversity."""
        tally, draws = self._tallies[Condition("served")], []
        is_generated = np.ones(len(batch.keys), bool)
        embeddings = []
        for epoch in range(NUM_DRAWS if place[0] < MAX_DIVERSITY else 1):
            items, places, recipe = self.reader.served(batch, epoch)
            pictures = self.reader.framed(items, places)
            seen = self.judge.look(items, places)
            if epoch == 0:
                self._outcome.append(recipe.source)
                self._attempts.append(recipe.attempts)
                self._add(tally, photos, seen, pictures, chosen)
                tally.change.append(_change(pictures, batch.photos))
            is_generated &= recipe.is_generated
            draws.append(pictures)
            embeddings.append(seen.embeddings)
        rows = torch.from_numpy(np.flatnonzero(is_generated & (place < MAX_DIVERSITY))).to(batch.items.device)
        if len(draws) < NUM_DRAWS or not len(rows):
            return
        self._diversity[0].update(torch.stack(draws, dim=1)[rows])
        keys = [batch.keys[row] for row in rows.tolist()]
        for drawn in embeddings:
            self._identity[0].update(drawn[rows], keys)
        self._identity[1].update(photos.embeddings[rows], keys)
        several = batch.photos[rows] if self._waiting is None else torch.cat([self._waiting, batch.photos[rows]])
        whole = len(several) // NUM_DRAWS * NUM_DRAWS
        self._diversity[1].update(several[:whole].unflatten(0, (whole // NUM_DRAWS, NUM_DRAWS)))
        self._waiting = several[whole:]

    def _choose_for_realism(self, place: NDArray[np.int64], batch: FaceBatch) -> Tensor:
        """Rows whose variants are compared with real photos; photos that they are compared with are kept.

        Of photos that serve as the real ones too, every other one is compared with, and the others with it.
        """
        if self.real is not None:
            return torch.from_numpy(np.flatnonzero(place < MAX_IMAGES))
        below = place < 2 * MAX_IMAGES
        for side, parity in ((self._real[0], 1), (self._real[1], 0)):
            rows = torch.from_numpy(np.flatnonzero(below & (place % 2 == parity))).to(batch.photos.device)
            self._keep_real(side, batch.photos[rows], parity == 1)
        return torch.from_numpy(np.flatnonzero(below & (place % 2 == 0)))

    def _keep_real(self, side: list[Tensor], pictures: Tensor, scores: bool) -> None:
        if not len(pictures):
            return
        features, logits = self.extractor.both(pictures)
        side.append(features.cpu())
        if logits is not None and scores:
            self._real_inception.update(logits)

    def _read_real(self, batch_size: int, progress: bool) -> None:
        """Features of real photos that are not those of the cache, one half for each side."""
        if self.real is None:
            return
        order = choose([photo.key for photo in self.real.photos], 2 * MAX_IMAGES)
        starts = range(0, len(order), batch_size)
        bar = tqdm(starts, desc="real photos", unit="batch", disable=None if progress else True)
        count = 0
        for start in bar:
            chips = self.real.read(order[start : start + batch_size], self._item_size)
            if chips is None:
                continue
            place = count + np.arange(len(chips))
            count += len(chips)
            for side, parity in ((self._real[0], 1), (self._real[1], 0)):
                rows = torch.from_numpy(np.flatnonzero(place % 2 == parity)).to(chips.device)
                self._keep_real(side, chips[rows], parity == 1)

    def _anchors(self, batch: FaceBatch) -> Tensor:
        """``(K, L, D)``, where edits begin."""
        own = batch.latents["self"].to(self.reader.stage.device).float()
        return own[:, 1] if own.ndim == 4 else own

    def _find_masks(self) -> dict[str, Tensor]:
        """Edit -> ``(R, R)`` bool, of edits of a part of the face, where it is known how faces lie in the pictures."""
        template, size = self.reader.train.chip_template, self.reader.resolution
        if template is None:
            return {}
        names = {edit.name: edit.direction.name if isinstance(edit, Target) else edit.name for edit in self.edits}
        return {name: region_mask(base, size, template) > 0 for name, base in names.items() if base in REGIONS}

    def _sheets(self, batch: FaceBatch, num_faces: int) -> dict[str, Image.Image]:
        """For each edit: photo, inversion, and variants from weak to strong, with the identity under each face."""
        first = _first(batch, num_faces)
        photos = self.judge.look(first.items, first.places).embeddings
        size = (first.items.shape[2], first.items.shape[3])
        inverted = (photos * self.judge.look_at_chips(first.inversions).embeddings).sum(dim=1)
        inversions = paste_aligned((first.inversions + 1.0) / 2.0, size)
        start: list[tuple[str, Tensor, list[str]]] = [
            ("photo", first.items, [""] * len(first.keys)),
            ("inversion", inversions, [f"id {cosine:.2f}" for cosine in inverted.tolist()]),
        ]
        sheets = {}
        for edit in self.edits:
            both = goes_both_ways(edit)
            rows = list(start)
            strengths: Sequence[float | None] = strengths_of(edit, _SHEET_STRENGTHS) or [None]
            for strength in strengths:
                made = self.reader.variants(first, edit, strength, signed=True)
                seen = self.judge.look(made.served, self.reader.places_served(first)).embeddings
                caption = edit.name if strength is None else f"{edit.name}\n{strength:{'+' if both else ''}.2f}"
                cosines = (seen * photos).sum(dim=1).tolist()
                rows.append((caption, made.served, [f"id {cosine:.2f}" for cosine in cosines]))
            pictures = [(caption, images.cpu()) for caption, images, _ in rows]
            sheets[edit.name] = contact_sheet(pictures, _FACE_SIZE, notes=[notes for *_, notes in rows])
        return sheets


def _first(batch: FaceBatch, count: int) -> FaceBatch:
    """The first of a batch."""
    latents = {name: values[:count] for name, values in batch.latents.items()}
    pictures = (batch.places[:count], batch.photos[:count], batch.inversions[:count])
    return FaceBatch(batch.members[:count], batch.keys[:count], batch.items[:count], latents, *pictures)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, 1)


def _change(pictures: Tensor, before: Tensor) -> Tensor:
    """``(K,)``: mean absolute change of ``(K, 3, R, R)`` in [-1, 1], as a share of the whole range."""
    return ((pictures - before).abs().mean(dim=(1, 2, 3)) / 2.0).double().cpu()
