from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from scipy.stats import chisquare
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader
from torch_geometric.nn import GIN
from torch_geometric.sampler import EdgeSamplerInput, NodeSamplerInput, SamplerOutput
from torch_geometric.utils import k_hop_subgraph

from distgnn import GraphSpec
from distgnn.graph import NeighborSampler
from distgnn.graph.sampling import neighbor_sampler

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, GraphStore

NUM_NODES, NUM_EDGES = 60, 400


@pytest.fixture
def edge_index() -> Tensor:
    """Random edges with self loops and doubles; the last 5 nodes have none."""
    return torch.randint(NUM_NODES - 5, (2, NUM_EDGES), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graph(memory_backend: Backend, edge_index: Tensor) -> GraphStore:
    return memory_backend.open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), edge_index)


@pytest.fixture(params=["table of all nodes", "sorted nodes"])
def relabelling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "sorted nodes":
        monkeypatch.setattr(neighbor_sampler, "_DIRECTLY", 10)


def sample(sampler: NeighborSampler, *seeds: int) -> SamplerOutput:
    return sampler.sample_from_nodes(NodeSamplerInput(None, torch.tensor(seeds, dtype=torch.int64)))


def check(out: SamplerOutput, edge_index: Tensor) -> None:
    """Assert what holds for every output of PyG's samplers."""
    assert out.edge is not None
    assert torch.equal(out.node[torch.stack([out.row, out.col])], edge_index[:, out.edge])
    if out.num_sampled_nodes is not None:
        assert sum(out.num_sampled_nodes) == out.node.numel()
        assert sum(out.num_sampled_edges) == out.edge.numel()


@pytest.mark.usefixtures("relabelling")
@pytest.mark.parametrize("hops", [0, 1, 2, 3])
@pytest.mark.parametrize("subgraph_type", ["directional", "induced"])
def test_with_all_neighbors_it_is_the_k_hop_subgraph(
    graph: GraphStore, edge_index: Tensor, hops: int, subgraph_type: str
) -> None:
    sampler = NeighborSampler(graph, [-1] * hops, subgraph_type=subgraph_type)
    for seeds in ((0, 4, 58), (59,), (7, 3, 2, 1)):
        out = sample(sampler, *seeds)
        check(out, edge_index)
        nodes, _, _, mask = k_hop_subgraph(list(seeds), hops, edge_index, num_nodes=NUM_NODES)
        if subgraph_type == "directional":  # what PyG's directed=True means has changed between its versions
            inner = k_hop_subgraph(list(seeds), max(hops - 1, 0), edge_index, num_nodes=NUM_NODES)[0]
            mask = torch.isin(edge_index[1], inner) if hops else torch.zeros_like(mask)
        assert out.node[: len(seeds)].tolist() == list(seeds)
        assert out.node.sort().values.tolist() == nodes.tolist()
        assert out.edge is not None
        assert out.edge.sort().values.tolist() == mask.nonzero().flatten().tolist()


@pytest.mark.usefixtures("relabelling")
def test_pygs_gin_on_the_sample_of_all_neighbors_gives_the_outputs_of_the_full_graph(
    graph: GraphStore, edge_index: Tensor
) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(NUM_NODES, 8), GIN(8, 16, 2, 4)
    expected = model(x, edge_index)
    for seeds in ([3, 58, 10], [5, 9, 5, 5]):  # also a seed that is there several times
        out = sample(NeighborSampler(graph, [-1] * 2), *seeds)
        edges = torch.stack([out.row, out.col])
        found = model(x[out.node], edges)[: len(seeds)]
        assert torch.allclose(found, expected[seeds], rtol=1e-5, atol=1e-5)
        # PyG trims layer by layer with the numbers of nodes and edges of each hop.
        trimmed = model(
            x[out.node],
            edges,
            num_sampled_nodes_per_hop=out.num_sampled_nodes,
            num_sampled_edges_per_hop=out.num_sampled_edges,
        )
        assert torch.allclose(trimmed[: len(seeds)], expected[seeds], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("relabelling")
def test_a_hop_asks_for_the_new_nodes_of_the_hop_before_in_one_call(
    graph: GraphStore, edge_index: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[int], int]] = []
    original = type(graph).in_neighbors

    def spied(self: GraphStore, nodes: Tensor, fanout: int = -1, *, seed: int = 0) -> object:
        asked.append((nodes.tolist(), fanout))
        return original(self, nodes, fanout, seed=seed)

    monkeypatch.setattr(type(graph), "in_neighbors", spied)
    out = sample(NeighborSampler(graph, [3, 2, 4]), 0, 1, 2)
    check(out, edge_index)
    assert [fanout for _, fanout in asked] == [3, 2, 4]
    assert [nodes for nodes, _ in asked] == [part.tolist() for part in out.node.split(out.num_sampled_nodes)][:3]


@pytest.mark.usefixtures("relabelling")
def test_nodes_are_numbered_in_the_order_in_which_they_are_met(graph: GraphStore, edge_index: Tensor) -> None:
    out = sample(NeighborSampler(graph, [4, 4]), 9, 2)
    assert out.edge is not None
    assert out.node.tolist() == list(dict.fromkeys([9, 2, *edge_index[0, out.edge].tolist()]))


