"""What the policy draws, against binomial bounds and exact counts."""

import dataclasses
import hashlib
import itertools
import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganaug.classical import ClassicalAugmentation
from ganaug.edits import Direction, StyleMixing
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, UserInputError
from ganaug.partners import PartnerPool
from ganaug.policy import AugmentationPolicy
from ganaug.provenance import BatchRecipe, Source
from ganaug.rng import hash_text
from ganaug.schedules import curriculum, linear_ratio, step_ratio
from ganaug.strengths import Constant, Normal, Uniform
from ganaug.traits import Traits

MIX = StyleMixing("mix", [0], {"lighting"})
OTHER = StyleMixing("other", [1], {"hair"})
UP = Direction("up", torch.tensor([1.0, 0.0]), 1.0, [0], {"age"})
FOUR = [MIX, OTHER, UP, Direction("left", torch.tensor([0.0, 1.0]), 1.0, [0], {"pose"})]


def assert_frequency(hits: int, trials: int, p: float, alpha: float = 1e-6) -> None:
    """Within the two-sided normal bound of the binomial distribution, with continuity correction."""
    z = NormalDist().inv_cdf(1 - alpha / 2)
    assert abs(hits - trials * p) <= z * math.sqrt(trials * p * (1 - p)) + 0.5, (hits / trials, p)


class Faces:
    """``count`` made-up keys, and the draws of policies over them."""

    def __init__(
        self, count: int, has_latent: NDArray[np.bool_] | None = None, groups: Sequence[int] | None = None
    ) -> None:
        self.keys = [f"face {i}" for i in range(count)]
        self.hashes = np.array([hash_text(key) for key in self.keys], np.int64)
        self.has_latent = np.ones(count, bool) if has_latent is None else has_latent
        self.groups = None if groups is None else np.array(groups, np.int64)
        self.pool = PartnerPool.build(self.keys, self.has_latent, self.groups)

    def draw(
        self,
        policy: AugmentationPolicy,
        epoch: int = 0,
        indices: Sequence[int] | None = None,
        classical: bool = False,
        traits: Traits | None = None,
    ) -> BatchRecipe:
        """``traits`` are those of all faces."""
        at = np.arange(len(self.keys)) if indices is None else np.array(indices, np.int64)
        keys = [self.keys[i] for i in at]
        augmentation = ClassicalAugmentation() if classical else None
        if traits is not None:
            known = {
                name: None if getattr(traits, name) is None else getattr(traits, name)[at]
                for name in ("group", "quality", "label", "variant")
            }
            traits = dataclasses.replace(traits, **known)
        return policy.draw(at, keys, self.hashes[at], epoch, self.pool, augmentation, traits=traits)


def test_hundred_thousand_draws_are_binomial() -> None:
    faces = Faces(100_000)
    recipe = faces.draw(AugmentationPolicy(0.3, [MIX]))
    assert_frequency(int(recipe.is_generated.sum()), 100_000, 0.3)
    # Successive epochs are independent: both times generated with probability 0.09.
    later = faces.draw(AugmentationPolicy(0.3, [MIX]), epoch=1)
    assert_frequency(int((recipe.is_generated & later.is_generated).sum()), 100_000, 0.09)
    million = sum(int(faces.draw(AugmentationPolicy(0.3), epoch).is_generated.sum()) for epoch in range(10))
    assert_frequency(million, 1_000_000, 0.3)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ends_are_exact(ratio: float) -> None:
    recipe = Faces(1000).draw(AugmentationPolicy(ratio, [MIX]))
    assert set(recipe.source.tolist()) == {Source.GENERATED if ratio else Source.REAL}


@pytest.mark.parametrize("max_edits", [1, 2, 3, 9])
def test_each_edit_is_chosen_equally_often(max_edits: int) -> None:
    recipe = Faces(20_000).draw(AugmentationPolicy(1.0, FOUR, max_edits=max_edits))
    most = min(max_edits, 4)
    number = recipe.active.sum(axis=1)
    for how_many in range(1, most + 1):
        assert_frequency(int((number == how_many).sum()), 20_000, 1 / most)
    assert set(number.tolist()) == set(range(1, most + 1))
    for column in range(4):  # mean of 1 .. most, of four edits
        assert_frequency(int(recipe.active[:, column].sum()), 20_000, (1 + most) / 2 / 4)


