"""From a folder of photos to a model file: what ``ganaug train`` does."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganaug import checkpoints
from ganaug.errors import UserInputError
from ganaug.features import PooledFeatures, load_perceptual_features
from ganaug.training.checkpoint import read_settings
from ganaug.training.config import TrainConfig
from ganaug.training.data import RealImages
from ganaug.training.finetune import start_from
from ganaug.training.gan import GANTrainer
from ganaug.training.labels import LabelTable
from ganaug.training.monitor import Monitor
from ganaug.training.parallel import Processes
from ganaug.training.photos import check_enough, gather_photos
from ganaug.training.protocol import Trainable
from ganaug.training.runner import run
from ganaug.training.vae import VAETrainer

FEATURES = "faces64"  # what judges a run and, for a VAE, its perceptual loss: no ImageNet network ships


def train(
    source: str | Path,
    out: Path,
    config: TrainConfig,
    device: torch.device,
    *,
    held_out: str | Path | None = None,
    labels: str | Path | None = None,
    resume: bool = False,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Trains a generator, with an encoder unless told otherwise, and writes ``out/model.safetensors``.

    Started by ``torchrun``, the processes share every batch.

    Args:
        source: Folder of training photos, or ``package.module:function`` returning a dataset; cut to the largest
            centred square.
        out: Folder for checkpoint, pictures, log and model.
        config: Hyperparameters.
        device: Where to train.
        held_out: Folder of photos for pictures and figures; None takes 2 % of the training photos away for it, at least
            64 if that is at most a tenth.
        labels: CSV file with ``config.condition``'s columns.
        resume: Continue from ``out/checkpoint.pt``, if there is one. Without it, a folder that has one is refused.
        licence: Licence and attribution of the data, written into the model file.

    Returns:
        Figures: ``images_seen``, those of the last snapshot, ``model``, its ``sha256``, and ``model_images``: after how
        many images the networks in it were the best by the Frechet distance. Empty in all processes but the main one.

    Raises:
        UserInputError: With too few images, missing labels, or an ``out`` that holds another run.
        CheckpointError: For a damaged checkpoint or one of other settings.
        FloatingPointError: When a loss is no longer finite.
    """
    if bool(labels) != bool(config.condition):
        raise UserInputError("conditional training needs both: --labels with a CSV file and --condition with columns")
    if config.init is not None and config.family != "stylegan2":
        raise UserInputError(f"--init starts a run of family 'stylegan2', this one trains {config.family!r}")
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise UserInputError(f"{out} holds a run already; continue it with --resume, or give another --out")
    table = LabelTable(labels, config.condition) if labels is not None else None
    processes = Processes(device)
    config.part_size(processes.world)  # noticed before the work
    photos = gather_photos(source, out, config.resolution, config.seed, processes, held_out)
    check_enough(photos, config.batch_size)
    chips, names = photos.packed.chips, photos.packed.names
    images = RealImages(chips, config.seed, photos.members, None if table is None else table.encode(names, source))
    features = load_perceptual_features(FEATURES, processes.device)
    trainer: Trainable
    if config.family == "vae":
        trainer = VAETrainer(config, images, processes, features=features)
    else:
        trainer = gan = GANTrainer(config, images, processes, label_table=None if table is None else table.describe())
        if config.init is not None and not checkpoint.exists():
            start_from(gan.state, checkpoints.resolve(config.init))
    if checkpoint.exists():
        trainer.load(checkpoint)
    elif processes.is_main:
        for name in ("best.pt", "best.json", "log.jsonl"):  # of a run whose checkpoint was taken away
            (out / name).unlink(missing_ok=True)
    if processes.is_main:
        (out / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    monitor = Monitor(PooledFeatures(features, f"discriminator-{FEATURES}"), photos.held_out)
    run(trainer, out, monitor)
    figures: dict[str, Any] = {}
    if processes.is_main:
        figures = {"images_seen": trainer.images_seen, **_last_figures(out)}
        if (out / "best.pt").exists():  # what is shipped is the best by the Frechet distance, often the last anyway
            trainer.load(out / "best.pt")
        figures["model_images"] = trainer.images_seen
        model = out / "model.safetensors"
        data = f"{Path(source).name}: {len(photos.members)} images"
        figures["model"] = os.fspath(model)
        figures["sha256"] = export(trainer, model, data=data, licence=licence)
    processes.barrier()
    processes.close()
    return figures


def read_config(out: Path) -> TrainConfig:
    """Settings of the run in ``out``; raises CheckpointError if there are none, or not readable ones."""
    return read_settings(out, TrainConfig.from_dict)


def _last_figures(out: Path) -> dict[str, float]:
    line = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    names = ("frechet", "kid", "precision", "recall", "held_out_mse", "images_per_s", "seconds")
    return {name: round(line[name], 6) for name in names if line.get(name) is not None}


def export(trainer: Trainable, path: Path, *, data: str, licence: str) -> str:
    """Writes the trainer's networks as they ship; returns the file's sha256.

    Args:
        trainer: Where the networks come from.
        path: Model file.
        data: What they were trained on.
        licence: Its licence and attribution.
    """
    settings = trainer.config.to_dict()
    if settings.get("init"):
        settings["init"] = Path(settings["init"]).name  # where it lies on somebody's disk is nobody else's business
    training = {**settings, "images_seen": trainer.images_seen, "data": data}
    parts: dict[str, dict[str, Tensor]] = trainer.parts()
    return checkpoints.write(path, parts, {**trainer.description(), "training": training, "licence": licence})
