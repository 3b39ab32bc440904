"""Batches for the training of an identity embedder: which faces, in which views, and how much of whom each shows."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug import rng
from ganaug.classical import ClassicalAugmentation, ClassicalConfig
from ganaug.training.data import to_images
from ganaug.training.embedder_config import EmbedderConfig
from ganaug.training.embedder_labels import PhotoLabels
from ganaug.training.embedder_views import GeneratedViews, pairs_of_people

# What may happen to a photo without another person being in it; chosen by looking at the views.
STRONG = ClassicalConfig(
    affine_p=0.9,
    rotation_deg=12.0,
    translate=0.06,
    scale=(0.87, 1.15),
    crop_p=0.25,
    crop_scale=(0.75, 1.0),
    color_p=0.9,
    brightness=0.4,
    contrast=0.4,
    saturation=0.5,
    hue=0.05,
    noise_p=0.3,
    noise_std=(0.0, 0.06),
    blur_p=0.4,
    blur_sigma=(0.1, 1.6),
    erase_p=0.35,
    erase_area=(0.02, 0.12),
)
LIGHT_P, LIGHT = 0.5, 0.45  # how often light falls from a side, and by how much it then changes that border at most
GREY_P = 0.15
HARD_GROUPS = 2

_CPU_UNIFORMS = ClassicalAugmentation.num_uniforms + 4


@dataclass(frozen=True)
class Batch:
    """One step's faces.

    Attributes:
        images: ``(V, 3, R, R)`` in [-1, 1]; first two views per photo, all first views before all second ones, then the
            mixed faces.
        shares: ``(V, P)``, how much of each of P people a face shows; rows sum to 1.
        rows: ``(2n,)`` int64, photo of each view that is not mixed.
    """

    images: Tensor
    shares: Tensor
    rows: NDArray[np.int64]


class ViewAugmentation:
    """Strong classical augmentation, light from a side, and sometimes grey; keyed draws in, the same pixels out."""

    num_uniforms = _CPU_UNIFORMS

    def __init__(self) -> None:
        self.classical = ClassicalAugmentation(STRONG)

    def __call__(self, images: Tensor, uniforms: NDArray[np.float64]) -> Tensor:
        """``images (B, 3, R, R)`` in [-1, 1], ``uniforms (B, num_uniforms)`` -> the same shape, in [-1, 1]."""
        draws = torch.from_numpy(uniforms)
        own = draws[:, :4].float().to(images.device)
        ramp = torch.linspace(-1.0, 1.0, images.shape[-1], device=images.device)
        slope = (own[:, :2] * 2.0 - 1.0) * LIGHT * (own[:, 2:3] < LIGHT_P)
        gain = 1.0 + slope[:, 0, None, None] * ramp[None, None, :] + slope[:, 1, None, None] * ramp[None, :, None]
        lit = ((images * 0.5 + 0.5) * gain[:, None]).clamp(0.0, 1.0)
        made = self.classical(lit, self.classical.make_params(draws[:, 4:]))
        grey = (own[:, 3] < GREY_P)[:, None, None, None]
        return torch.where(grey, made.mean(dim=1, keepdim=True), made) * 2.0 - 1.0


class PeopleBatches:
    """Endless batches; batch k depends on (seed, k) alone, so resuming is exact.

    Half of the photos come from two groups, so that they are hard to tell apart; with a generator every second photo is
    the partner of the one before it, towards which it may be mixed; a few come as two photos of one person.

    Args:
        chips: ``(M, R, R, 3)`` uint8.
        members: ``(N,)``, rows of the chips to train on; from here on a row is one of these.
        labels: Of the N photos.
        views: What a generator drew for them; None for photos only.
        config: Shares and seed.
    """

    def __init__(
        self,
        chips: NDArray[np.uint8],
        members: NDArray[np.int64],
        labels: PhotoLabels,
        views: GeneratedViews | None,
        config: EmbedderConfig,
    ) -> None:
        self.chips, self.members, self.labels, self.views, self.config = chips, members, labels, views, config
        self.pairs = pairs_of_people(labels.people)
        order = np.argsort(labels.groups, kind="stable")
        _, starts, counts = np.unique(labels.groups[order], return_index=True, return_counts=True)
        self._of_group = dict(
            zip(
                labels.groups[order][starts].tolist(),
                (order[start : start + count] for start, count in zip(starts, counts, strict=True)),
                strict=True,
            )
        )
        self.augmentation = ViewAugmentation()

    def rows(self, step: int) -> tuple[NDArray[np.int64], int]:
        """Photos of a step ``(n,)``, and how many of them, from the first on, have their partner half a list later.

        The order is: leads, their partners, pairs of one person.
        """
        config, count = self.config, len(self.members)
        num_pairs = round(config.batch_size * config.pair_share / 2) if len(self.pairs) else 0
        free = config.batch_size - 2 * num_pairs
        num_leads = free // 2 if self.views is not None else free
        draws = rng.uniforms(config.seed, step, np.arange(config.batch_size + HARD_GROUPS), "batch", 1)[:, 0]
        # The group of a photo that is drawn: large groups are drawn more often, so all photos equally often.
        groups = self.labels.groups[(draws[-HARD_GROUPS:] * count).astype(np.int64)]
        num_hard = round(num_leads * config.hard_share)
        leads = (draws[:num_leads] * count).astype(np.int64)
        for i in range(num_hard):
            alike = self._of_group[int(groups[i % HARD_GROUPS])]
            leads[i] = alike[int(draws[i] * len(alike))]
        parts = [leads]
        if self.views is not None:
            parts.append(self.views.partners[leads])
        if num_pairs:
            parts.append(
                self.pairs[(draws[num_leads : num_leads + num_pairs] * len(self.pairs)).astype(int)].T.reshape(-1)
            )
        return np.concatenate(parts), num_leads if self.views is not None else 0

    def batch(self, step: int) -> Batch:
        """Faces of a step."""
        config, views = self.config, self.views
        rows, num_leads = self.rows(step)
        twice = np.concatenate([rows, rows])
        num_mixed = min(round(config.batch_size * config.mixed_share), num_leads)
        draws = rng.uniforms(config.seed, step, np.arange(len(twice) + num_mixed), "view", 1 + _CPU_UNIFORMS)
        faces = np.asarray(self.chips[self.members[twice]])
        people, place = np.unique(self.labels.people[rows], return_inverse=True)
        shares = torch.zeros(len(twice) + num_mixed, len(people))
        shares[torch.arange(len(twice)), torch.from_numpy(np.tile(place, 2))] = 1.0
        if views is not None:
            drawn = draws[: len(twice), 0] < config.generated_share
            faces[drawn] = views.same[twice[drawn]]
            # Leads of hard groups come first: take the mixed ones from all over.
            mixed = np.arange(num_mixed) * num_leads // max(num_mixed, 1)
            faces = np.concatenate([faces, views.mixed[rows[mixed]]])
            weight = torch.from_numpy(views.weights[rows[mixed]])
            at = len(twice) + torch.arange(num_mixed)
            shares[at, torch.from_numpy(place[mixed])] += 1.0 - weight
            shares[at, torch.from_numpy(place[num_leads + mixed])] += weight
        return Batch(self.augmentation(to_images(faces), draws[:, 1:]), shares, twice)
