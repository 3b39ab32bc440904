"""What all style-based generators share: rows of latents into the synthesis network, and a fingerprint."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ganaug.interfaces import LatentSpec, Noise


class StyleBased(nn.Module):
    """Base of generators that turn ``w_plus (B, L, D)`` into images through a :class:`Synthesis` network.

    A family adds ``mapping``, ``z_dim`` and ``w_avg``, and sets the attributes below.

    Attributes:
        family: Key in ``GENERATORS``.
        config: Dataclass of the architecture.
        latent_spec: Layout of ``w_plus``.
        img_resolution: Height and width in pixels.
        synthesis_network: Called as ``(w_plus, noise, dtype)``.
    """

    family: str
    config: Any
    latent_spec: LatentSpec
    img_resolution: int
    synthesis_network: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._fingerprint: tuple[int, str] | None = None

    def synthesis(self, w_plus: Tensor, noise: Noise = "const") -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B, 3, H, W)`` float32; see :meth:`Generator.synthesis`.

        Raises:
            ValueError: For latents of another shape or an unknown ``noise``.
        """
        if w_plus.ndim != 3 or tuple(w_plus.shape[1:]) != self.latent_spec.shape:
            raise ValueError(
                f"expected w_plus of shape (B, {self.latent_spec.num_ws}, "
                f"{self.latent_spec.w_dim}), got {tuple(w_plus.shape)}"
            )
        if noise not in ("const", "none", "random"):
            raise ValueError(f"noise must be 'const', 'none' or 'random', got {noise!r}")
        # On CUDA the convolutions run in bfloat16 (tensor cores, same exponent range as float32); float32 on CPU.
        dtype = torch.bfloat16 if w_plus.is_cuda else None
        images: Tensor = self.synthesis_network(w_plus.float(), noise, dtype)
        return images

    def architecture(self) -> dict[str, Any]:
        """What the fingerprint covers beside the weights."""
        return {"family": self.family, **asdict(self.config)}

    @property
    def fingerprint(self) -> str:
        """sha256 over the architecture and every tensor's name, shape and float32 bytes."""
        version = sum(int(t._version) for t in (*self.parameters(), *self.buffers()))
        if self._fingerprint is None or self._fingerprint[0] != version:
            digest = hashlib.sha256(json.dumps(self.architecture(), sort_keys=True).encode())
            for name, tensor in sorted(self.state_dict().items()):
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
            self._fingerprint = (version, digest.hexdigest())
        return self._fingerprint[1]
