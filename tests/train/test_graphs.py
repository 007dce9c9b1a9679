"""Batches of small graphs, against those that PyG collates."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Batch, Data

from distgnn.train.graphs import Joined


def graph(nodes: int, edges: int, *, with_edge_attr: bool) -> Data:
    data = Data(
        x=torch.rand(nodes, 3),
        edge_index=torch.randint(max(1, nodes), (2, edges)),
        y=torch.randint(2, (1,)),
        n_id=torch.randint(100, (nodes,)),
        e_id=torch.randint(100, (edges,)),
    )
    if with_edge_attr:
        data.edge_attr = torch.rand(edges, 2)
    return data


@pytest.mark.parametrize("with_edge_attr", [False, True])
@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [3, 0], [2, 2, 1], [1]])
def test_batches_are_those_of_pyg(positions: list[int], with_edge_attr: bool) -> None:
    sizes = [(4, 6), (1, 0), (5, 5), (2, 9)]  # a lonely node; as many edges as nodes
    graphs = [graph(nodes, edges, with_edge_attr=with_edge_attr) for nodes, edges in sizes]
    actual = Joined(graphs).take(torch.tensor(positions))
    expected = Batch.from_data_list([graphs[position] for position in positions])
    assert actual.num_graphs == expected.num_graphs
    assert set(actual.keys()) == set(expected.keys())
    for key, values in expected:
        assert torch.equal(actual[key], values), key


def test_a_batch_may_have_no_graphs() -> None:
    batch = Joined([graph(4, 6, with_edge_attr=True)]).take(torch.empty(0, dtype=torch.int64))
    assert batch.num_graphs == batch.num_nodes == batch.num_edges == 0
    assert batch.x.shape == (0, 3)
