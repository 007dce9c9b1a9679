"""Ranks as processes of their own, which may fail, be killed or stopped; none is left behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

import distgnn

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from distgnn import Backend

    StartJob = Callable[..., "Job"]

HERE = Path(__file__).parent
SPREAD = [
    "pyg",
    pytest.param("dgl", marks=pytest.mark.skipif(find_spec("dgl") is None, reason="dgl is not installed here")),
]


class Job:
    """Processes that run one script of this folder, each as a rank.

    Args:
        folder: Where their output goes.
        command: The script and its arguments.
        world_size: How many ranks the job is told to have.
        present: The ranks that are started, all of them unless it says otherwise.
        hosts: A command for each rank that runs another in the rank's host.
        environment: What differs from the environment of one machine.
    """

    def __init__(
        self,
        folder: Path,
        *command: str,
        world_size: int,
        present: Sequence[int] | None = None,
        hosts: Sequence[Sequence[str]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        everyone = {
            **os.environ,
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        for rank in range(world_size) if present is None else present:
            host = hosts[rank] if hosts else ()
            with (folder / f"{rank}.out").open("wb") as out, (folder / f"{rank}.err").open("wb") as err:
                self._processes[rank] = subprocess.Popen(
                    [*host, sys.executable, "-u", str(HERE / command[0]), *command[1:]],
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
        deadline = time.monotonic() + timeout
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
        """Wait for ranks, all unless named, and return their exit codes."""
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
        """Kill what still runs."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(params=SPREAD)
def spread(request: pytest.FixtureRequest) -> str:
    """Give the name of each backend whose stores are spread over ranks."""
    return str(request.param)


@pytest.fixture
def backend(spread: str) -> Iterator[Backend]:
    """Give each of them, open."""
    with distgnn.use(spread, timeout=20) as opened:
        yield opened


@pytest.fixture(params=["memory", "pyg", "dgl"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend of as many ranks as there are; ``memory`` is one of one."""
    if request.param == "dgl" and find_spec("dgl") is None:
        pytest.skip("dgl is not installed here")
    if request.param == "memory" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        pytest.skip("memory is a world of its own process")
    options = {} if request.param == "memory" else {"timeout": 20}
    with distgnn.use(request.param, **options) as backend:
        yield backend


@pytest.fixture
def start_job(tmp_path: Path) -> Iterator[StartJob]:
    """Give a function that starts a :class:`Job`, which is stopped when the test ends."""
    jobs: list[Job] = []

    def start(
        *command: str,
        world_size: int,
        present: Sequence[int] | None = None,
        hosts: Sequence[Sequence[str]] = (),
        **environment: str,
    ) -> Job:
        folder = tmp_path / str(len(jobs))
        folder.mkdir()
        jobs.append(Job(folder, *command, world_size=world_size, present=present, hosts=hosts, environment=environment))
        return jobs[-1]

    yield start
    for job in jobs:
        job.stop()
