"""Pivotal tuning: its optimisation, and what is written of it for a whole cache."""

import copy
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, RESOLUTION, Faces, random_generator
from PIL import Image
from torch import Tensor

from ganaug import GANAugmentedDataset, checkpoints, load_generator
from ganaug import tuning as job
from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.edits import Direction, build_edits, table_of
from ganaug.edits import table as table_module
from ganaug.edits.stored import load_directions, update_directions, write_directions
from ganaug.faces.align import to_model_range
from ganaug.faces.photos import photos_in_folder
from ganaug.generators import LatentPrior, StyleGAN2Config
from ganaug.interfaces import CheckpointError, ImageError, UserInputError
from ganaug.inversion.losses import InversionLoss, PixelLoss, StartLoss
from ganaug.inversion.tuning import Tuner, TuningConfig, codes_near, spread_of_faces, tune
from ganaug.latents import draw_latents
from ganaug.recheck import recheck
from ganaug.tuned_files import CACHE, GENERATOR
from ganaug.tuning import CHECKPOINT, TuneResult, tune_cache

CPU = torch.device("cpu")
PIXELS = InversionLoss([PixelLoss()])


def codes_of(count: int, seed: int = 3) -> Tensor:
    return draw_latents(random_generator(), count, torch.Generator().manual_seed(seed))


def photos_of(count: int, seed: int = 4) -> Tensor:
    """``(N, 3, R, R)`` in [-1, 1]: smooth, and nothing that the generator draws."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (RESOLUTION, RESOLUTION), mode="bilinear")


def mse(generator: Any, codes: Tensor, photos: Tensor) -> float:
    with torch.no_grad():
        return float((generator.synthesis(codes) - photos).square().mean())


# ---------------------------------------------------------------------------------------------------- the optimisation


def test_codes_near_lie_at_the_distance_on_the_line() -> None:
    pivots, others = codes_of(3, 1), codes_of(3, 2)
    near = codes_near(pivots, others, 0.75)
    for pivot, other, found in zip(pivots.double(), others.double(), near.double(), strict=True):
        assert float((found - pivot).norm()) == pytest.approx(0.75, rel=1e-5)
        # On the line: what is left of the way there and the way so far add up to the whole.
        assert float((other - found).norm()) == pytest.approx(float((other - pivot).norm()) - 0.75, rel=1e-5)
    assert torch.equal(codes_near(pivots, pivots, 0.75), pivots), "no way to go, and no NaN"


def test_spread_of_faces_is_the_mean_distance_of_codes() -> None:
    generator = random_generator()
    codes = draw_latents(generator, 4000, torch.Generator().manual_seed(9)).double()
    expected = (codes - codes.mean(dim=0)).flatten(1).square().sum(dim=1).mean().sqrt()
    assert spread_of_faces(generator) == pytest.approx(float(expected), rel=0.03)
    shape = generator.latent_spec.shape
    axes = torch.linalg.qr(torch.randn(shape[0] * shape[1], 2, generator=torch.Generator().manual_seed(0))).Q
    generator.prior = LatentPrior(torch.zeros(shape), axes.t().reshape(2, *shape), torch.tensor([3.0, 4.0]))
    assert spread_of_faces(generator) == pytest.approx(5.0), "3-4-5"


def test_tuning_draws_the_photos_and_leaves_the_base_alone() -> None:
    generator, codes, photos = random_generator(), codes_of(5), photos_of(5)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    fingerprint = generator.fingerprint
    tuned = tune(generator, codes, photos, PIXELS, TuningConfig(60, batch_size=2, learning_rate=0.02))
    assert mse(tuned.generator, tuned.codes, photos) < 0.5 * mse(generator, codes, photos)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    assert generator.fingerprint == fingerprint != tuned.generator.fingerprint
    mine, theirs = tuned.generator.map_network.state_dict(), generator.map_network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs), "random z lead to the same codes"
    assert not any(p.requires_grad for p in [*tuned.generator.parameters(), *generator.parameters()])


def test_the_regulariser_is_zero_for_an_untouched_generator() -> None:
    """So it pulls nowhere: the first step is the same whatever its weight."""
    stepped = []
    for weight in (0.0, 1e-6, 10.0):
        config = TuningConfig(1, 4, learning_rate=0.1, locality_weight=weight, locality_share=1.0)
        tuner = Tuner(random_generator(), codes_of(4), photos_of(4), PIXELS, config)
        tuner.step()
        stepped.append(torch.cat([p.flatten() for p in tuner.generator.synthesis_network.parameters()]))
    away = [float(((stepped[0] - other).abs() > 1e-4).float().mean()) for other in stepped[1:]]
    # Adam's first step is the rate times the gradient's sign: rounding decides where the gradient is next to zero.
    assert max(away) < 0.02
    draws = tune_first_error(codes_of(4))
    assert float(draws.max()) < 1e-10, "and so is the error of photos that it draws already"


def tune_first_error(codes: Tensor) -> Tensor:
    generator = random_generator()
    photos = generator.synthesis(codes).clamp(-1.0, 1.0)
    return Tuner(generator, codes, photos, PIXELS, TuningConfig(1, 4)).step()


def test_a_first_step_is_adams_of_the_losses_sum() -> None:
    """Against torch's own Adam on the naive loss, with the weights and the codes as parameters."""
    generator, codes, photos = random_generator(), codes_of(3), photos_of(3)
    config = TuningConfig(1, 3, learning_rate=0.01, code_learning_rate=0.02, locality_weight=0.7, locality_share=0.5)
    tuner = Tuner(generator, codes, photos, PIXELS, config)
    rows = tuner._next_rows()
    near = tuner._codes_near(codes[rows])
    assert near is not None and len(near) == 2
    tuner.step()

    naive, own = copy.deepcopy(generator), codes.clone().requires_grad_(True)
    weights = list(naive.synthesis_network.requires_grad_(True).parameters())
    loss = sum((naive.synthesis(own[row][None]) - photos[row][None]).square().mean() for row in rows.tolist()) / 3
    loss = loss + 0.7 * (naive.synthesis(near) - generator.synthesis(near)).square().mean()
    (0 * own.sum() + loss).backward()
    factor = 1 / 20  # the first of 20 steps of warming up
    torch.optim.Adam(weights, lr=0.01 * factor).step()
    torch.optim.Adam([own], lr=0.02 * factor).step()
    for mine, theirs in zip(tuner.generator.synthesis_network.parameters(), weights, strict=True):
        # Adam's first step is the rate times the gradient's sign: rounding decides where the gradient is next to zero.
        differs = (mine - theirs).abs() > 1e-5
        assert float(differs.float().mean()) < 0.02
    assert float(((tuner.codes - own).abs() > 1e-5).float().mean()) < 0.02


