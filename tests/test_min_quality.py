"""``min_quality``: poor inversions are left out, counted, and disturb nobody else."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, make_header, random_latents, write_faces
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ganaug.cache import LatentCache, Record
from ganaug.dataset import GANAugmentedDataset
from ganaug.interfaces import UserInputError
from ganaug.latent_reader import LatentReader
from ganaug.min_quality import meets, resolve_min_quality
from ganaug.partners import PartnerPool
from ganaug.policy import AugmentationPolicy
from ganaug.provenance import BatchRecipe, Recipe, Source
from ganaug.ratios import resolve_quality_weight
from ganaug.stage import replay

POOR = range(7)  # PSNR below 17
NO_NUMBER, NO_RECORD = 20, 21


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Faces:
    """22 faces whose PSNR rises from 10 to 29 dB; one is not a number, and one photo has no record."""
    folder = tmp_path_factory.mktemp("graded")
    keys = write_faces(folder / "images")
    cache = LatentCache.create(folder / "graded.lmdb", make_header(model_file))
    psnr = {key: 10.0 + i for i, key in enumerate(keys)} | {keys[NO_NUMBER]: float("nan")}
    cache.put_many(
        Record(
            key,
            random_latents(key),
            {"mse": 0.1 ** (psnr[key] / 10), "psnr": psnr[key], "ssim": 0.9},
            np.eye(2, 3),
            "00" * 32,
        )
        for key in keys[:NO_RECORD]
    )
    return Faces(folder / "images", folder / "graded.lmdb", keys, model_file)


def wrap(faces: Faces, **options: Any) -> GANAugmentedDataset:
    base = ImageFolder(str(faces.root), pil_to_tensor)
    return GANAugmentedDataset(base, faces.cache, **{"edits": ["middle", "fine", "pca1"], "ratio": 0.7, **options})


def drawn(train: GANAugmentedDataset, epoch: int = 0) -> list[Recipe]:
    return train.draw(range(len(train)), epoch).rows()


def partners(recipe: Recipe) -> list[str | None]:
    return [edit.partner for edit in recipe.edits if edit.partner is not None]


def test_bounds() -> None:
    assert resolve_min_quality(None) == {} and resolve_min_quality(20) == {"psnr": 20.0}
    assert resolve_min_quality({"identity": 0, "mse": 0.01}) == {"identity": 0.0, "mse": 0.01}
    wrong: list[Any] = [True, "20", float("nan"), {"psnr": "20"}, {"psnr": float("inf")}, {1: 2.0}, {}, [20]]
    for given in wrong:
        with pytest.raises(UserInputError, match="min_quality is a"):
            resolve_min_quality(given)
    rng = np.random.default_rng(0)
    figures = {name: rng.random(50).round(1) for name in ("psnr", "mse", "perceptual", "seconds", "steps", "other")}
    figures["psnr"][3] = figures["mse"][4] = np.nan
    bounds = {"psnr": 0.4, "mse": 0.7, "other": 0.2}
    naive = [figures["psnr"][i] >= 0.4 and figures["mse"][i] <= 0.7 and figures["other"][i] >= 0.2 for i in range(50)]
    assert meets(figures, bounds).tolist() == naive and 5 < sum(naive) < 45
    for name in ("perceptual", "seconds", "steps"):
        assert meets(figures, {name: 0.5}).tolist() == [bool(value <= 0.5) for value in figures[name]]


def test_who_is_left_out(graded: Faces) -> None:
    train = wrap(graded, min_quality=17, ratio=1.0)
    sources = [row.source for row in drawn(train)]
    assert all(sources[i] is Source.LOW_QUALITY for i in (*POOR, NO_NUMBER))
    assert sources[NO_RECORD] is Source.NO_LATENT
    assert sources[7:NO_NUMBER] == [Source.GENERATED] * 13
    images = [batch[0] for batch in train.loader(batch_size=8)]
    assert dict(train.counts) == {"generated": 13, "low_quality": 8, "no_latent": 1}
    plain = torch.stack([train[i][0] for i in range(22)])
    served = torch.cat(
        [batch for batch, _ in wrap(graded, min_quality=17, ratio=1.0, classical=None).loader(batch_size=8)]
    )
    same = [torch.equal(served[i], plain[i]) for i in range(22)]
    assert len(images) == 3 and [i for i in range(22) if same[i]] == [*POOR, NO_NUMBER, NO_RECORD]
    # By the error as by the decibels.
    assert [row.source for row in drawn(wrap(graded, min_quality={"mse": 10**-1.695}, ratio=1.0))] == sources


def test_nobody_else_is_disturbed(graded: Faces) -> None:
    before, after = wrap(graded), wrap(graded, min_quality={"psnr": 17})
    poor, kept, replaced = {graded.keys[i] for i in (*POOR, NO_NUMBER)}, 0, 0
    for epoch in range(8):
        for old, new in zip(drawn(before, epoch), drawn(after, epoch), strict=True):
            if old.key in poor:
                assert new.source is (Source.LOW_QUALITY if old.is_generated else old.source)
                continue
            assert new.source is old.source and new.classical == old.classical
            assert [(e.name, e.params) for e in new.edits] == [(e.name, e.params) for e in old.edits]
            for was, now in zip(partners(old), partners(new), strict=True):
                assert now not in poor and now != new.key
                assert was in poor or now == was
                kept, replaced = kept + (was == now), replaced + (was != now)
    assert kept > 20 and replaced > 10


def test_without_bounds_all_is_as_before(graded: Faces) -> None:
    for bounds in (None, -100.0, {"mse": 1e9, "ssim": -1.0}):
        found = wrap(graded, min_quality=bounds)
        if bounds is None:  # what is not a number meets no bound
            assert drawn(found) == drawn(wrap(graded)) and not found.pool.poor.any()
        else:
            assert found.pool.poor.nonzero()[0].tolist() == [NO_NUMBER]


def test_partners_are_drawn_evenly_among_the_good() -> None:
    groups = np.array([0] * 7 + [1] * 5 + [2, 2])
    poor = np.isin(np.arange(14), [1, 2, 6, 8, 9, 10, 11, 12])
    keys = [f"{i:02d}" for i in range(14)]
    pool = PartnerPool.build(keys, np.ones(14, bool), groups, poor)
    uniform = (np.arange(60_000) + 0.5) / 60_000
    for index, others in (
        (0, "03 04 05"),
        (4, "00 03 05"),
        (1, "00 03 04 05"),
        (9, "07"),
        (7, "07"),
        (13, "13"),
        (12, "13"),
    ):
        found = Counter(pool.draw(np.full(60_000, index), uniform, [""] * 60_000))
        assert sorted(found) == others.split(), index
        assert all(abs(count / 60_000 - 1 / len(found)) < 1e-3 for count in found.values())
    # A batch of several samples, and samples without latents.
    mixed = np.array([0, 13, 7, 4])
    assert pool.draw(mixed, np.full(4, 0.99), ["x"] * 4)[1:3] == ["13", "07"]
    none = PartnerPool.build(
        ["a", "b", "c"], np.array([True, True, False]), np.array([0, 0, 1]), np.array([True, False, False])
    )
    assert none.draw(np.array([0, 1, 2]), np.full(3, 0.5), ["x", "y", "z"]) == ["b", "b", "z"]
    assert none.usable.tolist() == [False, True, False]


def test_exact_batches_take_others_instead(graded: Faces) -> None:
    policy = AugmentationPolicy(0.5, ["fine"], mode="exact")
    for bounds, made in ((None, 11), (17, 11), (21, 9)):  # 9 are left by 21 dB
        recipe = wrap(graded, policy=policy, min_quality=bounds).draw(range(22), 0)
        assert recipe.is_generated.sum() == made
        assert (recipe.source != Source.REAL).sum() == 11  # those beyond are counted for what they are


def test_extra_variants_are_of_the_good(graded: Faces) -> None:
    train = wrap(graded, min_quality=17, extra=2)
    assert sorted(set(train.extras.base.tolist())) == list(range(7, NO_NUMBER))
    weighted = AugmentationPolicy(1.0, ["fine"], quality_weight=("psnr", 18.5, 25.0))
    train = wrap(graded, min_quality=17, extra=2, policy=weighted)
    assert sorted(set(train.extras.base.tolist())) == list(range(9, NO_NUMBER))
    assert not train.pool.usable[list(POOR)].any() and train.pool.usable[7:20].all()


def test_damage_is_told_as_damage(tmp_path: Path, own_faces: Faces) -> None:
    cache = LatentCache(own_faces.cache)
    victim = own_faces.keys[4]
    codes = cache.get(victim).latents.tobytes()
    cache.close()
    data = (own_faces.cache / "data.mdb").read_bytes()
    assert codes in data
    (own_faces.cache / "data.mdb").write_bytes(data.replace(codes, codes[:8] + bytes([codes[8] ^ 0x10]) + codes[9:]))
    train = wrap(own_faces, min_quality=10, ratio=1.0, edits=["fine"])
    with pytest.warns(UserWarning, match="fails the checksum"):
        for _ in train.loader(batch_size=22):
            pass
    assert dict(train.counts) == {"generated": 21, "damaged": 1}


def test_records_are_read_once(graded: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    train, read = wrap(graded, min_quality={"psnr": 17, "ssim": 0.1}), Counter[str]()
    original = LatentCache.get_qualities

    def counted(self: LatentCache, keys: list[str]) -> Any:
        read.update(keys)
        return original(self, keys)

    monkeypatch.setattr(LatentCache, "get_qualities", counted)
    for epoch in range(3):
        drawn(train, epoch)
    assert set(read.values()) == {1} and set(read) == set(graded.keys[:NO_RECORD])


def test_recipes_go_through_json_and_back(graded: Faces) -> None:
    train = wrap(graded, min_quality=17, ratio=1.0)
    row = drawn(train)[2]
    stored = row.to_dict()
    assert stored["source"] == "low_quality" and stored["synthetic"] is False and not stored["edits"]
    assert Recipe.from_dict(stored) == row
    image, _ = replay(train, row)
    assert image.shape == (1, 3, 20, 20)
    batch = BatchRecipe.from_rows([row], ["fine"], {}, {})
    assert not batch.is_generated.any()


def test_mistakes(graded: Faces) -> None:
    with pytest.raises(
        UserInputError, match=r"min_quality asks for 'identity', but the records of .* hold mse, psnr, ssim"
    ):
        wrap(graded, min_quality={"identity": 0.8})
    with pytest.raises(UserInputError, match=r"leaves none of 21 samples: the medians .*'psnr': 19.5"):
        drawn(wrap(graded, min_quality=50))
    reader = LatentReader(LatentCache(graded.cache), graded.keys)
    assert reader.poor({}, np.ones(22, bool)).tolist() == [False] * 22


def test_weights_that_favour_the_poor() -> None:
    for given in (
        ("mse", 0.02, 0.005),
        ("perceptual", 0.5, 0.1),
        ("identity", 0.7, 0.9),
        ("mine", 2.0, 1.0),
        ("mine", 1.0, 2.0),
    ):
        assert resolve_quality_weight(given) == given
    for name, none, full in (("mse", 0.005, 0.02), ("seconds", 1, 2), ("psnr", 30, 20), ("identity", 0.9, 0.7)):
        with pytest.raises(
            UserInputError,
            match=rf"expected \('{name}', {float(full)}, {float(none)}\)|expected \('{name}', {full}, {none}\)",
        ):
            resolve_quality_weight((name, none, full))