def test_each_node_brings_at_most_fanout_of_its_edges_without_replacement(
    graph: GraphStore, edge_index: Tensor
) -> None:
    degrees = torch.bincount(edge_index[1], minlength=NUM_NODES)
    sampler = NeighborSampler(graph, [5, 3])
    for _ in range(20):
        out = sample(sampler, 0, 1, 2, 59)
        check(out, edge_index)
        assert out.edge is not None
        assert out.edge.unique().numel() == out.edge.numel()
        first, second, _ = out.num_sampled_nodes
        brought = torch.bincount(out.col, minlength=first + second)[: first + second]
        limits = torch.tensor([5] * first + [3] * second)
        assert torch.equal(brought, degrees[out.node[: first + second]].minimum(limits))


def test_a_disjoint_sample_is_a_tree_of_its_own_for_each_seed(graph: GraphStore, edge_index: Tensor) -> None:
    seeds = (0, 1, 2, 1, 58)
    out = sample(NeighborSampler(graph, [3, 3], disjoint=True, seed=4), *seeds)
    check(out, edge_index)
    assert out.batch is not None
    assert out.edge is not None
    assert torch.equal(out.batch[out.row], out.batch[out.col])
    assert out.batch[: len(seeds)].tolist() == [0, 1, 2, 3, 4]
    for tree, seed in enumerate(seeds):
        alone = sample(NeighborSampler(graph, [3, 3], seed=4), seed)
        assert out.node[out.batch == tree].tolist() == alone.node.tolist()
        assert alone.edge is not None
        assert out.edge[out.batch[out.col] == tree].tolist() == alone.edge.tolist()


def test_a_bidirectional_sample_has_every_edge_in_both_directions(graph: GraphStore, edge_index: Tensor) -> None:
    one_way = sample(NeighborSampler(graph, [3, 3]), 0, 1)
    out = sample(NeighborSampler(graph, [3, 3], subgraph_type="bidirectional"), 0, 1)
    pairs = set(zip(out.row.tolist(), out.col.tolist(), strict=True))
    expected = set(zip(one_way.row.tolist(), one_way.col.tolist(), strict=True))
    assert pairs == expected | {(column, row) for row, column in expected}


def test_the_sample_depends_on_seed_epoch_and_batch(graph: GraphStore) -> None:
    def drawn(seed: int, epoch: int, batches: int) -> list[object]:
        sampler = NeighborSampler(graph, [2, 2], seed=seed)
        sampler.start_epoch(epoch)
        return [sample(sampler, 0, 1, 2, 3).edge.tolist() for _ in range(batches)]

    assert drawn(0, 0, 3) == drawn(0, 0, 3)
    batches = [*drawn(0, 0, 3), *drawn(0, 1, 3), *drawn(1, 0, 3)]
    assert all(one != other for number, one in enumerate(batches) for other in batches[:number])


def test_samples_of_following_batches_are_uniform(memory_backend: Backend) -> None:
    edge_index = torch.stack([torch.arange(1, 11), torch.zeros(10, dtype=torch.int64)])
    sampler = NeighborSampler(memory_backend.open_graph(GraphSpec("star", 11, 10), edge_index), [3])
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[sample(sampler, 0).edge] += 1
    # Of 10 edges 3 are drawn at once: the statistic has to be scaled up by (10 - 1) / (10 - 3).
    assert chisquare(counts.numpy()).statistic * 9 / 7 < 39  # of 9 degrees of freedom: once in 100,000 samplers


def test_no_seeds_are_a_batch_too(graph: GraphStore) -> None:
    for disjoint in (False, True):
        out = sample(NeighborSampler(graph, [2, 2], disjoint=disjoint))
        assert (out.node.numel(), out.row.numel(), out.edge.numel()) == (0, 0, 0)
        assert out.num_sampled_nodes == [0, 0, 0]
        links = NeighborSampler(graph, [2], disjoint=disjoint).sample_from_edges(
            EdgeSamplerInput(None, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        )
        assert links.node.numel() == 0


def test_pygs_own_loader_takes_it_with_a_data_object(graph: GraphStore, edge_index: Tensor) -> None:
    data = Data(x=torch.randn(NUM_NODES, 3), edge_index=edge_index, edge_attr=torch.randn(NUM_EDGES, 2))
    for batch in NodeLoader(data, NeighborSampler(graph, [4, 4]), torch.arange(20), batch_size=6):
        assert torch.equal(batch.x, data.x[batch.n_id])
        assert torch.equal(batch.edge_attr, data.edge_attr[batch.e_id])
        assert torch.equal(batch.n_id[batch.edge_index], edge_index[:, batch.e_id])


def test_options_that_cannot_be_are_refused(graph: GraphStore) -> None:
    with pytest.raises(ValueError, match=r"num_neighbors .*-2"):
        NeighborSampler(graph, [5, -2])
    with pytest.raises(ValueError, match="sideways"):
        NeighborSampler(graph, [5], subgraph_type="sideways")
    with pytest.raises(ValueError, match="induced subgraph cannot be disjoint"):
        NeighborSampler(graph, [5], subgraph_type="induced", disjoint=True)
    with pytest.raises(ValueError, match="no times"):
        NeighborSampler(graph, [5]).sample_from_nodes(NodeSamplerInput(None, torch.tensor([1]), time=torch.tensor([3])))
