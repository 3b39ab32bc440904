"""One LMDB handle per file and process, and the check of a file before it is opened for the first time.

What LMDB and py-lmdb ask for, and what happens here:

* A file may be open once in a process (py-lmdb >= 2 refuses the second): handles live in one pool, by device and inode.
* A handle must not cross a fork: all of them are closed before one, and both sides reopen when they next need one.
* A mapped file that is shorter than its own page table kills the process with SIGBUS: the file is checked first.
* Erasing bytes means writing a new file. Every process notices a replaced file at its next call, by the inode.

One lock guards the pool and every transaction, so no transaction is open when a fork closes the handles, or when the
map is resized. A thread therefore waits while another thread of the same process commits; processes do not wait for
each other. No transaction outlives a call, so stale snapshots never stop LMDB from reusing pages.
"""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import lmdb

from ganaug import lmdb_verify
from ganaug.interfaces import CacheError
from ganaug.lmdb_verify import DATA, LOCK

T = TypeVar("T")

# Address space, not disk: without writemap the file is as long as what was written. With a map this large nobody meets
# MapFullError or MapResizedError in practice. Windows reserves disk for it, 32-bit systems cannot address it.
DEFAULT_MAP_SIZE = 1 << 40 if os.name == "posix" and sys.maxsize > 1 << 32 else 1 << 28

_COMPACTED = "compacted.tmp"
_MAX_READERS = 1024  # only the first opener's number counts; default 126 is less than 16 ranks with 8 workers
_MAX_DATABASES = 8
_READ_RETRIES = 100
_COPY_BATCH = 512  # records per transaction while compacting
_DIRECTORY_MODE = 0o700  # files get 0600: latents can be turned back into faces

Identity = tuple[int, int]


@dataclass
class Handle:
    """An open LMDB environment. Use only inside :func:`reading` or :func:`write`.

    Attributes:
        environment: The environment.
        directory: Real path of its directory.
        identity: Device and inode of the data file.
        writing: Whether it is open for writing. A process that only reads never waits for a writer, nor can it do harm.
        locked: Whether it takes part in LMDB's locking; False where this process cannot write to the folder.
        file_size: Bytes of the data file when last looked at; it never shrinks while it is in use.
        databases: The named databases.
        extras: What the owner derives once per open file.
    """

    environment: lmdb.Environment
    directory: str
    identity: Identity
    writing: bool
    locked: bool
    file_size: int
    databases: dict[str, Any] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)
    extras: dict[str, Any] = field(default_factory=dict)
    _views: dict[str, memoryview] = field(default_factory=dict)
    _views_transaction: int = -1

    def sound_views(self, transaction_id: int) -> dict[str, memoryview]:
        """Key -> record, as a view into the map, for the owner to fill: what it found sound in this committed state.

        Read them inside a read transaction of that state only. They save the search in the tree, half of the time of a
        read. They stay right from one such transaction to the next because LMDB never writes over the pages of the last
        committed state; and the map stays where it is until it is resized or closed, which forgets them.
        """
        if transaction_id != self._views_transaction:
            self._views = {}
            self._views_transaction = transaction_id
        return self._views

    def resize(self, map_size: int) -> None:
        """Sets the map's size, 0 for that of the file. The only place to do so: the map may move."""
        self._views = {}
        self.environment.set_mapsize(map_size)


class _Replaced(Exception):
    """The data file was replaced (compacted) while this process waited to write."""


