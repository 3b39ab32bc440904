"""Extra variants: which photos they are of, and that they move nothing else, however they are loaded."""

import json
import pickle
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, Items, make_header, random_latents, write_faces
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from ganaug import (
    AugmentationPolicy,
    GANAugmentedDataset,
    LatentCache,
    Normal,
    Recipe,
    Record,
    StyleMixing,
    UserInputError,
    curriculum,
    replay,
)
from ganaug.extras import Extras, GroupCount
from ganaug.rng import hash_text, numbered
from ganaug.traits import Groups

TOLERANCE = 1e-5  # of pixels in batches of other sizes, see tests/test_loader.py


def groups_of(names: Sequence[Any]) -> Groups:
    return Groups.build(names, Items(names), len(names))


def hashes_of(count: int) -> Any:
    return np.array([hash_text(f"face {i}") for i in range(count)], np.int64)


# ------------------------------------------------------------------------------- which photos they are of


def test_so_many_of_every_photo() -> None:
    usable = np.array([True, False, True, True])
    extras = Extras.build(2, 8, usable, hashes_of(4), None, 0)
    assert extras.base.tolist() == [0, 2, 3, 0, 2, 3] and extras.variant.tolist() == [1, 1, 1, 2, 2, 2]
    at, variant = extras.resolve([3, 4, 1, 9, 8])
    assert at.tolist() == [3, 0, 1, 3, 2] and variant.tolist() == [0, 1, 0, 2, 2]
    assert extras.all_bases.tolist() == [0, 1, 2, 3, 0, 2, 3, 0, 2, 3] and len(extras) == 6
    none = Extras.none(4)
    assert len(none) == 0 and none.resolve([3, 0])[0].tolist() == [3, 0] and none.resolve([3])[1].tolist() == [0]


def balanced(names: Sequence[str], usable: Sequence[bool], max_extra: int, seed: int = 0) -> Extras:
    return Extras.build("balance", max_extra, np.array(usable), hashes_of(len(names)), groups_of(names), seed)


def test_balance_fills_every_group_evenly() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        names = generator.choice(["a", "b", "c", "d"], 60, p=[0.5, 0.25, 0.2, 0.05]).tolist()
        usable = generator.random(60) < 0.8
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            extras = balanced(names, usable.tolist(), 5)
        largest = max(Counter(names).values())
        of_photo = Counter(extras.base.tolist())
        for name, before in Counter(names).items():
            members = [i for i in range(60) if names[i] == name and usable[i]]
            wanted = min(largest - before, 5 * len(members))
            per_photo = [of_photo[i] for i in members]
            assert sum(per_photo) == wanted
            assert not per_photo or max(per_photo) - min(per_photo) <= 1
        assert all(usable[i] for i in of_photo)
        # The variants of a photo are numbered from 1, and all first ones come before all second ones.
        assert extras.variant.tolist() == sorted(extras.variant.tolist())
        for i, count in of_photo.items():
            assert extras.variant[extras.base == i].tolist() == list(range(1, count + 1))
        counts = extras.counts(groups_of(names))
        assert {name: count.before for name, count in counts.items()} == Counter(names)
        assert sum(count.after for count in counts.values()) == 60 + len(extras)


