"""The loader: same recipes and pixels however they are loaded, and the plain DataLoader's batches at ratio 0."""

import functools
import itertools
import json
from collections import OrderedDict, namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Faces, Items, random_latents
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    default_collate,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor, to_tensor

import ganaug.stage
from ganaug import GANAugmentedDataset, Recipe, StyleMixing, load_generator, replay
from ganaug.edits import rows_of
from ganaug.interfaces import UserInputError
from ganaug.loader import AugmentedLoader

# Convolutions of other batch sizes add up in another order: pixels of variants agree to 1e-5 then, not to the bit.
# Recipes always agree to the bit, and so do pixels where the batches are the same.
TOLERANCE = 1e-5

Sample = tuple[Recipe, Tensor, int]
Pair = namedtuple("Pair", ["image", "label"])


def wrap(faces: Faces, base: Dataset[Any] | None = None, **options: Any) -> GANAugmentedDataset:
    """Everything on: default edits and classical augmentation, half of the samples generated."""
    if base is None:
        return GANAugmentedDataset(ImageFolder(str(faces.root), to_tensor), faces.cache, **options)
    return GANAugmentedDataset(base, faces.cache, key=faces.keys.__getitem__, **options)


def samples(loader: Iterable[Any]) -> list[Sample]:
    """The samples of one pass, in order."""
    found = []
    for images, labels, info in loader:
        found += list(zip(info["recipe"], images.cpu(), labels.tolist(), strict=True))
        assert info["is_generated"].tolist() == [recipe.is_generated for recipe in info["recipe"]]
        assert info["source_key"] == [recipe.key for recipe in info["recipe"]]
    return found


def assert_same(ours: Sequence[Sample], expected: Sequence[Sample], tolerance: float = 0.0) -> None:
    """Same recipes and labels in the same order; same pixels, to the bit unless a tolerance is given."""
    assert [sample[0] for sample in ours] == [sample[0] for sample in expected]
    assert [sample[2] for sample in ours] == [sample[2] for sample in expected]
    torch.testing.assert_close(
        torch.stack([sample[1] for sample in ours]),
        torch.stack([sample[1] for sample in expected]),
        atol=tolerance,
        rtol=0,
    )


@pytest.fixture(scope="module")
def reference(faces: Faces) -> dict[int, list[list[Sample]]]:
    """Batch size -> two shuffled epochs, loaded without workers."""
    loaded = {}
    for batch_size in (4, 7, 64):
        loader = wrap(faces).loader(batch_size=batch_size, shuffle=True, return_info=True)
        loaded[batch_size] = [samples(loader), samples(loader)]
    return loaded


# ---------------------------------------------------------------------------- same whatever the way


def test_batch_size_changes_nothing(reference: dict[int, list[list[Sample]]]) -> None:
    for epoch, batch_size in itertools.product((0, 1), (4, 7)):
        assert_same(reference[batch_size][epoch], reference[64][epoch], TOLERANCE)
    kinds = {recipe.is_generated for recipe, _, _ in reference[64][0]}
    assert kinds == {True, False}
    assert [s[0].key for s in reference[64][0]] != [s[0].key for s in reference[64][1]]
    for epoch in (0, 1):
        assert {sample[0].epoch for sample in reference[64][epoch]} == {epoch}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize(
    ("num_workers", "batch_size", "context", "persistent"),
    [
        (1, 7, "fork", False),
        (3, 4, "fork", True),
        (3, 64, "fork", False),
        (1, 4, "spawn", True),
        (1, 7, "forkserver", True),
    ],
)
def test_workers_change_nothing(
    faces: Faces,
    reference: dict[int, list[list[Sample]]],
    num_workers: int,
    batch_size: int,
    context: str,
    persistent: bool,
) -> None:
    loader = wrap(faces).loader(
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        multiprocessing_context=context,
        persistent_workers=persistent,
        return_info=True,
    )
    for epoch in (0, 1):
        assert_same(samples(loader), reference[batch_size][epoch])


