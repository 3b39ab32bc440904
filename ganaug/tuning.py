"""One generator for the photos of a cache: ``ganaug tune``, pivotal tuning (:mod:`ganaug.inversion.tuning`) as a job.

Out come two things that belong together: ``generator.safetensors``, the tuned generator with all that its base's file
holds beside it, and ``faces.lmdb``, the same records with codes, quality and fingerprint for it. Both are personal
data: the generator has learnt these very faces. They are readable by their owner alone.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ganaug import checkpoints
from ganaug.cache import LatentCache
from ganaug.faces.photos import Photo
from ganaug.features import load_perceptual_features
from ganaug.generators import Network, load_generator
from ganaug.interfaces import Generator, UserInputError
from ganaug.inversion.losses import InversionLoss, PerceptualLoss, PixelLoss, StartLoss
from ganaug.inversion.quality import JUDGES, QualityJudge, make_judge
from ganaug.inversion.tuning import Tuner, TuningConfig
from ganaug.latents import split_anchor
from ganaug.training.checkpoint import read_checkpoint, write_checkpoint
from ganaug.training.runner import ctrl_c_after_step
from ganaug.tuned_files import CACHE, GENERATOR, gather_faces, touch_private, write_cache, write_generator

CHECKPOINT = "checkpoint.pt"

# Set by trials on FairFace val with faces64. Inverters weigh features four times as much: they search for a face that
# is alike, here the face is found and its pixels are missing.
FEATURE_WEIGHT = 0.05
# Of codes that move. Inverters have 0.1 from an encoder's guess, here the start is an inversion already.
PRIOR_WEIGHT = 0.005

CHECKPOINT_SECONDS = 120.0
SHOWN_EVERY = 10  # steps; each look waits for the device
_TIMED_STEPS = (3, 8)  # before and while the clock runs, to turn minutes into steps


@dataclass(frozen=True)
class TuneResult:
    """Figures of a run; means over the faces, before and after.

    Attributes:
        faces: Faces that the generator was tuned to.
        left_out: Records whose photo is missing, unreadable or changed, and damaged ones.
        steps: Optimisation steps.
        seconds: They took, of all runs together.
        mse_before: Mean squared error of images in [0, 1], as the cache has it.
        mse_after: The same of what was written.
        psnr_before: dB.
        psnr_after: dB.
        generator: The new model file.
        cache: The new cache.
        fingerprint: Of the new generator.
    """

    faces: int
    left_out: int
    steps: int
    seconds: float
    mse_before: float
    mse_after: float
    psnr_before: float
    psnr_after: float
    generator: str
    cache: str
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only."""
        return asdict(self)