def test_balance_says_what_it_cannot_fill() -> None:
    names = ["a"] * 30 + ["b"] * 3 + ["c"] * 2 + ["d"] * 29
    usable = [True] * 30 + [True, True, False] + [False] * 2 + [True] * 29
    message = (
        r"cannot fill every group with at most 4 variants of a photo: 'b' \(8 of 27, from 2 usable photos\), "
        r"'c' \(0 of 28, from 0 usable photos\)\. Give max_extra= more"
    )
    with pytest.warns(UserWarning, match=message) as told:
        extras = balanced(names, usable, 4)
    assert len(told) == 1
    assert extras.counts(groups_of(names)) == {
        "a": GroupCount(30, 30),
        "b": GroupCount(3, 11),
        "c": GroupCount(2, 2),
        "d": GroupCount(29, 30),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(balanced(["a", "b", "b"], [True] * 3, 1)) == 1
        assert len(balanced(["a", "b"], [True] * 2, 1)) == 0


def test_which_photo_has_one_more_is_drawn() -> None:
    names = ["a"] * 20 + ["b"] * 10
    chosen = Counter(balanced(["a"] * 11 + ["b"] * 10, [True] * 21, 8, seed).base[0] for seed in range(300))
    assert set(chosen) == set(range(11, 21)) and max(chosen.values()) < 60  # 30 expected; 60 is over 5 sigma away
    assert balanced(names, [True] * 30, 8, 1).base.tolist() == balanced(names, [True] * 30, 8, 1).base.tolist()


def test_a_photo_listed_twice_has_different_variants() -> None:
    """Variants are numbered by key, so that no two of them are the same picture."""
    hashes = hashes_of(2)[[0, 1, 0]]
    extras = Extras.build(2, 8, np.ones(3, bool), hashes, None, 0)
    assert sorted(zip(hashes[extras.base].tolist(), extras.variant.tolist(), strict=True)) == sorted(
        [(hashes[0], v) for v in (1, 2, 3, 4)] + [(hashes[1], v) for v in (1, 2)]
    )


def test_numbered_keys() -> None:
    keys = hashes_of(300)
    assert numbered(keys, np.zeros(300, np.int64)).tolist() == keys.tolist()
    grid = np.concatenate([numbered(keys, np.full(300, n)) for n in range(40)])
    assert len(set(grid.tolist())) == 12_000 and grid.min() >= 0 and grid.dtype == np.int64
    # A bit of the number moves about half of the bits of the key.
    flipped = numbered(keys, np.full(300, 2)) ^ numbered(keys, np.full(300, 3))
    ones = np.mean([bin(int(word)).count("1") for word in flipped])
    assert abs(ones - 31.5) < 5 * np.sqrt(63 / 4 / 300)


def test_groups() -> None:
    base = Items([0, 1, 2], targets=[1, 0, 1], classes=["ann", "bob"], groups={"race": ["White", "Black", "White"]})
    for given, names, numbers in (
        (None, ("bob", "ann"), [0, 1, 0]),
        ("race", ("White", "Black"), [0, 1, 0]),
        (["x", "y", "y"], ("x", "y"), [0, 1, 1]),
        (np.array([7, 7, 3]), ("7", "3"), [0, 0, 1]),
        (torch.tensor([1.5, 2.0, 1.5]), ("1.5", "2.0"), [0, 1, 0]),
        ([("a", 1), ("a", 2), ("a", 1)], ("('a', 1)", "('a', 2)"), [0, 1, 0]),
    ):
        found = Groups.build(given, base, 3)
        assert found.names == names and found.of.tolist() == numbers
    assert Groups.build(pytest.importorskip("pandas").Series(["x", "y", "y"], index=[5, 6, 7]), base, 3).names == (
        "x",
        "y",
    )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], "groups has 2 values, but the dataset has 3 samples"),
        (["a", None, ""], "groups has no value for 2 of 3 samples, the first at 1; give these a group of their own"),
        ([1.0, 2.0, float("nan")], "groups has no value for 1 of 3 samples, the first at 2"),
        ("race", "groups='race' asks for 'race' of every sample, but Items knows label"),
        ({"a": 1}, "groups must hold one value per sample, or name an attribute"),
        (5, "groups must hold one value per sample"),
    ],
)
def test_groups_that_are_refused(groups: Any, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        Groups.build(groups, Items([0, 1, 2], targets=[0, 1, 0]), 3)
    with pytest.raises(UserInputError, match="groups=None asks for 'label' of every sample, but Items keeps none"):
        Groups.build(None, Items([0, 1, 2]), 3)


# ------------------------------------------------------------------------------------ the wrapped dataset

LABELS = [0] * 11 + [1] * 11  # of the 22 faces
RACES = ["x"] * 14 + ["y"] * 5 + ["z"] * 3  # to be balanced with 9 and 11 extra variants


def wrap(faces: Faces, base: Dataset[Any] | None = None, **options: Any) -> GANAugmentedDataset:
    """Everything on: classical augmentation, half of the samples generated, two groups to be filled."""
    base = base if base is not None else ImageFolder(str(faces.root), to_tensor)
    defaults: dict[str, Any] = {"edits": ["middle", "fine", "pca1"], "groups": RACES, "extra": "balance"}
    return GANAugmentedDataset(base, faces.cache, **{**defaults, **options})


Sample = tuple[Recipe, Tensor, int, int]


def samples(loader: Iterable[Any]) -> list[Sample]:
    """The samples of one pass, in order: recipe, image, label and index in the base dataset."""
    found = []
    for images, labels, info in loader:
        found += list(zip(info["recipe"], images, labels.tolist(), info["source_index"].tolist(), strict=True))
    return found


def by_number(found: Iterable[Sample]) -> dict[tuple[str, int], Sample]:
    return {(sample[0].key, sample[0].variant): sample for sample in found}


def assert_same(ours: Sequence[Sample], expected: Sequence[Sample], tolerance: float = TOLERANCE) -> None:
    for mine, other in zip(ours, expected, strict=True):
        assert (mine[0], mine[2], mine[3]) == (other[0], other[2], other[3])
        torch.testing.assert_close(mine[1], other[1], atol=tolerance, rtol=0)


def test_lengths_labels_and_containers(faces: Faces) -> None:
    train = wrap(faces)
    assert len(train) == 42 == 3 * 14
    assert train.group_counts() == {"x": (14, 14), "y": (5, 14), "z": (3, 14)}
    assert train.coverage == 1.0 and len(train.items) == 22
    everything = samples(train.loader(batch_size=42, return_info=True))
    for index, (recipe, image, label, base) in enumerate(everything):
        assert (recipe.variant == 0) == (index < 22)
        assert (recipe.key, label) == (faces.keys[base], LABELS[base]) and RACES[base] in ("y", "z", RACES[index % 22])
        assert image.shape == (3, 20, 20) and recipe.is_generated >= (recipe.variant > 0)
    assert Counter(RACES[sample[3]] for sample in everything) == {"x": 14, "y": 14, "z": 14}
    assert train.counts["generated"] + train.counts["real"] == 42
    # Without the augmentation: the real item of the photo.
    for index in (0, 21, 22, 41, -1):
        base = everything[index][3]
        assert torch.equal(train[index][0], train.dataset[base][0]) and train[index][1] == LABELS[base]
    for beyond in (42, -43):
        with pytest.raises(IndexError):
            train[beyond]
    plain = next(iter(DataLoader(train, batch_size=42)))
    assert plain[1].tolist() == [sample[2] for sample in everything]


def test_extras_move_nothing(faces: Faces) -> None:
    """Samples of the base dataset are drawn as without, and the variants of a photo all differ."""
    train, plain = wrap(faces), wrap(faces, groups=None, extra=0)
    assert len(plain) == 22
    for epoch in (0, 3):
        rows = train.draw(range(42), epoch).rows()
        assert rows[:22] == plain.draw(range(22), epoch).rows()
        # Everything that is drawn differs between the samples of one photo.
        for key in faces.keys:
            of_key = [row for row in rows if row.key == key]
            assert [row.variant for row in of_key] == list(range(len(of_key)))
            for get in (lambda row: row.classical, lambda row: [(e.name, e.params, e.partner) for e in row.edits]):
                values = [json.dumps(get(row)) for row in of_key if row.is_generated]
                assert len(set(values)) == len(values)
        # And nothing of a variant depends on how many there are.
        more = by_number((row, torch.empty(0), 0, 0) for row in wrap(faces, extra=5).draw(range(22 * 6), epoch).rows())
        assert all(more[row.key, row.variant][0] == row for row in rows if row.variant <= 5)
    images = by_number(samples(wrap(faces, classical=None, ratio=0.0).loader(batch_size=42, return_info=True)))
    for (key, variant), sample in images.items():
        assert variant == 0 or float((sample[1] - images[key, 0][1]).abs().max()) > 0.01
        assert variant < 2 or float((sample[1] - images[key, variant - 1][1]).abs().max()) > 0.01


def test_batches_workers_and_ranks_change_nothing(faces: Faces) -> None:
    train = wrap(faces)
    reference = by_number(samples(train.loader(batch_size=42, return_info=True)))
    assert len(reference) == 42
    for options in (
        {"batch_size": 5, "shuffle": True},
        {"batch_size": 8, "num_workers": 2, "shuffle": True},
    ):
        found = by_number(samples(wrap(faces).loader(return_info=True, **options)))
        assert_same([found[name] for name in reference], list(reference.values()))
    ranks: list[Sample] = []
    for rank in range(2):
        sampler = DistributedSampler(train, num_replicas=2, rank=rank)
        ranks += samples(wrap(faces).loader(batch_size=4, sampler=sampler, return_info=True))
    assert len(ranks) == 42
    found = by_number(ranks)
    assert_same([found[name] for name in reference], list(reference.values()))


def test_resuming_in_the_middle_of_an_epoch(faces: Faces) -> None:
    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "return_info": True}
    whole = list(wrap(faces).loader(**options))
    loader = wrap(faces).loader(**options)
    batches = iter(loader)
    next(batches), next(batches)
    resumed = wrap(faces).loader(**options)
    resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert_same(samples(resumed), samples(whole[2:]), 0.0)
    other = wrap(faces, extra=0, groups=None).loader(**options)
    with pytest.raises(UserInputError, match=r"this state belongs to another loader: .*length 6 there, 3 here"):
        other.load_state_dict(loader.state_dict())
    # As many batches, but not the same samples.
    with pytest.warns(UserWarning, match="cannot fill every group with at most 3 variants"):
        other = wrap(faces, max_extra=3).loader(batch_size=8, sampler=range(42))
    with pytest.raises(UserInputError, match="another loader: num_samples 42 there, 40 here"):
        other.load_state_dict(loader.state_dict())
    other.load_state_dict({k: v for k, v in loader.state_dict().items() if k != "num_samples"})


