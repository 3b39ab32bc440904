"""Figures and a picture of a run: its samples against held-out photos, its reconstructions of them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ganaug.errors import UserInputError
from ganaug.faces.align import to_unit_range
from ganaug.metrics import FrechetDistance, KernelDistance, PrecisionRecall
from ganaug.training.protocol import Trainable

CHUNK = 64  # images in memory at once
NEIGHBOURS = 3  # arXiv 1904.06991
MIN_IMAGES = NEIGHBOURS + 1  # each needs so many neighbours in its own set
SAMPLE_ROWS = 3


class Monitor:
    """Judges a run by photos that it never saw.

    The Frechet distance is biased upwards, by about the same amount at every snapshot of a run: it finds the best
    checkpoint, but is comparable with figures of the same photos, the same number of samples and the same embedder
    only. The bias stays small beside the differences when photos outnumber the dimensions of the embedder several
    times (:class:`ganaug.features.PooledFeatures`: 64). The kernel distance is unbiased, and noisier.

    Args:
        embedder: ``(B, 3, H, W)`` in [-1, 1] -> ``(B, D)``, on the trainer's device. Its ``name`` is kept beside the
            best distance.
        held_out: ``(N, 3, R, R)`` photos in [-1, 1]; may stay on the CPU.

    Raises:
        UserInputError: For photos of another shape.
    """

    criterion = "frechet"

    def __init__(self, embedder: Callable[[Tensor], Tensor], held_out: Tensor) -> None:
        if held_out.ndim != 4 or held_out.shape[1] != 3:
            raise UserInputError(f"expected held-out photos of shape (N, 3, R, R), got {tuple(held_out.shape)}")
        self.embedder = embedder
        self.held_out = held_out
        self.name = str(getattr(embedder, "name", type(embedder).__name__))
        self._metrics: tuple[FrechetDistance, KernelDistance, PrecisionRecall] | None = None

    @torch.no_grad()
    def evaluate(self, trainer: Trainable, count: int, seed: int) -> dict[str, float]:
        """Figures of the trainer's averaged networks.

        Args:
            trainer: What is judged.
            count: Samples to draw.
            seed: Decides the samples: use the same one at every snapshot.

        Returns:
            ``frechet``, ``kid``, ``precision`` and ``recall``, unless there are fewer than four samples or photos;
            ``held_out_mse`` (of images in [0, 1]) if the trainer has an encoder and there are photos.
        """
        figures: dict[str, float] = {}
        if min(count, len(self.held_out)) >= MIN_IMAGES:
            frechet, kernel, neighbours = metrics = self._against_photos(trainer.device)
            for part, start in enumerate(range(0, count, CHUNK)):
                made = trainer.samples(min(CHUNK, count - start), seed + part)
                features = self.embedder(made.clamp(-1.0, 1.0))  # what a picture file can hold
                for metric in metrics:
                    metric.update(features, real=False)
            precision, recall = neighbours.compute()
            figures = {"frechet": frechet.compute(), "kid": kernel.compute(), "precision": precision, "recall": recall}
        error = self._reconstruction_error(trainer)
        return figures if error is None else {**figures, "held_out_mse": error}

    def _against_photos(self, device: torch.device) -> tuple[FrechetDistance, KernelDistance, PrecisionRecall]:
        """Metrics that hold the photos' features, computed once, and no samples yet."""
        if self._metrics is None:
            self._metrics = (FrechetDistance(), KernelDistance(), PrecisionRecall(NEIGHBOURS))
            for photos in self.held_out.split(CHUNK):
                features = self.embedder(photos.to(device))
                for metric in self._metrics:
                    metric.update(features, real=True)
        for metric in self._metrics:
            metric.reset(keep_real=True)
        return self._metrics

    def _reconstruction_error(self, trainer: Trainable) -> float | None:
        """Mean squared error of images in [0, 1]."""
        total = 0.0
        for photos in self.held_out.split(CHUNK):
            photos = photos.to(trainer.device)
            made = trainer.reconstruct(photos)
            if made is None:
                return None
            total += float((to_unit_range(made) - to_unit_range(photos)).square().mean(dim=(1, 2, 3)).sum())
        return total / len(self.held_out) if len(self.held_out) else None


@torch.no_grad()
def picture(trainer: Trainable, held_out: Tensor, num_columns: int = 12) -> Tensor:
    """Three rows of samples, one of held-out photos and, with an encoder, one of their reconstructions.

    Args:
        trainer: Where samples and reconstructions come from; the samples are the same z at every call.
        held_out: ``(N, 3, R, R)`` in [-1, 1]; with fewer than ``num_columns`` photos the rest of their rows is black.
        num_columns: Images in a row, C.

    Returns:
        ``(3, 5R or 4R, C*R)`` in [0, 1].
    """
    photos = held_out[:num_columns].to(trainer.device)
    rows = [trainer.samples(SAMPLE_ROWS * num_columns, trainer.config.seed), photos]
    made = trainer.reconstruct(photos) if len(photos) else None
    if made is not None:
        rows.append(made)
    missing = photos.new_full((num_columns - len(photos), *photos.shape[1:]), -1.0)
    images = to_unit_range(torch.cat([rows[0], *(torch.cat([row, missing]) for row in rows[1:])]))
    grid = images.unflatten(0, (-1, num_columns))  # (rows, C, 3, R, R)
    return grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
