"""Photos that a dataset shows as the camera stored them: lying or mirrored, where EXIF says how to turn them upright.

Latents are made from the upright photo. torchvision's folder datasets, and most people's own, open a file and leave its
orientation alone, so their items lie, and a variant must lie as they do. Which of both a dataset does is seen by
comparing the item with the file, and only for files that EXIF turns.
"""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ganaug.faces.geometry import compose

ORIENTATION = 0x0112  # EXIF 2.3, tag 274
UPRIGHT = 1

# How Pillow turns stored pixels upright (PIL.ImageOps.exif_transpose).
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The same for coordinates: matrices from stored to upright pixels. The last column counts widths (x) or heights (y) of
# the upright photo. By orientation; row 0 is of none.
FROM_STORED = torch.tensor(
    [
        [[1, 0, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0]],
        [[-1, 0, 1], [0, 1, 0]],
        [[-1, 0, 1], [0, -1, 1]],
        [[1, 0, 0], [0, -1, 1]],
        [[0, 1, 0], [1, 0, 0]],
        [[0, -1, 1], [1, 0, 0]],
        [[0, -1, 1], [-1, 0, 1]],
        [[0, 1, 0], [-1, 0, 1]],
    ],
    dtype=torch.float32,
)
# Bytes of which one is in every JPEG, PNG and WebP with an orientation (EXIF's or XMP's), and the two starts of a TIFF.
MARKS = (b"Exif\0\0", b"eXIf", b"EXIF", b"tiff:Orientation", b"Raw profile type exif")
TIFF_STARTS = (b"II*\0", b"MM\0*")
THUMBNAIL = 24  # px: a face and its outline are seen, noise and resampling are not


def exif_orientation(data: bytes) -> int:
    """Orientation of a file, 1 (upright) to 8; 1 for files without, and for what is no image.

    Args:
        data: The whole file.
    """
    if not data.startswith(TIFF_STARTS) and not any(mark in data for mark in MARKS):
        return UPRIGHT  # without parsing anything: this runs once for every file of a dataset
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # whatever is wrong with the file is told by whoever reads it in earnest
        return UPRIGHT
    return found if found in TRANSPOSE else UPRIGHT


def shown_as_stored(item: Image.Image | Tensor, path: str, orientation: int) -> bool:
    """Whether an item shows a file as it is stored and not upright.

    Both ways are compared with the item by the correlation of grey thumbnails, of the largest centred square and of the
    whole: the item may have been scaled, cropped to its centre, coloured or normalised.

    Args:
        item: What the dataset made of the file: an image, or ``(3, H, W)`` of any dtype and range.
        path: The file.
        orientation: Of the file, 2 to 8.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (8 * THUMBNAIL, 8 * THUMBNAIL))  # a JPEG need not be decoded in full
            stored = image.convert("L")
    except Exception:
        return False
    if isinstance(item, Tensor):
        item = Image.fromarray(item.detach().float().mean(dim=0).cpu().numpy())  # mode F
    else:
        item = item.convert("L")
    seen = _thumbnails(item)
    as_stored, upright = _thumbnails(stored), _thumbnails(stored.transpose(TRANSPOSE[orientation]))
    return bool((seen * as_stored).sum(axis=1).max() > (seen * upright).sum(axis=1).max())


def _thumbnails(image: Image.Image) -> NDArray[np.float64]:
    """``(2, N)``: the centred square and the whole, with zero mean and unit length."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    boxes = ((left, top, left + side, top + side), (0.0, 0.0, float(image.width), float(image.height)))
    size = (THUMBNAIL, THUMBNAIL)
    small = np.stack([np.asarray(image.resize(size, Image.Resampling.BOX, box=box), np.float64) for box in boxes])
    flat = small.reshape(2, -1) - small.mean(axis=(1, 2))[:, None]
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def geometry_as_stored(geometry: Tensor, orientations: NDArray[np.uint8]) -> Tensor:
    """Geometry of upright photos -> that of the same photos as they are stored.

    Args:
        geometry: ``(K, 8)``: the matrix from photo to chip pixels, row after row, then the photo's width and height.
        orientations: ``(K,)``, 1 to 8.

    Returns:
        ``(K, 8)``.
    """
    which = torch.from_numpy(orientations.astype(np.int64))
    size = geometry[:, 6:]
    from_stored = FROM_STORED[which].clone()
    from_stored[:, :, 2] *= size
    matrices = compose(geometry[:, :6].unflatten(1, (2, 3)), from_stored)
    stored_size = torch.where((which >= 5)[:, None], size.flip(1), size)
    return torch.cat([matrices.flatten(1), stored_size], dim=1)
