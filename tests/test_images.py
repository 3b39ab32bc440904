"""Image files: every way in which one can be odd or damaged."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ganaug.faces.images import MIN_SIDE, content_hash, decode_image, find_images, read_image
from ganaug.interfaces import ImageError

Pixels = NDArray[np.uint8]


def smooth(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth colours, so that lossy formats keep them nearly."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> Pixels:
    assert image.mode == "RGB"
    return np.asarray(image)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def handmade_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG after RFC 2083, without Pillow."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


WHOLE: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(smooth(), "JPEG", quality=95),
    "progressive": lambda: encoded(smooth(), "JPEG", progressive=True),
    "png": lambda: encoded(smooth(), "PNG"),
    "palette png": lambda: encoded(smooth().convert("P"), "PNG"),
    "webp": lambda: encoded(smooth(), "WEBP"),
    "tiff": lambda: encoded(smooth(), "TIFF"),
    "bmp": lambda: encoded(smooth(), "BMP"),
    "ppm": lambda: encoded(smooth(), "PPM"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_anywhere_is_refused_or_whole(kind: str) -> None:
    """A cut either makes the file unreadable or, at its very end, leaves every pixel as it was."""
    data = WHOLE[kind]()
    want = pixels(decode_image(data, "whole"))
    refused = 0
    points = sorted({*range(0, len(data), max(len(data) // 120, 1)), *range(len(data) - 24, len(data))})
    for length in points:
        try:
            got = decode_image(data[:length], "photos/cut.jpg")
        except ImageError as error:
            refused += 1
            assert "photos/cut.jpg" in str(error)
        else:
            np.testing.assert_array_equal(pixels(got), want, err_msg=f"{length} of {len(data)} bytes")
    assert refused > 0.9 * len(points) - 24


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", WHOLE)
def test_flipped_bytes_raise_nothing_but_image_errors(kind: str) -> None:
    rng = np.random.default_rng(1)
    data = np.frombuffer(WHOLE[kind](), np.uint8)
    for _ in range(150):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), rng.choice([64, 10**6])), rng.choice([1, 4]))
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            image = decode_image(damaged.tobytes(), "name.jpg")
        except ImageError as error:
            assert "name.jpg" in str(error)
        else:
            assert image.mode == "RGB" and min(image.size) >= MIN_SIDE


def test_bomb_is_refused_by_its_header() -> None:
    data = handmade_png(20000, 20000, 8, 2, b"")
    assert len(data) < 200
    with pytest.raises(ImageError, match=r"bomb\.png.*bomb"):
        decode_image(data, "bomb.png")


@pytest.mark.filterwarnings("error")
def test_limit_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between once and twice the limit Pillow only warns, and we read in silence."""
    data = encoded(smooth(40, 30), "PNG")
    for limit in (None, 1200, 1199, 600):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(pixels(decode_image(data, "big.png")), pixels(smooth(40, 30)))
    for limit in (599, 500):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match=rf"big\.png: refused, more than {2 * limit} pixels.*MAX_IMAGE_PIXELS"):
            decode_image(data, "big.png")


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=rf"dot\.png.*{size[0]}x{size[1]}"):
        decode_image(encoded(Image.new("RGB", size), "PNG"), "dot.png")


def test_smallest_that_is_taken() -> None:
    assert decode_image(encoded(Image.new("RGB", (MIN_SIDE, MIN_SIDE)), "PNG"), "x").size == (MIN_SIDE, MIN_SIDE)


