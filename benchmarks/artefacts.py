"""Can a classifier tell variants from photos by artefacts? A detector is trained to, with and without degradation.

    python benchmarks/artefacts.py --data ../shared/data [--quick] [--inverter NAME] [--json FILE] [--picture FILE]

Photos of FairFace ``val`` at 112 px, and one variant of each by the bundled generator (64 px) with the default edits,
as ``GANAugmentedDataset`` serves them, pasted or as whole chips. Two detectors see both and say which is which:

- ``network``: five convolutions, the first at full resolution, on mirrored crops of 64 px and several variants a photo;
- ``spectrum``: logistic regression on the mean log power of the image at each radius of its 2-D Fourier transform and
  at each frequency of its 8x8 cosine transform. It knows nothing of faces: what it finds are artefacts.

Trained on 70 % of the photos, tested on the others: accuracy, with the 95 % interval of 1,000 bootstraps over photos.
Chance is 50 %. ``same photos`` is the blind baseline: real against real, with other draws of the degradation.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ganaug import GANAugmentedDataset, LatentCache, load_generator
from ganaug.degrade import DegradationConfig
from ganaug.faces.images import read_image
from ganaug.faces.photos import photos_in_folder
from ganaug.inversion import build_inverter
from ganaug.precompute import make_header, precompute
from ganaug.sheet import contact_sheet

CPU = torch.device("cpu")
SIZE = 112  # of the items: ArcFace's, larger than the generator's chip
CROP = 64  # that the network is trained on; it is tested on whole items
MODEL = "faces64"
TRAIN_SHARE = 0.7
SERVED = 2  # epochs of which training images are made; later ones see them again
SETTINGS: dict[str, Any] = {
    "none": None,
    "jpeg only": DegradationConfig(resolution=None),
    "resolution only": DegradationConfig(jpeg_quality=None),
    "match": "match",
}


class Photos(Dataset[tuple[Tensor]]):
    """Photos of a folder as ``(3, SIZE, SIZE)`` uint8."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.samples = [(str(root / name), 0) for name in names]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor]:
        image = read_image(self.samples[index][0])[0].resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        return (torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3).permute(2, 0, 1),)


def serve(base: Photos, cache: Path, ratio: float, epoch: int, **options: Any) -> Tensor:
    """Every sample of an epoch, as a training loop sees it: ``(N, 3, SIZE, SIZE)`` uint8."""
    train = GANAugmentedDataset(base, cache, ratio=ratio, classical=None, **options)
    loader = train.loader(batch_size=64)
    loader.set_epoch(epoch)
    return torch.cat([images for (images,) in loader])


class Network(nn.Module):
    """``(B, 3, H, W)`` in [-1, 1] -> logits ``(B,)``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 1), (16, 32, 2), (32, 48, 2), (48, 64, 2), (64, 96, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(96, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images).mean((2, 3)))[:, 0]


def network_scores(
    train: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor], epochs: int
) -> tuple[Tensor, Tensor]:
    """Logits of the test images, first and second kind, by a network trained to tell both kinds."""
    torch.manual_seed(0)
    model, batch = Network(), 32
    steps = epochs * math.ceil(2 * len(train[0][0]) / batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(epochs):
        first, second = train[epoch % len(train)]
        images = torch.cat([first, second])
        targets = torch.cat([torch.zeros(len(first)), torch.ones(len(second))])
        for rows in torch.randperm(len(images)).split(batch):
            top, left = torch.randint(SIZE - CROP + 1, (2,)).tolist()
            inputs = to_float(images[rows, :, top : top + CROP, left : left + CROP])
            mirrored = torch.rand(len(rows), 1, 1, 1) < 0.5
            loss = F.binary_cross_entropy_with_logits(model(inputs.where(~mirrored, inputs.flip(3))), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        return tuple(torch.cat([model(to_float(part)) for part in kind.split(64)]) for kind in test)  # type: ignore


def to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0


def spectrum(images: Tensor) -> Tensor:
    """``(N, 3, SIZE, SIZE)`` uint8 -> ``(N, features)``: log powers of luma and of both colour differences."""
    pixels = images.float()
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    planes = torch.stack([luma, pixels[:, 0] - luma, pixels[:, 2] - luma], 1)
    window = torch.hann_window(SIZE, periodic=False)
    power = torch.fft.rfft2((planes - planes.mean((2, 3), keepdim=True)) * window * window[:, None]).abs().square()
    y, x = torch.fft.fftfreq(SIZE)[:, None] * SIZE, torch.fft.rfftfreq(SIZE) * SIZE
    radius = torch.hypot(y, x).round().long().flatten()
    rings = torch.zeros(*power.shape[:2], int(radius.max()) + 1).index_add_(2, radius, power.flatten(2))
    counts = torch.bincount(radius)
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0) + 0.5
    basis = (math.pi / 8 * k * n).cos()
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 1, 2, 4, 3, 5)
    cosine = (basis @ blocks @ basis.t()).square().mean((2, 3))
    return torch.cat([(rings / counts + 1).log().flatten(1), (cosine + 1).log().flatten(1)], 1)


def spectrum_scores(train: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """As :func:`network_scores`, by logistic regression with a small penalty."""
    first, second = (torch.cat([spectrum(pair[kind]) for pair in train]).double() for kind in range(2))
    inputs, targets = torch.cat([first, second]), torch.cat([torch.zeros(len(first)), torch.ones(len(second))]).double()
    mean, std = inputs.mean(0), inputs.std(0) + 1e-6
    inputs = (inputs - mean) / std
    weight = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = inputs @ weight[1:] + weight[0]
        loss = F.binary_cross_entropy_with_logits(logits, targets) + 1e-3 * weight[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return tuple((spectrum(kind).double() - mean) / std @ weight[1:] + weight[0] for kind in test)  # type: ignore


def accuracy(scores: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Share of right answers; photos are drawn again with their variants, which are no independent cases."""
    right = torch.stack([scores[0] <= 0, scores[1] > 0]).float().mean(0)
    draws = torch.randint(len(right), (1000, len(right)), generator=torch.Generator().manual_seed(0))
    low, high = right[draws].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"accuracy": round(float(right.mean()), 3), "low": round(low, 3), "high": round(high, 3)}


