"""Spans: closed forms, and the draw of a direction on the sphere."""

import math
import pickle

import numpy as np
import pytest
import torch

from ganaug.edits.span import MAX_AXES, Span
from ganaug.interfaces import NUM_EDIT_UNIFORMS, Edit, UserInputError

AXES = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, NUM_EDIT_UNIFORMS)))


@pytest.mark.parametrize("fresh", [True, False])
def test_contract(fresh: bool) -> None:
    edit = Span("light", AXES, {"lighting"}, (1.0, 2.0), {"why": "seen"})
    edit = edit if fresh else pickle.loads(pickle.dumps(edit))
    assert isinstance(edit, Edit) and edit.measured == {"why": "seen"}
    params = edit.sample_params(uniforms(7))
    assert all(values.shape == (7,) and values.dtype == torch.float32 for values in params.values())
    w_plus = torch.randn(7, 4, 5)
    edited = edit.apply(w_plus, params)
    assert torch.equal(edited[2:3], edit.apply(w_plus[2:3], {k: v[2:3] for k, v in params.items()}))
    assert torch.equal(edit.apply(w_plus, {**params, "strength": torch.zeros(7)}), w_plus)
    again = edit.sample_params(uniforms(7)[3:4])
    assert all(torch.equal(again[k], params[k][3:4]) for k in params)


def test_apply_by_a_naive_loop() -> None:
    edit = Span("light", AXES, {"lighting"})
    params = edit.sample_params(uniforms(3))
    w_plus = torch.randn(3, 4, 5)
    for i, edited in enumerate(edit.apply(w_plus, params)):
        expected = w_plus[i].double()
        for k in range(3):
            expected = expected + float(params["strength"][i]) * float(params[f"axis{k}"][i]) * AXES[k].double()
        torch.testing.assert_close(edited.double(), expected, atol=1e-5, rtol=1e-5)


def test_shares_are_uniform_over_the_sphere() -> None:
    edit = Span("light", AXES, {"lighting"}, (1.0, 3.0))
    params = edit.sample_params(uniforms(20_000))
    shares = torch.stack([params[f"axis{k}"] for k in range(3)], dim=1).double()
    torch.testing.assert_close(shares.norm(dim=1), torch.ones(20_000).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(shares.mean(dim=0), torch.zeros(3).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(shares.t() @ shares / 20_000, torch.eye(3).double() / 3, atol=0.01, rtol=0)
    # Archimedes: on the sphere in three dimensions every coordinate is uniform over [-1, 1].
    assert float((shares[:, 0].abs() < 0.5).double().mean()) == pytest.approx(0.5, abs=0.015)
    assert float(params["strength"].min()) >= 1.0 and float(params["strength"].max()) <= 3.0


def test_draws_at_the_ends_are_finite() -> None:
    edit = Span("light", AXES, {"lighting"})
    for value in (0.0, 1.0 - 2.0**-53):
        params = edit.sample_params(torch.full((2, NUM_EDIT_UNIFORMS), value, dtype=torch.float64))
        assert all(torch.isfinite(values).all() for values in params.values())


def test_along_one_axis() -> None:
    edit = Span("light", AXES, {"lighting"})
    moved = edit.apply(torch.zeros(2, 4, 5), edit.along(1, [2.0, -math.pi]))
    torch.testing.assert_close(moved, torch.stack([2.0 * AXES[1], -math.pi * AXES[1]]))


@pytest.mark.parametrize("axes", [torch.ones(2, 3), torch.ones(MAX_AXES + 1, 2, 2), torch.zeros(1, 2, 2), AXES[:0]])
def test_refuses(axes: torch.Tensor) -> None:
    with pytest.raises(UserInputError, match=r"span 'light' must have axes \(K, L, D\)"):
        Span("light", axes, {"lighting"})
