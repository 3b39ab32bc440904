"""SemanticStyleGAN: a face put together from parts, each with codes of its own (arXiv 2112.02236).

A mapping network as StyleGAN2's; a local generator for each part, fused by depth (``semantic_local.py``); a render net
that turns the fused features into an image and its segmentation (``semantic_render.py``).

Rows of ``w_plus``: the first ``base_layers`` rows are the coarse structure that all parts but the background share;
then two rows a part, its shape and its texture. Sampling gives equal rows, as for StyleGAN2; an edit gives a part its
own.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from ganaug.generators.mapping import MappedGenerator, MappingNetwork
from ganaug.generators.semantic_local import LocalGenerators
from ganaug.generators.semantic_render import RenderNet
from ganaug.interfaces import LatentSpec, Noise

# Parts of the models for CelebAMask-HQ, in the order of their segmentation's channels. What is left of its 19 classes
# is merged: skin is "face", both lips are "mouth".
FACE_PARTS = (
    "background", "face", "eye", "eyebrow", "mouth", "nose", "ear", "hair", "neck", "cloth", "glasses", "hat",
    "earring",
)  # fmt: skip


@dataclass(frozen=True)
class SemanticStyleGANConfig:
    """Architecture of a SemanticStyleGAN generator; the defaults are the published 512 px models.

    Attributes:
        img_resolution: Height and width in pixels, a power of two from 8 up.
        w_dim: Size of z and of one row of latents.
        mapping_layers: Fully connected layers of the mapping network.
        num_parts: Channels of the segmentation; part 0 is the background.
        local_layers: Layers of a part's local generator.
        base_layers: First of these, which all parts but the background feed with the same rows.
        depth_layers: Layers before the depth map is read off. Those before it take the shape's row, the others the
            texture's.
        local_channels: Feature maps of a local generator.
        coarse_resolution: Of the local generators' feature maps.
        coarse_channels: Feature maps after fusion.
        channels: Feature maps of the render net's blocks. Each doubles the resolution, the last to ``img_resolution``.
        residual_refine: The render net refines the coarse segmentation instead of making its own.
        transparent: Parts through which those behind remain visible.
    """

    img_resolution: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    num_parts: int = 13
    local_layers: int = 10
    base_layers: int = 2
    depth_layers: int = 6
    local_channels: int = 64
    coarse_resolution: int = 64
    coarse_channels: int = 512
    channels: tuple[int, ...] = (512, 512, 256, 128, 64)
    residual_refine: bool = True
    transparent: tuple[int, ...] = (10, 12)

    def __post_init__(self) -> None:
        size, coarse = self.img_resolution, self.coarse_resolution
        if size < 8 or size & (size - 1):
            raise ValueError(f"img_resolution must be a power of two from 8 up, got {size}")
        smallest = size >> len(self.channels)
        if not self.channels or smallest < 1:
            raise ValueError(f"{size} px cannot be reached by {len(self.channels)} doublings, one for each of channels")
        if not smallest < coarse < size or coarse % smallest:
            raise ValueError(
                f"coarse_resolution must be a multiple of {smallest} (where the render net starts) and less than "
                f"{size}, got {coarse}"
            )
        if not 0 <= self.base_layers <= self.depth_layers <= self.local_layers or self.local_layers < 1:
            raise ValueError(
                "layers of a local generator must satisfy 0 <= base_layers <= depth_layers <= local_layers, got "
                f"{self.base_layers}, {self.depth_layers} and {self.local_layers}"
            )
        if self.num_parts < 2:
            raise ValueError(f"num_parts must be at least 2, got {self.num_parts}")
        if not all(0 <= part < self.num_parts for part in self.transparent):
            raise ValueError(f"transparent parts must be from 0 to {self.num_parts - 1}, got {self.transparent}")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "SemanticStyleGANConfig":
        """Inverse of ``dataclasses.asdict``, after a trip through JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls(**values)

    @property
    def num_ws(self) -> int:
        """Rows of ``w_plus``: the shared ones and two for each part."""
        return self.base_layers + 2 * self.num_parts

    @property
    def row_of_layer(self) -> list[list[int]]:
        """Which row of ``w_plus`` each layer of each part takes, ``(K, N)``."""
        if self.num_ws == self.num_parts * self.local_layers:  # taken for a row of its own for each layer
            return [[part * self.local_layers + i for i in range(self.local_layers)] for part in range(self.num_parts)]
        table = []
        for part in range(self.num_parts):
            shape = self.base_layers + 2 * part
            row = [shape] * self.depth_layers + [shape + 1] * (self.local_layers - self.depth_layers)
            if part > 0:
                row[: self.base_layers] = range(self.base_layers)
            table.append(row)
        return table

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """Name of each part -> the rows that it alone takes: shape, texture."""
        known = self.num_parts == len(FACE_PARTS)
        names = FACE_PARTS if known else ("background", *(f"part{k}" for k in range(1, self.num_parts)))
        taken = Counter(row for layers in self.row_of_layer for row in set(layers))
        return {
            name: tuple(sorted(row for row in set(layers) if taken[row] == 1))
            for name, layers in zip(names, self.row_of_layer, strict=True)
        }


