"""Backends with one fault each, and the tests of the kit that must fail on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.backends.memory import (
    MemoryBackend,
    MemoryEmbeddingStore,
    MemoryGraphStore,
    MemoryTensorStore,
)
from distgnn.errors import NameConflictError

if TYPE_CHECKING:
    from conftest import Failures
    from torch import Tensor

    from distgnn import EmbeddingSpec, GraphSpec, TensorSpec


class IsCalledOtherwise(MemoryBackend):
    name = "memmory"


class OpensStoresWithoutSizes(MemoryBackend):
    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> object:
        store = super().open_graph(spec, edge_index)

        class Bare:
            in_neighbors, close = store.in_neighbors, store.close

        return Bare()


class OpensAnotherStoreOfTheName(MemoryBackend):
    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        return self.keep(MemoryEmbeddingStore(spec, self._device))

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return self.keep(MemoryTensorStore(spec, self._device))


class AttachesWithAnotherSpec(MemoryBackend):
    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        store = (self._stores or {}).get(spec.name)
        usable = isinstance(store, MemoryEmbeddingStore) and not store.closed
        return store if usable else super().open_embedding(spec)


class ReplacesTheStoreOfAnotherSpec(MemoryBackend):
    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        try:
            return super().open_tensor(spec)
        except NameConflictError:
            return self.keep(MemoryTensorStore(spec, self._device))


class ConflictsShowOneSpec(MemoryBackend):
    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        try:
            return super().open_embedding(spec)
        except NameConflictError:
            raise NameConflictError(f"{spec} is open already") from None


class EveryKindHasItsOwnNames(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.tensors = MemoryBackend()

    def open_tensor(self, spec: TensorSpec) -> MemoryTensorStore:
        return self.tensors.open_tensor(spec)

    def close(self) -> None:
        self.tensors.close()
        super().close()


class OtherEdgesAreIgnored(MemoryBackend):
    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        return self.attached(spec, MemoryGraphStore) or super().open_graph(spec, edge_index)


class OnlyDegreesAreCompared(MemoryBackend):
    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        try:
            return super().open_graph(spec, edge_index)
        except NameConflictError:
            store = self.attached(spec, MemoryGraphStore)
            degrees = torch.bincount(edge_index[1], minlength=spec.num_nodes)
            if torch.equal(degrees.cumsum(0), store._start[1:]):
                return store
            raise


class MissingEdgesAreNone(MemoryBackend):
    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        if edge_index is None and self.attached(spec, MemoryGraphStore) is None:
            edge_index = torch.zeros(2, spec.num_edges, dtype=torch.int64)
        return super().open_graph(spec, edge_index)


class NeedsEdgesToAttach(MemoryBackend):
    def open_graph(self, spec: GraphSpec, edge_index: Tensor | None = None) -> MemoryGraphStore:
        spec.check_edges(edge_index)
        return super().open_graph(spec, edge_index)


class StoresOutliveIt(MemoryBackend):
    def close(self) -> None:
        self._stores = None


class OpensAfterClose(MemoryBackend):
    def close(self) -> None:
        super().close()
        self._stores = {}


class ClosesOnce(MemoryBackend):
    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        self._stores = None


class CountsWhatItKeepsToItself(MemoryBackend):
    kept = 0

    @property
    def bytes_sent(self) -> int:
        self.kept += 84
        return self.kept


class RevivesClosedStores(MemoryBackend):
    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        store = (self._stores or {}).get(spec.name)
        if isinstance(store, MemoryEmbeddingStore) and store.closed and store.spec == spec:
            store.__init__(spec, self._device)
        return super().open_embedding(spec)


class KeepsTheNamesOfClosedStores(MemoryBackend):
    def open_embedding(self, spec: EmbeddingSpec) -> MemoryEmbeddingStore:
        store = (self._stores or {}).get(spec.name)
        if isinstance(store, MemoryEmbeddingStore) and store.spec != spec:
            raise NameConflictError(f"{store.spec} was open before {spec}")
        return super().open_embedding(spec)


CAUGHT_BY = {
    IsCalledOtherwise: "test_its_name_is_one_that_it_is_found_by",
    OpensStoresWithoutSizes: "test_its_stores_are_stores",
    OpensAnotherStoreOfTheName: "test_opening_an_open_embedding_attaches_to_it",
    AttachesWithAnotherSpec: "test_an_open_embedding_with_another_spec_is_a_conflict_that_shows_both",
    ReplacesTheStoreOfAnotherSpec: "test_an_open_tensor_with_another_spec_is_a_conflict_that_shows_both",
    ConflictsShowOneSpec: "test_an_open_embedding_with_another_spec_is_a_conflict_that_shows_both",
    EveryKindHasItsOwnNames: "test_names_are_one_space_for_all_kinds",
    OtherEdgesAreIgnored: "test_an_open_graph_with_other_edges_is_a_conflict",
    OnlyDegreesAreCompared: "test_an_open_graph_with_other_edges_is_a_conflict",
    MissingEdgesAreNone: "test_a_graph_that_is_not_open_needs_edges",
    NeedsEdgesToAttach: "test_opening_an_open_graph_attaches_to_it",
    StoresOutliveIt: "test_closing_it_closes_its_stores",
    OpensAfterClose: "test_after_close_nothing_is_opened",
    CountsWhatItKeepsToItself: "test_the_bytes_that_it_has_sent_are_counted_on",
    ClosesOnce: "test_closing_twice_is_allowed",
    KeepsTheNamesOfClosedStores: "test_an_open_embedding_with_another_spec_is_a_conflict_that_shows_both",
}


@pytest.mark.parametrize("backend", CAUGHT_BY, ids=lambda backend: backend.__name__)
def test_a_wrong_backend_fails_the_test_of_what_it_does_wrong(failures: Failures, backend: type[MemoryBackend]) -> None:
    test = CAUGHT_BY[backend]
    assert failures("BackendTests", backend, test=test) == {test}


def test_a_backend_that_revives_closed_stores_fails_the_embedding_suite(failures: Failures) -> None:
    test = "test_a_closed_store_stays_closed_when_its_name_is_opened_anew"
    assert failures("EmbeddingStoreTests", RevivesClosedStores, test=test) == {test}


def test_the_right_backend_fails_no_test(failures: Failures) -> None:
    assert failures("BackendTests", MemoryBackend) == set()
