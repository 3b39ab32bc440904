"""How well an embedder tells people apart that it never saw, and the threshold that follows from it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug import rng
from ganaug.errors import UserInputError
from ganaug.training.embedder_batches import ViewAugmentation
from ganaug.training.protocol import Trainable

CHUNK = 256  # images in memory at once


@dataclass(frozen=True)
class Calibration:
    """Cosines of two different people against those of one person.

    Attributes:
        threshold: The lowest cosine that at most ``false_accept_rate`` of the impostor pairs reach.
        false_accept_rate: As asked for.
        genuine_rate: Share of the photos that an augmented view of theirs is known by, at that threshold.
        impostor_pairs: Pairs of photos of different people of one group.
        photos: Photos they are made from.
        groups: Columns that make a group; empty: all photos are one.
        thresholds: The same threshold at other rates.
    """

    threshold: float
    false_accept_rate: float
    genuine_rate: float
    impostor_pairs: int
    photos: int
    groups: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, rounded to four digits."""
        values = asdict(self) | {"groups": list(self.groups)}
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}


OTHER_RATES = (0.1, 0.05, 0.01, 0.001)


def threshold_at(impostors: NDArray[np.float32], false_accept_rate: float) -> float:
    """The lowest threshold t such that at most that share of the cosines is at least t.

    Example:
        >>> float(threshold_at(np.array([0.1, 0.4, 0.2, 0.3], np.float32), 0.25) > 0.3)
        1.0
    """
    ranked = np.sort(np.asarray(impostors, np.float32))
    allowed = int(false_accept_rate * len(ranked))
    # Just above the first cosine that may no longer be accepted; equal cosines are refused together.
    return float(np.nextafter(ranked[len(ranked) - allowed - 1], np.float32(2.0)))


def calibrate(
    embed: Callable[[Tensor], Tensor],
    images: Tensor,
    people: NDArray[np.int64],
    groups: NDArray[np.int64],
    false_accept_rate: float,
    *,
    columns: tuple[str, ...] = (),
    seed: int = 0,
) -> Calibration:
    """Measures a threshold on photos that were not trained on.

    Args:
        embed: ``(B, 3, R, R)`` in [-1, 1] -> ``(B, D)`` of unit length.
        images: ``(N, 3, R, R)``.
        people: ``(N,)``, equal for photos of one person.
        groups: ``(N,)``; impostors of the same group are compared. If no group has two people, all are.
        false_accept_rate: In (0, 1).
        columns: What makes a group, for the record.
        seed: Decides the augmented views.

    Raises:
        UserInputError: With fewer than two people.
    """
    other = np.triu(people[:, None] != people[None, :], 1)
    alike = other & (groups[:, None] == groups[None, :])
    if not alike.any():
        alike, columns = other, ()
    if not alike.any():
        raise UserInputError("a threshold needs held-out photos of at least two people; give more")
    augmentation = ViewAugmentation()
    draws = rng.uniforms(seed, 0, np.arange(len(images)), "calibration view", augmentation.num_uniforms)
    with torch.no_grad():
        plain = torch.cat([embed(part) for part in images.split(CHUNK)]).cpu()
        parts = zip(images.split(CHUNK), np.split(draws, range(CHUNK, len(images), CHUNK)), strict=True)
        views = torch.cat([embed(augmentation(part, numbers)) for part, numbers in parts]).cpu()
    impostors = (plain @ plain.t()).numpy()[alike]
    threshold = threshold_at(impostors, false_accept_rate)
    return Calibration(
        threshold,
        false_accept_rate,
        float(((plain * views).sum(dim=1) >= threshold).float().mean()),
        len(impostors),
        len(images),
        columns,
        {f"{rate:g}": round(threshold_at(impostors, rate), 4) for rate in OTHER_RATES},
    )


@dataclass(frozen=True)
class EmbedderMonitor:
    """Judges an embedder by people that it never saw.

    Attributes:
        held_out: ``(N, 3, R, R)`` photos in [-1, 1]; may stay on the CPU.
        people: ``(N,)``, see :func:`calibrate`; also ``groups``.
        name: What the figures are measured on; figures of another name are not compared.
        criterion: The figure that decides which checkpoint is the best: of augmented views the share that is not known
            again at the trainer's false accept rate.
    """

    held_out: Tensor
    people: NDArray[np.int64]
    groups: NDArray[np.int64]
    name: str
    criterion: str = "missed"

    def evaluate(self, trainer: Trainable, count: int, seed: int) -> dict[str, float]:
        """``missed`` and ``threshold``, from the first ``count`` photos; ``seed`` decides their views."""
        embedder = trainer.embedder()  # type: ignore[attr-defined]
        rate = trainer.config.false_accept_rate  # type: ignore[attr-defined]
        part = slice(0, max(count, 2))
        found = calibrate(
            lambda images: embedder(images.to(trainer.device)),
            self.held_out[part],
            self.people[part],
            self.groups[part],
            rate,
            seed=seed,
        )
        return {"missed": 1.0 - found.genuine_rate, "threshold": found.threshold}
