"""Makes ``ganaug/assets/faces64.curvature.safetensors`` from the model file and FairFace's training photos.

    python benchmarks/curvature.py --data ../shared/data --out ganaug/assets/faces64.curvature.safetensors

Four minutes of one core. The same command gives the same file on the same machine; on another one the last bits of the
convolutions differ. The package estimates that of other generators from their own images, where it has no photos
(:func:`ganaug.inversion.curvature.typical_codes`); on photos that left an error 1.6 % higher.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from attributes import fairface

from ganaug.faces.align import to_model_range
from ganaug.features import load_perceptual_features
from ganaug.generators import load_generator
from ganaug.inversion import load_encoder
from ganaug.inversion.curvature import estimate_curvature, write_curvature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with fairface/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chips", type=Path, help="folder where benchmarks/edits.py has left chips")
    parser.add_argument("--photos", type=int, default=2560, help="default: %(default)s")
    parser.add_argument("--projections", type=int, default=12, help="for each photo; default: %(default)s")
    args = parser.parse_args()
    began = time.process_time()
    model = "faces64"
    generator, features, encoder = load_generator(model), load_perceptual_features(model), load_encoder(model)
    with tempfile.TemporaryDirectory() as scratch:
        chips, _ = fairface(args.data, "train", args.chips or Path(scratch))
    images = to_model_range(chips[:: len(chips) // args.photos][: args.photos])
    with torch.no_grad():
        codes = torch.cat([encoder.encode(part, generator) for part in images.split(64)])
    curvature = estimate_curvature(generator, features, codes, num_projections=args.projections, progress=True)
    write_curvature(args.out, curvature, generator.fingerprint)
    print(f"{args.out}: {args.out.stat().st_size} bytes in {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
