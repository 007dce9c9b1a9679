from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData, TensorAttr
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
        (torch.tensor([4, 0], dtype=torch.int32), VALUES[[4, 0]]),
        (torch.tensor([-1, 0]), VALUES[[5, 0]]),
        (torch.tensor([[1, 2], [3, -6]]), VALUES[torch.tensor([[1, 2], [3, 0]])]),
        (torch.tensor(2), VALUES[2]),
        ([4, 0, -2], VALUES[[4, 0, 4]]),
        ([], VALUES[:0]),
        (range(1, 6, 3), VALUES[[1, 4]]),
        (3, VALUES[3]),
        (-1, VALUES[5]),
        (np.int64(3), VALUES[3]),
        (slice(1, 5, 2), VALUES[1:5:2]),
        (slice(-2, None), VALUES[4:]),
        (slice(4, 100), VALUES[4:]),
        (torch.tensor([True, False, False, True, False, False]), VALUES[[0, 3]]),
        ([True, False, False, True, False, False], VALUES[[0, 3]]),
        (torch.zeros(6, dtype=torch.bool), VALUES[:0]),
    ],
    ids=repr,
)
def test_a_tensor_store_reads_as_pygs_own_feature_store(index: Any, rows: Tensor, store: TensorStore) -> None:
    pygs = HeteroData()
    pygs["paper"].x = VALUES
    ours = as_feature_store(store, group_name="paper")
    for features in (pygs, ours):
        assert torch.equal(features.get_tensor(group_name="paper", attr_name="x", index=index), rows)
        assert features.get_tensor_size(group_name="paper", attr_name="x") == (6, 2)
        assert [(a.group_name, a.attr_name) for a in features.get_all_tensor_attrs()] == [("paper", "x")]


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        ((4, 0), distgnn.IdsError, "give several ids as a list"),
        ("x", distgnn.IdsError, "not by 'x'"),
        (1.5, distgnn.IdsError, "not by 1.5"),
        (True, distgnn.IdsError, r"a mask of 6 rows has the shape \[6\], not \[\]"),
        (torch.tensor([True, False]), distgnn.IdsError, r"a mask of 6 rows has the shape \[6\], not \[2\]"),
        (torch.tensor([], dtype=torch.bool), distgnn.IdsError, "a mask of 6 rows"),
        (torch.tensor([0.0, 1.9]), distgnn.IdsError, "are integers, not torch.float32"),
        (torch.tensor([1, 0], dtype=torch.uint8), distgnn.IdsError, "a mask is of torch.bool"),
        (slice(None, None, -1), distgnn.IdsError, "a step of at least 1, not -1"),
        ([6], distgnn.IdRangeError, "id 6 is beyond its 6 rows"),
        (torch.tensor([-7]), distgnn.IdRangeError, "id -7 is beyond the 6 rows"),
    ],
    ids=repr,
)
def test_an_index_without_a_meaning_is_refused(
    index: Any, error: type[Exception], words: str, store: TensorStore
) -> None:
    features = as_feature_store(store)
    with pytest.raises(error, match=words):
        features.get_tensor(None, "x", index)
    with pytest.raises(error, match=words):
        features.put_tensor(torch.zeros(1, 2), group_name=None, attr_name="x", index=index)
    assert torch.equal(store.read(torch.arange(6)), VALUES)


@pytest.mark.parametrize("method", ["put_tensor", "update_tensor"])
@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (None, torch.ones(6, 2)),
        (torch.tensor([3]), torch.ones(1, 2)),
        ([3, -6], np.ones((2, 2), dtype=np.float32)),
        (range(2), torch.ones(2, 2)),
        (4, torch.ones(2)),
        (slice(0, 6, 3), torch.ones(2, 2)),
        ([True, False, False, True, False, False], torch.ones(2, 2)),
    ],
    ids=repr,
)
def test_putting_and_updating_a_tensor_write_the_rows_that_pyg_would(
    index: Any, rows: Any, method: str, store: TensorStore
) -> None:
    pygs = Data(x=VALUES.clone())
    pygs.put_tensor(torch.as_tensor(rows), attr_name="x", index=index)
    features = as_feature_store(store, group_name="paper", attr_name="h")
    assert getattr(features, method)(rows, group_name="paper", attr_name="h", index=index)
    assert torch.equal(store.read(torch.arange(6)), pygs.x)
    assert [attr.attr_name for attr in features.get_all_tensor_attrs()] == ["h"]


def test_views_and_several_tensors_at_once_are_pygs(store: TensorStore) -> None:
    pygs = MyFeatureStore()
    pygs.put_tensor(VALUES.clone(), group_name="paper", attr_name="h", index=None)
    for features in (pygs, as_feature_store(store, group_name="paper", attr_name="h")):
        assert torch.equal(features["paper", "h", None], VALUES)
        assert torch.equal(features["paper"].h[:], VALUES)
        assert torch.equal(features["paper", "h"](), VALUES)
        both = [TensorAttr("paper", "h", torch.tensor([1])), TensorAttr("paper", "h", torch.tensor([0, 2]))]
        assert [rows.tolist() for rows in features.multi_get_tensor(both)] == [[[2, 3]], [[0, 1], [4, 5]]]
        features["paper", "h", None] = VALUES + 1
        assert torch.equal(features["paper", "h", None], VALUES + 1)
        with pytest.raises(KeyError):
            features.get_tensor("paper", "other", None)
        assert features.remove_tensor("paper", "h", None)
        assert not features.remove_tensor("paper", "h", None)


def test_rows_that_do_not_fit_and_names_that_are_not_there_are_not_put(store: TensorStore) -> None:
    features = as_feature_store(store)
    with pytest.raises(distgnn.RowsError, match=r"must have shape \[6, 2\], not \[3, 2\]"):
        features.update_tensor(torch.ones(3, 2), group_name=None, attr_name="x", index=None)
    with pytest.raises(distgnn.StoreError, match="'y' is no tensor store of this view, which has 'x'; open a store"):
        features[None, "y", None] = torch.ones(6, 2)
    with pytest.raises(distgnn.StoreError, match="'x' of group 'paper' is no tensor store of this view"):
        features["paper", "x", None] = torch.ones(6, 2)
    with pytest.raises(distgnn.StoreError, match="'x' is a list; features are stores of a backend, or tensors"):
        as_feature_store([1, 2])  # type: ignore[arg-type]
    assert torch.equal(features[None, "x", None], VALUES)


def test_an_embedding_store_shows_its_rows_of_now_and_is_not_put_to(memory_backend: Backend) -> None:
    table = memory_backend.open_embedding(EmbeddingSpec("table", 6, 2))
    features = as_feature_store(table)
    table.apply_gradients(torch.tensor([1]), torch.ones(1, 2), SGD(lr=1.0))
    assert torch.equal(features.get_tensor(None, "x", [1]), table.lookup(torch.tensor([1])))
    before = table.lookup(torch.arange(6))
    with pytest.raises(distgnn.StoreError, match="'x' are an embedding store's: they are changed by its optimizer"):
        features[None, "x", None] = torch.ones(6, 2)
    with pytest.raises(distgnn.StoreError, match="by its optimizer alone"):
        features.update_tensor(torch.ones(6, 2), group_name=None, attr_name="x", index=None)
    assert torch.equal(features[None, "x", None], before)


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
