"""Lookup + update of embeddings by Adam, beside torch's on one machine and beside DGL's on two.

A table of 1M rows of 64 float32 columns; batches of 4,096 and 65,536 ids, uniform and by Zipf's law; a step is a lookup
and an update with a gradient for each id, through autograd. Every process has one thread. Engines take turns over some
rounds, each time in new processes, and medians over the rounds are shown:

- on one machine, nn.Embedding(sparse=True) with SparseAdam in one process, and in two at once that know nothing of each
  other, which shows what two processes take from each other here; the memory backend in one process; the pyg backend in
  two, with and without shared memory;
- on two hosts with a rank each (network namespaces: needs root), the pyg backend and DGL's DistEmbedding with its
  SparseAdam (needs the extra dgl), and gloo alone, which carries the ids, rows and gradients and does nothing else.

Writes embeddings.json and embeddings.png into --out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from embedding_cases import COLUMNS
from hosts import ADDRESSES, CABLE, two_hosts
from rich.console import Console
from rich.progress import track
from rich.table import Table

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
Cases = dict[str, dict[str, float]]


def run_ranks(commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]) -> Cases:
    """Run a command a rank, and return what rank 0 measured."""
    ranks = [
        subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.PIPE)  # noqa: S603
        for command, environment in zip(commands, environments, strict=True)
    ]
    outputs = [process.communicate(timeout=900)[0] for process in ranks]
    if any(process.returncode for process in ranks):
        sys.exit(f"a rank failed: {commands[0]}")
    cases: Cases = json.loads(outputs[0].splitlines()[-1])
    return cases


def ours(
    engine: str, arguments: argparse.Namespace, hosts: Sequence[Sequence[str]] = (), *, processes: int = 1
) -> Cases:
    """Measure an engine of this library, or torch alone."""
    command = [sys.executable, str(HERE / "embedding_rank.py"), engine, "--steps", str(arguments.steps)]
    if engine in {"torch", "memory"}:
        return run_ranks([command] * processes, [{}] * processes)
    job = {"WORLD_SIZE": "2", "MASTER_PORT": free_port(), "MASTER_ADDR": ADDRESSES[0] if hosts else "127.0.0.1"}
    job["GLOO_SOCKET_IFNAME"] = CABLE if hosts else "lo"
    commands = [[*(hosts[rank] if hosts else ()), *command] for rank in range(2)]
    return run_ranks(
        commands, [{**job, "RANK": str(rank), "LOCAL_RANK": "0" if hosts else str(rank)} for rank in range(2)]
    )


def dgl(arguments: argparse.Namespace, hosts: Sequence[Sequence[str]]) -> Cases:
    """Measure DGL."""
    command = [sys.executable, str(HERE / "dgl_peer.py"), "--steps", str(arguments.steps)]
    command += ["--servers", ",".join(f"{address}:30050" for address in ADDRESSES), "--master", f"{ADDRESSES[0]}:29500"]
    commands = [[*host, *command, "--rank", str(rank)] for rank, host in enumerate(hosts)]
    return run_ranks(commands, [{"GLOO_SOCKET_IFNAME": CABLE}] * 2)


def free_port() -> str:
    """Find a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def main() -> None:
    """Measure all engines in turn, then show the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps a round at 4,096 ids, a quarter of it at 65,536")
    parser.add_argument("--only", nargs="+", default=[], help="engines to measure, by their names in the table")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Cases]] = {}
    with two_hosts() as hosts:
        engines: dict[str, Callable[[], Cases]] = {
            "torch, 1 process": lambda: ours("torch", arguments),
            "torch, 2 processes at once": lambda: ours("torch", arguments, processes=2),
            "memory, 1 process": lambda: ours("memory", arguments),
            "pyg, 2 ranks": lambda: ours("pyg", arguments),
            "pyg, 2 ranks, no shared memory": lambda: ours("pyg, network only", arguments),
            "gloo alone, 2 hosts": lambda: ours("network", arguments, hosts),
            "pyg, 2 hosts": lambda: ours("pyg", arguments, hosts),
            "dgl, 2 hosts": lambda: ours("dgl", arguments, hosts),
            "DGL's own, 2 hosts": lambda: dgl(arguments, hosts),
        }
        chosen = {name: work for name, work in engines.items() if not arguments.only or name in arguments.only}
        for _ in track(range(arguments.rounds), description="Rounds"):
            for name, measure in chosen.items():
                results.setdefault(name, []).append(measure())
    medians = {
        name: {
            case: {what: statistics.median(cases[case][what] for cases in rounds) for what in rounds[0][case]}
            for case in rounds[0]
        }
        for name, rounds in results.items()
    }
    (arguments.out / "embeddings.json").write_text(json.dumps({"medians": medians, "rounds": results}, indent=2) + "\n")
    show(medians)
    draw(medians, arguments.out / "embeddings.png")


def show(medians: dict[str, Cases]) -> None:
    """Print a table a measure; ratios are to torch on one machine, and to DGL's own on two."""
    titles = {
        "rows_per_second": "lookup + Adam update: million rows a second a rank",
        "lookups_per_second": "lookup alone: million rows a second a rank",
        "cpu_seconds_per_row": "lookup + Adam update: CPU microseconds a row, all processes",
    }
    for what, title in titles.items():
        names = list(medians)
        table = Table("engine", *medians[names[0]], title=title)
        for name, cases in medians.items():
            peer = "DGL's own, 2 hosts" if "hosts" in name else "torch, 1 process"
            cells = []
            for case, numbers in cases.items():
                scale = 1e6 if what == "cpu_seconds_per_row" else 1e-6
                text = f"{numbers[what] * scale:.2f}"
                if peer in medians and name != peer:
                    ratio = numbers[what] / medians[peer][case][what]
                    text += f" ({1 / ratio if what == 'cpu_seconds_per_row' else ratio:.1f}x)"
                cells.append(text)
            table.add_row(name, *cells)
        Console(width=140).print(table)


def draw(medians: dict[str, Cases], path: Path) -> None:
    """Draw rows a second, a group of bars a case, one plot for one machine and one for two."""
    figure, plots = plt.subplots(2, 1, figsize=(9, 7.5), layout="constrained")
    for axes, machines in zip(plots, ("one machine", "two hosts"), strict=True):
        names = [name for name in medians if ("hosts" in name) == (machines == "two hosts")]
        for number, name in enumerate(names):
            heights = [case["rows_per_second"] / 1e6 for case in medians[name].values()]
            width = 0.84 / len(names)
            positions = np.arange(len(heights)) + width * (number - (len(names) - 1) / 2)
            axes.bar_label(axes.bar(positions, heights, 0.95 * width, label=name), fmt="%.2f", fontsize=7)
            axes.set_xticks(np.arange(len(heights)), list(medians[name]))
        axes.set_ylabel("million rows a second a rank")
        axes.set_title(f"Lookup + Adam update, {COLUMNS} columns, {machines}")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
