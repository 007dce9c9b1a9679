"""What the ranks of a run write and print: rank 0 does, and nobody reads what it may not see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.jobs import StartJob

    OnTwoMachines = Callable[..., list[tuple[int, str, str]]]

WORDS = ["--dataset", "CustomLargeGraph", "--num-nodes", "60", "--num-edges", "240", "--use-dist-embedding"]
WORDS += ["--embedding-dim", "4", "--epochs", "2", "--backend", "pyg", "--name", "two"]


@pytest.fixture
def on_two_machines(start_job: StartJob, tmp_path: Path) -> OnTwoMachines:
    """Give a function that trains on two ranks, in two working folders or in one.

    It returns exit code, stdout and stderr of each.
    """

    def trained(*words: str, apart: bool) -> list[tuple[int, str, str]]:
        homes = [tmp_path / f"machine-{rank if apart else 0}" for rank in range(2)]
        for home in homes:
            home.mkdir(exist_ok=True)
        job = start_job(
            *("distgnn_command.py", "train", *WORDS, *words),
            world_size=2,
            folders=homes,
            GLOO_SOCKET_IFNAME="lo",
        )
        codes = job.codes(timeout=180)
        return [(codes[rank], job.output(rank), job.errors(rank)) for rank in range(2)]

    return trained


@pytest.mark.parametrize("apart", [False, True])
def test_one_json_is_printed_and_every_rank_ends_well(
    on_two_machines: OnTwoMachines, apart: bool, tmp_path: Path
) -> None:
    main, other = on_two_machines("--json", "--report", apart=apart)
    assert (main[0], other) == (0, (0, "", ""))
    result = json.loads(main[1])
    assert result["epochs"]
    assert len(result["peak_memory_mb"]) == 2
    assert (tmp_path / "machine-0" / result["folder"] / "report.html").exists()
    assert not (tmp_path / "machine-1").exists() or not list((tmp_path / "machine-1").iterdir())


def test_checkpoints_without_a_file_system_in_common_are_refused_before_training(
    on_two_machines: OnTwoMachines, tmp_path: Path
) -> None:
    ends = on_two_machines("--checkpoint-every", "1", apart=True)
    for code, _, error in ends:
        assert code == 2
        assert "not every rank sees it there: checkpoints need a file system that all ranks share" in error
    assert not [path for machine in tmp_path.glob("machine-*") for path in machine.iterdir()]


def test_a_refusal_of_rank_0_is_every_ranks(on_two_machines: OnTwoMachines, tmp_path: Path) -> None:
    (tmp_path / "machine-0/runs/two").mkdir(parents=True)
    ends = on_two_machines(apart=True)
    assert [code for code, _, _ in ends] == [2, 2]
    assert all("runs/two is there already; choose another --name" in error for _, _, error in ends)


def test_a_loss_that_is_not_finite_ends_every_rank_after_the_same_epoch(
    on_two_machines: OnTwoMachines, tmp_path: Path
) -> None:
    ends = on_two_machines("--json", "--lr", "1e12", "--epochs", "5", apart=False)
    assert [(code, out) for code, out, _ in ends] == [(4, ""), (4, "")]
    lines = [json.loads(line) for line in (tmp_path / "machine-0/runs/two/metrics.jsonl").read_text().splitlines()]
    assert 1 <= len(lines) < 5
    assert [line["finite"] for line in lines] == [True] * (len(lines) - 1) + [False]
    (said,) = ends[0][2].splitlines()
    assert f"epoch {len(lines)}" in said
    assert ends[1][2] == ""
