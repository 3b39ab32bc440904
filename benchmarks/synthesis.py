"""Synthesis of every family (ganaug) against its textbook form, with one convolution group per sample.

    python benchmarks/synthesis.py [--quick] [--json FILE] [--threads N] [--family NAME]

The textbook form scales the weights of every sample and runs one grouped convolution (arXiv 1912.04958, section 2.2);
upsampling is zero insertion or a grouped transposed convolution, followed by the FIR. For StyleGAN3 and
SemanticStyleGAN it is the reference that the tests compare with. Both forms share their weights and are compared
before they are timed. Repeats are interleaved. Part of the textbook form's cost is the mapping and unmapping of large
temporaries, so the whole is measured twice: with glibc's default thresholds, and with them raised.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.generators import (
    SemanticStyleGAN,
    SemanticStyleGANConfig,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN3,
    StyleGAN3Config,
)
from ganaug.generators.stylegan2 import SynthesisLayer, ToRGB
from ganaug.layers import fir_kernel, upsample2d

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from naive_semantic import as_published
from naive_semantic import naive_synthesis as semantic_textbook
from naive_stylegan3 import naive_synthesis as stylegan3_textbook

BATCH = 8
TARGETS = {"stylegan2": 1.8, "stylegan3": 1.5, "semantic_stylegan": 1.5}


def narrow(img_resolution: int, base: int, num_layers: int = 14) -> tuple[int, ...]:
    """Channels of a StyleGAN3 by its paper's rule at a fifth of its width: base / bandwidth, at most 128."""
    last = img_resolution / 2
    cutoffs = [2.0 * (last / 2.0) ** min(i / (num_layers - 2), 1.0) for i in range(num_layers)]
    return tuple(round(min(base / 2 / cutoff, 128)) for cutoff in cutoffs)


# Widths of StyleGAN2 are channel_base 16384 of the ADA variant (arXiv 2006.06676), and the bundled generator's.
CONFIGS = {
    "faces64 (bundled size)": StyleGAN2Config(64, 256, 256, 4, (192, 192, 128, 64, 32)),
    "StyleGAN2, 64 px": StyleGAN2Config(64, 512, 512, 2, (512, 512, 512, 512, 256)),
    "StyleGAN2, 256 px": StyleGAN2Config(256, 512, 512, 2, (512, 512, 512, 512, 256, 128, 64)),
    "StyleGAN3-T, 64 px, narrow": StyleGAN3Config(64, 128, 128, 2, narrow(64, 4096)),
    "StyleGAN3-R, 64 px, narrow": StyleGAN3Config(
        64, 128, 128, 2, narrow(64, 8192), conv_kernel=1, use_radial_filters=True
    ),
    "SemanticStyleGAN, 64 px": SemanticStyleGANConfig(64, 64, 4, coarse_resolution=16, channels=(256, 128, 64)),
    "SemanticStyleGAN, 256 px": SemanticStyleGANConfig(256, channels=(512, 512, 256, 128)),
}
FAMILIES = {StyleGAN2Config: StyleGAN2, StyleGAN3Config: StyleGAN3, SemanticStyleGANConfig: SemanticStyleGAN}
RAISED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def grouped_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    weight = layer.weight[None] * layer.affine(w)[:, None, :, None, None]  # (B, O, I, 3, 3)
    weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    out = weight.shape[1]
    x = x.reshape(1, batch * channels, height, width)
    if layer.up:
        weight = weight.transpose(1, 2).reshape(batch * channels, out, 3, 3)
        y = F.conv_transpose2d(x, weight, stride=2, groups=batch)
        kernel = fir_kernel(4.0)[None, None].expand(batch * out, 1, 4, 4)
        y = F.conv2d(y, kernel, padding=1, groups=batch * out)
    else:
        y = F.conv2d(x, weight.reshape(batch * out, channels, 3, 3), padding=1, groups=batch)
    y = y.reshape(batch, out, *y.shape[2:]) + layer.noise_const * layer.noise_strength
    return F.leaky_relu(y + layer.bias[:, None, None], 0.2) * 2**0.5


def grouped_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    weight = layer.weight[None] * (layer.affine(w) * layer.gain)[:, None, :, None, None]
    y = F.conv2d(x.reshape(1, batch * channels, height, width), weight.reshape(batch * 3, channels, 1, 1), groups=batch)
    return y.reshape(batch, 3, height, width) + layer.bias[:, None, None]


