"""How close an inversion came, per image: in pixels, and as networks see it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor, nn

from ganaug import checkpoints
from ganaug.embedders import load_embedder
from ganaug.faces.align import to_unit_range
from ganaug.faces.framing import framed, framing_of, network_to_chip
from ganaug.faces.templates import template_of
from ganaug.features import PerceptualFeatures, feature_distance, load_perceptual_features
from ganaug.interfaces import Embedder, Generator

QUALITY_NAMES = ("mse", "psnr", "ssim")

# PSNR of two equal images is infinite; records hold finite numbers, and 8-bit images cannot be closer than this.
MAX_PSNR_DB = 60.0

JUDGES = "faces64"  # whose perceptual features serve models that hold none
_AT_ONCE = 64  # pairs that the networks see at a time; bounds their memory
# Feature maps of more leave the caches: a pair of 64 px cost 7.0 ms where 16 were seen at a time and 9.0 where 64 (one
# core, the bundled networks).
_AT_ONCE_CPU = 16
_DIGITS = 12  # of a sha256, enough to tell networks apart


@torch.no_grad()
def reconstruction_quality(reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Distance of reconstructions from their photos.

    Args:
        reconstructions: ``(B, 3, H, W)`` in [-1, 1].
        images: ``(B, 3, H, W)`` in [-1, 1].

    Returns:
        ``mse`` of images in [0, 1], ``psnr`` in dB (at most 60) and ``ssim`` (11x11 Gaussian window, Wang et al. 2004),
        each ``(B,)``; NaN for an image that is not finite.
    """
    x, y = to_unit_range(reconstructions), to_unit_range(images)
    mse = (x - y).square().mean(dim=(1, 2, 3))
    psnr = (-10.0 * mse.log10()).clamp(max=MAX_PSNR_DB)
    return {"mse": mse, "psnr": psnr, "ssim": ssim(x, y, window_size=11, padding="valid").mean(dim=(1, 2, 3))}


def require_chips(images: Tensor, generator: Generator) -> None:
    """Raises ValueError unless ``images`` are ``(B, 3, H, W)`` of the generator's size."""
    size = generator.img_resolution
    if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
        raise ValueError(f"expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}")


