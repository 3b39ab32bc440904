"""What each command does: its arguments in, figures out. The parser is in :mod:`ganaug.cli`.

The heavy imports happen inside the commands, so that ``--help`` and mistakes answer at once.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.errors import UserInputError

if TYPE_CHECKING:
    from ganaug.training.config import TrainConfig
    from ganaug.training.embedder_config import EmbedderConfig
    from ganaug.training.encoder_config import EncoderConfig


def demo(args: argparse.Namespace) -> dict[str, Any]:
    """The main job in miniature."""
    from ganaug.demo import run_demo
    from ganaug.interfaces import resolve_device

    device = resolve_device(args.device)
    return run_demo(
        args.images, args.out, num_faces=args.limit, steps=args.steps, ratio=args.ratio, device=device, seed=args.seed
    )


def curate(args: argparse.Namespace) -> dict[str, Any]:
    """A list of the photos that are fit to be used."""
    from dataclasses import fields

    from ganaug.curate import CurateLimits, curate, report, write_list, write_report
    from ganaug.faces.photos import photos_from

    for path in (args.out, args.report):  # before the work
        if path is not None and not (path.parent.is_dir() and not path.is_dir()):
            raise UserInputError(f"{str(path)!r}: cannot be written, it is a folder or in a missing one")
    given = {limit.name: getattr(args, limit.name) for limit in fields(CurateLimits) if hasattr(args, limit.name)}
    limits = CurateLimits(**given)
    found = curate(photos_from(args.source, args.dataset, args.split), limits, args.threads)
    write_list(found, args.out)
    figures = report(found) if args.report is None else write_report(found, args.report)
    shown = ("photos", "kept", "reasons", "duplicates_that_differ_in", "seconds", "images_per_second")
    return {**{name: figures[name] for name in shown}, "out": str(args.out)}


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """A published checkpoint into a file of this package."""
    from ganaug.convert import convert

    return convert(args.source, args.out, licence=args.licence)


def fetch(args: argparse.Namespace) -> dict[str, Any]:
    """Known weights: one downloaded, or all listed."""
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
    licence = row["licence"].partition(" (")[0]
    return f"{row['resolution']:5} px  {row['family']}, {row['holds']}{size} [{state}]  {licence}"


def preview(args: argparse.Namespace) -> dict[str, Any]:
    """A contact sheet, or edits from weak to strong."""
    from ganaug.cached_faces import InversionDataset, PhotoDataset
    from ganaug.cli_export import names_of
    from ganaug.dataset import GANAugmentedDataset
    from ganaug.faces.paste import Paste
    from ganaug.faces.photos import photos_in_folder
    from ganaug.interfaces import resolve_device
    from ganaug.preview import preview_sheet

    device = resolve_device(args.device)
    if args.embedder is not None and not args.strengths:
        raise UserInputError("--embedder measures what --strengths draws; give that too, or leave --embedder out")
    base = PhotoDataset(photos_in_folder(args.images), args.cache) if args.images else InversionDataset(args.cache)
    paste: Paste = "paste" if args.images else "aligned"
    train = GANAugmentedDataset(
        base,
        args.cache,
        ratio=1.0,
        edits=names_of(args.edits),
        seed=args.seed,
        paste=paste,
        **({} if args.directions is None else {"directions": args.directions}),
    )
    names = [edit.name for edit in train.policy.edits]
    if args.strengths:
        from ganaug.embedders import load_embedder
        from ganaug.strength_sheets import strength_sheets

        name = args.embedder or "identity64"
        embedder = None if name == "none" else load_embedder(name, device)
        files = strength_sheets(train, args.out, args.num_faces, device, embedder)
        return {"out": [str(file) for file in files], "edits": names}
    sheet = preview_sheet(train, args.out, args.num_faces, device)
    return {"out": str(args.out), "width": sheet.width, "height": sheet.height, "edits": names}


def train(args: argparse.Namespace) -> dict[str, Any]:
    """A generator, trained or fine-tuned."""
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


def _run_settings(
    args: argparse.Namespace, config: "type[EncoderConfig] | type[EmbedderConfig]", what: str, names: tuple[str, ...]
) -> dict[str, Any]:
    """Settings: the defaults, or those of the run to continue; then the file's; then the flags' called ``names``."""
    from ganaug.training.checkpoint import read_settings

    going_on = args.resume and (args.out / "checkpoint.pt").exists()
    parse: Callable[[dict[str, Any]], EncoderConfig | EmbedderConfig] = config.from_dict
    values = (read_settings(args.out, parse, what) if going_on else config()).to_dict()
    values |= _read_settings(args.config) if args.config is not None else {}
    return values | {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def train_encoder(args: argparse.Namespace) -> dict[str, Any]:
    """An encoder for a generator."""
    from ganaug.interfaces import resolve_device
    from ganaug.training.encoder_config import EncoderConfig
    from ganaug.training.run_encoder import train_encoder

    names = ("kimg", "batch_size", "learning_rate", "embedder", "identity_weight", "seed")
    values = _run_settings(args, EncoderConfig, "an encoder's run", names)
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


def train_embedder(args: argparse.Namespace) -> dict[str, Any]:
    """An identity embedder."""
    from ganaug.interfaces import resolve_device
    from ganaug.training.embedder_config import EmbedderConfig
    from ganaug.training.run_embedder import train_embedder

    names = ("kimg", "batch_size", "learning_rate", "identity", "generator", "init", "template", "seed")
    values = _run_settings(args, EmbedderConfig, "an embedder's run", names)
    lists = ("groups", "attributes")
    values |= {name: getattr(args, name).split(",") for name in lists if getattr(args, name) is not None}
    if values["template"] == "none":
        values["template"] = None
    return train_embedder(
        args.data,
        args.out,
        EmbedderConfig.from_dict(values),
        resolve_device(args.device),
        labels=args.labels,
        held_out=args.held_out,
        resume=args.resume,
        licence=args.licence,
    )
