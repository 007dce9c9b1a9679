"""Ranks that do not make the same calls, on every backend of several ranks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.jobs import StartJob

NEEDS_DGL = pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")


@pytest.mark.parametrize(
    ("backend", "within", "asks"),
    [
        pytest.param("pyg", 30, "rank ", id="pyg"),
        pytest.param("dgl", 50, "rank 0 asks for Embedding", id="dgl", marks=NEEDS_DGL),
    ],
)
def test_another_spec_and_then_another_order_of_calls_are_refused_by_every_rank(
    start_job: StartJob, backend: str, within: float, asks: str
) -> None:
    job = start_job("failing_rank.py", backend, "disagreements", "10", world_size=3, DISTGNN_DEBUG="1")
    assert job.codes(timeout=within) == [1, 1, 1]
    for rank in range(3):
        assert "NameConflictError: " in job.output(rank), job.errors(rank)
        refused = job.output(rank).splitlines()[1]
        assert refused.startswith(f"NameConflictError: ranks open different stores at once: {asks}")
        assert "embedding_dim=16" in refused
        assert "embedding_dim=32" in refused
        assert job.last_error(rank).startswith(
            "CallOrderError: ranks make different store calls: rank 0 calls lookup of embedding store 'words', "
            "rank 2 calls lookup of embedding store 'tags'; every rank must make the same calls in the same order"
        )
