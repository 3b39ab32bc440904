"""An explanation as a page and as lines for the terminal: what :mod:`ganaug.explain` found, in sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ganaug.explain import Explanation, Pixels
from ganaug.inspection import printed
from ganaug.page import Page

SHOWN_PX = 192  # side at which a face is shown; three of them side by side scroll a little on a phone
_GAP_PX = 8
_GAIN = 4  # a change of a few grey levels is not seen otherwise


def explanation_page(explanation: Explanation) -> Page:
    """The page of an explanation, of a photo or of a file."""
    facts = explanation.facts
    if "file" in facts:
        return _file_page(explanation)
    page = Page(f"What became of {facts['key']}", f"{in_lines(facts)['answer']}")
    if "reason" in facts:
        page.warning(f"{facts['key']} has no usable record: {facts['reason']}. So {facts['so']}.")
        return page
    mark = {"generator": explanation.fingerprint}
    pictures = explanation.pictures
    page.heading("The photo and its inversion")
    first = "the photo" if facts["photo"]["at_hand"] else "its inversion"  # where only the cache was given
    names = [name for name in ("photo", "chip", "inversion") if name in pictures]
    names = names if facts["photo"]["at_hand"] else ["inversion"]
    told = {"photo": "the photo as your dataset serves it", "chip": "the chip that was inverted"}
    told["inversion"] = "what the generator draws of the record"
    caption = ("From left to right: " if len(names) > 1 else "Here: ") + "; ".join(told[name] for name in names) + "."
    page.picture(_strip([pictures[name] for name in names]), caption, caption, mark=mark, shrinks=True)
    page.table(["", ""], _photo_rows(facts), "The photo")
    rows = [[row["figure"], printed(row["figure"], row["value"]), _quality_line(row)] for row in facts["quality"]]
    page.table(["figure", "value", "what it means"], rows, "The inversion")
    page.text(f"Verdict: {facts['verdict']}.")
    page.heading("What is served for it")
    settings = facts["settings"]
    page.text(
        f"As the loader serves it at ratio {settings['ratio']}, seed {settings['seed']}, paste {settings['paste']!r}; "
        f"edits {', '.join(settings['edits'])}; to be kept: {', '.join(settings['preserve']) or 'nothing named'}. "
        "Another ratio, seed or choice of edits gives other draws. Strengths of directions are in standard deviations."
    )
    for variant in facts["variants"]:
        epoch = variant["epoch"]
        page.heading(f"Epoch {epoch}: {variant['served'].partition(':')[0]}", level=3)
        shown = [pictures["photo"], pictures[f"epoch {epoch}"]]
        text = f"From left to right: {first}; what is served"
        if variant["recipe"]["synthetic"] and not variant["classical"]:
            shown.append(_difference(*shown))
            text += f"; where they differ, {_GAIN} times as bright as it is"
        page.picture(_strip(shown), f"{text}.", f"{text}.", mark=mark, shrinks=True)
        page.table(["draw", "what it came to"], [list(row) for row in variant_rows(variant)])
    page.heading("Who made it")
    for model in facts["models"]:
        role, name, said = _model_row(model)
        page.heading(f"{role.capitalize()}: {name}", level=3)
        page.text(said)
    page.text(f"Cache: {facts['cache']}. Erase this photo's record with LatentCache(...).forget([{facts['key']!r}]).")
    return page


def in_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts as name -> line, for the terminal; ``answer`` comes first and says it in a sentence."""
    if "file" in facts:
        return _file_lines(facts)
    if "reason" in facts:
        return {"answer": f"{facts['key']}: no usable record", "why": facts["reason"], "so": facts["so"]}
    served = facts["variants"]
    made = sum(1 for variant in served if variant["recipe"]["synthetic"])
    quality = {row["figure"]: row for row in facts["quality"]}
    psnr = f" at {quality['psnr']['value']:.1f} dB" if quality.get("psnr", {}).get("value") is not None else ""
    served_as = f"{made} of {len(served)} epochs serve a variant"
    lines = {"answer": f"{facts['key']} was inverted{psnr} ({facts['verdict']}); {served_as}"}
    lines |= {f"photo, {name}" if name else "photo": text for name, text in _photo_rows(facts)}
    for name, row in quality.items():
        lines[name] = f"{printed(name, row['value'])} {_quality_line(row)}"
    for variant in served:
        rows = [f"{name} {text}" for name, text in variant_rows(variant)[1:]]
        lines[f"epoch {variant['epoch']}"] = "; ".join([variant["served"], *rows])
    for model in facts["models"]:
        role, name, told = _model_row(model)
        lines[role] = f"{name}: {told}"
    return lines