def test_subsets_and_collate(faces: Faces) -> None:
    train = wrap(faces)
    reference = samples(train.loader(batch_size=42, return_info=True))
    chosen = [41, 3, 22, 30, 15]
    loader = DataLoader(Subset(train, chosen), batch_size=5, collate_fn=train.collate(return_info=True))
    assert_same(samples(loader), [reference[i] for i in chosen])
    (batch,) = DataLoader(train, batch_size=42, collate_fn=train.collate(return_info=True))
    assert_same(samples([batch]), reference, 0.0)


class Noisy(nn.Module):
    """Draws from torch's global generator."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.randn_like(images)


@pytest.mark.parametrize("classical", ["default", "module"])
def test_replay(faces: Faces, classical: str) -> None:
    train = wrap(faces, classical=Noisy() if classical == "module" else classical, edits=["middle", "pca1"])
    loader = train.loader(batch_size=14, return_info=True)
    loader.set_epoch(2)
    found = samples(loader)
    for recipe, image, label, _ in found[20:30]:
        again, labels = replay(train, Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))))
        assert labels.tolist() == [label]
        torch.testing.assert_close(again[0], image, atol=TOLERANCE, rtol=0)
    if classical == "module":  # its noise differs between the variants of a photo
        images = by_number(found)
        key = next(key for key, variant in images if variant == 2)
        assert float((images[key, 1][1] - images[key, 2][1]).std()) > 0.05


def test_photos_without_usable_records(own_faces: Faces) -> None:
    """They get no extra variants; where a file has changed since, the real item is served and counted."""
    LatentCache(own_faces.cache).forget([own_faces.keys[i] for i in (15, 19)])
    train = wrap(own_faces, classical=None)
    assert not {15, 19} & set(train.extras.base.tolist())
    assert train.group_counts() == {"x": (14, 14), "y": (5, 14), "z": (3, 14)}
    Image.new("RGB", (20, 20), "teal").save(own_faces.root / own_faces.keys[20])
    with pytest.warns(UserWarning, match="its image has changed since"):
        found = samples(train.loader(batch_size=42, return_info=True))
    stale = [sample for sample in found if sample[3] == 20 and sample[0].variant]
    assert len(stale) in (5, 6) and {sample[0].source.name for sample in stale} == {"STALE"}  # 11 over two photos
    for sample in stale:
        assert torch.equal(sample[1], train.dataset[20][0])
    assert train.counts["stale"] >= 5
    assert all(sample[0].is_generated for sample in found if sample[0].variant and sample[3] != 20)


def test_ratio_zero_and_extras(faces: Faces) -> None:
    """The base is real throughout, every extra sample a variant."""
    train = wrap(faces, ratio=0.0, classical=None, extra=1, groups=None)
    assert len(train) == 44
    for loader in (train.loader(batch_size=44, return_info=True), train.loader(batch_size=7, return_info=True)):
        found = samples(loader)
        assert [sample[0].is_generated for sample in found] == [False] * 22 + [True] * 22
        for index in range(22):
            assert torch.equal(found[index][1], train.dataset[index][0])
    assert dict(train.counts) == {"real": 44, "generated": 44}
    silent = torch.cat([images for images, _ in train.loader(batch_size=7)])
    torch.testing.assert_close(silent, torch.stack([sample[1] for sample in found]), atol=0, rtol=0)
    changed = wrap(faces, ratio=0.0, extra=1, groups=None, preserve=["label"])
    partners = {edit.partner for row in changed.draw(range(22, 33), 0).rows() for edit in row.edits if edit.partner}
    assert partners and all(partner.startswith("ann/") for partner in partners)


def test_exact_mode_leaves_extras_out_of_its_count(faces: Faces) -> None:
    policy = AugmentationPolicy(0.5, ["middle"], mode="exact")
    train = wrap(faces, policy=policy)
    recipe = train.draw([0, 1, 2, 3, 30, 31, 32], 0)
    assert recipe.is_generated[:4].sum() == 2 and recipe.is_generated[4:].all()


def test_ratios_by_group_of_a_dataset(faces: Faces) -> None:
    base = ImageFolder(str(faces.root), to_tensor)
    train = wrap(faces, base, ratio={"ann": 1.0, "bob": 0.0}, groups=None, extra=0)
    assert train.draw(range(22), 0).is_generated.tolist() == [True] * 11 + [False] * 11
    train = wrap(faces, base, ratio={"x": 0.0, "y": 1.0, "z": 0.0}, extra=0)
    assert [RACES[i] for i in np.flatnonzero(train.draw(range(22), 0).is_generated)] == ["y"] * 5
    assert GANAugmentedDataset(base, faces.cache).group_counts() == {"ann": (11, 11), "bob": (11, 11)}
    with pytest.raises(UserInputError, match=r"ratio has no value for the group\(s\) 'y', 'z'; it has 'x'"):
        wrap(faces, base, ratio={"x": 0.5}, extra=0)
    train = wrap(faces, base, ratio={"x": 0.0, "y": 1.0, "z": 0.5})  # with extra samples: these are variants anyway
    assert train.draw(range(22, 42), 0).is_generated.all()


def test_edits_of_a_policy_by_name(faces: Faces) -> None:
    own = StyleMixing("own", [0], {"lighting"})
    policy = AugmentationPolicy(
        0.5,
        ["fine", own, "pca1"],
        seed=4,
        edit_ratios={"pca1": 3.0, "own": 0.0},
        strengths={"pca1": Normal(1.0, 0.2, 0.5, 1.5)},
        strength_schedule=curriculum(4),
    )
    train = wrap(faces, policy=policy, extra=0, groups=None)
    assert [edit.name for edit in train.policy.edits] == ["fine", "own", "pca1"] and train.policy.edits[1] is own
    assert policy.edits == ["fine", own, "pca1"]  # the user's own object is left alone
    assert (train.policy.seed, train.policy.edit_ratios) == (4, {"pca1": 3.0, "own": 0.0})
    rows = [edit for epoch in range(20) for row in train.draw(range(22), epoch + 3).rows() for edit in row.edits]
    assert {edit.name for edit in rows} == {"fine", "pca1"}
    assert all(0.5 <= abs(edit.params["strength"]) <= 1.5 for edit in rows if edit.name == "pca1")
    weak = [edit for row in train.draw(range(22), 0).rows() for edit in row.edits if edit.name == "pca1"]
    assert weak and all(0.125 <= abs(edit.params["strength"]) <= 0.375 for edit in weak)
    next(iter(train.loader(batch_size=22)))
    with pytest.raises(UserInputError, match="unknown edit 'hairs'"):
        wrap(faces, policy=AugmentationPolicy(0.5, ["hairs"]))
    with pytest.raises(UserInputError, match="edit 'fine' touches lighting, which preserve="):
        wrap(faces, policy=AugmentationPolicy(0.5, ["fine"], ["lighting"]))
    with pytest.raises(UserInputError, match="strengths names edits that are not there: middle; there are fine"):
        wrap(faces, policy=AugmentationPolicy(0.5, ["fine"], strengths={"middle": (0, 1)}))


class Labelled:
    """An edit that is told the label, and does nothing with it."""

    name, needs_partner, needs_label = "labelled", False, True
    touches: frozenset[str] = frozenset()

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {}

    def apply(self, w_plus: Tensor, params: Any) -> Tensor:
        assert params["label"].shape == (len(w_plus),)
        return w_plus


def test_edits_that_need_the_label(faces: Faces) -> None:
    train = wrap(faces, edits=[Labelled()], ratio=1.0)
    found = samples(train.loader(batch_size=42, return_info=True))
    assert [sample[0].edits[0].params for sample in found] == [{"label": float(sample[2])} for sample in found]
    items = Items([train.dataset[i] for i in range(22)])
    with pytest.raises(UserInputError, match="edits labelled need the label of every sample, but Items keeps none"):
        wrap(faces, items, edits=[Labelled()], key=faces.keys.__getitem__)


@pytest.fixture
def graded(tmp_path: Path, faces: Faces) -> Faces:
    """Faces whose SSIM rises from 0 to 1, but one that is not a number."""
    root, path = tmp_path / "images", tmp_path / "graded.lmdb"
    keys = write_faces(root)
    cache = LatentCache.create(path, make_header(faces.model))
    quality = {key: i / 21 for i, key in enumerate(keys)} | {keys[20]: float("nan")}
    cache.put_many(
        Record(key, random_latents(key), {"mse": 0.01, "psnr": 20.0, "ssim": quality[key]}, np.eye(2, 3), "00" * 32)
        for key in keys[:-1]
    )
    return Faces(root, path, keys, faces.model)


def test_quality_of_the_records(graded: Faces) -> None:
    policy = AugmentationPolicy(1.0, ["fine"], quality_weight=("ssim", 0.4, 0.5))
    train = wrap(graded, policy=policy, extra=0, groups=None)
    for order in (range(22), reversed(range(22))):
        indices = list(order)
        found = dict(zip(indices, train.draw(indices, 0).source.tolist(), strict=True))
        assert [found[i] for i in range(9)] == [0] * 9  # up to 8 / 21 = 0.38
        assert [found[i] for i in range(11, 20)] == [1] * 9  # from 11 / 21 = 0.52
        assert found[20] == 0 and found[21] == 2  # NaN; no record
    # What is too poor for a variant is too poor for an extra one.
    train = wrap(graded, policy=policy, extra=2, groups=None)
    assert sorted(set(train.extras.base.tolist())) == list(range(9, 20))
    with pytest.raises(UserInputError, match=r"quality_weight asks for 'lpips', but the records of .* hold mse, psnr"):
        wrap(graded, policy=AugmentationPolicy(1.0, ["fine"], quality_weight=("lpips", 0.4, 0.5)))


def test_with_keys_from_a_function_and_labels_as_dict(faces: Faces) -> None:
    folder = ImageFolder(str(faces.root), to_tensor)
    items = [{"image": folder[i][0], "label": folder[i][1], "name": f"n{i}"} for i in range(22)]
    train = wrap(faces, Items(items), key=faces.keys.__getitem__, extra=1)
    for batch in train.loader(batch_size=9, shuffle=True, return_info=True):
        assert batch["name"] == [f"n{i}" for i in batch["source_index"].tolist()]
        assert batch["label"].tolist() == [LABELS[i] for i in batch["source_index"].tolist()]


def test_the_wrapper_pickles(faces: Faces) -> None:
    train = wrap(faces)
    again = pickle.loads(pickle.dumps(train))
    assert len(again) == 42 and again.draw(range(42), 1).rows() == train.draw(range(42), 1).rows()
    worker = pickle.loads(pickle.dumps(train.loader(batch_size=4).loader.dataset))  # what a spawned worker receives
    items = worker.__getitems__([41, 3])
    assert items.indices == [41, 3] and torch.equal(items[0][0], train[41][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": -1}, "extra is the number of extra variants of every photo, 0 or more, or 'balance'; got -1"),
        ({"extra": 1.5}, "or 'balance'; got 1.5"),
        ({"extra": True}, "or 'balance'; got True"),
        ({"extra": "all"}, "or 'balance'; got 'all'"),
        ({"max_extra": 0}, "max_extra, the most variants of one photo, must be at least 1; got 0"),
        ({"groups": ["a"]}, "groups has 1 values, but the dataset has 22 samples"),
        ({"groups": "race"}, "groups='race' asks for 'race' of every sample, but ImageFolder knows label"),
    ],
)
def test_options_that_are_refused(faces: Faces, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message) as refused:
        wrap(faces, **options)
    assert "\n" not in str(refused.value)
