# ruff: noqa: D102  # a test's name is its sentence
"""The conformance suite of :class:`distgnn.EmbeddingStore`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.errors import (
    EmbeddingSizeError,
    IdsError,
    NonFiniteGradientError,
    RowsError,
    StoreClosedError,
)
from distgnn.optim.rules import SGD
from distgnn.storage.capabilities import SupportsPrefetch
from distgnn.storage.toolkit.initial import initial_rows
from distgnn.testing.checkpoints import EmbeddingCheckpointTests
from distgnn.testing.embedding_updates import FLOATS, RULES, EmbeddingUpdateTests
from distgnn.testing.oracles import DictOfRows
from distgnn.testing.placement import EmbeddingPlacementTests
from distgnn.testing.resizing import EmbeddingResizeTests
from distgnn.testing.state_machines import EmbeddingMachine, run_in_lock_step
from distgnn.testing.wrong_ids import WRONG_KINDS, WRONG_RANGES

if TYPE_CHECKING:
    from distgnn.storage.protocols import Backend, EmbeddingStore
    from distgnn.storage.specs import EmbeddingSpec
    from distgnn.testing.embedding_updates import OpenEmbedding


class EmbeddingStoreTests(
    EmbeddingUpdateTests, EmbeddingCheckpointTests, EmbeddingResizeTests, EmbeddingPlacementTests
):
    """Subclass it and override ``backend``; see :mod:`distgnn.testing`."""

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_a_new_store_has_the_initial_rows(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype
    ) -> None:
        spec = replace(spec, dtype=dtype, std=0.5)
        rows = self.table(opening(spec))
        assert rows.dtype == dtype
        assert rows.device == self.device
        assert torch.equal(rows, initial_rows(spec, 0, 7).to(self.device))

    @pytest.mark.parametrize("num_embeddings", [1, 130, 300])
    def test_a_table_of_another_size_begins_with_the_same_rows(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, num_embeddings: int
    ) -> None:
        rows = self.table(opening(replace(spec, num_embeddings=num_embeddings)))
        assert torch.equal(rows, initial_rows(replace(spec, num_embeddings=1000), 0, num_embeddings).to(self.device))

    def test_initial_rows_depend_on_the_seed_and_the_name(self, opening: OpenEmbedding, spec: EmbeddingSpec) -> None:
        name = spec.name[-100:].lstrip(".-")
        others = [replace(spec, name=f"{name}.{change}", seed=seed) for change, seed in (("b", 5), ("c", 6))]
        first, second, third = (self.table(opening(each)) for each in (spec, *others))
        assert not torch.isclose(first, second).any()
        assert not torch.isclose(second, third).any()
        assert torch.equal(third, initial_rows(others[1], 0, 7).to(self.device))

    def test_it_has_the_sizes_of_its_spec(self, store: EmbeddingStore) -> None:
        assert (store.num_embeddings, store.embedding_dim) == (7, 3)

    def test_lookup_keeps_the_order_of_ids_and_repeats_duplicates(self, store: EmbeddingStore) -> None:
        table, order = self.table(store), (6, 0, 6, 6, 3, 0)
        assert torch.equal(store.lookup(self.ids(*order)), torch.stack([table[row] for row in order]))

    def test_lookup_of_no_ids_gives_no_rows(self, store: EmbeddingStore) -> None:
        rows = store.lookup(self.ids())
        assert (rows.shape, rows.dtype, rows.device) == ((0, 3), torch.float32, self.device)

    @pytest.mark.parametrize("ids", [(3, 4), (0, 1, 2, 3, 4, 5, 6)], ids=["some", "all"])
    def test_changing_looked_up_rows_does_not_change_the_store(
        self, store: EmbeddingStore, spec: EmbeddingSpec, ids: tuple[int, ...]
    ) -> None:
        store.lookup(self.ids(*ids)).fill_(99)
        assert torch.equal(self.table(store), initial_rows(spec, 0, 7).to(self.device))

    @pytest.mark.parametrize("ids", [(3, 4), (0, 1, 2, 3, 4, 5, 6)], ids=["some", "all"])
    def test_changing_the_store_does_not_change_looked_up_rows(
        self, store: EmbeddingStore, spec: EmbeddingSpec, ids: tuple[int, ...]
    ) -> None:
        rows = store.lookup(self.ids(*ids))
        self.apply(store, self.ids(*ids), torch.ones_like(rows), SGD(lr=1.0))
        assert torch.equal(rows, initial_rows(spec, 0, 7).to(self.device)[list(ids)])

    def test_a_prefetch_sees_the_updates_that_come_before_its_end(self, store: EmbeddingStore) -> None:
        if not isinstance(store, SupportsPrefetch):
            pytest.skip("the store has no prefetch")
        ids, touched, other = self.ids(6, 0, 6, 3), self.ids(0, 6, 5), self.ids(1)
        for _ in range(3):
            asked = ids.clone()
            finish = store.prefetch(asked)
            asked.zero_()
            self.apply(store, touched, torch.ones(3, 3, device=self.device), SGD(lr=0.5))
            self.apply(store, other, torch.ones(1, 3, device=self.device), SGD(lr=0.5))
            rows = finish()
            assert torch.equal(rows, store.lookup(ids))
            rows.fill_(99)
            assert torch.equal(store.lookup(ids), self.table(store).index_select(0, ids))

    def test_a_prefetch_of_ids_that_a_lookup_refuses_is_refused(
        self, store: EmbeddingStore, spec: EmbeddingSpec
    ) -> None:
        if not isinstance(store, SupportsPrefetch):
            pytest.skip("the store has no prefetch")
        with pytest.raises(IdsError, match=spec.name):
            store.prefetch(self.ids(1).float())
        with pytest.raises(EmbeddingSizeError, match=spec.name):
            store.prefetch(self.ids(7))
        store.close()
        with pytest.raises(StoreClosedError, match=spec.name):
            store.prefetch(self.ids(1))

    @pytest.mark.parametrize("wrong", WRONG_KINDS)
    def test_ids_that_are_no_int64_vector_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec, wrong: str
    ) -> None:
        ids = WRONG_KINDS[wrong](self.device)
        with pytest.raises(IdsError, match=spec.name):
            store.lookup(ids)
        with pytest.raises(IdsError, match=spec.name):
            store.apply_gradients(ids, torch.ones(ids.numel(), 3, device=self.device), RULES["adam"])
        self.check_unchanged(store, spec)

    @pytest.mark.parametrize("wrong", WRONG_RANGES)
    def test_ids_outside_the_table_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec, wrong: str
    ) -> None:
        bad = WRONG_RANGES[wrong](spec.num_embeddings)
        ids = self.ids(2, bad, 2)
        words = rf"{spec.name}.*id {bad} .*" + ("negative" if bad < 0 else "7 rows.*set_num_embeddings")
        with pytest.raises(EmbeddingSizeError, match=words):
            store.lookup(ids)
        with pytest.raises(EmbeddingSizeError, match=words):
            store.apply_gradients(ids, torch.ones(3, 3, device=self.device), RULES["adam"])
        self.check_unchanged(store, spec)

    @pytest.mark.parametrize("shape", [(1, 3), (3, 1), (3,), (), (3, 4), (2, 3), (3, 3, 1)], ids=str)
    def test_gradients_of_another_shape_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(RowsError, match=rf"{spec.name}.*\[3, 3\]"):
            store.apply_gradients(self.ids(0, 1, 2), torch.ones(shape, device=self.device), RULES["adam"])
        self.check_unchanged(store, spec)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64], ids=str)
    def test_gradients_of_another_dtype_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec, dtype: torch.dtype
    ) -> None:
        with pytest.raises(RowsError, match=rf"{spec.name}.*{dtype}"):
            store.apply_gradients(self.ids(1), torch.ones(1, 3, dtype=dtype, device=self.device), RULES["adam"])
        self.check_unchanged(store, spec)

    def test_gradients_on_another_device_are_refused_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec
    ) -> None:
        with pytest.raises(RowsError, match=rf"{spec.name}.*meta"):
            store.apply_gradients(self.ids(1), torch.ones(1, 3, device="meta"), RULES["adam"])
        self.check_unchanged(store, spec)

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    def test_gradients_that_are_not_finite_are_refused_under_debug_and_change_nothing(
        self, store: EmbeddingStore, spec: EmbeddingSpec, number: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DISTGNN_DEBUG", "1")
        gradients = torch.ones(2, 3, device=self.device)
        gradients[1, 2] = number
        with pytest.raises(NonFiniteGradientError, match=rf"{spec.name}.*id 4"):
            store.apply_gradients(self.ids(6, 4), gradients, RULES["adam"])
        self.check_unchanged(store, spec)

    def test_gradients_that_are_not_finite_are_taken_without_debug(
        self, store: EmbeddingStore, spec: EmbeddingSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DISTGNN_DEBUG", raising=False)
        gradients = torch.full((1, 3), float("nan"), device=self.device)
        self.apply(store, self.ids(4), gradients, SGD(lr=1.0))
        table = self.table(store)
        assert table[4].isnan().all()
        assert torch.equal(table[:4], initial_rows(spec, 0, 4).to(self.device))

    def test_after_close_every_call_is_refused(self, store: EmbeddingStore) -> None:
        store.close()
        with pytest.raises(StoreClosedError):
            store.lookup(self.ids(0))
        with pytest.raises(StoreClosedError):
            store.lookup(self.ids())
        with pytest.raises(StoreClosedError):
            store.apply_gradients(self.ids(0), self.gradients(self.ids(0)), SGD())

    def test_closing_twice_is_allowed(self, store: EmbeddingStore) -> None:
        store.close()
        store.close()

    def test_a_store_that_is_opened_anew_starts_again(
        self, backend: Backend, opening: OpenEmbedding, spec: EmbeddingSpec
    ) -> None:
        store, ids = opening(spec), self.ids(2, 3)
        self.apply(store, ids, self.gradients(ids), RULES["adam"])
        store.close()
        again = opening(spec)
        self.check_unchanged(again, spec)
        again.close()
        wider = backend.open_embedding(replace(spec, embedding_dim=5))
        assert wider.lookup(self.ids(6)).shape == (1, 5)
        wider.close()

    def test_a_closed_store_stays_closed_when_its_name_is_opened_anew(
        self, opening: OpenEmbedding, spec: EmbeddingSpec
    ) -> None:
        old = opening(spec)
        old.close()
        new = opening(spec)
        with pytest.raises(StoreClosedError):
            old.lookup(self.ids(0))
        old.close()
        self.check_unchanged(new, spec)

    def test_random_calls_agree_with_a_dict_of_rows(self, backend: Backend, spec: EmbeddingSpec) -> None:
        run_in_lock_step(lambda: EmbeddingMachine(backend, spec, self))

    def check_unchanged(self, store: EmbeddingStore, spec: EmbeddingSpec) -> None:
        """Assert that the store is as it was opened: its rows, and that no rule has counted a step or kept state."""
        assert torch.equal(self.table(store), initial_rows(spec, 0, 7).to(self.device))
        model, ids = DictOfRows(spec), self.ids(2, 5, 2)
        for rule in RULES.values():
            self.apply(store, ids, self.gradients(ids), rule)
            model.apply_gradients(ids, self.gradients(ids), rule)
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=1e-6, atol=1e-6)
