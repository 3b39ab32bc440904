"""Random latents of any generator, conditional or not, and the directions in which latents vary."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganaug.interfaces import Generator


def split_anchor(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and the anchors that edits move, see :class:`ganaug.interfaces.Inversion`.

    Args:
        latents: As records have them: ``(B, L, D)``, or ``(B, 2, L, D)``, code first, where they have anchors.

    Returns:
        ``(B, L, D)`` each; the same tensor twice where codes are their own anchors.
    """
    return (latents[:, 0], latents[:, 1]) if latents.ndim == 4 else (latents, latents)


def draw_condition(generator: Generator, count: int, rng: torch.Generator) -> Tensor | None:
    """Random labels, every class of a label equally likely.

    Args:
        generator: Whose ``label_sizes``, if it has any, say what a condition is.
        count: How many.
        rng: Where draws come from, on the CPU.

    Returns:
        ``(count, c_dim)`` on the generator's device, or None for an unconditional generator.
    """
    sizes: tuple[int, ...] = getattr(generator, "label_sizes", ())
    if not sizes:
        return None
    labels = [F.one_hot(torch.randint(size, (count,), generator=rng), size) for size in sizes]
    return torch.cat(labels, dim=1).float().to(generator.w_avg.device)


def draw_latents(generator: Generator, count: int, rng: torch.Generator) -> Tensor:
    """``w_plus (count, L, D)`` of random z, under random labels if the generator takes any.

    Args:
        generator: Whose mapping.
        count: How many.
        rng: Where draws come from, on the CPU, so that they are the same whatever the device.
    """
    z = torch.randn(count, generator.z_dim, generator=rng).to(generator.w_avg.device)
    return generator.mapping(z, draw_condition(generator, count, rng))


# Samples behind an estimated mean of W (StyleGAN2's projector takes 10,000: arXiv 1912.04958, appendix D).
NUM_MEAN_SAMPLES = 10_000
MAPPED_AT_ONCE = 500  # a W+ code of 28 rows is 57 KB


@torch.no_grad()
def estimate_mean_latent(generator: Generator, seed: int = 0, num_samples: int = NUM_MEAN_SAMPLES) -> Tensor:
    """``(D,)``: mean of W over z ~ N(0, I), and over random labels if the generator takes any.

    Args:
        generator: Whose mapping, untruncated.
        seed: Of the draws.
        num_samples: How many.
    """
    rng = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(generator.w_avg, dtype=torch.float64)
    for start in range(0, num_samples, MAPPED_AT_ONCE):
        count = min(MAPPED_AT_ONCE, num_samples - start)
        total += draw_latents(generator, count, rng)[:, 0].double().sum(dim=0)
    return (total / num_samples).float()


@torch.no_grad()
def principal_axes(codes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal component analysis in float64, on the CPU.

    Args:
        codes: ``(N, F)``.
        count: How many components; there are ``min(N - 1, F)`` at most.

    Returns:
        Mean ``(F,)``, orthonormal axes ``(K, F)`` widest first, standard deviation along each ``(K,)``; float32. The
        signs of the axes are arbitrary.
    """
    flat = codes.double().cpu()
    mean = flat.mean(dim=0)
    centred = (flat - mean) / max(len(flat) - 1, 1) ** 0.5
    wide = flat.shape[1] > len(flat)  # the smaller of X X^T and X^T X has the same eigenvalues
    values, vectors = torch.linalg.eigh(centred @ centred.t() if wide else centred.t() @ centred)
    kept = torch.argsort(values, descending=True)[: max(min(count, len(flat) - 1, flat.shape[1]), 1)]
    std = values[kept].clamp(min=0).sqrt()
    axes = vectors[:, kept].t()
    if wide:
        axes = torch.nn.functional.normalize(axes @ centred, dim=1)
    return mean.float(), axes.float(), std.float()
