"""The command line, ``ganaug COMMAND``: the parser. What the commands do is in :mod:`ganaug.commands`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganaug import (
    __version__,
    cli_audit,
    cli_directions,
    cli_evaluate,
    cli_explain,
    cli_export,
    cli_inspect,
    cli_precompute,
    cli_study,
    cli_tuning,
    commands,
)
from ganaug.errors import GanaugError, UserInputError
from ganaug.terminal import printable

EXIT_DAMAGED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _limit(text: str) -> float | None:
    return None if text == "off" else float(text)


# Flag, default and meaning of the limits of `ganaug curate`; a test holds them equal to CurateLimits.
CURATE_LIMITS = (
    ("--min-size", "64", "least shorter side, in pixels"),
    ("--min-sharpness", "10", "least variance of the Laplacian of the face at 128 px"),
    ("--min-luma", "30", "least mean luma of the face, 0 to 255"),
    ("--max-luma", "225", "largest mean luma of the face"),
    ("--max-clipped", "0.35", "largest share of black and white pixels in the face"),
    ("--min-chroma", "off", "4 leaves grey photos out"),
    ("--max-yaw-deg", "off", "largest turn to a side, where five points are known"),
    ("--max-roll-deg", "off", "largest tilt, where five points are known"),
    ("--max-duplicate-distance", "6", "bits of 64 in which the hashes of duplicates may differ; off keeps duplicates"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser; kept apart so that tests and documentation can read it."""
    parser = argparse.ArgumentParser(prog="ganaug", description="GAN-based augmentation of face datasets.")
    parser.add_argument("--version", action="version", version=f"ganaug {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], dict[str, Any]], summary: str
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=summary, description=summary)
        sub.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", commands.demo, "The main job in miniature: faces, cache, training loop, contact sheet.")
    demo.add_argument(
        "--images", metavar="DIR", help="folder of face photos (default: faces from the bundled generator)"
    )
    demo.add_argument("--out", metavar="DIR", type=Path, default=Path("ganaug-demo"), help="default: %(default)s")
    demo.add_argument("--limit", metavar="N", type=_positive, default=32, help="faces to use (default: %(default)s)")
    demo.add_argument("--steps", metavar="N", type=_positive, help="inversion steps (default: those of precompute)")
    demo.add_argument("--ratio", metavar="X", type=float, default=0.5, help="share of variants (default: %(default)s)")
    demo.add_argument("--device", default="cpu", help="default: %(default)s")
    demo.add_argument("--seed", type=int, default=0)

    layout = "layout of SRC: fairface, celeba, ffhq, csv, lmdb, hf, ... (default: a folder of images)"
    summary = "Invert faces into a cache. Killed and run again, it continues."
    pre = command("precompute", cli_precompute.precompute, summary)
    cli_precompute.add_precompute(pre, _positive, layout)
    cli_precompute.add_merge(command("merge", cli_precompute.merge, "The caches of several shards into one."))

    summary = "A generator tuned to the photos of a cache, and the cache for it; personal data."
    cli_tuning.add_arguments(command("tune", cli_tuning.tune, summary), _positive, layout)

    summary = "Whether augmentation treats groups alike: figures of each group, and warnings in plain words."
    cli_audit.add_arguments(command("audit", cli_audit.audit, summary), _positive, layout)

    summary = "How real, how diverse and how much the same person variants are, as figures and as a page."
    cli_evaluate.add_arguments(command("evaluate", cli_evaluate.evaluate, summary), _positive, layout)

    curate = command("curate", commands.curate, "Which photos are fit to be used: measured, listed, with a report.")
    curate.add_argument("source", metavar="SRC", help="folder, package.module:function, or where --dataset lies")
    curate.add_argument("--dataset", metavar="NAME", help=layout)
    curate.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    curate.add_argument("--out", metavar="FILE", type=Path, required=True, help="CSV list, a row per photo")
    curate.add_argument("--report", metavar="FILE", type=Path, help="JSON: counts per reason and group, percentiles")
    for flag, default, what in CURATE_LIMITS:
        described = f"{what} (default: {default}; or off)"
        curate.add_argument(flag, metavar="X", type=_limit, default=argparse.SUPPRESS, help=described)
    curate.add_argument("--threads", metavar="N", type=_positive, default=1, help="default: %(default)s")

    summary = "What a latent cache or a model file holds, how good it is, and if it is whole."
    cli_inspect.add_arguments(command("inspect", cli_inspect.inspect, summary))

    convert = command(
        "convert", commands.convert, "A checkpoint of the field into a safetensors file; none of its code is run."
    )
    convert.add_argument("source", metavar="FILE")
    convert.add_argument(
        "--out", metavar="FILE", type=Path, help="default: the same name, .safetensors, in this folder"
    )
    convert.add_argument(
        "--licence", metavar="TEXT", help="kept in the file (default: as in the table of `ganaug fetch`)"
    )

    get = command(
        "fetch", commands.fetch, "Download published weights, once their licence is accepted; without NAME: list them."
    )
    get.add_argument("name", metavar="NAME", nargs="?")
    get.add_argument("--accept-licence", action="store_true", help="that you have read its licence and accept it")
    get.add_argument(
        "--dir", metavar="DIR", type=Path, help="default: $GANAUG_HOME/weights, else the user's cache folder"
    )

    preview = command("preview", commands.preview, "Contact sheet: photo, inversion, variants per edit, as served.")
    preview.add_argument("--cache", metavar="DIR", required=True)
    preview.add_argument("--images", metavar="DIR", help="the photos' folder (default: inversions only)")
    preview.add_argument("--out", metavar="FILE", type=Path, required=True, help="PNG; or a folder (--strengths)")
    preview.add_argument("--edits", metavar="NAME,...", help="default: the default edits")
    preview.add_argument("--directions", metavar="FILE", help="of `ganaug directions`, whose names can be edits")
    preview.add_argument("--strengths", action="store_true", help="each edit from weak to strong, measured")
    preview.add_argument(
        "--embedder", metavar="NAME|FILE", help="measures identity under --strengths (default: identity64), or none"
    )
    preview.add_argument("--num-faces", metavar="N", type=_positive, default=10, help="default: %(default)s")
    preview.add_argument("--device", default="cpu", help="default: %(default)s")
    preview.add_argument("--seed", type=int, default=0)

    summary = "Variants as PNG files. Killed and run again, it continues."
    cli_export.add_arguments(command("export", cli_export.export, summary), _positive, layout)

    summary = "What became of a photo of a cache, or how an exported picture came about; and if that is true."
    cli_explain.add_explain(command("explain", cli_explain.explain, summary), _positive, layout)
    summary = "A data card of a cache or an export, or a model card: what the files know, in Markdown."
    cli_explain.add_card(command("card", cli_explain.card, summary))

    summary = "Directions for a generator: fitted to labels, discovered, imported, shown."
    cli_directions.add_parser(subparsers.add_parser("directions", help=summary, description=summary))

    summary = "Human evaluation: pictures for people to judge, a page for them, and what came out."
    cli_study.add_parser(subparsers.add_parser("study", help=summary, description=summary), _positive, layout)

    train = command("train", commands.train, "Train or fine-tune a generator with its encoder on a folder of photos.")
    train.add_argument("--data", metavar="SRC", required=True, help="folder, or package.module:function for a dataset")
    train.add_argument("--out", metavar="DIR", type=Path, required=True)
    train.add_argument("--held-out", metavar="DIR", help="photos for pictures and figures (default: 2%% of --data)")
    train.add_argument("--preset", metavar="NAME", help="tiny64 (default), small128 or paper256")
    train.add_argument("--config", metavar="FILE", type=Path, help="JSON with settings that replace the preset's")
    train.add_argument("--family", choices=("stylegan2", "vae"), help="default: stylegan2")
    train.add_argument("--resolution", metavar="R", type=_positive, help="side in pixels, a power of two")
    train.add_argument("--kimg", metavar="N", type=float, help="thousands of images to show (default: the preset's)")
    train.add_argument("--batch-size", metavar="N", type=_positive, help="over all processes (default: the preset's)")
    train.add_argument("--learning-rate", metavar="X", type=float, help="default: the preset's, less with --init")
    train.add_argument("--accumulate", metavar="N", type=_positive, help="work on the batch in N parts (default: 1)")
    train.add_argument("--init", metavar="NAME|FILE", help="fine-tune this model, for example faces64")
    train.add_argument("--labels", metavar="CSV", help="label table for --condition")
    train.add_argument("--condition", metavar="COLUMN,...", help="train a generator that takes these labels")
    joint = "train an encoder jointly (default: yes)"
    train.add_argument("--with-encoder", action=argparse.BooleanOptionalAction, default=None, help=joint)
    train.add_argument("--resume", action="store_true", help="continue the run in --out, with its settings")
    train.add_argument("--licence", default="not stated", help="licence and attribution of the data, kept in the model")
    train.add_argument("--device", default="cpu", help="default: %(default)s")
    train.add_argument("--seed", type=int)

    enc = command("train-encoder", commands.train_encoder, "Fit an encoder to a generator that stays as it is.")
    enc.add_argument("--generator", metavar="NAME|FILE", default="faces64", help="default: %(default)s")
    enc.add_argument("--data", metavar="DIR", required=True, help="training photos, all sub-folders")
    enc.add_argument("--out", metavar="DIR", type=Path, required=True)
    enc.add_argument("--held-out", metavar="DIR", help="photos for pictures and figures (default: 2%% of --data)")
    enc.add_argument("--continue-encoder", action="store_true", help="start from the file's encoder (default: fresh)")
    enc.add_argument("--config", metavar="FILE", type=Path, help="JSON with settings of EncoderConfig")
    enc.add_argument("--kimg", metavar="N", type=float, help="thousands of photos to show (default: 50)")
    enc.add_argument("--batch-size", metavar="N", type=_positive, help="over all processes (default: 16)")
    enc.add_argument("--learning-rate", metavar="X", type=float, help="default: 0.001")
    enc.add_argument("--embedder", metavar="MODULE:FUNCTION", help="returns an Embedder for an identity loss")
    enc.add_argument("--identity-weight", metavar="X", type=float, help="weight of the identity loss (default: 0.5)")
    enc.add_argument("--resume", action="store_true", help="continue the run in --out, with its settings")
    enc.add_argument("--licence", default="not stated", help="licence and attribution of the data, kept in the model")
    enc.add_argument("--device", default="cpu", help="default: %(default)s")
    enc.add_argument("--seed", type=int, help="default: 0")

    emb = command("train-embedder", commands.train_embedder, "Train an identity embedder on photos, without names.")
    emb.add_argument("--data", metavar="DIR", required=True, help="photos framed alike, all sub-folders")
    emb.add_argument("--out", metavar="DIR", type=Path, required=True)
    emb.add_argument("--labels", metavar="CSV", help="table with the columns below; cells may be empty")
    emb.add_argument("--identity", metavar="COLUMN", help="equal for photos of one person (default: all are different)")
    emb.add_argument("--groups", metavar="COLUMN,...", help="who could be taken for each other: race,gender,age")
    emb.add_argument("--attributes", metavar="COLUMN,...", help="columns that the embedder learns to tell")
    emb.add_argument("--generator", metavar="NAME|FILE", help="draws further views, for example faces64")
    emb.add_argument("--held-out", metavar="DIR", help="photos of others, for the threshold (default: 2%% of --data)")
    emb.add_argument("--init", metavar="FILE", help="checkpoint.pt of another run to start from")
    emb.add_argument("--config", metavar="FILE", type=Path, help="JSON with settings of EmbedderConfig")
    emb.add_argument("--kimg", metavar="N", type=float, help="thousands of photos to show (default: 400)")
    emb.add_argument("--batch-size", metavar="N", type=_positive, help="default: 112")
    emb.add_argument("--learning-rate", metavar="X", type=float, help="default: 0.002")
    emb.add_argument("--template", metavar="NAME", help="framing of the photos (default: fairface; or none)")
    emb.add_argument("--resume", action="store_true", help="continue the run in --out, with its settings")
    emb.add_argument("--licence", default="not stated", help="licence and attribution of the data, kept in the model")
    emb.add_argument("--device", default="cpu", help="default: %(default)s")
    emb.add_argument("--seed", type=int, help="default: 0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. A user's mistake gives one line on stderr, never a traceback."""
    args = build_parser().parse_args(argv)
    try:
        if args.json is not None and not (args.json.parent.is_dir() and not args.json.is_dir()):  # before the work
            raise UserInputError(f"--json {str(args.json)!r}: cannot be written, it is a folder or in a missing one")
        figures = args.run(args)
        _show(figures)
        if args.json is not None and figures:  # under torchrun, the main process alone has figures
            args.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (GanaugError, FloatingPointError) as error:
        print(f"ganaug {args.command}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        print(f"ganaug {args.command}: {error.strerror or error}{where}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as error:
        print(f"ganaug {args.command}: {str(error) or 'interrupted; what was finished is kept'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"ganaug {args.command}: the device is out of memory; use a smaller --batch-size", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_DAMAGED if figures.get("damaged") or figures.get("differing") else 0


def _show(figures: dict[str, Any]) -> None:
    """Prints the figures; a reader that has gone away (``| head``) is no mistake."""
    try:
        width = max((len(name) for name in figures), default=0)
        for name, value in figures.items():
            print(f"{printable(name):{width}} {printable(str(value))}")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
