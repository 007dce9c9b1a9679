"""Test accuracy on graphs of which nodes are classified, over seeds, by the defaults of `distgnn train`.

Beside it train PyG's GIN and GCN, with the same sizes, rates, splits and seeds, and an embedding of nodes where ours
has one. "before" is what the defaults once were. Cora, a graph of one's own (easy: four communities, whose features and
edges both tell them apart, with few labels), a generated one without features, and GitHub's users without features
(musae_git).

Writes accuracy.json after each graph, and goes on from it; then accuracy.png. Needs Cora's and musae_git's files in
DISTGNN_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_geometric.nn import GCN, GIN
from torch_geometric.utils import stochastic_blockmodel_graph

from distgnn.data import LoadedDataset, load_dataset
from distgnn.train import run
from distgnn.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

mpl.use("Agg")
from matplotlib import pyplot as plt

BEFORE: dict[str, Any] = {"num_layers": 3, "lr": 0.01, "sparse_lr": 0.001}
CLASSES, NODES, FEATURES, LABELLED = 4, 3000, 24, 475
OWN, GENERATED = "a graph of one's own", "generated"


def own_graph(folder: Path) -> dict[str, str]:
    """Write the files of an easy graph, and return the options that name them."""
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(NODES // CLASSES)
    chances = torch.full((CLASSES, CLASSES), 0.0005) + torch.eye(CLASSES) * 0.004
    edges = stochastic_blockmodel_graph([NODES // CLASSES] * CLASSES, chances.tolist())
    features = 0.5 * torch.randn(CLASSES, FEATURES)[labels] + torch.randn(NODES, FEATURES)
    known = torch.randperm(NODES)[:LABELLED].sort().values
    names = [f"f{number}" for number in range(FEATURES)]
    tables: dict[str, tuple[list[str], Any]] = {
        "edges": (["source", "target"], edges.t().tolist()),
        "features": (names, [[f"{value:.5f}" for value in row] for row in features.tolist()]),
        "labels": (["node", "label"], zip(known.tolist(), labels[known].tolist(), strict=True)),
    }
    for name, (header, rows) in tables.items():
        lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return {name: str(folder / f"{name}.csv") for name in tables}


def cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the options of a run on each graph."""
    own = {"dataset": "CustomLargeGraph", "num_nodes": NODES, **own_graph(folder)}
    git = Path(os.environ.get("DISTGNN_DATA", "."), "musae_git")
    users = {"edges": str(git / "git_edges.csv"), "labels": str(git / "git_target.csv"), "label_column": "ml_target"}
    generated = {"dataset": "CustomLargeGraph", "num_nodes": 2000, "num_edges": 10000}
    return {
        f"{GENERATED}: embeddings": {**generated, "use_dist_embedding": True, "embedding_dim": 64},
        f"{OWN}: features": own,
        f"{OWN}: both": {**own, "use_dist_embedding": True, "embedding_dim": 32},
        "Cora: features": {"dataset": "Cora"},
        "musae_git: embeddings": {
            "dataset": "CustomLargeGraph",
            **users,
            "use_dist_embedding": True,
            "embedding_dim": 64,
            "epochs": 50,
        },
        "Cora: both": {"dataset": "Cora", "use_dist_embedding": True, "embedding_dim": 64},
    }


class Plain(nn.Module):
    """A model of PyG's, with an embedding of nodes added to the features, or alone, as ours has it."""

    def __init__(self, kind: type[GIN | GCN], config: TrainConfig, dataset: LoadedDataset) -> None:
        super().__init__()
        width = dataset.num_features or config.embedding_dim or 0
        self.model = kind(width, config.hidden_channels, config.num_layers, dataset.num_classes, dropout=config.dropout)
        self.embedding: nn.Embedding | None = None
        self.map: nn.Module = nn.Identity()
        if config.use_dist_embedding:
            self.embedding = nn.Embedding(dataset.num_nodes, config.embedding_dim or width, sparse=True)
            nn.init.normal_(self.embedding.weight, std=0.01)
            if self.embedding.embedding_dim != width:
                self.map = nn.Linear(self.embedding.embedding_dim, width, bias=False)

    def forward(self, x: Tensor | None, edge_index: Tensor) -> Tensor:
        """Compute scores of all nodes."""
        if self.embedding is not None:
            rows = self.map(self.embedding(torch.arange(self.embedding.num_embeddings)))
            x = rows if x is None else x + rows
        out: Tensor = self.model(x, edge_index)
        return out


