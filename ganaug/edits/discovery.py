"""Directions found without labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganaug.interfaces import Generator
from ganaug.latents import draw_latents, principal_axes


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of a generator's latents.

    Attributes:
        components: ``(K, D)``, or ``(K, L, D)`` where the rows of a latent differ (VAE); unit length, widest first.
        std: ``(K,)`` standard deviation of W along each.
    """

    components: Tensor
    std: Tensor


@torch.no_grad()
def principal_components(
    generator: Generator, num_components: int = 16, num_samples: int = 8192, seed: int = 0
) -> PrincipalComponents:
    """GANSpace (arXiv 2004.02546, section 3.1), on the codes of photos where the generator knows some.

    A model file may hold the principal components of its encoder's codes (``generator.prior``); variants are made
    around such codes. Without them: PCA of ``mapping(z)``, z ~ N(0, I).

    The sign, which PCA leaves open, is fixed by making the entry of largest magnitude positive.

    Args:
        generator: Whose W.
        num_components: K.
        num_samples: z drawn, where z is.
        seed: Of the draws.
    """
    prior = getattr(generator, "prior", None)
    if prior is not None:
        axes, std = prior.components[:num_components].flatten(1), prior.std[:num_components]
        return PrincipalComponents(signed(axes).reshape(-1, *prior.components.shape[1:]), std)
    w_plus = draw_latents(generator, num_samples, torch.Generator().manual_seed(seed))
    codes = w_plus[:, 0] if bool((w_plus == w_plus[:, :1]).all()) else w_plus
    _, axes, std = principal_axes(codes.flatten(1), num_components)
    return PrincipalComponents(signed(axes).reshape(-1, *codes.shape[1:]), std)


def signed(axes: Tensor) -> Tensor:
    """``(K, F)`` with each row's entry of largest magnitude positive."""
    return axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
