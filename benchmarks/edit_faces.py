"""Real faces for benchmarks/edits.py: photos, their inversions, the generator's pictures, and masks of their parts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from attributes import Labels, fairface_labels, london_labels, people_for_training
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ganaug import LatentCache
from ganaug.faces.align import Alignment, to_unit_range
from ganaug.faces.geometry import invert
from ganaug.faces.images import read_image
from ganaug.faces.masks import PARTS, landmark_masks
from ganaug.faces.paste import chip_to_item
from ganaug.faces.photos import photos_in_folder
from ganaug.faces.warp import warp
from ganaug.interfaces import Generator
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, precompute

CPU = torch.device("cpu")
ITEM_SIZE = {"fairface": 144, "london": 192}  # px
AT_ONCE = 16  # faces that the generator draws, as BatchAugmenter does on a CPU
# Names that edits have -> classes of the parsing network, and parts of ganaug.faces.masks.
PARSED = {
    "background": (0,),
    "hair": (12, 13),
    "skin": (3, 6),
    "eyes": (5, 17),
    "brows": (2, 11),
    "nose": (6,),
    "mouth": (1, 10, 14),
    "ears": (4, 8),
    "glasses": (5, 9, 17),
    "makeup": (1, 2, 3, 5, 10, 11, 17),
}
ELLIPSES: dict[str, tuple[str, ...]] = {
    "background": ("background",),
    "hair": ("hair",),
    "skin": ("face", "nose"),
    "eyes": ("eye",),
    "brows": ("eyebrow",),
    "nose": ("nose",),
    "mouth": ("mouth",),
    "glasses": ("eye", "eyebrow"),
    "makeup": ("eye", "eyebrow", "mouth", "face"),
}
PARSER_SIZE = 128  # px: at the 256 that it was trained for, noses of these close chips are taken for skin
PARSER_MARGIN = 2  # px of 64 that its masks are widened by, for edges that move
SMALLEST_PART = 12  # px of 64 x 64: a part of which the parser sees less counts as not seen


class Photos(Dataset[tuple[Tensor, int]]):
    """Photos of a folder as ``(3, S, S)`` uint8, with a label each."""

    def __init__(self, root: Path, keys: Sequence[str], size: int, targets: Sequence[int] | None = None) -> None:
        self.root, self.size = str(root), size
        self.targets = [0] * len(keys) if targets is None else list(targets)
        self.samples = [(str(root / key), target) for key, target in zip(keys, self.targets, strict=True)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, target = self.samples[index]
        image = read_image(path)[0].resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(self.size, self.size, 3).permute(2, 0, 1), target


@dataclass(frozen=True)
class Faces:
    """N photos and what the generator makes of them.

    Attributes:
        name: ``"fairface"`` or ``"london"``.
        root: Folder of the photos.
        keys: Names in it.
        labels: Rows of ``labels.csv``.
        cache: Where the latents are.
        code: ``(N, L, D)``, see :class:`ganaug.interfaces.Inversion`.
        anchor: ``(N, L, D)``.
        items: ``(N, 3, S, S)`` in [0, 1], the photos as a dataset gives them.
        matrices: ``(N, 2, 3)``, chip to item pixels.
        base: ``(N, 3, R, R)`` in [0, 1], the inversions.
    """

    name: str
    root: Path
    keys: list[str]
    labels: Labels
    cache: Path
    code: Tensor
    anchor: Tensor
    items: Tensor
    matrices: Tensor
    base: Tensor

    def first(self, count: int) -> "Faces":
        """The first faces alone."""
        cut = {name: getattr(self, name)[:count] for name in ("keys", "labels", "code", "anchor", "items")}
        return replace(self, **cut, matrices=self.matrices[:count], base=self.base[:count])

    def chips(self, items: Tensor) -> Tensor:
        """Items ``(N, 3, S, S)`` in [0, 1] -> the chips in them, ``(N, 3, R, R)``."""
        size = self.base.shape[3]
        return warp(items, invert(self.matrices), (size, size), padding="border").clamp(0, 1)


@torch.no_grad()
def render(generator: Generator, codes: Tensor) -> Tensor:
    """``(N, L, D)`` -> ``(N, 3, R, R)`` in [0, 1]."""
    return torch.cat([to_unit_range(generator.synthesis(part)) for part in codes.split(AT_ONCE)])


def load_faces(
    name: str, data: Path, out: Path, generator: Generator, model: str, count: int, inverter: str, steps: int
) -> Faces:
    """Inverts what is not in the cache under ``out`` yet.

    Args:
        name: ``"fairface"``: the first of ``val``. ``"london"``: both photos of people whom no judge was fitted to.
        data: Folder of the local data.
        out: Where the cache is kept.
        generator: The generator.
        model: Its name or file.
        count: Photos at most.
        inverter: Name of an inverter.
        steps: Its steps.
    """
    size, root = generator.img_resolution, folder_of(name, data)
    alignment = Alignment(size=size)
    if name == "london":
        alignment = Alignment("points", size, "fairface", detector="mtcnn")
    by_key = labels_of(name, data)
    photos = [photo for photo in photos_in_folder(root) if photo.key in by_key][:count]
    built = build_inverter(inverter, generator, model, CPU, steps)
    header = make_header(generator, model, built, alignment=alignment)
    path = out / f"{name}-{generator.fingerprint[:8]}-{inverter}{steps}.lmdb"
    precompute(photos, LatentCache.create(path, header), built, CPU, 32)
    return read_faces(name, data, path, generator, [photo.key for photo in photos])


def folder_of(name: str, data: Path) -> Path:
    """Where the photos of ``"fairface"`` or ``"london"`` lie."""
    return data / ("fairface/val" if name == "fairface" else "london")


def labels_of(name: str, data: Path) -> dict[str, dict[str, str]]:
    """Key -> row of ``labels.csv`` of the photos that are used."""
    if name == "fairface":
        return {row["file"].removeprefix("val/"): row for row in fairface_labels(data, "val")}
    every = london_labels(data)
    trained = people_for_training(every)
    return {row["file"]: row for row in every if row["identity"] not in trained}


def read_faces(name: str, data: Path, path: Path, generator: Generator, wanted: Sequence[str]) -> Faces:
    """Photos that have records in a cache, and what the generator makes of them."""
    cache, root, by_key = LatentCache(path), folder_of(name, data), labels_of(name, data)
    known = set(cache.keys())
    keys = [key for key in wanted if key in known]
    found = cache.get_many(keys)
    latents = torch.from_numpy(found.latents.copy()).float()
    code, anchor = (latents[:, 0], latents[:, 1]) if latents.ndim == 4 else (latents, latents)
    item_size = ITEM_SIZE[name]
    items = torch.stack([image for image, _ in Photos(root, keys, item_size)]).float() / 255
    matrices = chip_to_item(torch.from_numpy(found.geometry.copy()), generator.img_resolution, (item_size, item_size))
    labels = [by_key[key] for key in keys]
    return Faces(name, root, keys, labels, path, code, anchor, items, matrices, render(generator, code))


class Parser(nn.Module):
    """The face-parsing U-Net under ``weights/``: ``(B, 3, R, R)`` in [0, 1] -> classes ``(B, R, R)``.

    Laid out by the shapes and names in its file. It sees no face as a whole, so dark photos come out in patches; noses,
    mouths and brows of most others are right.
    """

    def __init__(self, data: Path) -> None:
        super().__init__()
        self.enc1, self.enc2, self.bottleneck = _two(3, 32), _two(32, 64), _two(64, 128)
        self.up1, self.dec1 = nn.ConvTranspose2d(128, 64, 2, 2), _two(128, 64)
        self.up2, self.dec2 = nn.ConvTranspose2d(64, 32, 2, 2), _two(64, 32)
        self.out = nn.Conv2d(32, 19, 1)
        state = torch.load(data / "weights/face_parsing_unet.pth", map_location="cpu", weights_only=True)
        self.load_state_dict(state)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[2:]
        x = F.interpolate(images, (PARSER_SIZE, PARSER_SIZE), mode="bilinear", antialias=True) * 2 - 1
        first = self.enc1(x)
        second = self.enc2(F.max_pool2d(first, 2))
        x = self.up1(self.bottleneck(F.max_pool2d(second, 2)))
        x = self.up2(self.dec1(torch.cat([x, second], dim=1)))
        logits = self.out(self.dec2(torch.cat([x, first], dim=1)))
        return F.interpolate(logits, size, mode="bilinear", antialias=True).argmax(dim=1)


def _two(before: int, after: int) -> nn.Sequential:
    first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def ellipse_masks(points: Tensor, size: int) -> dict[str, Tensor]:
    """Name of an edit -> ``(N, size, size)`` bool, from points ``(N, 5, 2)`` in [0, 1] of the chip."""
    masks = landmark_masks(points * size, (size, size)) > 0.5
    return {name: masks[:, [PARTS.index(part) for part in parts]].any(dim=1) for name, parts in ELLIPSES.items()}


def parsed_masks(classes: Tensor) -> dict[str, Tensor]:
    """Name of an edit -> ``(N, R, R)`` bool, widened by :data:`PARSER_MARGIN`; empty where a part is not seen."""
    masks = {}
    for name, numbers in PARSED.items():
        seen = torch.isin(classes, torch.tensor(numbers))
        wide = F.max_pool2d(seen[:, None].float(), 2 * PARSER_MARGIN + 1, 1, PARSER_MARGIN)[:, 0] > 0.5
        masks[name] = wide & (seen.sum(dim=(1, 2)) >= SMALLEST_PART)[:, None, None]
    return masks
