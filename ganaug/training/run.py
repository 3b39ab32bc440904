"""From a folder of photos to a model file: what ``ganaug train`` does."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug import checkpoints, rng
from ganaug.faces.align import to_model_range
from ganaug.generators import LatentPrior
from ganaug.interfaces import UserInputError
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages, pack_images
from ganaug.training.loop import Trainer

HELD_OUT_SHARE = 0.02
MAX_HELD_OUT = 256
MAX_PRIOR_IMAGES = 8192


def train(
    source: str | Path,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    held_out: str | Path | None = None,
    resume: bool = False,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Trains generator, encoder and discriminator, and writes ``out/model.safetensors``.

    Args:
        source: Folder of training photos, cut to their largest centred square.
        out: Folder for checkpoint, pictures, log and model.
        config: Hyperparameters.
        device: Where to train.
        held_out: Folder of photos for pictures and the log; None takes 2 % of the training photos away for it.
        resume: Continue from ``out/checkpoint.pt``. Without it, a folder that has one is refused.
        licence: Licence and attribution of the data, written into the model file.

    Returns:
        Figures: ``images_seen``, ``held_out_mse``, ``model`` and its ``sha256``.

    Raises:
        UserInputError: With too few images, or an ``out`` that holds another run.
    """
    out.mkdir(parents=True, exist_ok=True)
    if (out / "checkpoint.pt").exists() and not resume:
        raise UserInputError(f"{out} holds a run already; continue it with --resume, or give another --out")
    chips, _ = pack_images(source, out, config.resolution)
    order = np.arange(len(chips))
    if held_out is None:
        shuffled = rng.permutation(config.seed, 0, len(chips), "held out")
        count = min(max(int(len(chips) * HELD_OUT_SHARE), 1), MAX_HELD_OUT)
        photos, order = chips[np.sort(shuffled[:count])], np.sort(shuffled[count:])
    else:
        apart = out / "held-out"
        apart.mkdir(exist_ok=True)
        photos = pack_images(held_out, apart, config.resolution)[0][:MAX_HELD_OUT]
    if len(order) < config.batch_size:
        raise UserInputError(f"{len(order)} training images are fewer than one batch of {config.batch_size}")
    trainer = Trainer(config, RealImages(chips, config.seed, order), _tensor(photos), device)
    if resume and (out / "checkpoint.pt").exists():
        trainer.load(out)
    trainer.run(out)
    model = out / "model.safetensors"
    digest = export(trainer, model, data=f"{Path(source).name}: {len(order)} images", licence=licence)
    return {
        "images_seen": trainer.state.images_seen,
        "held_out_mse": round(trainer.held_out_error(), 6),
        "model": os.fspath(model),
        "sha256": digest,
    }


def _tensor(chips: np.ndarray) -> Tensor:
    return to_model_range(torch.from_numpy(np.array(chips)).permute(0, 3, 1, 2))


@torch.no_grad()
def fit_prior(trainer: Trainer) -> LatentPrior:
    """Gaussian over the encoder's codes of training photos."""
    state, members = trainer.state, trainer.images.members[:MAX_PRIOR_IMAGES]
    codes = [
        state.encoder_ema.encode(_tensor(trainer.images.chips[part]).to(trainer.device), state.generator_ema.w_avg)
        for part in np.array_split(members, max(len(members) // 128, 1))
    ]
    return LatentPrior.fit(torch.cat(codes))


def export(trainer: Trainer, path: Path, *, data: str, licence: str) -> str:
    """Writes averaged generator and encoder, the discriminator's trunk and the prior; returns the file's sha256."""
    state = trainer.state
    parts = {
        "generator": state.generator_ema.state_dict(),
        "encoder": state.encoder_ema.state_dict(),
        "features": state.discriminator.trunk.state_dict(),
        "prior": fit_prior(trainer).state_dict(),
    }
    description = {
        "family": state.generator_ema.family,
        "config": asdict(state.generator_ema.config),
        "discriminator_channels": list(trainer.config.discriminator_channels),
        "training": {**trainer.config.to_dict(), "images_seen": state.images_seen, "data": data},
        "licence": licence,
    }
    return checkpoints.write(path, parts, description)
