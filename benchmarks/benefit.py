"""Does it help? Small training sets, with and without variants, by the same network in the same number of steps.

    python benchmarks/benefit.py --data ../shared/data --out DIR --quick --processes 2

    python benchmarks/benefit.py --data ../shared/data --out DIR [--tasks ...] [--sizes 10 30 100 300 0] [--recipes ...]
        [--seeds 5] [--ablate] [--processes N] [--device cuda] [--json FILE] [--markdown FILE]

    python benchmarks/benefit.py --data ../shared/data --out DIR --report

A cell is a task, a number of photos for each class (0: all) and a seed: the seed decides the photos, the split where
there is none, the network's first weights, the order and all draws. Every recipe is trained in every cell, so that
recipes are compared on the same photos. The results of a cell are kept as lines of ``DIR/results.jsonl`` when it is
done; killed and started again, the run goes on with what is missing. Neither a network nor a step of its training is
chosen by the test sets; what was set after looking at them (number of steps, width, the recipe with RandAugment) stands
in the README.

What the bundled generator, encoder and edits have seen: all images of FairFace train (13,072) without labels, so those
that the tasks gender, age and race take their photos from, and never ``val``, which tests them. The named edits were
fitted with labels of FairFace train and pairs of London (``expression`` alone, which the task ``smile`` leaves out).
The identity set was seen by nothing. ``smile`` starts from a network that was trained for gender on FairFace train.
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from benefit_recipes import ABLATION, QUICK, RECIPES, VARIANTS, Recipe, make_variants
from benefit_report import report
from benefit_results import open_results, read_results
from benefit_tasks import TASKS, Chips, Task, cut_chips, invert_chips
from benefit_training import measure, train
from tqdm import tqdm

SIZES = (10, 30, 100, 300, 0)
HYBRID_STEPS = 40
START_FACTOR = 1.5  # on the steps of the network that `smile` starts from

Cell = tuple[str, int, int]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="chips, caches and results: personal data")
    parser.add_argument("--quick", action="store_true", help=f"30 photos a class, 3 seeds, recipes {', '.join(QUICK)}")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sizes", nargs="+", type=int, help="photos a class; 0: all")
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, *ABLATION], help="default: all but the ablation's")
    parser.add_argument("--ablate", action="store_true", help="the ablation's recipes instead")
    parser.add_argument("--seeds", type=int, help="default: 5; 3 with --quick")
    parser.add_argument("--processes", type=int, default=1, help="cells at once, one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="print the tables of what DIR has, and train nothing")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def wanted_recipes(args: argparse.Namespace) -> dict[str, Recipe]:
    names = args.recipes or (QUICK if args.quick else ABLATION if args.ablate else RECIPES)
    return {name: {**RECIPES, **ABLATION}[name] for name in names}


def start_weights(data: Path, out: Path, device: str) -> Path:
    """The network that ``smile`` starts from: gender, all of FairFace train, classical augmentation."""
    path = out / "start.pt"
    if not path.exists():
        task = TASKS["gender"](data, 0, 0)
        cut_chips(data, out / "chips", [task.train])
        chips = Chips(out / "chips" / "fairface", task.train, len(task.classes))
        network, _ = train(task, chips, None, RECIPES["classical"], 0, None, device, factor=START_FACTOR)
        torch.save(network.features.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return path


def run_cell(cell: Cell, recipes: dict[str, Recipe], data: Path, out: Path, device: str) -> list[dict[str, Any]]:
    """Trains every recipe of a cell; variants that several recipes take are made once."""
    if device == "cpu":
        torch.set_num_threads(1)
    name, size, seed = cell
    task: Task = TASKS[name](data, size, seed)
    num_classes = len(task.classes)
    chips, held = (Chips(out / "chips" / part.source, part, num_classes) for part in (task.train, task.test))
    start = out / "start.pt" if task.transfer else None
    results, kept = [], {}
    most = max((recipe.ratio for recipe in recipes.values()), default=0.0)
    for title, recipe in recipes.items():
        variants, cost = None, {}
        if recipe.variants is not None:
            if recipe.variants not in kept:
                draws = round(task.steps * 32 * most)
                kept = {
                    recipe.variants: make_variants(task, chips, out, VARIANTS[recipe.variants], seed, draws, device)
                }
            variants, cost = kept[recipe.variants]
        network, seconds = train(task, chips, variants, recipe, seed, start, device)
        steps = round(task.steps * recipe.steps)
        # What every step would have taken had its variants been made for it, as a loader does.
        online = seconds / steps + 32 * recipe.ratio * cost.get("seconds_per_variant", 0.0)
        figures = {"recipe": title, "task": name, "size": size, "seed": seed, "photos": len(chips), "steps": steps}
        figures |= {"seconds_per_step": online, **cost, **measure(network, task, held, device)}
        results.append(figures)
    return results


def prepare(args: argparse.Namespace, cells: Sequence[Cell], recipes: dict[str, Recipe]) -> None:
    """Chips and caches of all cells."""
    tasks = [TASKS[name](args.data, size, seed) for name, size, seed in cells]
    cut_chips(args.data, args.out / "chips", [part for task in tasks for part in (task.train, task.test)])
    inverters = {VARIANTS[recipe.variants].inverter for recipe in recipes.values() if recipe.variants}
    for inverter in sorted(inverters):
        steps = HYBRID_STEPS if inverter == "hybrid" else None
        invert_chips(args.out, args.out / "chips", [task.train for task in tasks], inverter, steps)
    if any(task.transfer for task in tasks):
        start_weights(args.data, args.out, args.device)


def main() -> None:
    args = options()
    args.out.mkdir(parents=True, exist_ok=True, mode=0o700)
    seeds = args.seeds or (3 if args.quick else 5)
    recipes, sizes = wanted_recipes(args), args.sizes or ((30,) if args.quick else SIZES)
    # Seed by seed, so that a run that is stopped has all tasks with fewer seeds.
    cells = [(task, size, seed) for seed in range(seeds) for size in sizes for task in args.tasks]
    done = {(r["task"], r["size"], r["seed"], r["recipe"]) for r in read_results(args.out)}
    todo = {cell: {k: r for k, r in recipes.items() if (*cell, k) not in done} for cell in cells}
    todo = {} if args.report else {cell: missing for cell, missing in todo.items() if missing}
    if todo:
        prepare(args, list(todo), recipes)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.processes, context) as pool, open_results(args.out) as file:
            jobs = [pool.submit(run_cell, cell, some, args.data, args.out, args.device) for cell, some in todo.items()]
            for job in tqdm(jobs, desc="cells", disable=None):
                for line in job.result():
                    file.write(json.dumps(line) + "\n")
                file.flush()
    figures, markdown = report(read_results(args.out))
    print(markdown)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown)


if __name__ == "__main__":
    main()
