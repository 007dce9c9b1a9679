"""Parts that do not fit the model, or each other, are refused before anything is exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import LayerNorm

from distgnn import ConfigError, DataFormatError, GraphInputError, RowsError
from distgnn.graph import cut_part, load_part, partition_graph
from distgnn.nn import DistributedGIN, DistributedGINE

if TYPE_CHECKING:
    from pathlib import Path

    from distgnn import Backend

PARTS = torch.tensor([0, 1, 0, 1, 0, 1])


def ring() -> Data:
    nodes = torch.arange(6)
    return Data(x=torch.randn(6, 4), edge_index=torch.stack([nodes, nodes.roll(-1)]))


@pytest.mark.parametrize(
    ("options", "changed", "words"),
    [
        ({"use_dist_tensor": False}, {}, "use_dist_tensor=True"),
        ({}, {"batch": torch.zeros(6, dtype=torch.int64)}, "leave one out"),
        ({}, {"x": torch.randn(7, 4)}, "7 rows of nodes for a part of 3 nodes and a halo of 3"),
        ({}, {"edge_index": torch.tensor([[0], [3]])}, "ends in node 3, and the part's own nodes end at 2"),
        ({"use_dist_embedding": True}, {"node_ids": None}, "pass node_ids"),
        ({"norm": "layer_norm"}, {}, "norms.0 is LayerNorm.*has one part of them"),
    ],
)
def test_a_model_says_what_a_part_lacks(
    options: dict[str, Any], changed: dict[str, Any], words: str, memory_backend: Backend
) -> None:
    part = cut_part(ring(), PARTS, 0, 2)
    model = DistributedGIN(4, 8, 2, 2, **{"use_dist_tensor": True, "backend": memory_backend, **options})
    model.set_num_embeddings(num_nodes=6) if "use_dist_embedding" in options else None
    given = {"x": part.x, "edge_index": part.edge_index, "node_ids": part.n_id, "halo": part.halo}
    with pytest.raises(GraphInputError, match=words):
        model(**(given | changed))


def test_edge_embeddings_need_the_ids_of_a_parts_edges(memory_backend: Backend) -> None:
    part = cut_part(ring(), PARTS, 0, 2)
    model = DistributedGINE(
        4, 8, 2, 2, use_dist_edge_embedding=True, edge_embedding_dim=3, use_dist_tensor=True, backend=memory_backend
    )
    with pytest.raises(GraphInputError, match="pass edge_ids"):
        model(part.x, part.edge_index, halo=part.halo)


def test_a_norm_over_all_nodes_is_taken_where_one_part_is_all_of_them(memory_backend: Backend) -> None:
    graph = ring()
    part = cut_part(graph, torch.zeros(6, dtype=torch.int64), 0, 1)
    model = DistributedGIN(4, 8, 2, 2, norm=LayerNorm(8), use_dist_tensor=True, backend=memory_backend)
    assert torch.allclose(model(part.x, part.edge_index, halo=part.halo), model(graph.x, graph.edge_index))


@pytest.mark.parametrize(
    ("parts", "part", "error", "words"),
    [
        (PARTS[:5], 0, RowsError, r"parts must be \[6\], the part from 0 to 1"),
        (PARTS + 1, 0, RowsError, "the part from 0 to 1 of each node"),
        (PARTS, 2, ConfigError, "there are parts 0 to 1, not 2"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(parts: torch.Tensor, part: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cut_part(ring(), parts, part, 2)


def test_a_graph_without_nodes_is_not_cut() -> None:
    with pytest.raises(DataFormatError, match="no graph to cut"):
        cut_part(Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=0), PARTS[:0], 0, 2)


def test_a_folder_of_two_parts_is_for_two_ranks(memory_backend: Backend, tmp_path: Path) -> None:
    partition_graph(ring(), tmp_path / "cut", 2, method="hash")
    with pytest.raises(ConfigError, match="has 2 parts, and backend 'memory' has 1 ranks"):
        load_part(tmp_path / "cut", backend=memory_backend)
