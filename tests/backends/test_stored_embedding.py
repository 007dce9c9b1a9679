"""Stored embeddings on a backend of several ranks, at whatever world size this file is run."""

from __future__ import annotations

import copy
import os

import pytest
import torch

import distgnn
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdagrad, SparseSGD

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


def test_a_table_that_an_evaluation_opened_trains_like_any_other() -> None:
    table = StoredEmbedding(9, 2, name="table", seed=0)
    optimizer = SparseSGD(table, lr=1.0)
    with distgnn.use("pyg"):
        with torch.inference_mode():
            before = table(torch.arange(9)).clone()
        table(torch.arange(RANK, 9, WORLD_SIZE)).sum().backward()
        optimizer.step()
        with torch.inference_mode():
            assert torch.equal(table(torch.arange(9)), before - 1)


def test_the_forward_after_a_prefetch_sees_the_update_between_them() -> None:
    table = StoredEmbedding(9, 2, name="table", seed=0)
    optimizer = SparseSGD(table, lr=1.0)
    ids = torch.arange(9)
    with distgnn.use("pyg"):
        before = table(ids).detach()
        table(ids[RANK::WORLD_SIZE]).sum().backward()
        table.prefetch(ids)
        optimizer.step()
        assert torch.equal(table(ids), before - 1)
        table.prefetch(ids)
        with pytest.raises(
            distgnn.CallOrderError, match=r"'table'.*must be of the ids that were prefetched, 9 of them"
        ):
            table(ids[:3])
        assert torch.equal(table(ids[:3]), (before - 1)[:3])


def test_a_store_that_cannot_prefetch_leaves_all_to_the_forward() -> None:
    table = StoredEmbedding(9, 2, name="table", seed=0)
    with distgnn.use("memory"):
        table.prefetch(torch.arange(9))
        assert table(torch.arange(3)).shape == (3, 2)


def test_a_state_dict_of_placed_rows_goes_back_to_the_same_placement_alone(spread: str) -> None:
    order = torch.tensor([5, 0, 3, 8, 1, 7, 2, 6, 4])
    book = distgnn.PartitionBook(tuple(9 * rank // WORLD_SIZE for rank in range(WORLD_SIZE + 1)), order)
    with distgnn.use(spread):
        placed, same, even = (
            StoredEmbedding(9, 2, name=name, seed=0, partition=partition)
            for name, partition in (("placed", book), ("same", book), ("even", None))
        )
        optimizers = [SparseAdagrad(table, lr=1.0) for table in (placed, same, even)]
        placed(torch.arange(RANK, 9, WORLD_SIZE)).sum().backward()
        optimizers[0].step()
        rows, state = placed(torch.arange(9)).detach(), optimizers[0].state_dict()
        same.load_state_dict(placed.state_dict())
        optimizers[1].load_state_dict(state)
        assert torch.equal(same(torch.arange(9)), rows)
        copied = copy.deepcopy(placed)
        assert torch.equal(copied(torch.arange(9)), rows)
        for table in (placed, same):
            table.zero_grad()
        if WORLD_SIZE > 1:
            with pytest.raises(RuntimeError, match=r"not this rank's.*save and load it by"):
                even.load_state_dict(placed.state_dict())
            with pytest.raises(ValueError, match="placed by another partition; save and load it by"):
                optimizers[2].load_state_dict(state)
