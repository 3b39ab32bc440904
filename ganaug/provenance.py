"""What a sample received: everything needed to make its pixels again, or to explain them."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.errors import UserInputError


class Source(IntEnum):
    """Where the pixels of a sample came from, and why."""

    REAL = 0  # the policy drew a real image
    GENERATED = 1  # a variant made from the sample's latents
    NO_LATENT = 2  # a variant was drawn, but the cache has no record of the sample: real image
    STALE = 3  # the image file has changed since its latents were computed: real image
    DAMAGED = 4  # the record fails its checksum or is not finite: real image
    REJECTED = 5  # a gate refused every variant that was made, or none had finite pixels: real image
    LOW_QUALITY = 6  # a variant was drawn, but the sample's inversion does not meet ``min_quality``: real image


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
        edits: Edits applied, in order; those that were tried for rejected ones; empty for other real images.
        classical: Parameters of the classical augmentation; empty if there was none.
        degradation: Parameters of the degradation; empty if there was none.
        scale: Share of the edits' whole move that was made: 1 as drawn, less where a gate asked for it.
        identity: Score of what is served, or of the last attempt; None if no gate watched identity.
        attempts: How many variants a gate was shown, 0 if there was none.
        variant: 0 for a sample of the base dataset, v for its v-th extra variant, see :mod:`ganaug.extras`.
    """

    key: str
    epoch: int
    seed: int
    source: Source
    edits: tuple[AppliedEdit, ...] = ()
    classical: Mapping[str, float | int | bool] | None = None
    degradation: Mapping[str, float | int] = field(default_factory=dict)
    scale: float = 1.0
    identity: float | None = None
    attempts: int = 0
    variant: int = 0

    @property
    def is_generated(self) -> bool:
        """Whether the pixels were made by the generator."""
        return self.source is Source.GENERATED

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, for JSON; floats survive exactly. ``synthetic`` says whether it is generated."""
        return {
            "synthetic": self.is_generated,
            **asdict(self),
            "source": self.source.name.lower(),
            "classical": dict(self.classical or {}),
            "degradation": dict(self.degradation),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Inverse of :meth:`to_dict`; recipes of earlier versions lack some fields and have the defaults.

        Raises:
            UserInputError: If it is no recipe, or ``synthetic`` contradicts ``source``.
        """
        try:
            edits = tuple(AppliedEdit(**edit) for edit in values["edits"])
            rest = {name: values[name] for name in ("key", "epoch", "seed", "classical")}
            later = {"degradation", "scale", "identity", "attempts", "variant"}
            rest |= {name: values[name] for name in later & values.keys()}
            recipe = cls(source=Source[str(values["source"]).upper()], edits=edits, **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserInputError(f"no recipe of ganaug: {repr(error)[:200]}") from error
        if wrong := _of_wrong_type(recipe):
            raise UserInputError(f"no recipe of ganaug: {wrong}")
        if values.get("synthetic", recipe.is_generated) is not recipe.is_generated:
            raise UserInputError(
                f"the recipe of {recipe.key!r} says synthetic={values['synthetic']}, but its source is "
                f"{recipe.source.name.lower()!r}: one of them was changed by hand"
            )
        return recipe


def _of_wrong_type(recipe: Recipe) -> str | None:
    """What a recipe has where it should have something else; files of others may hold anything."""

    def is_whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def is_number(value: Any) -> bool:
        return math.isfinite(value) if isinstance(value, float) else is_whole(value) and abs(value) < 2**63

    def are_numbers(values: Any, is_one: Callable[[Any], bool] = is_number) -> bool:
        return isinstance(values, Mapping) and all(is_one(value) for value in values.values())

    def is_drawn(value: Any) -> bool:
        return is_number(value) or isinstance(value, bool)

    # Counted in 64 bits; a seed may have any number of them.
    counted = {"epoch": recipe.epoch, "attempts": recipe.attempts, "variant": recipe.variant}
    asked = [
        ("key", recipe.key, "text", isinstance(recipe.key, str)),
        *((name, n, "a whole number from 0 on", is_whole(n) and 0 <= n < 2**63) for name, n in counted.items()),
        ("seed", recipe.seed, "a whole number", is_whole(recipe.seed)),
        ("scale", recipe.scale, "a number", is_number(recipe.scale)),
        ("identity", recipe.identity, "a number or null", recipe.identity is None or is_number(recipe.identity)),
        ("classical", recipe.classical, "numbers", recipe.classical is None or are_numbers(recipe.classical, is_drawn)),
        ("degradation", recipe.degradation, "numbers", are_numbers(recipe.degradation)),
    ]
    for edit in recipe.edits:
        is_key = edit.partner is None or isinstance(edit.partner, str)
        asked += [
            ("name of an edit", edit.name, "text", isinstance(edit.name, str)),
            ("params of an edit", edit.params, "numbers", are_numbers(edit.params)),
            ("partner of an edit", edit.partner, "text or null", is_key),
        ]
    wrong = ((name, value, wanted) for name, value, wanted, is_right in asked if not is_right)
    return next((f"{name} is {repr(value)[:60]}, expected {wanted}" for name, value, wanted in wrong), None)


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
        scale: ``(B,)`` float32, see :class:`Recipe`; all 1 as drawn.
        identity: ``(B,)`` float32, NaN where nothing was scored.
        attempts: ``(B,)`` uint8.
        variant: ``(B,)``, see :class:`Recipe`.
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
    scale: NDArray[np.float32] = field(default_factory=lambda: np.ones(0, np.float32))
    identity: NDArray[np.float32] = field(default_factory=lambda: np.ones(0, np.float32))
    attempts: NDArray[np.uint8] = field(default_factory=lambda: np.ones(0, np.uint8))
    variant: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.scale):  # as drawn
            self.scale = np.ones(len(self.keys), np.float32)
            self.identity = np.full(len(self.keys), np.nan, np.float32)
            self.attempts = np.zeros(len(self.keys), np.uint8)
        if not len(self.variant):
            self.variant = np.zeros(len(self.keys), np.int64)

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
        if source in (Source.GENERATED, Source.REJECTED):
            for column, name in enumerate(self.edit_names):
                if self.active[i, column]:
                    params = {k: float(v[i]) for k, v in self.edit_params[name].items()}
                    partner = self.partners[name][i] if name in self.partners else None
                    edits.append(AppliedEdit(name, params, partner))
        classical = {name: values[i].item() for name, values in self.classical.items()}
        degradation = {name: values[i].item() for name, values in self.degradation.items()}
        identity = None if np.isnan(self.identity[i]) else float(self.identity[i])
        return Recipe(
            self.keys[i],
            self.epoch,
            self.seed,
            source,
            tuple(edits),
            classical,
            degradation,
            float(self.scale[i]),
            identity,
            int(self.attempts[i]),
            int(self.variant[i]),
        )

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
            np.array([row.scale for row in rows], np.float32),
            np.array([np.nan if row.identity is None else row.identity for row in rows], np.float32),
            np.array([row.attempts for row in rows], np.uint8),
            np.array([row.variant for row in rows], np.int64),
        )


