"""Judges of attributes: what a picture shows, by networks that no edit was ever made with.

    python benchmarks/attributes.py --data ../shared/data --out DIR [--epochs N]

One small convolutional network is trained on photos of FairFace ``train`` at 64 px: gender, age, race and five points
of the face. It judges gender (logit, positive: female), age (years), race (logits) and pose (yaw: how far the nose lies
from the middle of the eyes, in eye distances, positive: towards the right edge of the picture). Copies of it, trained
further, judge smiles and glasses: on photos of 70 people of the London set, the 32 others test it (and FairFace's
points: who smiles has a wide mouth); and on 70 % of the photos in ``glasses.json``.

Light and colour need no network: they are measured in the oval between eyebrows and mouth.

Trained once, about eight minutes of one core; ``DIR/judges-*.pt`` and ``DIR/chips-*.npy`` are read from then on.
Printed: accuracy on photos that the judges never saw.
"""

import argparse
import copy
import csv
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.faces.align import Alignment, align
from ganaug.faces.detect import DETECTORS, choose_faces
from ganaug.faces.images import read_image

SIZE = 64  # px of the chips, those of the bundled generator
AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
YEARS = torch.tensor([1.0, 6.0, 15.0, 25.0, 35.0, 45.0, 55.0, 65.0, 75.0])  # middles of the bins
RACES = ("Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White")
GENDERS = ("Male", "Female")
NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
MIRRORED = [1, 0, 2, 4, 3]  # the points of a mirror image
NUM_SMILE_TRAINING = 70  # people, the first of a shuffled list
GLASSES_SHARE = 0.7  # of the labelled photos that the judge of glasses is trained on
DETAIL_STEPS, DETAIL_BATCH = 400, 32
EPOCHS = 24.0
BATCH = 64

Labels = list[dict[str, str]]


