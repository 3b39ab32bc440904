"""How the loss of inversion curves on average: which directions of a code matter, and how much.

Near a photo's code the loss is about ``(c - c*)^T H (c - c*) / 2`` with the Gauss-Newton matrix ``H = 2 J^T J``, where
``J`` is the derivative by the code of everything that is compared with the photo: pixels, and activations scaled to
unit length (:func:`ganaug.features.feature_distance`). Its eigenvalues span many powers of ten, as found for GANs'
image metrics in arXiv 2101.06006, which also found that the top directions are shared by all images of a generator. So
the mean of ``H`` over codes is worth knowing: coordinates in which it is the identity need a fraction of the steps
(:mod:`ganaug.inversion.quasi_newton`).

``J^T v`` of Gaussian ``v`` costs one backward pass, and its second moment is ``J^T J``. Each code counts alike: their
matrices are scaled to the same trace before they are averaged, since a step's length is found for each photo anyway,
and high contrast would otherwise decide. In a trial this lowered the error after 60 steps by 1.5 %.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from ganaug.checkpoints import ASSETS
from ganaug.errors import CheckpointError
from ganaug.features import PerceptualFeatures
from ganaug.interfaces import Generator
from ganaug.inversion.encoder import Encoder
from ganaug.latents import draw_latents
from ganaug.precision import fast_convolutions, fast_dtype

FORMAT = "ganaug-curvature-1"
SUFFIX = ".curvature.safetensors"

# Costs as much as inverting some 25 photos by 64 steps.
NUM_CODES, NUM_PROJECTIONS = 256, 8
NUM_AXES = 512  # 768 gave faces64 no lower error
AT_ONCE = 16
# Eigenvalue of all directions without an axis of their own, by the least eigenvalue with one. Such directions cannot be
# left out: with only the 1,024 of faces64 that matter most, 40 steps gave a 9 % higher error. Neither may they be taken
# for what they are: with their mean, 0.25, some curve four times as much as they should, and 44 steps gave a 6 % higher
# error than with 0.6 and 5 % more than with 1.2.
REST = 0.8
LEVELS = 127  # of an int8


@dataclass(frozen=True, eq=False)
class Curvature:
    """The mean Hessian, as eigenvectors and -values, and one value for all directions without a vector.

    Attributes:
        axes: ``(K, P)`` int8, eigenvectors by rows, ``LEVELS`` for the largest number of each. Rounding moves 2 % of a
            vector's length elsewhere, evenly; what that adds to the least eigenvalues is small beside :data:`REST`.
        values: ``(K,)`` float32, eigenvalues, largest first.
        recipe: JSON-able: how it was estimated.
    """

    axes: Tensor
    values: Tensor
    recipe: Mapping[str, Any]

    @classmethod
    def of(cls, axes: Tensor, values: Tensor, recipe: Mapping[str, Any]) -> "Curvature":
        """Rounds ``axes (K, P)`` of any float dtype."""
        rounded = (axes * (LEVELS / axes.abs().amax(dim=1, keepdim=True))).round()
        return cls(rounded.to(torch.int8), values.float(), dict(recipe))

    def whitening(self, device: torch.device) -> "Whitening":
        """The map from coordinates in which the Hessian is the identity to codes."""
        axes = torch.nn.functional.normalize(self.axes.to(device).float(), dim=1)
        rest = REST * self.values[-1]
        return Whitening(axes, (rest / self.values).sqrt().to(device) - 1.0, float(rest) ** -0.5)

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able, for the settings of an inverter."""
        return {"curvature": dict(self.recipe)}


