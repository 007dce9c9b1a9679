# ruff: noqa: D102  # a test's name is its sentence
"""The conformance suite of :class:`distgnn.Backend`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

import distgnn
from distgnn.distributed.communicator import SupportsRanks
from distgnn.errors import NameConflictError, RowsError, SpecError, StoreClosedError
from distgnn.optim.rules import SGD
from distgnn.storage.capabilities import SupportsTraffic
from distgnn.storage.specs import EmbeddingSpec, GraphSpec, TensorSpec
from distgnn.testing.suite import BackendFixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from distgnn.storage.protocols import Backend, EmbeddingStore, GraphStore, TensorStore

OPEN: dict[str, Callable[[Backend, str, Tensor], EmbeddingStore | TensorStore | GraphStore]] = {
    "embedding": lambda backend, name, _: backend.open_embedding(EmbeddingSpec(name, 7, 3)),
    "tensor": lambda backend, name, _: backend.open_tensor(TensorSpec(name, (7, 3))),
    "graph": lambda backend, name, edge_index: backend.open_graph(GraphSpec(name, 7, 4), edge_index),
}
OPEN_OTHER: dict[str, Callable[[Backend, str, Tensor], EmbeddingStore | TensorStore | GraphStore]] = {
    "embedding": lambda backend, name, _: backend.open_embedding(EmbeddingSpec(name, 7, 4)),
    "tensor": lambda backend, name, _: backend.open_tensor(TensorSpec(name, (7, 4))),
    "graph": lambda backend, name, edge_index: backend.open_graph(GraphSpec(name, 8, 4), edge_index),
}
READ = {"embedding": "lookup", "tensor": "read", "graph": "in_neighbors"}
OTHER_EMBEDDINGS: dict[str, Callable[[EmbeddingSpec], EmbeddingSpec]] = {
    "num_embeddings": lambda spec: replace(spec, num_embeddings=8),
    "embedding_dim": lambda spec: replace(spec, embedding_dim=4),
    "seed": lambda spec: replace(spec, seed=1),
    "std": lambda spec: replace(spec, std=0.5),
}
OTHER_TENSORS: dict[str, Callable[[TensorSpec], TensorSpec]] = {
    "rows": lambda spec: replace(spec, shape=(8, 3)),
    "columns": lambda spec: replace(spec, shape=(7, 4)),
    "dimensions": lambda spec: replace(spec, shape=(7, 3, 1)),
    "dtype": lambda spec: replace(spec, dtype=torch.int64),
}
BAD_SPECS: dict[str, Callable[[], object]] = {
    "empty_name": lambda: EmbeddingSpec("", 7, 3),
    "slash": lambda: TensorSpec("a/b", (7, 3)),
    "path": lambda: GraphSpec("..", 7, 4),
    "too_long": lambda: TensorSpec("a" * 129, (7, 3)),
    "no_rows": lambda: EmbeddingSpec("rows", 0, 3),
    "no_columns": lambda: EmbeddingSpec("columns", 7, 0),
    "no_shape": lambda: TensorSpec("shape", ()),
    "empty_shape": lambda: TensorSpec("shape", (7, 0)),
    "no_nodes": lambda: GraphSpec("nodes", 0, 0),
    "negative_edges": lambda: GraphSpec("edges", 7, -1),
    "integer_embedding": lambda: EmbeddingSpec("integers", 7, 3, dtype=torch.int64),
    "infinite_std": lambda: EmbeddingSpec("std", 7, 3, std=float("inf")),
}


class BackendTests(BackendFixture):
    """Subclass it and override ``backend`` with one that is new for each test, as these tests close it."""

    @pytest.fixture
    def edge_index(self) -> Tensor:
        """Give the edges of a small graph."""
        return torch.tensor([[0, 1, 2, 3], [1, 1, 6, 0]], device=self.device)

    def test_it_is_a_backend(self, backend: Backend) -> None:
        assert isinstance(backend, distgnn.Backend)

    def test_its_name_is_one_that_it_is_found_by(self, backend: Backend) -> None:
        assert backend.name in {info.name for info in distgnn.list_backends()}

    def test_its_ranks_are_those_that_were_started(self, backend: Backend) -> None:
        if not isinstance(backend, SupportsRanks):
            pytest.skip("the backend has no rank and world_size")
        assert (backend.rank, backend.world_size) == (self.rank, self.world_size)

    @pytest.mark.parametrize("kind", OPEN)
    def test_ranks_that_open_other_specs_are_a_conflict_on_every_rank(
        self, backend: Backend, store_name: str, edge_index: Tensor, kind: str
    ) -> None:
        if self.world_size == 1:
            pytest.skip("a rank that is alone agrees with itself")
        with pytest.raises(NameConflictError, match=store_name):
            (OPEN_OTHER if self.rank == self.world_size - 1 else OPEN)[kind](backend, store_name, edge_index)
        store = OPEN[kind](backend, store_name, edge_index)
        getattr(store, READ[kind])(self.ids(1))
        store.close()

    def test_its_stores_are_stores(self, backend: Backend, store_name: str, edge_index: Tensor) -> None:
        kinds = {"embedding": distgnn.EmbeddingStore, "tensor": distgnn.TensorStore, "graph": distgnn.GraphStore}
        for kind, protocol in kinds.items():
            store = OPEN[kind](backend, store_name, edge_index)
            assert isinstance(store, protocol)
            store.close()

    def test_the_bytes_that_it_has_sent_are_counted_on(self, backend: Backend, store_name: str) -> None:
        if not isinstance(backend, SupportsTraffic):
            pytest.skip("the backend has no bytes_sent")
        store, sent = backend.open_embedding(EmbeddingSpec(store_name, 7, 3)), [backend.bytes_sent]
        for ids in (self.ids(), self.ids(*range(7))):
            store.lookup(ids)
            sent.append(backend.bytes_sent)
        assert {type(count) for count in sent} == {int}
        assert sent == sorted(sent)
        assert sent[0] >= 0
        assert self.world_size > 1 or sent[-1] == 0, "a rank that is alone has nobody to send to"

    def test_opening_an_open_embedding_attaches_to_it(self, backend: Backend, store_name: str) -> None:
        spec, ids = EmbeddingSpec(store_name, 7, 3), self.ids(2, 6)
        first, second = backend.open_embedding(spec), backend.open_embedding(replace(spec))
        first.apply_gradients(*self.share(ids, torch.ones(2, 3, device=self.device)), SGD(lr=1.0))
        expected = distgnn.initial_rows(spec, 0, 7)[[2, 6]].to(self.device) - 1
        torch.testing.assert_close(second.lookup(ids), expected)
        torch.testing.assert_close(backend.open_embedding(spec).lookup(ids), expected)
        second.close()
        with pytest.raises(StoreClosedError):
            first.lookup(ids)

    def test_opening_an_open_tensor_attaches_to_it(self, backend: Backend, store_name: str) -> None:
        spec, ids, ones = TensorSpec(store_name, (7, 3)), self.ids(2, 6), torch.ones(2, 3, device=self.device)
        first, second = backend.open_tensor(spec), backend.open_tensor(replace(spec))
        first.write(*self.share(ids, ones))
        assert torch.equal(second.read(ids), ones)
        assert torch.equal(backend.open_tensor(spec).read(ids), ones)
        second.close()
        with pytest.raises(StoreClosedError):
            first.read(ids)

    def test_opening_an_open_graph_attaches_to_it(self, backend: Backend, store_name: str, edge_index: Tensor) -> None:
        spec = GraphSpec(store_name, 7, 4)
        stores = [backend.open_graph(spec, given) for given in (edge_index, edge_index.clone(), None)]
        for store in stores:
            assert store.in_neighbors(self.ids(1, 0)).edge_ids.tolist() == [0, 1, 3]
        stores[2].close()
        for store in stores:
            with pytest.raises(StoreClosedError):
                store.in_neighbors(self.ids(1))

    @pytest.mark.parametrize("change", OTHER_EMBEDDINGS)
    def test_an_open_embedding_with_another_spec_is_a_conflict_that_shows_both(
        self, backend: Backend, store_name: str, change: str
    ) -> None:
        spec = EmbeddingSpec(store_name, 7, 3)
        other = OTHER_EMBEDDINGS[change](spec)
        store = backend.open_embedding(spec)
        with pytest.raises(NameConflictError) as caught:
            backend.open_embedding(other)
        assert str(spec) in str(caught.value)
        assert str(other) in str(caught.value)
        assert torch.equal(store.lookup(self.ids(6)), distgnn.initial_rows(spec, 6, 7).to(self.device))
        store.close()
        assert backend.open_embedding(other).num_embeddings == other.num_embeddings

    @pytest.mark.parametrize("change", OTHER_TENSORS)
    def test_an_open_tensor_with_another_spec_is_a_conflict_that_shows_both(
        self, backend: Backend, store_name: str, change: str
    ) -> None:
        spec = TensorSpec(store_name, (7, 3))
        other = OTHER_TENSORS[change](spec)
        backend.open_tensor(spec)
        with pytest.raises(NameConflictError) as caught:
            backend.open_tensor(other)
        assert str(spec) in str(caught.value)
        assert str(other) in str(caught.value)

    def test_an_open_graph_with_another_spec_is_a_conflict_that_shows_both(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        spec, other = GraphSpec(store_name, 7, 4), GraphSpec(store_name, 8, 4)
        backend.open_graph(spec, edge_index)
        for given in (edge_index, None):
            with pytest.raises(NameConflictError) as caught:
                backend.open_graph(other, given)
            assert str(spec) in str(caught.value)
            assert str(other) in str(caught.value)

    def test_an_open_graph_with_other_edges_is_a_conflict(
        self, backend: Backend, store_name: str, edge_index: Tensor
    ) -> None:
        spec = GraphSpec(store_name, 7, 4)
        store = backend.open_graph(spec, edge_index)
        for other in (edge_index.flip(0), edge_index.flip(1), edge_index.roll(1, 1)):
            with pytest.raises(NameConflictError, match=store_name):
                backend.open_graph(spec, other)
        assert store.in_neighbors(self.ids(1, 0)).edge_ids.tolist() == [0, 1, 3]

    @pytest.mark.parametrize("asked", OPEN)
    @pytest.mark.parametrize("opened", OPEN)
    def test_names_are_one_space_for_all_kinds(
        self, backend: Backend, store_name: str, edge_index: Tensor, opened: str, asked: str
    ) -> None:
        store = OPEN[opened](backend, store_name, edge_index)
        if opened != asked:
            with pytest.raises(NameConflictError, match=store_name):
                OPEN[asked](backend, store_name, edge_index)
        store.close()
        OPEN[asked](backend, store_name, edge_index)

    def test_a_graph_that_is_not_open_needs_edges(self, backend: Backend, store_name: str, edge_index: Tensor) -> None:
        spec = GraphSpec(store_name, 7, 4)
        with pytest.raises(RowsError, match=store_name):
            backend.open_graph(spec)
        backend.open_graph(spec, edge_index).close()
        with pytest.raises(RowsError, match=store_name):
            backend.open_graph(spec)

    @pytest.mark.parametrize("kind", OPEN)
    def test_closing_it_closes_its_stores(
        self, backend: Backend, store_name: str, edge_index: Tensor, kind: str
    ) -> None:
        store = OPEN[kind](backend, store_name, edge_index)
        backend.close()
        with pytest.raises(StoreClosedError):
            getattr(store, READ[kind])(self.ids(1))
        store.close()

    @pytest.mark.parametrize("kind", OPEN)
    def test_after_close_nothing_is_opened(
        self, backend: Backend, store_name: str, edge_index: Tensor, kind: str
    ) -> None:
        backend.close()
        with pytest.raises(StoreClosedError):
            OPEN[kind](backend, store_name, edge_index)

    def test_closing_twice_is_allowed(self, backend: Backend) -> None:
        backend.close()
        backend.close()

    @pytest.mark.parametrize("bad", BAD_SPECS)
    def test_a_store_that_cannot_be_is_refused_before_any_backend_is_asked(self, bad: str) -> None:
        with pytest.raises(SpecError):
            BAD_SPECS[bad]()
