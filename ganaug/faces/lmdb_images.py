"""Images in an LMDB file, as LSUN is published: key -> encoded image."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from ganaug.faces.face_dataset import FaceDataset, first_few, label_faces
from ganaug.faces.tables import Columns, points_of, read_columns
from ganaug.interfaces import ImageError, UserInputError

# Keys that common writers add beside the images.
NO_IMAGES = ("length", "__len__", "__keys__")

# Free pages at the end of a sound file may never have been written.
SPARE_PAGES = 16

# Open files of this process, by device and inode. LMDB refuses, or worse, breaks, when a file is open twice in a
# process or an open one crosses a fork (lmdb.h, "Caveats"; py-lmdb, "Forking & multiprocessing").
_OPEN: dict[tuple[int, int], lmdb.Environment] = {}
_LOCK = threading.RLock()


def _before_fork() -> None:
    _LOCK.acquire()
    for environment in _OPEN.values():
        environment.close()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class LmdbStore:
    """Encoded images of an LMDB directory or file; read only. Pickles as the path, opens at the first read.

    Args:
        path: The directory with ``data.mdb``, or a single LMDB file.

    Raises:
        UserInputError: If nothing is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.location = os.path.abspath(path)
        data = os.path.join(self.location, "data.mdb") if os.path.isdir(self.location) else self.location
        if not os.path.isfile(data):
            raise UserInputError(
                f"no LMDB file at {self.location}; expected a folder with data.mdb, or the file itself"
            )

    def _environment(self) -> lmdb.Environment:
        """The open file; the caller holds the lock."""
        is_folder = os.path.isdir(self.location)
        status = os.stat(os.path.join(self.location, "data.mdb") if is_folder else self.location)
        identity = (status.st_dev, status.st_ino)
        if identity not in _OPEN:
            # A published data set: nobody writes to it, so no lock file is made beside it.
            opened = lmdb.open(
                self.location, subdir=is_folder, readonly=True, lock=False, readahead=False, create=False
            )
            needed = (opened.info()["last_pgno"] + 1 - SPARE_PAGES) * opened.stat()["psize"]
            if status.st_size < needed:  # reading on would be SIGBUS, which ends the process
                opened.close()
                raise UserInputError(
                    f"{self.location} is truncated: it has {status.st_size} bytes of {needed}; copy it again"
                )
            _OPEN[identity] = opened
        return _OPEN[identity]

    def read(self, file: str) -> bytes:
        try:
            with _LOCK, self._environment().begin() as transaction:
                value = transaction.get(file.encode())
        except (lmdb.Error, OSError) as error:
            raise ImageError(f"{file}: cannot be read from {self.location}: {error}") from error
        if value is None:
            raise ImageError(f"{file}: not in {self.location}")
        return bytes(value)

    def path(self, file: str) -> None:
        return None

    def list_keys(self) -> list[str]:
        """Keys in the file's order, which is that of their bytes.

        Raises:
            UserInputError: For a file that is no LMDB file, or whose keys are no text.
        """
        try:
            with _LOCK, self._environment().begin() as transaction:
                return [key.decode() for key in transaction.cursor().iternext(keys=True, values=False)]
        except UnicodeDecodeError as error:
            raise UserInputError(f"{self.location} has keys that are no UTF-8 text, {error.object!r}") from error
        except (lmdb.Error, OSError) as error:
            raise UserInputError(f"{self.location} cannot be read as LMDB: {error}") from error

    def __repr__(self) -> str:
        return f"LmdbStore({self.location!r})"


def lmdb_images(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    target: str | None = None,
    identity: str | None = None,
    groups: Sequence[str] = (),
    ignore: Sequence[str] = NO_IMAGES,
    **options: Any,
) -> FaceDataset:
    """Images in an LMDB file, key -> JPEG, PNG or WebP bytes, as LSUN and many copies of FFHQ have them.

    Unlike ``torchvision.datasets.LSUN`` the file is opened late and once per process, closed before a fork, and no list
    of keys is written anywhere; the dataset can be pickled, so workers may be spawned too.

    Args:
        path: Directory with ``data.mdb``, or a single file.
        labels: CSV file with a column ``key`` and labels; default: none.
        target: Column of ``labels`` to predict.
        identity: Column of ``labels`` that names persons.
        groups: Columns of ``labels`` to keep as groups.
        ignore: Keys that hold no image.
        **options: ``missing``, ``transform`` and ``target_transform`` of
            :func:`ganaug.faces.face_dataset.label_faces`.

    Raises:
        UserInputError: If there is no such file, no image in it, or a key has no line in ``labels``.
    """
    store = LmdbStore(path)
    keys = [key for key in store.list_keys() if key not in ignore]
    if not keys:
        raise UserInputError(f"{store.location} holds no images")
    columns: Columns = {} if labels is None else _rows_of(keys, read_columns(labels), str(labels))
    return label_faces(
        store,
        keys,
        columns,
        source=str(labels or path),
        target=target,
        identity=identity,
        groups=groups,
        landmarks=points_of(columns, str(labels)),
        **options,
    )


def _rows_of(keys: Sequence[str], columns: Columns, source: str) -> Columns:
    """The table with its rows in the order of the keys."""
    if "key" not in columns:
        raise UserInputError(f"{source} has no column 'key'; it has {', '.join(columns)}")
    row = {key: i for i, key in enumerate(columns["key"])}
    lost = [key for key in keys if key not in row]
    if lost:
        raise UserInputError(f"{len(lost)} of {len(keys)} images have no row in {source}: {first_few(lost)}")
    return {name: [values[row[key]] for key in keys] for name, values in columns.items()}