def test_partners_are_uniform_and_never_oneself() -> None:
    faces = Faces(8, has_latent=np.array([True] * 6 + [False] * 2))
    epochs = 3000
    counts: dict[str, Counter[str]] = {key: Counter() for key in faces.keys}
    for epoch in range(epochs):
        recipe = faces.draw(AugmentationPolicy(1.0, [MIX]), epoch)
        for key, partner in zip(recipe.keys, recipe.partners["mix"], strict=True):
            counts[key][partner] += 1
    for i, key in enumerate(faces.keys):
        others = {other for other in faces.keys[:6] if other != key}
        assert set(counts[key]) == others  # a face without latents may have a partner, but is never one
        for other in others:
            assert_frequency(counts[key][other], epochs, 1 / (5 if i < 6 else 6))


def test_partners_of_the_same_label() -> None:
    groups = [0, 1, 0, 1, 2, 0, 1, 0]  # face 4 is alone
    faces = Faces(8, groups=groups)
    policy = AugmentationPolicy(1.0, [MIX], preserve=["label"])
    seen = set()
    for epoch in range(200):
        recipe = faces.draw(policy, epoch)
        seen |= {(i, faces.keys.index(partner)) for i, partner in enumerate(recipe.partners["mix"])}
    expected = {(i, j) for i in range(8) for j in range(8) if groups[i] == groups[j] and (i != j or i == 4)}
    assert seen == expected


def test_a_face_listed_twice_never_meets_itself() -> None:
    keys = ["a", "b", "a", "c", "a"]
    pool = PartnerPool.build(keys, np.ones(5, bool), None)
    assert pool.keys == ["a", "b", "c"]
    uniform = np.linspace(0.0, 1.0, 200, endpoint=False)
    for index, key in enumerate(keys):
        drawn = Counter(pool.draw(np.full(200, index), uniform, [key] * 200))
        assert drawn == {other: 100 for other in {"a", "b", "c"} - {key}}


