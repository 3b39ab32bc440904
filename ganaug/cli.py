"""The command line: ``ganaug demo | precompute | inspect | preview | train``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ganaug import __version__
from ganaug.errors import CheckpointError, GanaugError, ImageError, UserInputError

EXIT_DAMAGED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The parser; kept apart so that tests and documentation can read it."""
    parser = argparse.ArgumentParser(prog="ganaug", description="GAN-based augmentation of face datasets.")
    parser.add_argument("--version", action="version", version=f"ganaug {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], dict[str, Any]], summary: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "The main job in miniature: faces, cache, training loop, contact sheet.")
    demo.add_argument(
        "--images", metavar="DIR", help="folder of face photos (default: faces from the bundled generator)"
    )
    demo.add_argument("--out", metavar="DIR", type=Path, default=Path("ganaug-demo"), help="default: %(default)s")
    demo.add_argument("--limit", metavar="N", type=_positive, default=32, help="faces to use (default: %(default)s)")
    demo.add_argument("--steps", metavar="N", type=_positive, default=80, help="inversion steps (default: %(default)s)")
    demo.add_argument("--ratio", metavar="X", type=float, default=0.5, help="share of variants (default: %(default)s)")
    demo.add_argument("--device", default="cpu", help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0)

    pre = command("precompute", _precompute, "Invert faces into a latent cache. Killed and run again, it continues.")
    pre.add_argument("source", metavar="SRC", help="folder of images, or package.module:function returning a dataset")
    pre.add_argument("--cache", metavar="DIR", required=True)
    pre.add_argument("--generator", metavar="NAME|FILE", default="faces64", help="default: %(default)s")
    pre.add_argument("--inverter", metavar="NAME", default="hybrid", help="optimization, encoder or hybrid (default)")
    pre.add_argument("--steps", metavar="N", type=_positive, default=100, help="default: %(default)s")
    pre.add_argument("--batch-size", metavar="N", type=_positive, default=32, help="default: %(default)s")
    pre.add_argument("--device", default="cpu", help="default: %(default)s")
    pre.add_argument("--limit", metavar="N", type=_positive, help="only the first N images")
    pre.add_argument("--seed", type=int, default=0, help="for inverters that draw; those so far draw nothing")

    inspect = command("inspect", _inspect, "What a latent cache holds, and whether it is whole.")
    inspect.add_argument("cache", metavar="DIR")

    preview = command("preview", _preview, "Contact sheet: photo, inversion, variants per edit, as served.")
    preview.add_argument("--cache", metavar="DIR", required=True)
    preview.add_argument("--images", metavar="DIR", help="the photos' folder (default: inversions only)")
    preview.add_argument("--out", metavar="FILE", type=Path, required=True)
    preview.add_argument("--edits", metavar="NAME,...", help="default: the default edits")
    preview.add_argument("--num-faces", metavar="N", type=_positive, default=10, help="default: %(default)s")
    preview.add_argument("--device", default="cpu", help="default: %(default)s")
    preview.add_argument("--seed", type=int, default=0)

    train = command("train", _train, "Train a generator with its encoder on a folder of photos.")
    train.add_argument("--data", metavar="DIR", required=True, help="training photos, all sub-folders")
    train.add_argument("--out", metavar="DIR", type=Path, required=True)
    train.add_argument("--held-out", metavar="DIR", help="photos for pictures and log (default: 2%% of --data)")
    train.add_argument("--preset", default="tiny64", help="tiny64, small128 or paper256 (default: %(default)s)")
    train.add_argument("--kimg", type=float, help="thousands of images to show (default: the preset's)")
    train.add_argument("--batch-size", metavar="N", type=_positive, help="default: the preset's")
    train.add_argument("--resume", action="store_true", help="continue the run in --out")
    train.add_argument("--licence", default="not stated", help="licence and attribution of the data, kept in the model")
    train.add_argument("--device", default="cpu", help="default: %(default)s")
    train.add_argument("--seed", type=int, default=0)
    return parser


# The heavy imports happen inside the commands, so that --help and mistakes answer at once.


def _demo(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.demo import run_demo
    from ganaug.interfaces import resolve_device

    device = resolve_device(args.device)
    return run_demo(
        args.images, args.out, num_faces=args.limit, steps=args.steps, ratio=args.ratio, device=device, seed=args.seed
    )


def _precompute(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.cache import LatentCache
    from ganaug.generators import load_generator, load_prior
    from ganaug.interfaces import resolve_device
    from ganaug.inversion import build_inverter
    from ganaug.precompute import MAX_TYPICAL_DISTANCE, make_header, median_distance, photos_from, precompute

    device = resolve_device(args.device)
    photos = photos_from(args.source)[: args.limit]
    generator = load_generator(args.generator, device)
    inverter = build_inverter(args.inverter, generator, args.generator, device, args.steps)
    cache = LatentCache.create(args.cache, make_header(generator, args.generator, inverter))
    result = precompute(photos, cache, inverter, device, args.batch_size)
    if not result.images:
        raise ImageError(f"none of the {len(photos)} images of {args.source} could be used; the reasons are above")
    try:
        distance = median_distance(cache, load_prior(args.generator))
    except CheckpointError:  # a model without a prior: nothing to compare with
        distance = None
    if distance is not None and distance > MAX_TYPICAL_DISTANCE:
        print(
            f"warning: these photos are not like those {args.generator} was trained on (distance {distance}, typical "
            f"1.0, limit {MAX_TYPICAL_DISTANCE}), and their variants will not look like faces; crop closely around the "
            "face, or use another generator, and look at `ganaug preview`",
            file=sys.stderr,
        )
    return {**result.to_dict(), "distance_median": distance}


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.cache import LatentCache
    from ganaug.precompute import quality_summary

    cache = LatentCache(args.cache)
    header, damaged = cache.header, cache.verify()
    return {
        "records": len(cache),
        "failures": len(cache.failures()),
        "damaged": len(damaged),
        "latent_shape": list(header.latent_spec.shape),
        "dtype": header.dtype,
        "generator": header.generator,
        "fingerprint": header.fingerprint,
        "inverter": dict(header.inverter),
        "alignment": dict(header.alignment),
        "quality": quality_summary(cache),
        "digest": None if damaged else cache.digest(),
    }


def _preview(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.dataset import GANAugmentedDataset
    from ganaug.interfaces import resolve_device
    from ganaug.preview import InversionDataset, PhotoDataset, preview_sheet

    device = resolve_device(args.device)
    base = PhotoDataset(args.images, args.cache) if args.images else InversionDataset(args.cache)
    edits = args.edits.split(",") if args.edits else None
    train = GANAugmentedDataset(base, args.cache, ratio=1.0, edits=edits, seed=args.seed)
    sheet = preview_sheet(train, args.out, args.num_faces, device)
    return {
        "out": str(args.out),
        "width": sheet.width,
        "height": sheet.height,
        "edits": [e.name for e in train.policy.edits],
    }


def _train(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.interfaces import resolve_device
    from ganaug.training.config import PRESETS
    from ganaug.training.run import train

    if args.preset not in PRESETS:
        raise UserInputError(f"unknown preset {args.preset!r}: expected one of {', '.join(PRESETS)}")
    config = replace(PRESETS[args.preset], seed=args.seed)
    if args.kimg is not None:
        config = replace(config, kimg=args.kimg)
    if args.batch_size is not None:
        config = replace(config, batch_size=args.batch_size)
    return train(
        args.data,
        args.out,
        config,
        resolve_device(args.device),
        held_out=args.held_out,
        resume=args.resume,
        licence=args.licence,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. A user's mistake gives one line on stderr, never a traceback."""
    args = build_parser().parse_args(argv)
    try:
        if args.json is not None and not (args.json.parent.is_dir() and not args.json.is_dir()):  # before the work
            raise UserInputError(f"--json {str(args.json)!r}: cannot be written, it is a folder or in a missing one")
        figures = args.run(args)
        _show(figures)
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (GanaugError, FloatingPointError) as error:
        print(f"ganaug {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        print(f"ganaug {args.command}: {error.strerror or error}{where}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"ganaug {args.command}: interrupted; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"ganaug {args.command}: the device is out of memory; use a smaller --batch-size", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_DAMAGED if figures.get("damaged") else 0


def _show(figures: dict[str, Any]) -> None:
    """Prints the figures; a reader that has gone away (``| head``) is no mistake."""
    try:
        for name, value in figures.items():
            print(f"{name:16} {value}")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
