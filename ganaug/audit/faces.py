"""What a policy makes of photos, measured: variants as drawn and as served, and what networks see in both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ganaug.batches import FileHasher, HostCollate, fetch, find_images
from ganaug.cache import LatentCache
from ganaug.cached_faces import InversionDataset, PhotoDataset
from ganaug.dataset import GANAugmentedDataset
from ganaug.embedders import FaceEmbedder, Facenet
from ganaug.faces.paste import aligned_to_item, chip_to_item
from ganaug.faces.photos import Photo
from ganaug.gate import IdentityGate
from ganaug.gatekeeper import Gatekeeper
from ganaug.provenance import BatchRecipe, Source
from ganaug.stage import DeviceStage

Numbers = NDArray[np.float64]
Served = tuple[Tensor, Tensor, BatchRecipe]  # items before and after augmentation, and what became of them
BATCH_SIZE = 32


class AuditedPhotos(PhotoDataset):
    """All photos of a source: also those without latents, of which a policy makes no variants.

    Args:
        photos: Of the source that was precomputed.
        cache: The cache.

    Raises:
        CacheError: If no photo has a record.
    """

    def __init__(self, photos: Sequence[Photo], cache: LatentCache) -> None:
        super().__init__(photos, cache)
        known = {key for key, _ in self.faces}
        self.faces += [(photo.key, photo) for photo in photos if photo.key not in known]
        self.classes, self.targets = [""], [0] * len(self.faces)

    def keys(self) -> list[str]:
        """Of all faces."""
        return [key for key, _ in self.faces]

    def keep(self, keys: Sequence[str], labels: Sequence[str] | None) -> None:
        """Keeps these faces, in this order, and takes their labels where there are any."""
        found = dict(self.faces)
        self.faces = [(key, found[key]) for key in keys]
        self.classes, self.targets = _classes_of(labels, len(keys))


class AuditedInversions(InversionDataset):
    """The faces of a cache as its generator draws them, where there are no photos."""

    def __init__(self, cache: LatentCache) -> None:
        super().__init__(cache.path)
        self.classes, self.targets = [""], [0] * len(self.files)

    def keys(self) -> list[str]:
        """Of all faces."""
        return list(self.files)

    def keep(self, keys: Sequence[str], labels: Sequence[str] | None) -> None:
        """See :meth:`AuditedPhotos.keep`."""
        self.files = list(keys)
        self.classes, self.targets = _classes_of(labels, len(keys))


def _classes_of(labels: Sequence[str] | None, count: int) -> tuple[list[str], list[int]]:
    """Names of classes and the number of each face's; one class for all without labels."""
    if labels is None:
        return [""], [0] * count
    classes = sorted(set(labels))
    return classes, [classes.index(label) for label in labels]


@dataclass
class Measured:
    """Figures of N photos and of E variants of each.

    Attributes:
        outcome: ``(N, E)`` of :class:`ganaug.provenance.Source`, where a variant of every photo is asked for.
        drawn: ``(N, E)`` cosine between the embeddings of a variant as it was drawn, before any gate, and of its photo;
            NaN where none was drawn.
        at_once: ``(N, E)``: 1 where the first attempt was served, 0 where another or none was; NaN likewise.
        served: ``(N, E)`` cosine of what was served; NaN where it is no variant.
        photos: ``(N, D)`` embeddings of photos; NaN without latents, which say where the face is.
        variants: ``(N, D)`` embeddings of the first variants as served; NaN where it is no variant.
        photo_features: ``(N, F)`` of another network, for realism; NaN likewise.
        variant_features: ``(N, F)`` of the first variants.
    """

    outcome: NDArray[np.uint8]
    drawn: Numbers
    at_once: Numbers
    served: Numbers
    photos: Numbers
    variants: Numbers
    photo_features: NDArray[np.float32]
    variant_features: NDArray[np.float32]

    @classmethod
    def empty(cls, count: int, num_variants: int, embedding_dim: int) -> "Measured":
        """Nothing known yet; every photo counts as one without latents."""
        shape = (count, num_variants)
        outcome = np.full(shape, Source.NO_LATENT, np.uint8)
        cosines = [np.full(shape, np.nan) for _ in range(3)]
        embeddings = [np.full((count, embedding_dim), np.nan) for _ in range(2)]
        features = [np.full((count, 1), np.nan, np.float32) for _ in range(2)]
        return cls(outcome, *cosines, *embeddings, *features)

    def put_features(self, name: str, rows: NDArray[np.int64], values: Numbers) -> None:
        """Rows of ``photo_features`` or ``variant_features``, which are as wide as the first that come."""
        table: NDArray[np.float32] = getattr(self, name)
        if table.shape[1] != values.shape[1]:
            table = np.full((len(table), values.shape[1]), np.nan, np.float32)
            setattr(self, name, table)
        table[rows] = values


