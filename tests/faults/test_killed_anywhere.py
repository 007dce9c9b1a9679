"""A rank is killed in every kind of call that ranks make together; the others say so, and nothing is left."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import TYPE_CHECKING

import pytest

from distgnn.checkpoint import read_manifest
from tests.jobs import free_port, slowness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import StartJob

SCRIPT = "failing_rank.py"
CALLS = {
    "writes": "rank 1 is gone, noticed by rank 0 in write of tensor store 'layer'",
    "openings": "rank 1 is gone, noticed by rank 0 in ",  # the opening, or the lookup after it
    "saves": "rank 1 is gone, noticed by rank 0 in an all-gather of ",
}


@pytest.mark.timeout(600)
def test_a_rank_that_is_killed_in_any_call_is_named_by_the_other_and_checkpoints_stay_whole(
    start_job: StartJob, spread: str, tmp_path: Path
) -> None:
    patience = f"{10 * slowness():.0f}"  # who is silent for so long is lost, however busy the machine is
    jobs = {what: start_job(SCRIPT, spread, what, patience, world_size=2, SAVES=str(tmp_path)) for what in CALLS}
    for job in jobs.values():
        job.wait_for("working", timeout=60)
        job.send(1, signal.SIGKILL)
    for what, text in CALLS.items():
        jobs[what].assert_lost((0,), within=15, text=text)
    assert len(list(tmp_path.glob("step-*"))) >= 1
    for path in tmp_path.glob("step-*"):
        read_manifest(path)


@pytest.mark.slow_faults
def test_a_clock_that_jumps_is_nothing_to_a_job(start_job: StartJob, spread: str) -> None:
    job = start_job(SCRIPT, spread, "jumps", "10", world_size=2)
    assert job.codes(timeout=60) == [0, 0], job.errors(0)
    assert all("ended" in job.output(rank) for rank in (0, 1))


def test_no_wait_reads_a_clock_that_can_jump() -> None:
    package = Path(sys.modules["distgnn"].__file__ or "").parent
    readers = [path.name for path in package.rglob("*.py") if "time.time(" in path.read_text()]
    assert not readers


def test_a_table_larger_than_the_memory_is_an_error_on_every_rank_and_harms_nobody(
    start_job: StartJob, spread: str
) -> None:
    job = start_job(SCRIPT, spread, "huge", "20", world_size=2)
    assert job.codes(timeout=40) == [1, 1]
    for rank in (0, 1):
        assert "bytes of shared memory" in job.last_error(rank), job.errors(rank)
        assert "are available" in job.last_error(rank) or "are free" in job.last_error(rank)
        assert "'words" in job.last_error(rank)


class Garbler:
    """A way to a port that hands bytes on, and after some of them others.

    Args:
        port: Where it leads.
        whole: How many bytes go through as they are.
    """

    def __init__(self, port: int, whole: int) -> None:
        self._to, self._whole = port, whole
        self._listener = create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = create_connection(("127.0.0.1", self._to))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket, target: socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(4096):
                keep = max(0, self._whole - passed)
                target.sendall(data[:keep] + bytes(byte ^ 0x55 for byte in data[keep:]))
                passed += len(data)
        target.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(params=[0, 200, 1500])
def garbled(request: pytest.FixtureRequest) -> Iterator[Garbler]:
    garbler = Garbler(free_port(), request.param)
    yield garbler
    garbler.close()


@pytest.mark.slow_faults
def test_a_way_to_the_meeting_place_that_garbles_is_an_error_within_the_timeout(
    start_job: StartJob, garbled: Garbler
) -> None:
    head = start_job(SCRIPT, "pyg", "start", "6", world_size=2, present=[0], MASTER_PORT=str(garbled._to))
    head.wait_for("starting")
    other = start_job(SCRIPT, "pyg", "start", "6", world_size=2, present=[1], MASTER_PORT=str(garbled.port))
    assert other.codes(timeout=40) == [1]
    assert head.codes(timeout=40) == [1]
    for job, rank in ((head, 0), (other, 1)):
        assert job.last_error(rank).startswith("PeerLostError: "), job.errors(rank)
