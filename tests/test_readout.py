"""Reading a label off features: against scikit-learn, and on photos that nothing was taught with."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ganaug.errors import UserInputError
from ganaug.readout import Examples, Readout, make_folds, read_held_out, shrunken_covariance


def blobs(count: int, size: int, num_classes: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal classes with a common, uneven covariance."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, num_classes, count)
    middles = np.random.default_rng(99).normal(0.0, apart, (num_classes, size))
    return middles[classes] + rng.normal(0.0, np.linspace(0.2, 2.0, size), (count, size)), classes


@pytest.mark.parametrize(("count", "size", "num_classes"), [(200, 5, 2), (60, 40, 3), (30, 64, 2)])
def test_against_scikit_learn(count: int, size: int, num_classes: int) -> None:
    features, classes = blobs(count, size, num_classes, 0.7)
    readout = Readout.fit(features, classes, num_classes)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=readout.shrinkage).fit(features, classes)
    asked, _ = blobs(50, size, num_classes, 0.7, seed=1)
    logits = readout.logits(asked)
    if num_classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], theirs.decision_function(asked), rtol=1e-6, atol=1e-8)
    else:
        np.testing.assert_allclose(logits, theirs.decision_function(asked), rtol=1e-6, atol=1e-8)


def test_shrinkage_against_scikit_learn() -> None:
    features, _ = blobs(50, 20, 1, 0.0)
    features -= features.mean(axis=0)
    covariance, shrinkage = shrunken_covariance(features, np.full(50, 1 / 50))
    theirs, their_shrinkage = ledoit_wolf(features, assume_centered=True)
    assert 0.01 < shrinkage < 0.99 and shrinkage == pytest.approx(their_shrinkage)
    np.testing.assert_allclose(covariance, theirs)


def test_weights_count_as_copies() -> None:
    features, classes = blobs(40, 4, 2, 1.0)
    weights = np.random.default_rng(0).integers(1, 4, 40)
    copies = np.repeat(np.arange(40), weights)
    weighted = Readout.fit(features, classes, 2, weights.astype(float))
    # Copies are dependent, and weights say so: the shrinkage differs, and nothing else.
    mean = weighted.weights @ np.array([-1.0, 1.0])
    residual = (
        features[copies]
        - np.stack([features[copies][classes[copies] == c].mean(axis=0) for c in (0, 1)])[classes[copies]]
    )
    covariance = residual.T @ residual / len(copies)
    shrunk = (1 - weighted.shrinkage) * covariance + weighted.shrinkage * np.trace(covariance) / 4 * np.eye(4)
    apart = features[copies][classes[copies] == 1].mean(axis=0) - features[copies][classes[copies] == 0].mean(axis=0)
    np.testing.assert_allclose(mean, np.linalg.solve(shrunk, apart), rtol=1e-9)


def test_labels_of_chance_are_read_at_chance() -> None:
    """What was taught with a photo must not be asked about it: with 64 features, 60 photos would be all right."""
    features, _ = blobs(400, 64, 1, 0.0)
    classes = np.random.default_rng(5).integers(0, 2, 400)
    folds = make_folds([str(i) for i in range(400)], classes)
    told = read_held_out(Examples(features, classes, folds), features, folds, 2)
    assert 0.4 < (told == classes).mean() < 0.6
    seen = read_held_out(Examples(features, classes, np.zeros(400, int)), features, folds + 1, 2)
    assert (seen == classes).mean() > 0.65


def test_variants_are_held_out_with_their_photo() -> None:
    """Copies of the asked photos with a wrong label, in their own fold, teach nothing."""
    features, classes = blobs(100, 3, 2, 3.0)
    folds = make_folds([str(i) for i in range(100)], classes)
    plain = read_held_out(Examples(features, classes, folds), features, folds, 2)
    for fold in range(5):
        mine = folds == fold
        taught = Examples(
            np.concatenate([features, features[mine]]),
            np.concatenate([classes, 1 - classes[mine]]),
            np.concatenate([folds, folds[mine]]),
        )
        assert (read_held_out(taught, features[mine], folds[mine], 2) == plain[mine]).all()


def test_rows_that_are_not_finite() -> None:
    features, classes = blobs(60, 3, 2, 3.0)
    features[7] = np.nan
    folds = make_folds([str(i) for i in range(60)], classes)
    told = read_held_out(Examples(features, classes, folds), features, folds, 2)
    assert told[7] == -1 and (np.delete(told, 7) >= 0).all()


def test_folds() -> None:
    classes = np.array([0] * 50 + [1] * 25)
    keys = [f"{i}.jpg" for i in range(75)]
    folds = make_folds(keys, classes)
    assert np.bincount(folds[:50]).tolist() == [10] * 5 and np.bincount(folds[50:]).tolist() == [5] * 5
    order = np.random.default_rng(0).permutation(75)
    assert (make_folds([keys[i] for i in order], classes[order]) == folds[order]).all()
    people = make_folds(["ann", "bob", "ann", "eve", "dan", "fay", "bob"], np.zeros(7, int))
    assert people[0] == people[2] and people[1] == people[6] and len(set(people.tolist())) == 5


def test_mistakes() -> None:
    features, classes = blobs(20, 3, 2, 1.0)
    with pytest.raises(UserInputError, match="N = 19 labels"):
        Readout.fit(features, classes[:19], 2)
    with pytest.raises(UserInputError, match="the same label"):
        Readout.fit(features, np.zeros(20, int), 2)


def test_features_all_alike_do_not_fail() -> None:
    readout = Readout.fit(np.ones((20, 3)), np.array([0, 1, 1, 1] * 5), 2)
    assert readout.logits(np.ones((2, 3))).argmax(axis=1).tolist() == [1, 1]
