"""The latent cache: one record per face, written once by ``precompute`` and read in batches by every training run."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice

import lmdb
import numpy as np
from numpy.typing import NDArray

from ganaug import lmdb_pool
from ganaug.cache_failures import Failure, decode_failure, encode_failure
from ganaug.cache_format import DAMAGED, FOUND, MISSING, Layout, ManyLatents, Record
from ganaug.cache_header import FORMAT_VERSION, CacheHeader, decode_header, encode_header, require_equal
from ganaug.cache_keys import CRC, storage_key, true_key
from ganaug.interfaces import CacheError, LatentSpec

__all__ = ["DAMAGED", "FORMAT_VERSION", "FOUND", "MISSING", "CacheHeader", "LatentCache", "ManyLatents", "Record"]

_HEADER, _RECORDS, _FAILURES = _NAMES = ("header", "records", "failures")
_HEADER_KEY = b"header"
_BATCH = 256  # records per transaction where everything is read


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
        >>> found = cache.get_many(["bob.jpg", "ann.jpg"])
        >>> found.latents[:, 0].tolist(), found.status.tolist()
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
        cache = cls(path, _map_size=_map_size)
        contents = {_HEADER: {_HEADER_KEY: encode_header(header)}, _RECORDS: {}, _FAILURES: {}}
        lmdb_pool.create(cache.path, contents, _map_size)
        require_equal(cache.header, header, f"the cache at {cache.path}", "what was asked for", "Use another path")
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
            return transaction.get(storage_key(key)) is not None

    def keys(self) -> list[str]:
        """All keys, sorted. A record whose own key is damaged is left out: it is as good as missing."""
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            start = _layout(handle, transaction).prefix.size
            cursor = transaction.cursor()
            found = [
                true_key(bytes(storage), lambda: cursor.value(), start)
                for storage in cursor.iternext(keys=True, values=False)
            ]
        return sorted(key for key in found if key is not None)

    def get(self, key: str) -> Record:
        """One record.

        Raises:
            KeyError: If there is none.
            CacheError: If it is damaged.
        """
        layout, (value,) = self._read([key])
        if value is None:
            raise KeyError(key)
        self._require_intact(layout, key, value)
        return layout.decode(key, value)

    def get_many(self, keys: Sequence[str]) -> ManyLatents:
        """Latents of a batch, in one transaction; never raises for a single bad record.

        A checksum per read would double its cost or more (3 us for 18 KB). Each record is therefore checked once per
        opened file and committed state. The price: a bit that flips in memory or on the disk after that is not seen
        until somebody commits or the file is opened again.

        Args:
            keys: B keys; repeats are fine.

        Returns:
            Latents ``(B, L, D)`` as stored (float16 or float32), status ``(B,)``, source hashes ``(B, 32)`` and
            geometry ``(B, 8)``, in the order of ``keys``.
        """
        layout, raw, status = self._read_many(keys)
        return layout.split(raw, status)

    def get_qualities(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """``(B, Q)`` figures of B records, columns as ``quality_names`` of the header; NaN without a sound record."""
        layout, raw, status = self._read_many(keys)
        found = np.frombuffer(status, np.uint8)[:, None] == FOUND
        return np.where(found, layout.qualities(raw), np.nan)

    def _read_many(self, keys: Sequence[str]) -> tuple[Layout, bytearray, bytearray]:
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            layout = _layout(handle, transaction)
            views = handle.sound_views(transaction.id())
            try:  # all of them known: one lookup and one copy per record, without a Python call of our own
                raw, status = bytearray().join(map(views.__getitem__, keys)), bytearray(len(keys))
            except KeyError:
                raw, status = _read_checked(layout, transaction, views, keys)
        return layout, raw, status

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
        values = {storage_key(record.key): layout.encode(record, self.path) for record in records}
        if values:
            self._put(sorted(values.items()))

    def put_failures(self, failures: Mapping[str, str | Failure]) -> None:
        """Notes for which keys there are no latents, and why, in one transaction."""
        values = [(storage_key(key), encode_failure(key, failure)) for key, failure in failures.items()]

        def job(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[bytes]") -> None:
            for storage, value in sorted(values):
                transaction.put(storage, value, db=handle.databases[_FAILURES])

        if values:
            lmdb_pool.write(self.path, _NAMES, job, self._map_size)

    def failures(self) -> dict[str, str]:
        """Key -> reason, sorted by key; a reason that cannot be read any more is told as such."""
        return {key: failure.reason for key, failure in self.stamped_failures().items()}

    def stamped_failures(self) -> dict[str, Failure]:
        """The same with what each failure is about, so that nobody tries again in vain."""
        with lmdb_pool.reading(self.path, _NAMES, _FAILURES, self._map_size) as (handle, transaction):
            cursor = transaction.cursor(handle.databases[_FAILURES])
            found = [decode_failure(bytes(storage), bytes(value)) for storage, value in cursor]
        return dict(sorted(entry for entry in found if entry is not None))

    def records(self) -> Iterator[Record]:
        """All records in key order, in short transactions: what is deleted meanwhile is left out.

        Raises:
            CacheError: At a damaged record; :meth:`verify` names them all.
        """
        for key, layout, value in self._scan():
            self._require_intact(layout, key, value)
            yield layout.decode(key, value)

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
            result.update(CRC.pack(len(name)) + name)
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
                    key = true_key(last, partial(bytes, value), layout.prefix.size)
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
        storages = sorted({storage_key(key) for key in keys})

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

    def merge(self, other: "LatentCache", skip_damaged: bool = False) -> int:
        """Copies all records of another cache, for example of another shard; replaces those with equal keys.

        Failures come along for keys that have no record here. Killed and called again, it goes on. With
        ``skip_damaged``, damaged records of the other cache are left out.

        Returns:
            How many records were written: those that are not here already, bit for bit.

        Raises:
            CacheError: If the headers differ (names the field and both values), or the other cache has damaged records
                that are not to be left out (names the first); nothing is copied then.
        """
        if other.path == self.path:
            raise CacheError(f"cannot merge the cache {self.path} with itself")
        advice = "Only caches of the same generator, alignment and inverter can be merged"
        require_equal(self.header, other.header, f"the cache at {self.path}", f"the cache at {other.path}", advice)
        damaged = other.verify()
        if damaged and not skip_damaged:
            raise CacheError(
                f"the cache {other.path} has {len(damaged)} damaged record(s), the first is {damaged[0]!r}. Put "
                "or forget them before merging"
            )
        count, left_out = 0, set(damaged)
        whole = ((storage_key(key), value) for key, _, value in other._scan() if key not in left_out)
        while batch := dict(islice(whole, _BATCH)):
            count += self._put(sorted(batch.items()))
        failures = other.stamped_failures().items() - self.stamped_failures().items()
        self.put_failures({key: failure for key, failure in failures if key not in self})
        return count

    def close(self) -> None:
        """Closes this process's open file, if any; the next call opens it again."""
        lmdb_pool.close(self.path)

    def _layout(self) -> Layout:
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            return _layout(handle, transaction)

    def _read(self, keys: Sequence[str]) -> tuple[Layout, list[bytes | None]]:
        """Copies of raw records, unchecked."""
        with lmdb_pool.reading(self.path, _NAMES, _RECORDS, self._map_size) as (handle, transaction):
            views = [transaction.get(storage_key(key)) for key in keys]
            return _layout(handle, transaction), [None if view is None else bytes(view) for view in views]

    def _scan(self) -> Iterator[tuple[str, Layout, bytes]]:
        """All raw records in key order, unchecked. Nothing is held open between two of them."""
        keys = self.keys()
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            layout, values = self._read(batch)
            for key, value in zip(batch, values, strict=True):
                if value is not None:
                    yield key, layout, value

    def _put(self, values: Sequence[tuple[bytes, bytes]]) -> int:
        """Writes raw records, clears their failures; returns how many were not there already, bit for bit."""

        def job(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[bytes]") -> int:
            records, failures = handle.databases[_RECORDS], handle.databases[_FAILURES]
            others = [(storage, value) for storage, value in values if transaction.get(storage, db=records) != value]
            for storage, value in others:
                transaction.put(storage, value, db=records)
            for storage, _ in values:
                transaction.delete(storage, db=failures)
            return len(others)

        return lmdb_pool.write(self.path, _NAMES, job, self._map_size)

    def _require_intact(self, layout: Layout, key: str, value: bytes) -> None:
        if not layout.is_sound(key, storage_key(key), value):
            raise CacheError(
                f"the record {key!r} in the cache {self.path} is damaged (checksum, length or non-finite latents). "
                "Put it again, or forget it and run `ganaug precompute`"
            )


def _layout(handle: lmdb_pool.Handle, transaction: "lmdb.Transaction[memoryview]") -> Layout:
    """The layout of an open file, from its header, which is read and checked once."""
    layout = handle.extras.get("layout")
    if layout is None:
        value = transaction.get(_HEADER_KEY, db=handle.databases[_HEADER])
        layout = handle.extras["layout"] = Layout.of(decode_header(value, handle.directory))
    assert isinstance(layout, Layout)  # for the type checker: nobody else writes it
    return layout


def _read_checked(
    layout: Layout, transaction: "lmdb.Transaction[memoryview]", views: dict[str, memoryview], keys: Sequence[str]
) -> tuple[bytearray, bytearray]:
    """Records one after the other, zeros for those not FOUND, and their status; adds to ``views`` what it checked."""
    size, prefix = layout.record_bytes, layout.prefix.size
    parts: list[bytes | memoryview] = [bytes(size)] * len(keys)
    status = bytearray([MISSING]) * len(keys)
    # In the order of the file: neighbours share pages, and a cold disk is read in one direction.
    for storage, row in sorted((storage_key(key), row) for row, key in enumerate(keys)):
        key = keys[row]
        value = views.get(key)
        if value is None:
            value = transaction.get(storage)
            if value is None:
                continue
            if not layout.is_sound(key, storage, value):
                status[row] = DAMAGED
                continue
            if len(value) == size:
                views[key] = value
        status[row] = FOUND
        # With its key inside it is longer. Such long keys are rare, so they are not kept but checked each time.
        parts[row] = value if len(value) == size else bytes(value[:prefix]) + bytes(value[prefix - size :])
    return bytearray().join(parts), status
