"""How good is a generator, by a judge that had no part in making it: distances, recall, reconstruction, edits.

    python benchmarks/generator.py --data ../shared/data [--model NAME|FILE] [--json FILE] [--picture FILE] [--quick]
        [--edits-only]

Frechet distance and recall in MobileFaceNet features, on 64 px chips of FairFace: 4,000 generated faces against
``val``, from the mapping network and from the prior, and 4,000 of ``train`` against ``val`` as the yardstick.
Reconstruction by the encoder of all of ``val``, by race, gender and age. Reconstruction quality and identity (cosine to
the photo) of each inverter on the first 128 of ``val``; identity and change of each edit, against the inversion.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from groups import group_figures, read_labels, table
from judge import Judge, frechet_distance, precision_recall
from torch import Tensor

from ganaug import load_generator
from ganaug.edits import build_edits, edits_for
from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range
from ganaug.faces.images import find_images, read_image
from ganaug.generators import load_prior
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Generator, Inversion
from ganaug.inversion import build_inverter
from ganaug.sheet import contact_sheet

CPU = torch.device("cpu")
CHUNK = 64  # images in memory at once
# Inverter and steps. The encoder takes none; "optimization" starts from the mean of W.
INVERSIONS = (("encoder", 1), ("hybrid", 50), ("hybrid", 100), ("optimization", 100), ("optimization", 400))
EDITED = ("hybrid", 100)


def chips_of(folder: Path, names: list[str], size: int) -> Tensor:
    """``(N, 3, size, size)`` in [-1, 1]."""
    chips = np.stack([align(read_image(folder / name)[0], Alignment(size=size))[0] for name in names])
    return to_model_range(torch.from_numpy(chips).permute(0, 3, 1, 2))


@torch.no_grad()
def synthesise(generator: Generator, w_plus: Tensor) -> Tensor:
    """``(N, L, D)`` -> ``(N, 3, R, R)`` in [0, 1]."""
    return torch.cat([to_unit_range(generator.synthesis(part)) for part in w_plus.split(CHUNK)])


def median(values: Tensor) -> float:
    return round(float(values.median()), 3)


def sample_figures(generator: Generator, model: str, judge: Judge, train: Tensor, val: Tensor, rng: torch.Generator):
    """Distances of samples to ``val``, and 64 samples from the prior."""
    z = torch.randn(len(train), generator.z_dim, generator=rng)
    real = judge(val)
    yardstick = frechet_distance(judge(train), real)
    figures: dict[str, Any] = {"frechet_train_val": round(yardstick, 3)}
    with torch.no_grad():
        ways = {
            "mapping": generator.mapping(z),
            "mapping, truncation_psi 0.8": generator.mapping(z, truncation_psi=0.8),
            "prior": load_prior(model).sample(len(train), rng),
        }
    for way, codes in ways.items():
        embedded = judge(synthesise(generator, codes))
        distance = frechet_distance(embedded, real)
        precision, recall = precision_recall(real, embedded[: len(val)])
        figures[way] = {
            "frechet": round(distance, 3),
            "times_train_val": round(distance / yardstick, 2),
            "precision": round(precision, 3),
            "recall": round(recall, 3),
        }
    return figures, synthesise(generator, ways["prior"][:64])


def invert(name: str, steps: int, generator: Generator, model: str, photos: Tensor) -> Inversion:
    inverter = build_inverter(name, generator, model, CPU, steps)
    parts = [inverter.invert(part) for part in photos.split(32)]
    quality = {key: torch.cat([part.quality[key] for part in parts]) for key in parts[0].quality}
    anchors = [part.anchor for part in parts if part.anchor is not None]
    return Inversion(
        torch.cat([part.w_plus for part in parts]), quality, anchor=torch.cat(anchors) if anchors else None
    )


def edit_figures(generator: Generator, judge: Judge, inversion: Inversion, rng: torch.Generator) -> dict[str, Any]:
    """Identity and change of every edit, against the inversion."""
    codes = inversion.w_plus
    anchor = codes if inversion.anchor is None else inversion.anchor
    base = synthesise(generator, codes)
    own = judge(base)
    figures = {}
    for edit in build_edits(edits_for(generator), generator):
        uniforms = torch.rand(len(codes), NUM_EDIT_UNIFORMS, generator=rng)
        params = {**edit.sample_params(uniforms), "partner": anchor.roll(1, 0)}
        images = synthesise(generator, codes + edit.apply(anchor, params) - anchor)
        cosine = F.cosine_similarity(judge(images), own)
        figures[f"edit {edit.name}"] = {
            "identity_median": median(cosine),
            "identity_at_least_0.5": round(float((cosine >= 0.5).float().mean()), 3),
            "pixel_change": round(float((images - base).abs().mean()), 4),
        }
    return figures


def report(figures: dict[str, Any], path: Path | None) -> None:
    print(json.dumps(figures, indent=2))
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="faces64")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="64 samples from the prior")
    parser.add_argument("--quick", action="store_true", help="1,000 photos and samples, 8 inversions")
    parser.add_argument("--edits-only", action="store_true", help="only the inverter that is edited, and the edits")
    args = parser.parse_args()
    generator, judge = load_generator(args.model), Judge(args.data)
    size, count = generator.img_resolution, 1000 if args.quick else 4000
    train_folder, val_folder = (args.data / "fairface" / part for part in ("train", "val"))
    names = find_images(val_folder)[:count]
    train, val = chips_of(train_folder, find_images(train_folder)[:count], size), chips_of(val_folder, names, size)
    rng = torch.Generator().manual_seed(0)

    figures: dict[str, Any] = {"model": args.model, "fingerprint": generator.fingerprint}
    if args.edits_only:
        photos = val[: 8 if args.quick else 128]
        figures |= edit_figures(generator, judge, invert(*EDITED, generator, args.model, photos), rng)
        report(figures, args.json)
        return
    drawn, samples = sample_figures(generator, args.model, judge, to_unit_range(train), to_unit_range(val), rng)
    figures |= drawn
    if args.picture:
        contact_sheet([("", row) for row in samples.split(16)], size, caption_width=0).save(args.picture)

    inversion = invert("encoder", 1, generator, args.model, val)
    images = synthesise(generator, inversion.w_plus)
    labels = read_labels(args.data, names)
    groups = group_figures(labels, to_unit_range(val), images, judge, inversion.quality)
    figures["groups, encoder"] = groups

    photos = val[: 8 if args.quick else 128]
    identity = judge(to_unit_range(photos))
    for name, steps in INVERSIONS:
        started = time.perf_counter()
        inversion = invert(name, steps, generator, args.model, photos)
        seconds = (time.perf_counter() - started) / len(photos)
        cosine = F.cosine_similarity(judge(synthesise(generator, inversion.w_plus)), identity)
        figures[f"{name} {steps}"] = {
            "psnr": median(inversion.quality["psnr"]),
            "ssim": median(inversion.quality["ssim"]),
            "identity": round(float(cosine.mean()), 3),
            "seconds_per_image": round(seconds, 4),
        }
        if (name, steps) == EDITED:
            edited = inversion
    figures |= edit_figures(generator, judge, edited, rng)
    report(figures, args.json)
    print(table(groups))


if __name__ == "__main__":
    main()
