"""Classification of nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.train.tasks.base import Metric, Task

if TYPE_CHECKING:
    from torch import Tensor


class NodeClassification(Task):
    """A class for each node."""

    name, targets, labels = "node", "nodes", "classes"
    loss_name, loss_function = "cross entropy", "cross_entropy"  # in nats
    metrics = (
        Metric("accuracy", "torchmetrics.classification:MulticlassAccuracy", {"average": "micro"}),
        Metric("macro F1", "torchmetrics.classification:MulticlassF1Score", {"average": "macro"}),
    )
    usual = {"num_layers": 2, "lr": 0.003, "sparse_lr": 0.01, "weight_decay": 5e-4, "norm": "none"}  # noqa: RUF012

    def predictions(self, scores: Tensor) -> Tensor:
        """Return the class of the best score, of rows ``[K, C]``."""
        return scores.argmax(dim=-1)
