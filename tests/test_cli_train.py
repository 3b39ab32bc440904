"""``ganaug train``: from a folder to a model file, and that a mistake gives one clear line before the work."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from training_helpers import TINY, chips, trainer, write_photos

from ganaug import checkpoints, load_generator
from ganaug.cli import EXIT_USER_ERROR, main
from ganaug.features import load_perceptual_features
from ganaug.generators import load_prior
from ganaug.inversion import load_encoder

Capture = pytest.CaptureFixture[str]
Line = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A file of tiny settings."""
    return write_settings(tmp_path / "tiny.json")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of the tiny architecture; read only."""
    path, t = tmp_path_factory.mktemp("tiny") / "tiny16.safetensors", trainer()
    checkpoints.write(path, t.parts(), t.description())
    return path


@pytest.fixture
def mistake(tmp_path: Path, photos: Path, capsys: Capture) -> Line:
    """Runs ``ganaug train`` on the photos with more arguments, which must give one line; returns the line."""

    def run(*argv: object, data: Path = photos, out: Path = tmp_path / "run") -> str:
        status = main(["train", "--data", str(data), "--out", str(out), *map(str, argv)])
        printed, err = capsys.readouterr()
        assert (status, printed) == (EXIT_USER_ERROR, "")
        assert err.count("\n") == 1 and err.startswith("ganaug train: ") and len(err) < 700, err
        assert not (out / "checkpoint.pt").exists() or out.name == "used"
        return err

    return run


def write_settings(path: Path, **changes: object) -> Path:
    values = {**TINY.to_dict(), "kimg": 0.012, "snapshot_kimg": 0.008, "evaluated_images": 4, **changes}
    path.write_text(json.dumps(values))
    return path


def good(capsys: Capture, *argv: object) -> dict[str, Any]:
    """Runs ``ganaug train``; returns the figures that it printed, as text."""
    status = main(["train", *map(str, argv)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def labels(path: Path, names: Sequence[str]) -> Path:
    path.write_text("file,gender\n" + "".join(f"{name},{'fm'[i % 2]}\n" for i, name in enumerate(names)))
    return path


# What it does


def test_train_and_continue(photos: Path, settings: Path, tmp_path: Path, capsys: Capture) -> None:
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    base = ("--data", photos, "--out", out)
    printed = good(capsys, *base, "--config", settings, "--json", figures, "--licence", "drawn here")
    values = json.loads(figures.read_text())
    assert {name: str(value) for name, value in values.items()} == printed
    assert values["images_seen"] == 12 and values["model_images"] in (8, 12)
    model = values["model"]
    generator, encoder, features = load_generator(model), load_encoder(model), load_perceptual_features(model)
    images = generator.synthesis(generator.mapping(torch.randn(2, 8)))
    assert images.shape == (2, 3, 16, 16) and len(features(images)) == 2
    assert encoder.encode(images, generator).shape == (2, *generator.latent_spec.shape)
    assert load_prior(model).sample(3, torch.Generator().manual_seed(0)).shape == (3, *generator.latent_spec.shape)
    described = checkpoints.read_metadata(Path(model))
    assert described["licence"] == "drawn here" and described["training"]["data"] == "photos: 18 images"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [8, 12]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert (out / "samples-000000.png").exists()
    # The settings are those of the run; only the length may be new.
    assert good(capsys, *base, "--kimg", 0.02, "--resume")["images_seen"] == "20"
    assert json.loads((out / "config.json").read_text())["batch_size"] == 4
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [8, 12, 16, 20]


def test_conditional_and_fine_tuned(photos: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    """From an unconditional file to a generator that takes a label; the architecture is the file's."""
    out, names = tmp_path / "run", sorted(path.name for path in photos.iterdir())
    (tmp_path / "short.json").write_text('{"snapshot_kimg": 0.008, "evaluated_images": 0}')
    table = ("--labels", labels(tmp_path / "labels.csv", names), "--condition", "gender")
    length = ("--kimg", 0.008, "--batch-size", 4, "--accumulate", 2, "--no-with-encoder", "--seed", 3)
    base = ("--data", photos, "--out", out, "--init", model, "--config", tmp_path / "short.json")
    figures = good(capsys, *base, *table, *length)
    described = checkpoints.read_metadata(Path(figures["model"]))
    assert described["labels"]["columns"][0]["classes"] == ["f", "m"]
    assert described["training"]["init"] == "tiny16.safetensors"
    assert described["training"]["learning_rate"] < TINY.learning_rate and described["training"]["freeze_d"] > 0
    assert (described["training"]["seed"], described["training"]["accumulate"]) == (3, 2)
    generator = load_generator(figures["model"])
    z = torch.randn(1, 8).expand(2, -1)
    w = generator.mapping(z, torch.eye(2))
    assert w.shape == (2, *generator.latent_spec.shape) and not torch.equal(w[0], w[1])