def test_alone_in_the_world() -> None:
    pool = PartnerPool.build(["a", "b"], np.array([True, False]), None)
    assert pool.draw(np.array([0, 1]), np.array([0.9, 0.9]), ["a", "b"]) == ["a", "a"]
    nobody = PartnerPool.build(["a", "b"], np.zeros(2, bool), None)
    assert nobody.draw(np.array([0, 1]), np.array([0.9, 0.9]), ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(("ratio", "batch"), [(0.0, 7), (0.25, 8), (0.3, 7), (0.5, 5), (0.99, 64), (1.0, 3), (0.1, 1)])
def test_exact_mode(ratio: float, batch: int) -> None:
    faces = Faces(64)
    policy = AugmentationPolicy(ratio, [MIX], mode="exact")
    for epoch in range(20):
        indices = np.random.default_rng(epoch).permutation(64)[:batch].tolist()
        assert faces.draw(policy, epoch, indices).is_generated.sum() == round(ratio * batch)


def test_exact_mode_prefers_faces_with_latents() -> None:
    has_latent = np.arange(10) % 2 == 0
    faces = Faces(10, has_latent)
    recipe = faces.draw(AugmentationPolicy(0.5, [MIX], mode="exact"))
    assert recipe.is_generated.tolist() == has_latent.tolist()
    recipe = faces.draw(AugmentationPolicy(0.7, [MIX], mode="exact"))
    assert (recipe.is_generated.sum(), (recipe.source == Source.NO_LATENT).sum()) == (5, 2)


def test_exact_mode_chooses_every_sample_equally_often() -> None:
    faces, policy = Faces(8), AugmentationPolicy(0.25, [MIX], mode="exact")
    total = sum(faces.draw(policy, epoch).is_generated.astype(int) for epoch in range(2000))
    for hits in np.asarray(total).tolist():
        assert_frequency(hits, 2000, 0.25)


def test_without_latents_the_source_says_so() -> None:
    has_latent = np.arange(1000) % 3 > 0
    recipe = Faces(1000, has_latent).draw(AugmentationPolicy(0.5, [MIX]))
    full = Faces(1000).draw(AugmentationPolicy(0.5, [MIX]))
    assert recipe.is_generated.tolist() == (full.is_generated & has_latent).tolist()
    assert (recipe.source == Source.NO_LATENT).tolist() == (full.is_generated & ~has_latent).tolist()


def test_schedules() -> None:
    policy = AugmentationPolicy(lambda epoch: [0.0, 0.4, 1.0][epoch], [MIX])
    faces = Faces(5000)
    shares = [int(faces.draw(policy, epoch).is_generated.sum()) for epoch in range(3)]
    assert shares[0] == 0 and shares[2] == 5000
    assert_frequency(shares[1], 5000, 0.4)
    schedule = linear_ratio(0.8, 0.2, num_epochs=4)
    assert [schedule(epoch) for epoch in range(6)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    # The chance of a sample does not depend on the ratio: a larger one adds samples and takes none away.
    few, many = (faces.draw(AugmentationPolicy(ratio, [MIX]), 1).is_generated for ratio in (0.2, 0.6))
    assert not (few & ~many).any()


def columns(recipe: BatchRecipe) -> dict[str, Any]:
    """Everything drawn, as plain lists."""
    return {
        "source": recipe.source.tolist(),
        "active": recipe.active.tolist(),
        "params": {name: {k: v.tolist() for k, v in p.items()} for name, p in recipe.edit_params.items()},
        "partners": recipe.partners,
        "classical": {k: v.tolist() for k, v in recipe.classical.items()},
    }


def test_other_seeds_and_epochs_draw_differently() -> None:
    faces = Faces(200)
    base = columns(faces.draw(AugmentationPolicy(0.5, FOUR), classical=True))
    assert columns(faces.draw(AugmentationPolicy(0.5, FOUR), classical=True)) == base
    for policy, epoch in ((AugmentationPolicy(0.5, FOUR, seed=1), 0), (AugmentationPolicy(0.5, FOUR), 1)):
        other = columns(faces.draw(policy, epoch, classical=True))
        assert all(other[name] != base[name] for name in base)
        assert all(other["params"][name] != base["params"][name] for name in base["params"])


def test_draws_do_not_depend_on_the_batch() -> None:
    faces, policy = Faces(50), AugmentationPolicy(0.5, FOUR)
    together = faces.draw(policy, 3, classical=True).rows()
    order = np.random.default_rng(0).permutation(50)
    for size in (1, 7, 50):
        for start in range(0, 50, size):
            indices = order[start : start + size].tolist()
            rows = faces.draw(policy, 3, indices, classical=True).rows()
            assert rows == [together[i] for i in indices]


def test_another_edit_moves_no_parameters() -> None:
    faces = Faces(100)
    two = faces.draw(AugmentationPolicy(1.0, [MIX, UP]), 2)
    four = faces.draw(AugmentationPolicy(1.0, FOUR), 2)
    for name in ("mix", "up"):
        assert torch.equal(two.edit_params[name]["strength"], four.edit_params[name]["strength"])
    assert two.partners["mix"] == four.partners["mix"]
    assert four.partners["mix"] != four.partners["other"]


class Recording:
    """An edit that keeps the uniform numbers that it is given."""

    needs_partner = False

    def __init__(self, name: str = "recording", make: Callable[[Tensor], Tensor] = lambda u: u[:, 0].float()) -> None:
        self.name, self.make, self.seen = name, make, torch.empty(0)
        self.touches: frozenset[str] = frozenset()

    def sample_params(self, uniforms: Tensor) -> dict[str, Tensor]:
        self.seen = uniforms
        return {"value": self.make(uniforms)}

    def apply(self, w_plus: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return w_plus


def test_uniforms_given_to_an_edit() -> None:
    edit = Recording()
    assert isinstance(edit, Edit)
    Faces(4000).draw(AugmentationPolicy(1.0, [edit]))
    assert edit.seen.shape == (4000, NUM_EDIT_UNIFORMS)
    assert bool(((edit.seen >= 0) & (edit.seen < 1)).all())
    correlation = torch.corrcoef(edit.seen.t()) - torch.eye(NUM_EDIT_UNIFORMS)
    assert float(correlation.abs().max()) < NormalDist().inv_cdf(1 - 1e-8) / 4000**0.5


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda u: u[:, 0], "torch.float64 of shape"),
        (lambda u: u[:, :2].float(), r"shape \(5, 2\)"),
        (lambda u: (u[:, 0] * 9).long(), "torch.int64"),
    ],
)
def test_parameters_that_a_recipe_cannot_hold(make: Callable[[Tensor], Tensor], got: str) -> None:
    with pytest.raises(UserInputError, match=rf"'value' of edit 'odd' must be float32 of shape \(5,\), got .*{got}"):
        Faces(5).draw(AugmentationPolicy(1.0, [Recording("odd", make)]))


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan"), float("inf"), "0.5", "half", None, [0.5]])
def test_ratios_that_are_none(ratio: Any) -> None:
    with pytest.raises(UserInputError, match="ratio"):
        AugmentationPolicy(ratio, [MIX])
    policy = AugmentationPolicy(lambda epoch: ratio, [MIX])
    with pytest.raises(UserInputError, match="ratio"):
        policy.ratio_at(0)
    with pytest.raises(UserInputError, match="ratio"):
        linear_ratio(0.0, ratio, 3)


