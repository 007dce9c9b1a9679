"""One trial: a model trained on one split of a data set, epoch by epoch."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch_geometric.data import Batch

from distgnn.errors import ConfigError
from distgnn.nn import DistributedGIN, DistributedGINE
from distgnn.optim import SparseAdagrad, SparseAdam, SparseRowWiseAdagrad, SparseSGD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.nn import Module
    from torch_geometric.data import Data

    from distgnn.data import LoadedDataset
    from distgnn.optim import SparseOptimizer
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session

_SPARSE: dict[str, Callable[..., SparseOptimizer]] = {
    "sgd": SparseSGD,
    "adagrad": SparseAdagrad,
    "rowwise-adagrad": SparseRowWiseAdagrad,
    "adam": SparseAdam,
}
_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; a line of ``metrics.jsonl``.

    Args:
        trial: Number of the trial, from 0.
        epoch: Number of the epoch, from 1.
        loss: Mean training loss (cross entropy, nats).
        train: Training accuracy during the epoch, in [0, 1].
        val: Validation accuracy after it; None where the protocol has no validation set.
        test: Test accuracy after it.
        rows_per_second: Node rows that training went through, a second.
        seconds: Length of the epoch, evaluation included.
    """

    trial: int
    epoch: int
    loss: float
    train: float
    val: float | None
    test: float
    rows_per_second: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def make_model(config: TrainConfig, dataset: LoadedDataset) -> DistributedGIN:
    """Make the model that ``config`` asks for, sized to the data set.

    Raises:
        ConfigError: The data set lacks features that the model needs.
    """
    in_channels = dataset.num_features or config.embedding_dim
    if in_channels is None or not (dataset.num_features or config.use_dist_embedding):
        raise ConfigError(
            f"data set {dataset.name!r} has no node features: learn them with use_dist_embedding and an embedding_dim"
        )
    graph_task = dataset.task == "graph"
    norm = config.norm or ("batch_norm" if graph_task else "none")
    options: dict[str, Any] = {
        "dropout": config.dropout,
        "norm": None if norm == "none" else norm,
        "readout": "layer_sum" if graph_task else "sum",
        "use_dist_embedding": config.use_dist_embedding,
        "embedding_dim": config.embedding_dim,
        "embedding_name": "node_embedding",
        "use_dist_tensor": config.use_dist_tensor or config.mode == "full",
    }
    sizes = (in_channels, config.hidden_channels, dataset.num_classes, config.num_layers)
    if config.model == "gin":
        model = DistributedGIN(*sizes, **options)
    else:
        edge_dim = dataset.edge_dim or config.edge_embedding_dim
        if edge_dim is None or not (dataset.edge_dim or config.use_dist_edge_embedding):
            raise ConfigError(
                f"data set {dataset.name!r} has no edge features: use model 'gin', or learn them with "
                "use_dist_edge_embedding and an edge_embedding_dim"
            )
        model = DistributedGINE(
            *sizes,
            edge_dim=edge_dim,
            use_dist_edge_embedding=config.use_dist_edge_embedding,
            edge_embedding_dim=config.edge_embedding_dim,
            edge_embedding_name="edge_embedding",
            **options,
        )
    model.set_num_embeddings(
        num_nodes=dataset.num_nodes if config.use_dist_embedding or config.use_dist_tensor else None,
        num_edges=dataset.num_edges if config.use_dist_edge_embedding else None,
    )
    return model


