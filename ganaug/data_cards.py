"""Data cards: of a cache, and of an export. Sections of "Datasheets for Datasets" (Gebru et al., arXiv 1803.09010)."""

import csv
import json
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.cache import LatentCache
from ganaug.card_text import NOT_KNOWN, Card, plain
from ganaug.checkpoints import BUNDLED, open_model
from ganaug.content_credentials import has_credentials
from ganaug.errors import UserInputError
from ganaug.export import FORMAT, MANIFEST, RECIPES, STATE
from ganaug.generators import build_generator
from ganaug.inspection import inspect_cache, printed
from ganaug.model_facts import model_facts

_MOTIVATION = f"Who made it, for what task and with whose money: {NOT_KNOWN}"
_CONTACT = f"Who maintains it, and how to reach them: {NOT_KNOWN}"
_MANY_LABELS = 25


def cache_card(cache: LatentCache, groups: str | Path | None = None) -> str:
    """The data card of a cache; reads all of it."""
    found, header = inspect_cache(cache), cache.header
    generator, keys = model_facts(header.generator), cache.keys()
    inverter, judge = dict(header.inverter), header.inverter.get("judge", {})
    title = Path(cache.path).name  # where it lies on somebody's disk is nobody else's business
    card = Card(title, found["records"], ["faces", "latent-codes", "gan-inversion", "personal-data"])
    card.text(
        f"A latent cache of ganaug: for each of {found['records']} faces a code of shape "
        f"{_times(found['latent_shape'])} from which generator `{generator['name']}` draws it again. It holds no "
        "photos, but whoever has it and the generator can draw the faces: **it is personal data if the photos are.**"
    )
    card.heading("Motivation")
    card.text(
        "Made by `ganaug precompute`, so that a training loop can be served variants of the same faces without "
        f"inverting them each time.\n\n{_MOTIVATION}"
    )
    card.heading("Composition")
    card.table(
        ["what", "count"],
        [
            ["faces with a code", found["records"]],
            ["of these damaged", found["damaged"]],
            ["photos without one", found["failures"]],
            ["folders of the first level in their names", len({key.split("/")[0] for key in keys if "/" in key})],
        ],
    )
    card.text(
        f"A record holds: the photo's name in its data set, which may name a person; the code, {header.dtype}"
        + (", and a second one that edits start from" if header.anchored else "")
        + (", and numbers that change the generator for this face" if header.delta is not None else "")
        + "; the figures below; where the face lay in the photo; the sha256 of the photo's file. No labels."
    )
    if found["failure_reasons"]:
        rows = [[kind["count"], kind["reason"]] for kind in found["failure_reasons"]]
        card.table(["photos", "why they have no code"], rows)
    card.groups(groups, keys)
    card.heading("Collection process")
    card.text(
        f"Where the photos come from, who took them, whether the people agreed, and their licence: "
        f"{NOT_KNOWN} The sha256 of each file tells whether a photo at hand is the one."
    )
    card.heading("Preprocessing")
    rows = [[f"alignment, {name}", value] for name, value in found["alignment"].items() if value is not None]
    rows += [[f"inverter, {name}", plain(value)] for name, value in sorted(inverter.items())]
    card.table(["setting", "value"], [*rows, ["format", header.format_version]])
    card.heading("Quality of the inversions")
    card.text(_judges(judge if isinstance(judge, Mapping) else {}))
    rows = [
        [name, *(printed(name, of[point]) for point in ("p5", "median", "p95", "worst")), of["worst_key"] or ""]
        for name, of in found["quality"].items()
        if name not in ("steps", "seconds")
    ]
    card.table(["figure", "5 % are below", "median", "5 % are above", "worst", "of"], rows)
    for name, of in found["below"].items():
        card.text(f"Below {name} {of['bound']:g}: {of['records']} of {found['records']}.")
    card.heading("The generator")
    card.facts(generator, {"fingerprint": found["fingerprint"]})
    card.heading("Uses")
    card.text(
        "Meant for: training a face model on these same photos, augmented by `ganaug.GANAugmentedDataset`.\n\n"
        "Bound by: the licence of the photos, what the people in them agreed to, and the licence of the generator "
        "above.\n\nNot meant for: passing on without the photos' terms; drawing people for anything that they did not "
        "agree to. Figures above that come from an embedder say little about groups that it was not trained on."
    )
    card.heading("Distribution")
    card.text(_readers(Path(cache.path)))
    card.heading("Maintenance")
    card.text(
        f"To erase people: `ganaug.LatentCache({title!r}).forget([key, ...])` removes their records and "
        "rewrites the file, so that their bytes are not in it; not reached are backups, copies, exports and generators "
        f"tuned on it. Digest of all codes: {found['digest'] or 'none, for records are damaged'}.\n\n"
        f"{_CONTACT}"
    )
    return card.markdown()


