"""What an epoch measures, and what it has measured so far when a job goes on within it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import torch

from distgnn.train.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from distgnn.nn.ages import Ages
    from distgnn.train.session import Session
    from distgnn.train.steps import Step
    from distgnn.train.tasks import Task


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured; a line of ``metrics.jsonl``.

    Args:
        trial: Number of the trial, from 0.
        epoch: Number of the epoch, from 1.
        loss: Mean training loss (nats).
        train: The task's metric over the training set during the epoch.
        val: The same over the validation set after it; None where there is none, or nothing was evaluated.
        test: The same over the test set; None where nothing was evaluated.
        staleness: With histories, what was counted of the ages of the rows that batches read: how many ``rows``, how
            many of them ``never`` written, and the ``mean`` and ``oldest`` age of the others, in steps.
        rows_per_second: Node rows that training went through, a second.
        seconds: Length of the epoch, evaluation included.
        bytes_a_step: What the ranks sent each other for a step of training, as the backend counts it; None where it
            does not.
        cache_hits: Which share of the rows that training asked for was in the backend's cache, where it counts them.
        spent: With ``report``, what each rank spent its seconds on, by :data:`distgnn.train.timeline.KINDS`.
        classes: Into how many classes the test set was put; None for links, or where nothing was evaluated.
        finite: Whether loss, scores and weights are.
        metrics: Every metric of the task, by name, of each set that was evaluated; None in runs of before.
    """

    trial: int
    epoch: int
    loss: float
    train: float
    val: float | None
    test: float | None
    staleness: dict[str, float] | None
    rows_per_second: float
    seconds: float
    bytes_a_step: float | None = None
    cache_hits: float | None = None
    spent: dict[str, list[float]] | None = None
    classes: int | None = None
    finite: bool = True
    metrics: Mapping[str, Mapping[str, float | None]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, as JSON can have them: None where a number is not finite."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Epoch:
        """Make an epoch of what :meth:`as_dict` gave."""
        lost = {name: nan for name in ("loss", "train") if fields[name] is None}
        return cls(**{**fields, **lost})


def finite_or_none(value: Any) -> Any:
    """Return a value, or None in the place of a number that is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: finite_or_none(each) for name, each in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


class EpochSoFar:
    """The steps of an epoch that are done, and what they measured; a part of a checkpoint.

    Args:
        session: The ranks.
        task: What is measured.
        num_classes: Number of classes.

    Attributes:
        steps: How many are done.
        seconds: How long they took in the processes that made them before this one.
    """

    def __init__(self, session: Session, task: Task, num_classes: int) -> None:
        self._session, self._task, self._num_classes = session, task, num_classes
        self._gathered: dict[str, Any] = {}
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        self.steps, self.seconds = 0, 0.0
        self._metrics = Metrics(self._task, self._num_classes)
        # Of this rank: loss, targets, rows of nodes; of rows of histories how many, never written, total age; bytes,
        # rows found in a cache, and of how many.
        self._sums = torch.zeros(1, 9, dtype=torch.float64)
        self._oldest = 0

    def add(self, step: Step, loss: float, scores: Tensor, ages: Ages, counts: Tensor) -> None:
        """Take in a step of this rank, whose loss is a sum over its targets, and what the backend counted in it."""
        self.steps += 1
        self._metrics.add(scores, step.targets.labels)
        numbers = [loss, step.targets.labels.numel(), step.rows, ages.rows, ages.never, ages.total, *counts.tolist()]
        self._sums += torch.tensor(numbers, dtype=torch.float64)
        self._oldest = max(self._oldest, ages.oldest)

    def over_ranks(self) -> tuple[float, dict[str, float], float, dict[str, float], list[float]]:
        """Return mean loss, metrics by name, rows, :attr:`Epoch.staleness`, and the backend's counts; collective."""
        losses, targets, rows, read, never, total, *counts = self._session.sum(self._sums[0].tolist())
        staleness = {
            "rows": int(read),
            "never": int(never),
            "mean": total / max(1, read - never),
            "oldest": int(self._session.max(self._oldest)),
        }
        return losses / targets, self._metrics.over_ranks(self._session), rows, staleness, counts

    def gather(self, seconds: float) -> None:
        """Bring together what the ranks have, for :meth:`state_dict`; collective.

        Args:
            seconds: How long the steps took up to now.
        """
        self._gathered = {
            "steps": self.steps,
            "seconds": seconds,
            "sums": self._session.gather(self._sums),
            "oldest": self._session.max(self._oldest),
            "metrics": self._metrics.gather(self._session),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what was gathered last."""
        return self._gathered

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from it: each rank from its own sums, or where there were more or fewer ranks, the first from all."""
        self.begin()
        self.steps, self.seconds, self._oldest = int(state["steps"]), float(state["seconds"]), int(state["oldest"])
        sums, rank = state["sums"], self._session.rank
        if len(sums) == self._session.world_size:
            self._sums = sums[rank : rank + 1].clone()
        elif rank == 0:
            self._sums = sums.sum(dim=0, keepdim=True)
        if "metrics" in state:
            self._metrics.load(state["metrics"], self._session)
        elif self.steps:
            self._metrics.load_former(state["measure"], self._session)