def test_other_sizes_and_broken_files_among_the_photos(
    photos: Path, settings: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Any size and shape is cut to its largest centred square; what cannot be read is named and left out."""
    for number, size in enumerate([(300, 20), (17, 64), (16, 16), (5, 7)]):
        Image.fromarray(chips()[0]).resize(size).convert("L" if number == 3 else "RGB").save(photos / f"x{number}.png")
    (photos / "broken.png").write_bytes((photos / "00.png").read_bytes()[:200])
    (photos / "text.jpg").write_text("no image")
    (photos / "notes.txt").write_text("not looked at")
    status = main(["train", "--data", str(photos), "--out", str(tmp_path / "run"), "--config", str(settings)])
    err = capsys.readouterr().err
    assert status == 0, err
    left_out = [line for line in err.splitlines() if "left out" in line]
    for line, words in zip(
        left_out, ("broken.png: damaged", "text.jpg: ", "x3.png: image of 5x7 px is too small"), strict=True
    ):
        assert words in line
    assert "notes" not in err
    assert checkpoints.read_metadata(tmp_path / "run" / "model.safetensors")["training"]["data"] == "photos: 21 images"


# Mistakes


def test_too_few_photos(tmp_path: Path, mistake: Line) -> None:
    few = write_photos(tmp_path / "few", 10)
    assert f"{few} has 10 readable images, training needs at least 16" in mistake(data=few)
    assert "not there" in mistake(data=tmp_path / "nowhere")
    enough = write_photos(tmp_path / "enough", 20)
    line = mistake("--resolution", 16, "--batch-size", 19, data=enough)
    assert "18 training images are fewer than one batch of 19" in line and "--batch-size" in line


def test_numbers_that_do_not_fit(mistake: Line) -> None:
    assert "resolution must be a power of two from 16 up, got 48" in mistake("--resolution", 48)
    assert "resolution must be a power of two from 16 up, got 8" in mistake("--resolution", 8)
    for kimg in (0, -1, "nan", "inf"):
        assert "kimg must be above 0 and finite" in mistake(f"--kimg={kimg}")
    line = mistake("--batch-size", 6, "--accumulate", 4)
    assert "a batch of 6 cannot be cut into 1 process(es) x 4 part(s); use a multiple of 4" in line


def test_nothing_is_written_before_the_settings_are_right(tmp_path: Path, mistake: Line) -> None:
    for argv in (("--resolution", 48), ("--batch-size", 6, "--accumulate", 4), ("--preset", "huge")):
        mistake(*argv)
        assert not (tmp_path / "run").exists()


def test_presets_that_are_not_known(mistake: Line) -> None:
    line = mistake("--preset", "huge")
    assert all(word in line for word in ("'huge'", "tiny64", "small128", "paper256"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected a JSON object of settings, got list"),
        ('{"kimgs": 3}', "unknown setting(s) kimgs; known: accumulate, "),
        ('{"batch_size": "4"}', "batch_size must be of type int, got '4'"),
        ('{"resolution": "32"}', "resolution must be a power of two from 16 up, got '32'"),
        ('{"resolution": 48}', "resolution must be a power of two from 16 up, got 48"),
        ('{"generator_channels": [8, 8]}', "64 px need 5 generator_channels"),
        ('{"freeze_d": 9}', "freeze_d must lie in 0 to 4"),
        ('{"latent_interval": 0}', "latent_interval must be at least 1"),
    ],
)
def test_settings_files(tmp_path: Path, mistake: Line, text: str, words: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    assert words in mistake("--config", tmp_path / "settings.json")


def test_settings_files_that_cannot_be_read(tmp_path: Path, mistake: Line) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name, words in {"nowhere.json": "No such file", "photos": "Is a directory", "bytes.json": "not JSON"}.items():
        line = mistake("--config", tmp_path / name)
        assert words in line and name in line


def test_models_to_start_from(tmp_path: Path, model: Path, mistake: Line) -> None:
    assert "no model 'faces65'" in mistake("--init", "faces65")
    line = mistake("--init", model, "--resolution", 32)
    assert "tiny16.safetensors makes images of 16 px, but 32 px are asked for; leave one of them out" in line
    (tmp_path / "other.json").write_text('{"w_dim": 12}')
    assert "its generator has another shape" in mistake(
        "--init", model, "--batch-size", 4, "--config", tmp_path / "other.json"
    )
    assert "family 'stylegan2', this one trains 'vae'" in mistake("--init", model, "--family", "vae")
    vae, t = tmp_path / "vae.safetensors", trainer()
    checkpoints.write(vae, t.parts(), {**t.description(), "family": "vae"})
    assert "holds family 'vae'; only 'stylegan2' can be fine-tuned" in mistake("--init", vae)
    (tmp_path / "damaged.safetensors").write_bytes(model.read_bytes()[:-50])
    assert "damaged.safetensors" in mistake("--init", tmp_path / "damaged.safetensors")


def test_labels_that_do_not_fit(tmp_path: Path, photos: Path, settings: Path, mistake: Line) -> None:
    names = sorted(path.name for path in photos.iterdir())
    tiny = ("--config", settings)
    both = "conditional training needs both: --labels with a CSV file and --condition with columns"
    assert both in mistake("--condition", "gender", *tiny)
    whole = labels(tmp_path / "labels.csv", names)
    assert both in mistake("--labels", whole, *tiny)
    assert "has no column age; it has file, gender" in mistake("--labels", whole, "--condition", "age", *tiny)
    table = ("--condition", "gender", "--labels")
    lost = labels(tmp_path / "short.csv", names[:4] + names[5:])
    line = mistake(*table, lost, *tiny)
    assert "1 of 20 photos have no line in" in line and "04.png" in line
    assert "nowhere.csv" in mistake(*table, tmp_path / "nowhere.csv", *tiny)
    assert "a VAE is unconditional" in mistake(*table, whole, *tiny, "--family", "vae")


def test_folder_of_another_run(photos: Path, settings: Path, tmp_path: Path, capsys: Capture, mistake: Line) -> None:
    used = tmp_path / "used"
    good(capsys, "--data", photos, "--out", used, "--config", settings, "--no-with-encoder")
    before = {path.name: path.read_bytes() for path in used.iterdir() if path.is_file()}
    assert "holds a run already; continue it with --resume, or give another --out" in mistake(out=used)
    assert "leave --preset out" in mistake("--resume", "--preset", "tiny64", out=used)
    line = mistake("--resume", "--batch-size", 2, "--seed", 1, out=used)
    assert "made with other settings (batch_size: 4 there, 2 here; seed: 0 there, 1 here)" in line
    assert "family: stylegan2 there, vae here" in mistake("--resume", "--family", "vae", out=used)
    assert {name: (used / name).read_bytes() for name in before} == before
    broken = tmp_path / "broken" / "used"
    shutil.copytree(used, broken)
    (broken / "checkpoint.pt").write_bytes(before["checkpoint.pt"][:999])
    assert "checkpoint.pt: cannot be read as a training checkpoint" in mistake("--resume", out=broken)
    (broken / "config.json").write_text("{")
    assert "config.json: no settings of a run" in mistake("--resume", out=broken)


def test_lost_numbers_give_one_line(
    photos: Path, settings: Path, monkeypatch: pytest.MonkeyPatch, mistake: Line
) -> None:
    lost = lambda *_: torch.tensor(math.nan, requires_grad=True)  # noqa: E731
    monkeypatch.setattr("ganaug.training.losses.generator_loss", lost)
    line = mistake("--config", settings, "--no-with-encoder")
    assert "not finite after 4 images" in line and "there is no checkpoint yet" in line
