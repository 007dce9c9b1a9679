"""Stored embeddings on a backend of several ranks, at whatever world size this file is run."""

from __future__ import annotations

import os

import pytest
import torch

import distgnn
from distgnn.nn import StoredEmbedding

RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@pytest.mark.parametrize("seeded", [True, False])
def test_ranks_of_different_seeds_get_the_rows_of_rank_0(seeded: bool, spread: str) -> None:
    if seeded:
        torch.manual_seed(7 + RANK)
    else:
        torch.seed()
    table = StoredEmbedding(9, 2, name="table")
    with distgnn.use(spread):
        rows = table(torch.arange(9))
    if seeded:
        spec = distgnn.EmbeddingSpec("table", 9, 2, seed=7)
        assert torch.equal(rows, distgnn.initial_rows(spec, 0, 9))


@pytest.mark.filterwarnings("ignore:embedding store 'table' gets")
def test_the_first_forward_sizes_the_table_by_the_largest_id_of_any_rank(spread: str) -> None:
    table = StoredEmbedding(None, 2, name="table", seed=0)
    ids = torch.arange(RANK * 3, RANK * 3 + 3) if RANK or WORLD_SIZE == 1 else torch.empty(0, dtype=torch.int64)
    with distgnn.use(spread):
        assert table(ids).shape == (ids.numel(), 2)
        assert table.num_embeddings == WORLD_SIZE * 3
