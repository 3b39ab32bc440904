"""Tune learning rate, batch size and R1 weight of a training run with Optuna (``pip install "ganaug[sweep]"``).

    python examples/sweep.py FOLDER OUT

Each trial trains on the photos in FOLDER, and ends early when its samples are farther from held-out photos than the
median of the trials before it. Trials are kept in ``OUT/sweep.db``: killed and started again, the sweep repeats no more
than the trial that was under way. ``OUT/best.json`` is for ``ganaug train --config``. Without arguments it tunes a tiny
network on drawn faces, so that it runs anywhere.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from optuna.trial import TrialState

from ganaug import rng
from ganaug.demo import draw_faces
from ganaug.features import PooledFeatures, load_perceptual_features
from ganaug.training.config import PRESETS, TrainConfig
from ganaug.training.data import RealImages, pack_images, to_images
from ganaug.training.gan import GANTrainer
from ganaug.training.monitor import Monitor
from ganaug.training.parallel import Processes

NUM_SNAPSHOTS = 5  # looks at a trial before its end


def main(photos: Path, out: Path, base: TrainConfig, num_trials: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    chips = pack_images(photos, out, base.resolution).chips
    order = rng.permutation(base.seed, 0, len(chips), "held out")
    held_out, members = order[: max(len(chips) // 10, 4)], order[max(len(chips) // 10, 4) :]
    processes = Processes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    embedder = PooledFeatures(load_perceptual_features("faces64", processes.device), "discriminator-faces64")
    monitor = Monitor(embedder, to_images(chips[held_out]))

    def objective(trial: optuna.Trial) -> float:
        config = replace(
            base,
            learning_rate=trial.suggest_float("learning_rate", 5e-4, 1e-2, log=True),
            batch_size=trial.suggest_categorical("batch_size", [8, 16, 32]),
            r1_gamma=trial.suggest_float("r1_gamma", 0.01, 10.0, log=True),
        )
        trainer = GANTrainer(config, RealImages(chips, base.seed, members), processes)
        for snapshot in range(1, NUM_SNAPSHOTS + 1):
            while trainer.images_seen < trainer.total * snapshot / NUM_SNAPSHOTS:
                trainer.step()
            distance = monitor.evaluate(trainer, base.evaluated_images, seed=base.seed + 1)["frechet"]
            trial.report(distance, snapshot)
            if trial.should_prune():
                raise optuna.TrialPruned
        return distance

    study = optuna.create_study(storage=f"sqlite:///{out / 'sweep.db'}", study_name="sweep", load_if_exists=True)
    for killed in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(killed.number, state=TrialState.FAIL)
        study.enqueue_trial(killed.params)
    done = len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    # A rate that is too high ends its own trial alone.
    study.optimize(objective, n_trials=max(num_trials - done, 0), catch=FloatingPointError)
    (out / "best.json").write_text(json.dumps(study.best_params, indent=2) + "\n")
    print(f"distance {study.best_value:.3f} with {study.best_params}")


if __name__ == "__main__":
    base = replace(PRESETS["tiny64"], kimg=20.0)
    if len(sys.argv) == 3:
        main(Path(sys.argv[1]), Path(sys.argv[2]), base, num_trials=20)
    else:
        base = replace(base.at_resolution(16), w_dim=32, kimg=0.064, evaluated_images=16)
        with tempfile.TemporaryDirectory() as scratch:
            draw_faces("faces64", Path(scratch) / "faces", count=40, seed=0)
            main(Path(scratch) / "faces", Path(scratch) / "sweep", base, num_trials=3)
