"""An epoch of training end to end, beside a plain PyG script of the same model and data.

Ours is the loop of ``distgnn train`` with its defaults: the batches, the model, the optimizers, and the evaluation of
validation and test set after each epoch. The script is what a PyG user would write to do the same: PyG's DataLoader,
layers, and for node embeddings ``torch.nn.Embedding(sparse=True)`` with SparseAdam.

- MUTAG, batches of 32 graphs: overhead is all there is.
- Cora, all nodes in one batch, with an embedding of 64 columns mapped to the features' width.

Data sets are looked for as ``distgnn train`` does (DISTGNN_DATA); one that is not there is left out with a word why.
Writes endtoend.json and endtoend.png into --out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import harness
import torch
from torch.nn import BatchNorm1d, Dropout, Embedding, Linear, Module, ModuleList
from torch.nn.functional import cross_entropy
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GIN, MLP, GINConv, global_add_pool

import distgnn
from distgnn.data import load_dataset
from distgnn.errors import DataError
from distgnn.train.config import TrainConfig
from distgnn.train.session import Session
from distgnn.train.source import Source
from distgnn.train.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from torch_geometric.data import Data

    from distgnn.data import LoadedDataset

EMBEDDING_DIM = 64
LAYERS, LR, SPARSE_LR = 3, 0.01, 0.001
DEFAULT = TrainConfig(num_layers=LAYERS, lr=LR, sparse_lr=SPARSE_LR)


class GraphNet(Module):
    """The GIN paper's network for graphs, in PyG's modules: every layer is summed over the graph and classified."""

    def __init__(self, dataset: LoadedDataset) -> None:
        super().__init__()
        hidden, layers = DEFAULT.hidden_channels, LAYERS
        widths = [dataset.num_features] + [hidden] * layers
        self.convs = ModuleList(GINConv(MLP([width, hidden, hidden], norm="batch_norm")) for width in widths[:-1])
        self.norms = ModuleList(BatchNorm1d(hidden) for _ in range(layers))
        self.heads = ModuleList(Linear(width, dataset.num_classes) for width in widths)
        self.dropout = Dropout(DEFAULT.dropout)

    def forward(self, data: Any) -> Tensor:
        """Return the scores of the graphs of a batch."""
        h, (head, *heads) = data.x, self.heads
        out: Tensor = self.dropout(head(global_add_pool(h, data.batch, data.num_graphs)))
        for conv, norm, head in zip(self.convs, self.norms, heads, strict=True):
            h = self.dropout(norm(conv(h, data.edge_index)).relu())
            out = out + self.dropout(head(global_add_pool(h, data.batch, data.num_graphs)))
        return out


class NodeNet(Module):
    """PyG's GIN over features and a sparse embedding."""

    def __init__(self, dataset: LoadedDataset) -> None:
        super().__init__()
        self.embedding = Embedding(dataset.num_nodes, EMBEDDING_DIM, sparse=True)
        self.lin = Linear(EMBEDDING_DIM, dataset.num_features, bias=False)
        sizes = (dataset.num_features, DEFAULT.hidden_channels, LAYERS, dataset.num_classes)
        self.gin = GIN(*sizes, dropout=DEFAULT.dropout)

    def forward(self, data: Data, nodes: Tensor) -> Tensor:
        """Return the scores of all nodes."""
        scores: Tensor = self.gin(data.x + self.lin(self.embedding(nodes)), data.edge_index)
        return scores


def split_of(count: int) -> dict[str, list[int]]:
    """Hold a tenth of the graphs out to validate, and a tenth to test."""
    order, tenth = torch.randperm(count).tolist(), count // 10
    return {"train": order[2 * tenth :], "val": order[:tenth], "test": order[tenth : 2 * tenth]}


