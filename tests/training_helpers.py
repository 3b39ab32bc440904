"""Tiny trainers for the tests of training: 16 px, 8 channels, every kind of step within a few of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganaug.training.conditions import Conditions, LabelColumn
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.gan import GANTrainer
from ganaug.training.parallel import Processes

CPU = torch.device("cpu")
TINY = TrainConfig(
    resolution=16,
    kimg=0.04,
    batch_size=4,
    z_dim=8,
    w_dim=8,
    mapping_layers=2,
    generator_channels=(8, 8, 8),
    discriminator_channels=(8, 8, 8),
    r1_interval=3,
    latent_interval=2,
    snapshot_kimg=0.02,
    evaluated_images=8,
)
# All regularisers, and an adaptive p that moves.
BUSY = replace(
    TINY, pl_weight=2.0, pl_interval=3, ada_interval=2, ada_kimg=0.4, ada_target=0.9, augment_p=0.3, kimg=0.1
)
CONDITIONS = Conditions([LabelColumn("gender", ("f", "m")), LabelColumn("glasses", ("0", "1", "2"))])
RING = 16  # codes that are remembered where a test shortens the ring, so that samples are drawn around them soon


def chips(count: int = 12) -> np.ndarray:
    """``(count, 16, 16, 3)`` noise."""
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def trainer(config: TrainConfig = TINY, images: np.ndarray | None = None) -> GANTrainer:
    """A new run; conditional if ``config.condition`` says so."""
    images = chips() if images is None else images
    if not config.condition:
        return GANTrainer(config, RealImages(images, config.seed), Processes(CPU))
    classes = np.stack([np.arange(len(images)) % 2, np.arange(len(images)) % 3], axis=1)
    labelled = RealImages(images, config.seed, labels=CONDITIONS.one_hot(classes))
    return GANTrainer(config, labelled, Processes(CPU), label_table=CONDITIONS.describe())


def weights(t: GANTrainer) -> dict[str, Tensor]:
    """Copies of the weights and buffers of all networks."""
    return {f"{m}.{k}": v.clone() for m, module in t.state.modules().items() for k, v in module.state_dict().items()}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a nested container holds, each with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves(item, f"{name}.{i}")
    else:
        yield name, value


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Two checkpoints hold the same names and, bit for bit, the same values."""
    mine, theirs = (dict(leaves(torch.load(path, weights_only=True))) for path in (a, b))
    assert mine.keys() == theirs.keys()
    different = [
        name
        for name, value in mine.items()
        if not (torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name])
    ]
    assert not different
    assert sum(isinstance(value, Tensor) for value in mine.values()) > 100


def write_photos(folder: Path, count: int = 20, size: int = 24) -> Path:
    """``00.png``, ``01.png``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, chip in enumerate(chips(count)):
        Image.fromarray(chip).resize((size, size)).save(folder / f"{number:02d}.png")
    return folder
