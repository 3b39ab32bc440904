"""What the loader serves with the identity gate, with the label projected out, and without: for benchmarks/edits.py.

Everything goes through ``GANAugmentedDataset(...).loader(return_info=True)``, as in training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import edit_measures as measures
import torch
import torch.nn.functional as F
from attributes import AGES, GENDERS, RACES, AttributeJudge, Labels
from edit_faces import Faces, Photos
from judge import Judge
from torch import Tensor

from ganaug import GANAugmentedDataset
from ganaug.embedders import AttributeClassifier, load_embedder
from ganaug.gate import IdentityGate, LabelGate
from ganaug.interfaces import Edit, Generator, UserInputError
from ganaug.provenance import Recipe, Source

BATCH = 64
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the bundled embedder
SEED = 6
COLUMNS = ("race", "gender", "age")
LABELS: dict[str, tuple[str, ...]] = {"gender": GENDERS, "race": RACES, "age": AGES}
# Labels to train on: of nine age bins the judge is right in half of the cases, of three groups in most.
AGE_GROUPS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])  # up to 19, up to 39, older
GROUP_BORDERS = torch.tensor([20.0, 40.0])  # years


def targets(faces: Faces, column: str) -> list[int]:
    """Number of each face's class in a column of FairFace's labels; of three for ages."""
    numbers = [LABELS[column].index(row[column]) for row in faces.labels]
    return AGE_GROUPS[torch.tensor(numbers)].tolist() if column == "age" else numbers


def wrap(faces: Faces, generator: Generator, column: str = "gender", **options: Any) -> GANAugmentedDataset:
    """The faces as a dataset all of whose samples are variants, without classical augmentation and degradation."""
    base = Photos(faces.root, faces.keys, faces.items.shape[3], targets(faces, column))
    return GANAugmentedDataset(base, faces.cache, classical=None, generator=generator, **options)


def serve(train: GANAugmentedDataset, epochs: int) -> tuple[Tensor, list[Recipe]]:
    """Some epochs: images ``(N, 3, S, S)`` in [0, 1] and the recipe of each."""
    images, recipes = [], []
    loader = train.loader(batch_size=BATCH, return_info=True)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            info = batch[-1]
            images.append(batch[0].float() / 255 if batch[0].dtype == torch.uint8 else batch[0])
            recipes += info["recipe"]
    return torch.cat(images), recipes


def chips_of(faces: Faces, images: Tensor, mode: str) -> Tensor:
    """Chips of served images, whole epochs one after the other."""
    if mode == "aligned":
        return F.interpolate(images, faces.base.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
    return torch.cat([faces.chips(part) for part in images.split(len(faces.keys))])


def gate_figures(
    faces: Faces, generator: Generator, edits: Sequence[Edit], identity: Judge, epochs: int
) -> dict[str, Any]:
    """Acceptance by edit and group, back-offs, and the judge's cosine of what is served; with and without the gate.

    ``aligned``: the generator's chips are served, and compared with the inversions. ``paste``: variants are pasted into
    the photos, and compared with the photos. ``one edit``: every variant has one, so that acceptance is that edit's;
    ``one or two``: as a policy draws them by default.
    """
    figures: dict[str, Any] = {"epochs": epochs, "faces": len(faces.keys)}
    before = {"aligned": identity(faces.base), "paste": identity(faces.chips(faces.items))}
    for mode, max_edits in (("aligned", 1), ("paste", 1), ("paste", 2)):
        for gated in (True, False):
            # A gate that everything passes is no gate, but notes its score.
            watcher = "auto" if gated else IdentityGate(load_embedder(), threshold=-1.0)
            name = f"{mode}, {'one edit' if max_edits == 1 else 'one or two'}, {'gate' if gated else 'no gate'}"
            try:
                options: dict[str, Any] = {"preserve": ["identity"], "gate": watcher, "paste": mode}
                train = wrap(faces, generator, edits=edits, ratio=1.0, seed=SEED, **options)
                train.policy = replace(train.policy, max_edits=max_edits)
                images, recipes = serve(train, epochs)
            except (TypeError, UserInputError) as error:
                figures[name] = {"failed": str(error)}
                continue
            rows = torch.tensor([faces.keys.index(recipe.key) for recipe in recipes])
            cosines = F.cosine_similarity(identity(chips_of(faces, images, mode)), before[mode][rows])
            figures[name] = gate_summary([faces.labels[row] for row in rows.tolist()], recipes, cosines)
            if not gated:
                scores = torch.tensor([recipe.identity for recipe in recipes])
                figures[name]["thresholds"] = {
                    threshold: measures.threshold_figures(scores, cosines, threshold) for threshold in THRESHOLDS
                }
                figures[name]["correlation"] = float(torch.corrcoef(torch.stack([scores, cosines]))[0, 1])
    return figures


def gate_summary(labels: Labels, recipes: Sequence[Recipe], cosines: Tensor) -> dict[str, Any]:
    """Figures of one run.

    Args:
        labels: Of each sample.
        recipes: Of each sample.
        cosines: ``(N,)`` of each sample, by the judge.
    """
    made = torch.tensor([recipe.source is Source.GENERATED for recipe in recipes])
    tried = made | torch.tensor([recipe.source is Source.REJECTED for recipe in recipes])

    def of(chosen: list[bool]) -> dict[str, Any]:
        rows = torch.tensor(chosen) & tried
        kept = rows & made
        return {
            "tried": int(rows.sum()),
            "accepted": float(kept.sum() / rows.sum().clamp(min=1)),
            **measures.likeness(cosines[kept]),
        }

    scales = [f"{recipe.scale:g}" for recipe, there in zip(recipes, made.tolist(), strict=True) if there]
    found: dict[str, Any] = of([True] * len(recipes))
    found["scale"] = {scale: scales.count(scale) / len(scales) for scale in sorted(set(scales), reverse=True)}
    single = [recipe.edits[0].name if len(recipe.edits) == 1 else "" for recipe in recipes]
    found["by edit"] = {name: of([edit == name for edit in single]) for name in dict.fromkeys(single) if name}
    found["by group"] = {
        column: {
            kind: of([row[column] == kind for row in labels])
            for kind in LABELS[column]
            if any(row[column] == kind for row in labels)
        }
        for column in COLUMNS
    }
    return found


def verdict(scores: dict[str, Tensor], column: str) -> Tensor:
    """``(N,)`` the judge's class: gender, race, or the age group of the years that it guesses."""
    if column == "gender":
        return (scores["gender"][:, 0] > 0).long()
    if column == "race":
        return scores["race"].argmax(dim=1)
    return torch.bucketize(scores["age"][:, 0].contiguous(), GROUP_BORDERS, right=True)