def test_preserve() -> None:
    with pytest.raises(UserInputError, match="'other' touches hair, which preserve=\\['hair', 'label'\\] forbids"):
        AugmentationPolicy(0.5, [MIX, OTHER], preserve=["hair", "label"])
    assert AugmentationPolicy(0.5, [MIX], preserve=["hair", "label"]).preserve == ["hair", "label"]
    with pytest.raises(UserInputError, match="got the string 'hair'"):
        AugmentationPolicy(0.5, [MIX], preserve="hair")


@pytest.mark.parametrize("options", [{"mode": "sometimes"}, {"max_edits": 0}])
def test_other_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(UserInputError, match=next(iter(options))):
        AugmentationPolicy(0.5, [MIX], **options)


def test_may_generate() -> None:
    assert not AugmentationPolicy(0.0, [MIX]).may_generate
    assert AugmentationPolicy(0.1, [MIX]).may_generate
    assert AugmentationPolicy(lambda epoch: 0.0, [MIX]).may_generate


# ------------------------------------------------------------------------------------- draws do not move


def test_draws_of_earlier_versions() -> None:
    """Literal values of the first release: a recipe that somebody kept must still be drawn."""
    recipe = Faces(8).draw(AugmentationPolicy(0.5, FOUR, seed=11), 3)
    assert recipe.source.tolist() == [1, 0, 1, 1, 1, 0, 1, 0]
    active = ["".join(str(int(v)) for v in row) for row in recipe.active]
    assert active == ["0010", "0000", "0011", "0100", "1010", "0000", "0100", "0000"]
    strengths = {name: params["strength"][:3].tolist() for name, params in recipe.edit_params.items()}
    assert strengths == {
        "mix": [0.6925594210624695, 0.5610464811325073, 0.41708144545555115],
        "other": [0.4088488519191742, 0.644116997718811, 0.7679016590118408],
        "up": [-2.441117286682129, 2.442368745803833, -2.2959372997283936],
        "left": [1.464595079421997, 1.613086462020874, 1.7244534492492676],
    }
    assert recipe.partners == {
        "mix": [f"face {i}" for i in (2, 0, 7, 2, 1, 6, 2, 3)],
        "other": [f"face {i}" for i in (1, 4, 0, 5, 7, 4, 2, 0)],
    }


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "61a8a88ae338c441"),
        ({"mode": "exact"}, "9267ec357e022b42"),
        ({"max_edits": 4}, "13e8590adb5d7e37"),
        ({"max_edits": 1, "seed": 5}, "952ac999b8d08872"),
    ],
)
def test_five_thousand_draws_of_earlier_versions(options: dict[str, Any], digest: str) -> None:
    at = np.arange(5000)
    faces = Faces(5000, has_latent=at % 7 > 0, groups=(at % 3).tolist())
    neutral = {
        "edit_ratios": {name: 2.5 for name in ("mix", "other", "up", "left")},
        "strength_schedule": step_ratio({0: 1.0}),
        "quality_weight": ("ssim", 0.1, 0.2),
    }
    same_for_all = {"ratio": {"a": 0.4, "b": 0.4}}
    traits = Traits(group=at % 2, group_names=["a", "b"], quality=np.ones(5000))
    for more in ({}, neutral, {**neutral, **same_for_all}):
        policy = AugmentationPolicy(**{"ratio": 0.4, "edits": FOUR, **options, **more})
        drawn = columns(faces.draw(policy, 2, traits=traits))
        assert drawn.pop("classical") == {}
        assert hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16] == digest


