"""Faces that a generator draws for the training of an identity embedder: other looks of a person, and other persons.

One photo of a person is what a face dataset has. Shifted and recoloured copies of it teach an embedder to know the
photo again; a generator can also turn the head, change the expression and the light, and blend two people. Two views
of every photo are drawn once, before the run, and kept on disk:

- *same*: the person should be known again. Its code moves towards the code of the mirrored photo, which turns the head
  and takes the light to the other side; by the difference between two photos of one other person, where the table says
  whose photos there are several of (the idea of delta-encoders, arXiv 1806.04734); and its fine rows, which carry
  colours and light, towards those of another photo.
- *mixed*: all rows but the fine ones move towards those of a partner, a share ``weight`` of the way. What is left of
  the person is one minus that share, as in mixup (arXiv 1710.09412), while light and skin stay.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug import checkpoints, rng
from ganaug.edits import rows_of
from ganaug.errors import UserInputError
from ganaug.faces.align import to_unit_range
from ganaug.generators import load_generator
from ganaug.interfaces import Generator
from ganaug.inversion import load_encoder
from ganaug.training.data import to_images

MAX_TURN = 1.2  # 1 is the mirrored photo; a little beyond it the faces of faces64 are still whole (looked at)
MAX_PAIR_MOVE = 1.0  # the whole difference between two photos of one person
FINE_WEIGHT = (0.3, 1.0)  # of the other photo's fine rows
DRAWN_AT_ONCE = 64


@dataclass(frozen=True)
class GeneratedViews:
    """Two drawn faces per photo.

    Attributes:
        same: ``(N, R, R, 3)`` uint8, memory-mapped: the person in another look.
        mixed: The same shape: on the way to the partner.
        partners: ``(N,)`` int64, row of the partner, a photo of the same group.
        weights: ``(N,)`` float32 in [0, 1], how much of the partner ``mixed`` is.
    """

    same: NDArray[np.uint8]
    mixed: NDArray[np.uint8]
    partners: NDArray[np.int64]
    weights: NDArray[np.float32]


def generated_views(
    name_or_path: str | Path,
    chips: NDArray[np.uint8],
    members: NDArray[np.int64],
    people: NDArray[np.int64],
    groups: NDArray[np.int64],
    out: Path,
    seed: int,
    device: torch.device,
) -> GeneratedViews:
    """Draws the views of all photos into ``out/views-*.npy``; those of the same photos, labels and seed are used again.

    Args:
        name_or_path: Model file with a generator and its encoder.
        chips: ``(M, R, R, 3)`` uint8.
        members: ``(N,)``, rows of the chips to draw views of.
        people: ``(N,)``, equal for photos of one person.
        groups: ``(N,)``, equal for photos whose people may be mistaken for each other.
        out: Folder of the run.
        seed: Decides all draws.
        device: Where to draw.

    Raises:
        CheckpointError: For a missing or damaged file, or one without an encoder.
        UserInputError: For a generator whose rows are parts of a face.
    """
    generator = load_generator(name_or_path, device)
    if generator.latent_spec.parts:
        raise UserInputError(
            f"{name_or_path}: views are made by rows for resolutions, and the rows of this generator are parts of a "
            "face; use another, for example faces64"
        )
    partners = other_members(groups, seed)
    weights = rng.uniforms(seed, 0, np.arange(len(members)), "mixed weight", 1)[:, 0].astype(np.float32)
    paths = {kind: out / f"views-{kind}.npy" for kind in ("same", "mixed")}
    listing = out / "views.json"
    state = hashlib.sha256()
    for start in range(0, len(members), 1024):
        state.update(chips[members[start : start + 1024]].tobytes())
    for labels in (people, groups):
        state.update(labels.tobytes())
    with checkpoints.resolve(name_or_path).open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        "model": model,
        "photos": state.hexdigest(),
        "seed": seed,
        "settings": [MAX_TURN, MAX_PAIR_MOVE, *FINE_WEIGHT],
    }
    if not _is_whole(listing, record, paths, (len(members), *chips.shape[1:])):
        listing.unlink(missing_ok=True)  # it must not outlive what it describes
        unfinished_paths = {kind: path.with_suffix(".tmp.npy") for kind, path in paths.items()}
        try:
            _draw_all(
                generator, name_or_path, chips, members, people, partners, weights, unfinished_paths, seed, device
            )
            for kind, path in paths.items():
                os.replace(unfinished_paths[kind], path)
        finally:
            for path in unfinished_paths.values():
                path.unlink(missing_ok=True)
        unfinished = listing.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record))
        os.replace(unfinished, listing)
    same, mixed = (np.load(paths[kind], mmap_mode="r") for kind in ("same", "mixed"))
    return GeneratedViews(same, mixed, partners, weights)


def other_members(groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """``(N,)``, for each photo another one of its group, drawn; of a group of one, the photo itself."""
    partners = np.arange(len(groups))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shuffled = members[rng.permutation(seed, 0, len(members), f"partners/{group}")]
        partners[shuffled] = np.roll(shuffled, 1)  # a cycle: everyone has a partner and is one, nobody is their own
    return partners


def pairs_of_people(people: NDArray[np.int64]) -> NDArray[np.int64]:
    """``(P, 2)``: rows of two different photos of one person, each pair in both orders; P may be 0.

    Example:
        >>> pairs_of_people(np.array([4, 7, 4])).tolist()
        [[0, 2], [2, 0]]
    """
    order = np.argsort(people, kind="stable")
    _, starts, counts = np.unique(people[order], return_index=True, return_counts=True)
    found = [
        (order[start + i], order[start + j])
        for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True)
        for i in range(count)
        for j in range(count)
        if i != j
    ]
    return np.array(found, np.int64).reshape(-1, 2)


def _is_whole(listing: Path, record: dict[str, object], paths: dict[str, Path], shape: tuple[int, ...]) -> bool:
    try:
        return json.loads(listing.read_text()) == record and all(
            np.load(path, mmap_mode="r").shape == shape for path in paths.values()
        )
    except (OSError, EOFError, ValueError):
        return False


@torch.no_grad()
def _draw_all(
    generator: Generator,
    name_or_path: str | Path,
    chips: NDArray[np.uint8],
    members: NDArray[np.int64],
    people: NDArray[np.int64],
    partners: NDArray[np.int64],
    weights: NDArray[np.float32],
    paths: dict[str, Path],
    seed: int,
    device: torch.device,
) -> None:
    """Writes both files. In float16 the codes of 100,000 photos take half a gigabyte."""
    encoder = load_encoder(name_or_path, device)
    count, side = len(members), generator.img_resolution
    num_ws, w_dim = generator.latent_spec.shape

    def encode(images: Tensor) -> Tensor:
        return encoder.encode(_resized(images.to(device), side), generator).cpu()

    starts = range(0, count, DRAWN_AT_ONCE)
    codes = torch.empty(count, num_ws, w_dim, dtype=torch.float16)
    for start in tqdm(starts, desc="encoding", unit="batch", disable=None):
        codes[start : start + DRAWN_AT_ONCE] = encode(to_images(chips[members[start : start + DRAWN_AT_ONCE]])).half()
    pairs = pairs_of_people(people)
    fine = torch.zeros(num_ws, 1)
    fine[rows_of("fine", num_ws)] = 1.0
    written = {
        kind: np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *chips.shape[1:]))
        for kind, path in paths.items()
    }
    for start in tqdm(starts, desc="drawing", unit="batch", disable=None):
        rows = np.arange(start, min(start + DRAWN_AT_ONCE, count))
        draws = torch.from_numpy(rng.uniforms(seed, 0, rows, "same view", 5)).float()
        own = codes[rows].float()
        same = own + MAX_TURN * draws[:, 0, None, None] * (encode(to_images(chips[members[rows]]).flip(-1)) - own)
        if len(pairs):
            chosen = pairs[(draws[:, 1] * len(pairs)).long().numpy()]
            move = codes[chosen[:, 1]].float() - codes[chosen[:, 0]].float()
            same = same + MAX_PAIR_MOVE * draws[:, 2, None, None] * move
        other = codes[(draws[:, 3] * count).long()].float()
        low, high = FINE_WEIGHT
        same = same + (other - same) * fine * (low + (high - low) * draws[:, 4, None, None])
        weight = torch.from_numpy(weights[rows])[:, None, None]
        mixed = own + (codes[partners[rows]].float() - own) * (1.0 - fine) * weight
        for kind, moved in (("same", same), ("mixed", mixed)):
            images = generator.synthesis(moved.to(device)).clamp(-1.0, 1.0)
            drawn = to_unit_range(_resized(images, chips.shape[1])).clamp(0.0, 1.0)
            written[kind][rows] = (drawn * 255.0).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for array in written.values():
        array.flush()


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
