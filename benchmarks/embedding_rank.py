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
from torch import Tensor

import distgnn
from distgnn.backends.pyg.ranks import Ranks
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdam

ENGINES = {
    "memory": ("memory", {}),
    "pyg": ("pyg", {}),
    "pyg, network only": ("pyg", {"share_memory": False}),
    "dgl": ("dgl", {}),
}


class Network:
    """Carries between two ranks what a step must, by gloo alone: no row is read, summed or written.

    Args:
        num_rows: Rows of the table, of which each rank has a half.
    """

    def __init__(self, num_rows: int) -> None:
        self._ranks, self._half = Ranks(60.0), num_rows // 2

    def count(self, ids: Tensor) -> list[int]:
        """Return how many distinct ids of the other's go from each rank."""
        remote = ids[(ids < self._half) == bool(self._ranks.rank)]
        counts = torch.zeros(2, dtype=torch.int64)
        counts[self._ranks.rank] = torch.unique(remote).numel()
        dist.all_reduce(counts)
        return [int(count) for count in counts]

    def lookup(self, counts: list[int]) -> None:
        """Send ids, and bring their rows back."""
        self._exchange(counts, 8)
        self._exchange(counts[::-1], 4 * COLUMNS)

    def step(self, counts: list[int]) -> None:
        """Send what a lookup does, and ids with gradients."""
        self.lookup(counts)
        self._exchange(counts, 8 + 4 * COLUMNS)

    def _exchange(self, counts: list[int], width: int) -> None:
        me, other = self._ranks.rank, 1 - self._ranks.rank
        out, back = [0, 0], [0, 0]
        out[other], back[other] = counts[me], counts[other]
        self._ranks.exchange(torch.empty(counts[me], width, dtype=torch.uint8), out, back, "a step")


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=["torch", "network", *ENGINES])
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
    elif arguments.engine == "network":
        network = Network(arguments.rows)
        cases = measure_cases(network.step, network.lookup, cpu_seconds, **job, prepare=network.count)
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
