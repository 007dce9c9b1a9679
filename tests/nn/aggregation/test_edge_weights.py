"""Weights of edges in the sums of layers; PyG's message passing with weights in its messages is the oracle."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Identity, Module
from torch_geometric.nn import GraphConv, MessagePassing

from distgnn import GraphInputError
from distgnn.nn import DistributedGINConv, DistributedGINEConv
from distgnn.nn.aggregation import layout
from tests.nn.aggregation.pairs import inputs_for, leaf, random_graph, results


class WeightedGINConv(MessagePassing):
    def __init__(self, nn: Module, eps: float = 0.0, train_eps: bool = False) -> None:
        super().__init__(aggr="add")
        self.nn, self.eps = nn, torch.nn.Parameter(torch.tensor([eps]), requires_grad=train_eps)

    def forward(self, x: Any, edge_index: Any, edge_weight: Any = None) -> Any:
        ends = (x, x) if isinstance(x, Tensor) else x
        out = self.propagate(edge_index, x=ends, edge_weight=edge_weight, size=None)
        return self.nn(out if ends[1] is None else out + (1 + self.eps) * ends[1])

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j


class WeightedGINEConv(WeightedGINConv):
    def forward(  # type: ignore[override]
        self, x: Any, edge_index: Any, edge_attr: Any = None, edge_weight: Any = None
    ) -> Any:
        ends = (x, x) if isinstance(x, Tensor) else x
        out = self.propagate(edge_index, x=ends, edge_attr=edge_attr, edge_weight=edge_weight, size=None)
        return self.nn(out if ends[1] is None else out + (1 + self.eps) * ends[1])

    def message(self, x_j: Tensor, edge_attr: Tensor, edge_weight: Tensor) -> Tensor:  # type: ignore[override]
        return edge_weight.view(-1, 1) * (x_j + edge_attr).relu()


PAIRS = [(DistributedGINConv, WeightedGINConv), (DistributedGINEConv, WeightedGINEConv)]
both = pytest.mark.parametrize(("ours", "pygs"), PAIRS, ids=["GIN", "GINE"])


def assert_equal(ours: Any, pygs: Any, edge_index: Any, inputs: Any, weight: Tensor, **options: Any) -> None:
    found = results(ours, edge_index, inputs, edge_weight=weight, **options)
    expected = results(pygs, edge_index, inputs, edge_weight=weight, **options)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0] is not None
    slopes = torch.sin(torch.arange(found[0].numel(), dtype=found[0].dtype)).view(found[0].shape)
    x, *rest = inputs
    if weight.requires_grad:
        by_weight = [
            torch.autograd.grad(conv(x, edge_index, *rest, edge_weight=weight, **options), weight, slopes)[0]
            for conv in (ours, pygs)
        ]
        torch.testing.assert_close(*by_weight)


@both
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("eps", [False, True])
@pytest.mark.usefixtures("no_messages", "small_chunks")
def test_outputs_and_gradients_equal_pygs_without_messages(ours: Any, pygs: Any, learned: bool, eps: bool) -> None:
    layer, other = ours(Identity(), eps=0.3, train_eps=eps).double(), pygs(Identity(), eps=0.3, train_eps=eps).double()
    weight = torch.rand(300, dtype=torch.float64, requires_grad=learned)
    for edges in (random_graph(), random_graph().sort(dim=1).values):
        assert_equal(layer, other, edges, inputs_for(ours, 50, 300), weight)


@both
def test_inputs_of_every_kind_give_pygs_results(ours: Any, pygs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, other = ours(Identity()), pygs(Identity())
    weight = torch.rand(300, requires_grad=True)
    x, *rest = inputs_for(ours, 50, 300, dtype=torch.float32)
    for least in (0, 10**9):  # by the fast sums, and by PyG's messages
        monkeypatch.setattr(layout, "_WORTHWHILE", least)
        for sources in (x, (x, x), (x, leaf(50, 3, dtype=torch.float32)), (x, None)):
            assert_equal(layer, other, random_graph(), (sources, *rest), weight)
    half = [one.detach().bfloat16() for one in (x, *rest)]
    found = layer(half[0], random_graph(), *half[1:], edge_weight=weight)
    assert found.dtype == torch.float32, "a message is of the type of row and weight together, as PyG's"


@both
@pytest.mark.usefixtures("no_messages")
def test_gradients_of_gradients_are_right(ours: Any, pygs: Any) -> None:
    del pygs
    layer = ours(Identity()).double()
    edges = random_graph(6, 14)
    inputs = [one.detach().add(0.1).requires_grad_() for one in inputs_for(ours, 6, 14, width=2)]
    weight = torch.rand(14, dtype=torch.float64, requires_grad=True)

    def run(weight: Tensor, x: Tensor, *rest: Tensor) -> Any:
        return layer(x, edges, *rest, edge_weight=weight)

    assert torch.autograd.gradcheck(run, (weight, *inputs))
    assert torch.autograd.gradgradcheck(run, (weight, *inputs))


def test_a_weighted_sum_is_that_of_pygs_graph_conv() -> None:
    conv = GraphConv(3, 3, bias=False)
    with torch.no_grad():
        conv.lin_rel.weight.copy_(torch.eye(3))
        conv.lin_root.weight.copy_(torch.eye(3))
    edges, x, weight = random_graph(), torch.randn(50, 3), torch.rand(300)
    torch.testing.assert_close(
        DistributedGINConv(Identity())(x, edges, edge_weight=weight), conv(x, edges, edge_weight=weight)
    )


class Doubled(DistributedGINConv):
    def message(self, x_j: Tensor) -> Tensor:
        return 2 * x_j


class OfSources(DistributedGINEConv):
    def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        del edge_attr
        return 2 * x_j


class OwnSum(DistributedGINConv):
    def aggregate(self, inputs: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros(50, 3, dtype=inputs.dtype).index_add(0, index, inputs)


def test_messages_of_a_users_own_are_weighted_and_a_sum_of_her_own_says_that_it_is_not() -> None:
    edges, x, weight = random_graph(), torch.randn(50, 3), torch.rand(300)
    expected = x + torch.zeros_like(x).index_add(0, edges[1], 2 * weight[:, None] * x[edges[0]])
    torch.testing.assert_close(Doubled(Identity())(x, edges, edge_weight=weight), expected)
    torch.testing.assert_close(OfSources(Identity())(x, edges, torch.ones(300, 3), edge_weight=weight), expected)
    torch.testing.assert_close(OwnSum(Identity())(x, edges), DistributedGINConv(Identity())(x, edges))
    with pytest.raises(GraphInputError, match=r"aggregate\(\) does not take edge_weight"):
        OwnSum(Identity())(x, edges, edge_weight=weight)


@both
def test_hooks_see_messages_and_weights_stay(ours: Any, pygs: Any) -> None:
    edges, inputs, weight = random_graph(), inputs_for(ours, 50, 300), torch.rand(300, dtype=torch.float64)
    layer, other = ours(Identity()).double(), pygs(Identity()).double()
    for conv in (layer, other):
        conv.register_message_forward_hook(lambda _conv, _inputs, messages: 3 * messages)
    assert_equal(layer, other, edges, inputs, weight)


@both
def test_a_compiled_layer_takes_weights(ours: Any, pygs: Any) -> None:
    edges, (x, *rest), weight = random_graph(), inputs_for(ours, 50, 300, dtype=torch.float32), torch.rand(300)
    compiled: Any = torch.compile(ours(Identity()), fullgraph=True, backend="eager")
    expected = pygs(Identity())(x, edges, *rest, edge_weight=weight)
    torch.testing.assert_close(compiled(x, edges, *rest, edge_weight=weight), expected)


@both
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (
            torch.ones(299),
            r"must be floating point numbers of shape \[300\], one an edge, not torch.float32 of \[299\]",
        ),
        (torch.ones(300, 1), r"of shape \[300\], one an edge, not torch.float32 of \[300, 1\]"),
        (torch.ones(300, dtype=torch.int64), "one an edge, not torch.int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused(ours: Any, pygs: Any, weight: Tensor, words: str) -> None:
    del pygs
    x, *rest = inputs_for(ours, 50, 300)
    with pytest.raises(GraphInputError, match=words):
        ours(Identity())(x, random_graph(), *rest, edge_weight=weight)
    with warnings.catch_warnings():  # torch's csr is in beta
        warnings.simplefilter("ignore")
        sparse = torch.sparse_coo_tensor(random_graph(), torch.ones(300), (50, 50)).to_sparse_csr()
    with pytest.raises(GraphInputError, match="not with a sparse matrix"):
        ours(Identity())(x, sparse, *rest, edge_weight=torch.ones(300))