def export_card(folder: str | Path, groups: str | Path | None = None) -> str:
    """The data card of an export.

    Raises:
        UserInputError: If its files are damaged or gone.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text())
        settings, counts, known = state["settings"], state["counts"], state["format"] == FORMAT
        text = (folder / MANIFEST).read_text(errors="surrogateescape")
        rows = list(csv.DictReader(text.splitlines()))
        recipes = [json.loads(line) for line in (folder / RECIPES).read_text(errors="surrogateescape").splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserInputError(f"{folder}: its {STATE}, {MANIFEST} or {RECIPES} cannot be read: {error!r}") from error
    if not known:
        raise UserInputError(f"{folder / STATE}: format {state['format']!r}, expected {FORMAT!r}")
    card = Card(folder.name, len(rows), ["faces", "synthetic", "gan", "data-augmentation", "personal-data"])
    photos = list(dict.fromkeys(row["key"] for row in rows))
    card.text(
        f"{len(rows)} synthetic variants of {len(photos)} photographed faces, made by ganaug. Every picture says so in "
        "its text chunk `ganaug:synthetic`. The faces are those of the photos, changed: **it is personal data if the "
        "photos are.**"
    )
    card.heading("Motivation")
    card.text(f"Made by `ganaug export`, to train with variants of photos as files.\n\n{_MOTIVATION}")
    card.heading("Composition")
    card.table(["what became of the draws", "count"], [[name, count] for name, count in sorted(counts.items())])
    labels = Counter(row["label"] for row in rows)
    if set(labels) - {""} and len(labels) <= _MANY_LABELS:
        card.table(["label", "variants"], [[name or "none", count] for name, count in sorted(labels.items())])
    card.table(["edit", "variants"], [[n, c] for n, c in Counter(_edits(rows)).most_common()])
    card.groups(groups, [row["key"] for row in rows], "variants")
    card.text("No photo is in it. Names of files are the photos' own, and may name people.")
    card.heading("Collection process")
    card.text(f"Of the photos: {NOT_KNOWN} The data card of the cache says more.")
    card.heading("Preprocessing")
    card.table(["setting", "value"], [[name, plain(value)] for name, value in settings.items()])
    classical = sum(1 for recipe in recipes if recipe.get("classical"))
    card.text(f"{classical} of {len(recipes)} went through classical augmentation too.")
    card.heading("Quality")
    scores = np.array([float(row["identity"]) for row in rows if row["identity"]])
    if len(scores):
        low, middle, high = np.percentile(scores, [5, 50, 95])
        card.text(
            f"Cosine to the photo, by the gate's embedder, of {len(scores)} variants: median {middle:.3f}, 5 % are "
            f"below {low:.3f}, 5 % above {high:.3f}. A gate chose them, so that it is no independent measure."
        )
    else:
        card.text("No gate looked at identity: how many variants are still the person is not known.")
    whole = sum(1 for row in rows if float(row["scale"]) == 1.0)
    card.text(f"{whole} of {len(rows)} show the whole move that was drawn; a gate had the others made with less of it.")
    card.heading("The generator")
    card.facts(_bundled(settings.get("generator", "")), {"fingerprint": settings.get("generator", "unknown")})
    card.heading("Uses")
    card.text(
        "Meant for: training, mixed with the photos. `manifest.csv` names the photo of each variant: **keep the two on "
        "the same side of every split.**\n\nNot meant for: measuring accuracy (test on photos), or showing people as "
        "they are.\n\nBound by: the licence of the photos, what the people in them agreed to, and the licence of the "
        "generator."
    )
    card.heading("Distribution")
    signed = rows and (folder / rows[0]["file"]).is_file() and has_credentials(folder / rows[0]["file"])
    by = settings.get("signed_by")
    told = "Signed (C2PA) with the certificate of sha256 " + str(by) if by else "Not signed: the mark can be removed"
    told += "; `ganaug explain FILE` verifies it." if by and signed else "."
    card.text(f"{told}\n\n{_readers(folder)}")
    card.heading("Maintenance")
    card.text(
        "To erase a person: delete the files whose `key` in `manifest.csv` is theirs, and those whose recipe names "
        "them as `partner`; then their lines in `manifest.csv` and `recipes.jsonl`.\n\n"
        f"{_CONTACT}"
    )
    return card.markdown()


def _judges(judge: Mapping[str, Any]) -> str:
    """Which networks measured."""
    told = "Measured between each photo's chip and what the generator draws of its code, when it was made."
    names = [f"{name} by `{judge[name]}`" for name in ("perceptual", "identity") if name in judge]
    told += f" Networks: {', '.join(names)}." if names else " No network was asked."
    least = judge.get("same_person")
    return told + (f" From a cosine of {least:.3f} on the embedder takes two photos for one person." if least else "")


def _readers(path: Path) -> str:
    """Who can read a folder on this machine."""
    mode = stat.S_IMODE(path.stat().st_mode)
    who = "by its owner alone" if not mode & 0o077 else "**by others too**"
    return f"The folder can be read {who} (mode {mode:04o}). How it is passed on: {NOT_KNOWN}"


def _bundled(fingerprint: str) -> dict[str, Any]:
    """Facts of the bundled generator of that fingerprint; of others the files of an export have no name."""
    for name in BUNDLED:
        model = open_model(name)
        if "generator" in model.parts and build_generator(model).fingerprint == fingerprint:
            return model_facts(model)
    return {"name": "Not known: an export names its generator by the fingerprint"}


def _edits(rows: Iterable[Mapping[str, str]]) -> Iterable[str]:
    return (name for row in rows for name in (row["edits"].split(";") if row["edits"] else ["none"]))


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