def detect(base: Photos, cache: Path, epochs: int, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both detectors on two kinds of samples, given as keywords of :func:`serve`."""
    # The second kind in other epochs: else both would have the same drawn qualities.
    served = [
        (serve(base, cache, epoch=n, **first), serve(base, cache, epoch=100 + n, **second)) for n in range(SERVED + 1)
    ]
    cut = round(TRAIN_SHARE * len(base))
    train = [(real[:cut], other[:cut]) for real, other in served[:SERVED]]
    test = (served[-1][0][cut:], served[-1][1][cut:])
    scores = {"network": network_scores(train, test, epochs), "spectrum": spectrum_scores(train, test)}
    return {name: accuracy(pair) for name, pair in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="400 photos instead of 800, none and match only")
    parser.add_argument("--inverter", default="encoder")
    parser.add_argument("--steps", type=int, default=50, help="for --inverter hybrid")
    parser.add_argument("--paste", default="whole,paste")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="contact sheet of what the detectors see")
    args = parser.parse_args()
    number, epochs = (400, 6) if args.quick else (800, 8)
    started = time.process_time()
    root = args.data / "fairface/val"
    photos = photos_in_folder(root)[:number]
    base = Photos(root, [photo.key for photo in photos])
    generator = load_generator(MODEL)
    figures: dict[str, Any] = {"photos": len(photos), "inverter": args.inverter, "chance": 0.5}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "faces.lmdb"
        inverter = build_inverter(args.inverter, generator, MODEL, CPU, args.steps)
        precompute(photos, LatentCache.create(cache, make_header(generator, MODEL, inverter)), inverter, CPU, 32)
        same = {"ratio": 0.0, "degradation": "match"}
        figures["same photos"] = detect(base, cache, epochs, same, same)
        print("same photos", figures["same photos"], flush=True)
        rows = [("photo", serve(base, cache, 0.0, 0)[:12])]
        for paste in args.paste.split(","):
            for name, degradation in SETTINGS.items():
                if args.quick and name not in ("none", "match"):
                    continue
                kinds = [{"ratio": ratio, "degradation": degradation, "paste": paste} for ratio in (0.0, 1.0)]
                figures[f"{paste}, {name}"] = detect(base, cache, epochs, *kinds)
                print(f"{paste}, {name}", figures[f"{paste}, {name}"], flush=True)
                rows += [
                    (f"{paste}, {name}\n{what}", serve(base, cache, epoch=0, **kind)[:12])
                    for what, kind in zip(("real", "generated"), kinds, strict=True)
                ]
    figures["cpu_seconds"] = round(time.process_time() - started)
    if args.picture:
        contact_sheet([(caption, images.float() / 255) for caption, images in rows], SIZE, 160).save(args.picture)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
