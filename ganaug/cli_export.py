"""``ganaug export``: its parser and its arguments in, figures out; and the flags that say what variants are made."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganaug.errors import UserInputError

if TYPE_CHECKING:
    from ganaug.dataset import GANAugmentedDataset


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what ``ganaug export`` takes to its parser."""
    parser.add_argument("--cache", metavar="DIR", required=True)
    parser.add_argument("--images", metavar="SRC", required=True, help="the photos that were precomputed")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--variants-per-image", metavar="N", type=positive, default=1, help="default: %(default)s")
    add_variant_arguments(parser, positive, layout)
    parser.add_argument("--sign", metavar="CERT.pem", help="sign every file (C2PA) with this certificate chain")
    parser.add_argument("--sign-key", metavar="KEY.pem", help="the certificate's private key, not encrypted")
    parser.add_argument("--batch-size", metavar="N", type=positive, default=32, help="default: %(default)s")
    parser.add_argument("--num-workers", metavar="N", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")


def add_variant_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what decides the variants of a cache's photos, for :func:`wrap_photos`."""
    add_edit_arguments(parser, positive, layout)
    parser.add_argument("--ratio", metavar="X", type=float, default=1.0, help="share made (default: %(default)s)")
    parser.add_argument("--label", metavar="NAME", help="attribute of --dataset as label (default: the folder)")
    parser.add_argument("--classical", action="store_true", help="classical augmentation too, as while training")


def add_edit_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int], layout: str) -> None:
    """Adds what decides how a variant of a photo is made, and nothing about labels and shares."""
    parser.add_argument("--dataset", metavar="NAME", help=layout)
    parser.add_argument("--split", metavar="NAME", help="split of --dataset (default: all)")
    parser.add_argument("--edits", metavar="NAME,...", help="default: the default edits")
    parser.add_argument("--directions", metavar="FILE", help="of `ganaug directions`, whose names can be edits")
    parser.add_argument("--preserve", metavar="NAME,...", help="what must not change: identity, label, gender, ...")
    parser.add_argument("--embedder", metavar="NAME|FILE", help="gate (default: identity64 if identity is preserved)")
    parser.add_argument("--size", metavar="S", type=positive, help="side in pixels (default: 128 or the generator's)")
    parser.add_argument("--paste", choices=("paste", "aligned", "whole"), default="paste", help="default: %(default)s")
    kept = "photo plus change, with this share, 0 to 1, of its own details where the edit puts others"
    parser.add_argument("--residual", metavar="X", type=float, help=kept)
    least = "leave out photos whose inversion is below: PSNR in dB, or psnr=20,identity=0.8"
    parser.add_argument("--min-quality", metavar="X|NAME=X,...", help=least)
    parser.add_argument("--seed", type=int, default=0)


def wrap_photos(args: argparse.Namespace, **options: Any) -> "GANAugmentedDataset":
    """The photos of ``--images``, or without them the inversions of ``--cache``, with variants as the flags say.

    Args:
        args: With the flags of :func:`add_variant_arguments`.
        options: More for :class:`ganaug.dataset.GANAugmentedDataset`.
    """
    from ganaug.cached_faces import InversionDataset, PhotoDataset
    from ganaug.classical import ClassicalAugmentation
    from ganaug.cli_inspect import min_quality_of
    from ganaug.dataset import GANAugmentedDataset
    from ganaug.embedders import load_embedder
    from ganaug.faces.photos import photos_from
    from ganaug.gate import IdentityGate

    base: InversionDataset | PhotoDataset
    if args.images is None:
        base = InversionDataset(args.cache)
    else:
        base = PhotoDataset(photos_from(args.images, args.dataset, args.split), args.cache, args.size, args.label)
    return GANAugmentedDataset(
        base,
        args.cache,
        ratio=args.ratio,
        edits=names_of(args.edits),
        classical=ClassicalAugmentation() if args.classical else None,
        preserve=names_of(args.preserve) or (),
        seed=args.seed,
        paste=args.paste,
        residual=args.residual,
        min_quality=min_quality_of(args.min_quality),
        **({} if args.directions is None else {"directions": args.directions}),
        gate="auto" if args.embedder is None else IdentityGate(load_embedder(args.embedder)),
        **options,
    )


def names_of(text: str | None) -> list[str] | None:
    """``NAME,...`` of a flag."""
    return None if text is None else [name.strip() for name in text.split(",")]


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Variants as files."""
    from ganaug.content_credentials import ContentSigner
    from ganaug.export import export_variants
    from ganaug.interfaces import resolve_device

    device = resolve_device(args.device)
    if (args.sign is None) != (args.sign_key is None):
        raise UserInputError("signing takes both: --sign CERT.pem and its private key, --sign-key KEY.pem")
    signer = None if args.sign is None else ContentSigner(args.sign, args.sign_key)
    train = wrap_photos(args)
    return export_variants(
        train, args.out, args.variants_per_image, args.batch_size, device, args.num_workers, signer=signer
    )
