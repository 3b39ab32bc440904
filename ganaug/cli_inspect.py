"""``ganaug inspect DIR|FILE``: its parser and its arguments in, figures out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.errors import UserInputError

if TYPE_CHECKING:
    from ganaug.cache import LatentCache

SHOWN_REASONS = 5  # of failures, in the terminal
SHOWN_KEYS = 10  # of records that differ, in the terminal

# Flags that say something about a cache, and nothing about a model file.
_OF_CACHES = ("verify", "images", "dataset", "split", "out", "by", "min_quality")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what ``ganaug inspect`` takes to its parser."""
    parser.add_argument(
        "path", metavar="DIR|FILE", help="a cache; or a model: bundled or fetched name, or any checkpoint"
    )
    parser.add_argument("--verify", action="store_true", help="draw a sample of the records again and compare")
    parser.add_argument("--sample", metavar="N", type=int, default=64, help="records for --verify (default: 64)")
    parser.add_argument("--images", metavar="SRC", help="the photos that were precomputed, for --verify and --out")
    parser.add_argument("--dataset", metavar="NAME", help="layout of SRC (default: a folder of images)")
    parser.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="PNG with the best, median and worst inversions")
    parser.add_argument("--by", metavar="FIGURE", help="which decides what is the best (default: psnr)")
    parser.add_argument("--num-faces", metavar="N", type=int, default=8, help="of each, in --out (default: 8)")
    bounds = "count records below: dB, or psnr=20,identity=0.8 (default: psnr=20, and the same person)"
    parser.add_argument("--min-quality", metavar="X|NAME=X,...", help=bounds)
    parser.add_argument("--device", default="cpu", help="for --verify and --out (default: %(default)s)")


def inspect(args: argparse.Namespace) -> dict[str, Any]:
    """What a cache or a model file holds."""
    from ganaug.cache import LatentCache
    from ganaug.checkpoints import BUNDLED, open_model
    from ganaug.known_weights import KNOWN_WEIGHTS

    if Path(args.path).is_file() or args.path in BUNDLED or args.path in KNOWN_WEIGHTS:
        from ganaug.convert import describe
        from ganaug.generators import build_generator

        given = next((name for name in _OF_CACHES if getattr(args, name)), None)
        if given is not None:
            raise UserInputError(f"--{given.replace('_', '-')} is for caches, and {args.path} is a model; leave it out")
        model = open_model(args.path)
        return describe(model, build_generator(model))
    return _inspect_cache(args, LatentCache(args.path))


def _inspect_cache(args: argparse.Namespace, cache: "LatentCache") -> dict[str, Any]:
    from ganaug.faces.photos import photos_from
    from ganaug.generators import load_generator
    from ganaug.inspection import inspect_cache, inversion_sheet, require_figure
    from ganaug.interfaces import resolve_device
    from ganaug.recheck import recheck
    from ganaug.synthetic import check_png

    device = resolve_device(args.device)
    draws = args.verify or args.out is not None
    for flag in ("images", "by"):  # before the work
        if getattr(args, flag) is not None and not draws:
            raise UserInputError(f"--{flag} is for --verify and --out; give one of these, or leave --{flag} out")
    for flag in ("dataset", "split"):
        if getattr(args, flag) is not None and args.images is None:
            raise UserInputError(f"--{flag} says what --images holds; give that too, or leave --{flag} out")
    for flag in ("sample", "num_faces"):
        if getattr(args, flag) < 1:
            raise UserInputError(f"--{flag.replace('_', '-')} must be at least 1, got {getattr(args, flag)}")
    if args.out is not None:
        check_png(args.out, "the sheet of inversions")
        require_figure(cache, args.by or "psnr")
    figures = inspect_cache(cache, min_quality_of(args.min_quality))
    if draws:
        photos = None if args.images is None else photos_from(args.images, args.dataset, args.split)
        generator = load_generator(figures["generator"], device)
        if args.verify:
            found = recheck(cache, photos, generator, device, args.sample).to_dict()
            figures |= {"differing": len(found["differing"]), "verify": found}
        if args.out is not None:
            inversion_sheet(cache, args.out, generator, photos, args.by or "psnr", args.num_faces)
            figures["out"] = str(args.out)
    return figures if args.json is not None else _for_terminal(figures)


def min_quality_of(text: str | None) -> dict[str, float] | None:
    """``20`` or ``psnr=20,identity=0.8`` of a flag.

    Raises:
        UserInputError: For anything else.
    """
    from ganaug.min_quality import resolve_min_quality

    if text is None:
        return None
    try:
        if "=" not in text:
            return resolve_min_quality(float(text))
        pairs = [part.split("=") for part in text.split(",")]
        return resolve_min_quality({name.strip(): float(bound) for name, bound in pairs})
    except ValueError:  # UserInputError is one too, with the same advice
        raise UserInputError(
            f"--min-quality {text}: expected a PSNR in dB, or figures and the worst that passes: psnr=20,identity=0.8"
        ) from None


def _for_terminal(figures: dict[str, Any]) -> dict[str, Any]:
    """The same, a line for each distribution."""
    from ganaug.inspection import printed

    shown: dict[str, Any] = {}
    for name, value in figures.items():
        if name == "quality":
            for figure, of in value.items():
                numbers = ", ".join(f"{point} {printed(figure, of[point])}" for point in ("p5", "median", "p95"))
                worst = f"; worst {printed(figure, of['worst'])} ({of['worst_key']})" if of["worst"] is not None else ""
                without = f"; {of['no_number']} without" if "no_number" in of else ""
                shown[figure] = f"{numbers}{worst}{without}"
        elif name == "below":
            shown["poor"] = ", ".join(f"{of['records']} by {figure} {of['bound']:g}" for figure, of in value.items())
        elif name == "left_out":
            shown["poor"] = f"{value}" + (f" ({shown['poor']})" if shown.get("poor") else "")
        elif name == "failure_reasons":
            kinds = [f"{kind['count']} x {kind['reason']} ({kind['example']})" for kind in value[:SHOWN_REASONS]]
            if value:
                kinds += [f"{len(value) - SHOWN_REASONS} more kinds"] if len(value) > SHOWN_REASONS else []
                shown["failures"] = f"{shown['failures']}: {'; '.join(kinds)}"
        elif name == "verify":
            shown |= verified(value)
        else:
            shown[name] = value
    return shown


def verified(found: dict[str, Any]) -> dict[str, str]:
    """What :func:`ganaug.recheck.recheck` found, in lines."""
    from ganaug.inspection import printed

    told = {"verified": f"{found['checked']} drawn again, {found['compared']} compared with their photos"}
    lines = []
    for key, what in list(found["differing"].items())[:SHOWN_KEYS]:
        name, stored, now = what["name"], printed(what["name"], what["stored"]), printed(what["name"], what["now"])
        lines.append(f"{key}: {name} {stored} stored, {now} now")
    told |= {"different": "; ".join(lines)} if lines else {}
    reasons = [f"{key}: {why}" for key, why in list(found["unreadable"].items())[:SHOWN_KEYS]]
    return told | ({"not_compared": "; ".join(reasons)} if reasons else {})
