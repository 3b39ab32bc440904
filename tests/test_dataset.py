"""The wrapper: what it looks through, what it falls back to, what it refuses."""

import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Faces, Items, random_generator, random_latents, write_cache, write_faces, write_model
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor, to_tensor

from ganaug import AugmentationPolicy, GANAugmentedDataset, LatentCache, StyleMixing, load_generator
from ganaug.faces.sources import list_items, list_labels
from ganaug.interfaces import CacheError, UserInputError


def wrap(faces: Faces, base: Dataset[Any] | None = None, **options: Any) -> GANAugmentedDataset:
    base = base if base is not None else ImageFolder(str(faces.root), to_tensor)
    return GANAugmentedDataset(base, faces.cache, **{"ratio": 1.0, "edits": ["middle"], "classical": None, **options})


def images_of(faces: Faces, **options: Any) -> Items:
    """The folder's images as tensors in memory: no paths."""
    folder = ImageFolder(str(faces.root), to_tensor)
    return Items([folder[i] for i in range(len(folder))], **options)


def sources(train: GANAugmentedDataset, epoch: int = 0) -> list[str]:
    """Source of every sample, in order, as the loader finds it."""
    loader = train.loader(batch_size=len(train), return_info=True)
    loader.set_epoch(epoch)
    return [recipe.source.name for recipe in next(iter(loader))[-1]["recipe"]]


# ---------------------------------------------------------------------------- what it looks through


def test_it_is_the_base_dataset(faces: Faces) -> None:
    base = ImageFolder(str(faces.root), to_tensor)
    train = wrap(faces, base)
    assert len(train) == len(base) == 22
    for index in (0, 7, 21):
        assert torch.equal(train[index][0], base[index][0]) and train[index][1] == base[index][1]
    plain, ours = DataLoader(base, batch_size=5), DataLoader(train, batch_size=5)
    for (images, labels), (our_images, our_labels) in zip(plain, ours, strict=True):
        assert torch.equal(images, our_images) and torch.equal(labels, our_labels)
    assert not train.counts


def test_keys_of_an_image_folder(faces: Faces) -> None:
    items = list_items(ImageFolder(str(faces.root)))
    assert [item.key for item in items] == faces.keys
    assert [item.path for item in items] == [str(faces.root / key) for key in faces.keys]


