"""From what was measured to figures with intervals, as ``report.json`` has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.bootstrap import Bootstrap, interval
from ganaug.edits.target import parse_target
from ganaug.evaluation.realism import FIGURES, MAX_IMAGES, MIN_IMAGES, compare
from ganaug.evaluation.tallies import Condition, Measured, Tally
from ganaug.interfaces import Edit
from ganaug.intervals import Interval, wilson_interval
from ganaug.provenance import Source

Numbers = NDArray[np.float64]
MIN_PHOTOS = 10  # for an interval: the bootstrap knows no photos but those that were seen


class Estimator:
    """Figures over N photos with 95 % intervals.

    Args:
        keys: Of the photos; they decide the bootstrap's draws.
    """

    def __init__(self, keys: list[str]) -> None:
        self.enough = len(keys) >= MIN_PHOTOS
        self._everybody = np.ones((len(keys), 1), bool)
        self._bootstrap = Bootstrap(keys)

    def mean(self, values: Tensor | Numbers) -> Interval:
        """Of ``(N,)``; NaN counts nowhere."""
        value, drawn = self._bootstrap.means(np.asarray(values, np.float64), self._everybody)
        return self._interval(float(value[0]), drawn[:, 0])

    def median(self, values: Tensor | Numbers) -> Interval:
        """Of ``(N,)``; NaN counts nowhere. In a draw it is the value that half of the weight lies below."""
        numbers = np.asarray(values, np.float64)
        known = np.isfinite(numbers)
        if not known.any():
            return Interval(float("nan"), float("nan"), float("nan"))
        order = np.argsort(numbers[known], kind="stable")
        below = self._bootstrap.weights[:, known][:, order].cumsum(axis=1)
        half = (below >= below[:, -1:] / 2.0).argmax(axis=1)
        return self._interval(float(np.median(numbers[known])), numbers[known][order][half])

    def share(self, is_true: Tensor | Numbers) -> Interval:
        """Share of ones among ``(N,)`` zeros and ones; Wilson's interval, which does not vanish where all are alike."""
        numbers = np.asarray(is_true, np.float64)
        known = numbers[np.isfinite(numbers)]
        if not len(known):
            return Interval(float("nan"), float("nan"), float("nan"))
        return Interval(float(known.mean()), *wilson_interval(round(known.sum()), len(known)))

    def _interval(self, value: float, drawn: Numbers) -> Interval:
        return interval(value, drawn) if self.enough else Interval(value, float("nan"), float("nan"))


def figures_of(measured: Measured, edits: list[Edit], threshold: float) -> dict[str, Any]:
    """All figures, JSON-able; see :func:`ganaug.evaluation.evaluate`."""
    estimator = Estimator(measured.keys)
    return {
        "realism": _realism(measured),
        "identity": [_named(c, _identity(t, estimator, threshold)) for c, t in measured.tallies.items()],
        "movement": _movement(measured, edits, estimator),
        "localisation": [
            _named(condition, _localisation(tally, estimator))
            for condition, tally in measured.tallies.items()
            if tally.place.count
        ],
        "gate": _gate(measured, estimator),
        "diversity": _diversity(measured),
    }


