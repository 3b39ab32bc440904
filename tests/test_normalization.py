"""Normalised items, tv_tensors and random base transforms: batches come back the way that the items are."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from conftest import Faces, Items
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.functional import normalize as torchvision_normalize
from torchvision.transforms.functional import to_tensor

from ganaug import GANAugmentedDataset
from ganaug.faces.normalization import Normalization, find_normalization, restore_unchanged
from ganaug.faces.photos import photos_of_dataset
from ganaug.faces.transforms import random_steps
from ganaug.interfaces import ImageError, UserInputError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's, as torchvision documents them
UNIT, NORMALISED = v1.ToTensor(), v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])


def wrap(base: Dataset[Any], faces: Faces, **options: Any) -> GANAugmentedDataset:
    return GANAugmentedDataset(base, faces.cache, **{"ratio": 0.5, "edits": ["middle"], "classical": None, **options})


def folder(faces: Faces, transform: Callable[..., Any] | None) -> ImageFolder:
    return ImageFolder(str(faces.root), transform)


def one_batch(train: GANAugmentedDataset, **options: Any) -> Any:
    return next(iter(train.loader(batch_size=len(train), **options)))


# ------------------------------------------------------------------------------- what a transform says


PIPELINES: dict[str, Any] = {
    "v1": NORMALISED,
    "v2": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    "nested": v1.Compose([v1.Compose([v1.Resize(20), v1.ToTensor()]), v2.Compose([v2.Normalize(MEAN, STD)])]),
    "sequential": v1.Compose([v1.ToTensor(), nn.Sequential(v1.CenterCrop(18), nn.Sequential(v1.Normalize(MEAN, STD)))]),
    "tensors": v1.Compose([v1.ToTensor(), v1.Normalize(torch.tensor(MEAN), torch.tensor(STD))]),
    "in two steps": v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, [1.0] * 3), v1.Normalize([0.0] * 3, STD)]),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_normalize_is_found_in_a_transform(name: str, faces: Faces) -> None:
    found = find_normalization(folder(faces, PIPELINES[name]))
    assert found is not None
    np.testing.assert_allclose(found.mean.flatten(), MEAN, atol=1e-6)
    np.testing.assert_allclose(found.std.flatten(), STD, atol=1e-6)


def test_normalize_of_published_weights(faces: Faces) -> None:
    """What ``ResNet18_Weights.DEFAULT.transforms()`` gives; made here without its table of weights."""
    from torchvision.transforms._presets import ImageClassification

    assert find_normalization(folder(faces, ImageClassification(crop_size=20))) == Normalization(MEAN, STD)


def test_normalize_is_found_through_wrappers(faces: Faces) -> None:
    base, expected = folder(faces, NORMALISED), Normalization(MEAN, STD)
    assert find_normalization(Subset(Subset(base, range(9)), [1, 3])) == expected
    assert find_normalization(ConcatDataset([base, Subset(base, [0])])) == expected
    assert find_normalization(wrap(base, faces)) == expected
    joint = Items([], transforms=v2.Compose([v2.Normalize(MEAN, STD)]))
    assert find_normalization(joint) == expected
    outside = Items([], dataset=folder(faces, v1.ToTensor()), transform=v1.Normalize(MEAN, STD))
    assert find_normalization(outside) == expected
    passing_on = Items([], dataset=base, transform=base.transform)  # one Normalize, seen twice
    assert find_normalization(passing_on) == expected
    half = Items([], dataset=folder(faces, v1.Normalize([0.5], [0.5])), transform=v1.Normalize([1.0], [2.0]))
    assert find_normalization(half) == Normalization([1.0], [1.0])  # ((x - 0.5) / 0.5 - 1) / 2 = x - 1


def test_nothing_to_be_found(faces: Faces) -> None:
    for transform in (None, UNIT, lambda image: NORMALISED(image)):
        assert find_normalization(folder(faces, transform)) is None
    targets_only = ImageFolder(str(faces.root), UNIT, target_transform=v1.Normalize(MEAN, STD))
    assert find_normalization(targets_only) is None
    assert find_normalization(Items([])) is None


def test_parts_that_are_normalised_differently(faces: Faces) -> None:
    other = v1.Compose([v1.ToTensor(), v1.Normalize([0.5], [0.5])])
    for transform, told in ((other, r"mean=\[0.5, 0.5, 0.5\]"), (UNIT, "not at all, as far as can be seen")):
        base = ConcatDataset([folder(faces, NORMALISED), folder(faces, transform)])
        with pytest.raises(UserInputError, match=rf"parts .* normalised differently: by mean=\[0.485.*{told}"):
            wrap(base, faces)
        wrap(base, faces, normalize=(MEAN, STD))


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        ("imagenet", "must be 'auto', None or"),
        ((0.5,), "must be 'auto', None or"),
        (([0.5] * 4, [0.5] * 4), "three numbers each"),
        ((MEAN, "std"), "three numbers each"),
        ((MEAN, [0.2, 0.0, 0.2]), "stds above 0"),
        ((MEAN, [0.2, float("nan"), 0.2]), "stds above 0"),
    ],
)
def test_silly_arguments(normalize: Any, message: str, faces: Faces) -> None:
    with pytest.raises(UserInputError, match=message):
        wrap(folder(faces, UNIT), faces, normalize=normalize)


# ------------------------------------------------------------------------------------------ the numbers


def test_the_numbers_are_torchvisions() -> None:
    images = torch.rand(5, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    normalization, expected = Normalization(MEAN, STD), torchvision_normalize(images, MEAN, STD)
    assert torch.equal(normalization.from_unit(images), expected)
    torch.testing.assert_close(normalization.to_unit(expected), images, atol=1e-6, rtol=0)


def test_a_pixel_that_was_left_alone_is_what_came_in() -> None:
    images = torchvision_normalize(torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)), MEAN, STD)
    normalization = Normalization(MEAN, STD)
    unit = normalization.to_unit(images)
    assert not torch.equal(normalization.from_unit(unit), images), "the way there and back rounds"
    changed = unit.clone()
    changed[1, :, 10:20] = 0.25
    out = restore_unchanged(changed, unit, images, normalization)
    assert torch.equal(out[0], images[0]) and torch.equal(out[1, :, :10], images[1, :, :10])
    expected = torchvision_normalize(torch.full((3, 10, 40), 0.25), MEAN, STD)
    assert torch.equal(out[1, :, 10:20], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classical", [None, "default"])
def test_the_batch_is_that_of_plain_items_normalised(faces: Faces, dtype: torch.dtype, classical: Any) -> None:
    """Variants in [0, 1] from items in [0, 1], normalised by torchvision, are what normalised items get."""
    unit, _ = one_batch(wrap(folder(faces, UNIT), faces, classical=classical))
    base = folder(faces, v1.Compose([*NORMALISED.transforms, lambda image: image.to(dtype)]))
    images, labels, info = one_batch(wrap(base, faces, classical=classical), return_info=True)
    assert images.dtype == dtype and labels.tolist() == base.targets
    plain = torch.stack([base[i][0] for i in range(22)])
    generated = info["is_generated"]
    assert 0 < int(generated.sum()) < 22
    if classical is None:
        assert [torch.equal(a, b) for a, b in zip(images, plain, strict=True)] == (~generated).tolist()
    # Half precision: items are rounded to 2^-9 of at most 2.6 before anything is done to them.
    tolerance = 2e-5 if dtype in (torch.float32, torch.float64) else 5e-2
    expected = torchvision_normalize(unit, MEAN, STD)
    torch.testing.assert_close(images.float(), expected, atol=tolerance, rtol=0)
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    back = images.float() * std + mean
    assert -1e-2 < float(back.min()) < 0.2 and 0.8 < float(back.max()) < 1.01


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_ratio_zero_and_collate(faces: Faces, ratio: float) -> None:
    base = folder(faces, NORMALISED)
    train = wrap(base, faces, ratio=ratio)
    batches = list(train.loader(batch_size=7))
    for batch, collated in zip(batches, DataLoader(train, batch_size=7, collate_fn=train.collate()), strict=True):
        assert torch.equal(batch[0], collated[0])
    equal = [torch.equal(b[0], p[0]) for b, p in zip(batches, DataLoader(base, batch_size=7), strict=True)]
    assert equal == [ratio == 0.0] * len(batches)


def test_real_samples_with_info_are_untouched(faces: Faces) -> None:
    """With ``return_info`` nothing is skipped, and still nothing is converted."""
    base = folder(faces, NORMALISED)
    images = one_batch(wrap(base, faces, ratio=0.0), return_info=True)[0]
    assert torch.equal(images, torch.stack([base[i][0] for i in range(22)]))


def test_a_normalize_that_cannot_be_seen(faces: Faces) -> None:
    hidden = folder(faces, lambda image: NORMALISED(image))
    message = r"float images must be in \[0, 1\], got -.*in a function of its own, say normalize=\(mean, std\)"
    with pytest.raises(UserInputError, match=message):
        one_batch(wrap(hidden, faces))
    told = one_batch(wrap(hidden, faces, normalize=(MEAN, STD)))[0]
    assert torch.equal(told, one_batch(wrap(folder(faces, NORMALISED), faces))[0])


def test_a_wrong_normalize_is_refused(faces: Faces) -> None:
    """Caffe's way, on 0 to 255: undone it gives 0 to 255, which is no [0, 1]."""
    base = folder(faces, v1.Compose([v1.PILToTensor(), v1.Lambda(lambda x: x.float()), v1.Normalize([127.5], [128])]))
    with pytest.raises(UserInputError, match=r"give -?0 to 255 when the normalisation by mean=\[127.5.* is undone"):
        one_batch(wrap(base, faces))
    given = {"normalize": (0.5, 128 / 255)}
    unit = one_batch(wrap(folder(faces, UNIT), faces))[0]
    torch.testing.assert_close(one_batch(wrap(base, faces, **given))[0], (unit * 255 - 127.5) / 128, atol=1e-5, rtol=0)


