"""``ganaug directions fit | discover | import | show``: its parser and its arguments in, figures out."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.errors import UserInputError

if TYPE_CHECKING:
    from ganaug.directions import Found
    from ganaug.edits.stored import Stored
    from ganaug.interfaces import Generator

SHOWN = (  # of what is measured, in the table
    "faces",
    "unlabelled",
    "pair_accuracy",
    "accuracy",
    "baseline",
    "auc",
    "ece",
    "r2",
    "correlation",
    "mean_absolute_error",
    "baseline_error",
    "calibration_error",
)
NUM_RELATED = 4  # correlations that the table shows
PERSON_COLUMNS = ("person", "identity", "subject", "id", "name")


def add_parser(directions: argparse.ArgumentParser) -> None:
    """Adds the four actions to the parser of ``ganaug directions``."""
    actions = directions.add_subparsers(dest="action", required=True, metavar="fit|discover|import|show")

    def action(name: str, run: Callable[[argparse.Namespace], dict[str, Any]], summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
        sub.set_defaults(run=run)
        return sub

    def common(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--name", metavar="NAME", help="of the direction, or what several begin with")
        sub.add_argument("--touches", metavar="WORD,...", help="what it may change (default: as known or measured)")
        sub.add_argument("--strength", metavar="LOW,HIGH", help="range drawn from, in standard deviations")
        sub.add_argument("--out", metavar="FILE", type=Path, required=True, help="made, or added to; .safetensors")

    fit = action("fit", fit_directions, "Fit a direction to a column of labels of the photos in a cache.")
    fit.add_argument("--cache", metavar="DIR", required=True)
    fit.add_argument("--labels", metavar="CSV", type=Path, required=True, help="a line per photo")
    fit.add_argument("--column", metavar="NAME", required=True)
    fit.add_argument("--positive", metavar="VALUE", help="the class to lead to (default: one direction for each)")
    fit.add_argument("--method", choices=("logistic", "svm", "ridge"), help="default: ridge for numbers, else logistic")
    free = "columns, or FILE:NAME of fitted directions, whose reading must not change along it"
    images = "folder that the cache was made from, where names of the table need it"
    fit.add_argument("--free-of", metavar="WHAT,...", help=free)
    fit.add_argument("--person", metavar="COLUMN", help="photos of one person are then tested together")
    fit.add_argument("--images", metavar="DIR", help=images)
    generator = "default: the one that the cache names"
    fit.add_argument("--generator", metavar="NAME|FILE", help=generator)
    fit.add_argument("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    common(fit)

    found = action("discover", discover_directions, "Find directions without labels, or with pairs of photos.")
    found.add_argument("--generator", metavar="NAME|FILE", help="default: the one that the cache names")
    found.add_argument("--method", choices=("pca", "sefa", "pairs"), required=True)
    found.add_argument("--cache", metavar="DIR", help="for pca: of its codes; needed for pairs")
    found.add_argument("--pairs", metavar="CSV", type=Path, help="a line per photo: file, person, and what differs")
    found.add_argument("--column", metavar="NAME", help="with --pairs: what differs, such as expression")
    found.add_argument("--positive", metavar="VALUE", help="with --pairs: value to lead to")
    found.add_argument("--person", metavar="COLUMN", help="with --pairs (default: person, identity, subject or id)")
    found.add_argument("--free-of", metavar="WHAT,...", help=f"with --pairs: {free}")
    found.add_argument("--images", metavar="DIR", help=f"with --pairs: {images}")
    found.add_argument("--num", metavar="K", type=int, default=8, help="for pca and sefa (default: %(default)s)")
    found.add_argument("--rows", metavar="A-B", help="rows of latents that move (default: all)")
    common(found)

    get = action("import", import_published, "Read InterFaceGAN, e4e, PTI or GANSpace directions.")
    get.add_argument("source", metavar="FILE")
    get.add_argument("--generator", metavar="NAME|FILE", required=True)
    get.add_argument("--made-for", metavar="FAMILY", help="what they were made for, if the file's name does not say it")
    get.add_argument("--rows", metavar="A-B", help="rows of latents that move (default: all)")
    get.add_argument("--space", choices=("w", "z"), help="if the file's name does not say it")
    common(get)

    show = action("show", show_directions, "What a file of directions holds, or what a generator's table does.")
    show.add_argument("source", metavar="FILE", nargs="?", type=Path)
    show.add_argument("--generator", metavar="NAME|FILE", help="its bundled table; with FILE: must be made for it")


def fit_directions(args: argparse.Namespace) -> dict[str, Any]:
    """Directions fitted to a column."""
    from ganaug.directions import FITTED_STRENGTH, fit, free_of_edits
    from ganaug.labelled_codes import read_codes

    cache, generator = _open(args)
    codes = read_codes(cache, generator, args.labels, args.images)
    free_of = free_of_edits(_list(args.free_of), codes, generator, args.seed, args.out)
    found = fit(
        codes,
        args.column,
        positive=args.positive,
        method=args.method,
        free_of=free_of,
        name=args.name,
        touches=_touches(args),
        strength=_strength(args, FITTED_STRENGTH),
        person=args.person,
        seed=args.seed,
    )
    return _written(args, generator, found, {"labels": args.labels.name, "records": len(codes.keys)})


def discover_directions(args: argparse.Namespace) -> dict[str, Any]:
    """Directions found without labels, or from pairs."""
    from ganaug.directions import FITTED_STRENGTH, discover, discover_pairs, free_of_edits
    from ganaug.edits import PRINCIPAL_STRENGTH
    from ganaug.labelled_codes import read_codes

    if args.method != "pairs":
        if args.pairs is not None or args.free_of is not None:
            raise UserInputError(f"--pairs and --free-of are for --method pairs, not {args.method}; leave them out")
        if args.num < 1:
            raise UserInputError(f"--num must be at least 1, got {args.num}")
        cache, generator = _open(args, needs_cache=False)
        found = discover(
            generator, args.method, cache=cache, num_components=args.num, rows=_rows(args.rows), name=args.name
        )
        known = args.method == "pca" and getattr(generator, "prior", None) is not None
        default = PRINCIPAL_STRENGTH["prior" if known else "mapping"]
        touches = _touches(args)
        for edit in found.edits:
            edit.strength, edit.touches = _strength(args, default), edit.touches if touches is None else touches
        return _written(args, generator, found, {})
    if args.cache is None or args.pairs is None or args.column is None:
        raise UserInputError("--method pairs needs --cache DIR, --pairs CSV and --column NAME, what differs in a pair")
    cache, generator = _open(args)
    codes = read_codes(cache, generator, args.pairs, args.images)
    person = args.person or next((name for name in PERSON_COLUMNS if name in codes.columns.names), None)
    if person is None:
        raise UserInputError(
            f"{args.pairs} has none of the columns {', '.join(PERSON_COLUMNS)}, but {', '.join(codes.columns.names)}; "
            "say with --person which one tells whose photo it is"
        )
    found = discover_pairs(
        codes,
        args.column,
        person=person,
        positive=args.positive,
        free_of=free_of_edits(_list(args.free_of), codes, generator, own=args.out),
        name=args.name,
        touches=_touches(args),
        strength=_strength(args, FITTED_STRENGTH),
    )
    return _written(args, generator, found, {"labels": args.pairs.name, "records": len(codes.keys)})


def import_published(args: argparse.Namespace) -> dict[str, Any]:
    """Directions of the field into a file of this package."""
    from ganaug.directions import Found
    from ganaug.edits.published import import_directions
    from ganaug.generators import load_generator
    from ganaug.published.directions import read_directions

    generator = load_generator(args.generator)
    edits = import_directions(
        args.source,
        generator,
        made_for=args.made_for,
        name=args.name,
        rows=_rows(args.rows),
        touches=_touches(args),
        space=args.space,
        strength=_strength(args, (1.0, 2.5)),
    )
    for edit in edits:
        edit.measured = {"method": "import"}
    return _written(
        args,
        generator,
        Found(edits),
        {"file": Path(args.source).name, "sha256": read_directions(args.source).sha256, "made_for": args.made_for},
    )


def show_directions(args: argparse.Namespace) -> dict[str, Any]:
    """The table of a file, or of a generator."""
    from ganaug.edits.stored import open_directions

    if args.generator is None:
        if args.source is None:
            raise UserInputError("show what? Give a file of directions, or --generator NAME for its bundled table")
        file = open_directions(args.source)
        return _rows_of(file.edits, file.unsupported, bool(args.json))
    from ganaug.edits.directions import Direction
    from ganaug.edits.span import Span
    from ganaug.edits.table import table_of
    from ganaug.generators import load_generator

    generator = load_generator(args.generator)
    if args.source is not None:
        file = open_directions(args.source, generator)
        return _rows_of(file.edits, file.unsupported, bool(args.json))
    table = table_of(generator)
    if not table.edits and not table.unsupported:
        raise UserInputError(
            f"no table of edits comes with generator {args.generator}; `ganaug directions fit`, discover and import "
            "make one, and show FILE shows it"
        )
    edits = [edit for edit in table.edits.values() if isinstance(edit, (Direction, Span))]
    return _rows_of(edits, table.unsupported, bool(args.json))


def _open(args: argparse.Namespace, needs_cache: bool = True) -> tuple[Any, "Generator"]:
    """The cache, if one is given, and the generator."""
    from ganaug.cache import LatentCache
    from ganaug.generators import load_generator

    cache: LatentCache | None = LatentCache(args.cache) if args.cache is not None else None
    if cache is None and args.generator is None:
        raise UserInputError("say with --generator or with --cache which generator the directions are for")
    if args.out.suffix != ".safetensors" or not args.out.parent.is_dir():  # before the work
        raise UserInputError(f"--out {str(args.out)!r}: expected a name ending in .safetensors in a folder that exists")
    generator = load_generator(args.generator or (cache.header.generator if cache is not None else ""))
    return cache, generator


def _written(
    args: argparse.Namespace, generator: "Generator", found: "Found", source: dict[str, Any]
) -> dict[str, Any]:
    """Adds what was found to the file; returns what is to be told about it."""
    from ganaug.edits.stored import update_directions

    taken_from = {edit.name: {"command": args.action, **source} for edit in found.edits}
    update_directions(args.out, found.edits, generator, taken_from, found.unsupported)
    return {**_rows_of(found.edits, found.unsupported, bool(args.json)), "out": str(args.out)}


def _rows_of(edits: "Sequence[Stored]", unsupported: Mapping[str, str], full: bool) -> dict[str, Any]:
    rows: dict[str, Any] = {edit.name: _figures(edit) if full else _line(edit) for edit in edits}
    for name, why in unsupported.items():
        rows[name] = {"unsupported": why} if full else f"unsupported: {why}"
    return rows


def _figures(edit: "Stored") -> dict[str, Any]:
    """All that is known of an edit, JSON-able."""
    return {
        "kind": type(edit).__name__.lower(),
        "touches": sorted(edit.touches),
        "strength": list(edit.strength),
        **edit.measured,
    }


def _line(edit: "Stored") -> str:
    """The same in a line, for the terminal."""
    from ganaug.edits import ATTRIBUTES

    measured = edit.measured
    figures = [f"{name} {measured[name]}" for name in SHOWN if isinstance(measured.get(name), int | float)]
    related = measured.get("correlations")
    if isinstance(related, dict):
        values = {str(k): v for k, v in related.items() if isinstance(v, int | float)}
        strongest = sorted(values, key=lambda name: -abs(values[name]))[:NUM_RELATED]
        figures += (
            [f"correlates with {', '.join(f'{name} {values[name]:+.2f}' for name in strongest)}"] if values else []
        )
    method = measured.get("method")
    kind = type(edit).__name__.lower() + (f" by {method}" if isinstance(method, str) else "")
    low, high = edit.strength
    touched = "everything" if edit.touches >= ATTRIBUTES else ", ".join(sorted(edit.touches)) or "nothing"
    text = "; ".join([kind, f"strength {low:g} to {high:g}", *figures, f"touches {touched}"])
    return "".join(c if c.isprintable() else "?" for c in text)  # a file from elsewhere must not move the cursor


def _list(text: str | None) -> list[str]:
    return [] if text is None else [part for part in text.split(",") if part]


def _touches(args: argparse.Namespace) -> frozenset[str] | None:
    from ganaug.edits.published import check_words

    touches = None if args.touches is None else frozenset(_list(args.touches))
    check_words(touches)
    return touches


def _strength(args: argparse.Namespace, default: tuple[float, float]) -> tuple[float, float]:
    if args.strength is None:
        return default
    try:
        low, high = (float(part) for part in args.strength.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0.0 <= low <= high < float("inf"):
        raise UserInputError(f"--strength {args.strength}: expected two numbers, LOW,HIGH, such as 1,2.5")
    return low, high


def _rows(text: str | None) -> Sequence[int] | None:
    """``"0-3"``, ``"7"`` or ``"0,2,5-8"``."""
    if text is None:
        return None
    rows: list[int] = []
    try:
        for part in text.split(","):
            low, separator, high = part.partition("-")
            rows += range(int(low), int(high if separator else low) + 1)
    except ValueError:
        rows = []
    if not rows:
        raise UserInputError(f"--rows {text}: expected numbers of rows, such as 0-3 or 7,9")
    return rows
