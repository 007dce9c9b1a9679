"""Test accuracy of GIN on Cora over seeds: with PyG's own layers and model, with ours, and with a learned embedding.

All three train side by side on the same splits and seeds, with the same sizes and optimizers. Needs Cora's files
(DISTGNN_DATA) or the internet. Writes accuracy.json and accuracy.png into --out.
"""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib as mpl
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy
from torch_geometric.data import Data
from torch_geometric.nn import GIN

import distgnn
from distgnn.data import load_dataset
from distgnn.nn import DistributedGIN
from distgnn.optim import SparseAdam

mpl.use("Agg")
from matplotlib import pyplot as plt

HIDDEN, LAYERS, DROPOUT, LR, WEIGHT_DECAY, EPOCHS = 64, 2, 0.5, 0.01, 5e-4, 100
EMBEDDING_DIM, SPARSE_LR = 64, 0.001
VARIANTS = ("PyG GIN", "DistributedGIN", "DistributedGIN with embedding")


def make(variant: str, graph: Data, num_classes: int) -> torch.nn.Module:
    """Make one of the three models."""
    if variant == "PyG GIN":
        pygs: torch.nn.Module = GIN(graph.num_features, HIDDEN, LAYERS, num_classes, dropout=DROPOUT)
        return pygs
    model = DistributedGIN(
        graph.num_features,
        HIDDEN,
        num_layers=LAYERS,
        out_channels=num_classes,
        dropout=DROPOUT,
        use_dist_embedding=variant.endswith("embedding"),
        embedding_dim=EMBEDDING_DIM,
    )
    if model.node_features is not None:
        model.set_num_embeddings(num_nodes=graph.num_nodes)
    return model


def accuracy(variant: str, graph: Data, num_classes: int, seed: int) -> float:
    """Train one model; return its test accuracy at the epoch of best validation accuracy."""
    torch.manual_seed(seed)
    model = make(variant, graph, num_classes)
    dense = torch.optim.Adam(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    sparse = SparseAdam(model, lr=SPARSE_LR) if variant.endswith("embedding") else None
    best = (-1.0, 0.0)
    for _ in range(EPOCHS):
        model.train()
        dense.zero_grad()
        scores = model(graph.x, graph.edge_index)
        loss = cross_entropy(scores[graph.train_mask], graph.y[graph.train_mask])
        loss.backward()  # type: ignore[no-untyped-call]
        dense.step()
        if sparse is not None:
            sparse.step()
        model.eval()
        with torch.no_grad():
            hits = model(graph.x, graph.edge_index).argmax(dim=-1) == graph.y
        val, test = (float(hits[mask].float().mean()) for mask in (graph.val_mask, graph.test_mask))
        best = max(best, (val, test), key=lambda pair: pair[0])
    return best[1]


def draw(results: dict[str, list[float]], path: Path) -> None:
    """Draw a box a model."""
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    labels = [label.replace(" with ", "\nwith ") for label in results]
    axes.boxplot(list(results.values()), tick_labels=labels, showmeans=True)
    axes.set_ylabel("test accuracy (triangle: mean)")
    axes.set_title(f"GIN on Cora, standard split, {len(results[VARIANTS[0]])} seeds")
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train all, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    dataset = load_dataset("Cora")
    results: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for seed in track(range(arguments.seeds), description="seeds"):
        for variant in VARIANTS:
            with distgnn.use("memory"):
                results[variant].append(accuracy(variant, dataset.graph, dataset.num_classes, seed))

    table = Table("model", "test accuracy", title=f"Cora, {arguments.seeds} seeds, {EPOCHS} epochs")
    for variant, values in results.items():
        table.add_row(variant, f"{statistics.mean(values):.2%} ± {statistics.pstdev(values):.2%}")
    Console().print(table)
    (arguments.out / "accuracy.json").write_text(json.dumps(results, indent=2) + "\n")

    draw(results, arguments.out / "accuracy.png")


if __name__ == "__main__":
    main()