class Examiner:
    """Draws samples of a dataset and looks at them.

    Args:
        train: The wrapped dataset, without classical augmentation.
        embedder: Identity embedder on ``device``.
        device: Where to work.

    Attributes:
        threshold: Cosine from which the embedder takes two pictures for one person.
        embedding_dim: D.
    """

    def __init__(self, train: GANAugmentedDataset, embedder: FaceEmbedder | Facenet, device: torch.device) -> None:
        self.train, self.device = train, device
        gate = IdentityGate(embedder)
        self.threshold, self.embedding_dim = gate.threshold, embedder.embedding_dim
        self._keeper = Gatekeeper([gate], train.generator.img_resolution, train.chip_template)
        self._hasher, self._collate = FileHasher(), HostCollate()

    def stage(self, gated: bool) -> DeviceStage:
        """What makes variants, with the dataset's gates or without."""
        return DeviceStage(self.train, self.device, return_info=True, gated=gated)

    def serve(self, stage: DeviceStage, indices: Sequence[int], epoch: int) -> Served:
        """Items ``(B, 3, H, W)`` in [0, 1] before and after augmentation, and the recipe with what became of it."""
        train = self.train
        host = self._collate(fetch(train.dataset, indices, train.paths_to_check, self._hasher, train.base_indices))
        recipe = train.draw(indices, epoch)
        where = find_images(host.batch)
        before = host.batch[where].to(self.device)
        after = stage.apply(host, recipe)[where]
        return _unit(before), _unit(after), recipe

    def places(self, recipe: BatchRecipe, size: tuple[int, int]) -> tuple[Tensor, NDArray[np.int64]]:
        """Where chips lie in items: ``(K, 2, 3)`` of those K that have a sound record, and which they are."""
        count, resolution = len(recipe), self.train.generator.img_resolution
        probe = BatchRecipe(
            recipe.keys,
            0,
            0,
            np.full(count, Source.GENERATED, np.uint8),
            np.zeros((count, 0), bool),
            (),
            {},
            {},
            {},
        )
        geometry = self.train.latents_for(probe)["geometry"]
        found = np.flatnonzero(probe.is_generated)
        if self.train.paste == "aligned":  # inversions in place of photos are chips, too
            return aligned_to_item(resolution, size).expand(len(found), -1, -1), found
        return chip_to_item(geometry, resolution, size, self.train.fit), found

    @torch.no_grad()
    def embed(self, items: Tensor, places: Tensor) -> Tensor:
        """``(K, 3, H, W)`` in [0, 1] and where chips lie in them -> ``(K, D)`` unit vectors."""
        return self._keeper.look_at_photos(items, places, [""] * len(items))[0]  # type: ignore[return-value]


def measure(
    examiner: Examiner,
    indices: NDArray[np.int64],
    extractor: Callable[[Tensor], Tensor],
    num_variants: int = 1,
    batch_size: int = BATCH_SIZE,
    progress: bool = True,
) -> Measured:
    """Asks for a variant of every photo in so many epochs, and measures.

    Args:
        examiner: Of a dataset with ``ratio=1``.
        indices: ``(N,)`` photos of it.
        extractor: Images ``(B, 3, H, W)`` in [-1, 1] -> ``(B, F)``, for realism.
        num_variants: E, the epochs.
        batch_size: Photos at a time.
        progress: Show a progress bar.
    """
    train, found = examiner.train, Measured.empty(len(indices), num_variants, examiner.embedding_dim)
    has_latent = np.flatnonzero(train.pool.position[indices] >= 0)
    gated = examiner.stage(gated=True)
    free = examiner.stage(gated=False) if train.gates else None
    bar = tqdm(
        total=len(has_latent) * num_variants, unit="variant", desc="variants", disable=None if progress else True
    )
    with bar:
        for start in range(0, len(has_latent), batch_size):
            rows = has_latent[start : start + batch_size]
            for epoch in range(num_variants):
                served = examiner.serve(gated, indices[rows].tolist(), epoch)
                drawn = None if free is None else examiner.serve(free, indices[rows].tolist(), epoch)
                _look(examiner, extractor, found, rows, epoch, served, drawn)
                bar.update(len(rows))
    return found


def _look(
    examiner: Examiner,
    extractor: Callable[[Tensor], Tensor],
    found: Measured,
    rows: NDArray[np.int64],
    epoch: int,
    served: Served,
    drawn: Served | None,
) -> None:
    """Writes down what is seen in one batch; ``drawn`` is the same without gates, None where there are none."""
    before, after, recipe = served
    size = (before.shape[2], before.shape[3])
    places, sound = examiner.places(recipe, size)
    found.outcome[rows, epoch] = recipe.source
    asked = (recipe.source == Source.GENERATED) | (recipe.source == Source.REJECTED)
    found.at_once[rows[asked], epoch] = recipe.is_generated[asked] & (recipe.attempts[asked] <= 1)
    if epoch == 0 and len(sound):
        found.photos[rows[sound]] = _numbers(examiner.embed(before[sound], places))
        found.put_features("photo_features", rows[sound], _numbers(extractor(before[sound] * 2.0 - 1.0)))
    for items, made, cosines in (
        (after, recipe.is_generated[sound], found.served),
        (
            after if drawn is None else drawn[1],
            (recipe if drawn is None else drawn[2]).is_generated[sound],
            found.drawn,
        ),
    ):
        if not made.any():
            continue
        at = rows[sound[made]]
        seen = _numbers(examiner.embed(items[sound[made]], places[torch.from_numpy(made)]))
        cosines[at, epoch] = (seen * found.photos[at]).sum(axis=1)
        if epoch == 0 and cosines is found.served:
            found.variants[at] = seen
            found.put_features("variant_features", at, _numbers(extractor(items[sound[made]] * 2.0 - 1.0)))


def _numbers(rows: Tensor) -> Numbers:
    return rows.double().cpu().numpy()


def _unit(images: Tensor) -> Tensor:
    """Items as floats in [0, 1]."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
