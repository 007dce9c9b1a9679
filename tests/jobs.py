"""Jobs of real processes, for tests that kill, stop or cut off some of them; none is left behind.

Ranks are forked from a process that has imported what they need, which is most of the work of a start; each then runs
its script, and ends, as a Python of its own would.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import io
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess

    StartJob = Callable[..., "Job"]

MARK = "DISTGNN_TEST_JOB"
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    [
        *("tests.jobs", "distgnn.cli.app", "distgnn.train.run"),
        *("distgnn.backends.pyg.backend", "distgnn.backends.dgl.cluster"),
    ]
)


class Job:
    """Processes that run one script, each as a rank.

    Args:
        folder: Where their output goes.
        script: The script.
        arguments: Its arguments.
        world_size: How many ranks the job is told to have; None is one process that no launcher has started.
        present: The ranks that are started, all of them unless it says otherwise.
        hosts: The network namespace of each rank's host, which has shared memory of its own; "" stays in this one.
        environment: What differs from the environment of one machine.
        folders: The working folder of each rank, this process's unless they are given.
    """

    def __init__(
        self,
        folder: Path,
        script: Path,
        *arguments: str,
        world_size: int | None,
        present: Sequence[int] | None = None,
        hosts: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        self._folder = folder
        self._mark = uuid.uuid4().hex
        self._slowness = slowness()
        self._processes: dict[int, BaseProcess] = {}
        launcher = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        everyone = {
            **os.environ,
            **({} if world_size is None else launcher),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
            MARK: self._mark,
        }
        for rank in range(world_size or 1) if present is None else present:
            output = folder / str(rank)
            output.with_suffix(".out").touch()
            output.with_suffix(".err").touch()
            host = hosts[rank] if hosts else None
            environment = everyone if world_size is None else {**everyone, "RANK": str(rank)}
            working = folders[rank] if folders else Path.cwd()
            about = (str(script), arguments, environment, str(output), str(working), host)
            self._processes[rank] = forks.Process(target=be_rank, args=about)
            self._processes[rank].start()

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
                assert process.is_alive(), f"rank {rank} ended:\n{self.errors(rank)}"
                assert time.monotonic() < deadline, f"rank {rank} does not print {word!r}:\n{self.errors(rank)}"
                time.sleep(0.02)

    def wait_for_file(self, path: Path, *, timeout: float = 60) -> None:
        """Wait until there is a file that the first rank makes."""
        deadline = time.monotonic() + timeout * slowness()
        while not path.exists():
            assert self._processes[0].is_alive(), f"rank 0 ended:\n{self.errors(0)}"
            assert time.monotonic() < deadline, f"there is no {path}:\n{self.errors(0)}"
            time.sleep(0.02)

    def send(self, rank: int, number: signal.Signals) -> None:
        os.kill(self._pid(rank), number)

    def _pid(self, rank: int) -> int:
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    def children(self, rank: int) -> list[psutil.Process]:
        return list(psutil.Process(self._pid(rank)).children())

    def codes(self, *ranks: int, timeout: float) -> list[int]:
        """Wait for ranks, all unless named, and return their exit codes; times are those of an idle machine."""
        # Ranks wait for each other as long as it seemed right when they were started.
        timeout *= max(self._slowness, slowness())
        deadline = time.monotonic() + timeout
        asked = ranks or tuple(self._processes)
        for rank in asked:
            self._processes[rank].join(max(0.0, deadline - time.monotonic()))
        running = [rank for rank in asked if self._processes[rank].is_alive()]
        for rank in running:
            self.send(rank, signal.SIGUSR1)
            self._processes[rank].join(1.0)  # while it says where it is
        late = {rank: self.errors(rank)[-4000:] for rank in running}
        assert not late, f"after {timeout:g} s ranks {list(late)} still run: {late}"
        return [int(self._processes[rank].exitcode or 0) for rank in asked]

    def assert_lost(self, survivors: tuple[int, ...], *, within: float, text: str) -> None:
        """Make sure that the survivors end by PeerLostError with ``text``, in which ``{rank}`` is theirs."""
        assert self.codes(*survivors, timeout=within) == [1] * len(survivors), self.errors(survivors[0])
        for rank in survivors:
            assert self.last_error(rank).startswith(f"PeerLostError: {text.format(rank=rank)}"), self.errors(rank)
            assert "closed at once" in self.output(rank), "close() must not wait for who is gone"

    def stop(self) -> None:
        """Kill what still runs, and make sure that nothing is left of the job."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()
        assert_nothing_left(self._mark, [self._pid(rank) for rank in self._processes])


def be_rank(
    script: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: str,
    folder: str,
    host: str | None,
) -> None:
    """Be the process of a rank: run its script in a folder, and end."""
    gc.freeze()  # what all ranks have in common stays in common
    faulthandler.register(signal.SIGUSR1)
    os.setsid()
    for number, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{suffix}", os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if host is not None:
        move_to(host)
    import torch  # the process that this one is forked from has it

    torch.set_num_threads(1)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = [script, *arguments]
    known = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and part not in sys.path]
    sys.path[:0] = [str(Path(script).parent), *known]
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as Python says it
        sys.excepthook(*sys.exc_info())
        code = 1
    ctypes.pythonapi.Py_Exit(code)


def slowness() -> float:
    """Tell how many times as long as on an idle machine processes take here to start and end."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def move_to(host: str) -> None:
    """Take this process to a network namespace, with mounts and shared memory of its own."""
    system = ctypes.CDLL(None, use_errno=True)
    failed = system.unshare(0x20000)  # CLONE_NEWNS
    if host:
        with Path("/var/run/netns", host).open() as namespace:
            failed |= system.setns(namespace.fileno(), 0x40000000)  # CLONE_NEWNET
    assert not failed, os.strerror(ctypes.get_errno())
    for mount in (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", "/dev/shm"]):
        subprocess.run(["mount", *mount], check=True)


def assert_nothing_left(mark: str, sessions: Sequence[int]) -> None:
    """Make sure that soon no process of a job runs, whoever started it; sockets and nameless memory go with them."""
    deadline = time.monotonic() + 10 * slowness()
    while (left := processes_of(mark, sessions)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        process.kill()
    assert not left, f"the job has left {left}"


def processes_of(mark: str, sessions: Sequence[int]) -> list[psutil.Process]:
    """List the processes of a job: in a session of its ranks, or of its environment variable ``DISTGNN_TEST_JOB``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            its = os.getsid(process.pid) in sessions or process.environ().get(MARK) == mark
            if its and process.status() != psutil.STATUS_ZOMBIE:
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
        world_size: int | None,
        present: Sequence[int] | None = None,
        hosts: Sequence[str] = (),
        folders: Sequence[Path] = (),
        **environment: str,
    ) -> Job:
        folder = tmp_path / str(len(jobs))
        folder.mkdir()
        script = next(one / name for one in request.path.parents if (one / name).exists())
        job = Job(
            folder,
            script,
            *arguments,
            world_size=world_size,
            present=present,
            hosts=hosts,
            environment=environment,
            folders=folders,
        )
        jobs.append(job)
        return jobs[-1]

    yield start
    for job in jobs:
        job.stop()