class Network(nn.Module):
    """``(B, 3, 64, 64)`` in [-1, 1] -> features ``(B, F)`` and ``(B, 9 + 1 + 7 + 10)`` outputs."""

    def __init__(self, widths: tuple[int, ...] = (20, 40, 80, 144)) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, widths[0], 2)]
        for before, after in pairwise(widths):
            layers += [_conv(before, after, 2), _Residual(after)]
        self.trunk = nn.Sequential(*layers)
        self.hidden = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(widths[-1] * 16, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()
        )
        self.heads = nn.Linear(128, len(AGES) + 1 + len(RACES))
        self.points = nn.Linear(widths[-1] * 16, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images.contiguous(memory_format=torch.channels_last)).flatten(1)
        return features, torch.cat([self.heads(self.hidden(features)), self.points(features)], dim=1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def augment(images: Tensor, points: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrored, turned, scaled, shifted, lit, coloured, blurred and noisy views of photos, with their points.

    Args:
        images: ``(B, 3, R, R)`` in [0, 1].
        points: ``(B, 5, 2)`` in [-1, 1].
        rng: Of the draws.

    Returns:
        The same shapes and ranges.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    angle, scale = uniform(-0.2, 0.2), uniform(0.88, 1.14)
    mirrored = torch.rand(count, generator=rng) < 0.5
    shift = torch.stack([uniform(-0.12, 0.12), uniform(-0.12, 0.12)], dim=1)
    turn = (
        torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2) * scale[:, None, None]
    )
    turn[:, :, 0] = torch.where(mirrored[:, None], -turn[:, :, 0], turn[:, :, 0])
    grid = F.affine_grid(torch.cat([turn, shift[:, :, None]], dim=2), list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    moved = torch.linalg.solve(turn, (points - shift[:, None]).transpose(1, 2)).transpose(1, 2)
    moved = torch.where(mirrored[:, None, None], moved[:, MIRRORED], moved)

    row = torch.linspace(-1, 1, images.shape[3])
    side, above = uniform(-0.35, 0.35), uniform(-0.25, 0.25)  # light from one side
    light = 1 + side[:, None, None, None] * row + above[:, None, None, None] * row[:, None]
    views = views * light * uniform(0.7, 1.3)[:, None, None, None]
    mean = views.mean(dim=(1, 2, 3), keepdim=True)
    views = (views - mean) * uniform(0.7, 1.3)[:, None, None, None] + mean
    grey = views.mean(dim=1, keepdim=True)
    views = grey + (views - grey) * uniform(0.3, 1.5)[:, None, None, None]
    views = views * torch.stack([uniform(0.9, 1.1) for _ in range(3)], dim=1)[:, :, None, None]
    small = F.interpolate(F.avg_pool2d(views, 2), scale_factor=2, mode="bilinear", align_corners=False)
    blurred = uniform(-1.0, 1.0).clamp(min=0)[:, None, None, None]
    views = views + blurred * (small - views)
    noise = torch.randn(views.shape, generator=rng) * uniform(-0.03, 0.04).clamp(min=0)[:, None, None, None]
    return (views + noise).clamp(0, 1), moved


def fairface_labels(data: Path, split: str) -> Labels:
    """Rows of ``fairface/labels.csv`` of ``train`` or ``val``, by file name."""
    with (data / "fairface/labels.csv").open() as file:
        return sorted((row for row in csv.DictReader(file) if row["split"] == split), key=lambda row: row["file"])


def london_labels(data: Path) -> Labels:
    """Rows of ``london/labels.csv``, by file name."""
    with (data / "london/labels.csv").open() as file:
        return sorted(csv.DictReader(file), key=lambda row: row["file"])


def fairface(data: Path, split: str, out: Path) -> tuple[Tensor, Labels]:
    """Chips ``(N, 3, 64, 64)`` uint8 and labels of ``train`` or ``val``."""
    labels = fairface_labels(data, split)
    cached = out / f"chips-{split}.npy"
    if not cached.exists():
        crop = Alignment(size=SIZE)
        chips = np.stack([align(read_image(data / "fairface" / row["file"])[0], crop)[0] for row in labels])
        np.save(cached, chips)
    return torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2).contiguous(), labels


def london(data: Path, out: Path) -> tuple[Tensor, Labels]:
    """Chips ``(N, 3, 64, 64)`` uint8 of the London set, aligned by the package to FairFace's framing; and labels."""
    labels = london_labels(data)
    cached = out / "chips-london.npy"
    if not cached.exists():
        detector, crop = DETECTORS["mtcnn"]("cpu"), Alignment(mode="points", size=SIZE, template="fairface")
        chips = []
        for row in labels:
            image = read_image(data / "london" / row["file"])[0]
            (face,) = choose_faces(detector.detect([image])[0], "largest", image.size)
            chips.append(align(image, crop, face.points)[0])
        np.save(cached, np.stack(chips))
    return torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2).contiguous(), labels


