"""Training over the parts of a graph equals training on the whole, at whatever world size this file is run.

Every rank computes the whole graph by itself on its own in-memory backend, as the reference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from distgnn.backends.memory import MemoryBackend
from distgnn.data import load_custom_graph, load_dataset
from distgnn.graph import cut_part, edge_partition, load_part, partition_graph
from distgnn.nn.aggregation import layout
from distgnn.train.session import Session
from tests.backends.parts_of_graphs import (
    RANK,
    RANKS,
    assert_close,
    assert_trains_alike,
    forward,
    hashed,
    loss_of,
    make_model,
    metis,
    one_empty,
    one_without_halo,
    random_graph,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch_geometric.data import Data

    from distgnn import Backend
    from distgnn.nn import DistributedGNN


@pytest.mark.parametrize(("kind", "rule"), [("GIN alone", "sgd"), ("GIN", "adam"), ("GINE", "sgd"), ("GINE", "adam")])
def test_training_over_parts_equals_training_on_the_whole_graph(
    kind: str, rule: str, opened: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_WORTHWHILE", 0)  # as large graphs do: sums go on while rows are on their way
    graph = random_graph(70, 400)
    part = cut_part(graph, metis(graph), RANK, RANKS)
    assert_trains_alike(kind, graph, part, opened, rule, monkeypatch)


@pytest.mark.parametrize(
    ("num_nodes", "num_edges", "assign"),
    [
        (40, 300, one_empty),
        (40, 300, one_without_halo),
        pytest.param(60, 40, hashed, id="most nodes have no in-edges"),
        pytest.param(3, 9, hashed, id="fewer nodes than ranks"),
    ],
)
def test_it_does_for_every_shape_of_part(
    num_nodes: int,
    num_edges: int,
    assign: Callable[[Data], Tensor],
    opened: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = random_graph(num_nodes, num_edges)
    part = cut_part(graph, assign(graph), RANK, RANKS)
    assert_trains_alike("GINE", graph, part, opened, "sgd", monkeypatch)


def test_a_part_from_a_folder_is_the_part_that_is_cut_in_memory(opened: Backend, tmp_path: Path) -> None:
    graph = random_graph(50, 300)
    partition_graph(graph, tmp_path / "cut", RANKS, method="hash")
    loaded, cut = load_part(tmp_path / "cut"), cut_part(graph, hashed(graph), RANK, RANKS)
    assert sorted(loaded.keys()) == sorted(cut.keys())
    for name in set(cut.keys()) - {"halo", "num_nodes"}:
        assert torch.equal(loaded[name], cut[name]), name
    assert torch.equal(loaded.x, graph.x[loaded.n_id])
    assert torch.equal(loaded.halo.own, cut.halo.own)
    assert torch.equal(loaded.halo.remote, cut.halo.remote)
    assert loaded.halo.num_rows == cut.halo.num_rows
    assert loaded.halo.partition == cut.halo.partition
    assert (loaded.halo.border.num_rows, loaded.halo.border.partition) == (
        cut.halo.border.num_rows,
        cut.halo.border.partition,
    )
    for name in ("places", "own", "remote"):
        assert torch.equal(getattr(loaded.halo.border, name), getattr(cut.halo.border, name)), name
    assert torch.equal(cut.halo.own, cut.n_id[: len(cut.halo.own)])
    if RANKS > 1 and opened.name != "memory":
        assert torch.equal(cut.halo.partition.ids(*cut.halo.partition.bounds[RANK : RANK + 2]), cut.halo.own)
        edges = edge_partition(loaded)
        assert edges == edge_partition(cut)
        assert torch.equal(edges.ids(*edges.bounds[RANK : RANK + 2]), cut.e_id)


@pytest.mark.parametrize("name", ["Cora", "musae_git"])
def test_it_does_on_graphs_that_are_published(
    name: str, opened: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.environ.get("DISTGNN_DATA", "")) / name
    if not os.environ.get("DISTGNN_DATA") or not folder.is_dir():
        pytest.skip(f"{name} is not there: set DISTGNN_DATA to a folder that has it")
    monkeypatch.setenv("DISTGNN_CACHE", str(tmp_path))
    if name == "Cora":
        graph = load_dataset(name).graph
    else:
        graph = load_custom_graph(folder / "git_edges.csv", labels=folder / "git_target.csv")
        graph.x = torch.randn(graph.num_nodes, 5, generator=torch.Generator().manual_seed(0))
    graph.edge_attr = torch.randn(graph.num_edges, 2, generator=torch.Generator().manual_seed(0))
    # In float64: a node of musae_git has 9,458 neighbors, over which sums of float32 round to less than 5 digits.
    graph.x, graph.edge_attr = graph.x.double(), graph.edge_attr.double()
    part = cut_part(graph, metis(graph), RANK, RANKS)
    assert_trains_alike("GINE", graph, part, opened, "adam", monkeypatch, steps=2)


def gradients_of(loss: Tensor, model: DistributedGNN) -> list[Tensor]:
    loss.backward()  # type: ignore[no-untyped-call]
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("way", ["two forwards", "checkpoint", "evaluation between", "backward twice"])
def test_layer_stores_may_be_used_again_before_a_backward(way: str, opened: Backend) -> None:
    graph = random_graph(40, 200)
    other = torch.randn(graph.x.shape, generator=torch.Generator().manual_seed(7))
    part = cut_part(graph, hashed(graph), RANK, RANKS)
    part_of_other = other[part.n_id]
    session = Session(opened)
    model, reference = (make_model("GIN alone", graph, where) for where in (opened, MemoryBackend()))
    expected = loss_of(forward(reference, graph), graph, 1)
    if way == "checkpoint":
        loss = loss_of(checkpoint(lambda x: forward(model, part, x), part.x, use_reentrant=False), part, 1)
    else:
        loss = loss_of(forward(model, part), part, 1)
    if way == "two forwards":
        loss = loss + loss_of(forward(model, part, part_of_other), part, 1)
        expected = expected + loss_of(forward(reference, graph, other), graph, 1)
    elif way == "evaluation between":
        with torch.no_grad():
            forward(model.eval(), part, part_of_other)
    elif way == "backward twice":
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        expected = 2 * expected
    for gradient, whole in zip(gradients_of(loss, model), gradients_of(expected, reference), strict=True):
        summed = torch.tensor(session.sum(gradient.flatten().tolist())).view_as(gradient).float()
        assert_close([summed], [whole])
    model.close()
