"""Lookup + update of embeddings by DGL itself: its DistEmbedding and its SparseAdam, on servers of its own.

As one command it starts two ranks on this machine::

    python benchmarks/dgl_peer.py

As a rank of a job, on one machine or several (each has a server, at the address that ``--servers`` gives it)::

    python benchmarks/dgl_peer.py --rank 0 --ranks 2 --servers 10.0.0.1:30050,10.0.0.2:30050 --master 10.0.0.1:29500

The first rank of each machine starts that machine's server. "Machines" may be network namespaces, each with a
``/dev/shm`` of its own, for DGL's names there are the same on all. A step is ``zero_grad``, a lookup of K ids,
``backward`` and ``step``; without ``zero_grad`` DGL applies the gradients of all steps before again. Rank 0 prints
what it measured as JSON; the CPU seconds are those of all ranks and servers.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.distributed as dist
from embedding_cases import COLUMNS, measure_cases, training

from distgnn.graphbolt import import_dgl

dgl = import_dgl()

from dgl import distributed as dgl_distributed  # noqa: E402  # importable now, also where its graphbolt is not
from dgl.distributed.graph_partition_book import NodePartitionPolicy, RangePartitionBook  # noqa: E402
from dgl.distributed.kvstore import KVServer  # noqa: E402
from dgl.distributed.rpc_server import start_server  # noqa: E402
from dgl.distributed.server_state import ServerState  # noqa: E402


def policy(rows: int, part: int, parts: int) -> NodePartitionPolicy:
    """Split rows evenly over machines, as a graph of so many nodes would be."""
    cuts = [rows * number // parts for number in range(parts + 1)]
    nodes = {"_N": np.array(list(pairwise(cuts)))}
    edges = {("_N", "_E", "_N"): np.array([[number, number + 1] for number in range(parts)])}
    return NodePartitionPolicy(RangePartitionBook(part, parts, nodes, edges, {"_N": 0}, {("_N", "_E", "_N"): 0}), "_N")


def serve(arguments: argparse.Namespace, part: int, config: str) -> None:
    """Be DGL's server of this machine until the ranks end."""
    parts = len(arguments.servers)
    store = KVServer(part, config, 1, arguments.ranks)
    split = policy(arguments.rows, part, parts)
    store.add_part_policy(split)
    start_server(part, config, 1, arguments.ranks, ServerState(store, None, split.partition_book))


def measure(
    arguments: argparse.Namespace, part: int, config: str, server: psutil.Process | None
) -> dict[str, dict[str, float]]:
    """Train for some steps of each size."""
    dgl_distributed.initialize(config)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{arguments.master}", rank=arguments.rank, world_size=arguments.ranks
    )
    split = policy(arguments.rows, part, len(arguments.servers))
    table = dgl_distributed.DistEmbedding(arguments.rows, COLUMNS, name="table", part_policy=split)
    optimizer = dgl_distributed.optim.SparseAdam([table], lr=0.001)

    def cpu_seconds() -> float:
        own = time.process_time() + (sum(server.cpu_times()[:2]) if server is not None else 0.0)
        seconds = torch.tensor(own, dtype=torch.float64)
        dist.all_reduce(seconds)
        return float(seconds)

    return measure_cases(
        training(table, optimizer),
        torch.no_grad()(table),
        cpu_seconds,
        num_rows=arguments.rows,
        steps=arguments.steps,
        rank=arguments.rank,
        ranks=arguments.ranks,
    )


def rank(arguments: argparse.Namespace) -> None:
    """Be one rank, and the first of a machine starts its server."""
    torch.set_num_threads(1)
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    hosts = [server.partition(":")[0] for server in arguments.servers]
    part = next(number for number, host in enumerate(hosts) if host in own)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "ip_config.txt")
        config.write_text("".join(f"{server.replace(':', ' ')}\n" for server in arguments.servers))
        if arguments.serve:
            serve(arguments, part, str(config))
            return
        os.environ["DGL_DIST_MODE"] = "distributed"
        server = None
        if arguments.rank % (arguments.ranks // len(hosts)) == 0:
            server = psutil.Popen([sys.executable, *sys.argv, "--serve"], stdout=subprocess.DEVNULL)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # DGL prints what it does
                result = measure(arguments, part, str(config), server)
                dgl_distributed.exit_client()  # it ends the servers too
            if server is not None:
                server.wait(timeout=20)
        finally:
            if server is not None and server.is_running():
                server.kill()
                server.wait()
    if arguments.rank == 0:
        sys.stdout.write(json.dumps(result) + "\n")


def free_address() -> str:
    """Return an address of this machine with a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def main() -> None:
    """Be the rank that the arguments name, or start two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--servers", type=lambda text: text.split(","), help="ADDRESS:PORT of each machine's server")
    parser.add_argument("--master", help="ADDRESS:PORT, free, of rank 0's machine")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=40, help="at 4,096 ids; a quarter of it at 65,536")
    arguments = parser.parse_args()
    if arguments.rank is not None:
        rank(arguments)
        return
    job = ["--servers", free_address(), "--master", free_address()]
    command = [sys.executable, *sys.argv, *job]
    ranks = [subprocess.Popen([*command, "--rank", str(number)]) for number in range(arguments.ranks)]  # noqa: S603
    codes = [process.wait(timeout=1800) for process in ranks]
    if any(codes):
        sys.exit("a rank failed")


if __name__ == "__main__":
    main()
