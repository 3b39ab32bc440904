"""A Gaussian over the codes of real photos: where to draw faces from that look like photos.

A generator that was trained for a short time maps z to good faces less reliably than its encoder maps photos to good
codes. A density fitted to those codes afterwards is a better place to draw from: ex-post density estimation
(arXiv 1903.12436, section 4).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ganaug import checkpoints
from ganaug.interfaces import resolve_device
from ganaug.latents import principal_axes


@dataclass(frozen=True)
class LatentPrior:
    """Normal distribution over ``w_plus``, along its principal components.

    Attributes:
        mean: ``(L, D)``.
        components: ``(K, L, D)``, orthonormal when flattened, widest first.
        std: ``(K,)`` standard deviation along each.
    """

    mean: Tensor
    components: Tensor
    std: Tensor

    @classmethod
    def fit(cls, codes: Tensor, num_components: int = 128) -> "LatentPrior":
        """Mean and leading principal components of ``codes (N, L, D)``; at most ``N - 1`` components."""
        mean, axes, std = principal_axes(codes.flatten(1), num_components)
        return cls(mean.reshape(codes.shape[1:]), axes.reshape(-1, *codes.shape[1:]), std)

    def sample(self, count: int, rng: torch.Generator, truncation_psi: float = 1.0) -> Tensor:
        """Draws ``w_plus (count, L, D)``.

        Args:
            count: How many.
            rng: Where the normal numbers come from, on the CPU.
            truncation_psi: Scales the distance from the mean.
        """
        z = torch.randn(count, len(self.std), generator=rng).to(self.mean.device) * self.std
        return self.mean + truncation_psi * torch.tensordot(z, self.components, dims=1)

    def distance(self, codes: Tensor) -> Tensor:
        """How far codes lie from the mean, in standard deviations: ``(B, L, D)`` -> ``(B,)``, about 1 for typical ones.

        The root mean square of the coordinates along the components, each divided by its standard deviation.
        """
        along = (codes - self.mean).flatten(1) @ self.components.flatten(1).t()
        return (along / self.std.clamp(min=1e-8)).square().mean(dim=1).sqrt()

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {"mean": self.mean, "components": self.components, "std": self.std}


def load_prior(source: str | Path | checkpoints.Model = "faces64", device: str | torch.device = "cpu") -> LatentPrior:
    """The prior stored in a model file, see :mod:`ganaug.checkpoints`.

    Raises:
        CheckpointError: For a missing or damaged file, or one without a prior.
    """
    model = checkpoints.open_model(source)
    tensors = model.part("prior")
    with model.building():
        on = resolve_device(device)
        return LatentPrior(*(tensors[name].to(on) for name in ("mean", "components", "std")))
