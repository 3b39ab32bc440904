"""Directions found without labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganaug.interfaces import Generator


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of W.

    Attributes:
        components: ``(K, D)`` unit rows, widest first.
        std: ``(K,)`` standard deviation of W along each.
    """

    components: Tensor
    std: Tensor


@torch.no_grad()
def principal_components(
    generator: Generator, num_components: int = 16, num_samples: int = 8192, seed: int = 0
) -> PrincipalComponents:
    """GANSpace for mapped latents (arXiv 2004.02546, section 3.1): PCA of ``mapping(z)``, z ~ N(0, I).

    The sign, which PCA leaves open, is fixed by making the entry of largest magnitude positive.

    Args:
        generator: Whose W.
        num_components: K.
        num_samples: z drawn.
        seed: Of the draws.
    """
    device = generator.w_avg.device
    z = torch.randn(num_samples, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    w = torch.cat([generator.mapping(part.to(device))[:, 0] for part in z.split(1024)]).double().cpu()
    centred = w - w.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.t() @ centred / (num_samples - 1))
    order = torch.argsort(values, descending=True)[:num_components]
    components = vectors[:, order].t()
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return PrincipalComponents((components * largest.sign()).float(), values[order].clamp(min=0).sqrt().float())
