"""The bundled generator: present, small, honest about itself, and able to do what the README says."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ganaug import GANAugmentedDataset, LatentCache, checkpoints, load_generator
from ganaug.cli import main
from ganaug.demo import FaceFolder, draw_faces
from ganaug.faces.images import find_images
from ganaug.faces.photos import photos_in_folder
from ganaug.generators import load_prior
from ganaug.inversion import build_inverter, load_encoder
from ganaug.inversion.quality import reconstruction_quality
from ganaug.precompute import make_header, precompute

CARD = (checkpoints.ASSETS / "faces64.md").read_text()
CPU = torch.device("cpu")


def test_model_card_is_about_this_file() -> None:
    generator = load_generator("faces64")
    assert generator.fingerprint in CARD
    described = checkpoints.read_metadata(checkpoints.BUNDLED["faces64"])
    assert "CC BY 4.0" in described["licence"]
    assert "CC BY 4.0" in CARD
    assert f"{described['training']['images_seen']:,}" in CARD
    assert (generator.img_resolution, generator.latent_spec.shape) == (64, (10, 256))


def test_package_is_small() -> None:
    files = [
        path for path in checkpoints.ASSETS.parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    # 20.0 MB generator, encoder and features, 1.3 MB each embedder and curvature, 1.0 MB edits, samples and cards.
    assert sum(path.stat().st_size for path in files) < 26e6


def test_samples_differ_and_are_in_range() -> None:
    generator = load_generator("faces64")
    z = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
    for w_plus in (generator.mapping(z), load_prior("faces64").sample(8, torch.Generator().manual_seed(0))):
        images = generator.synthesis(w_plus)
        assert images.abs().mean() < 1.0
        distances = torch.cdist(images.flatten(1), images.flatten(1)) / images[0].numel() ** 0.5
        assert distances[~torch.eye(8, dtype=torch.bool)].min() > 0.1


def test_encoder_knows_its_generator() -> None:
    """Encoding a drawn face comes closer to it than the mean face, and than another face."""
    generator, encoder = load_generator("faces64"), load_encoder("faces64")
    faces = generator.synthesis(load_prior("faces64").sample(16, torch.Generator().manual_seed(1)))
    again = generator.synthesis(encoder.encode(faces, generator))
    mean = generator.synthesis(generator.w_avg.expand(16, 10, -1))
    mse = [reconstruction_quality(images, faces)["mse"].mean() for images in (again, mean, faces.roll(1, 0))]
    assert mse[0] < 0.5 * mse[1] < 0.5 * mse[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundled") / "faces"
    draw_faces("faces64", root, count=6, seed=2)
    return root


def test_main_job(folder: Path) -> None:
    """Faces -> cache -> batches: likeness after few steps, variants that change the face but keep its layout."""
    generator = load_generator("faces64")
    inverter = build_inverter("hybrid", generator, "faces64", CPU, 20)
    cache = LatentCache.create(folder.parent / "faces.lmdb", make_header(generator, "faces64", inverter))
    result = precompute(photos_in_folder(folder), cache, inverter, CPU, progress=False)
    assert result.images == 6
    assert result.psnr_median is not None and result.psnr_median > 34.0
    base = FaceFolder(folder, find_images(folder))
    train = GANAugmentedDataset(base, cache, ratio=1.0, edits=["fine"], classical=None)
    (images, people) = next(iter(train.loader(batch_size=6)))
    assert images.dtype == torch.uint8
    assert people.tolist() == list(range(6))
    assert train.counts["generated"] == 6
    photos = torch.stack([base[i][0] for i in range(6)]).float() / 255
    change = (images.float() / 255 - photos).abs().mean(dim=(1, 2, 3))
    others = (photos - photos.roll(1, 0)).abs().mean()
    assert (change > 0.008).all()  # two grey levels: one of these faces is much like its partner
    assert 0.03 < change.mean() < 0.7 * others


def test_hybrid_beats_the_mean_at_equal_steps() -> None:
    generator = load_generator("faces64")
    faces = generator.synthesis(load_prior("faces64").sample(6, torch.Generator().manual_seed(2))).clamp(-1, 1)
    mse = {
        name: build_inverter(name, generator, "faces64", CPU, 15).invert(faces).quality["mse"].mean()
        for name in ("hybrid", "optimization")
    }
    assert mse["hybrid"] < mse["optimization"]


def test_precompute_warns_of_photos_that_are_no_chips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faces with a wide margin, which the generator never saw, are pointed out; chips are not."""
    wide = folder.parent / "wide"
    wide.mkdir()
    for name in find_images(folder):
        chip = Image.open(folder / name)
        canvas = Image.new("RGB", (160, 160), "white")
        canvas.paste(chip, (48, 40))
        canvas.save(wide / name)
    for source, warned in ((folder, False), (wide, True)):
        cache = folder.parent / f"{source.name}-warn.lmdb"
        assert main(["precompute", str(source), "--cache", str(cache), "--steps", "1"]) == 0
        assert ("not like those faces64 was trained on" in capsys.readouterr().err) is warned