# ----------------------------------------------------------------------------------- ratios of edits


def inclusion(weights: Sequence[float], how_many: int) -> list[float]:
    """Chance of each to be among ``how_many``, drawn one after the other in proportion to the weights of those left."""
    found = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), how_many):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        for i in order:
            found[i] += chance
    return found


@pytest.mark.parametrize("max_edits", [1, 2, 3])
def test_edit_ratios(max_edits: int) -> None:
    weights = {"mix": 3.0, "other": 0.5, "left": 2.0}  # the one not named has 1
    policy = AugmentationPolicy(1.0, FOUR, max_edits=max_edits, edit_ratios=weights)
    active = Faces(20_000).draw(policy).active
    number = active.sum(axis=1)
    for how_many in range(1, max_edits + 1):
        of_these = active[number == how_many]
        assert_frequency(len(of_these), 20_000, 1 / max_edits)
        for column, chance in enumerate(inclusion([3.0, 0.5, 1.0, 2.0], how_many)):
            assert_frequency(int(of_these[:, column].sum()), len(of_these), chance)


def test_an_edit_of_ratio_zero_is_never_drawn() -> None:
    faces = Faces(3000)
    recipe = faces.draw(AugmentationPolicy(1.0, FOUR, max_edits=4, edit_ratios={"other": 0, "up": 0.0}))
    assert not recipe.active[:, 1:3].any()
    assert set(recipe.active.sum(axis=1).tolist()) == {1, 2}
    # It costs nothing: no partner is read for it.
    assert set(recipe.edit_params) == {"mix", "left"} and set(recipe.partners) == {"mix"}
    rows = recipe.rows()
    assert {edit.name for row in rows for edit in row.edits} == {"mix", "left"}
    # Those that are left are drawn as ever.
    plain = faces.draw(AugmentationPolicy(1.0, FOUR))
    assert torch.equal(recipe.edit_params["mix"]["strength"], plain.edit_params["mix"]["strength"])
    alone = faces.draw(AugmentationPolicy(1.0, FOUR, edit_ratios={"mix": 0, "other": 0, "up": 0})).active
    assert alone.tolist() == [[False, False, False, True]] * 3000


def test_weighted_choices_do_not_depend_on_the_batch() -> None:
    faces = Faces(50)
    policy = AugmentationPolicy(
        {"a": 0.2, "b": 0.9},
        FOUR,
        edit_ratios={"mix": 5, "up": 0.1},
        strengths={"mix": Normal(0.5, 0.1, 0.2, 0.9), "up": (0.5, 1.0)},
        strength_schedule=curriculum(5),
        quality_weight=("ssim", 0.2, 0.8),
    )
    traits = Traits(np.arange(50) % 2, ("a", "b"), np.linspace(0, 1, 50), variant=np.arange(50) % 3)
    together = faces.draw(policy, 3, classical=True, traits=traits).rows()
    assert {row.is_generated for row in together} == {True, False}
    order = np.random.default_rng(0).permutation(50)
    for size in (1, 7, 50):
        for start in range(0, 50, size):
            indices = order[start : start + size].tolist()
            rows = faces.draw(policy, 3, indices, classical=True, traits=traits).rows()
            assert rows == [together[i] for i in indices]


# ---------------------------------------------------------------------------------------- strengths


def strengths_of(recipe: BatchRecipe, name: str) -> NDArray[np.float64]:
    return recipe.edit_params[name]["strength"].double().numpy()


