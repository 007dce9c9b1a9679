"""Batches of nodes with all their neighbors, of which earlier batches have left the outputs of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.graph import batch_halo, neighbor_loader
from distgnn.train.evaluation import StoredEvaluation
from distgnn.train.steps import HELD_OUT, Step, Targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress
    from torch import Tensor

    from distgnn.nn import DistributedGNN
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.stored import StoredGraph
    from distgnn.train.tasks import Task


class Histories:
    """Every node is in one batch of an epoch, so that its rows are written; those with labels count for the loss.

    Args:
        config: The run's options.
        graph: The graph, with labels of nodes.
        session: The ranks.
        seed: Of the order.
        progress: Shows the steps of an epoch.
    """

    def __init__(
        self, config: TrainConfig, graph: StoredGraph, session: Session, seed: int, progress: Progress
    ) -> None:
        assert graph.labels is not None
        self._labels, self._session, self._progress = graph.labels, session, progress
        self._bound = config.staleness
        self._trained_on = torch.zeros(len(self._labels), dtype=torch.bool)
        self._trained_on[graph.targets["train"]] = True
        self._loader = neighbor_loader(
            (graph.features, graph.structure),
            [-1],
            batch_size=config.examples_a_batch,
            shuffle=True,
            edge_features=graph.edge_features,
            seed=seed,
            backend=session.backend,
        )
        held_out = {part: (graph.targets[part], self._labels[graph.targets[part]]) for part in HELD_OUT}
        self._evaluation = StoredEvaluation(graph, held_out, session, progress, refresh=True)

    def train(self, epoch: int, model: DistributedGNN, first: int = 0) -> Iterator[Step]:
        """Go through all nodes; when rows would be too old, those of all nodes are computed anew before."""
        self._loader.batch_sampler.set_epoch(epoch - 1, first)
        shown = self._progress.add_task(f"steps of epoch {epoch}", total=len(self._loader), completed=first)
        for batch in self._loader:
            batch.halo = batch_halo(batch, len(self._labels))
            if self._bound is not None and model.ages.exceed(self._bound, batch.halo):
                self._evaluation.infer(model).close()
            seeds = batch.n_id[: batch.batch_size]
            mine = self._trained_on[seeds].nonzero().flatten()
            (count,) = self._session.sum([mine.numel()])
            yield Step(batch, Targets(mine, self._labels[seeds[mine]], max(1, int(count))))
            self._progress.advance(shown)
        self._progress.remove_task(shown)

    def training_labels(self) -> Tensor:
        """Return the labels of every W-th node."""
        return self._labels[self._trained_on][self._session.rank :: self._session.world_size]

    def evaluate(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Compute the outputs of all nodes; afterwards the histories are as new."""
        return self._evaluation(model, task)
