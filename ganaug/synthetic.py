"""The mark of pictures with generated faces in them: a PNG text chunk that is written with the pixels or not at all."""

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ganaug.errors import ImageError, UserInputError
from ganaug.faces.images import FORMATS, UNREADABLE, quiet_decoding

# Keyword of the chunk. Its text is JSON: "generator" is the fingerprint of the generator; a single face has its
# "recipe" too.
SYNTHETIC_TAG = "ganaug:synthetic"


def check_png(path: str | Path, what: str) -> Path:
    """``path``, if it names a PNG; other formats have no place for the mark that all readers keep apart from pixels.

    Args:
        path: Where ``what`` shall be written.
        what: For the message.

    Raises:
        UserInputError: If it is no ``.png``.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UserInputError(f"{what} is written as PNG; got {str(path)!r}, expected a name ending in .png")
    return path


def save_synthetic(
    image: Image.Image, path: str | Path, mark: Mapping[str, Any], seal: Callable[[bytes], bytes] | None = None
) -> None:
    """Writes a picture with generated faces in it, atomically and with its mark.

    Args:
        image: RGB.
        path: PNG to write; its folder is made.
        mark: JSON-able: ``generator`` (fingerprint) and, for a single variant, ``recipe``.
        seal: The PNG's bytes -> those that are written: a signature over them, see
            :mod:`ganaug.content_credentials`.

    Raises:
        UserInputError: If ``path`` is no ``.png``, or ``mark`` does not name the generator.
    """
    path = check_png(path, "a picture with generated faces")
    if not mark.get("generator"):
        raise UserInputError(f"{path}: the mark of a generated picture names its generator, got {dict(mark)}")
    info = PngInfo()
    info.add_text(SYNTHETIC_TAG, json.dumps({"made_by": "ganaug", **mark}))  # ASCII, so that every reader takes it
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    if seal is None:
        image.save(temporary, format="PNG", pnginfo=info)
    else:
        data = io.BytesIO()
        image.save(data, format="PNG", pnginfo=info)
        temporary.write_bytes(seal(data.getvalue()))
    os.replace(temporary, path)


def read_synthetic(path: str | Path) -> dict[str, Any] | None:
    """The mark of a picture; None if it has none.

    Raises:
        ImageError: If the file is no picture.
    """
    return mark_of(open_picture(path))


def open_picture(path: str | Path) -> Image.Image:
    """A picture as its file has it, with its text and its format; by no decoder that runs other programs.

    Raises:
        ImageError: If the file is no picture, or one that is made to fill the memory.
    """
    try:
        with quiet_decoding(), Image.open(path, formats=FORMATS) as image:
            image.load()  # text may stand behind the pixels
    except UNREADABLE as error:
        raise ImageError(f"{path}: cannot be read as a picture: {error}") from error
    return image


def mark_of(image: Image.Image) -> dict[str, Any] | None:
    """The mark of a picture that is open; None if it has none."""
    text = image.info.get(SYNTHETIC_TAG)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # brackets in brackets in brackets
        found = None
    return found if isinstance(found, dict) else {"text": str(text)}  # sheets of ganaug 0.1 have a sentence
