"""Invert a folder of faces into a latent cache from Python; the same as ``ganaug precompute FOLDER --cache DIR``.

    python examples/precompute_folder.py FOLDER CACHE

Killed and started again, it continues where it was. Without arguments it draws a few faces from the bundled generator,
so that it runs anywhere.
"""

import sys
import tempfile
from pathlib import Path

import torch

from ganaug import LatentCache, load_generator
from ganaug.demo import draw_faces
from ganaug.faces.photos import photos_in_folder
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, open_or_create, precompute


def main(folder: Path, cache_path: Path, steps: int | None = None) -> LatentCache:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = load_generator("faces64", device)
    # "hybrid" starts from the encoder's guess and optimises it for some steps.
    inverter = build_inverter("hybrid", generator, "faces64", device, steps)
    # The header records generator, alignment and inverter; a cache made otherwise is refused with both values.
    cache = open_or_create(cache_path, make_header(generator, "faces64", inverter), inverter)
    # The batch size is halved when memory runs out, and remembered beside the records.
    result = precompute(photos_in_folder(folder), cache, inverter, device)
    print(f"{result.images} images have latents, {result.failed} failed, median PSNR {result.psnr_median} dB")
    return cache


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            draw_faces("faces64", Path(scratch) / "faces", count=4, seed=0)
            main(Path(scratch) / "faces", Path(scratch) / "faces.lmdb", steps=5)