@pytest.mark.parametrize(
    ("num_workers", "persistent"), [(0, False), (2, False), (2, True)], ids=["none", "workers", "persistent"]
)
def test_resume_at_every_batch(
    faces: Faces, reference: dict[int, list[list[Sample]]], num_workers: int, persistent: bool
) -> None:
    """Stopped after every possible number of batches of epoch 1, also with workers that have read ahead."""
    train = wrap(faces)

    def make() -> AugmentedLoader:
        return train.loader(
            batch_size=7,
            shuffle=True,
            num_workers=num_workers,
            persistent_workers=persistent,
            return_info=True,
        )

    first, states = make(), []
    states.append(first.state_dict())
    for epoch in (0, 1):
        for _ in first:
            states.append(first.state_dict())
        assert first.epoch == epoch
    assert len(first) == 4 and len(states) == 9
    assert first.state_dict() == states[-1]
    everything = reference[7][0] + reference[7][1]
    # Without workers every state; with workers, which cost time, the beginning, the middle and the end of an epoch.
    for position in range(9) if num_workers == 0 else (2, 4, 7):
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(states[position])))
        assert resumed.state_dict() == states[position]  # a checkpoint right after resuming loses nothing
        seen = (22 if position >= 4 else 0) + (position % 4) * 7
        rest = everything[seen:] if position < 8 else []
        got: list[Sample] = []
        while len(got) < len(rest):
            got += samples(resumed)
        if rest:
            assert_same(got, rest)
        else:
            assert samples(resumed)[0][0].epoch == 2


def test_state_before_the_first_pass(faces: Faces) -> None:
    first, second = (wrap(faces).loader(batch_size=22, return_info=True) for _ in range(2))
    first.set_epoch(3)
    second.load_state_dict(first.state_dict())
    assert samples(second)[0][0].epoch == 3


def test_loops_that_set_the_epoch_themselves_resume_too(faces: Faces, reference: dict[int, list[list[Sample]]]) -> None:
    train = wrap(faces)
    state = {**train.loader(batch_size=7).state_dict(), "epoch": 1, "batches_yielded": 2}
    resumed = train.loader(batch_size=7, shuffle=True, return_info=True)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert_same(samples(resumed), reference[7][1][14:])
    # Another epoch than the one that was stopped begins at its beginning.
    resumed = train.loader(batch_size=7, shuffle=True, return_info=True)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)
    assert_same(samples(resumed), reference[7][0])


def test_an_epoch_that_was_left_early(faces: Faces, reference: dict[int, list[list[Sample]]]) -> None:
    loader = wrap(faces).loader(batch_size=7, shuffle=True, num_workers=1, persistent_workers=True, return_info=True)
    assert_same(samples(itertools.islice(loader, 2)), reference[7][0][:14])
    assert loader.state_dict()["batches_yielded"] == 2
    assert_same(samples(loader), reference[7][1])


@pytest.mark.parametrize("shuffle", [True, False])
def test_two_ranks_see_what_one_would(faces: Faces, reference: dict[int, list[list[Sample]]], shuffle: bool) -> None:
    ranks: list[list[Sample]] = []
    for rank in range(2):
        train = wrap(faces)
        sampler: DistributedSampler[Any] = DistributedSampler(train, num_replicas=2, rank=rank, shuffle=shuffle)
        loader = train.loader(batch_size=4, sampler=sampler, return_info=True)
        assert loader.sampler is sampler
        next(iter(loader))  # epoch 0
        ranks.append(samples(loader))
        assert len(ranks[-1]) == 11
    both = sorted(ranks[0] + ranks[1], key=lambda sample: sample[0].key)
    assert_same(both, sorted(reference[64][1], key=lambda sample: sample[0].key), TOLERANCE)


def test_padding_of_a_distributed_sampler(faces: Faces, reference: dict[int, list[list[Sample]]]) -> None:
    """Four ranks over 22 samples repeat two of them: repeats are the same samples."""
    found = []
    for rank in range(4):
        train = wrap(faces)
        sampler: DistributedSampler[Any] = DistributedSampler(train, num_replicas=4, rank=rank)
        found += [recipe for recipe, _, _ in samples(train.loader(batch_size=6, sampler=sampler, return_info=True))]
    assert len(found) == 24
    expected = {recipe.key: recipe for recipe, _, _ in reference[64][0]}
    assert {recipe.key for recipe in found} == set(expected)
    assert all(recipe == expected[recipe.key] for recipe in found)


