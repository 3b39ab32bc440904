"""What benchmarks/benefit.py compares: recipes of augmentation, and the variants that they are given."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benefit_tasks import Chips, Task, open_cache
from torch import Tensor

from ganaug import AugmentationPolicy, GANAugmentedDataset

SEMANTIC = ("lighting", "expression", "pose", "hair", "background", "skin")
MIXING = ("coarse", "middle", "fine")  # with other faces of the same label
AT_ONCE = 64
MOST_VARIANTS = 16  # of a photo; a training run sees each several times where photos are few
MOST_IMAGES = 8000  # of one training set; every photo has one variant at least


@dataclass(frozen=True)
class Variants:
    """How variants are made. ``preserve=["label"]`` always."""

    edits: tuple[str, ...] = (*SEMANTIC, *MIXING)
    gated: bool = False
    strength: float = 1.0
    paste: str = "paste"
    inverter: str = "encoder"


VARIANTS = {
    "default": Variants(),
    "gated": Variants(gated=True),
    "semantic": Variants(edits=SEMANTIC),
    "mixing": Variants(edits=MIXING),
    "weak": Variants(strength=0.5),
    "strong": Variants(strength=1.5),
    "whole": Variants(paste="whole"),
    "hybrid": Variants(inverter="hybrid"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to augment.

    Attributes:
        classical: ``"default"`` is ganaug's kornia-like pipeline, ``"randaugment"`` torchvision's with a flip.
        ratio: Share of variants.
        variants: Key of :data:`VARIANTS`.
        steps: Factor on the number of steps.
    """

    classical: str | None = None
    ratio: float = 0.0
    variants: str | None = None
    steps: float = 1.0


# A step at ratio 0.5 takes as long as this many without variants: so long may "classical, same time" train. Set from
# what a first run measured, `seconds_per_step` of its results: 152 ms against 28 (28 with classical alone).
SAME_TIME = 5.5
EQUAL_TIME = "classical, same time"

RECIPES = {
    "none": Recipe(),
    "classical": Recipe("default"),
    "randaugment": Recipe("randaugment"),
    "gan": Recipe(None, 0.5, "default"),
    "gan+classical 0.25": Recipe("default", 0.25, "default"),
    "gan+classical 0.5": Recipe("default", 0.5, "default"),
    "gan+classical 0.75": Recipe("default", 0.75, "default"),
    "gan+randaugment 0.5": Recipe("randaugment", 0.5, "default"),
    "gan gated": Recipe(None, 0.5, "gated"),
    "gan+classical 0.25 gated": Recipe("default", 0.25, "gated"),
    "gan+classical 0.5 gated": Recipe("default", 0.5, "gated"),
    "gan+classical 0.75 gated": Recipe("default", 0.75, "gated"),
    EQUAL_TIME: Recipe("default", steps=SAME_TIME),
}
PLAIN = ("none", "classical", "randaugment")  # the best of these is what is to be beaten
# Chosen beforehand on held-out photos of FairFace train, beside other sets of edits and ratios (differences were within
# the noise of a few seeds). A first trial of six sets of edits had looked at `val` for gender, with one seed.
PRIMARY = "gan+classical 0.5"
QUICK = ("none", "classical", "randaugment", "gan", PRIMARY)
ABLATION = {name: Recipe("default", 0.5, name) for name in ("semantic", "mixing", "weak", "strong", "whole", "hybrid")}


def without_variants(name: str) -> str:
    """The recipe that is the same but for its variants and its number of steps."""
    classical = {**RECIPES, **ABLATION}[name].classical
    return next(plain for plain in PLAIN if RECIPES[plain].classical == classical)


def make_variants(
    task: Task, chips: Chips, caches: Path, variants: Variants, seed: int, draws: int, device: str
) -> tuple[Tensor, dict[str, Any]]:
    """Variants of every training photo, as ``loader`` serves them at ratio 1 in its first epochs.

    They are kept and drawn from instead of made for every step: with few photos and many epochs, and with several
    recipes that share them, this saves most of the time and changes nothing else.

    Args:
        task: The task.
        chips: Its training set.
        caches: Where the latents are.
        variants: How to make them.
        seed: Seed of the draws.
        draws: How many images a training run takes.
        device: Where to make them.

    Returns:
        ``(K, N, 3, 64, 64)`` uint8, and figures: seconds per variant, share of the variants that were refused.
    """
    policy = AugmentationPolicy(
        ratio=1.0,
        edits=[name for name in variants.edits if name not in task.left_out],
        preserve=["label", "identity"] if variants.gated else ["label"],
        seed=seed,
        strength_schedule=None if variants.strength == 1.0 else (lambda epoch: variants.strength),
    )
    train = GANAugmentedDataset(
        chips,
        open_cache(caches, task.train.source, variants.inverter),
        policy=policy,
        classical=None,
        paste=variants.paste,  # type: ignore[arg-type]
        gate="auto" if variants.gated else None,
        key=lambda index: task.train.names[index],
    )
    loader = train.loader(AT_ONCE, device=device)
    count = min(MOST_VARIANTS, max(1, MOST_IMAGES // len(chips)), -(-draws // len(chips)))
    started = time.process_time()  # of this process alone: others may run beside it
    made = [torch.cat([images.cpu() for images, _ in loader]) for _ in range(count)]
    pixels = torch.stack(made) if made[0].dtype == torch.uint8 else (torch.stack(made) * 255).round().to(torch.uint8)
    seconds = (time.process_time() - started) / (count * len(chips))
    changed = (pixels != chips.images).flatten(2).any(dim=2).float().mean()
    return pixels, {"seconds_per_variant": seconds, "served_as_photo": 1.0 - float(changed)}