def test_keys_through_subset_and_concat(faces: Faces, own_faces: Faces) -> None:
    base = ImageFolder(str(faces.root), to_tensor)
    half = Subset(base, [21, 3, 3, 8])
    nested = ConcatDataset([Subset(half, [0, 3]), base])
    expected = [faces.keys[i] for i in (21, 8, *range(22))]
    assert [item.key for item in list_items(nested)] == expected
    labels = list_labels(nested)
    assert labels is not None and labels.tolist() == [1, 0, *[0] * 11, *[1] * 11]
    train = wrap(faces, nested)
    batch = next(iter(train.loader(batch_size=24, return_info=True)))
    assert batch[-1]["source_key"] == expected
    # The same face draws the same wherever it stands, and its pixels are made from its own latents.
    alone = next(iter(wrap(faces).loader(batch_size=22, return_info=True)))
    assert batch[-1]["recipe"][0] == alone[-1]["recipe"][21]
    torch.testing.assert_close(batch[0][2:], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(batch[0][0], alone[0][21], atol=1e-5, rtol=0)


def test_subset_of_the_wrapper_with_our_collate(faces: Faces) -> None:
    train = wrap(faces)
    loader = DataLoader(Subset(train, [20, 1, 5]), batch_size=3, collate_fn=train.collate(return_info=True))
    images, labels, info = next(iter(loader))
    assert info["source_key"] == [faces.keys[i] for i in (20, 1, 5)]
    assert info["source_index"].tolist() == [20, 1, 5] and labels.tolist() == [1, 0, 0]
    assert info["recipe"] == train.draw([20, 1, 5], 0).rows()
    whole = next(iter(train.loader(batch_size=22)))[0]
    torch.testing.assert_close(images, whole[[20, 1, 5]], atol=1e-5, rtol=0)


def test_concatenated_wrappers_are_refused(faces: Faces) -> None:
    train = wrap(faces)
    loader = DataLoader(ConcatDataset([train, wrap(faces)]), batch_size=4, collate_fn=train.collate())
    with pytest.raises(UserInputError, match=r"wrap the combined dataset instead: GANAugmentedDataset\(ConcatDataset"):
        next(iter(loader))


def test_pil_items_without_a_transform(faces: Faces) -> None:
    base, train = ImageFolder(str(faces.root)), wrap(faces, ImageFolder(str(faces.root)), ratio=0.0)
    images, labels = next(iter(train.loader(batch_size=22)))
    assert images.dtype == torch.float32 and labels.tolist() == base.targets
    assert torch.equal(images, torch.stack([to_tensor(base[i][0]) for i in range(22)]))
    generated = next(iter(wrap(faces, base, ratio=1.0).loader(batch_size=22)))[0]
    assert generated.dtype == torch.float32 and 0.0 <= float(generated.min()) < float(generated.max()) <= 1.0
    torch.testing.assert_close(generated, next(iter(wrap(faces).loader(batch_size=22)))[0], atol=0, rtol=0)


def test_uint8_items_come_back_as_uint8(faces: Faces) -> None:
    base = ImageFolder(str(faces.root), pil_to_tensor)
    images = next(iter(wrap(faces, base, ratio=0.5).loader(batch_size=22)))[0]
    floats = next(iter(wrap(faces, ratio=0.5).loader(batch_size=22)))[0]
    assert images.dtype == torch.uint8
    assert torch.equal(images, (floats * 255).round().to(torch.uint8))


def test_float_image_beside_a_pil_mask(faces: Faces) -> None:
    """Only the PIL image is a byte image: the float image beside it is not divided by 255."""
    folder = ImageFolder(str(faces.root))
    items = [{"image": to_tensor(folder[i][0]), "mask": folder[i][0]} for i in range(4)]
    train = wrap(faces, Items(items), ratio=0.0, key=faces.keys.__getitem__)
    batch = next(iter(train.loader(batch_size=4)))
    assert torch.equal(batch["image"], torch.stack([item["image"] for item in items]))
    assert batch["mask"].dtype == torch.uint8


def test_key_function(faces: Faces) -> None:
    base = images_of(faces)
    train = wrap(faces, base, key=lambda index: faces.keys[21 - index])
    assert [item.key for item in train.items] == faces.keys[::-1]
    assert train.coverage == 1.0
    with pytest.raises(UserInputError, match="key must return a string for an index, got int"):
        wrap(faces, base, key=lambda index: index)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ["0", "1"]),
        ({"samples": [("/data/a/x.jpg", 0), ("/data/b/y.jpg", 1)], "root": "/data"}, ["a/x.jpg", "b/y.jpg"]),
        ({"imgs": [("/data/a/x.jpg", 0), ("/data/b/y.jpg", 1)], "root": Path("/data")}, ["a/x.jpg", "b/y.jpg"]),
        ({"filename": ["000001.jpg", "000002.jpg"], "root": "/data"}, ["000001.jpg", "000002.jpg"]),
        ({"paths": [Path("/data/x.jpg"), Path("/other/y.jpg")], "root": "/data"}, ["x.jpg", "/other/y.jpg"]),
        ({"paths": ["only one"]}, ["0", "1"]),
        ({"files": "a string"}, ["0", "1"]),
        ({"samples": [torch.zeros(1), torch.zeros(1)]}, ["0", "1"]),
    ],
)
def test_keys_of_other_datasets(attributes: dict[str, Any], expected: list[str]) -> None:
    assert [item.key for item in list_items(Items([0, 0], **attributes))] == expected


