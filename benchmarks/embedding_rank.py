"""One rank of the embedding benchmark: prints the JSON of its measurements when it is rank 0.

Run by ``embeddings.py`` with the environment variables of a rank, as torchrun sets them.
"""

import argparse
import json
import os
import sys
import time

import psutil
import torch
import torch.distributed as dist
from embedding_cases import COLUMNS, measure_cases, training

import distgnn
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdam

ENGINES = {
    "memory": ("memory", {}),
    "pyg": ("pyg", {}),
    "pyg, network only": ("pyg", {"share_memory": False}),
    "dgl": ("dgl", {}),
}


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["torch", *ENGINES])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def cpu_seconds() -> float:
        servers = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))
        seconds = torch.tensor(time.process_time() + servers, dtype=torch.float64)
        if ranks > 1:
            dist.all_reduce(seconds)
        return float(seconds)

    job = {"num_rows": arguments.rows, "steps": arguments.steps, "rank": rank, "ranks": ranks}
    if arguments.engine == "torch":
        peer = torch.nn.Embedding(arguments.rows, COLUMNS, sparse=True)
        step = training(peer, torch.optim.SparseAdam(peer.parameters(), lr=0.001))
        cases = measure_cases(step, torch.no_grad()(peer), cpu_seconds, **job)
    else:
        name, options = ENGINES[arguments.engine]
        with distgnn.use(name, **options):
            table = StoredEmbedding(arguments.rows, COLUMNS, name="table")
            step = training(table, SparseAdam(table, lr=0.001))
            cases = measure_cases(step, torch.no_grad()(table), cpu_seconds, **job)
    if rank == 0:
        sys.stdout.write(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