def test_strengths() -> None:
    stats = pytest.importorskip("scipy.stats")
    faces = Faces(20_000)
    plain = faces.draw(AugmentationPolicy(1.0, FOUR))
    ours = faces.draw(
        AugmentationPolicy(1.0, FOUR, strengths={"mix": Normal(0.5, 0.2, 0.1, 0.8), "up": (3, 4), "left": Constant(2)})
    )
    ends = [(end - 0.5) / 0.2 for end in (0.1, 0.8)]
    assert stats.kstest(strengths_of(ours, "mix"), stats.truncnorm(*ends, loc=0.5, scale=0.2).cdf).pvalue > 1e-4
    up = strengths_of(ours, "up")
    assert stats.kstest(np.abs(up), stats.uniform(3, 1).cdf).pvalue > 1e-4
    # The sign is what the edit draws by itself; magnitude and sign are independent.
    assert (np.sign(up) == np.sign(strengths_of(plain, "up"))).all()
    assert_frequency(int((up[np.abs(up) > 3.5] > 0).sum()), int((np.abs(up) > 3.5).sum()), 0.5)
    assert set(strengths_of(ours, "left").tolist()) == {-2.0, 2.0}
    # An option of one edit moves nothing of another, nor who is generated with what.
    assert torch.equal(ours.edit_params["other"]["strength"], plain.edit_params["other"]["strength"])
    assert ours.partners == plain.partners and ours.active.tolist() == plain.active.tolist()
    one_way = faces.draw(AugmentationPolicy(1.0, FOUR, strengths={"up": Uniform(3, 4, signed=True)}))
    assert np.array_equal(strengths_of(one_way, "up"), np.abs(up))


def test_strength_schedules() -> None:
    faces = Faces(500)
    plain = faces.draw(AugmentationPolicy(0.7, FOUR), 1)
    ours = faces.draw(AugmentationPolicy(0.7, FOUR, strength_schedule=curriculum(3, weakest=0.5)), 1)
    for name in ("mix", "other", "up", "left"):
        assert torch.equal(ours.edit_params[name]["strength"], plain.edit_params[name]["strength"] * 0.75)
    assert ours.source.tolist() == plain.source.tolist() and ours.partners == plain.partners
    constant = {"strengths": {"up": Constant(2.0)}, "strength_schedule": lambda epoch: 0.25}
    assert set(np.abs(strengths_of(faces.draw(AugmentationPolicy(0.7, FOUR, **constant)), "up")).tolist()) == {0.5}
    # An edit without a strength is left alone.
    odd = Recording()
    assert "strength" not in faces.draw(AugmentationPolicy(1.0, [odd], strength_schedule=curriculum(3))).edit_params


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), None, "1", True])
def test_strength_schedules_that_are_refused(value: Any) -> None:
    policy = AugmentationPolicy(0.5, FOUR, strength_schedule=lambda epoch: value)
    with pytest.raises(UserInputError, match="strength_schedule must return a finite number of at least 0, got"):
        Faces(20).draw(policy)


# -------------------------------------------------------------------------- ratios of groups, quality


def test_ratios_by_group() -> None:
    faces = Faces(30_000)
    group = np.random.default_rng(0).integers(0, 3, 30_000)
    traits = Traits(group=group, group_names=("Black", "White", "Indian"))
    ratio = {"Black": 0.8, "White": linear_ratio(0.0, 0.3, 2), "Indian": 0.0, "nobody": 1.0}
    policy = AugmentationPolicy(ratio, [MIX])
    for epoch, expected in ((0, (0.8, 0.0, 0.0)), (1, (0.8, 0.3, 0.0))):
        generated = faces.draw(policy, epoch, traits=traits).is_generated
        for number, share in enumerate(expected):
            assert_frequency(int(generated[group == number].sum()), int((group == number).sum()), share)
        # Bit for bit what one ratio would have given each group.
        for number, share in enumerate(expected):
            alike = faces.draw(AugmentationPolicy(share, [MIX]), epoch).is_generated
            assert np.array_equal(generated[group == number], alike[group == number])
    assert (policy.ratio_at(0), policy.may_generate) == (1.0, True)
    assert AugmentationPolicy({1: 0.2, ("a", 2): 0.1}).ratio == {"1": 0.2, "('a', 2)": 0.1}  # names are text
    assert not AugmentationPolicy({"a": 0.0, "b": 0.0}).may_generate
    with pytest.raises(UserInputError, match="no value for the group\\(s\\) 'Indian'; it has 'Black', 'White'"):
        faces.draw(AugmentationPolicy({"Black": 0.5, "White": 0.1}, [MIX]), traits=traits)
    with pytest.raises(UserInputError, match="given by group, but no groups are known"):
        faces.draw(policy)