def test_a_file_that_only_the_dataset_finds(tmp_path: Path) -> None:
    """As torchvision's CelebA: names without the folder between root and file. Its content cannot be checked."""
    (tmp_path / "here.jpg").write_bytes(b"x")
    items = list_items(Items([0, 0], filename=["here.jpg", "elsewhere.jpg"], root=str(tmp_path)))
    assert [item.path for item in items] == [str(tmp_path / "here.jpg"), None]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"targets": [5, 3, 5]}, [1, 0, 1]),
        ({"labels": ["b", "a", "c"]}, [1, 0, 2]),
        ({"y": torch.tensor([7, 7, 2])}, [1, 1, 0]),
        ({"targets": [1, 2]}, None),
        ({"targets": torch.zeros(3, 40), "labels": [0, 1, 0]}, [0, 1, 0]),
        ({"targets": torch.zeros(3, 40)}, None),
    ],
)
def test_labels_of_other_datasets(attributes: dict[str, Any], expected: list[int] | None) -> None:
    labels = list_labels(Items([0, 0, 0], **attributes))
    assert (None if labels is None else labels.tolist()) == expected


# ------------------------------------------------------------------------------------- falling back


def test_samples_without_latents(own_faces: Faces) -> None:
    base = ImageFolder(str(own_faces.root), to_tensor)
    gone = {2, 3, 19}
    assert LatentCache(own_faces.cache).forget([own_faces.keys[i] for i in gone]) == 3
    train = wrap(own_faces, base)
    assert train.coverage == 19 / 22
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # expected in daily use: counted, without a warning
        images, _, info = next(iter(train.loader(batch_size=22, return_info=True)))
    assert info["is_generated"].tolist() == [i not in gone for i in range(22)]
    assert [recipe.source.name for recipe in info["recipe"]] == [
        "NO_LATENT" if i in gone else "GENERATED" for i in range(22)
    ]
    assert dict(train.counts) == {"generated": 19, "no_latent": 3}
    for i in range(22):
        assert torch.equal(images[i], base[i][0]) == (i in gone)
    assert not {edit.partner for recipe in info["recipe"] for edit in recipe.edits} & {own_faces.keys[i] for i in gone}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_has_changed(own_faces: Faces, num_workers: int) -> None:
    base = ImageFolder(str(own_faces.root), to_tensor)
    train = wrap(own_faces, base)
    loader = train.loader(batch_size=22, return_info=True, num_workers=num_workers)
    assert next(iter(loader))[-1]["is_generated"].all()
    for key in (own_faces.keys[4], own_faces.keys[15]):
        Image.new("RGB", (20, 20), "teal").save(own_faces.root / key)
    with pytest.warns(UserWarning, match=rf"{own_faces.keys[4]}.*its image has changed since; the real") as caught:
        images, _, info = next(iter(loader))
    assert len(caught) == 1
    assert [i for i in range(22) if info["recipe"][i].source.name == "STALE"] == [4, 15]
    assert torch.equal(images[4], base[4][0]) and not bool(info["is_generated"][15])
    assert dict(train.counts) == {"generated": 42, "stale": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        next(iter(loader))
    assert train.counts["stale"] == 4


def test_a_damaged_record(own_faces: Faces) -> None:
    key = own_faces.keys[9]
    LatentCache(own_faces.cache).close()
    data, latents = (own_faces.cache / "data.mdb").read_bytes(), random_latents(key).tobytes()
    assert latents in data
    wrong = latents[:100] + bytes([latents[100] ^ 4]) + latents[101:]
    # Everywhere: where LMDB has split a page, its unused part may hold an old copy.
    (own_faces.cache / "data.mdb").write_bytes(data.replace(latents, wrong))
    train = wrap(own_faces)
    with pytest.warns(UserWarning, match=rf"{key}.*fails the checksum; the real image is used.*precompute"):
        images, _, info = next(iter(train.loader(batch_size=22, return_info=True)))
    assert [recipe.source.name for recipe in info["recipe"]] == ["GENERATED"] * 9 + ["DAMAGED"] + ["GENERATED"] * 12
    assert torch.equal(images[9], train.dataset[9][0])
    assert train.counts["damaged"] == 1
    # Whoever drew the damaged face as a partner does without this edit, and its recipe says so.
    met = 0
    for epoch in range(1, 5):
        loader = train.loader(batch_size=22, return_info=True)
        loader.set_epoch(epoch)
        rows, drawn = next(iter(loader))[-1]["recipe"], train.draw(range(22), epoch)
        for i in range(22):
            left_out = i == 9 or drawn.partners["middle"][i] == key
            assert [edit.name for edit in rows[i].edits] == ([] if left_out else ["middle"])
            met += i != 9 and left_out
    assert met > 0


def test_no_key_matches(faces: Faces) -> None:
    train = wrap(faces, images_of(faces))
    with pytest.raises(CacheError, match=r"keys look like '0', the cache's like 'ann/00.jpg'; run `ganaug precompute`"):
        next(iter(train.loader(batch_size=4)))
    # Real images alone need no latents.
    assert sources(wrap(faces, images_of(faces), ratio=0.0)) == ["REAL"] * 22


def test_the_wrong_generator(faces: Faces, tmp_path: Path) -> None:
    other = random_generator(seed=5)
    with pytest.raises(CacheError) as refused:
        wrap(faces, generator=other)
    mine = load_generator(faces.model).fingerprint
    assert mine in str(refused.value) and other.fingerprint in str(refused.value) and mine != other.fingerprint
    # The same weights under another name are the same generator.
    assert len(wrap(faces, generator=load_generator(faces.model))) == 22
    # The file that the cache names was replaced.
    model = write_model(tmp_path / "model.safetensors")
    write_cache(tmp_path / "cache.lmdb", model, faces.root, faces.keys)
    write_model(model, seed=5)
    with pytest.raises(CacheError, match=mine):
        GANAugmentedDataset(ImageFolder(str(faces.root)), tmp_path / "cache.lmdb")


def test_counts_add_up(faces: Faces) -> None:
    train = wrap(faces, ratio=0.5)
    for _ in train.loader(batch_size=5):
        pass
    recipe = train.draw(range(22), 0)
    assert dict(train.counts) == {
        "generated": int(recipe.is_generated.sum()),
        "real": int((~recipe.is_generated).sum()),
    }


# ----------------------------------------------------------------------------------------- preserve


def test_preserve(faces: Faces) -> None:
    with pytest.raises(UserInputError, match=r"edit 'coarse' touches identity, which preserve=.* forbids"):
        wrap(faces, edits=["fine", "coarse"], preserve=["identity"], gate=None)
    # Default edits are filtered, whatever they touch.
    names = {edit.name for edit in wrap(faces, edits=None).policy.edits}
    kept = {edit.name for edit in wrap(faces, edits=None, preserve=["identity"], gate=None).policy.edits}
    assert kept == {edit.name for edit in wrap(faces, edits=None).policy.edits if "identity" not in edit.touches}
    assert 0 < len(kept) < len(names)
    # Where a gate watches identity, edits may touch it; nothing else that is preserved.
    assert {edit.name for edit in wrap(faces, edits=None, preserve=["identity"]).policy.edits} == names
    with pytest.raises(UserInputError, match=r"edit 'coarse' touches pose, which preserve=.* forbids"):
        wrap(faces, edits=["fine", "coarse"], preserve=["identity", "pose"])
    with pytest.raises(UserInputError, match="every default edit touches something in preserve"):
        wrap(faces, edits=None, preserve=["lighting", "expression"])
    with pytest.raises(UserInputError, match=r"unknown attributes \['identiy'\]; known are"):
        wrap(faces, preserve=["identiy"])


def test_preserve_the_label(faces: Faces) -> None:
    train = wrap(faces, edits=["middle", "fine"], preserve=["label"])
    for epoch in range(30):
        for row in train.draw(range(22), epoch).rows():
            for edit in row.edits:
                assert edit.partner is not None and edit.partner != row.key
                assert edit.partner.split("/")[0] == row.key.split("/")[0]
    with pytest.raises(UserInputError, match="preserve has 'label', but Items keeps no labels"):
        wrap(faces, images_of(faces), key=faces.keys.__getitem__, preserve=["label"])
    labelled = images_of(faces, labels=[i % 2 for i in range(22)])
    train = wrap(faces, labelled, key=faces.keys.__getitem__, preserve=["label"])
    for i, partner in enumerate(train.draw(range(22), 0).partners["middle"]):
        assert faces.keys.index(partner) % 2 == i % 2


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "ratio is the expected share.*got 1.5"),
        ({"ratio": -0.1}, "ratio is the expected share.*got -0.1"),
        ({"ratio": float("nan")}, "ratio is the expected share.*got nan"),
        ({"ratio": "0.5"}, "ratio must be a number in .*, got '0.5'"),
        ({"edits": ["smile"]}, "unknown edit 'smile': expected one of coarse, middle"),
        ({"edits": ["fine", "fine"]}, "edits named more than once: fine"),
        ({"edits": ["fine", StyleMixing("fine", [0], set())]}, "edits named more than once: fine"),
        ({"edits": [3]}, "an edit is a name or an object with the Edit protocol, got int"),
        ({"edits": "fine"}, "edits is a sequence of names or Edit objects, got 'fine'"),
        ({"edits": 3}, "edits is a sequence of names or Edit objects, got 3"),
        ({"edits": ["fine"], "preserve": "lighting"}, "preserve is a sequence of attribute names"),
        ({"classical": "kornia"}, "classical must be 'default', None or a torch module, got 'kornia'"),
    ],
)
def test_arguments_that_are_refused(faces: Faces, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        wrap(faces, **options)


def test_a_schedule_that_leaves_the_range(faces: Faces) -> None:
    train = wrap(faces, ratio=lambda epoch: [0.5, 2][epoch])
    loader = train.loader(batch_size=22)
    assert len(list(loader)) == 1
    with pytest.raises(UserInputError, match="between 0 and 1; got 2"):
        list(loader)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


class MeasuredStream(Stream):
    def __len__(self) -> int:
        return 5


@pytest.mark.parametrize("dataset", [Stream(), MeasuredStream(), iter([1, 2])])
def test_datasets_without_an_index(faces: Faces, dataset: Any) -> None:
    with pytest.raises(UserInputError, match="expected a map-style dataset with __len__ and __getitem__, got"):
        wrap(faces, dataset)


def grey(images: Tensor) -> Tensor:
    return images.mean(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (grey, r"no RGB images \(B, 3, H, W\) found at the top level of the batch; it holds \[\(22, 1, 20, 20\)"),
        (lambda images: images * 2 - 1, r"float images must be in .*, got -1 to 1; .* say normalize=\(mean, std\)"),
        (lambda images: images * 255, r"float images must be in .*, got 0 to 255; .* say normalize=\(mean, std\)"),
        (lambda images: (images * 255).to(torch.int16), "images must be uint8 or float in .*, got torch.int16"),
    ],
)
def test_images_that_are_refused(faces: Faces, change: Callable[[Tensor], Tensor], message: str) -> None:
    base = images_of(faces)
    images, labels = default_collate([base[i] for i in range(22)])
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.0, 1.0
    items = Items(list(zip(change(images), labels, strict=True)))
    train = wrap(faces, items, key=faces.keys.__getitem__)
    with pytest.raises(UserInputError, match=message):
        next(iter(train.loader(batch_size=22)))
    with pytest.raises(UserInputError, match=message):
        next(iter(DataLoader(train, batch_size=22, collate_fn=train.collate())))