def test_each_epoch_shows_each_photo_once() -> None:
    tuner = Tuner(random_generator(), codes_of(6), photos_of(6), PIXELS, TuningConfig(9, batch_size=2))
    seen = []
    for tuner.steps_done in range(9):
        seen.append(tuner._next_rows().tolist())
    epochs = [[*seen[i], *seen[i + 1], *seen[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1], "in another order"


def test_locality_keeps_pictures_near_the_pivots() -> None:
    generator, codes, photos = random_generator(), codes_of(2), photos_of(2)
    near = codes_near(codes, codes_of(2, seed=8), 0.5 * spread_of_faces(generator))
    moved = {}
    for weight in (0.0, 10.0):
        config = TuningConfig(60, 2, 0.01, 0.0, locality_weight=weight, locality_distance=0.5, locality_share=1.0)
        tuned = tune(generator, codes, photos, PIXELS, config).generator
        moved[weight] = mse(tuned, near, generator.synthesis(near))
    assert moved[10.0] < 0.5 * moved[0.0]


def test_codes_move_only_if_asked_and_not_far() -> None:
    generator, codes, photos = random_generator(), codes_of(4), photos_of(4)
    still = tune(generator, codes, photos, PIXELS, TuningConfig(5, code_learning_rate=0.0))
    assert torch.equal(still.codes, codes)
    away = {}
    for weight in (0.0, 100.0):
        objective = InversionLoss([PixelLoss(), StartLoss(generator, weight)])
        tuned = tune(generator, codes, photos, objective, TuningConfig(40, code_learning_rate=0.05))
        away[weight] = float((tuned.codes - codes).square().mean().sqrt())
    assert 0.0 < away[100.0] < 0.3 * away[0.0]


def test_interrupted_and_continued_is_the_same_to_the_bit() -> None:
    generator, codes, photos = random_generator(), codes_of(7), photos_of(7)
    config = TuningConfig(12, batch_size=3, locality_weight=0.5)
    whole = tune(generator, codes, photos, PIXELS, config)
    first = Tuner(generator, codes, photos, PIXELS, config)
    for _ in range(5):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second = Tuner(generator, codes, photos, PIXELS, config)
    second.load_state_dict(state)
    while second.steps_done < 12:
        second.step()
    assert torch.equal(second.result().codes, whole.codes)
    assert second.result().generator.fingerprint == whole.generator.fingerprint


def test_the_seed_decides() -> None:
    generator, codes, photos = random_generator(), codes_of(5), photos_of(5)
    found = [tune(generator, codes, photos, PIXELS, TuningConfig(4, 2, seed=seed)).codes for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_bytes_are_photos_too() -> None:
    generator, codes = random_generator(), codes_of(2)
    pixels = torch.randint(0, 256, (2, 3, RESOLUTION, RESOLUTION), generator=torch.Generator().manual_seed(0))
    config = TuningConfig(2, code_learning_rate=0.0)
    first = tune(generator, codes, pixels.to(torch.uint8), PIXELS, config).generator
    second = tune(generator, codes, pixels / 127.5 - 1.0, PIXELS, config).generator
    assert first.fingerprint == second.fingerprint


def test_refusals_say_what_was_got() -> None:
    with pytest.raises(UserInputError, match="steps must be at least 1, got 0"):
        TuningConfig(0)
    with pytest.raises(UserInputError, match=r"locality_weight must be a number from 0 up, got -1\.0"):
        TuningConfig(1, locality_weight=-1.0)
    with pytest.raises(ValueError, match=r"got \(2, 6, 24\) and \(3, 3, 16, 16\)"):
        Tuner(random_generator(), codes_of(2), photos_of(3), PIXELS, TuningConfig(1))


def test_defaults_by_the_number_of_photos() -> None:
    assert TuningConfig.for_photos(1).steps == 300
    assert TuningConfig.for_photos(1, steps=7, seed=None) == TuningConfig.for_photos(1, steps=7)
    assert TuningConfig.for_photos(512).steps == 200 * 512 // 16
    assert TuningConfig.for_photos(512, batch_size=64).steps == 200 * 512 // 64
    assert TuningConfig.for_photos(2).steps == 300, "few photos are looked at more often"


# ------------------------------------------------------------------------------------------------ the job over a cache


def run(faces: Faces, out: Path, cache: Path | None = None, **given: Any) -> TuneResult:
    given = {"steps": 12, "batch_size": 4, **given}
    photos = photos_in_folder(faces.root)
    return tune_cache(LatentCache(cache or faces.cache), photos, out, CPU, progress=False, **given)


def records_of(path: Path) -> list[Record]:
    cache = LatentCache(path)
    try:
        return list(cache.records())
    finally:
        cache.close()


def test_a_tuned_cache_is_complete_and_true(faces: Faces, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = run(faces, out, steps=60, learning_rate=0.02)
    assert result.faces == len(faces.keys) and result.left_out == 0 and result.steps == 60
    generator = load_generator(out / GENERATOR)
    header = LatentCache(out / CACHE).header
    assert header.fingerprint == generator.fingerprint == result.fingerprint
    assert header.generator == os.path.realpath(out / GENERATOR)
    old = LatentCache(faces.cache).header
    assert header.inverter["tuned_from"] == old.fingerprint and header.inverter["name"] == "random"
    assert header.inverter["tuning"]["steps"] == 60
    new, before = records_of(out / CACHE), records_of(faces.cache)
    assert [r.key for r in new] == [r.key for r in before] == faces.keys
    for mine, theirs in zip(new, before, strict=True):
        assert (mine.source_hash, mine.photo_size) == (theirs.source_hash, theirs.photo_size)
        assert np.array_equal(mine.transform, theirs.transform)
        with Image.open(faces.root / mine.key) as image:  # naively: 20 px photos, shrunk whole
            chip = np.asarray(image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS))
        drawn = generator.synthesis(torch.from_numpy(mine.latents).float()[None])[0].clamp(-1, 1)
        photo = torch.from_numpy(chip.copy()).permute(2, 0, 1)
        error = float((drawn - to_model_range(photo)).square().mean()) / 4
        assert mine.quality["mse"] == pytest.approx(error, rel=0.05, abs=1e-3)
    assert result.mse_after == pytest.approx(np.mean([r.quality["mse"] for r in new]), abs=1e-6)
    checked = recheck(LatentCache(out / CACHE), photos_in_folder(faces.root), generator, CPU)
    assert checked.compared > 0 and not checked.differing and not checked.unreadable
    assert not (out / CHECKPOINT).exists()


def test_everything_else_of_the_model_is_carried_over(faces: Faces, tmp_path: Path) -> None:
    run(faces, tmp_path / "tuned")
    base, new = checkpoints.open_model(faces.model), checkpoints.open_model(tmp_path / "tuned" / GENERATOR)
    assert new.parts == base.parts
    for part in ("encoder", "features"):
        assert all(torch.equal(new.part(part)[name], tensor) for name, tensor in base.part(part).items())
    fingerprint = load_generator(faces.model).fingerprint
    assert new.description["tuned_from"] == {"name": faces.model.stem, "fingerprint": fingerprint}
    assert new.description["tuning"]["photos"] == len(faces.keys)
    assert "remembers these faces" in new.description["privacy"]
    assert all(new.description[name] == value for name, value in base.description.items())


def test_files_are_for_their_owner_alone(faces: Faces, tmp_path: Path) -> None:
    run(faces, tmp_path / "tuned")
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "tuned", *(tmp_path / "tuned").rglob("*")]}
    assert found and all(mode & 0o077 == 0 for mode in found.values()), found


def test_the_dataset_serves_it(faces: Faces, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    run(faces, tmp_path / "tuned")
    base = ImageFolder(str(faces.root), ToTensor())
    train = GANAugmentedDataset(base, tmp_path / "tuned" / CACHE, ratio=1.0, edits=["fine"], classical=None)
    assert train.generator.fingerprint == LatentCache(tmp_path / "tuned" / CACHE).header.fingerprint
    images, _ = next(iter(train.loader(batch_size=4)))
    assert images.shape == (4, 3, 20, 20) and bool(torch.isfinite(images).all())
    assert train.counts["generated"] == 4


@contextmanager
def pressed_after(steps: int) -> Any:
    """Stands in for Ctrl-C during a step."""
    left = iter([False] * (steps - 1) + [True])
    yield lambda: next(left)


def test_stopped_and_resumed_ends_with_the_same_bytes(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(faces, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(job, "ctrl_c_after_step", lambda: pressed_after(5))
        with pytest.raises(KeyboardInterrupt, match="stopped after 5 of 12 steps; continue with --resume"):
            run(faces, tmp_path / "parts")
    assert stat.S_IMODE((tmp_path / "parts" / CHECKPOINT).stat().st_mode) == 0o600
    with pytest.raises(UserInputError, match="holds a run already; continue it with --resume"):
        run(faces, tmp_path / "parts")
    with pytest.raises(UserInputError, match="was begun with --batch-size 4, not 3"):
        run(faces, tmp_path / "parts", batch_size=3, resume=True)
    with pytest.raises(UserInputError, match="minutes were turned into steps"):
        run(faces, tmp_path / "parts", minutes=1.0, resume=True)
    parts = run(faces, tmp_path / "parts", resume=True)
    assert parts.fingerprint == whole.fingerprint
    assert (tmp_path / "parts" / GENERATOR).read_bytes() == (tmp_path / "whole" / GENERATOR).read_bytes()
    caches = [LatentCache(tmp_path / name / CACHE) for name in ("parts", "whole")]
    assert caches[0].digest() == caches[1].digest()
    assert (parts.mse_after, parts.psnr_after) == (whole.mse_after, whole.psnr_after)


def test_killed_between_the_two_files_it_finishes(
    faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        raise SystemExit

    out = tmp_path / "tuned"
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_cache", killed)
        with pytest.raises(SystemExit):
            run(faces, out)
    assert (out / GENERATOR).exists() and not (out / CACHE).exists()
    written = (out / GENERATOR).read_bytes()
    run(faces, out, resume=True)
    assert (out / GENERATOR).read_bytes() == written and len(records_of(out / CACHE)) == len(faces.keys)
    with pytest.raises(UserInputError, match="holds no run to continue"):
        run(faces, out, resume=True)
    with pytest.raises(UserInputError, match="holds a tuned generator already"):
        run(faces, out)


def test_photos_that_changed_are_left_out_and_told(
    own_faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, missing = own_faces.keys[:2]
    Image.new("RGB", (20, 20)).save(own_faces.root / changed)
    (own_faces.root / missing).unlink()
    result = run(own_faces, tmp_path / "tuned")
    assert (result.faces, result.left_out) == (len(own_faces.keys) - 2, 2)
    told = capsys.readouterr().err
    assert f"left out: {changed}: the photo has changed" in told and f"left out: {missing}: the source has no" in told
    assert [r.key for r in records_of(tmp_path / "tuned" / CACHE)] == own_faces.keys[2:]


def test_a_run_is_not_continued_on_other_photos(
    own_faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "ctrl_c_after_step", lambda: pressed_after(2))
        with pytest.raises(KeyboardInterrupt):
            run(own_faces, tmp_path / "tuned")
    (own_faces.root / own_faces.keys[0]).unlink()
    with pytest.raises(CheckpointError, match=r"photos: .* there, .* here"):
        run(own_faces, tmp_path / "tuned", resume=True)


def test_one_photo_is_classic_tuning(faces: Faces, tmp_path: Path) -> None:
    key = faces.keys[3]
    result = run(faces, tmp_path / "one", key=key, steps=60, batch_size=None, learning_rate=0.02)
    short = run(faces, tmp_path / "short", key=key, steps=1, batch_size=None)
    assert result.faces == 1 and result.mse_after < 0.5 * short.mse_after
    (record,) = records_of(tmp_path / "one" / CACHE)
    before = LatentCache(faces.cache).get(key)
    assert record.key == key and np.array_equal(record.latents, before.latents), "the pivot stays"
    with pytest.raises(UserInputError, match="has no record 'nobody'"):
        run(faces, tmp_path / "other", key="nobody")


def test_an_anchor_stays_where_it_is(faces: Faces, tmp_path: Path) -> None:
    old = LatentCache(faces.cache)
    values = {**old.header.to_dict(), "anchored": True}
    anchored = LatentCache.create(tmp_path / "anchored.lmdb", CacheHeader.from_dict(values))
    records = list(old.records())[:5]
    for record in records:
        record.latents = np.stack([record.latents, record.latents * 0.5])
    anchored.put_many(records)
    run(faces, tmp_path / "tuned", tmp_path / "anchored.lmdb", learning_rate=0.01, code_learning_rate=0.1)
    for mine, theirs in zip(records_of(tmp_path / "tuned" / CACHE), records, strict=True):
        assert np.array_equal(mine.latents[1], theirs.latents[1])
        assert not np.array_equal(mine.latents[0], theirs.latents[0])


def test_minutes_become_steps(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 100, 2))
    monkeypatch.setattr(job.time, "monotonic", lambda: float(next(ticks, 100)))
    tuner = Tuner(random_generator(), codes_of(2), photos_of(2), PIXELS, TuningConfig(99))
    assert job._steps_in(0.5, tuner) == 120, "8 steps took 2 s, half a minute has 30"
    with pytest.raises(UserInputError, match="minutes must be a number above 0"):
        run(faces, tmp_path / "tuned", minutes=0.0)


def test_caches_that_cannot_be_tuned(own_faces: Faces, tmp_path: Path) -> None:
    header = LatentCache(own_faces.cache).header
    other = {**header.to_dict(), "fingerprint": "0" * 64}
    LatentCache.create(tmp_path / "other.lmdb", CacheHeader.from_dict(other))
    with pytest.raises(Exception, match="its fingerprint is '0000"):
        run(own_faces, tmp_path / "tuned", tmp_path / "other.lmdb")
    delta = {**header.to_dict(), "delta": {"kind": "low_rank", "size": 4}, "format_version": 3}
    LatentCache.create(tmp_path / "delta.lmdb", CacheHeader.from_dict(delta))
    with pytest.raises(UserInputError, match="has changes of weights for each image"):
        run(own_faces, tmp_path / "tuned", tmp_path / "delta.lmdb")
    with pytest.raises(ImageError, match="none of the 22 records"):
        tune_cache(LatentCache(own_faces.cache), [], tmp_path / "tuned", CPU, progress=False)
    assert not (tmp_path / "tuned").exists()


def test_numbers_that_are_lost_are_not_written(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tuner, "step", lambda self: _lost(self))
    with pytest.raises(FloatingPointError, match="begin again with a lower --learning-rate"):
        run(faces, tmp_path / "tuned")
    assert not list((tmp_path / "tuned").iterdir())


def _lost(tuner: Tuner) -> Tensor:
    tuner.steps_done += 1
    return torch.tensor([float("nan")])


# ----------------------------------------------------------------------------------------------- named edits stay named


def direction(name: str) -> Direction:
    shape = (2 * len(CONFIG.channels), CONFIG.w_dim)
    return Direction(name, torch.ones(shape), 1.0, range(shape[0]), {"age"})


@pytest.fixture
def assets(faces: Faces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the faces' model is bundled, with a table of edits."""
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "small.safetensors").write_bytes(faces.model.read_bytes())
    write_directions(folder / "small.edits.safetensors", [direction("age")], load_generator(faces.model))
    monkeypatch.setattr(table_module, "ASSETS", folder)
    return folder


def claim(path: Path, generator: Any, fingerprint: str, config: StyleGAN2Config = CONFIG) -> Any:
    """A generator whose file says that it was tuned from another."""
    from dataclasses import asdict

    described = {
        "family": "stylegan2",
        "config": asdict(config),
        "tuned_from": {"name": "x", "fingerprint": fingerprint},
    }
    checkpoints.write(path, {"generator": generator.state_dict()}, described, half=False)
    return load_generator(path)


def test_a_tuned_generator_keeps_its_bases_edits(faces: Faces, tmp_path: Path, assets: Path) -> None:
    run(faces, tmp_path / "once", steps=2)
    run(faces, tmp_path / "twice", tmp_path / "once" / CACHE, steps=2)
    base = load_generator(faces.model)
    once, twice = (load_generator(tmp_path / name / GENERATOR) for name in ("once", "twice"))
    assert twice.tuned_from == (once.fingerprint, base.fingerprint) and once.tuned_from == (base.fingerprint,)
    for generator in (base, once, twice):
        (edit,) = build_edits(["age"], generator)
        assert isinstance(edit, Direction) and edit.name == "age"


def test_a_table_is_not_taken_for_who_merely_claims(faces: Faces, tmp_path: Path, assets: Path) -> None:
    base = load_generator(faces.model)
    honest = copy.deepcopy(base)
    honest.synthesis_network.b4.const.mul_(1.01)
    assert set(table_of(claim(tmp_path / "a.safetensors", honest, base.fingerprint)).edits) == {"age"}
    wider = StyleGAN2Config(RESOLUTION, 24, 24, 2, (12, 12, 6))
    liar = claim(tmp_path / "b.safetensors", random_generator(0, wider), base.fingerprint, wider)
    assert liar.latent_spec == base.latent_spec and table_of(liar).edits == {}, "another architecture"
    stranger = claim(tmp_path / "c.safetensors", random_generator(5), base.fingerprint)
    assert table_of(stranger).edits == {}, "another mapping: other codes mean other faces"
    (assets / "small.safetensors").unlink()
    assert table_of(load_generator(tmp_path / "a.safetensors")).edits == {}, "and nobody who could tell"


def test_damaged_descent_is_refused(faces: Faces, tmp_path: Path) -> None:
    generator = random_generator()
    path = tmp_path / "a.safetensors"
    described = {**checkpoints.open_model(faces.model).description, "tuned_from": ["x"]}
    checkpoints.write(path, {"generator": generator.state_dict()}, described, half=False)
    with pytest.raises(CheckpointError, match="tuned_from names no generator"):
        load_generator(path)


def test_directions_of_the_base_serve_but_are_not_written_over(faces: Faces, tmp_path: Path) -> None:
    base = load_generator(faces.model)
    changed = copy.deepcopy(base)
    changed.synthesis_network.b4.const.mul_(1.01)
    tuned = claim(tmp_path / "a.safetensors", changed, base.fingerprint)
    file = tmp_path / "own.safetensors"
    write_directions(file, [direction("glow")], base)
    assert [edit.name for edit in load_directions(file, tuned)] == ["glow"]
    with pytest.raises(CheckpointError, match="write directions of this one to another file"):
        update_directions(file, [direction("age")], tuned)
    with pytest.raises(CheckpointError, match="but this one is stylegan2 with"):
        load_directions(file, random_generator(5))


def test_a_changed_copy_has_a_fingerprint_of_its_own() -> None:
    """A copy of a module counts changes of its tensors from 0, so the count alone may fit what was remembered."""
    generator = random_generator()

    def count(of: Any) -> int:
        return sum(int(t._version) for t in of.state_dict(keep_vars=True).values())

    for _ in range(100):
        generator.synthesis_network.b4.const.mul_(1.0)
    remembered = generator.fingerprint
    changed = copy.deepcopy(generator)
    assert changed.fingerprint == remembered
    changed = copy.deepcopy(generator)
    while count(changed) < count(generator):
        changed.synthesis_network.b4.const.mul_(1.01)
    assert count(changed) == count(generator) and changed.fingerprint != remembered
