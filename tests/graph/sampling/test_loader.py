from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import NodeLoader
from torch_geometric.testing import MyFeatureStore

from distgnn import (
    ConfigError,
    EmbeddingSpec,
    GraphInputError,
    GraphSpec,
    IdRangeError,
    IdsError,
    StoreError,
    TensorSpec,
)
from distgnn.graph import (
    NeighborSampler,
    as_feature_store,
    link_neighbor_loader,
    neighbor_loader,
    open_in_degrees,
    weighted_messages,
)
from distgnn.nn import DistributedGIN, DistributedGINE, DistributedGNN

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
    model: type[DistributedGNN], graph: GraphStore, data: Data, stores: dict[str, TensorStore]
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"edge_dim": 2} if model is DistributedGINE else {}
    layer = model(4, 4, num_layers=1, out_channels=3, **options)
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


def test_a_data_is_sampled_as_pygs_loader_samples_it(data: Data, graph: GraphStore) -> None:
    data.train_mask = torch.arange(NUM_NODES) < 20
    expected = list(NodeLoader(data, NeighborSampler(graph, [4, 3], seed=7), data.train_mask, batch_size=8))
    for given in (data, (data, graph)):
        ours = list(neighbor_loader(given, [4, 3], data.train_mask, batch_size=8, seed=7))
        assert [sorted(batch.keys()) for batch in ours] == [sorted(batch.keys()) for batch in expected]
        for batch, pygs in zip(ours, expected, strict=True):
            for name in ("x", "y", "edge_index", "edge_attr", "train_mask", "n_id", "e_id", "input_id"):
                assert torch.equal(batch[name], pygs[name]), name


def test_the_features_of_a_graph_are_pygs_or_tensors(data: Data, graph: GraphStore) -> None:
    mine = MyFeatureStore()
    mine.put_tensor(data.x, group_name=None, attr_name="x", index=None)
    nodes = Data(x=data.x)  # without edges of its own
    for features in (mine, nodes, data.x, {"x": data.x}, as_feature_store(data.x)):
        for batch in neighbor_loader((features, graph), [2], batch_size=30):
            assert torch.equal(batch.x, data.x[batch.n_id])
            assert batch.edge_index.shape == (2, batch.e_id.numel())


@pytest.mark.parametrize(
    "nodes",
    [[5, 3, 8], (5, 3, 8), np.array([5, 3, 8]), torch.tensor([5, 3, 8], dtype=torch.int32), range(5, 11, 2), []],
    ids=repr,
)
def test_seeds_are_whatever_pygs_loader_takes_for_a_data(nodes: Any, data: Data, graph: GraphStore) -> None:
    pygs = NodeLoader(data, NeighborSampler(graph, [2]), list(nodes), batch_size=2)
    assert seeds_of(neighbor_loader((None, graph), [2], nodes, batch_size=2)) == seeds_of(pygs)


