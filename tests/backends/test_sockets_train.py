"""``distgnn train`` on several ranks that have nothing of torch.distributed equals it on ``memory``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.socket_backend import install

ROOT = Path(__file__).parents[2]
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


def losses(folder: Path, ranks: int, *options: str) -> list[float]:
    """Train, and return the loss of each epoch."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}") if ranks > 1 else ()
    command = [sys.executable, *launcher, "-m", "distgnn", "train", *COMMON, *TABLE, *options, "--out", str(folder)]
    path = os.pathsep.join([str(install(folder.parent)), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [*command, "--name", "run"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.timeout(500)
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("mode", JOBS)
def test_losses_are_those_of_memory(tmp_path: Path, mode: str, ranks: int) -> None:
    expected = losses(tmp_path / "memory", 1, *JOBS[mode])
    found = losses(tmp_path / "sockets", ranks, *JOBS[mode], "--backend", "sockets")
    assert len(expected) == 4
    assert found == pytest.approx(expected, abs=1e-5)
