"""What is known of samples beyond their keys: groups, labels, quality of the inversion, number of the variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ganaug.faces.sources import list_attributes
from ganaug.interfaces import UserInputError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Traits:
    """What a policy may know of the samples of one batch. None: nobody asked.

    Attributes:
        group: ``(B,)`` number of each sample's group.
        group_names: Name of each group.
        quality: ``(B,)`` float64, the figure that ``quality_weight`` names; NaN where it is unknown.
        label: ``(B,)`` number of each sample's class.
        variant: ``(B,)``; 0 for a sample of the base dataset, v for its v-th extra variant, which is always made.
    """

    group: Ints | None = None
    group_names: Sequence[str] = ()
    quality: NDArray[np.float64] | None = None
    label: Ints | None = None
    variant: Ints | None = None


@dataclass(frozen=True)
class Groups:
    """A group for every sample of a dataset.

    Attributes:
        names: ``G`` names, in the order of their first member.
        of: ``(N,)`` number of each sample's group.
    """

    names: tuple[str, ...]
    of: Ints

    @classmethod
    def build(cls, groups: Sequence[Any] | str | None, dataset: Dataset[Any], count: int) -> "Groups":
        """Groups of a dataset.

        Args:
            groups: A value per sample (text, numbers, tuples of them: two belong together if they print the same), the
                name of an attribute of the dataset (see :func:`ganaug.faces.sources.list_attributes`), or None for the
                dataset's labels.
            dataset: Map-style dataset of ``count`` items.
            count: N.

        Raises:
            UserInputError: For an attribute that the dataset lacks, another number of values, or missing values.
        """
        if groups is None or isinstance(groups, str):
            wanted, known = "label" if groups is None else groups, list_attributes(dataset)
            if wanted not in known:
                has = f"knows {', '.join(known)}" if known else "keeps none (.targets, .labels or .y)"
                raise UserInputError(
                    f"groups={groups!r} asks for {wanted!r} of every sample, but {type(dataset).__name__} {has}; give "
                    "groups=[one value per sample]"
                )
            groups = known[wanted]
        if isinstance(groups, Mapping) or not hasattr(groups, "__iter__") or not hasattr(groups, "__len__"):
            raise UserInputError(f"groups must hold one value per sample, or name an attribute; got {groups!r}")
        values = [v.item() if hasattr(v, "item") and getattr(v, "ndim", 0) == 0 else v for v in groups]
        if len(values) != count:
            raise UserInputError(f"groups has {len(values)} values, but the dataset has {count} samples")
        missing = [i for i, v in enumerate(values) if v is None or (isinstance(v, float) and v != v) or str(v) == ""]
        if missing:
            raise UserInputError(
                f"groups has no value for {len(missing)} of {count} samples, the first at {missing[0]}; give these a "
                "group of their own, such as 'unknown'"
            )
        texts = [str(v) for v in values]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(texts))}
        return cls(tuple(numbers), np.array([numbers[text] for text in texts], np.int64))

    @property
    def counts(self) -> Ints:
        """``(G,)`` samples of each group."""
        return np.bincount(self.of, minlength=len(self.names)).astype(np.int64)
