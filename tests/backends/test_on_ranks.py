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


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "file",
    [
        "test_halo.py",
        "test_inference.py",
        "test_listens.py",
        "test_sampling.py",
        "test_stored_embedding.py",
        "test_trains_like_memory.py",
        "test_sync_batch_norm.py",
    ],
)
def test_the_tests_of_one_rank_pass_on_several(file: str, world_size: int) -> None:
    run_on_ranks(Path(__file__).with_name(file), world_size, timeout=200)
