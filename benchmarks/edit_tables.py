"""Figures of benchmarks/edits.py as Markdown."""

import math
from typing import Any

from edit_measures import LOCAL

SHARE = 0.8  # of faces whose score is to move as intended
SERVED = 0.95  # of what the gate serves that is to show the same person to the judge
FLIPS = 0.02  # more than on plain inversions
WORST = 4  # edits named that flip most labels


def number(value: Any, digits: int = 2) -> str:
    """A figure, or a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def percent(value: Any) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def rows(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def judge_table(judges: dict[str, dict[str, float]]) -> str:
    """How good the judges are."""
    columns = [name for name in judges["val, all photos"]]
    body = [[where, *(number(found[c], 3) for c in columns)] for where, found in judges.items() if "gender" in found]
    details = judges["details"]
    text = "Judges, agreement with the labels:\n\n" + rows(["", *columns], body)
    return text + (
        f"\n\nSmiles: right on {percent(details['expression'])} of {details['expression, photos']} photos of people "
        f"whom the judge never saw, {percent(details['expression, pairs'])} of pairs. Glasses: right on "
        f"{percent(details['glasses'])} of {details['glasses, photos']} other photos."
    )


def edit_table(figures: dict[str, Any], name: str, way: str, count: int) -> str:
    """One row per edit on a set of faces."""
    head = ["edit", "how, strength", "as intended", "moves, std", "other, size", "other, drift"]
    head += ["outside / inside", "parsed", "identity", "at least 0.5", "change"]
    body = []
    for edit, both in figures["edits"][name].items():
        found, said = both[way], figures["described"][edit]
        meant = "share" in found
        strength = "" if said["strength"] is None else f" {said['strength'][0]:g} to {said['strength'][1]:g}"
        body.append(
            [
                edit,
                said["kind"] + strength,
                percent(found["share"]) if meant else "-",
                number(found["moved"][edit]["size"]) if meant else "-",
                *(_other(found, kind, meant) for kind in ("size", "drift")),
                *(_local(found.get(f"local, {masks}")) for masks in ("ellipses", "parsed")),
                number(found["identity"]["median"]),
                percent(found["identity"]["share"]),
                number(found["change"], 3),
            ]
        )
    where = "the generator's chips, against the inversions" if way == "chips" else "pasted, against the photos"
    return f"{count} faces of {name}; {where}:\n\n" + rows(head, body)


def _other(found: dict[str, Any], kind: str, meant: bool) -> str:
    """Of what moves though it should not: how far beside the intended attribute, or in standard deviations."""
    if meant:
        name, ratio = found[f"other, {kind}"]
        return "-" if name is None else f"{name} {ratio:.2f}"
    moved = found["moved"]
    name = max(moved, key=lambda attribute: moved[attribute][kind])
    return f"{name} {moved[name][kind]:.2f} std"


def _local(found: dict[str, float] | None) -> str:
    return "-" if not found or not found["faces"] else f"{found['ratio']:.2f} ({percent(found['share'])})"


def verdicts(figures: dict[str, Any]) -> str:
    """Which edits meet the issue's demands, on FairFace in chips; and what the others miss."""
    met, nearly, missed, free = [], [], [], []
    for edit, both in figures["edits"]["fairface"].items():
        found, why, noise = both["chips"], [], []
        if "share" not in found and "local, ellipses" not in found:
            free.append(edit)
            continue
        if "share" in found:
            if found["share"] < SHARE:
                why.append(f"moves as intended for {percent(found['share'])}, not {percent(SHARE)}")
            for kind, reasons in (("size", noise), ("drift", why)):
                other, ratio = found[f"other, {kind}"]
                if ratio > LOCAL:
                    reasons.append(f"{other} moves {ratio:.2f} as far ({kind})")
        for masks in ("ellipses", "parsed"):
            local = found.get(f"local, {masks}")
            if local and local["faces"] and not local["ratio"] <= LOCAL:
                why.append(f"changes outside {local['ratio']:.2f} of inside ({masks})")
        if why:
            missed.append(f"- {edit}: {'; '.join(why + noise)}")
        elif noise:
            nearly.append(f"{edit} ({'; '.join(noise)})")
        else:
            met.append(edit)
    lines = [f"- met: {', '.join(met) or 'none'}"]
    lines += (
        [f"- met by drift, but not by size, which has the judge's noise in it: {', '.join(nearly)}"] if nearly else []
    )
    lines += missed
    lines += [f"- nothing is asked of {', '.join(free)}"] if free else []
    head = "FairFace, chips (80 % as intended; others, and outside of the part, at most a quarter):"
    return head + "\n\n" + "\n".join(lines)


