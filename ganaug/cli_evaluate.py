"""``ganaug evaluate``: its parser and its arguments in, figures out."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganaug.cli_export import names_of
from ganaug.errors import UserInputError

# Flags that decide the figures, for the report.
_TOLD = ("cache", "real", "dataset", "split", "images", "images_dataset", "images_split", "edits", "directions")
_TOLD_TOO = ("preserve", "strengths", "limit", "embedder", "extractor", "paste", "residual", "device", "seed")


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug evaluate`` takes to its parser."""
    parser.add_argument("--cache", metavar="DIR", required=True, help="of `ganaug precompute`")
    real = "real photos to compare with; without --images also the photos of the cache"
    parser.add_argument("--real", metavar="SRC", required=True, help=real)
    parser.add_argument("--dataset", metavar="NAME", help=f"of --real: {layout}")
    parser.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    parser.add_argument("--images", metavar="SRC", help="the photos that were precomputed, if they are others")
    parser.add_argument("--images-dataset", metavar="NAME", help="layout of --images (default: a folder of images)")
    parser.add_argument("--images-split", metavar="NAME", help="split of --images-dataset (default: all)")
    out = "for report.html, which opens offline, and report.json: personal data"
    parser.add_argument("--out", metavar="DIR", type=Path, help=out)
    parser.add_argument("--edits", metavar="NAME,...", help="default: those that a dataset would use")
    parser.add_argument("--directions", metavar="FILE", help="of `ganaug directions`, whose names can be edits")
    parser.add_argument(
        "--preserve", metavar="NAME,...|none", default="identity", help="of the policy and its gate (default: identity)"
    )
    parser.add_argument("--strengths", metavar="N", type=positive, default=3, help="of each edit (default: 3)")
    parser.add_argument("--limit", metavar="N", type=positive, default=300, help="photos to measure (default: 300)")
    parser.add_argument("--num-faces", metavar="N", type=positive, default=6, help="on the sheets (default: 6)")
    judge = "judges identity (default: identity64, the gate's own, which flatters what the gate let pass)"
    parser.add_argument("--embedder", metavar="NAME|FILE", default="identity64", help=judge)
    network = "features for realism: inception, perceptual, an embedder or a file (default: inception if it is here)"
    parser.add_argument("--extractor", metavar="NAME|FILE", help=network)
    parser.add_argument("--paste", choices=("paste", "aligned", "whole"), default="paste", help="default: %(default)s")
    kept = "photo plus change, with this share, 0 to 1, of its own details where the edit puts others"
    parser.add_argument("--residual", metavar="X", type=float, help=kept)
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """How real, how diverse and how much the same person the variants of a cache are."""
    from ganaug.cache import LatentCache
    from ganaug.cached_faces import PhotoDataset
    from ganaug.dataset import GANAugmentedDataset
    from ganaug.embedders import load_embedder
    from ganaug.evaluation import EvaluationSettings, write_report
    from ganaug.evaluation import evaluate as measure
    from ganaug.faces.photos import photos_from
    from ganaug.interfaces import resolve_device
    from ganaug.metrics.extractors import load_extractor
    from ganaug.page import check_folder

    for flag in ("images_dataset", "images_split"):
        if getattr(args, flag) is not None and args.images is None:
            raise UserInputError(f"--{flag.replace('_', '-')} says what --images holds; give that too, or leave it out")
    if args.out is not None:
        check_folder(args.out)
    device = resolve_device(args.device)
    cache, embedder = LatentCache(args.cache), load_embedder(args.embedder, device)
    real = photos_from(args.real, args.dataset, args.split)
    photos = real if args.images is None else photos_from(args.images, args.images_dataset, args.images_split)
    preserve = () if args.preserve == "none" else names_of(args.preserve) or ()
    train = GANAugmentedDataset(
        PhotoDataset(photos, cache),
        cache,
        ratio=1.0,
        edits=None if args.edits is None else names_of(args.edits),
        classical=None,
        preserve=preserve,
        seed=args.seed,
        paste=args.paste,
        residual=args.residual,
        **({} if args.directions is None else {"directions": args.directions}),
    )
    figures, sheets = measure(
        train,
        embedder,
        load_extractor(args.extractor, device=device),
        None if args.images is None else real,
        EvaluationSettings(args.limit, args.strengths, args.num_faces, args.batch_size, args.seed),
        device,
        names={"identity": Path(args.embedder).stem, "real": args.real}
        | ({"gate": "identity64"} if train.gates else {}),
        command=_command(args),
    )
    files = [] if args.out is None else write_report(args.out, figures, sheets)
    if args.json is not None:
        return {**figures, "out": [str(file) for file in files]}
    return _for_terminal(figures, [str(file) for file in files])


def _command(args: argparse.Namespace) -> str:
    """The call, with the flags that decide the figures."""
    words = ["ganaug", "evaluate"]
    for name in (*_TOLD, *_TOLD_TOO):
        if getattr(args, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return shlex.join(words)


def _for_terminal(figures: dict[str, Any], files: list[str]) -> dict[str, Any]:
    """The sentences, a line each."""
    shown: dict[str, Any] = {f"{number}": line for number, line in enumerate(figures["summary"], 1)}
    shown |= {f"note {number}": line for number, line in enumerate(figures["warnings"], 1)}
    return shown | ({"out": ", ".join(files)} if files else {})
