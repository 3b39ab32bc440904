"""The identity embedder as it is trained: batch norms after its convolutions, which are folded in at the end."""

import copy
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ganaug.embedders import EmbedderArchitecture, FaceEmbedder


class EmbedderNetwork(nn.Module):
    """:class:`ganaug.embedders.FaceEmbedder` with batch norms (arXiv 1502.03167).

    The last one stands after the linear layer, so that all embedding dimensions carry equal weight (as in ArcFace,
    arXiv 1801.07698, section 3.2.2).

    Args:
        architecture: Shape of the network.
    """

    def __init__(self, architecture: EmbedderArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        steps: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise((3, *architecture.channels))):
            steps += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            steps += [NormedBlock(after)] if stage else []
        self.trunk = nn.Sequential(*steps)
        width = architecture.channels[-1] * architecture.final_side**2
        self.fc = nn.Linear(width, architecture.embedding_dim)
        self.norm = nn.BatchNorm1d(architecture.embedding_dim)
        num_logits = sum(map(len, architecture.attributes.values()))
        self.heads = nn.Linear(architecture.embedding_dim, num_logits) if num_logits else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(B, 3, R, R)`` in [-1, 1] -> features ``(B, D)``, not of unit length, and logits of the heads."""
        features = self.norm(self.fc(self.trunk(images).flatten(1)))
        return features, None if self.heads is None else self.heads(F.relu(features))

    def folded(self, template: str | None, threshold: float = 0.0) -> FaceEmbedder:
        """The same function in the form that ships; this network stays as it is."""
        network = copy.deepcopy(self).cpu().eval()
        embedder = FaceEmbedder(self.architecture, template, threshold).eval()
        downs = [step for step in network.trunk if isinstance(step, nn.Conv2d)]
        norms = [step for step in network.trunk if isinstance(step, nn.BatchNorm2d)]
        blocks = [step for step in network.trunk if isinstance(step, NormedBlock)]
        embedder.downs = nn.ModuleList(map(fuse_conv_bn_eval, downs, norms))
        for folded, block in zip(embedder.blocks, blocks, strict=True):
            folded.a = fuse_conv_bn_eval(block.a, block.a_norm)
            folded.b = fuse_conv_bn_eval(block.b, block.b_norm)
        embedder.fc = fuse_linear_bn_eval(network.fc, network.norm)  # type: ignore[assignment]
        embedder.heads = network.heads
        return embedder.requires_grad_(False)


class NormedBlock(nn.Module):
    """:class:`ganaug.embedders.ResidualBlock` with a batch norm after each convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.a_norm = nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.b_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        return F.relu(x + self.b_norm(self.b(F.relu(self.a_norm(self.a(x))))))
