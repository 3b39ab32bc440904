"""Does ``extra="balance"`` help the group that a training set has little of? Counts, its accuracy, the gap of groups.

    python benchmarks/balance.py --data ../shared/data --out DIR [--seeds 5] [--groups Black ...] [--json FILE]

The task is gender on FairFace, train to val. Each cell has 60 photos of six races, half of each gender, and 10 of the
seventh; the seed decides which photos. The same network as in benchmarks/benefit.py is trained in the same number of
steps with classical augmentation on the photos alone, on the photos with those of the small group repeated until it is
as large as the others, and on what ``GANAugmentedDataset(..., groups=race, extra="balance")`` serves instead of the
repetitions: the photos and variants of the small group's. ``DIR`` may be that of benchmarks/benefit.py; a cell is kept
in ``DIR/balance.jsonl`` when it is done, and killed and started again, the run goes on with what is missing.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benefit_recipes import AT_ONCE, SEMANTIC, Recipe
from benefit_report import interval
from benefit_results import open_results, read_results
from benefit_tasks import Chips, Part, Task, chip_name, cut_chips, few_of_each, invert_chips, open_cache, read_rows
from benefit_training import measure, train
from tqdm import tqdm

from ganaug import AugmentationPolicy, GANAugmentedDataset

SMALL, LARGE = 10, 60  # photos of a race
GROUPS = ("Black", "East Asian", "Indian", "White")
CLASSES = ["Female", "Male"]
EPOCHS = 16  # of variants that are kept and drawn from
RESULTS = "balance.jsonl"
RECIPES = ("as it is", "repeated", "balance")


def build_task(data: Path, group: str, seed: int) -> Task:
    """Gender, with few photos of one race."""
    rows = read_rows(data, "fairface")
    chosen = []
    for race in sorted({row["race"] for row in rows}):
        some = [row for row in rows if row["split"] == "train" and row["race"] == race]
        chosen += few_of_each(some, lambda row: row["gender"], (SMALL if race == group else LARGE) // 2, seed)
    parts = [
        Part(
            "fairface",
            [chip_name(row["file"]) for row in some],
            np.array([CLASSES.index(row["gender"]) for row in some]),
            [row["race"] for row in some],
        )
        for some in (chosen, [row for row in rows if row["split"] == "val"])
    ]
    return Task("gender", CLASSES, *parts)


def run_cell(data: Path, out: Path, group: str, seed: int) -> list[dict[str, Any]]:
    """The three recipes on one training set."""
    task = build_task(data, group, seed)
    chips, held = (Chips(out / "chips" / "fairface", part, len(CLASSES)) for part in (task.train, task.test))
    wrapped = GANAugmentedDataset(
        chips,
        open_cache(out, "fairface", "encoder"),
        policy=AugmentationPolicy(ratio=0.0, edits=SEMANTIC, preserve=["identity", "label"], seed=seed),
        classical=None,
        key=lambda index: task.train.names[index],
        groups=task.train.groups,
        extra="balance",
        max_extra=LARGE,
    )
    loader = wrapped.loader(AT_ONCE)
    epochs = [torch.cat([images for images, _ in loader]) for _ in range(EPOCHS)]
    served = torch.stack(epochs) if epochs[0].dtype == torch.uint8 else (torch.stack(epochs) * 255).round().byte()
    extra = [index for index in range(len(wrapped)) if index >= len(chips)]
    source = [wrapped[index] for index in extra]
    photos, races = chips.images, np.array(task.train.groups)
    found = []
    for recipe in RECIPES:
        sources = torch.stack([image for image, _ in source])
        chips.images = photos if recipe == "as it is" else torch.cat([photos, sources])
        chips.samples = [("", 0)] * len(chips.images)
        labels = task.train.labels.tolist()
        chips.targets = labels if recipe == "as it is" else labels + [int(label) for _, label in source]
        variants = served if recipe == "balance" else None
        network, _ = train(
            task, chips, variants, Recipe("default", 1.0 if recipe == "balance" else 0.0), seed, None, "cpu"
        )
        figures = measure(network, task, held, "cpu")
        added = 0 if recipe == "as it is" else len(extra)
        found.append(
            {"group": group, "seed": seed, "recipe": recipe, "photos": int((races == group).sum()), "added": added}
            | {"of_group": figures["groups"][group], **figures}
        )
    return found


def differences(results: Sequence[dict[str, Any]], recipe: str, other: str, figure: str) -> tuple[float, float]:
    """Mean and half of the 95 % interval over cells."""
    of = {name: {(r["group"], r["seed"]): r[figure] for r in results if r["recipe"] == name} for name in RECIPES}
    return interval([of[recipe][cell] - of[other][cell] for cell in sorted(of[recipe])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = [(group, seed) for seed in range(args.seeds) for group in args.groups]
    tasks = [build_task(args.data, *cell) for cell in cells]
    cut_chips(args.data, args.out / "chips", [part for task in tasks for part in (task.train, task.test)])
    invert_chips(args.out, args.out / "chips", [task.train for task in tasks], "encoder", None)
    results = [line for line in read_results(args.out, RESULTS) if (line["group"], line["seed"]) in cells]
    done = {(line["group"], line["seed"]) for line in results}
    with open_results(args.out, RESULTS) as file:
        for cell in tqdm([cell for cell in cells if cell not in done], disable=None):
            found = run_cell(args.data, args.out, *cell)
            file.write("".join(json.dumps(line) + "\n" for line in found))
            file.flush()
            results += found
    print(f"{len(cells)} cells; % (95 % interval over cells)")
    for recipe in RECIPES:
        own = [r for r in results if r["recipe"] == recipe]
        shown = [
            f"{name} {100 * mean:.1f} ± {100 * half:.1f}"
            for name in ("accuracy", "of_group", "gap")
            for mean, half in [interval([r[name] for r in own])]
        ]
        print(f"{recipe:10} photos of the group {own[0]['photos']} + {own[0]['added']}; " + "; ".join(shown))
    for other in RECIPES[:2]:
        for name in ("accuracy", "of_group", "gap"):
            mean, half = differences(results, "balance", other, name)
            print(f"balance - {other}: {name} {100 * mean:+.1f} ± {100 * half:.1f} points")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