def test_images_of_different_sizes(faces: Faces) -> None:
    items = [(torch.zeros(3, 20 + i % 2, 20), i) for i in range(22)]
    train = wrap(faces, Items(items), key=faces.keys.__getitem__)
    message = r"images of one batch have different sizes \[\(3, 20, 20\), \(3, 21, 20\)\]; add a Resize"
    with pytest.raises(UserInputError, match=message):
        next(iter(train.loader(batch_size=4)))
    with pytest.raises(UserInputError, match=message):  # also through a worker
        next(iter(train.loader(batch_size=4, num_workers=1)))


def test_items_that_are_bare_images(faces: Faces) -> None:
    train = wrap(faces, Items([torch.zeros(3, 20, 20)] * 22), key=faces.keys.__getitem__)
    with pytest.raises(UserInputError, match=r"items must be tuples or dicts .* got Tensor; return \(image,\)"):
        next(iter(train.loader(batch_size=4)))


def test_a_base_collate_that_drops_samples(faces: Faces) -> None:
    loader = wrap(faces).loader(batch_size=4, collate_fn=lambda items: default_collate(items[1:]))
    with pytest.raises(UserInputError, match="made 3 images of 4 samples; it must keep them all"):
        next(iter(loader))


def test_epochs_are_not_negative(faces: Faces) -> None:
    train = wrap(faces)
    with pytest.raises(UserInputError, match="epoch must be 0 or more, got -1"):
        train.set_epoch(-1)
    with pytest.raises(UserInputError, match="epoch must be 0 or more, got -1"):
        train.loader().set_epoch(-1)


