"""An LMDB directory from outside: whether a sound file is there and may be written to, and what to say if not.

A broken file, once mapped, can kill the process, so it is looked at without mapping it.
"""

import errno
import os
import re
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ganaug.interfaces import CacheError

try:
    from lmdb import verify as checker  # py-lmdb >= 3.0
except ImportError:
    checker = None  # type: ignore[assignment]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DATA, LOCK = "data.mdb", "lock.mdb"
_VERIFY_RETRIES = 8
_LFS_PREFIX = b"version https://git-lfs"

# LMDB 0.9, 64 bits, in the machine's own byte order: a page header of 16 bytes, then MDB_meta (lmdb's mdb.c):
# magic, version, address, map size, two MDB_db of 48 bytes (the first starts with the page size), last page, txn.
_META = struct.Struct("=II8xQI44x48xQQ")
_META_OFFSET = 16
_MAGIC = 0xBEEFC0DE
_LOST_PAGES = re.compile(r"(\d+) page\(s\) are neither reachable nor in the freeDB")
_SPARE_PAGES = re.compile(r"overflow page \d+ header mp_pages (\d+) != OVPAGES\(\d+\)=(\d+)")
_PAGE_SUM = re.compile(r"walked \d+ overflow pages, record says \d+")


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
            raise damaged(directory, _summarise(problems))
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
                raise damaged(directory, f"{DATA} has only {size} bytes: truncated, or no LMDB file")
            magic, version, _, page_size, _, _ = first = _META.unpack_from(head, _META_OFFSET)
            if magic != _MAGIC or version != 1:
                raise CacheError(
                    f"{path} is not an LMDB 0.9 file of this kind of machine (64 bits, {sys.byteorder}-endian). "
                    "Give the path of a cache that ganaug made on such a machine"
                )
            if page_size < 256 or page_size > 1 << 16 or page_size & (page_size - 1):
                raise damaged(directory, f"impossible page size {page_size}")
            file.seek(page_size + _META_OFFSET)
            tail = file.read(_META.size)
    except OSError as error:
        raise CacheError(f"cannot read the latent cache {directory}: {error}") from error
    if len(tail) < _META.size:
        raise damaged(directory, f"{DATA} has only {size} bytes: truncated")
    second = _META.unpack(tail)
    if second[0] != _MAGIC:
        raise damaged(directory, "its second meta page is not readable")
    newest = max(first, second, key=lambda meta: meta[5])
    needed = (newest[4] + 1) * page_size
    # The last pages can be missing lawfully if they are free and were never written; only lmdb.verify can tell, so the
    # plain rule is for where it is not available.
    if size < needed and checker is None:
        raise damaged(directory, f"{DATA} has {size} bytes but should have {needed}: truncated")
    return int(newest[5])


def _find_problems(path: str) -> list[str]:
    if checker is None:
        return []
    try:
        found = checker.verify(path, subdir=False)  # type: ignore[no-untyped-call]
    except checker.VerifyError as error:
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


def stat_data(directory: str) -> os.stat_result:
    """The data file's status.

    Raises:
        CacheError: If there is none; says what is there instead.
    """
    try:
        return os.stat(os.path.join(directory, DATA))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CacheError(describe_path(directory)) from error
    except OSError as error:
        raise CacheError(f"cannot open the latent cache {directory}: {error}") from error


def describe_path(directory: str) -> str:
    """Why there is no cache at a path."""
    if os.path.isfile(directory):
        with open(directory, "rb") as file:
            if file.read(len(_LFS_PREFIX)) == _LFS_PREFIX:
                return f"{directory} is a git-LFS pointer instead of a latent cache: run `git lfs pull`"
        return f"{directory} is a file, but a latent cache is a directory with a {DATA}. Give the directory's path"
    if os.path.isdir(directory):
        return f"{directory} holds no {DATA}, so it is no latent cache. Give the right path, or run `ganaug precompute`"
    return f"there is no latent cache at {directory}. Give the right path, or make one with `ganaug precompute`"


def damaged(directory: str, reason: str) -> CacheError:
    """The error for a file that cannot be used."""
    advice = "Rebuild it with `ganaug precompute` or restore a copy"
    return CacheError(f"the latent cache {directory} is damaged: {reason}. {advice}")


def read_only(directory: str) -> CacheError:
    """The error for a folder that this process cannot write to."""
    return CacheError(
        f"cannot write to the latent cache {directory}: the folder or its files are read-only for this process. "
        "Copy the cache to a place that can be written to, or ask its owner"
    )


def is_writable(directory: str) -> bool:
    """Whether this process may write to the folder and the files in it."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    paths = [os.path.join(directory, name) for name in (DATA, LOCK)]
    return all(os.access(path, os.R_OK | os.W_OK) for path in paths if os.path.exists(path))


def write_error(directory: str, error: Exception) -> CacheError:
    """The error for a transaction that failed."""
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
def directory_lock(directory: str, exclusive: bool) -> Iterator[None]:
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


def sync_directory(directory: str) -> None:
    """Makes a file's new name survive a power cut."""
    with suppress(OSError):  # not every system can
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
