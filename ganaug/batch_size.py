"""How many images a device takes at a time: found by trying, and remembered."""

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import torch
from tqdm import tqdm

from ganaug.interfaces import UserInputError

T = TypeVar("T")

# Where the search begins. CPU: 16 images a step already cost little more than half of what they cost one by one, and
# larger batches save nothing more (measured on the bundled 64 px generator). CUDA: fills a large device at 64 px; a
# device that it does not fit halves it within seconds.
START = {"cpu": 16, "cuda": 256}
REMEMBERED = "batch_size.json"  # inside the cache's folder

# PyTorch's allocator for the CPU raises a plain RuntimeError (c10/core/impl/alloc_cpu.cpp), in one of two wordings.
_CPU_ALLOCATOR = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, and nothing else.

    Example:
        >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        True
        >>> is_out_of_memory(RuntimeError("shape mismatch"))
        False
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _CPU_ALLOCATOR.search(str(error)) is not None


class BatchSize:
    """A batch size that is halved when memory runs out.

    Args:
        asked: Images at a time, which stays as it is; or ``"auto"``: what this cache's earlier runs found on this
            device, else a number to begin with.
        device: Where the work is done.
        folder: Where a size that was found is remembered, in ``batch_size.json``. Delete that file to search anew.

    Attributes:
        value: Images at a time, for now.
        device: Where the work is done.

    Raises:
        UserInputError: If less than one image is asked for.
    """

    def __init__(self, asked: int | Literal["auto"], device: torch.device, folder: str | Path) -> None:
        if asked != "auto" and (isinstance(asked, str) or asked < 1):
            raise UserInputError(f"batch_size must be at least 1, got {asked!r}; or give 'auto'")
        self.is_fixed = asked != "auto"
        self.device, self._file = device, Path(folder) / REMEMBERED
        self._name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.value = self._known().get(self._name, START.get(device.type, START["cpu"])) if asked == "auto" else asked

    def fitting(self, work: Callable[[int], T]) -> T:
        """``work(value)``, again with half of it as long as memory runs out.

        Raises:
            UserInputError: If one image alone does not fit, or a number that was asked for does not.
        """
        while True:
            try:
                return work(self.value)
            except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                self._check_smaller(error)
            # Out here nothing holds the failed attempt's tensors any longer: the traceback is gone.
            self._halve()

    def _check_smaller(self, error: Exception) -> None:
        if self.value == 1:
            raise UserInputError(
                f"one image alone does not fit into the memory of {self.device}: use another device, or an inverter "
                "that takes less, such as encoder"
            ) from error
        if self.is_fixed:
            raise UserInputError(
                f"a batch of {self.value} does not fit into the memory of {self.device}: use a smaller batch size, or "
                "auto, which finds one that fits"
            ) from error

    def _halve(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of the old sizes fit nothing now
        before, self.value = self.value, self.value // 2
        told = "" if self._remember() else f", which could not be written to {self._file}"
        tqdm.write(
            f"note: {before} images at a time do not fit into the memory of {self.device}; going on with "
            f"{self.value}, from now on in this cache{told}",
            file=sys.stderr,
        )

    def _known(self) -> dict[str, int]:
        """Device -> size, as found by earlier runs; a file that cannot be understood is as good as none."""
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(known, dict):
            return {}
        return {name: size for name, size in known.items() if type(size) is int and size >= 1}

    def _remember(self) -> bool:
        """Writes the size that was found; returns whether it is there. A run does not end because it is not."""
        temporary = self._file.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps({**self._known(), self._name: self.value}, indent=2) + "\n")
            os.replace(temporary, self._file)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return False
        return True
