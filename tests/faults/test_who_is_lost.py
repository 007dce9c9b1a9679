"""Whatever ranks wait for besides stores, who waits for a lost rank names it and the call, within the timeout."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.jobs import slowness

if TYPE_CHECKING:
    from tests.jobs import Job, StartJob

SCRIPT = "failing_rank.py"
CALLS = {
    "gradients": r"(in the sum of gradients)",
    "normalization": r"(in batch normalization over ranks",
    "session_calls": "",
    "barriers": "in an all-reduce of [1] int64",
}


def patience() -> str:
    """Return the seconds that ranks wait: who is silent for so long is stopped, however busy the machine is."""
    return f"{4 * slowness():.0f}"


def check(job: Job, what: str, text: str) -> None:
    job.assert_lost((0, 2), within=40, text=text)
    for rank in (0, 2):
        assert CALLS[what] in job.last_error(rank)
        assert "gloo" not in job.last_error(rank)


@pytest.mark.parametrize("what", CALLS)
def test_a_rank_that_is_killed_is_named_with_the_call(start_job: StartJob, spread: str, what: str) -> None:
    job = start_job(SCRIPT, spread, what, "30", world_size=3)
    job.wait_for("working", timeout=60)
    job.send(1, signal.SIGKILL)
    check(job, what, "rank 1 is gone, noticed by rank {rank} in ")


@pytest.mark.parametrize("what", CALLS)
def test_a_rank_that_is_stopped_is_named_after_the_timeout(start_job: StartJob, spread: str, what: str) -> None:
    job = start_job(SCRIPT, spread, what, timeout := patience(), world_size=3)
    job.wait_for("working", timeout=60)
    job.send(1, signal.SIGSTOP)
    check(job, what, f"rank 1 is silent for {timeout} s, noticed by rank {{rank}} in ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_ranks_wait_for_work_of_rank_0_beyond_the_timeout_and_no_longer_than_it_lives(
    start_job: StartJob, spread: str, number: signal.Signals
) -> None:
    job = start_job(SCRIPT, spread, "works", timeout := patience(), world_size=2)
    job.wait_for("working", timeout=60)
    job.send(0, number)
    how = "gone" if number == signal.SIGKILL else f"silent for {timeout} s"
    job.assert_lost((1,), within=40, text=f"rank 0 is {how}, noticed by rank 1 in a broadcast")
    assert "(in a longer work)" in job.last_error(1)
