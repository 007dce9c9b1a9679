"""Train for minutes while processes are killed at random, and see what is lost, what hangs and what is left.

One job after another is torn: a rank or a server, drawn at random, is killed with SIGKILL at a random moment, from the
start of its processes on; the rest must end, and the job goes on from its last checkpoint, until it has trained to its
end. Its last checkpoint must then be that of a job that was left in peace, row by row. Beside them one job trains all
the time, whose memory, file descriptors and threads are looked at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torn_jobs import Job, forks

PATIENCE, LIMIT = 5.0, 40.0  # seconds until the rest of a job is asked to end, as torchrun asks, and until it hangs
RANKS = {"memory": 1, "pyg": 2, "dgl": 2}
OPTIONS: dict[str, Any] = {
    "dataset": "CustomLargeGraph",
    "num_nodes": 2000,
    "num_edges": 20_000,
    "hidden_channels": 16,
    "use_dist_embedding": True,
    "embedding_dim": 16,
    "name": "mine",
    "resume": "latest",
}


def train(options: dict[str, Any]) -> None:
    """Train by options."""
    from distgnn.train.config import TrainConfig  # noqa: PLC0415  # the process that this one is forked from has it
    from distgnn.train.run import train  # noqa: PLC0415

    train(TrainConfig(**options), console=Console(quiet=True))


def start(folder: Path, options: dict[str, Any]) -> Job:
    """Start a job that trains in a folder; the next attempt goes on there."""
    return Job(folder, partial(train, options), ranks=RANKS[options["backend"]])


def end(job: Job, found: Counter[str]) -> None:
    """See the rest of a job end after a kill, and count what does not."""
    if job.wait(PATIENCE):
        found["ended by themselves"] += 1
    for process in job.ranks:
        process.terminate()
    if not job.wait(LIMIT):
        found["hangs"] += 1
        job.kill()


@dataclass
class Torn:
    """What came of the jobs of one backend.

    Args:
        backend: Its name.
        found: Counts.
        left: What was left.
    """

    backend: str
    found: Counter[str] = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)


def latest(folder: Path) -> int:
    """Return the number of the last checkpoint, 0 where there is none."""
    return max((int(path.name[5:]) for path in folder.glob("runs/mine/checkpoints/step-*")), default=0)


def tensors(folder: Path) -> dict[str, Any]:
    """Read all of the last checkpoint that a calm and a torn job have in common."""
    from safetensors.numpy import load_file  # noqa: PLC0415  # this process stays small

    files = sorted(folder.glob(f"runs/mine/checkpoints/step-{latest(folder)}/*.safetensors"))
    found = {f"{path.name}/{name}": rows for path in files for name, rows in load_file(path).items()}
    # The states of Python's and NumPy's generators differ from process to process, and nothing here uses them.
    return {name: rows for name, rows in found.items() if "random/python" not in name and "random/numpy" not in name}


def tear(torn: Torn, folder: Path, options: dict[str, Any], moments: random.Random, until: float, calm: float) -> int:
    """Kill one process of a job that runs in ``folder``, or see it end; return how many were killed."""
    before = latest(folder)
    job = start(folder, options)
    torn.found["starts"] += 1
    moment = time.monotonic() + moments.uniform(0.0, 0.6 * calm)
    if time.monotonic() > until:
        moment = time.monotonic() + 600  # the last start trains to the end
    while job.running() and time.monotonic() < moment:
        time.sleep(0.01)
    killed = 0
    if job.running() and time.monotonic() < moment + 60:
        victims = [process.pid for process in (*job.ranks, *job.servers()) if process.pid is not None]
        server = len(victims) > len(job.ranks)
        victim = moments.choice(victims)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed = 1
            torn.found["kills"] += 1
            torn.found["kills of servers"] += server and victim == victims[-1]
    end(job, torn.found) if killed else job.wait(LIMIT)
    if not killed and any(process.exitcode for process in job.ranks):
        torn.found["failures without a kill"] += 1
    torn.left += job.leftovers()
    if latest(folder) < before:
        torn.found["checkpoints lost"] += 1
    for process in job.ranks:
        process.close()
    return killed


def compare(torn: Torn, folder: Path, expected: dict[str, Any]) -> None:
    """Count the rows of a job that has ended which are not as they should be, and the files that it has left."""
    found = tensors(folder)
    torn.found["jobs"] += 1
    torn.found["rows"] += sum(len(rows) for rows in expected.values() if rows.ndim)
    for name, rows in expected.items():
        differ = rows != found[name] if name in found and found[name].shape == rows.shape else rows == rows  # noqa: PLR0124
        torn.found["rows lost"] += int(differ.reshape(len(rows), -1).any(1).sum()) if rows.ndim else int(differ)
    names = [path.name for path in (folder / "runs/mine/checkpoints").iterdir() if not path.name.startswith("step-")]
    torn.left += names + [path.name for path in (folder / "temporary").iterdir()]


class Steady:
    """A job of two ranks that trains all the time, and what its processes take."""

    def __init__(self, folder: Path) -> None:
        # An epoch leaves a line of history, in memory too: few and large ones let it not pass for a leak.
        often = {"checkpoint_every": 5, "eval_every": 5, "num_nodes": 20_000, "num_edges": 200_000}
        options = {**OPTIONS, **often, "backend": "pyg", "epochs": 10**6}
        self._job = start(folder, options)
        self._processes = [psutil.Process(process.pid) for process in self._job.ranks]
        self.seen: list[dict[str, float]] = []

    def look(self) -> None:
        """Note what the processes take now, the most of the two."""
        each = [
            {"memory, MB": one.memory_info().rss / 1e6, "descriptors": one.num_fds(), "threads": one.num_threads()}
            for one in self._processes
        ]
        self.seen.append({name: max(one[name] for one in each) for name in each[0]})

    def growth(self) -> dict[str, tuple[float, float]]:
        """Return the medians of the second and of the last fifth: the first is the start."""
        fifth = max(1, len(self.seen) // 5)
        early, late = self.seen[fifth : 2 * fifth], self.seen[-fifth:]
        return {
            name: tuple(statistics.median(one[name] for one in part) for part in (early, late))  # type: ignore[misc]
            for name in early[0]
        }

    def end(self) -> bool:
        """Ask it to end; tell whether it was alive and has ended."""
        alive = all(process.is_alive() for process in self._job.ranks)
        for process in self._job.ranks:
            process.terminate()
        return self._job.wait(LIMIT) and alive and not self._job.leftovers()


def main() -> None:
    """Run for some minutes, or until so many were killed; print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=10**6, help="stop after so many")
    parser.add_argument("--backends", nargs="+", choices=RANKS, default=list(RANKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    forks.set_forkserver_preload(["distgnn.train.run"])
    moments, console = random.Random(arguments.seed), Console()  # noqa: S311  # no secrets
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    torn = {backend: Torn(backend) for backend in arguments.backends}
    expected: dict[str, tuple[dict[str, Any], float]] = {}
    steady = Steady(folder / "steady")
    begin, kills, rounds = time.monotonic(), 0, itertools.count()
    until = begin + 60 * arguments.minutes
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("seconds", total=int(60 * arguments.minutes))
        while time.monotonic() < until and kills < arguments.kills:
            backend = arguments.backends[next(rounds) % len(arguments.backends)]
            options = {**OPTIONS, "backend": backend, "epochs": arguments.epochs, "checkpoint_every": 2}
            if backend not in expected:
                started, calm = time.monotonic(), start(folder / f"calm-{backend}", options)
                if not calm.wait(300) or any(process.exitcode for process in calm.ranks):
                    raise SystemExit(calm.output(0))
                expected[backend] = tensors(folder / f"calm-{backend}"), time.monotonic() - started
            here = folder / f"torn-{backend}"
            while latest(here) < arguments.epochs:
                enough = kills >= arguments.kills
                kills += tear(torn[backend], here, options, moments, 0.0 if enough else until, expected[backend][1])
                steady.look()
                said = f"{kills} killed, {sum(one.found['rows lost'] for one in torn.values())} rows lost"
                progress.update(task, completed=int(time.monotonic() - begin), description=said)
            compare(torn[backend], here, expected[backend][0])
            shutil.rmtree(here)
    growth = steady.growth()
    report(
        console, arguments, list(torn.values()), growth, steady_survived=steady.end(), seconds=time.monotonic() - begin
    )
    shutil.rmtree(folder)


def report(
    console: Console,
    arguments: argparse.Namespace,
    torn: list[Torn],
    growth: dict[str, tuple[float, float]],
    *,
    steady_survived: bool,
    seconds: float,
) -> None:
    """Print the tables and write them as JSON."""
    names = ("kills", "kills of servers", "jobs", "rows", "rows lost", "checkpoints lost", "hangs")
    table = Table("backend", *names, "failures without a kill", "leftovers")
    for one in torn:
        numbers = [f"{one.found[name]:,}" for name in (*names, "failures without a kill")]
        table.add_row(one.backend, *numbers, str(len(one.left)))
    console.print(table)
    flat = Table("the job that nobody killed", "early", "late")
    for name, (early, late) in growth.items():
        flat.add_row(name, f"{early:,.0f}", f"{late:,.0f}")
    console.print(flat)
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {
        "seed": arguments.seed,
        "seconds": round(seconds),
        "backends": {one.backend: dict(one.found) | {"leftovers": one.left} for one in torn},
        "undisturbed": {name: {"early": early, "late": late} for name, (early, late) in growth.items()},
        "undisturbed job survived": steady_survived,
    }
    (arguments.out / "soak.json").write_text(json.dumps(content, indent=1) + "\n")
    bad = ("rows lost", "checkpoints lost", "hangs", "failures without a kill")
    if not steady_survived or any(one.left or any(one.found[name] for name in bad) for one in torn):
        raise SystemExit("something was lost, hung or left: see above")


if __name__ == "__main__":
    main()