def test_items_that_cannot_be_normalised(faces: Faces) -> None:
    for transform in (None, v1.PILToTensor()):
        with pytest.raises(UserInputError, match=r"uint8 or PIL .*they are not normalised by .*normalize=None"):
            one_batch(wrap(folder(faces, transform), faces, normalize=(MEAN, STD)))


def test_not_a_number_is_refused(faces: Faces) -> None:
    items = [(torch.full((3, 20, 20), float("nan")), 0)] * 22
    with pytest.raises(UserInputError, match="got nan to nan"):
        one_batch(wrap(Items(items), faces, key=faces.keys.__getitem__))


# ------------------------------------------------------------------------------------------- tv_tensors


def keep_classes(items: list[Any]) -> Any:
    """A collate that keeps tv_tensors; torch's own gives plain tensors."""
    stacked = {key: torch.stack([item[key] for item in items]) for key in ("mask", "picture")}
    batch = {key: tv_tensors.wrap(stacked[key], like=items[0][key]) for key in stacked}
    return {**batch, "boxes": [item["boxes"] for item in items]}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tv_tensors(faces: Faces, dtype: torch.dtype, num_workers: int) -> None:
    """Class, numbers and neighbours of an image come back; the class is what the base collate makes."""
    to_image = v2.Compose([v2.ToImage(), v2.ToDtype(dtype, scale=True)])
    pictures = [to_image(Image.open(faces.root / key).convert("RGB")) for key in faces.keys]
    items = [
        {
            "mask": tv_tensors.Mask(torch.full((3, 20, 20), i, dtype=torch.uint8)),
            "boxes": tv_tensors.BoundingBoxes([[i, 2, 9, 9]], format="XYXY", canvas_size=(20, 20)),
            "picture": picture,
        }
        for i, picture in enumerate(pictures)
    ]
    train = wrap(Items(items), faces, key=faces.keys.__getitem__)
    options = {"num_workers": num_workers, "return_info": True, "collate_fn": keep_classes}
    kept = one_batch(train, **options)
    assert type(kept["picture"]) is tv_tensors.Image and type(kept["mask"]) is tv_tensors.Mask
    assert all(type(b) is tv_tensors.BoundingBoxes and b.canvas_size == (20, 20) for b in kept["boxes"])
    assert kept["picture"].dtype == dtype
    assert torch.equal(kept["mask"], torch.stack([item["mask"] for item in items]))
    assert [int(boxes[0, 0]) for boxes in kept["boxes"]] == list(range(22))
    equal = [torch.equal(a, b) for a, b in zip(kept["picture"], pictures, strict=True)]
    assert equal == (~kept["is_generated"]).tolist() and 0 < sum(equal) < 22
    plain = one_batch(wrap(Items([(p, 0) for p in pictures]), faces, key=faces.keys.__getitem__))[0]
    assert type(plain) is Tensor is type(default_collate(pictures)), "as a plain DataLoader gives it"
    assert torch.equal(plain, kept["picture"].as_subclass(Tensor))


