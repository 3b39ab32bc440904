"""What can be told about faces by their codes: readings in whitened coordinates, from labels, points, pairs and pixels.

Every reading is a vector ``r``: a face with whitened coordinates ``z`` has the score ``z @ r``, in standard deviations
of the attribute. In these coordinates the codes of photos are uncorrelated with unit variance, so ``r`` is also the
shortest move that raises the score by ``|r|^2``. Fitted to FairFace ``train``; correlations are of ``val``.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attributes import AGES, RACES, YEARS, fairface_labels, label_points, yaw_of
from numpy.typing import NDArray
from torch import Tensor

from ganaug.edits.regions import region_mask
from ganaug.edits.whitening import Whitening

SIZE = 64
RIDGE = {"labels": 100.0, "pixels": 10.0}  # labels are noisier; halving or doubling moves r of val by less than 0.005
LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
FLOOR = 0.01  # added before a logarithm: black is no infinity

Numbers = NDArray[np.float64]


def labels_of(data: Path, split: str, names: list[str]) -> dict[str, Numbers]:
    """Numbers by attribute for FairFace files: gender (1: female), age in years, pose by the points, seven races."""
    by_name = {row["file"]: row for row in fairface_labels(data, split)}
    rows = [by_name[f"{split}/{name}"] for name in names]
    points = label_points(rows).double()
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    across, down = (points[:, 1] - points[:, 0]).norm(dim=1), (mouth - eyes).norm(dim=1)
    found = {
        "gender": np.array([row["gender"] == "Female" for row in rows], np.float64),
        "age": np.array([float(YEARS[AGES.index(row["age"])]) for row in rows]),
        "yaw": yaw_of(points).numpy(),
        "pitch": ((points[:, 2, 1] - eyes[:, 1]) / down).numpy(),
        "mouth width": ((points[:, 4] - points[:, 3]).norm(dim=1) / across).numpy(),
    }
    return found | {f"race {race}": np.array([row["race"] == race for row in rows], np.float64) for race in RACES}


def pixel_scores(pictures: Tensor) -> dict[str, Tensor]:
    """Light and colours of ``(N, 3, 64, 64)`` in [0, 1], in regions of the mean face; ``(N,)`` each.

    Colours are differences of logarithms: the strength of the light cancels.
    """
    luma = torch.einsum("nchw,c->nhw", pictures, LUMA)
    skin, hair, behind = (region_mask(name, SIZE) for name in ("skin", "hair", "background"))
    face = (skin + sum(region_mask(name, SIZE) for name in ("eyes", "brows", "nose", "mouth"))).clamp(max=1)
    right = (torch.arange(SIZE) >= SIZE // 2).float().expand(SIZE, SIZE)
    above = 1 - right.t()
    top = (torch.arange(SIZE) < 10).float()[:, None] * hair  # above the forehead, where hair is hair
    cheeks = torch.zeros(SIZE, SIZE)
    cheeks[28:37, 17:26] = cheeks[28:37, 38:47] = 1.0

    def mean(plane: Tensor, weight: Tensor) -> Tensor:
        return (plane * weight).sum(dim=(-2, -1)) / weight.sum()

    def log(plane: Tensor, weight: Tensor) -> Tensor:
        return (mean(plane, weight) + FLOOR).log()

    def warmth(weight: Tensor) -> Tensor:
        return log(pictures[:, 0], weight) - log(pictures[:, 2], weight)

    spread = (mean(luma.square(), face) - mean(luma, face).square()).clamp(min=0).sqrt()
    return {
        "brightness": log(luma, face),
        "side": log(luma, skin * right) - log(luma, skin * (1 - right)),
        "height": log(luma, skin * above) - log(luma, skin * (1 - above)),
        "warmth": warmth(torch.ones(SIZE, SIZE)),
        "contrast": (spread + FLOOR).log() - log(luma, face),
        "cheek brightness": log(luma, cheeks),
        "cheek warmth": warmth(cheeks),
        "background brightness": mean(luma, behind),
        "background warmth": warmth(behind),
        "hair brightness": mean(luma, top),
        "hair warmth": warmth(top),
    }


def glasses_labels() -> dict[str, float]:
    """FairFace file -> 1 with glasses, 0 without; 448 faces labelled by eye for this project, sunglasses left out."""
    listed: Mapping[str, list[str]] = json.loads((Path(__file__).parent / "glasses.json").read_text())
    return {name: value for kind, value in (("glasses", 1.0), ("none", 0.0)) for name in listed[kind]}


def ridge(z: Numbers, target: Numbers, penalty: float) -> Numbers:
    """``(K,)``: least squares on a standardised target, held back by ``penalty`` (Hoerl and Kennard, 1970)."""
    standard = (target - target.mean()) / target.std()
    centred = z - z.mean(axis=0)
    return np.linalg.solve(centred.T @ centred + penalty * np.eye(z.shape[1]), centred.T @ standard)  # type: ignore[no-any-return]


def london_pairs(data: Path, codes: NDArray[Any], whitening: Whitening) -> tuple[Numbers, Numbers]:
    """``(P, K)`` each: neutral and smiling, of each person of the London set; ``codes`` in the order of its labels."""
    with (data / "london/labels.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["file"])
    place = {(row["identity"], row["expression"]): i for i, row in enumerate(rows)}
    z = whitening.coordinates(codes)
    people = sorted({row["identity"] for row in rows})
    neutral, smiling = (np.stack([z[place[who, way]] for who in people]) for way in ("neutral", "smiling"))
    return neutral, smiling


def readings(
    z: Numbers,
    labels: Mapping[str, Numbers],
    pixels: Mapping[str, Numbers],
    glasses: Mapping[int, float],
    smiles: Numbers,
) -> dict[str, Numbers]:
    """Attribute -> ``(K,)``.

    Args:
        z: ``(N, K)`` of FairFace ``train``.
        labels: ``(N,)`` each.
        pixels: ``(M,)`` each, of the pictures of the first M codes.
        glasses: Row of ``z`` -> 0 or 1.
        smiles: ``(P, K)``, smiling minus neutral, see :func:`london_pairs`.
    """
    found = {name: ridge(z, values, RIDGE["labels"]) for name, values in labels.items()}
    found |= {name: ridge(z[: len(values)], values, RIDGE["pixels"]) for name, values in pixels.items()}
    rows = sorted(glasses)
    found["glasses"] = ridge(z[rows], np.array([glasses[row] for row in rows]), RIDGE["labels"])
    found["smile"] = smiles.mean(axis=0)
    return found
