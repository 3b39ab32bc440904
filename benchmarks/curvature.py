"""Makes ``ganaug/assets/faces64.curvature.safetensors``: four minutes of one core, from the model file alone.

    python benchmarks/curvature.py --out ganaug/assets/faces64.curvature.safetensors

The same command gives the same file on the same machine; elsewhere the last bits of the convolutions differ.
"""

import argparse
import time
from pathlib import Path

from ganaug.features import load_perceptual_features
from ganaug.generators import load_generator
from ganaug.inversion import load_encoder
from ganaug.inversion.curvature import estimate_curvature, typical_codes, write_curvature


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="faces64", help="default: %(default)s")
    parser.add_argument("--codes", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--projections", type=int, default=8, help="for each code; default: %(default)s")
    args = parser.parse_args()
    began = time.process_time()
    generator, features = load_generator(args.model), load_perceptual_features(args.model)
    codes = typical_codes(generator, load_encoder(args.model), args.codes)
    curvature = estimate_curvature(generator, features, codes, num_projections=args.projections, progress=True)
    write_curvature(args.out, curvature, generator.fingerprint)
    print(f"{args.out}: {args.out.stat().st_size} bytes in {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
