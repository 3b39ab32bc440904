"""What can be seen of a base dataset's transform: its steps in order, and which of them are random.

Steps are told by their class names, so that torchvision's two generations, timm and kornia are read alike and none of
them is imported. A user's own function is one step that nobody can look into.
"""

import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils.data import ConcatDataset

# torchvision's random transforms whose names do not begin with "Rand" (torchvision.transforms and .v2, 0.29).
RANDOM_NAMES = frozenset(
    {"AugMix", "AutoAugment", "ColorJitter", "ElasticTransform", "GaussianNoise", "ScaleJitter", "TrivialAugmentWide"}
)
# Random only if this attribute is a range and not one value twice.
RANDOM_IF_RANGE = {"GaussianBlur": "sigma", "JPEG": "quality"}


def dataset_steps(dataset: Any) -> list[list[Any]]:
    """Steps that the images of a dataset go through, for each part of a ``ConcatDataset``.

    Wrappers that keep what they wrap in ``dataset`` (``Subset``, ours, most people's own) are looked through; a
    transform of the wrapper comes after those of the dataset inside.

    Args:
        dataset: Any dataset; its ``transform`` is read, or ``transforms`` if there is none.
    """
    if isinstance(dataset, ConcatDataset):
        return [steps for part in dataset.datasets for steps in dataset_steps(part)]
    inner = getattr(dataset, "dataset", None)
    inner = inner if hasattr(inner, "__getitem__") else None
    parts = [[]] if inner is None else dataset_steps(inner)
    own = _transform_of(dataset)
    if inner is not None and own is _transform_of(inner):  # a wrapper that passes on the attributes of what it wraps
        own = None
    return [[*steps, *flatten(own)] for steps in parts]


def _transform_of(dataset: Any) -> Any:
    transform = getattr(dataset, "transform", None)
    return transform if transform is not None else getattr(dataset, "transforms", None)


def flatten(transform: Any) -> Iterator[Any]:
    """Steps of a transform in order; ``Compose`` and ``Sequential`` in any depth are opened."""
    names = class_names(transform)
    if transform is None:
        return
    if "StandardTransform" in names:  # torchvision's pair of a transform for images and one for targets
        yield from flatten(transform.transform)
    elif isinstance(transform, nn.Sequential) or ("Compose" in names and hasattr(transform, "transforms")):
        for step in transform if isinstance(transform, nn.Sequential) else transform.transforms:
            yield from flatten(step)
    else:
        yield transform


def class_names(step: Any) -> set[str]:
    """Names of a step's class and of the classes it derives from."""
    return {kind.__name__ for kind in type(step).__mro__}


def random_steps(dataset: Any) -> list[str]:
    """Names of the random steps in a dataset's transform, each once, in order."""
    found = (type(step).__name__ for steps in dataset_steps(dataset) for step in steps if _is_random(step))
    return list(dict.fromkeys(found))


def warn_of_random_steps(dataset: Any) -> None:
    """Warns the caller's caller if the transform of a dataset is random as far as can be seen.

    A variant is made from the photo as it lies in the file. In an item that was cropped, flipped or coloured anew at
    random, its face would stand beside the real one.
    """
    names = random_steps(dataset)
    if names:
        warnings.warn(
            f"the base dataset's transform is random ({', '.join(names)}), so variants, which are made from the photo "
            "as it is in the file, do not fit its items; keep the deterministic steps there and move the random ones "
            "into classical=, or apply them to the batches",
            stacklevel=3,
        )


def _is_random(step: Any) -> bool:
    names = class_names(step)
    if any(name.startswith("Rand") for name in names) or names & RANDOM_NAMES:
        return True
    ranges = [getattr(step, attribute, None) for name, attribute in RANDOM_IF_RANGE.items() if name in names]
    return any(isinstance(values, (tuple, list)) and len(set(values)) > 1 for values in ranges)
