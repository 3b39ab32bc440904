"""Directions for a generator: fitted to labels, discovered without, imported; kept in one file per generator.

What ``ganaug directions`` does. The codes are those of a latent cache: of records with an anchor the anchors, since
those are what edits move.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ganaug.cache import LatentCache
from ganaug.edits import ATTRIBUTES
from ganaug.edits.directions import Direction
from ganaug.edits.discovery import principal_components
from ganaug.edits.fitting import Fit, Method, Numbers, correlations, fit_direction, require_scikit_learn
from ganaug.edits.pairs import find_pairs, pair_direction
from ganaug.edits.published import touched_by
from ganaug.edits.sefa import closed_form_directions
from ganaug.edits.stored import Stored, load_directions
from ganaug.edits.target import Gauge
from ganaug.edits.whitening import Whitening, orthonormal
from ganaug.errors import UserInputError
from ganaug.interfaces import Edit, Generator
from ganaug.labelled_codes import LabelledCodes, principal_components_of

# Correlation with another column from which on a direction counts as touching it.
_TOUCHES_FROM = 0.1
FITTED_STRENGTH = (1.5, 3.0)  # standard deviations; on sheets of faces64, 1 hardly shows and 4 begins to smear


@dataclass(frozen=True)
class Found:
    """Directions, and what could not be had.

    Attributes:
        edits: The directions; what was measured is in their ``measured``.
        unsupported: Name -> why there is none.
    """

    edits: list[Direction]
    unsupported: dict[str, str] = field(default_factory=dict)


def fit(
    codes: LabelledCodes,
    column: str,
    *,
    positive: str | None = None,
    method: Method | None = None,
    free_of: Sequence[Edit] = (),
    name: str | None = None,
    touches: set[str] | frozenset[str] | None = None,
    strength: tuple[float, float] = FITTED_STRENGTH,
    person: str | None = None,
    seed: int = 0,
) -> Found:
    """Fits directions to a column of labels.

    Args:
        codes: See :func:`ganaug.labelled_codes.read_codes`.
        column: Its name. Two classes give one direction, toward the second of them in sorted order ("Male", "yes");
            more give one for each, against the rest; numbers and bins ("20-29") give one.
        positive: The class that counts as 1, against all others.
        method: Default: ridge regression for numbers, else logistic regression.
        free_of: Directions and spans whose own reading of a face must not change.
        name: Of the direction; default the column's. Of several, the class is added.
        touches: What they may change. Default: what their name says, and the attributes of other columns with which
            they correlate by 0.1 or more, without those that they are free of.
        strength: Range of |strength| in standard deviations.
        person: Column that tells whose photos are of one person, which must be tested together.
        seed: Of the folds of the cross-validation.

    Raises:
        UserInputError: For a column that is unknown or constant, too few labelled faces, a method that does not suit
            it, or if nothing is left once it is free of the others.
    """
    require_scikit_learn()
    basis = orthonormal(codes.whitening.normals(free_of))
    free_names = [edit.name for edit in free_of]
    targets = codes.columns.targets(column, positive, method)
    edits, unsupported = [], {}
    for target in targets:
        label = as_name(name or column, target.label if len(targets) > 1 else None)
        known = np.isfinite(target.values)
        people = None if person is None else [codes.columns.people(person)[i] for i in np.flatnonzero(known)]
        chosen = method or ("logistic" if target.is_class else "ridge")
        keys = [codes.keys[i] for i in np.flatnonzero(known)]
        try:
            found = fit_direction(codes.z[known], target.values[known], chosen, keys, basis, seed, people)
        except UserInputError as error:
            if len(targets) == 1:
                raise UserInputError(f"column {column!r}: {error}") from None
            why = f"column {column!r}, {target.label!r}: {error}"
            unsupported[label] = why
            continue
        others = codes.columns.at(np.flatnonzero(known).tolist()).numbers(without={column})
        unlabelled = codes.total - int(known.sum())
        notes = {"column": column, "positive": target.label, "unlabelled": unlabelled, "free_of": free_names}
        edits.append(_direction(found, label, codes.whitening, others, notes, column, free_names, touches, strength))
    if not edits:
        raise UserInputError("; ".join(unsupported.values()))
    return Found(edits, unsupported)


def discover_pairs(
    codes: LabelledCodes,
    column: str,
    *,
    person: str,
    positive: str | None = None,
    free_of: Sequence[Edit] = (),
    name: str | None = None,
    touches: set[str] | frozenset[str] | None = None,
    strength: tuple[float, float] = FITTED_STRENGTH,
) -> Found:
    """Finds a direction from pairs of photos of one person; see :func:`ganaug.edits.pairs.pair_direction`.

    Args:
        codes: See :func:`ganaug.labelled_codes.read_codes`.
        column: What differs within pairs, such as ``"expression"``.
        person: Column of names or numbers of persons.
        positive: Value that it leads to; needed if there are more than two.
        free_of: See :func:`fit`.
        name: Of the direction; default the column's.
        touches: See :func:`fit`.
        strength: Range of |strength| in standard deviations.
    """
    targets = codes.columns.targets(column, positive, "logistic")
    if len(targets) != 1:
        labels = ", ".join(str(target.label) for target in targets)
        raise UserInputError(f"column {column!r} has more than two classes; say with --positive which one of {labels}")
    (target,) = targets
    has_it = [None if np.isnan(value) else bool(value) for value in target.values]
    without, with_it = find_pairs(codes.columns.people(person), has_it)
    found = pair_direction(codes.z[without], codes.z[with_it], orthonormal(codes.whitening.normals(free_of)))
    free_names = [edit.name for edit in free_of]
    others = codes.columns.at(without + with_it).numbers(without={column, person})
    unpaired = codes.total - 2 * len(without)
    notes = {"column": column, "positive": target.label, "unlabelled": unpaired, "free_of": free_names}
    label = as_name(name or column)
    return Found([_direction(found, label, codes.whitening, others, notes, column, free_names, touches, strength)])


def discover(
    generator: Generator,
    method: str,
    *,
    cache: LatentCache | None = None,
    num_components: int = 8,
    rows: Sequence[int] | None = None,
    name: str | None = None,
) -> Found:
    """Finds directions without labels; nothing is known about what they change, so they count as touching everything.

    Args:
        generator: On which.
        method: ``"pca"`` or ``"sefa"``.
        cache: For ``"pca"``: principal components of its codes instead of those that the generator knows.
        num_components: How many.
        rows: Rows of ``w_plus`` that move, and for ``"sefa"`` count; default all.
        name: What their names begin with; default ``"axis"`` or ``"sefa"``.
    """
    if method == "sefa":
        found = closed_form_directions(generator, num_components, rows)
    elif method == "pca" and cache is not None:
        found = principal_components_of(cache, generator, num_components)
    elif method == "pca":
        found = principal_components(generator, num_components)
    else:
        raise UserInputError(f"unknown method {method!r}: expected pca, sefa or pairs")
    moved = range(generator.latent_spec.num_ws) if rows is None else rows
    prefix = as_name(name or ("sefa" if method == "sefa" else "axis"))
    edits = [
        Direction(f"{prefix}{i}", vector, float(std), moved, ATTRIBUTES, measured={"method": method, "std": float(std)})
        for i, (vector, std) in enumerate(zip(found.components, found.std, strict=True))
        if i < num_components and float(std) > 0
    ]
    return Found(edits)


def free_of_edits(
    asked: Sequence[str], codes: LabelledCodes, generator: Generator, seed: int = 0, own: str | Path | None = None
) -> list[Edit]:
    """The directions that ``--free-of`` names.

    Args:
        asked: ``FILE:NAME``; or a column of the table, to which directions are fitted first; or a name in ``own``.
        codes: See :func:`ganaug.labelled_codes.read_codes`.
        generator: Whose directions.
        seed: See :func:`fit`.
        own: The file that is being written to, if it is there.

    Raises:
        UserInputError: For a name that is nowhere; CheckpointError for a file of another generator.
    """
    edits: list[Edit] = []
    for text in asked:
        file, separator, name = text.rpartition(":")
        if separator:
            edits.append(pick(load_directions(file, generator), name, file))
        elif text in codes.columns.names:
            edits += fit(codes, text, seed=seed).edits
        elif own is not None and Path(own).exists():
            edits.append(pick(load_directions(own, generator), text, str(own)))
        else:
            raise UserInputError(
                f"--free-of {text}: expected FILE:NAME, or a column of the table: {', '.join(codes.columns.names)}"
            )
    return edits


def pick(edits: Sequence[Stored], name: str, path: str) -> Stored:
    """The edit of a name.

    Raises:
        UserInputError: If there is none; lists those that there are.
    """
    for edit in edits:
        if edit.name == name:
            return edit
    raise UserInputError(f"{path} has no direction {name!r}; it has {', '.join(edit.name for edit in edits)}")


def as_name(text: str, label: str | None = None) -> str:
    """A name that edits can be asked for by: letters, digits and underscores, a letter first.

    Raises:
        UserInputError: If nothing is left of it.

    Example:
        >>> as_name("race", "East Asian"), as_name("5_o_Clock_Shadow")
        ('race_East_Asian', 'd5_o_Clock_Shadow')
    """
    name = re.sub(r"\W+", "_", text if label is None else f"{text}_{label}", flags=re.ASCII).strip("_")
    if not name:
        raise UserInputError(f"{text!r} has no letter or digit of ASCII to name a direction by; give --name")
    return name if name[0].isalpha() else f"d{name}"


def _direction(
    found: Fit,
    name: str,
    whitening: Whitening,
    others: Mapping[str, Numbers],
    notes: Mapping[str, Any],
    column: str,
    free_names: Sequence[str],
    touches: set[str] | frozenset[str] | None,
    strength: tuple[float, float],
) -> Direction:
    """The edit that a fit is, with all that was measured."""
    related = correlations(found.coordinates, others)
    if touches is None:
        close = {head.partition("=")[0] for head, r in related.items() if abs(r) >= _TOUCHES_FROM}
        touches = (touched_by(column) - set(free_names)) | (close & ATTRIBUTES)
    move = whitening.move(found.vector)
    weights, bias = whitening.reading(found.vector)
    gauge = Gauge(
        weights * found.slope,
        bias * found.slope + found.intercept,
        "logistic" if found.is_class else "identity",
        None if found.is_class else tuple(found.measured["range"]),
    )
    measured = {
        **notes,
        **found.measured,
        "slope": found.slope,
        "intercept": found.intercept,
        "correlations": related,
    }
    rows = range(whitening.shape[0])
    return Direction(name, move, float(move.norm()), rows, frozenset(touches), strength, measured, gauge)
