"""What a trial goes through: the steps of an epoch, and what it is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.nn import Module
    from torch_geometric.data import Data

    from distgnn.nn import DistributedGNN
    from distgnn.train.tasks import Task


HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Targets:
    """What a rank answers for.

    Args:
        ids: ``[K]``, or ``[2, K]`` for pairs, rows of the model's outputs.
        labels: ``[K]``.
        count: How many there are over all ranks.
        reach: What turns the model's outputs into the rows that ``ids`` count; collective.
    """

    ids: Tensor
    labels: Tensor
    count: int
    reach: Callable[[Tensor], Tensor] = lambda outputs: outputs

    def scores(self, task: Task, outputs: Tensor) -> Tensor:
        """Return the scores of the targets, from the model's outputs."""
        rows = self.reach(outputs)
        return task.scores(lambda ids: rows.index_select(0, ids), self.ids)


@dataclass(frozen=True)
class Step:
    """A rank's part of a batch.

    Args:
        data: What the model is given.
        targets: What its outputs are compared with.
    """

    data: Data
    targets: Targets

    @property
    def rows(self) -> int:
        """Number of nodes that the model computes outputs of, here."""
        halo = self.data.get("halo")
        return int(self.data.num_nodes if halo is None else halo.own.numel())


class Steps(Protocol):
    """The steps of a trial. All ranks make the same number of them."""

    def train(self, epoch: int, model: DistributedGNN, first: int = 0) -> Iterator[Step]:
        """Yield this rank's part of every batch of an epoch but the ``first`` ones; also where it is empty.

        Epochs count from 1. What a step is does not depend on the global random numbers, nor are they drawn from.
        """
        ...

    def training_labels(self) -> Tensor:
        """Return the labels ``[K]`` of this rank's share of the training set."""
        ...

    def evaluate(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield the name of a held-out set, and scores and labels of this rank's part of it, perhaps in pieces."""
        ...


class FullBatch:
    """All nodes at once, on each rank or in parts.

    Args:
        data: The graph, or this rank's part of it.
        targets: Gives the targets of ``"train"``, ``"val"`` or ``"test"`` in an epoch; epoch 0 is for evaluation.
    """

    def __init__(self, data: Data, targets: Callable[[str, int], Targets]) -> None:
        self._data, self._targets = data, targets

    def train(self, epoch: int, model: DistributedGNN, first: int = 0) -> Iterator[Step]:
        """Yield the graph once."""
        del model
        if not first:
            yield Step(self._data, self._targets("train", epoch))

    def training_labels(self) -> Tensor:
        """Return the labels of this rank's nodes."""
        return self._targets("train", 0).labels

    def evaluate(self, model: DistributedGNN, task: Task) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Run the model once for all sets."""
        out = outputs(model, self._data)
        for part in HELD_OUT:
            targets = self._targets(part, 0)
            yield part, targets.scores(task, out), targets.labels


def check_sets(counts: Mapping[str, int], name: str) -> None:
    """Refuse a division in which a set is empty.

    Args:
        counts: Of each set, over all ranks.
        name: What is divided.

    Raises:
        ConfigError: The text has the numbers.
    """
    if not all(counts.values()):
        found = ", ".join(f"{count:,} for {part}" for part, count in counts.items())
        raise ConfigError(f"the {name} are too few to train on some and hold some out: there are {found}")


def outputs(model: Module, data: Data) -> Tensor:
    """Run a model on a graph, a part of one, or a batch."""
    out: Tensor = model(
        data.x,
        data.edge_index,
        data.edge_attr,
        edge_weight=data.get("edge_weight"),
        node_ids=data.n_id,
        edge_ids=data.e_id,
        batch=data.batch,
        batch_size=None if data.batch is None else data.num_graphs,
        halo=data.get("halo"),
    )
    return out
