"""Augmented batches for a training loop: workers read, the main process makes variants, one batch ahead on CUDA."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, default_collate

from ganaug.batches import FileHasher, HostBatch, HostCollate, IndexedItems, fetch
from ganaug.dataset import GANAugmentedDataset
from ganaug.interfaces import UserInputError
from ganaug.sampling import KeyedSampler, SkippingBatchSampler
from ganaug.stage import DeviceStage, refuse_cuda_in_worker


class AugmentingCollate:
    """``collate_fn`` for ``DataLoader(train, ..., num_workers=0)``.

    Args:
        train: The wrapped dataset; its :meth:`~GANAugmentedDataset.set_epoch` decides the epoch.
        device: Where variants are made and batches arrive.
        base_collate: What makes the container from items.
        return_info: Add provenance to every batch.
    """

    def __init__(
        self,
        train: GANAugmentedDataset,
        device: str | torch.device = "cpu",
        *,
        base_collate: Callable[[Any], Any] = default_collate,
        return_info: bool = False,
    ) -> None:
        self.stage = DeviceStage(train, device, return_info)
        self.host_collate = HostCollate(base_collate)

    def __call__(self, items: Sequence[Any]) -> Any:
        """Items of one batch -> augmented batch on the device."""
        refuse_cuda_in_worker(self.stage.device)
        return self.stage(self.host_collate(items), self.stage.train.epoch)


class _WorkerDataset(Dataset[Any]):
    """What workers receive: the base dataset and its paths, without generator, cache or edits."""

    def __init__(self, train: GANAugmentedDataset) -> None:
        self.dataset = train.dataset
        self.paths, self.bases = train.paths_to_check, train.base_indices
        self.length = len(train)
        self.hasher = FileHasher()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> IndexedItems:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> IndexedItems:
        return fetch(self.dataset, indices, self.paths, self.hasher, self.bases)


class AugmentedLoader:
    """Iterates over augmented batches; made by :meth:`GANAugmentedDataset.loader`.

    Each pass is an epoch: the first is 0 unless :meth:`set_epoch` says otherwise. Draws depend on (seed, epoch, sample
    key), so workers, batch size, ranks and resuming change nothing about what a sample receives.

    Args:
        train: The wrapped dataset.
        batch_size: Samples per batch.
        shuffle: New order each epoch, decided by (seed, epoch).
        num_workers: Processes that read images.
        device: Where variants are made and batches arrive.
        return_info: Add ``is_generated``, ``source_index``, ``source_key`` and ``recipe`` to every batch.
        collate_fn: Base collate that makes the container from items.
        **options: Further arguments of ``torch.utils.data.DataLoader`` (``sampler``, ``batch_sampler``, ``drop_last``,
            ``pin_memory``, ``persistent_workers``, ``multiprocessing_context``, ...).

    Attributes:
        dataset: The wrapped dataset.
        sampler: The sampler in use.
        epoch: Epoch of the pass under way, or of the last one.
    """

    def __init__(
        self,
        train: GANAugmentedDataset,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        device: str | torch.device = "cpu",
        *,
        return_info: bool = False,
        collate_fn: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.dataset = train
        self.stage = DeviceStage(train, device, return_info)
        self.device = self.stage.device
        batches = self._batch_sampler(batch_size, shuffle, options)
        self.sampler = getattr(batches, "sampler", batches)
        self._batches = SkippingBatchSampler(batches)
        options.setdefault("pin_memory", self.device.type == "cuda")
        self.loader: DataLoader[Any] = DataLoader(
            _WorkerDataset(train),
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=HostCollate(collate_fn or default_collate),
            **options,
        )
        self.batch_sampler = batches
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.epoch = 0
        self._next_epoch = 0
        self._sampler_epoch: int | None = None
        self._yielded: int | None = None  # batches given in the pass under way, or in one that was left early
        self._skip = 0  # batches that the next pass leaves out
        self._stream: torch.cuda.Stream | None = None

    def _batch_sampler(self, batch_size: int, shuffle: bool, options: dict[str, Any]) -> Any:
        """What DataLoader would build from these options, with a shuffle that can be resumed."""
        given = options.pop("batch_sampler", None)
        sampler, drop_last = options.pop("sampler", None), options.pop("drop_last", False)
        if given is not None:
            if sampler is not None or shuffle or drop_last:
                raise UserInputError("batch_sampler excludes sampler, shuffle and drop_last")
            return given
        if batch_size is None or batch_size < 1:
            raise UserInputError(f"batch_size must be at least 1, got {batch_size}")
        if sampler is not None and shuffle:
            raise UserInputError("sampler excludes shuffle: the sampler decides the order")
        if sampler is None:
            train = self.dataset
            sampler = KeyedSampler(len(train), train.policy.seed) if shuffle else SequentialSampler(train)
        return BatchSampler(sampler, batch_size, drop_last)

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass epoch ``epoch``; forwarded to a sampler that has ``set_epoch``."""
        if epoch < 0:
            raise UserInputError(f"epoch must be 0 or more, got {epoch}")
        self._continue_at(int(epoch))

    def _continue_at(self, epoch: int) -> None:
        if epoch != self._next_epoch:
            self._skip = 0  # a position in one epoch says nothing about another
        self._next_epoch = epoch

    def _begin_epoch(self) -> int:
        # A DistributedSampler is usually told its epoch by the training loop. If that happened since the last pass, the
        # loop's word counts; otherwise the sampler is told ours.
        told = getattr(self.sampler, "epoch", None)
        if self._sampler_epoch is not None and told is not None and told != self._sampler_epoch:
            self._continue_at(int(told))
        elif self._sampler_epoch is None and told:
            self._continue_at(max(self._next_epoch, int(told)))
        epoch = self._next_epoch
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
            self._sampler_epoch = epoch
        self._next_epoch = epoch + 1
        return epoch

    def __iter__(self) -> Iterator[Any]:
        self.epoch = epoch = self._begin_epoch()
        done = self._batches.skip = self._skip
        self._yielded, self._skip = done, 0
        hosts = iter(self.loader)
        batches = self._ahead(hosts, epoch) if self.device.type == "cuda" else (self.stage(h, epoch) for h in hosts)
        for number, batch in enumerate(batches, start=done + 1):
            self._yielded = number
            yield batch
        self._yielded = None

    def _ahead(self, hosts: Iterator[HostBatch], epoch: int) -> Iterator[Any]:
        """Makes the next batch on a side stream while the caller works with this one."""
        if self._stream is None:  # one stream for the loader's life: a new one per epoch makes reserved memory grow
            self._stream = torch.cuda.Stream(self.device)
        stream = self._stream
        ready: Any = None
        first = True
        for host in hosts:
            with torch.cuda.stream(stream):
                upcoming = self.stage(host, epoch)
            if not first:
                yield ready
            # The caller's stream waits for the side stream, on the device; the host does not wait.
            torch.cuda.current_stream(self.device).wait_stream(stream)
            _record_stream(upcoming, torch.cuda.current_stream(self.device))
            ready, first = upcoming, False
        if not first:
            yield ready

    def state_dict(self) -> dict[str, Any]:
        """Where to go on, as JSON-able values; also in the middle of an epoch."""
        epoch, done = (self._next_epoch, self._skip) if self._yielded is None else (self.epoch, self._yielded)
        if done >= len(self):
            epoch, done = self._next_epoch, 0
        return {
            "epoch": epoch,
            "batches_yielded": done,
            "seed": self.dataset.policy.seed,
            "length": len(self),
            "num_samples": len(self.dataset),
            "batch_size": self.batch_size,
            "fingerprint": self.dataset.header.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken: the next pass starts after the batches already seen.

        Raises:
            UserInputError: If the state belongs to another seed, batch size, length or generator.
        """
        mine = self.state_dict()
        different = [k for k in ("seed", "length", "batch_size", "fingerprint") if state.get(k) != mine[k]]
        if state.get("num_samples", mine["num_samples"]) != mine["num_samples"]:  # states of ganaug 0.1 have none
            different.append("num_samples")  # as where another cache gives other extra variants
        if different:
            told = "; ".join(f"{k} {state.get(k)!r} there, {mine[k]!r} here" for k in different)
            raise UserInputError(f"this state belongs to another loader: {told}")
        self._next_epoch, self._skip, self._yielded = state["epoch"], state["batches_yielded"], None
        # Nothing that the sampler was told before counts as newer than the state.
        self._sampler_epoch = getattr(self.sampler, "epoch", None)


def _record_stream(batch: Any, stream: torch.cuda.Stream) -> None:
    """Tells the allocator that tensors made on the side stream are used on another."""
    if isinstance(batch, torch.Tensor):
        if batch.is_cuda:
            batch.record_stream(stream)
    elif isinstance(batch, dict):
        for value in batch.values():
            _record_stream(value, stream)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            _record_stream(value, stream)
