from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader

from distgnn import ConfigError, EmbeddingSpec, GraphSpec, IdRangeError, TensorSpec
from distgnn.graph import NeighborSampler, link_neighbor_loader, neighbor_loader, open_in_degrees, weighted_messages
from distgnn.nn import DistributedGIN, DistributedGINE

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, GraphStore, TensorStore

NUM_NODES, NUM_EDGES = 60, 400


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    return Data(
        x=torch.randn(NUM_NODES, 4, generator=generator),
        y=torch.arange(NUM_NODES) % 5,
        edge_index=torch.randint(NUM_NODES, (2, NUM_EDGES), generator=generator),
        edge_attr=torch.randn(NUM_EDGES, 2, generator=generator),
        num_nodes=NUM_NODES,
    )


@pytest.fixture
def graph(memory_backend: Backend, data: Data) -> GraphStore:
    return memory_backend.open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), data.edge_index)


@pytest.fixture
def stores(memory_backend: Backend, data: Data) -> dict[str, TensorStore]:
    def opened(name: str, rows: Tensor) -> TensorStore:
        store = memory_backend.open_tensor(TensorSpec(name, tuple(rows.shape), rows.dtype))
        store.write(torch.arange(len(rows)), rows)
        return store

    return {name: opened(name, data[name]) for name in ("x", "y", "edge_attr")}


def seeds_of(loader: NodeLoader) -> list[list[int]]:
    return [batch.n_id[: batch.batch_size].tolist() for batch in loader]


@pytest.mark.parametrize("options", [{}, {"disjoint": True}, {"subgraph_type": "induced"}], ids=str)
def test_batches_equal_those_of_pygs_loader_on_the_same_data_in_memory(
    options: dict[str, Any], data: Data, graph: GraphStore, stores: dict[str, TensorStore]
) -> None:
    seeds = torch.arange(5, 40)
    pygs = NodeLoader(data, NeighborSampler(graph, [4, 3], seed=7, **options), seeds, batch_size=8)
    ours = neighbor_loader(
        ({"x": stores["x"], "y": stores["y"]}, graph),
        [4, 3],
        seeds,
        batch_size=8,
        edge_features=stores["edge_attr"],
        seed=7,
        **options,
    )
    assert isinstance(ours, NodeLoader)
    assert len(ours) == len(pygs) == 5
    for batch, expected in zip(ours, pygs, strict=True):
        assert set(batch.keys()) == set(expected.keys())
        for name in expected.keys():  # noqa: SIM118  # a Data is no dictionary
            value = expected[name]
            assert torch.equal(batch[name], value) if torch.is_tensor(value) else batch[name] == value, name


def test_a_store_alone_is_x_and_an_embedding_store_is_looked_up(memory_backend: Backend, graph: GraphStore) -> None:
    table = memory_backend.open_embedding(EmbeddingSpec("table", NUM_NODES, 3))
    for batch in neighbor_loader((table, graph), [2], batch_size=50):
        assert torch.equal(batch.x, table.lookup(batch.n_id))
    for batch in neighbor_loader((None, graph), [2], torch.tensor([3, 4])):
        assert batch.num_nodes == batch.n_id.numel()
        assert "x" not in batch


def test_seeds_are_ids_or_a_mask_or_all_nodes(graph: GraphStore) -> None:
    mask = torch.zeros(NUM_NODES, dtype=torch.bool)
    mask[[3, 8, 9]] = True
    assert seeds_of(neighbor_loader((None, graph), [1], mask, batch_size=2)) == [[3, 8], [9]]
    assert seeds_of(neighbor_loader((None, graph), [1], torch.tensor([9, 3, 8]), batch_size=2)) == [[9, 3], [8]]
    assert seeds_of(neighbor_loader((None, graph), [1], batch_size=40)) == [list(range(40)), list(range(40, 60))]


def test_an_epoch_goes_through_every_seed_once_in_an_order_of_its_own(graph: GraphStore) -> None:
    loader = neighbor_loader((None, graph), [2], torch.arange(30), batch_size=8, shuffle=True, seed=3)
    epochs = [seeds_of(loader) for _ in range(3)]
    for epoch in epochs:
        assert sorted(seed for batch in epoch for seed in batch) == list(range(30))
    assert epochs[0] != epochs[1] != epochs[2]
    loader.batch_sampler.set_epoch(1)
    assert seeds_of(loader) == epochs[1]
    again = neighbor_loader((None, graph), [2], torch.arange(30), batch_size=8, shuffle=True, seed=3)
    assert [seeds_of(again) for _ in range(3)] == epochs
    full = neighbor_loader((None, graph), [2], torch.arange(30), batch_size=8, drop_last=True)
    assert [len(batch) for batch in seeds_of(full)] == [8, 8, 8]


