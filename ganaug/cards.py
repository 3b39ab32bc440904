"""Cards: what a cache, an export or a model file is, in Markdown, from what its files say and nothing else.

Data cards are in :mod:`ganaug.data_cards`; model cards follow the sections of "Model Cards for Model Reporting"
(Mitchell et al., arXiv 1810.03993, section 4). What the files do not say is said to be unknown, for whoever publishes
to fill in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganaug.cache import LatentCache
from ganaug.card_text import UNKNOWN, Card, escaped, plain
from ganaug.checkpoints import BUNDLED, Model, open_model
from ganaug.data_cards import cache_card, export_card
from ganaug.edits import edits_for, table_of
from ganaug.errors import UserInputError
from ganaug.export import STATE
from ganaug.generators import GENERATORS, build_generator
from ganaug.known_weights import KNOWN_WEIGHTS
from ganaug.model_facts import model_facts


def card_of(path: str | Path, groups: str | Path | None = None) -> tuple[str, str]:
    """The card of whatever lies at a path.

    Args:
        path: A cache, the folder of an export, or a model: a name or a file.
        groups: CSV with a line per photo; its columns of few values are counted. For data only.

    Returns:
        ``"cache"``, ``"export"`` or ``"model"``, and Markdown.

    Raises:
        UserInputError: For groups of a model, or a table that names none of the photos.
        CacheError: If it is a folder without a sound cache or export.
        CheckpointError: For a model file that cannot be opened.
    """
    folder = Path(path)
    if folder.is_file() or str(path) in BUNDLED or str(path) in KNOWN_WEIGHTS:
        if groups is not None:
            raise UserInputError("--groups counts photos, and a model has none; leave it out")
        return "model", model_card(path)
    if (folder / STATE).is_file():
        return "export", export_card(folder, groups)
    if not folder.exists():
        raise UserInputError(f"{path}: no such cache, export or model file")
    return "cache", cache_card(LatentCache(folder), groups)


def model_card(source: str | Path | Model) -> str:
    """The model card of a file: of a generator with what comes with it, or of an embedder.

    Raises:
        CheckpointError: For a file that cannot be opened.
    """
    model = open_model(source)
    facts, described = model_facts(model), model.description
    draws = "generator" in model.parts and facts["family"] in GENERATORS
    kinds = {"gan": draws, "data-augmentation": draws, "embedder": "embedder" in model.parts}
    tags = ["faces", *(tag for tag, is_one in kinds.items() if is_one)]
    card = Card(facts["name"], None, tags, licence=facts["licence"], model=True)
    card.heading("Model details")
    rows: list[list[Any]] = [["family", facts["family"]], ["networks in the file", ", ".join(sorted(model.parts))]]
    rows += [[f"{part}, numbers", sum(t.numel() for t in model.part(part).values())] for part in sorted(model.parts)]
    rows += [[name, plain(value)] for name, value in sorted(_mapping(described.get("config")).items())]
    rows += [["licence and attribution", facts["licence"]], ["made by", "Not known"], ["date", "Not known"]]
    if "tuned_from" in facts:
        rows.append(["tuned from", facts["tuned_from"]])
    generator = build_generator(model) if draws else None
    if generator is not None:
        rows.append(["fingerprint", generator.fingerprint])
    card.table(["", ""], rows)
    hand_written = model.path.with_suffix(".md")
    if hand_written.is_file():
        card.text(f"A card written by hand, with measurements, lies beside the file: `{hand_written.name}`.")
    card.heading("Intended use")
    if "embedder" in model.parts:
        card.text("Faces to vectors whose cosine says how likely two pictures show one person: for gates and figures.")
    elif generator is None:
        card.text(UNKNOWN)
    if generator is not None:
        card.text("Draws variants of photographed faces, for augmentation, with `ganaug precompute` and the loader.")
        card.text(f"Edits that it serves: {', '.join(edits_for(generator))}.")
        for name, why in table_of(generator).unsupported.items():
            card.text(f"Not served: `{name}`, for {why}.")
    card.text(
        "Not meant for: identifying people in public places, or showing somebody saying or doing what they did not."
    )
    card.heading("Factors")
    calibration = _mapping(described.get("calibration"))
    asked = calibration.get("groups")
    card.text(
        f"The threshold was set between people of equal {escaped(', '.join(map(str, asked)))}."
        if isinstance(asked, list) and asked
        else f"Groups: {UNKNOWN}"
    )
    card.heading("Metrics")
    log = _logged(model.path, facts.get("images_seen"))
    if calibration:
        card.table(["at the threshold", "value"], [[name, plain(value)] for name, value in calibration.items()])
    if log is not None:
        card.text(f"From `log.jsonl` beside the file, after {log['images']} images, by the run's own judge:")
        card.table(
            ["figure", "value"], [[name, plain(v)] for name, v in log.items() if name != "images" and v is not None]
        )
    if not calibration and log is None:
        card.text(UNKNOWN)
    card.heading("Evaluation data")
    card.text(
        escaped(f"{calibration['photos']} photos of `{calibration['data']}`.")
        if {"photos", "data"} <= set(calibration)
        else UNKNOWN
    )
    card.heading("Training data")
    card.text(
        escaped(facts["trained_on"]) + (f"; {facts['images_seen']} images shown." if "images_seen" in facts else ".")
    )
    training = _mapping(described.get("training"))
    if training:
        card.table(["setting", "value"], [[name, plain(value)] for name, value in sorted(training.items())])
    card.heading("Ethical considerations")
    card.text(
        escaped(str(facts.get("privacy", "Whether it gives away single faces of its training data is not known.")))
    )
    card.heading("Caveats and recommendations")
    if "img_resolution" in facts:
        card.text(f"Works at {facts['img_resolution']} px: what is larger is shrunk before, and enlarged after.")
    card.text("What is said to be unknown here should be filled in by whoever publishes the file.")
    return card.markdown()


def _logged(path: Path, images: Any) -> dict[str, Any] | None:
    """The line of the run's log that belongs to a model file, if it lies beside it."""
    try:
        lines = [json.loads(line) for line in path.with_name("log.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    return next((line for line in reversed(lines) if isinstance(line, dict) and line.get("images") == images), None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