class QualityJudge:
    """What is measured of every inversion: distance in pixels, and what networks say if there are any.

    The networks see pictures as they would be shown, within [-1, 1]. A row depends on its own two pictures alone, up to
    the rounding of another batch size; one that is not finite gives NaN.

    Args:
        features: For ``perceptual``: :func:`ganaug.features.feature_distance` between the two, 0 to 4; None to leave it
            out.
        embedder: For ``identity``: cosine of the two embeddings, -1 to 1; None to leave it out. In eval mode; its
            ``template`` and ``img_resolution``, if it has them, say how it wants to see faces.
        template: Where faces lie in the generator's chips, a key of :data:`ganaug.faces.templates.TEMPLATES`; None
            where nobody knows: then the embedder sees the whole chip.
        features_of: Name of the model whose features these are, for ``settings``.
        embedder_of: Name of the embedder, likewise.

    Attributes:
        names: Keys of what :meth:`__call__` returns, in order: ``mse``, ``psnr``, ``ssim``, and ``perceptual`` and
            ``identity`` where there is a network for them.

    Raises:
        UserInputError: For an embedder in training mode, or an unknown template.
    """

    def __init__(
        self,
        features: PerceptualFeatures | None = None,
        embedder: Embedder | None = None,
        *,
        template: str | None = None,
        features_of: str = "features",
        embedder_of: str = "embedder",
    ) -> None:
        self.features, self.embedder, self.template = features, embedder, template
        self._wanted = framing_of(embedder, what="the embedder")
        told = [] if features is None else ["perceptual"]
        self.names: tuple[str, ...] = (*QUALITY_NAMES, *told, *([] if embedder is None else ["identity"]))
        networks = (("perceptual", features, features_of), ("identity", embedder, embedder_of))
        self._settings: dict[str, Any] = {
            name: f"{of} {_digest(net)}".strip() for name, net, of in networks if net is not None
        }
        if embedder is not None:
            self._settings |= {"template": template, "same_person": getattr(embedder, "threshold", None)}

    @property
    def settings(self) -> dict[str, Any]:
        """``{"judge": ...}``, JSON-able: which networks judge, by name and sha256. Empty without any.

        With an embedder, ``template`` is the framing of the chips and ``same_person`` the least cosine of one person,
        where these are known.
        """
        return {"judge": dict(self._settings)} if self._settings else {}

    @torch.no_grad()
    def __call__(self, reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` in [-1, 1] each -> name -> ``(B,)`` float32."""
        size = _AT_ONCE_CPU if images.device.type == "cpu" else _AT_ONCE
        told = [self._judge(*pair) for pair in zip(reconstructions.split(size), images.split(size), strict=True)]
        return {name: torch.cat([part[name] for part in told]) for name in self.names}

    @torch.no_grad()
    def of_drawn(
        self, draw: Callable[[slice], Tensor], images: Tensor, at_once: int, device: torch.device
    ) -> dict[str, Tensor]:
        """The same of reconstructions that are drawn a part at a time.

        Args:
            draw: Rows -> their reconstructions ``(K, 3, H, W)`` in [-1, 1], on ``device``.
            images: ``(B, 3, H, W)`` in [-1, 1], on any device.
            at_once: Rows that are drawn together.
            device: Where the networks are.
        """
        parts = [slice(first, first + at_once) for first in range(0, len(images), at_once)]
        told = [self(draw(part), images[part].to(device)) for part in parts]
        return {name: torch.cat([rows[name] for rows in told]) for name in self.names}

    def _judge(self, reconstructions: Tensor, images: Tensor) -> dict[str, Tensor]:
        told = reconstruction_quality(reconstructions, images)
        both = torch.cat([reconstructions, images]).float().clamp(-1.0, 1.0)
        if self.features is not None:
            maps = [layer.chunk(2) for layer in self.features(both)]
            # Of equal pictures, rounding may leave a little less than nothing.
            told["perceptual"] = feature_distance(*zip(*maps, strict=True)).clamp(min=0.0)
        if self.embedder is not None:
            seen, real = F.normalize(self.embedder(self._framed(both)).float(), dim=1).chunk(2)
            told["identity"] = (seen * real).sum(dim=1)
        return told

    def _framed(self, chips: Tensor) -> Tensor:
        """Chips ``(K, 3, R, R)`` in [-1, 1] as the embedder wants to see them."""
        wanted, size = self._wanted[0], self._wanted[1] or chips.shape[2]
        places = network_to_chip(wanted, size, self.template, chips.shape[2]).float()
        return framed(to_unit_range(chips), places.expand(len(chips), 2, 3), size)


def make_judge(
    model: str | Path | checkpoints.Model,
    embedder: str | Path | None = "identity64",
    device: str | torch.device = "cpu",
    template: str | None = None,
) -> QualityJudge:
    """The judge of a generator's inversions.

    Args:
        model: Model that the generator came from: its perceptual features judge, and the bundled model's where it has
            none.
        embedder: Name or file, see :func:`ganaug.embedders.load_embedder`; None to leave identity out.
        device: Where to judge.
        template: Where faces lie in the chips, of the cache's alignment; None: where the model says.

    Raises:
        CheckpointError: For a missing or damaged file.
        UserInputError: For an embedder that cannot be had.
    """
    opened = checkpoints.open_model(model)
    own = "features" in opened.parts
    name = Path(model).name if isinstance(model, str | Path) else opened.path.name
    return QualityJudge(
        load_perceptual_features(opened if own else JUDGES, device),
        None if embedder is None else cast(Embedder, load_embedder(embedder, device)),
        template=template_of(opened.description) if template is None else template,
        features_of=Path(name).stem if own else JUDGES,
        embedder_of="" if embedder is None else Path(embedder).stem,
    )


def _digest(network: object) -> str:
    """The first digits of the sha256 over all weights; empty for what is no module."""
    if not isinstance(network, nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]
