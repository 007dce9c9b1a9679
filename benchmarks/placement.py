"""What it gains that tables of embeddings lie where the parts of a graph are.

Two ranks on two hosts (network namespaces: needs root) train a GIN of 3 layers of 64 over learned embeddings by sparse
Adam, on a graph in two parts by METIS: Cora where DISTGNN_DATA has it, and a generated one, ten edges a node. Steps
with tables cut evenly by id and with tables placed by the partition take turns in the same processes, by cables of
several rates, and have the same losses. Writes placement.json into --out.
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
from pathlib import Path
from typing import Any

import torch
from harness import console, machine
from hosts import ADDRESSES, CABLE, two_hosts
from rich.table import Table
from scaling import CLASSES, LAYERS, WIDTH, cut
from torch.nn.functional import cross_entropy

import distgnn
from distgnn.data import load_dataset
from distgnn.graph import load_part, partition_graph
from distgnn.nn import DistributedGIN
from distgnn.optim import SparseAdam
from distgnn.train.session import Session

CABLES = {"a veth pair": None, "1 Gbit/s": "1gbit"}
WAYS = ("evenly by id", "where the parts are")


class Training:
    """A model over this rank's part of a graph, with learned embeddings alone."""

    def __init__(self, backend: distgnn.Backend, folder: Path, way: str) -> None:
        self.session, self.part = Session(backend), load_part(folder)
        torch.manual_seed(0)
        # Rows that begin as zeros are the same in tables of different names.
        options: dict[str, Any] = {"use_dist_tensor": True, "use_dist_embedding": True, "embedding_std": 0.0}
        self.model = DistributedGIN(WIDTH, WIDTH, num_layers=LAYERS, out_channels=CLASSES, **options)
        halo = self.part.halo
        self.model.set_num_embeddings(halo.num_rows, node_partition=halo.partition if way == WAYS[1] else None)
        self._wrapped = self.session.wrap(self.model, sync_batch_norm=True)
        self._dense, self._sparse = torch.optim.Adam(self.model.parameters(), lr=0.01), SparseAdam(self.model, lr=0.01)

    def step(self) -> float:
        """Train one step; return the loss of all ranks."""
        self._dense.zero_grad()
        out = self._wrapped(None, self.part.edge_index, node_ids=self.part.n_id, halo=self.part.halo)
        loss = cross_entropy(out, self.part.y % CLASSES, reduction="sum") / self.part.halo.num_rows
        loss.backward()
        self._dense.step()
        self._sparse.step()
        return self.session.sum([float(loss.detach())])[0]


def main() -> None:
    """Run all cases, or be one rank of a job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50_000, help="of the generated graph")
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
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        graphs = {f"generated, {arguments.nodes:,} nodes": cut(arguments.nodes, 2, Path(folder) / "parts")}
        if (Path(os.environ.get("DISTGNN_DATA", "")) / "Cora").is_dir():
            partition_graph(load_dataset("Cora").graph, Path(folder) / "cora", 2, method="metis")
            graphs = {"Cora": Path(folder) / "cora", **graphs}
        for graph, parts in graphs.items():
            for cable, rate in CABLES.items():
                found[f"{graph}; {cable}"] = job(parts, rate, arguments.steps)
    table = Table("", *(f"{way}, ms a step" for way in WAYS), "times faster", *(f"{way}, MB a step" for way in WAYS))
    for name, one in found.items():
        times, moved = ([one[way][key] for way in WAYS] for key in ("ms", "bytes"))
        cells = [
            *(f"{ms:,.1f}" for ms in times),
            f"{times[0] / times[1]:.2f}",
            *(f"{size / 1e6:.2f}" for size in moved),
        ]
        table.add_row(name, *cells)
    console.print(table)
    results = {"machine": machine(), "steps": arguments.steps, "cases": found}
    (arguments.out / "placement.json").write_text(json.dumps(results, indent=2) + "\n")


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Train both ways in turns; return the median milliseconds of a step, and the bytes that all ranks send in one."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    sent = dict.fromkeys(WAYS, 0.0)
    losses: dict[str, list[float]] = {way: [] for way in WAYS}
    with distgnn.use("pyg") as backend:
        assert isinstance(backend, distgnn.SupportsTraffic)
        trainings = {way: Training(backend, folder, way) for way in WAYS}
        for number in range(steps + 3):
            for way in WAYS if number % 2 else reversed(WAYS):
                training = trainings[way]
                begin, before = time.perf_counter(), backend.bytes_sent
                losses[way].append(training.step())
                times[way].append(1e3 * (time.perf_counter() - begin))
                sent[way] = backend.bytes_sent - before
        (halo,) = trainings[WAYS[0]].session.sum([float(trainings[WAYS[0]].part.halo.remote.numel())])
        totals = trainings[WAYS[0]].session.sum(list(sent.values()))
        for training in trainings.values():
            training.model.close()
    torch.testing.assert_close(*(torch.tensor(losses[way]) for way in WAYS), rtol=1e-4, atol=1e-5)
    return {"halo_rows": int(halo)} | {
        way: {"ms": statistics.median(times[way][3:]), "bytes": total, "steps_ms": times[way][3:]}
        for way, total in zip(WAYS, totals, strict=True)
    }


def job(folder: Path, rate: str | None, steps: int) -> dict[str, Any]:
    """Start a rank on each of two hosts, and return what rank 0 tells."""
    with two_hosts(rate) as hosts:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        rendezvous = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": CABLE}
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