def test_without_edges_to_start_from_a_link_loader_starts_from_all(data: Data, graph: GraphStore) -> None:
    for given in (data, (None, graph)):
        loader = link_neighbor_loader(given, [2], batch_size=150)
        found = [batch.n_id[batch.edge_label_index] for batch in loader]
        assert torch.equal(torch.cat(found, dim=1), data.edge_index)
    ends = data.edge_index[:, :7]
    for edges in (ends.tolist(), ends.numpy(), tuple(ends), ends.int()):
        (batch,) = link_neighbor_loader((None, graph), [2], edges, batch_size=7)
        assert torch.equal(batch.n_id[batch.edge_label_index], ends)


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_of_a_new_interpreter_give_the_same_batches(
    start: str, graph: GraphStore, stores: dict[str, TensorStore]
) -> None:
    options: dict[str, Any] = {"batch_size": 20, "shuffle": True, "seed": 3}
    alone = list(neighbor_loader((stores["x"], graph), [2, 2], torch.arange(60), **options))
    workers = neighbor_loader(
        (stores["x"], graph), [2, 2], torch.arange(60), num_workers=1, multiprocessing_context=start, **options
    )
    for batch, expected in zip(workers, alone, strict=True):
        assert torch.equal(batch.x, expected.x)
        assert torch.equal(batch.e_id, expected.e_id)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"replace": True}, "without replacement"),
        ({"directed": False}, "subgraph_type='induced'"),
        ({"weight_attr": "weight"}, "equal chances"),
        ({"time_attr": "time"}, "no times"),
        ({"input_time": torch.arange(60)}, "no times"),
        ({"temporal_strategy": "last"}, "no times"),
        ({"is_sorted": True}, "sorts its edges itself"),
        ({"generator": torch.Generator()}, "follow seed="),
        ({"collate_fn": list}, "transform= changes each batch"),
        ({"dataset": [1]}, "are the seeds"),
        ({"sampler": [1]}, "shuffle= and seed="),
        ({"batch_sampler": [[1]]}, "batch_size="),
        ({"neighbor_sampler": object()}, "NodeLoader"),
        ({"persistent_workers": True, "num_workers": 1}, "when an epoch begins"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_an_option_of_pyg_that_cannot_be_honored_is_refused_with_another_way(
    option: dict[str, Any], words: str, graph: GraphStore
) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is not taken here: .*{words}"):
        neighbor_loader((None, graph), [2], **option)


def test_options_of_pyg_that_ask_for_what_is_done_anyway_are_taken(graph: GraphStore) -> None:
    same: dict[str, Any] = {"replace": False, "directed": True, "is_sorted": False, "temporal_strategy": "uniform"}
    none: dict[str, Any] = dict.fromkeys(("weight_attr", "time_attr", "input_time", "neighbor_sampler", "generator"))
    loader = neighbor_loader((None, graph), [2], batch_size=20, persistent_workers=False, **same, **none)
    assert seeds_of(loader) == seeds_of(neighbor_loader((None, graph), [2], batch_size=20))
    with pytest.raises(ConfigError, match="no option of this loader is called 'bach_size', nor of PyG's NodeLoader"):
        neighbor_loader((None, graph), [2], bach_size=20)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (HeteroData(), ConfigError, r"data.to_homogeneous\(\)"),
        (Data(x=torch.ones(3, 1)), ConfigError, r"no edge_index \[2, E\]"),
        (Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0], [3]])), IdRangeError, "3 is beyond"),
        ((None, Data(num_nodes=3)), ConfigError, r"not \(NoneType, Data\)"),
        (("x", None, 3), ConfigError, r"a pair of features \(or None\) and a graph store"),
        (None, ConfigError, "not NoneType"),
    ],
    ids=str,
)
def test_what_is_no_data_is_refused(given: Any, error: type[Exception], words: str, memory_backend: Backend) -> None:
    with pytest.raises(error, match=words):
        neighbor_loader(given, [2])
    with pytest.raises(error, match=words):
        link_neighbor_loader(given, [2])


