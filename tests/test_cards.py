"""Cards: their figures counted by hand, their YAML read by a YAML reader, and nothing said that no file says."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Faces, write_model
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

import ganaug
from ganaug import GANAugmentedDataset, UserInputError, checkpoints
from ganaug.cache import LatentCache
from ganaug.cards import card_of
from ganaug.cli import main
from ganaug.edits import edits_for
from ganaug.errors import CacheError, CheckpointError
from ganaug.export import export_variants
from ganaug.generators import load_generator

yaml = pytest.importorskip("yaml", reason="reads the YAML of the cards; comes with the Hugging Face packages")

SECTIONS = {
    # arXiv 1803.09010, section 3
    "data": ["Motivation", "Composition", "Collection process", "Preprocessing", "Uses", "Distribution", "Maintenance"],
    # arXiv 1810.03993, section 4; quantitative analyses stand under their metrics
    "model": [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Ethical considerations",
        "Caveats and recommendations",
    ],
}


def front_matter(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of three dashes, as the Hub reads it."""
    assert card.startswith("---\n")
    values = yaml.safe_load(card[4:].partition("\n---\n")[0])
    assert isinstance(values, dict)
    return values


def tables(card: str) -> dict[str, str]:
    """First cell -> the rest, of all rows of all tables."""
    found = {}
    for line in card.splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[cells[0].strip()] = " | ".join(cells[1:])
    return found


def sections(card: str) -> list[str]:
    return [line[3:] for line in card.splitlines() if line.startswith("## ")]


