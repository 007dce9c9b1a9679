"""Neighbor sampling without replacement, deterministic in (seed, node)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 2**64 - 1
_LARGE_FANOUT = 128  # beyond it, slot by slot, which is quadratic, costs more than a number for each edge


def derive_seed(*numbers: int) -> int:
    """Derive one seed from several integers, in [0, 2**63): other integers give an unrelated seed."""
    state = 0
    for number in numbers:
        word = np.array([(state ^ (number & _WORD)) + _GOLDEN & _WORD], dtype=np.uint64)
        state = int(_scrambled(word)[0])
    return state >> 1


def multiset_hash(numbers: NDArray[np.int64]) -> int:
    """Hash a multiset of integers to one in [-2**63, 2**63).

    That of all numbers is the sum of those of their parts, modulo 2**64; other numbers have an unrelated one.
    """
    total = _scrambled(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(1)).sum(dtype=np.uint64)
    return int(total.astype(np.int64))


def uniform(numbers: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Draw a number in [0, 1) for each of ``numbers``, by (seed, number) alone."""
    states = _scrambled(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(derive_seed(seed)))
    return _fractions(states, np.zeros(1, dtype=np.int64))


def sample_without_replacement(
    nodes: NDArray[np.int64], degrees: NDArray[np.int64], fanout: int, seed: int
) -> NDArray[np.int64]:
    """Sample ``fanout`` of each node's edges, uniformly without replacement; all of them have more.

    The choice for a node depends on (seed, node, degree, fanout) alone.

    Args:
        nodes: ``[K]``, ids.
        degrees: ``[K]``, each above ``fanout``.
        fanout: At least 0.
        seed: Any integer.

    Returns:
        ``[K, fanout]`` different numbers from 0 to the node's degree, ascending in each row.
    """
    states = _scrambled(nodes.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(derive_seed(seed)))
    if fanout > _LARGE_FANOUT:
        return _by_edges(states, degrees, fanout)
    return _by_slots(states, degrees, fanout)


def _by_slots(states: NDArray[np.uint64], degrees: NDArray[np.int64], fanout: int) -> NDArray[np.int64]:
    """Draw the i-th of the numbers that are not chosen yet, and insert it among the chosen ones, which are sorted."""
    slots = np.arange(fanout)[:, None]
    kind = np.int32 if degrees.max(initial=0) < 2**31 else np.int64
    chosen = (_fractions(states, slots) * (degrees - slots)).astype(kind)
    above, smaller = np.empty(len(degrees), dtype=bool), np.empty(len(degrees), dtype=kind)
    for slot in range(1, fanout):
        drawn = chosen[slot]
        for other in chosen[:slot]:
            drawn += np.greater_equal(drawn, other, out=above)
        for other in chosen[:slot]:
            np.minimum(other, drawn, out=smaller)
            np.maximum(other, drawn, out=drawn)
            other[:] = smaller
    return chosen.T.astype(np.int64)


def _by_edges(states: NDArray[np.uint64], degrees: NDArray[np.int64], fanout: int) -> NDArray[np.int64]:
    """Draw a number for each edge, and sample_without_replacement the edges of the smallest ones."""
    node = np.repeat(np.arange(len(degrees)), degrees)
    before = degrees.cumsum() - degrees
    offset = np.arange(len(node)) - before.repeat(degrees)
    order = np.lexsort((_fractions(states[node], offset), node))
    first = order[before[:, None] + np.arange(fanout)]
    return np.sort(offset[first], axis=1)


def _fractions(states: NDArray[np.uint64], counter: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draw the numbers of those counts from SplitMix64 generators of these states, in [0, 1)."""
    drawn = _scrambled(states + (counter.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))
    drawn >>= np.uint64(11)
    return drawn.astype(np.float64) * 2.0**-53


def _scrambled(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble words in place by the output function of SplitMix64 (Steele et al. 2014), and return them."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