def test_features_that_do_not_fit_are_refused(graph: GraphStore, data: Data) -> None:
    few, many = torch.ones(7, 2), torch.ones(NUM_EDGES, 2)
    with pytest.raises(GraphInputError, match=r"'x' has the shape \[7, 2\], and the graph has 60 nodes"):
        neighbor_loader((few, graph), [2])
    with pytest.raises(GraphInputError, match=r"'edge_attr' has the shape \[7, 2\], and the graph has 400 edges"):
        neighbor_loader((None, graph), [2], edge_features=few)
    with pytest.raises(GraphInputError, match="a Data of 7 nodes, and the graph has 60"):
        neighbor_loader((Data(x=few), graph), [2])
    with pytest.raises(StoreError, match="'x' is a list; features are stores"):
        neighbor_loader(({"x": [1]}, graph), [2])
    for name in ("edge_index", "n_id", "batch_size"):
        with pytest.raises(ConfigError, match=f"features called '{name}' would be lost"):
            neighbor_loader(({name: many}, graph), [2])
        with pytest.raises(ConfigError, match=f"features called '{name}' would be lost"):
            neighbor_loader((None, graph), [2], edge_features={name: many})
    data.edge_weight = many[:, 0]
    for given in (data, ({"edge_weight": many}, graph)):
        with pytest.raises(ConfigError, match="features called 'edge_weight' would be lost"):
            neighbor_loader(given, [2], in_degrees=open_in_degrees(graph))
    with pytest.raises(ConfigError, match="features called 'edge_attr' would be lost"):
        neighbor_loader(data, [2], edge_features=many)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        (torch.tensor([True, False, True]), r"a mask of shape \[3\], and the graph has 60 nodes"),
        (torch.arange(3.0), "holds integers, not torch.float32"),
        (np.array([0.5]), "holds integers, not torch.float64"),
        (torch.arange(4).view(2, 2), r"has the shape \[K\], not \[2, 2\]"),
        (torch.tensor(3), r"has the shape \[K\], not \[\]"),
        ("paper", "the graph has one type"),
        (("paper", torch.arange(3)), "the graph has one type"),
        ({"paper": [1]}, "holds ids of nodes"),
    ],
    ids=str,
)
def test_seeds_that_are_no_nodes_are_refused(nodes: Any, words: str, graph: GraphStore) -> None:
    with pytest.raises(IdsError, match=f"input_nodes .*{words}"):
        neighbor_loader((None, graph), [2], nodes)


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        (torch.ones(5, 2, dtype=torch.int64), r"\[2, K\], not \[5, 2\]; turn it by .t\(\)"),
        (torch.arange(4), r"\[2, K\], not \[4\]"),
        (torch.ones(2, 3), "holds integers, not torch.float32"),
        (("paper", "cites", "paper"), "the graph has one type"),
        ((("paper", "cites", "paper"), torch.ones(2, 3, dtype=torch.int64)), "the graph has one type"),
    ],
    ids=str,
)
def test_seeds_that_are_no_edges_are_refused(edges: Any, words: str, graph: GraphStore) -> None:
    with pytest.raises(IdsError, match=f"edge_label_index .*{words}"):
        link_neighbor_loader((None, graph), [2], edges)
    with pytest.raises(ConfigError, match="edge_label_time is not taken here: a graph store has no times"):
        link_neighbor_loader((None, graph), [2], edge_label_time=torch.arange(NUM_EDGES))
    with pytest.raises(ConfigError, match="edge_label has 7 labels for 400 edges"):
        link_neighbor_loader((None, graph), [2], edge_label=torch.ones(7))


@pytest.mark.parametrize("fanouts", [5, [2.5], {("a", "to", "a"): [2]}, [-2], torch.tensor([1.5]), None], ids=str)
def test_numbers_of_neighbors_are_integers_one_a_hop(fanouts: Any, graph: GraphStore) -> None:
    with pytest.raises(ConfigError, match="num_neighbors"):
        neighbor_loader((None, graph), fanouts)
    rights: list[Any] = [torch.tensor([2, 2]), (2, 2), np.array([2, 2])]
    for right in rights:
        (batch,) = neighbor_loader((None, graph), right, [3, 4], batch_size=2)
        (expected,) = neighbor_loader((None, graph), [2, 2], [3, 4], batch_size=2)
        assert torch.equal(batch.e_id, expected.e_id)


def test_what_cannot_be_is_refused(graph: GraphStore) -> None:
    for size in (0, 2.5):
        with pytest.raises(ConfigError, match=f"batch_size must be an integer of at least 1, not {size}"):
            neighbor_loader((None, graph), [2], batch_size=size)  # type: ignore[arg-type]
    for seeds in (torch.tensor([5, NUM_NODES]), torch.tensor([-1, 5])):
        with pytest.raises(IdRangeError, match=r"seed nodes .*the graph has nodes 0 to 59"):
            list(neighbor_loader((None, graph), [2], seeds, batch_size=2))
    with pytest.raises(ValueError, match=r"in_degrees weigh the sampled edges.*'induced'"):
        neighbor_loader((None, graph), [2], subgraph_type="induced", in_degrees=open_in_degrees(graph))
