"""Training an identity embedder: the loss, labels, batches, drawn views, thresholds, and runs that go on."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Faces
from torch import Tensor
from training_helpers import leaves

from ganaug import checkpoints, load_generator
from ganaug.cli import main
from ganaug.edits import rows_of
from ganaug.embedders import load_embedder
from ganaug.errors import CheckpointError, UserInputError
from ganaug.inversion import load_encoder
from ganaug.training.data import to_images
from ganaug.training.embedder import EmbedderTrainer, shared_contrastive_loss
from ganaug.training.embedder_batches import PeopleBatches, ViewAugmentation
from ganaug.training.embedder_config import EmbedderConfig
from ganaug.training.embedder_labels import PhotoLabels, read_labels
from ganaug.training.embedder_monitor import calibrate, threshold_at
from ganaug.training.embedder_views import GeneratedViews, generated_views, other_members, pairs_of_people
from ganaug.training.parallel import Processes
from ganaug.training.run_embedder import train_embedder

CPU = torch.device("cpu")
SMALL = EmbedderConfig(
    kimg=0.04,
    batch_size=8,
    resolution=16,
    channels=(4, 8),
    embedding_dim=8,
    warmup_kimg=0.0,
    snapshot_kimg=0.016,
    evaluated_images=8,
)


def naive_loss(features: Tensor, shares: Tensor, temperature: float) -> float:
    """Supervised contrastive loss, face by face, in plain Python."""
    vectors = [[x / math.dist(row, [0.0] * len(row)) for x in row] for row in features.tolist()]
    total, counted = 0.0, 0
    for i, a in enumerate(vectors):
        others = [j for j in range(len(vectors)) if j != i]
        scores = {j: sum(x * y for x, y in zip(a, vectors[j], strict=True)) / temperature for j in others}
        wanted = {j: sum(x * y for x, y in zip(shares[i].tolist(), shares[j].tolist(), strict=True)) for j in others}
        if not sum(wanted.values()):
            continue
        normal = math.log(sum(math.exp(s) for s in scores.values()))
        total -= sum(wanted[j] * (scores[j] - normal) for j in others) / sum(wanted.values())
        counted += 1
    return total / counted


def test_loss_against_a_loop() -> None:
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, generator=draws)
    shares = F.one_hot(torch.tensor([0, 1, 0, 1, 2, 0, 0]), 3).float()  # the fifth is like no other
    shares[5], shares[6] = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.25, 0.75, 0.0])
    for temperature in (0.07, 0.5):
        got = float(shared_contrastive_loss(features, shares, temperature))
        assert got == pytest.approx(naive_loss(features, shares, temperature), rel=1e-5)


def test_loss_of_two_views_is_infonce() -> None:
    """arXiv 2002.05709, equation 1: cross-entropy of finding the other view."""
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    views = torch.cat([a, b])
    logits = F.cosine_similarity(views[:, None], views[None], dim=2) / 0.1
    logits = logits - torch.eye(12) * 1e9
    want = F.cross_entropy(logits, torch.cat([torch.arange(6) + 6, torch.arange(6)]))
    assert float(shared_contrastive_loss(views, torch.eye(6).repeat(2, 1), 0.1)) == pytest.approx(float(want), rel=1e-5)


def test_loss_has_finite_gradients_and_may_have_nothing_to_compare() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    lonely = shared_contrastive_loss(features, torch.eye(4), 0.1)
    assert float(lonely.detach()) == 0.0
    (gradient,) = torch.autograd.grad(lonely, features, retain_graph=True)
    assert not gradient.any()
    (gradient,) = torch.autograd.grad(shared_contrastive_loss(features, torch.ones(4, 1), 1e-3), features)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.34, 0.5, 0.9])
def test_threshold_accepts_as_many_as_it_says(rate: float) -> None:
    rng = np.random.default_rng(4)
    for cosines in (rng.uniform(-1, 1, 57), rng.integers(0, 5, 60) / 8, np.array([0.25])):
        cosines = cosines.astype(np.float32)
        threshold = threshold_at(cosines, rate)
        assert (cosines >= threshold).mean() <= rate
        lower = cosines[cosines < threshold].max()  # one that would have to be accepted next
        assert (cosines >= lower).mean() > rate


def by_angle(images: Tensor) -> Tensor:
    """An embedder for faces of one colour: the mean is the angle, up to 90 degrees apart."""
    angle = images.mean(dim=(1, 2, 3)) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def test_calibration_compares_people_of_one_group() -> None:
    values = torch.tensor([-0.8, -0.7, 0.1, 0.5, 0.5])
    images = values[:, None, None, None].expand(5, 3, 16, 16)
    people, groups = np.array([0, 1, 2, 3, 3]), np.array([0, 0, 1, 1, 1])
    found = calibrate(by_angle, images, people, groups, 0.4, columns=("race",))
    # Impostors: 0-1 of group 0; 2-3, 2-4 of group 1; 3-4 are one person.
    cosines = [math.cos(gap * math.pi / 4) for gap in (0.1, 0.4, 0.4)]
    assert found.impostor_pairs == 3
    assert cosines[1] < found.threshold <= cosines[0]
    assert found.groups == ("race",)
    augmentation = ViewAugmentation()
    from ganaug import rng

    views = augmentation(
        images.contiguous(), rng.uniforms(0, 0, np.arange(5), "calibration view", augmentation.num_uniforms)
    )
    genuine = [bool((by_angle(images)[i] * by_angle(views)[i]).sum() >= found.threshold) for i in range(5)]
    assert found.genuine_rate == pytest.approx(sum(genuine) / 5)
    assert json.loads(json.dumps(found.to_dict()))["photos"] == 5
    # Groups of one each: everybody is compared with everybody.
    assert calibrate(by_angle, images, people, np.arange(5), 0.4, columns=("race",)).impostor_pairs == 9
    with pytest.raises(UserInputError, match="at least two people"):
        calibrate(by_angle, images, np.zeros(5, np.int64), groups, 0.4)


def test_augmentation_depends_on_its_own_draws() -> None:
    augmentation = ViewAugmentation()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.uniform(-1, 1, (6, 3, 16, 16))).float()
    draws = rng.uniform(size=(6, augmentation.num_uniforms))
    together = augmentation(images, draws)
    assert torch.equal(together[4:5], augmentation(images[4:5], draws[4:5]))
    assert together.min() >= -1
    assert together.max() <= 1
    # No classical operation, no grey: only the light is left, as in the formula.
    plain = np.full((1, augmentation.num_uniforms), 0.999)
    plain[0, :4] = (0.9, 0.2, 0.0, 0.999)
    grey = np.full((1, 3, 16, 16), 0.0, np.float32)
    lit = augmentation(torch.from_numpy(grey), plain)[0]
    x, y = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16))
    assert lit[1].numpy() == pytest.approx(0.5 * (1 + 0.45 * (0.8 * x - 0.6 * y)) * 2 - 1, abs=1e-5)


TABLE = """file,who,race,age,gender
a/1.jpg,ann,X,20-29,f
a/2.jpg,ann,X,more than 70,f
b/1.jpg,,Y,3-9,m
b/2.jpg,bob,Y,,m
c/1.jpg,,,20-29,
"""
NAMES = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "c/1.jpg", "d/1.jpg"]


def table(tmp_path: Path, text: str = TABLE) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def test_labels_with_holes(tmp_path: Path) -> None:
    labels = read_labels(
        table(tmp_path), NAMES, "/x", identity="who", groups=("race", "gender"), attributes=("age", "gender")
    )
    same = labels.people[:, None] == labels.people[None]
    assert same.tolist() == (np.eye(6, dtype=bool) | (np.add.outer(np.arange(6), np.arange(6)) == 1)).tolist()
    assert labels.groups[0] == labels.groups[1] != labels.groups[2] == labels.groups[3]
    assert labels.groups[4] == labels.groups[5] not in labels.groups[:4]  # nothing is known of both
    assert [a.classes for a in labels.attributes] == [("3-9", "20-29", "more than 70"), ("f", "m")]
    assert labels.attributes[0].values == (6.0, 24.5, 74.5)
    assert labels.attributes[1].values is None
    assert labels.classes.tolist() == [[1, 0], [2, 0], [0, 1], [-1, 1], [1, -1], [-1, -1]]
    # Held-out photos: the classes of the others; files are found by the end of their path.
    again = read_labels(table(tmp_path), ["2.jpg"], "/x/a", attributes=("age", "gender"), known=labels.attributes)
    assert again.classes.tolist() == [[2, 0]]
    alone = read_labels(None, NAMES, "/x")
    assert (alone.people.tolist(), set(alone.groups.tolist()), alone.classes.shape) == (list(range(6)), {0}, (6, 0))


@pytest.mark.parametrize(
    ("text", "options", "what"),
    [
        (TABLE, {"identity": "name"}, "has no column name; it has file, who, race, age, gender"),
        (TABLE, {"groups": ("race", "nation")}, "has no column nation"),
        (TABLE, {"attributes": ("eyes",)}, "has no column eyes"),
        (TABLE.replace(",m", ",f"), {"attributes": ("gender",)}, "column 'gender' has 1 different values"),
        (
            "file,n\n" + "".join(f"a/{i}.jpg,{i}\n" for i in range(70)),
            {"attributes": ("n",)},
            "has 70 different values",
        ),
        (
            TABLE + "a/1.jpg,eve,X,20-29,f\n",
            {"identity": "who"},
            "lines for the same photo with different labels: a/1.jpg",
        ),
        (TABLE.replace("/", "_"), {"identity": "who"}, "names the photos, for example '/x/a/1.jpg'"),
        (TABLE + "short,row\n", {"identity": "who"}, "row 7 has 2 cells"),
        ("", {"identity": "who"}, "is empty"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, text: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserInputError, match=what):
        read_labels(table(tmp_path, text), NAMES, "/x", **options)


def test_columns_need_a_table() -> None:
    with pytest.raises(UserInputError, match="column 'who' was named, but there is no table; give --labels"):
        read_labels(None, NAMES, "/x", identity="who")


def test_partners_and_pairs() -> None:
    groups = np.array([2, 0, 2, 1, 2, 0])
    partners = other_members(groups, seed=3)
    assert (groups[partners] == groups).all()
    assert sorted(partners) == list(range(6))
    assert [i for i in range(6) if partners[i] == i] == [3]  # alone in its group
    found = {tuple(pair) for pair in pairs_of_people(np.array([5, 1, 5, 5, 1])).tolist()}
    assert found == {(0, 2), (2, 0), (0, 3), (3, 0), (2, 3), (3, 2), (1, 4), (4, 1)}
    assert pairs_of_people(np.arange(4)).shape == (0, 2)


def random_labels(count: int = 40) -> PhotoLabels:
    people = np.arange(count)
    people[1::10] = people[0::10]  # four people with two photos
    return PhotoLabels(people, np.arange(count) % 4, (), np.zeros((count, 0), np.int64))


def colour_views(count: int, labels: PhotoLabels) -> tuple[np.ndarray, GeneratedViews]:
    """Chips whose colour says which row they are, and whether they were drawn."""
    chips = np.zeros((count, 16, 16, 3), np.uint8)
    chips[..., 0] = np.arange(count)[:, None, None] * 5
    same, mixed = chips.copy(), chips.copy()
    same[..., 2], mixed[..., 2] = 100, 200
    weights = np.linspace(0, 1, count).astype(np.float32)
    return chips, GeneratedViews(same, mixed, other_members(labels.groups, 0), weights)


def test_batches_say_who_is_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViewAugmentation, "__call__", lambda self, images, uniforms: images)
    labels = random_labels()
    chips, views = colour_views(40, labels)
    config = replace(SMALL, batch_size=16, pair_share=0.25, mixed_share=0.25, generated_share=0.5)
    batches = PeopleBatches(chips, np.arange(40), labels, views, config)
    drawn = Counter()
    for step in range(20):
        batch = batches.batch(step)
        assert batch.images.shape == (36, 3, 16, 16)  # 16 photos twice, 4 mixed
        colours = ((batch.images[:, :, 0, 0] + 1) * 127.5).round().int()
        rows, kinds = (colours[:, 0] // 5).numpy(), colours[:, 2].numpy()
        assert rows[:32].tolist() == batch.rows.tolist()
        assert set(kinds[:32]) <= {0, 100}
        assert set(kinds[32:]) == {200}
        drawn.update(kinds[:32].tolist())
        assert torch.allclose(batch.shares.sum(dim=1), torch.ones(36))
        likeness = (batch.shares @ batch.shares.t()).numpy()
        same = labels.people[rows[:32]][:, None] == labels.people[rows[:32]][None]
        assert (likeness[:32, :32] == same).all()
        for place in range(32, 36):
            lead, weight = rows[place], views.weights[rows[place]]
            partner = views.partners[lead]
            for j in range(32):
                person = labels.people[rows[j]]
                share = (1 - weight) * (person == labels.people[lead]) + weight * (person == labels.people[partner])
                assert likeness[place, j] == pytest.approx(share, abs=1e-6)
        rows, leads = batches.rows(step)
        assert leads == 6
        assert (rows[6:12] == views.partners[rows[:6]]).all()
        assert len(set(labels.groups[rows[:3]].tolist())) <= 2  # half of the leads are of two groups
        firsts, seconds = rows[12:14], rows[14:16]
        assert (labels.people[firsts] == labels.people[seconds]).all()
        assert (firsts != seconds).all()
    assert 0.4 < drawn[100] / sum(drawn.values()) < 0.6


def test_batches_of_photos_only_and_of_members_only() -> None:
    labels = random_labels().at(np.arange(10, 30))
    chips, _ = colour_views(40, random_labels())
    members = np.arange(10, 30)
    batches = PeopleBatches(chips, members, labels, None, replace(SMALL, batch_size=12))
    seen = set()
    for step in range(60):
        batch = batches.batch(step)
        assert batch.images.shape[0] == 24
        seen |= set(batch.rows.tolist())
    assert seen == set(range(20))
    a, b = batches.batch(7), PeopleBatches(chips, members, labels, None, replace(SMALL, batch_size=12)).batch(7)
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, batches.batch(8).images)


def test_drawn_views_are_those_of_the_formula(tmp_path: Path, faces: Faces) -> None:
    rng = np.random.default_rng(0)
    chips = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    people, groups = np.arange(6), np.array([0, 0, 0, 1, 1, 1])
    members = np.array([0, 2, 3, 5, 6, 8])
    arguments = (faces.model, chips, members, people, groups, tmp_path, 5, CPU)
    views = generated_views(*arguments)
    assert views.same.shape == views.mixed.shape == (6, 16, 16, 3)
    generator, encoder = load_generator(faces.model), load_encoder(faces.model)
    with torch.no_grad():
        codes = encoder.encode(to_images(chips[members]), generator).half().float()
        rows = [
            r for r in range(generator.latent_spec.num_ws) if r not in rows_of("fine", generator.latent_spec.num_ws)
        ]
        for i in range(6):
            code = codes[i].clone()
            weight = float(views.weights[i])
            code[rows] = (1 - weight) * codes[i][rows] + weight * codes[views.partners[i]][rows]
            image = (generator.synthesis(code[None])[0] * 0.5 + 0.5).clamp(0, 1) * 255
            assert np.abs(views.mixed[i].astype(float) - image.permute(1, 2, 0).numpy()).max() <= 1.0
    assert not np.array_equal(views.same, views.mixed)

    written = (tmp_path / "views-same.npy").stat().st_mtime_ns
    again = generated_views(*arguments)
    assert (tmp_path / "views-same.npy").stat().st_mtime_ns == written
    assert np.array_equal(again.mixed, views.mixed)
    other = generated_views(*arguments[:3], np.array([0, 0, 2, 3, 4, 5]), *arguments[4:])
    assert (tmp_path / "views-same.npy").stat().st_mtime_ns != written
    assert not np.array_equal(other.same, views.same)  # moves of a person with two photos were added
    (tmp_path / "views-mixed.npy").write_bytes(b"cut")
    assert np.array_equal(generated_views(*arguments).mixed, views.mixed)


def trainer(config: EmbedderConfig = SMALL) -> EmbedderTrainer:
    labels = PhotoLabels(np.arange(40), np.arange(40) % 4, (), np.zeros((40, 0), np.int64))
    colours = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    chips = colours.repeat(4, axis=1).repeat(4, axis=2)  # patches, which survive a shift by a pixel
    return EmbedderTrainer(config, PeopleBatches(chips, np.arange(40), labels, None, config), Processes(CPU))


def test_training_learns_to_find_people_again() -> None:
    learner = trainer(replace(SMALL, kimg=1.0, batch_size=20, learning_rate=0.01))
    first = [float(learner.step()["contrast"]) for _ in range(5)]
    for _ in range(40):
        learner.step()
    last = [learner.step() for _ in range(5)]
    assert np.mean([float(figures["contrast"]) for figures in last]) < 0.85 * np.mean(first)
    assert all(0 <= float(figures["found"]) <= 1 for figures in last)


def test_training_leaves_global_draws_alone_and_stops_at_lost_numbers() -> None:
    before = torch.random.get_rng_state()
    learner = trainer()
    learner.step()
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        learner.network.fc.bias.fill_(float("nan"))
    weights = {name: tensor.clone() for name, tensor in learner.network.named_parameters()}
    with pytest.raises(FloatingPointError, match="not finite after 8 images"):
        learner.step()
    assert all(torch.equal(t, weights[n]) for n, t in learner.network.named_parameters() if n != "fc.bias")


def test_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(CPU)
    processes.world = 2
    with pytest.raises(UserInputError, match="without torchrun"):
        EmbedderTrainer(SMALL, trainer().batches, processes)


def labels_of(faces: Faces, path: Path) -> Path:
    lines = [
        f"{key},{'p' + key[-6] if key.startswith('ann') else ''},{key[:3]},{i % 3}" for i, key in enumerate(faces.keys)
    ]
    path.write_text("file,who,class,kind\n" + "\n".join(lines) + "\n")
    return path


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(
        SMALL, identity="who", groups=("class",), attributes=("kind",), generator=str(faces.model), kimg=0.048
    )
    options = {"labels": labels_of(faces, tmp_path / "labels.csv")}
    whole = train_embedder(faces.root, tmp_path / "whole", config, CPU, **options)
    step, count = EmbedderTrainer.step, 0

    def killed(self: EmbedderTrainer) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == 4:
            raise SystemExit("killed")
        return step(self)

    monkeypatch.setattr(EmbedderTrainer, "step", killed)
    with pytest.raises(SystemExit):
        train_embedder(faces.root, tmp_path / "killed", config, CPU, **options)
    monkeypatch.setattr(EmbedderTrainer, "step", step)
    with pytest.raises(UserInputError, match="holds a run already; continue it with --resume"):
        train_embedder(faces.root, tmp_path / "killed", config, CPU, **options)
    with pytest.raises(CheckpointError, match=r"made with other settings \(temperature"):
        train_embedder(faces.root, tmp_path / "killed", replace(config, temperature=0.5), CPU, resume=True, **options)
    gone_on = train_embedder(faces.root, tmp_path / "killed", config, CPU, resume=True, **options)
    assert gone_on["sha256"] == whole["sha256"]
    mine, theirs = (
        dict(leaves(torch.load(tmp_path / run / "checkpoint.pt", weights_only=True))) for run in ("whole", "killed")
    )
    assert mine.keys() == theirs.keys()
    assert sum(isinstance(value, Tensor) for value in mine.values()) > 60  # weights, batch norms, moments
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name
    described = checkpoints.read_metadata(tmp_path / "whole/embedder.safetensors")
    assert described["training"]["data"] == "images: 20 images"
    assert described["training"]["images_seen"] == 48
    assert str(tmp_path) not in json.dumps(described)


def test_command(tmp_path: Path, faces: Faces, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "small.json"
    values = SMALL.to_dict()
    settings.write_text(
        json.dumps({n: values[n] for n in ("resolution", "channels", "embedding_dim", "snapshot_kimg")})
    )
    out = tmp_path / "run"
    base = ["train-embedder", "--data", faces.root, "--out", out, "--config", settings, "--batch-size", 8]
    base += ["--labels", labels_of(faces, tmp_path / "labels.csv"), "--template", "ffhq", "--held-out", faces.root]

    def call(*more: object) -> tuple[int, str]:
        status = main([str(a) for a in (*base, *more)])
        out, err = capsys.readouterr()
        return status, out + err

    length = ("--kimg", 0.016, "--groups", "class", "--attributes", "kind", "--licence", "drawn here")
    status, printed = call(*length, "--json", tmp_path / "figures.json")
    assert status == 0, printed
    figures = json.loads((tmp_path / "figures.json").read_text())
    embedder = load_embedder(out / "embedder.safetensors")
    assert embedder.template == "ffhq"
    assert embedder.threshold == pytest.approx(figures["threshold"], abs=1e-4)
    assert embedder.attribute_classes == {"kind": ("0", "1", "2")}
    assert figures["impostor_pairs"] == 2 * (11 * 10 // 2)  # two classes of eleven held-out photos
    described = checkpoints.read_metadata(out / "embedder.safetensors")
    assert (described["licence"], described["calibration"]["data"]) == ("drawn here", "images")

    status, printed = call("--kimg", 0.024, "--resume")
    assert status == 0, printed
    assert "images_seen" in printed
    assert "24" in printed
    for more, what in (
        (length, "holds a run already"),
        (("--out", tmp_path / "new", "--groups", "nation"), "has no column nation"),
        (("--out", tmp_path / "new", "--template", "passport"), "template must be one of"),
        (("--out", tmp_path / "new", "--init", tmp_path / "nowhere.pt"), "nowhere.pt: cannot be read"),
        (("--out", tmp_path / "new", "--init", settings), "no checkpoint of an embedder"),
        (("--out", tmp_path / "new", "--generator", "faces65"), "no model 'faces65'"),
    ):
        status, printed = call(*more)
        assert (status, printed.count("\n")) == (2, 1), printed
        assert what in printed

    status, printed = call("--out", tmp_path / "second", *length, "--init", out / "checkpoint.pt")
    assert status == 0, printed


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"kimg": 0}, "kimg must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"mixed_share": 0.6}, "at most 0.5"),
        ({"hard_share": 1.5}, "hard_share must lie in 0 to 1"),
        ({"channels": (4, 4, 4, 4, 4)}, "fit no network"),
        ({"false_accept_rate": 0}, "false_accept_rate must lie between"),
        ({"batch_size": 1}, "at least 4"),
        ({"colour": 1}, "unknown setting"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, Any], what: str) -> None:
    with pytest.raises(UserInputError, match=what):
        EmbedderConfig.from_dict({**SMALL.to_dict(), **values})
    assert EmbedderConfig.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
