"""What the figures of an evaluation mean, in plain sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

LARGE_MOVE = 0.5  # standard deviations among photos: half a step from one person to another; set by the project
WEAK_INVERSION = (
    0.9  # share of photos whose inversion is the same person, below which variants start from somebody else
)

Figures = Mapping[str, Any]


def summary_of(figures: Figures) -> list[str]:
    """Sentences on realism, identity, attributes, gate and diversity.

    Args:
        figures: Of :func:`ganaug.evaluation.evaluate`.
    """
    return [
        told
        for told in (
            _photos(figures),
            _inversions(figures),
            _kept(figures),
            _realism(figures),
            _movement(figures),
            _localisation(figures),
            _gate(figures),
            _diversity(figures),
        )
        if told
    ]


def warnings_of(figures: Figures) -> list[str]:
    """What a reader should know before she believes the figures, or before she trains with these variants."""
    found = []
    photos, realism = figures["photos"], figures["realism"]
    if photos["without_photo"]:
        found.append(
            f"{photos['without_photo']} of {photos['records']} records of the cache have no photo in the source, for "
            f"example {photos['without_photo_example']!r}: they were not measured."
        )
    if photos["left_out"]:
        key, why = next(iter(photos["left_out_examples"].items()))
        found.append(f"{photos['left_out']} photos could not be measured, for example {key!r}: {why}.")
    if realism["reason"]:
        found.append(f"Realism is not told: {realism['reason']}.")
    elif not figures["networks"]["realism_comparable"]:
        found.append(
            f"Distances are in the features of {figures['networks']['realism']}, not of Inception: they compare rows "
            "of this page with each other and with the floor, nothing else. It has learnt from a generator of this "
            "kind and may overlook what that one does wrong."
        )
    start = next(row for row in figures["identity"] if row["what"] == "inversion")
    if start["share"]["value"] < WEAK_INVERSION:
        found.append(
            f"Only {percent(start['share'])} of the inversions show the person of their photo: variants that are not "
            "pasted into the photo begin with somebody else. Invert with more steps, or leave poor ones out "
            "(`min_quality`)."
        )
    found += [
        f"Edit {row['edit']!r} does not declare that it touches {', '.join(names)}, and moves it by more than "
        f"{LARGE_MOVE:g} standard deviations of these photos."
        for row in strongest(figures["movement"])
        if (names := _undeclared(row))
    ]
    return found


def strongest(rows: Sequence[Figures]) -> list[Figures]:
    """Of rows by edit and strength, the last of each edit."""
    return list({row["edit"]: row for row in rows if row["what"] == "edit"}.values())


def percent(estimate: Figures, with_interval: bool = True) -> str:
    """A share as ``"93 % (91 to 95)"``.

    Example:
        >>> percent({"value": 0.934, "low": 0.91, "high": 0.952})
        '93 % (91 to 95)'
    """
    if estimate["value"] is None:
        return "-"
    text = f"{_whole(estimate['value'])} %"
    if not with_interval or estimate["low"] is None:
        return text
    return f"{text} ({_whole(estimate['low'])} to {_whole(estimate['high'])})"


def _whole(share: float) -> str:
    """100 and 0 only where nothing is missing, or nothing is there."""
    value = round(100.0 * share)
    return f"{100.0 * share:.1f}" if value in (0, 100) and share not in (0.0, 1.0) else f"{value}"


def _photos(figures: Figures) -> str:
    photos = figures["photos"]
    return (
        f"{photos['measured']} of the {photos['records']} faces of the cache were measured. Figures in brackets are "
        "95 % intervals: what other photos of the same kind might have given."
    )


def _inversions(figures: Figures) -> str:
    row = next(row for row in figures["identity"] if row["what"] == "inversion")
    return (
        f"{percent(row['share'])} of the inversions show the person of their photo, in the eyes of "
        f"{figures['networks']['identity']} (cosine of at least {figures['networks']['threshold']:.2f})."
    )


def _kept(figures: Figures) -> str:
    rows = [row for row in figures["identity"] if row["what"] == "edit"]
    if not rows:
        return ""
    worst = min(rows, key=lambda row: float(row["share"]["value"]))
    best = max(rows, key=lambda row: float(row["share"]["value"]))
    if worst["share"]["value"] == best["share"]["value"]:
        return f"Every edit at every strength keeps the person in {percent(best['share'])} of its variants."
    return (
        f"Before any gate, edits keep the person in {percent(worst['share'])} of the variants ({_what(worst)}) up to "
        f"{percent(best['share'])} ({_what(best)})."
    )


def _realism(figures: Figures) -> str:
    realism = figures["realism"]
    if not realism["sets"]:
        return ""
    floor, served, inverted = (
        next(row for row in realism["sets"] if row["what"] == what) for what in ("floor", "served", "inversion")
    )
    names = {"floor": floor, "inversion": inverted, "served": served}
    far = {name: f"{row['frechet']['value']:.3g}" for name, row in names.items()}
    told = (
        f"Other real photos are {far['floor']} from real photos, inversions {far['inversion']}, and what a training "
        f"loop would get {far['served']} (Frechet distance, {realism['images']} images a side, "
        f"{figures['networks']['realism']})"
    )
    low = served["over_floor"]["frechet"]["low"]
    if low is None:
        return f"{told}."
    if low <= 0.0:
        return f"{told}: so many photos cannot tell what is served from real ones."
    return f"{told}: what is served is farther than real photos are."


def _movement(figures: Figures) -> str:
    told = []
    for row in strongest(figures["movement"]):
        own = [reading for reading in row["readings"] if reading["intended"]]
        moved = next((r for r in own if r["by"] == "picture"), own[0] if own else None)
        if moved is not None and moved["mean"]["value"] is not None:
            told.append(f"{_what(row)} moves {moved['attribute']} by {in_unit(moved)}")
    return f"What edits are for: {'; '.join(told)}." if told else ""


def _localisation(figures: Figures) -> str:
    rows = [row for row in strongest(figures["localisation"]) if row["ratio_of_means"] is not None]
    told = [f"{row['edit']} {row['ratio_of_means']:.2f}" for row in rows]
    if not told:
        return ""
    return f"Change elsewhere, beside that in the part of the face that an edit is about: {', '.join(told)}."


def _gate(figures: Figures) -> str:
    gate = figures["gate"]
    if gate["reason"]:
        return f"No gate: {gate['reason']}."
    return (
        f"The gate lets {percent(gate['at_once'])} of the variants pass at once and {percent(gate['weaker'])} after "
        f"the edit was made weaker; for {percent(gate['rejected'])} the photo is served instead."
    )


def _diversity(figures: Figures) -> str:
    found = figures["diversity"]
    if found["reason"] or found["perceptual_of_photos"] is None:
        return ""
    share = found["perceptual"]["value"] / found["perceptual_of_photos"]["value"]
    if not math.isfinite(share):
        return ""
    return (
        f"Variants of one photo differ from each other by {100 * share:.0f} % of what different people's photos do "
        f"(perceptual distance, {figures['networks']['perceptual']})."
    )


def _undeclared(row: Figures) -> list[str]:
    names = [
        f"{reading['attribute']} (read off the {reading['by']})"
        for reading in row["readings"]
        if not (reading["declared"] or reading["intended"])
        and reading["mean_in_sd"]["low"] is not None
        and max(reading["mean_in_sd"]["low"], -reading["mean_in_sd"]["high"]) > LARGE_MOVE
    ]
    return sorted(set(names))


def in_unit(reading: Figures) -> str:
    """A mean move: ``"+7.1 years"``, ``"+0.21 (probability)"``."""
    value = float(reading["mean"]["value"])
    if reading["unit"] == "years":
        return f"{value:+.1f} years"
    return f"{value:+.2f} (probability)" if reading["unit"] == "probability" else f"{value:+.3g}"


def _what(row: Figures) -> str:
    return f"{row['edit']}" if row["strength"] is None else f"{row['edit']} at {row['strength']:.2f}"
