"""What it gains to fetch the next batch's rows while this batch's gradients are computed.

Two ranks on two hosts (network namespaces: needs root) train a table of 1M rows of 64 columns and a perceptron on top,
with and without prefetch, in turns, on a cable as fast as it can be and on one of --rate. Writes prefetch.json into
--out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from embedding_cases import COLUMNS, COUNTS, draw_ids
from hosts import ADDRESSES, CABLE, two_hosts
from rich.console import Console
from rich.table import Table

import distgnn
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdam

Milliseconds = dict[str, dict[str, float]]


def measure(arguments: argparse.Namespace) -> None:
    """Be one rank; rank 0 prints milliseconds a step."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    generator = np.random.default_rng(rank)
    results: Milliseconds = {}
    with distgnn.use("pyg"):
        table = StoredEmbedding(arguments.rows, COLUMNS, name="table")
        sparse = SparseAdam(table, lr=0.001)
        perceptron = torch.nn.Sequential(torch.nn.Linear(COLUMNS, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
        dense = torch.optim.Adam(perceptron.parameters())
        for count in COUNTS:
            number = arguments.steps if count == COUNTS[0] else max(4, arguments.steps // 4)
            batches = [draw_ids(count, arguments.rows, "uniform", generator) for _ in range(number + 1)]
            times: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(2 * arguments.rounds):
                ahead = bool(turn % 2)
                dist.barrier()
                if ahead:
                    table.prefetch(batches[0])
                for ids, following in pairwise(batches):
                    begin = time.perf_counter()
                    rows = table(ids)
                    if ahead:
                        table.prefetch(following)
                    perceptron(rows).square().mean().backward()
                    dense.step()
                    sparse.step()
                    dense.zero_grad()
                    times[ahead].append(time.perf_counter() - begin)
                if ahead:
                    table(batches[-1])
                    sparse.zero_grad()
            medians = {ahead: 1e3 * statistics.median(seconds) for ahead, seconds in times.items()}
            results[f"{count:,} ids"] = {"without prefetch": medians[False], "with prefetch": medians[True]}
    if rank == 0:
        sys.stdout.write(json.dumps(results) + "\n")


def run(rate: str | None) -> Milliseconds:
    """Start a rank on each of two hosts."""
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": CABLE}
    with two_hosts(rate) as hosts:
        ranks = [
            subprocess.Popen(  # noqa: S603
                [*host, sys.executable, *sys.argv],
                env={**os.environ, **job, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
            )
            for rank, host in enumerate(hosts)
        ]
        outputs = [process.communicate(timeout=900)[0] for process in ranks]
    if any(process.returncode for process in ranks):
        sys.exit("a rank failed")
    results: Milliseconds = json.loads(outputs[0].splitlines()[-1])
    return results


def main() -> None:
    """Measure both cables, and show the steps' lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps a round at 4,096 ids, a quarter of it at 65,536")
    parser.add_argument("--rate", default="1gbit", help="of the slower cable, as tc writes it")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = {"a veth pair": run(None), arguments.rate: run(arguments.rate)}
    (arguments.out / "prefetch.json").write_text(json.dumps(results, indent=2) + "\n")
    table = Table("cable", "batch", "without prefetch", "with prefetch", "ratio", title="milliseconds a step")
    for cable, batches in results.items():
        for batch, milliseconds in batches.items():
            without, ahead = milliseconds["without prefetch"], milliseconds["with prefetch"]
            table.add_row(cable, batch, f"{without:.1f}", f"{ahead:.1f}", f"{without / ahead:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
