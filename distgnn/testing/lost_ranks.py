# ruff: noqa: D102  # a test's name is its sentence
"""The suite of a rank that is lost: what the others are told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch

from distgnn.errors import PeerLostError
from distgnn.optim.rules import SGD
from distgnn.storage.specs import EmbeddingSpec
from distgnn.testing.suite import BackendFixture

if TYPE_CHECKING:
    from distgnn.storage.protocols import Backend


class LostRankTests(BackendFixture):
    """Subclass it in a test file of its own, for its last rank ends there; run the file on several ranks."""

    def test_a_rank_that_dies_is_a_peer_lost_error_of_every_other(self, backend: Backend, store_name: str) -> None:
        if self.world_size == 1:
            pytest.skip("a rank that is alone has no peer to lose")
        store, ids = backend.open_embedding(EmbeddingSpec(store_name, 7, 3)), self.ids(*range(7))
        store.lookup(ids)
        if self.rank == self.world_size - 1:
            os._exit(0)
        with pytest.raises(PeerLostError, match=r"rank \d"):
            # What is summed over all ranks cannot be done without one of them.
            store.apply_gradients(ids, torch.ones(7, 3, device=self.device), SGD(lr=1.0))
