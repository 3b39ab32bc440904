"""Where latents tell a label: against closed forms, naive loops and scikit-learn."""

import pickle
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ganaug.edits.labels import LabelSubspace
from ganaug.edits.subspace import Subspace
from ganaug.edits.whitening import Whitening, orthonormal
from ganaug.interfaces import UserInputError
from ganaug.latents import principal_axes

SHAPE = (2, 6)
SIZE = 12


def whitening_of(codes: torch.Tensor, count: int = SIZE) -> Whitening:
    mean, axes, std = (part.double().numpy() for part in principal_axes(codes.flatten(1), count))
    return Whitening(SHAPE, mean, axes, std)


def gaussians(
    per_class: int, means: NDArray[np.float64], seed: int = 0
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.float64]]:
    """Codes of classes with one covariance, their labels, and the covariance ``(12, 12)``; classes in turn."""
    draws = np.random.default_rng(seed)
    root = np.diag(np.geomspace(3.0, 0.1, SIZE)) @ np.linalg.qr(draws.normal(size=(SIZE, SIZE)))[0]
    labels = np.tile(np.arange(len(means)), per_class)
    codes = means[labels] + draws.normal(size=(len(labels), SIZE)) @ root
    return torch.from_numpy(codes.reshape(-1, *SHAPE)).float(), labels, root.T @ root


def two_classes(
    per_class: int = 2000, distance: float = 2.0
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.float64]]:
    """Two classes at a Mahalanobis distance from each other; the third result is the discriminant ``(12,)``."""
    _, _, covariance = gaussians(1, np.zeros((1, SIZE)))
    difference = np.random.default_rng(1).normal(size=SIZE)
    discriminant = np.linalg.solve(covariance, difference)
    difference *= distance / np.sqrt(difference @ discriminant)
    codes, labels, covariance = gaussians(per_class, np.stack([-difference / 2, difference / 2]))
    return codes, labels, np.linalg.solve(covariance, difference)


def weights_of(subspace: LabelSubspace) -> NDArray[np.float64]:
    """``(12, C)``: what the classifier multiplies codes with."""
    return (subspace.whitening.axes / subspace.whitening.std[:, None]).T @ subspace.weights


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_two_gaussians_have_the_discriminant_of_the_closed_form() -> None:
    codes, labels, discriminant = two_classes()
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    assert subspace.basis.shape == (SIZE, 1) and subspace.num_faces == 4000 and subspace.classes.tolist() == [0, 1]
    weights = weights_of(subspace)
    assert cosine(weights[:, 1] - weights[:, 0], discriminant) > 0.99
    # Bayes' rule for equal classes at Mahalanobis distance 2; four standard errors are 0.023.
    assert abs(subspace.accuracy - NormalDist().cdf(1.0)) < 0.025 and subspace.chance == 0.5


def test_probabilities_are_those_of_bayes() -> None:
    codes, labels, discriminant = two_classes()
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    logit = codes[:100].flatten(1).double().numpy() @ discriminant  # equal classes, means at plus and minus
    expected = 1.0 / (1.0 + np.exp(-logit))
    found = subspace.read(codes[:100])
    assert torch.allclose(found.sum(dim=1), torch.ones(100).double())
    assert np.abs(found[:, 1].numpy() - expected).max() < 0.1


def test_few_faces_are_not_read_with_too_much_confidence() -> None:
    codes, labels, _ = two_classes(per_class=1000, distance=1.0)
    subspace = LabelSubspace.fit(codes[:120], labels[:120], whitening_of(codes))
    fresh, truth, _ = two_classes(per_class=1000, distance=1.0)
    probability = subspace.read(fresh)[torch.arange(2000), torch.from_numpy(truth)]
    assert float(-probability.log().mean()) < np.log(2.0)  # better than saying a half of everyone


def test_three_classes_against_scikit_learn() -> None:
    analysis = pytest.importorskip("sklearn.discriminant_analysis").LinearDiscriminantAnalysis
    codes, labels, _ = gaussians(1000, np.random.default_rng(2).normal(size=(3, SIZE)) * 0.1)
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    flat = codes.flatten(1).double().numpy()
    other = analysis().fit(flat, labels)
    assert subspace.basis.shape == (SIZE, 2)
    assert np.abs(subspace.read(codes).numpy() - other.predict_proba(flat)).max() < 0.05
    assert abs(subspace.accuracy - other.score(flat, labels)) < 0.02


@pytest.mark.parametrize("count", [SIZE, 5])
def test_removal(count: int) -> None:
    codes, labels, _ = gaussians(300, np.random.default_rng(3).normal(size=(4, SIZE)) * 0.15)
    whitening = whitening_of(codes, count)
    subspace = LabelSubspace.fit(codes, labels, whitening)
    moves = torch.from_numpy(np.random.default_rng(4).normal(size=(50, *SHAPE))).float()
    freed = subspace.remove(moves)
    assert freed.dtype == moves.dtype and freed.shape == moves.shape
    # The classifier says the same of a code and the moved code; without removal it does not.
    before, after = subspace.read(codes[:50]), subspace.read(codes[:50] + freed)
    assert (before - after).abs().max() < 1e-5
    assert (before - subspace.read(codes[:50] + moves)).abs().max() > 0.1
    assert torch.allclose(subspace.remove(freed), freed, atol=1e-5)  # idempotent
    assert torch.allclose(subspace.remove(-3.0 * moves), -3.0 * freed, atol=1e-5)
    assert torch.equal(subspace.remove(torch.zeros(2, *SHAPE)), torch.zeros(2, *SHAPE))
    # A naive loop, one move and one axis at a time.
    for row in range(5):
        whitened = np.array([moves[row].flatten().double().numpy() @ whitening.axes[k] for k in range(count)])
        whitened /= whitening.std
        taken = sum(float(whitened @ axis) * axis for axis in subspace.basis.T)
        naive = moves[row].flatten().double().numpy() - (taken * whitening.std) @ whitening.axes
        assert np.abs(freed[row].flatten().numpy() - naive).max() < 1e-5