def test_the_users_set_epoch_on_the_sampler_is_honoured(faces: Faces) -> None:
    train = wrap(faces)
    sampler: DistributedSampler[Any] = DistributedSampler(train, num_replicas=2, rank=0)
    loader = train.loader(batch_size=22, sampler=sampler, return_info=True)
    for epoch in (4, 5, 2):
        sampler.set_epoch(epoch)
        plain = list(sampler)
        (batch,) = loader
        assert {recipe.epoch for recipe in batch[-1]["recipe"]} == {epoch} == {loader.epoch}
        assert batch[-1]["source_index"].tolist() == plain
    assert next(iter(loader))[-1]["recipe"][0].epoch == 3  # left alone, it counts on
    loader.set_epoch(7)
    assert next(iter(loader))[-1]["recipe"][0].epoch == 7 == sampler.epoch


def test_the_order_is_the_samplers(faces: Faces) -> None:
    train = wrap(faces)
    for options in (
        {"sampler": [5, 3, 3, 20], "batch_size": 3},
        {"batch_sampler": [[5, 3], [3, 20]]},
        {"batch_sampler": BatchSampler(SequentialSampler(range(4)), 3, drop_last=True)},
    ):
        loader = train.loader(return_info=True, **options)
        batches = [batch[-1]["source_index"].tolist() for batch in loader]
        assert batches == list(DataLoader(range(22), collate_fn=list, **options))
        assert len(loader) == len(batches)


def test_persistent_workers_over_three_epochs(faces: Faces) -> None:
    train = wrap(faces)
    loader = train.loader(batch_size=8, num_workers=2, persistent_workers=True, return_info=True)
    epochs = [samples(loader) for _ in range(3)]
    again = train.loader(batch_size=8, return_info=True)
    for epoch in (2, 0, 1):
        again.set_epoch(epoch)
        assert_same(samples(again), epochs[epoch])
    for a, b in itertools.combinations(epochs, 2):
        assert [sample[0].classical for sample in a] != [sample[0].classical for sample in b]
        assert [sample[0].source for sample in a] != [sample[0].source for sample in b]


def test_two_loaders_over_one_dataset(faces: Faces, reference: dict[int, list[list[Sample]]]) -> None:
    train = wrap(faces)
    one = train.loader(batch_size=7, shuffle=True, return_info=True)
    two = train.loader(batch_size=4, shuffle=True, num_workers=2, return_info=True)
    two.set_epoch(1)
    first: list[Any] = []
    second: list[Any] = []
    for a, b in itertools.zip_longest(one, two):
        first += [a] if a is not None else []
        second += [b]
    assert_same(samples(first), reference[7][0])
    assert_same(samples(second), reference[4][1])


def test_collate_equals_loader(faces: Faces) -> None:
    train = wrap(faces)
    plain = DataLoader(train, batch_size=7, collate_fn=train.collate(return_info=True))
    assert_same(samples(plain), samples(train.loader(batch_size=7, return_info=True)))


def test_attributes(faces: Faces) -> None:
    train = wrap(faces)
    sampler = RandomSampler(train)
    loader = train.loader(batch_size=5, sampler=sampler)
    assert loader.dataset is train and loader.sampler is sampler and loader.batch_size == 5
    assert (len(loader), len(train.loader(batch_size=5, drop_last=True)), len(train.loader(22))) == (5, 4, 1)
    assert isinstance(train.loader().sampler, SequentialSampler)


# ---------------------------------------------------------------------------------- pixels, naively


def naive_variant(faces: Faces, recipe: Recipe, train: GANAugmentedDataset, size: tuple[int, int]) -> Tensor:
    """One variant, one step after the other: ``(3, *size)``."""
    generator = load_generator(faces.model)
    w_plus = torch.from_numpy(random_latents(recipe.key)).float()
    num_ws = len(w_plus)
    for applied in recipe.edits:
        strength = applied.params["strength"]
        if applied.partner is not None:
            partner = torch.from_numpy(random_latents(applied.partner)).float()
            for row in rows_of(applied.name, num_ws):
                w_plus[row] = (1 - strength) * w_plus[row] + strength * partner[row]
        else:
            (edit,) = (edit for edit in train.policy.edits if edit.name == applied.name)
            for row in range(num_ws):
                w_plus[row] = w_plus[row] + strength * edit.std * edit.direction
    image = ((generator.synthesis(w_plus[None]) + 1) / 2).clamp(0, 1)
    side = min(size)
    if side != image.shape[2]:
        image = F.interpolate(image, (side, side), mode="bicubic", antialias=side < image.shape[2], align_corners=False)
    return image.clamp(0, 1)[0]