def label_points(labels: Labels) -> Tensor:
    """``(N, 5, 2)`` in [-1, 1] of the chip."""
    points = [[[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in NAMES] for row in labels]
    return torch.tensor(points) / 72.0 - 1.0  # chips of 144 px


def targets_of(labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the age bin, gender and race, each ``(N,)`` int64."""
    ages, genders, races = (
        torch.tensor([kinds.index(row[column]) for row in labels])
        for column, kinds in (("age", AGES), ("gender", GENDERS), ("race", RACES))
    )
    return ages, genders, races


def yaw_of(points: Tensor) -> Tensor:
    """``(N, 5, 2)`` -> ``(N,)``: nose minus middle of the eyes, along the eyes, in eye distances."""
    eyes = points[:, 1] - points[:, 0]
    middle = points[:, :2].mean(dim=1)
    return ((points[:, 2] - middle) * eyes).sum(dim=1) / eyes.square().sum(dim=1).clamp(min=1e-8)


def train_network(chips: Tensor, labels: Labels, epochs: float) -> Network:
    """Trains on ``(N, 3, 64, 64)`` uint8."""
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(0)
    network = Network().to(memory_format=torch.channels_last)
    ages, genders, races = targets_of(labels)
    points = label_points(labels)
    steps = round(epochs * len(chips) / BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    order, started, total = torch.empty(0, dtype=torch.int64), time.perf_counter(), 0.0
    for step in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(chips), generator=rng)
        rows, order = order[:BATCH], order[BATCH:]
        views, moved = augment(chips[rows].float() / 255, points[rows], rng)
        with torch.autocast("cpu", torch.bfloat16):
            _, out = network(views * 2 - 1)
        age, gender, race, place = out.float().split([len(AGES), 1, len(RACES), 10], dim=1)
        # A neighbouring bin is half right: bins are ten years wide, and labels are guesses.
        near = (torch.arange(len(AGES)) - ages[rows, None]).abs()
        soft = torch.where(near == 0, 0.8, torch.where(near == 1, 0.1, 0.0))
        loss = F.cross_entropy(age, soft / soft.sum(dim=1, keepdim=True))
        loss = loss + 2 * F.binary_cross_entropy_with_logits(gender[:, 0], genders[rows].float() * 0.96 + 0.02)
        loss = loss + F.cross_entropy(race, races[rows], label_smoothing=0.05)
        loss = loss + 20 * F.smooth_l1_loss(place.view(-1, 5, 2), moved, beta=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % 100 == 99:
            print(f"judge {step + 1}/{steps} loss {total / 100:.3f} {time.perf_counter() - started:.0f} s", flush=True)
            total = 0.0
    return network.eval().requires_grad_(False)


def people_for_training(labels: Labels) -> set[str]:
    """Identities of the London set that the smile is fitted to; the others test it."""
    people = sorted({row["identity"] for row in labels})
    order = torch.randperm(len(people), generator=torch.Generator().manual_seed(0)).tolist()
    return {people[i] for i in order[:NUM_SMILE_TRAINING]}


class DetailNetwork(nn.Module):
    """``(B, 3, 64, 64)`` in [-1, 1] -> logits ``(B,)``; begins with the trunk that faces were learned with."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.trunk, self.head = copy.deepcopy(network.trunk), nn.Linear(network.points.in_features, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images.contiguous(memory_format=torch.channels_last)).flatten(1)
        return self.head(F.dropout(features, 0.3, self.training))[:, 0]


def train_detail(network: Network, chips: Tensor, targets: Tensor) -> DetailNetwork:
    """Fine-tunes the trunk of ``network`` on few photos ``(N, 3, 64, 64)`` uint8 with ``targets (N,)`` of 0 and 1."""
    torch.manual_seed(0)
    model = DetailNetwork(network).requires_grad_(True).train()
    model.trunk.eval()  # batch norm keeps the averages of all kinds of faces
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=DETAIL_STEPS)
    rng, places = torch.Generator().manual_seed(0), torch.zeros(DETAIL_BATCH, 5, 2)
    for _ in range(DETAIL_STEPS):
        drawn = torch.randint(len(chips), (DETAIL_BATCH,), generator=rng)
        views, _ = augment(chips[drawn].float() / 255, places, rng)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(views * 2 - 1)
        loss = F.binary_cross_entropy_with_logits(out.float(), targets[drawn] * 0.9 + 0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def smiles(data: Path, out: Path, trained: bool) -> tuple[Tensor, Tensor]:
    """Chips and 0 or 1 of the people whom the judge of smiles is trained on, or of the others; two for each person."""
    chips, labels = london(data, out)
    chosen = people_for_training(labels)
    rows = [i for i, row in enumerate(labels) if (row["identity"] in chosen) == trained]
    rows.sort(key=lambda i: (labels[i]["identity"], labels[i]["expression"]))
    return chips[rows], torch.tensor([float(labels[i]["expression"] == "smiling") for i in rows])


def glasses(data: Path, out: Path, trained: bool) -> tuple[Tensor, Tensor]:
    """Likewise, of photos of ``train`` that were labelled by eye for this project."""
    listed = json.loads((Path(__file__).parent / "glasses.json").read_text())
    known = {f"train/{name}": value for kind, value in (("glasses", 1.0), ("none", 0.0)) for name in listed[kind]}
    chips, labels = fairface(data, "train", out)
    rows = [i for i, row in enumerate(labels) if row["file"] in known]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    cut = round(GLASSES_SHARE * len(rows))
    rows = [rows[i] for i in (order[:cut] if trained else order[cut:])]
    return chips[rows], torch.tensor([known[labels[i]["file"]] for i in rows])


# Score -> photos that the judge of a detail is trained and tested on.
DETAILS = {"expression": smiles, "glasses": glasses}


class AttributeJudge:
    """Scores of pictures by attribute.

    Args:
        network: Trained.
        details: Score -> trained.
    """

    def __init__(self, network: Network, details: dict[str, DetailNetwork]) -> None:
        self.network, self.details = network, details

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """``(N, 3, H, W)`` in [0, 1] -> attribute -> ``(N, K)`` scores; ``points (N, 5, 2)`` in [0, 1] of the chip.

        ``gender``, ``age``, ``pose``, ``expression`` and ``glasses`` have one column, ``race`` 7, ``lighting`` 5,
        ``skin`` 2.
        """
        found: list[dict[str, Tensor]] = [self._scores(part.float()) for part in images.split(128)]
        return {name: torch.cat([part[name] for part in found]) for name in found[0]}

    def _scores(self, images: Tensor) -> dict[str, Tensor]:
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(
                0, 1
            )
        both = torch.cat([images, images.flip(3)])  # what a mirror image shows is the same
        _, out = self.network(both * 2 - 1)
        age, gender, race, place = (
            part.unflatten(0, (2, -1)) for part in out.split([len(AGES), 1, len(RACES), 10], dim=1)
        )
        points = place.unflatten(2, (5, 2))
        other = points[1][:, MIRRORED] * torch.tensor([-1.0, 1.0])
        points = (points[0] + other) / 2
        race = race.mean(dim=0)
        return {
            "gender": gender.mean(dim=0),
            "age": (age.mean(dim=0).softmax(dim=1) @ YEARS)[:, None],
            "race": race - race.mean(dim=1, keepdim=True),
            **{name: model(both * 2 - 1).view(2, -1).mean(dim=0)[:, None] for name, model in self.details.items()},
            "pose": yaw_of(points)[:, None],
            **light_and_colour(images, points),
            "points": points / 2 + 0.5,
        }


def light_and_colour(images: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Light and colour of faces, in an oval over eyes, nose and cheeks.

    Args:
        images: ``(N, 3, R, R)`` in [0, 1].
        points: ``(N, 5, 2)`` in [-1, 1].

    Returns:
        ``lighting (N, 5)``: mean luma, right half minus left half, lower half minus upper half, contrast (standard
        deviation of the luma) and warmth (red minus blue); ``skin (N, 2)``: mean blue and red differences from luma
        (ITU-R BT.601).
    """
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    centre = (0.55 * eyes + 0.45 * mouth)[:, None, None]
    width = 0.85 * (points[:, 1] - points[:, 0]).norm(dim=1)[:, None, None]
    height = 0.75 * (mouth - eyes).norm(dim=1)[:, None, None]
    place = (torch.arange(images.shape[3]) + 0.5) / images.shape[3] * 2 - 1
    x, y = place[None, None, :] - centre[..., 0], place[None, :, None] - centre[..., 1]
    oval = ((x / width).square() + (y / height).square() <= 1).float()

    def mean(plane: Tensor, weight: Tensor) -> Tensor:
        return (plane * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp(min=1.0)

    luma = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1)
    right, below = (x > 0).float(), (y > 0).float()
    sideways = mean(luma, oval * right) - mean(luma, oval * (1 - right))
    down = mean(luma, oval * below) - mean(luma, oval * (1 - below))
    blue, red = mean(images[:, 2] - luma, oval), mean(images[:, 0] - luma, oval)
    brightness = mean(luma, oval)
    contrast = mean((luma - brightness[:, None, None]).square(), oval).sqrt()
    return {
        "lighting": torch.stack([brightness, sideways, down, contrast, red - blue], dim=1),
        "skin": torch.stack([blue, red], dim=1),
    }


def load_judge(data: Path, out: Path, epochs: float = EPOCHS) -> AttributeJudge:
    """Reads the judges from ``out``, or trains them first."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"judges-{epochs:g}.pt"
    states = torch.load(file, weights_only=True) if file.exists() else {}
    network, last = Network(), torch.channels_last
    if "network" in states:
        network.load_state_dict(states["network"])
    else:
        network = train_network(*fairface(data, "train", out), epochs)
        states["network"] = network.state_dict()
        torch.save(states, file)
    network = network.eval().requires_grad_(False).to(memory_format=last)
    details = {}
    for name, photos in DETAILS.items():
        if name not in states:
            states[name] = train_detail(network, *photos(data, out, True)).state_dict()
            torch.save(states, file)
        model = DetailNetwork(network).eval().requires_grad_(False)
        model.load_state_dict(states[name])
        details[name] = model.to(memory_format=last)
    return AttributeJudge(network, details)


def accuracy(scores: dict[str, Tensor], labels: Labels) -> dict[str, float]:
    """How well scores of FairFace photos, or of reconstructions of them, agree with the labels."""
    ages, genders, races = targets_of(labels)
    bins = (scores["age"] - YEARS).abs().argmin(dim=1)
    yaw = yaw_of(label_points(labels))
    return {
        "gender": _share((scores["gender"][:, 0] > 0).long() == genders),
        "age, same bin": _share(bins == ages),
        "age, same or next bin": _share((bins - ages).abs() <= 1),
        "age, correlation": _correlation(scores["age"][:, 0], YEARS[ages]),
        "race": _share(scores["race"].argmax(dim=1) == races),
        "yaw, correlation": _correlation(scores["pose"][:, 0], yaw),
        "smile, correlation with mouth's width": _correlation(scores["expression"][:, 0], _mouth_width(labels)),
    }


def _mouth_width(labels: Labels) -> Tensor:
    """``(N,)`` in eye distances."""
    points = label_points(labels)
    return (points[:, 4] - points[:, 3]).norm(dim=1) / (points[:, 1] - points[:, 0]).norm(dim=1)


def detail_accuracy(judge: AttributeJudge, data: Path, out: Path) -> dict[str, float]:
    """Of smiles and glasses, on photos that their judges were not trained on; smiles also as pairs told apart."""
    found: dict[str, float] = {}
    for name, photos in DETAILS.items():
        chips, truth = photos(data, out, False)
        scores = judge(chips.float() / 255)[name][:, 0]
        found |= {f"{name}, photos": len(chips), name: _share((scores > 0) == (truth > 0))}
        if name == "expression":
            found["expression, pairs"] = _share(scores[1::2] > scores[::2])  # neutral, smiling, neutral ...
    return found


def _share(hits: Tensor) -> float:
    return round(float(hits.float().mean()), 3)


def _correlation(first: Tensor, second: Tensor) -> float:
    return round(float(torch.corrcoef(torch.stack([first, second]))[0, 1]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for judges and chips")
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    args = parser.parse_args()
    started = time.process_time()
    judge = load_judge(args.data, args.out, args.epochs)
    chips, labels = fairface(args.data, "val", args.out)
    figures: dict[str, Any] = {"photos of val": accuracy(judge(chips.float() / 255), labels)}
    figures["details"] = detail_accuracy(judge, args.data, args.out)
    figures["cpu_seconds"] = round(time.process_time() - started)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
