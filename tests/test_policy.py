"""What the policy draws, against binomial bounds and exact counts."""

import math
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
from ganaug.policy import AugmentationPolicy, PartnerPool, linear_ratio
from ganaug.provenance import BatchRecipe, Source
from ganaug.rng import hash_text

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
        self, policy: AugmentationPolicy, epoch: int = 0, indices: Sequence[int] | None = None, classical: bool = False
    ) -> BatchRecipe:
        at = np.arange(len(self.keys)) if indices is None else np.array(indices, np.int64)
        keys = [self.keys[i] for i in at]
        augmentation = ClassicalAugmentation() if classical else None
        return policy.draw(at, keys, self.hashes[at], epoch, self.pool, augmentation)


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
