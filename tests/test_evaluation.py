"""What `evaluate` reports, against edits whose effect is known in closed form."""

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, Faces, write_faces
from torch import Tensor, nn

from ganaug import GANAugmentedDataset, UserInputError
from ganaug.cached_faces import PhotoDataset
from ganaug.edits import Direction, StyleMixing
from ganaug.edits.target import Gauge
from ganaug.embedders import EmbedderArchitecture, FaceEmbedder
from ganaug.errors import CacheError
from ganaug.evaluation import EvaluationSettings, evaluate, figures, measure, realism, report, summary, write_report
from ganaug.evaluation.faces import FaceReader, magnitudes_of
from ganaug.evaluation.measure import choose
from ganaug.faces.photos import photos_in_folder
from ganaug.gate import IdentityGate
from ganaug.interfaces import Edit
from ganaug.metrics import frechet_distance, kernel_distance, precision_recall
from ganaug.metrics.extractors import Extractor
from ganaug.page import Page

SHAPE = (2 * len(CONFIG.channels), CONFIG.w_dim)
SETTINGS = EvaluationSettings(num_strengths=2, num_faces=3, batch_size=5)


class Pixels(nn.Module):
    """An embedder that anybody can compute: the picture itself, as a unit vector."""

    embedding_dim = 3 * 8 * 8
    template = None
    threshold = 0.9
    img_resolution = 8

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(images.flatten(1), dim=1)