class _Pool:
    """All handles of this process. ``lock`` is held during every transaction."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.handles: dict[Identity, Handle] = {}
        self.checked: dict[Identity, tuple[int, int]] = {}  # file -> (size, mtime_ns) when last known to be sound

    def handle(self, directory: str, names: tuple[str, ...], map_size: int, writing: bool = False) -> Handle:
        """The open handle of ``directory``, opened or reopened if need be. The caller holds ``lock``."""
        status = lmdb_verify.stat_data(directory)
        identity = (status.st_dev, status.st_ino)
        handle = self.handles.get(identity)
        if handle is not None and handle.pid == os.getpid() and (handle.writing or not writing):
            if status.st_size < handle.file_size:  # reading on would be SIGBUS
                self.close(handle)
                shrank = f"truncated from {handle.file_size} to {status.st_size} bytes while it was open"
                raise lmdb_verify.damaged(directory, shrank)
            handle.file_size = status.st_size
            return handle
        # Open for reading only, or inherited by a fork that ran no hooks, or the file was replaced by a compacted one.
        for stale in [other for other in self.handles.values() if other is handle or other.directory == directory]:
            self.close(stale)
        handle = self._open(directory, map_size, writing)
        try:
            # Without locks held on the directory: py-lmdb waits for the writer's lock here if the file is open for
            # writing, and whoever compacts it holds that one while asking for the directory's.
            for name in names:
                handle.databases[name] = handle.environment.open_db(name.encode(), create=False)
        except lmdb.Error as error:
            handle.environment.close()
            if isinstance(error, (lmdb.NotFoundError, lmdb.ReadonlyError, lmdb.IncompatibleError)):
                raise CacheError(
                    f"{directory} is an LMDB file but not a ganaug latent cache (it lacks one of the databases "
                    f"{', '.join(names)}), or its creation was interrupted. Give the right path, or create it again"
                ) from error
            raise lmdb_verify.damaged(directory, str(error)) from error
        self.handles[handle.identity] = handle
        return handle

    def _open(self, directory: str, map_size: int, writing: bool) -> Handle:
        """Checks and opens the file, without its databases."""
        with lmdb_verify.directory_lock(directory, exclusive=False):
            status = lmdb_verify.stat_data(directory)
            identity = (status.st_dev, status.st_ino)
            if self.checked.get(identity) != (status.st_size, status.st_mtime_ns):
                lmdb_verify.check_file(os.path.join(directory, DATA))
            writable = lmdb_verify.is_writable(directory)
            if writing and not writable:
                raise lmdb_verify.read_only(directory)
            try:
                environment = _open_environment(directory, map_size, status.st_size, writable, readonly=not writing)
            except lmdb.Error as error:
                raise CacheError(f"cannot open the latent cache {directory}: {error}. {_OPEN_HINT}") from error
        self.checked[identity] = (status.st_size, status.st_mtime_ns)
        return Handle(environment, directory, identity, writing, writable, status.st_size)

    def close(self, handle: Handle) -> None:
        """Closes one handle; the next call reopens."""
        self.handles.pop(handle.identity, None)
        if handle.pid == os.getpid():
            # What LMDB wrote while it was open needs no second check; else each fork would check a large file again.
            with suppress(OSError, CacheError):
                status = lmdb_verify.stat_data(handle.directory)
                if (status.st_dev, status.st_ino) == handle.identity and status.st_size >= handle.file_size:
                    self.checked[handle.identity] = (status.st_size, status.st_mtime_ns)
        handle.environment.close()

    def before_fork(self) -> None:
        self.lock.acquire()  # waits for other threads' transactions; released on both sides of the fork
        for handle in list(self.handles.values()):
            self.close(handle)

    def after_fork(self) -> None:
        self.lock.release()


_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_POOL.before_fork, after_in_parent=_POOL.after_fork, after_in_child=_POOL.after_fork)

_OPEN_HINT = (
    "If other code of this process opened the same file with lmdb directly, close it there. "
    "Network file systems are not supported: copy the cache to a local disk"
)


def close(directory: str) -> None:
    """Closes the handle of one directory, if it is open."""
    with _POOL.lock:
        for handle in [handle for handle in _POOL.handles.values() if handle.directory == directory]:
            _POOL.close(handle)


@contextmanager
def reading(
    directory: str, names: tuple[str, ...], database: str, map_size: int = DEFAULT_MAP_SIZE
) -> Iterator[tuple[Handle, "lmdb.Transaction[memoryview]"]]:
    """A read transaction; its values are views into the map and must be copied before it ends.

    Args:
        directory: Real path of the LMDB directory.
        names: Named databases that the file must have.
        database: The one that the transaction reads unless told otherwise.
        map_size: Bytes of address space, if the file has to be opened.

    Raises:
        CacheError: If the file is missing, foreign, truncated or damaged.
    """
    with _POOL.lock:
        handle = _POOL.handle(directory, names, map_size)
        transaction = _begin_read(handle, database)
        try:
            yield handle, transaction
        except lmdb.Error as error:
            raise lmdb_verify.damaged(directory, str(error)) from error
        finally:
            transaction.abort()


def _begin_read(handle: Handle, database: str) -> "lmdb.Transaction[memoryview]":
    last: lmdb.Error | None = None
    for _ in range(_READ_RETRIES):
        try:
            return handle.environment.begin(db=handle.databases[database], buffers=True)
        except lmdb.Error as error:
            last = error
            if isinstance(error, lmdb.MapResizedError):  # another process grew the file beyond our map: adopt its size
                handle.resize(0)
            elif isinstance(error, lmdb.ReadersFullError) and handle.locked and handle.environment.reader_check():
                continue  # slots of killed readers were freed
            else:
                break
    raise CacheError(
        f"cannot read the latent cache {handle.directory}: {last}. At most {_MAX_READERS} processes can read at a time"
    ) from last


def write(
    directory: str,
    names: tuple[str, ...],
    job: Callable[[Handle, "lmdb.Transaction[bytes]"], T],
    map_size: int = DEFAULT_MAP_SIZE,
) -> T:
    """Runs ``job(handle, transaction)`` in one write transaction and commits it (with fsync) when it returns.

    ``job`` may run more than once: the map is grown when it is full, and the file reopened when it was replaced.

    Raises:
        CacheError: If the folder is read-only, the disk full, or the file damaged. Nothing of ``job`` is kept then.
    """
    with _POOL.lock:
        while True:
            handle = _POOL.handle(directory, names, map_size, writing=True)
            environment = handle.environment
            try:
                environment.reader_check()  # slots of killed readers would keep old pages from being reused
                with environment.begin(write=True) as transaction:
                    _require_current(handle)
                    result = job(handle, transaction)
                return result
            except _Replaced:
                _POOL.close(handle)
            except lmdb.MapFullError:
                try:
                    handle.resize(environment.info()["map_size"] * 2)
                except lmdb.Error as error:
                    raise lmdb_verify.write_error(directory, error) from error
            except lmdb.MapResizedError:
                handle.resize(0)
            except lmdb.Error as error:
                _POOL.close(handle)  # after a failed commit LMDB may refuse the handle for good; a fresh one is sound
                raise lmdb_verify.write_error(directory, error) from error


def create(directory: str, contents: Mapping[str, Mapping[bytes, bytes]], map_size: int = DEFAULT_MAP_SIZE) -> None:
    """Makes the LMDB directory with its databases and first entries in one commit; keeps a cache that is there already.

    Args:
        directory: Real path; made with mode 0700 if it does not exist. Files get mode 0600.
        contents: Database -> key -> value. The databases that exist already are left as they are.
        map_size: Bytes of address space.

    Raises:
        CacheError: If the place cannot be written to or holds something else.
    """
    try:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(directory, _DIRECTORY_MODE)
        if not os.path.isdir(directory):
            raise CacheError(lmdb_verify.describe_path(directory))
    except OSError as error:
        raise CacheError(f"cannot create the latent cache {directory}: {error}") from error
    data = os.path.join(directory, DATA)
    with _POOL.lock, lmdb_verify.directory_lock(directory, exclusive=True):
        if os.path.exists(data):
            status = os.stat(data)
            if (status.st_dev, status.st_ino) in _POOL.handles:
                return
            if status.st_size:
                lmdb_verify.check_file(data)
        if not lmdb_verify.is_writable(directory):
            if os.path.exists(data):
                return  # nothing to create; whoever reads it next finds out whether it is a cache
            raise CacheError(f"cannot create the latent cache {directory}: the folder is read-only")
        try:
            # Only a file without these databases is written to, and such a file nobody can be compacting: so we never
            # wait for the writer's lock while holding the directory's.
            with _open_environment(directory, map_size, 0) as environment:
                if not _has_databases(environment, contents):
                    with environment.begin(write=True) as transaction:
                        for name, entries in contents.items():
                            database = environment.open_db(name.encode(), txn=transaction)
                            for key, value in entries.items():
                                transaction.put(key, value, db=database)
        except lmdb.Error as error:
            raise lmdb_verify.write_error(directory, error) from error


def compact(directory: str, names: tuple[str, ...], map_size: int = DEFAULT_MAP_SIZE) -> None:
    """Writes a new file with nothing but the present records, and puts it in the place of the old one atomically.

    LMDB's own compacting copy takes leaf pages as they are, with deleted small entries in their unused space; so every
    record is written anew into a fresh file. The old file's bytes are freed when the last process that had it open
    makes its next call or ends.

    Raises:
        CacheError: If the folder is read-only or the disk is full; the old file is kept then.
    """
    temporary = os.path.join(directory, _COMPACTED)
    with _POOL.lock:
        while True:
            handle = _POOL.handle(directory, names, map_size, writing=True)
            try:
                # The write transaction keeps other processes from writing to the old file until it is gone.
                with handle.environment.begin(write=True, buffers=True) as transaction:
                    _require_current(handle)
                    shutil.rmtree(temporary, ignore_errors=True)  # of a compaction that was killed
                    _copy_databases(handle, transaction, temporary, map_size)
                    with lmdb_verify.directory_lock(directory, exclusive=True):
                        # The lock file counts the old file's transactions, so the new file needs a new one. Nobody
                        # opens in between: openers hold the directory's lock.
                        with suppress(FileNotFoundError):
                            os.unlink(os.path.join(directory, LOCK))
                        os.replace(os.path.join(temporary, DATA), os.path.join(directory, DATA))
                        lmdb_verify.sync_directory(directory)
                    transaction.abort()
                _POOL.close(handle)
                return
            except _Replaced:
                _POOL.close(handle)
            except lmdb.MapResizedError:
                handle.resize(0)
            except (lmdb.Error, OSError) as error:
                raise lmdb_verify.write_error(directory, error) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _copy_databases(handle: Handle, source: "lmdb.Transaction[memoryview]", directory: str, map_size: int) -> None:
    os.mkdir(directory, _DIRECTORY_MODE)
    size = max(map_size, handle.environment.info()["map_size"], 2 * handle.file_size)
    # No sync per commit: one at the end, before the file gets its name.
    with _open_environment(directory, size, 0, sync=False) as target:
        for name, database in handle.databases.items():
            copied = target.open_db(name.encode())
            entries = iter(source.cursor(database))
            while batch := list(islice(entries, _COPY_BATCH)):
                with target.begin(write=True) as transaction:
                    transaction.cursor(copied).putmulti(batch, append=True)
        target.sync(True)


def _require_current(handle: Handle) -> None:
    """Inside a write transaction: the file that we would write to is still the one at the path."""
    status = lmdb_verify.stat_data(handle.directory)
    if (status.st_dev, status.st_ino) != handle.identity:
        raise _Replaced


def _has_databases(environment: lmdb.Environment, names: Iterable[str]) -> bool:
    with environment.begin() as transaction:
        cursor = transaction.cursor()
        return all(cursor.set_key(name.encode()) for name in names)


def _open_environment(
    directory: str, map_size: int, file_size: int, lock: bool = True, readonly: bool = False, sync: bool = True
) -> lmdb.Environment:
    # Defaults kept on purpose: sync (a commit survives a power cut), no writemap (a full disk is an error instead of
    # SIGBUS), meminit (no old heap contents in the file). Readahead off: reads are random, and it costs a factor of six
    # on a cold file.
    while True:
        try:
            return lmdb.open(
                directory,
                map_size=map_size,
                readonly=readonly,
                lock=lock,
                sync=sync,
                mode=_DIRECTORY_MODE,
                readahead=False,
                max_readers=_MAX_READERS,
                max_dbs=_MAX_DATABASES,
                max_spare_txns=0,
            )
        except (lmdb.MemoryError, MemoryError):  # a limit on address space (ulimit -v): take less, as far as possible
            if map_size // 4 <= file_size + (1 << 24):
                raise
            map_size //= 4
