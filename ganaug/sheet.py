"""Contact sheets: faces side by side, with captions."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CAPTION_WIDTH = 92  # pixels
GAP = 4  # pixels


def contact_sheet(
    rows: Sequence[tuple[str, Tensor]], face_size: int = 96, caption_width: int = CAPTION_WIDTH
) -> Image.Image:
    """Draws rows of faces.

    Args:
        rows: Caption and images ``(N, 3, H, W)`` in [0, 1] of each row.
        face_size: Side at which a face is drawn, in pixels.
        caption_width: Space for captions, in pixels.

    Returns:
        RGB image.
    """
    columns = max(len(images) for _, images in rows)
    step, left = face_size + GAP, max(caption_width, GAP)
    sheet = Image.new("RGB", (left + columns * step, len(rows) * step + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for y, (caption, images) in enumerate(rows):
        top = GAP + y * step
        for line, words in enumerate(caption.split("\n")):
            draw.text((GAP, top + face_size // 2 - 9 + 16 * line), words, fill="black", font=font)
        for x, image in enumerate(images):
            pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            face = Image.fromarray(np.ascontiguousarray(pixels))
            if face.size != (face_size, face_size):
                face = face.resize((face_size, face_size), Image.Resampling.BICUBIC)
            sheet.paste(face, (left + x * step, top))
    return sheet
