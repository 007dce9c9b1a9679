"""Jobs of several ranks on this host that lose processes, and what they leave.

Ranks are forked from a process that has imported what they need, so that a kill costs a second instead of ten.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

MARK = "DISTGNN_SOAK"
PROMPT = 10.0  # seconds after the last rank in which a server ends
forks = multiprocessing.get_context("forkserver")
Work = Callable[[], object]


def be_rank(folder: str, output: str, work: Work, environment: Mapping[str, str]) -> None:
    """Be the process of a rank; what it says goes to a file."""
    os.environ.update(environment)
    os.chdir(folder)
    words = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(words, 1)
    os.dup2(words, 2)
    faulthandler.register(signal.SIGUSR1)  # says where it is, if it hangs
    import torch  # noqa: PLC0415  # the process that this one is forked from has it

    torch.set_num_threads(1)
    try:
        work()
    finally:
        atexit._run_exitfuncs()  # noqa: SLF001  # multiprocessing leaves them out, and DGL's ranks take their leave there


class Job:
    """The processes of one attempt.

    Args:
        folder: Where they run; each rank's words are in ``output-RANK`` there.
        work: What each rank does; a module's function, with what it is given.
        ranks: How many there are; one is started as by no launcher.
    """

    def __init__(self, folder: Path, work: Work, *, ranks: int) -> None:
        temporary = folder / "temporary"
        temporary.mkdir(parents=True, exist_ok=True)
        self.mark, self.port = uuid.uuid4().hex, free_port()
        everyone = {MARK: self.mark, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
        if ranks > 1:
            everyone |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        self._outputs = [folder / f"output-{rank}" for rank in range(ranks)]
        self.ranks: list[BaseProcess] = [
            forks.Process(target=be_rank, args=(str(folder), output.name, work, {**everyone, "RANK": str(rank)}))
            for rank, output in enumerate(self._outputs)
        ]
        for process in self.ranks:
            process.start()
        self._names: set[str] = set()

    def running(self) -> bool:
        """Return whether any rank still runs."""
        return any(process.is_alive() for process in self.ranks)

    def output(self, rank: int) -> str:
        """Return what a rank has said."""
        path = self._outputs[rank]
        return path.read_text(errors="replace") if path.exists() else ""

    def servers(self) -> list[psutil.Process]:
        """List the servers of the job."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if "distgnn.backends.dgl.server" in str(process.cmdline()) and process.environ().get(MARK) == self.mark:
                    found.append(process)
                    self._names.add(process.cmdline()[-1])
        return found

    def wait(self, seconds: float) -> bool:
        """Wait for all ranks; return whether they have ended."""
        deadline = time.monotonic() + seconds
        for process in self.ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        return not self.running()

    def kill(self) -> None:
        """Kill what still runs of its ranks."""
        for process in self.ranks:
            process.kill()
        for process in self.ranks:
            process.join()

    def leftovers(self) -> list[str]:
        """Name what the job has left: servers, names in shared memory, a port that is still listened on."""
        deadline = time.monotonic() + PROMPT
        while (left := self.servers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        names = [path.name for path in Path("/dev/shm").iterdir() if any(name in path.name for name in self._names)]  # noqa: S108
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken = [f"port {self.port}"] if listener.connect_ex(("127.0.0.1", self.port)) == 0 else []
        return [f"process {process.pid}" for process in left] + names + taken


def free_port() -> int:
    """Return a port of this host that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