def gate_tables(figures: dict[str, Any]) -> str:
    """Acceptance and likeness: of each run, and of the first one with a gate by edit and by group."""
    runs = {name: found for name, found in figures.items() if isinstance(found, dict)}
    done = {name: found for name, found in runs.items() if "failed" not in found}
    lines = [f"Gate, {figures['faces']} faces, {figures['epochs']} epochs:"]
    lines += [f"- {name} failed: {found['failed']}" for name, found in runs.items() if "failed" in found]
    head = ["variants", "accepted", "identity", f"at least 0.5 (aim {percent(SERVED)})"]
    body = [
        [name, *_gated(found), ", ".join(f"{scale}: {percent(share)}" for scale, share in found["scale"].items())]
        for name, found in done.items()
    ]
    parts = ["\n".join(lines), rows(["", *head, "scale of those served"], body)] if done else ["\n".join(lines)]
    for mode in ("aligned", "paste"):
        gated, bare = (done.get(f"{mode}, one edit, {kind}") for kind in ("gate", "no gate"))
        if gated is None or bare is None:
            continue
        parts.append(f"One edit each, {mode}; in brackets without a gate:")
        body = [
            [
                edit,
                *_gated(found)[:2],
                *(
                    f"{mine} ({others})"
                    for mine, others in zip(_gated(found)[2:], _gated(bare["by edit"][edit])[2:], strict=True)
                ),
            ]
            for edit, found in gated["by edit"].items()
            if edit in bare["by edit"]
        ]
        parts.append(rows(["edit", *head], body))
    bare = done.get("paste, one or two, no gate")
    if bare is not None:
        parts.append(
            f"The gate's score and the judge's cosine correlate by {bare['correlation']:.2f} (paste, one or two). "
            "What a threshold would accept at the first attempt:"
        )
        body = [
            [f"{float(threshold):g}", percent(found["accepted"]), number(found["median"]), percent(found["share"])]
            for threshold, found in bare["thresholds"].items()
        ]
        parts.append(rows(["threshold", *head[1:]], body))
    gated = done.get("paste, one or two, gate")
    if gated is not None:
        groups = [(kind, found) for kinds in gated["by group"].values() for kind, found in kinds.items()]
        parts.append(rows(["group (paste, one or two)", *head], [[kind, *_gated(found)] for kind, found in groups]))
    return "\n\n".join(parts)


def _gated(found: dict[str, Any]) -> list[str]:
    return [str(found["tried"]), percent(found["accepted"]), number(found["median"]), percent(found["share"])]


def label_table(figures: dict[str, Any]) -> str:
    """Flips by trained label."""
    body, notes = [], []
    for column, found in figures.items():
        if not isinstance(found, dict):
            continue
        for name, run in found["runs"].items():
            if "failed" in run:
                notes.append(f"- {column}, {name} failed: {run['failed']}")
                continue
            more = "-" if name == "plain" else f"{100 * run['more']:+.1f}"
            by_edit = sorted(run.get("more by edit", {}).items(), key=lambda item: -item[1])[:WORST]
            worst = ", ".join(f"{edit} {100 * value:+.0f}" for edit, value in by_edit) or "-"
            shares = [f"{100 * run['flips']:.1f} %", more, f"{100 * run['wrong']:.1f} %"]
            body.append([column, name, *shares, str(run.get("variants", "-")), worst])
        notes += [f"- {column} refuses {edit}: {why}" for edit, why in found["refused"].items()]
    head = [
        "label",
        "preserve",
        "flips",
        f"more than plain (aim {100 * FLIPS:.0f})",
        "wrong",
        "variants",
        "most with",
    ]
    text = f"Verdicts that differ from those on the photos, {figures['faces']} faces, {figures['epochs']} epochs:"
    return "\n\n".join([text, rows(head, body), "\n".join(notes)])
