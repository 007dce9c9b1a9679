"""Regression on nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.train.tasks.base import Metric, Task

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.train.tasks.base import Rows


class NodeRegression(Task):
    """A number for each node, the mean of its outputs.

    A model of one output would end in a single ReLU before its last linear map, as layers of GIN are as wide within as
    they end, and could not tell apart what lies on one side of it.
    """

    name, targets, labels = "node-regression", "nodes", "numbers"
    loss_name, loss_function = "squared error", "mse_loss"
    metrics = (
        Metric("RMSE", "torchmetrics:MeanSquaredError", {"squared": False}, better="min", unit=""),
        Metric("MAE", "torchmetrics:MeanAbsoluteError", better="min", unit=""),
    )
    usual = {"num_layers": 2, "lr": 0.003, "sparse_lr": 0.01, "weight_decay": 0.0, "norm": "none"}  # noqa: RUF012

    def out_channels(self, num_classes: int, hidden_channels: int) -> int:
        """Return the width of the hidden layers."""
        del num_classes
        return hidden_channels

    def goal(self, num_classes: int) -> str:
        """Return what is predicted."""
        del num_classes
        return "a number a node"

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return the means ``[K]`` of rows ``[K, C]``."""
        return rows(ids).mean(dim=-1)