class SemanticSynthesis(nn.Module):
    """Codes to image and segmentation."""

    row_of_layer: Tensor

    def __init__(self, config: SemanticStyleGANConfig) -> None:
        super().__init__()
        self.local = LocalGenerators(
            num_parts=config.num_parts,
            num_layers=config.local_layers,
            depth_layers=config.depth_layers,
            channels=config.local_channels,
            out_channels=config.coarse_channels,
            w_dim=config.w_dim,
            num_frequencies=config.img_resolution.bit_length() - 1,
            resolution=config.coarse_resolution,
            transparent=config.transparent,
        )
        self.render = RenderNet(
            config.coarse_channels,
            config.channels,
            num_parts=config.num_parts,
            coarse_resolution=config.coarse_resolution,
            img_resolution=config.img_resolution,
            residual_refine=config.residual_refine,
        )
        self.register_buffer("row_of_layer", torch.tensor(config.row_of_layer), persistent=False)

    def expand(self, w_plus: Tensor) -> Tensor:
        """``(B, L, D)``, or ``(B, K * N, D)`` with a row for each layer of each part -> ``(B, K, N, D)``."""
        if w_plus.shape[1] == self.row_of_layer.numel():
            return w_plus.unflatten(1, tuple(self.row_of_layer.shape))
        return w_plus[:, self.row_of_layer]

    def forward(
        self,
        w_plus: Tensor,
        noise: Noise = "const",
        dtype: torch.dtype | None = None,
        rng: torch.Generator | None = None,
        return_parts: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """``w_plus`` -> images ``(B, 3, H, W)`` and part logits ``(B, K, H, W)`` (see ``return_parts``), float32.

        Args:
            w_plus: Codes, see :meth:`expand`.
            noise: Noise maps of the render net: the stored ones, none, or fresh ones.
            dtype: bfloat16 or float16 runs the render net's convolutions in it. The local generators stay in float32:
                a thousandth of depth decides which part a pixel belongs to.
            rng: Where fresh noise is drawn from; torch's global generator if None.
            return_parts: Whether logits are wanted; without, they have no channels.
        """
        features, masks = self.local(self.expand(w_plus))
        images, logits = self.render(features.to(dtype or features.dtype), masks, noise, rng, return_parts)
        return images, logits


class SemanticStyleGAN(MappedGenerator):
    """SemanticStyleGAN generator, fulfilling :class:`ganaug.interfaces.Generator`.

    Args:
        config: Architecture.

    Example:
        >>> config = SemanticStyleGANConfig(16, 8, 2, 3, 4, 1, 2, 4, 8, 8, (8, 8), transparent=())
        >>> generator = SemanticStyleGAN(config).eval().requires_grad_(False)
        >>> generator.latent_spec.parts
        {'background': (1, 2), 'part1': (3, 4), 'part2': (5, 6)}
        >>> w_plus = generator.mapping(torch.zeros(2, 8))
        >>> images, parts = generator.synthesis(w_plus, return_parts=True)
        >>> w_plus.shape, images.shape, parts.shape
        (torch.Size([2, 7, 8]), torch.Size([2, 3, 16, 16]), torch.Size([2, 3, 16, 16]))
    """

    family = "semantic_stylegan"
    config: SemanticStyleGANConfig

    def __init__(self, config: SemanticStyleGANConfig) -> None:
        super().__init__()
        self.config = config
        self.img_resolution = config.img_resolution
        self.z_dim = config.w_dim
        self.latent_spec = LatentSpec("w_plus", config.num_ws, config.w_dim, config.parts)
        self.map_network = MappingNetwork(config.w_dim, config.w_dim, config.mapping_layers)
        self.synthesis_network = SemanticSynthesis(config)

    @overload
    def synthesis(self, w_plus: Tensor, noise: Noise = "const", return_parts: Literal[False] = False) -> Tensor: ...

    @overload
    def synthesis(self, w_plus: Tensor, noise: Noise, return_parts: Literal[True]) -> tuple[Tensor, Tensor]: ...

    @overload
    def synthesis(
        self, w_plus: Tensor, noise: Noise = "const", *, return_parts: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def synthesis(
        self, w_plus: Tensor, noise: Noise = "const", return_parts: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``w_plus`` -> images ``(B, 3, H, W)`` float32, nominally in [-1, 1]; see :meth:`Generator.synthesis`.

        Args:
            w_plus: ``(B, L, D)`` (L = 28 in the published models), or ``(B, K * N, D)`` with a row for each layer of
                each part (13 * 10 = 130).
            noise: Noise maps of the render net.
            return_parts: Return ``(images, logits (B, K, H, W))``: the part of a pixel is the largest of its K logits,
                in the order of ``latent_spec.parts``.

        Raises:
            ValueError: For latents of another shape or an unknown ``noise``.
        """
        self.check_arguments(w_plus, noise, self.config.num_parts * self.config.local_layers)
        dtype = torch.bfloat16 if w_plus.is_cuda else None
        images, logits = self.synthesis_network(w_plus.float(), noise, dtype, return_parts=return_parts)
        return (images, logits) if return_parts else images
