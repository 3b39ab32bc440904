"""The header of a latent cache: what made the latents, and what must be equal before two caches may mix."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganaug.cache_keys import CRC, Bytes
from ganaug.interfaces import CacheError, LatentSpec, Noise

FORMAT_VERSION = 2  # 2: records hold the photo's size
DELTA_VERSION = 3  # 3: and what each image changes in the generator; where it changes nothing, version 2 is written

DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}

_MANY_SETTINGS = 200  # characters, in a message


@dataclass(frozen=True)
class CacheHeader:
    """What made the latents of a cache. Two caches mix only if all fields but ``generator`` are equal.

    Attributes:
        generator: Name or path that the generator was loaded from; informative, never compared.
        fingerprint: sha256 (hex) of the generator's weights.
        latent_spec: Layout of one sample's latents.
        alignment: How faces were cut out; JSON-able.
        inverter: ``{"name": ..., settings...}``; JSON-able.
        quality_names: Names of the numbers that each record has about its reconstruction.
        dtype: ``"float16"`` or ``"float32"``, of the stored latents.
        anchored: Whether a record holds two codes, ``(2, L, D)``: the latents, and the anchor that edits move (see
            :class:`ganaug.interfaces.Inversion`). Else ``(L, D)``.
        delta: Layout of what each record changes in the generator, JSON-able, with its numbers P under ``"size"`` (see
            :attr:`ganaug.interfaces.Inverter.delta`). None: nothing.

    Raises:
        CacheError: For another ``dtype``, settings that JSON cannot hold, or a layout without a size.
    """

    generator: str
    fingerprint: str
    latent_spec: LatentSpec
    alignment: dict[str, Any]
    inverter: dict[str, Any]
    quality_names: tuple[str, ...] = ("mse", "psnr", "ssim")
    dtype: str = "float16"
    anchored: bool = False
    delta: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CacheError(f"latents cannot be stored as {self.dtype!r}: expected one of {', '.join(DTYPES)}")
        if len(set(self.quality_names)) != len(self.quality_names):
            raise CacheError(f"quality names must differ from each other, got {self.quality_names}")
        if self.delta is not None and not (isinstance(size := self.delta.get("size"), int) and size > 0):
            raise CacheError(f"the layout of deltas must give their size, a whole number from 1 up, got {self.delta!r}")
        try:
            json.dumps([self.alignment, self.inverter, self.delta])
        except (TypeError, ValueError) as error:
            raise CacheError(f"alignment and inverter settings must be JSON-able: {error}") from error

    @property
    def format_version(self) -> int:
        """Version of the file's layout: the oldest that can hold these records."""
        return FORMAT_VERSION if self.delta is None else DELTA_VERSION

    @property
    def noise(self) -> Noise:
        """Noise maps that the latents were found with, and are to be drawn with: the stored ones, or none."""
        return "none" if self.inverter.get("noise") == "none" else "const"

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, so that it can be stored as JSON."""
        return {
            "format_version": self.format_version,
            "generator": self.generator,
            "fingerprint": self.fingerprint,
            "latent_spec": self.latent_spec.to_dict(),
            "alignment": self.alignment,
            "inverter": self.inverter,
            "quality_names": list(self.quality_names),
            "dtype": self.dtype,
            "anchored": self.anchored,
            **({} if self.delta is None else {"delta": self.delta}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CacheHeader":
        """Inverse of :meth:`to_dict`.

        Raises:
            CacheError: For another format version, or if a field is missing.
        """
        version = values.get("format_version")
        if version not in (FORMAT_VERSION, DELTA_VERSION):
            raise CacheError(
                f"the cache has format version {version!r}, but this ganaug reads versions {FORMAT_VERSION} and "
                f"{DELTA_VERSION}. "
                "Run `ganaug precompute` into a new folder, or use the ganaug that wrote it"
            )
        try:
            return cls(
                generator=str(values["generator"]),
                fingerprint=str(values["fingerprint"]),
                latent_spec=LatentSpec.from_dict(values["latent_spec"]),
                alignment=dict(values["alignment"]),
                inverter=dict(values["inverter"]),
                quality_names=tuple(values["quality_names"]),
                dtype=str(values["dtype"]),
                anchored=bool(values["anchored"]),
                delta=dict(values["delta"]) if version == DELTA_VERSION else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"the cache's header lacks a field or has one of the wrong kind: {error!r}") from error


def encode_header(header: CacheHeader) -> bytes:
    """The bytes of a header: crc32, then JSON."""
    text = json.dumps(header.to_dict(), sort_keys=True).encode()
    return CRC.pack(zlib.crc32(text)) + text


def decode_header(value: Bytes | None, path: str) -> CacheHeader:
    """Inverse of :func:`encode_header`; ``path`` is for messages.

    Raises:
        CacheError: If there is none, or it is damaged or of another version.
    """
    if value is None or len(value) < CRC.size:
        raise CacheError(f"{path} has no header: not a ganaug latent cache, or not fully created")
    text = bytes(value[CRC.size :])
    if CRC.unpack_from(value)[0] != zlib.crc32(text):
        raise CacheError(f"the header of the cache {path} is damaged. Restore a copy or rebuild it")
    return CacheHeader.from_dict(json.loads(text))


def require_equal(mine: CacheHeader, other: CacheHeader, mine_name: str, other_name: str, advice: str) -> None:
    """All fields but ``generator``, and the version that follows from them; through JSON, so that a tuple in the
    settings equals the list it is stored as.

    Raises:
        CacheError: If a field differs; names it and both values.
    """
    first, second = (json.loads(json.dumps(header.to_dict())) for header in (mine, other))
    for name in {**first, **second}:
        if name not in ("generator", "format_version") and first.get(name) != second.get(name):
            one, two = _apart(first.get(name), second.get(name))
            raise CacheError(f"{name} differs: {mine_name} has {one!r}, {other_name} has {two!r}. {advice}")


def _apart(one: Any, two: Any) -> tuple[Any, Any]:
    """Two values for a message: of many settings, those that differ."""
    if not (isinstance(one, dict) and isinstance(two, dict)) or len(repr(one)) + len(repr(two)) <= _MANY_SETTINGS:
        return one, two
    same = {name for name in one if name in two and one[name] == two[name]}
    return {name: one[name] for name in one if name not in same}, {name: two[name] for name in two if name not in same}