class Trial:
    """A model, its optimizers and its split; iterating it trains an epoch at a time.

    Args:
        config: The run's options.
        dataset: The data; with ``mode="full"`` what :func:`distgnn.train.part.own_part` made of it.
        session: The ranks that train together.
        seed: Seed of this trial.
        split: On a graph data set, positions of the graphs of ``"train"``, ``"test"`` and perhaps ``"val"``. A node
            data set has its split in its masks.
        number: Number of the trial in the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: LoadedDataset,
        session: Session,
        seed: int,
        *,
        split: Mapping[str, Sequence[int]] | None = None,
        number: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.number = number
        self.model = make_model(config, dataset)
        self._session = session
        self._epochs = config.epochs
        self._data = _steps(config, dataset, session, split, seed)
        # Where ranks have different rows they normalize over all of them.
        self._wrapped = session.wrap(self.model, sync_batch_norm=split is not None or config.mode == "full")
        weight_decay = config.weight_decay if config.weight_decay is not None else 0.0 if split else 5e-4
        self._dense = torch.optim.Adam(self.model.parameters(), lr=config.lr, weight_decay=weight_decay)
        # The paper halves the rate every 50 epochs; a node data set, one batch an epoch, keeps it.
        self._schedule = torch.optim.lr_scheduler.StepLR(self._dense, 50, 0.5 if split else 1.0)
        self._sparse: SparseOptimizer | None = None
        if config.use_dist_embedding or config.use_dist_edge_embedding:
            self._sparse = _SPARSE[config.sparse_optimizer](self.model, lr=config.sparse_lr)

    def __iter__(self) -> Iterator[Epoch]:
        """Train, and yield what each epoch measured."""
        for epoch in range(1, self._epochs + 1):
            begin = time.perf_counter()
            loss, train, rows = self._train_epoch()
            trained = time.perf_counter()
            accuracy = self._evaluate()
            self._schedule.step()
            end = time.perf_counter()
            yield Epoch(
                self.number,
                epoch,
                loss,
                train,
                accuracy.get("val"),
                accuracy["test"],
                rows / (trained - begin),
                end - begin,
            )

    def close(self) -> None:
        """Close the trial's stores."""
        self.model.close()

    def _train_epoch(self) -> tuple[float, float, float]:
        self.model.train()
        losses = hits = targets = rows = 0.0
        for step in self._data.steps("train"):
            self._dense.zero_grad()
            scores, labels = self._scores(self._wrapped, step.data)[step.mine], step.data.y[step.mine]
            # Ranks sum their gradients, so each takes its part of the mean over the whole batch.
            loss = cross_entropy(scores, labels, reduction="sum") / step.targets
            loss.backward()  # type: ignore[no-untyped-call]
            self._dense.step()
            if self._sparse is not None:
                self._sparse.step()
            losses += float(loss.detach()) * step.targets
            hits += int((scores.argmax(dim=-1) == labels).sum())
            targets += labels.numel()
            rows += step.rows
        losses, hits, targets, rows = self._session.sum([losses, hits, targets, rows])
        return losses / targets, hits / targets, rows

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        self.model.eval()
        accuracies = {}
        for part in self._data.parts:
            hits = targets = 0.0
            for step in self._data.steps(part):
                right = self._scores(self.model, step.data).argmax(dim=-1) == step.data.y
                hits += int(right[step.mine].sum())
                targets += right[step.mine].numel()
            hits, targets = self._session.sum([hits, targets])
            accuracies[part] = hits / targets
        return accuracies

    @staticmethod
    def _scores(model: Module, data: Data) -> Tensor:
        scores: Tensor = model(
            data.x,
            data.edge_index,
            data.edge_attr,
            node_ids=data.get("n_id"),
            edge_ids=data.get("e_id"),
            batch=data.batch,
            batch_size=None if data.batch is None else data.num_graphs,
            halo=data.get("halo"),
        )
        return scores


@dataclass(frozen=True)
class _Step:
    """A rank's part of a batch.

    Args:
        data: What the model is given.
        mine: Which of its outputs this rank answers for: a slice or positions.
        targets: Number of labels in the whole batch, over all ranks.
        rows: Number of nodes that the model computes outputs of, here.
    """

    data: Data
    mine: Tensor | slice
    targets: int
    rows: int


class _Graphs:
    """Batches of graphs with a label each; the graphs of a batch are dealt out to the ranks."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: LoadedDataset,
        session: Session,
        split: Mapping[str, Sequence[int]],
        seed: int,
    ) -> None:
        self._graphs = dataset.graphs
        self._session = session
        self._split = split
        self._batch_size = config.batch_size
        self._order = torch.Generator().manual_seed(seed)
        self.parts = [part for part in ("val", "test") if part in split]

    def steps(self, part: str) -> Iterator[_Step]:
        """Yield this rank's part of every batch, also where it is empty: all ranks make the same number of steps."""
        positions = torch.tensor(self._split[part])
        if part == "train":
            positions = positions[torch.randperm(len(positions), generator=self._order)]
        for batch in torch.split(positions, self._batch_size if part == "train" else _EVALUATION_BATCH):
            mine = batch[self._session.rank :: self._session.world_size].tolist()
            graphs = [self._graphs[position] for position in mine] or [self._empty()]
            data = Batch.from_data_list(graphs)
            yield _Step(data, slice(len(mine)), len(batch), data.num_nodes)

    def _empty(self) -> Data:
        return self._graphs[0].subgraph(torch.empty(0, dtype=torch.int64))


class _Nodes:
    """One graph with a label a node. Every rank computes all of it and answers for its part of the labels."""

    parts = ("val", "test")

    def __init__(self, dataset: LoadedDataset, session: Session) -> None:
        self._graph = dataset.graph
        self._session = session
        if self._graph.y is None:
            raise ConfigError(f"data set {dataset.name!r} has no labels to train on: give a label file")

    def steps(self, part: str) -> Iterator[_Step]:
        """Yield the graph once."""
        nodes = self._graph[f"{part}_mask"].nonzero().flatten()
        mine = nodes[self._session.rank :: self._session.world_size]
        yield _Step(self._graph, mine, len(nodes), self._graph.num_nodes)


class _Part:
    """This rank's part of one graph, with a label a node. It answers for the labels of its own nodes."""

    parts = ("val", "test")

    def __init__(self, dataset: LoadedDataset, session: Session) -> None:
        self._part = dataset.graph
        self._mine = {part: self._part[f"{part}_mask"].nonzero().flatten() for part in ("train", *self.parts)}
        counts = session.sum([len(nodes) for nodes in self._mine.values()])
        self._targets = dict(zip(self._mine, map(int, counts), strict=True))

    def steps(self, part: str) -> Iterator[_Step]:
        """Yield the part once."""
        yield _Step(self._part, self._mine[part], self._targets[part], self._part.halo.own.numel())


def _steps(
    config: TrainConfig,
    dataset: LoadedDataset,
    session: Session,
    split: Mapping[str, Sequence[int]] | None,
    seed: int,
) -> _Graphs | _Nodes | _Part:
    if split:
        return _Graphs(config, dataset, session, split, seed)
    return _Part(dataset, session) if config.mode == "full" else _Nodes(dataset, session)