def write_groups(path: Path, keys: list[str]) -> Path:
    rows = [("file", "race", "note")] + [(key, "left" if i % 3 else "right", f"n{i}") for i, key in enumerate(keys)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_card_of_a_cache(own_faces: Faces, tmp_path: Path) -> None:
    cache = LatentCache(own_faces.cache)
    cache.forget(["ann/00.jpg"])
    cache.put_failures({"ann/00.jpg": "ann/00.jpg: no face", "x.png": "x.png: no face", "y.png": "y.png: 3 px"})
    # More photos than a column may have values to count as groups.
    groups = write_groups(tmp_path / "groups.csv", [*own_faces.keys, *(f"other/{i}.png" for i in range(9))])
    kind, card = card_of(own_faces.cache, groups)
    assert kind == "cache" and set(SECTIONS["data"]) <= set(sections(card))
    head = front_matter(card)
    assert head["license"] == "unknown" and head["size_categories"] == ["n<1K"] and "personal-data" in head["tags"]
    found = tables(card)
    assert found["faces with a code"] == "21" and found["photos without one"] == "3"
    assert found["2"] == "no face" and found["1"] == "N px"
    assert found["folders of the first level in their names"] == "2"
    left = sum(1 for i, key in enumerate(own_faces.keys) if i % 3 and key != "ann/00.jpg")
    assert (found["left"], found["right"]) == (str(left), str(21 - left))
    assert found["psnr"].startswith("20.00 | 20.00 | 20.00 | 20.00")
    assert found["fingerprint"] == cache.header.fingerprint and cache.digest() in card
    assert found["inverter, name"] == "random" and "mode 0700" in card and "forget" in card
    assert str(own_faces.cache.parent) not in card, "where it lies is nobody else's business"
    assert card.count("not known: the files do not say.") >= 4


def test_the_erasure_that_the_card_tells(own_faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands as code in the card, and is run, with a key, from the folder above the cache."""
    _, card = card_of(own_faces.cache)
    line = card[card.index("`ganaug.LatentCache(") + 1 :].partition("`")[0]
    monkeypatch.chdir(own_faces.cache.parent)
    assert eval(line.replace("key, ...", repr(own_faces.keys[0])), {"ganaug": ganaug}) == 1
    assert tables(card_of(own_faces.cache)[1])["faces with a code"] == "21"


def test_card_of_an_export(faces: Faces, tmp_path: Path) -> None:
    train = GANAugmentedDataset(
        ImageFolder(faces.root, PILToTensor()), faces.cache, ratio=0.5, edits=["fine", "middle"], classical=None
    )
    figures = export_variants(train, tmp_path / "out", 2, batch_size=5, progress=False)
    kind, card = card_of(tmp_path / "out", write_groups(tmp_path / "groups.csv", faces.keys))
    assert kind == "export" and set(SECTIONS["data"]) <= set(sections(card))
    recipes = [recipe for epoch in range(2) for recipe in train.draw(range(22), epoch).rows() if recipe.is_generated]
    found = tables(card)
    assert found["generated"] == str(figures["generated"]) == str(len(recipes))
    assert found["real"] == str(44 - len(recipes))
    for name in ("fine", "middle"):
        assert found[name] == str(sum(1 for r in recipes if any(e.name == name for e in r.edits)))
    for label in ("ann", "bob"):
        assert found[label] == str(sum(1 for r in recipes if r.key.startswith(label)))
    right = sum(1 for r in recipes if faces.keys.index(r.key) % 3 == 0)
    assert found["right"] == str(right)
    assert f"{len(recipes)} synthetic variants of {len({r.key for r in recipes})} photographed faces" in card
    assert "how many variants are still the person is not known" in card, "no gate looked"
    assert "Not signed" in card and found["name"].startswith("Not known")
    (tmp_path / "out" / "manifest.csv").unlink()
    with pytest.raises(UserInputError, match="cannot be read"):
        card_of(tmp_path / "out")


def test_card_of_a_model(tmp_path: Path) -> None:
    file = write_model(tmp_path / "model.safetensors")
    kind, card = card_of(file)
    assert kind == "model" and sections(card) == SECTIONS["model"]
    head = front_matter(card)
    assert head["license"] == "unknown" and head["library_name"] == "ganaug" and "license_name" not in head
    generator = load_generator(file)
    found = tables(card)
    assert found["fingerprint"] == generator.fingerprint and found["family"] == "stylegan2"
    assert found["generator, numbers"] == str(sum(t.numel() for t in checkpoints.read_part(file, "generator").values()))
    assert f"Edits that it serves: {', '.join(edits_for(generator))}." in card
    assert found["licence and attribution"] == "not stated in the file"
    after = {name: card.partition(f"## {name}\n\n")[2].partition("\n\n")[0] for name in SECTIONS["model"]}
    assert after["Metrics"] == after["Evaluation data"] == "Not known: the files do not say."
    assert after["Training data"].startswith("not stated in the file")


def test_figures_of_the_run_are_those_of_its_model(tmp_path: Path) -> None:
    """Of the log beside the file the line with as many images as the model was shown; none of another's."""
    parts = {"generator": checkpoints.read_part(write_model(tmp_path / "m.safetensors"), "generator")}
    described = checkpoints.read_metadata(tmp_path / "m.safetensors")
    described |= {"training": {"images_seen": 200, "data": "faces: 9 images"}, "licence": 'CC BY "4.0": yes | no'}
    checkpoints.write(tmp_path / "m.safetensors", parts, described, half=False)
    lines = [{"images": n, "frechet": n / 1000, "kid": None} for n in (100, 200, 300)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, card = card_of(tmp_path / "m.safetensors")
    assert tables(card)["frechet"] == "0.2" and "after 200 images" in card and "| kid" not in card
    assert "faces: 9 images; 200 images shown." in card
    assert front_matter(card)["license_name"] == 'CC BY "4.0": yes | no'
    assert 'CC BY "4.0": yes \\| no' in card, "in a table a bar would begin a cell"
    (tmp_path / "log.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert "frechet" not in card_of(tmp_path / "m.safetensors")[1]


def test_cards_of_what_is_bundled() -> None:
    kind, card = card_of("faces64")
    described = checkpoints.read_metadata(checkpoints.BUNDLED["faces64"])
    assert kind == "model" and front_matter(card)["license_name"] == described["licence"]
    assert "Not served: `ears`" in card and "`faces64.md`" in card and "285008 images shown" in card
    _, card = card_of("identity64")
    assert "threshold was set between people of equal race, gender, age" in card
    assert tables(card)["genuine_rate"] == "0.9781" and "1595 photos of `val`." in card
    assert "Edits that it serves" not in card, "it draws nothing"


def test_a_file_without_generator_and_embedder_is_taken_for_neither(tmp_path: Path) -> None:
    prior = checkpoints.read_part(checkpoints.BUNDLED["faces64"], "prior")
    checkpoints.write(tmp_path / "prior.safetensors", {"prior": prior}, {"family": "other"}, half=False)
    _, card = card_of(tmp_path / "prior.safetensors")
    assert front_matter(card)["tags"] == ["faces"]
    assert "## Intended use\n\nNot known" in card and "cosine" not in card and "Edits that" not in card


def test_a_file_that_says_odd_things(tmp_path: Path) -> None:
    """It may come from anybody: what is no statement is none, and no statement is Markdown, HTML or a command."""
    prior = checkpoints.read_part(checkpoints.BUNDLED["faces64"], "prior")
    described: dict[str, Any] = {
        "family": ["x"],
        "licence": {"a": 1},
        "training": {"data": "<script>\x1b[2J\n# Data"},
        "privacy": "<b>none</b>",
        "calibration": {"groups": 7, "photos": "<i>", "data": [1]},
        "source": {"sha256": []},
    }
    checkpoints.write(tmp_path / "odd.safetensors", {"prior": prior}, described, half=False)
    _, card = card_of(tmp_path / "odd.safetensors")
    assert front_matter(card)["license"] == "unknown" and tables(card)["family"] == "not stated in the file"
    assert not re.search("<[a-z]|\x1b|\n# Data", card)


def test_names_mean_nothing_in_markdown(own_faces: Faces, tmp_path: Path) -> None:
    cache = LatentCache(own_faces.cache)
    cache.put_failures({"x.png": "x.png: <b>bold</b> | \n## Uses \x1b[2J"})
    _, card = card_of(own_faces.cache)
    assert "\x1b" not in card and "\\x1b[NJ" in card, "nothing commands a terminal"
    assert "<b>" not in card and card.count("## Uses\n") == 1 and "&lt;b&gt;bold&lt;/b&gt; \\| ## Uses" in card


def test_what_is_none(tmp_path: Path, faces: Faces) -> None:
    with pytest.raises(UserInputError, match="no such cache, export or model file"):
        card_of(tmp_path / "gone")
    with pytest.raises(CacheError):
        card_of(faces.root)
    (tmp_path / "text.safetensors").write_text("no model")
    with pytest.raises(CheckpointError):
        card_of(tmp_path / "text.safetensors")
    with pytest.raises(UserInputError, match="--groups counts photos"):
        card_of("faces64", tmp_path / "groups.csv")


def test_the_command(faces: Faces, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(faces.cache)]) == 0
    printed = capsys.readouterr().out
    assert printed == card_of(faces.cache)[1]
    assert main(["card", str(faces.cache), "--out", str(tmp_path / "card.md")]) == 0
    assert (tmp_path / "card.md").read_text() == printed
    assert capsys.readouterr().out.split()[-2:] == ["unknown", str(printed.lower().count("not known"))]
    assert main(["card", str(faces.cache), "--out", str(tmp_path / "no" / "card.md")]) == 2
    assert "cannot be written" in capsys.readouterr().err