def write_recipes(path: str | Path, recipes: Iterable[Recipe]) -> None:
    """Appends recipes to a file, one JSON object a line, each with ``"synthetic": true`` or ``false``.

    The lines go to the file in one call of the operating system each, so that several processes may append to one file
    on a local disk and a kill tears the last line at most. :func:`read_recipes` skips a torn one.

    Args:
        path: File, made if it is not there; customary suffix ``.jsonl``.
        recipes: What to append, see ``return_info=True``.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        # What a kill has torn stays a line of its own.
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        for recipe in recipes:
            line = json.dumps(recipe.to_dict()).encode() + b"\n"
            line = b"\n" + line if torn else line
            torn = False
            while line:
                line = line[os.write(file, line) :]
    finally:
        os.close(file)


def read_recipes(path: str | Path) -> list[Recipe]:
    """Recipes of a file of :func:`write_recipes`, in order.

    A line that ends early, as after a kill or on a full disk, is told by a warning and skipped.

    Raises:
        UserInputError: For a file that is not there, or a whole line that is no recipe.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserInputError(f"{path}: cannot read recipes: {error.strerror or error}") from error
    found = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            if not line.startswith(b'{"synthetic"'[: len(line)]):
                raise UserInputError(f"{path}, line {number}: no recipe of ganaug, got {line[:40]!r}") from None
            warnings.warn(f"{path}, line {number}: ends early and is skipped, as after a kill", stacklevel=2)
            continue
        try:
            found.append(Recipe.from_dict(values))
        except UserInputError as error:
            raise UserInputError(f"{path}, line {number}: {error}") from error
    return found
