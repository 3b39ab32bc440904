"""Every odd file that a face folder may hold, from ``precompute`` to the loader, and what becomes of it.

A file either gets variants, or it is left out with the reason in ``cache.failures()`` and its real image is served.
The README's table says the same; here is one row for each of its rows. What the pixels of a decoded file are is in
test_images.py.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RESOLUTION, random_image
from PIL import Image, ImageOps
from test_images import encoded, handmade_png, smooth
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from ganaug import GANAugmentedDataset, LatentCache
from ganaug.faces.align import Alignment
from ganaug.faces.detect import Face
from ganaug.faces.images import decode_image
from ganaug.faces.photos import photos_in_folder
from ganaug.generators import load_generator
from ganaug.interfaces import Inversion, Inverter, UserInputError
from ganaug.inversion import build_inverter
from ganaug.precompute import PrecomputeResult, make_header, precompute
from ganaug.stage import replay

CPU = torch.device("cpu")


class Recording:
    """An encoder that keeps the chips that it was given."""

    anchored = False

    def __init__(self, model: Path) -> None:
        self.inverter: Inverter = build_inverter("encoder", load_generator(model), model, CPU, 0)
        self.name, self.settings = self.inverter.name, self.inverter.settings
        self.quality_names, self.delta, self.refills = self.inverter.quality_names, None, False
        self.chips: list[Tensor] = []

    def invert(self, images: Tensor, batch_size: int | None = None) -> Inversion:
        self.chips += list(images)
        return self.inverter.invert(images, batch_size)


def make_cache(root: Path, model: Path, **options: Any) -> tuple[LatentCache, PrecomputeResult, Recording]:
    """A cache of a folder beside it; ``alignment`` and ``detector`` are optional."""
    inverter, alignment = Recording(model), options.pop("alignment", None)
    header = make_header(load_generator(model), model, inverter, alignment=alignment)
    cache = LatentCache.create(root.parent / "faces.lmdb", header)
    result = precompute(photos_in_folder(root), cache, inverter, CPU, 4, progress=False, **options)
    return cache, result, inverter


class AnyFile(Dataset[Any]):
    """Files as a careful user's dataset serves them: 20 px, upright, and grey where a file cannot be read."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.files = str(root), list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = Path(self.root, self.files[index])
        try:
            image = decode_image(path.read_bytes(), path.name)
        except Exception:
            image = Image.new("RGB", (20, 20), (128, 128, 128))
        return to_tensor(image.resize((20, 20))), index