def variant_rows(variant: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every draw of a sample, in words."""
    rows = [("served", variant["served"])]
    for edit in variant["edits"]:
        params = ", ".join(f"{name} {value:.3g}" for name, value in edit["params"].items())
        partner = f" with the face of {edit['partner']}" if edit["partner"] is not None else ""
        rows.append((edit["name"], (params or "no parameters") + partner))
    if variant["edits"]:
        share = variant["share_of_move"]
        rows.append(("move", "all of it" if share == 1.0 else f"{share:g} of it, for the gate refused more"))
    if variant["identity"] is not None:
        least = variant.get("asked_identity")
        asked = "" if least is None else f"; the gate asks for {least:.3f}"
        rows.append(("identity", f"cosine {variant['identity']:.3f} to the photo{asked}"))
    if variant["attempts"]:
        rows.append(("attempts", f"{variant['attempts']}, looked at by the gate"))
    for name in ("classical", "degradation"):
        if variant[name]:
            rows.append((name, ", ".join(f"{what} {_value(value)}" for what, value in variant[name].items())))
    return rows


def _value(value: Any) -> str:
    return str(value) if isinstance(value, bool | int) else f"{value:.3g}"


def _photo_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    photo = facts["photo"]
    rows = [("sha256", photo["sha256"] or "unknown: it was made of no file")]
    if "unchanged" in photo:
        rows.append(("unchanged", "yes, the file is the one that was inverted" if photo["unchanged"] else photo["why"]))
    if "cut" in photo:
        cut = photo["cut"]
        of = f" of {cut['of_px'][0]} x {cut['of_px'][1]} px" if any(cut["of_px"]) else ""
        x, y = cut["centre_px"]
        told = f"a square of {cut['side_px']:g} px around ({x:g}, {y:g}){of}, turned by {cut['angle_deg']:g}°"
        rows.append(("cut", f"{told}, to {cut['to_px']} px"))
    for name, value in photo.get("attributes", {}).items():
        rows.append((name, value))
    return rows


def _quality_line(row: Mapping[str, Any]) -> str:
    """What a figure means, and where it stands among those of the other records."""
    place = "" if row["better_than"] is None else f"; better than {row['better_than']} of {row['of']} others"
    return f"{row['means']}{place}"


def _model_row(model: Mapping[str, Any]) -> list[str]:
    skipped = {"role", "name", "settings", "gates"}
    told = [f"{name.replace('_', ' ')} {value}" for name, value in model.items() if name not in skipped]
    for gate in model.get("gates", ()):
        least = "" if gate["threshold"] is None else f", from {gate['threshold']:.3f} on"
        told.append(f"{gate['gate']} watches {', '.join(gate['watches']) or 'realism'}{least}")
    plain = {name: value for name, value in model.get("settings", {}).items() if not isinstance(value, Mapping)}
    told += [f"{name.replace('_', ' ')} {value}" for name, value in plain.items() if name != "name"]
    return [model["role"], model["name"], "; ".join(told)]


# A file


def _file_page(explanation: Explanation) -> Page:
    facts, pictures = explanation.facts, explanation.pictures
    lines = _file_lines(facts)
    page = Page(f"How {facts['file'].rpartition('/')[2]} came about", lines.pop("answer"))
    shown, text = [pictures["file"]], "The picture"
    if "replay" in pictures:
        shown += [pictures["replay"], _difference(pictures["file"], pictures["replay"])]
        text = (
            f"From left to right: the picture; made again from its recipe; where they differ, {_GAIN} times as bright"
        )
    mark = {"generator": explanation.fingerprint or "unknown"}
    page.picture(_strip(shown), f"{text}.", f"{text}.", mark=mark, shrinks=True)
    page.heading("What it says of itself")
    page.table(["", ""], [[name, line] for name, line in lines.items() if name != "recipe"])
    if "variant" in facts:
        page.heading("Its recipe")
        page.table(["draw", "what it came to"], [list(row) for row in variant_rows(facts["variant"])])
    return page


def _file_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    mark, credentials, replayed = facts["mark"], facts["credentials"], facts.get("replay")
    lines = {"answer": _verdict(facts)}
    lines["file"] = f"{facts['file']}, {facts['pixels'][0]} x {facts['pixels'][1]} px"
    lines["sha256"] = facts["sha256"]
    lines["mark"] = "none: nothing in the file says that it is synthetic"
    if mark is not None:
        lines["mark"] = f"synthetic, of generator {mark.get('generator', 'unknown')}"
    lines["signature"] = signature_line(credentials)
    if facts.get("listed"):
        line = facts["listed"]["line"]
        lines["list"] = f"{facts['listed']['in']}, " + ("has no line of it" if line is None else f"line {line}")
    if "recipes_agree" in facts and len(facts["recipe_from"]) > 1:
        told = "agree" if facts["recipes_agree"] else "contradict each other"
        lines["recipes"] = f"those of {' and '.join(facts['recipe_from'])} {told}"
    if "variant" in facts:
        variant = facts["variant"]
        lines["photo"] = f"{variant['recipe']['key']}, epoch {variant['epoch']}, seed {variant['recipe']['seed']}"
        lines["recipe"] = "; ".join(f"{name} {text}" for name, text in variant_rows(variant))
    if replayed is not None:
        lines["replay"] = _replay_line(replayed)
    return lines


def signature_line(credentials: Mapping[str, Any] | None) -> str:
    """Content Credentials in a sentence."""
    if credentials is None:
        return "none (no Content Credentials)"
    if "not_verified" in credentials:
        return f"there are Content Credentials, not verified: {credentials['not_verified']}"
    if not credentials["sound"]:
        return f"BROKEN, the file is not as it was signed: {'; '.join(credentials['problems']) or 'no reason given'}"
    by = credentials["signed_by"]
    who = f"{by['name'] or 'unnamed'} ({by['organisation'] or 'no organisation'})"
    trusted = "whose issuer is trusted" if credentials["trusted"] else "whose issuer nobody vouched for (see --trust)"
    what = ", ".join(credentials["source_types"]) or "no source type"
    return f"as it was signed by {who}, {trusted}, with {', '.join(credentials['software'])}: {what}"


def _replay_line(replayed: Mapping[str, Any]) -> str:
    if "not_replayed" in replayed:
        return f"not replayed: {replayed['not_replayed']}"
    share = 100.0 * replayed["share_that_differs"]
    told = f"{share:.3g} % of the values differ, by {replayed['max_difference']} grey levels at most"
    return {
        "identical": "made again from its recipe, every pixel is the same",
        "but for rounding": f"made again from its recipe it is the same but for rounding: {told}",
        "no": f"made again from its recipe it is NOT the same: {told}. Either the file was changed, or the photo, "
        "--directions, --label, --preserve, --paste or the kind of device are not those that it was made with",
    }[replayed["agrees"]]


def _verdict(facts: Mapping[str, Any]) -> str:
    """The first line: is it what it says it is?"""
    credentials, replayed = facts["credentials"] or {}, facts.get("replay") or {}
    if facts["mark"] is None and "variant" not in facts and not credentials:
        return "nothing in this file says who made it; ganaug cannot tell whether it is real"
    if "variant" not in facts:
        parts = ["it says that it holds generated faces" if facts["mark"] is not None else "signed, but not by ganaug"]
    elif facts["variant"]["recipe"]["synthetic"]:
        parts = ["a variant made by ganaug"]
    else:
        parts = ["its recipe says that it is no variant"]
    if credentials.get("sound") is False:
        parts.append("its signature is broken")
    elif credentials.get("sound"):
        parts.append("it is as it was signed")
    if facts.get("recipes_agree") is False:
        parts.append("its recipes contradict each other")
    if replayed.get("agrees") == "no":
        parts.append("its recipe gives another picture")
    elif "agrees" in replayed:
        parts.append("its recipe gives this picture")
    return "; ".join(parts)


# Pictures


def _strip(pictures: list[Pixels]) -> Image.Image:
    """Pictures side by side, at least ``SHOWN_PX`` tall, with whole pixels kept where they are enlarged."""
    scaled = []
    for pixels in pictures:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        height = max(SHOWN_PX, 1)
        scaled.append(
            image.resize((max(round(image.width * height / image.height), 1), height), Image.Resampling.BICUBIC)
        )
    width = sum(image.width for image in scaled) + _GAP_PX * (len(scaled) - 1)
    strip = Image.new("RGB", (width, SHOWN_PX), "white")
    left = 0
    for image in scaled:
        strip.paste(image, (left, 0))
        left += image.width + _GAP_PX
    return strip


def _difference(first: Pixels, second: Pixels) -> Pixels:
    """Absolute difference, brighter than it is."""
    values = np.abs(first.astype(np.int16) - second) * _GAIN
    return values.clip(0, 255).astype(np.uint8)