def grouped_synthesis(generator: StyleGAN2, w_plus: Tensor) -> Tensor:
    x = image = None
    row = 0
    for resolution in generator.synthesis_network.resolutions:
        block = generator.synthesis_network.get_submodule(f"b{resolution}")
        if x is None:
            x = block.const[None].repeat(w_plus.shape[0], 1, 1, 1)
        else:
            x, row = grouped_layer(block.conv0, x, w_plus[:, row]), row + 1
        x, row = grouped_layer(block.conv1, x, w_plus[:, row]), row + 1
        rgb = grouped_rgb(block.torgb, x, w_plus[:, row])
        image = rgb if image is None else upsample2d(image, block.fir) + rgb
    return image


def textbook_form(generator: Any) -> Callable[[Tensor], Tensor]:
    """The family's textbook form, on the same weights."""
    if isinstance(generator, StyleGAN2):
        return lambda w_plus: grouped_synthesis(generator, w_plus)
    if isinstance(generator, StyleGAN3):
        return lambda w_plus: stylegan3_textbook(generator, w_plus)
    published = as_published(generator)  # outside of what is timed
    return lambda w_plus: semantic_textbook(generator, w_plus, published)[0]


@torch.no_grad()
def measure(repeats: int, family: str | None) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, config in CONFIGS.items():
        network = FAMILIES[type(config)]
        if family not in (None, network.family):
            continue
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = network(config).eval().requires_grad_(False)
            w_plus = first.mapping(torch.randn(BATCH, first.z_dim))
        ours = network(config).eval().requires_grad_(False)
        ours.load_state_dict(first.state_dict())
        ours.to(memory_format=torch.channels_last)
        textbook = textbook_form(first)
        expected, actual = textbook(w_plus), ours.synthesis(w_plus)
        error = float((expected - actual).abs().max() / expected.abs().max())
        if error > 1e-4:
            raise SystemExit(f"{name}: the two forms differ by {error:.1e}")
        seconds: dict[str, list[float]] = {"textbook": [], "ganaug": []}
        for _ in range(repeats):
            for form, run in (
                ("textbook", lambda f=textbook, w=w_plus: f(w)),
                ("ganaug", lambda g=ours, w=w_plus: g.synthesis(w)),
            ):
                started = time.perf_counter()
                run()
                seconds[form].append((time.perf_counter() - started) / BATCH)
        ratios = [a / b for a, b in zip(seconds["textbook"], seconds["ganaug"], strict=True)]
        rows.append(
            {
                "generator": name,
                "family": network.family,
                "batch": BATCH,
                "textbook_ms": round(1000 * statistics.median(seconds["textbook"]), 2),
                "ganaug_ms": round(1000 * statistics.median(seconds["ganaug"]), 2),
                "ratio": round(statistics.median(ratios), 2),
                "min": round(min(ratios), 2),
                "max": round(max(ratios), 2),
                "error": error,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five repeats instead of fifteen")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--family", choices=sorted(TARGETS), help="only this one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure(5 if args.quick else 15, args.family)))
        return
    results = {}
    for setting, extra in (("default malloc", {}), ("raised malloc thresholds", RAISED)):
        command = [sys.executable, __file__, "--child", "--threads", str(args.threads), *(["--quick"] * args.quick)]
        command += ["--family", args.family] if args.family else []
        output = subprocess.run(command, env={**os.environ, **extra}, check=True, capture_output=True, text=True).stdout
        results[setting] = json.loads(output)
        print(f"\n{setting}; ms per image, {args.threads} thread(s); ratio = textbook / ganaug")
        print(f"{'generator':28} {'batch':>5} {'textbook':>9} {'ganaug':>8} {'ratio':>6} {'min':>6} {'max':>6}")
        for row in results[setting]:
            print(
                f"{row['generator']:28} {row['batch']:5} {row['textbook_ms']:9.1f} {row['ganaug_ms']:8.1f} "
                f"{row['ratio']:6.2f} {row['min']:6.2f} {row['max']:6.2f}"
            )
    met = all(row["ratio"] >= TARGETS[row["family"]] for row in results["default malloc"])
    targets = ", ".join(f"{target}x {name}" for name, target in TARGETS.items())
    print(f"\ntargets with default malloc, at least {targets}: {'met' if met else 'NOT met'}")
    if args.json:
        args.json.write_text(
            json.dumps({"threads": args.threads, "results": results, "target_met": met}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