def accuracy(kind: type[GIN | GCN], config: TrainConfig, dataset: LoadedDataset, seed: int) -> float:
    """Train a model of PyG's; return its test accuracy at the epoch of best validation accuracy."""
    torch.manual_seed(seed)
    graph, model = dataset.graph, Plain(kind, config, dataset)
    table = [] if model.embedding is None else [model.embedding.weight]
    layers = [parameter for parameter in model.parameters() if all(parameter is not rows for rows in table)]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(layers, lr=config.lr or 0.0, weight_decay=config.weight_decay or 0.0)
    ]
    if table:
        optimizers.append(torch.optim.SparseAdam(table, lr=config.sparse_lr or 0.0))
    best = (-1.0, 0.0)
    for _ in range(config.epochs):
        model.train()
        model.zero_grad()
        loss = cross_entropy(model(graph.x, graph.edge_index)[graph.train_mask], graph.y[graph.train_mask])
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        model.eval()
        with torch.no_grad():
            hits = model(graph.x, graph.edge_index).argmax(dim=-1) == graph.y
        val, test = (float(hits[mask].float().mean()) for mask in (graph.val_mask, graph.test_mask))
        best = max(best, (val, test), key=lambda pair: pair[0])
    return best[1]


def measure(options: dict[str, Any], seeds: int, out: Path) -> dict[str, list[float]]:
    """Train everything on one graph; return the test accuracies of each seed."""

    def by_command(**more: Any) -> list[float]:
        config = TrainConfig(**options, **more, runs=seeds, out=str(out))
        return run.train(config, console=Console(quiet=True)).scores

    named = ("edges", "features", "labels", "label_column", "num_nodes", "num_edges")
    dataset = load_dataset(options["dataset"], **{name: options[name] for name in named if name in options})
    config = TrainConfig(**options).for_task("node")
    return {
        "distgnn train": by_command(),
        "before": by_command(**BEFORE),
        "PyG's GIN": [accuracy(GIN, config, dataset, seed) for seed in range(seeds)],
        "PyG's GCN": [accuracy(GCN, config, dataset, seed) for seed in range(seeds)],
    }


def show(results: dict[str, dict[str, list[float]]], console: Console) -> None:
    """Print mean and standard deviation of each."""
    table = Table("graph", *next(iter(results.values())))
    for name, found in results.items():
        cells = [f"{statistics.mean(each):.1%} ± {statistics.pstdev(each):.1%}" for each in found.values()]
        table.add_row(name, *cells)
    console.print(table)


def draw(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw a point a seed, and a line at the median."""
    figure, axes = plt.subplots(figsize=(11, 4.2), layout="constrained")
    kinds: Sequence[str] = list(next(iter(results.values())))
    for place, kind in enumerate(kinds):
        color = f"C{place}"
        for number, found in enumerate(results.values()):
            x = number + (place - (len(kinds) - 1) / 2) * 0.2
            axes.scatter(np.full(len(found[kind]), x), found[kind], s=10, color=color, alpha=0.7)
            axes.hlines(statistics.median(found[kind]), x - 0.08, x + 0.08, color=color)
        axes.scatter([], [], color=color, label=kind)
    axes.set_xticks(range(len(results)), [name.replace(": ", ":\n") for name in results])
    axes.set(ylabel="test accuracy (a point a seed, a line at the median)", ylim=(0, 1.02))
    axes.legend(ncols=len(kinds), loc="lower center", fontsize="small")
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Train all, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    path, console = arguments.out / "accuracy.json", Console()
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with TemporaryDirectory() as folder:
        for name, options in cases(Path(folder)).items():
            if name not in results:
                results[name] = measure(options, arguments.seeds, Path(folder))
                path.write_text(json.dumps(results, indent=1) + "\n")
                show(results, console)
    draw(results, arguments.out / "accuracy.png")


if __name__ == "__main__":
    main()
