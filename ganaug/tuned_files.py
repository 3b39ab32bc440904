"""What ``ganaug tune`` reads and writes: the photos of a cache; a tuned generator, and the cache for it."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ganaug import checkpoints
from ganaug.cache import LatentCache, Record
from ganaug.faces.align import Alignment, to_model_range
from ganaug.faces.photos import Photo
from ganaug.generators import Network, load_generator
from ganaug.interfaces import CacheError, CheckpointError, ImageError, UserInputError
from ganaug.inversion.quality import QualityJudge
from ganaug.inversion.tuning import Tuned
from ganaug.read_ahead import read_ahead
from ganaug.recheck import photo_of, stored_chip

GENERATOR, CACHE = "generator.safetensors", "faces.lmdb"

_READ_AHEAD, _READERS = 64, 2  # photos, threads
_AT_ONCE, _AT_ONCE_CPU = 64, 16  # faces that are drawn at a time, see BatchAugmenter
_COMMITTED = 256  # records

_PRIVACY = (
    "Tuned to the photos of a cache: it remembers these faces and can draw them. Personal data; keep, share and delete "
    "it as you would the photos."
)


@dataclass(frozen=True)
class TunedFaces:
    """What there is to tune to.

    Attributes:
        records: N of the cache.
        photos: ``(N, 3, R, R)`` uint8, their chips.
        left_out: Records that cannot be used.
    """

    records: list[Record]
    photos: Tensor
    left_out: int

    @property
    def digest(self) -> str:
        """sha256 (hex) of keys, codes and photos."""
        found = sha256()
        for record in self.records:
            found.update(record.key.encode(errors="surrogatepass") + b"\0")
            found.update(record.latents.tobytes())
        found.update(self.photos.numpy().tobytes())
        return found.hexdigest()

    def mean(self, name: str) -> float:
        """Of one figure of the records."""
        return float(np.mean([record.quality[name] for record in self.records]))


def gather_faces(cache: LatentCache, photos: Sequence[Photo], key: str | None, progress: bool) -> TunedFaces:
    """Records and their chips, cut where the records say that they lie; what cannot be used is told."""
    keys, by_key = cache.keys(), {photo.key: photo for photo in photos}
    if key is not None:
        if key not in keys:
            example = f", such as {keys[0]!r}" if keys else ""
            raise UserInputError(f"{cache.path} has no record {key!r}; expected one of its {len(keys)} keys{example}")
        keys = [key]
    alignment = Alignment.from_dict(dict(cache.header.alignment))

    def read(name: str) -> tuple[Record, Tensor] | str:
        photo = photo_of(name, by_key)
        if photo is None:
            return f"{name}: the source has no such photo"
        try:
            record = cache.get(name)
            return record, torch.from_numpy(stored_chip(photo, record, alignment).copy()).permute(2, 0, 1)
        except (KeyError, CacheError):  # erased meanwhile, or damaged
            return f"{name}: its record is damaged or gone; run `ganaug precompute` again"
        except ImageError as error:
            return f"{name}: {error}"

    records, chips = [], []
    reading = read_ahead(read, keys, _READERS, max_items=_READ_AHEAD, here=lambda name: not _has_file(name, by_key))
    hidden = None if progress else True
    with closing(reading), tqdm(reading, "reading", len(keys), leave=False, disable=hidden, delay=3) as bar:
        for found in bar:
            if isinstance(found, str):
                tqdm.write(f"left out: {found}", file=sys.stderr)
                continue
            records.append(found[0])
            chips.append(found[1])
    if not records:
        raise ImageError(f"none of the {len(keys)} records of {cache.path} has its photo; the reasons are above")
    return TunedFaces(records, torch.stack(chips), len(keys) - len(records))


def _has_file(key: str, photos: Mapping[str, Photo]) -> bool:
    """Whether any thread may read a photo; datasets of a user are asked in the main one."""
    photo = photo_of(key, photos)
    return photo is not None and photo.path is not None


def touch_private(path: Path) -> None:
    """Makes the file that is about to be written into and renamed, so that nobody else can read it for a moment."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)


def write_generator(
    model: checkpoints.Model, base: Network, tuned: Tuned, path: Path, settings: dict[str, Any], num_photos: int
) -> Network:
    """Writes the model file, as precise as the base's; returns the generator that it holds."""
    others = {name: model.part(name) for name in model.parts - {"generator"}}
    handed_on = [*base.state_dict().values(), *(tensor for part in others.values() for tensor in part.values())]
    half = all(torch.equal(tensor.half().float(), tensor.float()) for tensor in handed_on)
    described = dict(model.description)
    before = described.get("tuned_from")
    described |= {
        "tuned_from": {
            "name": model.path.name.removesuffix(".safetensors"),
            "fingerprint": base.fingerprint,
            **({} if before is None else {"tuned_from": before}),
        },
        "tuning": {**settings, "photos": num_photos},
        "privacy": _PRIVACY,
    }
    if base.mean_latent is not None:
        described["mean_latent"] = base.mean_latent
    touch_private(path.with_name(path.name + ".tmp"))
    checkpoints.write(path, {"generator": tuned.generator.state_dict(), **others}, described, half=half)
    written = cast(Network, load_generator(path, base.w_avg.device))
    if written.tuned_from[:1] != (base.fingerprint,):
        raise CheckpointError(f"{path}: was not written as it should be; is the disk in order?")
    return written


@torch.no_grad()
def write_cache(
    cache: LatentCache,
    out: Path,
    generator: Network,
    faces: TunedFaces,
    codes: Tensor,
    judge: QualityJudge,
    settings: dict[str, Any],
) -> dict[str, float]:
    """Writes the records for the tuned generator, with codes as they are now; returns the means of what they tell."""
    header = cache.header
    stored = codes.numpy().astype(header.dtype)
    if not np.isfinite(stored).all():
        raise FloatingPointError("tuning gave codes that are not finite; begin again with a lower --learning-rate")
    device = generator.w_avg.device
    at_once = _AT_ONCE_CPU if device.type == "cpu" else _AT_ONCE
    told: dict[str, list[float]] = {name: [] for name in judge.names}
    for rows in torch.arange(len(codes)).split(at_once):
        drawn = generator.synthesis(torch.from_numpy(stored[rows.numpy()]).float().to(device))
        for name, values in judge(drawn, to_model_range(faces.photos[rows].to(device))).items():
            told[name] += values.float().cpu().tolist()
    records = []
    for row, record in enumerate(faces.records):
        latents = record.latents.copy()
        (latents[0] if header.anchored else latents)[...] = stored[row]
        # Steps and seconds are those of the inversion.
        quality = {name: told[name][row] if name in told else value for name, value in record.quality.items()}
        records.append(replace(record, latents=latents, quality=quality))
    inverter = {**header.inverter, "tuned_from": header.fingerprint, "tuning": settings}
    path = os.path.realpath(out / GENERATOR)
    new = LatentCache.create(
        out / CACHE, replace(header, generator=path, fingerprint=generator.fingerprint, inverter=inverter)
    )
    for first in range(0, len(records), _COMMITTED):
        new.put_many(records[first : first + _COMMITTED])
    return {name: float(np.mean(values)) for name, values in told.items()}
