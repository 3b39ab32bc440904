"""The five tasks of benchmarks/benefit.py: which chips a network is trained on, which it is tested on, which groups."""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ganaug import LatentCache, load_generator
from ganaug.faces.align import Alignment, align
from ganaug.faces.chips import ChipCutter
from ganaug.faces.images import read_image
from ganaug.faces.photos import photos_in_folder
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, open_or_create, precompute

SIZE = 64  # px
MODEL = "faces64"
CPU = torch.device("cpu")
NUM_PEOPLE = 120  # of the identity set: each is a class

Row = dict[str, str]


@dataclass(frozen=True)
class Part:
    """Faces with a label each.

    Attributes:
        source: Folder of ``data`` that they come from.
        names: ``N`` names of chips.
        labels: ``(N,)`` class numbers.
        groups: ``N`` names of groups; empty where none are known.
    """

    source: str
    names: list[str]
    labels: np.ndarray
    groups: list[str]


@dataclass(frozen=True)
class Task:
    """One training set and one test set that share nobody."""

    name: str
    classes: list[str]
    train: Part
    test: Part
    steps: int = 1000
    transfer: bool = False
    left_out: tuple[str, ...] = ()  # edits that would change the label


class Chips(Dataset[tuple[Tensor, int]]):
    """Chips of a folder, in memory: ``(3, 64, 64)`` uint8 and a class number."""

    def __init__(self, root: Path, part: Part, num_classes: int) -> None:
        self.root = str(root)
        self.samples = [(str(root / name), int(label)) for name, label in zip(part.names, part.labels, strict=True)]
        self.targets = [int(label) for label in part.labels]
        self.classes = [str(number) for number in range(num_classes)]
        pixels = np.stack([np.asarray(Image.open(path)) for path, _ in self.samples])
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def fairface(column: str, groups: str) -> Callable[[Path, int, int], Task]:
    """A column of FairFace: train to val."""

    def build(data: Path, size: int, seed: int) -> Task:
        rows = read_rows(data, "fairface")
        classes = sorted({row[column] for row in rows})
        train, test = ([row for row in rows if row["split"] == split] for split in ("train", "val"))
        chosen = few_of_each(train, lambda row: row[column], size, seed)
        parts = [part("fairface", some, column, groups, classes) for some in (chosen, test)]
        return Task({"gender": "gender", "age": "age group", "race": "race"}[column], classes, *parts)

    return build


def identification(data: Path, size: int, seed: int) -> Task:
    """Who is it? One clip of each person is held out, another one by seed; 2 or 3 clips of 3 frames are left."""
    rows, clips = read_rows(data, "identity"), defaultdict(set)
    people = set(sorted({row["identity"] for row in rows})[:NUM_PEOPLE])
    rows = [row for row in rows if row["identity"] in people]
    for row in rows:
        clips[row["identity"]].add(row["clip"])
    held = {person: sorted(found)[seed % len(found)] for person, found in clips.items()}
    classes = sorted(clips)
    train = [row for row in rows if row["clip"] != held[row["identity"]]]
    test = [row for row in rows if row["clip"] == held[row["identity"]]]
    chosen = few_of_each(train, lambda row: row["identity"], size, seed)
    parts = [part("identity", some, "identity", None, classes) for some in (chosen, test)]
    return Task("identification", classes, *parts, steps=1600, transfer=True)


