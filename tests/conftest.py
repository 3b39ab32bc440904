"""Shared fixtures: a small random generator with its encoder and features, a folder of small faces, and its cache.

Everything is made from seeds in a temporary folder. Fixtures of session scope are never written to; a test that
changes files takes ``own_faces``, a copy of its own.
"""

import hashlib
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ganaug import checkpoints
from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.faces.align import Alignment, align
from ganaug.features import PerceptualFeatures
from ganaug.generators import load_generator
from ganaug.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from ganaug.inversion.encoder import LatentEncoder

RESOLUTION = 16
CONFIG = StyleGAN2Config(RESOLUTION, z_dim=24, w_dim=24, mapping_layers=2, channels=(12, 12, 8))
DISCRIMINATOR_CHANNELS = (8, 12, 12)  # at 16, 8 and 4 px
QUALITY = {"mse": 0.01, "psnr": 20.0, "ssim": 0.9}


@dataclass(frozen=True)
class Faces:
    """A folder of face images and the cache that belongs to it.

    Attributes:
        root: ``root/ann/00.jpg``, ``root/ann/01.png``, ... ``root/bob/..``; 20 px, two classes.
        cache: Path of the cache, which has a record for every image.
        keys: Keys of all images, sorted.
        model: Model file that the cache names.
    """

    root: Path
    cache: Path
    keys: list[str]
    model: Path


CHROMIUM = Path("/usr/bin/chromium")  # Debian's
# It runs as root in containers, and asks nobody for anything.
CHROMIUM_FLAGS = "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --no-first-run"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser; skips where there is none. Not of session scope: playwright keeps an event loop running."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS.split())
        yield browser
        browser.close()


class Items(Dataset[Any]):
    """A list as a dataset, with any attributes."""

    def __init__(self, items: Sequence[Any], **attributes: Any) -> None:
        self.values = list(items)
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index]


def random_generator(seed: int = 0, config: StyleGAN2Config = CONFIG) -> StyleGAN2:
    """A generator of random weights whose images fill the range without clipping most of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = StyleGAN2(config)
        with torch.no_grad():
            for module in generator.synthesis_network.modules():
                if hasattr(module, "noise_strength"):
                    module.noise_strength.fill_(0.1)
            generator.w_avg.copy_(generator.map_network(torch.randn(256, config.z_dim)).mean(dim=0))
            images = generator.synthesis(generator.mapping(torch.randn(64, config.z_dim)))
            gain = 0.5 / float(images.std())
            for name in generator.synthesis_network.resolutions:
                generator.synthesis_network.get_submodule(f"b{name}").torgb.weight.mul_(gain)
    return generator.eval().requires_grad_(False)


def write_model(path: Path, seed: int = 0) -> Path:
    """A model file with generator, encoder and features, all random."""
    generator = random_generator(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        encoder = LatentEncoder(DISCRIMINATOR_CHANNELS, generator.latent_spec.num_ws, CONFIG.w_dim)
        features = PerceptualFeatures(DISCRIMINATOR_CHANNELS, RESOLUTION)
    description = {
        "family": "stylegan2",
        "config": asdict(CONFIG),
        "discriminator_channels": list(DISCRIMINATOR_CHANNELS),
    }
    parts = {
        "generator": generator.state_dict(),
        "encoder": encoder.state_dict(),
        "features": features.trunk.state_dict(),
    }
    checkpoints.write(path, parts, description, half=False)
    return path


def random_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth random colours: a 4x4 grid enlarged, so that JPEG keeps them."""
    grid = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)


def write_faces(root: Path, per_class: int = 11, size: tuple[int, int] = (20, 20), seed: int = 0) -> list[str]:
    """Writes ``2 * per_class`` images, JPEG and PNG in turn; returns their keys, sorted."""
    rng = np.random.default_rng(seed)
    keys = []
    for person in ("ann", "bob"):
        (root / person).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            key = f"{person}/{number:02d}.{'png' if number % 2 else 'jpg'}"
            data = io.BytesIO()
            random_image(rng, *size).save(data, "PNG" if number % 2 else "JPEG")
            (root / key).write_bytes(data.getvalue())
            keys.append(key)
    return sorted(keys)


def make_header(model: Path) -> CacheHeader:
    """Header of a cache of random latents for a model file written by :func:`write_model`."""
    generator = load_generator(model)
    alignment = Alignment(size=RESOLUTION).to_dict()
    return CacheHeader(str(model), generator.fingerprint, generator.latent_spec, alignment, {"name": "random"})


def random_latents(key: str) -> np.ndarray:
    """``(L, D)`` latents that depend on the key alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(0.0, 0.7, (2 * len(CONFIG.channels), CONFIG.w_dim)).astype(np.float16)


def write_cache(path: Path, model: Path, root: Path, keys: Sequence[str]) -> LatentCache:
    """A cache with a random record for each of ``keys``, which are files under ``root``."""
    cache = LatentCache.create(path, make_header(model))
    records = []
    for key in keys:
        _, transform = align(Image.open(root / key), Alignment(size=RESOLUTION))
        source_hash = hashlib.sha256((root / key).read_bytes()).hexdigest()
        records.append(Record(key, random_latents(key), QUALITY, transform, source_hash))
    cache.put_many(records)
    return cache


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file: random 16 px generator, encoder and features."""
    return write_model(tmp_path_factory.mktemp("model") / "random16.safetensors")


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Faces:
    """22 faces and their cache; read only."""
    folder = tmp_path_factory.mktemp("faces")
    keys = write_faces(folder / "images")
    write_cache(folder / "faces.lmdb", model_file, folder / "images", keys)
    return Faces(folder / "images", folder / "faces.lmdb", keys, model_file)


@pytest.fixture
def own_faces(tmp_path: Path, faces: Faces) -> Iterator[Faces]:
    """A copy of ``faces`` that the test may change."""
    root, cache = tmp_path / "images", tmp_path / "faces.lmdb"
    shutil.copytree(faces.root, root)
    LatentCache(faces.cache).close()
    shutil.copytree(faces.cache, cache)
    yield Faces(root, cache, faces.keys, faces.model)
    LatentCache(cache).close()
