"""What ``preserve`` asks for: which edits may be used, and what has to be done so that the rest keeps its promise."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug import rng
from ganaug.cache import LatentCache
from ganaug.edits import ATTRIBUTES, build_edits, default_edits
from ganaug.edits.labels import MAX_CLASSES, Labels, LabelSubspace
from ganaug.edits.subspace import Subspace
from ganaug.edits.table import Directions, table_of
from ganaug.edits.whitening import Whitening, orthonormal
from ganaug.interfaces import Edit, Generator, UserInputError
from ganaug.latent_reader import read_anchors
from ganaug.partners import PartnerPool
from ganaug.policy import AugmentationPolicy

MOSTLY = 0.5  # share of an edit's squared length from which on it is refused: more of it would be taken away than left
MAX_FACES = 4000  # that are fitted to: accuracy on faces64 grows from 75 to 78 % between 1,000 and 4,000 of them
_MEASURED_FACES = 256  # by which shares are measured: their standard error is below 0.01
_MAX_PRINCIPAL = 1024  # codes of a generator without a prior that principal components are taken of, in seconds


def choose_edits(
    edits: Sequence[str | Edit] | None,
    preserve: Sequence[str],
    generator: Generator,
    watched: frozenset[str] = frozenset(),
    subjects: frozenset[str] = frozenset(),
    directions: Directions | None = None,
) -> list[Edit]:
    """Edits of a policy, built for a generator.

    Args:
        edits: Names and objects; None: the default ones, less those that touch something preserved.
        preserve: What must not change.
        generator: Whose latents are edited.
        watched: Attributes that a gate answers for, or that moves are freed of, so that edits may touch them.
        subjects: What no edit may be made for though it may touch it: attributes that moves are freed of, and the
            label's name.
        directions: More edits whose names may be used, see :func:`ganaug.edits.build_edits`.

    Raises:
        UserInputError: For unknown names, edits that are made for what is preserved, and where nothing is left.
    """
    if isinstance(preserve, str):
        raise UserInputError(f"preserve is a sequence of attribute names, got the string {preserve!r}")
    if edits is not None and (isinstance(edits, str) or not isinstance(edits, Sequence)):
        raise UserInputError(f"edits is a sequence of names or Edit objects, got {edits!r}")
    known = ATTRIBUTES.union({"label"}, watched, *(edit.touches for edit in edits or () if isinstance(edit, Edit)))
    unknown = sorted(set(preserve) - known)
    if unknown:
        raise UserInputError(f"preserve names unknown attributes {unknown}; known are {', '.join(sorted(known))}")
    if edits is not None:
        built = build_edits(edits, generator, directions)
        for edit in built:
            if _subject(edit) in subjects:
                raise UserInputError(
                    f"edit {edit.name!r} is there to change {_subject(edit)}, which preserve={list(preserve)} forbids; "
                    "leave the edit out or preserve less"
                )
        return built
    kept = set(preserve) - watched
    built = [
        edit
        for edit in build_edits(default_edits(generator), generator)
        if not edit.touches & kept and _subject(edit) not in subjects
    ]
    if not built:
        raise UserInputError(f"every default edit touches something in preserve={list(preserve)}; name edits yourself")
    return built


def readable_attributes(preserve: Sequence[str], generator: Generator) -> dict[str, Edit]:
    """Attributes to be preserved for which the generator's edit table has directions: moves can be freed of them.

    ``"identity"`` is none of them: a person is no direction.
    """
    wanted = [name for name in dict.fromkeys(preserve) if name not in ("label", "identity")]
    table = table_of(generator).edits if wanted else {}
    return {name: table[name] for name in wanted if name in table}


class Preservation:
    """What ``preserve`` came to for one dataset: what the moves of edits are freed of, and how much each had of it.

    ``"label"``, in three steps. Partner faces come from the same label (:class:`ganaug.partners.PartnerPool`). The
    directions in which codes tell the labels apart are fitted to the dataset's own codes, and an edit that moves mostly
    along them is refused. The moves of all others are projected free of them. Labels that are names of persons have no
    such directions: these are for the identity gate.

    Attributes:
        subspace: What moves are freed of; None for nothing.
        label: Where codes tell the label; None if nobody asked, or see ``reason``.
        reason: Why there is no ``label``; None if there is, or nobody asked.
        attributes: Attributes that moves are freed of.
        shares: Name of each edit -> what is preserved -> share of the squared length of its moves, in whitened
            coordinates, that lay along it.
        same_partners: Whether partner faces come from the same label.
        projects_label: Whether moves are freed of the label; not where labels follow the variants instead.
    """

    def __init__(
        self,
        subspace: Subspace | None = None,
        label: LabelSubspace | None = None,
        reason: str | None = None,
        attributes: Sequence[str] = (),
        shares: Mapping[str, Mapping[str, float]] | None = None,
        same_partners: bool = False,
        projects_label: bool = False,
    ) -> None:
        self.subspace, self.label, self.reason = subspace, label, reason
        self.attributes, self.shares = tuple(attributes), dict(shares or {})
        self.same_partners, self.projects_label = same_partners, projects_label

    @classmethod
    def fit(
        cls,
        policy: AugmentationPolicy,
        generator: Generator,
        cache: LatentCache,
        keys: Sequence[str],
        pool: PartnerPool,
        labels: Labels | None,
        *,
        label_name: str | None = None,
        relabels: bool = False,
        soft: bool = False,
        watched: bool = False,
    ) -> "Preservation":
        """Reads at most 4,000 codes, anchors where records have them, and looks at every edit of a policy.

        Args:
            policy: Its edits and ``preserve``.
            generator: Whose latents are edited.
            cache: Where the codes are.
            keys: ``N`` keys, one for each sample.
            pool: Partner faces, as they will be drawn.
            labels: ``(N,)`` class numbers, or float for amounts; None without labels.
            label_name: What the dataset calls its label, such as ``"gender"``.
            relabels: Whether labels follow the variants: then edits may change what the label says.
            soft: Whether label probabilities will be read.
            watched: Whether a gate looks after identity or the label, so that nobody need be warned.

        Raises:
            UserInputError: For an edit that moves mostly along something preserved; gives the numbers.
        """
        read = readable_attributes(policy.preserve, generator)
        keeps_label = "label" in policy.preserve
        if not read and not keeps_label and not soft:
            return cls()
        numbers = _sampled(pool.position >= 0, labels)
        codes, found = read_anchors(cache, [keys[i] for i in numbers])
        numbers = numbers[found]
        label, reason, projects = None, None, keeps_label and not relabels
        subspaces: dict[str, Subspace] = {}
        if read:
            whitening = Whitening.of(generator, codes[:_MAX_PRINCIPAL])
            subspaces = {
                name: Subspace(whitening, orthonormal(whitening.normals([edit]))) for name, edit in read.items()
            }
        if keeps_label or soft:
            try:
                label = _fit_label(codes, labels, numbers, generator)
            except UserInputError as error:
                reason = str(error)
        if label is not None and projects:
            subspaces["label"] = label
        if reason is not None and projects and not watched:
            warnings.warn(
                f"preserve has 'label', but moves cannot be freed of it: {reason}. Partner faces come from the same "
                "label; for labels that are persons, preserve 'identity' too",
                stacklevel=2,
            )
        shares, some = {}, numbers[:_MEASURED_FACES]
        measured = subspaces | ({} if label is None else {"label": label})
        for edit in policy.edits if measured else ():
            moves = _moves(edit, codes[: len(some)], some, policy, cache, keys, pool, labels)
            shares[edit.name] = {name: subspace.share(moves) for name, subspace in measured.items()}
            _refuse_what_is_mostly(edit, shares[edit.name], subspaces, policy, label_name)
        joined = next(iter(subspaces.values())).joined(*subspaces.values()) if subspaces else None
        return cls(joined, label, reason, tuple(read), shares, keeps_label, "label" in subspaces)

    def report(self) -> dict[str, Any]:
        """What was done, JSON-able: how well codes tell the label, and what each edit had of what is preserved."""
        told: dict[str, Any] = {}
        if self.same_partners or self.label is not None or self.reason is not None:
            told["label"] = {"partners": "same label" if self.same_partners else "any"}
            told["label"]["projected"] = self.projects_label
            told["label"] |= self.label.to_dict() if self.label is not None else {}
            told["label"] |= {} if self.reason is None else {"reason": self.reason}
        shares = {name: {k: round(v, 4) for k, v in of.items()} for name, of in self.shares.items()}
        return told | {"attributes": list(self.attributes), "edits": shares}

    def __repr__(self) -> str:
        return f"Preservation({json.dumps(self.report(), indent=2)})"


def fitted_labels(values: Sequence[Any] | None) -> Labels | None:
    """Labels to fit to: class numbers in sorted order, or floats where the labels are amounts such as an age.

    Amounts are numbers that are not whole, or of which there are too many to be classes. Names of persons that happen
    to be numbers are seen later: codes do not tell them.

    Args:
        values: ``N`` labels, see :func:`ganaug.faces.sources.label_values`; None without labels.
    """
    if values is None:
        return None
    labels = np.asarray(values)
    different, numbers = np.unique(labels, return_inverse=True)
    if labels.dtype.kind in "iuf":
        amounts = labels.astype(np.float64)
        if len(different) > MAX_CLASSES or not (amounts == np.rint(amounts)).all():
            return amounts
    return numbers.astype(np.int64)


def _fit_label(codes: Tensor, labels: Labels | None, numbers: NDArray[np.int64], generator: Generator) -> LabelSubspace:
    """Where ``codes (M, L, D)`` of samples ``numbers (M,)`` tell their label; UserInputError if they do not."""
    if labels is None:
        raise UserInputError("the dataset keeps no labels (.targets, .labels or .y)")
    return LabelSubspace.fit(codes, labels[numbers], Whitening.of(generator, codes[:_MAX_PRINCIPAL]))


def _sampled(usable: NDArray[np.bool_], labels: Labels | None) -> NDArray[np.int64]:
    """Up to 4,000 samples to look at, of rare classes as many as of frequent ones, in an order that means nothing."""
    order = rng.permutation(0, 0, len(usable), "preservation")
    order = order[usable[order]]
    if labels is not None and labels.dtype.kind != "f":
        numbers = labels[order]
        by_class = np.argsort(numbers, kind="stable")
        counts = np.bincount(numbers)
        rank = np.empty(len(order), np.int64)  # of each sample within its class
        rank[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = np.argsort(rank, kind="stable")[:MAX_FACES]
        return order[np.sort(chosen)]
    return order[:MAX_FACES]


def _moves(
    edit: Edit,
    codes: Tensor,
    numbers: NDArray[np.int64],
    policy: AugmentationPolicy,
    cache: LatentCache,
    keys: Sequence[str],
    pool: PartnerPool,
    labels: Labels | None,
) -> Tensor:
    """``(B, L, D)``: what an edit does to codes, drawn as the policy draws in epoch 0, at full strength."""
    own = [keys[i] for i in numbers]
    hashes = np.array([rng.hash_text(key) for key in own], np.int64)
    steady = replace(policy, strength_schedule=None)
    classes = None if labels is None else np.unique(labels, return_inverse=True)[1][numbers].astype(np.int64)
    params, partners = steady.draw_edit(edit, numbers, own, hashes, 0, pool, classes)
    if partners is not None:
        params["partner"], found = read_anchors(cache, partners)
        at = torch.from_numpy(found)
        codes, params = codes[at], {k: v if k == "partner" else v[at] for k, v in params.items()}
    return edit.apply(codes, params) - codes


def _refuse_what_is_mostly(
    edit: Edit,
    shares: Mapping[str, float],
    subspaces: Mapping[str, Subspace],
    policy: AugmentationPolicy,
    label_name: str | None,
) -> None:
    """Raises UserInputError for an edit that is what shall not change."""
    preserve = list(policy.preserve)
    for name, subspace in subspaces.items():
        share, what = shares[name], name if label_name is None or name != "label" else f"label ({label_name})"
        how = f"preserve={preserve} forbids"
        advice = "leave the edit out or preserve less"
        if isinstance(subspace, LabelSubspace):
            figure = f"{subspace.accuracy:.0%} of faces" if len(subspace.classes) else f"r = {subspace.accuracy:.2f}"
            how += f" (read off the codes of {subspace.num_faces} faces, held-out accuracy {figure})"
            advice = "leave the edit out, or let labels follow the variants: relabel='soft' or a function"
        if share > MOSTLY:
            raise UserInputError(
                f"edit {edit.name!r} is mostly a change of {what}, {share:.0%} of its squared length, which {how}; "
                f"{advice}"
            )


def _subject(edit: Edit) -> str:
    """What an edit is about by its name; ``"age"`` for the target ``"age=60"``."""
    along = getattr(edit, "direction", None)
    return along.name if isinstance(along, Edit) else edit.name
