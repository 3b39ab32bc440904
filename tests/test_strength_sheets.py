"""Sheets from weak to strong: their rows, and that the figures under the faces are what a naive measurement gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIG, Faces, make_header, random_generator
from PIL import Image, ImageChops
from torch import nn

from ganaug import GANAugmentedDataset, UserInputError
from ganaug import strength_sheets as sheets
from ganaug.cache import LatentCache, Record
from ganaug.cached_faces import PhotoDataset
from ganaug.cli import main
from ganaug.edits import Direction, StyleMixing
from ganaug.edits.target import Gauge, Target
from ganaug.errors import CacheError
from ganaug.faces.photos import photos_in_folder
from ganaug.interfaces import Edit
from ganaug.sheet import CAPTION_WIDTH, GAP, NOTE_STEP, contact_sheet
from ganaug.strength_sheets import strength_sheets, strengths_of
from ganaug.synthetic import read_synthetic

SHAPE = (2 * len(CONFIG.channels), CONFIG.w_dim)


class Pixels(nn.Module):
    """An embedder that anybody can compute: the picture itself, as a unit vector."""

    embedding_dim = 3 * 8 * 8
    template = None
    threshold = 0.5
    img_resolution = 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(images.flatten(1))


def direction(name: str = "up") -> Direction:
    axis = torch.zeros(SHAPE)
    axis[2, 3] = 1.0
    edit = Direction(name, axis, 0.5, range(SHAPE[0]), {"age"}, (1.0, 3.0))
    weights = torch.zeros(SHAPE)
    weights[2, 3] = 20.0
    edit.calibration = Gauge(weights, 40.0)
    return edit


def wrap(faces: Faces, edits: list[Any], **options: Any) -> GANAugmentedDataset:
    data = PhotoDataset(photos_in_folder(faces.root), faces.cache, size=20)
    return GANAugmentedDataset(data, faces.cache, ratio=1.0, edits=edits, **options)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], Any]]:
    """What is handed to the drawing of every sheet."""
    drawn: list[tuple[list[Any], Any]] = []

    def watched(rows: Any, face_size: int, notes: Any) -> Image.Image:
        drawn.append((rows, notes))
        return contact_sheet(rows, face_size, notes=notes)

    monkeypatch.setattr(sheets, "contact_sheet", watched)
    return drawn


def test_rows_and_figures(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spy(monkeypatch)
    train = wrap(faces, [direction(), "fine"], paste="aligned")
    (path,) = strength_sheets(train, tmp_path / "sheet.png", 4, embedder=Pixels().eval(), scores={}, num_strengths=3)
    assert path == tmp_path / "sheet.png"
    ((rows, notes),) = drawn
    ups = [f"up\n{s}" for s in ("-3.00", "-1.00", "+1.00", "+3.00")]
    fines = [f"fine\n{s}" for s in ("0.40", "0.65", "0.90")]
    assert [caption for caption, _ in rows] == ["photo", "inversion", *ups, *fines]
    assert notes[0] == [""] * 4, "a photo is the same person as itself"

    generator = random_generator()
    cache = LatentCache(faces.cache)
    for column, key in enumerate(faces.keys[:4]):
        code = torch.from_numpy(cache.get(key).latents).float()
        assert notes[1][column].split("\n")[0].startswith("id ")
        photo = rows[0][1][column]
        for strength, row in zip((-3.0, -1.0, 1.0, 3.0), range(2, 6), strict=True):
            moved = code.clone()
            moved[2, 3] += strength * 0.5
            chip = (generator.synthesis(moved[None]).clamp(-1, 1) + 1) / 2
            resized = F.interpolate(chip, (20, 20), mode="bicubic", align_corners=False).clamp(0, 1)[0]
            torch.testing.assert_close(rows[row][1][column], resized, atol=1e-4, rtol=0)
            score = float(notes[row][column].split("\n")[1].removeprefix("code  up "))
            assert score == pytest.approx(40 + 20 * moved[2, 3].item(), abs=0.51), "whole numbers from ten on"
            told = float(notes[row][column].split("\n")[0].removeprefix("id "))
            # The embedder sees 8 px: averages of the 20 px, in the framing of the chip, which fills the square.
            seen = [F.interpolate(x[None] * 2 - 1, (8, 8), mode="area").flatten() for x in (photo, resized)]
            assert told == pytest.approx(F.cosine_similarity(*seen, dim=0).item(), abs=0.06)
        assert "code" not in notes[6][column], "nothing is known of what fine does"


def test_scores_are_read_where_edits_are_made(
    own_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the anchor plus the move, for records that have one; the code itself may lie anywhere."""
    header = replace(make_header(own_faces.model), anchored=True)
    cache = LatentCache.create(tmp_path / "anchored.lmdb", header)
    records = []
    for key in own_faces.keys[:3]:
        old = LatentCache(own_faces.cache).get(key)
        anchor = np.full(SHAPE, 0.25, np.float16)
        latents = np.stack([old.latents, anchor])
        records.append(Record(key, latents, old.quality, old.transform, old.source_hash, old.photo_size))
    cache.put_many(records)
    drawn = spy(monkeypatch)
    data = PhotoDataset(photos_in_folder(own_faces.root), cache, size=20)
    train = GANAugmentedDataset(data, cache, ratio=1.0, edits=[direction()])
    strength_sheets(train, tmp_path / "x.png", 3, scores={}, num_strengths=2)
    ((rows, notes),) = drawn
    assert [caption for caption, _ in rows][2:] == ["up\n-1.00", "up\n+1.00"]
    assert notes[2] == ["code  up 35"] * 3 and notes[3] == ["code  up 55"] * 3, "40 + 20 * (0.25 -+ 0.5)"
    cache.close()


