"""Training photos: decoded once, read in a keyed order, labels beside their images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganaug import rng
from ganaug.errors import UserInputError
from ganaug.faces.align import Alignment, align
from ganaug.training.data import RealImages, pack_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    chips = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    for number, chip in enumerate(chips):
        Image.fromarray(chip).resize((24, 24)).save(folder / f"{number:02d}.png")
    return folder


def test_packing_leaves_out_bad_files(photos: Path, tmp_path: Path) -> None:
    (photos / "05a.png").write_bytes(b"\x89PNG nonsense")
    packed = pack_images(photos, tmp_path, 16)
    assert (packed.chips.shape, packed.num_failed) == ((20, 16, 16, 3), 1)
    assert packed.names == tuple(f"{number:02d}.png" for number in range(20))
    for name, chip in zip(packed.names, packed.chips, strict=True):
        assert np.array_equal(chip, align(Image.open(photos / name), Alignment(size=16))[0])
    assert not list(tmp_path.glob("*.tmp*")) + list(tmp_path.glob("*.cut*"))


def test_packed_photos_are_used_again_until_one_changes(photos: Path, tmp_path: Path) -> None:
    def chips_and_time() -> tuple[np.ndarray, int]:
        packed = pack_images(photos, tmp_path, 16)
        return np.array(packed.chips), (tmp_path / "data-16.npy").stat().st_ino

    first, file = chips_and_time()
    again, same_file = chips_and_time()
    assert np.array_equal(first, again)
    assert same_file == file
    Image.new("RGB", (24, 24), "red").save(photos / "03.png")  # the same name, another photo
    changed, _ = chips_and_time()
    assert (changed[3] == (255, 0, 0)).all()
    assert np.array_equal(np.delete(changed, 3, axis=0), np.delete(first, 3, axis=0))
    status = (photos / "04.png").stat()
    os.utime(photos / "04.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    _, file = chips_and_time()
    (tmp_path / "data-16.npy").write_bytes(b"")  # cut short
    whole, _ = chips_and_time()
    assert np.array_equal(whole, changed)
    (photos / "19.png").unlink()
    assert len(chips_and_time()[0]) == 19


def test_packing_too_few_leaves_nothing_behind(photos: Path, tmp_path: Path) -> None:
    for number in range(10):
        (photos / f"{number:02d}.png").unlink()
    with pytest.raises(UserInputError, match="has 10 readable images, training needs at least 16"):
        pack_images(photos, tmp_path, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_real_images_in_keyed_order() -> None:
    data = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8) * 10
    images = RealImages(data, seed=1)
    values = ((images.batch(0, 15)[:, 0, 0, 0] + 1) * 127.5 / 10).round().int().tolist()
    for epoch in range(3):  # every image once per epoch, in another order
        assert sorted(values[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert values[:5] != values[5:10]
    again = RealImages(data, seed=1)
    torch.testing.assert_close(again.batch(7, 6), images.batch(0, 13)[7:])
    half = RealImages(data, 1, np.array([1, 3])).batch(0, 8)
    assert set(((half[:, 0, 0, 0] + 1) * 12.75).round().int().tolist()) == {1, 3}


@pytest.mark.parametrize("members", [None, np.array([6, 1, 4, 3])])
def test_batches_equal_the_old_formula(members: np.ndarray | None) -> None:
    """Order and flips, one image after the other, over several epochs."""
    chips = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    labels = np.eye(7, dtype=np.float32)
    images = RealImages(chips, 5, members, labels)
    used = np.arange(7) if members is None else members
    expected, rows = [], []
    for position in range(40):
        epoch, offset = divmod(position, len(used))
        row = int(used[rng.permutation(5, epoch, len(used), "train order")[offset]])
        flipped = rng.uniforms(5, epoch, [row], "train flip", 1)[0, 0] < 0.5
        expected.append(chips[row, :, ::-1] if flipped else chips[row])
        rows.append(row)
    pixels = torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float() / 127.5 - 1
    for position, size in ((0, 40), (0, 3), (3, 3), (5, 20), (39, 1), (2, 1)):
        torch.testing.assert_close(images.batch(position, size), pixels[position : position + size])
        assert images.labels_at(position, size).argmax(dim=1).tolist() == rows[position : position + size]
    assert np.array_equal(chips, np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8))


def test_labels_must_belong_to_the_images() -> None:
    chips = np.zeros((5, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected labels of shape \(5, c_dim\), got \(4, 2\)"):
        RealImages(chips, 0, labels=np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match="no labels"):
        RealImages(chips, 0).labels_at(0, 2)
