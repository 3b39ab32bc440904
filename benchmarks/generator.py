"""How good is a generator, by a judge that had no part in making it: distances, recall, reconstruction, edits.

    python benchmarks/generator.py --data ../shared/data [--model NAME|FILE] [--json FILE] [--picture FILE] [--quick]

Frechet distance and recall in MobileFaceNet features, on 64 px chips of FairFace: 4,000 generated faces against
``val``, from the mapping network and from the prior, and 4,000 of ``train`` against ``val`` as the yardstick.
Reconstruction quality and identity (cosine to the photo) of each inverter on ``val``; identity and change of each edit,
against the inversion.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from judge import Judge, frechet_distance, precision_recall
from torch import Tensor

from ganaug import load_generator
from ganaug.edits import EDITS, build_edits
from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range
from ganaug.faces.images import find_images, read_image
from ganaug.generators import load_prior
from ganaug.interfaces import NUM_EDIT_UNIFORMS
from ganaug.inversion import build_inverter
from ganaug.sheet import contact_sheet

CPU = torch.device("cpu")


def chips_of(folder: Path, size: int, limit: int | None) -> Tensor:
    """``(N, 3, size, size)`` in [-1, 1]."""
    names = find_images(folder)[:limit]
    chips = np.stack([align(read_image(folder / name)[0], Alignment(size=size))[0] for name in names])
    return to_model_range(torch.from_numpy(chips).permute(0, 3, 1, 2))


def median(values: Tensor) -> float:
    return round(float(values.median()), 3)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="faces64")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="64 samples from the prior")
    parser.add_argument("--quick", action="store_true", help="1,000 photos and samples, 32 inversions")
    args = parser.parse_args()
    generator, judge = load_generator(args.model), Judge(args.data)
    size = generator.img_resolution
    count = 1000 if args.quick else 4000
    train, val = (chips_of(args.data / "fairface" / part, size, count) for part in ("train", "val"))
    figures: dict[str, object] = {"model": args.model, "fingerprint": generator.fingerprint}

    rng = torch.Generator().manual_seed(0)
    z = torch.randn(len(train), generator.z_dim, generator=rng)
    features = {"train": judge(to_unit_range(train)), "val": judge(to_unit_range(val))}
    yardstick = frechet_distance(features["train"], features["val"])
    figures["frechet_train_val"] = round(yardstick, 3)
    prior = load_prior(args.model).sample(len(train), rng)
    ways = {
        "mapping": generator.mapping(z),
        "mapping, truncation_psi 0.8": generator.mapping(z, truncation_psi=0.8),
        "prior": prior,
    }
    for way, codes in ways.items():
        made = torch.cat([generator.synthesis(part) for part in codes.split(128)])
        embedded = judge(to_unit_range(made))
        distance = frechet_distance(embedded, features["val"])
        precision, recall = precision_recall(features["val"], embedded[: len(val)])
        figures[way] = {
            "frechet": round(distance, 3),
            "times_train_val": round(distance / yardstick, 2),
            "precision": round(precision, 3),
            "recall": round(recall, 3),
        }
    if args.picture:
        made = to_unit_range(generator.synthesis(prior[:64]))
        contact_sheet([("", row) for row in made.split(16)], size, caption_width=0).save(args.picture)

    photos = val[: 32 if args.quick else 128]
    identity = torch.nn.functional.normalize(judge(to_unit_range(photos)))
    codes = anchor = None
    for name, steps in (("encoder", 1), ("hybrid", 40), ("hybrid", 100), ("optimization", 100)):
        started = time.perf_counter()
        with torch.enable_grad():
            parts = [build_inverter(name, generator, args.model, CPU, steps).invert(part) for part in photos.split(32)]
        seconds = (time.perf_counter() - started) / len(photos)
        w_plus = torch.cat([part.w_plus for part in parts])
        quality = {key: torch.cat([part.quality[key] for part in parts]) for key in parts[0].quality}
        again = judge(to_unit_range(torch.cat([generator.synthesis(part) for part in w_plus.split(64)])))
        cosine = (torch.nn.functional.normalize(again) * identity).sum(dim=1)
        figures[f"{name} {steps}"] = {
            "psnr": median(quality["psnr"]),
            "ssim": median(quality["ssim"]),
            "identity": round(float(cosine.mean()), 3),
            "seconds_per_image": round(seconds, 4),
        }
        if (name, steps) == ("hybrid", 100):
            codes, anchor = w_plus, torch.cat([part.anchor for part in parts])
    base = torch.cat([generator.synthesis(part) for part in codes.split(64)])
    own = torch.nn.functional.normalize(judge(to_unit_range(base)))
    for edit in build_edits(list(EDITS), generator):
        uniforms = torch.rand(len(photos), NUM_EDIT_UNIFORMS, generator=rng)
        params = {**edit.sample_params(uniforms), "partner": anchor.roll(1, 0)}
        moved = codes + edit.apply(anchor, params) - anchor
        images = torch.cat([generator.synthesis(part) for part in moved.split(64)])
        cosine = (torch.nn.functional.normalize(judge(to_unit_range(images))) * own).sum(dim=1)
        figures[f"edit {edit.name}"] = {
            "identity_median": median(cosine),
            "identity_at_least_0.5": round(float((cosine >= 0.5).float().mean()), 3),
            "pixel_change": round(float((images - base).abs().mean() / 2), 4),
        }
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