def label_figures(
    faces: Faces, generator: Generator, edits: Sequence[Edit], judge: AttributeJudge, epochs: int = 1
) -> dict[str, Any]:
    """Verdicts on variants that differ from those on the photos, beside those on plain inversions; by trained label.

    ``wrong`` is the share that differs from FairFace's label. In the generator's chips (``paste="aligned"``). Edits
    that ``preserve=["label"]`` refuses are left out of the runs with it, and the reasons are told.
    """
    figures: dict[str, Any] = {"epochs": epochs, "faces": len(faces.keys)}
    photos, inversions = judge(faces.chips(faces.items)), judge(faces.base)
    for column in COLUMNS:
        photo, plain = verdict(photos, column), verdict(inversions, column)
        truth = torch.tensor(targets(faces, column))
        runs: dict[str, Any] = {"plain": _flips(plain, photo, truth)}
        allowed, refused = accepted_edits(faces, generator, column, edits)
        for name, some, options in (
            ("nothing, all edits", list(edits), {"gate": None}),
            ("nothing, the same edits", allowed, {"gate": None}),
            ("label", allowed, {"preserve": ["label"], "gate": None}),
            ("label and identity", allowed, {"preserve": ["label", "identity"]}),
            ("label, and a gate", allowed, {"preserve": ["label"], "gate": _heads_gate(column)}),
        ):
            if options.get("gate", "auto") is None and "gate" in name:
                continue  # no head for this label
            try:
                train = wrap(faces, generator, column, ratio=1.0, edits=some, seed=SEED, paste="aligned", **options)
                images, recipes = serve(train, epochs)
            except (TypeError, UserInputError) as error:
                runs[name] = {"failed": str(error)}
                continue
            made = torch.tensor([recipe.is_generated for recipe in recipes])
            rows = torch.tensor([faces.keys.index(recipe.key) for recipe in recipes])[made]
            seen = verdict(judge(chips_of(faces, images, "aligned")), column)[made]
            runs[name] = _flips(seen, photo[rows], truth[rows]) | {"variants": int(made.sum())}
            # How many more flip among the variants that have an edit, alone or with another, than of the same faces.
            more = (seen != photo[rows]).double() - (plain[rows] != photo[rows]).double()
            served = [{edit.name for edit in recipe.edits} for recipe in recipes if recipe.is_generated]
            runs[name]["more"] = float(more.mean())  # a gate leaves faces out: compared with plain ones of the same
            having = {edit.name: torch.tensor([edit.name in names for names in served]) for edit in some}
            runs[name]["more by edit"] = {edit: float(more[has].mean()) for edit, has in having.items() if has.any()}
        figures[column] = {"runs": runs, "refused": refused}
    return figures


def _heads_gate(column: str) -> LabelGate | None:
    """The gate that ``preserve=["gender"]`` or ``["race"]`` brings: a head of the bundled embedder, not the judge."""
    embedder = load_embedder()
    return LabelGate(AttributeClassifier(embedder, column)) if column in ("gender", "race") else None


def accepted_edits(
    faces: Faces, generator: Generator, column: str, edits: Sequence[Edit]
) -> tuple[list[Edit], dict[str, str]]:
    """Edits that ``preserve=["label"]`` lets through, and why it refuses the others."""
    allowed, refused = [], {}
    for edit in edits:
        try:
            train = wrap(faces, generator, column, ratio=1.0, edits=[edit], preserve=["label"], gate=None)
            train.draw([0], 0)
            train.loader(batch_size=1)
        except (TypeError, UserInputError) as error:
            refused[edit.name] = str(error)
        else:
            allowed.append(edit)
    return allowed, refused


def _flips(seen: Tensor, photo: Tensor, truth: Tensor) -> dict[str, Any]:
    return {"flips": measures.flip_rate(seen, photo), "wrong": measures.flip_rate(seen, truth)}
