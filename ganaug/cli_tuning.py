"""``ganaug tune``: its parser and its arguments in, figures out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug tune`` takes to its parser."""
    parser.add_argument("--cache", metavar="DIR", required=True, help="of `ganaug precompute`; it stays as it is")
    parser.add_argument("--images", metavar="SRC", required=True, help="the photos that were precomputed")
    parser.add_argument("--dataset", metavar="NAME", help=layout)
    parser.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="for generator.safetensors and faces.lmdb: personal data"
    )
    parser.add_argument("--key", metavar="KEY", help="tune to this one photo of the cache (default: to all of them)")
    long = parser.add_mutually_exclusive_group()
    long.add_argument("--steps", metavar="N", type=positive, help="default: 300 for one photo, else 200 looks at each")
    long.add_argument("--minutes", metavar="M", type=float, help="about so long, instead of --steps")
    parser.add_argument("--batch-size", metavar="N", type=positive, help="default: 16")
    parser.add_argument("--learning-rate", metavar="X", type=float, help="of the weights (default: 0.002; one: 0.003)")
    parser.add_argument("--code-learning-rate", metavar="X", type=float, help="default: 0.01; one: 0, codes stay")
    near = "how much pictures near the codes must stay as they were, so that edits still edit (default: 0.5; one: 0.1)"
    parser.add_argument("--locality-weight", metavar="X", type=float, help=near)
    measured = "that measured identity in the cache, if any did (default: %(default)s)"
    parser.add_argument("--embedder", metavar="NAME|FILE", default="identity64", help=measured)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, with its settings")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: 0")


def tune(args: argparse.Namespace) -> dict[str, Any]:
    """A generator tuned to the photos of a cache, and the cache for it."""
    from ganaug.cache import LatentCache
    from ganaug.faces.photos import photos_from
    from ganaug.interfaces import resolve_device
    from ganaug.tuning import tune_cache

    result = tune_cache(
        LatentCache(args.cache),
        photos_from(args.images, args.dataset, args.split),
        args.out,
        resolve_device(args.device),
        key=args.key,
        minutes=args.minutes,
        embedder=args.embedder,
        resume=args.resume,
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        code_learning_rate=args.code_learning_rate,
        locality_weight=args.locality_weight,
        seed=args.seed,
    )
    return result.to_dict()
