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

import errno
import os
import re
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import lmdb

from ganaug.interfaces import CacheError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    from lmdb import verify as lmdb_verify  # py-lmdb >= 3.0
except ImportError:
    lmdb_verify = None  # type: ignore[assignment]

T = TypeVar("T")

# Address space, not disk: without writemap the file is as long as what was written. With a map this large nobody meets
# MapFullError or MapResizedError in practice. Windows reserves disk for it, 32-bit systems cannot address it.
DEFAULT_MAP_SIZE = 1 << 40 if os.name == "posix" and sys.maxsize > 1 << 32 else 1 << 28

_DATA, _LOCK, _COMPACTED = "data.mdb", "lock.mdb", "compacted.tmp"
_MAX_READERS = 1024  # only the first opener's number counts; default 126 is less than 16 ranks with 8 workers
_MAX_DATABASES = 8
_READ_RETRIES = 100
_VERIFY_RETRIES = 8
_COPY_BATCH = 512  # records per transaction while compacting
_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600  # latents can be turned back into faces

# LMDB 0.9, 64 bits, in the machine's own byte order: a page header of 16 bytes, then MDB_meta (lmdb's mdb.c):
# magic, version, address, map size, two MDB_db of 48 bytes (the first starts with the page size), last page, txn.
_META = struct.Struct("=II8xQI44x48xQQ")
_META_OFFSET = 16
_MAGIC = 0xBEEFC0DE
_LOST_PAGES = re.compile(r"(\d+) page\(s\) are neither reachable nor in the freeDB")
_SPARE_PAGES = re.compile(r"overflow page \d+ header mp_pages (\d+) != OVPAGES\(\d+\)=(\d+)")
_PAGE_SUM = re.compile(r"walked \d+ overflow pages, record says \d+")
_LFS_PREFIX = b"version https://git-lfs"

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
    _verified: set[bytes] = field(default_factory=set)
    _verified_transaction: int = -1

    def verified_keys(self, transaction_id: int) -> set[bytes]:
        """Keys whose records were found intact in this committed state; emptied when the state moves on."""
        if transaction_id != self._verified_transaction:
            self._verified = set()
            self._verified_transaction = transaction_id
        return self._verified


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
        status = _stat_data(directory)
        identity = (status.st_dev, status.st_ino)
        handle = self.handles.get(identity)
        if handle is not None and handle.pid == os.getpid() and (handle.writing or not writing):
            if status.st_size < handle.file_size:  # reading on would be SIGBUS
                self.close(handle)
                shrank = f"truncated from {handle.file_size} to {status.st_size} bytes while it was open"
                raise _damaged(directory, shrank)
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
            raise _damaged(directory, str(error)) from error
        self.handles[handle.identity] = handle
        return handle

    def _open(self, directory: str, map_size: int, writing: bool) -> Handle:
        """Checks and opens the file, without its databases."""
        with _directory_lock(directory, exclusive=False):
            status = _stat_data(directory)
            identity = (status.st_dev, status.st_ino)
            if self.checked.get(identity) != (status.st_size, status.st_mtime_ns):
                check_file(os.path.join(directory, _DATA))
            writable = _is_writable(directory)
            if writing and not writable:
                raise _read_only(directory)
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
                status = _stat_data(handle.directory)
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


def close_all() -> None:
    """Closes every handle of this process; each reopens when it is next needed."""
    with _POOL.lock:
        for handle in list(_POOL.handles.values()):
            _POOL.close(handle)


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
            raise _damaged(directory, str(error)) from error
        finally:
            transaction.abort()


