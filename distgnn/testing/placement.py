# ruff: noqa: D102  # a test's name is its sentence
"""The parts of the embedding and the tensor suite that are about partition books."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from distgnn.distributed.communicator import communicator_of
from distgnn.errors import NameConflictError, SpecError
from distgnn.optim.rules import SGD
from distgnn.storage.capabilities import SupportsCheckpoint, SupportsPlacement, SupportsPrefetch, order_of
from distgnn.storage.specs import EmbeddingSpec, PartitionBook, TensorSpec
from distgnn.storage.toolkit.initial import initial_rows
from distgnn.testing.checkpoints import meet, name_of, saved, take_out
from distgnn.testing.embedding_updates import BATCHES, RULES, EmbeddingFixtures
from distgnn.testing.oracles import DictOfRows
from distgnn.testing.resizing import growing
from distgnn.testing.suite import BackendFixture, eighths
from distgnn.testing.witness_rules import CountUses

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.storage.protocols import Backend, EmbeddingStore, UpdateRule
    from distgnn.testing.embedding_updates import OpenEmbedding
    from distgnn.testing.tensor_store import OpenTensor

ORDERS = {"no order": None, "an order": (5, 2, 6, 0, 3, 1, 4), "another order": (6, 5, 4, 3, 2, 1, 0)}


def book_of(world_size: int, order: str = "an order") -> PartitionBook:
    """Make a book of seven rows in which ranks have other numbers of rows, of more than two the first none."""
    bounds = tuple(7 * rank**2 // world_size**2 for rank in range(world_size + 1))
    ids = ORDERS[order]
    return PartitionBook(bounds, None if ids is None else torch.tensor(ids))


def ids_of(store: SupportsCheckpoint) -> Tensor:
    """Return the ids of this rank's rows, as they are exported."""
    own, book = store.own_rows, order_of(store)
    return torch.arange(own.start, own.stop) if book is None else book.ids(own.start, own.stop)


def check_it_is_kept(store: object, book: PartitionBook, rank: int, world_size: int) -> None:
    """Assert that a rank has the rows that a book says; skips where the store says of none where they are."""
    if not isinstance(store, SupportsPlacement) or not isinstance(store, SupportsCheckpoint):
        pytest.skip("the store has no ranges of rows that a partition could name")
    if world_size > 1:
        assert store.partition == book
    assert store.partition.world_size == world_size
    assert store.own_rows == store.partition.own(rank)


def check_another_is_refused(backend: Backend, spec: EmbeddingSpec | TensorSpec, world_size: int) -> None:
    """Assert that the name is not open by another placement."""

    def reopen(spec: EmbeddingSpec | TensorSpec) -> object:
        return backend.open_embedding(spec) if isinstance(spec, EmbeddingSpec) else backend.open_tensor(spec)

    for other in (None, book_of(world_size, "another order")):
        with pytest.raises(NameConflictError, match=rf"{spec.name}.*differ in partition"):
            reopen(replace(spec, partition=other))
    reopen(spec)


def check_books_of_more_ranks_are_refused(backend: Backend, spec: EmbeddingSpec | TensorSpec, store: object) -> None:
    """Assert it, where a store says by which book its rows are kept and they are not all of one rank."""
    world_size = communicator_of(backend).world_size
    if world_size == 1:
        pytest.skip("a rank that is alone agrees with itself")
    if not isinstance(store, SupportsPlacement):
        pytest.skip("the store has no ranges of rows that a partition could name")
    more = replace(spec, name=f"{spec.name[:100]}.more", partition=book_of(world_size + 1))
    with pytest.raises(SpecError, match=f"is for {world_size + 1} ranks, and there are {world_size}"):
        backend.open_embedding(more) if isinstance(more, EmbeddingSpec) else backend.open_tensor(more)


