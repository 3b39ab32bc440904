"""Photos of the same picture among many: candidates by a 64-bit hash, confirmed by a thumbnail."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Similarity from which two photos are the same picture. Halved, recompressed, brightened or greyed copies of FairFace,
# London Set and congress photos reach 0.92 or more, copies of a quarter of the size 0.87; two persons in the same pose
# and light (London Set) stay below 0.83, other pairs below 0.81.
MIN_SIMILARITY = 0.85

HASH_BITS = 64
_BLOCK = 1 << 20  # pairs looked at together
_POPCOUNT16 = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)
_bitwise_count: Callable[[NDArray[np.uint64]], NDArray[np.uint8]] | None = getattr(np, "bitwise_count", None)  # numpy 2


def hamming(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Number of bits in which hashes differ, element by element."""
    different = np.bitwise_xor(first, second)
    if _bitwise_count is not None:
        return _bitwise_count(different)
    words = np.ascontiguousarray(different).view(np.uint16).reshape(*different.shape, 4)
    return _POPCOUNT16[words].sum(axis=-1, dtype=np.uint8)


def near_pairs(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.int64]:
    """All pairs of hashes that differ in at most ``max_distance`` bits, exactly.

    The bits are cut into ``max_distance + 1`` chunks. Two hashes within the distance agree in one whole chunk at least,
    so only hashes that share a chunk are compared: neighbours in the order sorted by that chunk.

    Args:
        hashes: ``(N,)``.
        max_distance: Bits, 0 to 63.

    Returns:
        ``(P, 2)`` rows i < j, sorted.
    """
    borders = np.linspace(0, HASH_BITS, max_distance + 2).round().astype(int)
    found = [np.zeros((0, 2), np.int64)]
    for low, high in pairwise(borders.tolist()):
        mask = np.uint64(((1 << (high - low)) - 1) << low)
        chunk = hashes & mask
        order = np.argsort(chunk, kind="stable")
        values = chunk[order]
        ends = np.searchsorted(values, values, side="right")  # one past each hash's bucket
        waiting = np.flatnonzero(ends - np.arange(len(values)) > 1)
        ahead = 1
        while len(waiting):
            for start in range(0, len(waiting), _BLOCK):
                rows = waiting[start : start + _BLOCK]
                one, two = order[rows], order[rows + ahead]
                near = hamming(hashes[one], hashes[two]) <= max_distance
                if near.any():
                    found.append(np.sort(np.stack([one[near], two[near]], axis=1), axis=1))
            ahead += 1
            waiting = waiting[waiting + ahead < ends[waiting]]
    pairs = np.concatenate(found)
    return np.unique(pairs, axis=0) if len(pairs) else pairs


def similarity(likenesses: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """How far the edges of two thumbnails agree: cosine of their brightness gradients, ``(P,)`` in [-1, 1].

    Gradients, because faces in one pose have much the same light and dark areas, whoever they are of.

    Args:
        likenesses: ``(N, S, S)`` uint8.
        pairs: ``(P, 2)`` rows.
    """
    values = np.zeros(len(pairs), np.float32)
    block = 1 << 13
    for start in range(0, len(pairs), block):
        one, two = (_gradients(likenesses[column]) for column in pairs[start : start + block].T)
        values[start : start + block] = (one * two).sum(axis=1)
    return values


def _gradients(likenesses: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(P, K)`` of unit length; zeros for a flat picture."""
    pixels = likenesses.astype(np.float32)
    across, down = np.diff(pixels, axis=2)[:, :-1], np.diff(pixels, axis=1)[:, :, :-1]
    flat = np.concatenate([across.reshape(len(pixels), -1), down.reshape(len(pixels), -1)], axis=1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def find_duplicates(
    hashes: NDArray[np.uint64],
    likenesses: NDArray[np.uint8],
    rank: NDArray[np.int64],
    max_distance: int,
    min_similarity: float = MIN_SIMILARITY,
) -> NDArray[np.int64]:
    """Which photos repeat a better one.

    Photos are gone through from the best to the worst, and a photo that is the same picture as one that stays is a
    duplicate of it. So every duplicate looks like the photo that it stands behind, which chains of likeness would not
    give.

    Args:
        hashes: ``(N,)`` of :func:`ganaug.faces.measures.difference_hash`.
        likenesses: ``(N, S, S)`` uint8 thumbnails.
        rank: ``(N,)`` place of each photo, 0 = the best; all different.
        max_distance: Bits in which the hashes of duplicates may differ.
        min_similarity: Least :func:`similarity` of duplicates.

    Returns:
        ``(N,)`` the photo that each one repeats, -1 for those that stay.
    """
    duplicate_of = np.full(len(hashes), -1, np.int64)
    by_rank = np.argsort(rank)
    # Equal thumbnails (copies of a file, blank pictures) are dealt with first: a thousand would make a million pairs.
    flat = np.ascontiguousarray(likenesses.reshape(len(hashes), -1))
    _, first, group = np.unique(flat[by_rank], axis=0, return_index=True, return_inverse=True)
    leader = by_rank[first[group.reshape(-1)]]
    copies = leader != by_rank
    duplicate_of[by_rank[copies]] = leader[copies]
    alone = np.sort(by_rank[~copies])
    pairs = alone[near_pairs(hashes[alone], max_distance)]
    pairs = pairs[similarity(likenesses, pairs) >= min_similarity]
    pairs = np.where((rank[pairs[:, :1]] < rank[pairs[:, 1:]]), pairs, pairs[:, ::-1])  # better, worse
    for better, worse in pairs[np.lexsort((rank[pairs[:, 1]], rank[pairs[:, 0]]))].tolist():
        if duplicate_of[better] < 0 and duplicate_of[worse] < 0:
            duplicate_of[worse] = better
    # A copy of a photo that turned out to repeat another one repeats that one too.
    behind = duplicate_of[np.maximum(duplicate_of, 0)]
    return np.where((duplicate_of >= 0) & (behind >= 0), behind, duplicate_of)
