"""Names of edits, the tables that serve them, and the bundled table of faces64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganaug import load_generator
from ganaug.edits import (
    ATTRIBUTES,
    EDIT_NAMES,
    Direction,
    PartSwap,
    Span,
    build_edits,
    default_edits,
    edits_for,
    table_of,
)
from ganaug.edits import table as table_module
from ganaug.edits.names import NAMED_TOUCHES
from ganaug.edits.regions import REGIONS, localisation, region_mask
from ganaug.edits.stored import write_directions
from ganaug.faces.align import to_unit_range
from ganaug.generators import StyleGAN2, StyleGAN2Config
from ganaug.generators.semantic import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.interfaces import NUM_EDIT_UNIFORMS, CheckpointError, Edit, Generator, UserInputError

NUM_FACES = 24
SUPPORTED = [name for name in EDIT_NAMES if name != "ears"]


def small(seed: int = 0) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StyleGAN2(StyleGAN2Config(16, 12, 10, 2, (6, 6, 6))).eval().requires_grad_(False)


def direction(name: str, shape: tuple[int, int] = (6, 10)) -> Direction:
    return Direction(name, torch.ones(shape), 1.0, range(shape[0]), {"age"})


# ------------------------------------------------------------------------------------------ names and where they lead


def test_a_table_is_found_by_its_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = small(), small(1)
    source = {"defaults": ["glow", "age", "gone"]}
    write_directions(
        tmp_path / "small.edits.safetensors", [direction("age"), direction("glow")], own, source, {"nose": "cut"}
    )
    monkeypatch.setattr(table_module, "ASSETS", tmp_path)
    assert set(table_of(own).edits) == {"age", "glow"}
    assert default_edits(own) == ["glow", "age"], "in the file's order, and only what is there"
    assert default_edits(other) == ["middle", "fine", "pca1"]
    assert table_of(other).edits == {} and "age" not in edits_for(other)
    assert edits_for(own)[0] == "age"
    with pytest.raises(
        UserInputError, match=r"'nose' cannot be had with this generator: cut; expected one of age, coarse"
    ):
        build_edits(["nose"], own)
    with pytest.raises(UserInputError, match=r"'age' needs a direction of this generator.*`ganaug directions`"):
        build_edits(["age"], other)
    with pytest.raises(UserInputError, match="'nose' needs a part 'nose' or a direction"):
        build_edits(["nose"], other)


def test_an_edit_of_a_table_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = small()
    write_directions(tmp_path / "small.edits.safetensors", [direction("age")], own)
    monkeypatch.setattr(table_module, "ASSETS", tmp_path)
    first, second = (build_edits(["age"], own)[0] for _ in range(2))
    assert isinstance(first, Direction) and isinstance(second, Direction)
    first.strength = (9.0, 9.0)
    assert second.strength == (1.0, 2.5)


def test_given_directions_come_first(tmp_path: Path) -> None:
    own, other = small(), small(1)
    path = tmp_path / "mine.safetensors"
    write_directions(path, [direction("fine"), direction("beard")], own, unsupported={"hair": "all are bald"})
    for given in (path, str(path), [direction("fine"), direction("beard")]):
        fine, beard, middle = build_edits(["fine", "beard", "middle"], own, given)
        assert isinstance(fine, Direction) and isinstance(beard, Direction) and not isinstance(middle, Direction)
    with pytest.raises(UserInputError, match="unknown edit 'smile': expected one of fine, beard, coarse"):
        build_edits(["smile"], own, path)
    with pytest.raises(UserInputError, match="'hair' cannot be had with this generator: all are bald"):
        build_edits(["hair"], own, path)
    with pytest.raises(CheckpointError, match="but this one is stylegan2 with"):
        build_edits(["beard"], other, path)
    with pytest.raises(UserInputError, match="names that repeat: beard, beard"):
        build_edits(["beard"], own, [direction("beard")] * 2)
    with pytest.raises(UserInputError, match="directions is a file of `ganaug directions` or a sequence of edits"):
        build_edits(["beard"], own, 3)  # type: ignore[arg-type]


def test_parts_answer_to_the_common_names() -> None:
    generator = SemanticStyleGAN(SemanticStyleGANConfig(16, 10, 2, 13, 3, 1, 2, 4, 8, 6, (6, 6)))
    parts = generator.latent_spec.parts
    common = {"eyes": "eye", "brows": "eyebrow", "skin": "face", "ears": "ear", "hair": "hair", "nose": "nose"}
    for name, part in common.items():
        (edit,) = build_edits([name], generator)
        assert isinstance(edit, PartSwap) and edit.name == name and edit.rows == parts[part]
        assert edit.touches == build_edits([part], generator)[0].touches
        assert name in edits_for(generator)
    with pytest.raises(
        UserInputError, match="'age' needs a direction of this generator, which has the parts background"
    ):
        build_edits(["age"], generator)


def test_touches_are_words_that_preserve_knows() -> None:
    for name, touches in NAMED_TOUCHES.items():
        assert name in touches and touches <= ATTRIBUTES


# --------------------------------------------------------------------------------------------------- the bundled table


@pytest.fixture(scope="module")
def faces64() -> Generator:
    return load_generator("faces64")


@pytest.fixture(scope="module")
def codes(faces64: Generator) -> Tensor:
    """Samples of the prior, and their mirror images in the mean."""
    return faces64.prior.sample(NUM_FACES, torch.Generator().manual_seed(3))  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def pictures(faces64: Generator, codes: Tensor) -> Tensor:
    return to_unit_range(faces64.synthesis(codes))


def drawn(edit: Edit, codes: Tensor) -> Tensor:
    uniforms = torch.rand(len(codes), NUM_EDIT_UNIFORMS, generator=torch.Generator().manual_seed(1)).double()
    return edit.apply(codes, edit.sample_params(uniforms))


def test_bundled_names(faces64: Generator) -> None:
    table = table_of(faces64)
    assert set(table.edits) == set(SUPPORTED) and set(table.unsupported) == {"ears"}
    assert set(table.defaults) <= set(table.edits) and default_edits(faces64) == list(table.defaults)
    with pytest.raises(UserInputError, match=r"'ears' cannot be had with this generator: .*show no ears"):
        build_edits(["ears"], faces64)


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_name_changes_the_picture(name: str, faces64: Generator, codes: Tensor, pictures: Tensor) -> None:
    (edit,) = build_edits([name], faces64)
    assert edit.name == name and name in edit.touches and isinstance(edit, (Direction, Span))
    assert edit.measured["mechanism"]
    moved = drawn(edit, codes)
    after = to_unit_range(faces64.synthesis(moved))
    change = float((after - pictures).square().mean().sqrt())
    assert change == pytest.approx(edit.measured["change"], rel=0.35), "on the prior as on photos"
    if name in REGIONS:
        inside, outside = localisation(faces64, codes, moved, region_mask(name, 64))
        assert outside / inside == pytest.approx(edit.measured["outside_over_inside_prior"], rel=0.3)
        assert outside / inside < 0.25


def face_left_and_right(pictures: Tensor) -> Tensor:
    """Luma of the right half of the face less that of the left, of each picture."""
    luma = pictures.mean(dim=1)
    face = region_mask("skin", 64)
    right = (torch.arange(64) >= 32).float()
    return (luma * face * right).sum((1, 2)) / (face * right).sum() - (luma * face * (1 - right)).sum((1, 2)) / (
        face * (1 - right)
    ).sum()


def moved_by(faces64: Generator, codes: Tensor, edit: Edit, params: dict[str, Tensor]) -> Tensor:
    return to_unit_range(faces64.synthesis(edit.apply(codes, params)))


def test_light_comes_from_where_its_axis_says(faces64: Generator, codes: Tensor) -> None:
    (edit,) = build_edits(["lighting"], faces64)
    assert isinstance(edit, Span)
    names = edit.measured["axes"]
    halves = []
    for strength in (-2.5, 2.5):
        params = edit.along(names.index("side"), [strength] * NUM_FACES)
        halves.append(face_left_and_right(moved_by(faces64, codes, edit, params)))
    assert float(((halves[1] - halves[0]) > 0).float().mean()) > 0.95
    lumas = []
    for strength in (-2.0, 2.0):
        params = edit.along(names.index("brightness"), [strength] * NUM_FACES)
        lumas.append(moved_by(faces64, codes, edit, params).mean(dim=(1, 2, 3)))
    assert bool((lumas[1] > lumas[0]).all())


def test_turned_heads_are_less_symmetric_than_straight_ones(faces64: Generator) -> None:
    (edit,) = build_edits(["pose"], faces64)
    straight = faces64.prior.mean[None]  # type: ignore[attr-defined]  # the mean face looks into the camera
    asymmetry = []
    for strength in (-3.0, 0.0, 3.0):
        picture = moved_by(faces64, straight, edit, {"strength": torch.tensor([strength])})
        asymmetry.append(float((picture - picture.flip(3)).square().mean()))
    assert asymmetry[0] > 2 * asymmetry[1] and asymmetry[2] > 2 * asymmetry[1]


def test_a_smile_shows_in_the_mouth(faces64: Generator, codes: Tensor, pictures: Tensor) -> None:
    (edit,) = build_edits(["expression"], faces64)
    smiling = moved_by(faces64, codes, edit, {"strength": torch.full((NUM_FACES,), 3.5)})
    change = (smiling - pictures).square().mean(dim=(0, 1))
    mouth = region_mask("mouth", 64)
    assert (change * mouth).sum() / mouth.sum() > 2 * change.mean(), "it is no colour cast"


def test_targets_reach_what_the_calibration_reads(faces64: Generator, codes: Tensor) -> None:
    edit = build_edits(["age=60"], faces64)[0]
    (age,) = build_edits(["age"], faces64)
    assert isinstance(age, Direction) and age.calibration is not None
    before = age.calibration(codes)
    after = age.calibration(edit.apply(codes, edit.sample_params(torch.rand(NUM_FACES, NUM_EDIT_UNIFORMS).double())))
    assert bool(((after - 60).abs() <= (before - 60).abs() + 1e-3).all()) and 1 < float(before.mean()) < 80
