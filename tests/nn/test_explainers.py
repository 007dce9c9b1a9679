"""Explainers of PyG on our layers and models, against the same on PyG's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.explain import (
    DummyExplainer,
    Explainer,
    GNNExplainer,
    GraphMaskExplainer,
    PGExplainer,
    fidelity,
    unfaithfulness,
)
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import GIN

from distgnn import GraphInputError
from distgnn.graph import batch_halo, cut_part
from distgnn.nn import DistributedGIN, DistributedGINConv

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning"),
]

X, EDGES, ZEROS = torch.randn(30, 8), torch.randint(30, (2, 120)), torch.zeros(120)
CONFIG: dict[str, Any] = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}


@pytest.fixture
def models() -> tuple[GIN, DistributedGIN]:
    torch.manual_seed(0)
    pygs, ours = GIN(8, 16, 2, 3), DistributedGIN(8, 16, num_layers=2, out_channels=3)
    ours.load_state_dict(pygs.state_dict())
    return pygs, ours


@pytest.mark.parametrize("order", ["pygs", "ours", "pygs,ours,pygs", "ours,pygs,ours"])
def test_masks_are_seen_whichever_layers_a_process_makes_first(order: str) -> None:
    script = Path(__file__).with_name("explain_in_order.py")
    done = subprocess.run([sys.executable, str(script), order], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def explainer(model: Any, algorithm: Any, kind: str = "model", **masks: str) -> Explainer:
    return Explainer(
        model, algorithm, explanation_type=kind, model_config=CONFIG, **(masks or {"edge_mask_type": "object"})
    )


def by_gnn_explainer(model: Any) -> list[Tensor]:
    masks = {"edge_mask_type": "object", "node_mask_type": "attributes"}
    explanation = explainer(model, GNNExplainer(epochs=10), **masks)(X, EDGES, index=3)
    return [explanation.edge_mask, explanation.node_mask]


def by_pg_explainer(model: Any) -> list[Tensor]:
    algorithm = PGExplainer(epochs=3)
    explain, target = explainer(model, algorithm, "phenomenon"), model(X, EDGES).argmax(-1)
    for epoch in range(3):
        algorithm.train(epoch, model, X, EDGES, target=target, index=3)
    return [explain(X, EDGES, target=target, index=3).edge_mask]


def by_metrics(model: Any) -> list[Tensor]:
    explain = explainer(model, DummyExplainer())
    explanation = explain(X, EDGES)
    masked = explain.get_masked_prediction(X, EDGES, edge_mask=ZEROS)
    assert not torch.equal(masked, explain.get_prediction(X, EDGES))
    return [masked, torch.tensor([unfaithfulness(explain, explanation), *fidelity(explain, explanation)])]


def by_captum(model: Any) -> list[Tensor]:
    captum = pytest.importorskip("torch_geometric.explain.algorithm.captum_explainer").CaptumExplainer
    pytest.importorskip("captum")
    return [explainer(model, captum("ShapleyValueSampling"))(X, EDGES, index=torch.tensor([3])).edge_mask]


@pytest.mark.parametrize("explain", [by_gnn_explainer, by_pg_explainer, by_metrics, by_captum])
def test_an_explainer_finds_in_our_model_what_it_finds_in_pygs(
    models: tuple[GIN, DistributedGIN], explain: Any
) -> None:
    found = []
    for model in models:
        torch.manual_seed(1)
        found.append(explain(model))
    torch.testing.assert_close(found[1], found[0])
    assert found[1][0].std() > 0


def test_graph_mask_explains_layers_whose_messages_are_as_wide_as_their_outputs() -> None:
    found = []
    for make in (GIN, DistributedGIN):
        torch.manual_seed(0)
        model: Any = make(8, 8, num_layers=2, out_channels=8)
        for conv in model.convs:  # PyG's GINConv lacks what the algorithm asks for
            conv.in_channels = conv.out_channels = 8
        masks = {"edge_mask_type": "object", "node_mask_type": "attributes"}
        algorithm = GraphMaskExplainer(2, epochs=3, log=False)
        found.append(explainer(model, algorithm, **masks)(X, EDGES, index=3).edge_mask)
    torch.testing.assert_close(found[1], found[0])
    assert found[1].std() > 0


@pytest.mark.parametrize("nodes", [30, 3000], ids=["small", "summed without messages"])
def test_masks_take_effect_where_messages_are_otherwise_not_made(nodes: int) -> None:
    x, edges = torch.randn(nodes, 8), torch.randint(nodes, (2, 40 * nodes))
    pygs, ours = GIN(8, 16, 2, 3), DistributedGIN(8, 16, num_layers=2, out_channels=3)
    ours.load_state_dict(pygs.state_dict())
    half = (torch.arange(edges.size(1)) % 2).float()
    for model in (ours, pygs):
        set_masks(model, half, edges, apply_sigmoid=False)
    masked, expected = ours(x, edges), pygs(x, edges)
    for model in (ours, pygs):
        clear_masks(model)
    torch.testing.assert_close(masked, expected)
    torch.testing.assert_close(masked, ours(x, edges[:, half == 1]))
    torch.testing.assert_close(ours(x, edges), pygs(x, edges))


def test_a_users_layer_is_masked_whether_it_changes_its_messages_or_not() -> None:
    class Kept(DistributedGINConv):
        pass

    class Doubled(DistributedGINConv):
        def message(self, x_j: Tensor) -> Tensor:
            return 2 * x_j

    class Grandchild(Doubled):
        pass

    for cls, times in ((Grandchild, 2), (Kept, 1), (Doubled, 2), (Grandchild, 2)):
        conv: Any = cls(torch.nn.Identity())
        for mask in (ZEROS, torch.ones(120)):
            conv.explain, conv._edge_mask, conv._apply_sigmoid = True, mask, False
            expected = torch.zeros_like(X).index_add(0, EDGES[1], mask[:, None] * times * X[EDGES[0]])
            torch.testing.assert_close(conv(X, EDGES), X + expected)


def test_a_model_with_stored_embeddings_is_explained_through_its_features() -> None:
    model = DistributedGIN(8, 16, num_layers=2, out_channels=3, use_dist_embedding=True, embedding_std=1.0)
    model.set_num_embeddings(30)
    explain = explainer(model, GNNExplainer(epochs=5))
    assert explain(X, EDGES, index=3).edge_mask.std() > 0
    alone = torch.empty(2, 0, dtype=torch.int64)
    torch.testing.assert_close(explain.get_masked_prediction(X, EDGES, edge_mask=ZEROS), model(X, alone))


def test_masked_outputs_of_layers_are_not_written_where_other_batches_read_them() -> None:
    model = DistributedGIN(8, 16, num_layers=2, out_channels=3, use_dist_tensor=True)
    model(X, EDGES)
    stores: list[Any] = [layer.store for layer in model.activations]
    before = [store.read(torch.arange(30)).clone() for store in stores]
    explain = explainer(model, DummyExplainer())
    masked = explain.get_masked_prediction(X, EDGES, edge_mask=ZEROS)
    torch.testing.assert_close(masked, model.combine([model(X, EDGES[:, :0])]))
    model(X, EDGES)
    explain.get_masked_prediction(X, EDGES, edge_mask=ZEROS)
    after = [store.read(torch.arange(30)) for store in stores]
    torch.testing.assert_close(after, before)


def test_a_part_of_a_graph_is_masked_by_its_own_edges_and_a_batch_with_a_history_not_at_all() -> None:
    model = DistributedGIN(8, 16, num_layers=2, out_channels=3, use_dist_tensor=True).eval()
    graph = Data(x=X, edge_index=EDGES)
    part = cut_part(graph, torch.zeros(30, dtype=torch.int64), 0, 1)
    mask = torch.rand(120)
    set_masks(model, mask, part.edge_index, apply_sigmoid=False)
    masked = model(part.x, part.edge_index, halo=part.halo)
    torch.testing.assert_close(masked, model(part.x, part.edge_index))
    batch = Data(n_id=torch.arange(30), batch_size=10, num_sampled_nodes=[10, 20], edge_index=EDGES[:, EDGES[1] < 10])
    halo = batch_halo(batch, 30)
    with pytest.raises(GraphInputError, match="masks would go into the layer outputs that other batches read"):
        model(X, batch.edge_index, halo=halo)
