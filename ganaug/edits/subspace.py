"""What moves of latents can be freed of: a subspace that something is read from."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.edits.whitening import Whitening, orthonormal
from ganaug.interfaces import UserInputError


@dataclass(frozen=True)
class Subspace:
    """A subspace of whitened coordinates, and the orthogonal projection away from it.

    Whatever is read off a code linearly inside the subspace, ``<coordinates, basis @ anything>``, is the same before
    and after a move from which the subspace was removed (nullspace projection, arXiv 2004.07667, section 4). Taken
    among whitened coordinates, that changes a code the least (arXiv 2306.03819, theorem 4.3).

    Attributes:
        whitening: The coordinates.
        basis: ``(K, R)`` orthonormal.
    """

    whitening: Whitening
    basis: NDArray[np.float64]

    @cached_property
    def _read(self) -> Tensor:
        """``(F, R)`` float64: flat move -> its coordinates in the subspace."""
        return torch.from_numpy((self.whitening.axes / self.whitening.std[:, None]).T @ self.basis)

    @cached_property
    def _write(self) -> Tensor:
        """``(R, F)`` float64: coordinates in the subspace -> flat move."""
        return torch.from_numpy(self.basis.T @ (self.whitening.axes * self.whitening.std[:, None]))

    def to(self, device: torch.device) -> Self:
        """A copy whose tensors are on a device."""
        moved = copy.copy(self)
        moved.__dict__.update(_read=self._read.to(device), _write=self._write.to(device))
        return moved

    def remove(self, move: Tensor) -> Tensor:
        """``move (B, L, D)`` without its part in the subspace; what lies beside the coordinates stays.

        In float64: the last bits of float32 products depend on how many rows there are, and a replayed sample is alone.
        """
        flat = move.flatten(1).double()
        freed = flat - (flat @ self._read.to(flat.device)) @ self._write.to(flat.device)
        return freed.view_as(move).to(move.dtype)

    def share(self, moves: Tensor) -> float:
        """Share of the squared length of moves, in whitened coordinates, that lies in the subspace.

        Args:
            moves: ``(L, D)``, or ``(B, L, D)`` of which the squared lengths are added up.

        Returns:
            In [0, 1]; 0 for moves of no length.
        """
        flat = moves.detach().cpu().reshape(-1, len(self.whitening.mean)).double().numpy()
        if not np.isfinite(flat).all():
            raise UserInputError("moves that are not finite have no share in a subspace")
        coordinates = flat @ (self.whitening.axes / self.whitening.std[:, None]).T
        length = float(np.square(coordinates).sum())
        return float(np.square(coordinates @ self.basis).sum()) / length if length > 0.0 else 0.0

    def joined(self, *others: "Subspace") -> "Subspace":
        """The subspace that this one and others span together; all in the same coordinates."""
        return Subspace(self.whitening, orthonormal(np.hstack([self.basis, *(other.basis for other in others)])))
