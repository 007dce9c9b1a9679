"""Loaders over a backend of several ranks: the batches of one rank, dealt out to the ranks that run this file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import GIN
from torch_geometric.sampler import NodeSamplerInput

import distgnn
from distgnn import ConfigError, GraphSpec, RowsError, TensorSpec
from distgnn.backends.memory import MemoryBackend
from distgnn.graph import NeighborSampler, cut_part, link_neighbor_loader, neighbor_loader, open_in_degrees, open_part
from distgnn.graph.partition.assign import assign_nodes
from distgnn.nn import DistributedGIN
from distgnn.optim import SparseAdam
from distgnn.train.session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, GraphStore, TensorStore
    from tests.faults.failing_rank import SpreadBackend

NUM_NODES, NUM_EDGES = 80, 600
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def edges() -> Tensor:
    return torch.randint(NUM_NODES, (2, NUM_EDGES), generator=torch.Generator().manual_seed(0))


def rows() -> Tensor:
    return torch.randn(NUM_NODES, 4, generator=torch.Generator().manual_seed(1))


def opened(backend: Backend) -> tuple[TensorStore, GraphStore]:
    graph = backend.open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), edges())
    features = backend.open_tensor(TensorSpec("features", (NUM_NODES, 4)))
    features.write(torch.arange(NUM_NODES), rows())
    return features, graph


def everywhere(backend: Backend, number: int) -> list[int]:
    """Return the numbers of all ranks."""
    store = backend.open_tensor(TensorSpec("numbers", (RANKS,), torch.int64))
    store.write(torch.tensor([RANK]), torch.tensor([number]))
    numbers: list[int] = store.read(torch.arange(RANKS)).tolist()
    store.close()
    return numbers


def test_each_rank_samples_its_part_of_the_batches_of_one_process(backend: SpreadBackend) -> None:
    options: dict[str, Any] = {"batch_size": 7, "shuffle": True, "seed": 5}
    loader = neighbor_loader(opened(backend), [3, 2], torch.arange(36), backend=backend, **options)
    memory = MemoryBackend()
    alone = neighbor_loader(opened(memory), [3, 2], torch.arange(36), backend=memory, **options)
    sampler = NeighborSampler(opened(memory)[1], [3, 2], seed=5)
    assert len(loader) == len(alone) == 6
    for epoch in range(2):
        sampler.start_epoch(epoch)
        for batch, whole in zip(loader, alone, strict=True):
            mine = whole.n_id[: whole.batch_size][RANK::RANKS]
            assert batch.n_id[: batch.batch_size].tolist() == mine.tolist()
            expected = sampler.sample_from_nodes(NodeSamplerInput(None, mine))
            assert torch.equal(batch.n_id, expected.node)
            assert torch.equal(batch.edge_index, torch.stack([expected.row, expected.col]))
            assert expected.edge is not None
            assert torch.equal(batch.e_id, expected.edge)
            assert torch.equal(batch.x, rows()[batch.n_id])


def test_ranks_with_fewer_seeds_get_empty_batches(backend: SpreadBackend) -> None:
    torch.manual_seed(0)
    model = GIN(4, 8, 2, 3)
    expected = model(rows(), edges())
    mine = torch.arange(5 * RANK)  # rank 0 has none
    loader = neighbor_loader(opened(backend), [-1, -1], mine, batch_size=2, per_rank=True, backend=backend)
    sizes, outputs = [], []
    for batch in loader:
        sizes.append(batch.batch_size)
        assert batch.x.shape == (batch.num_nodes, 4)
        outputs.append(model(batch.x, batch.edge_index)[: batch.batch_size])
    steps = -(-5 * (RANKS - 1) // 2)
    assert everywhere(backend, len(sizes)) == [steps] * RANKS
    assert everywhere(backend, sum(sizes)) == [5 * rank for rank in range(RANKS)]
    if RANK:
        assert torch.allclose(torch.cat(outputs), expected[mine], atol=1e-5)


def test_links_and_disjoint_batches_go_round_with_empty_ones(backend: SpreadBackend) -> None:
    data = opened(backend)
    links = edges()[:, :3]
    for neg_sampling in (None, "binary", "triplet"):
        for disjoint in (False, True):
            loader = link_neighbor_loader(
                data, [2, 2], links, batch_size=2, neg_sampling=neg_sampling, disjoint=disjoint, backend=backend
            )
            counts = [batch.input_id.numel() for batch in loader]
            assert len(counts) == 2
            assert sum(everywhere(backend, sum(counts))) == 3


def test_in_degrees_are_counted_together(backend: SpreadBackend) -> None:
    degrees = open_in_degrees(opened(backend)[1], backend=backend, block=11)
    expected = torch.bincount(edges()[1], minlength=NUM_NODES)
    assert torch.equal(degrees.read(torch.arange(NUM_NODES)), expected)


def parts_of(graph: Data, method: str) -> Data:
    """Return this rank's part."""
    parts = assign_nodes(graph.edge_index, NUM_NODES, RANKS, method=method)
    return cut_part(graph, parts, RANK, RANKS)


