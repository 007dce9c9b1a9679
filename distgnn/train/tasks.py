"""What a model's outputs are trained to be: classes, or the ends of links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from distgnn.train.session import Session

    Rows = Callable[[Tensor], Tensor]


class Measure(Protocol):
    """How good scores are, collected part by part. With one that is not finite, the measure is NaN."""

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Take in scores of this rank."""
        ...

    def over_ranks(self, session: Session) -> float:
        """Return the measure of all ranks' scores, in [0, 1]; collective."""
        ...

    def classes(self, session: Session) -> int | None:
        """Return into how many classes the targets were put, None where there are no classes; collective."""
        ...

    @property
    def rows(self) -> Tensor:
        """What was collected, ``[K, 2]``; what ranks have, one behind the other, may be given to one that goes on."""
        ...

    @rows.setter
    def rows(self, rows: Tensor) -> None: ...


class Task(Protocol):
    """What is asked of a model's outputs.

    Attributes:
        loss_name: What the loss is, in words.
        measure_name: What :meth:`measure` measures.
    """

    loss_name: str
    measure_name: str

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return a score, or a row of them, for each target.

        Args:
            rows: Gives the model's outputs of nodes or graphs.
            ids: ``[K]`` nodes or graphs, or ``[2, K]`` pairs of nodes.
        """
        ...

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the losses over targets."""
        ...

    def measure(self) -> Measure:
        """Return a new measure."""
        ...


class Classification:
    """A class for each node or graph."""

    loss_name = "cross entropy"
    measure_name = "accuracy"

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return the rows ``[K, C]`` as they are."""
        return rows(ids)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy, summed, in nats."""
        return cross_entropy(scores, labels, reduction="sum")

    def measure(self) -> Accuracy:
        """Return a new measure."""
        return Accuracy()


class LinkPrediction:
    """Whether an edge joins two nodes, by the dot product of their outputs."""

    loss_name = "binary cross entropy"
    measure_name = "AUC"

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return the logits ``[K]`` of pairs ``[2, K]``."""
        sources, destinations = rows(ids.flatten()).tensor_split(2)
        return (sources * destinations).sum(dim=-1)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross entropy, summed, in nats."""
        return binary_cross_entropy_with_logits(scores, labels, reduction="sum")

    def measure(self) -> AreaUnderCurve:
        """Return a new measure."""
        return AreaUnderCurve()


class Accuracy:
    """Share of the targets whose class has the best score."""

    def __init__(self) -> None:
        self.rows = torch.zeros(1, 2, dtype=torch.float64)  # hits and targets
        self._classes = torch.empty(0, dtype=torch.int64)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Count hits."""
        found = scores.argmax(dim=-1)
        self._classes = torch.unique(torch.cat([self._classes, found]))
        hits = int((found == labels).sum()) if scores.isfinite().all() else torch.nan
        self.rows = torch.cat([self.rows, torch.tensor([[hits, labels.numel()]])]).sum(dim=0, keepdim=True)

    def over_ranks(self, session: Session) -> float:
        """Return the share."""
        hits, targets = session.gather(self.rows).sum(dim=0).tolist()
        return float(hits / targets)

    def classes(self, session: Session) -> int:
        """Return how many classes have the best score of a target."""
        return len(torch.unique(session.gather(self._classes)))


class AreaUnderCurve:
    """Area under the receiver operating characteristic: how often an edge scores above a pair that is none."""

    def __init__(self) -> None:
        self._pieces = [torch.empty(0, 2)]  # scores and labels

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Keep the scores."""
        self._pieces.append(torch.stack([scores.detach(), labels], dim=1))

    def over_ranks(self, session: Session) -> float:
        """Return the area."""
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # it takes as long as torch to import, for links alone

        scores, labels = session.gather(self.rows).t()
        return float(roc_auc_score(labels.numpy(), scores.numpy())) if scores.isfinite().all() else torch.nan

    def classes(self, session: Session) -> None:
        """Return None: links have no classes."""

    @property
    def rows(self) -> Tensor:
        """Scores and labels."""
        return torch.cat(self._pieces)

    @rows.setter
    def rows(self, rows: Tensor) -> None:
        self._pieces = [rows]
