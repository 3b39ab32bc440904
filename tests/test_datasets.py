"""Adapters: what each layout on disk becomes, and one clear line for everything that can be wrong with it."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torchvision
from conftest import Faces, random_image
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset
from torchvision.transforms.functional import to_tensor

from ganaug import GANAugmentedDataset
from ganaug.faces.celeba import part_mask_files
from ganaug.faces.datasets import DATASETS, FaceDataset, from_csv, from_frame, hugging_face, open_dataset
from ganaug.faces.ffhq import five_of_68
from ganaug.faces.lmdb_images import _OPEN
from ganaug.faces.photos import photos_from, photos_of_dataset
from ganaug.faces.sources import list_attributes, list_items, list_labels, list_landmarks, locate
from ganaug.interfaces import ImageError, UserInputError

POINTS = [[6.5, 7.25], [13.0, 7.0], [10.0, 10.0], [7.0, 14.0], [12.5, 14.5]]
HEADS = [f"{p}_{a}" for p in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right") for a in "xy"]


def jpeg(seed: int, size: tuple[int, int] = (20, 24)) -> bytes:
    data = io.BytesIO()
    random_image(np.random.default_rng(seed), *size).save(data, "JPEG")
    return data.getvalue()


def write(root: Path, files: Sequence[str], size: tuple[int, int] = (20, 24)) -> Path:
    for seed, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(jpeg(seed, size))
    return root


def write_csv(path: Path, head: str, *rows: str) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def fairface_root(root: Path) -> Path:
    write(root, ["train/1.jpg", "train/2.jpg", "train/3.jpg", "val/1.jpg", "val/2.jpg"])
    points = ",".join(str(v) for point in POINTS for v in point)
    rows = [
        f"train/1.jpg,train,10-19,Male,White,{points}",
        f"train/2.jpg,train,3-9,Female,Black,{points}",
        f"train/3.jpg,train,more than 70,Male,Indian,{points}",
        f"val/1.jpg,val,3-9,Male,White,{points}",
        f"val/2.jpg,val,10-19,Male,Indian,{','.join([''] * 10)}",
    ]
    write_csv(root / "labels.csv", f"file,split,age,gender,race,{','.join(HEADS)}", *rows)
    return root


def celeba_root(root: Path, comma: bool = False, torchvision_layout: bool = False) -> Path:
    home = root / "celeba" if torchvision_layout else root
    names = ["000001.jpg", "000002.jpg", "000003.jpg"]
    write(home / "img_align_celeba" / ("img_align_celeba" if comma else ""), names)
    heads = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
    tables = {
        "list_attr_celeba": ("Male Smiling Young", ["-1 1 1", "1 -1 1", "1 1 -1"]),
        "list_landmarks_align_celeba": (heads, [" ".join(str(10 * i + k) for k in range(10)) for i in range(3)]),
    }
    for stem, (head, lines) in tables.items():
        rows = [f"{name}  {line}" for name, line in zip(names, lines, strict=True)]
        if comma:
            text = [f"image_id,{head.replace(' ', ',')}", *(",".join(row.split()) for row in rows)]
        else:
            text = ["3", head, *rows]
        (home / f"{stem}.{'csv' if comma else 'txt'}").write_text("\n".join(text) + "\n")
    splits = [f"{name} {number}" for name, number in zip(names, (0, 1, 0), strict=True)]
    if comma:
        text = ["image_id,partition", *(line.replace(" ", ",") for line in splits)]
        (home / "list_eval_partition.csv").write_text("\n".join(text))
    else:
        (home / "list_eval_partition.txt").write_text("\n".join(splits))
        rows = [f"{name} {person}" for name, person in zip(reversed(names), (9, 8, 9), strict=True)]
        (home / "identity_CelebA.txt").write_text("\n".join(rows))  # in another order
    return root


def ffhq_root(root: Path) -> Path:
    write(root, ["images1024x1024/00000/00000.png", "images1024x1024/60000/60001.png"], (64, 64))
    marks = [[float(k), float(k % 7)] for k in range(68)]
    (root / "ffhq-dataset-v2.json").write_text(json.dumps({"60001": {"image": {"face_landmarks": marks}}}))
    return root


def lmdb_root(root: Path, count: int = 4, size: tuple[int, int] = (20, 24)) -> Path:
    with lmdb.open(str(root), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for number in range(count):
            transaction.put(f"face-{number}".encode(), jpeg(number, size))
        transaction.put(b"length", str(count).encode())
    return root


def hf_root(root: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "image": [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(4)],
        "smile": [0, 1, 1, 0],
        "person": ["ann", "ann", "bob", "bob"],
        "marks": [POINTS, None, POINTS, POINTS],
    }
    features = datasets.Features(
        image=datasets.Image(),
        smile=datasets.ClassLabel(names=["no", "yes"]),
        person=datasets.Value("string"),
        marks=datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(root))
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "celeba": celeba_root,
    "celebamask-hq": lambda root: celebamask_root(root),
    "csv": lambda root: write_csv(write(root, ["a.jpg", "b.jpg"]) / "list.csv", "file", "a.jpg", "b.jpg"),
    "fairface": fairface_root,
    "ffhq": ffhq_root,
    "folder": lambda root: write(root, ["ann/1.jpg", "bob/1.jpg", "bob/2.jpg"]),
    "hf": hf_root,
    "lfw": lambda root: write(root, ["lfw_funneled/Ann_B/Ann_B_0001.jpg", "lfw_funneled/Cy_D/Cy_D_0001.jpg"]),
    "lmdb": lmdb_root,
    "utkface": lambda root: write(root, ["27_1_0_2017.jpg.chip.jpg", "5_0_3_2017.jpg", "110_1_4_2017.jpg"]),
    "video": lambda root: write(root, ["ann/0/1.jpg", "ann/0/2.jpg", "ann/1/1.jpg", "bob/0/1.jpg"]),
}


def celebamask_root(root: Path) -> Path:
    write(root, ["CelebA-HQ-img/0.jpg", "CelebA-HQ-img/2001.jpg"])
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("2\nMale Smiling Young\n0.jpg  1 -1 1\n2001.jpg -1 1 1\n")
    masks = root / "CelebAMask-HQ-mask-anno" / "1"
    masks.mkdir(parents=True)
    for part in ("hair", "l_eye"):
        Image.new("L", (16, 16)).save(masks / f"02001_{part}.png")
    return root


@pytest.mark.parametrize("name", DATASETS)
def test_every_layout_keeps_the_contract(name: str, tmp_path: Path) -> None:
    place = MAKERS[name](tmp_path / "data")
    dataset = open_dataset(name, place)
    copy = pickle.loads(pickle.dumps(dataset))
    items = list_items(dataset)
    photos = photos_of_dataset(dataset)
    assert len(items) == len(dataset) == len(photos) > 1
    assert len({item.key for item in items}) == len(items)
    assert [item.key for item in items] == dataset.files.tolist() == [photo.key for photo in photos]
    for i in range(len(dataset)):
        image, target = dataset[i]
        assert isinstance(image, Image.Image) and image.mode == "RGB" and isinstance(target, (int, float))
        again, hashed = photos[i].read()
        assert again.tobytes() == image.tobytes() == copy[i][0].tobytes() and copy[i][1] == target
        path = items[i].path
        if path is not None:
            assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == hashed == dataset.read_photo(i)[1]
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    labels = list_labels(dataset)
    assert (labels is None) == (dataset.targets is None)
    dataset.transform, dataset.target_transform = to_tensor, lambda target: target + 100
    assert dataset[0][0].shape[0] == 3 and dataset[0][1] >= 100


@pytest.mark.parametrize("name", DATASETS)
def test_keys_are_those_of_precompute(name: str, tmp_path: Path) -> None:
    place = MAKERS[name](tmp_path / "data")
    if name in ("lmdb", "hf", "csv"):
        pytest.skip("not a folder")
    known = {photo.key for photo in photos_from(place)}
    assert set(open_dataset(name, place).files.tolist()) <= known


def test_fairface(tmp_path: Path) -> None:
    dataset = open_dataset("fairface", fairface_root(tmp_path), "val", target="age")
    assert dataset.files.tolist() == ["val/1.jpg", "val/2.jpg"]
    assert dataset.classes == ["3-9", "10-19", "more than 70"], "natural order, classes of all splits"
    assert dataset.targets is not None and dataset.targets.tolist() == [0, 1]
    assert dataset.groups["race"].tolist() == ["White", "Indian"]
    np.testing.assert_array_equal(dataset.landmarks[0], np.float32(POINTS))  # type: ignore[index]
    assert np.isnan(dataset.landmarks[1]).all()  # type: ignore[index]
    photos = photos_of_dataset(dataset)
    np.testing.assert_array_equal(photos[0].points, POINTS)
    assert photos[1].points is None
    assert photos[0].attributes == {"label": "3-9", "age": "3-9", "gender": "Male", "race": "White"}
    assert open_dataset("fairface", tmp_path).classes == ["Female", "Male"]


def test_fairface_as_published(tmp_path: Path) -> None:
    write(tmp_path, ["train/1.jpg", "val/1.jpg"])
    head = "file,age,gender,race,service_test"
    write_csv(tmp_path / "fairface_label_train.csv", head, "train/1.jpg,50-59,Male,East Asian,True")
    write_csv(tmp_path / "fairface_label_val.csv", head, "val/1.jpg,0-2,Female,Black,False")
    assert open_dataset("fairface", tmp_path).files.tolist() == ["train/1.jpg", "val/1.jpg"]
    assert open_dataset("fairface", tmp_path, "val")[0][1] == 0
    with pytest.raises(UserInputError, match=r"no split 'test'.*it has train, val"):
        open_dataset("fairface", tmp_path, "test")


@pytest.mark.parametrize("comma", [False, True])
def test_celeba(tmp_path: Path, comma: bool) -> None:
    dataset = open_dataset("celeba", celeba_root(tmp_path, comma), "train")
    below = "img_align_celeba/img_align_celeba" if comma else "img_align_celeba"
    assert dataset.files.tolist() == [f"{below}/000001.jpg", f"{below}/000003.jpg"]
    assert dataset.targets is not None and dataset.targets.tolist() == [1, 1]
    assert dataset.groups["Male"].tolist() == ["0", "1"]
    expected = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(dataset.landmarks, np.stack([expected, expected + 20]) + 0.5)  # type: ignore[arg-type]
    if comma:
        assert dataset.identities is None
    else:
        assert dataset.identities is not None and dataset.identities.tolist() == ["9", "9"]
        assert open_dataset("celeba", tmp_path, target="identity").classes == ["8", "9"]


def test_torchvisions_celeba_needs_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = celeba_root(tmp_path, torchvision_layout=True)
    lines = ["3", "x_1 y_1 width height", *(f"00000{i}.jpg 1 2 3 4" for i in (1, 2, 3))]
    (root / "celeba" / "list_bbox_celeba.txt").write_text("\n".join(lines))
    text = (root / "celeba" / "identity_CelebA.txt").read_text().splitlines()
    (root / "celeba" / "identity_CelebA.txt").write_text("\n".join(reversed(text)))  # torchvision asks for the order
    monkeypatch.setattr(torchvision.datasets.CelebA, "_check_integrity", lambda self: True)  # sums of the real files
    theirs = torchvision.datasets.CelebA(str(root), split="train")
    items = list_items(theirs)
    assert [item.key for item in items] == ["000001.jpg", "000003.jpg"]
    assert items[1].path == str(root / "celeba" / "img_align_celeba" / "000003.jpg")
    ours = open_dataset("celeba", root, "train")
    np.testing.assert_array_equal(list_landmarks(theirs), ours.landmarks)  # type: ignore[arg-type]
    assert photos_of_dataset(theirs)[1].read()[1] == ours.read_photo(1)[1]


def test_torchvisions_lfw_needs_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, [f"lfw-py/lfw_funneled/{n}/{n}_000{i}.jpg" for n in ("Ann_B", "Cy_D") for i in (1, 2)])
    (root / "lfw-py" / "lfw-names.txt").write_text("Ann_B\t2\nCy_D\t2\n")
    (root / "lfw-py" / "peopleDevTrain.txt").write_text("1\nCy_D\t2\n")
    monkeypatch.setattr(torchvision.datasets.LFWPeople, "_check_integrity", lambda self: True)
    theirs = torchvision.datasets.LFWPeople(str(root), split="train")
    expected = ["lfw_funneled/Cy_D/Cy_D_0001.jpg", "lfw_funneled/Cy_D/Cy_D_0002.jpg"]
    assert [item.key for item in list_items(theirs)] == expected
    ours = open_dataset("lfw", root, "train")
    assert ours.files.tolist() == [f"lfw-py/{key}" for key in expected]
    assert ours.classes == ["Ann_B", "Cy_D"] and ours.identities is not None
    assert ours.identities.tolist() == ["Cy_D", "Cy_D"]
    assert [item.path for item in list_items(theirs)] == [item.path for item in list_items(ours)]


def test_celebamask_hq(tmp_path: Path) -> None:
    dataset = open_dataset("celebamask-hq", celebamask_root(tmp_path))
    assert dataset.files.tolist() == ["CelebA-HQ-img/0.jpg", "CelebA-HQ-img/2001.jpg"]
    assert dataset.targets is not None and dataset.targets.tolist() == [0, 1]
    assert set(part_mask_files(tmp_path, dataset.files[1])) == {"hair", "l_eye"}
    with pytest.raises(UserInputError, match="no masks 00000_"):
        part_mask_files(tmp_path, dataset.files[0])


def test_ffhq(tmp_path: Path) -> None:
    dataset = open_dataset("ffhq", ffhq_root(tmp_path), "val")
    assert dataset.files.tolist() == ["images1024x1024/60000/60001.png"] and dataset.targets is None
    # By hand: x of points 36 to 41 has mean 38.5, 42 to 47 mean 44.5; y of point k is k mod 7; images of 64 px.
    left_y, right_y = np.mean([1, 2, 3, 4, 5, 6]), np.mean([0, 1, 2, 3, 4, 5])
    expected = np.array([[38.5, left_y], [44.5, right_y], [30, 2], [48, 6], [54, 5]])
    np.testing.assert_allclose(dataset.landmarks[0], (expected + 0.5) / 16, rtol=1e-6)  # type: ignore[index]
    assert np.isnan(open_dataset("ffhq", tmp_path, "train").landmarks).all()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 68 points"):
        five_of_68(np.zeros((5, 2)))


def test_utkface(tmp_path: Path) -> None:
    root = MAKERS["utkface"](tmp_path)
    dataset = open_dataset("utkface", root)
    assert dataset.files.tolist() == ["110_1_4_2017.jpg", "27_1_0_2017.jpg.chip.jpg", "5_0_3_2017.jpg"]
    assert dataset.targets is not None and dataset.targets.tolist() == [110, 27, 5] and dataset.classes == []
    assert dataset.groups["gender"].tolist() == ["female", "female", "male"]
    assert dataset.groups["race"].tolist() == ["Others", "White", "Indian"]
    assert open_dataset("utkface", root, target="race").classes == ["Indian", "Others", "White"]
    write(root, ["61_1_20170109142408075.jpg.chip.jpg"])  # one of those that lack the race
    with pytest.raises(UserInputError, match=r"1 of 4 file names are not age_gender_race_date.jpg: '61_1_"):
        open_dataset("utkface", root)
    assert open_dataset("utkface", root, missing="skip").files.tolist() == dataset.files.tolist()


def test_image_folder_agrees_with_torchvision(tmp_path: Path) -> None:
    root = write(tmp_path, ["b/2.jpg", "a/x/1.jpg", "b/1.jpg", "c/1.jpg"])
    theirs, ours = torchvision.datasets.ImageFolder(str(root)), open_dataset("folder", root)
    assert [item.key for item in list_items(theirs)] == ours.files.tolist()
    assert ours.classes == theirs.classes and ours.class_to_idx == theirs.class_to_idx
    assert ours.targets is not None and ours.targets.tolist() == theirs.targets
    assert open_dataset("folder", root, target="identity").identities.tolist() == ["a", "b", "b", "c"]  # type: ignore[union-attr]
    write(root, ["loose.jpg"])
    with pytest.raises(UserInputError, match=r"1 of 5 images lie in .* itself .*'loose.jpg'"):
        open_dataset("folder", root)
    assert open_dataset("folder", root, target=None).targets is None


def test_video_frames(tmp_path: Path) -> None:
    root = MAKERS["video"](tmp_path / "tree")
    dataset = open_dataset("video", root)
    assert dataset.identities is not None and dataset.identities.tolist() == ["ann", "ann", "ann", "bob"]
    assert dataset.groups["clip"].tolist() == ["ann/0", "ann/0", "ann/1", "bob/0"]
    flat = write(tmp_path / "flat", ["7_2_0.jpg", "7_2_1.jpg", "8_2_0.jpg"])
    with pytest.raises(UserInputError, match=r"3 of 3 frames do not match person/clip/frame.jpg: '7_2_0.jpg'"):
        open_dataset("video", flat)
    named = open_dataset("video", flat, pattern=r"(?P<identity>\d+)_(?P<clip>\d+)_\d+")
    assert named.classes == ["7", "8"] and named.groups["clip"].tolist() == ["7/2", "7/2", "8/2"]
    with pytest.raises(UserInputError, match="needs a group named identity"):
        open_dataset("video", flat, pattern="(.*)")


def test_csv_columns(tmp_path: Path) -> None:
    root = write(tmp_path / "images", ["a.jpg", "b.jpg", "c.jpg"])
    table = write_csv(
        tmp_path / "t.csv",
        "Person;path;Age;Glasses",
        f"ann;{root}/a.jpg;31;none",
        "ann;.\\b.jpg;7.5;",
        "bob;c.jpg;NA;sun",
    )
    dataset = from_csv(table, root, target="identity", identity="Person", groups=["Glasses"])
    assert dataset.files.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.classes == ["ann", "bob"]
    assert dataset.groups["Glasses"].tolist() == ["none", "unknown", "sun"]
    with pytest.raises(UserInputError, match=r"1 of 3 rows of .* have no 'Age': 'c.jpg'"):
        from_csv(table, root, target="Age", numeric=["Age"])
    ages = from_csv(table, root, target="Age", numeric=["Age"], missing="skip")
    assert [target for _, target in ages] == [31.0, 7.5]


WRONG_TABLES = {
    "no such file": (None, {}, "cannot be read"),
    "empty": (["file"], {}, "is empty"),
    "ragged": (["file,x", "a.jpg"], {}, "row 2 has 1 cells, but there are 2 column names"),
    "no file column": (["name,x", "a.jpg,1"], {}, "none of the columns file, key.*say which one"),
    "unknown file column": (["file", "a.jpg"], {"file": "where"}, "no column 'where'; it has file"),
    "unknown target": (["file", "a.jpg"], {"target": "age"}, "no column 'age'; it has file"),
    "unknown group": (["file", "a.jpg"], {"groups": ["race"]}, "no column 'race'"),
    "file named twice": (["file", "a.jpg", "./a.jpg"], {}, "1 files are named more than once: 'a.jpg'"),
    "columns named twice": (["file,x,x", "a.jpg,1,2"], {}, "several columns named 'x'"),
    "file missing": (["file", "a.jpg", "z/b.jpg"], {}, "1 of 2 files of .* are not under .*: 'z/b.jpg'"),
    "label missing": (["file,age", "a.jpg,"], {"target": "age"}, "1 of 1 rows of .* have no 'age': 'a.jpg'"),
    "no number": (["file,age", "a.jpg,old"], {"target": "age", "numeric": ["age"]}, "'age' is a quantity, but"),
    "unnamed": (["file,x", ",1"], {}, "1 rows name no file"),
    "no split column": (["file", "a.jpg"], {"split": "val"}, "no column 'split' to take split 'val' from"),
    "no such split": (["file,split", "a.jpg,dev"], {"split": "val"}, "no split 'val' in column 'split'; it has dev"),
    "nothing kept": (["key,kept", "a.jpg,0"], {}, "leaves no row of 1"),
    "odd kept": (["key,kept", "a.jpg,perhaps"], {}, "column 'kept' holds 'perhaps'; expected 1 or 0"),
    "odd points": ([",".join(["file", *HEADS]), "a.jpg" + ",x" * 10], {}, "landmarks must be numbers"),
    "odd option": (["file", "a.jpg"], {"missing": "ignore"}, "missing must be 'error' or 'skip'"),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_wrong_tables_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    lines, options, message = WRONG_TABLES[name]
    write(tmp_path, ["a.jpg"])
    if lines is not None:
        (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserInputError, match=message) as caught:
        from_csv(tmp_path / "t.csv", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_rows_without_files_can_be_skipped(tmp_path: Path) -> None:
    table = write_csv(write(tmp_path, ["a.jpg"]) / "t.csv", "file,age", "a.jpg,1", "b.jpg,2", "c/d.jpg,")
    dataset = from_csv(table, target="age", missing="skip")
    assert dataset.files.tolist() == ["a.jpg"] and dataset.classes == ["1", "2"]


def test_frame_equals_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    table = write_csv(tmp_path / "t.csv", "file,age,race,id", "a.jpg,30,x,1", "b.jpg,4,,1", "c.jpg,11,y,")
    options: dict[str, Any] = {"target": "age", "groups": ["race", "id"]}
    listed, framed = from_csv(table, **options), from_frame(pandas.read_csv(table), tmp_path, **options)
    assert framed.classes == listed.classes == ["4", "11", "30"]
    assert framed.groups["id"].tolist() == listed.groups["id"].tolist() == ["1", "1", "unknown"]
    assert framed.groups["race"].tolist() == ["x", "unknown", "y"]
    with pytest.raises(UserInputError, match=r"expected a pandas.DataFrame, got PosixPath.*use from_csv"):
        from_frame(table, tmp_path)


def test_labels_through_subset_and_concat(tmp_path: Path) -> None:
    first = open_dataset("fairface", fairface_root(tmp_path / "one"), "train")
    second = open_dataset("folder", write(tmp_path / "two", ["x/1.jpg", "y/1.jpg"]))
    joined = ConcatDataset([Subset(first, [2, 0]), second])
    points = list_landmarks(joined)
    assert points is not None
    np.testing.assert_array_equal(points[:2], np.stack([first.landmarks[2], first.landmarks[0]]))  # type: ignore[index]
    assert np.isnan(points[2:]).all()
    assert list_attributes(joined) == {
        "label": ["Male", "Male", "x", "y"],
        "age": ["more than 70", "10-19", "", ""],
        "gender": ["Male", "Male", "", ""],
        "race": ["Indian", "White", "", ""],
    }
    assert [locate(joined, i) for i in range(4)] == [(first, 2), (first, 0), (second, 0), (second, 1)]
    second.landmarks, second.identities, second.groups = "of another kind", 7, {"short": ["x"]}  # type: ignore[assignment, dict-item]
    assert list_attributes(second) == {"label": ["x", "y"]}
    assert list_landmarks(second) is None and list_landmarks(ConcatDataset([second, second])) is None


def test_lmdb(tmp_path: Path) -> None:
    root = lmdb_root(tmp_path / "faces_lmdb")
    dataset = open_dataset("lmdb", root, transform=to_tensor)
    before = sorted(path.name for path in root.iterdir())
    assert dataset.files.tolist() == [f"face-{n}" for n in range(4)]
    assert list_items(dataset)[0].path is None
    # Open in this process while forked workers read; two datasets share one handle.
    twin = open_dataset("lmdb", root, transform=to_tensor)
    expected = [to_tensor(Image.open(io.BytesIO(jpeg(n)))) for n in range(4)]
    for epoch in range(2):
        batches = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context="fork")
        images = [image for batch, _ in batches for image in batch]
        assert all(image.equal(right) for image, right in zip(images, expected, strict=True)), epoch
        assert twin[epoch][0].equal(expected[epoch]) and len(_OPEN) == 1
    assert photos_of_dataset(Subset(dataset, [3]))[0].read()[1] == hashlib.sha256(jpeg(3)).hexdigest()
    assert sorted(path.name for path in root.iterdir()) == before, "no lock file, no list of keys"
    with pytest.raises(ImageError, match="face-9: not in"):
        dataset.store.read("face-9")


def test_lmdb_labels_and_mistakes(tmp_path: Path) -> None:
    root = lmdb_root(tmp_path / "db")
    table = write_csv(tmp_path / "t.csv", "key,who", *(f"face-{n},{'ab'[n % 2]}" for n in (3, 2, 1, 0)))
    dataset = open_dataset("lmdb", root, labels=table, target="who", identity="who")
    assert dataset.targets is not None and dataset.targets.tolist() == [0, 1, 0, 1]
    write_csv(table, "key,who", "face-0,a")
    with pytest.raises(UserInputError, match=r"3 of 4 images have no row in .*: 'face-1'"):
        open_dataset("lmdb", root, labels=table)
    with pytest.raises(UserInputError, match=r"no LMDB file at .*elsewhere"):
        open_dataset("lmdb", tmp_path / "elsewhere")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserInputError, match="cannot be read as LMDB"):
        open_dataset("lmdb", tmp_path / "bad")
    big = lmdb_root(tmp_path / "big", count=80, size=(64, 64))
    assert len(open_dataset("lmdb", big)) == 80
    whole = (big / "data.mdb").read_bytes()
    cut = tmp_path / "cut.mdb"  # a download that broke off; read on, it would kill the process
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserInputError, match=r"is truncated: it has \d+ bytes of \d+"):
        open_dataset("lmdb", cut)
    cut.write_bytes(whole)
    assert open_dataset("lmdb", cut).read_photo(7)[1] == open_dataset("lmdb", big).read_photo(7)[1], "a single file"
    with pytest.raises(UserInputError, match="has no splits; leave split 'val' out"):
        open_dataset("lmdb", root, "val")


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    raw = datasets.load_from_disk(str(hf_root(tmp_path / "hf")))
    dataset = hugging_face(raw, target="smile", identity="person", groups=["person"], landmarks="marks")
    assert dataset.files.tolist() == [f"{i}.jpg" for i in range(4)]
    assert dataset.classes == ["no", "yes"] and [target for _, target in dataset] == [0, 1, 1, 0]
    assert dataset.identities is not None and dataset.identities.tolist() == ["ann", "ann", "bob", "bob"]
    np.testing.assert_array_equal(np.isnan(dataset.landmarks).all(axis=(1, 2)), [False, True, False, False])  # type: ignore[arg-type]
    for i in range(4):
        assert dataset.read_photo(i)[1] == hashlib.sha256(jpeg(i)).hexdigest(), "the file's own bytes"
    shuffled = hugging_face(raw.select([2, 0]), target="smile")
    assert shuffled.files.tolist() == ["2.jpg", "0.jpg"]
    assert shuffled.read_photo(0)[1] == dataset.read_photo(2)[1]
    keyed = hugging_face(raw.add_column("name", ["d", "c", "b", "a"]), key="name")
    assert keyed.files.tolist() == ["d", "c", "b", "a"] and keyed.read_photo(3)[1] == dataset.read_photo(3)[1]
    pictures = hugging_face(
        datasets.Dataset.from_dict(
            {"image": [Image.open(io.BytesIO(jpeg(0))), random_image(np.random.default_rng(1), 20, 20)]}
        ).cast_column("image", datasets.Image())
    )
    assert pictures.files.tolist() == ["0", "1"], "row numbers where images have no names"


def test_hugging_face_files_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    root = write(tmp_path, ["ann/1.jpg", "bob/1.jpg"])
    raw = datasets.Dataset.from_dict({"face": [str(root / "ann/1.jpg"), str(root / "bob/1.jpg")]})
    dataset = hugging_face(raw.cast_column("face", datasets.Image()))
    assert dataset.files.tolist() == ["ann/1.jpg", "bob/1.jpg"]
    assert dataset.read_photo(1)[1] == hashlib.sha256((root / "bob/1.jpg").read_bytes()).hexdigest()


def test_hugging_face_mistakes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    raw = datasets.load_from_disk(str(hf_root(tmp_path / "hf")))
    for arguments, message in [
        ((raw.remove_columns("image"), {}), "no image column among smile, person, marks"),
        ((raw, {"image": "smile"}), "column 'smile' holds ClassLabel"),
        ((raw, {"image": "photo"}), "no column 'photo'"),
        ((raw, {"target": "age"}), "no column 'age'"),
        ((raw, {"landmarks": "smile"}), "column 'smile', row 0: expected the 5 points"),
        ((datasets.DatasetDict(train=raw), {"split": "val"}), "has the splits train; got split='val'"),
        ((raw.to_iterable_dataset(), {}), "a streaming data set has no rows"),
        ((raw, {"key": "person"}), "2 files are named more than once: 'ann', 'bob'"),
        ((tmp_path, {}), "not a folder written by save_to_disk"),
    ]:
        with pytest.raises(UserInputError, match=message):
            hugging_face(arguments[0], **arguments[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": []}, "at least one file"),
        ({"files": ["a", "a"]}, "named more than once"),
        ({"targets": [1]}, "targets: expected 2 values"),
        ({"identities": ["x"]}, "identities: expected 2 values"),
        ({"groups": {"race": ["x"]}}, "race: expected 2 values"),
        ({"landmarks": np.zeros((2, 68, 2))}, r"landmarks must have shape \(2, 5, 2\)"),
    ],
)
def test_columns_must_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        FaceDataset("here", **{"files": ["a", "b"], **changes})


def test_relative_root_outlives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train", ["train/1.jpg", "1.jpg"])
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset("folder", "train", target=None)
    assert [item.key for item in list_items(dataset)] == ["1.jpg", "train/1.jpg"], "not folded into one another"
    monkeypatch.chdir(tmp_path / "train")
    assert dataset.read_photo(1)[1] == hashlib.sha256((tmp_path / "train/train/1.jpg").read_bytes()).hexdigest()


def test_main_job_on_a_face_dataset(faces: Faces) -> None:
    base = open_dataset("folder", faces.root, transform=to_tensor)
    train = GANAugmentedDataset(base, faces.cache, ratio=1.0, preserve=["label"], classical=None)
    assert train.coverage == 1.0
    images, labels = next(iter(train.loader(batch_size=4, num_workers=1)))
    assert images.shape == (4, 3, 20, 20) and labels.tolist() == [0] * 4
    assert train.counts["generated"] == 4


def test_known_datasets_as_a_source(tmp_path: Path) -> None:
    root = fairface_root(tmp_path)
    photos = photos_from(root, dataset="fairface", split="val")
    assert [photo.key for photo in photos] == ["val/1.jpg", "val/2.jpg"] and photos[0].points is not None
    listing = write_csv(tmp_path / "list.csv", "key,kept", "val/1.jpg,0", "val/2.jpg,1", "train/1.jpg,1")
    assert [photo.key for photo in photos_from(root, only=listing)] == ["train/1.jpg", "val/2.jpg"]
    with pytest.raises(UserInputError, match="unknown dataset 'fairfaces': expected one of celeba"):
        photos_from(root, dataset="fairfaces")
    with pytest.raises(UserInputError, match="split 'val' needs the name of a dataset"):
        photos_from(root, split="val")
    with pytest.raises(UserInputError, match="no list of `ganaug curate`: expected columns 'key' and 'kept'"):
        photos_from(root, only=root / "labels.csv")
    write_csv(listing, "key,kept", "val/1.jpg,0", "elsewhere.jpg,1")
    with pytest.raises(UserInputError, match="keeps none of the 5 photos"):
        photos_from(root, only=listing)
