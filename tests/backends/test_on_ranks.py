from __future__ import annotations

from pathlib import Path

import pytest

from distgnn.testing import run_on_ranks

ONE_RANK = ("dgl_conforms", "halo", "listens", "pyg_conforms", "sampling", "trains_like_memory")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("world_size", "files"),
    [
        (2, (*ONE_RANK, "hetero", "history", "inference", "stored_embedding", "sync_batch_norm")),
        (3, ("pyg_conforms",)),
        (4, ONE_RANK),
    ],
    ids=["two", "three", "four"],
)
def test_the_tests_of_one_rank_pass_on_several(world_size: int, files: tuple[str, ...]) -> None:
    """Each rank is started once, as to import what they need takes it longer than most of the tests."""
    run_on_ranks([Path(__file__).with_name(f"test_{file}.py") for file in files], world_size, timeout=580)
