"""Fetching known weights: only when asked, only with the licence accepted, and only what it is known to be."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ganaug.download import cannot_write, download, remove_part
from ganaug.errors import CheckpointError, UserInputError
from ganaug.known_weights import (
    KNOWN_WEIGHTS,
    KnownWeights,
    digest,
    fetched,
    read_record,
    record_path,
    weights_folder,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def fetch(
    name: str, *, accept_licence: bool = False, directory: str | Path | None = None, progress: bool = True
) -> Path:
    """The file of a known name; downloads it if it is not here yet.

    A download that was stopped, by a cut connection or by a kill, continues with the next call. A file that a person
    put into the folder under its name is taken as downloaded. The file appears under its name only whole, on the disk
    and verified: by its sha256 in the table, or else by the one that was recorded when it first came.

    Args:
        name: Key of :data:`ganaug.known_weights.KNOWN_WEIGHTS`.
        accept_licence: That you have read its licence and accept it.
        directory: Where to; default :func:`ganaug.known_weights.weights_folder`, where its name is enough to open it.
        progress: Show a bar on stderr, if that is a terminal.

    Returns:
        Path of the file. Beside it, ``FILE.json`` records address, sha256, date and the licence that was accepted.

    Raises:
        UserInputError: For an unknown name, a licence that was not accepted, a file that has to be downloaded by hand,
            or a folder that cannot be written.
        CheckpointError: If the server does not give the file, or gives another one.
    """
    entry = KNOWN_WEIGHTS.get(name)
    if entry is None:
        raise UserInputError(f"unknown weights {name!r}: expected one of {', '.join(KNOWN_WEIGHTS)}")
    folder = weights_folder() if directory is None else Path(directory).expanduser()
    found = fetched(name, folder)
    if found is not None:
        return found
    if not accept_licence:
        raise UserInputError(
            f"{name} comes under a licence: {entry.licence}. Read it; if you accept it, say so with --accept-licence "
            "(in Python: accept_licence=True)"
        )
    target = folder / entry.file
    part = folder / (entry.file + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            try:
                if fetched(name, folder) is None:  # another process may have been faster
                    _obtain(name, entry, target, part, progress)
            finally:
                if part.is_file() and not part.stat().st_size:  # held the lock, and nothing else
                    remove_part(part)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return target


def _obtain(name: str, entry: KnownWeights, target: Path, part: Path, progress: bool) -> None:
    """Puts the verified file in place and records how it came."""
    if target.is_file():
        _check_put_by_hand(name, entry, target)
        _record(name, entry, target, "")
        remove_part(part)
        return
    if entry.url is None:
        raise UserInputError(
            f"{name} has to be downloaded by hand: open {entry.page} in a browser, save the file as {target}, and run "
            "this again to have it checked and recorded"
        )
    version = download(entry.url, part, size=entry.size, verified=entry.sha256 is not None, progress=progress)
    expected = _expected(entry, target)
    found = digest(part)
    if expected is not None and found != expected:
        remove_part(part)
        raise CheckpointError(_another_file(entry, entry.url, target, found, expected))
    # The lock file is the part itself: it gets its final name while this process still holds it.
    os.replace(part, target)
    _sync(target.parent)
    remove_part(part)
    _record(name, entry, target, version.validator)


def _check_put_by_hand(name: str, entry: KnownWeights, target: Path) -> None:
    expected, found = _expected(entry, target), digest(target)
    if expected is not None and found != expected:
        raise CheckpointError(_another_file(entry, str(target), target, found, expected))
    with target.open("rb") as file:
        if file.read(64).lstrip()[:1] in (b"<", b""):
            raise CheckpointError(f"{target}: a web page or nothing, not the file of {name}; download it again")


def _expected(entry: KnownWeights, target: Path) -> str | None:
    """sha256 that the file must have, or None when it comes for the first time."""
    if entry.sha256 is not None:
        return entry.sha256
    record = read_record(target)
    return None if record is None else str(record["sha256"])


def _another_file(entry: KnownWeights, source: str, target: Path, found: str, expected: str) -> str:
    message = f"{source}: another file than expected, not kept: its sha256 is {found}, expected {expected}"
    if entry.sha256 is not None:
        return message + " (from the table of known weights); run the same command again to download it anew"
    return (
        f"{message} (recorded when it first came); if its makers have published a new version that you trust, delete "
        f"{record_path(target)} and fetch it again"
    )


def _record(name: str, entry: KnownWeights, target: Path, validator: str) -> None:
    """Writes ``FILE.json``; atomically, for its sha256 is what later openings are compared with."""
    record = {
        "name": name,
        "source": entry.url or entry.page,
        "sha256": digest(target),
        "sha256_from": "first use" if entry.sha256 is None else "table",
        "size": target.stat().st_size,
        "validator": validator,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": entry.licence,
        "licence_accepted": True,
    }
    temporary = target.with_name(f"{target.name}.json.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, record_path(target))
    _sync(target.parent)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """One process at a time; the system lets go of the lock when its holder is killed."""
    while True:
        with part.open("ab") as file:
            _lock(file)
            try:
                mine, named = os.fstat(file.fileno()), part.stat()
            except FileNotFoundError:
                continue  # its holder has finished, and it has another name now
            if (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino):
                yield
                return


def _lock(file: IO[bytes]) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{file.name} is being written by another process; waiting for it", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without flock: then two processes write the same bytes to the same places
        return


def _sync(folder: Path) -> None:
    """Makes a new name survive a power cut."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not every system can
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