# -------------------------------------------------------------------------------------------- state


def test_pickling(faces: Faces) -> None:
    train = wrap(faces, ratio=0.5, edits=None, classical="default")
    first = next(iter(train.loader(batch_size=22, return_info=True)))
    again: GANAugmentedDataset = pickle.loads(pickle.dumps(train))
    second = next(iter(again.loader(batch_size=22, return_info=True)))
    assert torch.equal(first[0], second[0]) and first[-1]["recipe"] == second[-1]["recipe"]
    assert again.counts.total() == 2 * train.counts.total() == 44


def test_the_epoch_of_the_collate(faces: Faces) -> None:
    train = wrap(faces, ratio=0.5, edits=["fine", "middle"])
    loader = DataLoader(train, batch_size=8, collate_fn=train.collate(return_info=True))
    for epoch in (0, 3, 1):
        train.set_epoch(epoch)
        rows = [recipe for batch in loader for recipe in batch[-1]["recipe"]]
        assert rows == train.draw(range(22), epoch).rows()


def test_a_policy_of_ones_own(faces: Faces) -> None:
    policy = AugmentationPolicy(1.0, [StyleMixing("half", [2], {"hair"}, strength=(0.5, 0.5))], mode="exact", seed=9)
    train = wrap(faces, policy=policy, ratio=0.0, edits=["coarse"])
    for row in train.draw(range(22), 0).rows():
        assert row.seed == 9 and [(edit.name, edit.params) for edit in row.edits] == [("half", {"strength": 0.5})]


