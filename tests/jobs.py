"""Jobs of real processes, for tests that kill, stop or cut off some of them; none is left behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    StartJob = Callable[..., "Job"]

MARK = "DISTGNN_TEST_JOB"


class Job:
    """Processes that run one script, each as a rank.

    Args:
        folder: Where their output goes.
        script: The script.
        arguments: Its arguments.
        world_size: How many ranks the job is told to have.
        present: The ranks that are started, all of them unless it says otherwise.
        hosts: A command for each rank that runs another in the rank's host.
        environment: What differs from the environment of one machine.
    """

    def __init__(
        self,
        folder: Path,
        script: Path,
        *arguments: str,
        world_size: int,
        present: Sequence[int] | None = None,
        hosts: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._mark = uuid.uuid4().hex
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        everyone = {
            **os.environ,
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
            MARK: self._mark,
        }
        for rank in range(world_size) if present is None else present:
            host = hosts[rank] if hosts else ()
            with (folder / f"{rank}.out").open("wb") as out, (folder / f"{rank}.err").open("wb") as err:
                self._processes[rank] = subprocess.Popen(
                    [*host, sys.executable, "-u", str(script), *arguments],
                    stdout=out,
                    stderr=err,
                    env={**everyone, "RANK": str(rank)},
                    start_new_session=True,
                )

    def output(self, rank: int) -> str:
        return (self._folder / f"{rank}.out").read_text()

    def errors(self, rank: int) -> str:
        return (self._folder / f"{rank}.err").read_text()

    def last_error(self, rank: int) -> str:
        """Return ``NameOfError: text`` of the error that ended a rank."""
        found = re.findall(r"^(?:\[rank\d+\]: )?(?:\w+\.)*(\w+Error: .*)", self.errors(rank), re.MULTILINE)
        return str(found[-1]) if found else f"no error, but\n{self.errors(rank)}"

    def wait_for(self, word: str, *, timeout: float = 30) -> None:
        """Wait until every rank has printed ``word``."""
        deadline = time.monotonic() + timeout * slowness()
        for rank, process in self._processes.items():
            while word not in self.output(rank):
                assert process.poll() is None, f"rank {rank} ended:\n{self.errors(rank)}"
                assert time.monotonic() < deadline, f"rank {rank} does not print {word!r}:\n{self.errors(rank)}"
                time.sleep(0.02)

    def send(self, rank: int, number: signal.Signals) -> None:
        self._processes[rank].send_signal(number)

    def children(self, rank: int) -> list[psutil.Process]:
        return list(psutil.Process(self._processes[rank].pid).children())

    def codes(self, *ranks: int, timeout: float) -> list[int]:
        """Wait for ranks, all unless named, and return their exit codes; times are those of an idle machine."""
        timeout *= slowness()
        deadline = time.monotonic() + timeout
        try:
            return [self._processes[rank].wait(deadline - time.monotonic()) for rank in ranks or self._processes]
        except subprocess.TimeoutExpired:
            late = {rank: self.errors(rank)[-2000:] for rank, one in self._processes.items() if one.poll() is None}
            pytest.fail(f"after {timeout:g} s ranks {list(late)} still run: {late}")

    def assert_lost(self, survivors: tuple[int, ...], *, within: float, text: str) -> None:
        """Make sure that the survivors end by PeerLostError with ``text``, in which ``{rank}`` is theirs."""
        assert self.codes(*survivors, timeout=within) == [1] * len(survivors), self.errors(survivors[0])
        for rank in survivors:
            assert self.last_error(rank).startswith(f"PeerLostError: {text.format(rank=rank)}"), self.errors(rank)
            assert "closed in 0." in self.output(rank), "close() must not wait for who is gone"

    def stop(self) -> None:
        """Kill what still runs, and make sure that nothing is left of the job."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        assert_nothing_left(self._mark)


def slowness() -> float:
    """Tell how many times as long as on an idle machine processes take here to start and end."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def assert_nothing_left(mark: str) -> None:
    """Make sure that soon no process of a job runs, whoever started it; sockets and nameless memory go with them."""
    deadline = time.monotonic() + 10 * slowness()
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        process.kill()
    assert not left, f"the job has left {left}"


def marked_processes(mark: str) -> list[psutil.Process]:
    """List the processes of a job: its environment variable ``DISTGNN_TEST_JOB`` has come down to them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def start_job(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartJob]:
    """Give a function that starts a :class:`Job`, which ends with the test; scripts are beside the test or above."""
    jobs: list[Job] = []

    def start(
        name: str,
        *arguments: str,
        world_size: int,
        present: Sequence[int] | None = None,
        hosts: Sequence[Sequence[str]] = (),
        **environment: str,
    ) -> Job:
        folder = tmp_path / str(len(jobs))
        folder.mkdir()
        script = next(one / name for one in request.path.parents if (one / name).exists())
        options = {"world_size": world_size, "present": present, "hosts": hosts, "environment": environment}
        jobs.append(Job(folder, script, *arguments, **options))  # type: ignore[arg-type]  # each is as above
        return jobs[-1]

    yield start
    for job in jobs:
        job.stop()
