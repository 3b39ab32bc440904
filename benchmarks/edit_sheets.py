"""Pictures of edits from weak to strong, for benchmarks/edits.py."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from edit_faces import Faces, render
from torch import Tensor

from ganaug.edits import Direction
from ganaug.faces.paste import paste
from ganaug.interfaces import Edit, Generator
from ganaug.sheet import contact_sheet

FACE_SIZE = 112  # px
Draw = Callable[[Edit, Faces], dict[str, Tensor]]


def steps_of(edit: Edit) -> list[float]:
    """Strengths to show: both ways for a direction, else from 0 to the strongest."""
    low, high = (float(value) for value in edit.strength)  # type: ignore[attr-defined]
    middle = (low + high) / 2
    both = isinstance(edit, Direction) and not edit.one_way
    return [-high, -middle, -low, low, middle, high] if both else [low, middle, high]


def rows_of(edit: Edit, faces: Faces, generator: Generator, draw: Draw) -> list[tuple[str, Tensor]]:
    """Caption and pictures: inversions, each strength, and the last one pasted into the photos."""
    params = draw(edit, faces)
    rows = [("photo", faces.items), ("inversion", faces.base)]
    has_strength = getattr(edit, "strength", None) is not None and "strength" in params
    drawn = faces.base
    for strength in steps_of(edit) if has_strength else [None]:
        given: dict[str, Any] = dict(params)
        if strength is not None:
            given["strength"] = torch.full_like(params["strength"], strength)
        drawn = render(generator, faces.code + edit.apply(faces.anchor, given) - faces.anchor)
        rows.append((edit.name if strength is None else f"{edit.name}\n{strength:+.2f}", drawn))
    rows.append(("pasted", paste(faces.items, drawn, faces.base, faces.matrices)))
    return rows


def write_sheets(edits: Sequence[Edit], faces: Faces, generator: Generator, draw: Draw, folder: Path) -> None:
    """Writes ``NAME.png`` of each edit."""
    folder.mkdir(parents=True, exist_ok=True)
    for edit in edits:
        sheet = contact_sheet(rows_of(edit, faces, generator, draw), FACE_SIZE)
        sheet.save(folder / f"{edit.name.replace('/', '-')}.png")
