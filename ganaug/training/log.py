"""What a run leaves behind to be read: ``log.jsonl``, and TensorBoard events where TensorBoard is installed."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


class TrainingLog:
    """One JSON object a line in ``out/log.jsonl``, each with ``images``: real images shown so far.

    A run that continues from a checkpoint repeats what came after it, so lines past the checkpoint are dropped first,
    and with them a last line that a killed process left unfinished.

    Args:
        out: Folder of the run.
        images_seen: Where the run continues; 0 for a new one.

    Attributes:
        last: The last line that was kept or written, ``{}`` if none.
    """

    def __init__(self, out: Path, images_seen: int) -> None:
        self.path = out / "log.jsonl"
        kept = self._lines(images_seen) if self.path.exists() else []
        self.last: dict[str, Any] = kept[-1] if kept else {}
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._events = None
        else:  # purge_step hides the events past the checkpoint
            self._events = SummaryWriter(os.fspath(out / "tensorboard"), purge_step=images_seen + 1)

    def _lines(self, images_seen: int) -> list[dict[str, Any]]:
        kept = []
        for text in self.path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and line.get("images", math.inf) <= images_seen:
                kept.append(line)
        return kept

    def append(self, line: Mapping[str, float], picture: Tensor | None = None) -> None:
        """Adds a line, rounded to six digits; JSON has no NaN, so what is not finite becomes null.

        Args:
            line: Figures by name, among them ``images``.
            picture: ``(3, H, W)`` in [0, 1], for TensorBoard.
        """
        self.last = {
            name: value if isinstance(value, int) else float(f"{value:.6g}") if math.isfinite(value) else None
            for name, value in line.items()
        }
        with self.path.open("a") as file:
            file.write(json.dumps(self.last) + "\n")
        if self._events is not None:
            images = int(line["images"])
            for name, value in line.items():
                if name != "images":
                    self._events.add_scalar(name, value, images)
            if picture is not None:
                self._events.add_image("samples", picture, images)
            self._events.flush()

    def close(self) -> None:
        """Closes the events file."""
        if self._events is not None:
            self._events.close()


def replace_file(path: Path, text: str) -> None:
    """Writes a text file so that a reader, or a kill at any moment, finds either the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
