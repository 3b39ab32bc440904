"""The page of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ganaug.evaluation.summary import share_of, strongest
from ganaug.intervals import Interval, printed
from ganaug.page import Cell, Page

Figures = Mapping[str, Any]
# Of readings by unit, and what stands behind them.
_DECIMALS = {"years": 1, "probability": 2, "own": 3}
_UNITS = {"years": ", years", "probability": ", probability", "own": ""}


def build_page(figures: Figures, sheets: Mapping[str, Image.Image]) -> Page:
    """Figures as a page that opens without a network.

    Args:
        figures: Of :func:`ganaug.evaluation.evaluate`.
        sheets: Edit -> faces from weak to strong.
    """
    lead = "How real, how varied and how much the same person the variants are that edits make of these photos."
    page = Page(f"Evaluation of {Path(figures['provenance']['cache']).name}", lead)
    page.heading("In short")
    for sentence in figures["summary"]:
        page.text(sentence)
    for warning in figures["warnings"]:
        page.warning(warning)
    _identity(page, figures)
    _realism(page, figures)
    _movement(page, figures)
    _gate_and_diversity(page, figures)
    _edits(page, figures, sheets)
    _provenance(page, figures)
    return page


def _identity(page: Page, figures: Figures) -> None:
    networks, rows = figures["networks"], figures["identity"]
    page.heading("Is it still the same person?")
    page.text(
        f"Cosine between the embeddings of a face and of its photo by {networks['identity']}: 1 for the same picture; "
        f"from {networks['threshold']:.3f} on, that network takes two faces for one person. Edits are shown as they "
        "come into the photo, before any gate; 'as served' is what a training loop gets, edits and strengths drawn by "
        f"the policy, after the gate ({networks['gate'] or 'there is none'}); where that refuses, it is the photo "
        "itself. A network that is the gate flatters what it let pass: judge by another one where there is one."
    )
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["what"] == "edit" and row["strength"] is not None:
            series.setdefault(row["edit"], []).append((row["strength"], row["mean"]["value"]))
    if series:
        page.lines(series, "strength, in the unit of the edit", "mean cosine", "Identity against strength")
    table = [
        [
            what_of(row),
            _told(row["mean"]),
            _told(row["median"]),
            share_of(row["share"]),
            printed(float(row["pixel_change"]["value"]), "%"),
        ]
        for row in rows
    ]
    columns = ["", "mean cosine", "median", "same person", "mean change of a pixel"]
    page.table(columns, table, f"Identity of {rows[0]['images']} photos; intervals of 95 %; by {networks['identity']}")


def _realism(page: Page, figures: Figures) -> None:
    realism, networks = figures["realism"], figures["networks"]
    page.heading("Does it look real?")
    if not realism["sets"]:
        page.text(f"Not told: {realism['reason']}.")
        return
    page.text(
        f"Distances between sets of {realism['images']} images, in the features of {networks['realism']}. All is "
        f"compared with real photos of {networks['real']}; the floor is the distance of other real photos to them: "
        "but for chance, nothing comes below it. Precision is the share of a set that lies among the real photos, "
        "recall the share of the real photos that lies within the set."
    )
    shown = [row for row in realism["sets"] if row["what"] != "edit"] + strongest(realism["sets"])
    page.bars(
        [what_of(row) for row in shown],
        [row["frechet"]["value"] for row in shown],
        f"Frechet distance to real photos, edits at their strongest; less is better ({networks['realism']})",
        [_ends(row["frechet"]) for row in shown],
    )
    table: list[list[Cell]] = [
        [
            what_of(row),
            _told(row["frechet"], decimals=2),
            "" if row["what"] == "floor" else _told(row["over_floor"]["frechet"], decimals=2),
            printed(Interval.from_dict(row["kernel"]).times(1000.0), decimals=1),
            share_of(row["precision"]),
            share_of(row["recall"]),
        ]
        for row in shown
    ]
    columns = ["", "Frechet", "over the floor", "kernel x 1000", "precision", "recall"]
    page.table(
        columns,
        table,
        f"{realism['images']} images a side, intervals of 95 %; {networks['realism']}; all strengths: report.json",
    )
    if realism["inception_score"]:
        scores = [[what_of(row), row["images"], row["score"]] for row in realism["inception_score"]]
        page.table(["", "images", "Inception score"], scores, "Compare rows of equal counts only")


def _movement(page: Page, figures: Figures) -> None:
    rows = strongest(figures["movement"])
    if not rows or not rows[0]["readings"]:
        return
    page.heading("What does each edit move?")
    page.text(
        "At the strongest of its strengths, along the way that the edit went, in standard deviations of the reading "
        "among these photos: 1 is the step from one person to a typical other one. 'picture' is read off the variant "
        f"by the heads of {figures['networks']['identity']}, 'code' off the latents by the generator's own directions, "
        "which were made free of each other and may see less than there is. A star marks what the edit is for; "
        "brackets mark what it declares to touch besides. Edits that draw a way of their own for every photo (light, "
        "hair) move readings up here and down there: of these the second table tells more."
    )
    columns = [f"{reading['attribute']} ({reading['by']})" for reading in rows[0]["readings"]]
    still = next(row for row in figures["movement"] if row["what"] == "inversion")
    table: list[list[Cell]] = [[what_of(row), *map(_moved, row["readings"])] for row in rows]
    page.table(["edit", *columns], table, "Mean move, in standard deviations among photos")
    sizes: list[list[Cell]] = [
        [what_of(row), *(_told(reading["absolute_in_sd"], decimals=2) for reading in row["readings"])]
        for row in [still, *rows]
    ]
    caption = (
        "Mean size of the move, whichever way it goes, in standard deviations; the inversion tells the judge's noise"
    )
    page.table(["", *columns], sizes, caption)
    if still["same_class"]:
        names = list(still["same_class"])
        kept: list[list[Cell]] = [
            [what_of(row), *(share_of(row["same_class"][name]) for name in names)] for row in [still, *rows]
        ]
        page.table(["", *names], kept, f"Share that {figures['networks']['identity']} takes for the photo's own class")
    if figures["localisation"]:
        places: list[list[Cell]] = [
            [
                what_of(row),
                row["images"],
                row["ratio_of_means"],
                _told(row["median_ratio"]),
                share_of(row["share_local"]),
            ]
            for row in strongest(figures["localisation"])
        ]
        caption = "Change outside of the part of the face that the edit is about, over that inside (0: nowhere else)"
        limit = f"at most {figures['localisation'][0]['limit']:g}"
        page.table(["", "images", "of the means", "median face", limit], places, caption)


def _gate_and_diversity(page: Page, figures: Figures) -> None:
    gate, found, networks = figures["gate"], figures["diversity"], figures["networks"]
    page.heading("What a training loop gets")
    if gate["reason"]:
        page.text(f"No gate: {gate['reason']}.")
    else:
        told = {"at once": "at_once", "with a weaker edit": "weaker", "not at all; the photo is served": "rejected"}
        page.table(
            ["passes the gate", "share"],
            [[name, share_of(gate[key])] for name, key in told.items()],
            f"Variants of {gate['images']} photos, edits and strengths drawn by the policy",
        )
    if found["reason"]:
        page.text(f"Diversity is not told: {found['reason']}.")
        return
    page.table(
        ["", "variants of one photo", "different photos"],
        [
            [
                f"perceptual distance ({networks['perceptual']})",
                _told(found["perceptual"]),
                "-" if found["perceptual_of_photos"] is None else _told(found["perceptual_of_photos"]),
            ],
            [f"cosine of the photos ({networks['identity']})", None, found["identity_between_photos"]],
            [
                f"cosine of their variants ({networks['identity']})",
                found["identity_within"],
                found["identity_between"],
            ],
        ],
        f"Diversity: all pairs among the variants of {found['photos']} photos. They should differ, and stay one person",
    )


def _edits(page: Page, figures: Figures, sheets: Mapping[str, Image.Image]) -> None:
    """A sheet and a table for each edit."""
    page.heading("Edit by edit")
    mark = figures["provenance"]["fingerprint"]
    for name, sheet in sheets.items():
        page.heading(name, 3)
        page.picture(
            sheet,
            f"Faces: photo, inversion, and edit {name} from weak to strong",
            "Photo, inversion, and variants; 'id' is the cosine to the photo. Generated faces.",
            {"generator": mark, "edits": [name]},
        )
        rows = [row for row in figures["movement"] if row["edit"] == name]
        if not rows or not rows[0]["readings"]:
            continue
        heads = ["reading", *("mean move" if r["strength"] is None else f"at {r['strength']:.2f}" for r in rows)]
        table: list[list[Cell]] = []
        for place, reading in enumerate(rows[0]["readings"]):
            decimals = _DECIMALS[reading["unit"]]
            moves = [_told(row["readings"][place]["mean"], decimals=decimals) for row in rows]
            table.append([f"{reading['attribute']} ({reading['by']}{_UNITS[reading['unit']]})", *moves])
        page.table(heads, table, f"Mean move along the way of the edit, {rows[0]['images']} photos")


def _provenance(page: Page, figures: Figures) -> None:
    page.heading("Where this comes from")
    told = {**figures["provenance"], **{f"network, {name}": value for name, value in figures["networks"].items()}}
    told |= {name.replace("_", " "): value for name, value in figures["settings"].items()}
    rows: list[list[Cell]] = [[name.replace("_", " "), _text(value)] for name, value in told.items()]
    page.table(["", "value"], rows)


def what_of(row: Figures) -> str:
    """Name of a row."""
    fixed = {"floor": "floor: real photos", "inversion": "inversion", "served": "as served", "photos": "real photos"}
    if row["what"] in fixed:
        return fixed[row["what"]]
    return str(row["edit"]) if row["strength"] is None else f"{row['edit']} {row['strength']:.2f}"


def _told(found: Figures, decimals: int = 3) -> str:
    return printed(Interval.from_dict(found), decimals=decimals)


def _ends(estimate: Figures) -> tuple[float, float] | None:
    return None if estimate["low"] is None else (estimate["low"], estimate["high"])


def _moved(reading: Figures) -> str:
    value = reading["mean_in_sd"]["value"]
    if value is None:
        return "-"
    text = f"{round(value, 2) + 0.0:+.2f}"
    return f"{text} *" if reading["intended"] else f"({text})" if reading["declared"] else text


def _text(value: Any) -> Cell:
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return ", ".join(str(one) for one in value)
