from __future__ import annotations

from pathlib import Path

import pytest

from distgnn.testing import run_on_ranks

KITS = ("dgl_conforms", "pyg_conforms", "sockets_conform")
TRAINING = ("halo", "listens", "sampling", "trains_like_memory")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("world_size", "files"),
    [
        (
            2,
            (
                *KITS,
                *TRAINING,
                "hetero",
                "history",
                "inference",
                "stored_embedding",
                "summed_gradients",
                "sync_batch_norm",
            ),
        ),
        (3, ("pyg_conforms", "summed_gradients")),
        (4, KITS),
        (4, TRAINING),
    ],
    ids=["all on two", "a kit on three", "kits on four", "training on four"],
)
def test_the_tests_of_one_rank_pass_on_several(world_size: int, files: tuple[str, ...]) -> None:
    """Each rank runs many files, as to import what they need takes it longer than most tests."""
    run_on_ranks([Path(__file__).with_name(f"test_{file}.py") for file in files], world_size, timeout=580)
