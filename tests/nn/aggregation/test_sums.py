"""The sums by which GIN and GINE do without messages, against PyG's layers that make them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Identity, Linear, Module
from torch_geometric import EdgeIndex
from torch_geometric.nn import GINConv, GINEConv
from torch_geometric.utils import to_torch_csr_tensor

from distgnn.nn import DistributedGINConv, DistributedGINEConv
from distgnn.nn.aggregation import chunks as aggregate
from tests.nn.aggregation.pairs import PAIRS, both, inputs_for, layers, leaf, random_graph, results

sparse = pytest.mark.filterwarnings("ignore:Sparse (invariant checks|CSR tensor):UserWarning")


def distinct_edges() -> Tensor:
    cells: Tensor = torch.rand(50, 50) < 0.1
    return cells.nonzero().t().contiguous()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, Tensor]:
    """Graphs with isolated nodes, self loops and repeated edges, in any order or sorted by either end."""
    nodes = draw(st.integers(1, 8))
    edges = draw(st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=30))
    order = draw(st.sampled_from([None, 0, 1]))
    if order is not None:
        edges.sort(key=lambda edge: (edge[order], edge))
    return nodes, torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t().contiguous()


@both
@given(graph=graphs(), width=st.integers(1, 5), chunk=st.integers(1, 40), flow=st.booleans())
@settings(max_examples=80, deadline=None)
def test_outputs_and_gradients_are_pygs_on_any_graph(
    ours: type, pygs: type, graph: tuple[int, Tensor], width: int, chunk: int, flow: bool
) -> None:
    nodes, edge_index = graph
    inputs = inputs_for(ours, nodes, edge_index.size(1), width)
    conv, peer = layers(ours, pygs, flow="source_to_target" if flow else "target_to_source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "_CHUNK", chunk)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))


@both
@pytest.mark.usefixtures("no_messages", "small_chunks")
@pytest.mark.parametrize("sorted_by", [None, 0, 1, "stored by edge"])
def test_no_message_is_made(ours: type, pygs: type, sorted_by: Any) -> None:
    edge_index = random_graph()
    if sorted_by == "stored by edge":
        edge_index = edge_index.t().contiguous().t()
    elif sorted_by is not None:
        edge_index = edge_index[:, edge_index[sorted_by].argsort(stable=True)]
    inputs = inputs_for(ours, 50, 300)
    out = results(layers(ours, pygs)[0], edge_index, inputs)[0]
    messages = inputs[0][edge_index[0]]
    if len(inputs) == 2:
        messages = (messages + inputs[1]).relu()
    expected = torch.zeros(50, 3, dtype=torch.float64).index_add(0, edge_index[1], messages) + inputs[0]
    torch.testing.assert_close(out, expected)


@both
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [
        (torch.float64, 1e-12, 1e-12),
        (torch.float32, 1e-5, 1e-5),
        (torch.bfloat16, 3e-2, 1e-1),
        (torch.float16, 5e-3, 2e-2),
    ],
)
def test_each_float_type_gives_what_pyg_gives(
    ours: type, pygs: type, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    edge_index = random_graph()
    inputs = inputs_for(ours, 50, 300, 20, dtype=dtype)
    conv, peer = (conv.to(dtype) for conv in layers(ours, pygs))
    actual, expected = results(conv, edge_index, inputs), results(peer, edge_index, inputs)
    torch.testing.assert_close(actual[:-1], expected[:-1], rtol=rtol, atol=atol)
    torch.testing.assert_close(actual[-1], expected[-1], rtol=rtol, atol=atol * 20)  # eps: a sum over all nodes


def test_a_big_sum_in_float32_differs_from_pygs_by_rounding_alone() -> None:
    edge_index, x, edge_attr = random_graph(3000, 40_000), torch.randn(3000, 24), torch.randn(40_000, 24)
    x.requires_grad_()
    edge_attr.requires_grad_()
    actual, expected = (results(conv(Identity()), edge_index, (x,)) for conv in PAIRS[0])
    torch.testing.assert_close(actual, expected)
    actual, expected = (results(conv(Identity()), edge_index, (x, edge_attr)) for conv in PAIRS[1])
    torch.testing.assert_close(actual[0], expected[0])
    for ours, pygs in zip(actual[1:], expected[1:], strict=True):
        assert ours is not None
        assert pygs is not None
        # A sum that rounds to either side of zero passes its gradient or does not.
        assert int((~torch.isclose(ours, pygs, rtol=1e-4, atol=1e-5)).sum()) <= 5


@both
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_a_fixed_eps_weighs_the_node_itself_and_outputs_may_be_changed_in_place(
    ours: type, pygs: type, eps: float
) -> None:
    edge_index, inputs, found = random_graph(), inputs_for(ours, 50, 300), []
    for conv in (ours(Identity(), eps).double(), pygs(Identity(), eps).double()):
        out = conv(inputs[0], edge_index, *inputs[1:]).mul_(3)
        found.append((out, torch.autograd.grad(out.square().sum(), inputs)))
    torch.testing.assert_close(found[0], found[1])


@both
@pytest.mark.parametrize("frozen", ["x", "edge_attr"])
@pytest.mark.usefixtures("small_chunks")
def test_an_input_that_needs_no_gradient_gets_none(ours: type, pygs: type, frozen: str) -> None:
    inputs = [t.detach().requires_grad_() for t in inputs_for(ours, 50, 300)]
    inputs[0 if frozen == "x" else -1].requires_grad_(False)
    edge_index = random_graph()
    conv, peer = layers(ours, pygs, Linear(3, 4))
    torch.testing.assert_close(results(conv, edge_index, (*inputs,)), results(peer, edge_index, (*inputs,)))


@pytest.mark.usefixtures("no_messages", "small_chunks")
def test_gradients_of_gradients_are_those_of_finite_differences() -> None:
    edge_index = torch.tensor([[0, 1, 2, 2, 3, 0], [1, 1, 0, 3, 0, 1]])
    gin, gine = DistributedGINConv(Identity()).double(), DistributedGINEConv(Identity()).double()
    x, edge_attr = leaf(4, 2), leaf(6, 2)
    for conv, inputs in ((gin, (x,)), (gine, (x, edge_attr))):

        def run(x: Tensor, *rest: Tensor, conv: Module = conv) -> Any:
            return conv(x, edge_index, *rest)

        assert torch.autograd.gradcheck(run, inputs)
        assert torch.autograd.gradgradcheck(run, inputs)


@both
def test_a_gradient_penalty_trains_as_with_pyg(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    slopes = []
    for conv in layers(ours, pygs, Linear(3, 4).double()):
        out = conv(inputs[0], edge_index, *inputs[1:]).tanh()
        first = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        penalty = torch.stack([slope.square().sum() for slope in first]).sum()
        slopes.append(torch.autograd.grad(penalty, [*inputs, *conv.parameters()], allow_unused=True))
    torch.testing.assert_close(slopes[0], slopes[1])


@both
@pytest.mark.parametrize("size", [None, (50, 20)])
def test_bipartite_graphs_give_what_pyg_gives(ours: type, pygs: type, size: tuple[int, int] | None) -> None:
    edge_index = torch.stack((torch.randint(50, (300,)), torch.randint(20, (300,))))
    x, *rest = inputs_for(ours, 50, 300)
    y = leaf(20, 3)
    conv, peer = layers(ours, pygs)
    for pair in ((x, y), (x, None)):
        inputs = (pair, *rest)
        torch.testing.assert_close(
            results(conv, edge_index, inputs, size=size), results(peer, edge_index, inputs, size=size)
        )


def test_edge_features_of_another_width_are_mapped_first() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3), leaf(300, 7)
    peer = GINEConv(Linear(3, 4), edge_dim=7).double()
    conv = DistributedGINEConv(Linear(3, 4), edge_dim=7).double()
    conv.load_state_dict(peer.state_dict())
    torch.testing.assert_close(results(conv, edge_index, (x, edge_attr)), results(peer, edge_index, (x, edge_attr)))


def test_inputs_of_two_float_types_sum_in_the_wider_one() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3, dtype=torch.float32), leaf(300, 3)
    conv, peer = DistributedGINEConv(Identity()), GINEConv(Identity())
    torch.testing.assert_close(results(conv, edge_index, (x, edge_attr)), results(peer, edge_index, (x, edge_attr)))


@both
def test_autocast_gives_what_pyg_gives(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300, dtype=torch.float32)
    linear = Linear(3, 3)
    outputs = []
    for conv in layers(ours, pygs, Linear(3, 4)):
        conv.float()
        with torch.autocast("cpu", torch.bfloat16):
            out = conv(linear(inputs[0]), edge_index, *(linear(t) for t in inputs[1:]))
        outputs.append((out, torch.autograd.grad(out.sum(), inputs)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=2e-2, atol=5e-2)


@pytest.mark.usefixtures("no_messages", "small_chunks")
@pytest.mark.parametrize("sort_order", [None, "row", "col"])
def test_an_edge_index_of_pyg_is_summed_without_messages(sort_order: Any) -> None:
    edges = random_graph()
    if sort_order is not None:
        edges = edges[:, edges[0 if sort_order == "row" else 1].argsort()]
    edge_index = EdgeIndex(edges, sparse_size=(50, 50), sort_order=sort_order)
    for ours, _ in PAIRS:
        conv, inputs = ours(Identity()), inputs_for(ours, 50, 300)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(conv, edges, inputs))


@sparse
def test_a_csr_matrix_of_ones_is_summed_as_pyg_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    adj, x = to_torch_csr_tensor(distinct_edges(), size=(50, 50)).double(), leaf(50, 3)
    conv, peer = layers(*PAIRS[0])
    expected = results(peer, adj, (x,))
    monkeypatch.setattr(GINConv, "message_and_aggregate", None)
    torch.testing.assert_close(results(conv, adj, (x,)), expected)


@sparse
def test_a_csr_matrix_with_weights_is_multiplied_by_pyg() -> None:
    edge_index = distinct_edges()
    adj = to_torch_csr_tensor(edge_index, torch.rand(edge_index.size(1)).double(), size=(50, 50))
    conv, peer = layers(*PAIRS[0])
    x = leaf(50, 3)
    torch.testing.assert_close(results(conv, adj, (x,)), results(peer, adj, (x,)))
