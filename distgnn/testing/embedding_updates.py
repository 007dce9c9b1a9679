# ruff: noqa: D102  # a test's name is its sentence
"""The part of the embedding suite that is about :meth:`distgnn.EmbeddingStore.apply_gradients`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from distgnn import optim
from distgnn.optim.rules import SGD, Adagrad, Adam, RowWiseAdagrad
from distgnn.storage.specs import EmbeddingSpec
from distgnn.testing.oracles import DictOfRows
from distgnn.testing.suite import BackendFixture, eighths, skip_if_refused
from distgnn.testing.witness_rules import CountUses, ShowElementSizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from distgnn.storage.protocols import Backend, EmbeddingStore, UpdateRule

    OpenEmbedding = Callable[[EmbeddingSpec], EmbeddingStore]

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)
_NUMBERS: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.25},
    "adagrad": {"lr_decay": 0.5, "weight_decay": 0.25, "initial_accumulator_value": 0.5},
    "rowwise-adagrad": {"weight_decay": 0.25},
    "adam": {"betas": (0.5, 0.75)},
    "adamw": {"betas": (0.5, 0.75), "weight_decay": 0.25},
}
RULES: dict[str, UpdateRule] = {key: rule(lr=0.5, **_NUMBERS.get(key, {})) for key, rule in optim.RULES.items()}
BATCHES = ((3, 1, 3, 3, 0, 1), (6,), (), (1, 1, 1, 1, 1, 1, 1, 6), (0, 1, 2, 3, 5), (3, 0, 3))


class EmbeddingFixtures(BackendFixture):
    """Stores for the tests, closed after them."""

    @pytest.fixture
    def spec(self, store_name: str) -> EmbeddingSpec:
        """Describe a small table."""
        return EmbeddingSpec(store_name, 7, 3, seed=5)

    @pytest.fixture
    def opening(self, backend: Backend) -> Iterator[OpenEmbedding]:
        """Give a function that opens stores; skips the test for a dtype that the backend may refuse and does."""
        with ExitStack() as stores:

            def open_embedding(spec: EmbeddingSpec) -> EmbeddingStore:
                with skip_if_refused(spec.dtype):
                    store = backend.open_embedding(spec)
                stores.callback(store.close)
                return store

            yield open_embedding

    @pytest.fixture
    def store(self, opening: OpenEmbedding, spec: EmbeddingSpec) -> EmbeddingStore:
        """Open the small table."""
        return opening(spec)

    def table(self, store: EmbeddingStore) -> Tensor:
        """Look all rows up."""
        return store.lookup(torch.arange(store.num_embeddings, device=self.device))

    def apply(self, store: EmbeddingStore, ids: Tensor, gradients: Tensor, rule: UpdateRule) -> None:
        """Apply gradients that are dealt out over the ranks."""
        store.apply_gradients(*self.share(ids, gradients), rule)

    def gradients(self, ids: Tensor, start: int = 0) -> Tensor:
        """Make gradients of three columns for ``ids``."""
        return eighths(ids.numel(), 3, start=start, device=self.device)


class EmbeddingUpdateTests(EmbeddingFixtures):
    """The effects of updates on rows and on rules' state."""

    def test_gradients_of_equal_ids_are_summed(self, store: EmbeddingStore) -> None:
        before, ids = self.table(store), self.ids(4, 2, 4, 4)
        gradients = torch.tensor([[1.0] * 3, [8.0] * 3, [2.0] * 3, [4.0] * 3], device=self.device)
        self.apply(store, ids, gradients, SGD(lr=1.0))
        expected = before.clone()
        expected[4] -= 7
        expected[2] -= 8
        torch.testing.assert_close(self.table(store), expected, rtol=0, atol=1e-6)

    def test_the_rule_is_applied_once_to_each_touched_row(self, store: EmbeddingStore) -> None:
        for batch in ((4, 2, 4, 4), (2, 2, 2), (4,)):
            ids = self.ids(*batch)
            self.apply(store, ids, self.gradients(ids), CountUses())
        assert store.lookup(self.ids(4, 2)).tolist() == [[2003.0] * 3, [2002.0] * 3]

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    def test_rows_that_are_not_named_do_not_change(self, store: EmbeddingStore, rule: UpdateRule) -> None:
        for batch in ((0, 1, 2, 3, 4, 5, 6), (2, 5, 2), (5,)):
            before, ids = self.table(store), self.ids(*batch)
            self.apply(store, ids, self.gradients(ids, 1), rule)
            others = [row for row in range(7) if row not in batch]
            assert torch.equal(self.table(store)[others], before[others])

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    def test_every_rule_agrees_with_a_dict_of_rows(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, rule: UpdateRule, dtype: torch.dtype
    ) -> None:
        spec = replace(spec, dtype=dtype)
        store, model = opening(spec), DictOfRows(spec)
        for start, batch in enumerate(BATCHES):
            ids = self.ids(*batch)
            gradients = self.gradients(ids, start).to(dtype)
            self.apply(store, ids, gradients, rule)
            model.apply_gradients(ids, gradients, rule)
        close = 1e-6 if dtype not in HALVES else 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=close, atol=close)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("name", ["sgd", "adagrad", "rowwise-adagrad", "adam"])  # torch's AdamW has no sparse rows
    def test_every_rule_agrees_with_torch(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, name: str, dtype: torch.dtype
    ) -> None:
        # On one column, row-wise Adagrad is Adagrad.
        store = opening(replace(spec, dtype=dtype, embedding_dim=1 if name == "rowwise-adagrad" else 3))
        peer = torch.nn.Embedding(7, store.embedding_dim, sparse=True, _weight=self.table(store))
        weights = [peer.weight]
        pairs: dict[str, tuple[UpdateRule, torch.optim.Optimizer]] = {
            "sgd": (SGD(lr=0.5), torch.optim.SGD(weights, lr=0.5)),
            "adagrad": (Adagrad(lr=0.5, lr_decay=0.25), torch.optim.Adagrad(weights, lr=0.5, lr_decay=0.25)),
            "rowwise-adagrad": (RowWiseAdagrad(lr=0.5), torch.optim.Adagrad(weights, lr=0.5, eps=1e-8)),
            "adam": (Adam(lr=0.5), torch.optim.SparseAdam(weights, lr=0.5)),
        }
        rule, optimizer = pairs[name]
        for start, batch in enumerate(batch for batch in BATCHES if batch):
            ids = self.ids(*batch)
            gradients = eighths(ids.numel(), store.embedding_dim, start=start, device=self.device).to(dtype)
            optimizer.zero_grad()
            torch.sum(peer(ids) * gradients).backward()  # type: ignore[no-untyped-call]
            with torch.sparse.check_sparse_tensor_invariants(enable=True):  # type: ignore[no-untyped-call]
                optimizer.step()
            self.apply(store, ids, gradients, rule)
        torch.testing.assert_close(self.table(store), peer.weight.detach(), rtol=1e-6, atol=1e-6)

    def test_every_class_of_rules_keeps_its_own_state(self, store: EmbeddingStore, spec: EmbeddingSpec) -> None:
        model = DictOfRows(spec)
        for start, name in enumerate([*RULES, *reversed(RULES), *RULES]):
            ids = self.ids(1, 4, 1, start % 7)
            self.apply(store, ids, self.gradients(ids, start), RULES[name])
            model.apply_gradients(ids, self.gradients(ids, start), RULES[name])
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=1e-6, atol=1e-6)

    def test_state_is_kept_when_the_learning_rate_changes(self, store: EmbeddingStore, spec: EmbeddingSpec) -> None:
        model, ids = DictOfRows(spec), self.ids(1, 4, 1)
        for start, lr in enumerate((0.5, 0.25, 2.0)):
            self.apply(store, ids, self.gradients(ids, start), Adam(lr=lr))
            model.apply_gradients(ids, self.gradients(ids, start), Adam(lr=lr))
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=1e-6, atol=1e-6)

    def test_a_call_without_ids_changes_no_row(self, store: EmbeddingStore) -> None:
        before = self.table(store)
        for rule in (*RULES.values(), CountUses()):
            self.apply(store, self.ids(), self.gradients(self.ids()), rule)
        assert torch.equal(self.table(store), before)

    def test_a_call_without_ids_counts_as_a_step(self, store: EmbeddingStore, spec: EmbeddingSpec) -> None:
        model = DictOfRows(spec)
        for batch in ((), (3, 1), (), (), (3,)):
            ids = self.ids(*batch)
            self.apply(store, ids, self.gradients(ids), RULES["adam"])
            model.apply_gradients(ids, self.gradients(ids), RULES["adam"])
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=1e-6, atol=1e-6)

    def test_a_rule_of_a_third_party_has_the_state_it_asks_for(self, store: EmbeddingStore) -> None:
        self.apply(store, self.ids(6), self.gradients(self.ids(6)), CountUses())
        assert store.lookup(self.ids(6)).tolist() == [[1001.0] * 3]

    @pytest.mark.parametrize("dtype", FLOATS, ids=str)
    def test_rules_work_on_rows_of_at_least_float32(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype
    ) -> None:
        store, size = opening(replace(spec, dtype=dtype)), 8.0 if dtype == torch.float64 else 4.0
        self.apply(store, self.ids(1, 1, 6), self.gradients(self.ids(1, 1, 6)).to(dtype), ShowElementSizes())
        assert store.lookup(self.ids(1, 6)).tolist() == [[size] * 3] * 2

    @pytest.mark.parametrize("dtype", HALVES, ids=str)
    @pytest.mark.parametrize("gradients_dtype", ["the_tables_dtype", "float32"])
    def test_16_bit_rows_are_summed_in_float32(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype, gradients_dtype: str
    ) -> None:
        store = opening(replace(spec, dtype=dtype, std=0.0))
        # In the rows' own dtype, adding ones to this number does nothing.
        large = 2 / torch.finfo(dtype).eps
        gradients = torch.tensor([large, *[1.0] * 64], device=self.device)[:, None].expand(-1, 3)
        gradients = gradients.to(dtype if gradients_dtype == "the_tables_dtype" else torch.float32)
        self.apply(store, self.ids(*[2] * 65), gradients, SGD(lr=1.0))
        assert store.lookup(self.ids(2)).tolist() == [[-large - 64] * 3]

    def test_float64_rows_sum_float32_gradients_in_float64(self, opening: OpenEmbedding, spec: EmbeddingSpec) -> None:
        store = opening(replace(spec, dtype=torch.float64, std=0.0))
        gradients = torch.tensor([2.0**24, *[1.0] * 64], device=self.device)[:, None].expand(-1, 3)
        self.apply(store, self.ids(*[2] * 65), gradients, SGD(lr=1.0))
        assert store.lookup(self.ids(2)).tolist() == [[-(2.0**24) - 64] * 3]

    @pytest.mark.parametrize("rule", [*RULES.values(), CountUses()], ids=[*RULES, "CountUses"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_ids_and_gradients_are_left_as_they_are(
        self, opening: OpenEmbedding, spec: EmbeddingSpec, dtype: torch.dtype, rule: UpdateRule
    ) -> None:
        store = opening(replace(spec, dtype=dtype))
        for batch in ((0, 1, 2, 3, 4, 5, 6), (4,), (6, 1, 6)):
            ids = self.ids(*batch)
            gradients = self.gradients(ids).to(dtype)
            self.apply(store, ids, gradients, rule)
            assert torch.equal(ids, self.ids(*batch))
            assert torch.equal(gradients, self.gradients(ids).to(dtype))

    def test_ids_and_gradients_may_be_views(self, store: EmbeddingStore, spec: EmbeddingSpec) -> None:
        model = DictOfRows(spec)
        ids = self.ids(6, 0, 2, 0, 6, 0)[::2]
        gradients = eighths(3, 3, device=self.device).T
        self.apply(store, ids, gradients, SGD(lr=1.0))
        model.apply_gradients(ids, gradients, SGD(lr=1.0))
        torch.testing.assert_close(self.table(store), model.table(self.device), rtol=0, atol=1e-6)
        assert torch.equal(store.lookup(ids), self.table(store)[ids])
