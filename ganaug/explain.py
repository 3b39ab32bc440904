"""What became of one photo: facts and pictures, for a page, JSON or a terminal.

Nothing is guessed: quality stands in the record, draws are the loader's own, and models speak for themselves
(:mod:`ganaug.model_facts`).
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganaug.batches import FileHasher, HostCollate, fetch, find_images
from ganaug.cache import LatentCache, Record
from ganaug.cached_faces import draw_records
from ganaug.dataset import GANAugmentedDataset
from ganaug.errors import CacheError, ImageError, UserInputError
from ganaug.export import as_uint8
from ganaug.faces.align import Alignment, to_unit_range
from ganaug.faces.photos import Photo
from ganaug.gate import IdentityGate
from ganaug.inspection import default_bounds, ranked, read_figures
from ganaug.min_quality import SMALLER_IS_BETTER
from ganaug.model_facts import model_facts
from ganaug.provenance import Recipe, Source
from ganaug.recheck import stored_chip
from ganaug.stage import DeviceStage

Pixels = NDArray[np.uint8]

SERVED = {
    Source.REAL: "the photo itself: the draw was for the real one",
    Source.GENERATED: "a variant",
    Source.NO_LATENT: "the photo itself: a variant was drawn, but the cache has no record of it",
    Source.STALE: "the photo itself: its file has changed since it was inverted",
    Source.DAMAGED: "the photo itself: its record is damaged",
    Source.REJECTED: "the photo itself: a gate refused every variant that was made",
    Source.LOW_QUALITY: "the photo itself: its inversion is below min_quality",
}
# Parameters of the classical augmentation that leave a picture as it is; where an operation acts, others are there.
_NEUTRAL = {"scale": 1.0, "crop_size": 1.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}


@dataclass(frozen=True)
class Explanation:
    """Facts, and pictures that go with them.

    Attributes:
        facts: JSON-able.
        pictures: Name -> ``(H, W, 3)`` uint8; ``photo``, ``chip``, ``inversion``, ``epoch N``, ``file``, ``replay``.
        fingerprint: Of the generator that drew the pictures, for their marks.
    """

    facts: dict[str, Any]
    pictures: dict[str, Pixels] = field(default_factory=dict)
    fingerprint: str = ""


def nearest_keys(key: str, keys: Iterable[str], count: int = 3) -> list[str]:
    """Keys that read like one that is not there, the most alike first.

    Example:
        >>> nearest_keys("ann/1.png", ["ann/01.png", "bob/01.png", "readme"])
        ['ann/01.png', 'bob/01.png']
    """
    return difflib.get_close_matches(key, list(keys), count)


def explain_absence(cache: LatentCache, key: str, photos: Sequence[Photo] | None = None) -> Explanation | None:
    """Why a photo has no record to be explained; None if it has one.

    Args:
        cache: The cache.
        key: Of the photo.
        photos: Of the source, to tell a photo that was never looked at from a name that is wrong.

    Raises:
        UserInputError: For a key that neither the cache nor the source knows; names those that read like it.
    """
    always = "the loader serves the photo itself wherever a variant is drawn for it"
    if key in cache:
        try:
            cache.get(key)
        except CacheError as error:
            return Explanation({"key": key, "record": "damaged", "reason": str(error), "so": always})
        return None
    failures = cache.failures()
    if key in failures:
        again = "; `ganaug precompute --retry-failed` tries again"
        return Explanation({"key": key, "record": "none", "reason": failures[key], "so": always + again})
    if photos is not None and any(photo.key == key for photo in photos):
        reason = "the source has this photo, but `ganaug precompute` has not come to it: run it again"
        return Explanation({"key": key, "record": "none", "reason": reason, "so": always})
    known = cache.keys()
    near = nearest_keys(key, [*known, *failures])
    hint = f"; nearest: {', '.join(map(repr, near))}" if near else f", such as {known[0]!r}" if known else ""
    raise UserInputError(f"{cache.path} has no record {key!r}; expected one of its {len(known)} keys{hint}")


def explain_photo(
    train: GANAugmentedDataset,
    key: str,
    num_epochs: int = 4,
    device: str | torch.device = "cpu",
    photo: Photo | None = None,
    embedder: str | None = None,
) -> Explanation:
    """A photo that has a record: its inversion, what is served for it, and which models made that.

    Args:
        train: Wrapped dataset, which has the photo.
        key: Of the photo.
        num_epochs: Epochs 0 to ``num_epochs - 1`` are drawn as the loader draws them.
        device: Where to make variants.
        photo: It itself, to show the chip that was inverted; None where only the cache is at hand.
        embedder: Name of the gate's embedder, for its licence; None for the bundled one.

    Raises:
        UserInputError: If the dataset has no such sample.
        CacheError: If its record is damaged.
    """
    index = next((i for i, item in enumerate(train.items) if item.key == key), None)
    if index is None:
        raise UserInputError(f"the cache has a record {key!r}, but the source has no such photo; give the one it is of")
    record = train.cache.get(key)
    stage = DeviceStage(train, device, return_info=True)
    host = HostCollate()(fetch(train.dataset, [index], train.paths_to_check, FileHasher()))
    pictures = {"photo": as_uint8(train, host.batch[find_images(host.batch)])[0]}
    facts: dict[str, Any] = {
        "key": key,
        "cache": train.cache.path,
        "photo": _photo_facts(train, record, photo, pictures),
    }
    drawn = draw_records([record], stage.augmenter.generator, train.header.delta, train.header.noise)
    pictures["inversion"] = _pixels(to_unit_range(drawn)[0])
    facts["quality"], facts["verdict"] = _quality(train.cache, record)
    facts["settings"] = {
        "ratio": str(train.policy.ratio),
        "edits": [edit.name for edit in train.policy.edits],
        "preserve": list(train.policy.preserve),
        "seed": train.policy.seed,
        "paste": train.paste,
        **({} if train.residual is None else {"residual": train.residual}),
    }
    least = next((gate.threshold for gate in train.gates if isinstance(gate, IdentityGate)), None)
    asked = {} if least is None else {"asked_identity": least}
    served = []
    for epoch in range(num_epochs):
        batch = stage(host, epoch)
        recipe: Recipe = (batch if isinstance(batch, dict) else batch[-1])["recipe"][0]
        pictures[f"epoch {epoch}"] = as_uint8(train, batch[find_images(batch)])[0]
        served.append({**recipe_facts(recipe), **asked})
    facts["variants"] = served
    facts["models"] = _models(train, embedder)
    return Explanation(facts, pictures, train.header.fingerprint)


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """A recipe in words where words say more, and as it is."""
    return {
        "epoch": recipe.epoch,
        "served": SERVED[recipe.source],
        "edits": [{"name": e.name, "params": dict(e.params), "partner": e.partner} for e in recipe.edits],
        "share_of_move": recipe.scale,
        "identity": recipe.identity,
        "attempts": recipe.attempts,
        "classical": acting(recipe.classical or {}),
        "degradation": dict(recipe.degradation),
        "recipe": recipe.to_dict(),
    }


def acting(params: Mapping[str, Any]) -> dict[str, Any]:
    """Those parameters of the classical augmentation that change something.

    Example:
        >>> acting({"flip": True, "angle_deg": 0.0, "scale": 1.0, "brightness": 1.1})
        {'flip': True, 'brightness': 1.1}
    """
    return {name: value for name, value in params.items() if value != _NEUTRAL.get(name, 0.0)}


def _photo_facts(
    train: GANAugmentedDataset, record: Record, photo: Photo | None, pictures: dict[str, Pixels]
) -> dict[str, Any]:
    """What is known of the photo; adds its chip to the pictures, if it is the one that was inverted."""
    facts: dict[str, Any] = {"sha256": record.source_hash if record.source_hash.strip("0") else None}
    facts["at_hand"] = photo is not None
    if photo is not None:
        try:
            pictures["chip"] = stored_chip(photo, record, Alignment.from_dict(dict(train.header.alignment)))
            facts["unchanged"] = True
        except ImageError as error:
            facts |= {"unchanged": False, "why": str(error)}
        facts["attributes"] = dict(photo.attributes)
    m = record.transform.astype(np.float64)
    size = int(train.header.alignment.get("size", 0))
    scale = math.sqrt(abs(float(np.linalg.det(m[:, :2]))))
    if size and scale > 0.0:
        centre = np.linalg.solve(m[:, :2], np.full(2, size / 2) - m[:, 2])
        facts["cut"] = {
            "of_px": list(record.photo_size),
            "centre_px": [round(float(v), 1) for v in centre],
            "side_px": round(size / scale, 1),
            "angle_deg": round(math.degrees(math.atan2(m[1, 0], m[0, 0])), 1),
            "to_px": size,
        }
    return facts


def _quality(cache: LatentCache, record: Record) -> tuple[list[dict[str, Any]], str]:
    """Every figure in words with its place among the others, and what they come to."""
    _, others = read_figures(cache)
    judge = cache.header.inverter.get("judge", {})
    judge = judge if isinstance(judge, Mapping) else {}
    rows = []
    for name, value in record.quality.items():
        finite = math.isfinite(value)
        rows.append(
            {
                "figure": name,
                "value": value if finite else None,
                "means": _meaning(name, value, judge) if finite else "could not be measured",
                "better_than": _worse(name, value, others[name])
                if finite and name not in ("steps", "seconds")
                else None,
                "of": len(others[name]) - 1,
            }
        )
    bounds = default_bounds(cache)
    poor = [
        f"{name} {record.quality[name]:.3g} where {bound:g} is asked for"
        for name, bound in bounds.items()
        if not record.quality[name] >= bound
    ]
    if not bounds:
        return rows, "the cache says nothing about what counts as good"
    asked = ", ".join(f"{name} of at least {bound:g}" for name, bound in bounds.items())
    return rows, f"poor: {'; '.join(poor)}" if poor else f"good: {asked}"


def _worse(name: str, value: float, others: NDArray[np.float64]) -> int:
    """How many of the records are worse."""
    known = others[ranked(name, others)]
    return int((known > value).sum() if name in SMALLER_IS_BETTER else (known < value).sum())


def _meaning(name: str, value: float, judge: Mapping[str, Any]) -> str:
    """A figure of a record in words."""
    if name == "psnr":  # 10 log10(1 / MSE), so that the root of the MSE is this
        return f"dB; a typical pixel is off by {100.0 * 10.0 ** (-value / 20.0):.1f} % of the range from black to white"
    if name == "identity":
        least, who = judge.get("same_person"), judge.get("identity", "an embedder that the cache does not name")
        told = f"cosine between photo and inversion, by {who}"
        if least is None:
            return told
        return f"{told}; from {least:.3f} on it takes two photos for one person, so {_person(value >= least)}"
    return {
        "mse": "mean squared error of pixels between 0 and 1",
        "ssim": "likeness of structure; 1 is equal",
        "perceptual": f"distance in features of {judge.get('perceptual', 'a network')}; 0 is equal, 4 the largest",
        "steps": "taken by the inverter",
        "seconds": "taken by the inverter",
    }.get(name, "as its inverter measured it")


def _person(is_same: bool) -> str:
    return "the inversion is this person to it" if is_same else "the inversion is somebody else to it"


def _models(train: GANAugmentedDataset, embedder: str | None) -> list[dict[str, Any]]:
    """Every network that had a part in it."""
    header, judge = train.header, train.header.inverter.get("judge", {})
    made = {"role": "generator", **model_facts(header.generator), "fingerprint": header.fingerprint}
    inverter = {"role": "inverter", "name": header.inverter.get("name", "not named"), "settings": dict(header.inverter)}
    found = [made, inverter]
    if train.gates:
        name = embedder or "identity64"
        asked = [
            {
                "gate": type(gate).__name__,
                "watches": sorted(gate.watches),
                "threshold": getattr(gate, "threshold", None),
            }
            for gate in train.gates
        ]
        found.append({"role": "embedder of the gate", **model_facts(name), "gates": asked})
    if isinstance(judge, Mapping) and "identity" in judge:
        name = str(judge["identity"]).partition(" ")[0]
        found.append({"role": "embedder that measured the inversion", **model_facts(name)})
    return found


def _pixels(image: torch.Tensor) -> Pixels:
    """``(3, H, W)`` in [0, 1] -> ``(H, W, 3)`` uint8."""
    values = (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(values)
