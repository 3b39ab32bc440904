"""Contact sheets: faces side by side, with captions."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CAPTION_WIDTH = 92  # pixels
GAP = 4  # pixels
NOTE_SIZE = 11  # pixels; smaller than this, the digits of Pillow's font run together
NOTE_STEP = 12  # pixels from line to line


def contact_sheet(
    rows: Sequence[tuple[str, Tensor]],
    face_size: int = 96,
    caption_width: int = CAPTION_WIDTH,
    notes: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Draws rows of faces.

    Args:
        rows: Caption and images ``(N, 3, H, W)`` in [0, 1] of each row.
        face_size: Side at which a face is drawn, in pixels.
        caption_width: Space for captions, in pixels.
        notes: For each row, what stands in small print under each of its faces; lines end in ``\\n``, and those that
            are wider than a face are cut. Empty for none.

    Returns:
        RGB image.
    """
    columns = max(len(images) for _, images in rows)
    step, left = face_size + GAP, max(caption_width, GAP)
    lines = [max((note.count("\n") + 1 for note in row if note), default=0) for row in notes] or [0] * len(rows)
    tops = [GAP]
    for count in lines:
        tops.append(tops[-1] + step + count * NOTE_STEP)
    sheet = Image.new("RGB", (left + columns * step, tops[-1]), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(size=13), ImageFont.load_default(size=NOTE_SIZE)
    for y, (caption, images) in enumerate(rows):
        top = tops[y]
        for line, words in enumerate(caption.split("\n")):
            draw.text((GAP, top + face_size // 2 - 9 + 16 * line), words, fill="black", font=font)
        for x, image in enumerate(images):
            pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            face = Image.fromarray(np.ascontiguousarray(pixels))
            if face.size != (face_size, face_size):
                face = face.resize((face_size, face_size), Image.Resampling.BICUBIC)
            sheet.paste(face, (left + x * step, top))
            for line, words in enumerate(notes[y][x].split("\n") if notes and x < len(notes[y]) else ()):
                while small.getlength(words) > face_size:
                    words = words[:-1]
                draw.text((left + x * step, top + face_size + line * NOTE_STEP), words, fill="black", font=small)
    return sheet
