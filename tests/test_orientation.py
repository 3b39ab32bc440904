"""Files that EXIF turns upright: what a dataset shows of them is seen, and variants lie as the items do."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_image
from PIL import Image, ImageOps
from torchvision.transforms import functional as tvf

from ganaug.batches import FileHasher, fetch
from ganaug.faces.geometry import apply_points
from ganaug.faces.orientation import exif_orientation, geometry_as_stored, shown_as_stored


def picture(width: int = 48, height: int = 36, seed: int = 3) -> Image.Image:
    return random_image(np.random.default_rng(seed), width, height)


def encoded(image: Image.Image, orientation: int | None, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    data = io.BytesIO()
    image.save(data, kind, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_of_a_file(kind: str) -> None:
    for orientation in range(1, 9):
        assert exif_orientation(encoded(picture(), orientation, kind)) == orientation
    for odd in (None, 0, 9, 77):
        assert exif_orientation(encoded(picture(), odd, kind)) == 1


@pytest.mark.parametrize("data", [b"", b"text", b"Exif\0\0", b"II*\0" + bytes(40), encoded(picture(), 6)[:60]])
def test_files_without_one(data: bytes) -> None:
    assert exif_orientation(data) == 1


def test_orientation_of_xmp() -> None:
    """As Pillow reads it, which the photos of a cache are turned by."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = io.BytesIO()
    picture().save(data, "JPEG", xmp=xmp)
    turned = ImageOps.exif_transpose(Image.open(data))
    assert turned.size == (36, 48) and exif_orientation(data.getvalue()) == 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_geometry_as_stored(orientation: int) -> None:
    """A mark in the stored picture, and where Pillow puts it, come to lie on the same place of the chip."""
    width, height = 7, 5
    rng = np.random.default_rng(orientation)
    for _ in range(5):
        stored = np.zeros((height, width), np.uint8)
        row, column = int(rng.integers(height)), int(rng.integers(width))
        stored[row, column] = 255
        data = io.BytesIO(encoded(Image.fromarray(stored), orientation, "PNG"))
        upright = np.asarray(ImageOps.exif_transpose(Image.open(data)))
        y, x = np.argwhere(upright)[0]
        matrix = torch.from_numpy(rng.normal(size=(2, 3))).float()
        geometry = torch.cat([matrix.flatten(), torch.tensor([upright.shape[1], upright.shape[0]])])[None].float()
        turned = geometry_as_stored(geometry, np.array([orientation], np.uint8))
        assert turned.dtype == torch.float32 and turned[0, 6:].tolist() == [width, height]
        on_chip = apply_points(turned[0, :6].unflatten(0, (2, 3)), torch.tensor([[column + 0.5, row + 0.5]]))
        expected = apply_points(matrix, torch.tensor([[x + 0.5, y + 0.5]]).float())
        torch.testing.assert_close(on_chip, expected, atol=1e-4, rtol=0)


def test_geometry_of_several_at_once() -> None:
    geometry = torch.randn(8, 8)
    geometry[:, 6:] = torch.tensor([30.0, 40.0])
    together = geometry_as_stored(geometry, np.arange(1, 9, dtype=np.uint8))
    alone = [geometry_as_stored(geometry[i : i + 1], np.array([i + 1], np.uint8)) for i in range(8)]
    assert torch.equal(together, torch.cat(alone)) and torch.equal(together[0], geometry[0])


def views(image: Image.Image) -> dict[str, Any]:
    """What datasets make of an image."""
    tensor = tvf.to_tensor(image)
    return {
        "image": image,
        "small": image.resize((image.width // 2, image.height // 2)),
        "stretched": tvf.to_tensor(image.resize((24, 24))),
        "square": tvf.center_crop(tvf.resize(tensor, 20, antialias=True), [20, 20]),
        "uint8": tvf.pil_to_tensor(image),
        "normalised": tvf.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        "half": tensor.half(),
        "dark": tensor * 0.3,
    }


@pytest.mark.parametrize("orientation", range(2, 9))
def test_what_an_item_shows(orientation: int, tmp_path: Path) -> None:
    for seed in range(3):
        path = tmp_path / "photo.jpg"
        path.write_bytes(encoded(picture(seed=seed), orientation))
        stored = Image.open(path).convert("RGB")
        upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        for name, item in views(stored).items():
            assert shown_as_stored(item, str(path), orientation), name
        for name, item in views(upright).items():
            assert not shown_as_stored(item, str(path), orientation), name


def test_what_cannot_be_told_counts_as_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(picture(), 6))
    for item in (torch.zeros(3, 20, 20), torch.full((3, 20, 20), float("nan")), Image.new("L", (9, 30), 128)):
        assert not shown_as_stored(item, str(path), 6)
    assert not shown_as_stored(picture(), str(tmp_path / "missing.jpg"), 6)


def test_files_of_a_batch(tmp_path: Path) -> None:
    """Looked at once, and again when the file has changed."""
    paths: list[str | None] = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")] + [None]
    for path, orientation in zip(paths[:3], (1, 6, 8), strict=True):
        Path(str(path)).write_bytes(encoded(picture(), orientation))
    as_stored = [(tvf.to_tensor(picture()), 0)] * 4
    hasher = FileHasher()
    for _ in range(2):
        assert np.array_equal(fetch(as_stored, [0, 1, 2, 3], paths, hasher).turned, [1, 6, 8, 1])  # type: ignore[arg-type]
    assert fetch(as_stored, [0, 3], paths, hasher).turned is None  # type: ignore[arg-type]
    Path(str(paths[1])).write_bytes(encoded(picture(60, 40), 3))
    Path(str(paths[2])).write_bytes(encoded(picture(60, 40), None))
    assert np.array_equal(fetch(as_stored, [1, 2], paths, hasher).turned, [3, 1])  # type: ignore[arg-type]
    upright = [({"name": "x", "image": picture().transpose(Image.Transpose.ROTATE_180)},)] * 4
    assert fetch([item[0] for item in upright], [1], paths, FileHasher()).turned is None  # type: ignore[arg-type]
