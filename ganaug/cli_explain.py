"""``ganaug explain`` and ``ganaug card``: their parsers, and arguments in, figures out."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.cli_export import add_variant_arguments, wrap_photos
from ganaug.errors import CacheError, UserInputError

if TYPE_CHECKING:
    from ganaug.explain import Explanation

PAGE, FACTS = "explanation.html", "explanation.json"


def add_explain(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug explain`` takes to its parser."""
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="an exported picture; or --cache and --key")
    parser.add_argument("--cache", metavar="DIR", help="of `ganaug precompute`")
    parser.add_argument("--key", metavar="KEY", help="photo to explain, as the cache calls it")
    parser.add_argument("--images", metavar="SRC", help="the photos that were precomputed")
    parser.add_argument("--epochs", metavar="N", type=positive, default=4, help="epochs to draw (default: %(default)s)")
    parser.add_argument("--recipes", metavar="FILE", type=Path, help="recipes.jsonl (default: that of the export)")
    parser.add_argument("--trust", metavar="CERTS.pem", type=Path, help="issuers of signatures that are trusted")
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"for {PAGE} and {FACTS}: personal data")
    add_variant_arguments(parser, positive, layout)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.set_defaults(paste=None)  # so that an export's own is taken unless one is given


def explain(args: argparse.Namespace) -> dict[str, Any]:
    """What became of a photo, or how a picture came about."""
    from ganaug.explain_page import explanation_page, in_lines
    from ganaug.page import check_folder, write_private

    if args.out is not None:
        check_folder(args.out)
    explanation = _of_photo(args) if args.file is None else _of_file(args)
    facts = explanation.facts
    lines = in_lines(facts)
    if args.out is not None:
        args.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        explanation_page(explanation).write(args.out / PAGE)
        write_private(args.out / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
        lines["out"] = str(args.out / PAGE)
    return lines if args.json is None else facts


def _of_photo(args: argparse.Namespace) -> "Explanation":
    from ganaug.cache import LatentCache
    from ganaug.explain import explain_absence, explain_photo
    from ganaug.faces.photos import photos_from
    from ganaug.interfaces import resolve_device
    from ganaug.recheck import photo_of

    device = resolve_device(args.device)
    if args.key is None or args.cache is None:
        raise UserInputError("expected a photo, --cache DIR --key KEY, or an exported picture, FILE.png")
    for flag in ("recipes", "trust"):
        if getattr(args, flag) is not None:
            raise UserInputError(f"--{flag} is about an exported picture, FILE.png; leave it out with --key")
    cache = LatentCache(args.cache)
    photos = None if args.images is None else photos_from(args.images, args.dataset, args.split)
    absent = explain_absence(cache, args.key, photos)
    if absent is not None:
        return absent
    args.paste = args.paste or ("aligned" if args.images is None else "paste")
    photo = None if photos is None else photo_of(args.key, {photo.key: photo for photo in photos})
    return explain_photo(wrap_photos(args), args.key, args.epochs, device, photo, args.embedder)


def _of_file(args: argparse.Namespace) -> "Explanation":
    from ganaug.explain import Explanation
    from ganaug.explain_file import compare_replay, explain_file
    from ganaug.interfaces import resolve_device

    device = resolve_device(args.device)
    if args.key is not None:
        raise UserInputError("explain either a picture, FILE, or a photo, --key; leave one of them out")
    if not args.file.is_file():
        what = "is a folder; give one of its pictures" if args.file.is_dir() else "no such file"
        raise UserInputError(f"{args.file}: {what}; expected an exported picture")
    folder = _export_folder(args.file)
    recipes = args.recipes
    if recipes is None and folder is not None and (folder / "recipes.jsonl").is_file():
        recipes = folder / "recipes.jsonl"
    found, recipe = explain_file(args.file, recipes, args.trust)
    if recipe is None:
        return found
    if args.cache is None or args.images is None:
        why = "give --cache and --images, with the flags of the export, to make it again"
        return Explanation({**found.facts, "replay": {"not_replayed": why}}, found.pictures, found.fingerprint)
    pixels = found.pictures["file"]
    settings = {} if folder is None else _settings(folder)
    args.edits = args.edits or ",".join(settings.get("edits") or [edit.name for edit in recipe.edits]) or None
    args.preserve = args.preserve or ",".join(settings.get("preserve", ())) or None
    args.paste = args.paste or settings.get("paste", "paste")
    args.residual = settings.get("residual") if args.residual is None else args.residual
    args.size = args.size or (pixels.shape[0] if pixels.shape[0] == pixels.shape[1] else None)
    args.classical = args.classical or bool(recipe.classical)
    try:
        train = wrap_photos(args)
        if found.fingerprint and found.fingerprint != train.header.fingerprint:
            raise UserInputError(
                f"generator {found.fingerprint[:12]} made it, the cache has {train.header.fingerprint[:12]}"
            )
        replayed, made = compare_replay(train, recipe, pixels, device)
    except (UserInputError, CacheError) as error:
        return Explanation({**found.facts, "replay": {"not_replayed": str(error)}}, found.pictures, found.fingerprint)
    pictures = {**found.pictures, "replay": made} if made.shape == pixels.shape else found.pictures
    return Explanation({**found.facts, "replay": replayed}, pictures, found.fingerprint)


def _export_folder(file: Path) -> Path | None:
    """Where the export lies that a picture is of, if it still lies there."""
    return next((folder for folder in file.resolve().parents if (folder / "export.json").is_file()), None)


def _settings(folder: Path) -> dict[str, Any]:
    """Those settings of an export that decide its variants, as far as they can be read and are what they should be."""
    try:
        settings = dict(json.loads((folder / "export.json").read_text())["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    names = {name: settings.get(name) for name in ("edits", "preserve")}
    listed = {n: found for n, found in names.items() if isinstance(found, list) and all(map(_is_text, found))}
    others = {"paste": str, "residual": float | int}
    return listed | {name: settings[name] for name, kind in others.items() if isinstance(settings.get(name), kind)}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def add_card(parser: argparse.ArgumentParser) -> None:
    """Adds what ``ganaug card`` takes to its parser."""
    parser.add_argument("path", metavar="DIR|FILE", help="a cache, the folder of an export, or a model: name or file")
    parser.add_argument("--out", metavar="FILE", type=Path, help="Markdown (default: the terminal)")
    parser.add_argument("--groups", metavar="CSV", help="table with groups of the photos (race, gender, age), counted")


def card(args: argparse.Namespace) -> dict[str, Any]:
    """A data card or a model card."""
    from ganaug.cards import card_of
    from ganaug.page import write_private

    if args.out is not None and not (args.out.parent.is_dir() and not args.out.is_dir()):  # before the work
        raise UserInputError(f"--out {str(args.out)!r}: cannot be written, it is a folder or in a missing one")
    kind, text = card_of(args.path, args.groups)
    if args.out is None:
        print(text, end="")
        return {"card": kind, "text": text} if args.json is not None else {}
    write_private(args.out, text.encode(errors="replace"))
    return {"card": kind, "out": str(args.out), "unknown": text.lower().count("not known")}
