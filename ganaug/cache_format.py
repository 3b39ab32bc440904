"""The latent cache's format: what one record looks like, and how damage shows.

A cache is an LMDB directory with three databases: the header (what made the latents), the records, and the failures
(which images gave none, and why). It is a format, not a pickle: a record is a fixed binary layout, little endian, and
nothing in it is ever executed.

    crc32 (4) | key length (4) | transform (6 float32) | width and height of the photo (2 float32)
    | sha256 of the source (32) | quality (n float64) | key | latents | delta

The checksum covers the sample's key and everything after the checksum, so a record under a wrong name is found too.
``key`` is empty unless the sample's key does not fit LMDB's limit; such a record is stored under the key's hash.
``delta`` is empty unless the header says what it is; it has the dtype of the latents.
"""

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ganaug.cache_header import DTYPES, CacheHeader
from ganaug.cache_keys import CRC, Bytes, checksum, key_inside, storage_key
from ganaug.interfaces import CacheError

FOUND, MISSING, DAMAGED = 0, 1, 2  # ManyLatents.status

# Bytes of a record after crc32 and key length.
GEOMETRY = slice(8, 40)  # transform and photo size, 8 float32
HASH = slice(40, 72)
_LARGEST = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max)}
# Where all bits of the exponent are set, the number is infinite or NaN.
_BITS = {"float16": ("<u2", 0x7FFF, 0x7C00), "float32": ("<u4", 0x7FFFFFFF, 0x7F800000)}


@dataclass
class Record:
    """One sample.

    Attributes:
        key: Any text, usually the image's path relative to its dataset.
        latents: ``(L, D)``, or ``(2, L, D)`` with an anchor; float16 or float32 as the header says when read, any real
            dtype when written.
        quality: One number per name in the header; NaN is allowed.
        transform: ``(2, 3)`` float32, photo pixel coordinates to chip pixel coordinates.
        source_hash: sha256 (64 hex digits) of the source file, to notice that an image was changed.
        photo_size: ``(width, height)`` of the upright photo in pixels; ``(0, 0)`` if unknown.
        delta: ``(P,)``, what the image changes in the generator, in the layout that the header describes, of the dtype
            of the latents when read; None where the header has none.
    """

    key: str
    latents: NDArray[Any]
    quality: dict[str, float]
    transform: NDArray[np.float32]
    source_hash: str
    photo_size: tuple[int, int] = (0, 0)
    delta: NDArray[Any] | None = None


class ManyLatents(NamedTuple):
    """What :meth:`ganaug.cache.LatentCache.get_many` returns. The arrays are writable and the caller's own.

    Attributes:
        latents: ``(B, L, D)`` or ``(B, 2, L, D)`` of the stored dtype, in the order asked; zero where ``status`` is not
            ``FOUND``. Not contiguous: rows lie in one buffer with what else their records hold.
        status: ``(B,)`` uint8: ``FOUND``, ``MISSING`` or ``DAMAGED``.
        source_hashes: ``(B, 32)`` uint8, sha256 of the source files; zero where ``status`` is not ``FOUND``.
        geometry: ``(B, 8)`` float32: transform, row after row, then width and height of the photo; zero where
            ``status`` is not ``FOUND``.
        delta: ``(B, P)`` of the stored dtype, what the images change in the generator; zero, which changes nothing,
            where ``status`` is not ``FOUND``. None where the header has none. Not contiguous either.
    """

    latents: NDArray[Any]
    status: NDArray[np.uint8]
    source_hashes: NDArray[np.uint8]
    geometry: NDArray[np.float32]
    delta: NDArray[Any] | None = None

    @property
    def transforms(self) -> NDArray[np.float32]:
        """``(B, 2, 3)`` float32, photo pixel coordinates to chip pixel coordinates."""
        return self.geometry[:, :6].reshape(-1, 2, 3)

    @property
    def photo_sizes(self) -> NDArray[np.float32]:
        """``(B, 2)`` float32, width and height of the upright photos in pixels; zero where unknown."""
        return self.geometry[:, 6:]


