"""The command line: ``ganaug demo | precompute | inspect | preview | train | train-encoder | fetch | convert``."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug import __version__
from ganaug.errors import CheckpointError, GanaugError, ImageError, UserInputError

if TYPE_CHECKING:
    from ganaug.training.config import TrainConfig

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
    pre.add_argument(
        "--inverter", metavar="NAME", help="optimization, encoder or hybrid (default, if there is an encoder)"
    )
    pre.add_argument("--steps", metavar="N", type=_positive, default=100, help="default: %(default)s")
    pre.add_argument("--batch-size", metavar="N", type=_positive, default=32, help="default: %(default)s")
    pre.add_argument("--device", default="cpu", help="default: %(default)s")
    pre.add_argument("--limit", metavar="N", type=_positive, help="only the first N images")
    pre.add_argument("--seed", type=int, default=0, help="for inverters that draw; those so far draw nothing")

    inspect = command("inspect", _inspect, "What a latent cache or a model file holds, and whether it is whole.")
    inspect.add_argument(
        "path", metavar="DIR|FILE", help="a cache; or a model: bundled or fetched name, or any checkpoint"
    )

    convert = command(
        "convert", _convert, "A checkpoint of the field into a safetensors file; none of its code is run."
    )
    convert.add_argument("source", metavar="FILE")
    convert.add_argument(
        "--out", metavar="FILE", type=Path, help="default: the same name, .safetensors, in this folder"
    )
    convert.add_argument(
        "--licence", metavar="TEXT", help="kept in the file (default: as in the table of `ganaug fetch`)"
    )

    get = command(
        "fetch", _fetch, "Download published weights, once their licence is accepted; without NAME: list them."
    )
    get.add_argument("name", metavar="NAME", nargs="?")
    get.add_argument("--accept-licence", action="store_true", help="that you have read its licence and accept it")
    get.add_argument(
        "--dir", metavar="DIR", type=Path, help="default: $GANAUG_HOME/weights, else the user's cache folder"
    )

    preview = command("preview", _preview, "Contact sheet: photo, inversion, variants per edit, as served.")
    preview.add_argument("--cache", metavar="DIR", required=True)
    preview.add_argument("--images", metavar="DIR", help="the photos' folder (default: inversions only)")
    preview.add_argument("--out", metavar="FILE", type=Path, required=True)
    preview.add_argument("--edits", metavar="NAME,...", help="default: the default edits")
    preview.add_argument("--num-faces", metavar="N", type=_positive, default=10, help="default: %(default)s")
    preview.add_argument("--device", default="cpu", help="default: %(default)s")
    preview.add_argument("--seed", type=int, default=0)

    train = command("train", _train, "Train or fine-tune a generator with its encoder on a folder of photos.")
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

    enc = command("train-encoder", _train_encoder, "Fit an encoder to a generator that stays as it is.")
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
    from ganaug.checkpoints import open_model
    from ganaug.faces.photos import photos_from
    from ganaug.generators import load_generator, load_prior
    from ganaug.interfaces import resolve_device
    from ganaug.inversion import build_inverter, default_inverter
    from ganaug.precompute import MAX_TYPICAL_DISTANCE, make_header, median_distance, precompute

    device = resolve_device(args.device)
    photos = photos_from(args.source)[: args.limit]
    model = open_model(args.generator)
    generator = load_generator(model, device)
    inverter = build_inverter(args.inverter or default_inverter(model), generator, model, device, args.steps)
    cache = LatentCache.create(args.cache, make_header(generator, args.generator, inverter))
    result = precompute(photos, cache, inverter, device, args.batch_size)
    if not result.images:
        raise ImageError(f"none of the {len(photos)} images of {args.source} could be used; the reasons are above")
    try:
        distance = median_distance(cache, load_prior(model))
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
    from ganaug.checkpoints import BUNDLED, open_model
    from ganaug.known_weights import KNOWN_WEIGHTS
    from ganaug.precompute import quality_summary

    if Path(args.path).is_file() or args.path in BUNDLED or args.path in KNOWN_WEIGHTS:
        from ganaug.convert import describe

        return describe(open_model(args.path))
    cache = LatentCache(args.path)
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


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.convert import convert

    return convert(args.source, args.out, licence=args.licence)


def _fetch(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.known_weights import KNOWN_WEIGHTS, weights_table

    if args.name is None:
        return {row.pop("name"): row if args.json else _one_line(row) for row in weights_table()}
    from ganaug.fetch import fetch

    path = fetch(args.name, accept_licence=args.accept_licence, directory=args.dir)
    return {"file": str(path), "licence": KNOWN_WEIGHTS[args.name].licence}


def _one_line(row: dict[str, Any]) -> str:
    """A row of the table of known weights, for the terminal."""
    size = "" if row["megabytes"] is None else f", {row['megabytes']} MB"
    state = "here" if row["fetched"] else "by hand" if row["by_hand"] else "to fetch"
    return f"{row['resolution']:5} px  {row['family']}, {row['holds']}{size} [{state}]  {row['licence'].partition(' (')[0]}"


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
    from ganaug.training.run import train

    device = resolve_device(args.device)
    return train(
        args.data,
        args.out,
        _train_config(args),
        device,
        held_out=args.held_out,
        labels=args.labels,
        resume=args.resume,
        licence=args.licence,
    )


def _train_config(args: argparse.Namespace) -> "TrainConfig":
    """Settings: of the run to continue, or of preset and model to start from; then the file's; then the flags'."""
    from ganaug.training.config import PRESETS
    from ganaug.training.finetune import tuned
    from ganaug.training.run import read_config

    if args.resume and (args.out / "config.json").exists():
        if args.preset is not None:
            raise UserInputError(f"--resume continues with the settings of {args.out}; leave --preset out")
        config = read_config(args.out)
    else:
        preset = args.preset or "tiny64"
        if preset not in PRESETS:
            raise UserInputError(f"unknown preset {preset!r}: expected one of {', '.join(PRESETS)}")
        config = PRESETS[preset] if args.init is None else tuned(PRESETS[preset], args.init)
    values = _read_settings(args.config) if args.config is not None else {}
    resolution = args.resolution or values.pop("resolution", config.resolution)
    if resolution != config.resolution and "generator_channels" not in values:
        if config.init is not None:
            raise UserInputError(
                f"--init {config.init} makes images of {config.resolution} px, but {resolution} px are asked for; "
                "leave one of them out"
            )
        config = config.at_resolution(resolution)
    names = ("family", "kimg", "batch_size", "learning_rate", "accumulate", "with_encoder", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.condition is not None:
        given["condition"] = args.condition.split(",")
    return type(config).from_dict({**config.to_dict(), **values, "resolution": resolution, **given})


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserInputError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserInputError(f"{path}: expected a JSON object of settings, got {type(values).__name__}")
    return values


def _train_encoder(args: argparse.Namespace) -> dict[str, Any]:
    from ganaug.interfaces import resolve_device
    from ganaug.training.encoder_config import EncoderConfig
    from ganaug.training.run_encoder import read_encoder_config, train_encoder

    going_on = args.resume and (args.out / "checkpoint.pt").exists()
    values = (read_encoder_config(args.out) if going_on else EncoderConfig()).to_dict()
    values |= _read_settings(args.config) if args.config is not None else {}
    names = ("kimg", "batch_size", "learning_rate", "embedder", "identity_weight", "seed")
    values |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.continue_encoder:
        values["continue_encoder"] = True
    if args.identity_weight is not None and values["embedder"] is None:
        raise UserInputError("--identity-weight is of no use without --embedder package.module:function")
    return train_encoder(
        args.generator,
        args.data,
        args.out,
        EncoderConfig.from_dict(values),
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
        if args.json is not None and figures:  # under torchrun, the main process alone has figures
            args.json.write_text(json.dumps(figures, indent=2) + "\n")
    except (GanaugError, FloatingPointError) as error:
        print(f"ganaug {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
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
    return EXIT_DAMAGED if figures.get("damaged") else 0


def _show(figures: dict[str, Any]) -> None:
    """Prints the figures; a reader that has gone away (``| head``) is no mistake."""
    try:
        width = max((len(name) for name in figures), default=0)
        for name, value in figures.items():
            print(f"{name:{width}} {value}")
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
