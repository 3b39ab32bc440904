"""Photos, generators and measures for benchmarks/inversion.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from attributes import london
from finetune import NUM_HELD_OUT
from judge import FFHQ_EYES, Judge
from torch import Tensor

from ganaug import load_generator, rng
from ganaug.faces.align import Alignment, align, to_model_range, to_unit_range
from ganaug.faces.images import find_images, read_image
from ganaug.features import PerceptualFeatures, feature_distance, load_perceptual_features
from ganaug.generators import StyleGAN2
from ganaug.inversion.quality import reconstruction_quality

AT_ONCE = 16  # images that are measured together
MEASURES = ("psnr", "mse", "ssim", "perceptual", "identity")


@dataclass(frozen=True)
class PhotoSet:
    """Photos that the generator never saw, and how to measure inversions of them.

    Attributes:
        name: ``"val"``, ``"london"`` or ``"aaf"``.
        model: Name or file of the generator that is meant for them.
        generator: It.
        photos: ``(N, 3, R, R)`` in [-1, 1].
        keys: Names of the photos.
        judge: MobileFaceNet for this framing.
        features: Of ``faces64``, whatever the generator: one measure for all sets.
        tuned: What ``ganaug tune`` made of a cache that these photos are in, if anything.
    """

    name: str
    model: str
    generator: StyleGAN2
    photos: Tensor
    keys: Sequence[str]
    judge: Judge
    features: PerceptualFeatures
    tuned: Path | None = None

    @torch.no_grad()
    def measure(self, made: Tensor) -> dict[str, Tensor]:
        """What ``(N, 3, R, R)`` in [-1, 1], the inversions of the first N photos, are like: name -> ``(N,)``."""
        parts = []
        for start in range(0, len(made), AT_ONCE):
            drawn = made[start : start + AT_ONCE].float().cpu().clamp(-1, 1)
            photos = self.photos[start : start + len(drawn)]
            found = reconstruction_quality(drawn, photos)
            found["perceptual"] = feature_distance(self.features(drawn), self.features(photos))
            embedded = self.judge(to_unit_range(drawn)), self.judge(to_unit_range(photos))
            parts.append({**found, "identity": F.cosine_similarity(*embedded)})
        return {name: torch.cat([part[name] for part in parts]) for name in MEASURES}


def chips_of(folder: Path, names: Sequence[str], size: int) -> Tensor:
    """Photos that are cut as they should be already: ``(N, 3, size, size)`` in [-1, 1]."""
    chips = np.stack([align(read_image(folder / name)[0], Alignment(size=size))[0] for name in names])
    return to_model_range(torch.from_numpy(chips).permute(0, 3, 1, 2))


def load_set(
    name: str, data: Path, out: Path, model: str, count: int, device: torch.device, tuned: str | None
) -> PhotoSet:
    """The photos of a set: of ``val`` the first, of the others a fixed random choice.

    Args:
        name: ``"val"``, ``"london"`` (cut by the package as FairFace is, kept under ``out``) or ``"aaf"`` (the photos
            that ``benchmarks/finetune.py`` holds out).
        data: Folder of the local data.
        out: Where chips are kept.
        model: The generator of ``val`` and ``london``.
        count: Photos at most.
        device: Of the generator.
        tuned: The generator of ``aaf``.
    """
    used = model if name != "aaf" else tuned
    if used is None:
        raise SystemExit("aaf needs --model FILE; `benchmarks/finetune.py --part tuned --export FILE` writes one")
    generator = load_generator(used, device)
    if not isinstance(generator, StyleGAN2):
        raise SystemExit(f"{used} is no StyleGAN2: there is no peers' loop to compare with")
    size, judge = generator.img_resolution, Judge(data, FFHQ_EYES if name == "aaf" else None)
    if name == "london":
        chips, labels = london(data, out)
        chosen = rng.permutation(0, 0, len(chips), "benchmark")[:count].tolist()
        keys, photos = [labels[row]["file"] for row in chosen], to_model_range(chips[chosen])
        if photos.shape[-1] != size:
            raise SystemExit(f"london is cut at {photos.shape[-1]} px, the generator draws {size} px")
    else:
        folder = data / ("fairface/val" if name == "val" else "aaf/ffhq128")
        keys = find_images(folder)
        if name == "aaf":
            keys = [keys[row] for row in rng.permutation(0, 0, len(keys), "held out")[:NUM_HELD_OUT]]
        keys = keys[:count]
        photos = chips_of(folder, keys, size)
    return PhotoSet(name, used, generator, photos, keys, judge, load_perceptual_features("faces64"))
