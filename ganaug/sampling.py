"""Orders in which samples are visited, such that an epoch can be resumed in its middle."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from ganaug import rng


class KeyedSampler(Sampler[int]):
    """A new order each epoch that depends on (seed, epoch) alone, so that an epoch can be resumed in its middle."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order is given."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(rng.permutation(self.seed, self.epoch, self.length, "shuffle").tolist())


class SkippingBatchSampler(Sampler[list[int]]):
    """Leaves out the first ``skip`` batches of one pass, without loading them."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.skip = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[int]]:
        skip, self.skip = self.skip, 0
        for number, indices in enumerate(self.batch_sampler):
            if number >= skip:
                yield list(indices)
