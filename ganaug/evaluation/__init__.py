"""How good the variants of a cache are: realism, identity, attributes, diversity; as figures and as a page.

``ganaug evaluate`` in the terminal, :func:`evaluate` and :func:`write_report` in Python.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ganaug import __version__
from ganaug.dataset import GANAugmentedDataset
from ganaug.evaluation.faces import FaceReader, RealFaces
from ganaug.evaluation.figures import figures_of
from ganaug.evaluation.judges import Judge
from ganaug.evaluation.measure import Evaluator, choose
from ganaug.evaluation.report import build_page
from ganaug.evaluation.summary import summary_of, warnings_of
from ganaug.faces.photos import Photo
from ganaug.features import load_perceptual_features
from ganaug.interfaces import CacheError, Embedder, UserInputError
from ganaug.metrics.extractors import Extractor
from ganaug.page import write_private

FORMAT = "ganaug-evaluation-1"
PAGE, FIGURES = "report.html", "report.json"
PERCEPTUAL = "faces64"  # the bundled model whose features tell how different two pictures look
_EXAMPLES = 10  # of photos that were left out

__all__ = ["EvaluationSettings", "evaluate", "write_report"]


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is measured.

    Attributes:
        limit: Photos at most; which, their names and ``seed`` decide.
        num_strengths: Strengths of every edit, evenly over its range.
        num_faces: Columns of the contact sheets.
        batch_size: Photos at a time.
        seed: Of the choice of photos.

    Raises:
        UserInputError: For a number below 1.
    """

    limit: int = 300
    num_strengths: int = 3
    num_faces: int = 6
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("limit", "num_strengths", "num_faces", "batch_size"):
            if getattr(self, name) < 1:
                raise UserInputError(f"{name} must be at least 1, got {getattr(self, name)}")