def test_exact_mode_by_group() -> None:
    faces, epochs, batch = Faces(64), 2000, 16
    group = np.arange(64) % 3
    ratios = np.array([0.1, 0.5, 1.0])
    traits = Traits(group=group, group_names=("a", "b", "c"))
    policy = AugmentationPolicy(dict(zip("abc", ratios.tolist(), strict=True)), [MIX], mode="exact")
    hits, shown = np.zeros(3), np.zeros(3)
    for epoch in range(epochs):
        at = np.random.default_rng(epoch).permutation(64)[:batch]
        generated = faces.draw(policy, epoch, at.tolist(), traits=traits).is_generated
        assert generated.sum() == round(ratios[group[at]].sum())
        assert generated[group[at] == 2].all()
        hits += np.bincount(group[at], generated, 3)
        shown += np.bincount(group[at], minlength=3)
    # Sequential Poisson sampling: close to the ratios, not equal.
    assert np.abs(hits / shown - ratios).max() < 0.03
    zero = AugmentationPolicy({"a": 0.0, "b": 0.0, "c": 0.5}, [MIX], mode="exact")
    has_latent = group != 2  # those that may be generated have no latents
    generated = Faces(64, has_latent).draw(zero, traits=traits)
    assert not generated.is_generated.any()
    assert (generated.source == Source.NO_LATENT).sum() == round(0.5 * (group == 2).sum())


def test_quality_weight() -> None:
    faces = Faces(40_000, has_latent=np.arange(40_000) % 10 > 0)
    quality = np.random.default_rng(0).uniform(0.0, 1.0, 40_000)
    quality[::40], quality[5] = np.nan, np.nan  # without latents, and with a figure that is not known
    traits = Traits(quality=quality)
    policy = AugmentationPolicy(0.6, [MIX], quality_weight=("ssim", 0.3, 0.7))
    assert "quality_weight=('ssim', 0.3, 0.7)" in repr(policy)
    recipe = faces.draw(policy, traits=traits)
    generated, there = recipe.is_generated, faces.has_latent
    assert not generated[quality <= 0.3].any() and not generated[5]
    for low in np.arange(0.3, 0.7, 0.1):  # the mean of the ramp over a tenth is its value in the middle
        inside = there & (quality > low) & (quality <= low + 0.1)
        assert_frequency(int(generated[inside].sum()), int(inside.sum()), 0.6 * (low - 0.25) / 0.4)
    best = there & (quality >= 0.7)
    assert_frequency(int(generated[best].sum()), int(best.sum()), 0.6)
    # Who has no latents is counted at the full ratio, as ever.
    assert_frequency(int((recipe.source == Source.NO_LATENT).sum()), 4000, 0.6)
    falling = AugmentationPolicy(0.6, [MIX], quality_weight=("mse", 0.7, 0.3))  # less is better
    generated = faces.draw(falling, traits=traits).is_generated
    assert not generated[quality >= 0.7].any() and generated[quality < 0.3].any()
    with pytest.raises(UserInputError, match="quality_weight names 'ssim', but the quality of the samples is not kn"):
        faces.draw(policy)


# ------------------------------------------------------------------------------------------- labels


class Labelled(Recording):
    """An edit that is told the label."""

    needs_label = True


