"""What a user reads, and how soon, when ranks are lost, late, missing or not of one mind."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is there

from tests.jobs import slowness

if TYPE_CHECKING:
    from tests.jobs import StartJob

SCRIPT = ("failing_rank.py", "pyg")


@pytest.mark.parametrize("share_memory", [True, pytest.param(False, marks=pytest.mark.slow_faults)])
def test_a_killed_rank_is_named_by_all_others_long_before_the_timeout(start_job: StartJob, share_memory: bool) -> None:
    options = json.dumps({"share_memory": share_memory})
    lookups = start_job(*SCRIPT, "lookups", "10", world_size=3, OPTIONS=options)
    updates = start_job(*SCRIPT, "updates", "10", world_size=3, OPTIONS=options)
    for job, killed in ((lookups, 2), (updates, 0)):
        job.wait_for("working")
        job.send(killed, signal.SIGKILL)
    text = "rank 2 is gone, noticed by rank {rank} in lookup of embedding store 'words'; the job cannot go on"
    lookups.assert_lost((0, 1), within=8, text=text)
    text = "rank 0 is gone, noticed by rank {rank} in apply_gradients of embedding store 'words'; the job cannot go on"
    updates.assert_lost((1, 2), within=8, text=text)


def test_a_stopped_rank_is_named_after_the_timeout_also_when_it_keeps_the_meeting_point(start_job: StartJob) -> None:
    timeout = f"{4 * slowness():.0f}"  # who is silent for so long is stopped, however busy the machine is
    jobs = {stopped: start_job(*SCRIPT, "lookups", timeout, world_size=size) for stopped, size in ((2, 3), (0, 2))}
    for stopped, job in jobs.items():
        job.wait_for("working")
        job.send(stopped, signal.SIGSTOP)
    for stopped, job in jobs.items():
        text = (
            f"rank {stopped} is silent for {timeout} s, noticed by rank {{rank}} in lookup of embedding store 'words'"
        )
        job.assert_lost((0, 1) if stopped else (1,), within=15, text=text)


@pytest.mark.slow_faults
def test_a_late_rank_accuses_no_other(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "late", "1", world_size=2)
    text = "no rank is gone, but a connection broke or a rank was silent for too long, noticed by rank {rank} in lookup"
    job.assert_lost((0, 1), within=20, text=text)


@pytest.mark.slow_faults
def test_a_rank_with_bad_ids_reads_its_own_error_and_the_others_that_it_is_gone(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "bad_ids", "10", world_size=3)
    job.assert_lost((0, 2), within=20, text="rank 1 is gone, noticed by rank {rank} in lookup of embedding store")
    assert job.codes(1, timeout=1) == [1]
    assert job.last_error(1).startswith("EmbeddingSizeError: embedding store 'words': id 1000 is beyond its 1000 rows")


def test_a_rank_that_does_not_find_the_others_says_whom_it_misses_and_where_it_looked(start_job: StartJob) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        incomplete = start_job(*SCRIPT, "start", "6", world_size=3, present=[0, 1])
        headless = start_job(*SCRIPT, "start", "4", world_size=2, present=[1], MASTER_PORT="9")
        misled = start_job(*SCRIPT, "start", "4", world_size=2, MASTER_PORT=str(port))
        assert [job.codes(timeout=30) for job in (incomplete, headless, misled)] == [[1, 1], [1], [1, 1]]
    assert headless.last_error(1).startswith(
        "PeerLostError: rank 1 of 2 found no job at 127.0.0.1:9, its MASTER_ADDR:MASTER_PORT, in 4 s: start rank 0"
    )
    assert "Address already in use" in misled.last_error(0)
    assert headless.output(1) == misled.output(1) == "starting\nwaited 4 s\n"
    for rank in (0, 1):
        assert incomplete.last_error(rank).startswith(
            "PeerLostError: 2 of 3 ranks came to the start of the job in 6 s, without rank 2: start 3 processes"
        )
        assert misled.last_error(rank).startswith(f"PeerLostError: rank {rank} of 2 found no job at 127.0.0.1:{port}")


@pytest.mark.slow_faults
def test_a_restarted_job_does_not_take_the_ranks_of_its_last_attempt_for_its_own(start_job: StartJob) -> None:
    kept = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # by torchrun, over all attempts
    settings = {"MASTER_PORT": str(kept.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    first = start_job(*SCRIPT, "lookups", "10", world_size=2, **settings)
    first.wait_for("working")
    first.stop()
    early = start_job(*SCRIPT, "lookups", "10", world_size=2, present=[1], **settings)
    early.wait_for("starting")
    late = start_job(*SCRIPT, "lookups", "10", world_size=2, present=[0], **settings)
    late.wait_for("working")
    early.wait_for("working")
