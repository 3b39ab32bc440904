"""What filling small groups up would change: their counts, and how well a readout that is taught so serves them."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Subset
from tqdm import tqdm

from ganaug.audit.faces import BATCH_SIZE, Examiner
from ganaug.audit.figures import Finding
from ganaug.audit.groups import GroupColumn
from ganaug.audit.judge import Judge
from ganaug.bootstrap import Bootstrap, interval
from ganaug.dataset import GANAugmentedDataset
from ganaug.readout import Examples, read_held_out

Numbers = NDArray[np.float64]
Bools = NDArray[np.bool_]
MakeExaminer = Callable[[GANAugmentedDataset], Examiner]

WAYS = {
    "photos": "photos alone",
    "repeated": "photos, small groups repeated",
    "balanced": "photos and variants of small groups",
}


def counts_after(counts: NDArray[np.int64], usable: NDArray[np.int64], max_extra: int) -> list[dict[str, int | None]]:
    """Samples of each group with ``extra="balance"``.

    Args:
        counts: ``(G,)`` photos.
        usable: ``(G,)`` those of them that variants can be made of.
        max_extra: Most variants of one photo.

    Returns:
        For each group ``before``, ``after``, and ``needed``: how many variants of each usable photo it takes to be as
        large as the largest, rounded up; None where there is no usable photo.

    Example:
        >>> counts_after(np.array([100, 30, 2]), np.array([100, 30, 2]), max_extra=8)[1:]
        [{'before': 30, 'after': 100, 'needed': 3}, {'before': 2, 'after': 18, 'needed': 49}]
    """
    largest, found = int(counts.max(initial=0)), []
    for count, useful in zip(counts.tolist(), usable.tolist(), strict=True):
        lack = largest - count
        needed = None if lack and not useful else -(-lack // useful) if lack else 0
        found.append({"before": count, "after": count + min(lack, max_extra * useful), "needed": needed})
    return found


def count_findings(column: GroupColumn, max_extra: int) -> list[Finding]:
    """Groups so small that variants cannot make up for it; one finding for all of a column.

    Counts are no sample: there is no interval. Less severe than any figure that stands out.

    Args:
        column: Of all photos of the source.
        max_extra: Most variants of one photo.
    """
    counts = column.counts
    largest = int(counts.argmax())
    small = [g for g in counts.argsort(kind="stable").tolist() if counts[g] * (1 + max_extra) < counts[largest]]
    if not small:
        return []
    least, others = small[0], ", ".join(f"{column.names[g]} ({counts[g]})" for g in small[1:])
    called = column.called(least)
    own = f"{counts[least]} photo" if counts[least] == 1 else f"{counts[least]} photos"
    text = (
        f"{called[0].upper()}{called[1:]} has {own}, {column.names[largest]} has "
        f"{counts[largest]}: more than {max_extra} variants of every photo would be needed to be as many. "
        + (f"The same holds for {others}. " if others else "")
        + "What is said of so few says little."
    )
    return [Finding(text, column.name, column.names[least], "count", 0.0)]


def measured_balance(
    train: GANAugmentedDataset,
    indices: NDArray[np.int64],
    embeddings: Numbers,
    column: GroupColumn,
    judge: Judge,
    bootstrap: Bootstrap,
    make_examiner: MakeExaminer,
    max_extra: int,
    min_count: int,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Teaches the readout three times over, and asks it about photos that it has not seen.

    Once with photos alone; once with photos of small groups counting as often as ``extra="balance"`` fills them up to,
    which costs nothing; and once with the variants. All are asked about the same photos, so that differences are of
    pairs. The intervals are over the photos that are asked about, not over those that teach.

    Args:
        train: The wrapped dataset.
        indices: ``(N,)`` audited photos of it.
        embeddings: ``(N, D)`` of the photos; NaN without latents.
        column: Groups of the N photos.
        judge: The built-in judge of the N photos.
        bootstrap: Over the N photos.
        make_examiner: Dataset -> what looks at its samples.
        max_extra: Most variants of one photo.
        min_count: Groups with fewer photos, or persons, are taught, and not told about.
        batch_size: Variants at a time.
        progress: Show a progress bar.

    Returns:
        JSON-able; None where no two groups are large enough, or nothing is to be filled up.
    """
    if judge.folds is None:
        return None
    teach = (judge.true >= 0) & np.isfinite(embeddings).all(axis=1)
    rows = np.flatnonzero(teach & (column.of >= 0))
    counts = np.bincount(column.of[rows], minlength=len(column.names))
    large = np.flatnonzero(bootstrap.counts(column.members & teach[:, None]) >= min_count)
    if len(large) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups that cannot be filled: the report has their counts
        balanced = GANAugmentedDataset(
            Subset(train.dataset, indices[rows].tolist()),
            train.cache,
            policy=replace(train.policy, ratio=0.0),
            classical=None,
            generator=train.generator,
            paste=train.paste,
            gate=train.gates or None,
            groups=[column.names[number] for number in column.of[rows]],
            extra="balance",
            max_extra=max_extra,
            min_quality=train.min_quality or None,
            residual=train.residual,
        )
    if not len(balanced.extras):
        return None
    source = balanced.extras.base
    variants, num_made = _embed_extras(
        balanced, make_examiner(balanced), batch_size, f"balance {column.name}", progress
    )
    # Photos of no group teach, too, as they have taught the judge.
    photos, true, folds = embeddings[teach], judge.true[teach], judge.folds[teach]
    added = np.bincount(column.of[rows][source], minlength=len(counts))
    times = np.append((counts + added) / np.maximum(counts, 1), 1.0)  # the last of them for no group
    taught = {
        "photos": Examples(photos, true, folds),
        "repeated": Examples(photos, true, folds, times[column.of[teach]]),
        "balanced": Examples(
            np.concatenate([photos, variants]),
            np.concatenate([true, judge.true[rows][source]]),
            np.concatenate([folds, judge.folds[rows][source]]),
        ),
    }
    right = {way: np.full(len(judge.true), np.nan) for way in taught}
    for way, examples in taught.items():
        right[way][teach] = read_held_out(examples, photos, folds, len(judge.classes)) == true
    return {
        "label": judge.label,
        "photos": len(rows),
        "extra": len(source),
        "extra_made": num_made,
        "max_extra": max_extra,
        **_compared(right, column, large, bootstrap),
    }


