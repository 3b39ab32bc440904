"""A sheet per edit, from weak to strong, with what was measured printed under each face."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.cached_faces import InversionDataset
from ganaug.dataset import GANAugmentedDataset
from ganaug.edits.table import table_of
from ganaug.edits.target import Gauge, Target
from ganaug.embedders import FaceEmbedder
from ganaug.faces.paste import aligned_to_item, chip_to_item, paste_aligned
from ganaug.gate import IdentityGate
from ganaug.gatekeeper import Gatekeeper
from ganaug.interfaces import NUM_EDIT_UNIFORMS, CacheError, Edit, Embedder, UserInputError
from ganaug.latents import split_anchor
from ganaug.preview import only, preview_faces
from ganaug.rng import uniforms
from ganaug.sheet import contact_sheet
from ganaug.stage import DeviceStage
from ganaug.synthetic import check_png, save_synthetic

FACE_SIZE = 128  # pixels
LINE_LENGTH = 23  # characters of the small print that fit below a face
NUM_STRENGTHS = 5
MAX_SCORES = 4  # of calibrated directions, under each face
_PROBES = 64  # draws that tell whether an edit goes both ways

Row = tuple[str, Tensor, list[str]]  # caption, images (N, 3, H, W) in [0, 1], what stands under each


@torch.no_grad()
def strength_sheets(
    train: GANAugmentedDataset,
    out: str | Path,
    num_faces: int = 8,
    device: torch.device | None = None,
    embedder: Embedder | None = None,
    scores: Mapping[str, Gauge] | None = None,
    num_strengths: int = NUM_STRENGTHS,
) -> list[Path]:
    """Draws and saves each edit at strengths from weak to strong.

    Rows: photo, inversion, and one row per strength, evenly over the edit's range; edits that go both ways have both.
    Under each face:

    - ``id``: cosine between the embeddings of what is shown and of the photo, 1 for the same picture;
    - ``code``: scores that calibrated directions read off the edited latents;
    - ``net``: what the embedder says of the picture, where it tells attributes.

    Args:
        train: Wrapped dataset; its policy's edits are drawn.
        out: PNG with all edits, or a folder (a name without a suffix) for one ``EDIT.png`` each. Every file has the
            text chunk ``ganaug:synthetic``.
        num_faces: Columns.
        device: Where to make variants.
        embedder: See :func:`ganaug.embedders.load_embedder`; None: without ``id`` and ``net``.
        scores: Name -> reading of a score to tell beside the edit's own; default: those of the generator's edit table.
        num_strengths: Rows per edit, at least 2.

    Returns:
        The files written.

    Raises:
        CacheError: If no sample has latents that can be used.
        UserInputError: If ``out`` is neither ``.png`` nor a folder, or nothing is to be drawn.
    """
    if num_strengths < 2:
        raise UserInputError(f"num_strengths must be at least 2, got {num_strengths}")
    edits: list[Edit] = list(train.policy.edits)
    if not edits:
        raise UserInputError("there is no edit to draw: the policy has none")
    out = Path(out)
    folder = out.is_dir() or not out.suffix
    targets = [out / f"{_as_file(edit.name)}.png" for edit in edits] if folder else [check_png(out, "a sheet")]
    if scores is None:
        known = [gauge_of(edit) for edit in table_of(train.generator).edits.values()]
        scores = dict(gauge for gauge in known if gauge is not None)
    sheet = _Sheet(train, num_faces, device or torch.device("cpu"), embedder, scores)
    first = sheet.untouched()
    rows = {edit.name: sheet.rows_of(edit, num_strengths) for edit in edits}
    for path, shown in zip(targets, [[edit] for edit in edits] if folder else [edits], strict=True):
        lines = first + [row for edit in shown for row in rows[edit.name]]
        picture = contact_sheet(
            [(caption, images) for caption, images, _ in lines], FACE_SIZE, notes=[notes for *_, notes in lines]
        )
        save_synthetic(picture, path, {"generator": train.header.fingerprint, "edits": [edit.name for edit in shown]})
    return targets


def strengths_of(edit: Edit, count: int) -> list[float]:
    """Strengths from weak to strong, or from strong in one sense to strong in the other; empty if it has none.

    An edit's ``strength`` is its range; where it has no such attribute, draws tell.

    Example:
        >>> from ganaug.edits import Direction, StyleMixing
        >>> strengths_of(StyleMixing("fine", [1], {"hair"}, strength=(0.2, 0.6)), 3)
        [0.2, 0.4, 0.6]
        >>> strengths_of(Direction("up", torch.ones(4), 1.0, [0], {"age"}, strength=(1.0, 2.0)), 4)
        [-2.0, -1.0, 1.0, 2.0]
    """
    numbers = uniforms(0, 0, np.arange(_PROBES), "strengths", NUM_EDIT_UNIFORMS)
    drawn = edit.sample_params(torch.from_numpy(numbers)).get("strength")
    if drawn is None:
        return []
    given: Any = getattr(edit, "strength", None)
    magnitudes = drawn.abs()
    low, high = map(float, given) if given is not None else (float(magnitudes.min()), float(magnitudes.max()))
    if low == high and float(drawn.min()) >= 0.0:
        low = 0.0 if high == 0.0 else high / count  # an edit of one strength, shown on the way to it
    both = bool((drawn < 0).any()) and bool((drawn > 0).any())
    steps = np.linspace(low, high, -(-count // 2) if both else count).round(6).tolist()
    if not both:
        return [-s for s in reversed(steps)] if bool((drawn < 0).any()) else steps
    return [-s for s in reversed(steps)] + steps


def gauge_of(edit: Edit) -> tuple[str, Gauge] | None:
    """Name and reading of the score that an edit moves, if it is calibrated."""
    if isinstance(edit, Target):
        return edit.direction.name, edit.gauge
    found = getattr(edit, "calibration", None)
    return None if found is None else (edit.name, found)


class _Sheet:
    """The faces of a sheet, and what is measured on them."""

    def __init__(
        self,
        train: GANAugmentedDataset,
        num_faces: int,
        device: torch.device,
        embedder: Embedder | None,
        scores: Mapping[str, Gauge],
    ) -> None:
        self.train, self.scores = train, scores
        self.stage = DeviceStage(train, device)
        members, photos = preview_faces(train, num_faces)
        recipe = only(train, members, [train.items[i].key for i in members])
        self.latents = train.latents_for(recipe)
        self.members = members[recipe.is_generated]
        if not len(self.members):
            raise CacheError(f"none of the first {num_faces} records of {train.cache.path} can be used")
        self.keys = [train.items[i].key for i in self.members]
        self.photos = photos[torch.from_numpy(recipe.is_generated)].to(self.stage.device)
        self.size = (photos.shape[2], photos.shape[3])
        self.embedder = embedder
        self.keeper: Gatekeeper | None = None
        self.seen: list[Tensor | None] = []
        if embedder is not None:
            gate = IdentityGate(embedder, -1.0).to(self.stage.device)
            self.keeper = Gatekeeper([gate], train.generator.img_resolution, train.chip_template)
            self.seen = self.keeper.look_at_photos(self.photos, self._matrices(served=False), self.keys)

    def untouched(self) -> list[Row]:
        """The rows of photos and of what the generator makes of them."""
        recipe = only(self.train, self.members, self.keys)
        codes = self.stage.augmenter.edit(recipe, np.arange(len(self.keys)), self.latents)
        drawn = self.stage.augmenter.render(codes, self.latents.get("delta"))
        fitted = paste_aligned(drawn, self.size)
        inverted = self._notes(fitted, aligned_to_item(drawn.shape[2], self.size), codes, None)
        photos = self._notes(self.photos, self._matrices(served=False), None, None)
        return [("photo", self.photos, photos), ("inversion", fitted, inverted)]

    def rows_of(self, edit: Edit, count: int) -> list[Row]:
        """One row per strength of an edit."""
        recipe = only(self.train, self.members, self.keys, edit)
        latents = self.latents | self.train.latents_for(recipe)
        rows, at = [], np.arange(len(self.keys))
        strengths: Sequence[float | None] = strengths_of(edit, count) or [None]
        signed = any(strength is not None and strength < 0 for strength in strengths)
        for strength in strengths:
            if strength is not None:
                recipe.edit_params[edit.name]["strength"] = torch.full((len(at),), strength)
            codes = self.stage.augmenter.edit(recipe, at, latents)
            shown = self.stage.augmenter.generate(self.photos, recipe, at, latents)
            caption = edit.name if strength is None else f"{edit.name}\n{strength:{'+' if signed else ''}.2f}"
            rows.append((caption, shown, self._notes(shown, self._matrices(served=True), codes, edit)))
        return rows

    def _matrices(self, served: bool) -> Tensor:
        """``(K, 2, 3)`` on the CPU, chip to pixels of the items, or of what is served in their place."""
        resolution = self.train.generator.img_resolution
        if isinstance(self.train.dataset, InversionDataset) or (served and self.train.paste == "aligned"):
            return aligned_to_item(resolution, self.size).expand(len(self.keys), -1, -1)
        return chip_to_item(self.latents["geometry"].cpu(), resolution, self.size, self.train.fit)

    def _notes(self, shown: Tensor, matrices: Tensor, codes: Tensor | None, edit: Edit | None) -> list[str]:
        """What stands under each of ``shown (K, 3, H, W)``, drawn from ``codes``; None for photos."""
        matrices = matrices.expand(len(shown), -1, -1)
        lines: list[list[str]] = [[] for _ in self.keys]
        if codes is not None:
            for line, cosine in zip(lines, self._cosines(shown, matrices), strict=False):
                line.append(f"id {cosine:.2f}")
            for line, words in zip(lines, self._read(codes, edit), strict=False):
                line += _wrapped("code", words)
        for line, words in zip(lines, self._told(shown, matrices), strict=False):
            line += _wrapped("net", words)
        return ["\n".join(line) for line in lines]

    def _cosines(self, shown: Tensor, matrices: Tensor) -> list[float]:
        """How much each looks like the person of its photo; nothing without an embedder."""
        if self.keeper is None:
            return []
        cosines: list[float] = self.keeper.judge(shown, matrices, self.seen)[0].tolist()
        return cosines

    def _read(self, codes: Tensor, edit: Edit | None) -> list[list[str]]:
        """The scores of each, that of the edit first; nothing without any."""
        own = None if edit is None else gauge_of(edit)
        gauges = ({} if own is None else {own[0]: own[1]}) | {**self.scores}
        chosen = list(gauges.items())[:MAX_SCORES]
        places = self._places(codes)
        columns = [[_figure(name, score, gauge.link) for score in gauge(places).tolist()] for name, gauge in chosen]
        return [list(row) for row in zip(*columns, strict=True)]

    def _told(self, shown: Tensor, matrices: Tensor) -> list[list[str]]:
        """What the embedder's heads say of each; nothing if it has none."""
        if self.keeper is None or not isinstance(self.embedder, FaceEmbedder) or self.embedder.heads is None:
            return []
        classes = self.embedder.attribute_classes
        told = self.embedder.attributes(self.keeper.frame(0, shown, matrices))
        # Of more than two classes the likeliest says little without the others, for which there is no room.
        columns = [
            [_seen(name, classes[name], value) for value in values]
            for name, values in told.items()
            if values.ndim == 1 or values.shape[1] == 2
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def _places(self, codes: Tensor) -> Tensor:
        """Where scores are read: the anchor, moved as the code was, of records that have one."""
        code, anchor = split_anchor(self.latents["self"].to(codes))
        return codes if code is anchor else codes - code + anchor


def _figure(name: str, score: float, link: str) -> str:
    """A probability as ``smile .83``, an amount as ``age 34``."""
    if link == "logistic":
        return f"{name} {score:.2f}".replace(" 0.", " .")
    return f"{name} {score:.0f}" if abs(score) >= 10 else f"{name} {score:.1f}"


def _seen(name: str, classes: tuple[str, ...], values: Tensor) -> str:
    """An amount, or the likelier of two classes."""
    if values.ndim == 0:
        return f"{name} {float(values):.0f}"
    best = int(values.argmax())
    return _figure(classes[best], float(values[best]), "logistic")


def _wrapped(first: str, words: Sequence[str]) -> list[str]:
    """``words`` on lines, the first of which begins with ``first``."""
    lines = [first]
    for word in words:
        if len(lines[-1]) + 2 + len(word) <= LINE_LENGTH:
            lines[-1] += f"  {word}"  # the space of Pillow's font is a hair's breadth
        else:
            lines.append(word)
    return lines


def _as_file(name: str) -> str:
    """An edit's name as that of a file."""
    return re.sub(r"[^\w.=+-]+", "_", name)
