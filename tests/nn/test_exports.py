"""Exported, compiled, traced and transformed models, where PyG's GIN can be, against PyG's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import Linear, Module
from torch_geometric.nn import GIN, to_hetero

from distgnn import GraphInputError
from distgnn.nn import DistributedGIN, DistributedGINConv, DistributedGINE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.usefixtures("memory_backend"),
    pytest.mark.filterwarnings("ignore"),  # the exporters' own, of their insides
]

X, EDGES, EDGE_ATTR = torch.randn(4, 8), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.randn(3, 5)
OTHER = torch.randn(6, 8), torch.tensor([[0, 5, 2, 3, 3], [1, 2, 3, 0, 5]]), torch.randn(5, 5)
TRACE: Any = torch.jit.trace
MODELS: dict[str, Callable[[], Any]] = {
    "GIN": lambda: DistributedGIN(8, 16, num_layers=2, out_channels=3),
    "GIN with norms and jk": lambda: DistributedGIN(8, 16, num_layers=2, out_channels=3, norm="batch_norm", jk="cat"),
    "GIN of the paper": lambda: DistributedGIN(8, 16, num_layers=2, norm="batch_norm", readout="layer_sum"),
    "GINE": lambda: DistributedGINE(8, 16, num_layers=2, out_channels=3, edge_dim=5),
}


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    return request.param().eval()


def inputs_of(model: Any, inputs: tuple[Any, ...] = (X, EDGES, EDGE_ATTR)) -> tuple[Any, ...]:
    return inputs if isinstance(model, DistributedGINE) else inputs[:2]


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_computes_the_same_for_graphs_of_other_sizes(model: Any, strict: bool) -> None:
    nodes, edges = torch.export.Dim("nodes", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: nodes}, {1: edges}, {0: edges})[: len(inputs_of(model))]
    exported = torch.export.export(model, inputs_of(model), dynamic_shapes=shapes, strict=strict).module()
    for inputs in (inputs_of(model), inputs_of(model, OTHER)):
        torch.testing.assert_close(exported(*inputs), model(*inputs))


def test_a_model_compiles_into_one_graph(model: Any) -> None:
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs_of(model)), model(*inputs_of(model)))


def test_a_traced_model_computes_the_same_for_other_graphs(model: Any) -> None:
    traced = TRACE(model, inputs_of(model))
    torch.testing.assert_close(traced(*inputs_of(model, OTHER)), model(*inputs_of(model, OTHER)))


def test_onnx_takes_a_model(model: Any) -> None:
    pytest.importorskip("onnxscript")
    program = torch.onnx.export(model, inputs_of(model), dynamo=True)
    assert program is not None


def test_what_torch_script_does_not_take_names_the_model_of_pyg_that_it_takes(model: Any) -> None:
    with pytest.raises(GraphInputError, match=r"GIN.* is no TorchScript: .*torch_geometric.nn.GIN"):
        torch.jit.script(model)
    with pytest.raises(GraphInputError, match="is no TorchScript"):
        torch.jit.script(torch.nn.Sequential(model))


def stored(**options: Any) -> Any:
    model = DistributedGIN(8, 16, num_layers=2, **options)
    model.set_num_embeddings(4)
    return model


def stored_layer() -> Any:
    conv = DistributedGINConv(Linear(8, 3), use_dist_embedding=True)
    conv.set_num_embeddings(4)
    return conv


STORED: dict[str, Callable[[], Any]] = {
    "embeddings": lambda: stored(use_dist_embedding=True),
    "layer outputs": lambda: stored(use_dist_tensor=True),
    "a layer": stored_layer,
}
EXPORTS: dict[str, Callable[[Module], Any]] = {
    "export": lambda model: torch.export.export(model, (X, EDGES), strict=False),
    "trace": lambda model: TRACE(model, (X, EDGES)),
    "script": torch.jit.script,
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
@pytest.mark.parametrize("make", STORED.values(), ids=STORED)
def test_rows_of_stores_are_not_frozen_into_a_graph_of_operations(
    make: Callable[[], Any], export: Callable[[Module], Any]
) -> None:
    with (
        torch.no_grad(),
        pytest.raises(GraphInputError, match=r"cannot be .*scripted: rows of stores|is no TorchScript"),
    ):
        export(make().eval())


def test_a_model_with_stored_layer_outputs_compiles_around_them() -> None:
    model = stored(use_dist_tensor=True, use_dist_embedding=True)
    compiled: Any = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(X, EDGES), model(X, EDGES))


TYPES = (["a", "b"], [("a", "to", "b"), ("b", "to", "a"), ("a", "like", "a")])
BY_TYPE = {
    "x": {"a": torch.randn(4, 8), "b": torch.randn(3, 8)},
    "edge_index": {
        ("a", "to", "b"): torch.tensor([[0, 1, 3], [2, 0, 1]]),
        ("b", "to", "a"): torch.tensor([[0, 2, 2], [3, 0, 1]]),
        ("a", "like", "a"): torch.tensor([[0, 1, 3], [2, 0, 1]]),
    },
}


@pytest.mark.parametrize("jk", [None, "last", "cat"])
@pytest.mark.parametrize("norm", [None, "batch_norm", "layer_norm"])
@pytest.mark.parametrize("aggr", ["sum", "mean"])
def test_to_hetero_makes_of_our_model_what_it_makes_of_pygs(aggr: str, norm: str | None, jk: str | None) -> None:
    options: dict[str, Any] = {"num_layers": 2, "out_channels": 3, "norm": norm, "jk": jk}
    pygs, ours = (to_hetero(model(8, 16, **options), TYPES, aggr) for model in (GIN, DistributedGIN))
    ours.load_state_dict(pygs.state_dict())
    out, expected = ours(BY_TYPE["x"], BY_TYPE["edge_index"]), pygs(BY_TYPE["x"], BY_TYPE["edge_index"])
    torch.testing.assert_close(out, expected)
    for outputs in (out, expected):
        sum(rows.square().sum() for rows in outputs.values()).backward()
    gradients = [{name: weight.grad for name, weight in model.named_parameters()} for model in (ours, pygs)]
    torch.testing.assert_close(*gradients)


def test_to_hetero_takes_features_of_edges_by_their_type() -> None:
    model = to_hetero(DistributedGINE(8, 16, num_layers=2, out_channels=3, edge_dim=5), TYPES)
    edge_attr = {kind: torch.randn(3, 5) for kind in TYPES[1]}
    out = model(BY_TYPE["x"], BY_TYPE["edge_index"], edge_attr=edge_attr)
    changed = {**edge_attr, ("a", "to", "b"): torch.randn(3, 5)}
    assert not torch.equal(out["b"], model(BY_TYPE["x"], BY_TYPE["edge_index"], edge_attr=changed)["b"])


@pytest.mark.parametrize("flag", ["use_dist_embedding", "use_dist_tensor"])
def test_to_hetero_of_a_model_with_stores_names_the_way(flag: str) -> None:
    options: dict[str, Any] = {flag: True}
    with pytest.raises(GraphInputError, match="give to_hetero a model without the use_dist_ flags"):
        to_hetero(DistributedGIN(8, 16, num_layers=2, **options), TYPES)


def test_a_model_by_types_pools_no_graphs_in_silence() -> None:
    model = to_hetero(DistributedGIN(8, 16, num_layers=2), TYPES)
    batch = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 1])}
    with pytest.raises(GraphInputError, match="pool those of each type yourself"):
        model(BY_TYPE["x"], BY_TYPE["edge_index"], batch=batch)
