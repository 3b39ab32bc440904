"""``ganaug precompute`` and ``ganaug merge``: their parsers and their arguments in, figures out."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.errors import CheckpointError, ImageError, UserInputError

if TYPE_CHECKING:
    from ganaug.faces.align import Alignment


def add_precompute(pre: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug precompute`` takes to its parser.

    Args:
        pre: The parser.
        positive: Reads a number that is at least 1.
        layout: Help of ``--dataset``.
    """
    pre.add_argument("source", metavar="SRC", help="folder of images, or package.module:function returning a dataset")
    pre.add_argument("--cache", metavar="DIR", required=True)
    pre.add_argument("--generator", metavar="NAME|FILE", default="faces64", help="default: %(default)s")
    pre.add_argument(
        "--inverter",
        metavar="NAME",
        help="encoder, hybrid (default, if there is an encoder), optimization; pivotal tunes weights for each photo",
    )
    steps = "default: 72 of hybrid, 180 of pivotal, 200 of optimization"
    pre.add_argument("--steps", metavar="N", type=positive, help=steps)
    found = "images at a time; auto (default) halves it when memory runs out, and remembers that with the cache"
    pre.add_argument("--batch-size", metavar="N|auto", type=_batch_size, default="auto", help=found)
    threads = "threads that read photos ahead of the device (default: %(default)s)"
    pre.add_argument("--num-workers", metavar="N", type=int, default=2, help=threads)
    pre.add_argument("--device", default="cpu", help="default: %(default)s")
    pre.add_argument("--limit", metavar="N", type=positive, help="only the first N images")
    pre.add_argument("--shard", metavar="K/N", help="only the K-th of N parts of them, each into a cache of its own")
    pre.add_argument("--retry-failed", action="store_true", help="try images that failed again, changed or not")
    pre.add_argument("--verify", action="store_true", help="then draw a sample of the records again and compare")
    measures = "measures how much of the person is kept (default: %(default)s), or none"
    pre.add_argument("--embedder", metavar="NAME|FILE", default="identity64", help=measures)
    pre.add_argument(
        "--align",
        choices=("center", "points"),
        default="center",
        help="largest centred square, for chips of the generator's kind (default); or by eyes, nose and mouth",
    )
    pre.add_argument("--template", metavar="NAME", help="where these lie in the generator's chip (default: it says so)")
    pre.add_argument("--detector", metavar="NAME", help="who finds them where unknown: mtcnn (default) or none")
    pre.add_argument("--which-face", metavar="WHICH", help="of several: largest (default), central or all")
    pre.add_argument(
        "--chips", metavar="NAME", help="template the photos are aligned to already: auto (default: by size), none, ..."
    )
    pre.add_argument("--seed", type=int, default=0, help="for inverters that draw; those so far draw nothing")
    pre.add_argument("--dataset", metavar="NAME", help=layout)
    pre.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    pre.add_argument("--only", metavar="LIST", type=Path, help="only photos that this list of `ganaug curate` keeps")


def add_merge(parser: argparse.ArgumentParser) -> None:
    """Adds what ``ganaug merge`` takes to its parser."""
    parser.add_argument("out", metavar="OUT", help="made if it is not there, else added to")
    parser.add_argument("shards", metavar="SHARD", nargs="+", help="caches; of two records of one key, the last wins")
    left = "leave damaged records out: the next `ganaug precompute` into OUT makes them again"
    parser.add_argument("--skip-damaged", action="store_true", help=left)


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be at least 1, or auto, got {text}")
    return int(text)


def precompute(args: argparse.Namespace) -> dict[str, Any]:
    """Photos into a latent cache."""
    from ganaug.checkpoints import open_model
    from ganaug.faces.photos import photos_from
    from ganaug.generators import load_generator, load_prior
    from ganaug.interfaces import resolve_device
    from ganaug.inversion import build_inverter, default_inverter
    from ganaug.inversion.quality import make_judge
    from ganaug.precompute import MAX_TYPICAL_DISTANCE, make_header, median_distance, open_or_create, precompute
    from ganaug.shards import Shard

    device = resolve_device(args.device)
    shard = None if args.shard is None else Shard.parse(args.shard)
    model = open_model(args.generator)
    alignment = _alignment(args, model.description)
    photos = photos_from(args.source, args.dataset, args.split, args.only)[: args.limit]
    generator = load_generator(model, device)
    judge = make_judge(model, None if args.embedder == "none" else args.embedder, device, alignment.template)
    name = args.inverter or default_inverter(model)
    inverter = build_inverter(name, generator, model, device, args.steps, judge)
    alignment = replace(alignment, size=generator.img_resolution)
    cache = open_or_create(args.cache, make_header(generator, args.generator, inverter, alignment=alignment), inverter)
    result = precompute(
        photos,
        cache,
        inverter,
        device,
        args.batch_size,
        shard=shard,
        retry_failed=args.retry_failed,
        num_workers=args.num_workers,
    )
    if result.failed and not result.images:
        raise ImageError(f"none of the {result.failed} images of {args.source} could be used; the reasons are above")
    try:
        distance = median_distance(cache, load_prior(model))
    except CheckpointError:  # a model without a prior: nothing to compare with
        distance = None
    advice = "use --align points (and another --cache)" if alignment.mode == "center" else "use another generator"
    if distance is not None and distance > MAX_TYPICAL_DISTANCE:
        print(
            f"warning: these photos are not like those {args.generator} was trained on (distance {distance}, typical "
            f"1.0, limit {MAX_TYPICAL_DISTANCE}), and their variants will not look like faces; {advice}, and look at "
            "`ganaug preview`",
            file=sys.stderr,
        )
    figures = {**result.to_dict(), "distance_median": distance}
    if args.verify and result.images:
        from ganaug.cli_inspect import verified
        from ganaug.recheck import recheck

        found = recheck(cache, photos if shard is None else shard.of(photos), generator, device).to_dict()
        figures["differing"] = len(found["differing"])
        figures |= {"verify": found} if args.json is not None else verified(found)
    return figures


def merge(args: argparse.Namespace) -> dict[str, Any]:
    """Caches of shards into one."""
    from ganaug.shards import merge_caches

    return merge_caches(args.out, args.shards, args.skip_damaged).to_dict()


def _alignment(args: argparse.Namespace, description: Mapping[str, Any]) -> "Alignment":
    """The alignment that the flags ask for; the size is the generator's, which is not known yet."""
    from ganaug.faces.align import Alignment
    from ganaug.faces.detect import DETECTORS
    from ganaug.faces.templates import TEMPLATES, template_of

    names = ("template", "detector", "which_face", "chips")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.align == "center":
        if given:
            flag = "--" + next(iter(given)).replace("_", "-")
            raise UserInputError(f"{flag} is for --align points; give that too, or leave {flag} out")
        return Alignment()
    values = {name: None if value == "none" else value for name, value in given.items()}
    detector = values.setdefault("detector", "mtcnn")
    if detector is not None and detector not in DETECTORS:
        raise UserInputError(f"unknown detector {detector!r}: expected one of {', '.join(DETECTORS)} or none")
    template = values.setdefault("template", template_of(description))
    if template is None:
        raise UserInputError(
            f"generator {args.generator} does not say how the faces that it was trained on were cut: give --template, "
            f"one of {', '.join(sorted(TEMPLATES))}, or use --align center"
        )
    return Alignment.from_dict({"mode": "points", **values})
