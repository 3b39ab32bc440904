"""``ganaug inspect``: distributions, failures, the sheet of inversions, and what is measured again."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import RESOLUTION, Faces, random_generator
from PIL import Image
from torch import Tensor

from ganaug import inspection
from ganaug.cache import LatentCache
from ganaug.cli import EXIT_DAMAGED, EXIT_USER_ERROR, main
from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range
from ganaug.faces.detect import Face
from ganaug.faces.photos import Photo, photos_in_folder
from ganaug.generators import StyleGAN2, load_generator
from ganaug.inspection import default_bounds, distribution, failure_reasons, inspect_cache, inversion_sheet
from ganaug.interfaces import CacheError, UserInputError
from ganaug.inversion import build_inverter
from ganaug.inversion.quality import QualityJudge, make_judge
from ganaug.precompute import make_header, precompute
from ganaug.recheck import photo_of, recheck, sample_keys
from ganaug.synthetic import read_synthetic

CPU = torch.device("cpu")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def generator(model_file: Path) -> StyleGAN2:
    found = load_generator(model_file)
    assert isinstance(found, StyleGAN2)
    return found


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory, faces: Faces, generator: StyleGAN2) -> Faces:
    """A cache that was made by an inverter, with every figure that the judge knows."""
    path = tmp_path_factory.mktemp("inverted") / "faces.lmdb"
    inverter = build_inverter("encoder", generator, faces.model, CPU, 0, make_judge(faces.model))
    cache = LatentCache.create(path, make_header(generator, faces.model, inverter))
    precompute(photos_in_folder(faces.root), cache, inverter, CPU, 7, progress=False)
    assert len(cache) == 22
    return Faces(faces.root, path, faces.keys, faces.model)


@pytest.fixture
def own(tmp_path: Path, inverted: Faces) -> Iterator[Faces]:
    """A copy of it that the test may change."""
    LatentCache(inverted.cache).close()
    shutil.copytree(inverted.root, tmp_path / "images")
    shutil.copytree(inverted.cache, tmp_path / "faces.lmdb")
    yield Faces(tmp_path / "images", tmp_path / "faces.lmdb", inverted.keys, inverted.model)
    LatentCache(tmp_path / "faces.lmdb").close()


def run(capsys: Capture, *argv: object, status: int = 0) -> str:
    assert main([str(argument) for argument in ("inspect", *argv)]) == status
    out, err = capsys.readouterr()
    assert (err == "") is (status != EXIT_USER_ERROR)
    return out or err


def figures(capsys: Capture, tmp_path: Path, *argv: object, status: int = 0) -> dict[str, Any]:
    run(capsys, *argv, "--json", tmp_path / "f.json", status=status)
    text = (tmp_path / "f.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(found, dict)
    return found


def swap(faces: Faces, first: str, second: str) -> None:
    """Two records that were mixed up: whole, and wrong."""
    cache = LatentCache(faces.cache)
    a, b = cache.get(first), cache.get(second)
    a.latents, b.latents = b.latents, a.latents
    cache.put_many([a, b])


# Figures


def test_distribution() -> None:
    values = np.array([3.0, np.nan, 1.0, 7.0, 5.0])
    keys = list("abcde")
    known = [1.0, 3.0, 5.0, 7.0]
    for name, worst in (("psnr", (1.0, "c")), ("identity", (1.0, "c")), ("mse", (7.0, "d")), ("seconds", (7.0, "d"))):
        told = distribution(name, keys, values)
        assert (told["worst"], told["worst_key"], told["no_number"]) == (*worst, 1)
        percentiles = [np.percentile(known, p) for p in (5, 50, 95)]
        assert [told[p] for p in ("p5", "median", "p95")] == pytest.approx(percentiles)
    assert "no_number" not in distribution("psnr", ["a"], np.ones(1))
    assert distribution("psnr", ["a"], np.array([np.nan]))["median"] is None


def test_failures_by_reason() -> None:
    found = failure_reasons(
        {
            "a.jpg": "a.jpg: 3x4 px are too few",
            "b/c.jpg": "/data/b/c.jpg: 20x30 px are too few",
            "d.jpg": "'/x/d.jpg': cannot be decoded",
            "e.jpg#2": "e.jpg#2: 7x7 px are too few",
            "f.jpg": "inversion gave numbers that are not finite",
        }
    )
    assert [(kind["reason"], kind["count"], kind["example"]) for kind in found] == [
        ("NxN px are too few", 3, "a.jpg"),
        ("cannot be decoded", 1, "d.jpg"),
        ("inversion gave numbers that are not finite", 1, "f.jpg"),
    ]


def test_figures_of_a_cache(inverted: Faces, tmp_path: Path, capsys: Capture) -> None:
    told = figures(capsys, tmp_path, inverted.cache)
    records = list(LatentCache(inverted.cache).records())
    assert list(told["quality"]) == ["mse", "psnr", "ssim", "perceptual", "identity"]
    for name, of in told["quality"].items():
        values = np.array([record.quality[name] for record in records])
        worst = values.argmax() if name in ("mse", "perceptual") else values.argmin()
        assert of["median"] == pytest.approx(np.median(values), abs=1e-4)
        assert (of["worst"], of["worst_key"]) == (pytest.approx(values[worst], abs=1e-4), records[worst].key)
    assert told["records"] == 22 and told["damaged"] == 0 and "differing" not in told
    bounds = default_bounds(LatentCache(inverted.cache))
    assert {name: of["bound"] for name, of in told["below"].items()} == bounds == {"psnr": 20.0, "identity": 0.754}
    psnr = float(np.median([record.quality["psnr"] for record in records]))
    perceptual = float(np.quantile([record.quality["perceptual"] for record in records], 0.7))
    told = figures(capsys, tmp_path, inverted.cache, "--min-quality", f"psnr={psnr},perceptual={perceptual}")
    poor = [r.quality["psnr"] < psnr for r in records], [r.quality["perceptual"] > perceptual for r in records]
    assert (told["below"]["psnr"]["records"], told["below"]["perceptual"]["records"]) == tuple(map(sum, poor))
    assert told["left_out"] == sum(a or b for a, b in zip(*poor, strict=True))
    out = run(capsys, inverted.cache, "--min-quality", 60)
    assert "22 (22 by psnr 60)" in out and "identity" in out and "; worst " in out


def test_a_cache_of_an_older_version(own_faces: Faces, tmp_path: Path, capsys: Capture) -> None:
    """Three figures, no judge; and failures."""
    cache = LatentCache(own_faces.cache)
    cache.put_failures({f"{i}.jpg": f"{i}.jpg: no face was found" for i in range(3)})
    told = figures(capsys, tmp_path, own_faces.cache)
    assert list(told["quality"]) == ["mse", "psnr", "ssim"] and list(told["below"]) == ["psnr"]
    assert told["failures"] == 3
    assert told["failure_reasons"] == [{"reason": "no face was found", "count": 3, "example": "0.jpg"}]
    assert "failures     3: 3 x no face was found (0.jpg)\n" in run(capsys, own_faces.cache)
    # A damaged record is in none of the figures.
    codes = cache.get(own_faces.keys[3]).latents.tobytes()
    cache.close()
    file = own_faces.cache / "data.mdb"
    file.write_bytes(file.read_bytes().replace(codes, codes[:-1] + bytes([codes[-1] ^ 1])))
    told = figures(capsys, tmp_path, own_faces.cache, status=EXIT_DAMAGED)
    assert (told["damaged"], told["records"], told["digest"]) == (1, 22, None)
    assert len(inspection.read_figures(LatentCache(own_faces.cache))[0]) == 21


def test_an_empty_cache(tmp_path: Path, model_file: Path, capsys: Capture) -> None:
    generator = load_generator(model_file)
    inverter = build_inverter("encoder", generator, model_file, CPU, 0)
    LatentCache.create(tmp_path / "empty.lmdb", make_header(generator, model_file, inverter))
    told = inspect_cache(LatentCache(tmp_path / "empty.lmdb"))
    assert told["quality"] == {} and told["left_out"] == 0 and told["below"]["psnr"]["records"] == 0
    assert "no record of" in run(capsys, tmp_path / "empty.lmdb", "--out", tmp_path / "s.png", status=EXIT_USER_ERROR)
    found = recheck(LatentCache(tmp_path / "empty.lmdb"), [], generator, CPU)
    assert (found.checked, found.compared, dict(found.differing)) == (0, 0, {})


# The sheet


def test_the_sheet(
    inverted: Faces, generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    drawn: list[Any] = []
    original = inspection.contact_sheet

    def noted(rows: Any, *rest: Any, notes: Any) -> Image.Image:
        drawn.append((rows, notes))
        return original(rows, *rest, notes=notes)

    monkeypatch.setattr(inspection, "contact_sheet", noted)
    told = run(capsys, inverted.cache, "--images", inverted.root, "--out", tmp_path / "s.png", "--num-faces", 4)
    assert str(tmp_path / "s.png") in told
    rows, notes = drawn[0]
    cache = LatentCache(inverted.cache)
    records = sorted(cache.records(), key=lambda record: -record.quality["psnr"])
    chosen = [records[:4], records[9:13], records[18:]]
    assert [caption for caption, _ in rows[::2]] == ["best,\nphoto", "median,\nphoto", "worst,\nphoto"]
    for place, some in enumerate(chosen):
        (_, photos), (_, made) = rows[2 * place : 2 * place + 2]
        for column, record in enumerate(some):
            code = torch.from_numpy(record.latents)[None].float()
            assert torch.allclose(made[column], to_unit_range(generator.synthesis(code))[0], atol=1e-5)
            chip, _ = align(Image.open(inverted.root / record.key).convert("RGB"), Alignment(size=RESOLUTION))
            assert torch.equal((photos[column] * 255).round().byte(), torch.from_numpy(chip.copy()).permute(2, 0, 1))
            lines = notes[2 * place + 1][column].split("\n")
            assert lines[0] == record.key and f"psnr {record.quality['psnr']:.2f}" in lines and len(lines) == 6
    mark = read_synthetic(tmp_path / "s.png")
    assert mark is not None and mark["generator"] == cache.header.fingerprint
    # By another figure, of which less is better; with fewer records than columns; and photos that are gone.
    few = tmp_path / "few"
    (few / "ann").mkdir(parents=True)
    for key in inverted.keys[:11]:
        shutil.copy(inverted.root / key, few / key)
    inversion_sheet(cache, tmp_path / "t.png", generator, photos_in_folder(few), by="perceptual", num_faces=50)
    rows, notes = drawn[1]
    assert [len(images) for _, images in rows] == [7] * 6
    best = min(cache.records(), key=lambda record: record.quality["perceptual"])
    assert notes[1][0].startswith(best.key)
    gone = [why == "no such photo" for row in notes[::2] for why in row]
    white = [bool((image == 1).all()) for _, images in rows[::2] for image in images]
    assert gone == white and any(gone) and not all(gone)


# Measured again


def test_a_cache_as_it_was_made(inverted: Faces, generator: StyleGAN2, tmp_path: Path, capsys: Capture) -> None:
    """float16, another batch size, chips cut again: nothing differs."""
    cache = LatentCache(inverted.cache)
    found = recheck(cache, photos_in_folder(inverted.root), generator, CPU)
    assert (found.checked, found.compared, dict(found.differing), dict(found.unreadable)) == (22, 22, {}, {})
    found = recheck(cache, None, generator, CPU, sample=5)
    assert (found.checked, found.compared, dict(found.differing)) == (5, 0, {})
    told = figures(capsys, tmp_path, inverted.cache, "--verify", "--images", inverted.root, "--sample", 9)
    assert told["differing"] == 0 and told["verify"] == {
        "checked": 9,
        "compared": 9,
        "differing": {},
        "unreadable": {},
    }
    assert "9 drawn again, 9 compared" in run(
        capsys, inverted.cache, "--verify", "--images", inverted.root, "--sample", 9
    )


def test_records_that_were_mixed_up(own: Faces, generator: StyleGAN2, tmp_path: Path, capsys: Capture) -> None:
    swap(own, *own.keys[2:4])
    assert LatentCache(own.cache).verify() == []  # no checksum can tell
    photos = photos_in_folder(own.root)
    found = recheck(LatentCache(own.cache), photos, generator, CPU)
    assert sorted(found.differing) == own.keys[2:4]
    first = found.differing[own.keys[2]]
    assert first.name == "psnr" and abs(first.stored - first.now) > 0.05
    assert first.stored == LatentCache(own.cache).get(own.keys[2]).quality["psnr"]
    told = figures(capsys, tmp_path, own.cache, "--verify", "--images", own.root, status=EXIT_DAMAGED)
    assert told["differing"] == 2 and sorted(told["verify"]["differing"]) == own.keys[2:4]
    assert f"{own.keys[2]}: psnr " in run(capsys, own.cache, "--verify", "--images", own.root, status=EXIT_DAMAGED)


def test_photos_that_are_not_the_same(own: Faces, generator: StyleGAN2, tmp_path: Path) -> None:
    cache, (changed, torn, damaged) = LatentCache(own.cache), own.keys[1:4]
    shutil.copy(own.root / own.keys[11], own.root / changed)
    (own.root / torn).write_bytes(b"no picture")
    codes = cache.get(damaged).latents.tobytes()
    cache.close()
    file = own.cache / "data.mdb"
    file.write_bytes(file.read_bytes().replace(codes, codes[:-1] + bytes([codes[-1] ^ 1])))
    found = recheck(cache, photos_in_folder(own.root), generator, CPU)
    assert sorted(found.unreadable) == [changed, torn, damaged] and not found.differing
    assert found.unreadable[damaged] == "the record is damaged" and "changed since" in found.unreadable[changed]
    assert (found.checked, found.compared) == (21, 19)
    shutil.rmtree(own.root / "bob")
    found = recheck(cache, photos_in_folder(own.root), generator, CPU)  # those whose photos are not given are not asked
    assert found.checked == 10
    with pytest.raises(CacheError, match="none of 1 photos has a record"):
        recheck(cache, [Photo("else.jpg", lambda: pytest.fail("read"))], generator, CPU)


def test_pictures_that_are_no_numbers(inverted: Faces, generator: StyleGAN2) -> None:
    """Latents are finite in every sound record; what a generator makes of them need not be."""
    broken = BrokenGenerator(generator)
    for photos in (None, photos_in_folder(inverted.root)):
        found = recheck(LatentCache(inverted.cache), photos, broken, CPU, sample=3)
        assert len(found.differing) == 3 and all(one == ("finite", 1.0, 0.0) for one in found.differing.values())


class BrokenGenerator:
    """Draws nothing that is a number."""

    def __init__(self, generator: StyleGAN2) -> None:
        self.latent_spec, self.fingerprint = generator.latent_spec, generator.fingerprint
        self.img_resolution, self.z_dim, self.w_avg = generator.img_resolution, generator.z_dim, generator.w_avg

    def mapping(self, z: Tensor, c: Tensor | None = None, truncation_psi: float = 1.0) -> Tensor:
        raise NotImplementedError

    def synthesis(self, w_plus: Tensor, noise: str = "const") -> Tensor:
        return torch.full((len(w_plus), 3, self.img_resolution, self.img_resolution), float("nan"))


def test_chips_lie_where_the_record_says(tmp_path: Path, faces: Faces, generator: StyleGAN2) -> None:
    """Faces that a detector found are cut again without asking it; further faces of a photo too."""
    size = {"mode": "points", "size": RESOLUTION, "template": "ffhq", "which_face": "all", "detector": "mine"}
    alignment = Alignment.from_dict({**size, "chips": None})
    inverter = build_inverter("encoder", generator, faces.model, CPU, 0)
    photos = photos_in_folder(faces.root)[:3]

    class Detector:
        def detect(self, images: Any) -> list[list[Face]]:
            points = np.array([[7, 8], [13, 8], [10, 11], [8, 14], [12, 14]], dtype=np.float32)
            box = np.array([4, 4, 16, 16], dtype=np.float32)
            return [[Face(box, 0.9, points), Face(box + 1, 0.8, points + 1.25)] for _ in images]

    cache = LatentCache.create(tmp_path / "c.lmdb", make_header(generator, faces.model, inverter, alignment=alignment))
    precompute(photos, cache, inverter, CPU, 4, progress=False, detector=Detector())
    keys = cache.keys()
    assert len(keys) == 6 and f"{photos[0].key}#1" in keys
    found = recheck(cache, photos, generator, CPU)
    assert (found.compared, dict(found.differing), dict(found.unreadable)) == (6, {}, {})
    swap(Faces(faces.root, tmp_path / "c.lmdb", keys, faces.model), f"{photos[0].key}#1", f"{photos[2].key}#1")
    found = recheck(cache, photos, generator, CPU)
    assert set(found.differing) == {f"{photos[0].key}#1", f"{photos[2].key}#1"}


def test_records_that_change_the_generator(
    tmp_path: Path, inverted: Faces, generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are drawn with their deltas, on the sheet and when they are measured again."""
    plain, layout = LatentCache(inverted.cache), generator.delta_layout(ranks=1)
    header = replace(plain.header, delta=layout.to_dict())
    cache, photos = LatentCache.create(tmp_path / "d.lmdb", header), photos_in_folder(inverted.root)[:3]
    delta = 0.3 * torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0))
    records = [plain.get(photo.key) for photo in photos]
    code = torch.from_numpy(np.stack([record.latents for record in records])).float()
    made = generator.synthesis(code, delta=layout.bind(delta))
    assert (made - generator.synthesis(code)).abs().max() > 0.05
    chips = [align(photo.read()[0], Alignment(size=RESOLUTION))[0] for photo in photos]
    images = to_model_range(torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2))
    told = QualityJudge()(made, images)
    for row, record in enumerate(records):
        record.delta = delta[row].numpy()
        record.quality |= {name: float(values[row]) for name, values in told.items()}
    cache.put_many(records)
    found = recheck(cache, photos, generator, CPU)
    assert (found.compared, dict(found.differing)) == (3, {})
    shown: list[Tensor] = []
    monkeypatch.setattr(inspection, "save_synthetic", lambda *_: None)
    original = inspection.contact_sheet
    monkeypatch.setattr(
        inspection,
        "contact_sheet",
        lambda rows, *rest, **more: shown.append(rows[0][1]) or original(rows, *rest, **more),
    )
    inversion_sheet(cache, tmp_path / "s.png", generator)
    best = int(told["psnr"].argmax())
    assert torch.allclose(shown[0][0], to_unit_range(made)[best], atol=5e-3)


