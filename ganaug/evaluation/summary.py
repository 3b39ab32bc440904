"""What the figures of an evaluation mean, in plain sentences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ganaug.intervals import Interval, printed

LARGE_MOVE = 0.5  # standard deviations among photos: half a step from one person to another; set by the project
# Share of photos whose inversion is the same person, below which variants start from somebody else; likewise.
WEAK_INVERSION = 0.9

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
            f"Only {share_of(start['share'])} of the inversions show the person of their photo: variants that are not "
            "pasted into the photo begin with somebody else. Invert with more steps, or leave poor ones out "
            "(`min_quality`)."
        )
    found += [
        f"Edit {row['edit']!r} does not declare that it touches {', '.join(names)}, and moves it by more than "
        f"{LARGE_MOVE:g} standard deviations of these photos."
        for row in strongest(figures["movement"])
        if (names := _undeclared(row))
    ]
    return found + other_classes(figures)


def strongest(rows: Sequence[Figures]) -> list[Figures]:
    """Of rows by edit and strength, the last of each edit."""
    return list({row["edit"]: row for row in rows if row["what"] == "edit"}.values())


def share_of(found: Figures) -> str:
    """A share with its interval, as a reader wants it."""
    return printed(Interval.from_dict(found), "%")


def _photos(figures: Figures) -> str:
    photos = figures["photos"]
    return (
        f"{photos['measured']} of the {photos['records']} faces of the cache were measured. Brackets hold 95 % "
        "intervals: what other photos of the same kind might have given."
    )


def _inversions(figures: Figures) -> str:
    row = next(row for row in figures["identity"] if row["what"] == "inversion")
    return (
        "An inversion is the generator's copy of a photo, and what every edit starts from: "
        f"{share_of(row['share'])} of them show the person of their photo, in the eyes of "
        f"{figures['networks']['identity']} (cosine of at least {figures['networks']['threshold']:.2f})."
    )


def _kept(figures: Figures) -> str:
    rows = [row for row in figures["identity"] if row["what"] == "edit"]
    if not rows:
        return ""
    worst = min(rows, key=lambda row: float(row["share"]["value"]))
    best = max(rows, key=lambda row: float(row["share"]["value"]))
    if worst["share"]["value"] == best["share"]["value"]:
        return f"Every edit at every strength keeps the person in {share_of(best['share'])} of its variants."
    return (
        f"Before any gate, edits keep the person in {share_of(worst['share'])} of their variants at worst, "
        f"{_what(worst)}, and in {share_of(best['share'])} at best."
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
        f"Frechet distance to real photos, where less is more real: {far['floor']} of other real photos, "
        f"{far['inversion']} of inversions, {far['served']} of what a training loop would get ({realism['images']} "
        f"images a side, {figures['networks']['realism']})"
    )
    low = served["over_floor"]["frechet"]["low"]
    if low is None:
        return f"{told}."
    if low <= 0.0:
        return f"{told}. So few images cannot tell the last of them from real photos."
    return f"{told}. The last is more than other real photos come to by chance."


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
    return (
        "How far edits of a part of the face change the rest, as a share of what they change in it (mean square): "
        f"{', '.join(told)}."
    )


def _gate(figures: Figures) -> str:
    gate = figures["gate"]
    if gate["reason"]:
        return f"No gate: {gate['reason']}."
    return (
        f"The gate lets {share_of(gate['at_once'])} of the variants pass at once and {share_of(gate['weaker'])} after "
        f"the edit was made weaker; in place of {share_of(gate['rejected'])} it serves the photo."
    )


def _diversity(figures: Figures) -> str:
    found = figures["diversity"]
    if found["reason"] or found["perceptual_of_photos"] is None:
        return ""
    share = found["perceptual"]["value"] / found["perceptual_of_photos"]["value"]
    if not math.isfinite(share):
        return ""
    return (
        f"Variants of one photo differ from each other {100 * share:.0f} % as much as photos of different people do "
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


def other_classes(figures: Figures) -> list[str]:
    """Attributes of which variants more often show another class than mere inversions do, undeclared."""
    still = next((row for row in figures["movement"] if row["what"] == "inversion"), None)
    found = []
    for name, noise in ({} if still is None else still["same_class"]).items():
        own = {_what(row): row["same_class"][name] for row in strongest(figures["movement"])}
        worse = {edit: same for edit, same in own.items() if not same["declared"] and same["high"] < noise["low"]}
        if worse:
            shares = ", ".join(f"{100 * (1 - same['value']):.0f} % with {edit}" for edit, same in worse.items())
            found.append(
                f"To {figures['networks']['identity']} many variants look like another {name} than their photo: "
                f"{shares}, but {100 * (1 - noise['value']):.0f} % of the inversions. These edits do not declare that. "
                f"Look at their sheets before you train for {name}."
            )
    return found


def in_unit(reading: Figures) -> str:
    """A mean move: ``"+7.1 years"``, ``"+0.21 (probability)"``."""
    value = float(reading["mean"]["value"])
    if reading["unit"] == "years":
        return f"{value:+.1f} years"
    return f"{value:+.2f} (probability)" if reading["unit"] == "probability" else f"{value:+.3g}"


def _what(row: Figures) -> str:
    return f"{row['edit']}" if row["strength"] is None else f"{row['edit']} at {row['strength']:.2f}"
