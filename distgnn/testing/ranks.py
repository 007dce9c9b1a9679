"""Test files on several ranks at once, in lock-step."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_GRACE = 5.0  # seconds that the other ranks get to end by themselves after one has failed


def run_on_ranks(path: str | Path | Sequence[str | Path], world_size: int, *, timeout: float = 300.0) -> None:
    """Run test files with pytest in ``world_size`` processes at once, as torchrun would start them on one machine.

    A file holds subclasses of the suites, as for one process; each process finds its rank in the environment
    variables ``RANK`` and ``WORLD_SIZE``. The first failing test ends the run; no process is left behind.

    Args:
        path: The test file, or several.
        world_size: Number of ranks.
        timeout: Seconds after which the run is ended and has failed.

    Raises:
        pytest.fail.Exception: A rank failed; the text has the end of what each that failed has printed.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    files = [path] if isinstance(path, (str, os.PathLike)) else path
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *map(str, files)]
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(world_size)]
        ranks = [
            stack.enter_context(_started(command, output, _environment(rank, world_size, port)))
            for rank, output in enumerate(outputs)
        ]
        deadline, failed = time.monotonic() + timeout, list[int]()
        while time.monotonic() < deadline:
            codes = [process.poll() for process in ranks]
            failed += [rank for rank, code in enumerate(codes) if code and rank not in failed]
            if all(code is not None for code in codes):
                break
            if any(codes):
                deadline = min(deadline, time.monotonic() + _GRACE)
            time.sleep(0.05)
        codes = [process.poll() for process in ranks]
        if any(codes) or None in codes:
            ends = ", ".join("no end" if code is None else str(code) for code in codes)
            # One that fails early leaves the others in calls that it does not answer: those fail, or do not end.
            told = [*failed, *(rank for rank, code in enumerate(codes) if code is None)]
            shown = "".join(f"\nrank {rank} printed:\n{_end_of(outputs[rank])}" for rank in told)
            pytest.fail(f"{world_size} ranks ended with {ends}, the first in time first:{shown}", pytrace=False)


def _end_of(output: IO[str]) -> str:
    output.seek(0)
    return output.read()[-6000:]


@contextmanager
def _started(command: list[str], output: IO[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, text=True)  # noqa: S603  # our own
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
