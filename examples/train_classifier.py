"""Train a classifier with semantic variants of its own training faces in every batch.

    python examples/train_classifier.py FOLDER CACHE

FOLDER has one sub-folder per class; CACHE was made from it by ``ganaug precompute FOLDER --cache CACHE``. Without
arguments it draws two classes of faces from the bundled generator, so that it runs anywhere.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from precompute_folder import main as precompute_folder
from torchvision import datasets, models, transforms

import ganaug
from ganaug.demo import draw_faces

EDITS = ["lighting", "expression", "background"]


def main(folder: Path, cache: Path, epochs: int = 2) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    to_chip = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()])
    base = datasets.ImageFolder(str(folder), transform=to_chip)
    # The share of variants grows to a half. Each still is the person of its photo, or the photo itself is served.
    schedule = ganaug.linear_ratio(0.25, 0.5, epochs)
    train = ganaug.GANAugmentedDataset(base, cache, ratio=schedule, edits=EDITS, preserve=["identity"])
    loader = train.loader(batch_size=16, shuffle=True, num_workers=0, device=device)

    model = models.resnet18(num_classes=len(base.classes)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(epochs):
        for images, labels in loader:
            loss = F.cross_entropy(model(images * 2 - 1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}, served so far {dict(train.counts)}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch) / "faces"
            for number, name in enumerate(("first", "second")):
                draw_faces("faces64", root / name, count=4, seed=number)
            precompute_folder(root, Path(scratch) / "faces.lmdb", steps=5)
            main(root, Path(scratch) / "faces.lmdb")
