"""Mini-batches of sampled neighborhoods, from a graph in stores."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from distgnn.graph import link_neighbor_loader, neighbor_loader
from distgnn.train.evaluation import StoredEvaluation
from distgnn.train.links import draw_negatives, with_negatives
from distgnn.train.steps import HELD_OUT, Step, Targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress
    from torch import Tensor
    from torch_geometric.data import Data
    from torch_geometric.loader import LinkLoader, NodeLoader

    from distgnn.nn import DistributedGNN
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.stored import StoredGraph
    from distgnn.train.tasks import Task


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
        self._graph = graph
        self._seed, self._progress = config.seed, progress
        self._rank, self._world_size = session.rank, session.world_size
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
        held_out = {part: self._labelled(part, 0) for part in HELD_OUT}
        self._evaluation = StoredEvaluation(graph, held_out, session, progress)

    def train(self, epoch: int, model: DistributedGNN, first: int = 0) -> Iterator[Step]:
        """Sample batches; their order, and negative pairs, are others in each epoch."""
        del model
        ids, labels = self._labelled("train", epoch)
        loader = self._loader(ids, labels)
        loader.batch_sampler.set_epoch(epoch - 1, first)
        steps = min(len(loader), self._limit or len(loader))
        shown = self._progress.add_task(f"steps of epoch {epoch}", total=steps, completed=first)
        for number, batch in enumerate(islice(loader, steps - first), first):
            yield Step(batch, self._targets(batch, min(self._batch_size, len(labels) - number * self._batch_size)))
            self._progress.advance(shown)
        self._progress.remove_task(shown)

    def training_labels(self) -> Tensor:
        """Return the labels of every W-th node or edge."""
        _, labels = self._labelled("train", 0)
        return labels[self._rank :: self._world_size]

    def evaluate(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Compute the outputs of all nodes, with all their neighbors."""
        return self._evaluation(model, task)

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
