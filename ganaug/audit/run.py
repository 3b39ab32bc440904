"""The audit of a cache: from photos and a table of groups to figures, findings first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ganaug import __version__, rng
from ganaug.audit.balance import count_findings, counts_after, measured_balance
from ganaug.audit.faces import AuditedInversions, AuditedPhotos, Examiner, Measured, measure
from ganaug.audit.figures import Comparison, Figure, Finding, compare, findings_of, worst_first
from ganaug.audit.groups import GroupColumn, group_column, group_columns
from ganaug.audit.judge import Gap, Judge, built_in_judge, gap_findings, gaps, outside_judge
from ganaug.audit.realism import realism
from ganaug.audit.settings import AuditSettings
from ganaug.bootstrap import NUM_DRAWS, Bootstrap
from ganaug.cache import LatentCache
from ganaug.dataset import GANAugmentedDataset
from ganaug.edits.label_table import LabelColumns
from ganaug.embedders import load_embedder
from ganaug.errors import CacheError
from ganaug.faces.photos import Photo
from ganaug.gate import IdentityGate
from ganaug.intervals import LEVEL, Interval
from ganaug.metrics.extractors import load_extractor
from ganaug.provenance import Source

FORMAT = "ganaug-audit-1"

# Figures of records that are told, and what is wrong with a group of which they are worse.
_RECORDED = {
    "psnr": ("PSNR", "dB", "Photos of {group} are inverted worse"),
    "identity": ("cosine to the photo", "", "Inversions of {group} are less like the person"),
}


def audit(
    cache: LatentCache,
    groups: str | Path,
    photos: Sequence[Photo] | None = None,
    settings: AuditSettings | None = None,
    images: str | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Audits a cache.

    Args:
        cache: Latents.
        groups: CSV file with a line per photo; which column names the photos is found out.
        photos: Of the source that was precomputed. None: inversions stand in for them, and there is no gate.
        settings: See there; None: the default ones.
        images: Folder of the photos, where the table's names need it.
        device: Where to work.
        progress: Show progress bars.

    Returns:
        JSON-able figures, see :func:`write_audit`.

    Raises:
        UserInputError: For a table without these photos or columns, and settings that do not fit.
        CacheError: For a cache that is missing, damaged or of another generator.
    """
    return _Audit(cache, groups, photos, settings or AuditSettings(), images, torch.device(device), progress).report()