def test_edits_that_need_the_label() -> None:
    faces, edit = Faces(9), Labelled("labelled")
    policy = AugmentationPolicy(1.0, [MIX, edit], max_edits=2)
    recipe = faces.draw(policy, traits=Traits(label=np.arange(9) % 4))
    label = recipe.edit_params["labelled"]["label"]
    assert label.dtype == torch.float32 and label.tolist() == [i % 4 for i in range(9)]
    assert "label" not in recipe.edit_params["mix"] and policy.needs_labels == ["labelled"]
    again = BatchRecipe.from_rows(recipe.rows(), recipe.edit_names, {})
    active = torch.from_numpy(recipe.active[:, 1])
    assert torch.equal(again.edit_params["labelled"]["label"][active], label[active])
    with pytest.raises(UserInputError, match="edit 'labelled' needs the label of every sample, and there are none"):
        faces.draw(policy)


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": {}}, "ratio is a mapping without groups"),
        ({"ratio": {"a": 1.5}}, "between 0 and 1; got 1.5"),
        ({"ratio": {"a": "half"}}, "ratio must be a number in"),
        ({"edits": "hair"}, "edits is a sequence of names or Edit objects, got the string 'hair'"),
        ({"edit_ratios": {"mixx": 1.0}}, "edit_ratios names edits that are not there: mixx; there are mix, other"),
        ({"edit_ratios": {"mix": -1.0}}, r"edit_ratios\['mix'\] must be a finite number of at least 0, got -1.0"),
        ({"edit_ratios": {"mix": math.inf}}, r"edit_ratios\['mix'\] must be a finite number"),
        ({"edit_ratios": {"mix": "often"}}, r"edit_ratios\['mix'\] must be a finite number"),
        ({"edit_ratios": {"mix": 0, "other": 0}}, "edit_ratios are 0 for every edit"),
        ({"strengths": {"smile": (1, 2)}}, "strengths names edits that are not there: smile; there are mix, other"),
        ({"strengths": {"mix": 2.0}}, r"strengths\['mix'\] must be Uniform, Normal"),
        ({"edits": [Recording()], "strengths": {"recording": (1, 2)}}, "draws no 'strength' but value"),
        ({"strength_schedule": 0.5}, "strength_schedule is a function of the epoch, got 0.5"),
        ({"quality_weight": "ssim"}, "quality_weight must be a figure of the records and two"),
        ({"quality_weight": ("ssim", 0.5)}, "quality_weight must be"),
        ({"quality_weight": ("ssim", 0.5, 0.5)}, r"two different values.*got \('ssim', 0.5, 0.5\)"),
        ({"quality_weight": ("ssim", 0.5, math.nan)}, "quality_weight must be"),
        ({"quality_weight": (0.1, 0.2, 0.3)}, "quality_weight must be"),
        ({"quality_weight": ("ssim", "low", "high")}, "quality_weight must be"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message) as refused:
        AugmentationPolicy(**{"ratio": 0.5, "edits": [MIX, OTHER], **options})
    assert "\n" not in str(refused.value)


def test_names_are_for_the_dataset() -> None:
    policy = AugmentationPolicy(0.5, ["hair", MIX], edit_ratios={"hair": 2.0, "later": 1.0}, strengths={"hair": (0, 1)})
    assert policy.has_names
    with pytest.raises(UserInputError, match=r"edits \['hair'\] are names; GANAugmentedDataset\(policy=...\)"):
        Faces(5).draw(policy)
    with pytest.raises(UserInputError, match="edit_ratios names edits that are not there: later"):
        dataclasses.replace(policy, edits=[MIX, StyleMixing("hair", [0], set())])


def test_policies_pickle() -> None:
    policy = AugmentationPolicy(
        {"a": linear_ratio(0.1, 0.5, 3), "b": 0.2},
        FOUR,
        edit_ratios={"mix": 2},
        strengths={"up": Normal(1, 0.5, 0, 2)},
        strength_schedule=curriculum(4),
        quality_weight=("ssim", 0.2, 0.5),
    )
    faces = Faces(200)
    traits = Traits(group=np.arange(200) % 2, group_names=["a", "b"], quality=np.linspace(0, 1, 200))
    again = pickle.loads(pickle.dumps(policy))
    assert columns(faces.draw(again, 2, traits=traits)) == columns(faces.draw(policy, 2, traits=traits))
