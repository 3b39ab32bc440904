"""The audit as a page: what is wrong first, in words; then the figures that say so."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganaug.audit.balance import WAYS
from ganaug.audit.judge import GAPS, MIN_RATE, NUM_PERMUTATIONS
from ganaug.audit.realism import MIN_PHOTOS, NUM_SPLITS
from ganaug.intervals import Interval, printed
from ganaug.page import Page, write_private

_OF_CROSSINGS = ("kept", "accepted", "accuracy_photos", "accuracy_variants")
_MOST_WARNINGS = 12  # shown on the page; the JSON file has all
_COUNTS = {
    "photos": "photos",
    "audited": "looked at",
    "usable": "with latents",
    "persons": "persons of those",
    "asked": "variant wanted",
    "variants": "variant served",
    "rejected": "gate refused",
    "no_latent": "no latents",
    "low_quality": "poor inversion",
    "unusable": "record or photo changed",
}


def audit_page(report: Mapping[str, Any]) -> Page:
    """A page of a report of :func:`ganaug.audit.audit`, which may have been read back from its JSON file."""
    page = Page("Audit of groups", _lead(report))
    _warnings(page, report)
    for name, column in report["columns"].items():
        page.heading(name.replace(" x ", " and ").capitalize())
        if column["crossed"] > 1:
            _crossing(page, report, column)
        else:
            _counts(page, column)
            _figures(page, report, column)
        _judge(page, report, name, column)
        if "balance" in column:
            _balance(page, name, column["balance"], report["policy"]["max_extra"])
    _method(page, report)
    return page


def write_audit(report: Mapping[str, Any], out: str | Path) -> list[Path]:
    """Writes ``audit.html`` and ``audit.json``, whole or not at all, for their owner alone."""
    page = audit_page(report).write(Path(out, "audit.html"))
    return [page, write_private(Path(out, "audit.json"), (json.dumps(report, indent=2) + "\n").encode())]


def _lead(report: Mapping[str, Any]) -> str:
    """The answer in a sentence or two."""
    asked = "Does the augmentation serve all groups alike?"
    worst, count = report["worst_served"], len(report["warnings"])
    if worst is None:
        return (
            f"{asked} No group stands out as worse served than the others. That is no proof: see how wide the "
            "intervals are, and which groups are too small to say."
        )
    rest = "" if count == 1 else f" There are {count} findings in all, the worst first."
    return f"{asked} Worst served: {worst['column']} {worst['group']}.{rest}"


def _warnings(page: Page, report: Mapping[str, Any]) -> None:
    page.heading("What stands out")
    if not report["warnings"]:
        page.text("Nothing: no difference is larger than chance may make it.")
    for finding in report["warnings"][:_MOST_WARNINGS]:
        page.warning(finding["text"])
    left = len(report["warnings"]) - _MOST_WARNINGS
    if left > 0:
        page.text(f"{left} more, less severe, are in audit.json.")
    if report["too_few"]:
        unit = report["intervals"]["over"]
        groups = ", ".join(f"{one['column']} {one['group']} ({one[unit]})" for one in report["too_few"])
        page.text(
            f"Too few to say: no figure is told of groups with fewer than {report['min_count']} {unit} with latents: "
            f"{groups}."
        )


def _method(page: Page, report: Mapping[str, Any]) -> None:
    page.heading("How this was measured")
    photos, policy, networks = report["photos"], report["policy"], report["networks"]
    intervals = report["intervals"]
    each = photos["variants_each"]
    page.text(
        f"{photos['in_source']:,} faces are in the source, {photos['in_table']:,} of them in the table; "
        f"{photos['audited']:,} were looked at, {photos['with_latents']:,} of which have latents. Of each, "
        f"{'one variant was' if each == 1 else f'{each} variants were'} made with {', '.join(policy['edits'])}; "
        f"preserved: {', '.join(policy['preserve']) or 'nothing'}; gates: {', '.join(policy['gates']) or 'none'}."
    )
    if photos["are_inversions"]:
        page.warning(
            "No photos were given: the generator's own pictures of the latents stand in for them, without a gate. What "
            "inversion loses is not seen here. Give --images for an audit of photos."
        )
    judge = "" if networks["judge"] is None else f" The judge of {report['label']}: {networks['judge']}."
    page.text(
        f"Generator {networks['generator']}, inverter {networks['inverter']}. The person is recognised by "
        f"{networks['identity']}, which takes two pictures for one person from a cosine of "
        f"{networks['same_person_from']:.2f}. Realism goes by {networks['realism']}.{judge} These networks have groups "
        "that they see less well, too: a difference may be theirs."
    )
    page.text(
        f"Realism is told of groups of {MIN_PHOTOS} photos: mean and range of the kernel distance over {NUM_SPLITS} "
        "splits into halves. What variants have over photos comes from generator and edits."
    )
    if report["label"] is not None:
        page.text(
            "How far the judge sets groups apart is the largest difference between any two. Even a fair judge shows "
            f'some: under "by chance" is what 95 % stay below, of {NUM_PERMUTATIONS:,} exchanges of groups among '
            f"photos of one class. Rates of equalised odds count from {MIN_RATE} photos. Demographic parity differs by "
            f"itself where groups have different shares of {report['label']}."
        )
    page.text(
        f"In brackets: intervals of {100 * intervals['level']:.0f} % from {intervals['draws']:,} bootstrap draws over "
        f"{intervals['over']}. The more is compared, the more stands out by chance. The bounds allow for that: where "
        "no group is worse off, chance makes about one audit in twenty name one all the same, and one in twenty a "
        "crossing. This page holds no photo and no name."
    )


def _counts(page: Page, column: Mapping[str, Any]) -> None:
    groups = column["groups"]
    shown = {
        key: title
        for key, title in _COUNTS.items()
        if key in ("photos", "audited", "usable", "asked", "variants")
        or any(one["counts"].get(key) for one in groups.values())
    }
    rows = [[name, *(one["counts"][key] for key in shown)] for name, one in groups.items()]
    missing = f" {column['not_stated']} photos have no value here." if column["not_stated"] else ""
    page.text(f"What one epoch of the policy makes of the photos of each group that were looked at.{missing}")
    page.table(["group", *shown.values()], rows)


def _crossing(page: Page, report: Mapping[str, Any], column: Mapping[str, Any]) -> None:
    """One table; what else is known of crossings is in the JSON file."""
    told = _told(report, column)
    figures = {name: of for name, of in report["figures"].items() if name in _OF_CROSSINGS}
    rows = [
        [name, one["counts"]["usable"], *(_shown(one[figure], of["unit"]) for figure, of in figures.items())]
        for name, one in told.items()
    ]
    left = len(column["groups"]) - len(told)
    few = f" Of {left} more there are fewer than {report['min_count']}: too few to say." if left else ""
    page.text(f"Groups with their photos that have latents.{few} More figures are in audit.json.")
    page.table(["group", "photos", *(of["title"] for of in figures.values())], rows)


def _told(report: Mapping[str, Any], column: Mapping[str, Any]) -> dict[str, Any]:
    """The groups that there are figures of."""
    groups = column["groups"].items()
    return {name: one for name, one in groups if any(one[figure] is not None for figure in report["figures"])}


def _figures(page: Page, report: Mapping[str, Any], column: Mapping[str, Any]) -> None:
    figures = report["figures"]
    told = _told(report, column)
    if not told:
        page.text(f"No group has the {report['min_count']} photos that figures need.")
        return
    for table in dict.fromkeys(of["table"] for of in figures.values()):
        of_table = {figure: of for figure, of in figures.items() if of["table"] == table}
        lines = {**told, "all photos": report["all"]}
        rows = [[name, *(_shown(one[f], of["unit"]) for f, of in of_table.items())] for name, one in lines.items()]
        page.table(["group", *(of["title"] for of in of_table.values())], rows, table)
    realism = {name: one["realism"] for name, one in column["groups"].items() if one["realism"] is not None}
    if realism:
        rows = [[name, _shown(one["variants"]), _shown(one["photos"])] for name, one in realism.items()]
        caption = f"Realism: kernel distance in the features of {report['networks']['realism']}; less is more real."
        page.table(["group", "variants to photos", "photos to photos"], rows, caption)


def _judge(page: Page, report: Mapping[str, Any], name: str, column: Mapping[str, Any]) -> None:
    label, rows = report["label"], []
    for view, found in column["gaps"].items():
        for kind, title in GAPS.items():
            if kind in found:
                rows.append([f"{title}, {view}", _points(found[kind]), f"{100.0 * found[kind]['by_chance']:.0f}"])
    if rows:
        groups = next(iter(column["gaps"].values()))["groups"]
        page.table(["largest of two", "points", "by chance"], rows, f"The judge between {groups} groups.")
    elif label is not None and label in name.split(" x "):
        page.text("These groups are what the judge names: its accuracy is above, and parity means nothing here.")


def _balance(page: Page, name: str, balance: Mapping[str, Any], max_extra: int) -> None:
    page.heading(f'{name.capitalize()}: what extra="balance" would change', 3)
    page.text(
        f"At most {max_extra} variants of one photo are made. A ratio per group, in contrast, changes which share of a "
        "group's samples are variants, and no count."
    )
    groups, rows = balance["groups"], []
    for group, one in groups.items():
        needed = "no photo to use" if one["needed"] is None else str(one["needed"])
        rows.append([group, one["before"], one["after"], needed])
    page.table(["group", "samples", "balanced", "variants a photo to be equal"], rows)
    smallest = min(groups, key=lambda group: groups[group]["before"])
    one = groups[smallest]
    if one["needed"] is not None and one["needed"] > max_extra:
        page.text(
            f"{name.capitalize()} {smallest}, the smallest group, would need {one['needed']} variants of every photo "
            "with latents to be as large as the largest. So many of so few faces add little: more photos would."
        )
    found = balance["measured"]
    if found is None:
        return
    worst = f"{name} {found['worst_group']}"
    page.text(
        f"Measured: a readout of {found['label']} is asked about {found['photos']} photos that it has not seen. Once "
        f"it was taught with photos alone, which serve {worst} worst; once with photos of small groups counting "
        f"several times; once with {found['extra_made']} variants of them. Changes are against photos alone, in "
        "points, with intervals over the photos that are asked about, not over those that teach."
    )
    rows = []
    for way, title in WAYS.items():
        of = found["ways"][way]
        changes = ["-", "-"] if way == "photos" else [_points(of["worst_change"]), _points(of["gap_change"])]
        accuracy, least = _shown(of["accuracy"], "%"), _shown(of["worst"], "%")
        rows.append([title, accuracy, least, changes[0], _points(of["gap"]), changes[1]])
    page.table(["taught with", "right", f"right on {found['worst_group']}", "change", "gap", "change"], rows)
    page.text(_verdict(found, worst))


def _verdict(found: Mapping[str, Any], worst: str) -> str:
    """What the table says."""
    told: dict[str, list[str]] = {"improve": [], "worsen": [], "": []}
    for key, what, better in (
        ("worst_change", f"the accuracy on {worst}", 1.0),
        ("gap_change", "the gap between groups", -1.0),
    ):
        change = found["ways"]["balanced"][key]
        unknown = change["low"] is None or change["low"] <= 0.0 <= change["high"]
        told["" if unknown else "improve" if better * change["value"] > 0.0 else "worsen"].append(what)
    parts = [f"variants {verb} {' and '.join(what)}" for verb, what in told.items() if verb and what]
    if told[""]:
        few = f"{found['photos']} photos are too few to tell whether variants change"
        parts.append(f"{few} {' or '.join(told[''])}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _shown(one: Mapping[str, Any] | None, unit: str = "") -> str:
    return "-" if one is None else printed(Interval.from_dict(one), unit)


def _points(one: Mapping[str, Any]) -> str:
    """A difference of shares."""
    value, low, high = (100.0 * number for number in Interval.from_dict(one))
    return f"{value:.0f} ({low:.0f} to {high:.0f})" if math.isfinite(value) else "-"
