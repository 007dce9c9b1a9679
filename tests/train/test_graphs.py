"""Batches of small graphs, against those that PyG collates."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console
from torch_geometric.data import Batch, Data

import distgnn
from distgnn import GraphInputError
from distgnn.train.config import TrainConfig
from distgnn.train.graphs import Joined
from distgnn.train.run import train

if TYPE_CHECKING:
    from pathlib import Path


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


def write_stars(raw: Path, leaves: list[int]) -> None:
    """Write a TUDataset whose graphs are stars, and single nodes."""
    edges: list[str] = []
    indicator: list[str] = []
    for number, count in enumerate(leaves, 1):
        center = len(indicator) + 1
        edges += [
            f"{a}, {b}" for leaf in range(1, count + 1) for a, b in ((center, center + leaf), (center + leaf, center))
        ]
        indicator += [str(number)] * (count + 1)
    raw.mkdir(parents=True)
    for kind, lines in (("A", edges), ("graph_indicator", indicator), ("graph_labels", [str(n % 2) for n in leaves])):
        (raw / f"STARS_{kind}.txt").write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.filterwarnings("ignore:.*weights_only:FutureWarning")
def test_a_last_batch_of_one_node_joins_the_batch_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTGNN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_stars(tmp_path / "STARS" / "raw", [0] * 40 + [1] * 10 + [3] * 10)  # 48 graphs to train on, most of one node
    options: dict[str, Any] = {"dataset": "STARS", "hidden_channels": 8, "num_layers": 2, "norm": "batch_norm"}
    with distgnn.use("memory"):
        result = train(TrainConfig(**options, epochs=6, batch_size=47), console=Console(file=StringIO()))
        assert len(result.scores) == 1
        with pytest.raises(GraphInputError, match="choose another batch_size"):
            train(TrainConfig(**options, epochs=6, batch_size=1), console=Console(file=StringIO()))
