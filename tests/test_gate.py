"""Gates: what they see, what becomes of variants that fail, and what is written down about it."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import RESOLUTION, Faces, random_latents
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from ganaug import AugmentationPolicy, Direction, GANAugmentedDataset, Recipe, Source, StyleMixing, replay
from ganaug.classical import ClassicalAugmentation
from ganaug.embedders import load_embedder
from ganaug.faces.align import to_unit_range
from ganaug.faces.framing import network_to_chip
from ganaug.faces.paste import aligned_to_item, chip_to_item, paste, paste_aligned, paste_whole
from ganaug.faces.templates import TEMPLATES
from ganaug.gate import Gate, IdentityGate, LabelGate, QualityGate, choose_gates
from ganaug.gatekeeper import Gatekeeper, frame_photos
from ganaug.interfaces import UserInputError
from ganaug.provenance import read_recipes, write_recipes


class TinyEmbedder(nn.Module):
    """Colours of a 4 x 4 grid, projected at random: any change of a face moves it a little."""

    embedding_dim = 6
    template = "fairface"

    def __init__(self, threshold: float = 0.9) -> None:
        super().__init__()
        self.threshold = threshold
        self.register_buffer("weight", torch.randn(48, 6, generator=torch.Generator().manual_seed(3)))
        self.num_seen = 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.num_seen += len(images)
        return F.normalize(F.adaptive_avg_pool2d(images, 4).flatten(1) @ self.weight, dim=1)


class Stub(nn.Module):
    """A gate that passes what ``decide`` says, and remembers what it saw."""

    watches: frozenset[str] = frozenset({"identity"})
    template, size, compares = None, None, True

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.decide = decide
        self.seen: list[Tensor] = []

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.flatten(1)

    def judge(self, served: Tensor, photos: Tensor) -> tuple[Tensor, Tensor]:
        score = -(served - photos).abs().mean(dim=1)
        return score, self.decide(score)


def nobody(score: Tensor) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool)


def everybody(score: Tensor) -> Tensor:
    return torch.ones_like(score, dtype=torch.bool)


def wrap(faces: Faces, gate: Any, **options: Any) -> GANAugmentedDataset:
    base = ImageFolder(str(faces.root), to_tensor)
    defaults = {"ratio": 1.0, "edits": ["coarse", "middle"], "classical": None, "preserve": ["identity"]}
    return GANAugmentedDataset(base, faces.cache, **{**defaults, **options}, gate=gate)


def one_batch(train: GANAugmentedDataset, batch_size: int = 22, **options: Any) -> tuple[Tensor, dict[str, Any]]:
    images, _, info = next(iter(train.loader(batch_size=batch_size, return_info=True, **options)))
    return images, info


def split_threshold(faces: Faces, share: float = 0.5, **options: Any) -> float:
    """A threshold that about ``share`` of the variants at full scale miss, in the middle of a gap between scores."""
    _, info = one_batch(wrap(faces, IdentityGate(TinyEmbedder(), -1.0), **options))
    scores = np.sort(info["identity_score"].numpy().astype(np.float64))
    around = np.arange(int(share * 22) - 3, int(share * 22) + 3)
    at = around[np.argmax(scores[around + 1] - scores[around])]
    return float(scores[at] + scores[at + 1]) / 2


def real_images(faces: Faces) -> Tensor:
    base = ImageFolder(str(faces.root), to_tensor)
    return torch.stack([base[i][0] for i in range(len(base))])


# ----------------------------------------------------------------------------------------------- back-off


def naive(train: GANAugmentedDataset, item: Tensor, row: Recipe, mode: str, gate: IdentityGate) -> tuple[Tensor, Any]:
    """One sample by itself, step by step: pixels and (source, scale, score, attempts)."""
    code = torch.from_numpy(random_latents(row.key)).float()[None]
    edited = code
    for applied in row.edits:
        (edit,) = [edit for edit in train.policy.edits if edit.name == applied.name]
        params = {name: torch.tensor([value]) for name, value in applied.params.items()}
        if applied.partner is not None:
            params["partner"] = torch.from_numpy(random_latents(applied.partner)).float()[None]
        edited = edit.apply(edited, params)
    size = (item.shape[1], item.shape[2])
    geometry = torch.zeros(1, 8)  # photos are 20 px squares, as the items
    place = chip_to_item(geometry, RESOLUTION, size)
    shown_place = aligned_to_item(RESOLUTION, size) if mode == "aligned" else place
    keeper = Gatekeeper([gate], RESOLUTION, None)
    photo = gate.features(keeper.frame(0, item[None], place))

    def draw(w_plus: Tensor) -> Tensor:
        return to_unit_range(train.generator.synthesis(w_plus))

    for attempt, scale in enumerate((1.0, 0.5, 0.25), start=1):
        drawn = draw(code + scale * (edited - code))
        if mode == "paste":
            shown = paste(item[None], drawn, draw(code), place)
        else:
            shown = paste_whole(item[None], drawn, place) if mode == "whole" else paste_aligned(drawn, size)
        score = float((gate.features(keeper.frame(0, shown, shown_place)) * photo).sum())
        if score >= gate.threshold:
            return shown[0], ("GENERATED", scale, score, attempt)
    return item, ("REJECTED", scale, score, attempt)


@pytest.mark.parametrize("mode", ["paste", "whole", "aligned"])
def test_a_naive_loop_gives_the_same(faces: Faces, mode: str) -> None:
    gate = IdentityGate(TinyEmbedder(), split_threshold(faces, paste=mode))
    train = wrap(faces, gate, paste=mode)
    images, info = one_batch(train)
    items, drawn = real_images(faces), train.draw(range(22), 0).rows()
    attempts = set()
    for i, row in enumerate(info["recipe"]):
        with torch.no_grad():
            expected, (source, scale, score, number) = naive(train, items[i], drawn[i], mode, gate)
        assert (row.source.name, row.scale, row.attempts) == (source, scale, number)
        assert row.identity == pytest.approx(score, abs=1e-5)
        torch.testing.assert_close(images[i], expected, atol=1e-5, rtol=0)
        assert row.edits == drawn[i].edits  # also of those that were rejected
        attempts.add(number)
    assert {1, 2} <= attempts
    assert info["is_generated"].tolist() == [row.source is Source.GENERATED for row in info["recipe"]]
    assert info["identity_score"].tolist() == [row.identity for row in info["recipe"]]
    assert dict(train.counts) == Counter(row.source.name.lower() for row in info["recipe"])


def test_neighbours_change_nothing(faces: Faces) -> None:
    """The outcome of a sample is the same in any batch, whatever its neighbours' back-off."""
    train = wrap(faces, IdentityGate(TinyEmbedder(), split_threshold(faces, paste="whole")), paste="whole")
    images, info = one_batch(train)
    outcomes = {row.key: (row.source, row.scale, row.attempts) for row in info["recipe"]}
    assert len(set(outcomes.values())) > 2
    pixels = dict(zip(info["source_key"], images, strict=True))
    order = np.random.default_rng(0).permutation(22).tolist()
    for batch_size in (1, 5, 22):
        loader = train.loader(batch_size=batch_size, sampler=order, return_info=True)
        loader.set_epoch(0)
        for some, _, told in loader:
            for image, row in zip(some, told["recipe"], strict=True):
                assert (row.source, row.scale, row.attempts) == outcomes[row.key]
                torch.testing.assert_close(image, pixels[row.key], atol=1e-5, rtol=0)