def plain_graphs(dataset: LoadedDataset, split: Mapping[str, Sequence[int]]) -> tuple[harness.Step, Module]:
    """Return an epoch of the script on graphs, and its model."""
    graphs = [graph.clone() for graph in dataset.graphs]
    for graph in graphs:
        del graph.n_id, graph.e_id  # a plain script has no use for them
    sets = {name: [graphs[position] for position in positions] for name, positions in split.items()}
    train = DataLoader(sets.pop("train"), batch_size=DEFAULT.examples_a_batch, shuffle=True)
    held_out = [DataLoader(graphs, batch_size=512) for graphs in sets.values()]
    model = GraphNet(dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 50, 0.5)

    def epoch() -> list[float]:
        model.train()
        losses = hits = 0.0
        for data in train:
            optimizer.zero_grad()
            scores = model(data)
            loss = cross_entropy(scores, data.y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += float(loss.detach()) * data.num_graphs
            hits += int((scores.argmax(dim=-1) == data.y).sum())
        schedule.step()
        model.eval()
        with torch.no_grad():
            found = [sum(int((model(data).argmax(dim=-1) == data.y).sum()) for data in loader) for loader in held_out]
        return [losses, hits, *found]

    return epoch, model


def plain_nodes(dataset: LoadedDataset, split: object) -> tuple[harness.Step, Module]:
    """Return an epoch of the script on nodes, and its model; the graph has its split in itself."""
    del split
    data, model = dataset.graph, NodeNet(dataset)
    dense = [*model.lin.parameters(), *model.gin.parameters()]
    optimizers = [
        torch.optim.Adam(dense, lr=LR, weight_decay=5e-4),
        torch.optim.SparseAdam(model.embedding.parameters(), lr=SPARSE_LR),
    ]
    nodes = torch.arange(dataset.num_nodes)

    def accuracy(scores: Tensor, mask: Tensor) -> float:
        return float((scores[mask].argmax(dim=-1) == data.y[mask]).float().mean())

    def epoch() -> list[float]:
        model.train()
        for optimizer in optimizers:
            optimizer.zero_grad()
        scores = model(data, nodes)
        loss = cross_entropy(scores[data.train_mask], data.y[data.train_mask])
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        found = [float(loss.detach()), accuracy(scores, data.train_mask)]
        model.eval()
        with torch.no_grad():
            scores = model(data, nodes)
            return [*found, accuracy(scores, data.val_mask), accuracy(scores, data.test_mask)]

    return epoch, model


def cases(config: TrainConfig, plain: Callable[..., tuple[harness.Step, Module]]) -> dict[str, harness.Step]:
    """Return an epoch of the script, and one of our trainer, on one split."""
    dataset = load_dataset(config.dataset)
    split = split_of(len(dataset.graphs)) if dataset.task == "graph" else None
    peer, peers_model = plain(dataset, split)
    trial = Trial(config, Source(config, dataset, Session(distgnn.get_backend())), config.seed, split=split)
    numbers = sum(parameter.numel() for parameter in trial.model.parameters())
    if config.use_dist_embedding:
        numbers += dataset.num_nodes * EMBEDDING_DIM
    assert numbers == sum(parameter.numel() for parameter in peers_model.parameters())
    epochs = trial.train()
    return {"plain PyG": peer, "distgnn": lambda: next(epochs)}


def main() -> None:
    """Measure both data sets."""
    arguments = harness.begin(harness.options(__doc__, rounds=30))
    endless = 10**9
    jobs = {
        "MUTAG, batches of 32": (replace(DEFAULT, dataset="MUTAG", epochs=endless), plain_graphs, 1.0),
        "Cora, with node embeddings": (
            replace(DEFAULT, dataset="Cora", epochs=endless, use_dist_embedding=True, embedding_dim=EMBEDDING_DIM),
            plain_nodes,
            1.3,
        ),
    }
    groups, asked = {}, []
    for name, (config, plain, least) in jobs.items():
        try:
            with distgnn.use("memory"):
                groups[name] = harness.measure(cases(config, plain), arguments.rounds)
        except DataError as error:
            harness.console.print(f"{name} is left out: {error}")
            continue
        asked += harness.line(f"epoch, {name}", "a plain PyG script", least, {"": groups[name]}, "distgnn", "plain PyG")
    if groups:
        harness.report(
            "endtoend", groups, "An epoch, evaluation included: times a PyG script's speed", arguments.out, asked
        )


if __name__ == "__main__":
    main()
