"""How well the encoder brings back the photos of each group that FairFace labels: race, gender and age."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from judge import frechet_distance
from torch import Tensor

COLUMNS = ("race", "gender", "age")
NUM_DRAWS = 20  # random sets of a group's size that its distance is compared with


def read_labels(data: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of ``fairface/labels.csv`` of the photos ``names`` of ``val``, in their order."""
    with (data / "fairface/labels.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    return [rows[f"val/{name}"] for name in names]


def group_figures(
    labels: Sequence[dict[str, str]],
    photos: Tensor,
    reconstructions: Tensor,
    judge: Callable[[Tensor], Tensor],
    quality: dict[str, Tensor],
) -> dict[str, Any]:
    """Figures by column and group, and of all photos.

    A Frechet distance from few photos comes out too high, so beside it stands its ratio to the mean distance of 20
    random sets of as many photos: 1 is as good as the average, 2 twice as far.

    Args:
        labels: Of each photo.
        photos: ``(N, 3, R, R)`` in [0, 1].
        reconstructions: The same photos through encoder and generator.
        judge: Images in [0, 1] -> ``(N, 128)``.
        quality: ``psnr`` and ``ssim``, each ``(N,)``.
    """
    real, made = judge(photos), judge(reconstructions)
    cosine = torch.cosine_similarity(real, made)
    rng = torch.Generator().manual_seed(0)

    def figures_of(rows: Tensor) -> dict[str, Any]:
        count = len(rows)
        distance = frechet_distance(real[rows], made[rows])
        draws = [torch.randperm(len(real), generator=rng)[:count] for _ in range(NUM_DRAWS)]
        usual = sum(frechet_distance(real[draw], made[draw]) for draw in draws) / NUM_DRAWS
        return {
            "count": count,
            "psnr": round(float(quality["psnr"][rows].median()), 2),
            "ssim": round(float(quality["ssim"][rows].median()), 3),
            "identity": round(float(cosine[rows].mean()), 3),
            "frechet": round(distance, 2),
            "frechet_times_random": round(distance / usual, 2),
        }

    found: dict[str, Any] = {"all": figures_of(torch.arange(len(real)))}
    for column in COLUMNS:
        values = [row[column] for row in labels]
        kinds = sorted(set(values), key=lambda kind: (len(kind), kind))  # 3-9 before 10-19
        found[column] = {
            kind: figures_of(torch.tensor([i for i, value in enumerate(values) if value == kind])) for kind in kinds
        }
    return found


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table, ready for a model card."""
    lines = [
        "| group | photos | PSNR, dB | SSIM | identity | Frechet | times random |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {"all": figures["all"]} | {kind: row for column in COLUMNS for kind, row in figures[column].items()}
    lines += [f"| {kind} | " + " | ".join(str(value) for value in row.values()) + " |" for kind, row in rows.items()]
    return "\n".join(lines)