def _begin_read(handle: Handle, database: str) -> "lmdb.Transaction[memoryview]":
    last: lmdb.Error | None = None
    for _ in range(_READ_RETRIES):
        try:
            return handle.environment.begin(db=handle.databases[database], buffers=True)
        except lmdb.MapResizedError as error:  # another process grew the file beyond our map: adopt its size
            last = error
            handle.environment.set_mapsize(0)
        except lmdb.ReadersFullError as error:  # slots of killed readers
            last = error
            if not handle.locked or not handle.environment.reader_check():
                break
        except lmdb.Error as error:
            last = error
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
                    environment.set_mapsize(environment.info()["map_size"] * 2)
                except lmdb.Error as error:
                    raise _write_error(directory, error) from error
            except lmdb.MapResizedError:
                environment.set_mapsize(0)
            except lmdb.Error as error:
                _POOL.close(handle)  # after a failed commit LMDB may refuse the handle for good; a fresh one is sound
                raise _write_error(directory, error) from error


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
            raise CacheError(_describe_path(directory))
    except OSError as error:
        raise CacheError(f"cannot create the latent cache {directory}: {error}") from error
    data = os.path.join(directory, _DATA)
    with _POOL.lock, _directory_lock(directory, exclusive=True):
        if os.path.exists(data):
            status = os.stat(data)
            if (status.st_dev, status.st_ino) in _POOL.handles:
                return
            if status.st_size:
                check_file(data)
        if not _is_writable(directory):
            if os.path.exists(data):
                return  # nothing to create; whoever reads it next finds out whether it is a cache
            raise CacheError(f"cannot create the latent cache {directory}: the folder is read-only")
        try:
            environment = _open_environment(directory, map_size, 0)
            try:
                # Only a file without these databases is written to, and such a file nobody can be compacting: so we
                # never wait for the writer's lock while holding the directory's.
                if not _has_databases(environment, contents):
                    with environment.begin(write=True) as transaction:
                        for name, entries in contents.items():
                            database = environment.open_db(name.encode(), txn=transaction)
                            for key, value in entries.items():
                                transaction.put(key, value, db=database)
            finally:
                environment.close()
        except lmdb.Error as error:
            raise _write_error(directory, error) from error


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
                    with _directory_lock(directory, exclusive=True):
                        # The lock file counts the old file's transactions, so the new file needs a new one. Nobody
                        # opens in between: openers hold the directory's lock.
                        with suppress(FileNotFoundError):
                            os.unlink(os.path.join(directory, _LOCK))
                        os.replace(os.path.join(temporary, _DATA), os.path.join(directory, _DATA))
                        _sync_directory(directory)
                    transaction.abort()
                _POOL.close(handle)
                return
            except _Replaced:
                _POOL.close(handle)
            except lmdb.MapResizedError:
                handle.environment.set_mapsize(0)
            except (lmdb.Error, OSError) as error:
                raise _write_error(directory, error) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def _copy_databases(handle: Handle, source: "lmdb.Transaction[memoryview]", directory: str, map_size: int) -> None:
    os.mkdir(directory, _DIRECTORY_MODE)
    size = max(map_size, handle.environment.info()["map_size"], 2 * handle.file_size)
    # No sync per commit: one at the end, before the file gets its name.
    target = _open_environment(directory, size, 0, sync=False)
    try:
        for name, database in handle.databases.items():
            copied = target.open_db(name.encode())
            batch: list[tuple[memoryview, memoryview]] = []
            for item in source.cursor(database):
                batch.append(item)
                if len(batch) == _COPY_BATCH:
                    _append(target, copied, batch)
                    batch = []
            _append(target, copied, batch)
        target.sync(True)
    finally:
        target.close()


def _append(target: lmdb.Environment, database: Any, batch: list[tuple[memoryview, memoryview]]) -> None:
    with target.begin(write=True) as transaction:
        transaction.cursor(database).putmulti(batch, append=True)


def _read_only(directory: str) -> CacheError:
    return CacheError(
        f"cannot write to the latent cache {directory}: the folder or its files are read-only for this process. "
        "Copy the cache to a place that can be written to, or ask its owner"
    )


def _require_current(handle: Handle) -> None:
    """Inside a write transaction: the file that we would write to is still the one at the path."""
    status = _stat_data(handle.directory)
    if (status.st_dev, status.st_ino) != handle.identity:
        raise _Replaced


def _is_writable(directory: str) -> bool:
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    paths = [os.path.join(directory, name) for name in (_DATA, _LOCK)]
    return all(os.access(path, os.R_OK | os.W_OK) for path in paths if os.path.exists(path))


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


def _stat_data(directory: str) -> os.stat_result:
    try:
        return os.stat(os.path.join(directory, _DATA))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError(_describe_path(directory)) from error
    except OSError as error:
        raise CacheError(f"cannot open the latent cache {directory}: {error}") from error


def _describe_path(directory: str) -> str:
    """Why there is no cache at a path."""
    if os.path.isfile(directory):
        with open(directory, "rb") as file:
            if file.read(len(_LFS_PREFIX)) == _LFS_PREFIX:
                return f"{directory} is a git-LFS pointer instead of a latent cache: run `git lfs pull`"
        return f"{directory} is a file, but a latent cache is a directory with a {_DATA}. Give the directory's path"
    if os.path.isdir(directory):
        return (
            f"{directory} holds no {_DATA}, so it is no latent cache. Give the right path, or run `ganaug precompute`"
        )
    return f"there is no latent cache at {directory}. Give the right path, or make one with `ganaug precompute`"


def _damaged(directory: str, reason: str) -> CacheError:
    advice = "Rebuild it with `ganaug precompute` or restore a copy"
    return CacheError(f"the latent cache {directory} is damaged: {reason}. {advice}")


def _write_error(directory: str, error: Exception) -> CacheError:
    # LMDB reports a full disk as "Input/output error" as often as ENOSPC, so the free space is always told.
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    try:
        free = f"{shutil.disk_usage(directory).free} bytes are free on its disk"
    except OSError:
        free = "the free space of its disk is unknown"
    no_room = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    cause = " (disk full, quota or file size limit)" if no_room else ""
    return CacheError(
        f"cannot write to the latent cache {directory}: {error}{cause}; {free}. This transaction was not kept, all "
        "earlier records are intact: make room and run again"
    )