def _embed_extras(
    balanced: GANAugmentedDataset, examiner: Examiner, batch_size: int, named: str, progress: bool
) -> tuple[Numbers, int]:
    """``(E, D)`` embeddings of the extra samples as served, and how many of them are variants."""
    stage, found, made = examiner.stage(gated=True), [], 0
    first, last = len(balanced.items), len(balanced)
    bar = tqdm(total=last - first, unit="variant", desc=named, disable=None if progress else True)
    with bar:
        for start in range(first, last, batch_size):
            chosen = list(range(start, min(start + batch_size, last)))
            _, after, recipe = examiner.serve(stage, chosen, 0)
            places, sound = examiner.places(recipe, (after.shape[2], after.shape[3]))
            rows = np.full((len(chosen), examiner.embedding_dim), np.nan)
            rows[sound] = examiner.embed(after[sound], places).cpu().numpy()
            found.append(rows)
            made += int(recipe.is_generated.sum())
            bar.update(len(chosen))
    return np.concatenate(found), made


def _compared(
    right: dict[str, Numbers], column: GroupColumn, large: NDArray[np.int64], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Accuracy of each group by each way; the group that photos alone serve worst, and the gap."""
    members = column.members[:, large]
    means = {way: bootstrap.means(values, members) for way, values in right.items()}
    worst = int(means["photos"][0].argmin())
    ways: dict[str, Any] = {}
    gaps = {way: (np.ptp(value), np.ptp(drawn, axis=1)) for way, (value, drawn) in means.items()}
    anyone = np.asarray(members.any(axis=1, keepdims=True), bool)
    overall = {way: bootstrap.means(values, anyone) for way, values in right.items()}
    for way, (value, drawn) in means.items():
        base_value, base_drawn = means["photos"]
        ways[way] = {
            "accuracy": interval(float(overall[way][0][0]), overall[way][1][:, 0]).to_dict(),
            "worst": interval(float(value[worst]), drawn[:, worst]).to_dict(),
            "worst_change": interval(
                float(value[worst] - base_value[worst]), drawn[:, worst] - base_drawn[:, worst]
            ).to_dict(),
            "gap": interval(float(gaps[way][0]), gaps[way][1]).to_dict(),
            "gap_change": interval(float(gaps[way][0] - gaps["photos"][0]), gaps[way][1] - gaps["photos"][1]).to_dict(),
            "groups": {column.names[g]: round(float(v), 5) for g, v in zip(large.tolist(), value, strict=True)},
        }
    return {"worst_group": column.names[int(large[worst])], "ways": ways}
