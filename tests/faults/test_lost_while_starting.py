"""A rank that is lost after all have met and before all are connected is named by the others."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.jobs import slowness

if TYPE_CHECKING:
    from tests.jobs import StartJob

NO_DGL = pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")
STEPS = [("pyg", "groups"), ("pyg", "sockets"), ("dgl", "groups"), ("dgl", "servers"), ("dgl", "connections")]
CASES = [
    pytest.param(backend, step, marks=[NO_DGL, *[pytest.mark.slow_faults] * (step != "connections")])
    if backend == "dgl"
    else (backend, step)
    for backend, step in STEPS
]


def patience() -> str:
    """Return the seconds that ranks wait: servers start in a few of an idle machine."""
    return f"{8 * slowness():.0f}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.slow_faults)])
@pytest.mark.parametrize(("backend", "step"), CASES)
def test_a_rank_that_is_lost_while_ranks_connect_is_named(
    start_job: StartJob, backend: str, step: str, number: str
) -> None:
    job = start_job("leaving_rank.py", backend, step, number, timeout := patience(), world_size=3)
    assert job.codes(0, 2, timeout=90) == [1, 1]
    for rank in (0, 2):
        error = job.last_error(rank)
        # What breaks at once tells that somebody is gone, before the time is over.
        how = ("gone", f"silent for {timeout} s") if number == "SIGKILL" else (f"silent for {timeout} s",)
        known = tuple(
            f"PeerLostError: rank 1 is {each}, noticed by rank {rank} in the start of the job" for each in how
        )
        assert error.startswith(known), job.errors(rank)
        assert "gloo" not in error


@NO_DGL
def test_a_rank_0_that_is_killed_while_servers_start_is_named_at_once(start_job: StartJob) -> None:
    job = start_job("leaving_rank.py", "dgl", "servers", "SIGKILL", "600", world_size=2, LOST="0")
    assert job.codes(1, timeout=90) == [1]
    assert job.last_error(1).startswith("PeerLostError: rank 0 is gone, noticed by rank 1 in the start of the job")


@NO_DGL
def test_a_server_that_is_stopped_while_it_starts_is_named_by_all(start_job: StartJob) -> None:
    job = start_job("failing_rank.py", "dgl", "start", "6", world_size=2)
    deadline = time.monotonic() + 30 * slowness()
    while not job.children(0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (server,) = job.children(0)
    server.suspend()
    assert job.codes(timeout=90) == [1, 1]
    for rank in (0, 1):
        error = job.last_error(rank)
        assert re.match(r"PeerLostError: the DGL server that rank 0 started for \S+ does not listen after 6 s", error)


@pytest.mark.slow_faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["pyg", pytest.param("dgl", marks=NO_DGL)])
def test_a_rank_0_that_is_stopped_while_ranks_connect_is_named(start_job: StartJob, backend: str) -> None:
    job = start_job("leaving_rank.py", backend, "groups", "SIGSTOP", timeout := patience(), world_size=2, LOST="0")
    assert job.codes(1, timeout=90) == [1]
    # Whether rank 1 has read by then that all had come is a matter of luck.
    known = (
        f"PeerLostError: rank 0 is silent for {timeout} s, noticed by rank 1 in the start of the job",
        "PeerLostError: rank 0, which keeps the job's store, is gone or silent, noticed by rank 1 in the start of",
        "PeerLostError: 1 of 2 ranks came to the start of the job in",
    )
    assert job.last_error(1).startswith(known), job.errors(1)
    assert "without rank 1" not in job.last_error(1)
