"""What a sample received: everything needed to make its pixels again, or to explain them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Source(IntEnum):
    """Where the pixels of a sample came from, and why."""

    REAL = 0  # the policy drew a real image
    GENERATED = 1  # a variant made from the sample's latents
    NO_LATENT = 2  # a variant was drawn, but the cache has no record of the sample: real image
    STALE = 3  # the image file has changed since its latents were computed: real image
    DAMAGED = 4  # the record fails its checksum or is not finite: real image


@dataclass(frozen=True)
class AppliedEdit:
    """One edit of one sample.

    Attributes:
        name: The edit.
        params: Its parameters.
        partner: Key of the partner face, if the edit has one.
    """

    name: str
    params: dict[str, float]
    partner: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What one sample received in one epoch.

    Attributes:
        key: Sample key.
        epoch: Epoch of the draw.
        seed: Seed of the policy.
        source: Where its pixels came from.
        edits: Edits applied, in order; empty for real images.
        classical: Parameters of the classical augmentation; empty if there was none.
        degradation: Parameters of the degradation; empty if there was none.
    """

    key: str
    epoch: int
    seed: int
    source: Source
    edits: tuple[AppliedEdit, ...] = ()
    classical: Mapping[str, float | int | bool] | None = None
    degradation: Mapping[str, float | int] = field(default_factory=dict)

    @property
    def is_generated(self) -> bool:
        """Whether the pixels were made by the generator."""
        return self.source is Source.GENERATED

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, for JSON; floats survive exactly."""
        return {
            **asdict(self),
            "source": self.source.name.lower(),
            "classical": dict(self.classical or {}),
            "degradation": dict(self.degradation),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Inverse of :meth:`to_dict`."""
        edits = tuple(AppliedEdit(**edit) for edit in values["edits"])
        rest = {name: values[name] for name in ("key", "epoch", "seed", "classical")}
        degradation = values.get("degradation", {})  # recipes of ganaug 0.1 have none
        return cls(source=Source[str(values["source"]).upper()], edits=edits, degradation=degradation, **rest)


@dataclass
class BatchRecipe:
    """The recipes of a batch, by column.

    Attributes:
        keys: ``B`` sample keys.
        epoch: Epoch of the draws.
        seed: Seed of the policy.
        source: ``(B,)`` uint8 of :class:`Source`.
        active: ``(B, E)`` bool, which edit each sample receives; columns as ``edit_names``.
        edit_names: ``E`` names, in the order of application.
        edit_params: Name of the edit -> parameter -> ``(B,)`` tensor.
        partners: Name of the edit -> ``B`` partner keys.
        classical: Parameter -> tensor with leading size B; empty for no classical augmentation.
        degradation: Parameter -> ``(B,)`` tensor; empty for no degradation.
    """

    keys: list[str]
    epoch: int
    seed: int
    source: NDArray[np.uint8]
    active: NDArray[np.bool_]
    edit_names: tuple[str, ...]
    edit_params: dict[str, dict[str, Tensor]]
    partners: dict[str, list[str]]
    classical: dict[str, Tensor]
    degradation: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def is_generated(self) -> NDArray[np.bool_]:
        """``(B,)`` bool."""
        return np.asarray(self.source == Source.GENERATED)

    def row(self, i: int) -> Recipe:
        """The recipe of sample ``i``."""
        source = Source(int(self.source[i]))
        edits = []
        if source is Source.GENERATED:
            for column, name in enumerate(self.edit_names):
                if self.active[i, column]:
                    params = {k: float(v[i]) for k, v in self.edit_params[name].items()}
                    partner = self.partners[name][i] if name in self.partners else None
                    edits.append(AppliedEdit(name, params, partner))
        classical = {name: values[i].item() for name, values in self.classical.items()}
        degradation = {name: values[i].item() for name, values in self.degradation.items()}
        return Recipe(self.keys[i], self.epoch, self.seed, source, tuple(edits), classical, degradation)

    def rows(self) -> list[Recipe]:
        """All recipes."""
        return [self.row(i) for i in range(len(self))]

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Recipe],
        edit_names: Sequence[str],
        classical_dtypes: Mapping[str, torch.dtype],
        degradation_dtypes: Mapping[str, torch.dtype] | None = None,
    ) -> "BatchRecipe":
        """The batch that ``rows`` came from, or any other batch of them.

        Args:
            rows: Recipes of one epoch and seed.
            edit_names: Edits in order of application.
            classical_dtypes: dtype of each classical parameter, so that the round trip through JSON is exact.
            degradation_dtypes: Of each parameter of the degradation, likewise; None for no degradation.

        Raises:
            ValueError: For an edit that is not in ``edit_names``.
        """
        unknown = {edit.name for row in rows for edit in row.edits} - set(edit_names)
        if unknown:
            raise ValueError(f"recipe asks for edits {sorted(unknown)}, but only {list(edit_names)} are there")
        active = np.zeros((len(rows), len(edit_names)), bool)
        edit_params: dict[str, dict[str, Tensor]] = {}
        partners: dict[str, list[str]] = {}
        for column, name in enumerate(edit_names):
            found = {i: edit for i, row in enumerate(rows) for edit in row.edits if edit.name == name}
            active[list(found), column] = True
            names = sorted({k for edit in found.values() for k in edit.params})
            edit_params[name] = {
                k: torch.tensor([found[i].params.get(k, 0.0) if i in found else 0.0 for i in range(len(rows))])
                for k in names
            }
            if any(edit.partner is not None for edit in found.values()):
                # A sample without this edit is given itself: never applied, but every row needs latents.
                partners[name] = [(found[i].partner if i in found else None) or row.key for i, row in enumerate(rows)]
        classical = {
            name: torch.tensor([(row.classical or {})[name] for row in rows], dtype=dtype)
            for name, dtype in classical_dtypes.items()
        }
        degradation = {
            name: torch.tensor([row.degradation[name] for row in rows], dtype=dtype)
            for name, dtype in (degradation_dtypes or {}).items()
        }
        source = np.array([row.source for row in rows], np.uint8)
        first = rows[0] if rows else Recipe("", 0, 0, Source.REAL)
        return cls(
            [r.key for r in rows],
            first.epoch,
            first.seed,
            source,
            active,
            tuple(edit_names),
            edit_params,
            partners,
            classical,
            degradation,
        )