def test_workers_make_no_difference(faces: Faces) -> None:
    train = wrap(faces, IdentityGate(TinyEmbedder(), split_threshold(faces)))
    alone, info = one_batch(train, batch_size=11)
    images, again = one_batch(train, batch_size=11, num_workers=2)
    assert torch.equal(images, alone) and again["recipe"] == info["recipe"]


def test_all_rejected_are_real_items_like_any_other(faces: Faces) -> None:
    """Their classical augmentation and degradation are those that they would have had as real ones."""
    options = {"classical": ClassicalAugmentation(), "degradation": "match"}
    train = wrap(faces, Stub(nobody), **options)
    images, info = one_batch(train)
    real, _ = one_batch(wrap(faces, None, **options, ratio=0.0, preserve=[]))
    assert torch.equal(images, real)
    assert dict(train.counts) == {"rejected": 22}
    assert not info["is_generated"].any()
    assert {(row.source, row.scale, row.attempts) for row in info["recipe"]} == {(Source.REJECTED, 0.25, 3)}
    assert not any(row.to_dict()["synthetic"] for row in info["recipe"])
    plain, _ = one_batch(wrap(faces, Stub(nobody)))
    assert torch.equal(plain, real_images(faces))


def test_none_rejected_is_as_without_a_gate(faces: Faces) -> None:
    images, info = one_batch(wrap(faces, Stub(everybody)))
    free, told = one_batch(wrap(faces, None, preserve=[]))
    assert torch.equal(images, free)
    assert {(row.source, row.scale, row.attempts) for row in info["recipe"]} == {(Source.GENERATED, 1.0, 1)}
    assert [replace(row, identity=None, attempts=0) for row in info["recipe"]] == told["recipe"]
    assert {(row.scale, row.identity, row.attempts) for row in told["recipe"]} == {(1.0, None, 0)}
    assert told["identity_score"].isnan().all()


