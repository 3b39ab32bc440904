"""What all style-based generators share: rows of latents into the synthesis network, and a fingerprint."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ganaug.generators.deltas import Delta, DeltaLayout
from ganaug.generators.prior import LatentPrior
from ganaug.interfaces import LatentSpec, Noise
from ganaug.precision import fast_dtype

MEAN_LATENT = "map_network.w_avg"


class StyleBased(nn.Module):
    """Base of generators that turn ``w_plus (B, L, D)`` into images through a :class:`Synthesis` network.

    A family adds ``mapping``, ``z_dim`` and ``w_avg``, and sets the attributes below.

    Attributes:
        family: Key in ``GENERATORS``.
        config: Dataclass of the architecture.
        latent_spec: Layout of ``w_plus``.
        img_resolution: Height and width in pixels.
        synthesis_network: Called as ``(w_plus, noise, dtype)``.
        prior: Distribution of the codes of photos, where the model file has one; not part of the weights.
        mean_latent: How ``w_avg`` was estimated (``seed``, ``num_samples``) where the file had none; None if it had.
        tuned_from: Fingerprints of the generators that this one says it was tuned from (``ganaug tune``), its own base
            first. It has their mapping network, so their directions are its own.
    """

    family: str
    config: Any
    latent_spec: LatentSpec
    img_resolution: int
    synthesis_network: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.mean_latent: dict[str, int] | None = None
        self.prior: LatentPrior | None = None
        self.tuned_from: tuple[str, ...] = ()
        self._cached: tuple[tuple[int, tuple[int, ...], str], str, str] | None = None

    def synthesis(self, w_plus: Tensor, noise: Noise = "const") -> Tensor:
        """``w_plus (B, L, D)`` -> ``(B, 3, H, W)`` float32; see :meth:`Generator.synthesis`.

        Raises:
            ValueError: For latents of another shape or an unknown ``noise``.
        """
        return self._draw(w_plus, noise)

    def _draw(self, w_plus: Tensor, noise: Noise, **options: Any) -> Tensor:
        self.check_arguments(w_plus, noise)
        # On CUDA the convolutions run in bfloat16 (tensor cores, same exponent range as float32); on the CPU
        # in float32, unless speed was asked for.
        dtype = torch.bfloat16 if w_plus.is_cuda else fast_dtype(w_plus.device)
        images: Tensor = self.synthesis_network(w_plus.float(), noise, dtype, **options)
        return images

    def check_arguments(self, w_plus: Tensor, noise: str, expanded: int | None = None) -> None:
        """Refuses what no synthesis can work with.

        Args:
            w_plus: Should be ``(B, L, D)``.
            noise: Should be one of :data:`ganaug.interfaces.Noise`.
            expanded: Another number of rows that will do, too.

        Raises:
            ValueError: Saying what was got and what was expected.
        """
        num_ws, w_dim = self.latent_spec.shape
        if w_plus.ndim != 3 or w_plus.shape[1] not in (num_ws, expanded) or w_plus.shape[2] != w_dim:
            also = "" if expanded is None else f" or (B, {expanded}, {w_dim})"
            raise ValueError(f"expected w_plus of shape (B, {num_ws}, {w_dim}){also}, got {tuple(w_plus.shape)}")
        if noise not in ("const", "none", "random"):
            raise ValueError(f"noise must be 'const', 'none' or 'random', got {noise!r}")

    def architecture(self) -> dict[str, Any]:
        """What the fingerprint covers beside the weights."""
        return {"family": self.family, **asdict(self.config)}

    @property
    def fingerprint(self) -> str:
        """sha256 over the architecture and every tensor's name, shape and float32 bytes.

        Of an estimated mean latent it covers the recipe, ``mean_latent``, and not the numbers: another machine's
        estimate differs in its last bits.
        """
        return self._fingerprints()[0]

    @property
    def weights_fingerprint(self) -> str:
        """sha256 over every tensor but the mean latent: the same for two files of the same weights.

        Published files of one network differ in what they say beside the weights: rosinality's have no clamp, and their
        training files no mean latent.
        """
        return self._fingerprints()[1]

    def _fingerprints(self) -> tuple[str, str]:
        state = {**self.state_dict(keep_vars=True)}
        # Where tensors lie, too: a copy of this object counts its changes anew.
        places = tuple(t.data_ptr() for t in state.values())
        recipe = json.dumps(self.mean_latent, sort_keys=True)
        version = (sum(int(t._version) for t in state.values()), places, recipe)
        if self._cached is None or self._cached[0] != version:
            described = json.dumps(self.architecture(), sort_keys=True)
            if self.mean_latent is not None:
                described += recipe
            digest, weights = hashlib.sha256(described.encode()), hashlib.sha256()
            for name, tensor in sorted(state.items()):
                covered = [digest, weights] if name != MEAN_LATENT else [] if self.mean_latent is not None else [digest]
                for each in covered:
                    each.update(f"{name}{tuple(tensor.shape)}".encode())
                    each.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
            self._cached = (version, digest.hexdigest(), weights.hexdigest())
        return self._cached[1:]


class DeltaBased(StyleBased):
    """Base of those that draw with a change of weights of each image's own, see :mod:`ganaug.generators.deltas`."""

    def synthesis(self, w_plus: Tensor, noise: Noise = "const", delta: Delta | None = None) -> Tensor:
        """As :meth:`StyleBased.synthesis`; ``delta`` is what :meth:`DeltaLayout.bind` makes of ``(B, P)`` numbers."""
        return self._draw(w_plus, noise) if delta is None else self._draw(w_plus, noise, delta=delta)

    def delta_layout(
        self,
        ranks: Mapping[str, int] | int | None = None,
        *,
        torgb: bool = True,
        noise: bool | Sequence[str] | None = None,
    ) -> DeltaLayout:
        """Layout of such changes; arguments as for :meth:`ganaug.generators.deltas.DeltaLayout.build`."""
        return DeltaLayout.build(self, ranks, torgb=torgb, noise=noise)