def tune_cache(
    cache: LatentCache,
    photos: Sequence[Photo],
    out: Path,
    device: torch.device,
    *,
    key: str | None = None,
    minutes: float | None = None,
    embedder: str | Path = "identity64",
    resume: bool = False,
    progress: bool = True,
    **given: Any,
) -> TuneResult:
    """Tunes the generator of a cache to its photos, and writes both anew.

    Stopped by Ctrl-C or killed, it goes on with ``resume``: on the same machine and number of threads to the same bits.

    Args:
        cache: Of ``ganaug precompute``, without changes of weights for each image.
        photos: Its source.
        out: Folder, made if it is missing, that holds no other tuned generator.
        device: Where to work.
        key: The one record to tune to, as in the paper; None: all.
        minutes: About how long optimisation may take, instead of a number of steps; measured once, at the start.
        embedder: That measured identity in the cache, where it was measured.
        resume: Continue the run in ``out``, with its settings.
        progress: Show a progress bar.
        given: Fields of :class:`ganaug.inversion.tuning.TuningConfig`; what is missing or None is chosen by the number
            of photos.

    Raises:
        UserInputError: For a cache with changes of weights, an ``out`` that holds something else, or other settings
            than those of a run that is continued.
        CacheError: If cache and generator do not fit each other.
        CheckpointError: If the photos of a run that is continued have changed.
        ImageError: If no photo can be used.
        KeyboardInterrupt: After Ctrl-C, with a checkpoint.
        FloatingPointError: When numbers are no longer finite.
    """
    header = cache.header
    if header.delta is not None:
        raise UserInputError(
            f"{cache.path} has changes of weights for each image, made for the generator as it is; tune a cache of "
            "another inverter, such as hybrid"
        )
    if header.noise != "const":
        raise UserInputError(f"{cache.path} was inverted without noise maps; tune a cache that was inverted with them")
    if minutes is not None and (resume or not 0.0 < minutes < float("inf")):
        raise UserInputError(
            "minutes were turned into steps when the run began; leave them out"
            if resume
            else f"minutes must be a number above 0, got {minutes}"
        )
    _check_out(out, resume)
    model = checkpoints.open_model(header.generator)
    generator = cast(Network, load_generator(model, device))
    cache.check_generator(generator.fingerprint, generator.latent_spec)
    judge = _judge_of(cache, embedder, device)
    faces = gather_faces(cache, photos, key, progress)
    objective = _objective(model, generator, device)
    checkpoint = out / CHECKPOINT
    subject = _Subject(generator.fingerprint, faces.digest)
    latents = torch.from_numpy(np.stack([record.latents for record in faces.records])).float()

    def start(config: TuningConfig) -> Tuner:
        return Tuner(generator, split_anchor(latents)[0], faces.photos, objective, config)

    if resume:
        payload = read_checkpoint(checkpoint, subject)
        config, seconds = TuningConfig(**payload["tuning"]), float(payload["seconds"])
        _refuse_other_settings(config, given)
        tuner = start(config)
        tuner.load_state_dict(payload["tuner"])
    else:
        config, seconds = TuningConfig.for_photos(len(faces.records), **given), 0.0
        if minutes is not None:
            config = replace(config, steps=_steps_in(minutes, start(config)))
        tuner = start(config)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = _Run(tuner, subject, checkpoint, seconds)
    run.finish(out, progress)
    settings = {**config.to_dict(), **objective.settings}
    written = write_generator(model, generator, tuner.result(), out / GENERATOR, settings, len(faces.records))
    figures = write_cache(cache, out, written, faces, tuner.codes.cpu(), judge, settings)
    checkpoint.unlink()
    return TuneResult(
        faces=len(faces.records),
        left_out=faces.left_out,
        steps=config.steps,
        seconds=round(run.seconds, 3),
        mse_before=round(faces.mean("mse"), 6),
        mse_after=round(figures["mse"], 6),
        psnr_before=round(faces.mean("psnr"), 3),
        psnr_after=round(figures["psnr"], 3),
        generator=str(out / GENERATOR),
        cache=str(out / CACHE),
        fingerprint=written.fingerprint,
    )