@pytest.mark.parametrize("size", [(20, 20), (16, 16), (12, 12), (20, 26), (32, 16), (10, 12)])
def test_pixels_equal_a_naive_loop(faces: Faces, size: tuple[int, int]) -> None:
    """Items larger and smaller than the 16 px generator, square and not: only the centred square is replaced."""
    height, width = size
    real = torch.rand(22, 3, height, width, generator=torch.Generator().manual_seed(0))
    base, edits = Items([(real[i], i) for i in range(22)]), ["middle", "fine", "pca1"]
    train = wrap(faces, base, classical=None, edits=edits, paste="whole")
    # Where it shrinks, Lanczos before bicubic, unlike F.interpolate; tests/test_warp.py has that.
    tolerance = TOLERANCE if min(size) >= 16 else 0.1
    names = set()
    for recipe, image, i in samples(train.loader(batch_size=6, return_info=True)):
        expected = real[i].clone()
        if recipe.is_generated:
            side = min(size)
            top, left = (height - side) // 2, (width - side) // 2
            inside = expected[:, top : top + side, left : left + side]
            outside = torch.ones(height, width, dtype=torch.bool)
            outside[top : top + side, left : left + side] = False
            assert torch.equal(image[:, outside], real[i][:, outside])
            inside.copy_(naive_variant(faces, recipe, train, size))
            torch.testing.assert_close(image, expected, atol=tolerance, rtol=0)
            names |= {edit.name for edit in recipe.edits}
        else:
            assert torch.equal(image, real[i])
    assert names == {"middle", "fine", "pca1"}


class Copy:
    """An edit of a user: everything becomes the partner, scaled."""

    name = "copy"
    touches = frozenset({"identity"})
    needs_partner = True

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {"scale": (0.5 + uniforms[:, 15]).float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return params["partner"] * params["scale"][:, None, None]


def test_an_edit_of_ones_own(faces: Faces) -> None:
    train = wrap(faces, ratio=1.0, edits=[Copy()], classical=None, paste="whole")
    generator = load_generator(faces.model)
    for recipe, image, _ in samples(train.loader(batch_size=5, return_info=True)):
        (edit,) = recipe.edits
        assert edit.name == "copy" and edit.partner is not None and 0.5 <= edit.params["scale"] < 1.5
        w_plus = torch.from_numpy(random_latents(edit.partner)).float() * edit.params["scale"]
        variant = ((generator.synthesis(w_plus[None]) + 1) / 2).clamp(0, 1)
        expected = F.interpolate(variant, (20, 20), mode="bicubic", align_corners=False).clamp(0, 1)[0]
        torch.testing.assert_close(image, expected, atol=TOLERANCE, rtol=0)


def test_no_edits_give_reconstructions(faces: Faces) -> None:
    train = wrap(faces, ratio=1.0, edits=[], classical=None, paste="whole")
    for recipe, image, _ in samples(train.loader(batch_size=22, return_info=True)):
        assert recipe.is_generated and recipe.edits == ()
        torch.testing.assert_close(image, naive_variant(faces, recipe, train, (20, 20)), atol=TOLERANCE, rtol=0)


# ---------------------------------------------------------------------- ratio 0: a plain DataLoader


def assert_equal_nested(ours: Any, plain: Any) -> None:
    """Same types all the way down, same dtypes, same bits."""
    assert type(ours) is type(plain)
    if isinstance(plain, Tensor):
        assert ours.dtype == plain.dtype and torch.equal(ours, plain)
    elif isinstance(plain, dict):
        assert list(ours) == list(plain)
        for key in plain:
            assert_equal_nested(ours[key], plain[key])
    elif isinstance(plain, (list, tuple)):
        for a, b in zip(ours, plain, strict=True):
            assert_equal_nested(a, b)
    else:
        assert ours == plain


def to_half(image: Any) -> Tensor:
    return to_tensor(image).half()


def to_double(image: Any) -> Tensor:
    return to_tensor(image).double()


def make_item(container: str, image: Tensor, label: int) -> Any:
    return {
        "tuple": lambda: (image, label),
        "list": lambda: [image, label],
        "image only": lambda: (image,),
        "label first": lambda: (label, f"name {label}", image),
        "dict": lambda: {"label": label, "image": image, "name": f"name {label}"},
        "ordered dict": lambda: OrderedDict(label=label, pixels=image),
        "namedtuple": lambda: Pair(image, label),
        "nested": lambda: {"image": image, "extra": {"box": torch.ones(4) * label, "pair": (label, 0.5)}, "x": label},
    }[container]()


CONTAINERS = ["tuple", "list", "image only", "label first", "dict", "ordered dict", "namedtuple", "nested"]


@functools.cache
def plain_items(root: str, dtype: torch.dtype) -> list[tuple[Tensor, int]]:
    transform = {torch.uint8: pil_to_tensor, torch.float32: to_tensor, torch.float16: to_half}.get(dtype, to_double)
    folder = ImageFolder(root, transform)
    return [folder[i] for i in range(len(folder))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.float16, torch.float64])
