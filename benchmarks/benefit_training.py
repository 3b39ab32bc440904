"""The one network and the one way to train it that all recipes of benchmarks/benefit.py share, and its figures."""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from benefit_recipes import Recipe
from benefit_tasks import Chips, Task
from torch import Tensor, nn
from torchvision.transforms import v2

from ganaug import ClassicalAugmentation
from ganaug.precision import multiplies_bfloat16

WIDTH = 16
BATCH_SIZE = 32
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
NUM_BINS = 15  # of the calibration error (arXiv 1706.04599, section 2)


class Network(nn.Module):
    """Eight convolutions, four of them with stride 2, and a linear layer: 0.15 million weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        widths, layers = (3, WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH), []
        for before, after in pairwise(widths):
            for channels, stride in ((before, 2), (after, 1)):
                layers += [nn.Conv2d(channels, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, 64, 64)`` in [0, 1] -> logits."""
        x = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=multiplies_bfloat16(x.device.type)):
            return self.head(self.features(x).mean(dim=(2, 3))).float()


def batches(chips: Chips, variants: Tensor | None, recipe: Recipe, steps: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Batches of a training run. Which photos a step sees depends on the seed alone, not on the recipe."""
    order, chance = np.random.default_rng([seed, 10]), np.random.default_rng([seed, 11])
    classical = ClassicalAugmentation()
    strong = v2.Compose([v2.RandomHorizontalFlip(), v2.RandAugment()])
    labels = torch.tensor(chips.targets)
    torch.manual_seed(seed)
    for _ in range(steps):
        at = order.integers(0, len(chips), BATCH_SIZE)
        number, generated = chance.integers(0, 1 << 30, BATCH_SIZE), chance.random(BATCH_SIZE) < recipe.ratio
        uniforms = torch.from_numpy(chance.random((BATCH_SIZE, classical.num_uniforms)))
        images = chips.images[at]
        if variants is not None and generated.any():
            rows = np.flatnonzero(generated)
            images[rows] = variants[number[rows] % len(variants), at[rows]]
        if recipe.classical == "randaugment":
            images = torch.stack([strong(image) for image in images])
        images = images.float() / 255
        if recipe.classical == "default":
            images = classical(images, classical.make_params(uniforms))
        yield images, labels[at]


def train(
    task: Task,
    chips: Chips,
    variants: Tensor | None,
    recipe: Recipe,
    seed: int,
    start: Path | None,
    device: str,
    factor: float = 1.0,
) -> tuple[Network, float]:
    """Trains a network; returns it and the seconds that it took, without those of making variants."""
    torch.manual_seed(seed)
    network = Network(len(task.classes)).to(device, memory_format=torch.channels_last)
    if start is not None:
        network.features.load_state_dict(torch.load(start, weights_only=True))
    steps = round(task.steps * recipe.steps * factor)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    started = time.process_time()
    for images, labels in batches(chips, variants, recipe, steps, seed):
        loss = F.cross_entropy(network(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval(), time.process_time() - started


@torch.no_grad()
def measure(network: Network, task: Task, chips: Chips, device: str) -> dict[str, Any]:
    """Accuracy, calibration, and the accuracy of each group."""
    found = [network(images.to(device).float() / 255).cpu() for images in chips.images.split(256)]
    probabilities = torch.cat(found).softmax(dim=1).numpy()
    right = probabilities.argmax(axis=1) == task.test.labels
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "calibration_error": calibration_error(probabilities.max(axis=1), right),
        "nll": float(-np.log(np.maximum(probabilities[np.arange(len(right)), task.test.labels], 1e-12)).mean()),
    }
    groups = np.array(task.test.groups)
    if len(groups):
        by_group = {str(name): float(right[groups == name].mean()) for name in np.unique(groups)}
        figures |= {"groups": by_group, "worst_group": min(by_group.values())}
        figures["gap"] = max(by_group.values()) - min(by_group.values())
    return figures


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins (arXiv 1706.04599, equation 3).

    Example:
        >>> calibration_error(np.array([0.9, 0.9, 0.5, 0.5]), np.array([True, True, True, False]))
        0.05
    """
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = [
        (bins == number).mean() * abs(right[bins == number].mean() - confidence[bins == number].mean())
        for number in np.unique(bins)
    ]
    return round(float(sum(gaps)), 12)
