"""``ganaug audit``: its parser and its arguments in, figures out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganaug.cli_export import names_of

SHOWN_WARNINGS = 5  # in the terminal


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug audit`` takes to its parser."""
    parser.add_argument("--cache", metavar="DIR", required=True, help="of `ganaug precompute`")
    table = "a line per photo; which column names the photos is found out"
    parser.add_argument("--groups", metavar="CSV", required=True, help=table)
    parser.add_argument("--images", metavar="SRC", help="the photos that were precomputed (default: inversions only)")
    parser.add_argument("--dataset", metavar="NAME", help=layout)
    parser.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="for audit.html and audit.json, which hold no photo")
    parser.add_argument(
        "--columns", metavar="NAME,...", help="groups (default: race, gender and age, if they are there)"
    )
    judged = "column that a readout of embeddings, cross-validated, is asked to tell"
    parser.add_argument("--label", metavar="COLUMN", help=judged)
    parser.add_argument("--predictions", metavar="COLUMN", help="what a classifier of yours said of --label, instead")
    parser.add_argument("--people", metavar="COLUMN", help="persons: drawn and held out whole (default: every photo)")
    parser.add_argument("--ratio", metavar="X", type=float, default=0.5, help="of variants (default: %(default)s)")
    parser.add_argument("--edits", metavar="NAME,...", help="default: the default edits")
    parser.add_argument("--directions", metavar="FILE", help="of `ganaug directions`, whose names can be edits")
    kept = "what must not change: identity, label, gender, ...; none (default: %(default)s)"
    parser.add_argument("--preserve", metavar="NAME,...", default="identity", help=kept)
    least = "leave out photos whose inversion is below: PSNR in dB, or psnr=20,identity=0.8"
    parser.add_argument("--min-quality", metavar="X|NAME=X,...", help=least)
    parser.add_argument("--limit", metavar="N", type=positive, help="photos to look at (default: 2000, by their keys)")
    parser.add_argument("--variants-per-image", metavar="N", type=positive, default=1, help="default: %(default)s")
    parser.add_argument(
        "--min-count", metavar="N", type=positive, help="least photos (persons) of a group (default: 20)"
    )
    parser.add_argument("--max-extra", metavar="N", type=positive, default=8, help="variants of a photo (default: 8)")
    faster = "count what balance would add, but do not make it"
    parser.add_argument("--no-balance", action="store_true", help=faster)
    parser.add_argument("--embedder", metavar="NAME|FILE", default="identity64", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)


def audit(args: argparse.Namespace) -> dict[str, Any]:
    """Whether augmentation treats groups alike."""
    import os

    from ganaug.audit import AuditSettings, write_audit
    from ganaug.audit import audit as run
    from ganaug.cache import LatentCache
    from ganaug.cli_inspect import min_quality_of
    from ganaug.errors import UserInputError
    from ganaug.faces.photos import photos_from
    from ganaug.interfaces import resolve_device
    from ganaug.page import check_folder

    device = resolve_device(args.device)
    if args.out is not None:
        check_folder(args.out)
    if args.images is None and (args.dataset is not None or args.split is not None):
        raise UserInputError("--dataset and --split say how --images is laid out; give that too")
    preserve = () if args.preserve == "none" else names_of(args.preserve) or ()
    settings = AuditSettings(
        ratio=args.ratio,
        edits=names_of(args.edits),
        preserve=preserve,
        directions=args.directions,
        min_quality=min_quality_of(args.min_quality),
        columns=names_of(args.columns),
        label=args.label,
        predictions=args.predictions,
        people=args.people,
        num_variants=args.variants_per_image,
        max_extra=args.max_extra,
        measure_balance=not args.no_balance,
        embedder=args.embedder,
        seed=args.seed,
        **{name: getattr(args, name) for name in ("limit", "min_count") if getattr(args, name) is not None},
    )
    photos = None if args.images is None else photos_from(args.images, args.dataset, args.split)
    folder = args.images if args.images is not None and os.path.isdir(args.images) else None
    report = run(LatentCache(args.cache), args.groups, photos, settings, folder, device)
    written = [] if args.out is None else write_audit(report, args.out)
    return report if args.json is not None else _for_terminal(report, [str(path) for path in written])


def _for_terminal(report: dict[str, Any], written: list[str]) -> dict[str, Any]:
    """What is wrong, in words, and where the rest is."""
    worst, photos = report["worst_served"], report["photos"]
    shown = {
        "audited": f"{photos['audited']} of {photos['in_table']} faces, {photos['with_latents']} with latents",
        "worst_served": "no group stands out" if worst is None else f"{worst['column']} {worst['group']}",
    }
    for number, finding in enumerate(report["warnings"][:SHOWN_WARNINGS], start=1):
        shown[f"warning_{number}"] = finding["text"]
    if len(report["warnings"]) > SHOWN_WARNINGS:
        shown["more"] = f"{len(report['warnings']) - SHOWN_WARNINGS} less severe warnings"
    if report["too_few"]:
        unit = report["intervals"]["over"]
        shown["too_few"] = ", ".join(f"{one['column']} {one['group']} ({one[unit]})" for one in report["too_few"])
    return shown | ({"out": ", ".join(written)} if written else {})
