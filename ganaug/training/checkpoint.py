"""Training checkpoints: one file that holds a run, written whole or not at all, read without executing it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ganaug.interfaces import CheckpointError

# What may differ between a run and its continuation: how long it is, how it is watched, how much fits into memory, and
# the rate, which has to come down when a run has blown up.
MAY_DIFFER = ("kimg", "learning_rate", "snapshot_kimg", "evaluated_images", "accumulate", "false_accept_rate")


Settings = TypeVar("Settings")


def read_settings(out: Path, parse: Callable[[dict[str, Any]], Settings], what: str = "a run") -> Settings:
    """Settings of the run in ``out``.

    Args:
        out: Folder of the run.
        parse: What makes settings of ``config.json``.
        what: What the folder should hold, for the message.

    Raises:
        CheckpointError: If there are none, or not readable ones.
    """
    path = out / "config.json"
    try:
        return parse(json.loads(path.read_text()))
    except FileNotFoundError:
        raise CheckpointError(f"{out} holds no run to continue: {path.name} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: no settings of {what}: {error}") from error


class Configuration(Protocol):
    """Hyperparameters of a run."""

    def to_dict(self) -> dict[str, Any]: ...


def write_checkpoint(path: Path, config: Configuration, payload: dict[str, Any]) -> None:
    """Writes ``payload`` and the configuration to a temporary file and renames it: a kill leaves a whole one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({**payload, "config": config.to_dict()}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path, config: Configuration) -> dict[str, Any]:
    """Payload of a checkpoint made with the same configuration, on the CPU.

    Networks and optimisers take their tensors to where they are. Adam's step counts must stay here: on a GPU each of
    them would make every later step wait for it.

    Raises:
        CheckpointError: When the file is damaged or belongs to another configuration.
    """
    try:
        payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        theirs = payload["config"]
        if not isinstance(theirs, dict):
            raise TypeError(f"expected settings, got {type(theirs).__name__}")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read as a training checkpoint: {error.strerror or error}") from error
    except Exception as error:  # torch's message advises to execute what is in the file: not repeated here
        raise CheckpointError(
            f"{path}: cannot be read as a training checkpoint: it is damaged, or was not written by a training run"
        ) from error
    mine = config.to_dict()
    different = [
        f"{name}: {theirs.get(name)} there, {value} here"
        for name, value in mine.items()
        if theirs.get(name) != value and name not in MAY_DIFFER
    ]
    if different:
        raise CheckpointError(f"{path}: made with other settings ({'; '.join(different)}); use another --out")
    return payload
