# ruff: noqa: D102  # a test's name is its sentence
"""The part of the embedding suite that is about :class:`distgnn.SupportsResize`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.testing import assert_close

from distgnn.errors import EmbeddingSizeError, StoreClosedError
from distgnn.storage.capabilities import SupportsResize
from distgnn.testing.embedding_updates import BATCHES, RULES, EmbeddingFixtures
from distgnn.testing.oracles import DictOfRows
from distgnn.testing.witness_rules import CountUses

if TYPE_CHECKING:
    from distgnn.storage.protocols import EmbeddingStore, UpdateRule
    from distgnn.storage.specs import EmbeddingSpec
    from distgnn.testing.embedding_updates import OpenEmbedding


def growing(store: object) -> SupportsResize:
    """Take a store as one that can grow, or skip the test."""
    if not isinstance(store, SupportsResize):
        pytest.skip("the store has no resize()")
    return store


class EmbeddingResizeTests(EmbeddingFixtures):
    """Tables that get more rows."""

    @pytest.mark.parametrize("rule", [*RULES.values(), CountUses()], ids=[*RULES, "CountUses"])
    def test_a_table_that_has_grown_is_one_that_was_large_from_the_start(
        self, store: EmbeddingStore, spec: EmbeddingSpec, rule: UpdateRule
    ) -> None:
        model = DictOfRows(replace(spec, num_embeddings=300))
        for size in (7, 7, 8, 140, 300):
            growing(store).resize(size)
            assert store.num_embeddings == size
            assert_close(self.table(store), model.table(self.device)[:size])
            for start, batch in enumerate((*BATCHES, (size - 1, 3, size - 1))):
                ids = self.ids(*batch)
                self.apply(store, ids, self.gradients(ids, start), rule)
                model.apply_gradients(ids, self.gradients(ids, start), rule)
            assert_close(self.table(store), model.table(self.device)[:size])

    def test_a_table_that_has_grown_is_attached_to_by_its_new_size(
        self, opening: OpenEmbedding, store: EmbeddingStore, spec: EmbeddingSpec
    ) -> None:
        growing(store).resize(9)
        assert torch.equal(self.table(opening(replace(spec, num_embeddings=9))), self.table(store))

    def test_a_table_does_not_shrink(self, store: EmbeddingStore) -> None:
        before = self.table(store)
        with pytest.raises(EmbeddingSizeError, match="has 7 rows and cannot become 6"):
            growing(store).resize(6)
        assert torch.equal(self.table(store), before)

    def test_after_close_a_table_does_not_grow(self, store: EmbeddingStore) -> None:
        growing(store)
        store.close()
        with pytest.raises(StoreClosedError):
            growing(store).resize(9)
