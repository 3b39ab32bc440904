"""Makes a study: a folder with pictures whose names say nothing, and the database that knows what they are."""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ganaug import rng
from ganaug.dataset import GANAugmentedDataset
from ganaug.errors import UserInputError
from ganaug.study.consent import consent_text
from ganaug.study.pictures import Pictures
from ganaug.study.plan import Faces, Shown, Trial, plan_trials, schedule
from ganaug.study.store import IMAGES, Store
from ganaug.study.tasks import TASKS

TOKEN_BYTES = 24  # 192 bits: nobody guesses one
NAME_BYTES = 12
MAX_EXPOSURE_MS = 60_000
MAX_TRIALS = 1000  # of a task; nobody answers more in one sitting
MAX_RATERS = 1000
# Attributes by which error rates are told and pictures are matched, where a dataset has them.
GROUPS = ("race", "gender", "age")

_README = """\
This is a study of `ganaug study`: personal data, for you alone.

images/ holds photos of people and pictures that were generated from such photos. Their names are random, and the
generated ones carry no mark, since that would be the answer: which they are, by which generator and with which edits,
is in the table `pictures` of study.sqlite. Do not pass the pictures on without it.
"""


@dataclass(frozen=True)
class StudyConfig:
    """What a study asks.

    Attributes:
        tasks: Of :data:`ganaug.study.tasks.TASKS`, in the order in which raters meet them.
        trials: Of each task.
        catch: Trials of each task, beside those, that everyone who looks answers rightly.
        raters: How many links are made.
        exposure_ms: How long pictures are shown, in milliseconds; 0: until the answer.
        seed: Decides which photos meet, and each rater's order.
        consent: File with the text that raters must accept; None: the default text.

    Raises:
        UserInputError: For values out of range.
    """

    tasks: Sequence[str] = TASKS
    trials: int = 40
    catch: int = 4
    raters: int = 5
    exposure_ms: int = 0
    seed: int = 0
    consent: str | Path | None = None

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise UserInputError(
                f"tasks must be one or both of {', '.join(TASKS)}, got {', '.join(self.tasks) or 'none'}"
            )
        bounds = {"trials": (1, MAX_TRIALS), "catch": (0, MAX_TRIALS), "raters": (1, MAX_RATERS)}
        for name, (low, high) in {**bounds, "exposure_ms": (0, MAX_EXPOSURE_MS)}.items():
            if not low <= getattr(self, name) <= high:
                raise UserInputError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")


def create_study(
    train: GANAugmentedDataset,
    out: str | Path,
    config: StudyConfig,
    attributes: Sequence[Mapping[str, str]] | None = None,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Draws variants, picks photos and writes the study, whole or not at all.

    Args:
        train: Wrapped photos with ``ratio=1``, without classical augmentation; variants are shown as it serves them.
        out: Folder that is made, readable by its owner alone.
        config: What the study asks.
        attributes: What is known of each photo: ``identity``, and what is in :data:`GROUPS`.
        batch_size: Faces at a time.
        device: Where to make variants.

    Returns:
        Figures: trials, pictures, raters.

    Raises:
        UserInputError: If ``out`` is there already, or there are too few photos.
    """
    out = Path(out)
    if out.exists():
        raise UserInputError(f"{out} is there already: give a new folder for the study")
    pictures = Pictures(train, batch_size, device)
    known = [{}] * len(train) if attributes is None else attributes
    if len(known) != len(train):
        raise ValueError(f"{len(known)} attributes for {len(train)} photos")
    faces = _faces(train, known, config.seed)
    num = len(config.tasks) * (config.trials + config.catch)
    consent = consent_text(config.consent, num)  # before the work
    trials = plan_trials(config.tasks, config.trials, config.catch, faces, pictures.with_variant)
    pictures.read_photos([shown.index for trial in trials for shown in (trial.first, trial.second)])
    meta = {
        "consent": consent,
        "exposure_ms": config.exposure_ms,
        "seed": config.seed,
        "tasks": list(config.tasks),
        "generator": str(train.header.generator),
        "fingerprint": train.header.fingerprint,
        "edits": [edit.name for edit in train.policy.edits],
        "paste": train.paste,
        "photos": len(faces.order),
        "persons_known": bool(faces.persons),
    }
    draft = out.with_name(f".{out.name}.draft")  # of a run that was killed, it is made again
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(mode=0o700)
    try:
        _write(draft, trials, pictures, faces, config, meta)
        os.rename(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    kinds = [f"{trial.task}: {trial.kind}" for trial in trials]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return {
        "out": str(out),
        "trials": len(trials),
        "kinds": counts,
        "raters": config.raters,
        "pictures": 2 * len(trials),
    }


def _faces(train: GANAugmentedDataset, attributes: Sequence[Mapping[str, str]], seed: int) -> Faces:
    """The photos that have a usable record, in the study's order."""
    usable = train.pool.usable
    order = [i for i in rng.permutation(seed, 0, len(usable), "study photos").tolist() if usable[i]]
    groups = {i: {name: known[name] for name in GROUPS if known.get(name)} for i, known in enumerate(attributes)}
    persons = {i: known["identity"] for i, known in enumerate(attributes) if known.get("identity")}
    return Faces(order, groups, persons)


def _write(
    folder: Path,
    trials: Sequence[Trial],
    pictures: Pictures,
    faces: Faces,
    config: StudyConfig,
    meta: Mapping[str, Any],
) -> None:
    files: dict[str, bytes] = {}
    picture_rows: list[tuple[Any, ...]] = []

    def add(shown: Shown) -> str:
        # A file for every showing of a picture: a name that came twice would tell that the pictures are the same.
        name = f"{secrets.token_hex(NAME_BYTES)}.png"
        files[name] = pictures.png(shown, config.seed)
        made = shown.kind == "variant"
        recipe = pictures.recipes[shown.index].to_dict() if made else {}
        key = pictures.train.items[shown.index].key
        picture_rows.append((name, shown.kind, _text(key), int(made), json.dumps(recipe)))
        return name

    trial_rows = []
    for number, trial in enumerate(trials):
        made = any(shown.kind == "variant" for shown in (trial.first, trial.second))
        edits = [edit.name for edit in pictures.recipes[trial.subject].edits] if made else []
        row = (number, trial.task, trial.kind, add(trial.first), add(trial.second), trial.answer)
        trial_rows.append((*row, json.dumps(edits), json.dumps(faces.groups.get(trial.subject, {}))))
    (folder / IMAGES).mkdir(mode=0o700)
    for name in sorted(files):  # in this order, so that times and places on the disk tell nothing
        with open(os.open(folder / IMAGES / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(files[name])
    (folder / "README.txt").write_text(_README)
    raters = range(1, config.raters + 1)
    showings = [
        (rater, place, trial, int(swapped))
        for rater in raters
        for place, (trial, swapped) in enumerate(schedule(trials, config.seed, rater))
    ]
    tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in raters]
    Store.create(folder, meta, sorted(picture_rows), trial_rows, tokens, showings)


def _text(key: str) -> str:
    """A key that SQLite can hold: the name of a photo need not be UTF-8."""
    return key.encode(errors="surrogateescape").decode(errors="replace")