class Nothing:
    """An edit that changes nothing."""

    name, touches, needs_partner = "nothing", frozenset({"hair"}), False

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {"unused": uniforms[:, 0].float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return w_plus


class Never(IdentityGate):
    """Lets nothing pass."""

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        score, passed = super().judge(served, photos)
        return score, torch.zeros_like(passed)


def corners() -> Extractor:
    """Twelve numbers of a picture: mean colours of its quarters."""
    return Extractor("corners", lambda images: (nn.functional.adaptive_avg_pool2d(images, 2).flatten(1), None))


def measured_direction() -> tuple[Direction, float]:
    """A direction that goes both ways, with a reading of its own, and how far that moves per standard deviation."""
    draw = torch.Generator().manual_seed(3)
    along, weights = (torch.randn(*SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))
    along = along / along.norm()
    edit = Direction("age", along.float(), std=0.5, rows=range(SHAPE[0]), touches={"age"}, strength=(1.0, 2.0))
    edit.calibration = Gauge(weights.float(), bias=30.0)
    return edit, float((edit.apply(torch.zeros(1, *SHAPE), {"strength": torch.ones(1)})[0] * weights).sum())


def wrapped(faces: Faces, edits: list[Edit], **options: Any) -> GANAugmentedDataset:
    base = PhotoDataset(photos_in_folder(faces.root), faces.cache, size=20)
    return GANAugmentedDataset(base, faces.cache, ratio=1.0, edits=edits, classical=None, **options)


def run(train: GANAugmentedDataset, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {"settings": SETTINGS, "progress": False, **options}
    return evaluate(train, given.pop("embedder", Pixels()).eval(), corners(), **given)


def rows_of(found: dict[str, Any], part: str, edit: str) -> list[dict[str, Any]]:
    return [row for row in found[part] if row["edit"] == edit]


@pytest.fixture(autouse=True)
def little_diversity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled network that compares pictures is the slow part of a test."""
    monkeypatch.setattr(measure, "MAX_DIVERSITY", 5)


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MIN_IMAGES", 5)


def test_an_edit_that_changes_nothing_is_reported_as_that(faces: Faces, few_are_enough: None) -> None:
    """Pasted into the photo, it is the photo: cosine 1, no pixel and no reading moved, as real as other real photos."""
    found, sheets = run(wrapped(faces, [Nothing()], gate=IdentityGate(Pixels().eval())))
    (same,) = rows_of(found, "identity", "nothing")
    assert same["strength"] is None and same["images"] == len(faces.keys)
    assert same["mean"]["value"] == pytest.approx(1.0) and same["share"]["value"] == 1.0
    assert same["share"]["low"] == pytest.approx(0.8513, abs=1e-3)  # Wilson, 22 of 22
    assert same["pixel_change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    floor, *others = found["realism"]["sets"]
    (still,) = [row for row in others if row["what"] == "edit"]
    for name in realism.FIGURES:
        assert still[name] == floor[name]
        assert still["over_floor"][name]["value"] == still["over_floor"][name]["high"] == 0.0
    assert found["realism"]["images"] == len(faces.keys) // 2
    assert found["gate"]["at_once"]["value"] == 1.0 and found["gate"]["rejected"]["value"] == 0.0
    assert found["diversity"]["perceptual"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["diversity"]["identity_within"] == pytest.approx(1.0)
    assert found["diversity"]["perceptual_of_photos"]["value"] > 0.0
    assert list(sheets) == ["nothing"]


def test_a_direction_moves_its_own_reading_by_what_its_calibration_says(faces: Faces) -> None:
    """Along its way, though half of the photos go the other way; and others see that they were moved."""
    edit, rise = measured_direction()
    found, _ = run(wrapped(faces, [edit]))
    weak, strong = rows_of(found, "movement", "age")
    assert (weak["strength"], strong["strength"]) == (1.0, 2.0)
    for row in (weak, strong):
        (reading,) = [one for one in row["readings"] if one["attribute"] == "age"]
        assert (reading["by"], reading["unit"], reading["intended"], reading["declared"]) == (
            "code",
            "years",
            True,
            True,
        )
        assert reading["mean"]["value"] == pytest.approx(row["strength"] * rise, rel=1e-3)
        assert reading["mean"]["low"] <= reading["mean"]["value"] <= reading["mean"]["high"]
        ratio = reading["mean_in_sd"]["value"] / reading["absolute_in_sd"]["value"]
        assert abs(ratio) == pytest.approx(1.0, rel=1e-3)
    still = next(row for row in found["movement"] if row["what"] == "inversion")
    assert [one["mean"]["value"] for one in still["readings"]] == [0.0]
    cosines = [row["mean"]["value"] for row in rows_of(found, "identity", "age")]
    assert 1.0 > cosines[0] > cosines[1]


def test_identity_is_that_of_a_naive_loop(faces: Faces) -> None:
    """One photo at a time, through the reader alone."""
    edit, _ = measured_direction()
    train, embedder = wrapped(faces, [edit], paste="aligned"), Pixels().eval()
    found, _ = run(train, embedder=embedder)
    reader, cosines = FaceReader(train, torch.device("cpu")), []
    for member in range(len(train)):
        batch = reader.read([member])
        assert batch is not None
        made = reader.variants(batch, edit, 2.0)
        small = (nn.functional.interpolate(x, (8, 8), mode="area") for x in (batch.photos, made.pictures))
        cosines.append(float((embedder(next(small)) * embedder(next(small))).sum()))
    (row,) = [row for row in rows_of(found, "identity", "age") if row["strength"] == 2.0]
    # The network's frame is cut from the item here, from the chip there: half a pixel of interpolation apart.
    assert row["mean"]["value"] == pytest.approx(np.mean(cosines), abs=0.02)
    assert row["median"]["value"] == pytest.approx(np.median(cosines), abs=0.02)


def test_heads_of_the_embedder_are_read_and_classes_counted(faces: Faces) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = EmbedderArchitecture(
            16,
            (4, 8),
            6,
            {"gender": ("F", "M"), "age": ("0-9", "10-19"), "race": ("a", "b", "c")},
            {"age": (5.0, 15.0)},
        )
        embedder = FaceEmbedder(architecture, None, 0.5)
    mixing = StyleMixing("fine", [4, 5], {"hair"}, strength=(0.3, 0.6))
    found, _ = run(wrapped(faces, [mixing]), embedder=embedder)
    rows = rows_of(found, "movement", "fine")
    told = {one["attribute"]: one for one in rows[-1]["readings"]}
    assert list(told) == ["age", "gender=M"] and {one["by"] for one in told.values()} == {"picture"}
    assert not any(one["declared"] or one["intended"] for one in told.values())
    assert set(rows[-1]["same_class"]) == {"gender", "race"}
    assert 0.0 <= rows[-1]["same_class"]["race"]["value"] <= 1.0


def test_the_gate_has_its_word(faces: Faces) -> None:
    """A gate that nothing can pass: photos are served, and that is what is reported."""
    edit, _ = measured_direction()
    found, _ = run(wrapped(faces, [edit], gate=Never(Pixels().eval())))
    assert found["gate"]["rejected"]["value"] == 1.0 and found["gate"]["at_once"]["value"] == 0.0
    (served,) = [row for row in found["identity"] if row["what"] == "served"]
    assert served["mean"]["value"] == pytest.approx(1.0) and served["pixel_change"]["value"] == 0.0
    assert found["diversity"]["photos"] == 0 and "gate lets pass" in found["diversity"]["reason"]
    free, _ = run(wrapped(faces, [edit]))
    assert "no gate" in free["gate"]["reason"] and "No gate" in " ".join(free["summary"])


def test_distances_are_those_of_the_metrics_and_their_jackknife() -> None:
    """Points from the metric itself; the error of a mean by leaving groups out is the textbook's of group means."""
    draw = torch.Generator().manual_seed(0)
    real, floor, far = (torch.randn(200, 3, generator=draw) + shift for shift in (0.0, 0.0, 2.0))
    found = realism.compare(real, floor, {"far": far})
    assert found["far"].figures["frechet"].value == pytest.approx(frechet_distance(real, far))
    assert found["floor"].over_floor["frechet"].value == 0.0
    near = realism.compare(real, floor, {"near": floor * 0.8 + 0.3})["near"].figures
    assert near["kernel"].value == pytest.approx(kernel_distance(real, floor * 0.8 + 0.3))
    assert (near["precision"].value, near["recall"].value) == precision_recall(real, floor * 0.8 + 0.3)
    assert 0.0 < near["precision"].low < near["precision"].value != near["recall"].value
    over = found["far"].over_floor["frechet"]
    assert over.low > 0.0 and over.value == pytest.approx(frechet_distance(real, far) - frechet_distance(real, floor))
    # 12 = |(2, 2, 2)|^2, with a standard deviation that follows from that of the two means: 2 * 2 * sqrt(3 * 2 / 200).
    half = (over.high - over.low) / 2.0
    assert half == pytest.approx(2.093 * 4.0 * math.sqrt(6.0 / 200.0), rel=0.4)
    assert found["far"].figures["precision"].high <= 1.0
    with pytest.raises(ValueError, match="expected 200 images in each set"):
        realism.compare(real, floor, {"few": far[:100]})


def test_estimates_are_those_of_textbooks() -> None:
    """Interval of a mean: 1.96 standard errors; of a median of a normal sample: sqrt(pi / 2) times that."""
    numbers = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    estimator = figures.Estimator([f"{n}.jpg" for n in range(400)])
    error = 1.96 * float(numbers.std()) / 20.0
    mean, median = estimator.mean(numbers), estimator.median(numbers)
    assert mean.value == pytest.approx(float(numbers.mean()))
    assert (mean.high - mean.low) / 2.0 == pytest.approx(error, rel=0.12)
    assert median.value == pytest.approx(float(np.median(numbers.numpy())))
    assert median.low < median.value < median.high
    assert (median.high - median.low) / 2.0 == pytest.approx(error * math.sqrt(math.pi / 2.0), rel=0.35)
    assert estimator.mean(torch.full((400,), math.nan)).value != estimator.mean(numbers).value
    few = figures.Estimator(["a", "b"])
    assert few.mean(torch.tensor([1.0, 2.0]))[0] == 1.5 and math.isnan(few.mean(torch.tensor([1.0, 2.0])).low)


def test_too_few_photos_are_said_instead_of_distances(faces: Faces) -> None:
    found, sheets = run(wrapped(faces, [Nothing()]))
    assert found["realism"]["sets"] == [] and "11 images on a side are too few" in found["realism"]["reason"]
    assert any("Realism is not told" in warning for warning in found["warnings"])
    assert "Not told" in report.build_page(found, sheets).html()


def test_real_photos_may_be_others(faces: Faces, tmp_path: Path, few_are_enough: None) -> None:
    """Then one half of them is the floor, and all variants are compared with the other."""
    write_faces(tmp_path / "others", per_class=8, seed=5)
    train = wrapped(faces, [Nothing()])
    found, _ = run(train, real=photos_in_folder(tmp_path / "others"), names={"real": "others"})
    assert found["realism"]["images"] == 8 and found["networks"]["real"] == "others"
    same, _ = run(train, real=photos_in_folder(faces.root))
    assert same["realism"]["sets"][0]["frechet"] != found["realism"]["sets"][0]["frechet"]


def test_no_photo_is_what_its_own_variant_is_compared_with(faces: Faces, few_are_enough: None) -> None:
    """Photos that are measured are left out of the real ones; if there are no others, one half is compared."""
    train, photos = wrapped(faces, [Nothing()]), photos_in_folder(faces.root)
    alone, _ = run(train)
    again, _ = run(train, real=photos)
    assert again["realism"] == alone["realism"]
    some = EvaluationSettings(limit=10, num_strengths=1)
    found, _ = run(train, real=photos, settings=some)
    assert found["realism"]["images"] == 6  # a half of the 22 - 10 others


def test_other_photos_are_compared_with_though_the_first_photo_is_damaged(own_faces: Faces, tmp_path: Path) -> None:
    write_faces(tmp_path / "others", per_class=2, seed=5)
    train = wrapped(own_faces, [Nothing()])
    first = train.items[choose([item.key for item in train.items], 99)[0]].key
    (own_faces.root / first).write_bytes(b"no picture")
    found, _ = run(train, real=photos_in_folder(tmp_path / "others"))
    assert list(found["photos"]["left_out_examples"]) == [first]


def test_classes_that_change_undeclared_are_warned_of() -> None:
    def row(what: str, edit: str | None, value: float, declared: bool) -> dict[str, Any]:
        share = {"value": value, "low": value - 0.05, "high": value + 0.05, "declared": declared}
        return {"what": what, "edit": edit, "strength": None, "readings": [], "same_class": {"race": share}}

    movement = [row("inversion", None, 0.9, False), row("edit", "hair", 0.88, False), row("edit", "pose", 0.6, False)]
    told = {"networks": {"identity": "judge64"}, "movement": [*movement, row("edit", "skin", 0.5, True)]}
    (warning,) = summary.other_classes(told)
    assert "judge64" in warning and "another race than their photo: 40 % with pose, but 10 %" in warning
    assert summary.other_classes({**told, "movement": movement[1:]}) == []


def test_what_cannot_be_measured_is_counted_and_told(own_faces: Faces) -> None:
    """A photo that is gone, one that is damaged, one that has changed."""
    gone, damaged, changed, *_ = own_faces.keys
    train = wrapped(own_faces, [Nothing()])
    (own_faces.root / damaged).write_bytes(b"no picture")
    (own_faces.root / changed).write_bytes((own_faces.root / own_faces.keys[-2]).read_bytes())
    with pytest.warns(UserWarning, match="its image has changed"):
        found, _ = run(train)
    assert found["photos"]["left_out"] == 2 and found["photos"]["measured"] == len(own_faces.keys) - 2
    assert "not an image" in found["photos"]["left_out_examples"][damaged]
    assert found["photos"]["left_out_examples"][changed] == "the photo has changed since"
    (own_faces.root / gone).unlink()
    (own_faces.root / damaged).unlink()
    with pytest.warns(UserWarning, match="its image has changed"):
        found, _ = run(wrapped(own_faces, [Nothing()]))
    assert found["photos"]["without_photo"] == 2 and found["photos"]["without_photo_example"] == gone
    assert any("2 of 22 records" in warning for warning in found["warnings"])
    for key in own_faces.keys[2:]:
        (own_faces.root / key).write_bytes(b"no picture")
    with pytest.raises(CacheError, match=r"none of 20 photos of .* can be measured"):
        run(wrapped(own_faces, [Nothing()]))


def test_batches_change_nothing(faces: Faces) -> None:
    """Photos are measured one by one, whatever batch they are in."""
    edit, _ = measured_direction()
    train = wrapped(faces, [edit])
    one, two = (run(train, settings=EvaluationSettings(num_strengths=1, batch_size=size))[0] for size in (3, 22))
    for part in ("identity", "movement"):
        for a, b in zip(one[part], two[part], strict=True):
            name = "mean" if part == "identity" else "images"
            assert json.dumps(a[name])[:12] == json.dumps(b[name])[:12]
    for name in ("photos", "perceptual", "perceptual_of_photos"):
        assert json.dumps(one["diversity"][name])[:12] == json.dumps(two["diversity"][name])[:12]
    assert one["diversity"]["perceptual_of_photos"] is not None  # of four photos from two batches


def test_the_choice_of_photos_is_one_of_names_and_seed() -> None:
    keys = [f"{n}.jpg" for n in range(40)]
    chosen = {keys[place] for place in choose(keys, 10)}
    assert chosen == {keys[::-1][place] for place in choose(keys[::-1], 10)} and len(chosen) == 10
    assert chosen != {keys[place] for place in choose(keys, 10, seed=1)}
    assert sorted(choose(keys, 99)) == list(range(40))


def test_magnitudes_are_the_range_of_an_edit() -> None:
    edit, _ = measured_direction()
    assert magnitudes_of(edit, 3) == [1.0, 1.5, 2.0]
    assert magnitudes_of(StyleMixing("fine", [1], {"hair"}, strength=(0.2, 0.6)), 3) == [0.2, 0.4, 0.6]
    assert magnitudes_of(Nothing(), 3) == [None]


def test_a_dataset_that_would_not_make_a_variant_of_every_photo_is_refused(faces: Faces) -> None:
    base = PhotoDataset(photos_in_folder(faces.root), faces.cache, size=20)
    half = GANAugmentedDataset(base, faces.cache, ratio=0.5, edits=[Nothing()], classical=None)
    with pytest.raises(UserInputError, match="ratio=1"):
        run(half)
    with pytest.raises(UserInputError, match="no edit to measure"):
        run(wrapped(faces, []))
    with pytest.raises(UserInputError, match="num_strengths must be at least 1, got 0"):
        EvaluationSettings(num_strengths=0)


def test_reports_are_whole_and_for_their_owner(
    faces: Faces, tmp_path: Path, few_are_enough: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says what the figures say; a report that fails leaves the last one as it was."""
    edit, _ = measured_direction()
    edit.name = "hair"  # has a part of the face
    train = wrapped(faces, [edit], gate=IdentityGate(Pixels().eval()))
    monkeypatch.setattr(train, "chip_template", "fairface")
    found, sheets = run(train, command="ganaug evaluate --cache <b>")
    assert {row["edit"] for row in found["localisation"]} == {"hair"}
    page, data = write_report(tmp_path / "out", found, sheets)
    assert json.loads(data.read_text()) == found and found["format"] == "ganaug-evaluation-1"
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (page, data))
    text = page.read_text()
    for words in (*found["summary"], train.header.fingerprint, "--cache &lt;b&gt;", "corners"):
        assert words.replace("'", "&#x27;") in text
    assert text.count("data:image") == 1
    assert sheets["hair"].height > sheets["hair"].width  # photo, inversion and four strengths of three faces
    with monkeypatch.context() as patch:
        patch.setattr(Page, "html", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_report(tmp_path / "out", {**found, "summary": []}, sheets)
    assert page.read_text() == text and json.loads(data.read_text()) == found
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
