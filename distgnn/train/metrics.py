"""Metrics of a set of targets, collected piece by piece and computed over all ranks."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from distgnn.train.session import Session
    from distgnn.train.tasks import Task

_PIECE = 2**16  # targets that are collected before metrics take them in, each of which takes a while for any number


class Metrics:
    """All metrics of a task over a set. With a score that is not finite, they are NaN.

    Args:
        task: What is asked.
        num_classes: Number of classes; 0 where there are none.
    """

    def __init__(self, task: Task, num_classes: int) -> None:
        self._task, self._num_classes = task, num_classes
        self._metrics = {metric.name: metric.make(num_classes) for metric in task.metrics}
        for metric in self._metrics.values():
            metric.set_dtype(torch.float64)  # so that the number of ranks does not show
        self._pieces: list[tuple[Tensor, Tensor]] = []
        self._collected = 0
        self._lost = torch.zeros((), dtype=torch.float64)  # pieces with a score that is not finite
        self._classes = torch.empty(0, dtype=torch.int64)
        self._unknown: set[str] = set()

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Take in scores of this rank."""
        scores = scores.detach()
        if not scores.isfinite().all():
            self._lost += 1
            scores = scores.nan_to_num()
        self._pieces.append((self._task.predictions(scores), labels))
        self._collected += len(labels)
        if self._collected >= _PIECE:
            self._take_in()

    def over_ranks(self, session: Session) -> dict[str, float]:
        """Return each metric of all ranks' scores, by name; collective."""
        self._take_in()
        lost, *_ = session.sum([float(self._lost)])
        found = {}
        for metric in self._task.metrics:
            whole = metric.make(self._num_classes)
            whole.set_dtype(torch.float64)
            for name, value in self._metrics[metric.name].metric_state.items():
                rows = session.gather(_rows(value))
                setattr(whole, name, [rows] if isinstance(value, list) else rows.double().sum(dim=0))
            with warnings.catch_warnings():  # for torchmetrics the new one has seen nothing
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
                found[metric.name] = torch.nan if lost or metric.name in self._unknown else float(whole.compute())
        return found

    def classes(self, session: Session) -> int | None:
        """Return into how many classes the targets were put, None where there are no classes; collective."""
        self._take_in()
        return len(torch.unique(session.gather(self._classes))) if self._task.labels == "classes" else None

    def gather(self, session: Session) -> dict[str, Any]:
        """Return what all ranks have collected, for :meth:`load`; collective."""
        self._take_in()
        states = {
            name: {key: session.gather(_rows(value)) for key, value in metric.metric_state.items()}
            for name, metric in self._metrics.items()
        }
        return {"lost": session.gather(self._lost[None]), "states": states}

    def load(self, state: dict[str, Any], session: Session) -> None:
        """Go on from what :meth:`gather` gave: each rank from its own, or of other ranks' the first from all."""
        self._lost = _own(state["lost"], session)
        for name, states in state["states"].items():
            for key, rows in states.items():
                is_list = isinstance(self._metrics[name].metric_state[key], list)
                own = [rows if session.rank == 0 else rows[:0]] if is_list else _own(rows, session)
                setattr(self._metrics[name], key, own)

    def load_former(self, rows: Tensor, session: Session) -> None:
        """Go on from rows ``[K, 2]`` as version 0.1 wrote them, hits and targets or scores and labels."""
        name = self._task.metrics[0].name
        if self._task.labels == "classes":
            hits, targets = rows.sum(dim=0).long()
            states = {"tp": hits[None, None], "fn": (targets - hits)[None, None]}
        else:
            states = {"preds": rows[:, 0], "target": rows[:, 1]}
        self._unknown = {metric.name for metric in self._task.metrics[1:]}
        self.load({"lost": torch.zeros(1, dtype=torch.float64), "states": {name: states}}, session)

    def _take_in(self) -> None:
        if self._collected:
            predictions, labels = (torch.cat(pieces) for pieces in zip(*self._pieces, strict=True))
            if self._task.labels == "classes":
                self._classes = torch.unique(torch.cat([self._classes, predictions]))
            if self._task.labels == "numbers":
                predictions, labels = predictions.double(), labels.double()
            for metric in self._metrics.values():
                metric.update(predictions, labels)
        self._pieces, self._collected = [], 0


def _rows(value: Tensor | list[Tensor]) -> Tensor:
    """Return a state with a first dimension along which ranks' are gathered."""
    if isinstance(value, Tensor):
        return value[None]
    return torch.cat(value) if value else torch.empty(0)


def _own(rows: Tensor, session: Session) -> Tensor:
    """Return this rank's of what was gathered."""
    if len(rows) == session.world_size:
        return rows[session.rank].clone()
    return rows.sum(dim=0) if session.rank == 0 else torch.zeros_like(rows[0])