def test_without_an_embedder_and_without_scores(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spy(monkeypatch)
    strength_sheets(wrap(faces, ["fine"]), tmp_path / "x.png", 3, scores={})
    ((rows, notes),) = drawn
    assert len(rows) == 2 + 5 and all(note == "" for row in notes for note in row)
    assert Image.open(tmp_path / "x.png").height == 7 * (sheets.FACE_SIZE + GAP) + GAP, "no room for nothing"


def test_a_sheet_for_each_edit(faces: Faces, tmp_path: Path) -> None:
    edits = ["fine", direction("a/b ä"), Target("age=60", direction("age"), direction().calibration, (60.0, 60.0))]  # type: ignore[arg-type]
    train = wrap(faces, edits)
    paths = strength_sheets(train, tmp_path / "deep" / "sheets", 2, scores={})
    assert [path.name for path in paths] == ["fine.png", "a_b_ä.png", "age=60.png"]
    for path, edit in zip(paths, train.policy.edits, strict=True):
        mark = read_synthetic(path)
        assert mark is not None
        assert (mark["generator"], mark["edits"]) == (train.header.fingerprint, [edit.name])
    assert len({path.read_bytes() for path in paths}) == 3


def test_partners_are_the_same_at_every_strength(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a row would not be the row above, more so."""
    drawn = spy(monkeypatch)
    strength_sheets(wrap(faces, ["fine"], paste="whole"), tmp_path / "x.png", 3, scores={})
    ((rows, _),) = drawn
    steps = [images for _, images in rows[2:]]
    for column in range(3):
        distances = [float((image[column] - steps[0][column]).norm()) for image in steps]
        assert distances == sorted(distances) and distances[1] > 0


class OneWay:
    name, touches, needs_partner = "one", frozenset({"hair"}), False

    def sample_params(self, uniforms: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"strength": -uniforms[:, 0].float()}

    def apply(self, w_plus: torch.Tensor, params: Any) -> torch.Tensor:
        return w_plus + params["strength"][:, None, None]


class WithoutStrength(OneWay):
    name = "none"

    def sample_params(self, uniforms: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"angle": uniforms[:, 0].float()}

    def apply(self, w_plus: torch.Tensor, params: Any) -> torch.Tensor:
        return w_plus + params["angle"][:, None, None]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (StyleMixing("m", [0], {"hair"}, (0.0, 1.0)), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (direction(), [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]),
        (Target("t=1", direction(), Gauge(torch.ones(SHAPE), 0.0), (1.0, 1.0)), [0.2, 0.4, 0.6, 0.8, 1.0]),
        (WithoutStrength(), []),
    ],
)
def test_strengths(edit: Edit, expected: list[float]) -> None:
    assert strengths_of(edit, 5) == expected


def test_strengths_of_an_edit_that_does_not_say_its_range() -> None:
    found = strengths_of(OneWay(), 3)
    assert found == sorted(found) and -1.0 <= found[0] < -0.9 and -0.1 < found[-1] <= 0.0


def test_an_edit_without_strength_has_one_row(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spy(monkeypatch)
    strength_sheets(wrap(faces, [WithoutStrength()]), tmp_path / "x.png", 2, scores={})
    assert [caption for caption, _ in drawn[0][0]] == ["photo", "inversion", "none"]


def test_records_that_cannot_be_used_are_left_out(
    own_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = LatentCache(own_faces.cache)
    needle = cache.get(own_faces.keys[1]).latents.tobytes()
    cache.close()
    data = (own_faces.cache / "data.mdb").read_bytes()
    (own_faces.cache / "data.mdb").write_bytes(data.replace(needle, bytes([needle[0] ^ 1]) + needle[1:]))
    drawn = spy(monkeypatch)
    with pytest.warns(UserWarning, match="checksum"):
        strength_sheets(wrap(own_faces, ["fine"]), tmp_path / "x.png", 4, scores={})
    assert all(len(images) == 3 for _, images in drawn[0][0])
    with pytest.raises(CacheError, match="none of the first 1 records"):
        strength_sheets(
            GANAugmentedDataset(
                PhotoDataset(photos_in_folder(own_faces.root)[1:2], own_faces.cache), own_faces.cache, edits=["pca1"]
            ),
            tmp_path / "y.png",
            1,
        )


def test_refusals(faces: Faces, tmp_path: Path) -> None:
    train = wrap(faces, ["fine"])
    with pytest.raises(UserInputError, match=r"expected a name ending in \.png"):
        strength_sheets(train, tmp_path / "x.jpg", 2)
    with pytest.raises(UserInputError, match="at least 2, got 1"):
        strength_sheets(train, tmp_path / "x.png", 2, num_strengths=1)
    with pytest.raises(UserInputError, match="no edit to draw"):
        strength_sheets(wrap(faces, []), tmp_path / "x.png", 2)


@pytest.mark.parametrize("with_photos", [False, True])
def test_the_command(faces: Faces, tmp_path: Path, with_photos: bool) -> None:
    arguments = ["preview", "--cache", str(faces.cache), "--strengths", "--num-faces", "2", "--edits", "fine,pca1"]
    arguments += ["--images", str(faces.root)] if with_photos else []
    assert main([*arguments, "--out", str(tmp_path / "sheets")]) == 0
    assert sorted(p.name for p in (tmp_path / "sheets").iterdir()) == ["fine.png", "pca1.png"]
    with_figures = Image.open(tmp_path / "sheets" / "fine.png")
    assert main([*arguments, "--out", str(tmp_path / "plain"), "--embedder", "none"]) == 0
    assert Image.open(tmp_path / "plain" / "fine.png").height < with_figures.height, "no figures, no room for them"


def test_an_embedder_without_strengths_is_a_slip(
    faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["preview", "--cache", str(faces.cache), "--out", str(tmp_path / "x.png"), "--embedder", "identity64"]
    assert main(arguments) == 2
    assert "--strengths" in capsys.readouterr().err


def test_notes_of_a_sheet() -> None:
    """They stand under their face, within its width, and push the next row down."""
    rows = [("a", torch.zeros(2, 3, 8, 8)), ("b", torch.zeros(2, 3, 8, 8))]
    plain = contact_sheet(rows, 40)
    noted = contact_sheet(rows, 40, notes=[["id 0.93\nage 34", ""], ["", "a word much too long for its face"]])
    assert noted.width == plain.width and noted.height == plain.height + 3 * NOTE_STEP
    left, top = CAPTION_WIDTH, GAP + 40
    note = noted.crop((left, top, left + 40, top + 2 * NOTE_STEP))
    assert ImageChops.invert(note.convert("L")).getbbox() is not None
    under_the_second = noted.crop((left + 44, top, left + 84, top + 2 * NOTE_STEP))
    assert ImageChops.invert(under_the_second.convert("L")).getbbox() is None
    second = GAP + 2 * (40 + GAP) + 2 * NOTE_STEP - GAP
    cut = noted.crop((left + 44, second, noted.width, noted.height)).convert("L")
    box = ImageChops.invert(cut).getbbox()
    assert box is not None and box[2] <= 40
