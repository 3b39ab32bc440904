"""The main job in miniature: faces -> cache -> training loop with variants -> contact sheet and figures."""

import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ganaug.cache import LatentCache
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.align import Alignment, align, to_unit_range
from ganaug.faces.images import read_image
from ganaug.faces.photos import photos_in_folder
from ganaug.generators import load_generator, load_prior
from ganaug.interfaces import ImageError
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, precompute
from ganaug.preview import preview_sheet
from ganaug.schedules import check_ratio

NUM_FACES = 32
IMAGE_SIZE = 64
BATCH_SIZE = 16
EPOCHS = 6


class FaceFolder(Dataset[tuple[Tensor, int]]):
    """Photos of a folder as ``(3, 64, 64)`` uint8 tensors; each photo is a person of its own, as in face recognition.

    Args:
        root: Folder.
        names: Files below it, relative.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.samples = [(str(root / name), number) for number, name in enumerate(names)]
        self.targets = list(range(len(names)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, person = self.samples[index]
        chip, _ = align(read_image(path)[0], Alignment(size=IMAGE_SIZE))
        return torch.from_numpy(chip.copy()).permute(2, 0, 1), person


@torch.no_grad()
def draw_faces(model: str | Path, folder: Path, count: int, seed: int) -> None:
    """Draws faces from a model's prior into ``folder/face-000.png`` and so on: nobody's photo."""
    folder.mkdir(parents=True, exist_ok=True)
    w_plus = load_prior(model).sample(count, torch.Generator().manual_seed(seed))
    images = to_unit_range(load_generator(model).synthesis(w_plus))
    for number, image in enumerate((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"face-{number:03d}.png")


def small_classifier(num_classes: int) -> nn.Module:
    """A few convolutions: enough to show a training loop, not to win anything."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, num_classes))


def run_demo(
    images: str | Path | None,
    out: Path,
    *,
    num_faces: int = NUM_FACES,
    steps: int | None = None,
    ratio: float = 0.5,
    device: torch.device | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs the main job on a few faces.

    Args:
        images: Folder of face photos; None draws faces from the bundled generator.
        out: Folder for ``faces.lmdb``, ``contact_sheet.png`` and ``summary.json``.
        num_faces: How many of the photos to use.
        steps: Inversion steps; None: as many as ``ganaug precompute`` takes.
        ratio: Share of generated samples in training.
        device: Where to work; the CPU if None.
        seed: Decides every draw.

    Returns:
        What is written to ``summary.json``.
    """
    started = time.monotonic()
    check_ratio(ratio)  # now, not after the inversion
    device = device or torch.device("cpu")
    out.mkdir(parents=True, exist_ok=True)
    generator = load_generator("faces64", device)
    root = Path(images) if images is not None else out / "faces"
    if images is None:
        draw_faces("faces64", root, num_faces, seed)

    inverter = build_inverter("hybrid", generator, "faces64", device, steps)
    cache = LatentCache.create(out / "faces.lmdb", make_header(generator, "faces64", inverter))
    photos = photos_in_folder(root)[:num_faces]
    inverted = precompute(photos, cache, inverter, device)

    if not inverted.images:
        raise ImageError(f"none of the {len(photos)} images under {root} could be used")
    base = FaceFolder(root, [photo.key for photo in photos if photo.key in cache])
    train = GANAugmentedDataset(base, cache, ratio=ratio, preserve=["identity"], seed=seed)
    loader = train.loader(batch_size=BATCH_SIZE, shuffle=True, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = small_classifier(len(base)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(EPOCHS):
        for faces, people in loader:
            loss = F.cross_entropy(model(faces.float() / 255.0), people)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    sheet = out / "contact_sheet.png"
    preview_sheet(train, sheet, num_faces=10, device=device)
    made = train.counts["generated"]
    summary = {
        "seconds": round(time.monotonic() - started, 2),
        "images": inverted.images,
        "failed": inverted.failed,
        "psnr_median": inverted.psnr_median,
        "ratio": ratio,
        "ratio_observed": round(made / max(sum(train.counts.values()), 1), 4),
        "rejected": train.counts["rejected"],
        "loss_first": round(losses[0], 4) if losses else None,
        "loss_last": round(losses[-1], 4) if losses else None,
        "contact_sheet": str(sheet),
        "fingerprint": generator.fingerprint,
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary
