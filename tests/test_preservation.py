"""What ``preserve`` and ``relabel`` do to a dataset whose latents tell its labels."""

import json
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, make_header
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

import ganaug.preservation
import ganaug.stage
from ganaug import Direction, GANAugmentedDataset, LatentCache, Record, StyleMixing, replay
from ganaug.edits.table import EditTable
from ganaug.faces.face_dataset import label_faces
from ganaug.faces.sources import label_name
from ganaug.interfaces import UserInputError
from ganaug.preservation import Preservation, fitted_labels
from ganaug.provenance import BatchRecipe, Recipe
from ganaug.relabel import find_labels

COUNT = 160
SPREAD = (0.5**2 + 0.3**2) ** 0.5  # of the codes along the label: between the classes and within
QUALITY = {"mse": 0.01, "psnr": 20.0, "ssim": 0.9}


class Items(Dataset[Any]):
    """Random pictures with labels, in tuples or dicts."""

    def __init__(self, targets: Sequence[Any], as_dict: bool = False, **attributes: Any) -> None:
        self.targets, self.as_dict = list(targets), as_dict
        self.images = torch.rand(len(self.targets), 3, 16, 16, generator=torch.Generator().manual_seed(0))
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        image, target = self.images[index], self.targets[index]
        return {"image": image, "gender": target} if self.as_dict else (image, target)


class Other(Items):
    """Its items have other labels than it says, as after a target_transform."""

    def __getitem__(self, index: int) -> Any:
        return self.images[index], 1 - self.targets[index]


@dataclass(frozen=True)
class Labelled:
    """A cache whose codes tell a label of two classes along one direction.

    Attributes:
        cache: Its path; keys are "0" to "159".
        labels: ``(160,)`` 0 or 1.
        axis: ``(L, D)`` of unit length, what the classes differ by; the codes spread ``SPREAD`` along it.
        beside: ``(L, D)`` of unit length, where it is 1; nothing to do with the label.
        codes: ``(160, L, D)``.
        anchored: A cache of the same faces whose records hold these codes as anchors.
    """

    cache: Path
    labels: list[int]
    axis: Tensor
    beside: Tensor
    codes: Tensor
    anchored: Path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Labelled:
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    header = make_header(model_file)
    size = header.latent_spec.num_ws * header.latent_spec.w_dim
    labels = rng.integers(0, 2, COUNT)
    axis = rng.normal(size=size)
    axis /= np.linalg.norm(axis)
    axes = np.linalg.qr(np.column_stack([axis, rng.normal(size=(size, 10))]))[0][:, 1:]
    flat = (2.0 * labels - 1.0)[:, None] * 0.5 * axis + 0.3 * rng.normal(size=(COUNT, 1)) * axis
    flat = flat + rng.normal(size=(COUNT, 10)) @ axes.T
    codes = flat.reshape(COUNT, *header.latent_spec.shape).astype(np.float32)
    paths = folder / "faces.lmdb", folder / "anchored.lmdb"
    for path, latents in zip(paths, (codes, np.stack([codes + 0.1, codes], axis=1)), strict=True):
        kind = replace(header, dtype="float32", anchored=latents.ndim == 4)
        transform = np.eye(2, 3, dtype=np.float32)
        LatentCache.create(path, kind).put_many(
            Record(str(i), latents[i], QUALITY, transform, "0" * 64) for i in range(COUNT)
        )
    along, beside = (torch.from_numpy(v.reshape(header.latent_spec.shape)).float() for v in (axis, axes[:, 0]))
    return Labelled(paths[0], labels.tolist(), along, beside, torch.from_numpy(codes), paths[1])


def direction(labelled: Labelled, share: float, name: str = "mixed", touches: Sequence[str] = ("hair",)) -> Direction:
    """A direction of which this share of the squared length, in whitened coordinates, lies along the label."""
    vector = share**0.5 * SPREAD * labelled.axis + (1.0 - share) ** 0.5 * labelled.beside
    return Direction(name, vector, float(vector.norm()), range(6), frozenset(touches), (1.0, 2.0))


def wrap(labelled: Labelled, base: Dataset[Any] | None = None, **options: Any) -> GANAugmentedDataset:
    """Every sample a variant along a direction that is an eighth the label."""
    base = Items(labelled.labels) if base is None else base
    given = {"edits": [direction(labelled, 0.125)], "ratio": 1.0, "classical": None, "paste": "aligned", **options}
    return GANAugmentedDataset(base, given.pop("cache", labelled.cache), **given)


def codes_of(train: GANAugmentedDataset) -> tuple[Tensor, Tensor, BatchRecipe]:
    """Codes that edits move and what they become, of all samples; and the recipe."""
    stage = ganaug.stage.DeviceStage(train, "cpu")
    recipe = train.draw(range(COUNT), 0)
    latents = train.latents_for(recipe)
    own = latents["self"]
    code, anchor = (own[:, 0], own[:, 1]) if own.ndim == 4 else (own, own)
    move = stage.augmenter.edit(recipe, np.arange(COUNT), latents) - code
    return anchor, anchor + move, recipe


# ------------------------------------------------------------------------------------------- the label


@pytest.mark.parametrize("cache", ["cache", "anchored"])
def test_no_variant_moves_along_the_label(labelled: Labelled, cache: str) -> None:
    options = {"cache": getattr(labelled, cache)}
    train = wrap(labelled, preserve=["label"], **options)
    label = train.preservation.label
    assert label is not None and label.num_faces == COUNT and label.accuracy > 0.85
    before, after, _ = codes_of(train)
    assert (label.read(before) - label.read(after)).abs().max() < 1e-5
    assert (before - after).flatten(1).norm(dim=1).min() > 0.5  # it does move
    before, after, _ = codes_of(wrap(labelled, **options))
    assert (label.read(before) - label.read(after)).abs().max() > 0.05


def test_partner_edits_too(labelled: Labelled) -> None:
    train = wrap(labelled, edits=[StyleMixing("mix", range(6), {"hair"}), direction(labelled, 0.1)], preserve=["label"])
    before, after, recipe = codes_of(train)
    assert train.preservation.label is not None
    change = (train.preservation.label.read(before) - train.preservation.label.read(after)).abs()
    assert change.max() < 1e-5 and (before - after).abs().max() > 0.5
    assert {
        (labelled.labels[int(a)], labelled.labels[int(b)])
        for a, b in zip(recipe.keys, recipe.partners["mix"], strict=True)
    } == {
        (0, 0),
        (1, 1),
    }


def test_the_figures(labelled: Labelled) -> None:
    edits = [direction(labelled, share, f"of{share}") for share in (0.0, 0.125, 0.4)]
    train = wrap(labelled, edits=edits, preserve=["label"])
    report = json.loads(json.dumps(train.preservation.report()))
    assert report["label"] == {
        "partners": "same label",
        "projected": True,
        "num_faces": COUNT,
        "num_classes": 2,
        "num_axes": 1,
        "accuracy": report["label"]["accuracy"],
        "chance": max(labelled.labels.count(0), labelled.labels.count(1)) / COUNT,
    }
    for share in (0.0, 0.125, 0.4):
        assert report["edits"][f"of{share}"]["label"] == pytest.approx(share, abs=0.1)
    assert '"accuracy"' in repr(train.preservation)
    assert wrap(labelled).preservation.report() == {"attributes": [], "edits": {}}


def test_an_edit_that_is_mostly_the_label_is_refused_with_numbers(labelled: Labelled) -> None:
    train = wrap(
        labelled, edits=[direction(labelled, 0.0, "fine"), direction(labelled, 0.9, "man")], preserve=["label"]
    )
    message = (
        r"edit 'man' is mostly a change of label, \d\d% of its squared length, which preserve=\['label'\] forbids "
        r"\(read off the codes of 160 faces, held-out accuracy \d+% of faces\); leave the edit out, or let labels "
        r"follow the variants: relabel="
    )
    with pytest.raises(UserInputError, match=message):
        train.loader(batch_size=4)
    with pytest.raises(UserInputError, match=message):
        train.collate()
    wrap(labelled, edits=[direction(labelled, 0.9)], preserve=["label"], relabel="soft").loader(batch_size=4)
    wrap(labelled, edits=[direction(labelled, 0.9)]).loader(batch_size=4)


def test_an_edit_made_for_the_label_is_refused_by_name(labelled: Labelled, faces: Faces) -> None:
    columns = {"gender": ["m", "f"] * 11}
    base = label_faces(faces.root, faces.keys, columns, source="test", target="gender", transform=to_tensor)
    assert label_name(base) == label_name(Subset(base, [0, 3])) == "gender" and label_name(Items([1])) is None
    edits = [direction(labelled, 0.0, "gender")]
    with pytest.raises(UserInputError, match="edit 'gender' is there to change gender, which preserve"):
        GANAugmentedDataset(base, faces.cache, edits=edits, preserve=["label"])
    GANAugmentedDataset(base, faces.cache, edits=edits, preserve=["label"], relabel="soft")
    GANAugmentedDataset(base, faces.cache, edits=edits)


@pytest.mark.parametrize(
    ("classes", "expected"), [(["Female", "Male"], "gender"), (("man", "woman"), "gender"), (["ann", "bob"], None)]
)
def test_classes_say_what_the_label_is(classes: object, expected: str | None) -> None:
    base = Items([0, 1])
    base.classes = classes  # type: ignore[attr-defined]
    assert label_name(base) == expected
    base.label_name = "beard"  # type: ignore[attr-defined]
    assert label_name(base) == "beard"


def test_persons_are_no_subspace(faces: Faces) -> None:
    base = ImageFolder(str(faces.root), to_tensor)
    train = GANAugmentedDataset(base, faces.cache, edits=["fine"], preserve=["label"])
    with pytest.warns(UserWarning, match="moves cannot be freed of it: 2 classes over 22 faces are too few faces each"):
        train.loader(batch_size=4)
    assert train.preservation.label is None and train.preservation.subspace is None
    assert "too few" in train.preservation.report()["label"]["reason"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train.loader(batch_size=4)  # once
        GANAugmentedDataset(base, faces.cache, edits=["fine"], preserve=["label", "identity"]).preservation


def test_it_is_fitted_late_once_and_pickled(labelled: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fit = Preservation.fit.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Preservation, "fit", classmethod(lambda cls, *a, **k: calls.append(1) or fit(cls, *a, **k)))
    wrap(labelled, preserve=["label"], ratio=0.0).loader(batch_size=4)
    train = wrap(labelled, preserve=["label"])
    assert not calls
    train.loader(batch_size=4), train.loader(batch_size=4)
    copied = pickle.loads(pickle.dumps(train))
    assert torch.equal(codes_of(copied)[1], codes_of(train)[1])
    assert len(calls) == 1


def test_two_fits_are_equal(labelled: Labelled) -> None:
    first, second = (wrap(labelled, preserve=["label"]).preservation for _ in range(2))
    assert first.report() == second.report() and np.array_equal(first.subspace.basis, second.subspace.basis)  # type: ignore[union-attr]


def test_workers_make_no_difference(labelled: Labelled) -> None:
    train = wrap(labelled, preserve=["label"], relabel="soft")
    passes = [list(train.loader(batch_size=40, num_workers=workers)) for workers in (0, 2)]
    for (images, labels), (others, their) in zip(*passes, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, their)


def test_replayed_samples_are_equal(labelled: Labelled) -> None:
    train = wrap(labelled, preserve=["label"])
    images, _, info = next(iter(train.loader(batch_size=8, return_info=True)))
    for image, recipe in zip(images[:3], info["recipe"], strict=False):
        again = replay(train, Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))))[0][0]
        assert torch.allclose(again, image, atol=1e-5)


def test_amounts_and_classes() -> None:
    assert fitted_labels(["b", "a", "b"]).tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert fitted_labels([3, 7, 3]).dtype == np.int64  # type: ignore[union-attr]
    assert fitted_labels([0.5, 7.0]).tolist() == [0.5, 7.0]  # type: ignore[union-attr]
    assert fitted_labels(list(range(65))).dtype == np.float64  # type: ignore[union-attr]
    assert fitted_labels([True, False]).tolist() == [1, 0]  # type: ignore[union-attr]
    assert fitted_labels(None) is None


def test_rare_classes_are_sampled_as_often() -> None:
    labels = np.array([0] * 9000 + [1] * 1000 + [2] * 30)
    usable = np.ones(len(labels), bool)
    usable[:10] = False
    chosen = ganaug.preservation._sampled(usable, labels)
    assert np.bincount(labels[chosen]).tolist() == [2970, 1000, 30] and chosen.min() >= 10
    assert len(set(chosen.tolist())) == 4000
    assert np.bincount(labels[chosen[:256]], minlength=3)[0] > 100  # in no order


# ------------------------------------------------------------------------------------------- attributes


@pytest.fixture
def with_table(labelled: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's edit table has a direction for gender."""
    table = EditTable({"gender": direction(labelled, 1.0, "gender", ["gender", "age"])})
    monkeypatch.setattr(ganaug.preservation, "table_of", lambda generator: table)


@pytest.mark.usefixtures("with_table")
def test_moves_are_freed_of_attributes(labelled: Labelled) -> None:
    edit = direction(labelled, 0.3, touches=["gender", "hair"])
    train = wrap(labelled, edits=[edit], preserve=["gender"])
    before, after, _ = codes_of(train)
    assert train.preservation.attributes == ("gender",) and train.preservation.label is None
    # In whitened coordinates the move is orthogonal to the direction.
    whitening = train.preservation.subspace.whitening  # type: ignore[union-attr]
    moved = whitening.coordinates(after.numpy()) - whitening.coordinates(before.numpy())
    axis = (
        whitening.coordinates((labelled.axis + 0.0)[None].numpy())[0]
        - whitening.coordinates(torch.zeros_like(labelled.axis)[None].numpy())[0]
    )
    assert np.abs(moved @ axis).max() < 1e-4 and np.linalg.norm(moved, axis=1).min() > 0.5
    assert train.preservation.shares["mixed"]["gender"] == pytest.approx(0.3, abs=0.1)


@pytest.mark.usefixtures("with_table")
def test_refused_attributes(labelled: Labelled) -> None:
    with pytest.raises(UserInputError, match="edit 'gender' is there to change gender"):
        wrap(labelled, edits=[direction(labelled, 0.0, "gender")], preserve=["gender"])
    with pytest.raises(UserInputError, match=r"edit 'mixed' is mostly a change of gender, 9.% of its squared length"):
        wrap(labelled, edits=[direction(labelled, 0.95, touches=["gender"])], preserve=["gender"]).preservation
    with pytest.raises(UserInputError, match="edit 'mixed' touches age, which preserve"):  # no direction for age
        wrap(labelled, edits=[direction(labelled, 0.1, touches=["gender", "age"])], preserve=["gender", "age"])


@pytest.mark.usefixtures("with_table")
def test_label_and_attribute_together(labelled: Labelled) -> None:
    other = Items(labelled.codes.flatten(1).matmul(labelled.beside.flatten()).gt(0).long().tolist())
    train = wrap(labelled, other, edits=[StyleMixing("mix", range(6), {"hair"})], preserve=["label", "gender"])
    before, after, _ = codes_of(train)
    assert train.preservation.label is not None and set(train.preservation.shares["mix"]) == {"label", "gender"}
    assert train.preservation.subspace.basis.shape[1] == 2  # type: ignore[union-attr]
    assert (train.preservation.label.read(before) - train.preservation.label.read(after)).abs().max() < 1e-5


# ------------------------------------------------------------------------------------------- relabel


def test_soft_labels_equal_a_naive_loop(labelled: Labelled) -> None:
    train = wrap(labelled, edits=[direction(labelled, 0.9)], ratio=0.5, relabel="soft")
    _, labels, info = next(iter(train.loader(batch_size=COUNT, return_info=True)))
    assert labels.shape == (COUNT, 2) and labels.dtype == torch.float32
    assert torch.allclose(labels.sum(dim=1), torch.ones(COUNT)) and float(labels.min()) >= 0.0
    label, edit = train.preservation.label, train.policy.edits[0]
    assert label is not None
    changed = 0
    for row, recipe in enumerate(info["recipe"]):
        expected = np.eye(2)[labelled.labels[row]]
        if recipe.is_generated:
            code = labelled.codes[row : row + 1]
            params = {k: torch.tensor([v]) for k, v in recipe.edits[0].params.items()}
            edited = edit.apply(code, params) * recipe.scale + code * (1.0 - recipe.scale)
            expected = np.clip(expected + (label.read(edited) - label.read(code))[0].numpy(), 0.0, None)
            expected /= expected.sum()
            changed += expected.max() < 0.9
        assert np.abs(labels[row].numpy() - expected).max() < 1e-5
    assert changed > 10


def test_columns_are_the_numbers_of_the_classes(labelled: Labelled) -> None:
    base = Items([2 * label for label in labelled.labels], classes=["a", "b", "c", "d"])
    _, labels = next(iter(wrap(labelled, base, ratio=0.0, relabel="soft").loader(batch_size=COUNT)))
    assert torch.equal(labels, torch.eye(4)[torch.tensor(base.targets)])


def test_amounts_follow_too(labelled: Labelled) -> None:
    ages = [30.0 + 20.0 * float((code * labelled.axis).sum()) + 0.5 for code in labelled.codes]
    train = wrap(labelled, Items(ages), edits=[direction(labelled, 0.9)], relabel="soft")
    _, labels, info = next(iter(train.loader(batch_size=COUNT, return_info=True)))
    steps = torch.tensor([recipe.edits[0].params["strength"] for recipe in info["recipe"]])
    assert labels.shape == (COUNT,) and labels.dtype == torch.float32
    expected = torch.tensor(ages) + 20.0 * steps * 0.9**0.5 * SPREAD
    assert (labels - expected).abs().max() < 4.0 and (labels - torch.tensor(ages)).abs().min() > 5.0


def test_rejected_variants_keep_their_label(labelled: Labelled) -> None:
    class Never(torch.nn.Module):
        watches, template, size, compares = frozenset({"hair"}), None, None, True

        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)

        def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
            return served[:, 0], torch.arange(len(served)) < len(served) // 2

    train = wrap(labelled, edits=[direction(labelled, 0.9)], relabel="soft", gate=Never())
    _, labels, info = next(iter(train.loader(batch_size=64, return_info=True)))
    rejected = torch.tensor([recipe.source.name == "REJECTED" for recipe in info["recipe"]])
    assert rejected.any() and not rejected.all()
    hard = torch.eye(2)[torch.tensor(labelled.labels[:64])]
    assert torch.equal(labels[rejected], hard[rejected]) and not torch.equal(labels[~rejected], hard[~rejected])


