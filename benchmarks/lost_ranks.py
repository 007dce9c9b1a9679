"""Kill or stop a rank or a server at a random moment of every kind of job, and read what the others say.

Every job is the command ``distgnn train`` on two or three ranks, or a script that infers by layers. Half of the moments
are within the first seconds, before the ranks have met; the others follow the first epoch. The survivors must end by
themselves, in one line that names a rank or server which was lost, and must leave nothing.

Prints a table, writes lost_ranks.json into --out after each, and ends with 1 where anybody said something else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torn_jobs import Job, forks

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 8  # seconds that a rank waits for another
GRACE = 60.0  # seconds beside them until a survivor counts as hanging, on a busy machine
EARLY, LATER = 3.0, 2.0  # seconds within which the moments are, from the start and from the first epoch
DATA = ("--dataset", "CustomLargeGraph", "--num-nodes", "2000", "--num-edges", "20000")
SMALL = ("--hidden-channels", "16", "--use-dist-embedding", "--embedding-dim", "16", "--epochs", "100000")
JOBS = {
    "all nodes": (*DATA, *SMALL),
    "batch normalization": (*DATA, *SMALL, "--norm", "batch_norm"),
    "full": (*DATA, *SMALL, "--mode", "full"),
    "full, partition": ("--partition", "{partition}", *SMALL, "--mode", "full"),
    "stale": (*DATA, *SMALL, "--mode", "full", "--staleness", "2"),
    "sampled": (*DATA, *SMALL, "--mode", "sampled", "--batch-size", "256", "--num-neighbors", "5,5,5"),
    "evaluation": (*DATA, *SMALL, "--mode", "sampled", "--batch-size", "256", "--steps-per-epoch", "1"),
    "history": (*DATA, *SMALL, "--mode", "history", "--batch-size", "256"),
    "links": (*DATA, *SMALL, "--task", "link", "--batch-size", "1024"),
    "checkpoints": (*DATA, *SMALL, "--checkpoint-every", "1"),
    "report": (*DATA, *SMALL[:-1], "3", "--report"),
    "graphs": ("--dataset", "MUTAG", *SMALL),
    "inference": (),
}
NAMED = re.compile(r"(?:rank (\d+)|(?:the )?DGL servers? .*?rank (\d+)|rank (\d+)'s).* (?:is|are) (?:gone|silent|lost)")


def command(words: list[str]) -> None:
    """Run ``distgnn`` as from a command line."""
    from distgnn.cli.app import main  # noqa: PLC0415  # the process that this one is forked from has it

    sys.argv = ["distgnn", *words]
    main()


def infer(backend: str) -> None:
    """Infer by layers again and again."""
    import torch  # noqa: PLC0415

    import distgnn  # noqa: PLC0415
    from distgnn import GraphSpec  # noqa: PLC0415
    from distgnn.nn import DistributedGIN  # noqa: PLC0415

    with distgnn.use(backend, timeout=TIMEOUT) as engine:
        model = DistributedGIN(16, 16, num_layers=2, out_channels=3, use_dist_embedding=True, embedding_name="words")
        model.set_num_embeddings(num_nodes=2000)
        graph = engine.open_graph(GraphSpec("graph", 2000, 20_000), torch.randint(0, 2000, (2, 20_000)))
        Path("metrics.jsonl").touch()
        while True:
            model.inference(graph)


def said(output: str) -> str:
    """Return the kind of what a survivor has said last."""
    if "Traceback (most recent call last)" in output and "PeerLostError" not in output:
        return "raw"
    lines = [line for line in output.splitlines() if "error: " in line or "Error: " in line]
    if not lines:
        return "nothing"
    if "is gone" in lines[-1] or "is silent" in lines[-1] or "are gone" in lines[-1] or "are silent" in lines[-1]:
        return "named" if NAMED.search(lines[-1]) else "nobody named"
    late = ("came to the start of the job", "found no job", "does not listen after", "has not said")
    return "did not come" if any(words in lines[-1] for words in late) else "other"


class Trial:
    """One job, of which one process is lost.

    Args:
        folder: Where it runs.
        kind: One of :data:`JOBS`.
        backend: Its backend.
        partition: A partitioned graph.
        moments: Draws the victim and the moment.
    """

    def __init__(self, folder: Path, kind: str, backend: str, partition: Path, moments: random.Random) -> None:
        self.kind, self.backend, self._moments = kind, backend, moments
        self._folder, self.ranks = folder, moments.choice([2, 2, 3])
        if "partition" in kind:
            self.ranks = 2
        words = [word.format(partition=partition) for word in JOBS[kind]]
        ranks = ("--backend", backend, "--timeout", str(TIMEOUT), "--name", "mine")
        work = partial(command, ["train", *words, *ranks]) if words else partial(infer, backend)
        self.job = Job(folder, work, ranks=self.ranks)
        self.victim = ""

    def lose(self, number: signal.Signals, *, early: bool) -> bool:
        """Kill or stop a process; return whether the job ran still."""
        begin = time.monotonic()
        if not early:
            while self.job.running() and not any(self._folder.rglob("metrics.jsonl")):
                time.sleep(0.05)
                if time.monotonic() - begin > 240:
                    raise SystemExit(f"{self.kind} on {self.backend} does not begin:\n{self.job.output(0)}")
        moment = time.monotonic() + self._moments.uniform(0, EARLY if early else LATER)
        while self.job.running() and time.monotonic() < moment:
            time.sleep(0.01)
        if not all(process.is_alive() for process in self.job.ranks):
            return False
        victims = {f"rank {rank}": process.pid for rank, process in enumerate(self.job.ranks)}
        victims |= {f"server {number}": process.pid for number, process in enumerate(self.job.servers())}
        self.victim = self._moments.choice(list(victims))
        with suppress(ProcessLookupError):
            os.kill(victims[self.victim] or 0, number)
            return True
        return False

    def survivors(self) -> Iterator[str]:
        """Wait for the survivors, and yield the kind of what each said."""
        deadline = time.monotonic() + TIMEOUT + GRACE
        for rank, process in enumerate(self.job.ranks):
            if self.victim == f"rank {rank}":
                continue
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGUSR1)
                process.join(2.0)
                yield "hangs"
            else:
                yield "had ended" if process.exitcode == 0 else said(self.job.output(rank))

    def text(self) -> str:
        """Return what all ranks have said, for those who look into it."""
        each = (f"--- rank {rank}\n{self.job.output(rank)[-3000:]}" for rank in range(self.ranks))
        return f"{self.kind} on {self.backend}, {self.ranks} ranks, lost {self.victim}\n" + "\n".join(each) + "\n"


def main() -> None:
    """Lose so many processes, print what was said, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--backends", nargs="+", default=["pyg", "dgl"])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as the command does before torch is loaded
    forks.set_forkserver_preload(["distgnn.cli.app", "distgnn.train.run", "distgnn.backends.pyg.backend"])
    moments, console = random.Random(arguments.seed), Console()  # noqa: S311  # no secrets
    folder = Path(tempfile.mkdtemp(prefix="lost-"))
    cut = ["partition", *DATA[1:], "--parts", "2", "--method", "hash", "--out", str(folder / "cut")]
    making = forks.Process(target=command, args=(cut,))
    making.start()
    making.join()
    found: dict[str, Counter[str]] = {}
    left: list[str] = []
    odd: list[str] = []
    signals = [signal.SIGKILL] * arguments.kills + [signal.SIGSTOP] * arguments.stops
    moments.shuffle(signals)
    kinds = itertools.cycle(itertools.product(arguments.jobs, arguments.backends))
    with Progress(console=console) as progress:
        for place, number in enumerate(progress.track(signals, description="losing ranks")):
            kind, backend = next(kinds)
            here = folder / f"job-{place}"
            trial = Trial(here, kind, backend, folder / "cut", moments)
            if trial.lose(number, early=place // len(arguments.backends) % 2 == 0):  # not one backend's alone
                counts = found.setdefault(f"{kind}, {backend}, {number.name}", Counter())
                counts["lost"] += 1
                kinds_said = list(trial.survivors())
                counts.update(kinds_said)
                if set(kinds_said) - {"named", "did not come", "had ended"}:
                    odd.append(trial.text())
            trial.job.kill()
            for server in trial.job.servers():
                with suppress(psutil.Error):
                    server.resume()  # one that was stopped cannot end by itself
            left += trial.job.leftovers()
            shutil.rmtree(here)
            write(arguments, found, left, odd)
    shutil.rmtree(folder)
    report(console, found, left)
    if odd or left:
        raise SystemExit(f"somebody said something else: see {arguments.out / 'lost_ranks.txt'}")


def write(arguments: argparse.Namespace, found: dict[str, Counter[str]], left: list[str], odd: list[str]) -> None:
    """Write what was counted, and what was odd."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = {"seed": arguments.seed, "by job": found, "all": sum(found.values(), Counter[str]()), "left": left}
    (arguments.out / "lost_ranks.json").write_text(json.dumps(content, indent=1) + "\n")
    (arguments.out / "lost_ranks.txt").write_text("\n".join(odd))


def report(console: Console, found: dict[str, Counter[str]], left: list[str]) -> None:
    """Print the table."""
    total = sum(found.values(), Counter[str]())
    names = ["lost", *sorted(set(total) - {"lost"})]
    table = Table("job", *names)
    for kind, counts in sorted(found.items()):
        table.add_row(kind, *(str(counts[name]) for name in names))
    table.add_section()
    table.add_row("all", *(str(total[name]) for name in names))
    console.print(table)
    console.print(f"left: {left or 'nothing'}")


if __name__ == "__main__":
    main()