def test_modes_become_rgb() -> None:
    image = smooth()
    colours = pixels(image)
    grey = np.asarray(image.convert("L"))
    as_grey = np.repeat(grey[..., None], 3, axis=2)
    alpha = Image.new("L", image.size, 255)
    np.testing.assert_array_equal(pixels(decode_image(encoded(image.convert("L"), "PNG"), "L")), as_grey)
    with_alpha = Image.merge("LA", (image.convert("L"), alpha))
    np.testing.assert_array_equal(pixels(decode_image(encoded(with_alpha, "PNG"), "LA")), as_grey)
    with_alpha = Image.merge("RGBA", (*image.split(), alpha))
    np.testing.assert_array_equal(pixels(decode_image(encoded(with_alpha, "PNG"), "RGBA")), colours)

    indexed = image.quantize(64)
    palette = np.array(indexed.getpalette(), np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(
        pixels(decode_image(encoded(indexed, "PNG"), "P")), palette[np.asarray(indexed, dtype=np.int64)]
    )
    bilevel = np.random.default_rng(0).random((20, 20)) < 0.5
    got = pixels(decode_image(encoded(Image.fromarray(bilevel), "PNG"), "1"))
    np.testing.assert_array_equal(got, np.repeat(bilevel[..., None], 3, axis=2) * np.uint8(255))


def test_cmyk_jpeg() -> None:
    """Red printed: no cyan, all magenta and yellow."""
    inks = Image.merge("CMYK", [Image.new("L", (32, 32), value) for value in (0, 255, 255, 0)])
    got = pixels(decode_image(encoded(inks, "JPEG", quality=95), "CMYK"))
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.linspace(0, 65535, 20 * 24).round().astype(np.uint16).reshape(20, 24)
    got = pixels(decode_image(encoded(Image.fromarray(values), kind), "I;16"))
    want = np.rint(values / 65535 * 255)
    np.testing.assert_array_equal(got, np.repeat(want[..., None], 3, axis=2))
    assert len(np.unique(got)) == 256


def test_16_bits_big_endian_pgm_and_float_tiff() -> None:
    values = np.linspace(0, 65535, 20 * 24).round().astype(np.uint16).reshape(20, 24)
    want = np.repeat(np.rint(values / 65535 * 255)[..., None], 3, axis=2)
    pgm = b"P5 24 20 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(pixels(decode_image(pgm, "pgm")), want)
    unit = Image.fromarray((values / 65535).astype(np.float32))
    np.testing.assert_allclose(pixels(decode_image(encoded(unit, "TIFF"), "float")), want, atol=1)
    hole = np.full((20, 20), 0.5, np.float32)
    hole[3, 4] = np.nan
    with pytest.raises(ImageError, match="hole"):
        decode_image(encoded(Image.fromarray(hole), "TIFF"), "hole")


def test_16_bit_rgb_png() -> None:
    """Made by hand: Pillow cannot write it."""
    values = np.random.default_rng(0).integers(0, 65536, (20, 18, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    got = pixels(decode_image(handmade_png(18, 20, 16, 2, rows), "rgb16"))
    assert np.abs(got - values / 257.0).max() <= 1.0


# What each EXIF orientation says about row 0 and column 0 of the stored pixels (EXIF 2.3, tag 274), as what to do.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.transpose(1, 0, 2),  # left, top
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda a: a.transpose(1, 0, 2)[::-1],  # left, bottom
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(kind: str, orientation: int) -> None:
    image = smooth(40, 24)
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, object] = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    got = pixels(decode_image(encoded(image, kind, exif=exif, **options), "turned"))
    want = UPRIGHT[orientation](pixels(image))
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= (24 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_does_not_lose_the_image() -> None:
    image = smooth()
    data = encoded(image, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    try:
        got = decode_image(data, "odd.png")
    except ImageError as error:
        assert "odd.png" in str(error)
    else:
        np.testing.assert_array_equal(pixels(got), pixels(image))


def test_first_picture_of_a_phones_mpo() -> None:
    first, second = smooth(), smooth(seed=1)
    got = pixels(decode_image(encoded(first, "MPO", save_all=True, append_images=[second], quality=95), "phone.jpg"))
    assert np.abs(got.astype(int) - pixels(first)).max() <= 24


@pytest.mark.parametrize("data", [b"", b"\0", b"<html>not found</html>" * 9, bytes(5000), b"\xff\xd8\xff\xe0"])
def test_no_image_in_it(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=r"face\.jpg"):
        read_image(tmp_path / "face.jpg")


def test_postscript_never_reaches_ghostscript() -> None:
    data = encoded(smooth(), "EPS")
    with pytest.raises(ImageError, match=r"face\.png: not an image"):
        decode_image(data, "face.png")


def test_read_image_hashes_the_file(tmp_path: Path) -> None:
    data = encoded(smooth(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    image, digest = read_image(tmp_path / "a.png")
    assert digest == content_hash(data) and len(digest) == 64
    np.testing.assert_array_equal(pixels(image), pixels(smooth()))
    assert content_hash(data[:-1] + b"\x83") != digest


def test_unreadable_paths(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("missing.jpg", "folder.jpg"):
        with pytest.raises(ImageError, match=name.replace(".", r"\.")):
            read_image(tmp_path / name)


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_find_images(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg", "a/1.jpg", "a/deep/er/2.JPEG", "top.Png", "ñandú/Übung 漢字.webp")
    touch(tmp_path, "notes.txt", "jpg", ".hidden.jpg", "a/._1.jpg", ".git/x.png", "a/.cache/y.png", "a/.x/z.heic")
    (tmp_path / "folder.png").mkdir()
    assert find_images(tmp_path) == sorted(
        ["a/1.jpg", "a/deep/er/2.JPEG", "b/1.jpg", "top.Png", "ñandú/Übung 漢字.webp"]
    )
    assert find_images(str(tmp_path / "a")) == ["1.jpg", "deep/er/2.JPEG"]


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "1.heic", "a/2.HEIC", "a/moving.gif", "notes.txt")
    with pytest.raises(ImageError, match=r"no image found .*and found 1 \.gif, 2 \.heic, which are not read: convert"):
        find_images(tmp_path)
    touch(tmp_path, "a/3.jpg")
    with pytest.warns(UserWarning, match=r"left out under .*: 1 \.gif, 2 \.heic; convert") as caught:
        assert find_images(tmp_path) == ["a/3.jpg"]
    assert len(caught) == 1


def test_find_images_in_a_hidden_place(tmp_path: Path) -> None:
    """Only what is below the root may hide a file."""
    touch(tmp_path, ".data/faces/1.jpg")
    assert find_images(tmp_path / ".data" / "faces") == ["1.jpg"]


def test_links_are_followed_to_files_only(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "root/2.jpg")
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    (tmp_path / "root" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    assert find_images(tmp_path / "root") == ["2.jpg", "link.jpg"]


def test_no_folder(tmp_path: Path) -> None:
    touch(tmp_path, "face.jpg", "empty/notes.txt")
    for name, message in {"missing": "not there", "face.jpg": "a file", "empty": "no image found"}.items():
        with pytest.raises(ImageError, match=message) as caught:
            find_images(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
