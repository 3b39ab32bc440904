"""``ganaug.metrics`` beside torchmetrics on the same features: both figures, their difference, and both times.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py --json metrics.json

Features are those of images by the bundled generator, at full truncation ("real") and at 0.7 ("generated"), through
the bundled discriminator, and wide ones of the size of Inception's, made of them by a random linear map. The networks
of the Inception score and of LPIPS are random: only the agreement of two implementations is tested, and the figures
themselves say nothing. Both are given float64 features; torchmetrics rounds its result to float32.
"""

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchmetrics
import torchvision
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore as TheirInceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from ganaug.generators import load_generator
from ganaug.lpips import Lpips
from ganaug.metrics import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    MultiScaleSSIM,
    PerceptualDistance,
    load_extractor,
)
from ganaug.metrics.ssim import EXPONENTS, scales_that_fit

WIDE = 2048  # numbers that Inception gives
CLASSES = 1008  # its logits
BATCH = 128


class Through(nn.Module):
    """torchmetrics takes images and a network; here the images are the features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def pictures(count: int, truncation: float, seed: int) -> Tensor:
    generator = load_generator()
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made = [generator.synthesis(generator.mapping(part, truncation_psi=truncation)) for part in z.split(BATCH)]
    return torch.cat(made).clamp(-1, 1)


def two_sets(metric: Any, real: Tensor, made: Tensor) -> Any:
    if hasattr(metric, "set_dtype"):
        metric.set_dtype(torch.float64)
    for is_real, features in ((True, real), (False, made)):
        for part in features.split(BATCH):
            metric.update(part, real=is_real)
    return metric


def subsets(real: Tensor, made: Tensor, count: int, size: int) -> tuple[Callable[[], float], Callable[[], float]]:
    def ours() -> float:
        return two_sets(KernelDistance(), real, made).compute_subsets(count, size, seed=0)[0]

    def theirs() -> float:
        torch.manual_seed(0)
        metric = KernelInceptionDistance(feature=Through(real.shape[1]), subsets=count, subset_size=size)
        return float(two_sets(metric, real, made).compute()[0])

    return ours, theirs


def inception(logits: Tensor) -> tuple[Callable[[], float], Callable[[], float]]:
    def ours() -> float:
        metric = InceptionScore()
        for part in logits.split(BATCH):
            metric.update(part)
        return metric.compute()[0]

    def theirs() -> float:
        metric = TheirInceptionScore(feature=Through(logits.shape[1]), splits=1)
        metric.set_dtype(torch.float64)
        for part in logits.split(BATCH):
            metric.update(part)
        return float(metric.compute()[0])

    return ours, theirs


def lpips(a: Tensor, b: Tensor) -> tuple[Callable[[], float], Callable[[], float]]:
    torch.manual_seed(0)
    other = _LPIPS(pretrained=False, net="alex", pnet_rand=True, use_dropout=False).eval()
    features = torchvision.models.alexnet(weights=None).features.eval()
    layers = {name: layer for part in other.net.children() for name, layer in part.named_children()}
    for number, layer in enumerate(features):
        if str(number) in layers:
            layer.load_state_dict(layers[str(number)].state_dict())
    for lin in other.lins:
        lin.model[-1].weight.data.abs_()
    network = Lpips("alexnet", features, [lin.model[-1].weight.detach().flatten() for lin in other.lins])

    def ours() -> float:
        metric = PerceptualDistance(network)
        for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True):
            metric.update(x, y)
        return metric.compute()["mean"]

    def theirs() -> float:
        with torch.no_grad():
            return float(torch.cat([other(x, y) for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True)]).mean())

    return ours, theirs


def ms_ssim(a: Tensor, b: Tensor) -> tuple[Callable[[], float], Callable[[], float]]:
    weights = EXPONENTS[: scales_that_fit(a.shape[2], a.shape[3])]

    def ours() -> float:
        metric = MultiScaleSSIM()
        for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True):
            metric.update(x, y)
        return metric.compute()["mean"]

    def theirs() -> float:
        betas = tuple(weight / math.fsum(weights) for weight in weights)
        values = [
            multiscale_structural_similarity_index_measure(
                x.double() / 2 + 0.5, y.double() / 2 + 0.5, data_range=1.0, betas=betas, reduction="none"
            )
            for x, y in zip(a.split(BATCH), b.split(BATCH), strict=True)
        ]
        return float(torch.cat(values).mean())

    return ours, theirs


def frechet(real: Tensor, made: Tensor) -> tuple[Callable[[], float], Callable[[], float]]:
    return (
        lambda: two_sets(FrechetDistance(), real, made).compute(),
        lambda: float(two_sets(FrechetInceptionDistance(feature=Through(real.shape[1])), real, made).compute()),
    )


def timed(run: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="images of each set")
    parser.add_argument("--pairs", type=int, default=64, help="pairs of images for LPIPS and MS-SSIM")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # theirs, on memory and on the spread of one split

    real, made = pictures(args.count, 1.0, 0), pictures(args.count, 0.7, 1)
    extractor = load_extractor("perceptual")
    narrow = [torch.cat([extractor(part) for part in images.split(BATCH)]).double() for images in (real, made)]
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(narrow[0].shape[1], WIDE, generator=draw).double() / math.sqrt(narrow[0].shape[1])
    wide = [(features @ mixing).relu() for features in narrow]
    classifier = torch.randn(WIDE, CLASSES, generator=draw).double() * (8.0 / math.sqrt(WIDE))
    logits = (wide[1] - wide[1].mean(dim=0)) / wide[1].std() @ classifier
    cases = {
        "Frechet, 64 numbers": frechet(narrow[0], narrow[1]),
        f"Frechet, {WIDE} numbers": frechet(wide[0], wide[1]),
        "Kernel, subsets, 64 numbers": subsets(narrow[0], narrow[1], 20, min(500, args.count)),
        f"Kernel, subsets, {WIDE} numbers": subsets(wide[0], wide[1], 5, min(500, args.count)),
        "Inception score": inception(logits),
        "LPIPS": lpips(real[: args.pairs], made[: args.pairs]),
        "MS-SSIM": ms_ssim(real[: args.pairs], made[: args.pairs]),
    }
    rows = []
    print(f"{'metric':<32}{'ganaug':>14}{'torchmetrics':>14}{'relative':>10}{'s':>8}{'s':>8}")
    for name, (ours, theirs) in cases.items():
        (value, seconds), (other, other_seconds) = timed(ours), timed(theirs)
        relative = abs(value - other) / abs(other)
        rows.append(
            {
                "metric": name,
                "ganaug": value,
                "torchmetrics": other,
                "relative_difference": relative,
                "ganaug_seconds": seconds,
                "torchmetrics_seconds": other_seconds,
            }
        )
        print(
            f"{name:<32}{value:>14.8g}{other:>14.8g}{relative:>10.1e}{seconds:>8.2f}{other_seconds:>8.2f}", flush=True
        )
    if args.json:
        report = {
            "count": args.count,
            "pairs": args.pairs,
            "features": extractor.name,
            "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
            "torchmetrics": torchmetrics.__version__,
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
