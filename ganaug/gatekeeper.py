"""What stands between pictures in items and the gates: each network's framing, and what it said of the photos."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganaug.batches import FileHasher, HostCollate, fetch, find_images
from ganaug.dataset import GANAugmentedDataset
from ganaug.faces.framing import framed, network_to_chip
from ganaug.faces.geometry import compose
from ganaug.faces.paste import chip_to_item
from ganaug.gate import Gate
from ganaug.interfaces import UserInputError
from ganaug.provenance import BatchRecipe, Source

_PHOTOS_AT_ONCE = 64


class Gatekeeper:
    """Asks all gates about the variants of a batch.

    Args:
        gates: Gates on the device where variants are made.
        chip_size: Side of the generator's chips in pixels.
        chip_template: Framing of the chips, or None where nobody knows it.
        remember: Keep what the networks said of each photo, by its key: photos of one dataset do not change, and half
            of the networks' work is saved for photos seen before. 512 bytes a photo with the bundled embedder.
    """

    def __init__(
        self, gates: Sequence[Gate], chip_size: int, chip_template: str | None = None, *, remember: bool = False
    ) -> None:
        self.gates, self.chip_size = tuple(gates), chip_size
        self._to_chip = [
            network_to_chip(gate.template, self._size(gate), chip_template, chip_size) for gate in self.gates
        ]
        self._memories = [_Memory() if remember and gate.compares else None for gate in self.gates]

    def look_at_photos(self, items: Tensor, matrices: Tensor, keys: Sequence[str]) -> list[Tensor | None]:
        """What the gates need to know of real items.

        Args:
            items: ``(K, 3, H, W)`` in [0, 1].
            matrices: ``(K, 2, 3)`` on the CPU, chip to item pixels.
            keys: ``K`` sample keys.

        Returns:
            For each gate ``(K, E)`` features, or None if it does not compare.
        """
        found: list[Tensor | None] = []
        for number, (gate, memory) in enumerate(zip(self.gates, self._memories, strict=True)):
            if not gate.compares:
                found.append(None)
            elif memory is None:
                found.append(self._features(number, items, matrices))
            else:
                new = memory.unknown(keys)
                if len(new):
                    at = torch.from_numpy(new)
                    seen = items.index_select(0, at.to(items.device, non_blocking=True))
                    memory.add([keys[i] for i in new], self._features(number, seen, matrices[at]))
                found.append(memory.recall(keys, items.device))
        return found

    def judge(self, served: Tensor, matrices: Tensor, photos: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """Whether variants may be served.

        Args:
            served: ``(K, 3, H, W)`` in [0, 1], as they would be served.
            matrices: ``(K, 2, 3)`` on the CPU, chip to pixels of what is served.
            photos: From :meth:`look_at_photos`, the same K rows.

        Returns:
            Score of identity ``(K,)``, NaN if no gate watches it, and whether all gates pass ``(K,)`` bool.
        """
        identity: Tensor | None = None
        passed = torch.ones(len(served), dtype=torch.bool, device=served.device)
        for number, (gate, real) in enumerate(zip(self.gates, photos, strict=True)):
            seen = self._features(number, served, matrices)
            score, fine = gate.judge(seen, seen if real is None else real)
            if score.shape != passed.shape or fine.shape != passed.shape or fine.dtype != torch.bool:
                raise UserInputError(
                    f"{type(gate).__name__}.judge must give a score and a bool for each of {len(served)} variants, got "
                    f"{tuple(score.shape)} and {fine.dtype} of shape {tuple(fine.shape)}"
                )
            passed = passed & fine
            if identity is None and "identity" in gate.watches:
                identity = score.float()
        return torch.full_like(passed, float("nan"), dtype=torch.float32) if identity is None else identity, passed

    def frame(self, number: int, items: Tensor, matrices: Tensor) -> Tensor:
        """Items as a gate's network sees them, ``(K, 3, size, size)`` in [-1, 1]; mirrored beyond their edges."""
        size = self._size(self.gates[number])
        places = compose(matrices.double(), self._to_chip[number]).float()
        return framed(items, places, size)

    def _features(self, number: int, items: Tensor, matrices: Tensor) -> Tensor:
        return self.gates[number].features(self.frame(number, items, matrices))

    def _size(self, gate: Gate) -> int:
        return self.chip_size if gate.size is None else gate.size


class _Memory:
    """Key -> row of a tensor that grows."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._features = torch.zeros(0, 0)

    def unknown(self, keys: Sequence[str]) -> np.ndarray:
        """Places of keys that are new, each once."""
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in self._rows}
        return np.array(sorted(first.values()), np.int64)

    def add(self, keys: Sequence[str], features: Tensor) -> None:
        """``features (K, E)`` of K new keys."""
        needed = len(self._rows) + len(keys)
        if needed > len(self._features):
            grown = features.new_zeros(max(needed, 2 * len(self._features)), features.shape[1])
            grown[: len(self._features)] = self._features.to(grown).reshape(-1, features.shape[1])
            self._features = grown
        self._features[len(self._rows) : needed] = features
        self._rows |= {key: len(self._rows) + place for place, key in enumerate(keys)}

    def recall(self, keys: Sequence[str], device: torch.device) -> Tensor:
        """``(K, E)``."""
        at = torch.tensor([self._rows[key] for key in keys], dtype=torch.int64)
        return self._features.index_select(0, at.to(device, non_blocking=True))


@torch.no_grad()
def frame_photos(train: GANAugmentedDataset, gate: Gate, num_photos: int = 1000) -> Tensor:
    """Real photos of a dataset as a gate's network sees them, to fit the gate to.

    Args:
        train: The wrapped dataset.
        gate: Whose framing and size.
        num_photos: How many, evenly over the dataset; fewer if it has fewer with latents.

    Returns:
        ``(N, 3, size, size)`` in [-1, 1].
    """
    members = np.flatnonzero(train.pool.position >= 0)
    members = members[np.unique(np.linspace(0, len(members) - 1, min(num_photos, len(members))).astype(np.int64))]
    keeper, collate, framed = Gatekeeper([gate], train.generator.img_resolution, train.chip_template), HostCollate(), []
    for start in range(0, len(members), _PHOTOS_AT_ONCE):
        at = members[start : start + _PHOTOS_AT_ONCE]
        batch: Any = collate(fetch(train.dataset, at.tolist(), None, FileHasher())).batch
        images = batch[find_images(batch)]
        items = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        if train.normalization is not None:
            items = train.normalization.to_unit(items).clamp(0.0, 1.0)
        keys = [train.items[i].key for i in at]
        recipe = BatchRecipe(
            keys, 0, 0, np.full(len(at), Source.GENERATED, np.uint8), np.zeros((len(at), 0), bool), (), {}, {}, {}
        )
        geometry = train.latents_for(recipe)["geometry"]
        readable = torch.from_numpy(recipe.is_generated)
        size = (items.shape[2], items.shape[3])
        matrices = chip_to_item(geometry, train.generator.img_resolution, size, train.fit)
        framed.append(keeper.frame(0, items[readable], matrices))
    return torch.cat(framed)
