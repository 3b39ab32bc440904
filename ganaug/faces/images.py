"""From a file to an upright RGB image: every way in which an image file can be odd is dealt with here, once."""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganaug.interfaces import ImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

# Pictures that are not read; a folder scan says how many it left out, for they are rarely left out on purpose.
OTHER_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".gif", ".svg", ".jxl", ".jp2", ".psd", ".dng", ".cr2", ".nef"})

# Decoders that a file's bytes may reach, whatever its name. EPS is left out: Pillow hands it to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow raises for files that are damaged, or made to fill the memory.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError),
    Image.DecompressionBombError,
)

# Below this an image holds no face to speak of; catches 1x1 tracking pixels and broken exports.
MIN_SIDE = 16


def find_images(root: str | Path) -> list[str]:
    """Paths of all image files under ``root``, relative to it, with forward slashes, sorted.

    Hidden files and folders are left out. Links are followed only when they point to files. Pictures of other kinds
    (HEIC, AVIF, GIF, SVG, raw) are left out with a warning that counts them.

    Raises:
        ImageError: If ``root`` is no folder, or holds no image.
    """
    root = Path(root)
    if not root.is_dir():
        what = "a file, not a folder" if root.exists() else "not there"
        raise ImageError(f"image folder {str(root)!r} is {what}; give a folder with images in it or in its sub-folders")
    pictures = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    found = sorted(path.relative_to(root).as_posix() for path in pictures if path.suffix.lower() in IMAGE_SUFFIXES)
    others = Counter(path.suffix.lower() for path in pictures if path.suffix.lower() in OTHER_SUFFIXES)
    told = ", ".join(f"{number} {suffix}" for suffix, number in sorted(others.items()))
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ImageError(
            f"no image found under {str(root)!r}; looked in all sub-folders for files ending in {kinds}"
            + (f", and found {told}, which are not read: convert them to JPEG or PNG" if told else "")
        )
    if told:
        warnings.warn(f"left out under {str(root)!r}: {told}; convert them to JPEG or PNG to use them", stacklevel=2)
    return found


def content_hash(data: bytes) -> str:
    """sha256 (hex) of a file's bytes: an image changed by one bit has another."""
    return hashlib.sha256(data).hexdigest()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> 8-bit RGB. 16 bits and floats in [0, 1] are scaled, not clipped as ``convert`` would."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("its pixels are not finite")
        if image.mode == "F" and values.max(initial=0.0) <= 1.0:
            values = values * 255.0
        elif image.mode.startswith("I;16") or values.max(initial=0.0) > 255.0:
            values = values / 257.0  # 65535 -> 255
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Pillow's warnings about images that are read all the same are left out.

    Warnings are a matter of the whole process: where threads decode, whoever starts them holds this around them, so
    that its end, and not that of one of them, restores what was before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Palette images with Transparency")  # it is dropped in any case
        yield


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decodes a file's bytes to an upright RGB image.

    EXIF orientation is applied. Grey, palette, RGBA, CMYK and 16-bit images are converted to 8-bit RGB; transparency is
    dropped, as ``convert("RGB")`` in most datasets does. Of several frames the first is taken.

    Pillow refuses more than twice its ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million pixels unless that was changed; up to
    there it is followed without its warning, for cameras of 100 megapixels take portraits.

    Args:
        data: The whole file.
        name: What to call it in errors.

    Raises:
        ImageError: For a damaged or truncated file, more pixels than Pillow allows, or an image of less than 16 pixels
            a side.
    """
    try:
        with quiet_decoding(), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            opened.load()
            image = _to_rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{name}: refused, more than {limit} pixels (a decompression bomb?); scale it down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if it is sound"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image of a kind that is read ({', '.join(FORMATS)}): {len(data)} bytes of "
            f"{guess_kind(data)}"
        ) from error
    except UNREADABLE as error:
        raise ImageError(f"{name}: damaged or truncated image: {error}") from error
    check_size(image, str(name))
    return image


def guess_kind(data: bytes) -> str:
    """What a file that is no image seems to be, for an error's text."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""  # ISO 14496-12: size, "ftyp", major brand
    start = data[:1024].lower()
    if brand in (b"avif", b"avis"):
        return "AVIF; convert it to JPEG or PNG"
    if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "HEIC; convert it to JPEG or PNG"
    if brand:
        return "video, or another kind of MP4"
    if b"<svg" in start:
        return "SVG; convert it to PNG"
    if b"<html" in start or b"<!doctype" in start:
        return "HTML, a web page saved under a wrong name"
    if start.startswith((b"%!ps", b"%pdf")):
        return "PostScript or PDF"
    printable = bool(start) and all(byte >= 32 or byte in b"\t\n\f\r" for byte in start)
    return "text" if printable else "no kind known here" if start else "nothing"


def check_size(image: Image.Image, name: str) -> None:
    """Raises ImageError for an image too small to hold a face."""
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            f"{name}: image of {image.width}x{image.height} px is too small, at least {MIN_SIDE} px a side are needed"
        )


def read_image(path: str | Path) -> tuple[Image.Image, str]:
    """Reads an image file.

    Returns:
        The upright RGB image, and the :func:`content_hash` of the file.

    Raises:
        ImageError: See :func:`decode_image`; also when the file cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(data, str(path)), content_hash(data)
