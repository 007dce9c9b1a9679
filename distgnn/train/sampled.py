"""Mini-batches of sampled neighborhoods, from a graph in stores."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from distgnn.graph import link_neighbor_loader, neighbor_loader, open_in_degrees
from distgnn.nn.stored import default_name
from distgnn.specs import GraphSpec, PartitionBook, TensorSpec
from distgnn.train.links import draw_negatives, split_edges, with_negatives
from distgnn.train.nodes import MASKS, check_labels
from distgnn.train.steps import HELD_OUT, Step, Targets, check_sets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from rich.progress import Progress
    from torch import Tensor
    from torch_geometric.data import Data
    from torch_geometric.loader import LinkLoader, NodeLoader

    from distgnn.data import LoadedDataset
    from distgnn.nn import DistributedGIN
    from distgnn.protocols import GraphStore, TensorStore
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.tasks import Task

_INFERENCE_BATCH = 8192
_PIECE = 2**16  # targets of a rank whose outputs are read at a time


@dataclass(frozen=True, eq=False)
class StoredGraph:
    """A graph in stores, and what to learn about it.

    Args:
        structure: Its edges; for link prediction, those to train on.
        features: Of the nodes.
        edge_features: Of these edges.
        in_degrees: Of the nodes, where samples are to be weighed.
        targets: Nodes ``[K]``, or edges ``[2, K]`` by their ends, of each set; all of them on every rank.
        labels: ``[N]``, of the nodes; None for links.
        edge_ids: ``[K]``, the ids of the edges in ``targets``; empty for nodes.
    """

    structure: GraphStore
    features: TensorStore | None
    edge_features: TensorStore | None
    in_degrees: TensorStore | None
    targets: dict[str, Tensor]
    labels: Tensor | None
    edge_ids: dict[str, Tensor]


def store_graph(config: TrainConfig, dataset: LoadedDataset, session: Session, at_the_end: ExitStack) -> StoredGraph:
    """Put a data set of one graph into stores; collective. The data set may be let go afterwards.

    Args:
        config: The run's options.
        dataset: The same on every rank.
        session: The ranks.
        at_the_end: Closes them.

    Raises:
        ConfigError: There is nothing to train on.
    """
    graph, backend = dataset.graph, session.backend
    edge_index, edge_attr, labels, edge_ids = graph.edge_index, graph.edge_attr, None, {}
    if dataset.task == "link":
        edge_ids = split_edges(edge_index, dataset.num_nodes, config.seed)
        targets = {part: edge_index[:, edges] for part, edges in edge_ids.items()}
        edge_index = targets["train"]
        edge_attr = None if edge_attr is None else edge_attr[edge_ids["train"]]
    else:
        check_labels(graph, f"data set {dataset.name!r}")
        labels = graph.y
        targets = {part: graph[mask].nonzero().flatten() for part, mask in MASKS.items()}
    what = "nodes" if labels is not None else "edges"
    check_sets({part: ids.size(-1) for part, ids in targets.items()}, f"{what} of data set {dataset.name!r}")

    def stored(name: str, rows: Tensor | None) -> TensorStore | None:
        if rows is None:
            return None
        store = backend.open_tensor(TensorSpec(default_name(name), tuple(rows.shape), rows.dtype))
        at_the_end.callback(store.close)
        own = slice(*PartitionBook.even(len(rows), session.world_size).bounds[session.rank : session.rank + 2])
        store.write(torch.arange(own.start, own.stop), rows[own])
        return store

    spec = GraphSpec(default_name("graph"), dataset.num_nodes, edge_index.size(1))
    structure = backend.open_graph(spec, edge_index)
    at_the_end.callback(structure.close)
    in_degrees = open_in_degrees(structure, backend=backend) if config.rescale else None
    if in_degrees is not None:
        at_the_end.callback(in_degrees.close)
    features = stored("x", graph.x)
    return StoredGraph(structure, features, stored("edge_attr", edge_attr), in_degrees, targets, labels, edge_ids)


class Sampled:
    """Batches of nodes or edges with their sampled neighborhoods; evaluation is over all neighbors, layer by layer.

    Args:
        config: The run's options.
        graph: The graph.
        session: The ranks.
        seed: Of order and samples.
        progress: Shows the steps of an epoch.
    """

    def __init__(
        self,
        config: TrainConfig,
        graph: StoredGraph,
        session: Session,
        seed: int,
        progress: Progress,
    ) -> None:
        self._graph, self._session = graph, session
        self._seed, self._progress = config.seed, progress
        self._limit = config.steps_per_epoch
        self._batch_size = config.examples_a_batch * (1 if graph.labels is not None else 2)  # an edge has a negative
        self._options: dict[str, Any] = {
            "num_neighbors": config.fanouts,
            "batch_size": self._batch_size,
            "shuffle": True,
            "in_degrees": graph.in_degrees,
            "edge_features": graph.edge_features,
            "seed": seed,
            "backend": session.backend,
        }
        self._held_out = {part: self._labelled(part, 0) for part in HELD_OUT}

    def train(self, epoch: int) -> Iterator[Step]:
        """Sample batches; their order, and negative pairs, are others in each epoch."""
        ids, labels = self._labelled("train", epoch)
        loader = self._loader(ids, labels)
        loader.batch_sampler.set_epoch(epoch - 1)
        steps = min(len(loader), self._limit or len(loader))
        task = self._progress.add_task(f"steps of epoch {epoch}", total=steps)
        for number, batch in enumerate(islice(loader, steps)):
            yield Step(batch, self._targets(batch, min(self._batch_size, len(labels) - number * self._batch_size)))
            self._progress.advance(task)
        self._progress.remove_task(task)

    @torch.no_grad()
    def evaluate(self, model: DistributedGIN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Compute the outputs of all nodes, with all their neighbors."""
        graph, (rank, world_size) = self._graph, (self._session.rank, self._session.world_size)
        with closing(
            model.inference(
                graph.structure,
                graph.features,
                edge_features=graph.edge_features,
                batch_size=_INFERENCE_BATCH,
                backend=self._session.backend,
                progress=self._progress,
            )
        ) as outputs:
            for part, (ids, labels) in self._held_out.items():
                # Ranks read outputs together, so each takes its share of every piece.
                for start in range(0, len(labels), _PIECE * world_size):
                    mine = slice(start + rank, min(start + _PIECE * world_size, len(labels)), world_size)
                    yield part, task.scores(outputs.read, ids[..., mine]), labels[mine]

    def _labelled(self, part: str, epoch: int) -> tuple[Tensor, Tensor]:
        """Return the targets of a set with their labels, for links with new negative pairs."""
        graph = self._graph
        ids = graph.targets[part]
        if graph.labels is not None:
            return ids, graph.labels[ids]
        return with_negatives(ids, draw_negatives(graph.edge_ids[part], graph.structure.num_nodes, self._seed, epoch))

    def _loader(self, ids: Tensor, labels: Tensor) -> NodeLoader | LinkLoader:
        data = (self._graph.features, self._graph.structure)
        if self._graph.labels is not None:
            return neighbor_loader(data, input_nodes=ids, **self._options)
        return link_neighbor_loader(data, edge_label_index=ids, edge_label=labels, **self._options)

    def _targets(self, batch: Data, count: int) -> Targets:
        if self._graph.labels is None:
            return Targets(batch.edge_label_index, batch.edge_label, count)
        return Targets(torch.arange(batch.batch_size), self._graph.labels[batch.n_id[: batch.batch_size]], count)