def test_a_function_gets_labels_and_recipe(labelled: Labelled) -> None:
    def flipped(labels: Tensor, recipe: BatchRecipe) -> Tensor:
        return torch.where(torch.from_numpy(recipe.is_generated.copy()), 1 - labels, labels)

    train = wrap(labelled, ratio=0.5, relabel=flipped, preserve=["label"], edits=[direction(labelled, 0.9)])
    _, labels, info = next(iter(train.loader(batch_size=COUNT, return_info=True)))
    assert labels.tolist() == [a ^ b for a, b in zip(labelled.labels, info["is_generated"].tolist(), strict=True)]
    for wrong, message in ((lambda labels, recipe: labels[:-1], r"got shape \(159,\)"), (lambda a, b: 3, "got int")):
        with pytest.raises(UserInputError, match=f"relabel must return a tensor with 160 rows, {message}"):
            next(iter(wrap(labelled, relabel=wrong).loader(batch_size=COUNT)))


def test_labels_are_found(labelled: Labelled) -> None:
    image, label = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    assert find_labels((image, label, label), 0) == 1 and find_labels([label, image, label], 1) == 2
    assert find_labels({"image": image, "x": 3, "target": label}, "image") == "target"
    assert find_labels({"image": image, "who": label}, "image", "who") == "who"
    assert find_labels((image, label, label), 0, 2) == 2
    for batch, key, message in (
        ((image,), None, "holds 1 entries; say where they are: label_key="),
        ({"image": image, "who": label}, None, "holds who; say where"),
        ({"image": image, "who": label}, "person", "holds who; expected label_key='person' there"),
        ((image, ["a", "b"]), None, "relabel found list where labels should be"),
        (
            (image, torch.zeros(3)),
            None,
            r"relabel found \(3,\) where labels should be \(1\): expected a tensor with 2 rows",
        ),
    ):
        where = "image" if isinstance(batch, dict) else 0
        with pytest.raises(UserInputError, match=message):
            find_labels(batch, where, key)
    train = wrap(labelled, Items(labelled.labels, as_dict=True), relabel="soft", label_key="gender")
    batch = next(iter(train.loader(batch_size=4)))
    assert batch["gender"].shape == (4, 2) and batch["image"].shape == (4, 3, 16, 16)


def test_relabel_refusals(labelled: Labelled, faces: Faces) -> None:
    with pytest.raises(UserInputError, match="relabel must be 'soft', None or a function"):
        wrap(labelled, relabel="hard")
    with pytest.raises(
        UserInputError, match="label_key='y' says where relabel finds the labels, but there is no relabel"
    ):
        wrap(labelled, label_key="y")
    train = GANAugmentedDataset(ImageFolder(str(faces.root), to_tensor), faces.cache, relabel="soft")
    with pytest.raises(
        UserInputError, match="relabel='soft' needs labels that codes tell: 2 classes over 22 faces are too few"
    ):
        train.loader(batch_size=4)
    train = wrap(labelled, Other(labelled.labels), relabel="soft")
    with pytest.raises(UserInputError, match="a target_transform changes them"):
        next(iter(train.loader(batch_size=4)))
