"""Ways of editing beside directions and mixing: closed forms, naive loops, and what each refuses."""

import dataclasses
import math
import pickle
from statistics import NormalDist

import numpy as np
import pytest
import torch

from ganaug.cache import CacheHeader, LatentCache, Record
from ganaug.edits import Direction, build_edits
from ganaug.edits.arithmetic import Arithmetic
from ganaug.edits.interpolate import Interpolate
from ganaug.edits.part_jitter import NUM_AXES, PartJitter
from ganaug.edits.resample import MAX_SEED, Resample
from ganaug.edits.target import Gauge, Target, aim, parse_target
from ganaug.generators import VAE, LatentPrior, StyleGAN2, StyleGAN2Config, VAEConfig
from ganaug.generators.semantic import SemanticStyleGAN, SemanticStyleGANConfig
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, LatentSpec, UserInputError
from ganaug.policy import AugmentationPolicy
from ganaug.rng import uniforms, uniforms_of

SHAPE = (6, 5)


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform_rows(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, NUM_EDIT_UNIFORMS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def style_gan(c_dim: int = 0) -> StyleGAN2:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return StyleGAN2(StyleGAN2Config(16, 7, 5, 2, (4, 4, 4), c_dim=c_dim)).eval().requires_grad_(False)


def with_prior() -> StyleGAN2:
    generator = style_gan()
    generator.prior = LatentPrior.fit(2.0 + seeded(200, *SHAPE) * torch.linspace(0.2, 3.0, 30).reshape(SHAPE), 20)
    return generator


def up(std: float = 0.5) -> Direction:
    """Along the first number of the first row."""
    axis = torch.zeros(SHAPE)
    axis[0, 0] = 1.0
    return Direction("up", axis, std, range(SHAPE[0]), {"age"}, (1.0, 4.0))


def gauge(slope: float, bias: float, link: str = "identity") -> Gauge:
    weights = torch.zeros(SHAPE)
    weights[0, 0] = slope
    return Gauge(weights, bias, link)  # type: ignore[arg-type]


def every_mechanism() -> dict[str, tuple[Edit, int]]:
    """Edits of every kind, and the labels that their generator knows."""
    generator, conditional = with_prior(), style_gan(c_dim=3)
    return {
        "interpolate": (Interpolate(), 0),
        "arithmetic": (Arithmetic("glasses", seeded(*SHAPE), seeded(*SHAPE, seed=1), rows=[1, 3]), 0),
        "jitter of the prior": (PartJitter.of_rows("j", generator, [4, 5], {"hair"}), 0),
        "jitter of random latents": (PartJitter.of_rows("j", style_gan(), [0], {"hair"}), 0),
        "target": (Target("age=3", up(), gauge(2.0, 1.0), (3.0, 3.0)), 0),
        "change of a probability": (Target("smile+0.2", up(), gauge(2.0, 1.0, "logistic"), (0.2, 0.2), True), 0),
        "resample of the prior": (Resample(generator), 0),
        "resample of the mapping": (Resample(style_gan()), 0),
        "resample of a class": (Resample(conditional), 3),
    }


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", every_mechanism())
def test_contract(name: str, fresh: bool) -> None:
    edit, classes = every_mechanism()[name]
    first = edit.apply(seeded(1, *SHAPE), row_params(edit, 1, classes))  # fills what is kept per device
    if not fresh:
        edit = pickle.loads(pickle.dumps(edit))
    assert isinstance(edit, Edit) and edit.touches
    uniform = uniform_rows(5)
    drawn = edit.sample_params(uniform)
    again = edit.sample_params(uniform[3:4])
    for key, values in drawn.items():
        assert values.shape == (5,) and values.dtype == torch.float32, "recipes hold float32 numbers, one per sample"
        assert torch.isfinite(values).all()
        assert torch.equal(values[3:4], again[key])
    params = row_params(edit, 5, classes)
    w_plus = seeded(5, *SHAPE)
    before = w_plus.clone()
    edited = edit.apply(w_plus, params)
    assert edited.shape == w_plus.shape and edited.dtype == torch.float32
    assert torch.equal(w_plus, before), "edits are pure"
    assert not torch.equal(edited, w_plus)
    assert torch.equal(edited, edit.apply(w_plus, params))
    for row in range(5):
        alone = edit.apply(w_plus[row : row + 1], {k: v[row : row + 1] for k, v in params.items()})
        assert torch.equal(edited[row : row + 1], alone), "a row depends on its own latents alone"
    assert torch.equal(edit.apply(w_plus, {**params, "strength": torch.zeros(5)}), w_plus)
    assert torch.equal(first, edit.apply(seeded(1, *SHAPE), row_params(edit, 1, classes)))


def row_params(edit: Edit, count: int, classes: int) -> dict[str, torch.Tensor]:
    params = edit.sample_params(uniform_rows(count))
    if edit.needs_partner:
        params["partner"] = seeded(count, *SHAPE, seed=9)
    if classes:
        params["label"] = torch.arange(count).remainder(classes).float()
    return params


def test_interpolate_by_hand() -> None:
    w, partner = seeded(3, *SHAPE), seeded(3, *SHAPE, seed=1)
    strength = torch.tensor([0.0, 0.25, 1.0])
    edited = Interpolate().apply(w, {"partner": partner, "strength": strength})
    for row, share in enumerate(strength.tolist()):
        np.testing.assert_allclose(edited[row], (1 - share) * w[row] + share * partner[row], atol=1e-6)
    assert "identity" in Interpolate().touches
    ends = Interpolate(strength=(0.2, 0.4)).sample_params(torch.tensor([[0.0] * 16, [0.5] * 16]))
    torch.testing.assert_close(ends["strength"], torch.tensor([0.2, 0.3]))


def test_arithmetic_by_hand() -> None:
    a, b, w = seeded(3, *SHAPE), seeded(2, *SHAPE, seed=1), seeded(2, *SHAPE, seed=2)
    edit = Arithmetic("x", a, b, rows=[0, 4], touches={"glasses"}, strength=(0.5, 1.5))
    edited = edit.apply(w, {"strength": torch.tensor([1.0, -2.0])})
    expected = w.clone()
    for n, strength in enumerate((1.0, -2.0)):
        for row in (0, 4):
            expected[n, row] += strength * (a[:, row].mean(dim=0) - b[:, row].mean(dim=0))
    torch.testing.assert_close(edited, expected)
    assert edit.sample_params(torch.full((1, 16), 0.5))["strength"].item() == 1.0
    assert edit.touches == {"glasses"}


def test_arithmetic_of_faces_in_a_cache(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = LatentSpec("w_plus", *SHAPE)
    latents = seeded(3, 2, *SHAPE).numpy().astype(np.float16)
    header = CacheHeader("g", "0" * 64, spec, {"mode": "center"}, {"name": "x"}, anchored=True)
    cache = LatentCache.create(tmp_path / "c.lmdb", header)
    cache.put_many(
        [
            Record(f"{n}.png", latents[n], {"mse": 0.0, "psnr": 1.0, "ssim": 1.0}, np.eye(2, 3), "0" * 64)
            for n in range(3)
        ]
    )
    edit = Arithmetic("x", "2.png", ["0.png", "1.png"], cache=cache)
    anchors = torch.from_numpy(latents[:, 1]).float()
    torch.testing.assert_close(edit.difference, anchors[2] - (anchors[0] + anchors[1]) / 2)
    with pytest.raises(UserInputError, match=r"has no face 'none\.png'"):
        Arithmetic("x", "none.png", "1.png", cache=cache)
    with pytest.raises(UserInputError, match="no cache="):
        Arithmetic("x", "2.png", "1.png")
    with pytest.raises(UserInputError, match="do not differ"):
        Arithmetic("x", "2.png", "2.png", cache=cache)
    cache.close()


def test_arithmetic_refuses() -> None:
    a = seeded(*SHAPE)
    for b, rows, message in (
        (seeded(5, 5), None, r"a has shape \(6, 5\), but b \(5, 5\)"),
        (seeded(3), None, r"latents \(L, D\)"),
        (torch.zeros(SHAPE), [6], "expected some of 0 to 5"),
        (torch.zeros(SHAPE), [], "expected some of 0 to 5"),
        (a * math.nan, None, "not finite"),
    ):
        with pytest.raises(UserInputError, match=message):
            Arithmetic("x", a, b, rows)


def test_jitter_equals_a_naive_loop() -> None:
    """Each coordinate in standard deviations becomes sqrt(1 - s^2) c + s n; all else stays."""
    edit = PartJitter.of_rows("j", with_prior(), [1, 2], {"hair"})
    w = 2.0 + seeded(4, *SHAPE, seed=3)
    params = edit.sample_params(uniform_rows(4, seed=5))
    edited = edit.apply(w, params)
    assert torch.equal(edited[:, [0, 3, 4, 5]], w[:, [0, 3, 4, 5]])
    axes, mean = edit.axes.double().numpy(), edit.mean.double().numpy()
    for row in range(4):
        s = params["strength"][row].item()
        expected = w[row].double().numpy().copy()
        for k, std in enumerate(edit.std.tolist()):
            c = ((w[row].double().numpy() - mean) * axes[k]).sum() / std
            wanted = math.sqrt(1 - s * s) * c + s * params[f"n{k}"][row].item()
            expected += (wanted - c) * std * axes[k]
        np.testing.assert_allclose(edited[row], expected, atol=2e-5)


def test_normal_numbers_are_those_of_the_uniform_ones() -> None:
    edit = PartJitter.of_rows("j", with_prior(), [0, 1, 2, 3], {"hair"}, strength=(0.2, 0.6))
    assert len(edit.std) == NUM_AXES
    uniform = uniform_rows(3)
    params = edit.sample_params(uniform)
    assert set(params) == {"strength", *(f"n{k}" for k in range(NUM_AXES))}
    for row in range(3):
        expected = [NormalDist().inv_cdf(u) for u in uniform[row, 1:].tolist()]
        np.testing.assert_allclose([params[f"n{k}"][row] for k in range(NUM_AXES)], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(params["strength"], (0.2 + 0.4 * uniform[:, 0]).float())
    ends = edit.sample_params(torch.tensor([[0.0] * 16, [1.0 - 2.0**-53] * 16], dtype=torch.float64))
    assert all(torch.isfinite(values).all() for values in ends.values())


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_jitter_keeps_the_distribution(strength: float) -> None:
    """What comes from the prior is as the prior after it, whatever the strength; numpy's covariance tells."""
    generator = with_prior()
    assert generator.prior is not None
    edit = PartJitter.of_rows("j", generator, [4, 5], {"hair"})
    codes = generator.prior.sample(4000, torch.Generator().manual_seed(1))
    params = {**edit.sample_params(uniform_rows(4000, seed=2)), "strength": torch.full((4000,), strength)}
    edited = edit.apply(codes, params)
    before, after = (np.cov(x[:, 4:].flatten(1).numpy().T) for x in (codes, edited))
    np.testing.assert_allclose(after, before, atol=0.08 * before.max())
    moved = np.corrcoef(codes[:, 5, 4], edited[:, 5, 4])[0, 1]
    assert abs(moved - math.sqrt(1 - strength**2)) < 0.08


def test_axes_are_the_principal_components_of_the_rows() -> None:
    """Of the covariance that prior and rows have, by numpy; and of random latents where there is no prior."""
    generator = with_prior()
    prior = generator.prior
    assert prior is not None
    edit = PartJitter.of_rows("j", generator, [3, 5], {"hair"})
    part = (prior.components * prior.std[:, None, None])[:, [3, 5]].flatten(1).double().numpy()
    values, vectors = np.linalg.eigh(part.T @ part)
    np.testing.assert_allclose(edit.std.numpy() ** 2, values[::-1][: len(edit.std)], rtol=1e-4)
    cosines = (edit.axes[:, [3, 5]].flatten(1).numpy() * vectors.T[::-1][: len(edit.std)]).sum(axis=1)
    np.testing.assert_allclose(np.abs(cosines), 1.0, atol=1e-4)
    assert not edit.axes[:, [0, 1, 2, 4]].any()

    free = PartJitter.of_rows("j", style_gan(), [2, 3], {"hair"})
    assert torch.equal(free.axes[:, 2], free.axes[:, 3]), "rows of one w move together"
    np.testing.assert_allclose(free.axes.flatten(1) @ free.axes.flatten(1).T, np.eye(5), atol=1e-5)
    w = style_gan().mapping(seeded(4096, 7, seed=4))[:, 2:4].flatten(1).numpy()
    np.testing.assert_allclose(free.std, np.sqrt(np.linalg.eigvalsh(np.cov(w.T))[::-1][:5]), rtol=0.1)


def test_jitter_refuses() -> None:
    mean, axes = torch.zeros(SHAPE), torch.zeros(2, *SHAPE)
    with pytest.raises(UserInputError, match=r"within \[0, 1\], got \(0.5, 1.5\)"):
        PartJitter("j", [0], mean, axes, torch.ones(2), {"hair"}, (0.5, 1.5))
    with pytest.raises(UserInputError, match="expected 1 to 15 axes"):
        PartJitter("j", [0], mean, torch.zeros(16, *SHAPE), torch.ones(16), {"hair"})


def test_target_reaches_the_score() -> None:
    edit = Target("age=60", up(), gauge(slope=8.0, bias=40.0), (60.0, 60.0), limit=99.0)
    w = seeded(5, *SHAPE)
    edited = edit.apply(w, edit.sample_params(uniform_rows(5)))
    np.testing.assert_allclose(8.0 * edited[:, 0, 0] + 40.0, 60.0, rtol=1e-6)
    half = edit.apply(w, {"value": torch.full((5,), 60.0), "strength": torch.full((5,), 0.5)})
    torch.testing.assert_close(half, (w + edited) / 2)
    edited[:, 0, 0] = w[:, 0, 0]
    assert torch.equal(edited, w), "it moves along its direction alone"


def test_target_against_a_direction_that_lowers_the_score() -> None:
    edit = Target("age=1", up(), gauge(slope=-3.0, bias=0.5), (1.0, 1.0), limit=99.0)
    edited = edit.apply(seeded(4, *SHAPE), edit.sample_params(uniform_rows(4)))
    np.testing.assert_allclose(-3.0 * edited[:, 0, 0] + 0.5, 1.0, rtol=1e-5)


def test_target_stops_at_its_limit() -> None:
    w = torch.zeros(2, *SHAPE)
    w[1, 0, 0] = 5.0
    edit = Target("age=10", up(std=0.5), gauge(slope=2.0, bias=0.0), (10.0, 10.0), limit=3.0)
    edited = edit.apply(w, edit.sample_params(uniform_rows(2)))
    assert edited[:, 0, 0].tolist() == [1.5, 5.0], "three deviations of 0.5; and none where it is there already"
    assert Target("age=10", up(), gauge(2.0, 0.0), (10.0, 10.0)).limit == 4.0, "default: the direction's own"


def test_relative_target() -> None:
    w = seeded(4, *SHAPE)
    edit = Target("age-5", up(), gauge(slope=4.0, bias=30.0), (-5.0, -5.0), relative=True, limit=99.0)
    edited = edit.apply(w, edit.sample_params(uniform_rows(4)))
    np.testing.assert_allclose(edited[:, 0, 0], w[:, 0, 0] - 5.0 / 4.0, rtol=1e-5)


def test_targets_of_probabilities() -> None:
    w, read = seeded(6, *SHAPE), gauge(slope=1.5, bias=-0.25, link="logistic")

    def probability(codes: torch.Tensor) -> np.ndarray:
        return 1 / (1 + np.exp(-(1.5 * codes[:, 0, 0].double().numpy() - 0.25)))

    np.testing.assert_allclose(read(w), probability(w), rtol=1e-5)
    absolute = Target("smile=0.8", up(), read, (0.8, 0.8), limit=99.0)
    edited = absolute.apply(w, absolute.sample_params(uniform_rows(6)))
    np.testing.assert_allclose(probability(edited), 0.8, rtol=1e-5)
    relative = Target("smile+0.1", up(), read, (0.1, 0.1), relative=True, limit=99.0)
    edited = relative.apply(w, relative.sample_params(uniform_rows(6)))
    np.testing.assert_allclose(probability(edited), np.minimum(probability(w) + 0.1, 0.99), rtol=1e-4)
    certain = Target("smile=1", up(), read, (1.0, 1.0), limit=99.0)
    edited = certain.apply(w, certain.sample_params(uniform_rows(6)))
    np.testing.assert_allclose(probability(edited), 0.99, rtol=1e-4)


def test_range_of_a_target() -> None:
    edit = Target("age=20..60", up(), gauge(8.0, 40.0), (20.0, 60.0))
    assert edit.sample_params(torch.tensor([[0.0] * 16, [0.25] * 16]))["value"].tolist() == [20.0, 30.0]


def test_readings_end_where_the_labels_did() -> None:
    read = dataclasses.replace(gauge(slope=8.0, bias=40.0), range=(1.0, 75.0))
    w = torch.zeros(3, *SHAPE)
    w[:, 0, 0] = torch.tensor([-100.0, 1.0, 100.0])
    assert read(w).tolist() == [1.0, 48.0, 75.0]
    with pytest.raises(UserInputError, match="'age=900': the score was measured between 1 and 75 only"):
        Target("age=900", up(), read, (900.0, 900.0))
    Target("age+40", up(), read, (40.0, 40.0), relative=True)  # a change is no amount


def test_target_refuses() -> None:
    for value, read, message in (
        ((math.nan, 1.0), gauge(1.0, 0.0), "finite"),
        ((2.0, 1.0), gauge(1.0, 0.0), "ascending"),
        ((0.5, 1.5), gauge(1.0, 0.0, "logistic"), "between 0 and 1"),
        ((1.0, 1.0), gauge(0.0, 1.0), "does not change along the direction 'up'"),
    ):
        with pytest.raises(UserInputError, match=message):
            Target("t", up(), read, value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age=60", ("age", (60.0, 60.0), False)),
        ("smile=.8", ("smile", (0.8, 0.8), False)),
        ("pose=-20", ("pose", (-20.0, -20.0), False)),
        ("age+10", ("age", (10.0, 10.0), True)),
        ("age-10", ("age", (-10.0, -10.0), True)),
        ("age=20..60", ("age", (20.0, 60.0), False)),
        ("age-5..10", ("age", (-10.0, -5.0), True)),
        ("age = 60", ("age", (60.0, 60.0), False)),
    ],
)
def test_names_of_targets(text: str, expected: tuple[str, tuple[float, float], bool]) -> None:
    found = parse_target(text)
    assert found is not None and (found.base, found.value, found.relative, found.text) == (*expected, text)


@pytest.mark.parametrize(
    "text", ["age", "pca1", "age=", "age=sixty", "=60", "age=1e5", "age=1..", "stylegan2-ffhq", "9=9"]
)
def test_names_that_are_no_targets(text: str) -> None:
    assert parse_target(text) is None


def test_aiming() -> None:
    asked = parse_target("up=3")
    assert asked is not None
    with pytest.raises(UserInputError, match="'up' has no calibration"):
        aim(asked, up())
    with pytest.raises(UserInputError, match="'up' is no single direction"):
        aim(asked, Interpolate("up"))
    direction = up()
    direction.calibration = gauge(2.0, 1.0)
    target = aim(asked, direction)
    assert (target.name, target.value, target.touches) == ("up=3", (3.0, 3.0), {"age"})


def test_numbers_made_on_the_device_are_the_keyed_ones() -> None:
    keys = np.array([0, 1, 2**24 - 1, 2**62 + 12345], np.int64)
    assert np.array_equal(uniforms_of(torch.from_numpy(keys), "z", 33).numpy(), uniforms(0, 0, keys, "z", 33))


def test_resample_draws_from_the_prior() -> None:
    generator = with_prior()
    assert generator.prior is not None
    edit = Resample(generator, truncation_psi=0.5)
    seeds = torch.tensor([0.0, 5.0, MAX_SEED - 1.0])
    edited = edit.apply(seeded(3, *SHAPE), {"seed": seeds, "strength": torch.ones(3)})
    for row, seed in enumerate((0, 5, 2**24 - 1)):
        z = [NormalDist().inv_cdf(u) for u in uniforms(0, 0, [seed], "resample", len(generator.prior.std))[0].tolist()]
        parts = [
            n * std * axis for n, std, axis in zip(z, generator.prior.std, generator.prior.components, strict=True)
        ]
        expected = generator.prior.mean + 0.5 * torch.stack(parts).sum(dim=0)
        torch.testing.assert_close(edited[row], expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [None, [2, 0, 1]])
def test_resample_keeps_the_label(classes: list[int] | None) -> None:
    generator = style_gan(c_dim=3)
    edit = Resample(generator, classes=classes, truncation_psi=0.7)
    assert edit.needs_label and edit.num_labels == 3
    labels = torch.tensor([0.0, 2.0, 1.0, 2.0])
    params = edit.sample_params(uniform_rows(4)) | {"label": labels}
    edited = edit.apply(seeded(4, *SHAPE), params)
    for row, label in enumerate((0, 2, 1, 2)):
        numbers = uniforms(0, 0, [int(params["seed"][row])], "resample", 7)[0]
        z = torch.tensor([[NormalDist().inv_cdf(u) for u in numbers.tolist()]])
        condition = torch.eye(3)[[label if classes is None else classes[label]]]
        torch.testing.assert_close(edited[row], generator.mapping(z, condition, 0.7)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserInputError, match="needs the labels"):
        edit.apply(seeded(4, *SHAPE), edit.sample_params(uniform_rows(4)))


def test_seeds_are_whole_numbers_that_float32_holds() -> None:
    edge = torch.tensor([[0.0] * 16, [1.0 - 2.0**-53] * 16], dtype=torch.float64)
    seeds = Resample(style_gan()).sample_params(torch.cat([edge, uniform_rows(1000)]))["seed"]
    assert seeds[:2].tolist() == [0.0, 2.0**24 - 1]
    assert torch.equal(seeds, seeds.round()) and len(seeds.unique()) > 990


def test_resample_of_a_generator_that_maps_otherwise() -> None:
    vae = VAE(VAEConfig(16, 4, (8, 8, 8))).eval().requires_grad_(False)
    edit = Resample(vae, truncation_psi=1.0)
    edited = edit.apply(seeded(2, 6, 4), {"seed": torch.tensor([3.0, 4.0]), "strength": torch.ones(2)})
    numbers = uniforms(0, 0, [3], "resample", vae.z_dim)[0].tolist()
    expected = vae.mapping(torch.tensor([[NormalDist().inv_cdf(u) for u in numbers]]))
    torch.testing.assert_close(edited[:1], expected.float(), rtol=1e-4, atol=1e-5)
    assert "synthesis_network" not in dict(edit.mapper.named_children()), "what draws pictures is not kept twice"  # type: ignore[union-attr]
    assert vae.synthesis_network is not None


def test_resample_is_refused_where_the_person_is_to_stay() -> None:
    for edit in (Resample(style_gan()), Interpolate(), Arithmetic("x", seeded(*SHAPE), seeded(*SHAPE, seed=1))):
        assert {"identity", "gender", "age", "hair", "pose", "lighting", "background"} <= edit.touches
        with pytest.raises(UserInputError, match="touches identity, which preserve"):
            AugmentationPolicy(1.0, [edit], ["identity"])
    with pytest.raises(UserInputError, match=r"classes \[3\], but this generator has 3"):
        Resample(style_gan(c_dim=3), classes=[3])
    with pytest.raises(UserInputError, match=r"classes \[0\], but this generator has 0"):
        Resample(style_gan(), classes=[0])
    with pytest.raises(UserInputError, match="takes 2 labels at once"):
        Resample(_TwoLabels())  # type: ignore[arg-type]


class _TwoLabels:
    label_sizes = (2, 3)
    z_dim = 4
    prior = None


def test_mechanisms_by_name() -> None:
    parts = SemanticStyleGAN(SemanticStyleGANConfig(16, 10, 2, 13, 3, 1, 2, 4, 8, 6, (6, 6)))
    jitter, other, anybody = build_edits(["jitter_hair", "interpolate", "resample"], parts)
    assert isinstance(jitter, PartJitter) and jitter.rows == parts.latent_spec.parts["hair"]
    assert jitter.touches == build_edits(["hair"], parts)[0].touches
    assert isinstance(other, Interpolate) and isinstance(anybody, Resample)
    (fine,) = build_edits(["jitter_fine"], style_gan())
    assert isinstance(fine, PartJitter) and fine.rows == (4, 5)
    with pytest.raises(UserInputError, match="jitter_hair"):
        build_edits(["jitter_hair"], style_gan())
