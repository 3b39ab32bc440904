"""The latent cache: one record per face, written once by ``precompute`` and read in batches by every training run.

A cache is an LMDB directory with three databases: the header (what made the latents), the records, and the failures
(which images gave none, and why). It is a format, not a pickle: a record is a fixed binary layout, little endian, and
nothing in it is ever executed.

    crc32 (4) | key length (4) | transform (6 float32) | sha256 of the source (32) | quality (n float64) | key | latents

The checksum covers the sample's key and everything after the checksum, so a record under a wrong name is found too.
``key`` is empty unless the sample's key does not fit LMDB's limit; such a record is stored under the key's hash.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import lmdb
import numpy as np
from numpy.typing import NDArray

from ganaug import lmdb_pool
from ganaug.interfaces import CacheError, LatentSpec

FORMAT_VERSION = 1

FOUND, MISSING, DAMAGED = 0, 1, 2  # ManyLatents.status

_HEADER, _RECORDS, _FAILURES = _NAMES = ("header", "records", "failures")
_HEADER_KEY = b"header"
_CRC = struct.Struct("<I")
_FAILURE = struct.Struct("<II")  # crc32, key length; then key and reason
_MAX_KEY_BYTES = 500  # LMDB's limit is 511
_BATCH = 256  # records per transaction where everything is read
_MAX_FLOAT16 = 65504.0
_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_EXPONENT = {"float16": ("<u2", 0x7C00), "float32": ("<u4", 0x7F800000)}  # all of these bits set: infinite or NaN


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
        format_version: Version of the file's layout.

    Raises:
        CacheError: For another ``dtype``, or settings that JSON cannot hold.
    """

    generator: str
    fingerprint: str
    latent_spec: LatentSpec
    alignment: dict[str, Any]
    inverter: dict[str, Any]
    quality_names: tuple[str, ...] = ("mse", "psnr", "ssim")
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise CacheError(f"latents cannot be stored as {self.dtype!r}: expected one of {', '.join(_DTYPES)}")
        if len(set(self.quality_names)) != len(self.quality_names):
            raise CacheError(f"quality names must differ from each other, got {self.quality_names}")
        try:
            json.dumps([self.alignment, self.inverter])
        except (TypeError, ValueError) as error:
            raise CacheError(f"alignment and inverter settings must be JSON-able: {error}") from error

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
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CacheHeader":
        """Inverse of :meth:`to_dict`.

        Raises:
            CacheError: For another format version, or if a field is missing.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise CacheError(
                f"the cache has format version {version!r}, but this ganaug reads version {FORMAT_VERSION}. "
                "Use the ganaug that wrote it, or rebuild the cache"
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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(f"the cache's header lacks a field or has one of the wrong kind: {error!r}") from error


@dataclass
class Record:
    """One sample.

    Attributes:
        key: Any text, usually the image's path relative to its dataset.
        latents: ``(L, D)``; float16 or float32 as the header says when read, any real dtype when written.
        quality: One number per name in the header; NaN is allowed.
        transform: ``(2, 3)`` float32, photo pixel coordinates to chip pixel coordinates.
        source_hash: sha256 (64 hex digits) of the source file, to notice that an image was changed.
    """

    key: str
    latents: NDArray[Any]
    quality: dict[str, float]
    transform: NDArray[np.float32]
    source_hash: str


class ManyLatents(NamedTuple):
    """What :meth:`LatentCache.get_many` returns.

    Attributes:
        latents: ``(B, L, D)`` float32 in the order asked; zero where ``status`` is not ``FOUND``.
        status: ``(B,)`` uint8: ``FOUND``, ``MISSING`` or ``DAMAGED``.
        source_hashes: B times 64 hex digits; empty where ``status`` is not ``FOUND``.
    """

    latents: NDArray[np.float32]
    status: NDArray[np.uint8]
    source_hashes: list[str]


class LatentCache:
    """Latents by key, on disk, for many readers and one writer at a time, in any number of threads and processes.

    The object holds nothing but its path: it pickles as the path, and may cross a fork or be sent to a worker at any
    time. Objects over the same path share one open file per process (see :mod:`ganaug.lmdb_pool`). All methods raise
    :class:`~ganaug.interfaces.CacheError` if there is no sound cache at the path.

    In a folder that this process cannot write to, the cache is read without locks: nobody may write to it meanwhile.

    Args:
        path: The LMDB directory. Nothing is opened before the first use.

    Example:
        >>> import tempfile
        >>> header = CacheHeader("toy", "0" * 64, LatentSpec("w_plus", 2, 3), {"mode": "center"}, {"name": "toy"})
        >>> folder = tempfile.TemporaryDirectory()
        >>> cache = LatentCache.create(folder.name + "/faces.lmdb", header)
        >>> quality = {"mse": 0.01, "psnr": 20.0, "ssim": 0.9}
        >>> cache.put_many([Record("ann.jpg", np.ones((2, 3)), quality, np.eye(2, 3, dtype=np.float32), "0" * 64)])
        >>> latents, status, _ = cache.get_many(["bob.jpg", "ann.jpg"])
        >>> latents[:, 0].tolist(), status.tolist()
        ([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [1, 0])
        >>> cache.close(); folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, _map_size: int = lmdb_pool.DEFAULT_MAP_SIZE) -> None:
        self.path = os.path.realpath(path)
        self._map_size = _map_size  # of the first open in this process; tests start small

    def __reduce__(self) -> tuple[type["LatentCache"], tuple[str]]:
        return (type(self), (self.path,))

    def __repr__(self) -> str:
        return f"LatentCache({self.path!r})"

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], header: CacheHeader, *, _map_size: int = lmdb_pool.DEFAULT_MAP_SIZE
    ) -> "LatentCache":
        """Makes an empty cache (directory 0700, files 0600), or opens the one that is there if it fits ``header``.

        Raises:
            CacheError: If a cache with another header is there (names the field and both values), or something else is,
                or the place cannot be written to.
        """
        if header.format_version != FORMAT_VERSION:
            raise CacheError(
                f"format version {header.format_version} was asked for: this ganaug writes {FORMAT_VERSION}"
            )
        cache = cls(path, _map_size=_map_size)
        text = json.dumps(header.to_dict(), sort_keys=True).encode()
        value = _CRC.pack(zlib.crc32(text)) + text
        lmdb_pool.create(cache.path, {_HEADER: {_HEADER_KEY: value}, _RECORDS: {}, _FAILURES: {}}, _map_size)
        _require_equal(cache.header, header, f"the cache at {cache.path}", "what was asked for", "Use another path")
        return cache

    @property
    def header(self) -> CacheHeader:
        """What made the latents; read once per open file."""
        with lmdb_pool.reading(self.path, _NAMES, _HEADER, self._map_size) as (handle, transaction):
            return _layout(handle, transaction).header

    def check_generator(self, fingerprint: str, latent_spec: LatentSpec) -> None:
        """Makes sure that the latents belong to a generator.

        Raises:
            CacheError: If not; names both values.
        """
        header = self.header
        advice = "Load the generator that made the cache, or build a cache for this one"
        for name, mine, other in (
            ("fingerprint", header.fingerprint, fingerprint),
            ("latent_spec", header.latent_spec.to_dict(), latent_spec.to_dict()),
        ):
            if mine != other:
                raise CacheError(
                    f"the cache at {self.path} was made with generator {header.generator!r}: its {name} is {mine!r}, "
                    f"but the generator given has {other!r}. {advice}"
                )

    def __len__(self) -> int:
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            return transaction.stat(handle.databases[_RECORDS])["entries"]

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (_, transaction):
            return transaction.get(_storage_key(key)) is not None

    def keys(self) -> list[str]:
        """All keys, sorted. A record whose own key is damaged is left out: it is as good as missing."""
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            start = _layout(handle, transaction).prefix.size
            cursor = transaction.cursor()
            found = [
                _true_key(bytes(storage), lambda: cursor.value(), _CRC.size, start)
                for storage in cursor.iternext(keys=True, values=False)
            ]
        return sorted(key for key in found if key is not None)

    def get(self, key: str) -> Record:
        """One record.

        Raises:
            KeyError: If there is none.
            CacheError: If it is damaged.
        """
        layout, values = self._read([key])
        value = values[0]
        if value is None:
            raise KeyError(key)
        return self._decode(layout, key, value)

    def get_many(self, keys: Sequence[str]) -> ManyLatents:
        """Latents of a batch, in one transaction; never raises for a single bad record.

        Args:
            keys: B keys; repeats are fine.

        Returns:
            Latents ``(B, L, D)`` float32, status ``(B,)`` and source hashes, in the order of ``keys``.
        """
        storages = [_storage_key(key) for key in keys]
        # In the order of the file: neighbours share pages, and a cold disk is read in one direction.
        order = sorted(range(len(storages)), key=storages.__getitem__)
        status = bytearray([MISSING]) * len(storages)  # an array's elements would cost ten times as much to set
        fresh: list[int] = []
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            layout = _layout(handle, transaction)
            # A checksum per read would double its cost (3 us for 18 KB). Each record is therefore checked once per
            # opened file and committed state. The price: a bit that flips in memory or on the disk after that is not
            # seen until somebody commits or the file is opened again.
            verified = handle.verified_keys(transaction.id())
            # One copy per record, out of the map; all else is done for the whole batch at once.
            size, prefix = layout.record_bytes, layout.prefix.size
            raw = np.empty((len(storages), size), dtype=np.uint8)
            target, get, intact = raw.reshape(-1).data, transaction.get, layout.is_intact
            for row in order:
                storage = storages[row]
                value = get(storage)
                if value is None:
                    continue
                if storage not in verified:
                    if not intact(keys[row], storage, value):
                        status[row] = DAMAGED
                        continue
                    fresh.append(row)
                start = row * size
                if len(value) == size:
                    target[start : start + size] = value
                else:  # with its key inside
                    target[start : start + prefix] = value[:prefix]
                    target[start + prefix : start + size] = value[prefix - size :]
                status[row] = FOUND
            if fresh:
                for row, finite in zip(fresh, layout.finite_rows(raw[fresh, prefix:]), strict=True):
                    if finite:
                        verified.add(storages[row])
                    else:  # intact, but written by something that did not refuse it
                        status[row] = DAMAGED
        statuses = np.frombuffer(status, dtype=np.uint8)
        if any(status):
            raw[statuses != FOUND] = 0
        text = raw[:, _HASH].tobytes().hex()
        hashes = [text[64 * row : 64 * row + 64] if state == FOUND else "" for row, state in enumerate(status)]
        return ManyLatents(layout.to_float32(raw[:, prefix:]), statuses, hashes)

    def put_many(self, records: Iterable[Record]) -> None:
        """Writes records in one transaction: all of them or none are there afterwards, also after a kill or power cut.

        A record replaces the one with its key, and clears the key's failure. 16 to 64 records per call are fifty times
        faster than one.

        Raises:
            CacheError: If a record has the wrong shape or non-finite numbers (names the key; nothing is written), or
                the disk is full, or the folder is read-only.
        """
        layout = self._layout()
        # A dict: writing a key twice in one transaction would leak pages in LMDB, so the last one wins before that.
        values = {_storage_key(record.key): self._encode(layout, record) for record in records}
        if values:
            self._put(sorted(values.items()))

    def put_failures(self, failures: Mapping[str, str]) -> None:
        """Notes for which keys there are no latents, and why, in one transaction."""
        values = []
        for key, reason in failures.items():
            inside = key.encode(errors="surrogatepass") if _storage_key(key)[:1] == b"\0" else b""
            rest = _CRC.pack(len(inside)) + inside + reason.encode(errors="surrogatepass")
            values.append((_storage_key(key), _CRC.pack(_checksum(key, rest)) + rest))

        def job(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[bytes]") -> None:
            for storage, value in sorted(values):
                transaction.put(storage, value, db=handle.databases[_FAILURES])

        if values:
            lmdb_pool.write(self.path, _NAMES, job, self._map_size)

    def failures(self) -> dict[str, str]:
        """Key -> reason, sorted by key; a reason that cannot be read any more is told as such."""
        found = {}
        with lmdb_pool.reading(self.path, _NAMES, _FAILURES, self._map_size) as (handle, transaction):
            for storage, view in transaction.cursor(handle.databases[_FAILURES]):
                value = bytes(view)
                key = _true_key(bytes(storage), lambda view=view: view, _CRC.size, _FAILURE.size)
                if key is None:
                    continue
                length = _FAILURE.unpack_from(value)[1] if len(value) >= _FAILURE.size else 0
                sound = len(value) >= _FAILURE.size and _CRC.unpack_from(value)[0] == _checksum(key, value[_CRC.size :])
                text = value[_FAILURE.size + length :].decode(errors="surrogatepass") if sound else "(damaged entry)"
                found[key] = text
        return dict(sorted(found.items()))

    def records(self) -> Iterator[Record]:
        """All records in key order, in short transactions: what is deleted meanwhile is left out.

        Raises:
            CacheError: At a damaged record; :meth:`verify` names them all.
        """
        for key, layout, value in self._scan():
            yield self._decode(layout, key, value)

    def digest(self) -> str:
        """sha256 (hex) of all keys and stored latents in key order; how and when they were written does not matter.

        Raises:
            CacheError: If a record is damaged.
        """
        result = sha256()
        count = 0
        for key, layout, value in self._scan():
            self._require_intact(layout, key, value)
            name = key.encode(errors="surrogatepass")
            result.update(_CRC.pack(len(name)) + name)
            result.update(value[-layout.latent_bytes :])
            count += 1
        if count != len(self):
            raise CacheError(
                f"the cache at {self.path} has {len(self)} records, but only {count} are readable: see verify()"
            )
        return result.hexdigest()

    def verify(self) -> list[str]:
        """Reads everything and returns the keys of damaged records, sorted.

        A record whose key is unreadable is listed under the bytes that it is stored under.
        """
        damaged = []
        last = b""
        while True:
            with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
                layout = _layout(handle, transaction)
                cursor = transaction.cursor()
                more = cursor.set_range(last + b"\0") if last else cursor.first()
                for _ in range(_BATCH):
                    if not more:
                        break
                    last, value = bytes(cursor.key()), cursor.value()
                    key = _true_key(last, lambda value=value: value, _CRC.size, layout.prefix.size)
                    if key is None:
                        damaged.append(last.decode(errors="backslashreplace"))
                    elif not layout.is_sound(key, last, value):
                        damaged.append(key)
                    more = cursor.next()
            if not more:
                return sorted(damaged)

    def forget(self, keys: Iterable[str]) -> int:
        """Deletes records and failures, and rewrites the file so that their bytes are not in it any more.

        Deleting alone would leave them in the file's free pages. Run it again if it was interrupted. Not reached are
        backups, snapshots, and what a disk's firmware keeps. A process that has the old file open frees it at its next
        call.

        Returns:
            How many records there were.
        """
        storages = sorted({_storage_key(key) for key in keys})

        def job(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[bytes]") -> int:
            for storage in storages:
                transaction.delete(storage, db=handle.databases[_FAILURES])
            return sum(transaction.delete(storage, db=handle.databases[_RECORDS]) for storage in storages)

        if not storages:
            return 0
        count = lmdb_pool.write(self.path, _NAMES, job, self._map_size)
        self.compact()
        return count

    def compact(self) -> None:
        """Rewrites the file without unused pages, with fsync, and replaces the old one atomically."""
        lmdb_pool.compact(self.path, _NAMES, self._map_size)

    def merge(self, other: "LatentCache") -> int:
        """Copies all records of another cache, for example of another shard; replaces those with equal keys.

        Failures come along for keys that have no record here.

        Returns:
            How many records were copied.

        Raises:
            CacheError: If the headers differ (names the field), or the other cache has damaged records (names them);
                nothing is copied then.
        """
        if other.path == self.path:
            raise CacheError(f"cannot merge the cache {self.path} with itself")
        advice = "Only caches of the same generator, alignment and inverter can be merged"
        _require_equal(self.header, other.header, f"the cache at {self.path}", f"the cache at {other.path}", advice)
        damaged = other.verify()
        if damaged:
            raise CacheError(
                f"the cache {other.path} has {len(damaged)} damaged record(s), the first is {damaged[0]!r}. Put "
                "or forget them before merging"
            )
        count = 0
        batch: list[tuple[bytes, bytes]] = []
        for key, layout, value in other._scan():
            self._require_intact(layout, key, value)
            batch.append((_storage_key(key), value))
            count += 1
            if len(batch) == _BATCH:
                self._put(sorted(batch))
                batch = []
        if batch:
            self._put(sorted(batch))
        self.put_failures({key: reason for key, reason in other.failures().items() if key not in self})
        return count

    def close(self) -> None:
        """Closes this process's open file, if any; the next call opens it again."""
        lmdb_pool.close(self.path)

    def _layout(self) -> "_Layout":
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            return _layout(handle, transaction)

    def _read(self, keys: Sequence[str]) -> tuple["_Layout", list[bytes | None]]:
        """Copies of raw records, unchecked."""
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            views = [transaction.get(_storage_key(key)) for key in keys]
            return _layout(handle, transaction), [None if view is None else bytes(view) for view in views]

    def _scan(self) -> Iterator[tuple[str, "_Layout", bytes]]:
        """All raw records in key order, unchecked. Nothing is held open between two of them."""
        keys = self.keys()
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            layout, values = self._read(batch)
            for key, value in zip(batch, values, strict=True):
                if value is not None:
                    yield key, layout, value

    def _put(self, values: Sequence[tuple[bytes, bytes]]) -> None:
        def job(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[bytes]") -> None:
            records, failures = handle.databases[_RECORDS], handle.databases[_FAILURES]
            for storage, value in values:
                transaction.put(storage, value, db=records)
                transaction.delete(storage, db=failures)

        lmdb_pool.write(self.path, _NAMES, job, self._map_size)

    def _require_intact(self, layout: "_Layout", key: str, value: bytes) -> None:
        if not layout.is_sound(key, _storage_key(key), value):
            raise CacheError(
                f"the record {key!r} in the cache {self.path} is damaged (checksum, length or non-finite latents). "
                "Put it again, or forget it and run `ganaug precompute`"
            )

    def _decode(self, layout: "_Layout", key: str, value: bytes) -> Record:
        self._require_intact(layout, key, value)
        _, _, *transform, source_hash = layout.prefix.unpack_from(value)[:9]
        quality = layout.prefix.unpack_from(value)[9:]
        latents = np.frombuffer(value, layout.dtype, offset=len(value) - layout.latent_bytes)
        return Record(
            key=key,
            latents=latents.reshape(layout.header.latent_spec.shape).copy(),
            quality=dict(zip(layout.header.quality_names, quality, strict=True)),
            transform=np.array(transform, dtype=np.float32).reshape(2, 3),
            source_hash=source_hash.hex(),
        )

    def _encode(self, layout: "_Layout", record: Record) -> bytes:
        header, where = layout.header, f"record {record.key!r} for the cache {self.path}"
        latents = np.asarray(record.latents)
        if latents.shape != header.latent_spec.shape:
            raise CacheError(f"{where}: latents have shape {latents.shape}, expected {header.latent_spec.shape}")
        if latents.dtype.kind not in "fiu":
            raise CacheError(f"{where}: latents have dtype {latents.dtype}, expected real numbers")
        if not np.isfinite(latents).all():
            raise CacheError(f"{where}: latents are not finite. Note it with put_failures instead")
        largest = float(np.abs(latents.astype(np.float64)).max(initial=0.0))
        if largest > layout.largest:
            raise CacheError(
                f"{where}: a latent of magnitude {largest:g} does not fit {header.dtype} (at most {layout.largest:g}). "
                "The inversion has diverged; or use a cache with dtype float32"
            )
        transform = np.asarray(record.transform, dtype=np.float32)
        if transform.shape != (2, 3) or not np.isfinite(transform).all():
            raise CacheError(f"{where}: the transform must be a finite (2, 3) matrix, got {record.transform!r}")
        if set(record.quality) != set(header.quality_names):
            raise CacheError(f"{where}: quality has {sorted(record.quality)}, expected {sorted(header.quality_names)}")
        try:
            source_hash = bytes.fromhex(record.source_hash)
        except (TypeError, ValueError):
            source_hash = b""
        if len(source_hash) != 32 or len(record.source_hash) != 64:
            raise CacheError(f"{where}: source_hash must be 64 hex digits (sha256), got {record.source_hash!r}")
        inside = record.key.encode(errors="surrogatepass") if _storage_key(record.key)[:1] == b"\0" else b""
        quality = [float(record.quality[name]) for name in header.quality_names]
        prefix = layout.prefix.pack(0, len(inside), *transform.reshape(-1).tolist(), source_hash, *quality)
        rest = prefix[_CRC.size :] + inside + latents.astype(layout.dtype).tobytes()
        return _CRC.pack(_checksum(record.key, rest)) + rest


_HASH = slice(32, 64)  # of a record: after crc32, key length and transform


@dataclass(frozen=True)
class _Layout:
    """How the records of one cache are laid out; derived from its header once per open file."""

    header: CacheHeader
    prefix: struct.Struct
    dtype: np.dtype[Any]
    latent_bytes: int
    largest: float

    @property
    def record_bytes(self) -> int:
        """Bytes of a record that has no key inside."""
        return self.prefix.size + self.latent_bytes

    @classmethod
    def of(cls, header: CacheHeader) -> "_Layout":
        dtype = _DTYPES[header.dtype]
        prefix = struct.Struct(f"<II6f32s{len(header.quality_names)}d")
        largest = _MAX_FLOAT16 if header.dtype == "float16" else float(np.finfo(np.float32).max)
        return cls(header, prefix, dtype, math.prod(header.latent_spec.shape) * dtype.itemsize, largest)

    def is_intact(self, key: str, storage: bytes, value: "memoryview | bytes") -> bool:
        """Right length, right key, right checksum."""
        length = len(key.encode(errors="surrogatepass")) if storage[:1] == b"\0" else 0
        if len(value) != self.prefix.size + length + self.latent_bytes:
            return False
        view = memoryview(value)
        return bool(_CRC.unpack_from(view)[0] == _checksum(key, view[_CRC.size :]))

    def is_sound(self, key: str, storage: bytes, value: "memoryview | bytes") -> bool:
        """Intact, and the latents are finite."""
        if not self.is_intact(key, storage, value):
            return False
        latents = np.frombuffer(value, np.uint8, offset=len(value) - self.latent_bytes)
        return bool(self.finite_rows(latents[None])[0])

    def finite_rows(self, raw: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """``(B, latent_bytes)`` -> ``(B,)``: whether all of a row's numbers are finite."""
        kind, exponent = _EXPONENT[self.header.dtype]
        bits = raw.view(kind)
        return np.asarray(((bits & exponent) != exponent).all(axis=1))

    def to_float32(self, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
        """``(B, latent_bytes)`` of finite numbers -> ``(B, L, D)`` float32."""
        stored = raw.view(self.dtype)
        latents = _widen(stored) if self.header.dtype == "float16" else np.ascontiguousarray(stored, dtype=np.float32)
        return latents.reshape(len(raw), *self.header.latent_spec.shape)


def _widen(halves: NDArray[Any]) -> NDArray[np.float32]:
    """Finite float16 ``(B, N)`` -> float32, exactly, six times faster than ``astype``, which converts number by number.

    Sign, exponent and fraction are moved to where float32 has them; the factor makes up for the other exponent bias
    (127 - 15 = 112), also for subnormal numbers. Those come out as zero if this thread flushes subnormals
    (``torch.set_flush_denormal``), so then ``astype`` does it.
    """
    scale = np.float32(2.0**112)
    if np.float32(2.0**-140) * scale == 0:
        return halves.astype(np.float32)
    bits = np.empty(halves.shape, dtype=np.int32)
    numbers, source = bits.view(np.float32), halves.view("<i2")
    step = max(1, (1 << 17) // max(1, halves.shape[1]))  # rows, such that the four passes stay in the processor's cache
    for start in range(0, len(bits), step):
        part = bits[start : start + step]
        np.copyto(part, source[start : start + step])  # extends the sign over the upper half
        np.left_shift(part, 13, out=part)
        np.bitwise_and(part, -0x70002000, out=part)  # 0x8FFFE000: one sign bit, 5 + 10 bits in their new place
        np.multiply(numbers[start : start + step], scale, out=numbers[start : start + step])
    return numbers


def _layout(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[memoryview]") -> _Layout:
    """The layout of an open file, from its header, which is read and checked once."""
    layout = handle.extras.get("layout")
    if layout is None:
        value = transaction.get(_HEADER_KEY, db=handle.databases[_HEADER])
        if value is None or len(value) < _CRC.size:
            raise CacheError(f"{handle.directory} has no header: not a ganaug latent cache, or not fully created")
        text = bytes(value[_CRC.size :])
        if _CRC.unpack_from(value)[0] != zlib.crc32(text):
            raise CacheError(f"the header of the cache {handle.directory} is damaged. Restore a copy or rebuild it")
        layout = handle.extras["layout"] = _Layout.of(CacheHeader.from_dict(json.loads(text)))
    assert isinstance(layout, _Layout)  # for the type checker: nobody else writes it
    return layout


def _storage_key(key: str) -> bytes:
    """The key under which LMDB has a sample: its text, or a zero byte and a hash where LMDB could not take it."""
    name = key.encode(errors="surrogatepass")  # any Python string, so also file names that are not valid UTF-8
    if 0 < len(name) <= _MAX_KEY_BYTES and name[0]:
        return name
    return b"\0" + sha256(name).digest()


def _true_key(storage: bytes, value: Any, length_offset: int, key_offset: int) -> str | None:
    """The sample's key of a stored entry, or None if unreadable; ``value()`` gives the entry's bytes where needed."""
    try:
        if storage[0]:
            return storage.decode(errors="surrogatepass")
        data = value()
        name = bytes(data[key_offset : key_offset + _CRC.unpack_from(data, length_offset)[0]])
        return name.decode(errors="surrogatepass") if b"\0" + sha256(name).digest() == storage else None
    except (UnicodeDecodeError, struct.error):
        return None


def _checksum(key: str, rest: "bytes | memoryview") -> int:
    return zlib.crc32(rest, zlib.crc32(key.encode(errors="surrogatepass")))


def _require_equal(mine: CacheHeader, other: CacheHeader, mine_name: str, other_name: str, advice: str) -> None:
    """All fields but ``generator``; through JSON, so that a tuple in the settings equals the list it is stored as."""
    first, second = (json.loads(json.dumps(header.to_dict())) for header in (mine, other))
    for name in first:
        if name != "generator" and first[name] != second[name]:
            raise CacheError(
                f"{name} differs: {mine_name} has {first[name]!r}, {other_name} has {second[name]!r}. {advice}"
            )