class _Audit:
    """An audit under way: what is known of N audited photos."""

    def __init__(
        self,
        cache: LatentCache,
        groups: str | Path,
        photos: Sequence[Photo] | None,
        settings: AuditSettings,
        images: str | None,
        device: torch.device,
        progress: bool,
    ) -> None:
        self.cache, self.settings, self.device, self.progress = cache, settings, device, progress
        self.with_photos = photos is not None
        if not len(cache):
            raise CacheError(f"there is no record in {cache.path}; fill it with `ganaug precompute`")
        base = AuditedPhotos(photos, cache) if photos is not None else AuditedInversions(cache)
        self.num_source = len(base)
        self.table, known = LabelColumns.read(groups, base.keys(), images)
        base.keep(known, None if settings.label is None else self.table.cells(settings.label))
        label = settings.label
        self.label = None if label is None else group_column(label, self.table.cells(label), str(groups))
        self.said = None if settings.predictions is None else self.table.cells(settings.predictions)
        self.columns = group_columns(self.table, settings.columns, settings.min_count)
        self.train = self._wrap(base)
        self.indices = self._choose()
        self.keys = [self.train.items[i].key for i in self.indices]
        # What a user may have mistaken is looked at before the work.
        self.outside = None if self.label is None or self.said is None else self._outside_judge(self.label, self.said)
        people = self.keys if settings.people is None else self.table.people(settings.people)
        if settings.people is not None:  # who is not named is a person of their own
            people = [people[i] or key for i, key in zip(self.indices, self.keys, strict=True)]
        self.people = list(people)
        self.bootstrap = Bootstrap(self.people, NUM_DRAWS, settings.seed)
        # What is drawn, and the count that says whether a group has enough of it.
        self.drawn_of, self.least = ("photos", "usable") if settings.people is None else ("persons", "persons")
        self.embedder = load_embedder(settings.embedder, device)
        self.extractor = load_extractor(None, None, device)
        self.findings: list[Finding] = []
        self.compared: dict[bool, list[Comparison]] = {False: [], True: []}  # of columns, and of their crossings

    def _wrap(self, base: Dataset[Any]) -> GANAugmentedDataset:
        given = self.settings
        return GANAugmentedDataset(
            base,
            self.cache,
            ratio=1.0,
            edits=given.edits,
            classical=None,
            preserve=given.preserve if self.with_photos else (),
            seed=given.seed,
            paste="paste" if self.with_photos else "aligned",
            min_quality=given.min_quality,
            directions=given.directions,
        )

    def _choose(self) -> NDArray[np.int64]:
        """``(N,)`` photos in an order of their own, until as many with latents are among them as may be looked at."""
        order = rng.uniforms(self.settings.seed, 0, self.train.key_hashes, "audit", 1)[:, 0].argsort(kind="stable")
        seen = (self.train.pool.position[order] >= 0).cumsum()
        return np.sort(order[seen <= self.settings.limit])

    def _examiner(self, train: GANAugmentedDataset) -> Examiner:
        return Examiner(train, self.embedder, self.device)

    def report(self) -> dict[str, Any]:
        """Measures and tells."""
        settings, examiner = self.settings, self._examiner(self.train)
        at = [column.at(self.indices) for column in self.columns]
        measured = measure(examiner, self.indices, self.extractor, settings.num_variants, progress=self.progress)
        judge = self._judge(measured)
        figures = self._figures(measured, examiner.threshold) + ([] if judge is None else judge.figures())
        everyone = GroupColumn("all", ("all photos",), np.zeros(len(self.keys), np.int64))
        drawn = self._drawn()
        whole = replace(everyone, of=np.zeros(len(self.train.items), np.int64))
        told = {
            column.name: self._groups(full, column, figures, measured, drawn)
            for full, column in zip([*self.columns, whole], [*at, everyone], strict=True)
        }
        # A bound for columns and one for crossings: many of these must not hide what columns say.
        self.findings += [finding for part in self.compared.values() for finding in findings_of(part)]
        found = {} if judge is None else self._gaps(judge, at, told)
        columns = {}
        for full, column in zip(self.columns, at, strict=True):
            one: dict[str, Any] = {"crossed": column.crossed, "not_stated": int((column.of < 0).sum())}
            one |= {"groups": told[column.name][0], "gaps": found.get(column.name, {})}
            if column.crossed == 1:
                one["balance"] = self._balance(full, column, measured, judge)
            columns[column.name] = one
        ordered = worst_first(self.findings)
        worst = next((finding for finding in ordered if finding.figure != "count"), None)  # few is not badly served
        return {
            "format": FORMAT,
            "version": __version__,
            "worst_served": None if worst is None else worst.to_dict(),
            "warnings": [finding.to_dict() for finding in ordered],
            "too_few": [
                {"column": name, "group": group, self.drawn_of: values["counts"][self.least]}
                for name, one in columns.items()
                if one["crossed"] == 1
                for group, values in one["groups"].items()
                if values["counts"][self.least] < settings.min_count
            ],
            **self._about(measured, judge, examiner.threshold),
            "figures": {
                figure.name: {"title": figure.title, "table": figure.table, "unit": figure.unit} for figure in figures
            },
            "all": told["all"][0]["all photos"],
            "columns": columns,
        }

    def _figures(self, measured: Measured, threshold: float) -> list[Figure]:
        """One number a photo, of all that is told."""
        recorded = self.train.header.quality_names
        figures = [
            Figure(
                f"inversion_{name}",
                title,
                "Inversions, as their records say.",
                self.train.reader.quality_of(self.indices, name),
                unit,
                blame,
            )
            for name, (title, unit, blame) in _RECORDED.items()
            if name in recorded
        ]
        kept = np.where(np.isfinite(measured.drawn), measured.drawn >= threshold, np.nan)
        first, gate = "Variants as drawn, before any gate.", "Variants after the gate."
        keeps, like = "Variants of {group} keep the person less often", "Variants of {group} are less like the person"
        figures += [
            Figure("kept", "keep the person", first, _mean(kept), "%", keeps),
            Figure("cosine_drawn", "cosine to the photo", first, _mean(measured.drawn), "", like),
        ]
        if self.train.gates:
            asked = np.isin(measured.outcome, (Source.GENERATED, Source.REJECTED))
            accepted = np.where(asked, measured.outcome == Source.GENERATED, np.nan)
            # Where identity alone is watched, that is what "kept" says already.
            only_identity = all(isinstance(gate, IdentityGate) for gate in self.train.gates)
            at_once = "" if only_identity else "The gates send variants of {group} back more often"
            refused = "The gate refuses variants of {group} more often, and serves the photo"
            figures += [
                Figure("at_once", "pass at once", gate, _mean(measured.at_once), "%", at_once),
                Figure("accepted", "served in the end", gate, _mean(accepted), "%", refused),
                Figure("cosine_served", "cosine to the photo", gate, _mean(measured.served)),
            ]
        return figures

    def _drawn(self) -> NDArray[np.uint8]:
        """``(N,)`` what the policy asks for in epoch 0 at the ratio that is audited."""
        policy = replace(self.train.policy, ratio=self.settings.ratio, edits=())
        return policy.draw(
            self.indices, self.keys, self.train.key_hashes[self.indices], 0, self.train.pool, None
        ).source

    def _groups(
        self,
        full: GroupColumn,
        column: GroupColumn,
        figures: Sequence[Figure],
        measured: Measured,
        drawn: NDArray[np.uint8],
    ) -> tuple[dict[str, Any], dict[str, list[Interval | None]]]:
        """Counts and figures of each group, JSON-able; and the intervals as they are, by figure."""
        told: dict[str, dict[str, Any]] = {}
        outcome = np.where(drawn == Source.REAL, drawn, measured.outcome[:, 0])
        members = column.members & self.train.pool.usable[self.indices][:, None]
        usable, persons = members.sum(axis=0), self.bootstrap.counts(members)
        for g, (name, count) in enumerate(zip(column.names, full.counts.tolist(), strict=True)):
            sources = np.bincount(outcome[column.of == g], minlength=len(Source)).tolist()
            told[name] = {
                "counts": {
                    "photos": count,
                    "audited": int((column.of == g).sum()),
                    "usable": int(usable[g]),
                    **({} if self.settings.people is None else {"persons": int(persons[g])}),
                    "asked": sum(sources) - sources[Source.REAL],
                    "variants": sources[Source.GENERATED],
                    "rejected": sources[Source.REJECTED],
                    "no_latent": sources[Source.NO_LATENT],
                    "low_quality": sources[Source.LOW_QUALITY],
                    "unusable": sources[Source.STALE] + sources[Source.DAMAGED],
                }
            }
        intervals = {}
        for figure in figures:
            one = compare(figure, column, self.bootstrap, self.settings.min_count)
            self.compared[column.crossed > 1].append(one)
            intervals[figure.name] = one.told
            for name, value in zip(column.names, one.told, strict=True):
                told[name][figure.name] = None if value is None else value.to_dict()
        features = measured.photo_features, measured.variant_features
        distances, findings = realism(*features, self.keys, column, self.settings.seed)
        self.findings += findings
        for name, pair in zip(column.names, distances, strict=True):
            both = None if pair is None else {"variants": pair[0].to_dict(), "photos": pair[1].to_dict()}
            told[name]["realism"] = both
        return told, intervals

    def _outside_judge(self, label: GroupColumn, said: Sequence[str]) -> Judge:
        told = [said[i] for i in self.indices.tolist()]
        return outside_judge(label.at(self.indices), told, str(self.settings.predictions))

    def _judge(self, measured: Measured) -> Judge | None:
        if self.label is None or self.outside is not None:
            return self.outside
        label, settings = self.label.at(self.indices), self.settings
        return built_in_judge(
            label, measured.photos, measured.variants, self.people, Path(settings.embedder).name, settings.seed
        )

    def _gaps(
        self, judge: Judge, columns: Sequence[GroupColumn], told: dict[str, Any]
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Column -> view -> gap, JSON-able."""
        found: dict[tuple[str, str], dict[str, Gap]] = {}
        numbers: dict[tuple[str, str], int] = {}
        for column in columns:
            if judge.label in column.name.split(" x "):
                continue  # groups of one class have no odds to be equal
            for view, said in judge.views().items():
                at = column.name, view
                found[at], numbers[at] = gaps(
                    judge, said, column, self.bootstrap, self.people, self.settings.min_count, self.settings.seed
                )
        accuracy = {(name, view): told[name][1][f"accuracy_{view}"] for name, view in found}
        self.findings += gap_findings(found, judge, accuracy, columns)
        result: dict[str, dict[str, dict[str, Any]]] = {}
        for (name, view), of in found.items():
            shown = {kind: gap.to_dict() for kind, gap in of.items()}
            result.setdefault(name, {})[view] = {"groups": numbers[name, view], **shown}
        return result

    def _balance(
        self, full: GroupColumn, column: GroupColumn, measured: Measured, judge: Judge | None
    ) -> dict[str, Any]:
        settings = self.settings
        usable = np.bincount(full.of[(full.of >= 0) & self.train.pool.usable], minlength=len(full.names))
        self.findings += count_findings(full, settings.max_extra)
        counts = counts_after(full.counts, usable, settings.max_extra)
        told: dict[str, Any] = {"groups": dict(zip(full.names, counts, strict=True)), "measured": None}
        if judge is not None and settings.measure_balance:
            told["measured"] = measured_balance(
                self.train,
                self.indices,
                measured.photos,
                column,
                judge,
                self.bootstrap,
                self._examiner,
                settings.max_extra,
                settings.min_count,
                progress=self.progress,
            )
        return told

    def _about(self, measured: Measured, judge: Judge | None, threshold: float) -> dict[str, Any]:
        """What the figures come from."""
        settings, header, policy = self.settings, self.train.header, self.train.policy
        return {
            "photos": {
                "in_source": self.num_source,
                "in_table": len(self.train.items),
                "audited": len(self.keys),
                "with_latents": int(np.isfinite(measured.photos).all(axis=1).sum()),
                "variants_each": settings.num_variants,
                "are_inversions": not self.with_photos,
            },
            "policy": {
                "ratio": settings.ratio,
                "edits": [edit.name for edit in policy.edits],
                "preserve": list(policy.preserve),
                "gates": [type(gate).__name__ for gate in self.train.gates],
                "min_quality": self.train.min_quality,
                "max_extra": settings.max_extra,
                "seed": settings.seed,
            },
            "networks": {
                "generator": f"{Path(header.generator).name} {header.fingerprint[:12]}",
                "inverter": str(header.inverter.get("name")),
                "identity": Path(settings.embedder).name,
                "same_person_from": round(threshold, 4),
                "realism": self.extractor.name,
                "judge": None if judge is None else judge.name,
            },
            "label": settings.label,
            "intervals": {
                "draws": NUM_DRAWS,
                "level": LEVEL,
                "over": self.drawn_of,
            },
            "min_count": settings.min_count,
        }


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, E)`` -> ``(N,)`` over what is known; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))