def test_batches_are_the_same_with_workers_and_after_an_epoch_that_was_broken_off(graph: GraphStore) -> None:
    def edges(loader: NodeLoader) -> list[list[int]]:
        return [batch.e_id.tolist() for batch in loader]

    options: dict[str, Any] = {"batch_size": 8, "shuffle": True, "seed": 3}
    alone = neighbor_loader((None, graph), [2, 2], torch.arange(30), **options)
    expected = [edges(alone) for _ in range(2)]
    workers = neighbor_loader((None, graph), [2, 2], torch.arange(30), num_workers=2, **options)
    assert [edges(workers) for _ in range(2)] == expected
    broken = neighbor_loader((None, graph), [2, 2], torch.arange(30), **options)
    next(iter(broken))
    assert edges(broken) == expected[1]


@pytest.mark.parametrize("model", [DistributedGIN, DistributedGINE])
def test_weighted_sums_over_samples_are_unbiased_estimates_of_the_full_sums(
    model: type[DistributedGIN], graph: GraphStore, data: Data, stores: dict[str, TensorStore]
) -> None:
    torch.manual_seed(0)
    layer = model(4, 4, 3, 1, edge_dim=2) if model is DistributedGINE else model(4, 4, 3, 1)
    layer.convs[0].nn = torch.nn.Identity()  # what is left is a sum, of which there is an unbiased estimate
    expected = layer(data.x, data.edge_index, data.edge_attr)
    in_degrees = open_in_degrees(graph, block=7)
    assert in_degrees.read(torch.arange(NUM_NODES)).tolist() == data.edge_index[1].bincount(minlength=60).tolist()
    features = {"edge_attr": stores["edge_attr"]}
    loader = neighbor_loader(
        (stores["x"], graph), [3], batch_size=NUM_NODES, in_degrees=in_degrees, edge_features=features
    )
    estimates, plain = [], []
    with torch.no_grad():
        for _ in range(800):
            (batch,) = loader
            with weighted_messages(layer, batch.edge_weight):
                estimates.append(layer(batch.x, batch.edge_index, batch.edge_attr)[:NUM_NODES])
            plain.append(layer(batch.x, batch.edge_index, batch.edge_attr)[:NUM_NODES])
    found = torch.stack(estimates)
    error = (found.mean(dim=0) - expected).abs()
    bound = 5 * found.std(dim=0) / len(estimates) ** 0.5 + 1e-4
    assert (error < bound).all()
    assert ((torch.stack(plain).mean(dim=0) - expected).abs() > bound).any()


def test_weights_of_all_neighbors_are_one(graph: GraphStore) -> None:
    for batch in neighbor_loader((None, graph), [-1, 2], in_degrees=open_in_degrees(graph)):
        whole = batch.num_sampled_edges[0]
        assert (batch.edge_weight[:whole] == 1).all()
        assert (batch.edge_weight >= 1).all()


@pytest.mark.parametrize("neg_sampling", [None, "binary", "triplet"])
@pytest.mark.parametrize("disjoint", [False, True])
def test_link_batches_have_the_ends_of_their_edges(
    neg_sampling: str | None, disjoint: bool, data: Data, graph: GraphStore, stores: dict[str, TensorStore]
) -> None:
    positive = data.edge_index[:, :20]
    found = []
    loader = link_neighbor_loader(
        (stores["x"], graph), [3, 3], positive, batch_size=6, neg_sampling=neg_sampling, disjoint=disjoint
    )
    for batch in loader:
        assert torch.equal(batch.x, data.x[batch.n_id])
        if neg_sampling == "triplet":
            ends = torch.stack([batch.src_index, batch.dst_pos_index])
            assert batch.dst_neg_index.shape == batch.src_index.shape
        else:
            count = batch.input_id.numel()
            assert batch.edge_label_index.size(1) == count * (2 if neg_sampling else 1)
            ends = batch.edge_label_index[:, :count]
        found.append(batch.n_id[ends])
    assert torch.equal(torch.cat(found, dim=1), positive)


def test_what_cannot_be_is_refused(graph: GraphStore) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, not 0"):
        neighbor_loader((None, graph), [2], batch_size=0)
    for seeds in (torch.tensor([5, NUM_NODES]), torch.tensor([-1, 5])):
        with pytest.raises(IdRangeError, match=r"seed nodes .*the graph has nodes 0 to 59"):
            list(neighbor_loader((None, graph), [2], seeds, batch_size=2))
    with pytest.raises(ConfigError, match="persistent_workers are not told"):
        neighbor_loader((None, graph), [2], num_workers=1, persistent_workers=True)
    with pytest.raises(ValueError, match=r"in_degrees weigh the sampled edges.*'induced'"):
        neighbor_loader((None, graph), [2], subgraph_type="induced", in_degrees=open_in_degrees(graph))
