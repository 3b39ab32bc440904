"""Adversarial losses and their regularisers, each from its paper."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Critic = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> logits (B,)

DRIFT_WEIGHT = 0.001  # keeps WGAN logits near zero (arXiv 1710.10196, appendix A.1)


def discriminator_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """Scalar from logits ``(B,)``: non-saturating (arXiv 1406.2661) or WGAN (arXiv 1701.07875, with drift term)."""
    if kind == "wgan-gp":
        return fake.mean() - real.mean() + DRIFT_WEIGHT * real.square().mean()
    return F.softplus(fake).mean() + F.softplus(-real).mean()


def generator_loss(fake: Tensor, kind: str) -> Tensor:
    """Scalar from logits ``(B,)`` of generated images."""
    return -fake.mean() if kind == "wgan-gp" else F.softplus(-fake).mean()


def r1_penalty(critic: Critic, real: Tensor) -> Tensor:
    """Mean squared length of the logit's gradient at real images (arXiv 1801.04406, equation 9, without gamma / 2)."""
    probe = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(probe).sum(), probe, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def slope_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """WGAN-GP: mean of ``(|gradient| - 1)^2`` between pairs of images (arXiv 1704.00028, equation 3).

    Args:
        critic: Images to logits.
        real: ``(B, 3, H, W)``.
        fake: ``(B, 3, H, W)``.
        mix: ``(B,)`` in [0, 1], share of the generated image.
    """
    probe = torch.lerp(real, fake.detach(), mix[:, None, None, None]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(probe).sum(), probe, create_graph=True)
    length = (gradient.square().sum(dim=(1, 2, 3)) + 1e-12).sqrt()
    return (length - 1.0).square().mean()


def path_lengths(images: Tensor, w_plus: Tensor, noise: Tensor) -> Tensor:
    """How far images move per unit of w, ``|J_w^T y|`` (arXiv 1912.04958, equation 4).

    Args:
        images: ``(B, 3, H, W)`` made from ``w_plus``, with a graph.
        w_plus: ``(B, L, D)`` that requires a gradient.
        noise: ``(B, 3, H, W)`` standard normal; scaled here so that lengths do not depend on the resolution.

    Returns:
        ``(B,)``: root of the squared length per row, averaged over rows.
    """
    y = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * y).sum(), w_plus, create_graph=True)
    return (gradient.square().sum(dim=2).mean(dim=1) + 1e-12).sqrt()
