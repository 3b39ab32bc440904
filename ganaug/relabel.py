"""Labels that follow the variants, for edits that may change what the label says."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ganaug.batches import IMAGE_KEYS
from ganaug.edits.labels import LabelSubspace
from ganaug.faces.sources import label_values, locate
from ganaug.interfaces import UserInputError
from ganaug.provenance import BatchRecipe

LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")

_MAX_COLUMNS = 256  # whole numbers from there on are no numbers of classes

RelabelFunction = Callable[[Tensor, BatchRecipe], Tensor]
Relabel = Literal["soft"] | RelabelFunction | None


def check_relabel(relabel: Relabel, label_key: str | int | None) -> None:
    """Raises UserInputError unless ``relabel`` is ``"soft"``, a function or None, and ``label_key`` goes with it."""
    if relabel is not None and relabel != "soft" and not callable(relabel):
        raise UserInputError(f"relabel must be 'soft', None or a function (labels, recipe) -> labels, got {relabel!r}")
    if label_key is not None and relabel is None:
        raise UserInputError(f"label_key={label_key!r} says where relabel finds the labels, but there is no relabel=")


def find_labels(batch: Any, images: Any, label_key: str | int | None = None) -> Any:
    """Key or position of the labels in a collated container.

    The one that ``label_key`` names; else in a dict the first of the usual names, in a tuple what follows the images.

    Args:
        batch: What the base collate made.
        images: Key or position of the images.
        label_key: The user's own word.

    Raises:
        UserInputError: If there is nothing there, or no tensor ``(B,)`` or ``(B, ...)``.
    """
    if isinstance(batch, dict):
        names = [label_key] if label_key is not None else [k for k in LABEL_KEYS if k in batch]
        where = names[0] if names and names[0] in batch else None
        has = ", ".join(str(k) for k in batch if k not in IMAGE_KEYS) or "only images"
    else:
        where = images + 1 if label_key is None else label_key
        where = where if isinstance(where, int) and -len(batch) <= where < len(batch) else None
        has = f"{len(batch)} entries"
    if where is None:
        raise UserInputError(
            f"relabel finds no labels in the batch, which holds {has}; expected label_key={label_key!r} there"
            if label_key is not None
            else f"relabel finds no labels in the batch, which holds {has}; say where they are: label_key="
        )
    entry, size = batch[where], len(batch[images])
    if not isinstance(entry, Tensor) or entry.ndim < 1 or len(entry) != size:
        got = tuple(entry.shape) if isinstance(entry, Tensor) else type(entry).__name__
        raise UserInputError(
            f"relabel found {got} where labels should be ({where!r}): expected a tensor with {size} rows; say where "
            "they are: label_key="
        )
    return where


def call_relabel(relabel: RelabelFunction, labels: Tensor, recipe: BatchRecipe) -> Tensor:
    """Labels as a user's function gives them, on the device of the old ones.

    Raises:
        UserInputError: If it returns anything but a tensor with a row for each sample.
    """
    found = relabel(labels, recipe)
    if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != len(recipe):
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserInputError(f"relabel must return a tensor with {len(recipe)} rows, got {got}")
    return found.to(labels.device, non_blocking=True)


def make_soft_labels(label: LabelSubspace | None, reason: str | None, dataset: Dataset[Any]) -> "SoftLabels":
    """Soft labels of a dataset.

    Args:
        label: Where codes tell its label.
        reason: Why that is not known, if it is not.
        dataset: Map-style dataset that keeps its labels.

    Raises:
        UserInputError: Without ``label``.
    """
    values = label_values(dataset)
    if label is None or values is None:
        why = reason or f"{type(dataset).__name__} keeps none (.targets, .labels or .y)"
        raise UserInputError(f"relabel='soft' needs labels that codes tell: {why}; give relabel a function instead")
    classes = getattr(locate(dataset, 0)[0], "classes", None)
    return SoftLabels(label, values, len(classes) if isinstance(classes, (list, tuple)) else 0)


class SoftLabels:
    """Labels as probabilities, which follow what an edit did to a face as far as its latents tell.

    A real sample has the one-hot vector of its class. To that of a variant the change of the class probabilities from
    its code to its edited code is added, read by linear discriminant analysis; negative numbers become 0, and the sum
    1. Amounts, such as an age, get the change of the amount.

    Args:
        subspace: Reads the probabilities.
        values: ``N`` labels, one for each sample. Whole numbers below 256 are the columns of the soft labels; other
            labels get columns in sorted order.
        num_classes: At least so many columns, for classes without any sample.

    Attributes:
        num_classes: C, the number of columns; 0 for amounts.
    """

    def __init__(self, subspace: LabelSubspace, values: Sequence[Any], num_classes: int = 0) -> None:
        self.subspace = subspace
        labels = np.asarray(values)
        different, numbers = np.unique(labels, return_inverse=True)
        self.num_classes = 0
        columns = np.empty(0, np.int64)
        if len(subspace.classes):
            columns = np.arange(len(different))
            if labels.dtype.kind in "iub" and int(different[0]) >= 0 and int(different[-1]) < _MAX_COLUMNS:
                columns = different.astype(np.int64)
            self.num_classes = max(num_classes, int(columns[-1]) + 1)
        self.labels = torch.from_numpy(columns[numbers] if self.num_classes else labels.astype(np.float64))
        self.columns = torch.from_numpy(columns[subspace.classes])

    def check(self, labels: Tensor, indices: NDArray[np.int64]) -> None:
        """Raises UserInputError if the labels of a batch are not those of the dataset: then columns mean nothing."""
        own = self.labels[torch.from_numpy(indices)]
        if labels.shape != own.shape or not bool(torch.isclose(labels.cpu().double(), own.double()).all()):
            raise UserInputError(
                f"relabel='soft' expects the labels that the dataset keeps ({own[:3].tolist()}, ...), but the batch "
                f"has {labels[:3].tolist()}, ...: a target_transform changes them? Give relabel a function instead"
            )

    def __call__(self, indices: NDArray[np.int64], rows: NDArray[np.int64], code: Tensor, edited: Tensor) -> Tensor:
        """Labels of a batch.

        Args:
            indices: ``(B,)`` indices of the samples in the base dataset.
            rows: ``(K,)`` which of them are variants.
            code: ``(K, L, D)`` their codes.
            edited: ``(K, L, D)`` their codes after all edits.

        Returns:
            ``(B, C)`` float32 that sum to 1; ``(B,)`` float32 for amounts. On the device of ``code``.
        """
        own = self.labels[torch.from_numpy(indices)].to(code.device, non_blocking=True)
        at = torch.from_numpy(rows).to(code.device, non_blocking=True)
        change = self.subspace.read(edited) - self.subspace.read(code)
        if not self.num_classes:
            return own.double().index_add(0, at, change).float()
        soft = torch.nn.functional.one_hot(own, self.num_classes).double()
        wide = torch.zeros(len(at), self.num_classes, dtype=torch.float64, device=code.device)
        wide[:, self.columns.to(code.device, non_blocking=True)] = change
        soft = soft.index_add(0, at, wide).clamp(min=0.0)
        return (soft / soft.sum(dim=1, keepdim=True)).float()