@dataclass(frozen=True, eq=False)
class Whitening:
    """The symmetric matrix ``H ** -0.5``.

    Attributes:
        axes: ``(K, P)`` float32, orthonormal but for rounding.
        stretch: ``(K,)``: factor along each axis, relative to all other directions, less 1.
        scale: Factor of the other directions.
    """

    axes: Tensor
    stretch: Tensor
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, P)`` -> ``(B, P)``."""
        return (x + ((x @ self.axes.t()) * self.stretch) @ self.axes) * self.scale


def estimate_curvature(
    generator: Generator,
    features: PerceptualFeatures | None,
    codes: Tensor,
    *,
    pixel_weight: float = 1.0,
    feature_weight: float = 0.2,
    num_projections: int = NUM_PROJECTIONS,
    num_axes: int = NUM_AXES,
    seed: int = 0,
    progress: bool = False,
) -> Curvature:
    """Mean Hessian of the inversion's loss over codes.

    Args:
        generator: The generator.
        features: Perceptual features, or None for pixels alone.
        codes: ``(N, L, D)``, typical of what inversions pass through.
        pixel_weight: Weight of the mean squared error of images in [-1, 1].
        feature_weight: Weight of the perceptual distance.
        num_projections: Backward passes for each code.
        num_axes: Eigenvectors that are kept, K at most.
        seed: Of the projections.
        progress: Show a progress bar, if it takes more than a few seconds.
    """
    rng = torch.Generator().manual_seed(seed)
    size, count = codes[0].numel(), len(codes) * num_projections
    rows: list[Tensor] = []
    gram = torch.zeros((size, size) if size <= count else (0, 0), dtype=torch.float64)
    total = 0.0
    bar = tqdm(codes.split(AT_ONCE), desc="curvature", unit="batch", delay=3, disable=None if progress else True)
    for part in bar:
        gradients = _projections(generator, features, part, pixel_weight, feature_weight, num_projections, rng)
        trace = gradients.square().sum(dim=2).mean(dim=0)  # of each code's J^T J, estimated
        total += float(trace.sum())
        flat = (gradients * trace.clamp(min=torch.finfo(trace.dtype).tiny).rsqrt()[:, None]).flatten(0, 1).cpu()
        if size <= count:
            gram += (flat.t() @ flat).double()
        else:
            rows.append(flat)
    # Both products have the same eigenvalues; the smaller one is taken apart.
    wide = torch.cat(rows) if rows else None
    found, vectors = torch.linalg.eigh(gram if wide is None else (wide @ wide.t()).double())
    kept = min(num_axes, int((found > 1e-9 * found[-1]).sum()))
    found, vectors = found.flip(0)[:kept], vectors.flip(1)[:, :kept]
    axes = vectors.t() if wide is None else (vectors.t().float() @ wide)
    values = found * (2.0 * total / len(codes) / count)
    recipe = {"codes": len(codes), "projections": num_projections, "axes": num_axes, "seed": seed}
    return Curvature.of(axes, values, recipe)


def _projections(
    generator: Generator,
    features: PerceptualFeatures | None,
    codes: Tensor,
    pixel_weight: float,
    feature_weight: float,
    num_projections: int,
    rng: torch.Generator,
) -> Tensor:
    """``(num_projections, B, P)``: ``J^T v`` for standard normal ``v``, anew for each code."""
    codes = codes.detach().clone().requires_grad_(True)
    with torch.enable_grad(), fast_convolutions():
        images = generator.synthesis(codes)
        parts = [images * (pixel_weight / images[0].numel()) ** 0.5]
        if features is not None and feature_weight:
            maps = features(images.to(fast_dtype(images.device) or images.dtype))
            for fmap in (each.float() for each in maps):
                unit = fmap * (fmap.square().sum(dim=1, keepdim=True) + 1e-8).rsqrt()
                parts.append(unit * (feature_weight / (len(maps) * fmap[0, 0].numel())) ** 0.5)
    found = []
    for _ in range(num_projections):
        draws = [torch.randn(part.shape, generator=rng).to(part.device) for part in parts]
        (gradient,) = torch.autograd.grad(parts, codes, draws, retain_graph=True)
        found.append(gradient.flatten(1))
    return torch.stack(found)


@torch.no_grad()
def typical_codes(generator: Generator, encoder: Encoder, count: int, seed: int = 0) -> Tensor:
    """``(count, L, D)``: what an encoder says of the generator's own images, where inversions of photos begin."""
    drawn = draw_latents(generator, count, torch.Generator().manual_seed(seed))
    return torch.cat([encoder.encode(generator.synthesis(part), generator) for part in drawn.split(AT_ONCE)])


def curvature_of(generator: Generator, features: PerceptualFeatures, encoder: Encoder) -> Curvature:
    """The bundled one for bundled generators and those tuned from them; for others it is estimated here.

    Raises:
        CheckpointError: If the bundled file is damaged.
    """
    known = (generator.fingerprint, *getattr(generator, "tuned_from", ()))
    for path in sorted(ASSETS.glob(f"*{SUFFIX}")):
        if _described(path).get("fingerprint") in known:
            return read_curvature(path)
    return estimate_curvature(generator, features, typical_codes(generator, encoder, NUM_CODES), progress=True)


def write_curvature(path: str | Path, curvature: Curvature, fingerprint: str) -> None:
    """Writes ``.curvature.safetensors``, bound to the generator with that fingerprint."""
    tensors = {"axes": curvature.axes.contiguous(), "values": curvature.values.contiguous()}
    description = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "recipe": dict(curvature.recipe),
        "sha256": _digest(tensors),
    }
    Path(path).write_bytes(save(tensors, {"description": json.dumps(description, sort_keys=True)}))


def read_curvature(path: str | Path) -> Curvature:
    """Inverse of :func:`write_curvature`.

    Raises:
        CheckpointError: For a missing or damaged file.
    """
    described = _described(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in ("axes", "values")}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable file of curvature: {error}") from error
    if described.get("sha256") != _digest(tensors):
        raise CheckpointError(f"{path}: damaged: its numbers are not those that were written; get it again")
    return Curvature(tensors["axes"], tensors["values"], described["recipe"])


def _described(path: str | Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            described: dict[str, Any] = json.loads((file.metadata() or {})["description"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable file of curvature: {error!r}") from error
    if described.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a file of curvature; expected format {FORMAT!r}")
    return described


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names and numbers; safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
