"""Layouts are kept with the edges they were made of, never beyond, and never stale."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Identity

from distgnn.nn import DistributedGINConv, DistributedGINEConv
from distgnn.nn.aggregation import layout
from tests.nn.aggregation.pairs import PAIRS, both, inputs_for, layers, leaf, random_graph, results


def test_large_graphs_get_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    edge_index, x = random_graph(), leaf(50, 3)
    narrow = results(DistributedGINConv(Identity()), edge_index, (x,))
    assert layout_of(edge_index).outgoing.neighbors.dtype == torch.int32
    monkeypatch.setattr(layout, "_MAX_INT32", 299)
    edge_index = edge_index.clone()
    torch.testing.assert_close(results(DistributedGINConv(Identity()), edge_index, (x,)), narrow)
    assert layout_of(edge_index).outgoing.neighbors.dtype == torch.int64


def layout_of(edge_index: Tensor) -> Any:
    return layout._known.get(edge_index)  # type: ignore[no-untyped-call]


def test_the_smallest_graphs_are_left_to_pyg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 900)
    for edges, known in ((random_graph(edges=299), False), (random_graph(edges=300), True)):
        DistributedGINConv(Identity())(torch.randn(50, 3), edges)
        assert (layout_of(edges) is not None) is known


def test_layers_of_a_model_and_epochs_share_one_layout() -> None:
    edge_index, x, edge_attr = random_graph(), leaf(50, 3), leaf(300, 3)
    DistributedGINConv(Identity())(x, edge_index)
    first = layout_of(edge_index)
    for _ in range(2):
        DistributedGINEConv(Identity())(DistributedGINConv(Identity())(x, edge_index), edge_index, edge_attr)
    assert layout_of(edge_index) is first


def test_a_layout_is_forgotten_with_its_edges_and_not_before() -> None:
    edge_index, x = random_graph(), leaf(50, 3)
    out = DistributedGINConv(Identity())(x, edge_index)
    known, alive = weakref.ref(layout_of(edge_index)), len(layout._known)
    del edge_index
    assert len(layout._known) == alive - 1
    assert known() is not None  # backward needs it
    gc.disable()
    try:
        out.sum().backward()
        del out
        assert known() is None  # at once: there are no cycles to be found
    finally:
        gc.enable()


def test_no_layout_outlives_its_mini_batch() -> None:
    alive = len(layout._known)
    for _ in range(5):
        x = leaf(50, 3)
        DistributedGINConv(Identity())(x, random_graph()).sum().backward()
    assert len(layout._known) == alive


CHANGES = {
    "in place": lambda edges: edges.__setitem__((0, 0), 7),
    "through a view": lambda edges: edges[0].fill_(7),
    "through .data": lambda edges: edges.data.__setitem__((0, 0), 7),
    "through numpy": lambda edges: edges.numpy().__setitem__((0, 0), 7),
    "other memory": lambda edges: edges.set_(torch.randint(50, (2, 300))),
    "fewer edges": lambda edges: edges.set_(torch.randint(50, (2, 200))),
}


@both
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_changed_edges_are_noticed(ours: type, pygs: type, change: Any, inference: bool) -> None:
    with torch.inference_mode(inference):
        edge_index = random_graph()
        x, *rest = (t.detach() for t in inputs_for(ours, 50, 300))
        conv, peer = layers(ours, pygs)
        conv(x, edge_index, *rest)
        change(edge_index)
        rest = [t[: edge_index.size(1)] for t in rest]
        torch.testing.assert_close(conv(x, edge_index, *rest), peer(x, edge_index, *rest))


@both
@pytest.mark.usefixtures("small_chunks")
def test_backward_goes_over_the_edges_of_its_forward(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv, peer = layers(ours, pygs)
    expected = torch.autograd.grad(peer(inputs[0], edge_index, *inputs[1:]).sum(), inputs)
    out = conv(inputs[0], edge_index, *inputs[1:])
    edge_index.zero_()
    torch.testing.assert_close(torch.autograd.grad(out.sum(), inputs), expected)


def test_one_edge_index_serves_graphs_of_several_sizes() -> None:
    edge_index = torch.tensor([[0, 1, 2], [2, 2, 0]])
    for nodes in (3, 5, 3):
        conv, peer = layers(*PAIRS[0])
        inputs = (leaf(nodes, 2),)
        torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))


@both
def test_a_layout_made_in_inference_serves_training(ours: type, pygs: type) -> None:
    edge_index, inputs = random_graph(), inputs_for(ours, 50, 300)
    conv, peer = layers(ours, pygs)
    with torch.inference_mode():
        conv(inputs[0], edge_index, *inputs[1:])
    torch.testing.assert_close(results(conv, edge_index, inputs), results(peer, edge_index, inputs))
    out = conv(inputs[0], edge_index, *inputs[1:])
    torch.autograd.grad(out.square().sum(), inputs, create_graph=True)[0].sum().backward()  # type: ignore[no-untyped-call]


def test_neither_layer_nor_edges_carry_the_layout_into_files_and_copies() -> None:
    edge_index, x, conv = random_graph(), leaf(50, 3), DistributedGINConv(Identity()).double()
    sizes = []
    for _ in range(2):
        file = io.BytesIO()
        torch.save((edge_index, conv), file)
        sizes.append(file.tell())
        out = conv(x, edge_index)
    assert sizes[0] == sizes[1]
    copied = copy.deepcopy((conv, edge_index))
    torch.testing.assert_close(copied[0](x, copied[1]), out)


@both
@pytest.mark.usefixtures("small_chunks")
def test_every_run_on_one_and_two_threads_gives_the_same_bits(ours: type, pygs: type) -> None:
    del pygs
    edge_index, inputs = random_graph(200, 3_000), inputs_for(ours, 200, 3_000, 40, dtype=torch.float32)
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            before = torch.__config__.parallel_info()
            runs.append(results(ours(Identity()), edge_index.clone(), inputs))
            assert torch.__config__.parallel_info() == before  # of torch, OpenMP and MKL
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    torch.testing.assert_close(runs[0], runs[2], rtol=0, atol=0)