class EmbeddingPlacementTests(EmbeddingFixtures):
    """Tables whose rows are where a partition book says."""

    @pytest.fixture
    def placed_spec(self, spec: EmbeddingSpec) -> EmbeddingSpec:
        """Describe the small table with a book."""
        return replace(spec, partition=book_of(self.world_size))

    @pytest.fixture
    def placed(self, opening: OpenEmbedding, placed_spec: EmbeddingSpec) -> EmbeddingStore:
        """Open it."""
        return opening(placed_spec)

    @pytest.mark.parametrize("order", ORDERS)
    def test_ranks_own_the_rows_that_a_book_says(self, opening: OpenEmbedding, spec: EmbeddingSpec, order: str) -> None:
        book = book_of(self.world_size, order)
        check_it_is_kept(opening(replace(spec, partition=book)), book, self.rank, self.world_size)

    def test_ranks_own_even_ranges_of_ids_without_a_book(self, store: EmbeddingStore) -> None:
        check_it_is_kept(store, PartitionBook.even(7, self.world_size), self.rank, self.world_size)

    @pytest.mark.parametrize("order", ORDERS)
    def test_initial_rows_do_not_depend_on_where_they_are(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, order: str
    ) -> None:
        store = opening(replace(spec, partition=book_of(self.world_size, order)))
        assert torch.equal(self.table(store), initial_rows(spec, 0, 7).to(self.device))
        assert torch.equal(store.lookup(self.ids(4, 4, 0, 6)), initial_rows(spec, 0, 7).to(self.device)[[4, 4, 0, 6]])

    @pytest.mark.parametrize("rule", [*RULES.values(), CountUses()], ids=[*RULES, "CountUses"])
    def test_updates_do_not_depend_on_where_rows_are(
        self, placed: EmbeddingStore, spec: EmbeddingSpec, rule: UpdateRule
    ) -> None:
        model = DictOfRows(spec)
        for start, batch in enumerate(BATCHES):
            ids = self.ids(*batch)
            self.apply(placed, ids, self.gradients(ids, start), rule)
            model.apply_gradients(ids, self.gradients(ids, start), rule)
            assert_close(self.table(placed), model.table(self.device), rtol=1e-6, atol=1e-6)

    def test_a_prefetch_does_not_depend_on_where_rows_are(self, placed: EmbeddingStore) -> None:
        if not isinstance(placed, SupportsPrefetch):
            pytest.skip("the store has no prefetch")
        ids, touched = self.ids(6, 0, 6, 3), self.ids(0, 6, 5)
        finish = placed.prefetch(ids)
        self.apply(placed, touched, torch.ones(3, 3, device=self.device), SGD(lr=0.5))
        assert torch.equal(finish(), placed.lookup(ids))

    def test_a_table_is_attached_to_by_its_own_book(
        self, backend: Backend, opening: OpenEmbedding, placed: EmbeddingStore, placed_spec: EmbeddingSpec
    ) -> None:
        self.apply(placed, self.ids(2), self.gradients(self.ids(2)), SGD(lr=1.0))
        again = replace(placed_spec, partition=book_of(self.world_size))
        assert torch.equal(self.table(opening(again)), self.table(placed))
        check_another_is_refused(backend, placed_spec, self.world_size)

    def test_a_book_for_other_ranks_is_refused(
        self, backend: Backend, spec: EmbeddingSpec, placed: EmbeddingStore
    ) -> None:
        check_books_of_more_ranks_are_refused(backend, spec, placed)

    def test_rows_are_taken_out_by_their_places(self, placed: EmbeddingStore, spec: EmbeddingSpec) -> None:
        model, rule = DictOfRows(spec), RULES["adam"]
        for start, batch in enumerate(BATCHES):
            ids = self.ids(*batch)
            self.apply(placed, ids, self.gradients(ids, start), rule)
            model.apply_gradients(ids, self.gradients(ids, start), rule)
        table = self.table(placed).cpu()
        names, ids = [f"{name_of(rule)}/{name}" for name in rule.state(3)], ids_of(saved(placed))
        for first, block in take_out(saved(placed)):
            some = ids[first - saved(placed).own_rows.start :][: len(block["rows"])]
            assert torch.equal(block["rows"], table[some])
            for name in names:
                expected = [model.state(rule, row)[name.rpartition("/")[2]] for row in some.tolist()]
                assert_close(block[name], torch.cat(expected), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_table_moves_to_another_placement_bit_for_bit(
        self, backend: Backend, opening: OpenEmbedding, spec: EmbeddingSpec, placed: EmbeddingStore, order: str
    ) -> None:
        rules = [*RULES.values(), CountUses()]
        for start, rule in enumerate(rules * 2):
            ids = self.ids(start % 7, 5, 1, 1)
            self.apply(placed, ids, self.gradients(ids, start), rule)
        book = book_of(self.world_size, order)
        other = opening(replace(spec, name=f"{spec.name[:100]}.other", seed=1, partition=book))
        states, communicator = saved(placed).rule_states(), communicator_of(backend)
        own = saved(placed).own_rows
        rows = {name: one.clone() for name, one in saved(placed).export_rows(own.start, own.stop).items()}
        everybody = torch.cat(communicator.all_gather(ids_of(saved(placed))))
        if everybody.numel() > 7:
            pytest.skip("every rank has all rows")
        saved(other).reset_rule_states(states)
        slots = everybody.argsort()[ids_of(saved(other))]
        moved = {name: torch.cat(communicator.all_gather(one))[slots] for name, one in rows.items()}
        saved(other).import_rows(saved(other).own_rows.start, moved)
        meet(backend)
        assert torch.equal(self.table(other), self.table(placed))
        for start, rule in enumerate(rules):
            ids = self.ids(5, 1, start, 1)
            for store in (placed, other):
                self.apply(store, ids, self.gradients(ids, start), rule)
        assert_close(self.table(other), self.table(placed), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("order", ["no order", "an order"])
    def test_rows_that_a_table_grows_by_are_the_last_ranks(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, order: str
    ) -> None:
        book = book_of(self.world_size, order)
        store, model = opening(replace(spec, partition=book)), DictOfRows(replace(spec, num_embeddings=140))
        for size in (7, 8, 140):
            growing(store).resize(size)
            for start, batch in enumerate((*BATCHES, (size - 1, 3, size - 1))):
                ids = self.ids(*batch)
                self.apply(store, ids, self.gradients(ids, start), RULES["adam"])
                model.apply_gradients(ids, self.gradients(ids, start), RULES["adam"])
            assert_close(self.table(store), model.table(self.device)[:size], rtol=1e-6, atol=1e-6)
        grown = replace(spec, num_embeddings=140, partition=book.grown(140))
        assert torch.equal(self.table(opening(grown)), self.table(store))
        check_it_is_kept(store, book.grown(140), self.rank, self.world_size)


class TensorPlacementTests(BackendFixture):
    """Tensors whose rows are where a partition book says."""

    @pytest.mark.parametrize("order", ORDERS)
    def test_ranks_own_the_rows_of_a_tensor_that_a_book_says(
        self, opening: OpenTensor, spec: TensorSpec, order: str
    ) -> None:
        book = book_of(self.world_size, order)
        check_it_is_kept(opening(replace(spec, partition=book)), book, self.rank, self.world_size)

    @pytest.mark.parametrize("order", ORDERS)
    def test_a_tensor_does_not_depend_on_where_its_rows_are(
        self, backend: Backend, opening: OpenTensor, spec: TensorSpec, order: str
    ) -> None:
        placed = replace(spec, partition=book_of(self.world_size, order))
        store, everything = opening(placed), torch.arange(7, device=self.device)
        values = eighths(7, 3, device=self.device)
        store.write(*self.share(everything, values))
        assert torch.equal(store.read(everything), values)
        ids = self.ids(6, 2, 6, 0)
        store.write(*self.share(ids, values[:4]), accumulate=True)
        expected = values.clone().index_add_(0, ids, values[:4])
        assert torch.equal(store.read(ids), expected[ids])
        if isinstance(store, SupportsCheckpoint):
            meet(backend)
            for first, block in take_out(store):
                some = ids_of(store)[first - store.own_rows.start :][: len(block["rows"])]
                assert torch.equal(block["rows"], expected.cpu()[some])
                store.import_rows(first, {"rows": block["rows"] + 1})
            meet(backend)
            assert torch.equal(store.read(everything), expected + 1)

    def test_a_tensor_is_attached_to_by_its_own_book(
        self, backend: Backend, opening: OpenTensor, spec: TensorSpec
    ) -> None:
        placed = replace(spec, partition=book_of(self.world_size))
        opening(placed)
        check_another_is_refused(backend, placed, self.world_size)

    def test_a_book_of_a_tensor_for_other_ranks_is_refused(
        self, backend: Backend, opening: OpenTensor, spec: TensorSpec
    ) -> None:
        check_books_of_more_ranks_are_refused(backend, spec, opening(replace(spec, partition=book_of(self.world_size))))
