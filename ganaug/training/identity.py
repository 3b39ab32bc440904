"""Identity loss through an embedder that the user brings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganaug.errors import UserInputError
from ganaug.interfaces import Embedder
from ganaug.user_functions import call_user_function


def identity_loss(embedder: Embedder, reconstructions: Tensor, photos: Tensor) -> Tensor:
    """One minus the cosine between embeddings (arXiv 2008.00951, equation 3), mean over the batch: between 0 and 2.

    Args:
        embedder: Images to unit vectors. Gradients flow to ``reconstructions`` only.
        reconstructions: ``(B, 3, H, W)`` in [-1, 1].
        photos: The same shape.
    """
    with torch.no_grad():
        wanted = embedder(photos)
    return 1.0 - F.cosine_similarity(embedder(reconstructions).float(), wanted.float()).mean()


def load_embedder(name: str, device: torch.device, resolution: int) -> Embedder:
    """Calls ``package.module:function`` for an embedder, freezes it and tries it once.

    Args:
        name: ``package.module:function``, called without arguments.
        device: Where the embedder is put, if it is a ``torch.nn.Module``.
        resolution: Side of the images that it will get.

    Raises:
        UserInputError: If the function cannot be imported or fails, or returns something that is no embedder, gives
            another shape than ``(B, embedding_dim)``, or lets no gradient through.
    """
    embedder = call_user_function(name, "--embedder package.module:function")
    if not isinstance(embedder, Embedder):
        raise UserInputError(
            f"{name} returned {type(embedder).__name__}, expected a callable with an attribute embedding_dim"
        )
    if isinstance(embedder, nn.Module):
        embedder.to(device).eval().requires_grad_(False)
    # Two different pictures: of equal ones the cosine is at its maximum, and its gradient 0.
    draws = torch.Generator().manual_seed(0)
    photos, images = (torch.rand(2, 3, resolution, resolution, generator=draws) * 2 - 1).to(device).split(1)
    images = images.expand(2, -1, -1, -1).clone().requires_grad_(True)
    photos = photos.expand_as(images)
    try:
        found = embedder(images)
    except Exception as error:  # whatever somebody else's network raises
        raise UserInputError(f"{name}: the embedder fails at it: {type(error).__name__}: {error}") from error
    wanted_shape = (2, embedder.embedding_dim)
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if shape != wanted_shape:
        raise UserInputError(
            f"{name}: the embedder turned images {tuple(images.shape)} into {shape}, expected {wanted_shape}"
        )
    gradient = None
    if found.requires_grad:
        loss = identity_loss(embedder, images, photos)
        (gradient,) = torch.autograd.grad(loss, images, allow_unused=True)
    if gradient is None or not gradient.isfinite().all() or not gradient.any():
        raise UserInputError(
            f"{name}: no finite gradient flows from the embedder's output to its images; it must be differentiable, "
            "without torch.no_grad() and without leaving torch"
        )
    return embedder
