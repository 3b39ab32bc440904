"""Checkpoints of the field into files of this package, and what any model file is, in plain words."""

import os
from pathlib import Path
from typing import Any

from ganaug import checkpoints
from ganaug.errors import CheckpointError, UserInputError
from ganaug.generators import Network, build_generator
from ganaug.interfaces import Generator
from ganaug.known_weights import known_by_digest

NOT_STATED = "not stated"


def convert(source: str | Path, out: str | Path | None = None, *, licence: str | None = None) -> dict[str, Any]:
    """Writes a published checkpoint as a file of this package: float32 safetensors that opens at once.

    What the file lacks and takes time to find, a mean latent, is found once and stored. The converted generator has the
    same fingerprint as the source, so a cache made with either serves both.

    Args:
        source: Checkpoint, or the name of a fetched one.
        out: Target, ``.safetensors``; default: the source's name with that ending, in the working directory.
        licence: Licence and attribution, kept in the file; default: what the table of known weights says of it.

    Returns:
        See :func:`describe`, with ``out``.

    Raises:
        CheckpointError: For a file that is damaged, hostile or unknown.
        UserInputError: For a source that is converted already, or a target that is the source or no ``.safetensors``.
    """
    model = checkpoints.open_model(source)
    if checkpoints.is_own(model.path):
        raise UserInputError(f"{model.path} is a file of this package already; nothing to convert")
    target = Path(model.path.with_suffix(".safetensors").name if out is None else out)
    if target.suffix != ".safetensors":
        raise UserInputError(f"--out {str(target)!r}: expected a name that ends in .safetensors")
    if not target.parent.is_dir():
        raise UserInputError(f"--out {str(target)!r}: there is no folder {str(target.parent)!r}")
    generator = build_generator(model)
    description = {**model.description, "licence": licence or _licence_in_table(model)}
    if generator.mean_latent is not None:
        description["mean_latent"] = generator.mean_latent
    parts = {name: model.part(name) for name in model.parts - {"generator"}}
    checkpoints.write(target, {"generator": generator.state_dict(), **parts}, description, half=False)
    written = checkpoints.open_model(target)
    found = build_generator(written)
    if found.fingerprint != generator.fingerprint:
        os.unlink(target)
        raise CheckpointError(f"{target}: was not written as it should be, and is removed; is the disk in order?")
    return {**describe(written, found), "out": str(target)}


def describe(model: checkpoints.Model, generator: Network) -> dict[str, Any]:
    """Family, resolution, layout of the latents, parameters and licence of a model file and its generator.

    Raises:
        CheckpointError: If one of its networks is damaged.
    """
    spec = generator.latent_spec
    counted = {name: sum(t.numel() for t in model.part(name).values()) for name in model.parts - {"generator"}}
    source = model.description.get("source") or {}
    tuned = generator.tuned_from != ()
    return {
        "family": model.description["family"],
        "layout": model.description.get("layout", "ganaug"),
        "resolution": generator.img_resolution,
        "latents": f"{spec.num_ws} x {spec.w_dim} ({spec.space})",
        **({"parts": ", ".join(f"{name} {_rows(rows)}" for name, rows in spec.parts.items())} if spec.parts else {}),
        "condition": getattr(generator, "c_dim", 0) or None,
        "parameters": sum(p.numel() for p in generator.parameters()),
        **{f"{name} size": count for name, count in sorted(counted.items())},
        "mean latent": _mean(generator),
        "licence": model.description.get("licence") or _licence_in_table(model),
        **({"tuned from": generator.tuned_from[0], "privacy": model.description.get("privacy")} if tuned else {}),
        "source": source.get("file"),
        "source sha256": source.get("sha256"),
        "fingerprint": generator.fingerprint,
    }


def _rows(rows: tuple[int, ...]) -> str:
    return f"{rows[0]}-{rows[-1]}" if len(rows) > 1 else str(rows[0])


def _mean(generator: Generator) -> str:
    recipe = getattr(generator, "mean_latent", None)
    return "stored" if recipe is None else f"estimated from {recipe['num_samples']} samples, seed {recipe['seed']}"


def _licence_in_table(model: checkpoints.Model) -> str:
    known = known_by_digest((model.description.get("source") or {}).get("sha256", ""))
    return NOT_STATED if known is None else known.licence
