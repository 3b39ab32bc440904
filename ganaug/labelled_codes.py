"""Latents of a cache and a table's lines for the same photos.

Of records with an anchor the anchors are taken, since those are what edits move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug.cache import LatentCache
from ganaug.edits.discovery import PrincipalComponents, signed
from ganaug.edits.label_table import LabelColumns
from ganaug.edits.whitening import Whitening
from ganaug.errors import UserInputError
from ganaug.interfaces import Generator
from ganaug.latent_reader import read_anchors
from ganaug.latents import principal_axes

_AT_ONCE = 1024  # records per transaction: 20 MB of 18 x 512 in float16
_NUM_FOR_AXES = 2048  # codes that principal axes are taken from, where the generator has none


@dataclass(frozen=True)
class LabelledCodes:
    """Codes of the photos of a cache that a table knows, in whitened coordinates.

    Attributes:
        keys: N keys.
        z: ``(N, K)`` float64.
        columns: The table's lines for them.
        whitening: Where ``z`` is at home.
        total: Records of the cache, also those that the table does not know or that could not be read.
    """

    keys: list[str]
    z: NDArray[np.float64]
    columns: LabelColumns
    whitening: Whitening
    total: int


def read_codes(
    cache: LatentCache, generator: Generator, labels: str | Path, images: str | Path | None = None
) -> LabelledCodes:
    """Reads what a cache and a table have in common.

    Args:
        cache: Latents of ``generator``.
        generator: Whose prior, if it has one, whitens them.
        labels: CSV file with a line per photo; which column names the photos is found out.
        images: Folder that the cache was made from, where the table's names need it.

    Raises:
        CacheError: For a cache that is missing, damaged, or of another generator.
        UserInputError: For a table that cannot be read or names none of the photos.
    """
    cache.check_generator(generator.fingerprint, generator.latent_spec)
    known = cache.keys()
    if not known:
        raise UserInputError(f"the cache {cache.path} is empty; run `ganaug precompute` first")
    columns, keys = LabelColumns.read(labels, known, images)
    has_prior = getattr(generator, "prior", None) is not None
    whitening = Whitening.of(generator, None if has_prior else _codes_of(cache, known))
    z = np.full((len(keys), len(whitening)), np.nan)
    for start in tqdm(range(0, len(keys), _AT_ONCE), desc="latents", unit="batch", disable=len(keys) <= _AT_ONCE):
        batch = slice(start, start + _AT_ONCE)
        codes, found = read_anchors(cache, keys[batch])
        z[batch][found] = whitening.coordinates(codes.numpy())
    sound = np.isfinite(z).all(axis=1)
    places = np.flatnonzero(sound).tolist()
    return LabelledCodes([keys[i] for i in places], z[sound], columns.at(places), whitening, len(known))


def principal_components_of(cache: LatentCache, generator: Generator, count: int) -> PrincipalComponents:
    """Principal components of the codes of a cache, from at most 2048 of them.

    Raises:
        CacheError: For a cache that is missing, damaged, or of another generator.
        UserInputError: With fewer than two codes.
    """
    cache.check_generator(generator.fingerprint, generator.latent_spec)
    codes = _codes_of(cache, cache.keys())
    if len(codes) < 2:
        raise UserInputError(f"the cache {cache.path} has {len(codes)} readable record(s), expected at least 2")
    _, axes, std = principal_axes(codes.flatten(1), count)
    return PrincipalComponents(signed(axes).reshape(-1, *codes.shape[1:]), std)


def _codes_of(cache: LatentCache, keys: Sequence[str]) -> Tensor:
    """``(N, L, D)`` float32 codes of records spread over the keys."""
    step = max(-(-len(keys) // _NUM_FOR_AXES), 1)
    return read_anchors(cache, keys[::step])[0]
