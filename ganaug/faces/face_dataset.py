"""One dataset class for every layout that faces come in: images, labels, identities, groups, known landmarks."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ganaug.faces.images import content_hash, decode_image
from ganaug.faces.sources import Item
from ganaug.interfaces import ImageError, UserInputError

Missing = Literal["error", "skip"]
Transform = Callable[[Any], Any]


class Store(Protocol):
    """Where a dataset's encoded images are: a folder, an LMDB file, a table. Pickles small, opens late."""

    def read(self, file: str) -> bytes:
        """The encoded image. Raises ImageError if it cannot be read."""
        ...

    def path(self, file: str) -> str | None:
        """Its file on disk, if it is one."""
        ...


class Folder:
    """Images as files under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = os.path.abspath(root)

    def read(self, file: str) -> bytes:
        try:
            return Path(self.path(file)).read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path(file)}: cannot be read: {error.strerror}") from error

    def path(self, file: str) -> str:
        return os.path.join(self.root, file)


class FaceDataset(Dataset[tuple[Any, Any]]):
    """Faces with what is known of them. Items are ``(image, target)``, as torchvision's datasets give.

    The image is an upright RGB Pillow image unless ``transform`` makes something else of it. The target is a number of
    ``targets``, or 0 where the dataset has none. Labels are held as arrays, so forked workers share them.

    Args:
        root: Folder of the files, or another :class:`Store`.
        files: Names of the images in the store, with forward slashes; they are the keys of a latent cache. Those of a
            folder are relative to it, as ``ganaug precompute FOLDER`` names them.
        targets: ``(N,)`` class numbers, or quantities such as ages; None without labels.
        classes: Name of each class number; empty for quantities.
        identities: ``(N,)`` names of persons.
        groups: Attribute -> ``(N,)`` values, for instance what fairness is measured by.
        landmarks: ``(N, 5, 2)`` left eye, right eye, nose, left and right mouth corner as seen in the picture, in
            pixels of the upright image with pixel centres at half-integers; NaN where unknown.
        transform: Image -> what an item holds.
        target_transform: Target -> what an item holds.

    Attributes:
        root: The folder's absolute path; None for other stores.
        label_name: What the targets say, such as ``"gender"``; None where nobody knows.

    Raises:
        UserInputError: For no files, a file named twice, and lengths or shapes that do not fit.
    """

    def __init__(
        self,
        root: str | Path | Store,
        files: Sequence[str],
        targets: Sequence[float] | NDArray[Any] | None = None,
        classes: Sequence[str] = (),
        identities: Sequence[str] | NDArray[np.str_] | None = None,
        groups: Mapping[str, Sequence[str] | NDArray[np.str_]] | None = None,
        landmarks: NDArray[np.floating] | None = None,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
    ) -> None:
        self.store: Store = Folder(root) if isinstance(root, (str, os.PathLike)) else root
        self.root: str | None = self.store.root if isinstance(self.store, Folder) else None
        self.files: NDArray[np.str_] = np.asarray(files, dtype=np.str_)
        if self.files.ndim != 1 or not len(self.files):
            raise UserInputError(f"a face dataset needs at least one file, got an array of shape {self.files.shape}")
        self._refuse_duplicates()
        self.targets = None if targets is None else self._column("targets", targets)
        self.label_name: str | None = None
        self.classes = list(classes)
        self.identities = None if identities is None else self._column("identities", identities, text=True)
        self.groups = {name: self._column(name, values, text=True) for name, values in (groups or {}).items()}
        self.landmarks: NDArray[np.float32] | None = None
        if landmarks is not None:
            self.landmarks = np.asarray(landmarks, np.float32)
            if self.landmarks.shape != (len(self), 5, 2):
                raise UserInputError(f"landmarks must have shape ({len(self)}, 5, 2), got {self.landmarks.shape}")
        self.transform = transform
        self.target_transform = target_transform

    def _column(self, name: str, values: Any, text: bool = False) -> NDArray[Any]:
        column = np.asarray(values, dtype=np.str_ if text else None)
        if column.shape != (len(self),):
            raise UserInputError(f"{name}: expected {len(self)} values, one per file, got shape {column.shape}")
        return column

    def _refuse_duplicates(self) -> None:
        distinct, counts = np.unique(self.files, return_counts=True)
        if len(distinct) < len(self.files):
            twice = distinct[counts > 1]
            raise UserInputError(
                f"{len(twice)} files are named more than once: {first_few(twice)}; a file is one sample, so keep one "
                "row of each"
            )

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Class name -> number, as torchvision's folders have it."""
        return {name: number for number, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        file = str(self.files[index])
        image: Any = decode_image(self.store.read(file), file)
        target: Any = 0 if self.targets is None else self.targets[index].item()
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def read_photo(self, index: int) -> tuple[Image.Image, str]:
        """The upright RGB image without any transform, and the sha256 (hex) of its encoded bytes. Raises ImageError."""
        file = str(self.files[index])
        data = self.store.read(file)
        return decode_image(data, file), content_hash(data)

    def face_items(self) -> list[Item]:
        """Key and file of every item, for :func:`ganaug.faces.sources.list_items`."""
        return [Item(file, self.store.path(file)) for file in self.files.tolist()]

    def __repr__(self) -> str:
        parts = [f"{len(self)} images"]
        if self.targets is not None:
            parts.append(f"{len(self.classes)} classes" if self.classes else "numeric targets")
        if self.identities is not None:
            parts.append(f"{len(np.unique(self.identities))} identities")
        if self.groups:
            parts.append(f"groups {', '.join(self.groups)}")
        if self.landmarks is not None:
            parts.append("landmarks")
        return f"FaceDataset({self.root or self.store!r}: {'; '.join(parts)})"


def label_faces(
    root: str | Path | Store,
    files: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    *,
    source: str,
    target: str | None = None,
    numeric: Collection[str] = (),
    identity: str | None = None,
    groups: Sequence[str] = (),
    landmarks: NDArray[np.floating] | None = None,
    keep: NDArray[np.bool_] | None = None,
    missing: Missing = "error",
    transform: Transform | None = None,
    target_transform: Transform | None = None,
) -> FaceDataset:
    """A dataset from columns of text, as label files hold them.

    Classes are numbered in natural order (2 before 10) over all rows, before any is left out, so that the splits of a
    dataset agree on them.

    Args:
        root: See :class:`FaceDataset`.
        files: N names.
        columns: Name -> N values; an empty text is a missing value.
        source: What to call the label file in errors.
        target: Column to predict; ``"identity"`` means the identity column.
        numeric: Columns whose values are quantities: as a target they stay numbers.
        identity: Column of persons' names.
        groups: Columns to keep as groups; missing values become ``"unknown"``.
        landmarks: ``(N, 5, 2)``, see :class:`FaceDataset`.
        keep: ``(N,)``, rows to take.
        missing: ``"error"`` or ``"skip"`` for rows whose file, target or identity is missing.
        transform: See :class:`FaceDataset`.
        target_transform: See :class:`FaceDataset`.

    Raises:
        UserInputError: For an unknown column, missing files or labels, and everything :class:`FaceDataset` refuses.
    """
    if missing not in ("error", "skip"):
        raise UserInputError(f"missing must be 'error' or 'skip', got {missing!r}")
    if target == "identity" and "identity" not in columns and identity is not None:
        target = identity
    for name in [*([target] if target else []), *([identity] if identity else []), *groups]:
        if name not in columns:
            raise UserInputError(f"{source} has no column {name!r}; it has {', '.join(columns) or 'none'}")
    rows = np.ones(len(files), bool) if keep is None else keep.copy()
    store: Store = Folder(root) if isinstance(root, (str, os.PathLike)) else root
    for name in dict.fromkeys(column for column in (target, identity) if column):
        empty = rows & (np.array(columns[name], dtype=np.str_) == "")
        rows &= ~_lost(empty, files, missing, f"rows of {source} have no {name!r}", "fill it in")
    if isinstance(store, Folder):
        absent = rows & ~_on_disk(store.root, files)
        rows &= ~_lost(absent, files, missing, f"files of {source} are not under {store.root}", "give their folder")
    taken: list[int] = np.flatnonzero(rows).tolist()
    if not taken:
        raise UserInputError(f"{source} leaves no row of {len(files)} to use; check the split and the columns")
    targets: NDArray[Any] | None = None
    classes: list[str] = []
    if target is not None:
        targets, classes = _encode(columns[target], taken, target, target in numeric, source)
    labelled = FaceDataset(
        store,
        [files[i] for i in taken],
        targets,
        classes,
        None if identity is None else [columns[identity][i] for i in taken],
        {name: [columns[name][i] or "unknown" for i in taken] for name in groups},
        None if landmarks is None else np.asarray(landmarks)[taken],
        transform,
        target_transform,
    )
    labelled.label_name = target
    return labelled


def _lost(lost: NDArray[np.bool_], files: Sequence[str], missing: Missing, what: str, remedy: str) -> NDArray[np.bool_]:
    """``lost`` itself, if such rows are to be skipped; an error otherwise."""
    if missing == "error" and lost.any():
        names = [files[i] for i in np.flatnonzero(lost)[:3]]
        raise UserInputError(
            f"{int(lost.sum())} of {len(files)} {what}: {first_few(names)}; {remedy}, or leave such rows out with "
            "missing='skip'"
        )
    return lost


def _encode(
    values: Sequence[str], taken: Sequence[int], name: str, numeric: bool, source: str
) -> tuple[NDArray[Any], list[str]]:
    """Targets of the rows taken, and the classes of all rows; no classes for quantities."""
    if numeric:
        try:
            numbers = np.array([float(values[i]) for i in taken])
        except ValueError as error:
            raise UserInputError(f"{source}: {name!r} is a quantity, but {error}") from None
        whole = np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all()
        return (numbers.astype(np.int64) if whole else numbers), []
    classes = sorted({value for value in values if value}, key=natural)
    number = {value: i for i, value in enumerate(classes)}
    return np.array([number[values[i]] for i in taken], np.int64), classes


def natural(text: str) -> tuple[bool, float, str]:
    """Sort key: texts that begin with a number first, by that number.

    Example:
        >>> sorted(["more than 70", "10-19", "3-9"], key=natural)
        ['3-9', '10-19', 'more than 70']
    """
    digits = len(text) - len(text.lstrip("0123456789"))
    return (digits == 0, float(text[:digits]) if digits else 0.0, text)


def _on_disk(root: str, files: Sequence[str]) -> NDArray[np.bool_]:
    """Which files exist; one listing per folder, not one look per file."""
    listings: dict[str, set[str]] = {}
    found = np.zeros(len(files), bool)
    for row, file in enumerate(files):
        folder, _, name = file.rpartition("/")
        if folder not in listings:
            try:
                listings[folder] = set(os.listdir(os.path.join(root, folder or ("/" if file.startswith("/") else ""))))
            except OSError:
                listings[folder] = set()
        found[row] = name in listings[folder]
    return found


def as_key(path: str, root: str | Path) -> str:
    """A path as label files write it -> the file's name under ``root``, with forward slashes.

    Example:
        >>> as_key("./train\\\\1.jpg", "/faces"), as_key("/faces/train/1.jpg", "/faces")
        ('train/1.jpg', 'train/1.jpg')
    """
    text = path.replace("\\", "/")
    if os.path.isabs(text):
        absolute = os.path.abspath(root)
        text = os.path.relpath(text, absolute) if Path(text).is_relative_to(absolute) else os.path.normpath(text)
    return PurePosixPath(text).as_posix()


def first_few(names: Collection[Any], count: int = 3) -> str:
    """The first names, for a message."""
    shown = ", ".join(repr(str(name)) for name in list(names)[:count])
    return shown + (", ..." if len(names) > count else "")
