"""CelebA (Liu et al., ICCV 2015) and CelebAMask-HQ (Lee et al., CVPR 2020) as published; CelebA's CSV copy too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.faces.face_dataset import FaceDataset, first_few, label_faces, natural
from ganaug.faces.images import find_images
from ganaug.faces.tables import POINT_NAMES, Columns, points_of, read_columns
from ganaug.interfaces import UserInputError

CELEBA_SPLITS = {"train": "0", "valid": "1", "test": "2"}  # numbers in list_eval_partition
_CELEBA_POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
_POINT_HEADS = {
    f"{old}_{axis}": f"{new}_{axis}" for old, new in zip(_CELEBA_POINTS, POINT_NAMES, strict=True) for axis in "xy"
}

# CelebAMask-HQ: one mask per part that is visible, 2000 images a folder (README of the dataset).
MASKS_PER_FOLDER = 2000


def celeba(
    root: str | Path,
    *,
    split: str | None = None,
    target: str | None = "Smiling",
    groups: Sequence[str] = ("Male", "Young"),
    **options: Any,
) -> FaceDataset:
    """CelebA, aligned and cropped to 178x218, with attributes, persons and landmarks as far as their files are there.

    Unlike ``torchvision.datasets.CelebA`` it knows landmarks, takes one attribute as the label, and reads the copy
    whose tables are CSV files too.

    Args:
        root: Folder with ``img_align_celeba`` and the ``list_*.txt`` or ``list_*.csv`` files, or torchvision's root
            with ``celeba`` in it.
        split: ``"train"``, ``"valid"``, ``"test"`` or None for all.
        target: One of the 40 attributes (class "0" = absent, "1" = present), ``"identity"`` or None.
        groups: Attributes to keep as groups.
        **options: ``missing``, ``transform`` and ``target_transform`` of
            :func:`ganaug.faces.face_dataset.label_faces`.

    Raises:
        UserInputError: For missing files, unknown attributes and splits.
    """
    root = Path(root)
    home = root / "celeba" if (root / "celeba").is_dir() else root
    images = next(
        (p for p in (home / "img_align_celeba" / "img_align_celeba", home / "img_align_celeba") if p.is_dir()), None
    )
    if images is None:
        raise UserInputError(f"{home} has no folder img_align_celeba; give the folder that CelebA was unpacked into")
    tables = {
        name: table
        for name, stem in {
            "attr": "list_attr_celeba",
            "split": "list_eval_partition",
            "identity": "identity_CelebA",
            "points": "list_landmarks_align_celeba",
        }.items()
        if (table := _table(home, stem)) is not None
    }
    if not tables:
        raise UserInputError(f"{home} has none of CelebA's label files, for example list_attr_celeba.txt")
    names = next(iter(tables.values()))["image_id"]
    columns = dict(tables.get("attr", {}))
    columns = {name: ["1" if value == "1" else "0" for value in values] for name, values in columns.items()}
    columns.pop("image_id", None)
    if "identity" in tables:
        columns["identity"] = _aligned(tables["identity"], names, "identity_CelebA")["value"]
    keep = None
    if split is not None:
        if split not in CELEBA_SPLITS or "split" not in tables:
            what = f"has the splits {', '.join(CELEBA_SPLITS)}" if "split" in tables else "needs list_eval_partition"
            raise UserInputError(f"CelebA in {home} {what}; got split {split!r}")
        partition = _aligned(tables["split"], names, "list_eval_partition")
        column = next(name for name in partition if name != "image_id")
        keep = np.array([value == CELEBA_SPLITS[split] for value in partition[column]], bool)
    points = None
    if "points" in tables:
        table = _aligned(tables["points"], names, "list_landmarks_align_celeba")
        points = points_of({_POINT_HEADS.get(head, head): values for head, values in table.items()}, str(home))
        points = None if points is None else points + np.float32(0.5)  # published as numbers of pixels
    below = images.relative_to(root).as_posix()
    return label_faces(
        root,
        [f"{below}/{name}" for name in names],
        columns,
        source=f"the label files of {home}",
        target=target,
        identity="identity" if "identity" in columns else None,
        groups=groups if "attr" in tables else (),
        landmarks=points,
        keep=keep,
        **options,
    )


def celebamask_hq(
    root: str | Path, *, target: str | None = "Smiling", groups: Sequence[str] = ("Male", "Young"), **options: Any
) -> FaceDataset:
    """CelebAMask-HQ: 30,000 faces of 1024 px with CelebA's attributes; :func:`part_mask_files` finds the masks.

    Args:
        root: The folder with ``CelebA-HQ-img`` in it.
        target: One of the 40 attributes, or None.
        groups: Attributes to keep as groups.
        **options: See :func:`celeba`.

    Raises:
        UserInputError: For missing files and unknown attributes.
    """
    root = Path(root)
    if not (root / "CelebA-HQ-img").is_dir():
        raise UserInputError(f"{root} has no folder CelebA-HQ-img; give the folder CelebAMask-HQ")
    table = _table(root, "CelebAMask-HQ-attribute-anno")
    if table is None:
        if target is not None:
            raise UserInputError(f"target {target!r} needs CelebAMask-HQ-attribute-anno.txt in {root}; or target=None")
        files = sorted(find_images(root / "CelebA-HQ-img"), key=natural)
        table, groups = {"image_id": files}, ()
    files = [f"CelebA-HQ-img/{name}" for name in table.pop("image_id")]
    columns = {name: ["1" if value == "1" else "0" for value in values] for name, values in table.items()}
    return label_faces(
        root,
        files,
        columns,
        source=f"the attribute file of {root}",
        target=target,
        groups=groups,
        **options,
    )


def part_mask_files(root: str | Path, key: str) -> dict[str, Path]:
    """Masks of one face of CelebAMask-HQ: part ("hair", "l_eye", "skin", ...) -> PNG of 512x512, white on black.

    Args:
        root: The folder that the dataset was opened with.
        key: The face's key, for example ``"CelebA-HQ-img/12.jpg"``.

    Raises:
        UserInputError: If the key is not that of such a face, or the masks are missing.
    """
    stem = Path(key).stem
    if not stem.isdigit():
        raise UserInputError(f"{key!r} is no key of CelebAMask-HQ, whose images are named by number")
    number = int(stem)
    folder = Path(root) / "CelebAMask-HQ-mask-anno" / str(number // MASKS_PER_FOLDER)
    prefix = f"{number:05d}_"
    found = {path.stem.removeprefix(prefix): path for path in sorted(folder.glob(f"{prefix}*.png"))}
    if not found:
        raise UserInputError(f"no masks {prefix}*.png in {folder}")
    return found


def _table(home: Path, stem: str) -> Columns | None:
    """A label file of CelebA, as text or CSV; its first column becomes ``image_id``. None if there is none."""
    comma = home / f"{stem}.csv"
    if comma.is_file():
        columns = read_columns(comma)
        first = next(iter(columns))
        return {"image_id": columns.pop(first), **columns}
    path = home / f"{stem}.txt"
    if not path.is_file():
        return None
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    head = ["value"]
    if len(lines) > 1 and len(lines[0]) == 1 and lines[0][0].isdigit():  # a count, then the names of the columns
        head, lines = lines[1], lines[2:]
    odd = next((line for line in lines if len(line) != len(head) + 1), None)
    if odd is not None or not lines:
        got = f"a line of {len(odd)} cells" if odd else "no lines"
        raise UserInputError(f"{path}: expected a file name and {len(head)} values on each line, got {got}")
    return {"image_id": [line[0] for line in lines], **{n: [x[i] for x in lines] for i, n in enumerate(head, 1)}}


def _aligned(table: Columns, names: Sequence[str], what: str) -> Columns:
    """A table with its rows in the order of ``names``."""
    if table["image_id"] == list(names):
        return table
    row = {name: i for i, name in enumerate(table["image_id"])}
    lost = [name for name in names if name not in row]
    if lost:
        raise UserInputError(f"{len(lost)} of {len(names)} images have no line in {what}: {first_few(lost)}")
    order = [row[name] for name in names]
    return {name: [values[i] for i in order] for name, values in table.items()}
