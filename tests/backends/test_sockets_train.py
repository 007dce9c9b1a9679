"""``distgnn train`` on several ranks that have nothing of torch.distributed equals it on ``memory``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.backends.socket_backend import install

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs import StartJob

COMMON = (
    "--dataset",
    "CustomLargeGraph",
    "--num-nodes",
    "150",
    "--num-edges",
    "700",
    "--epochs",
    "4",
    "--dropout",
    "0",
)
TABLE = ("--use-dist-embedding", "--embedding-dim", "8", "--hidden-channels", "16")
JOBS = {
    "full": ("--mode", "full", "--norm", "batch_norm"),
    "sampled": ("--mode", "sampled", "--batch-size", "40", "--num-neighbors", "4,4,4"),
}


def losses(start_job: StartJob, folder: Path, ranks: int, *options: str) -> list[float]:
    """Train, and return the loss of each epoch."""
    words = ("train", *COMMON, *TABLE, *options, "--out", str(folder), "--name", "run")
    job = start_job("distgnn_command.py", *words, world_size=ranks, PYTHONPATH=str(install(folder.parent)))
    assert job.codes(timeout=100) == [0] * ranks, job.errors(0)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.timeout(500)
@pytest.mark.parametrize("mode", JOBS)
def test_losses_are_those_of_memory(start_job: StartJob, tmp_path: Path, mode: str) -> None:
    expected = losses(start_job, tmp_path / "memory", 1, *JOBS[mode])
    assert len(expected) == 4
    for ranks in (2, 4):
        found = losses(start_job, tmp_path / f"sockets-{ranks}", ranks, *JOBS[mode], "--backend", "sockets")
        assert found == pytest.approx(expected, abs=1e-5)
