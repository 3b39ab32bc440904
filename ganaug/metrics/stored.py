"""What metrics share: a check of what they are given, and features kept until they are compared."""

import torch
from torch import Tensor

from ganaug.errors import UserInputError


def checked_features(features: Tensor, num_features: int | None) -> Tensor:
    """``features (B, D)``, cut off from autograd.

    Raises:
        UserInputError: For another shape, or another D than ``num_features``, that of earlier batches.
    """
    if features.ndim != 2:
        raise UserInputError(f"expected features of shape (B, D), got {tuple(features.shape)}")
    if num_features is not None and features.shape[1] != num_features:
        raise UserInputError(f"expected features of {num_features} numbers as before, got {features.shape[1]}")
    return features.detach()


class StoredFeatures:
    """Base of the metrics that compare every image with every other: keeps both sets where they were computed."""

    def __init__(self) -> None:
        self._batches: dict[bool, list[Tensor]] = {True: [], False: []}

    def update(self, features: Tensor, real: bool) -> None:
        """Adds ``features (B, D)`` of real or of generated images.

        Raises:
            UserInputError: For features of another shape than before.
        """
        earlier = self._batches[True] or self._batches[False]
        self._batches[real].append(checked_features(features, earlier[0].shape[1] if earlier else None))

    def reset(self, *, keep_real: bool = False) -> None:
        """Forgets what was added; with ``keep_real`` only the generated side."""
        for real in (False,) if keep_real else (False, True):
            self._batches[real].clear()

    def _features(self, real: bool, at_least: int) -> Tensor:
        """One side, ``(N, D)`` float64: products of float32 features lose the small differences that count."""
        batches = self._batches[real]
        count = sum(len(batch) for batch in batches)
        if count < at_least:
            raise UserInputError(f"{count} {'real' if real else 'generated'} images, at least {at_least} are needed")
        return torch.cat(batches).double()