def smile(data: Path, size: int, seed: int) -> Task:
    """Neutral or smiling, in London: half of the people to train with, the other half to test with."""
    rows = read_rows(data, "london")
    people = sorted({row["identity"] for row in rows})
    known = set(np.random.default_rng([seed, 1]).permutation(people)[: len(people) // 2])
    train, test = ([row for row in rows if (row["identity"] in known) == side] for side in (True, False))
    chosen = few_of_each(train, lambda row: row["expression"], size, seed)
    classes = ["neutral", "smiling"]
    parts = [part("london", some, "expression", "gender", classes) for some in (chosen, test)]
    return Task("smile", classes, *parts, steps=400, transfer=True, left_out=("expression",))


TASKS: dict[str, Callable[[Path, int, int], Task]] = {
    "gender": fairface("gender", "race"),
    "age": fairface("age", "race"),
    "race": fairface("race", "gender"),
    "identification": identification,
    "smile": smile,
}


def few_of_each(rows: Sequence[Row], label: Callable[[Row], str], size: int, seed: int) -> list[Row]:
    """``size`` rows of each class, or as many as there are; 0 for all. A smaller set is part of a larger one."""
    found = defaultdict(list)
    for row in rows:
        found[label(row)].append(row)
    chosen = []
    for number, name in enumerate(sorted(found)):
        order = np.random.default_rng([seed, number]).permutation(len(found[name]))
        chosen += [found[name][at] for at in order[: size or None]]
    return sorted(chosen, key=lambda row: row["file"])


def part(source: str, rows: Sequence[Row], column: str, groups: str | None, classes: Sequence[str]) -> Part:
    names = [chip_name(row["file"]) for row in rows]
    labels = np.array([classes.index(row[column]) for row in rows])
    return Part(source, names, labels, [row[groups] for row in rows] if groups else [])


def read_rows(data: Path, source: str) -> list[Row]:
    """Rows of ``labels.csv``, of London those in which a face is found (all)."""
    with (data / source / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def chip_name(file: str) -> str:
    return str(Path(file).with_suffix(".png"))


def cut_chips(data: Path, out: Path, parts: Sequence[Part]) -> None:
    """Cuts the chips of ``parts`` that are not there yet to ``out/SOURCE/NAME.png``, in the generator's framing."""
    for source in sorted({one.source for one in parts}):
        names = {name for one in parts if one.source == source for name in one.names}
        rows = [row for row in read_rows(data, source) if chip_name(row["file"]) in names]
        missing = [row for row in rows if not (out / source / chip_name(row["file"])).exists()]
        found = detected_points(data / source, {row["file"] for row in missing}) if source == "london" else None
        for row in tqdm(missing, desc=f"chips of {source}", disable=None):
            folder = data / source / ("frames" if source == "identity" else "")
            image, alignment, points = read_image(folder / row["file"])[0], Alignment(size=SIZE), None
            if source != "fairface":
                alignment, points = Alignment("points", SIZE, "fairface"), found and found[row["file"]]
            if source == "identity":
                names5 = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                points = [[float(row[f"p{name}_{axis}"]) for axis in "xy"] for name in names5]
            path = out / source / chip_name(row["file"])
            path.parent.mkdir(parents=True, exist_ok=True)
            part_file = path.with_suffix(".part")
            Image.fromarray(align(image, alignment, points)[0]).save(part_file, format="PNG", compress_level=1)
            part_file.rename(path)


def detected_points(folder: Path, files: set[str]) -> dict[str, np.ndarray]:
    """File -> five points by MTCNN."""
    cutter = ChipCutter(Alignment("points", SIZE, "fairface", detector="mtcnn"), None, CPU)
    photos = [photo for photo in photos_in_folder(folder) if photo.key in files]
    found = {}
    for photo in tqdm(photos, desc="faces", disable=None):
        found[photo.key] = np.asarray(cutter.finder.find([photo], [photo.read()[0]])[0][0])
    return found


def invert_chips(out: Path, chips: Path, parts: Sequence[Part], inverter: str, steps: int | None) -> None:
    """Caches ``out/SOURCE-INVERTER.lmdb`` of the chips of ``parts``; what is there already stays."""
    generator = load_generator(MODEL)
    for source in sorted({one.source for one in parts}):
        names = {name for one in parts if one.source == source for name in one.names}
        photos = [photo for photo in photos_in_folder(chips / source) if photo.key in names]
        built = build_inverter(inverter, generator, MODEL, CPU, steps)
        header = make_header(generator, MODEL, built)
        precompute(photos, open_or_create(cache_path(out, source, inverter), header, built), built, CPU, 16)


def cache_path(out: Path, source: str, inverter: str) -> Path:
    return out / f"{source}-{inverter}.lmdb"


def open_cache(out: Path, source: str, inverter: str) -> LatentCache:
    return LatentCache(cache_path(out, source, inverter))
