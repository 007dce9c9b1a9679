"""Parts that do not fit the model, or each other, are refused before anything is exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import LayerNorm

from distgnn import ConfigError, DataFormatError, GraphInputError, GraphSpec, RowsError
from distgnn.graph import batch_halo, cut_part, load_part, neighbor_loader, partition_graph
from distgnn.nn import DistributedGIN, DistributedGINE, Halo, StoredActivation

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
    model = DistributedGIN(
        4, 8, num_layers=2, out_channels=2, **{"use_dist_tensor": True, "backend": memory_backend, **options}
    )
    model.set_num_embeddings(num_nodes=6) if "use_dist_embedding" in options else None
    given = {"x": part.x, "edge_index": part.edge_index, "node_ids": part.n_id, "halo": part.halo}
    with pytest.raises(GraphInputError, match=words):
        model(**(given | changed))


def test_edge_embeddings_need_the_ids_of_a_parts_edges(memory_backend: Backend) -> None:
    part = cut_part(ring(), PARTS, 0, 2)
    model = DistributedGINE(
        4,
        8,
        num_layers=2,
        use_dist_edge_embedding=True,
        edge_embedding_dim=3,
        use_dist_tensor=True,
        backend=memory_backend,
    )
    with pytest.raises(GraphInputError, match="pass edge_ids"):
        model(part.x, part.edge_index, halo=part.halo)


def test_a_norm_over_all_nodes_is_taken_where_one_part_is_all_of_them(memory_backend: Backend) -> None:
    graph = ring()
    part = cut_part(graph, torch.zeros(6, dtype=torch.int64), 0, 1)
    model = DistributedGIN(
        4, 8, num_layers=2, out_channels=2, norm=LayerNorm(8), use_dist_tensor=True, backend=memory_backend
    )
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


def test_kept_rows_are_for_the_same_halo_and_rows_of_the_same_shape_and_type(memory_backend: Backend) -> None:
    layer = StoredActivation(name="layer", backend=memory_backend, staleness=9)
    halo, other = (Halo(torch.arange(3), torch.tensor([1]), 4) for _ in range(2))

    def halos_row(fill: float, given: Halo = halo, width: int = 2, dtype: torch.dtype = torch.float32) -> float:
        rows = torch.full((3, width), fill, dtype=dtype, requires_grad=True)
        return float(layer.extend(rows, given).together()[-1, 0].detach())

    assert [halos_row(1.0), halos_row(2.0), halos_row(3.0)] == [1.0, 1.0, 1.0]
    assert [halos_row(4.0, other), halos_row(5.0, other)] == [4.0, 4.0]
    assert [halos_row(6.0, other, width=5), halos_row(7.0, other, width=5)] == [6.0, 6.0]
    assert [halos_row(8.0, dtype=torch.float64), halos_row(9.0, dtype=torch.float64)] == [8.0, 8.0]


def test_a_negative_staleness_is_refused() -> None:
    with pytest.raises(ValueError, match="halo_staleness is a number of forwards, at least 0, not -1"):
        DistributedGIN(4, 8, num_layers=2, out_channels=2, use_dist_tensor=True, halo_staleness=-1)


@pytest.mark.parametrize(("options", "hops"), [({}, 2), ({"disjoint": True}, 1), ({"subgraph_type": "induced"}, 1)])
def test_a_halo_is_made_of_batches_of_seeds_and_their_neighbors_alone(
    options: dict[str, Any], hops: int, memory_backend: Backend
) -> None:
    graph = memory_backend.open_graph(GraphSpec("ring", 6, 6), ring().edge_index)
    (batch,) = neighbor_loader((None, graph), [-1] * hops, PARTS[:2], batch_size=2, **options)
    with pytest.raises(GraphInputError, match=r"n_id and batch_size as neighbor_loader .* num_neighbors=\[-1\]"):
        batch_halo(batch, 6)


def test_inference_refreshes_layers_that_have_stores(memory_backend: Backend) -> None:
    graph = memory_backend.open_graph(GraphSpec("ring", 6, 6), ring().edge_index)
    with pytest.raises(GraphInputError, match=r"no layer outputs to refresh.*use_dist_tensor=True"):
        DistributedGIN(4, 8, num_layers=2, out_channels=2).inference(graph, refresh=True)
