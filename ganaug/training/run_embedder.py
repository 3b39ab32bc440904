"""From a folder of photos to an identity embedder: what ``ganaug train-embedder`` does."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganaug import checkpoints
from ganaug.errors import UserInputError
from ganaug.training.data import pack_images, to_images
from ganaug.training.embedder import EmbedderTrainer
from ganaug.training.embedder_batches import PeopleBatches
from ganaug.training.embedder_config import EmbedderConfig
from ganaug.training.embedder_labels import read_labels
from ganaug.training.embedder_monitor import EmbedderMonitor, calibrate
from ganaug.training.embedder_views import generated_views
from ganaug.training.parallel import Processes
from ganaug.training.photos import gather_photos
from ganaug.training.runner import run


def train_embedder(
    source: str | Path,
    out: Path,
    config: EmbedderConfig,
    device: torch.device,
    *,
    labels: str | Path | None = None,
    held_out: str | Path | None = None,
    resume: bool = False,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Trains an embedder and writes ``out/embedder.safetensors``, with a threshold measured on held-out photos.

    Args:
        source: Folder of photos, framed alike; cut to their largest centred square.
        out: Folder for checkpoint, views, log and model.
        config: Hyperparameters.
        device: Where to train.
        labels: CSV file with the columns that ``config`` names; cells may be empty.
        held_out: Folder of photos of other people to judge by, in the same table; None takes 2 % of the photos away.
        resume: Continue from ``out/checkpoint.pt``. Without it, a folder that has one is refused.
        licence: Licence and attribution of the photos, written into the model file.

    Returns:
        Figures: ``images_seen``, the calibration (:class:`ganaug.training.embedder_monitor.Calibration`), ``model`` and
        its ``sha256``.

    Raises:
        UserInputError: With too few images, labels that do not fit, or an ``out`` that holds another run.
        CheckpointError: For a damaged checkpoint, or a generator's file that is missing or damaged.
    """
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise UserInputError(f"{out} holds a run already; continue it with --resume, or give another --out")
    processes = Processes(device)
    photos = gather_photos(source, out, config.resolution, config.seed, processes, held_out)
    columns = {"identity": config.identity, "groups": config.groups, "attributes": config.attributes}
    everyone = read_labels(labels, photos.packed.names, source, **columns)  # type: ignore[arg-type]
    known, chips = everyone.at(photos.members), photos.packed.chips
    if held_out is None:
        others = np.setdiff1d(np.arange(len(chips)), photos.members)
        images, apart = photos.held_out, everyone.at(others)
    else:  # all of them: gather_photos keeps the first few, which is enough for snapshots
        packed = pack_images(held_out, out / "held-out", config.resolution)
        images = to_images(packed.chips)
        apart = read_labels(labels, packed.names, held_out, known=everyone.attributes, **columns)  # type: ignore[arg-type]
    views = None
    if config.generator is not None:
        views = generated_views(
            *(config.generator, chips, photos.members, known.people, known.groups),
            *(out, config.seed, processes.device),
        )
    batches = PeopleBatches(chips, photos.members, known, views, config)
    trainer = EmbedderTrainer(config, batches, processes)
    measured_on = f"{len(images)} photos at {config.false_accept_rate:g}"
    monitor = EmbedderMonitor(images, apart.people, apart.groups, measured_on)
    if checkpoint.exists():
        trainer.load(checkpoint)
    elif config.init is not None:
        trainer.start_from(Path(config.init))
    (out / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    run(trainer, out, monitor)
    embedder = trainer.embedder()
    found = calibrate(
        lambda images: embedder(images.to(trainer.device)),
        *(images, apart.people, apart.groups, config.false_accept_rate),
        columns=tuple(config.groups),
    )
    settings = config.to_dict()
    for name in ("init", "generator"):  # where they lie on somebody's disk is nobody else's business
        settings[name] = Path(settings[name]).name if settings[name] else None
    described = {
        **trainer.description(),
        "threshold": found.threshold,
        "calibration": {**found.to_dict(), "data": Path(held_out or source).name},
        "training": {
            **settings,
            "images_seen": trainer.images_seen,
            "data": f"{Path(source).name}: {len(photos.members)} images",
        },
        "licence": licence,
    }
    model = out / "embedder.safetensors"
    digest = checkpoints.write(model, trainer.parts(), described)
    return {"images_seen": trainer.images_seen, **found.to_dict(), "model": os.fspath(model), "sha256": digest}
