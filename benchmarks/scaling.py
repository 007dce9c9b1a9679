"""How training and inference over the parts of a graph scale with the number of ranks, all on this host.

Weak: the graph grows with the ranks, and the peak memory of a rank is compared with that of one rank alone. Strong: the
graph stays, and the time of a training step is compared; ranks have one thread each, and one rank with two threads is
shown as the rival. The limit of the machine are two processes at once, each with a graph of half the size, that do not
exchange anything. The graphs are generated, with communities that METIS finds, and cut into files that each rank loads
its own of. Writes scaling.json and scaling.png into --out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import matplotlib as mpl
import torch
import torch.distributed as dist
from harness import console, machine
from rich.table import Table
from torch.nn.functional import cross_entropy

import distgnn
from distgnn.data import generate_graph
from distgnn.graph import load_part, open_part, partition_graph
from distgnn.nn import DistributedGIN
from distgnn.train.session import Session

mpl.use("Agg")
from matplotlib import pyplot as plt

WIDTH, LAYERS, CLASSES = 64, 3, 8
Numbers = dict[str, Any]


def main() -> None:
    """Run both kinds, or be one rank of a job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weak-nodes", type=int, default=100_000, help="nodes a rank; ten times as many edges")
    parser.add_argument("--strong-nodes", type=int, default=1_000_000, help="nodes of the whole graph")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="of the weak kind, 1 first")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=["weak", "strong"], default=["weak", "strong"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--part-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--with-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part_of is not None:
        numbers = measure(arguments.part_of, arguments.steps, with_memory=arguments.with_memory)
        if int(os.environ.get("RANK", "0")) == 0:
            sys.stdout.write(json.dumps(numbers) + "\n")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "scaling.json"
    results = {"machine": machine()} | {kind: RUN[kind](arguments) for kind in arguments.kinds}
    path.write_text(json.dumps(results, indent=2) + "\n")
    draw(results, path.with_suffix(".png"))


class Training:
    """A model that learns from this rank's part of a graph."""

    def __init__(self, backend: distgnn.Backend, folder: Path) -> None:
        self.session, self.part = Session(backend), load_part(folder)
        torch.manual_seed(0)
        self.model = DistributedGIN(WIDTH, WIDTH, num_layers=LAYERS, out_channels=CLASSES, use_dist_tensor=True)
        self._wrapped = self.session.wrap(self.model, sync_batch_norm=True)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        (self._nodes,) = self.session.sum([self.part.halo.own.numel()])

    def step(self, edge_index: torch.Tensor) -> None:
        """Train one step over the part's edges."""
        self._optimizer.zero_grad()
        out = self._wrapped(self.part.x, edge_index, halo=self.part.halo)
        loss = cross_entropy(out, self.part.y, reduction="sum") / self._nodes
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def measure(folder: Path, steps: int, *, with_memory: bool) -> Numbers:
    """Train on this rank's part and, to see its memory, again and compute all outputs layer by layer."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    # Without shared memory the backend counts the bytes that go from rank to rank.
    options = {"share_memory": False} if os.environ.get("COUNT_BYTES") else {}
    with distgnn.use("pyg", **options) as backend:
        training = Training(backend, folder)
        session, part, model = training.session, training.part, training.model
        (halo_rows,) = session.sum([part.halo.remote.numel()])
        seconds, sent = [], []

        def train() -> None:
            for _ in range(steps + 1):
                begin, before = time.perf_counter(), bytes_sent(backend)
                training.step(part.edge_index)
                if ranks > 1:
                    dist.barrier()
                seconds.append(time.perf_counter() - begin)
                sent.append(bytes_sent(backend) - before)

        train()
        numbers = {
            "step_ms": 1e3 * statistics.median(seconds[1:]),
            "halo_rows": int(halo_rows),
            "bytes_a_step": int(session.sum([sent[-1]])[0]),
        }
        if with_memory:  # in a run of its own, for looking at memory takes time
            numbers["train_peak_mb"] = session.max(peak_of(train))
            features, graph = open_part(part)
            infer_mb = peak_of(lambda: model.inference(graph, features, batch_size=1024, progress=False).close())
            numbers["inference_peak_mb"] = session.max(infer_mb)
        model.close()
        return numbers


def peak_of(work: Callable[[], object]) -> float:
    """Return the peak memory of this process during some work, in MB; Linux only.

    A page of memory that k ranks share counts 1/k for each, so that the sum over ranks is what the machine needs.
    """
    peak, done = 0.0, Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            peak = max(peak, next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")))

    watcher = Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def bytes_sent(backend: distgnn.Backend) -> int:
    """Return what this rank has sent so far."""
    assert isinstance(backend, distgnn.SupportsTraffic)
    return backend.bytes_sent


def job(
    folder: Path,
    ranks: int,
    arguments: argparse.Namespace,
    *more: str,
    threads: int = 1,
    apart: bool = False,
    **environment: str,
) -> Numbers:
    """Start so many ranks on a partition, or as many jobs of one rank, and return what rank 0 or the slowest tells."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, __file__, "--part-of", str(folder), "--steps", str(arguments.steps), *more]
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    everyone = {**os.environ, **rendezvous, "OMP_NUM_THREADS": str(threads), **environment}
    processes = [
        subprocess.Popen(  # noqa: S603
            command,
            env=everyone if apart else {**everyone, "RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=1800)[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a rank failed")
    told: list[Numbers] = [json.loads(output.splitlines()[-1]) for output in outputs if output]
    return max(told, key=lambda numbers: float(numbers["step_ms"]))


def cut(num_nodes: int, parts: int, folder: Path) -> Path:
    """Generate a graph with ten edges a node, and write its parts."""
    graph = generate_graph(num_nodes, 10 * num_nodes, num_classes=8 * CLASSES, homophily=0.95)
    graph.y = graph.y % CLASSES
    graph.x = torch.randn(num_nodes, WIDTH, generator=torch.Generator().manual_seed(0))
    report = partition_graph(graph, folder, parts, method="metis")
    console.print(f"{num_nodes:,} nodes in {parts} parts: {report.halo_ratio:.3f} halo nodes a node")
    return folder


def weak(arguments: argparse.Namespace) -> list[Numbers]:
    """Let the graph grow with the ranks."""
    results = []
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as folder:
            parts = cut(arguments.weak_nodes * ranks, ranks, Path(folder) / "parts")
            results.append({"ranks": ranks, **job(parts, ranks, arguments, "--with-memory")})
            if ranks > 1:
                results[-1]["bytes_a_step"] = job(parts, ranks, arguments, COUNT_BYTES="1")["bytes_a_step"]
    table = Table("ranks", "training, MB a rank", "inference, MB a rank", "halo rows", "bytes / halo rows' own bytes")
    for result in results:
        # Every layer but the last brings the halo's rows, and backward their gradients.
        own = result["halo_rows"] * WIDTH * 4 * 2 * (LAYERS - 1)
        result["bytes_ratio"] = result["bytes_a_step"] / own if own else None
        ratios = [result[f"{name}_peak_mb"] / results[0][f"{name}_peak_mb"] for name in ("train", "inference")]
        table.add_row(
            str(result["ranks"]),
            f"{result['train_peak_mb']:,.0f} ({ratios[0]:.2f}x)",
            f"{result['inference_peak_mb']:,.0f} ({ratios[1]:.2f}x)",
            f"{result['halo_rows']:,}",
            f"{result['bytes_ratio']:.3f}" if own else "",
        )
    console.print(table)
    return results


def strong(arguments: argparse.Namespace) -> list[Numbers]:
    """Keep the graph, and let one and two ranks take turns."""
    cases: dict[str, dict[str, Any]] = {
        "1 rank": {"ranks": 1},
        "2 ranks": {"ranks": 2},
        "1 rank, 2 threads": {"ranks": 1, "threads": 2},
        "half alone": {"ranks": 1, "apart": True},
        "two halves apart": {"ranks": 2, "apart": True},
    }
    rounds: dict[str, list[Numbers]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        parts = {ranks: cut(arguments.strong_nodes, ranks, Path(folder) / str(ranks)) for ranks in (1, 2)}
        half = cut(arguments.strong_nodes // 2, 1, Path(folder) / "half")
        for _ in range(arguments.rounds):
            for name, case in cases.items():
                rounds[name].append(job(half if "apart" in case else parts[case["ranks"]], arguments=arguments, **case))
    results = []
    table = Table("", "ms a step", "times faster")
    for name, numbers in rounds.items():
        median = statistics.median(one["step_ms"] for one in numbers)
        results.append({"case": name, "step_ms": median, "rounds_ms": [one["step_ms"] for one in numbers]})
        table.add_row(name, f"{median:,.0f}", f"{results[0]['step_ms'] / median:.2f}")
    console.print(table)
    return results


RUN = {"weak": weak, "strong": strong}


def draw(results: Numbers, path: Path) -> None:
    """Draw the memory of a rank, and the speed of two."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    for name, color in (("train", "tab:orange"), ("inference", "tab:blue")):
        points = results.get("weak", [])
        axes[0].plot(
            [str(point["ranks"]) for point in points], [point[f"{name}_peak_mb"] for point in points], "o-", color=color
        )
    axes[0].set(title="The graph grows with the ranks", xlabel="ranks", ylabel="peak memory of a rank, MB")
    axes[0].margins(y=0.15)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(["full-graph training", "inference"])
    bars = results.get("strong", [])
    ratios = [bars[0]["step_ms"] / bar["step_ms"] for bar in bars]
    cases = [textwrap.fill(bar["case"], 8) for bar in bars]
    axes[1].bar_label(axes[1].bar(cases, ratios, color="tab:orange"), fmt="%.2f")
    axes[1].margins(y=0.12)
    axes[1].set(title="The graph stays", ylabel="times as fast as one rank")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
