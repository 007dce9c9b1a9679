from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import NodeLoader
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput
from torch_geometric.testing import MyFeatureStore

import distgnn
from distgnn import EmbeddingSpec, TensorSpec
from distgnn.graph import as_feature_store, as_tensor_store
from distgnn.optim import SGD

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn import Backend, TensorStore

VALUES = torch.arange(12.0).view(6, 2)


@pytest.fixture
def store(memory_backend: Backend) -> TensorStore:
    store = memory_backend.open_tensor(TensorSpec("features", (6, 2)))
    store.write(torch.arange(6), VALUES)
    return store


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (None, VALUES),
        (torch.tensor([4, 0, 4]), VALUES[[4, 0, 4]]),
        (slice(1, 5, 2), VALUES[1:5:2]),
        (torch.tensor([True, False, False, True, False, False]), VALUES[[0, 3]]),
    ],
    ids=["all", "ids", "slice", "mask"],
)
def test_a_tensor_store_reads_as_pygs_own_feature_store(index: Any, rows: Tensor, store: TensorStore) -> None:
    pygs = HeteroData()
    pygs["paper"].x = VALUES
    ours = as_feature_store(store, group_name="paper")
    for features in (pygs, ours):
        assert torch.equal(features.get_tensor(group_name="paper", attr_name="x", index=index), rows)
        assert features.get_tensor_size(group_name="paper", attr_name="x") == (6, 2)
        assert [(a.group_name, a.attr_name) for a in features.get_all_tensor_attrs()] == [("paper", "x")]


def test_putting_a_tensor_writes_rows(store: TensorStore) -> None:
    features = as_feature_store(store, group_name="paper", attr_name="h")
    assert features.put_tensor(torch.ones(1, 2), group_name="paper", attr_name="h", index=torch.tensor([3]))
    assert torch.equal(store.read(torch.tensor([2, 3])), torch.stack([VALUES[2], torch.ones(2)]))


def test_an_embedding_store_shows_its_rows_of_now_and_is_not_put_to(memory_backend: Backend) -> None:
    table = memory_backend.open_embedding(EmbeddingSpec("table", 6, 2))
    features = as_feature_store(table)
    table.apply_gradients(torch.tensor([1]), torch.ones(1, 2), SGD(lr=1.0))
    assert torch.equal(features.get_tensor(None, "x", torch.tensor([1])), table.lookup(torch.tensor([1])))
    assert not features.put_tensor(torch.ones(6, 2), group_name=None, attr_name="x", index=None)


def test_another_name_is_not_there_and_a_removed_view_leaves_the_store(store: TensorStore) -> None:
    features = as_feature_store(store)
    with pytest.raises(KeyError):
        features.get_tensor(None, "y", None)
    features.remove_tensor(None, "x", None)
    assert features.get_all_tensor_attrs() == []
    assert torch.equal(store.read(torch.tensor([1])), VALUES[[1]])


class WholeNeighborhood(BaseSampler):
    """Seeds and all their in-neighbours, from a graph store of ours."""

    def __init__(self, graph: distgnn.GraphStore) -> None:
        self.graph = graph

    def sample_from_nodes(self, index: NodeSamplerInput, **_: Any) -> SamplerOutput:
        found = self.graph.in_neighbors(index.node)
        node = torch.unique(torch.cat([index.node, found.sources]))
        row, col = (torch.searchsorted(node, ends) for ends in (found.sources, found.destinations))
        return SamplerOutput(node, row, col, found.edge_ids, metadata=(index.input_id, index.time))

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> SamplerOutput:
        raise NotImplementedError


def test_pygs_loader_takes_it(store: TensorStore, memory_backend: Backend) -> None:
    edge_index = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    graph = memory_backend.open_graph(distgnn.GraphSpec("ring", 6, 6), edge_index)
    loader = NodeLoader(
        (as_feature_store(store), Data(edge_index=edge_index, num_nodes=6)),
        node_sampler=WholeNeighborhood(graph),
        input_nodes=torch.tensor([2, 5, 0]),
        batch_size=2,
    )
    batches = list(loader)
    assert [batch.num_nodes for batch in batches] == [4, 2]
    for batch in batches:
        assert torch.equal(batch.x, VALUES[batch.n_id])


def test_any_feature_store_of_pyg_is_a_read_only_tensor_store() -> None:
    hetero = HeteroData()
    hetero["paper"].x = VALUES.clone()
    mine = MyFeatureStore()
    mine.put_tensor(VALUES.clone(), group_name="paper", attr_name="x", index=None)
    for features, group in ((Data(x=VALUES.clone()), None), (hetero, "paper"), (mine, "paper")):
        store = as_tensor_store(features, group_name=group)
        assert isinstance(store, distgnn.TensorStore)
        assert (store.shape, store.dtype) == ((6, 2), torch.float32)
        rows = store.read(torch.tensor([4, 0, 4]))
        assert torch.equal(rows, VALUES[[4, 0, 4]])
        rows.fill_(7)
        assert torch.equal(store.read(torch.arange(6)), VALUES)
        assert store.read(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
        with pytest.raises(distgnn.IdRangeError, match="id 6 is beyond its 6 rows"):
            store.read(torch.tensor([6]))
        with pytest.raises(distgnn.StoreError, match="read-only view"):
            store.write(torch.tensor([0]), torch.ones(1, 2))
        store.close()
        with pytest.raises(distgnn.StoreClosedError):
            store.read(torch.tensor([0]))


def test_a_feature_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(distgnn.StoreError, match=r"has no \(None, 'y'\); it has \(None, 'x'\)"):
        as_tensor_store(Data(x=VALUES), attr_name="y")
