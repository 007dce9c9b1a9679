"""What it costs and saves to use halo rows again for k steps: test accuracy, and bytes between two ranks.

Two ranks train a GIN over the two parts of Cora, and of musae_git with a learned embedding of each node, for several k
and seeds. Bytes are those that the exchange of layer outputs and of their gradients sends in a training step, over all
ranks, as the `pyg` backend counts them when it shares no memory. Needs the files of both (DISTGNN_DATA), and pymetis.
Writes staleness.json and staleness.png into --out.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import console, machine
from matplotlib import pyplot as plt
from rich.table import Table
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data

import distgnn
from distgnn.backends.pyg.backend import PygBackend
from distgnn.data import load_custom_graph, load_dataset
from distgnn.graph import cut_part
from distgnn.graph.partition.assign import assign_nodes
from distgnn.nn import DistributedGIN
from distgnn.optim import SparseAdam
from distgnn.train.session import Session

RANKS, HIDDEN, LAYERS, DROPOUT, LR, SPARSE_LR, WEIGHT_DECAY = 2, 64, 2, 0.5, 0.01, 0.01, 5e-4
Results = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Case:
    """A data set, and how to train on it."""

    graph: Data
    num_classes: int
    embeddings: bool
    norm: str | None
    epochs: int
    seeds: int


def load(name: str) -> Case:
    """Load a data set."""
    if name == "Cora":
        cora = load_dataset("Cora")
        return Case(cora.graph, cora.num_classes, embeddings=False, norm=None, epochs=100, seeds=10)
    folder = Path(os.environ["DISTGNN_DATA"]) / name
    graph = load_custom_graph(folder / "git_edges.csv", labels=folder / "git_target.csv")
    return Case(graph, int(graph.y.max()) + 1, embeddings=True, norm="batch_norm", epochs=60, seeds=3)


class Training:
    """A model on this rank's part."""

    def __init__(self, case: Case, staleness: int, seed: int, backend: PygBackend) -> None:
        torch.manual_seed(seed)
        graph = case.graph
        parts = assign_nodes(graph.edge_index, graph.num_nodes, RANKS, method="metis")
        self._part = cut_part(graph, parts, backend.rank, RANKS)
        self._session = Session(backend)
        self._targets = int(graph.train_mask.sum())
        self._backend = backend
        width = HIDDEN if case.embeddings else graph.num_features
        self.model = DistributedGIN(
            width,
            HIDDEN,
            num_layers=LAYERS,
            out_channels=case.num_classes,
            dropout=DROPOUT,
            norm=case.norm,
            use_dist_embedding=case.embeddings,
            use_dist_tensor=True,
            halo_staleness=staleness,
        )
        self._sparse: SparseAdam | None = None
        if self.model.node_features is not None:
            self.model.set_num_embeddings(num_nodes=graph.num_nodes)
            self.model.node_features.register_forward_hook(lambda *_: self._begin())
            self._sparse = SparseAdam(self.model, lr=SPARSE_LR)
        self._wrapped = self._session.wrap(self.model, sync_batch_norm=True)
        self._dense = torch.optim.Adam(self.model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        self._before = 0

    def _begin(self) -> None:
        """Begin to count, behind the look-up of embeddings."""
        self._before = self._backend.bytes_sent

    def step(self) -> float:
        """Train a step, and return the bytes that all ranks sent."""
        part = self._part
        self.model.train()
        self._dense.zero_grad()
        self._begin()
        out = self._wrapped(part.get("x"), part.edge_index, node_ids=part.n_id, halo=part.halo)
        loss = cross_entropy(out[part.train_mask], part.y[part.train_mask], reduction="sum") / self._targets
        loss.backward()  # type: ignore[no-untyped-call]
        sent = self._backend.bytes_sent - self._before
        self._dense.step()
        if self._sparse is not None:
            self._sparse.step()
        return self._session.sum([sent])[0]

    @torch.no_grad()
    def accuracies(self) -> tuple[float, float]:
        """Return validation and test accuracy over all ranks."""
        part = self._part
        self.model.eval()
        hits = self.model(part.get("x"), part.edge_index, node_ids=part.n_id, halo=part.halo).argmax(dim=-1) == part.y
        masks = (part.val_mask, part.test_mask)
        counts = self._session.sum([float(count) for mask in masks for count in (hits[mask].sum(), mask.sum())])
        return counts[0] / counts[1], counts[2] / counts[3]


def measure(arguments: argparse.Namespace) -> None:
    """Be one rank; rank 0 prints accuracies, and megabytes a step, by data set and k."""
    torch.set_num_threads(1)
    results: Results = {}
    for name in arguments.datasets:
        case, results[name] = load(name), {}
        for staleness in arguments.staleness:
            measured: dict[str, list[float]] = {"accuracy": [], "megabytes": []}
            results[name][str(staleness)] = measured
            for seed in range(arguments.seeds or case.seeds):
                with distgnn.use("pyg", share_memory=False) as backend:
                    assert isinstance(backend, PygBackend)
                    training = Training(case, staleness, seed, backend)
                    best, sent = (-1.0, 0.0), 0.0
                    for _ in range(arguments.epochs or case.epochs):
                        sent += training.step()
                        best = max(best, training.accuracies(), key=lambda pair: pair[0])
                    training.model.close()
                measured["accuracy"].append(best[1])
                measured["megabytes"].append(sent / (arguments.epochs or case.epochs) / 1e6)
    if os.environ["RANK"] == "0":
        sys.stdout.write(json.dumps(results) + "\n")


def run() -> Results:
    """Start the ranks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    job = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, *sys.argv], env={**os.environ, **job, "RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(RANKS)
    ]
    outputs = [process.communicate()[0] for process in ranks]
    if any(process.returncode for process in ranks):
        sys.exit("a rank failed")
    results: Results = json.loads(outputs[0].splitlines()[-1])
    return results


def report(results: Results, out: Path) -> None:
    """Print a table, and write the files."""
    table = Table("data set", "staleness", "test accuracy", "MB a step", title=f"{RANKS} parts, {LAYERS} layers")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, by_staleness in results.items():
        for staleness, measured in by_staleness.items():
            mean, spread = statistics.mean(measured["accuracy"]), statistics.pstdev(measured["accuracy"])
            megabytes = statistics.mean(measured["megabytes"])
            table.add_row(name, staleness, f"{mean:.2%} ± {spread:.2%}", f"{megabytes:.2f}")
        series = list(by_staleness.values())
        means = [statistics.mean(measured["accuracy"]) for measured in series]
        spreads = [statistics.pstdev(measured["accuracy"]) for measured in series]
        sent = [statistics.mean(measured["megabytes"]) for measured in series]
        axes[0].errorbar(list(by_staleness), means, yerr=spreads, marker="o", capsize=3, label=name)
        style = "--" if axes[1].lines else "-"  # what lies on each other is seen
        axes[1].plot(list(by_staleness), [each / sent[0] for each in sent], style, marker="o", label=name)
    for one, label in zip(axes, ("test accuracy", "bytes, relative to staleness 0"), strict=True):
        one.set(xlabel="staleness: steps that halo rows are used again", ylabel=label)
        one.grid(alpha=0.3)
        one.legend()
    axes[1].set_ylim(0)
    console.print(table)
    (out / "staleness.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n")
    figure.savefig(out / "staleness.png", dpi=130)


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=("Cora", "musae_git"), default=["Cora", "musae_git"])
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 4])
    parser.add_argument("--seeds", type=int, help="0 to this; by default 10 on Cora and 3 on musae_git")
    parser.add_argument("--epochs", type=int, help="by default 100 on Cora and 60 on musae_git")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    report(run(), arguments.out)


if __name__ == "__main__":
    main()