@pytest.mark.parametrize("container", CONTAINERS)
def test_ratio_zero_keeps_containers(faces: Faces, container: str, dtype: torch.dtype) -> None:
    base = Items([make_item(container, *pair) for pair in plain_items(str(faces.root), dtype)])
    train = wrap(faces, base, ratio=0.0, classical=None)
    plain = list(DataLoader(base, batch_size=5))
    assert_equal_nested(list(train.loader(batch_size=5)), plain)
    assert_equal_nested(list(DataLoader(train, batch_size=5, collate_fn=train.collate())), plain)


def order_options(name: str) -> dict[str, Any]:
    seeded = torch.Generator().manual_seed(0)
    return {
        "in order": {"batch_size": 7},
        "one by one": {},
        "drop_last": {"batch_size": 7, "drop_last": True},
        "sampler": {"batch_size": 4, "sampler": RandomSampler(range(22), generator=seeded)},
        "subset": {"batch_size": 4, "sampler": SubsetRandomSampler([9, 1, 5, 20, 2], generator=seeded)},
        "batch_sampler": {"batch_sampler": BatchSampler(RandomSampler(range(22), generator=seeded), 6, True)},
        "list": {"batch_sampler": [[3, 1], [2], [21, 20, 19]]},
    }[name]


@pytest.mark.parametrize("order", ["in order", "one by one", "drop_last", "sampler", "subset", "batch_sampler", "list"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_ratio_zero_keeps_the_order(faces: Faces, order: str, dtype: torch.dtype) -> None:
    base = ImageFolder(str(faces.root), to_tensor if dtype == torch.float32 else pil_to_tensor)
    train = GANAugmentedDataset(base, faces.cache, ratio=0.0, classical=None)
    plain = list(DataLoader(base, **order_options(order)))
    assert_equal_nested(list(train.loader(**order_options(order))), plain)
    collated = DataLoader(train, collate_fn=train.collate(), **order_options(order))
    assert_equal_nested(list(collated), plain)
    assert len(collated) == len(train.loader(**order_options(order))) == len(plain)


@pytest.mark.parametrize("order", ["in order", "sampler", "batch_sampler"])
@pytest.mark.parametrize("container", ["tuple", "dict", "namedtuple"])
def test_ratio_zero_with_workers(faces: Faces, container: str, order: str) -> None:
    base = Items([make_item(container, *pair) for pair in plain_items(str(faces.root), torch.uint8)])
    train = wrap(faces, base, ratio=0.0, classical=None)
    plain = list(DataLoader(base, num_workers=2, **order_options(order)))
    assert_equal_nested(list(train.loader(num_workers=2, **order_options(order))), plain)
    if order == "in order":  # on the CPU, the collate may run in workers
        loader = DataLoader(train, num_workers=2, collate_fn=train.collate(), **order_options(order))
        assert_equal_nested(list(loader), plain)


def test_real_samples_are_untouched_beside_generated_ones(faces: Faces) -> None:
    for dtype in (torch.float32, torch.uint8, torch.float16):
        items = plain_items(str(faces.root), dtype)
        batches = wrap(faces, Items(items), ratio=0.5, classical=None).loader(batch_size=22, return_info=True)
        (batch,) = batches
        images, _, info = batch
        assert images.dtype == dtype
        assert [torch.equal(images[i], items[i][0]) for i in range(22)] == (~info["is_generated"]).tolist()


# ------------------------------------------------------------------------------- provenance, replay


@pytest.mark.parametrize("container", ["tuple", "dict", "namedtuple"])
def test_return_info(faces: Faces, container: str) -> None:
    base = Items([make_item(container, *pair) for pair in plain_items(str(faces.root), torch.float32)])
    train = wrap(faces, base)
    plain = next(iter(train.loader(batch_size=6)))
    batch = next(iter(train.loader(batch_size=6, return_info=True)))
    if container == "dict":
        names = ("is_generated", "identity_score", "source_index", "source_key", "recipe")
        info = {name: batch.pop(name) for name in names}
        assert_equal_nested(batch, plain)
    else:
        *values, info = batch
        assert_equal_nested(list(values), list(plain))
    recipe = train.draw(range(6), 0)
    assert info["is_generated"].dtype == torch.bool
    assert info["identity_score"].shape == (6,) and info["identity_score"].isnan().all()  # there is no gate
    assert info["is_generated"].tolist() == recipe.is_generated.tolist()
    assert info["source_index"].tolist() == list(range(6)) and info["source_index"].dtype == torch.int64
    assert info["source_key"] == faces.keys[:6]
    assert info["recipe"] == recipe.rows() and all(isinstance(row, Recipe) for row in info["recipe"])


class Noisy(nn.Module):
    """Draws from torch's global generator, as kornia's classes do."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.randn_like(images) * torch.rand(images.shape[0], 1, 1, 1)


@pytest.mark.parametrize("classical", ["default", None, "module"])
def test_replay(faces: Faces, classical: Any) -> None:
    train = wrap(faces, classical=Noisy() if classical == "module" else classical, edits=["middle", "fine", "pca1"])
    loader = train.loader(batch_size=6, shuffle=True, return_info=True)
    loader.set_epoch(2)
    for recipe, image, label in samples(loader):
        again, labels = replay(train, Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))))
        assert labels.tolist() == [label]
        # A batch of one: convolutions round differently; real images have none.
        torch.testing.assert_close(again[0], image, atol=TOLERANCE if recipe.is_generated else 0.0, rtol=0)


def test_replay_of_batches_of_one_is_bit_equal(faces: Faces) -> None:
    train = wrap(faces)
    for recipe, image, _ in samples(train.loader(batch_size=1, return_info=True)):
        assert torch.equal(replay(train, recipe)[0][0], image)


def test_replay_of_an_unknown_sample(faces: Faces) -> None:
    train = wrap(faces)
    recipe = Recipe.from_dict({**train.draw([0], 0).row(0).to_dict(), "key": "eve/00.jpg"})
    with pytest.raises(UserInputError, match=r"no sample with key 'eve/00.jpg' in this dataset"):
        replay(train, recipe)


def test_a_classical_module_of_ones_own(faces: Faces) -> None:
    """Its draws depend on the sample alone, and the loop's own random numbers are not moved."""
    train = wrap(faces, ratio=0.0, classical=Noisy())
    base = ImageFolder(str(faces.root), to_tensor)
    state = torch.get_rng_state()
    once = samples(
        DataLoader(train, batch_size=22, collate_fn=train.collate(return_info=True), generator=torch.Generator())
    )
    assert torch.equal(torch.get_rng_state(), state)
    for options in ({"batch_size": 5}, {"batch_size": 4, "num_workers": 2}):
        assert_same(samples(train.loader(return_info=True, **options)), once)
    noise = torch.stack([image - base[i][0] for i, (_, image, _) in enumerate(once)]).flatten(1)
    assert float(noise.std()) > 0.01
    assert float((torch.corrcoef(noise) - torch.eye(22)).abs().max()) < 0.5  # no two samples share their noise
    later = train.loader(batch_size=22, return_info=True)
    later.set_epoch(1)
    assert not torch.equal(samples(later)[0][1], once[0][1])
    assert min(float(s[1].min()) for s in once) >= 0.0 and max(float(s[1].max()) for s in once) <= 1.0


class Crop(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[..., : int(torch.randint(10, 20, ()))]


def test_a_module_that_changes_the_shape(faces: Faces) -> None:
    train = wrap(faces, classical=Crop())
    with pytest.raises(
        UserInputError, match=r"the classical module changed the shape of a sample from .*; it must keep"
    ):
        next(iter(train.loader(batch_size=4)))


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": None}, "batch_size must be at least 1, got None"),
        ({"sampler": [0], "shuffle": True}, "sampler excludes shuffle"),
        ({"batch_sampler": [[0]], "shuffle": True}, "batch_sampler excludes sampler, shuffle and drop_last"),
        ({"batch_sampler": [[0]], "sampler": [0]}, "batch_sampler excludes sampler, shuffle and drop_last"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
    ],
)
def test_arguments_that_are_refused(faces: Faces, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        wrap(faces).loader(**options)


@pytest.mark.parametrize("change", ["seed", "batch_size", "length", "fingerprint"])
def test_the_state_of_another_loader(faces: Faces, change: str) -> None:
    train = wrap(faces)
    state = train.loader(batch_size=4).state_dict()
    if change == "seed":
        other = wrap(faces, seed=8).loader(batch_size=4)
    elif change == "batch_size":
        other = train.loader(batch_size=3)
    elif change == "length":
        other = train.loader(batch_size=4, drop_last=True)
    else:
        other, state = train.loader(batch_size=4), {**state, "fingerprint": "0" * 64}
    with pytest.raises(UserInputError, match=f"this state belongs to another loader: .*{change} "):
        other.load_state_dict(state)
    train.loader(batch_size=4).load_state_dict(train.loader(batch_size=4).state_dict())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(faces: Faces) -> None:
    train = wrap(faces)
    for make in (train.loader, train.collate):
        with pytest.raises(
            UserInputError, match="'cuda' was asked for, but this torch sees no CUDA device; use device"
        ):
            make(device="cuda")


def test_cuda_inside_a_worker(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    train = wrap(faces)
    message = (
        r"variants cannot be made on cuda inside a DataLoader worker .*train.loader\(num_workers=..., device='cuda'\)"
    )
    collate = train.collate()
    collate.stage.device = torch.device("cuda")
    with pytest.raises(UserInputError, match=message):  # in a real worker
        next(iter(DataLoader(train, batch_size=2, num_workers=1, collate_fn=collate)))
    monkeypatch.setattr(ganaug.stage, "resolve_device", torch.device)
    monkeypatch.setattr(ganaug.stage, "get_worker_info", lambda: "a worker")
    for make in (train.loader, train.collate):
        with pytest.raises(UserInputError, match=message):
            make(device="cuda")
    assert train.collate(device="cpu").stage.device.type == "cpu"


def test_errors_in_the_middle_leave_the_loader_usable(faces: Faces) -> None:
    fail = True

    def collate(items: Any) -> Any:
        if fail:
            raise RuntimeError("no disk")
        return default_collate(items)

    loader = wrap(faces).loader(batch_size=22, collate_fn=collate, return_info=True)
    with pytest.raises(RuntimeError, match="no disk"):
        next(iter(loader))
    fail = False
    loader.set_epoch(0)
    assert samples(loader)[0][0].epoch == 0


def test_style_mixing_of_ones_own_rows(faces: Faces) -> None:
    """Rows that are not named do not move: with none named, mixing gives the plain reconstruction."""
    mixed = wrap(faces, ratio=1.0, edits=[StyleMixing("nothing", [], set())], classical=None, paste="whole")
    plain = wrap(faces, ratio=1.0, edits=[], classical=None, paste="whole")
    for (images, _), (expected, _) in zip(mixed.loader(batch_size=8), plain.loader(batch_size=8), strict=True):
        assert torch.equal(images, expected)


# --------------------------------------------------------------------------------------------- CUDA


def cycle(batches: Iterable[Any], passes: int) -> Iterator[Any]:
    for _ in range(passes):
        yield from batches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_cuda_draws_the_same(faces: Faces, reference: dict[int, list[list[Sample]]], num_workers: int) -> None:
    """Recipes to the bit; pixels close, as convolutions run in bfloat16 there."""
    train = wrap(faces)
    loader = train.loader(batch_size=7, shuffle=True, num_workers=num_workers, device="cuda", return_info=True)
    batches = list(cycle(loader, 2))
    assert all(batch[0].is_cuda and batch[1].is_cuda and batch[2]["is_generated"].is_cuda for batch in batches)
    found, expected = samples(batches), reference[7][0] + reference[7][1]
    assert [sample[0] for sample in found] == [sample[0] for sample in expected]
    for (recipe, image, label), (_, wanted, wanted_label) in zip(found, expected, strict=True):
        assert label == wanted_label
        difference = (image - wanted).abs()
        assert float(difference.mean()) < (0.01 if recipe.is_generated else 1e-4)
        assert float(difference.quantile(0.99)) < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ratio_zero_on_cuda(faces: Faces) -> None:
    base = ImageFolder(str(faces.root), to_tensor)
    train = GANAugmentedDataset(base, faces.cache, ratio=0.0, classical=None)
    ours = [[value.cpu() for value in batch] for batch in train.loader(batch_size=5, device="cuda", num_workers=2)]
    assert_equal_nested(ours, list(DataLoader(base, batch_size=5)))