def test_what_lies_beside_the_coordinates_stays() -> None:
    codes, _, _ = two_classes(200)
    whitening = whitening_of(codes, 5)
    beside = np.eye(SIZE) - whitening.axes.T @ whitening.axes
    move = torch.from_numpy((np.random.default_rng(5).normal(size=(3, SIZE)) @ beside).reshape(3, *SHAPE))
    assert torch.allclose(Subspace(whitening, np.eye(5)).remove(move), move, atol=1e-9)


def test_a_move_has_the_same_bits_alone_and_in_a_batch() -> None:
    codes, labels, _ = two_classes(200)
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    together = subspace.remove(codes)
    assert all(torch.equal(subspace.remove(codes[i : i + 1])[0], together[i]) for i in range(20))


def test_shares() -> None:
    codes, _, _ = two_classes(200)
    whitening = whitening_of(codes)
    subspace = Subspace(whitening, orthonormal(np.eye(SIZE)[:, :3]))
    inside, outside = whitening.move(np.eye(SIZE)[1]), whitening.move(np.eye(SIZE)[7])
    assert subspace.share(inside) == pytest.approx(1.0) and subspace.share(outside) == pytest.approx(0.0, abs=1e-9)
    assert subspace.share(inside + 2.0 * outside) == pytest.approx(0.2, abs=1e-6)  # 1 of 1 + 4
    assert subspace.share(torch.stack([inside, outside])) == pytest.approx(0.5, abs=1e-6)
    assert subspace.share(torch.zeros(SHAPE)) == 0.0
    # Moves of the distribution of the codes have as much of it as it has dimensions.
    assert subspace.share(codes - codes.mean(dim=0)) == pytest.approx(3 / SIZE, abs=1e-3)
    with pytest.raises(UserInputError, match="not finite"):
        subspace.share(inside * torch.nan)


def test_joined() -> None:
    codes, _, _ = two_classes(200)
    whitening = whitening_of(codes)
    one, two = Subspace(whitening, np.eye(SIZE)[:, :2]), Subspace(whitening, np.eye(SIZE)[:, 1:4])
    joined = one.joined(two)
    assert joined.basis.shape == (SIZE, 4)
    free = joined.remove(codes)
    assert one.share(free) < 1e-9 and two.share(free) < 1e-9


def test_amounts() -> None:
    codes, _, _ = two_classes(1000)
    along = np.random.default_rng(6).normal(size=SIZE)
    noise = np.random.default_rng(7).normal(size=2000)
    signal = codes.flatten(1).double().numpy() @ along
    years = 30.0 + 10.0 * (signal / signal.std() + noise)
    years[3] = np.nan
    subspace = LabelSubspace.fit(codes, years, whitening_of(codes))
    assert subspace.num_faces == 1999 and not len(subspace.classes) and subspace.basis.shape == (SIZE, 1)
    assert np.corrcoef(codes.flatten(1).double().numpy() @ weights_of(subspace)[:, 0], signal)[0, 1] > 0.99
    assert abs(subspace.accuracy - 0.5**0.5) < 0.05  # signal and noise of one variance
    read = subspace.read(codes)
    assert read.shape == (2000,) and abs(float(read.mean()) - 30.0) < 1.0
    moved = codes + subspace.remove(codes.flip(0) - codes)
    assert (subspace.read(moved) - read).abs().max() < 1e-4
    assert "correlation" in subspace.to_dict() and "accuracy" not in subspace.to_dict()


def test_rare_classes_are_left_out() -> None:
    codes, labels, _ = two_classes(100)
    labels[:7] = 5
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    assert subspace.classes.tolist() == [0, 1] and subspace.num_faces == 193


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.repeat(np.arange(100), 4), "100 classes over 400 faces are too few faces each"),
        (np.zeros(400, np.int64), "1 classes over 400 faces are too few"),
        (np.arange(400) // 2 % 2, "do not tell it"),
        (np.arange(400) % 7 * 1.5, "do not tell it: what is read off them has a correlation of"),
        (np.full(400, 2.5), "all 400 faces have the same label, 2.5"),
        (np.full(400, np.nan), "0 faces have a label: expected at least 20"),
        (np.arange(399), "expected a label for each of 400 codes, got 399"),
    ],
)
def test_refusals(labels: NDArray[np.int64], message: str) -> None:
    codes, _, _ = two_classes(200, distance=0.0)
    with pytest.raises(UserInputError, match=message):
        LabelSubspace.fit(codes, labels, whitening_of(codes))


def test_too_many_classes() -> None:
    codes = torch.randn(65 * 20, *SHAPE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserInputError, match="65 classes are too many to be freed of: expected at most 64"):
        LabelSubspace.fit(codes, np.tile(np.arange(65), 20), whitening_of(codes))


def test_pickle_and_device() -> None:
    codes, labels, _ = two_classes(100)
    subspace = LabelSubspace.fit(codes, labels, whitening_of(codes))
    expected = subspace.remove(codes)
    for copied in (pickle.loads(pickle.dumps(subspace)), subspace.to(torch.device("cpu"))):
        assert torch.equal(copied.remove(codes), expected) and torch.equal(copied.read(codes), subspace.read(codes))
        assert isinstance(copied, LabelSubspace) and copied.accuracy == subspace.accuracy