def _named(condition: Condition, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {"what": condition.what, "edit": condition.edit, "strength": condition.strength, **figures}


def _realism(measured: Measured) -> dict[str, Any]:
    """Distances to real photos, of equal counts."""
    features = {condition: torch.cat(t.features) for condition, t in measured.tallies.items() if t.features}
    count = min([len(measured.real), len(measured.floor), MAX_IMAGES, *map(len, features.values())])
    empty: dict[str, Any] = {"images": count, "sets": [], "inception_score": []}
    if count < MIN_IMAGES or not features:
        return {
            **empty,
            "reason": f"{count} images on a side are too few: {MIN_IMAGES} are needed; measure more photos",
        }
    sets = {condition.name: rows[:count] for condition, rows in features.items()}
    distances = compare(measured.real[:count], measured.floor[:count], sets)
    told = [{"what": "floor", "edit": None, "strength": None}, *(_named(condition, {}) for condition in features)]
    rows = []
    for name, row in zip(["floor", *sets], told, strict=True):
        found = distances[name]
        row |= {figure: found.figures[figure].to_dict() for figure in FIGURES}
        row["over_floor"] = {figure: found.over_floor[figure].to_dict() for figure in FIGURES}
        rows.append(row)
    return {"images": count, "sets": rows, "inception_score": _inception(measured), "reason": None}


def _inception(measured: Measured) -> list[dict[str, Any]]:
    """Empty where the network tells no classes."""
    if not measured.real_inception.count:
        return []
    score = measured.real_inception
    found = [{"what": "photos", "edit": None, "strength": None, "images": score.count, "score": score.compute()[0]}]
    for condition, tally in measured.tallies.items():
        if tally.inception.count:
            told = {"images": tally.inception.count, "score": tally.inception.compute()[0]}
            found.append(_named(condition, told))
    return found


def _identity(tally: Tally, estimator: Estimator, threshold: float) -> dict[str, Any]:
    cosines = tally.identity.values
    return {
        "images": len(cosines),
        "mean": estimator.mean(cosines).to_dict(),
        "median": estimator.median(cosines).to_dict(),
        "share": estimator.share((cosines >= threshold).double()).to_dict(),
        "pixel_change": estimator.mean(torch.cat(tally.change)).to_dict(),
    }


def _movement(measured: Measured, edits: list[Edit], estimator: Estimator) -> list[dict[str, Any]]:
    """How far each edit moves each reading."""
    by_name = {edit.name: edit for edit in edits}
    # Of the photos: what one step between two people is. Without it years and probabilities cannot be compared.
    numbers = measured.photo_numbers.double().numpy()
    spread = numbers.std(axis=0, ddof=min(1, len(numbers) - 1))
    rows = []
    for condition, tally in measured.tallies.items():
        if not tally.moves:
            continue
        asked = None if condition.edit is None else parse_target(condition.edit)
        aimed = condition.edit if asked is None else asked.base
        touches = frozenset() if condition.edit is None else by_name[condition.edit].touches
        moves = torch.cat(tally.moves).double().numpy()
        readings = []
        for column, reading in enumerate(measured.readings):
            values, scale = moves[:, column], float(spread[column])
            scale = scale if scale > 0.0 else float("nan")
            base = reading.attribute.partition("=")[0]
            readings.append(
                {
                    "attribute": reading.attribute,
                    "by": reading.by,
                    "unit": reading.unit,
                    "intended": base == aimed,
                    "declared": base in touches,
                    "mean": estimator.mean(values).to_dict(),
                    "mean_in_sd": estimator.mean(values / scale).to_dict(),
                    "absolute_in_sd": estimator.mean(np.abs(values) / scale).to_dict(),
                }
            )
        same = {
            name: {**estimator.share(torch.cat(kept)).to_dict(), "declared": name in touches or name == aimed}
            for name, kept in tally.same.items()
        }
        rows.append(_named(condition, {"images": len(moves), "readings": readings, "same_class": same}))
    return rows


def _localisation(tally: Tally, estimator: Estimator) -> dict[str, Any]:
    told, ratios = tally.place.compute(), tally.place.values
    return {
        "images": told["count"],
        "ratio_of_means": _number(told["ratio"]),
        "median_ratio": estimator.median(ratios).to_dict(),
        "share_local": estimator.share(
            torch.where(ratios.isnan(), ratios, (ratios <= tally.place.limit).double())
        ).to_dict(),
        "limit": tally.place.limit,
    }


def _gate(measured: Measured, estimator: Estimator) -> dict[str, Any]:
    """What became of the variants that a training loop would ask for."""
    count = len(measured.keys)
    if not measured.has_gate:
        return {"images": count, "reason": "the policy has no gate: nothing that a gate watches is to be preserved"}
    served = measured.outcome == Source.GENERATED
    return {
        "images": count,
        "at_once": estimator.share((served & (measured.attempts <= 1)).astype(np.float64)).to_dict(),
        "weaker": estimator.share((served & (measured.attempts > 1)).astype(np.float64)).to_dict(),
        "rejected": estimator.share((~served).astype(np.float64)).to_dict(),
        "reason": None,
    }


def _diversity(measured: Measured) -> dict[str, Any]:
    """How different variants of one photo are from each other, and different photos from each other."""
    if not measured.perceptual.count:
        return {"photos": 0, "reason": "no photo has several variants that the gate lets pass"}
    values = measured.perceptual.values
    # Of other photos than all: these have an interval of their own.
    own = Estimator([str(place) for place in range(len(values))])
    found: dict[str, Any] = {
        "photos": len(values),
        "perceptual": own.mean(values).to_dict(),
        "perceptual_of_photos": None,
        "identity_within": _number(measured.identity.compute()["within"]),
        "identity_between": _number(measured.identity.compute()["between"]),
        "identity_between_photos": _number(measured.identity_photos.compute()["between"]),
        "reason": None,
    }
    if measured.perceptual_photos.count:
        photos = measured.perceptual_photos.values
        found["perceptual_of_photos"] = Estimator([str(n) for n in range(len(photos))]).mean(photos).to_dict()
    return found


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None
