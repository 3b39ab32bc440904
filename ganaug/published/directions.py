"""Published directions in latent space: InterFaceGAN boundaries, e4e's and PTI's ``.pt``, GANSpace components.

Such a file says nothing about the generator that it was made for, and a direction of another generator moves latents
somewhere, without an error and without meaning. The only evidence is its name and its folder; it is reported here, and
:func:`ganaug.edits.published.import_directions` holds a user to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ganaug.errors import CheckpointError
from ganaug.known_weights import digest
from ganaug.published.container import open_tree
from ganaug.published.npz import is_npz, read_npz

Space = Literal["z", "w"]

MAX_DIRECTIONS = 4096
MAX_LATENT = 1 << 20  # numbers in one direction; the largest W+ of the field has 130 x 512

# Names of genforce/interfacegan: stylegan_ffhq_age_w_boundary.npy, stylegan_ffhq_age_c_gender_boundary.npy. No "_w"
# means Z. Its generators are StyleGAN 1 and PGGAN (README_old.md).
_BOUNDARY = re.compile(r"(pggan|stylegan[23]?)_[a-z]+_(\w+?)(_w)?_boundary$")
# InterFaceGAN++ in the same repository: stylegan2_ffhq_w/boundary_Smiling.npy, stylegan3_z/boundary_Male.npy.
_FOLDER = re.compile(r"(pggan|stylegan[23]?)(?:_[a-z]+)?_([zw])$")
# What else starts with the name of a family: GANSpace writes stylegan2-ffhq_style_ipca_c80_n1000000_w.npz.
_FAMILY = re.compile(r"(pggan|stylegan[23]?)(?:[-_]|$)")
_FAMILIES = {"stylegan": "stylegan1"}


@dataclass(frozen=True)
class PublishedDirections:
    """Directions as a file has them.

    Attributes:
        names: K names: keys of the file, or the file's own name, numbered if there are several.
        vectors: ``(K, D)``, or ``(K, L, D)`` where the rows of a W+ direction differ; float32, unit length.
        std: ``(K,)`` standard deviation of the latents along each, where the file has it.
        mean: ``(D,)`` or ``(L, D)``, mean latent, where the file has it.
        space: What they move, ``"z"`` or ``"w"``; None if nothing says so.
        made_for: Family of the generator (``"stylegan1"``, ``"pggan"``, ``"stylegan2"``, ``"stylegan3"``); None if
            nothing says so.
        evidence: What says so.
        sha256: Of the file.
    """

    names: tuple[str, ...]
    vectors: Tensor
    std: Tensor | None
    mean: Tensor | None
    space: Space | None
    made_for: str | None
    evidence: str
    sha256: str


def read_directions(path: str | Path) -> PublishedDirections:
    """Reads a file of directions without running anything in it.

    Understood are: one direction, ``(D,)``, ``(1, D)`` or ``(L, D)`` or ``(1, L, D)`` with a row for every row of W+;
    several, ``(K, 1, D)`` or ``(K, L, D)``; a dict of such by name; GANSpace's components, in its own ``.npz``
    (``lat_comp``, ``lat_mean``, ``lat_stdev``) and as e4e keeps them (``comp``, ``mean``, ``std``). A W+ direction with
    all rows equal, as e4e's ``pose.pt``, is a direction of W.

    Args:
        path: ``.npy``, ``.npz`` or ``.pt``.

    Raises:
        CheckpointError: For a damaged or hostile file, or one without directions in it.
    """
    path = Path(path)
    tree = read_npz(path) if is_npz(path) else open_tree(path)
    try:
        names, vectors, std, mean = _directions(tree, path.stem)
        space, made_for, evidence = _origin(path)
        if std is not None and bool((std == 1).all()):
            # GANSpace measures lat_stdev in W alone; in Z, whose numbers have variance 1, it leaves ones.
            if space == "w":
                raise CheckpointError(f"of W, says {evidence}, but its standard deviations are those of Z, all 1")
            space, evidence = "z", f"{evidence}; its standard deviations, all 1 as in Z".removeprefix("; ")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return PublishedDirections(names, vectors, std, mean, space, made_for, evidence, digest(path))


Parsed = tuple[tuple[str, ...], Tensor, Tensor | None, Tensor | None]


def _directions(tree: Any, stem: str) -> Parsed:
    """Names, unit vectors, and for principal components their standard deviations and mean."""
    if isinstance(tree, Mapping):
        for comp, std, mean in (("comp", "std", "mean"), ("lat_comp", "lat_stdev", "lat_mean")):
            if comp in tree:
                return _components(tree, comp, std, mean, stem)
        return _named(tree)
    vectors = _unit(_vectors(tree, "it"))
    names = (stem,) if len(vectors) == 1 else tuple(f"{stem}{index}" for index in range(len(vectors)))
    return names, vectors, None, None


def _components(tree: Mapping[Any, Any], comp: str, std: str, mean: str, stem: str) -> Parsed:
    missing = {std, mean} - set(tree)
    if missing:
        raise CheckpointError(f"principal components without {', '.join(sorted(missing))}")
    vectors = _numbers(tree[comp], comp)
    vectors = _unit(_vectors(vectors[:, None] if vectors.ndim == 2 else vectors, comp))
    spread, centre = _numbers(tree[std], std).flatten(), _numbers(tree[mean], mean)
    if len(spread) != len(vectors) or bool((spread < 0).any()):
        raise CheckpointError(f"{std} has {len(spread)} numbers for {len(vectors)} components, or negative ones")
    rows = (centre[None] if centre.ndim == 1 else centre.flatten(0, -2)).float()
    if rows.shape[-1] != vectors.shape[-1] or (vectors.ndim == 3 and len(rows) != vectors.shape[1]):
        raise CheckpointError(f"{mean} is {tuple(centre.shape)}, which does not fit {comp} {tuple(vectors.shape)}")
    names = tuple(f"{stem}{index}" for index in range(len(vectors)))
    return names, vectors, spread.float(), rows[0] if len(rows) == 1 else rows


def _named(tree: Mapping[Any, Any]) -> Parsed:
    if not tree or not all(isinstance(name, str) and name for name in tree):
        raise CheckpointError("a dict without named directions")
    found = [_vectors(value, f"{name[:60]!r}") for name, value in tree.items()]
    if any(len(vectors) != 1 for vectors in found) or len({vectors.shape for vectors in found}) != 1:
        shapes = sorted({str(tuple(vectors.shape[1:])) for vectors in found})
        raise CheckpointError(f"a dict whose values are not one direction each of one shape: {', '.join(shapes[:6])}")
    return tuple(tree), _unit(torch.cat(found)), None, None


def _vectors(value: Any, what: str) -> Tensor:
    """``(K, L, D)`` float64, L = 1 where rows do not differ."""
    array = _numbers(value, what)
    if array.ndim == 1:
        array = array[None, None]
    elif array.ndim == 2:  # (1, D), or (L, D) as StyleGAN2 encoders write a W+ direction
        array = array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise CheckpointError(f"{what} is {tuple(array.shape)}, expected (1, D), (1, L, D), (K, 1, D) or (K, L, D)")
    if len(array) > MAX_DIRECTIONS or array[0].numel() > MAX_LATENT:
        raise CheckpointError(f"{what} is {tuple(array.shape)}: too many, or too long, to be directions of latents")
    return array[:, :1] if bool((array == array[:, :1]).all()) else array


def _numbers(value: Any, what: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise CheckpointError(f"{what} has numbers of type {value.dtype}, expected floating point")
        value = torch.from_numpy(value.astype(np.float64))
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{what} is a {type(value).__name__}, expected an array or tensor of directions")
    if value.is_complex() or value.dtype == torch.bool or value.is_sparse or value.is_quantized:
        raise CheckpointError(f"{what} has numbers of type {value.dtype}, expected floating point")
    value = value.detach().cpu().double()
    if not bool(torch.isfinite(value).all()):
        raise CheckpointError(f"{what} has NaN or infinite numbers")
    return value


def _unit(vectors: Tensor) -> Tensor:
    """``(K, L, D)`` -> ``(K, L, D)`` or ``(K, D)`` of unit length."""
    length = vectors.flatten(1).norm(dim=1)
    if not bool((length > 0).all()):
        raise CheckpointError(f"direction {int(length.argmin())} has no length")
    unit = (vectors / length[:, None, None]).float()
    return unit[:, 0] if unit.shape[1] == 1 else unit


def _origin(path: Path) -> tuple[Space | None, str | None, str]:
    """Space, family, and the evidence for them, from a file's and its folder's names."""
    stem, folder = path.stem.lower(), path.resolve().parent.name.lower()
    if found := _BOUNDARY.match(stem):
        family = _FAMILIES.get(found[1], found[1])
        return "w" if found[3] else "z", family, f"its name, {path.name}, as genforce/interfacegan gives it"
    if stem.startswith("boundary_") and (found := _FOLDER.match(folder)):
        space: Space = "w" if found[2] == "w" else "z"
        return space, _FAMILIES.get(found[1], found[1]), f"its folder, {folder}, as in genforce/interfacegan"
    if found := _FAMILY.match(stem):
        in_w = re.search(r"_w(_seed\d+)?$", stem) is not None
        return "w" if in_w else None, _FAMILIES.get(found[1], found[1]), f"its name, {path.name}"
    return None, None, ""
