"""Where somebody looks into the messages, or the input is none for sums, the layers are PyG's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad as fwad
from torch.nn import Identity, Module
from torch_geometric.nn import GINConv

from distgnn.nn import DistributedGINConv
from tests.nn.aggregation.pairs import PAIRS, both, inputs_for, layers, leaf, random_graph, results


def hooked(conv: Any, kind: str) -> Any:
    getattr(conv, f"register_{kind}_forward_hook")(lambda *arguments: 3 * arguments[-1])
    return conv


def pre_hooked(conv: Any, kind: str) -> Any:
    def hook(_: Any, inputs: Any) -> Any:
        arguments = dict(inputs[-1])
        name, value = next(iter(arguments.items()))
        arguments[name] = tuple(2 * end for end in value) if isinstance(value, tuple) else 2 * value
        return (*inputs[:-1], arguments)

    getattr(conv, f"register_{kind}_forward_pre_hook")(hook)
    return conv


def watched(conv: Any) -> Any:
    conv.aggr_module.register_forward_hook(lambda _, __, out: 7 * out)
    return conv


def explained(conv: Any) -> Any:
    conv.explain = True
    conv._edge_mask = torch.zeros(300, dtype=torch.float64)
    return conv


def with_its_own_message(conv: Any) -> Any:
    conv.message = lambda x_j: 5 * x_j
    return conv


LOOKED_INTO = {
    "mean": lambda base: base(Identity(), aggr="mean"),
    "propagate hook": lambda base: hooked(base(Identity()), "propagate"),
    "message hook": lambda base: hooked(base(Identity()), "message"),
    "aggregate hook": lambda base: hooked(base(Identity()), "aggregate"),
    "propagate pre-hook": lambda base: pre_hooked(base(Identity()), "propagate"),
    "message pre-hook": lambda base: pre_hooked(base(Identity()), "message"),
    "hook of the aggregation": lambda base: watched(base(Identity())),
    "explainer": lambda base: explained(base(Identity())),
    "message of the object": lambda base: with_its_own_message(base(Identity())),
}


@pytest.mark.parametrize("make", LOOKED_INTO.values(), ids=LOOKED_INTO)
def test_a_layer_that_is_looked_into_or_set_up_otherwise_stays_pygs(make: Any) -> None:
    edge_index, inputs = random_graph(), (leaf(50, 3),)
    pair = []
    for base in PAIRS[0]:
        torch.manual_seed(1)
        pair.append(results(make(base).double(), edge_index, inputs))
    torch.testing.assert_close(*pair)


class Doubled(DistributedGINConv):
    def message(self, x_j: Tensor) -> Tensor:
        return 2 * x_j


class Negated(DistributedGINConv):
    def update(self, inputs: Tensor) -> Tensor:
        return -inputs


class Shifted(DistributedGINConv):
    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int | None = None) -> Tensor:  # type: ignore[override]
        return 1 + torch.zeros(dim_size or 0, 3, dtype=inputs.dtype).index_add(0, index, inputs)


class Constant(DistributedGINConv):
    def propagate(self, edge_index: Tensor, size: Any = None, **kwargs: Any) -> Tensor:
        return torch.ones_like(kwargs["x"][0])


def test_a_subclass_may_change_what_a_message_is_and_what_becomes_of_it() -> None:
    edge_index, x = random_graph(), torch.randn(50, 3).double()
    plain: Tensor = GINConv(Identity())(x, edge_index) - x
    for layer, expected in (
        (Doubled, 2 * plain),
        (Negated, -plain),
        (Shifted, 1 + plain),
        (Constant, torch.ones_like(x)),
    ):
        torch.testing.assert_close(layer(Identity())(x, edge_index), x + expected)


def test_a_subclass_that_changes_neither_makes_no_messages(no_messages: None) -> None:
    class Named(DistributedGINConv):
        pass

    x = torch.randn(50, 3)
    assert Named(Identity())(x, random_graph()).shape == x.shape


WRONG = {
    "ends beyond the nodes": (torch.tensor([[0, 1], [1, 50]]), None),
    "starts beyond the nodes": (torch.tensor([[0, 50], [1, 1]]), None),
    "negative ends": (torch.tensor([[0, 1], [1, -1]]), None),
    "another size": (torch.tensor([[0, 1], [1, 0]]), (49, 50)),
    "three rows": (torch.zeros(3, 2, dtype=torch.int64), None),
    "floats": (torch.zeros(2, 2), None),
}


@pytest.mark.parametrize(("edge_index", "size"), WRONG.values(), ids=WRONG)
def test_wrong_edges_are_refused_in_pygs_words(edge_index: Tensor, size: Any) -> None:
    x = torch.randn(50, 3)
    with pytest.raises(Exception) as refused:  # noqa: PT011  # whichever PyG raises
        GINConv(Identity())(x, edge_index, size)
    with pytest.raises(type(refused.value)) as ours:
        DistributedGINConv(Identity())(x, edge_index, size)
    assert str(ours.value) == str(refused.value)


@both
def test_integer_and_stacked_features_are_pygs(ours: type, pygs: type) -> None:
    edge_index, (x, *rest) = random_graph(), inputs_for(ours, 50, 300)
    for features in ([(t * 10).long() for t in (x, *rest)], [torch.stack((x, 2 * x)), *rest]):
        conv, peer = ours(Identity()), pygs(Identity())
        actual, expected = (layer(features[0], edge_index, *features[1:]) for layer in (conv, peer))
        torch.testing.assert_close(actual, expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch 2.6's vmap of PyG's scatter_add_
@both
def test_function_transforms_and_forward_derivatives_are_pygs(ours: type, pygs: type) -> None:
    edge_index, (x, *rest) = random_graph(), inputs_for(ours, 50, 300)
    x, rest = x.detach(), [t.detach() for t in rest]
    found = []
    for conv in layers(ours, pygs):

        def run(x: Tensor, conv: Module = conv) -> Any:
            return conv(x, edge_index, *rest)

        slope = torch.func.grad(lambda x, run=run: run(x).sin().sum())(x)
        with fwad.dual_level():
            dual = fwad.make_dual(x, torch.ones_like(x))  # type: ignore[no-untyped-call]
            tangent = fwad.unpack_dual(run(dual)).tangent  # type: ignore[no-untyped-call]
        batched = torch.func.vmap(run)(torch.stack((x, 2 * x)))
        found.append((slope, tangent, batched))
    torch.testing.assert_close(found[0], found[1])


@both
def test_checkpointing_recomputes_to_the_same_gradients(ours: type, pygs: type) -> None:
    del pygs
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv = ours(Identity()).double()
    out = torch.utils.checkpoint.checkpoint(conv, inputs[0], edge_index, *inputs[1:], use_reentrant=False)
    expected = torch.autograd.grad(conv(inputs[0], edge_index, *inputs[1:]).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), inputs), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here")
@both
def test_on_a_gpu_the_layers_are_pygs(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph().cuda(), [t.detach().cuda().requires_grad_() for t in inputs_for(ours, 50, 300)]
    conv, peer = (conv.cuda() for conv in layers(ours, pygs))
    torch.testing.assert_close(results(conv, edge_index, (*inputs,)), results(peer, edge_index, (*inputs,)))
