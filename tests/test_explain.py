"""Explanations: the figures in them against closed forms and naive loops, draws against the loader, absences, pages."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, RESOLUTION, Faces, random_latents
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from ganaug import GANAugmentedDataset, UserInputError
from ganaug.cache import LatentCache
from ganaug.cached_faces import InversionDataset, PhotoDataset
from ganaug.errors import CacheError
from ganaug.explain import acting, explain_absence, explain_photo, nearest_keys
from ganaug.explain_page import explanation_page, in_lines
from ganaug.export import as_uint8
from ganaug.faces.photos import Photo, photos_in_folder
from ganaug.model_facts import model_facts

KEY = "ann/03.png"


def wrap(faces: Faces, **options: Any) -> GANAugmentedDataset:
    options = {"ratio": 0.5, "edits": ["fine", "pca1"], "classical": None} | options
    return GANAugmentedDataset(ImageFolder(faces.root, PILToTensor()), faces.cache, **options)


def photo(faces: Faces, key: str = KEY) -> Photo:
    return next(p for p in photos_in_folder(faces.root) if p.key == key)


@pytest.mark.parametrize("classical", [None, "default"])
def test_variants_are_those_of_the_loader(faces: Faces, classical: Any) -> None:
    """Another batch size and another order; the draws and the pictures are the same."""
    train = wrap(faces, classical=classical, seed=2)
    found = explain_photo(train, KEY, num_epochs=5)
    loader = train.loader(7, shuffle=True, return_info=True)
    sources = set()
    for epoch in range(5):
        for images, _, info in loader:
            for row, recipe in enumerate(info["recipe"]):
                if recipe.key != KEY:
                    continue
                told = found.facts["variants"][epoch]
                assert told["recipe"] == recipe.to_dict() and told["epoch"] == epoch
                expected = as_uint8(train, images[row : row + 1])[0].astype(int)
                assert np.abs(found.pictures[f"epoch {epoch}"] - expected).max() <= 1
                sources.add(recipe.source.name)
                assert told["served"].startswith("a variant") == recipe.is_generated
    assert sources == {"REAL", "GENERATED"}, "both kinds were compared"
    json.dumps(found.facts, allow_nan=False)


def test_photo_chip_and_inversion(faces: Faces) -> None:
    train = wrap(faces)
    found = explain_photo(train, KEY, 1, photo=photo(faces))
    written = np.asarray(Image.open(faces.root / KEY).convert("RGB"))
    np.testing.assert_array_equal(found.pictures["photo"], written)
    assert found.pictures["chip"].shape == (RESOLUTION, RESOLUTION, 3)
    w_plus = torch.from_numpy(random_latents(KEY).astype(np.float32))[None]
    drawn = (train.generator.synthesis(w_plus)[0].clamp(-1, 1) + 1) * 127.5
    np.testing.assert_allclose(found.pictures["inversion"], drawn.permute(1, 2, 0).numpy(), atol=0.51)
    about = found.facts["photo"]
    assert about["unchanged"] and about["at_hand"] and len(about["sha256"]) == 64
    assert about["cut"] == {
        "of_px": [0, 0],
        "centre_px": [10.0, 10.0],
        "side_px": 20.0,
        "angle_deg": 0.0,
        "to_px": RESOLUTION,
    }, "the whole of a photo of 20 px"


def test_where_a_turned_chip_lies(own_faces: Faces) -> None:
    """A chip of known centre, size and angle: from photo to chip leads a scale times a rotation."""
    cache = LatentCache(own_faces.cache)
    angle, side, centre = math.radians(30.0), 8.0, np.array([12.0, 7.0])
    scale = RESOLUTION / side
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shift = np.full(2, RESOLUTION / 2) - turn @ centre
    transform = np.hstack([turn, shift[:, None]]).astype(np.float32)
    cache.put_many([replace(cache.get(KEY), transform=transform, photo_size=(20, 20))])
    cut = explain_photo(wrap(own_faces), KEY, 1).facts["photo"]["cut"]
    assert cut == {"of_px": [20, 20], "centre_px": [12.0, 7.0], "side_px": 8.0, "angle_deg": 30.0, "to_px": RESOLUTION}


def test_quality_in_words(own_faces: Faces) -> None:
    cache = LatentCache(own_faces.cache)
    rng = np.random.default_rng(0)
    records = [cache.get(key) for key in own_faces.keys]
    for record in records:
        mse = float(rng.uniform(0.001, 0.02))
        record.quality = {"mse": mse, "psnr": -10 * math.log10(mse), "ssim": float(rng.uniform(0.5, 1.0))}
    records[0].quality["ssim"] = math.nan
    cache.put_many(records)
    mine = next(record for record in records if record.key == KEY).quality
    found = explain_photo(wrap(own_faces), KEY, 1).facts
    rows = {row["figure"]: row for row in found["quality"]}
    for name, row in rows.items():
        better = 0
        for record in records:  # a naive count; what is not a number is nobody's worse
            other = record.quality[name]
            better += (other > mine[name]) if name == "mse" else (other < mine[name])
        assert row["better_than"] == better and row["of"] == 21 and row["value"] == mine[name]
    assert 0 < rows["psnr"]["better_than"] < 21 and rows["psnr"]["better_than"] == rows["mse"]["better_than"]
    assert f"off by {100 * math.sqrt(mine['mse']):.1f} %" in rows["psnr"]["means"]
    good = mine["psnr"] >= 20.0
    assert found["verdict"].startswith("good" if good else "poor")
    poorest = min(records, key=lambda record: record.quality["psnr"])
    told = explain_photo(wrap(own_faces), poorest.key, 1).facts["verdict"]
    assert poorest.quality["psnr"] < 20.0 and told == f"poor: psnr {poorest.quality['psnr']:.3g} where 20 is asked for"
    unknown = explain_photo(wrap(own_faces), records[0].key, 1).facts["quality"][2]
    assert unknown["value"] is None and unknown["better_than"] is None and "could not" in unknown["means"]


@pytest.mark.filterwarnings("ignore:no variant for")
def test_a_photo_that_has_changed(own_faces: Faces) -> None:
    Image.new("RGB", (20, 20), "red").save(own_faces.root / KEY)
    found = explain_photo(wrap(own_faces, ratio=1.0), KEY, 2, photo=photo(own_faces))
    assert not found.facts["photo"]["unchanged"] and "has changed since" in found.facts["photo"]["why"]
    assert "chip" not in found.pictures
    assert {v["served"] for v in found.facts["variants"]} == {
        "the photo itself: its file has changed since it was inverted"
    }
    assert "has changed since" in in_lines(found.facts)["photo, unchanged"]


def test_a_gate_and_models(faces: Faces) -> None:
    found = explain_photo(wrap(faces, ratio=1.0, preserve=["identity"]), KEY, 3)
    generator, inverter, gate = found.facts["models"]
    assert generator["role"] == "generator" and generator["fingerprint"] == found.fingerprint
    assert generator["licence"] == "not stated in the file" and generator["trained_on"] == "not stated in the file"
    assert inverter["name"] == "random"
    assert gate["name"] == "identity64" and "CC BY 4.0" in gate["licence"]
    assert gate["gates"] == [{"gate": "IdentityGate", "watches": ["identity"], "threshold": gate["threshold"]}]
    lines = in_lines(found.facts)
    assert f"the gate asks for {gate['threshold']:.3f}" in lines["epoch 0"]
    assert lines["answer"].startswith(f"{KEY} was inverted at 20.0 dB (good: psnr of at least 20)")
    refused = [v for v in found.facts["variants"] if not v["recipe"]["synthetic"]]
    assert all("a gate refused every variant" in v["served"] for v in refused)


def test_partners_are_named(faces: Faces) -> None:
    found = explain_photo(wrap(faces, ratio=1.0, edits=["fine"]), KEY, 3)
    for variant in found.facts["variants"]:
        (edit,) = variant["edits"]
        assert edit["partner"] in faces.keys and edit["partner"] != KEY
        assert f"with the face of {edit['partner']}" in in_lines(found.facts)[f"epoch {variant['epoch']}"]


def test_without_photos(faces: Faces) -> None:
    train = GANAugmentedDataset(InversionDataset(faces.cache), faces.cache, ratio=1.0, paste="aligned", edits=["fine"])
    found = explain_photo(train, KEY, 2)
    assert not found.facts["photo"]["at_hand"] and "unchanged" not in found.facts["photo"]
    html = explanation_page(found).html()
    assert "the photo as your dataset serves it" not in html and "From left to right: its inversion" in html


def test_why_there_is_no_record(own_faces: Faces) -> None:
    cache = LatentCache(own_faces.cache)
    assert explain_absence(cache, KEY) is None
    cache.forget([KEY, "bob/01.png"])
    cache.put_failures({KEY: "no face was found"})
    found = explain_absence(cache, KEY)
    assert found is not None and found.facts["reason"] == "no face was found"
    assert in_lines(found.facts)["why"] == "no face was found" and "--retry-failed" in found.facts["so"]
    assert "no face was found" in explanation_page(found).html()
    later = explain_absence(cache, "bob/01.png", photos_in_folder(own_faces.root))
    assert later is not None and "has not come to it" in later.facts["reason"]
    with pytest.raises(UserInputError, match=r"no record 'bob/1.png'; expected one of its 20 keys; nearest: 'bob/"):
        explain_absence(cache, "bob/1.png")
    with pytest.raises(UserInputError, match=r"no record 'zzzzzzz'; expected one of its 20 keys, such as 'ann/00.jpg'"):
        explain_absence(cache, "zzzzzzz")
    with pytest.raises(UserInputError, match="the source has no such photo"):
        explain_photo(wrap(own_faces), "carl/00.jpg", 1)


def test_a_damaged_record(own_faces: Faces) -> None:
    cache = LatentCache(own_faces.cache)
    latents = cache.get(KEY).latents
    cache.close()
    file = own_faces.cache / "data.mdb"
    data = file.read_bytes()
    at = data.index(latents.tobytes())
    file.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :])
    found = explain_absence(LatentCache(own_faces.cache), KEY)
    assert found is not None and found.facts["record"] == "damaged"
    with pytest.raises(CacheError, match="damaged"):
        explain_photo(wrap(own_faces), KEY, 1)


def test_nearest_keys_are_the_nearest() -> None:
    keys = [f"ann/{n:02d}.png" for n in range(20)]
    assert nearest_keys("ann/7.png", keys)[0] in ("ann/07.png", "ann/17.png")
    assert nearest_keys("completely other", keys) == []


def test_only_what_acts_is_told(faces: Faces) -> None:
    """Of the recorded parameters, replacing those that are not told by neutral ones changes no pixel."""
    from ganaug.classical import ClassicalAugmentation

    augmentation = ClassicalAugmentation()
    uniforms = torch.rand(16, augmentation.num_uniforms, generator=torch.Generator().manual_seed(0))
    params = augmentation.make_params(uniforms)
    neutral = augmentation.make_params(torch.full((1, augmentation.num_uniforms), 0.999))
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    kept = {name: values.clone() for name, values in params.items()}
    silent = 0
    for row in range(16):
        told = acting({name: values[row].item() for name, values in params.items()})
        for name in set(params) - set(told):
            kept[name][row] = neutral[name][0]
            silent += 1
    assert silent > 50 and acting({name: v[0].item() for name, v in neutral.items()}) == {}
    torch.testing.assert_close(augmentation(images, kept), augmentation(images, params), rtol=0, atol=0)


def test_the_page(faces: Faces, tmp_path: Path) -> None:
    base = PhotoDataset(photos_in_folder(faces.root), faces.cache, size=24)
    train = GANAugmentedDataset(base, faces.cache, ratio=1.0, edits=["fine", "middle"], classical=None)
    found = explain_photo(train, KEY, 3, photo=photo(faces))
    file = explanation_page(found).write(tmp_path / "page.html")
    html = file.read_text()
    assert file.stat().st_mode & 0o077 == 0, "a photo is in it"
    assert html.count("<img") == 1 + 3 and not re.search(r"(src|href)=\"https?:", html)
    for text in (KEY, "Epoch 2", found.fingerprint, "mean squared error", "personal data"):
        assert text in html, text
    odd = replace(found, facts={**found.facts, "key": "<script>alert(1)</script>"})
    assert "<script" not in explanation_page(odd).html()


def test_facts_of_models(faces: Faces, tmp_path: Path) -> None:
    own = model_facts(faces.model)
    assert own["family"] == "stylegan2" and own["img_resolution"] == CONFIG.img_resolution
    assert "images_seen" not in own and "privacy" not in own, "what is not there is not said"
    bundled = model_facts("faces64")
    assert bundled["images_seen"] == 285008 and bundled["trained_on"] == "fairface/train: 13072 images"
    gone = model_facts(tmp_path / "gone.safetensors")
    assert gone["name"] == "gone.safetensors" and "no model" in gone["missing"]
