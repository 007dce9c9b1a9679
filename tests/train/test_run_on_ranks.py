"""What the ranks of a run write and print: rank 0 does, and nobody reads what it may not see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.jobs import free_port

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ["--dataset", "CustomLargeGraph", "--num-nodes", "60", "--num-edges", "240", "--use-dist-embedding"]
WORDS += ["--embedding-dim", "4", "--epochs", "2", "--backend", "pyg", "--name", "two"]


def on_two_machines(folder: Path, *words: str, apart: bool) -> list[tuple[int, str, str]]:
    """Train on two ranks, in two working folders or in one; return exit code, stdout and stderr of each."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    jobs = []
    for rank in range(2):
        home = folder / f"machine-{rank if apart else 0}"
        home.mkdir(exist_ok=True)
        jobs.append(
            subprocess.Popen(
                [sys.executable, "-m", "distgnn", "train", *WORDS, *words],
                cwd=home,
                env={**os.environ, **address, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [job.communicate(timeout=180) for job in jobs]
    return [(job.returncode, out, error) for job, (out, error) in zip(jobs, ends, strict=True)]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("apart", [False, True])
def test_one_json_is_printed_and_every_rank_ends_well(apart: bool, tmp_path: Path) -> None:
    main, other = on_two_machines(tmp_path, "--json", "--report", apart=apart)
    assert (main[0], other) == (0, (0, "", ""))
    result = json.loads(main[1])
    assert result["epochs"]
    assert len(result["peak_memory_mb"]) == 2
    assert (tmp_path / "machine-0" / result["folder"] / "report.html").exists()
    assert not (tmp_path / "machine-1").exists() or not list((tmp_path / "machine-1").iterdir())


@pytest.mark.timeout(240)
def test_checkpoints_without_a_file_system_in_common_are_refused_before_training(tmp_path: Path) -> None:
    ends = on_two_machines(tmp_path, "--checkpoint-every", "1", apart=True)
    for code, _, error in ends:
        assert code == 2
        assert "not every rank sees it there: checkpoints need a file system that all ranks share" in error
    assert not [path for machine in tmp_path.iterdir() for path in machine.iterdir()]


@pytest.mark.timeout(240)
def test_a_refusal_of_rank_0_is_every_ranks(tmp_path: Path) -> None:
    (tmp_path / "machine-0/runs/two").mkdir(parents=True)
    ends = on_two_machines(tmp_path, apart=True)
    assert [code for code, _, _ in ends] == [2, 2]
    assert all("runs/two is there already; choose another --name" in error for _, _, error in ends)


@pytest.mark.timeout(240)
def test_a_loss_that_is_not_finite_ends_every_rank_after_the_same_epoch(tmp_path: Path) -> None:
    ends = on_two_machines(tmp_path, "--json", "--lr", "1e12", "--epochs", "5", apart=False)
    assert [(code, out) for code, out, _ in ends] == [(4, ""), (4, "")]
    lines = [json.loads(line) for line in (tmp_path / "machine-0/runs/two/metrics.jsonl").read_text().splitlines()]
    assert 1 <= len(lines) < 5
    assert [line["finite"] for line in lines] == [True] * (len(lines) - 1) + [False]
    (said,) = ends[0][2].splitlines()
    assert f"epoch {len(lines)}" in said
    assert ends[1][2] == ""
