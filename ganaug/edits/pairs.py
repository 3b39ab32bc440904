"""A direction from pairs of photos of one person, with and without something, such as neutral and smiling faces."""

from collections.abc import Sequence

import numpy as np

from ganaug.edits.fitting import MIN_CLASS, Fit, Numbers
from ganaug.edits.scores import logistic_scale, probability, quality_of_classes
from ganaug.edits.whitening import freed
from ganaug.errors import UserInputError


def pair_direction(without: Numbers, with_it: Numbers, basis: Numbers) -> Fit:
    """The mean difference within pairs, in whitened coordinates.

    Who a person is cancels in a pair, so few pairs do. In whitened coordinates the mean difference is Fisher's linear
    discriminant for codes of any people. Dividing by the covariance of the differences as well separates pairs hardly
    better and moves faces less far: for london's 102 smiles it finds 98.0 % at best (shrunk by 0.8) instead of 97.1 %.

    Every figure is of pairs that the direction was found without (leave one pair out).

    Args:
        without: ``(P, K)`` whitened coordinates of the first of each pair.
        with_it: ``(P, K)`` of the second.
        basis: ``(K, R)`` orthonormal; the direction is made orthogonal to it.

    Returns:
        A fit whose ``measured`` has ``pairs``, ``pair_accuracy`` (share of pairs in which the second is farther along),
        ``mean_move`` (in standard deviations, how far the second is farther along) and the figures of
        :func:`ganaug.edits.scores.quality_of_classes` for single photos. ``coordinates (2P,)``: first all without.

    Raises:
        UserInputError: For fewer than 5 pairs, or pairs that do not differ.
    """
    count = len(without)
    if count < MIN_CLASS:
        raise UserInputError(f"{count} pairs have latents, expected at least {MIN_CLASS}")
    difference = with_it - without
    total = difference.sum(axis=0)
    if not np.linalg.norm(total) > 0:
        raise UserInputError(f"the two photos of each of the {count} pairs have the same latents")
    vector = freed(total, basis)
    others = [freed(total - own, basis) for own in difference]
    first, second = (np.einsum("pk,pk->p", z, np.stack(others)) for z in (without, with_it))
    coordinates, target = np.concatenate([first, second]), np.repeat([0.0, 1.0], count)
    slope, intercept = logistic_scale(coordinates, target)
    figures = quality_of_classes(target, _left_out(coordinates, target, count))
    del figures["loss"]
    measured = {
        "method": "pairs",
        "pairs": count,
        "faces": 2 * count,
        "pair_accuracy": round(float((second > first).mean()), 4),
        "mean_move": round(float((second - first).mean()), 4),
        **figures,
    }
    return Fit(vector, slope, intercept, True, measured, coordinates)


def _left_out(coordinates: Numbers, target: Numbers, count: int) -> Numbers:
    """Probability of each photo, by a scale that was fitted without its pair."""
    scores = np.empty(2 * count)
    for pair in range(count):
        own = np.arange(2 * count) % count == pair
        slope, intercept = logistic_scale(coordinates[~own], target[~own])
        scores[own] = probability(slope * coordinates[own] + intercept)
    return scores


def find_pairs(people: Sequence[str], has_it: Sequence[bool | None]) -> tuple[list[int], list[int]]:
    """Places of the photos without and with something, one of each for every person who has both.

    Args:
        people: N names of persons; empty where unknown.
        has_it: For each photo; None if it is not known.

    Example:
        >>> find_pairs(["ann", "bob", "ann", "bob", "eve"], [True, False, False, True, True])
        ([2, 1], [0, 3])
    """
    first: dict[tuple[str, bool], int] = {}
    for place, (person, has) in enumerate(zip(people, has_it, strict=True)):
        if person and has is not None:
            first.setdefault((person, has), place)
    both = [person for person in sorted(set(people)) if (person, False) in first and (person, True) in first]
    return [first[person, False] for person in both], [first[person, True] for person in both]