def evaluate(
    train: GANAugmentedDataset,
    embedder: Embedder,
    extractor: Extractor,
    real: Sequence[Photo] | None = None,
    settings: EvaluationSettings = EvaluationSettings(),
    device: torch.device | None = None,
    *,
    names: Mapping[str, str] | None = None,
    command: str = "",
    progress: bool = True,
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Measures the variants that a dataset would serve.

    Every figure with an interval is ``{"value", "low", "high"}``: 95 %, over photos; None for what is not known. Rows
    have ``what`` (``"floor"``, ``"inversion"``, ``"served"``, ``"edit"``), and of edits ``edit`` and ``strength``, a
    magnitude: edits that go both ways go the way that the policy draws.

    - ``format``; ``summary`` and ``warnings``: sentences; ``provenance``, ``settings``, ``networks``.
    - ``photos``: ``records`` of the cache, photos ``measured`` and ``left_out`` with some reasons, and how many records
      are ``without_photo``.
    - ``realism``: ``images`` on a side; ``sets``: rows with ``frechet``, ``kernel``, ``precision`` and ``recall``
      against real photos, and the same ``over_floor``, minus those of other real photos; ``inception_score``, if the
      network tells classes; ``reason``, if nothing is told.
    - ``identity``: rows with ``images``, ``mean`` and ``median`` cosine to the photo, ``share`` of at least the
      threshold, and ``pixel_change``, the mean absolute change of a pixel as a share of the range.
    - ``movement``: rows with ``readings``: ``attribute``, read ``by`` code or picture, in ``unit``; whether it is
      ``intended`` by the edit or ``declared`` in what it touches; ``mean`` move along the way of the edit, and in
      standard deviations among the photos ``mean_in_sd`` and ``absolute_in_sd``. ``same_class``: share of variants
      whose likeliest class stays, and whether the edit has ``declared`` that it may change. The row of the inversion
      is nobody's edit: how far readings move by themselves.
    - ``localisation``: rows with change outside over change inside of the part of the face: ``ratio_of_means``,
      ``median_ratio`` of faces, ``share_local`` of faces with at most ``limit``.
    - ``gate``: shares that pass ``at_once``, ``weaker`` or are ``rejected``.
    - ``diversity``: ``perceptual`` distance among the variants of a photo and ``perceptual_of_photos`` among different
      ones; cosines ``identity_within`` variants of one photo, ``identity_between`` those of different ones, and
      ``identity_between_photos``.

    Args:
        train: Dataset over a :class:`ganaug.cached_faces.PhotoDataset`, with ``ratio=1``, without classical
            augmentation. Its policy says which edits are measured; its gates have their word in what is served.
        embedder: Judges identity, on ``device``; with a ``threshold``, as :class:`ganaug.gate.IdentityGate` wants it.
        extractor: Features for realism.
        real: Photos to compare with, without those that are measured: variants are nearer to their own photo than any
            other photo could be. None: those of the cache, of which one half is compared with the other.
        settings: How much is measured.
        device: Where to work; default: the CPU.
        names: For the page: ``"identity"`` the embedder's, ``"gate"`` that of the gate's network, ``"real"`` where the
            real photos are from.
        command: That made the report, for the page.
        progress: Show a progress bar.

    Returns:
        The figures, JSON-able, and for each edit a sheet of faces.

    Raises:
        CacheError: If no photo can be measured.
        UserInputError: If the dataset draws something else than variants of every photo.
    """
    if not train.policy.edits:
        raise UserInputError("there is no edit to measure: the policy has none; name some, or preserve less")
    if train.policy.ratio_at(0) != 1.0 or train.classical is not None or len(train.extras):
        raise UserInputError("evaluate wants a dataset with ratio=1, classical=None and no extra variants")
    device = device or torch.device("cpu")
    reader = FaceReader(train, device)
    judge = Judge(embedder, reader.resolution, train.chip_template)
    perceptual = load_perceptual_features(PERCEPTUAL, device)
    usable = [index for index, is_usable in enumerate(train.pool.usable) if is_usable]
    if not usable:
        raise CacheError(f"{train.cache.path}: none of its records may be used for variants; lower min_quality")
    keys = [train.items[index].key for index in usable]
    members = [usable[place] for place in choose(keys, settings.limit, settings.seed)]
    others = None if real is None else _not_among(real, [train.items[index].path for index in members])
    compared = RealFaces(others, train, device) if others else None  # without any: the photos of the cache
    evaluator = Evaluator(reader, judge, extractor, perceptual, settings.num_strengths, compared)
    measured = evaluator.run(members, settings.batch_size, settings.num_faces, progress)
    known = {item.key for item in train.items}
    without = sorted(set(train.cache.keys()) - known)
    gates = ", ".join(type(gate).__name__ for gate in train.gates)
    given = {"identity": type(embedder).__name__, "real": "the cache", "gate": gates, **(names or {})}
    figures: dict[str, Any] = {
        "format": FORMAT,
        "summary": [],
        "warnings": [],
        "photos": {
            "records": len(train.cache),
            "measured": len(measured.keys),
            "left_out": len(reader.left_out),
            "left_out_examples": dict(list(reader.left_out.items())[:_EXAMPLES]),
            "without_photo": len(without),
            "without_photo_example": without[0] if without else None,
        },
        "networks": {
            "identity": given["identity"],
            "threshold": judge.threshold,
            "gate": given["gate"] or None,
            "realism": extractor.name,
            "realism_comparable": extractor.comparable,
            "perceptual": f"discriminator-{PERCEPTUAL}",
            "real": given["real"],
        },
        **figures_of(measured, evaluator.edits, judge.threshold),
        "settings": {
            **asdict(settings),
            "edits": [edit.name for edit in evaluator.edits],
            "preserve": list(train.policy.preserve),
            "paste": train.paste,
            "residual": train.residual,
            "policy_seed": train.policy.seed,
        },
        "provenance": _provenance(train, command),
    }
    figures |= {"warnings": warnings_of(figures), "summary": summary_of(figures)}
    return figures, measured.sheets


def write_report(out: str | Path, figures: Mapping[str, Any], sheets: Mapping[str, Image.Image]) -> list[Path]:
    """Writes ``report.json`` and ``report.html`` into a folder, each whole or not at all, for their owner alone.

    Args:
        out: The folder; made if it is not there. Reports in it are replaced.
        figures: Of :func:`evaluate`.
        sheets: Likewise.

    Returns:
        The files.
    """
    page = build_page(figures, sheets).write(Path(out, PAGE))
    # ASCII: a key need not be UTF-8.
    return [page, write_private(Path(out, FIGURES), (json.dumps(figures, indent=2) + "\n").encode())]


def _not_among(photos: Sequence[Photo], paths: Sequence[str | None]) -> list[Photo]:
    """Photos in other files than these."""
    files = {Path(path).resolve() for path in paths if path is not None}
    return [photo for photo in photos if photo.path is None or Path(photo.path).resolve() not in files]


def _provenance(train: GANAugmentedDataset, command: str) -> dict[str, Any]:
    header = train.header
    return {
        "cache": str(train.cache.path),
        "generator": header.generator,
        "fingerprint": header.fingerprint,
        "inverter": dict(header.inverter),
        "alignment": dict(header.alignment),
        "records": len(train.cache),
        "ganaug": __version__,
        "command": command,
    }
