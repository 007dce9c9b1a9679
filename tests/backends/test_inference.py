"""Layer-wise inference over a backend of several ranks, at whatever world size this file is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from distgnn import GraphSpec, TensorSpec
from distgnn.nn import DistributedGINE

if TYPE_CHECKING:
    from tests.faults.failing_rank import SpreadBackend


@pytest.mark.parametrize("num_nodes", [2, 50])
@pytest.mark.parametrize("jk", [None, "cat"])
def test_every_rank_reads_the_outputs_of_the_full_graph(backend: SpreadBackend, jk: str | None, num_nodes: int) -> None:
    torch.manual_seed(0)
    x, edge_attr = torch.randn(num_nodes, 4), torch.randn(300, 2)
    edge_index = torch.randint(num_nodes, (2, 300))
    model = DistributedGINE(
        4,
        8,
        num_layers=3,
        out_channels=3,
        edge_dim=2,
        jk=jk,
        use_dist_embedding=True,
        use_dist_edge_embedding=True,
        backend=backend,
    )
    model.set_num_embeddings(num_nodes=num_nodes, num_edges=300)
    expected = model(x, edge_index, edge_attr)
    graph = backend.open_graph(GraphSpec("graph", num_nodes, 300), edge_index)
    features, edge_features = (
        backend.open_tensor(TensorSpec(name, tuple(rows.shape))) for name, rows in (("x", x), ("edges", edge_attr))
    )
    features.write(torch.arange(num_nodes), x)
    edge_features.write(torch.arange(300), edge_attr)
    out = model.inference(graph, features, edge_features=edge_features, batch_size=7, backend=backend, progress=False)
    assert torch.allclose(out.read(torch.arange(num_nodes)), expected, rtol=1e-5, atol=1e-5)