def _check_out(out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserInputError(f"--out {str(out)!r}: is no folder")
    begun = (out / CHECKPOINT).exists()
    if resume and not begun:
        raise UserInputError(f"{out} holds no run to continue; leave --resume out to begin one")
    if begun and not resume:
        raise UserInputError(f"{out} holds a run already; continue it with --resume, or give another --out")
    if not begun and any((out / name).exists() for name in (GENERATOR, CACHE)):
        raise UserInputError(f"{out} holds a tuned generator already; give another --out")


def _judge_of(cache: LatentCache, embedder: str | Path, device: torch.device) -> QualityJudge:
    """What measures the figures of the cache's records again, by the same networks.

    Raises:
        UserInputError: If identity was measured by another embedder.
    """
    header = cache.header
    if not {"perceptual", "identity"} & set(header.quality_names):
        return QualityJudge()
    by_identity = embedder if "identity" in header.quality_names else None
    judge = make_judge(header.generator, by_identity, device, header.alignment.get("template"))
    theirs = dict(header.inverter.get("judge", {})).get("identity")
    mine = judge.settings["judge"].get("identity")
    if by_identity is not None and theirs != mine:
        raise UserInputError(f"the records' identity was measured by {theirs}, not {mine}; give it with --embedder")
    return judge


def _objective(model: checkpoints.Model, generator: Generator, device: torch.device) -> InversionLoss:
    own = "features" in model.parts
    features = load_perceptual_features(model if own else JUDGES, device)
    perceptual = PerceptualLoss(features, FEATURE_WEIGHT, None if own else JUDGES)
    return InversionLoss([PixelLoss(), perceptual, StartLoss(generator, PRIOR_WEIGHT)])


@dataclass(frozen=True)
class _Subject:
    """What a checkpoint is of."""

    generator: str
    photos: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _refuse_other_settings(config: TuningConfig, given: Mapping[str, Any]) -> None:
    mine = config.to_dict()
    for name, value in given.items():
        if value is not None and value != mine[name]:
            flag = "--" + name.replace("_", "-")
            raise UserInputError(f"the run was begun with {flag} {mine[name]}, not {value}; leave {flag} out")


def _steps_in(minutes: float, trial: Tuner) -> int:
    """How many steps an attempt that is thrown away says there is time for."""
    before, timed = _TIMED_STEPS
    for _ in range(before):
        float(trial.step().sum())  # waits for the device
    started = time.monotonic()
    for _ in range(timed):
        float(trial.step().sum())
    return max(int(60.0 * minutes * timed / (time.monotonic() - started)), 1)


class _Run:
    """The loop around the steps: progress, checkpoints, an orderly end.

    Attributes:
        seconds: Of optimisation so far, those of earlier processes too.
    """

    def __init__(self, tuner: Tuner, subject: _Subject, checkpoint: Path, seconds: float) -> None:
        self.tuner, self.subject, self.checkpoint, self.seconds = tuner, subject, checkpoint, seconds

    def finish(self, out: Path, progress: bool) -> None:
        """Steps until there are none left; leaves a checkpoint of the last one."""
        tuner, total = self.tuner, self.tuner.config.steps
        batches = max(len(tuner.codes) // tuner.config.batch_size, 1)
        recent: deque[Tensor] = deque(maxlen=batches)  # of one epoch: all photos, more or less
        saved = since = time.monotonic()
        bar = tqdm(
            total=total, initial=tuner.steps_done, unit="step", desc="tuning", disable=None if progress else True
        )
        with bar, ctrl_c_after_step() as ctrl_c_pressed:
            while tuner.steps_done < total:
                recent.append(tuner.step().mean())
                bar.update()
                now = time.monotonic()
                self.seconds, since = self.seconds + now - since, now
                stop, last = ctrl_c_pressed(), tuner.steps_done == total
                due = stop or last or now - saved > CHECKPOINT_SECONDS
                if due or tuner.steps_done % SHOWN_EVERY == 0:
                    self._show(bar, float(torch.stack(list(recent)).mean()))
                if due:
                    self._save()
                    saved = time.monotonic()
                if stop and not last:
                    done = f"{tuner.steps_done} of {total} steps"
                    raise KeyboardInterrupt(f"stopped after {done}; continue with --resume ({out})")

    def _show(self, bar: "tqdm[Any]", mse: float) -> None:
        if not np.isfinite(mse):
            again = "there is a checkpoint of better numbers" if self.checkpoint.exists() else "there is no checkpoint"
            raise FloatingPointError(f"tuning has diverged ({again}): begin again with a lower --learning-rate")
        bar.set_postfix(mse=f"{mse:.6f}", psnr=f"{-10.0 * np.log10(max(mse, 1e-6)):.2f} dB")

    def _save(self) -> None:
        touch_private(self.checkpoint.with_suffix(".tmp"))
        state = {"tuning": self.tuner.config.to_dict(), "tuner": self.tuner.state_dict(), "seconds": self.seconds}
        write_checkpoint(self.checkpoint, self.subject, state)
