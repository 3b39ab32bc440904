"""How well an encoder gives back photos that it never saw."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganaug.inversion.quality import reconstruction_quality
from ganaug.training.protocol import Trainable

CHUNK = 64  # images in memory at once


@dataclass(frozen=True)
class EncoderMonitor:
    """Judges by reconstructions alone: a frozen generator's own samples never change.

    Attributes:
        held_out: ``(N, 3, R, R)`` photos in [-1, 1]; may stay on the CPU.
        name: What the figures are measured on; figures of another name are not compared.
        criterion: The figure that decides which checkpoint is the best; lower is better.
    """

    held_out: Tensor
    name: str
    criterion: str = "held_out_mse"

    @torch.no_grad()
    def evaluate(self, trainer: Trainable, count: int, seed: int) -> dict[str, float]:
        """Means over the first ``count`` photos.

        Args:
            trainer: What is judged.
            count: Photos to use.
            seed: Nothing is drawn.

        Returns:
            ``held_out_mse``, ``held_out_psnr`` in dB and ``held_out_ssim``, see
            :func:`ganaug.inversion.quality.reconstruction_quality`; none without photos or an encoder.
        """
        found: dict[str, list[Tensor]] = {}
        chosen = self.held_out[:count]
        if len(chosen) == 0:
            return {}
        for photos in chosen.split(CHUNK):
            photos = photos.to(trainer.device)
            made = trainer.reconstruct(photos)
            if made is None:
                return {}
            for name, values in reconstruction_quality(made, photos).items():
                found.setdefault(f"held_out_{name}", []).append(values)
        return {name: float(torch.cat(values).mean()) for name, values in found.items()}