def test_every_gate_of_a_list_has_to_pass(faces: Faces) -> None:
    embedder = IdentityGate(TinyEmbedder(), split_threshold(faces))
    quality = Stub(everybody)
    quality.watches = frozenset()
    _, alone = one_batch(wrap(faces, embedder))
    _, both = one_batch(wrap(faces, [quality, embedder]))
    assert both["recipe"] == alone["recipe"]  # identity is the score of the gate that watches it
    quality.decide = nobody
    _, none = one_batch(wrap(faces, [quality, embedder]))
    assert {row.source for row in none["recipe"]} == {Source.REJECTED}


def test_ratio_zero_is_bit_for_bit_the_plain_loader(faces: Faces) -> None:
    embedder = TinyEmbedder()
    train = wrap(faces, IdentityGate(embedder), ratio=0.0)
    plain = DataLoader(ImageFolder(str(faces.root), to_tensor), batch_size=5)
    for ours, theirs in zip(train.loader(batch_size=5), plain, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert embedder.num_seen == 0


def test_photos_are_looked_at_once(faces: Faces) -> None:
    """Half of the network's work is saved from the second epoch on, and outcomes stay what they were."""
    embedder = TinyEmbedder()
    train = wrap(faces, IdentityGate(embedder, -1.0))
    loader = train.loader(batch_size=5, return_info=True)
    scores, seen = [], []
    for _ in range(2):
        before = embedder.num_seen
        scores.append(torch.cat([batch[-1]["identity_score"] for batch in loader]))
        seen.append(embedder.num_seen - before)
    assert seen == [44, 22]
    fresh = train.loader(batch_size=22, return_info=True)
    fresh.set_epoch(1)
    torch.testing.assert_close(next(iter(fresh))[-1]["identity_score"], scores[1], atol=1e-5, rtol=0)
    assert not torch.equal(scores[0], scores[1])
    # A key that stands twice in a batch is looked at once.
    before = embedder.num_seen
    twice = train.loader(batch_size=4, sampler=[3, 3, 7, 3], return_info=True)
    (_, _, info), *_ = twice
    assert embedder.num_seen - before == 2 + 4
    assert len({round(score, 5) for score in info["identity_score"].tolist()}) == 2


# ------------------------------------------------------------------------------------ pixels that are no numbers


class Broken:
    """Moves codes of a positive mean by ``value``, and others properly."""

    name, touches, needs_partner = "broken", frozenset[str](), False

    def __init__(self, value: float) -> None:
        self.value = value

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        return {"strength": uniforms[:, 0].float()}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        bad = w_plus.mean(dim=(1, 2), keepdim=True) > 0
        return w_plus + torch.where(bad, self.value, 0.3 * params["strength"][:, None, None])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("gated", [True, False])
def test_pixels_that_are_no_numbers_are_never_served(faces: Faces, gated: bool, value: float) -> None:
    gate = IdentityGate(TinyEmbedder(), -1.0) if gated else None
    train = wrap(faces, gate, edits=[Broken(value)])
    images, info = one_batch(train)
    sound, _ = one_batch(wrap(faces, None, edits=[Broken(0.0)]))
    bad = torch.tensor([float(random_latents(key).astype(np.float32).mean()) > 0 for key in faces.keys])
    assert 0 < bad.sum() < 22
    assert images.isfinite().all()
    assert torch.equal(images[bad], real_images(faces)[bad])
    torch.testing.assert_close(images[~bad], sound[~bad], atol=1e-5, rtol=0)
    assert [row.source is Source.REJECTED for row in info["recipe"]] == bad.tolist()
    assert train.counts["rejected"] == int(bad.sum())


# ------------------------------------------------------------------------------------------------- replay


def test_replay_asks_no_gate(faces: Faces) -> None:
    gate = IdentityGate(TinyEmbedder(), split_threshold(faces, paste="whole"))
    train = wrap(faces, gate, paste="whole", classical="default")
    images, info = one_batch(train)
    told = {(row.source, row.scale): i for i, row in enumerate(info["recipe"])}
    assert len(told) > 2
    gate.embedder.num_seen = 0
    for i in told.values():
        recipe = Recipe.from_dict(json.loads(json.dumps(info["recipe"][i].to_dict())))
        assert recipe == info["recipe"][i]
        torch.testing.assert_close(replay(train, recipe)[0][0], images[i], atol=1e-5, rtol=0)
    assert gate.embedder.num_seen == 0
    # What was served at half strength is not what full strength gives.
    half = next(row for row in info["recipe"] if row.is_generated and row.scale < 1.0)
    whole = replay(train, replace(half, scale=1.0))[0]
    assert float((whole - replay(train, half)[0]).abs().max()) > 0.01


# --------------------------------------------------------------------------------------- what a network sees


def test_framing_of_equal_templates_is_the_chip() -> None:
    gate = Stub(everybody)
    chips = torch.rand(2, 3, 16, 16)
    whole = chip_to_item(torch.zeros(2, 8), 16, (16, 16))
    torch.testing.assert_close(Gatekeeper([gate], 16).frame(0, chips, whole), chips * 2 - 1, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("own", "chip"), [("arcface", "fairface"), ("ffhq", "fairface"), ("fairface", "ffhq")])
def test_framing_of_another_template(own: str, chip: str) -> None:
    """A ramp of colours stays one: each pixel of the network shows its place in the chip."""
    gate = Stub(everybody)
    gate.template, gate.size = own, 20
    to_chip = network_to_chip(own, 20, chip, 48)
    angle, scale = 0.3, 1.2
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * scale
    to_item = torch.cat([turn, torch.tensor([[40.0], [10.0]])], dim=1)[None]
    x, y = torch.meshgrid(torch.arange(120) + 0.5, torch.arange(120) + 0.5, indexing="xy")
    item = torch.stack([x / 120, y / 120, torch.full_like(x, 0.5)])[None]
    seen = (Gatekeeper([gate], 48, chip).frame(0, item, to_item)[0] + 1) / 2
    for column, row in ((3, 4), (10, 10), (15, 8)):
        place = to_chip.numpy() @ [column + 0.5, row + 0.5, 1.0]
        place = to_item[0].double().numpy() @ [*place, 1.0]
        assert seen[:2, row, column].numpy() * 120 == pytest.approx(place, abs=0.05)
    # The face of a chip comes to lie where the network wants it: in the mean of the five points, exactly.
    points = np.c_[TEMPLATES[own] * 20, np.ones(5)] @ to_chip.numpy().T
    error = np.abs(points - TEMPLATES[chip] * 48)
    assert error.mean() < 0.03 * 48


def test_framing_of_nobody_knows_what_is_the_chip() -> None:
    expected = [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    for own, chip in ((None, "ffhq"), ("arcface", None), ("dlib", "dlib")):
        assert network_to_chip(own, 128, chip, 64).tolist() == expected


@pytest.mark.parametrize("mode", ["paste", "whole", "aligned"])
def test_the_face_lies_alike_in_both(faces: Faces, mode: str) -> None:
    """Photo and variant come to the network in one framing, in whatever framing they are served.

    A chip that covers the upper left quarter of its item: without an edit, ``whole`` and ``aligned`` show the network
    the generator's face, and all modes the same part of the photo.
    """
    gate = Stub(everybody)
    still = Direction("still", torch.ones(24), 0.0, range(6), set())
    train = wrap(faces, gate, paste=mode, edits=[still])
    stage = train.loader(batch_size=22).stage
    recipe = train.draw(range(22), 0)
    latents = train.latents_for(recipe)
    latents["geometry"] = torch.tensor([[1.6, 0, 0, 0, 1.6, 0, 20, 20]]).float().repeat(22, 1)  # 10 px of 20 -> 16
    items = real_images(faces)
    served = stage.augmenter(items, recipe, latents)
    photo, variant = gate.seen
    corner = F.interpolate(items[:, :, :10, :10], (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(((photo + 1) / 2)[:, :, :14, :14], corner[:, :, :14, :14], atol=1e-4, rtol=0)
    with torch.no_grad():
        code = torch.stack([torch.from_numpy(random_latents(key)).float() for key in faces.keys])
        drawn = to_unit_range(train.generator.synthesis(code))
    if mode == "paste":  # nothing was edited, so that nothing changed
        assert torch.equal(served, items) and torch.equal(variant, photo)
    else:
        seen, made, real = (F.avg_pool2d(images, 4)[:, :, 1:3, 1:3] for images in ((variant + 1) / 2, drawn, corner))
        assert float((seen - made).abs().mean()) < 0.05 < float((made - real).abs().mean())


def test_frame_photos(faces: Faces) -> None:
    gate = Stub(everybody)
    train = wrap(faces, gate)
    seen = frame_photos(train, gate, num_photos=7)
    assert seen.shape == (7, 3, RESOLUTION, RESOLUTION)
    one_batch(train)
    photos = gate.seen[0]
    torch.testing.assert_close(seen, photos[np.linspace(0, 21, 7).astype(int)], atol=1e-6, rtol=0)
    assert len(frame_photos(train, gate)) == 22


# ------------------------------------------------------------------------------------------------ the gates


def test_identity_threshold_is_included() -> None:
    gate = IdentityGate(TinyEmbedder(), 0.75)
    photos = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    served = torch.tensor([[0.75, 0.0], [0.7499999, 0.0], [math.nan, 0.0], [1.0, 0.0]])
    score, passed = gate.judge(served, photos)
    assert passed.tolist() == [True, False, False, True]
    assert score[0] == 0.75
    assert IdentityGate(TinyEmbedder(threshold=0.3)).threshold == 0.3
    assert gate.judge(-photos, photos)[0].tolist() == [-1.0] * 4


def test_identity_gate_of_the_bundled_embedder() -> None:
    embedder = load_embedder()
    gate = IdentityGate(embedder)
    assert (gate.template, gate.size, gate.threshold) == ("fairface", 64, embedder.threshold)
    assert isinstance(gate, Gate) and gate.watches == {"identity"}
    features = gate.features(torch.rand(3, 3, 64, 64) * 2 - 1)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("threshold", [1.5, -1.01, math.nan, "0.5", True])
def test_identity_thresholds_that_are_refused(threshold: Any) -> None:
    with pytest.raises(UserInputError, match="least cosine between a variant and its photo"):
        IdentityGate(TinyEmbedder(), threshold)


def test_networks_that_are_refused() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)).eval()
    with pytest.raises(UserInputError, match=r"least cosine.*the embedder has none of its own"):
        IdentityGate(linear)  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="in training mode"):
        QualityGate(nn.Sequential(nn.Flatten()))
    with pytest.raises(UserInputError, match="unknown template 'arkface'"):
        LabelGate(linear, template="arkface")
    with pytest.raises(UserInputError, match=r"side of the pictures.*got 0"):
        LabelGate(linear, size=0)
    with pytest.raises(UserInputError, match="1 logit an image; expected one for each of at least two classes"):
        LabelGate(linear).features(torch.zeros(2, 3, 16, 16))
    with pytest.raises(UserInputError, match=r"turned images \(2, 3, 4, 4\) into \(2, 3, 4, 4\), expected \(K, E\)"):
        QualityGate(nn.Identity().eval()).features(torch.zeros(2, 3, 4, 4))


def test_quality_gate_is_a_distance_to_the_third_neighbour() -> None:
    network = nn.Flatten().eval()
    real = torch.randn(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    gate = QualityGate(network, kept=0.95)
    with pytest.raises(UserInputError, match=r"knows no real photos: call gate\.fit"):
        gate.judge(torch.zeros(1, 12), torch.zeros(1, 12))
    with pytest.raises(UserInputError, match=r"at least 50 real photos .* got \(49, 3, 2, 2\)"):
        gate.fit(real[:49])
    with pytest.raises(UserInputError, match="not finite"):
        gate.fit(torch.cat([real, torch.full((1, 3, 2, 2), math.nan)]))
    gate.fit(real)
    rows = real.flatten(1).double().numpy()
    between = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(axis=2))
    np.fill_diagonal(between, np.inf)
    limit = np.quantile(np.sort(between, axis=1)[:, 2], 0.95)
    assert -gate.threshold == pytest.approx(limit, abs=1e-5)
    made = torch.cat([real[:20] + 0.01, real[:20] + 9.0, torch.full((1, 3, 2, 2), math.nan)])
    features = gate.features(made)
    score, passed = gate.judge(features, features)
    third = [np.sort(np.sqrt(((rows - row) ** 2).sum(axis=1)))[2] for row in features[:40].double().numpy()]
    assert score[:40].numpy() == pytest.approx(-np.array(third), abs=1e-4)
    assert passed.tolist() == [*(np.array(third) <= limit).tolist(), False]
    assert passed[:20].float().mean() > 0.8 and not passed[20:].any()


def test_quality_gate_in_a_batch(faces: Faces) -> None:
    """Variants that look like nothing in the photos are rejected, others are served."""
    gate = QualityGate(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval(), kept=1.0)
    gate.real, gate.limit = torch.zeros(5, 12), torch.tensor(1e6)
    _, info = one_batch(wrap(faces, gate, preserve=[]))
    assert {row.source for row in info["recipe"]} == {Source.GENERATED}
    assert info["identity_score"].isnan().all()  # nobody watches identity
    gate.limit = torch.tensor(0.0)
    train = wrap(faces, gate, preserve=[])
    one_batch(train)
    assert dict(train.counts) == {"rejected": 22}


def test_label_gate_wants_the_same_class() -> None:
    gate = LabelGate(nn.Flatten().eval())
    photos = torch.tensor([[2.0, 0.0, 1.0]]).repeat(4, 1)
    served = torch.tensor([[5.0, 0.0, 1.0], [0.0, 3.0, 0.0], [math.nan, 0.0, 0.0], [0.0, 0.0, math.log(6.0)]])
    score, passed = gate.judge(served, photos)
    assert passed.tolist() == [True, False, False, False]
    assert float(score[3]) == pytest.approx(1 / 8)
    assert gate.watches == {"label"}


def test_a_gate_lets_edits_touch_what_it_watches(faces: Faces) -> None:
    edit = StyleMixing("change", [0], {"gender"})
    with pytest.raises(UserInputError, match="edit 'change' touches gender, which preserve="):
        wrap(faces, None, edits=[edit], preserve=["gender"])
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    train = wrap(faces, LabelGate(classifier, watches="gender"), edits=[edit], preserve=["gender"])
    images, info = one_batch(train)
    classes = [pictures.mean(dim=(2, 3)).argmax(dim=1) for pictures in (images, real_images(faces))]
    served = info["is_generated"]
    assert served.any() and torch.equal(classes[0][served], classes[1][served])


def test_auto_is_the_bundled_embedder_where_identity_is_preserved(faces: Faces) -> None:
    (gate,) = wrap(faces, "auto").gates
    assert isinstance(gate, IdentityGate) and gate.threshold == load_embedder().threshold
    assert wrap(faces, "auto", preserve=[]).gates == ()
    assert wrap(faces, None, edits=["fine"]).gates == ()


@pytest.mark.parametrize("gate", ["yes", 3, ["auto"], [object()], IdentityGate])
def test_gates_that_are_refused(gate: Any) -> None:
    with pytest.raises(UserInputError, match="gate must be 'auto', None, or objects with the Gate protocol"):
        choose_gates(gate, ())


def test_gates_that_the_bundled_embedder_can_be() -> None:
    assert choose_gates("auto", ("label", "age", "hair")) == ()
    identity, gender = choose_gates("auto", ("gender", "identity", "gender"))[::-1]
    assert isinstance(identity, IdentityGate) and isinstance(gender, LabelGate)
    assert gender.watches == {"gender"} and gender.template == "fairface"
    (race,) = choose_gates("auto", ("race",))
    assert isinstance(race, LabelGate)
    assert race.features(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_a_policy_of_ones_own(faces: Faces) -> None:
    """Its edits may touch what it says is watched, and a dataset without such a gate refuses them."""
    edit = StyleMixing("change", [0], {"identity"})
    with pytest.raises(UserInputError, match="edit 'change' touches identity"):
        AugmentationPolicy(1.0, [edit], ["identity"])
    policy = AugmentationPolicy(1.0, [edit], ["identity"], watched=frozenset({"identity"}))
    train = wrap(faces, "auto", policy=policy)
    assert len(train.gates) == 1 and train.policy.watched == {"identity"}
    with pytest.raises(UserInputError, match="edit 'change' touches identity"):
        wrap(faces, None, policy=policy)


# ------------------------------------------------------------------------------------------ files of recipes


def test_recipes_as_lines(faces: Faces, tmp_path: Path) -> None:
    train = wrap(faces, IdentityGate(TinyEmbedder(), split_threshold(faces, paste="whole")), paste="whole", ratio=0.7)
    rows = one_batch(train)[1]["recipe"]
    path = tmp_path / "recipes.jsonl"
    write_recipes(path, rows[:9])
    write_recipes(path, rows[9:])
    assert read_recipes(path) == rows
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["synthetic"] for line in lines] == [row.source is Source.GENERATED for row in rows]
    assert {line["source"] for line in lines} == {"generated", "rejected", "real"}


def test_a_torn_line_is_told_and_skipped(faces: Faces, tmp_path: Path) -> None:
    rows = wrap(faces, None, preserve=[]).draw(range(6), 0).rows()
    path = tmp_path / "recipes.jsonl"
    write_recipes(path, rows[:3])
    whole = path.read_bytes()
    for cut in (1, 5, 40, len(whole.splitlines()[-1]) - 1):
        path.write_bytes(whole[: -1 - cut])
        with pytest.warns(UserWarning, match="line 3: ends early and is skipped"):
            assert read_recipes(path) == rows[:2]
        write_recipes(path, rows[3:])  # goes on in a line of its own
        with pytest.warns(UserWarning, match="line 3: ends early and is skipped"):
            assert read_recipes(path) == rows[:2] + rows[3:]
    path.write_bytes(whole[:-1])  # only the line's end is missing
    write_recipes(path, rows[3:])
    assert read_recipes(path) == rows
    write_recipes(tmp_path / "none.jsonl", [])
    assert read_recipes(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\n1.jpg,30\n", "line 1: no recipe of ganaug, got b'file,age'"),
        ("[1]\n", "line 1: no recipe of ganaug"),
        ('\n{"key": "a"}\n', "line 2: no recipe of ganaug: KeyError"),
        (
            '{"synthetic": true, "key": "a", "epoch": 0, "seed": 0, '
            '"source": "rejected", "edits": [], "classical": {}}',
            "line 1: the recipe of 'a' says synthetic=True, but its source is 'rejected'",
        ),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UserInputError, match=message):
        read_recipes(tmp_path / "x.jsonl")
    with pytest.raises(UserInputError, match="cannot read recipes: No such file"):
        read_recipes(tmp_path / "missing.jsonl")


def test_recipes_of_earlier_versions() -> None:
    old = {"key": "a", "epoch": 0, "seed": 0, "source": "generated", "edits": [], "classical": {}}
    recipe = Recipe.from_dict(old)
    assert (recipe.scale, recipe.identity, recipe.attempts, recipe.variant) == (1.0, None, 0, 0)
    assert recipe.to_dict()["synthetic"] is True