def test_photo_of() -> None:
    photos = {key: Photo(key, lambda: pytest.fail("read")) for key in ("a.jpg", "b#1", "b")}
    for key, want in (("a.jpg", "a.jpg"), ("a.jpg#2", "a.jpg"), ("b#1", "b#1"), ("a.jpg#x", None), ("c#1", None)):
        found = photo_of(key, photos)
        assert (None if found is None else found.key) == want


def test_samples_are_the_same_every_time() -> None:
    keys = [f"{i}.jpg" for i in range(1000)]
    some = sample_keys(keys, 50)
    assert len(set(some)) == 50 and sample_keys(keys[::-1], 50) == some and sample_keys(keys, 2000) == sorted(keys)
    assert some != sorted(keys)[:50]
    grown = sample_keys([*keys, *(f"{i}.png" for i in range(100))], 50)
    assert len(set(grown) & set(some)) > 35


def test_another_generator(inverted: Faces, tmp_path: Path) -> None:
    other = random_generator(5)
    with pytest.raises(CacheError, match="its fingerprint is"):
        recheck(LatentCache(inverted.cache), None, other, CPU)
    with pytest.raises(CacheError, match="its fingerprint is"):
        inversion_sheet(LatentCache(inverted.cache), tmp_path / "s.png", other)


