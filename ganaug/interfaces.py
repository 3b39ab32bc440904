"""The contracts. Read this file first: every other file either fulfils one of these or receives one.

Images inside the package are ``(B, 3, H, W)`` float32 in ``[-1, 1]``; latents are ``w_plus`` ``(B, L, D)`` with
``L = num_ws`` rows of ``D = w_dim`` numbers, whatever family the generator is of.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ganaug.errors import CacheError, CheckpointError, GanaugError, ImageError, UserInputError

__all__ = [
    "NUM_EDIT_UNIFORMS",
    "CacheError",
    "CheckpointError",
    "Edit",
    "Embedder",
    "GanaugError",
    "Generator",
    "ImageError",
    "Inversion",
    "Inverter",
    "LatentSpec",
    "Noise",
    "UserInputError",
    "resolve_device",
]

Noise = Literal["const", "none", "random"]


@dataclass(frozen=True)
class LatentSpec:
    """What a generator's latents look like.

    Attributes:
        space: Name of the space, ``"w_plus"`` for StyleGAN-like generators.
        num_ws: Number of rows L.
        w_dim: Numbers per row D.
        parts: For generators with facial parts: which rows each part owns. Empty otherwise.

    Example:
        >>> LatentSpec("w_plus", num_ws=10, w_dim=256).shape
        (10, 256)
    """

    space: str
    num_ws: int
    w_dim: int
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """``(L, D)``, the shape of one sample's latents."""
        return (self.num_ws, self.w_dim)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, so that it can be stored as JSON."""
        spec = asdict(self)
        spec["parts"] = {name: list(rows) for name, rows in self.parts.items()}
        return spec

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> "LatentSpec":
        """Inverse of :meth:`to_dict`."""
        parts = {name: tuple(rows) for name, rows in spec.get("parts", {}).items()}
        return cls(str(spec["space"]), int(spec["num_ws"]), int(spec["w_dim"]), parts)


@runtime_checkable
class Generator(Protocol):
    """Latents to images. Implementations are ``torch.nn.Module`` s in eval mode without gradients on their weights.

    Attributes:
        latent_spec: Layout of ``w_plus``.
        img_resolution: Height and width of the images, in pixels.
        z_dim: Size of the Gaussian input of ``mapping``.
        w_avg: ``(D,)``, mean of W.
        fingerprint: sha256 (hex) of all weights and of the architecture; equal if and only if the generator is.
    """

    latent_spec: LatentSpec
    img_resolution: int
    z_dim: int

    @property
    def w_avg(self) -> Tensor: ...

    @property
    def fingerprint(self) -> str: ...

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """``z (B, z_dim)`` ~ N(0, I), optional condition ``c`` -> ``w_plus (B, L, D)``."""
        ...

    def synthesis(self, w_plus: Tensor, noise: Noise = "const") -> Tensor:
        """``w_plus (B, L, D)`` -> images ``(B, 3, H, W)`` float32, nominally in [-1, 1] (not clamped)."""
        ...


@dataclass
class Inversion:
    """What an inverter found.

    Attributes:
        w_plus: ``(B, L, D)`` float32.
        anchor: ``(B, L, D)`` float32, a code near ``w_plus`` inside the region where the generator was trained, or None
            if ``w_plus`` lies there itself. Edits move the anchor and add the move to ``w_plus``: a code that was
            optimised for one photo reconstructs it best, but swapping rows of two such codes gives smears.
        quality: Name -> ``(B,)`` float32 tensor: at least ``mse`` (of images in [0, 1]), ``psnr`` (dB) and ``ssim``.
        delta: ``(B, P)`` float32, what was tuned in the generator for each image, in the layout that
            :attr:`Inverter.delta` describes; None if the generator draws all images as it is.
    """

    w_plus: Tensor
    quality: dict[str, Tensor]
    anchor: Tensor | None = None
    delta: Tensor | None = None


@runtime_checkable
class Inverter(Protocol):
    """Photos to latents, always batched; a row depends on nothing but its own image.

    Attributes:
        name: Name in ``INVERTERS``.
        anchored: Whether inversions come with an anchor.
        quality_names: Keys of :attr:`Inversion.quality`, in the order in which records hold them.
        delta: JSON-able layout of :attr:`Inversion.delta`, with its length under ``"size"``; None if there is none.
        refills: Whether images leave before others, and waiting ones take their places: then :meth:`invert` should be
            given several batches at once.
    """

    name: str
    anchored: bool
    quality_names: tuple[str, ...]
    refills: bool

    @property
    def delta(self) -> dict[str, Any] | None: ...

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings that decide the result; written into the cache's header."""
        ...

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        """``images (N, 3, H, W)`` float32 in [-1, 1] at the generator's resolution, ``batch_size`` of them at a time.

        Args:
            images: Photos, on the inverter's device or on the CPU.
            batch_size: Images that are worked on together; None: all of them.
        """
        ...


@runtime_checkable
class Edit(Protocol):
    """Latents to latents, pure: the same arguments give the same result and nothing is written in place.

    Attributes:
        name: Key under which policies ask for it.
        touches: Attributes and parts that the edit may change ("hair", "lighting", "identity", ...). A policy refuses
            an edit that touches what it was asked to preserve.
        needs_partner: Whether ``params`` must hold ``partner (B, L, D)``.
        needs_label: Optional; True if ``params`` must hold ``label (B,)`` float32, the number of each sample's class.
            With ``num_labels``, an edit that is given a number not below it is refused.
    """

    name: str
    touches: frozenset[str]
    needs_partner: bool

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        """Turns ``uniforms (B, NUM_EDIT_UNIFORMS)`` in [0, 1) into the edit's parameters, one row per sample."""
        ...

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``w_plus (B, L, D)`` and one row of ``params`` per sample -> edited ``w_plus (B, L, D)``."""
        ...


# Uniform numbers that a policy hands to every edit for one sample. Fixed, so that adding a parameter to one edit does
# not move the draws of another.
NUM_EDIT_UNIFORMS = 16


@runtime_checkable
class Embedder(Protocol):
    """Images to unit vectors, for identity and for perceptual comparison."""

    embedding_dim: int

    def __call__(self, images: Tensor) -> Tensor:
        """``images (B, 3, H, W)`` in [-1, 1] -> ``(B, embedding_dim)`` of unit length."""
        ...


def resolve_device(device: str | torch.device) -> torch.device:
    """Turns a device name into a device that this machine really has.

    Raises:
        UserInputError: For an unknown name, or CUDA asked for where there is none.
    """
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserInputError(f"unknown device {device!r}: expected 'cpu', 'cuda' or 'cuda:N'") from error
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise UserInputError(
                f"device {str(device)!r} was asked for, but this torch sees no CUDA device; use device='cpu'"
            )
        count = torch.cuda.device_count()
        if resolved.index is not None and resolved.index >= count:
            raise UserInputError(f"device {str(device)!r} was asked for, but there are only {count} CUDA device(s)")
    return resolved
