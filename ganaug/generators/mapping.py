"""The mapping network f: Z -> W, and what every generator with one has in common."""

import torch
from torch import Tensor, nn

from ganaug.generators.condition import embed_condition, normalize_second_moment, refuse_condition
from ganaug.generators.style_based import StyleBased
from ganaug.layers import EqualLinear


class MappingNetwork(nn.Module):
    """Mapping network f: Z -> W (arXiv 1812.04948, section 2); input normalised to unit second moment.

    With a condition, z stands beside a learnt linear embedding of c as wide as w; each of the two is normalised by
    itself (class-conditional configuration of arXiv 2006.06676).

    Args:
        z_dim: Numbers in z.
        w_dim: Numbers in w, and in the embedding of c.
        num_layers: Fully connected layers.
        c_dim: Numbers in c; 0 for none.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, num_layers: int, c_dim: int = 0) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.embed = EqualLinear(c_dim, w_dim) if c_dim else None
        in_features = z_dim + w_dim if c_dim else z_dim
        for i in range(num_layers):
            layer = EqualLinear(in_features if i == 0 else w_dim, w_dim, lr_multiplier=0.01, activate=True)
            self.add_module(f"fc{i}", layer)
        # Mean over z and over the conditions as often as the training set has them.
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """``z (B, z_dim)``, ``c (B, c_dim)`` if the network is conditional -> ``w (B, w_dim)``.

        Raises:
            ValueError: For a condition that is missing, not expected, or of another shape.
        """
        x = normalize_second_moment(z)
        if self.embed is None:
            refuse_condition(c)
        else:
            x = torch.cat([x, embed_condition(self.embed, c, z.shape[0])], dim=1)
        for i in range(self.num_layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class MappedGenerator(StyleBased):
    """Base of generators whose W is what a mapping network makes of Gaussian z.

    Attributes:
        z_dim: Numbers in z.
        c_dim: Numbers in a condition; 0 for an unconditional generator.
        map_network: The network, with the mean of W.
    """

    z_dim: int
    c_dim: int = 0
    map_network: MappingNetwork

    @property
    def w_avg(self) -> Tensor:
        """``(D,)``: mean of W, tracked in training."""
        return self.map_network.w_avg

    @property
    def label_sizes(self) -> tuple[int, ...]:
        """Classes of each label in a condition; empty for an unconditional generator."""
        return (self.c_dim,) if self.c_dim else ()

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        """``z (B, z_dim)`` -> ``w_plus (B, L, D)``, all rows equal; see :meth:`Generator.mapping`.

        Args:
            z: Gaussian input.
            c: ``(B, c_dim)`` condition, see :class:`ganaug.training.conditions.Conditions`; None for an unconditional
                generator.
            truncation_psi: 1 leaves w as it is, 0 gives ``w_avg``, the mean over all conditions.

        Raises:
            ValueError: For a condition that is missing, not expected, or of another shape.
        """
        w = self.map_network(z, c)
        if truncation_psi != 1.0:
            w = torch.lerp(self.w_avg, w, truncation_psi)
        return w[:, None].repeat(1, self.latent_spec.num_ws, 1)
