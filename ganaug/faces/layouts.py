"""Face datasets as their authors lay them out on disk: folders, file names, label files.

Every function takes the folder that holds the dataset. Keys are paths relative to that folder, so they are those that
``ganaug precompute FOLDER`` writes. Nothing is downloaded.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.faces.face_dataset import FaceDataset, Missing, first_few, label_faces
from ganaug.faces.images import find_images
from ganaug.faces.tables import Columns, points_of, read_columns, rows_of_split
from ganaug.interfaces import UserInputError


def image_folder(root: str | Path, *, target: str | None = "label", **options: Any) -> FaceDataset:
    """A folder per class, as torchvision's ``ImageFolder`` has it, or a folder of images without classes.

    Args:
        root: The folder.
        target: ``"label"``: the first sub-folder's name, if there are sub-folders. ``"identity"``: the same, and it
            names a person, so that ``identities`` are known too. None: no labels.
        **options: ``missing``, ``transform`` and ``target_transform`` of
            :func:`ganaug.faces.face_dataset.label_faces`.

    Raises:
        ImageError: If there is no such folder, or no image in it.
        UserInputError: If images lie beside the sub-folders: they have no class.
    """
    if target not in ("label", "identity", None):
        raise UserInputError(f"target of a folder must be 'label', 'identity' or None, got {target!r}")
    files = find_images(root)
    loose = [file for file in files if "/" not in file]
    if target is None or (len(loose) == len(files) and target == "label"):
        return FaceDataset(root, files, **transforms_of(options))
    if loose:
        raise UserInputError(
            f"{len(loose)} of {len(files)} images lie in {root} itself and so have no class: {first_few(loose)}; move "
            "them into the folder of their class, or give target=None"
        )
    columns = {target: [file.partition("/")[0] for file in files]}
    identity = "identity" if target == "identity" else None
    return label_faces(root, files, columns, source=str(root), target=target, identity=identity, **options)


def transforms_of(options: dict[str, Any]) -> dict[str, Any]:
    """Options without ``missing``: where no labels are read, none can be missing."""
    return {name: value for name, value in options.items() if name != "missing"}


def lfw(root: str | Path, *, split: str | None = None, target: str | None = "identity", **options: Any) -> FaceDataset:
    """Labeled Faces in the Wild: a folder per person (http://vis-www.cs.umass.edu/lfw/).

    Args:
        root: A folder that holds ``lfw``, ``lfw_funneled`` or ``lfw-deepfunneled`` or torchvision's ``lfw-py``, or the
            folder of persons itself.
        split: ``"train"`` or ``"test"``: persons of ``peopleDevTrain.txt`` or ``peopleDevTest.txt`` beside the images;
            None for all.
        target: ``"identity"`` or None.
        **options: Those of :func:`image_folder`.

    Raises:
        UserInputError: For an unknown split, and a list of persons that is missing.
    """
    root = Path(root)
    names = ("lfw-deepfunneled", "lfw_funneled", "lfw")
    folders = [root / outer / inner for outer in ("lfw-py", "") for inner in names]
    images = next((folder for folder in folders if folder.is_dir()), root)
    below = "" if images == root else images.relative_to(root).as_posix() + "/"
    files = [file for file in find_images(images) if "/" in file]
    persons = [file.split("/")[-2] for file in files]
    keep = None
    if split is not None:
        listed = _lfw_persons(images, split)
        keep = np.array([person in listed for person in persons], bool)
    columns = {"identity": persons}
    names_of_files = [below + file for file in files]
    if not files:
        raise UserInputError(f"{images} has no folders of persons; expected Name_Surname/Name_Surname_0001.jpg")
    return label_faces(
        root, names_of_files, columns, source=str(images), target=target, identity="identity", keep=keep, **options
    )


def _lfw_persons(images: Path, split: str) -> set[str]:
    """Persons of a development split: a count, then ``name<tab>number of images`` per line."""
    stems = {"train": "peopleDevTrain.txt", "test": "peopleDevTest.txt"}
    if split not in stems:
        raise UserInputError(f"LFW has the splits train and test, got {split!r}")
    path = next((p for p in (images / stems[split], images.parent / stems[split]) if p.is_file()), None)
    if path is None:
        raise UserInputError(f"split {split!r} of LFW needs {stems[split]} in {images} or beside it")
    return {line.split("\t")[0] for line in path.read_text().splitlines()[1:] if line.strip()}


def fairface(
    root: str | Path,
    *,
    split: str | None = None,
    target: str | None = "gender",
    groups: Sequence[str] = ("age", "gender", "race"),
    **options: Any,
) -> FaceDataset:
    """FairFace (Karkkainen and Joo, WACV 2021): ``train/1.jpg``, ``val/1.jpg`` and label files.

    Args:
        root: Folder with ``fairface_label_train.csv`` and ``fairface_label_val.csv`` as published, or with one
            ``labels.csv`` that has a column ``split`` and may have landmarks.
        split: ``"train"``, ``"val"`` or None for both.
        target: ``"gender"``, ``"age"`` (a bin), ``"race"`` or None.
        groups: Columns to keep as groups.
        **options: ``missing``, ``transform`` and ``target_transform`` of
            :func:`ganaug.faces.face_dataset.label_faces`.

    Raises:
        UserInputError: For missing label files, columns and images, and an unknown split.
    """
    root = Path(root)
    single, published = root / "labels.csv", [root / f"fairface_label_{name}.csv" for name in ("train", "val")]
    if single.is_file():
        columns = read_columns(single)
    else:
        found = [path for path in published if path.is_file()]
        if not found:
            raise UserInputError(f"{root} has neither {published[0].name} and {published[1].name} nor {single.name}")
        columns = _joined([read_columns(path) for path in found])
    if "file" not in columns:
        raise UserInputError(f"the label file of FairFace in {root} has no column 'file'; it has {', '.join(columns)}")
    files = columns["file"]
    columns.setdefault("split", [file.partition("/")[0] for file in files])
    return label_faces(
        root,
        files,
        columns,
        source=f"the label file of {root}",
        target=target,
        groups=groups,
        landmarks=points_of(columns, str(single)),
        keep=None if split is None else rows_of_split(columns, "split", split, str(root)),
        **options,
    )


def _joined(parts: Sequence[Columns]) -> Columns:
    """Tables under each other, with the columns that all of them have."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: [value for part in parts for value in part[name]] for name in shared}


UTKFACE_GENDERS = ("male", "female")
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Others")
_UTKFACE_NAME = re.compile(r"(?P<age>\d{1,3})_(?P<gender>[01])_(?P<race>[0-4])_[^/]*$")


def utkface(
    root: str | Path,
    *,
    target: str | None = "age",
    groups: Sequence[str] = ("gender", "race"),
    missing: Missing = "error",
    **options: Any,
) -> FaceDataset:
    """UTKFace: labels in the file names, ``age_gender_race_date.jpg`` (https://susanqq.github.io/UTKFace/).

    A few published names lack a field; ``missing="skip"`` leaves those images out.

    Args:
        root: Folder of the images, ``part1`` and the like below it or not.
        target: ``"age"`` (in years, a number), ``"gender"``, ``"race"`` or None.
        groups: Of ``"gender"`` and ``"race"``.
        missing: ``"error"`` or ``"skip"`` for names without the three labels.
        **options: ``transform`` and ``target_transform``.

    Raises:
        ImageError: If there is no such folder, or no image in it.
        UserInputError: For file names without labels.
    """
    files = find_images(root)
    found = [_UTKFACE_NAME.match(file.rpartition("/")[2]) for file in files]
    unlabelled = [file for file, match in zip(files, found, strict=True) if match is None]
    if unlabelled and missing == "error":
        raise UserInputError(
            f"{len(unlabelled)} of {len(files)} file names are not age_gender_race_date.jpg: {first_few(unlabelled)}; "
            "rename them, or leave them out with missing='skip'"
        )
    columns = {
        "age": [match["age"].lstrip("0") or "0" if match else "" for match in found],
        "gender": [UTKFACE_GENDERS[int(match["gender"])] if match else "" for match in found],
        "race": [UTKFACE_RACES[int(match["race"])] if match else "" for match in found],
    }
    keep = np.array([match is not None for match in found], bool)
    return label_faces(
        root,
        files,
        columns,
        source=str(root),
        target=target,
        numeric=("age",),
        groups=groups,
        keep=keep,
        missing=missing,
        **options,
    )


def video_frames(
    root: str | Path,
    *,
    pattern: str | None = None,
    target: str | None = "identity",
    missing: Missing = "error",
    **options: Any,
) -> FaceDataset:
    """Frames of videos: ``person/clip/frame.jpg``. Split such data by person or clip, never by frame.

    Args:
        root: Folder of the persons.
        pattern: Regular expression found in each path relative to ``root``, with the named groups ``identity`` and, if
            there are clips, ``clip``. For names like ``7_2_0001.jpg``: ``r"(?P<identity>\\d+)_(?P<clip>\\d+)_\\d+"``.
            Default: the first folder is the person, the second one the clip.
        target: ``"identity"`` or None.
        missing: ``"error"`` or ``"skip"`` for frames whose path does not match.
        **options: ``transform`` and ``target_transform``.

    Returns:
        A dataset whose group ``clip`` is ``person/clip``, so that clips of two persons never share a name.

    Raises:
        ImageError: If there is no such folder, or no image in it.
        UserInputError: For a pattern without ``identity``, and paths that do not match.
    """
    try:
        expression = re.compile(pattern or r"^(?P<identity>[^/]+)/(?P<clip>[^/]+)/(?:.*/)?[^/]+$")
    except re.error as error:
        raise UserInputError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if "identity" not in expression.groupindex:
        raise UserInputError(f"pattern {pattern!r} needs a group named identity: (?P<identity>...)")
    has_clips = "clip" in expression.groupindex
    files = find_images(root)
    found = [expression.search(file) for file in files]
    lost = [file for file, match in zip(files, found, strict=True) if match is None]
    if lost and missing == "error":
        expected = "person/clip/frame.jpg" if pattern is None else f"the pattern {pattern!r}"
        raise UserInputError(
            f"{len(lost)} of {len(files)} frames do not match {expected}: {first_few(lost)}; give another pattern, or "
            "leave them out with missing='skip'"
        )
    columns = {"identity": [match["identity"] if match else "" for match in found]}
    if has_clips:
        columns["clip"] = [f"{match['identity']}/{match['clip']}" if match else "" for match in found]
    return label_faces(
        root,
        files,
        columns,
        source=os.fspath(root),
        target=target,
        identity="identity",
        groups=("clip",) if has_clips else (),
        keep=np.array([match is not None for match in found], bool),
        missing=missing,
        **options,
    )
