"""Published checkpoints: do files that the original projects wrote give the outputs that those projects gave?

    python benchmarks/published.py --data ../shared/data/checkpoints [--json FILE]

For each checkpoint with an ``.npz`` of the same name: the largest absolute difference to every stored output, divided
by the largest absolute value of that output. float32, CPU. Also the time to open the file.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug import load_generator

TARGET = 1e-4


def outputs(generator: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the generator makes of the stored inputs, under the stored names."""
    made = {"w": generator.mapping(given["z"]), "w_psi06": generator.mapping(given["z"], truncation_psi=0.6)}
    made["latent_avg"] = generator.w_avg
    for name, w_plus in (("", made["w"]), ("_w_plus", given.get("w_plus"))):
        if w_plus is None:
            continue
        made["image_w_plus" if name else "image_noise_const"] = generator.synthesis(w_plus, noise="const")
        made[f"image_noise_none{name}"] = generator.synthesis(w_plus, noise="none")
        if generator.latent_spec.parts:
            made[f"seg{name}"] = generator.synthesis(w_plus, noise="const", return_parts=True)[1]
    return made


@torch.no_grad()
def compare(file: Path) -> dict[str, Any]:
    """Opens one checkpoint and compares it with its ``.npz``."""
    started = time.perf_counter()
    generator = load_generator(file)
    seconds = time.perf_counter() - started
    with np.load(file.with_suffix(".npz")) as stored:
        expected = {name: torch.from_numpy(stored[name]).float() for name in stored.files}
    made = outputs(generator, expected)
    errors = {}
    for name, value in expected.items():
        if name in ("z", "w_plus"):
            continue
        got = made[name]
        if got.ndim == value.ndim + 1:  # one w for all rows
            got = got[:, 0]
        errors[name] = float((got - value).abs().max() / value.abs().max())
    return {
        "file": file.name,
        "family": generator.family,
        "open_s": round(seconds, 3),
        "errors": errors,
        "weights_fingerprint": generator.weights_fingerprint,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    files = sorted(f for f in args.data.iterdir() if f.suffix in (".pkl", ".pt") and f.with_suffix(".npz").exists())
    if not files:
        raise SystemExit(f"{args.data}: no checkpoint with an .npz beside it")
    results = [compare(file) for file in files]
    for result in results:
        print(f"\n{result['file']}: {result['family']}, opened in {result['open_s']} s")
        for name, error in result["errors"].items():
            print(f"  {name:20} {error:8.1e}{'' if error <= TARGET else '   TOO MUCH'}")
    met = all(error <= TARGET for result in results for error in result["errors"].values())
    print(f"\ntarget of at most {TARGET:.0e}: {'met' if met else 'NOT met'}")
    if args.json:
        args.json.write_text(json.dumps({"results": results, "target_met": met}, indent=2) + "\n")


if __name__ == "__main__":
    main()
