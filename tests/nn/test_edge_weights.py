"""Weights of edges through whole models, in every way that a graph reaches them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.loader import DataLoader

import distgnn
from distgnn import GraphInputError, GraphSpec
from distgnn.data import generate_graph
from distgnn.graph import neighbor_loader, open_in_degrees
from distgnn.nn import DistributedGIN, DistributedGINE, DistributedGNN, DistributedSAGE
from distgnn.nn.aggregation import layout
from distgnn.train.steps import outputs

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.usefixtures("memory_backend")
GRAPH = generate_graph(40, 200, seed=0)
EDGES = GRAPH.edge_index
X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.rand(EDGES.size(1), generator=torch.Generator().manual_seed(1))
ATTR = torch.randn(EDGES.size(1), 2, generator=torch.Generator().manual_seed(2))


def make(kind: type[DistributedGNN], **options: Any) -> DistributedGNN:
    torch.manual_seed(0)
    options |= {"edge_dim": 2} if kind is DistributedGINE else {}
    return kind(5, 8, num_layers=2, out_channels=3, **options)


def by_hand(model: DistributedGNN, weight: Tensor) -> Tensor:
    """Compute what a model of two layers does, from sums that are written down here."""
    h = X
    convs: Any = model.convs
    for index, conv in enumerate(convs):
        messages = h[EDGES[0]]
        if isinstance(model, DistributedGINE):
            messages = (messages + conv.lin(ATTR)).relu()
        h = conv.nn(h + torch.zeros_like(h).index_add(0, EDGES[1], weight[:, None] * messages))
        h = h.relu() if index == 0 else h
    return h


both = pytest.mark.parametrize("kind", [DistributedGIN, DistributedGINE])


@both
@pytest.mark.parametrize("fast", [False, True])
def test_every_layer_multiplies_its_messages(
    kind: type[DistributedGNN], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 0 if fast else 10**9)
    model = make(kind)
    torch.testing.assert_close(model(X, EDGES, ATTR, edge_weight=WEIGHT), by_hand(model, WEIGHT))
    torch.testing.assert_close(
        model(X, EDGES, ATTR, edge_weight=torch.ones_like(WEIGHT)), model(X, EDGES, ATTR), msg="weights of 1"
    )


@both
def test_inference_by_layers_takes_weights_from_a_store(kind: type[DistributedGNN]) -> None:
    backend = distgnn.get_backend()
    model = make(kind).eval()
    graph = backend.open_graph(GraphSpec("graph", 40, EDGES.size(1)), EDGES)
    stores = {}
    for name, rows in {"x": X, "edge_attr": ATTR, "weight": WEIGHT}.items():
        stores[name] = backend.open_tensor(distgnn.TensorSpec(name, tuple(rows.shape), rows.dtype))
        stores[name].write(torch.arange(len(rows)), rows)
    features = stores["edge_attr"] if kind is DistributedGINE else None
    found = model.inference(
        graph, stores["x"], edge_features=features, edge_weights=stores["weight"], batch_size=7, progress=False
    )
    torch.testing.assert_close(found.read(torch.arange(40)), model(X, EDGES, ATTR, edge_weight=WEIGHT))
    with pytest.raises(GraphInputError, match="DistributedSAGE does not take edge_weight: leave edge_weights out"):
        make(DistributedSAGE).inference(graph, stores["x"], edge_weights=stores["weight"])


def test_samples_are_trimmed_with_their_weights() -> None:
    backend = distgnn.get_backend()
    graph = backend.open_graph(GraphSpec("graph", 40, EDGES.size(1)), EDGES)
    loader = neighbor_loader((None, graph), [3, 3], batch_size=10, in_degrees=open_in_degrees(graph))
    model = make(DistributedGIN)
    for batch in loader:
        x = X[batch.n_id]
        hops = {
            "num_sampled_nodes_per_hop": batch.num_sampled_nodes,
            "num_sampled_edges_per_hop": batch.num_sampled_edges,
        }
        seeds = slice(batch.batch_size)
        trimmed = model(x, batch.edge_index, edge_weight=batch.edge_weight, **hops)
        torch.testing.assert_close(trimmed[seeds], model(x, batch.edge_index, edge_weight=batch.edge_weight)[seeds])


def test_training_gives_a_models_layers_the_weights_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 0)
    model = make(DistributedGIN)
    data = next(iter(DataLoader([GRAPH.clone()])))
    data.x, data.edge_weight, data.batch = X, WEIGHT, None
    data.edge_attr, data.n_id, data.e_id = None, torch.arange(40), torch.arange(EDGES.size(1))

    def message(*_: Any, **__: Any) -> Any:
        raise AssertionError("messages are made")

    with monkeypatch.context() as patch:
        patch.setattr("torch_geometric.nn.GINConv.message", message)
        torch.testing.assert_close(outputs(model, data), by_hand(model, WEIGHT))
    with pytest.raises(GraphInputError, match="DistributedSAGE does not take edge_weight"):
        outputs(make(DistributedSAGE), data)


def test_an_explainer_masks_weighted_messages() -> None:
    model = make(DistributedGIN).eval()
    explainer = Explainer(
        model,
        GNNExplainer(epochs=2),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"},
    )
    mask = torch.rand_like(WEIGHT)
    found = explainer.get_masked_prediction(X, EDGES, edge_mask=mask, edge_weight=WEIGHT)
    torch.testing.assert_close(found, by_hand(model, WEIGHT * mask))
    assert explainer(X, EDGES, edge_weight=WEIGHT, index=0).edge_mask.shape == WEIGHT.shape


def test_weights_can_be_learned() -> None:
    model, weight = make(DistributedGINE), WEIGHT.clone().requires_grad_()
    out = model(X, EDGES, ATTR, edge_weight=weight)
    expected = torch.autograd.grad(by_hand(model, weight).square().sum(), weight)[0]
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), weight)[0], expected, rtol=1e-4, atol=1e-4)
