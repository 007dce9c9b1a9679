"""Models by ``init_conv``: GraphSAGE equals PyG's, and any layer over pairs can be run layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.nn import GATConv, GCNConv, GraphSAGE, MessagePassing

import distgnn
from distgnn.errors import GraphInputError
from distgnn.graph import weighted_messages
from distgnn.nn import MODELS, DistributedGNN, DistributedSAGE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distgnn.storage.protocols import GraphStore

NUM_NODES = 40
EDGES = torch.randint(0, NUM_NODES, (2, 200), generator=torch.Generator().manual_seed(0))
X = torch.randn(NUM_NODES, 5, generator=torch.Generator().manual_seed(1))


class GAT(DistributedGNN):
    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        return GATConv(in_channels, out_channels, **kwargs)


class GCN(DistributedGNN):
    def init_conv(self, in_channels: int, out_channels: int, **kwargs: Any) -> MessagePassing:
        return GCNConv(in_channels, out_channels, **kwargs)


@pytest.fixture
def graph() -> Iterator[GraphStore]:
    with distgnn.use("memory") as backend:
        yield backend.open_graph(distgnn.GraphSpec("graph", NUM_NODES, EDGES.size(1)), EDGES)


@pytest.mark.parametrize("options", [{}, {"jk": "cat", "norm": "batch_norm"}, {"aggr": "max", "normalize": True}])
def test_sage_is_that_of_pyg(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    peer = GraphSAGE(5, 8, num_layers=2, out_channels=3, **options)
    torch.manual_seed(0)
    model = DistributedSAGE(5, 8, num_layers=2, out_channels=3, readout=None, **options)
    assert torch.equal(model(X, EDGES), peer(X, EDGES))
    model.load_state_dict(peer.state_dict())


@pytest.mark.parametrize("kind", [DistributedSAGE, GAT])
def test_a_layer_of_pyg_over_pairs_is_inferred_layer_by_layer(kind: type[DistributedGNN], graph: GraphStore) -> None:
    torch.manual_seed(0)
    model = kind(5, 8, num_layers=2, out_channels=3).eval()
    features = distgnn.get_backend().open_tensor(distgnn.TensorSpec("x", (NUM_NODES, 5)))
    features.write(torch.arange(NUM_NODES), X)
    outputs = model.inference(graph, features, batch_size=7, progress=False)
    assert torch.allclose(outputs.read(torch.arange(NUM_NODES)), model(X, EDGES), atol=1e-6)


def test_a_layer_that_may_look_at_degrees_of_sources_is_refused_in_parts(graph: GraphStore) -> None:
    model = GCN(5, 8, num_layers=2, out_channels=3)
    assert model(X, EDGES).shape == (NUM_NODES, 3)
    features = distgnn.get_backend().open_tensor(distgnn.TensorSpec("x", (NUM_NODES, 5)))
    with pytest.raises(GraphInputError, match=r"GCNConv takes one matrix .* such as SAGEConv"):
        model.inference(graph, features, progress=False)


def test_a_model_without_layers_says_what_to_override() -> None:
    with pytest.raises(NotImplementedError, match="override init_conv"):
        DistributedGNN(5, 8, num_layers=2)


def test_weights_that_make_sums_unbiased_are_refused_where_a_layer_takes_means() -> None:
    with (
        pytest.raises(GraphInputError, match="leave them out"),
        weighted_messages(DistributedSAGE(5, 8, num_layers=1), torch.ones(200)),
    ):
        pass


def test_the_table_of_models_has_the_names_of_the_option() -> None:
    assert {name: kind.__name__ for name, kind in MODELS.items()} == {
        "gin": "DistributedGIN",
        "gine": "DistributedGINE",
        "sage": "DistributedSAGE",
    }
    assert all(issubclass(kind, DistributedGNN) for kind in MODELS.values())
