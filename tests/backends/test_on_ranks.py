from __future__ import annotations

from pathlib import Path

import pytest

from distgnn.testing import run_on_ranks


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("spread", "world_size"),
    [("pyg", 2), ("pyg", 3), ("pyg", 4), ("dgl", 2), ("dgl", 4)],
    indirect=["spread"],
)
def test_the_backend_conforms_on_several_ranks(spread: str, world_size: int) -> None:
    run_on_ranks(Path(__file__).with_name(f"test_{spread}_conforms.py"), world_size, timeout=300)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("world_size", "files"),
    [
        (2, ("hetero", "inference", "listens", "sampling", "stored_embedding", "sync_batch_norm")),
        (2, ("halo", "history", "trains_like_memory")),
        (4, ("listens", "sampling", "trains_like_memory")),
        (4, ("halo",)),
    ],
    ids=str,
)
def test_the_tests_of_one_rank_pass_on_several(files: tuple[str, ...], world_size: int) -> None:
    run_on_ranks([Path(__file__).with_name(f"test_{file}.py") for file in files], world_size, timeout=380)
