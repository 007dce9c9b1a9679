from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.utils import degree, homophily

from distgnn.data import generate_graph


def test_a_generated_graph_has_exactly_the_asked_size_and_no_doubles() -> None:
    data = generate_graph(1000, 20_000, num_classes=4)
    assert (data.num_nodes, data.num_edges) == (1000, 20_000)
    assert data.x is None
    assert data.edge_index.dtype == data.y.dtype == torch.int64
    assert set(data.y.tolist()) == {0, 1, 2, 3}
    assert data.is_coalesced()
    assert not data.has_self_loops()
    assert [int(mask.sum()) for mask in (data.train_mask, data.val_mask, data.test_mask)] == [600, 200, 200]
    data.validate()


def test_the_same_seed_gives_the_same_graph_and_leaves_global_randomness_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    first, same, other = (generate_graph(100, 500, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.edge_index, same.edge_index)
    assert torch.equal(first.y, same.y)
    assert torch.equal(first.train_mask, same.train_mask)
    assert not torch.equal(first.edge_index, other.edge_index)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_homophily_is_the_share_of_edges_within_a_class(share: float) -> None:
    data = generate_graph(20_000, 100_000, homophily=share)
    assert homophily(data.edge_index, data.y, method="edge") == pytest.approx(share, abs=0.01)


def test_in_degrees_follow_the_asked_power_law() -> None:
    data = generate_graph(50_000, 1_000_000, exponent=2.5)
    in_degree, _ = degree(data.edge_index[1], data.num_nodes).sort(descending=True)
    # The k-th largest degree falls like k ** (-1 / (exponent - 1)).
    ranks = torch.arange(30.0, 3000.0)
    slope = np.polyfit(ranks.log(), in_degree[30:3000].log(), 1)[0]
    assert slope == pytest.approx(-1 / 1.5, abs=0.05)
    assert degree(data.edge_index[0], data.num_nodes).max() < 60, "out-degrees have no hubs"


def test_small_and_edgeless_graphs_can_be_generated() -> None:
    assert generate_graph(1, 0).num_edges == 0
    assert generate_graph(2, 2, num_classes=1).edge_index.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    "options",
    [{"num_nodes": 0}, {"num_edges": -1}, {"num_classes": 0}, {"homophily": 1.1}, {"exponent": 1.0}],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"cannot generate a graph with .*{name}=.*needed are num_nodes >= 1"):
        generate_graph(**{"num_nodes": 10, "num_edges": 10, **options})


def test_more_edges_than_there_are_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"asked for 100 distinct edges between 5 nodes and found only .*fewer edges"):
        generate_graph(5, 100)