@contextmanager
def _directory_lock(directory: str, exclusive: bool) -> Iterator[None]:
    """Opening a file and replacing it exclude each other, between processes; the system releases it after a kill."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows, or a directory that may be entered but not listed
        yield
        return
    try:
        if fcntl is not None:
            with suppress(OSError):  # a file system without flock
                fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: str) -> None:
    with suppress(OSError):  # not every system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_file(path: str) -> None:
    """Finds out, without mapping it, whether LMDB can open a data file and read all of it.

    Finds foreign and truncated files and broken pages. It does not look at values: those carry checksums of their own.

    Raises:
        CacheError: If not; says what is wrong and what to do.
    """
    directory = os.path.dirname(path)
    problems: list[str] = []
    for _ in range(_VERIFY_RETRIES):
        transaction = _check_meta(path)
        problems = _find_problems(path)
        if not problems:
            return
        if _check_meta(path) == transaction:
            raise _damaged(directory, _summarise(problems))
        # A writer committed meanwhile, twice perhaps, and reused pages that we were about to read: look again.
    # It never held still: LMDB itself reads such a file under its lock, and it has all the pages that it should have.


def _check_meta(path: str) -> int:
    """Checks the two meta pages and the file's length; returns the last transaction's number."""
    directory = os.path.dirname(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_META_OFFSET + _META.size)
            if not head:
                raise CacheError(f"{path} is empty (0 bytes). Create the cache again, or restore a copy")
            if head.startswith(_LFS_PREFIX):
                raise CacheError(f"{path} is a git-LFS pointer instead of the data: run `git lfs pull`")
            if len(head) < _META_OFFSET + _META.size:
                raise _damaged(directory, f"{_DATA} has only {size} bytes: truncated, or no LMDB file")
            magic, version, _, page_size, _, _ = first = _META.unpack_from(head, _META_OFFSET)
            if magic != _MAGIC or version != 1:
                raise CacheError(
                    f"{path} is not an LMDB 0.9 file of this kind of machine (64 bits, {sys.byteorder}-endian). "
                    "Give the path of a cache that ganaug made on such a machine"
                )
            if page_size < 256 or page_size > 1 << 16 or page_size & (page_size - 1):
                raise _damaged(directory, f"impossible page size {page_size}")
            file.seek(page_size + _META_OFFSET)
            tail = file.read(_META.size)
    except OSError as error:
        raise CacheError(f"cannot read the latent cache {directory}: {error}") from error
    if len(tail) < _META.size:
        raise _damaged(directory, f"{_DATA} has only {size} bytes: truncated")
    second = _META.unpack(tail)
    if second[0] != _MAGIC:
        raise _damaged(directory, "its second meta page is not readable")
    newest = max(first, second, key=lambda meta: meta[5])
    needed = (newest[4] + 1) * page_size
    # The last pages can be missing lawfully if they are free and were never written; only lmdb.verify can tell, so the
    # plain rule is for where it is not available.
    if size < needed and lmdb_verify is None:
        raise _damaged(directory, f"{_DATA} has {size} bytes but should have {needed}: truncated")
    return int(newest[5])


def _find_problems(path: str) -> list[str]:
    if lmdb_verify is None:
        return []
    try:
        found = lmdb_verify.verify(path, subdir=False)  # type: ignore[no-untyped-call]
    except lmdb_verify.VerifyError as error:
        return [str(error)]
    except (struct.error, IndexError, RecursionError) as error:  # a page so broken that the checker trips over it
        return [f"unreadable page ({error})"]
    return _without_false_alarms(found)


def _without_false_alarms(problems: list[str]) -> list[str]:
    """Drops what is reported of sound files (py-lmdb 3.0).

    Pages that nobody uses and nobody lists as free are lost space, not damage. And a value that was overwritten by a
    smaller one in the same transaction keeps its pages: reported as a page count that is too large, once per value, and
    as lost pages. That is believed only if the two agree.
    """
    lost = sum(int(match[1]) for problem in problems if (match := _LOST_PAGES.match(problem)))
    spare = [int(match[1]) - int(match[2]) for problem in problems if (match := _SPARE_PAGES.search(problem))]
    problems = [problem for problem in problems if not _LOST_PAGES.match(problem)]
    if spare and min(spare) > 0 and sum(spare) == lost:
        alarms = (_SPARE_PAGES, _PAGE_SUM)
        problems = [problem for problem in problems if not any(alarm.search(problem) for alarm in alarms)]
    return problems


def _summarise(problems: list[str]) -> str:
    truncated = any(word in problem for problem in problems for word in ("beyond", "truncated"))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{'truncated: ' if truncated else ''}{problems[0]}{more}"
