"""The ways of inverting that benchmarks/inversion.py compares, each as: find for a batch, then draw what was found."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inversion_peers import project_folder
from inversion_sets import AT_ONCE, PhotoSet
from torch import Tensor

from ganaug import LatentCache, load_generator
from ganaug.cache_format import Layout
from ganaug.faces.align import Alignment
from ganaug.features import load_perceptual_features
from ganaug.generators import StyleGAN2
from ganaug.generators.deltas import DeltaLayout
from ganaug.interfaces import Inversion, Inverter
from ganaug.inversion import DEFAULT_STEPS, OptimizationInverter, build_inverter
from ganaug.inversion.losses import InversionLoss, PerceptualLoss, PixelLoss
from ganaug.inversion.tuning import Tuned, TuningConfig, tune
from ganaug.latents import draw_latents, split_anchor
from ganaug.precompute import make_header
from ganaug.tuning import CACHE, FEATURE_WEIGHT, GENERATOR

BATCH = 16
PIVOT_STEPS, TUNING_STEPS = 400, 300  # of classic pivotal tuning: what was asked for
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Method:
    """One point of the plot.

    Attributes:
        name: A key of ``INVERTERS``, or one of :data:`SPECIAL`.
        steps: Optimisation steps; None where there are none.
        share: Of the photos of a set that it is given: slow methods see fewer.
        sets: Where it is measured.
        default: Whether these are the steps that ``ganaug precompute`` takes.
    """

    name: str
    steps: int | None
    share: float = 1.0
    sets: tuple[str, ...] = ("val", "london", "aaf")
    default: bool = False

    def quick(self) -> "Method":
        """With a tenth of the steps."""
        steps = None if self.steps is None else max(self.steps // 10, 1)
        return Method(self.name, steps, self.share, self.sets, self.default)


@dataclass(frozen=True)
class Way:
    """A method, built for one generator.

    Attributes:
        settings: What decides the result, JSON-able.
        find: ``(N, 3, R, R)`` -> what is timed.
        draw: That -> ``(N, 3, R, R)``, as it would be served: from what a record holds.
        record_bytes: What is kept of one face.
        at_once: Photos that ``find`` is given.
        seconds: What a photo costs, where that was measured elsewhere.
    """

    settings: dict[str, Any]
    find: Callable[[Tensor], Any]
    draw: Callable[[Any], Tensor]
    record_bytes: int
    at_once: int = BATCH
    seconds: float | None = None


@torch.no_grad()
def drawn(
    generator: StyleGAN2, w_plus: Tensor, delta: Tensor | None = None, layout: DeltaLayout | None = None
) -> Tensor:
    """Images of codes and deltas rounded as records hold them, float16."""
    parts = []
    for start in range(0, len(w_plus), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        bound = None if delta is None or layout is None else layout.bind(delta[rows].half())
        parts.append(generator.synthesis(w_plus[rows].half().float(), delta=bound))
    return torch.cat(parts)


def synthesis_ways(faces: PhotoSet, count: int) -> dict[str, Callable[[], Tensor]]:
    """Drawing ``count`` faces of the generator as it is, and each with weights of its own; name -> what to call."""
    generator = faces.generator
    layout = generator.delta_layout()
    codes = draw_latents(generator, count, torch.Generator().manual_seed(0))
    numbers = layout.start().to(codes).expand(count, -1).half()
    return {
        "plain": torch.no_grad()(lambda: generator.synthesis(codes)),
        "delta": torch.no_grad()(lambda: generator.synthesis(codes, delta=layout.bind(numbers))),
    }


def of_inverter(faces: PhotoSet, inverter: Inverter) -> Way:
    """What ``ganaug precompute`` does."""
    device = faces.generator.w_avg.device

    def find(images: Tensor) -> Inversion:
        return inverter.invert(images.to(device), BATCH)

    layout = None if inverter.delta is None else DeltaLayout.of(inverter.delta, faces.generator)
    header = make_header(faces.generator, faces.model, inverter)
    return Way(
        inverter.settings,
        find,
        lambda found: drawn(faces.generator, found.w_plus, found.delta, layout),
        Layout.of(header).record_bytes,
        4 * BATCH if inverter.refills else BATCH,
    )


def registered(faces: PhotoSet, method: Method) -> Way:
    """An entry of ``INVERTERS``."""
    device = faces.generator.w_avg.device
    return of_inverter(faces, build_inverter(method.name, faces.generator, faces.model, device, method.steps or 1))


def in_w(faces: PhotoSet, method: Method) -> Way:
    """``optimization`` with one code for all rows."""
    features = load_perceptual_features(faces.model, faces.generator.w_avg.device)
    return of_inverter(faces, OptimizationInverter(faces.generator, features, space="w", steps=method.steps or 1))


def peers(faces: PhotoSet, method: Method) -> Way:
    """One photo at a time."""
    features = load_perceptual_features(faces.model, faces.generator.w_avg.device)
    code_bytes = FLOAT_BYTES * faces.generator.latent_spec.num_ws * faces.generator.latent_spec.w_dim
    return Way(
        {"name": method.name, "steps": method.steps},
        lambda images: project_folder(faces.generator, features, images.to(faces.generator.w_avg.device), method.steps),
        lambda w_plus: drawn(faces.generator, w_plus),
        code_bytes,
        1,
    )


def tuning(faces: PhotoSet, method: Method) -> Way:
    """Classic pivotal tuning: for every photo a code, then a generator of its own."""
    generator, device = faces.generator, faces.generator.w_avg.device
    pivot_steps = max(PIVOT_STEPS * (method.steps or 1) // TUNING_STEPS, 1)
    inverter = build_inverter("optimization", generator, faces.model, device, pivot_steps)
    features = load_perceptual_features(faces.model, device)
    objective = InversionLoss([PixelLoss(), PerceptualLoss(features, FEATURE_WEIGHT)])  # as `ganaug tune` has it
    config = TuningConfig.for_photos(1, steps=method.steps)

    def find(photo: Tensor) -> Tuned:
        return tune(generator, inverter.invert(photo.to(device)).w_plus, photo, objective, config)

    weights = sum(parameter.numel() for parameter in generator.synthesis_network.parameters())
    return Way(
        {**inverter.settings, **objective.settings, **config.to_dict(), "name": method.name},
        find,
        lambda found: drawn(found.generator, found.codes),
        FLOAT_BYTES * weights,
        1,
    )


def tuned(faces: PhotoSet, method: Method) -> Way:
    """One generator that ``ganaug tune`` tuned to many photos, these among them; read, not made."""
    if faces.tuned is None:
        raise ValueError("no folder of a tuned generator was given")
    generator = load_generator(faces.tuned / GENERATOR, faces.generator.w_avg.device)
    cache, run = LatentCache(faces.tuned / CACHE), tune_figures(faces.tuned)
    if dict(cache.header.alignment) != Alignment(size=generator.img_resolution).to_dict():
        raise SystemExit(f"{faces.tuned}: made of a cache whose photos are cut otherwise: {cache.header.alignment}")
    known = set(cache.keys())
    if missing := [key for key in faces.keys if key not in known]:
        raise SystemExit(f"{faces.tuned} was not tuned to {missing[0]!r} and {len(missing) - 1} more: fewer --images")
    if "seconds" not in cache.header.quality_names:
        raise SystemExit(f"{faces.tuned}: records do not tell how long their inversion took; precompute them anew")
    records = [cache.get(key) for key in faces.keys]
    codes = torch.stack([torch.from_numpy(record.latents.copy()) for record in records]).float()
    inversion = sum(record.quality["seconds"] for record in records) / len(records)
    return Way(
        {"name": method.name, "fingerprint": generator.fingerprint, "run": run},
        lambda images: split_anchor(codes)[0][: len(images)].to(generator.w_avg.device),
        lambda w_plus: drawn(generator, w_plus),
        Layout.of(cache.header).record_bytes,
        len(faces.photos),
        inversion + run["seconds"] / run["faces"],
    )


def tune_figures(folder: Path) -> dict[str, Any]:
    """What ``ganaug tune --json`` wrote beside the folder."""
    path = folder.with_name(f"{folder.name}.json")
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `ganaug tune ... --out {folder} --json {path}`")
    figures: dict[str, Any] = json.loads(path.read_text())
    return {name: figures[name] for name in ("faces", "steps", "seconds", "mse_before", "mse_after")}


# Names that are no inverters -> how to build them.
SPECIAL: dict[str, Callable[[PhotoSet, Method], Way]] = {
    "optimization-w": in_w,
    "tuning": tuning,
    "tuned": tuned,
    "peers": peers,
}

HYBRID, PIVOTAL = DEFAULT_STEPS["hybrid"], DEFAULT_STEPS["pivotal"]
METHODS = (
    Method("encoder", None),
    *(Method("hybrid", steps, default=steps == HYBRID) for steps in sorted({10, 20, 40, 100, HYBRID})),
    *(Method("optimization", steps, 1 / 2) for steps in (50, 100, 200, 400)),
    *(Method("optimization-w", steps, 1 / 4, ("val",)) for steps in (50, 100, 200, 400)),
    *(Method("pivotal", steps, 1 / 2, default=steps == PIVOTAL) for steps in sorted({50, 100, 200, PIVOTAL})),
    Method("tuning", TUNING_STEPS, 1 / 8),
    Method("tuned", None, sets=("val",)),
    Method("peers", 400, 1 / 16),
)


def build(faces: PhotoSet, method: Method) -> Way:
    """A method for one set."""
    return SPECIAL.get(method.name, registered)(faces, method)
