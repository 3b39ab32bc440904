"""A small study of random faces, and its database opened."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Faces

from ganaug.cached_faces import PhotoDataset
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.photos import photos_in_folder
from ganaug.study.create import StudyConfig, create_study
from ganaug.study.store import Store

CONFIG = StudyConfig(trials=4, catch=2, raters=3, seed=1)
TOTAL = 12  # trials of both tasks, catch trials among them


def wrap(faces: Faces, **options: Any) -> GANAugmentedDataset:
    base = PhotoDataset(photos_in_folder(faces.root), faces.cache, 24)
    given: dict[str, Any] = {"ratio": 1.0, "edits": ["fine", "middle"], "classical": None, **options}
    return GANAugmentedDataset(base, faces.cache, **given)


def attributes_of(faces: Faces) -> list[Mapping[str, str]]:
    """A group for every face: women and men in turn."""
    return [{"gender": ("Female", "Male")[number % 2], "label": "x"} for number in range(len(faces.keys))]


@pytest.fixture(scope="session")
def made_study(tmp_path_factory: pytest.TempPathFactory, faces: Faces) -> Path:
    """Read only."""
    out = tmp_path_factory.mktemp("study") / "study"
    create_study(wrap(faces), out, CONFIG, attributes_of(faces))
    return out


@pytest.fixture
def study(made_study: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    shutil.copytree(made_study, tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def store(study: Path) -> Iterator[Store]:
    opened = Store(study)
    yield opened
    opened.close()


def right_choice(store: Store, rater: int, place: int) -> str:
    """What a page would send for the right answer; read off the database."""
    query = "SELECT task, answer, swapped FROM showings NATURAL JOIN trials WHERE rater = ? AND place = ?"
    task, answer, swapped = store._all(query, (rater, place))[0]
    if task == "same-person":
        return str(answer)
    return "right" if swapped else "left"


def wrong_choice(store: Store, rater: int, place: int) -> str:
    other = {"left": "right", "right": "left", "same": "different", "different": "same"}
    return other[right_choice(store, rater, place)]
