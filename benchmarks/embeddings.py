"""Lookup + update of stored embeddings by Adam, beside torch's nn.Embedding(sparse=True) with SparseAdam.

Two ranks on this machine, one thread each. In every round rank 0 measures torch and the memory backend while the other
rank waits, then both measure the pyg backend; rounds repeat, and medians are shown. A step is a lookup of K ids and an
update with a gradient for each, through autograd. Writes embeddings.json and embeddings.png into --out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

import distgnn
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdam

mpl.use("Agg")
from matplotlib import pyplot as plt

RANKS, DIM = 2, 64
Results = dict[str, dict[str, list[float]]]


def draw_ids(count: int, num_rows: int, kind: str, generator: np.random.Generator) -> torch.Tensor:
    """Draw ids: uniform, or by Zipf's law over a random order of the rows."""
    if kind == "uniform":
        return torch.from_numpy(generator.integers(0, num_rows, count))
    ranks = generator.zipf(1.2, count * 2)
    return torch.from_numpy((ranks[ranks <= num_rows][:count] * 2654435761) % num_rows)


def training(table: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
    """Return a training step: lookup, backward, update."""

    def step(ids: torch.Tensor) -> None:
        optimizer.zero_grad()
        table(ids).sum().backward()
        optimizer.step()

    return step


def rows_per_second(step: Callable[[torch.Tensor], None], batches: list[torch.Tensor]) -> float:
    """Return rows a second of the median step, after a step that is not counted."""
    step(batches[0])
    times = []
    for ids in batches[1:]:
        begin = time.perf_counter()
        step(ids)
        times.append(time.perf_counter() - begin)
    return batches[0].numel() / statistics.median(times)


def measure(arguments: argparse.Namespace) -> None:
    """Be one rank; rank 0 writes the results."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    results: Results = defaultdict(lambda: defaultdict(list))
    with distgnn.use("pyg") as pyg, distgnn.use("memory") as memory:
        engines: dict[str, Callable[[torch.Tensor], None]] = {}
        if rank == 0:
            peer = torch.nn.Embedding(arguments.rows, DIM, sparse=True)
            engines["torch"] = training(peer, torch.optim.SparseAdam(peer.parameters(), lr=0.001))
            local = StoredEmbedding(arguments.rows, DIM, name="local", backend=memory)
            engines["memory"] = training(local, SparseAdam(local, lr=0.001))
        spread = StoredEmbedding(arguments.rows, DIM, name="spread", backend=pyg)
        engines["pyg, a rank"] = training(spread, SparseAdam(spread, lr=0.001))
        generator = np.random.default_rng(rank)
        for _ in range(arguments.rounds):
            for kind in ("uniform", "zipf"):
                for count in (4096, 65536):
                    steps = arguments.steps if count == 4096 else max(4, arguments.steps // 4)
                    batches = [draw_ids(count, arguments.rows, kind, generator) for _ in range(steps + 1)]
                    case = results[f"{kind}, {count:,} ids"]
                    for engine, step in engines.items():
                        if engine == "pyg, a rank":
                            dist.barrier()
                        case[engine].append(rows_per_second(step, batches))
    if rank == 0:
        (arguments.out / "embeddings.json").write_text(json.dumps(results, indent=2) + "\n")


def draw(results: Results, path: Path) -> None:
    """Draw rows a second, a group of bars a case."""
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    engines = list(next(iter(results.values())))
    for number, engine in enumerate(engines):
        heights = [statistics.median(case[engine]) / 1e6 for case in results.values()]
        positions = np.arange(len(results)) + 0.27 * (number - 1)
        axes.bar_label(axes.bar(positions, heights, 0.25, label=engine), fmt="%.2f", fontsize=8)
    axes.set_xticks(np.arange(len(results)), list(results))
    axes.set_ylabel("million rows a second")
    axes.set_title(f"Lookup + Adam update, {DIM} columns; torch and memory: one process, pyg: two ranks")
    axes.legend()
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Start the ranks, then show what they measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="steps a round at 4,096 ids, a quarter of it at 65,536")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        measure(arguments)
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *sys.argv]
    ranks = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}) for rank in range(RANKS)]  # noqa: S603
    codes = [process.wait(timeout=1800) for process in ranks]
    if any(codes):
        sys.exit("a rank failed")

    results: Results = json.loads((arguments.out / "embeddings.json").read_text())
    table = Table(
        "case", "torch", "memory", "memory / torch", "pyg, a rank", "pyg / torch", title="million rows a second"
    )
    for case, engines in results.items():
        peer, local, spread = (statistics.median(engines[name]) / 1e6 for name in ("torch", "memory", "pyg, a rank"))
        numbers = (f"{peer:.2f}", f"{local:.2f}", f"{local / peer:.1f}", f"{spread:.2f}", f"{spread / peer:.1f}")
        table.add_row(case, *numbers)
    Console().print(table)
    draw(results, arguments.out / "embeddings.png")


if __name__ == "__main__":
    main()