class Shift:
    """An edit that every face gets alike and that shows."""

    name, touches, needs_partner = "shift", frozenset({"identity"}), False

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {"by": 1.0 + uniforms[:, 0].float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return w_plus + params["by"][:, None, None]


def served(root: Path, cache: LatentCache, files: Sequence[str]) -> tuple[list[str], Tensor]:
    """Source of every file in a batch that is to be of variants only, and the batch."""
    base = AnyFile(root, files)
    train = GANAugmentedDataset(base, cache, ratio=1.0, edits=[Shift()], classical=None, paste="whole")
    images, _, info = next(iter(train.loader(batch_size=len(base), return_info=True)))
    return [recipe.source.name for recipe in info["recipe"]], images


def with_orientation(image: Image.Image, orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(image, kind, exif=exif)


def frames(kind: str) -> bytes:
    """Three pictures in one file, the first of them smooth()."""
    more = [smooth(seed=1), smooth(seed=2)]
    return encoded(smooth(), kind, save_all=True, append_images=more, **({"lossless": True} if kind == "WEBP" else {}))


def media_file(brand: bytes) -> bytes:
    """The start of an ISO media file."""
    return b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(500)


def palette_with_transparency() -> bytes:
    return encoded(smooth().quantize(32), "PNG", transparency=bytes(range(32)))


def grey_16_bits() -> Image.Image:
    return Image.fromarray(np.asarray(smooth().convert("L")).astype(np.uint16) * 257)


def transparent() -> Image.Image:
    return Image.merge("RGBA", (*smooth().split(), Image.linear_gradient("L").resize((40, 30))))


LONG = "n" * 251 + ".png"  # 255 bytes, the most that Linux takes
NOT_UTF8 = os.fsdecode(b"latin-\xe9.png")

# Name of the file -> its bytes, and the reason that it is left out for; None: it gets variants.
FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "grey.jpg": (lambda: encoded(smooth().convert("L"), "JPEG"), None),
    "grey with alpha.png": (lambda: encoded(smooth().convert("LA"), "PNG"), None),
    "black and white.png": (lambda: encoded(smooth().convert("1"), "PNG"), None),
    "cmyk.jpg": (lambda: encoded(smooth().convert("CMYK"), "JPEG"), None),
    "cmyk.tif": (lambda: encoded(smooth().convert("CMYK"), "TIFF"), None),
    "palette.png": (lambda: encoded(smooth().quantize(32), "PNG"), None),
    "palette with transparency.png": (palette_with_transparency, None),
    "alpha.png": (lambda: encoded(transparent(), "PNG"), None),
    "alpha.webp": (lambda: encoded(transparent(), "WEBP"), None),
    "16 bits.png": (lambda: encoded(grey_16_bits(), "PNG"), None),
    "16 bits.tiff": (lambda: encoded(grey_16_bits(), "TIFF"), None),
    "turned by exif.jpg": (lambda: with_orientation(smooth(), 6, "JPEG"), None),
    "animated.webp": (lambda: frames("WEBP"), None),
    "animated.png": (lambda: frames("PNG"), None),
    "animated gif.jpg": (lambda: frames("GIF"), None),
    "pages.tif": (lambda: frames("TIFF"), None),
    "phone's two pictures.jpg": (lambda: frames("MPO"), None),
    "CAPITALS.JPG": (lambda: encoded(smooth(), "JPEG"), None),
    "png in truth.jpg": (lambda: encoded(smooth(), "PNG"), None),
    "panorama.png": (lambda: encoded(smooth(600, 16), "PNG"), None),
    "smallest.png": (lambda: encoded(smooth(16, 16), "PNG"), None),
    LONG: (lambda: encoded(smooth(), "PNG"), None),
    NOT_UTF8: (lambda: encoded(smooth(), "PNG"), None),
    "tiny.png": (lambda: encoded(smooth(15, 40), "PNG"), "15x40 px is too small, at least 16 px"),
    "bomb.png": (lambda: handmade_png(20000, 20000, 8, 2, b""), "refused, more than 178956970 pixels"),
    "corrupt.png": (lambda: corrupt(encoded(smooth(), "PNG")), "damaged or truncated image"),
    "corrupt.jpg": (lambda: encoded(smooth(), "JPEG")[:300] + bytes(500), "damaged or truncated image"),
    "truncated.png": (lambda: encoded(smooth(), "PNG")[:-400], "damaged or truncated image"),
    "truncated.jpg": (lambda: encoded(smooth(), "JPEG")[:-200], "damaged or truncated image"),
    "truncated.webp": (lambda: encoded(smooth(), "WEBP")[:-80], "damaged or truncated image"),
    "empty.jpg": (lambda: b"", "not an image of a kind that is read .*0 bytes of nothing"),
    "text.jpg": (lambda: b"see the other folder\n", "not an image .* of text"),
    "not found.jpg": (lambda: b"<!DOCTYPE html><html><title>404</title></html>", "not an image .* of HTML"),
    "heic.jpg": (lambda: media_file(b"heic"), "not an image .* of HEIC; convert it"),
    "avif.jpg": (lambda: media_file(b"avif"), "not an image .* of AVIF; convert it"),
    "video.jpg": (lambda: media_file(b"isom"), "not an image .* of video"),
    "svg.png": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not an image .* of SVG"),
    "postscript.png": (lambda: encoded(smooth(), "EPS"), "not an image .* of PostScript"),
    "noise.bmp": (lambda: np.random.default_rng(0).bytes(4000), "not an image .* of no kind known"),
}


def corrupt(png: bytes) -> bytes:
    """One bit of the pixels is another; PNG has checksums, and JPEG has none: there it goes unnoticed."""
    place = png.index(b"IDAT") + 40
    return png[:place] + bytes([png[place] ^ 1]) + png[place + 1 :]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> tuple[Path, LatentCache, PrecomputeResult]:
    root = tmp_path_factory.mktemp("odd") / "images"
    root.mkdir()
    for name, (make, _) in FILES.items():
        (root / name).write_bytes(make())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # reading odd files is silent; the reasons are in the cache
        warnings.filterwarnings("default", module="PIL")  # whose own remarks on damaged files may stand
        cache, result, _ = make_cache(root, model_file)
    return root, cache, result


@pytest.mark.parametrize("name", FILES, ids=[name.encode("ascii", "replace").decode()[:30] for name in FILES])
def test_a_file_has_variants_or_a_reason(name: str, odd: tuple[Path, LatentCache, PrecomputeResult]) -> None:
    root, cache, _ = odd
    reason = FILES[name][1]
    sources, images = served(root, cache, [name, "grey.jpg"])
    real = AnyFile(root, [name])[0][0]
    assert sources == ["NO_LATENT" if reason else "GENERATED", "GENERATED"]
    assert torch.equal(images[0], real) is (reason is not None)
    if reason is None:
        assert name not in cache.failures() and np.isfinite(cache.get(name).latents).all()
    else:
        told = cache.failures()[name]
        assert str(root / name) in told
        assert_match(reason, told)


def assert_match(pattern: str, text: str) -> None:
    assert re.search(pattern, text, re.DOTALL), f"{text!r} says nothing of {pattern!r}"


def test_one_batch_of_all(odd: tuple[Path, LatentCache, PrecomputeResult]) -> None:
    """Odd files harm nobody else: the good ones are as they are alone."""
    root, cache, result = odd
    good = [name for name, (_, reason) in FILES.items() if reason is None]
    assert result.images == len(good) and result.failed == len(FILES) - len(good)
    sources, together = served(root, cache, list(FILES))
    assert [source == "GENERATED" for source in sources] == [reason is None for _, reason in FILES.values()]
    row = list(FILES).index("cmyk.tif")
    torch.testing.assert_close(together[row], served(root, cache, ["cmyk.tif"])[1][0], atol=1e-5, rtol=0)


def test_kinds_that_a_folder_scan_leaves_out(tmp_path: Path, model_file: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (root / "face.png").write_bytes(encoded(smooth(), "PNG"))
    for name, data in {
        "a.heic": media_file(b"heic"), "b.avif": media_file(b"avif"), "c.gif": frames("GIF"), "d.svg": b"<svg/>"
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    with pytest.warns(UserWarning, match=r"left out .*: 1 \.avif, 1 \.gif, 1 \.heic, 1 \.svg; convert them"):
        cache, result, _ = make_cache(root, model_file)
    assert cache.keys() == ["face.png"] and result.failed == 0


# ------------------------------------------------------------------------------------------------- size


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # of the dataset's own reading
def test_a_photo_of_100_megapixels(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read, as Pillow reads it, beyond the size at which Pillow warns.

    Here the limit is scaled and not the photo; ``test_ten_thousand_squared`` takes a real one.
    """
    root = tmp_path / "images"
    root.mkdir()
    pixels = 100e6 / 89_478_485 * (400 * 300)  # of 100 megapixels, if 400x300 is Pillow's limit
    smooth(400, round(pixels / 400)).save(root / "huge.png")
    smooth(400, 599).save(root / "nearly twice.png")
    smooth(400, 601).save(root / "more than twice.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400 * 300)
    cache, _, _ = make_cache(root, model_file)
    assert cache.keys() == ["huge.png", "nearly twice.png"]
    assert "more than 240000 pixels" in cache.failures()["more than twice.png"]
    assert cache.get("huge.png").photo_size == (400, 335)
    assert served(root, cache, ["huge.png", "more than twice.png"])[0] == ["GENERATED", "NO_LATENT"]


def test_ten_thousand_squared() -> None:
    image = Image.new("1", (10_000, 10_000))
    image.paste(1, (2000, 3000, 8000, 9000))
    decoded = decode_image(encoded(image, "PNG"), "huge.png")
    assert decoded.size == (10_000, 10_000) and decoded.getpixel((2000, 3000)) == (255, 255, 255)
    assert decoded.getpixel((1999, 3000)) == (0, 0, 0)


# ------------------------------------------------------------------------------------------ orientation


def write_turned(root: Path) -> list[str]:
    """The same photo in all eight orientations: as stored files differ, upright they are one."""
    (root / "a").mkdir(parents=True)
    upright = random_image(np.random.default_rng(5), 28, 20)
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for orientation, how in undo.items():
        stored = upright if how is None else upright.transpose(how)
        (root / "a" / f"{orientation}.png").write_bytes(with_orientation(stored, orientation))
    return [f"a/{orientation}.png" for orientation in undo]


def open_upright(path: str) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def test_chips_of_turned_photos_are_upright(tmp_path: Path, model_file: Path) -> None:
    keys = write_turned(tmp_path / "images")
    cache, _, inverter = make_cache(tmp_path / "images", model_file)
    assert cache.keys() == keys and len(inverter.chips) == 8
    assert all(torch.equal(chip, inverter.chips[0]) for chip in inverter.chips)
    assert {cache.get(key).photo_size for key in keys} == {(28, 20)}


@pytest.mark.parametrize("paste", ["paste", "whole"])
@pytest.mark.parametrize("square", [False, True])
def test_variants_lie_as_the_items_do(tmp_path: Path, model_file: Path, paste: Any, square: bool) -> None:
    """torchvision's ImageFolder ignores EXIF. Turned upright afterwards, its batch is that of upright items."""
    root = tmp_path / "images"
    keys = write_turned(root)
    cache, _, _ = make_cache(root, model_file)
    steps = v2.Compose([v2.Resize(15), v2.CenterCrop(15), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    transform: Callable[[Any], Any] = steps if square else to_tensor
    options: dict[str, Any] = {"ratio": 1.0, "edits": [Shift()], "classical": None, "paste": paste}

    upright_items = ImageFolder(str(root), transform, loader=open_upright)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        upright_train = GANAugmentedDataset(upright_items, cache, **options)
        expected = [batch[0][0] for batch in upright_train.loader(batch_size=1)]
    train = GANAugmentedDataset(ImageFolder(str(root), transform), cache, **options)
    with pytest.warns(UserWarning, match=r"ignores the EXIF orientation of 'a/2.png'.*exif_transpose") as told:
        lying = [batch[0][0] for batch in train.loader(batch_size=1)]
    assert len(told) == 1 and train.counts["generated"] == 8
    # How to turn pixels upright, by EXIF 2.3: tag 274 names the side that row 0 and the side that column 0 is.
    upright: dict[int, Callable[[Tensor], Tensor]] = {
        1: lambda x: x, 2: lambda x: x.flip(2), 3: lambda x: x.flip(1, 2), 4: lambda x: x.flip(1),
        5: lambda x: x.transpose(1, 2), 6: lambda x: x.transpose(1, 2).flip(2),
        7: lambda x: x.transpose(1, 2).flip(1, 2), 8: lambda x: x.transpose(1, 2).flip(1),
    }  # fmt: skip
    real = upright_items[0][0]
    for orientation, (got, want) in enumerate(zip(lying, expected, strict=True), start=1):
        assert (want - real).abs().mean() > 0.02, "the variant shows"
        # Pillow's Resize rounds to whole grey levels, and not the same way from left and right.
        torch.testing.assert_close(upright[orientation](got), want, atol=1.1 / 255 if square else 2e-4, rtol=0)
    replayed = train.draw([5], 0).rows()[0]
    with pytest.warns(UserWarning, match="EXIF"):
        assert torch.equal(replay(train, replayed)[0][0], lying[5])
    if not square:
        assert lying[5].shape == (3, 28, 20) and keys[5] == "a/6.png"


# ------------------------------------------------------------------------------------------------ faces


FRONTAL = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.58], [0.38, 0.75], [0.62, 0.75]])
PROFILE = np.array([[0.45, 0.4], [0.47, 0.4], [0.25, 0.58], [0.4, 0.75], [0.42, 0.75]])


def face_at(left: float, top: float, size: float, points: np.ndarray = FRONTAL) -> Face:
    box = np.array([left, top, left + size, top + size], np.float32)
    return Face(box, 0.9, (points * size + [left, top]).astype(np.float32))


FOUND = {
    "nobody.png": [],
    "one.png": [face_at(10, 10, 40)],
    "crowd.png": [face_at(2, 2, 20), face_at(50, 30, 30), face_at(36, 36, 22)],
    "profile.png": [face_at(20, 20, 40, PROFILE)],
}


class Stub:
    """Knows the photos by their width."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        return [list(FOUND.values())[image.width - 100] for image in images]


@pytest.fixture
def crowd(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for number, name in enumerate(FOUND):
        random_image(np.random.default_rng(number), 100 + number, 100).save(root / name)
    return root


@pytest.mark.parametrize("which", ["largest", "central", "all"])
def test_no_face_several_faces_a_profile(crowd: Path, model_file: Path, which: str) -> None:
    alignment = Alignment("points", RESOLUTION, template="ffhq", which_face=which, detector="stub", chips=None)
    cache, result, _ = make_cache(crowd, model_file, alignment=alignment, detector=Stub())
    assert "no face found" in cache.failures()["nobody.png"] and result.failed == 1
    expected = {"one.png", "crowd.png", "profile.png"} | ({"crowd.png#1", "crowd.png#2"} if which == "all" else set())
    assert set(cache.keys()) == expected
    sources, images = served(crowd, cache, list(FOUND))
    assert sources == ["NO_LATENT", "GENERATED", "GENERATED", "GENERATED"]
    assert torch.equal(images[0], AnyFile(crowd, list(FOUND))[0][0])
    # The nose of the face that was meant lies inside the chip, those of the others do not.
    record, meant = cache.get("crowd.png"), {"largest": 1, "central": 2, "all": 1}[which]
    noses = np.array([[*face.points[2], 1.0] for face in FOUND["crowd.png"]])
    inside = [bool(((place >= 0) & (place <= RESOLUTION)).all()) for place in noses @ record.transform.T]
    assert inside[meant] and not inside[0]
    assert np.isfinite(cache.get("profile.png").transform).all()


def test_a_detector_is_asked_only_where_points_are_wanted(crowd: Path, model_file: Path) -> None:
    with pytest.raises(UserInputError, match="a detector is of no use for alignment mode 'center'"):
        make_cache(crowd, model_file, detector=Stub())