class Invert(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 1.0 - images


def test_repr_and_names(faces: Faces) -> None:
    train = wrap(faces, classical=Invert())
    assert str(faces.cache) in repr(train) and "edits=['middle']" in repr(train) and "ratio=1.0" in repr(train)


def test_dataset_without_files_keeps_index_keys(faces: Faces, tmp_path: Path) -> None:
    """A cache whose keys are indices, as `precompute` makes for a dataset without files."""
    root = tmp_path / "images"
    write_faces(root, per_class=2)
    header = LatentCache(faces.cache).header
    cache = LatentCache.create(tmp_path / "cache.lmdb", header)
    record = LatentCache(faces.cache).get(faces.keys[0])
    record.key = "2"
    cache.put_many([record])
    base = TensorDataset(torch.rand(4, 3, 16, 16), torch.arange(4))
    train = GANAugmentedDataset(base, cache, ratio=1.0, edits=["fine"], classical=None)
    assert sources(train) == ["NO_LATENT", "NO_LATENT", "GENERATED", "NO_LATENT"]
    assert np.array_equal(train.pool.position, [-1, -1, 0, -1])
    # Alone in the cache, the face is its own partner: a plain reconstruction.
    assert train.draw([2], 0).partners["fine"] == ["2"]
    assert json.dumps(train.draw([2], 0).row(0).to_dict())