def test_mistakes(inverted: Faces, tmp_path: Path, capsys: Capture) -> None:
    cache = inverted.cache
    for argv, said in (
        ([cache, "--images", inverted.root], "--images is for --verify and --out"),
        ([cache, "--by", "ssim"], "--by is for --verify and --out"),
        ([cache, "--verify", "--split", "val"], "--split says what --images holds"),
        ([cache, "--verify", "--sample", 0], "--sample must be at least 1"),
        ([cache, "--out", tmp_path / "s.jpg"], "expected a name ending in .png"),
        ([cache, "--out", tmp_path / "s.png", "--by", "lpips"], "have no 'lpips'; they hold mse, psnr"),
        ([cache, "--min-quality", "psnr"], "expected a PSNR in dB, or figures"),
        ([cache, "--min-quality", "psnr=a"], "expected a PSNR in dB, or figures"),
        ([cache, "--min-quality", "lpips=1"], "have no 'lpips'"),
        ([inverted.model, "--verify"], "--verify is for caches"),
        ([inverted.model, "--min-quality", 3], "--min-quality is for caches"),
    ):
        assert said in run(capsys, *argv, status=EXIT_USER_ERROR), argv
    with pytest.raises(UserInputError, match="have no 'steps'"):
        inversion_sheet(LatentCache(cache), tmp_path / "s.png", load_generator(inverted.model), by="steps")
