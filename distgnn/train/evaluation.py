"""How good a model is on a graph in stores, with all neighbors of all nodes."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.progress import Progress
    from torch import Tensor

    from distgnn.nn import DistributedGNN
    from distgnn.storage.protocols import TensorStore
    from distgnn.train.session import Session
    from distgnn.train.stored import StoredGraph
    from distgnn.train.tasks import Task

_INFERENCE_BATCH = 8192
_PIECE = 2**16  # targets of a rank whose outputs are read at a time


class StoredEvaluation:
    """Computes the outputs of all nodes layer by layer, and compares those of the held-out targets.

    Args:
        graph: The graph.
        held_out: Targets and labels of each set, all of them on every rank.
        session: The ranks.
        progress: Where it is shown.
        refresh: Leave the layers' outputs in the model's own stores.
    """

    def __init__(
        self,
        graph: StoredGraph,
        held_out: Mapping[str, tuple[Tensor, Tensor]],
        session: Session,
        progress: Progress,
        *,
        refresh: bool = False,
    ) -> None:
        self._graph, self._held_out = graph, held_out
        self._session, self._progress, self._refresh = session, progress, refresh

    @torch.no_grad()
    def __call__(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of a set, and scores and labels of this rank's part of it, piece by piece."""
        rank, world_size = self._session.rank, self._session.world_size
        with closing(self.infer(model)) as outputs:
            for part, (ids, labels) in self._held_out.items():
                # Ranks read outputs together, so each takes its share of every piece.
                for start in range(0, len(labels), _PIECE * world_size):
                    mine = slice(start + rank, min(start + _PIECE * world_size, len(labels)), world_size)
                    yield part, task.scores(outputs.read, ids[..., mine]), labels[mine]

    def infer(self, model: DistributedGNN) -> TensorStore:
        """Compute the outputs of all nodes; close them when they are done with."""
        return model.inference(
            self._graph.structure,
            self._graph.features,
            edge_features=self._graph.edge_features,
            batch_size=_INFERENCE_BATCH,
            backend=self._session.backend,
            progress=self._progress,
            refresh=self._refresh,
        )
