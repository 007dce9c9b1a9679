"""What a user reads, and how soon, when ranks or servers are lost, late, missing or not of one mind; what is left."""

from __future__ import annotations

import json
import signal
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.jobs import slowness

if TYPE_CHECKING:
    from tests.jobs import Job, StartJob

pytestmark = pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")
SCRIPT = ("failing_rank.py", "dgl")
GO_ON = "; the job cannot go on: start it again from its last checkpoint"


def server_of(job: Job) -> psutil.Process:
    """Return the server of a job on one host, which rank 0 started."""
    (server,) = job.children(0)
    return server


def assert_nothing_left(server: psutil.Process, name: str) -> None:
    """Make sure that a server ends by itself, and that its job has no names in shared memory."""
    psutil.wait_procs([server], timeout=5)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not list(Path("/dev/shm").glob(f"*{name}*"))


def test_a_killed_rank_is_named_by_all_others_long_before_the_timeout(start_job: StartJob) -> None:
    cases = ((2, "lookups", 3), (0, "updates", 2))
    jobs = {killed: start_job(*SCRIPT, what, "10", world_size=size) for killed, what, size in cases}
    servers = {}
    for killed, job in jobs.items():
        job.wait_for("working")
        servers[killed] = server_of(job), server_of(job).cmdline()[-1]
        job.send(killed, signal.SIGKILL)
    jobs[2].assert_lost(
        (0, 1), within=8, text="rank 2 is gone, noticed by rank {rank} in lookup of embedding store 'words'"
    )
    text = "rank 0 is gone, noticed by rank {rank} in apply_gradients of embedding store 'words'" + GO_ON
    jobs[0].assert_lost((1,), within=8, text=text)
    for server, name in servers.values():
        assert_nothing_left(server, name)


def test_a_killed_server_is_named_by_all_ranks_long_before_the_timeout(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "updates", "10", world_size=2)
    job.wait_for("working")
    server, name = server_of(job), server_of(job).cmdline()[-1]
    server.kill()
    text = "the DGL server that rank 0 started is gone, noticed by rank {rank} in apply_gradients of embedding store"
    job.assert_lost((0, 1), within=8, text=text)
    assert_nothing_left(server, name)


def test_a_stopped_rank_or_server_is_named_after_the_timeout(start_job: StartJob) -> None:
    timeout = f"{4 * slowness():.0f}"  # who is silent for so long is stopped, however busy the machine is
    rank, server = (start_job(*SCRIPT, "updates", timeout, world_size=2) for _ in range(2))
    for job in (rank, server):
        job.wait_for("working")
    rank.send(1, signal.SIGSTOP)
    stopped = server_of(server)
    stopped.suspend()
    rank.assert_lost((0,), within=15, text=f"rank 1 is silent for {timeout} s, noticed by rank 0 in apply_gradients of")
    text = (
        f"the DGL server that rank 0 started is silent for {timeout} s, noticed by rank {{rank}} in apply_gradients of"
    )
    server.assert_lost((0, 1), within=20, text=text)
    psutil.wait_procs([stopped], timeout=5)
    assert not stopped.is_running()


def test_a_stopped_server_is_named_by_a_rank_that_waits_for_another_who_asks_it(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "samples_and_barriers", f"{4 * slowness():.0f}", world_size=2)
    job.wait_for("working")
    server_of(job).suspend()
    job.assert_lost((0, 1), within=30, text="the DGL server that rank 0 started is silent")


def test_a_killed_server_that_no_rank_asks_is_named_by_all_that_wait_for_each_other(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "barriers", "10", world_size=2)
    job.wait_for("working")
    server_of(job).kill()
    job.assert_lost((0, 1), within=20, text="the DGL server that rank 0 started is gone, noticed by rank {rank} in ")


@pytest.mark.slow_faults
def test_nothing_is_left_when_all_ranks_are_killed_at_once(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "updates", "10", world_size=2)
    job.wait_for("working")
    server, name = server_of(job), server_of(job).cmdline()[-1]
    server.suspend()  # it cannot tidy up before the ranks are gone
    for rank in (0, 1):
        job.send(rank, signal.SIGKILL)
    job.codes(timeout=5)
    assert not list(Path("/dev/shm").glob(f"*{name}*"))
    server.resume()
    assert_nothing_left(server, name)


@pytest.mark.slow_faults
def test_a_server_whose_starter_is_killed_ends_at_once_also_while_it_imports(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "start", "20", world_size=2)
    deadline = time.monotonic() + 30 * slowness()
    while not job.children(0) and time.monotonic() < deadline:
        time.sleep(0.01)
    server = server_of(job)
    job.send(0, signal.SIGKILL)
    psutil.wait_procs([server], timeout=1)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow_faults
def test_a_late_rank_and_its_peers_read_that_it_was_late(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "late_update", "1", world_size=2)
    text = "rank 1 is silent for 1 s, noticed by rank {rank} in apply_gradients of embedding store 'words'"
    job.assert_lost((0, 1), within=40, text=text)


@pytest.mark.slow_faults
def test_a_rank_with_bad_ids_reads_its_own_error_and_the_others_that_it_is_gone(start_job: StartJob) -> None:
    job = start_job(*SCRIPT, "bad_update", "10", world_size=2)
    job.assert_lost((0,), within=40, text="rank 1 is gone, noticed by rank {rank} in apply_gradients of embedding")
    assert job.codes(1, timeout=1) == [1]
    assert job.last_error(1).startswith("EmbeddingSizeError: embedding store 'words': id 1000 is beyond its 1000 rows")


@pytest.mark.slow_faults
def test_a_rank_that_does_not_find_the_others_says_whom_it_misses(start_job: StartJob) -> None:
    incomplete = start_job(*SCRIPT, "start", "6", world_size=3, present=[0, 1])
    assert incomplete.codes(timeout=30) == [1, 1]
    for rank in (0, 1):
        assert incomplete.last_error(rank).startswith(
            "PeerLostError: 2 of 3 ranks came to the start of the job in 6 s, without rank 2: start 3 processes"
        )


def test_a_port_that_is_taken_is_named_by_every_rank(start_job: StartJob) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        job = start_job(*SCRIPT, "start", "10000", world_size=2, OPTIONS=json.dumps({"port": port}))
        assert job.codes(timeout=30) == [1, 1], "long before the ranks' timeout"
    for rank in (0, 1):
        error = job.last_error(rank)
        assert error.startswith(f"PeerLostError: no server can listen on 127.0.0.1:{port}, an address of rank 0")
        assert "Address already in use" in error
        assert "use('dgl', port=...)" in error
