"""What it gains that layers sum over own nodes while the rows of halos travel.

Two ranks train a GIN of 3 layers of 64 over a generated graph, ten edges a node, in two parts by METIS. Steps with the
exchange beside the sums and before them take turns in the same processes: where ranks share a host, and between two
hosts (network namespaces: needs root) by cables of several rates. Writes overlap.json and overlap.png into --out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib as mpl
import torch
from harness import console, machine
from hosts import ADDRESSES, CABLE, two_hosts
from rich.table import Table
from scaling import Training, cut

import distgnn

mpl.use("Agg")
from matplotlib import pyplot as plt

CASES = {"one host": None, "two hosts, veth": "", "two hosts, 10 Gbit/s": "10gbit", "two hosts, 1 Gbit/s": "1gbit"}


def main() -> None:
    """Run all cases, or be one rank of a job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=10, help="of each kind")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--part-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part_of is not None:
        numbers = measure(arguments.part_of, arguments.steps)
        if os.environ["RANK"] == "0":
            sys.stdout.write(json.dumps(numbers) + "\n")
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = cut(arguments.nodes, 2, Path(folder) / "parts")
        found = {name: job(parts, rate, arguments.steps) for name, rate in CASES.items()}
    table = Table("", "before, ms a step", "beside, ms a step", "times faster")
    for name, one in found.items():
        table.add_row(name, f"{one['before']:,.0f}", f"{one['beside']:,.0f}", f"{one['before'] / one['beside']:.2f}")
    console.print(table)
    results = {"machine": machine(), "nodes": arguments.nodes, "steps": arguments.steps, "ms": found}
    path = arguments.out / "overlap.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    figure, axes = plt.subplots(figsize=(6.5, 2.4), layout="constrained")
    ratios = [one["before"] / one["beside"] for one in found.values()]
    axes.bar_label(axes.barh(list(found), ratios, color="tab:orange"), fmt="%.2f", padding=3)
    axes.set(
        title="A step whose exchange goes beside the sums", xlabel="times as fast as with the exchange before them"
    )
    axes.margins(x=0.12)
    axes.invert_yaxis()
    figure.savefig(path.with_suffix(".png"), dpi=130)


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Train on this rank's part; return the median milliseconds of a step of each kind, in turns."""
    torch.set_num_threads(1)
    ways: dict[str, Any] = {
        "before": partial(patch, "distgnn.nn.aggregation.messages.find_split_layout", return_value=None),
        "beside": nullcontext,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    with distgnn.use("pyg") as backend:
        training = Training(backend, folder)
        edges = {way: training.part.edge_index.clone() for way in ways}  # each keeps its layout
        for step in range(2 * (steps + 2)):
            way = list(ways)[step % 2]
            begin = time.perf_counter()
            with ways[way]():
                training.step(edges[way])
            training.session.sum([0.0])
            times[way].append(1e3 * (time.perf_counter() - begin))
        training.model.close()
    return {way: statistics.median(found[2:]) for way, found in times.items()} | {"steps_ms": times}


def job(folder: Path, rate: str | None, steps: int) -> dict[str, Any]:
    """Start two ranks, and return what rank 0 tells."""
    with ExitStack() as stack:
        address, device = "127.0.0.1", "lo"
        hosts: list[list[str]] = [[], []]
        if rate is not None:
            address, device, hosts = ADDRESSES[0], CABLE, stack.enter_context(two_hosts(rate or None))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        rendezvous = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": device}
        command = [sys.executable, __file__, "--part-of", str(folder), "--steps", str(steps)]
        processes = [
            subprocess.Popen(  # noqa: S603
                [*host, *command],
                env={**os.environ, **rendezvous, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
            )
            for rank, host in enumerate(hosts)
        ]
        outputs = [process.communicate(timeout=600)[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit("a rank failed")
    told: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return told


if __name__ == "__main__":
    main()
