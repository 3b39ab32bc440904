"""From a model file and a folder of photos to the same file with another encoder: ``ganaug train-encoder``."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from ganaug import checkpoints
from ganaug.interfaces import UserInputError
from ganaug.training.data import RealImages
from ganaug.training.encoder import EncoderTrainer
from ganaug.training.encoder_config import EncoderConfig
from ganaug.training.encoder_monitor import EncoderMonitor
from ganaug.training.encoder_source import open_source
from ganaug.training.identity import load_embedder
from ganaug.training.parallel import Processes
from ganaug.training.photos import check_enough, gather_photos
from ganaug.training.runner import run


def train_encoder(
    generator: str | Path,
    source: str | Path,
    out: Path,
    config: EncoderConfig,
    device: torch.device,
    *,
    held_out: str | Path | None = None,
    resume: bool = False,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Trains an encoder and writes ``out/model.safetensors`` with the checkpoint that reconstructs best.

    Args:
        generator: Bundled name or model file. Its generator goes into the new file as it is: the fingerprint is the
            same, and so are caches' contents; only an inverter that uses the encoder gives other latents.
        source: Folder of training photos, cut to their largest centred square.
        out: Folder for checkpoint, pictures, log and model.
        config: Hyperparameters.
        device: Where to train.
        held_out: Folder of photos to judge by; None takes 2 % of the training photos away for it.
        resume: Continue from ``out/checkpoint.pt``. Without it, a folder that has one is refused.
        licence: Licence and attribution of the photos, written into the model file beside the generator's own.

    Returns:
        Figures: ``images_seen`` by the encoder that was kept, the number of ``held_out`` photos and its
        ``held_out_mse``, ``held_out_psnr`` and ``held_out_ssim`` on them, the generator's ``fingerprint``, ``model``
        and its ``sha256``.

    Raises:
        UserInputError: With too few images, an embedder that is none, or an ``out`` that holds another run.
        CheckpointError: For a generator's file that is missing or damaged.
    """
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise UserInputError(f"{out} holds a run already; continue it with --resume, or give another --out")
    processes = Processes(device)
    opened = open_source(generator, processes.device)
    resolution = opened.generator.img_resolution
    embedder = None if config.embedder is None else load_embedder(config.embedder, processes.device, resolution)
    photos = gather_photos(source, out, resolution, config.seed, processes, held_out)
    check_enough(photos, config.batch_size)
    images = RealImages(photos.packed.chips, config.seed, photos.members)
    described = f"{Path(source).name}: {len(photos.members)} images"
    trainer = EncoderTrainer(config, opened, images, processes, embedder=embedder, data=described, licence=licence)
    monitor = EncoderMonitor(photos.held_out, f"{len(photos.held_out)} photos")
    if resume and checkpoint.exists():
        trainer.load(checkpoint)
    if trainer.is_main:
        (out / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    run(trainer, out, monitor)
    best, model = out / "best.pt", out / "model.safetensors"
    if best.exists():
        trainer.load(best)
    figures: dict[str, Any] = {"images_seen": trainer.images_seen, "held_out": len(photos.held_out)}
    if trainer.is_main:
        figures |= {k: round(v, 6) for k, v in monitor.evaluate(trainer, config.evaluated_images, config.seed).items()}
        digest = export(trainer, model)
        figures |= {"fingerprint": opened.generator.fingerprint, "model": os.fspath(model), "sha256": digest}
    trainer.barrier()
    return figures


def export(trainer: EncoderTrainer, path: Path) -> str:
    """Writes the model file; returns its sha256. Half precision only if the generator had been stored in it."""
    handed_on = [tensor for state in trainer.source.parts.values() for tensor in state.values()]
    half = all(torch.equal(tensor.half().float(), tensor) for tensor in handed_on)
    return checkpoints.write(path, trainer.parts(), trainer.description(), half=half)
