"""Coordinates in which all directions of the latents vary alike, so that lengths and angles in them mean something.

Codes vary a hundred times more along some directions than along others. A direction fitted or made orthogonal among the
raw numbers mostly follows that, and not the labels. In whitened coordinates the codes have unit variance in every
direction, and the difference between the means of two classes is their linear discriminant (Fisher 1936).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.edits.directions import Direction
from ganaug.errors import UserInputError
from ganaug.interfaces import Edit, Generator
from ganaug.latents import principal_axes

NUM_COMPONENTS = 128  # as many as the prior of faces64 has
# Codes for each component, where they are found on the codes at hand: with as many components as codes, all codes are
# equally far from each other, and nothing can be learnt. Of 2 to 20, 5 found the gender of most of FairFace's val.
_CODES_EACH = 5
_NARROWEST = 1e-4  # of the widest standard deviation; what varies less is rounding
_DEPENDENT = 1e-6  # of a unit vector: what is left of one that lies among others
_NOTHING = 1e-3  # the same, where it is to be a direction of its own; files hold float32


class Components(Protocol):
    """Principal components of codes, as a generator's ``prior`` holds them."""

    @property
    def mean(self) -> Tensor: ...

    @property
    def components(self) -> Tensor: ...

    @property
    def std(self) -> Tensor: ...


@dataclass(frozen=True)
class Whitening:
    """Principal coordinates of codes, each divided by its standard deviation; float64.

    Attributes:
        shape: ``(L, D)``.
        mean: ``(F,)`` with F = L * D.
        axes: ``(K, F)``, orthonormal.
        std: ``(K,)``.
    """

    shape: tuple[int, int]
    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, generator: Generator, codes: Tensor | None = None) -> "Whitening":
        """Of the generator's prior, or, where it has none, of ``codes (N, L, D)``.

        Raises:
            UserInputError: Without a prior, if there are no codes or all are equal.
        """
        prior: Components | None = getattr(generator, "prior", None)
        shape = generator.latent_spec.shape
        if prior is not None:
            return cls._kept(shape, prior.mean.flatten(), prior.components.flatten(1), prior.std)
        if codes is None or len(codes) < 2 or not bool((codes != codes[:1]).any()):
            raise UserInputError("the generator has no prior, and the codes at hand do not differ: nothing to fit on")
        count = max(min(NUM_COMPONENTS, len(codes) // _CODES_EACH), 1)
        return cls._kept(shape, *principal_axes(codes.flatten(1), count))

    @classmethod
    def _kept(cls, shape: tuple[int, int], mean: Tensor, axes: Tensor, std: Tensor) -> "Whitening":
        numbers = [tensor.double().cpu().numpy() for tensor in (mean, axes, std)]
        kept = numbers[2] > _NARROWEST * numbers[2].max()
        return cls(shape, numbers[0], numbers[1][kept], numbers[2][kept])

    def __len__(self) -> int:
        return len(self.std)

    def coordinates(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """``(N, L, D)`` -> ``(N, K)``."""
        flat = codes.reshape(len(codes), -1).astype(np.float64)
        return (flat - self.mean) @ (self.axes / self.std[:, None]).T  # type: ignore[no-any-return]

    def move(self, vector: NDArray[np.float64]) -> Tensor:
        """``(K,)`` -> ``(L, D)`` float32: the change of a code whose coordinates change by ``vector``."""
        return torch.from_numpy(((vector * self.std) @ self.axes).reshape(self.shape)).float()

    def reading(self, vector: NDArray[np.float64]) -> tuple[Tensor, float]:
        """``(K,)`` -> weights ``(L, D)`` float32 and bias: ``coordinates @ vector = <code, weights> + bias``."""
        weights = (vector / self.std) @ self.axes
        return torch.from_numpy(weights.reshape(self.shape)).float(), -float(weights @ self.mean)

    def normals(self, edits: Sequence[Edit]) -> NDArray[np.float64]:
        """``(K, M)``: vectors that a move must be orthogonal to, so that what others read off a code stays.

        For an edit with a calibration it is that one's reading. For others, the coordinates that they change.

        Raises:
            UserInputError: For edits that are no moves along axes.
        """
        moves = self.axes * self.std[:, None]
        read = []
        for edit in edits:
            gauge = getattr(edit, "calibration", None)
            if gauge is not None:
                read.append(gauge.weights.flatten().double().cpu().numpy())
            else:
                for axis in axes_of(edit, self.shape):
                    changed = (self.axes / self.std[:, None]) @ axis.flatten().double().cpu().numpy()
                    read.append((changed / self.std) @ self.axes)
        return np.stack([moves @ weights for weights in read], axis=1) if read else np.zeros((len(self), 0))


def axes_of(edit: Edit, shape: tuple[int, int]) -> Tensor:
    """``(K, L, D)``: the moves, one standard deviation long each, that an edit is made of.

    Raises:
        UserInputError: For an edit that has none.
    """
    if isinstance(edit, Direction):
        return edit.apply(torch.zeros(1, *shape), {"strength": torch.ones(1)})
    axes = getattr(edit, "axes", None)
    if not isinstance(axes, Tensor):
        raise UserInputError(f"edit {edit.name!r} is a {type(edit).__name__}; expected one that moves along directions")
    return axes


def orthonormal(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(K, M)`` -> ``(K, R)``, an orthonormal basis of what they span, R <= M.

    From the singular value decomposition: QR alone gives M vectors also where fewer are independent.
    """
    lengths = np.linalg.norm(vectors, axis=0)
    scaled = vectors[:, lengths > 0] / lengths[lengths > 0]
    left, values, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, values > _DEPENDENT]  # type: ignore[no-any-return]


def freed(vector: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector of unit length without its part along an orthonormal ``basis (K, R)``.

    Conditional manipulation (InterFaceGAN, arXiv 1907.10786, section 2.2, for one condition), for a set of them.

    Raises:
        UserInputError: If nothing is left.
    """
    unit = vector / np.linalg.norm(vector)
    for _ in range(2):  # once more takes away what rounding left (Kahan's "twice is enough")
        unit = unit - basis @ (basis.T @ unit)
    length = np.linalg.norm(unit)
    if length < _NOTHING:
        raise UserInputError("the direction lies among those that it shall be free of, and nothing is left of it")
    return unit / length  # type: ignore[no-any-return]