@pytest.mark.parametrize("method", ["hash", "range"])
def test_stores_are_opened_from_parts(backend: SpreadBackend, method: str) -> None:
    features, graph = open_part(parts_of(Data(x=rows(), edge_index=edges()), method), backend=backend)
    expected = MemoryBackend().open_graph(GraphSpec("graph", NUM_NODES, NUM_EDGES), edges())
    nodes = torch.randperm(NUM_NODES)
    for fanout in (-1, 3):
        found, wanted = (store.in_neighbors(nodes, fanout, seed=7) for store in (graph, expected))
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert features is not None
    assert torch.equal(features.read(nodes), rows()[nodes])


def test_parts_of_different_graphs_are_told(backend: SpreadBackend) -> None:
    part = parts_of(Data(edge_index=edges(), num_nodes=NUM_NODES), "hash")
    part.e_id[:2] = part.e_id[0].clone()
    with pytest.raises(RowsError, match=r"the parts have 600 edges, .* each once"):
        open_part(part, name="twice", backend=backend)


def test_ranks_that_make_different_loaders_are_told(backend: SpreadBackend) -> None:
    if RANKS == 1:
        pytest.skip("one rank agrees with itself")
    data = opened(backend)
    with pytest.raises(ConfigError, match=r"ranks 0 and 1 make different loaders.*per_rank=True"):
        neighbor_loader(data, [2], torch.arange(10 + RANK), backend=backend)
    with pytest.raises(ConfigError, match="ranks 0 and 1 make different loaders"):
        neighbor_loader(data, [2], torch.arange(10), batch_size=2 + RANK, backend=backend)
    with pytest.raises(ConfigError, match="num_workers=2"):
        neighbor_loader(data, [2], torch.arange(10), num_workers=2, backend=backend)


def trained(name: str) -> list[float]:
    """Train on samples, and return the loss of each step, over all ranks."""
    with distgnn.use(name) as backend:
        session = Session(backend)
        features, graph = opened(backend)
        labels = torch.arange(NUM_NODES) % 3
        torch.manual_seed(0)
        model = DistributedGIN(
            4, 8, num_layers=2, out_channels=3, use_dist_embedding=True, embedding_dim=3, embedding_name="nodes"
        )
        model.set_num_embeddings(num_nodes=NUM_NODES)
        wrapped = session.wrap(model, sync_batch_norm=False)
        dense, sparse = torch.optim.Adam(model.parameters(), lr=0.001), SparseAdam(model, lr=0.01)
        loader = neighbor_loader((features, graph), [3, 3], torch.arange(31), batch_size=10, shuffle=True, seed=4)
        losses = []
        for _ in range(5):
            for targets, batch in zip((10, 10, 10, 1), loader, strict=True):
                dense.zero_grad()
                out = wrapped(batch.x, batch.edge_index, node_ids=batch.n_id)[: batch.batch_size]
                wanted = labels[batch.n_id[: batch.batch_size]]
                loss = cross_entropy(out, wanted, reduction="sum") / targets
                loss.backward()  # type: ignore[no-untyped-call]
                dense.step()
                sparse.step()
                losses += session.sum([float(loss.detach())])
        return losses


def test_training_on_samples_gives_the_losses_of_one_process(spread: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = trained(spread)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    expected = trained("memory")
    assert len(losses) == 20
    assert losses == pytest.approx(expected, rel=1e-5)
