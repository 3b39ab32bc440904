"""One training run over several processes, started by ``torchrun``; a single process is the same with nothing to do.

Gradients are averaged once per optimiser step, over everything that was accumulated: what DistributedDataParallel does,
without its hooks, which would fire in every one of the several backward passes of an adversarial step.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganaug import rng
from ganaug.errors import UserInputError


def keyed_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """Random numbers that depend on ``key`` alone: a run that was resumed draws what it would have drawn."""
    return torch.Generator(device=device).manual_seed(rng.hash_text("/".join(map(str, key))))


class Processes:
    """The processes of a run.

    Attributes:
        rank: This process, from 0.
        world: How many there are.
        device: Where this one computes: ``cuda`` becomes the local rank's card.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world, self.device = 0, 1, device
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return
        if device.type == "cuda":
            local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= count:
                raise UserInputError(f"torchrun started process {local} here, but there are {count} CUDA device(s)")
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    @property
    def is_main(self) -> bool:
        """Only this one writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all."""
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        """Ends the group; this run needs nothing of the others any more."""
        if self.world > 1:
            dist.destroy_process_group()

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes, all in one message."""
        found = list(tensors)
        if self.world == 1 or not found:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in found])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, part in zip(found, flat.split([tensor.numel() for tensor in found]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Same for gradients."""
        self.average(p.grad for p in parameters if p.grad is not None)

    def gather(self, rows: Tensor) -> Tensor:
        """``(n, ...)`` of every process -> ``(world * n, ...)``, in order of rank."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)
