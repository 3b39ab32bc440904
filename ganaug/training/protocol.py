"""What a trainer of any family offers to the loop that runs it, watches it and exports its networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class RunSettings(Protocol):
    """What the loop reads of a trainer's hyperparameters, which are a frozen dataclass.

    Attributes:
        batch_size: Real images a step, over all processes.
        snapshot_kimg: Thousands of images between snapshots.
        evaluated_images: Handed to :meth:`Judge.evaluate`; 0 computes no figures.
        seed: Decides the samples of a snapshot.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def snapshot_kimg(self) -> float: ...

    @property
    def evaluated_images(self) -> int: ...

    @property
    def seed(self) -> int: ...

    def to_dict(self) -> dict[str, Any]: ...


class Trainable(Protocol):
    """A training run that advances step by step. Every process of a ``torchrun`` job holds one.

    ``step`` and ``barrier`` are called by all processes; everything else by the main one alone, and must neither wait
    for the others nor move the state of the run: training with and without it gives the same weights.

    Attributes:
        config: Hyperparameters.
        device: Where this process trains.
        total: Real images to show in the whole run.
        images_seen: Real images shown so far, by all processes together.
        is_main: Whether this is the process that writes files: rank 0, or the only one.
    """

    @property
    def config(self) -> RunSettings: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def total(self) -> int: ...

    @property
    def images_seen(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    def step(self) -> Mapping[str, float | Tensor]:
        """One step; ``images_seen`` grows by ``config.batch_size``.

        Returns:
            Figures by name, scalars. Tensors may stay on the device: the loop reads them at snapshots only. A name may
            be missing where its figure was not computed in this step.

        Raises:
            FloatingPointError: When a loss is no longer finite; on a GPU it may be noticed some steps later.
        """
        ...

    def save(self, path: Path) -> None:
        """Writes everything that an exact continuation needs to ``path``: a kill leaves the old file or the new one.

        Raises:
            FloatingPointError: When a loss was not finite; a good checkpoint is never replaced by a broken one.
        """
        ...

    def load(self, path: Path) -> None:
        """Continues from what :meth:`save` wrote.

        Raises:
            CheckpointError: For a damaged file or one of other settings.
        """
        ...

    def samples(self, count: int, seed: int) -> Tensor:
        """``(count, 3, R, R)`` float32 in [-1, 1] (not clamped) of the averaged generator; ``seed`` decides them."""
        ...

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """``images (B, 3, R, R)`` in [-1, 1] through averaged encoder and generator, or None without an encoder."""
        ...

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """State dicts of a model file: see ``ganaug.checkpoints.PARTS``."""
        ...

    def description(self) -> dict[str, Any]:
        """JSON-able description of a model file: at least ``family`` and ``config``."""
        ...

    def barrier(self) -> None:
        """Waits until every process has come here; nothing with a single one."""
        ...


class Judge(Protocol):
    """Computes the figures of a snapshot.

    Attributes:
        held_out: ``(N, 3, R, R)`` photos in [-1, 1] that are not trained on.
        name: What the figures are measured with; those of another name are not compared.
        criterion: The figure that decides which checkpoint is the best: the lower, the better.
    """

    @property
    def held_out(self) -> Tensor: ...

    @property
    def name(self) -> str: ...

    @property
    def criterion(self) -> str: ...

    def evaluate(self, trainer: Trainable, count: int, seed: int) -> dict[str, float]:
        """Figures by name of the trainer's averaged networks, from ``count`` images; ``seed`` decides any draws."""
        ...
