"""Batches of small graphs with a label each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch_geometric.data import Batch

from distgnn.train.steps import HELD_OUT, Step, Targets, outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from torch_geometric.data import Data

    from distgnn.data import LoadedDataset
    from distgnn.nn import DistributedGIN
    from distgnn.train.session import Session
    from distgnn.train.tasks import Task

_EVALUATION_BATCH = 512


class Graphs:
    """The graphs of a batch are dealt out to the ranks.

    Args:
        dataset: The graphs.
        session: The ranks.
        split: Positions of the graphs of ``"train"``, ``"test"`` and perhaps ``"val"``.
        batch_size: Graphs a batch of training.
        seed: Of the order.
    """

    def __init__(
        self,
        dataset: LoadedDataset,
        session: Session,
        split: Mapping[str, Sequence[int]],
        batch_size: int,
        seed: int,
    ) -> None:
        self._graphs = dataset.graphs
        self._session = session
        self._split = split
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        self._epoch = 0
        self._held_out = tuple(part for part in HELD_OUT if part in split)

    def train(self, epoch: int, model: DistributedGIN) -> Iterator[Step]:
        """Yield batches in another order in each epoch."""
        del model
        positions = torch.tensor(self._split["train"])
        for _ in range(self._epoch, epoch):  # several, where a job goes on from a checkpoint
            order = torch.randperm(len(positions), generator=self._order)
        self._epoch = epoch
        return self._steps(positions[order], self._batch_size)

    def evaluate(self, model: DistributedGIN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Go through the held-out graphs."""
        for part in self._held_out:
            for step in self._steps(torch.tensor(self._split[part]), _EVALUATION_BATCH):
                yield part, step.targets.scores(task, outputs(model, step.data)), step.targets.labels

    def _steps(self, positions: Tensor, batch_size: int) -> Iterator[Step]:
        for batch in torch.split(positions, batch_size):
            mine = batch[self._session.rank :: self._session.world_size].tolist()
            data = Batch.from_data_list([self._graphs[position] for position in mine] or [self._empty()])
            targets = Targets(torch.arange(len(mine)), data.y[: len(mine)], len(batch))
            yield Step(data, targets)

    def _empty(self) -> Data:
        return self._graphs[0].subgraph(torch.empty(0, dtype=torch.int64))
