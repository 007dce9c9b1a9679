"""Prediction of links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.train.tasks.base import Metric, Task

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.train.tasks.base import Rows


class LinkPrediction(Task):
    """Whether an edge joins two nodes, by the dot product of their outputs."""

    name, targets, on_edges = "link", "edges", True
    loss_name, loss_function = "binary cross entropy", "binary_cross_entropy_with_logits"  # in nats
    metrics = (Metric("AUC", "distgnn.train.tasks.area_under_curve:AreaUnderCurve"),)
    usual = {"num_layers": 2, "lr": 0.003, "sparse_lr": 0.01, "weight_decay": 0.0, "norm": "none"}  # noqa: RUF012

    def out_channels(self, num_classes: int, hidden_channels: int) -> int:
        """Return the width of the hidden layers."""
        del num_classes
        return hidden_channels

    def goal(self, num_classes: int) -> str:
        """Return what is predicted."""
        del num_classes
        return "links"

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return the logits ``[K]`` of pairs ``[2, K]``."""
        sources, destinations = rows(ids.flatten()).tensor_split(2)
        return (sources * destinations).sum(dim=-1)