# --------------------------------------------------------------------------------- random base transforms


RANDOM: dict[str, Any] = {
    "RandomHorizontalFlip": v1.RandomHorizontalFlip(),
    "RandomCrop": v2.RandomCrop(16),
    "ColorJitter": v1.ColorJitter(0.2),
    "RandomApply": v1.RandomApply([v1.Grayscale(3)], 0.5),
    "AutoAugment": v2.AutoAugment(),
    "RandAugment": v2.RandAugment(),
    "TrivialAugmentWide": v1.TrivialAugmentWide(),
    "AugMix": v1.AugMix(),
    "ElasticTransform": v2.ElasticTransform(),
    "GaussianNoise": v2.GaussianNoise(),
    "GaussianBlur": v2.GaussianBlur(3),
    "JPEG": v2.JPEG((20, 90)),
    "ScaleJitter": v2.ScaleJitter((20, 20)),
}
FIXED = v2.Compose(
    [
        v2.Resize(18), v2.CenterCrop(16), v2.Pad(2), v2.Grayscale(3), v2.GaussianBlur(3, 1.0),
        v2.JPEG(50), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ConvertImageDtype(), v2.Identity(),
        v2.Normalize(MEAN, STD),
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_random_base_transforms_are_told(name: str, faces: Faces) -> None:
    base = folder(faces, v1.Compose([RANDOM[name], v1.Compose([v1.ToTensor(), RANDOM[name]])]))
    with pytest.warns(UserWarning, match=rf"transform is random \({name}\).*into classical=") as caught:
        wrap(Subset(base, range(4)), faces)
    assert len(caught) == 1 and Path(caught[0].filename).name == Path(__file__).name


def test_torchvisions_random_transforms_are_all_known() -> None:
    """A transform that draws has ``make_params`` of its own (v2); those that only look at their inputs are listed."""
    drawing = {
        name
        for name, kind in vars(v2).items()
        if isinstance(kind, type) and issubclass(kind, v2.Transform) and {"make_params", "forward"} & set(vars(kind))
    }
    # Compose-like or deterministic; CutMix and MixUp work on batches.
    quiet = {"Transform", "Compose", "FiveCrop", "TenCrop", "Lambda", "CutMix", "MixUp", "Normalize", "Pad"}
    quiet |= {"LinearTransformation", "SanitizeBoundingBoxes", "SanitizeKeyPoints", "UniformTemporalSubsample"}
    quiet |= {"Resize"}
    class_of = {name: getattr(v2, name) for name in drawing - quiet}
    seen = {name for name, kind in class_of.items() if random_steps(Items([], transform=bare(kind)))}
    assert class_of.keys() - seen <= {"GaussianBlur", "JPEG"}, "those two by their range: see RANDOM"
    assert len(seen) > 20


def bare(kind: type) -> Any:
    """An instance that was never set up."""
    return kind.__new__(kind)  # type: ignore[call-overload]


def test_deterministic_base_transforms_are_not(faces: Faces) -> None:
    base = folder(faces, FIXED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = one_batch(wrap(base, faces))[0]
        random = folder(faces, v1.Compose([RANDOM["RandomCrop"], v1.ToTensor()]))
        wrap(random, faces, ratio=0.0)  # nothing is generated, so nothing can be out of place
    assert images.shape == (22, 3, 20, 20)


def test_random_items_in_memory_cannot_be_inverted() -> None:
    picture = to_tensor(Image.new("RGB", (20, 20)))
    base = Items([(picture, 0)], transform=v1.RandomHorizontalFlip())
    with pytest.raises(UserInputError, match=re.escape("Items knows no files, and its transform is random (RandomHor")):
        photos_of_dataset(base)


def test_normalised_items_in_memory_can() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    item = NORMALISED(Image.fromarray(pixels))
    image, _ = photos_of_dataset(Items([(item, 0)], transform=NORMALISED))[0].read()
    np.testing.assert_array_equal(np.asarray(image), pixels)
    with pytest.raises(ImageError, match=r"0: a float image must be in \[0, 1\], got -"):
        photos_of_dataset(Items([(item, 0)]))[0].read()
