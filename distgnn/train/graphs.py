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
    from distgnn.nn import DistributedGNN
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
        self._graphs = Joined(dataset.graphs)
        self._session = session
        self._split = split
        self._batch_size = batch_size
        self._order = torch.Generator().manual_seed(seed)
        self._epoch = 0
        self._held_out = tuple(part for part in HELD_OUT if part in split)

    def train(self, epoch: int, model: DistributedGNN, first: int = 0) -> Iterator[Step]:
        """Yield batches in another order in each epoch."""
        del model
        positions = torch.tensor(self._split["train"])
        for _ in range(self._epoch, epoch):  # several, where a job goes on from a checkpoint
            order = torch.randperm(len(positions), generator=self._order)
        self._epoch = epoch
        return self._steps(self._batches(positions[order])[first:])

    def training_labels(self) -> Tensor:
        """Return the labels of every W-th graph."""
        mine = self._split["train"][self._session.rank :: self._session.world_size]
        labels: Tensor = self._graphs.take(torch.tensor(mine, dtype=torch.int64)).y
        return labels

    def evaluate(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Go through the held-out graphs."""
        for part in self._held_out:
            for step in self._steps(torch.split(torch.tensor(self._split[part]), _EVALUATION_BATCH)):
                yield part, step.targets.scores(task, outputs(model, step.data)), step.targets.labels

    def _batches(self, positions: Tensor) -> list[Tensor]:
        """Split graphs into batches; a last one of a single node, which has no variance, joins the one before."""
        batches = list(torch.split(positions, self._batch_size))
        if len(batches) > 1 and self._graphs.num_nodes(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _steps(self, batches: Sequence[Tensor]) -> Iterator[Step]:
        for batch in batches:
            mine = batch[self._session.rank :: self._session.world_size]
            data = self._graphs.take(mine)
            yield Step(data, Targets(torch.arange(len(mine)), data.y, len(batch)))


class Joined:
    """Small graphs behind one another, of which batches are taken.

    PyG goes through the graphs of each batch one by one, which takes a fourth of a training step on molecules.

    Args:
        graphs: With ``y``, and ``n_id`` and ``e_id`` as :class:`~distgnn.data.LoadedDataset` has them.
    """

    def __init__(self, graphs: Sequence[Data]) -> None:
        self._all = Batch.from_data_list(list(graphs))
        self._nodes = self._all.ptr
        self._edges = torch.tensor([0, *(graph.num_edges for graph in graphs)]).cumsum(0)

    def num_nodes(self, positions: Tensor) -> int:
        """Return how many nodes the graphs at ``positions`` have together."""
        return int((self._nodes[positions + 1] - self._nodes[positions]).sum())

    def take(self, positions: Tensor) -> Batch:
        """Return what :meth:`torch_geometric.data.Batch.from_data_list` makes of the graphs at ``positions``."""
        nodes, node_ends = _rows(self._nodes, positions)
        edges, edge_ends = _rows(self._edges, positions)
        counts = node_ends.diff()
        shifts = (node_ends[:-1] - self._nodes[positions]).repeat_interleave(edge_ends.diff())
        rows = {"x": nodes, "n_id": nodes, "edge_attr": edges, "e_id": edges, "y": positions}
        return Batch(
            edge_index=self._all.edge_index.index_select(1, edges) + shifts,
            batch=torch.arange(len(positions)).repeat_interleave(counts),
            ptr=node_ends,
            **{key: self._all[key].index_select(0, ids) for key, ids in rows.items() if key in self._all},
        )


def _rows(ends: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the graphs at ``positions``, and where those of each end."""
    begins = ends[positions]
    counts = ends[positions + 1] - begins
    new_ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    shifts = (begins - new_ends[:-1]).repeat_interleave(counts)
    return torch.arange(shifts.numel()) + shifts, new_ends
