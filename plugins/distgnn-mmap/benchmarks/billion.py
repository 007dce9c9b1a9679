"""Train a GIN whose nodes are rows of a table of a billion, which no memory here would hold.

The graph has --nodes nodes and ten times as many edges; its nodes are spread evenly over the rows of the table. Each
step is a pass over the whole graph, so it looks up and updates --nodes rows. Prints what it costs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil
import torch
from torch.nn.functional import cross_entropy
from torch_geometric.nn import GIN

import distgnn
from distgnn.data import generate_graph
from distgnn.nn import StoredEmbedding
from distgnn.optim import SparseAdagrad


def main() -> None:
    """Open, train, flush, and open again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--folder", type=Path, required=True, help="new, on a disk")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    graph = generate_graph(arguments.nodes, 10 * arguments.nodes)
    ids = torch.arange(arguments.nodes) * (arguments.rows // arguments.nodes)
    model = GIN(16, 64, num_layers=2, out_channels=int(graph.y.max()) + 1)
    before = psutil.Process().memory_info().rss
    with distgnn.use("mmap", folder=arguments.folder) as backend:
        table = StoredEmbedding(arguments.rows, 16, name="nodes", dtype=torch.float16)
        begin = time.perf_counter()
        table.open_store()
        print(f"opened {arguments.rows:,} rows of 16 x float16 in {time.perf_counter() - begin:.3f} s")
        dense, sparse = torch.optim.Adam(model.parameters(), lr=0.01), SparseAdagrad(table, lr=0.05)
        for step in range(arguments.steps):
            begin = time.perf_counter()
            loss = cross_entropy(model(table(ids).float(), graph.edge_index), graph.y)
            dense.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            dense.step()
            sparse.step()
            print(f"step {step}: loss {float(loss.detach()):.4f}, {time.perf_counter() - begin:.2f} s")
        begin = time.perf_counter()
        backend.flush()  # type: ignore[attr-defined]  # this backend's own
        print(f"flushed in {time.perf_counter() - begin:.2f} s")
        files = [path.stat() for path in arguments.folder.rglob("*")]
        long, used = sum(file.st_size for file in files), sum(file.st_blocks for file in files) * 512
        own = psutil.Process().memory_full_info().uss
    print(f"files: {long / 1e9:.0f} GB long, {used / 1e9:.2f} GB on the disk")
    print(f"memory: {own / 1e9:.2f} GB of the process's own, {before / 1e9:.2f} GB before")


if __name__ == "__main__":
    main()