@dataclass(frozen=True)
class Layout:
    """How the records of one cache are laid out; derived from its header once per open file."""

    header: CacheHeader
    prefix: struct.Struct
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one record's latents."""
        shape = self.header.latent_spec.shape
        return (2, *shape) if self.header.anchored else shape

    @cached_property
    def latent_bytes(self) -> int:
        """Bytes of one record's latents and delta."""
        return (math.prod(self.shape) + self.delta_size) * self.dtype.itemsize

    @property
    def delta_size(self) -> int:
        """Numbers in one record's delta."""
        return 0 if self.header.delta is None else int(self.header.delta["size"])

    @cached_property
    def record_bytes(self) -> int:
        """Bytes of a record that has no key inside."""
        return self.prefix.size + self.latent_bytes

    @classmethod
    def of(cls, header: CacheHeader) -> "Layout":
        """The layout that a header implies."""
        dtype = DTYPES[header.dtype]
        prefix = struct.Struct(f"<II8f32s{len(header.quality_names)}d")
        return cls(header, prefix, dtype)

    def is_sound(self, key: str, storage: bytes, value: Bytes) -> bool:
        """Right length, right key, right checksum, and latents and delta are finite."""
        length = len(key_inside(key, storage))
        if len(value) != self.prefix.size + length + self.latent_bytes:
            return False
        view = memoryview(value)
        if CRC.unpack_from(view)[0] != checksum(key, view[CRC.size :]):
            return False
        kind, all_but_sign, exponent = _BITS[self.header.dtype]
        bits = np.frombuffer(value, kind, offset=len(value) - self.latent_bytes)
        return int((bits & all_but_sign).max(initial=0)) < exponent  # three times faster than np.isfinite

    def split(self, raw: bytearray, status: bytearray) -> ManyLatents:
        """B records without keys inside, one after the other, and their status.

        The arrays are views into ``raw``. The prefix's length is a multiple of 8, so the numbers are aligned and the
        strides multiples of their size, as ``torch.from_numpy`` asks for. Only an odd count of float16 needs a copy.
        """
        size, start = self.record_bytes // self.dtype.itemsize, self.prefix.size // self.dtype.itemsize
        rows = np.frombuffer(raw, self.dtype).reshape(-1, size)
        entries = np.frombuffer(raw, np.uint8).reshape(-1, self.record_bytes)
        geometry: NDArray[np.float32] = entries[:, GEOMETRY].view("<f4")
        if self.record_bytes % 4:
            geometry = geometry.copy()
        end = size - self.delta_size
        latents = rows[:, start:end].reshape(len(rows), *self.shape)
        delta = None if self.header.delta is None else rows[:, end:]
        return ManyLatents(latents, np.frombuffer(status, np.uint8), entries[:, HASH], geometry, delta)

    def qualities(self, raw: bytearray) -> NDArray[np.float64]:
        """The same records -> ``(B, Q)``, columns as the header's ``quality_names``."""
        entries = np.frombuffer(raw, np.uint8).reshape(-1, self.record_bytes)
        return entries[:, HASH.stop : self.prefix.size].copy().view("<f8")

    def decode(self, key: str, value: bytes) -> Record:
        """The record that :meth:`encode` made ``value`` of; ``value`` must be sound."""
        _, _, *transform, width, height, source_hash = self.prefix.unpack_from(value)[:11]
        quality = self.prefix.unpack_from(value)[11:]
        numbers = np.frombuffer(value, self.dtype, offset=len(value) - self.latent_bytes)
        latents, delta = np.split(numbers, [math.prod(self.shape)])
        return Record(
            key=key,
            latents=latents.reshape(self.shape).copy(),
            quality=dict(zip(self.header.quality_names, quality, strict=True)),
            transform=np.array(transform, dtype=np.float32).reshape(2, 3),
            source_hash=source_hash.hex(),
            photo_size=(int(width), int(height)),
            delta=None if self.header.delta is None else delta.copy(),
        )

    def encode(self, record: Record, path: str) -> bytes:
        """The bytes of a record; ``path`` is for messages.

        Raises:
            CacheError: If a field has the wrong shape, or numbers that are not finite or too large (names the key).
        """
        header, where = self.header, f"record {record.key!r} for the cache {path}"
        latents = self._storable(np.asarray(record.latents), "latents", self.shape, where)
        if (record.delta is None) != (header.delta is None):
            raise CacheError(f"{where}: it {'lacks a' if record.delta is None else 'has a'} delta, unlike the cache")
        delta = b"" if record.delta is None else self._storable(record.delta, "delta", (self.delta_size,), where)
        transform = np.asarray(record.transform, dtype=np.float32)
        if transform.shape != (2, 3) or not np.isfinite(transform).all():
            raise CacheError(f"{where}: the transform must be a finite (2, 3) matrix, got {record.transform!r}")
        width, height = record.photo_size
        # float32, in which they are stored, holds every whole number up to 2**24.
        if not all(side == int(side) and 0 <= side <= 1 << 24 for side in (width, height)):
            raise CacheError(f"{where}: photo_size must be two whole numbers from 0 to 2**24, got {record.photo_size}")
        if set(record.quality) != set(header.quality_names):
            raise CacheError(f"{where}: quality has {sorted(record.quality)}, expected {sorted(header.quality_names)}")
        try:
            source_hash = bytes.fromhex(record.source_hash)
        except (TypeError, ValueError):
            source_hash = b""
        if len(source_hash) != 32 or len(record.source_hash) != 64:
            raise CacheError(f"{where}: source_hash must be 64 hex digits (sha256), got {record.source_hash!r}")
        inside = key_inside(record.key, storage_key(record.key))
        quality = [float(record.quality[name]) for name in header.quality_names]
        geometry = (*transform.reshape(-1).tolist(), width, height)
        prefix = self.prefix.pack(0, len(inside), *geometry, source_hash, *quality)
        rest = prefix[CRC.size :] + inside + latents + delta
        return CRC.pack(checksum(record.key, rest)) + rest

    def _storable(self, values: NDArray[Any], name: str, shape: tuple[int, ...], where: str) -> bytes:
        """The bytes of latents or a delta, after a look at them."""
        if values.shape != shape:
            raise CacheError(f"{where}: {name} of shape {values.shape}, expected {shape}")
        if values.dtype.kind not in "fiu":
            raise CacheError(f"{where}: {name} of dtype {values.dtype}, expected real numbers")
        if not np.isfinite(values).all():
            raise CacheError(f"{where}: {name} are not finite. Note it with put_failures instead")
        dtype = self.header.dtype
        largest, limit = float(np.abs(values.astype(np.float64)).max(initial=0.0)), _LARGEST[dtype]
        if largest > limit:
            raise CacheError(
                f"{where}: {name} with a number of magnitude {largest:g} do not fit {dtype} (at most {limit:g}). "
                "The inversion has diverged; or use a cache with dtype float32"
            )
        return values.astype(self.dtype).tobytes()
