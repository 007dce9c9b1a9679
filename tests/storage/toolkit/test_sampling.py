from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from distgnn.storage.toolkit.sampling import derive_seed, sample_without_replacement


@pytest.mark.parametrize(("degree", "fanout"), [(7, 3), (6, 1), (5, 4), (131, 129)], ids=str)
def test_every_set_of_edges_is_as_likely_as_any_other(degree: int, fanout: int) -> None:
    nodes = np.arange(20_000)
    drawn = sample_without_replacement(nodes, np.full(len(nodes), degree), fanout, seed=5)
    assert drawn.shape == (len(nodes), fanout)
    sets = list(combinations(range(degree), fanout))
    places = {one: place for place, one in enumerate(sets)}
    counts = np.bincount([places[tuple(row)] for row in drawn.tolist()], minlength=len(sets))
    assert chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("fanout", [1, 10, 128, 129, 200])
def test_choices_are_different_ascend_and_stay_below_the_degree(fanout: int) -> None:
    degrees = fanout + 1 + np.arange(60) ** 2
    drawn = sample_without_replacement(np.arange(60), degrees, fanout, seed=1)
    assert (np.diff(drawn, axis=1) > 0).all()
    assert (drawn[:, 0] >= 0).all()
    assert (drawn[:, -1] < degrees).all()


def test_degrees_beyond_32_bits_are_no_problem() -> None:
    degrees = np.full(1000, 2**40)
    drawn = sample_without_replacement(np.arange(1000), degrees, 5, seed=0)
    assert (np.diff(drawn, axis=1) > 0).all()
    # The smallest of 5 uniform numbers has mean 1/6 of the range, the largest 5/6.
    assert drawn[:, 0].mean() / 2**40 == pytest.approx(1 / 6, abs=0.03)
    assert drawn[:, -1].mean() / 2**40 == pytest.approx(5 / 6, abs=0.03)


@pytest.mark.parametrize("fanout", [10, 130])
def test_a_choice_does_not_depend_on_what_else_is_asked(fanout: int) -> None:
    nodes, degrees = np.array([3, 8, 5, 3]), np.array([300, 190, 2**33 if fanout == 10 else 180, 300])
    together = sample_without_replacement(nodes, degrees, fanout, seed=9)
    alone = np.concatenate([sample_without_replacement(nodes[[i]], degrees[[i]], fanout, seed=9) for i in range(4)])
    assert (together == alone).all()
    assert (together[0] == together[3]).all()
    assert (sample_without_replacement(nodes, degrees, fanout, seed=10) != together).any(axis=1).all()


def test_seeds_made_of_other_numbers_are_other_seeds() -> None:
    made = {
        derive_seed(*numbers) for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (2**40, 1), (-1, 0), (2**64 + 5, 1))
    }
    assert len(made) == 8
    assert all(0 <= seed < 2**63 for seed in made)
    assert derive_seed(3, 4) == derive_seed(3, 4)
