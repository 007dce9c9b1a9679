"""Base of the tasks: labels, loss, metrics and width of the outputs."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from distgnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torchmetrics
    from torch import Tensor
    from typing_extensions import Self

    Rows = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Args:
        name: As it is shown.
        kind: The :class:`torchmetrics.Metric` that computes it, as ``"module:class"``; its states are tensors that
            add up over ranks, or lists of rows.
        options: What that is made with, besides the number of classes where ``kind`` is one of many classes.
        better: Whether the largest or the smallest number is the best one.
        unit: ``"%"`` for a share, in [0, 1] and shown as a percentage; ``""`` for a number in the unit of the labels.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    better: Literal["max", "min"] = "max"
    unit: Literal["%", ""] = "%"

    @property
    def key(self) -> str:
        """The name on the command line."""
        return self.name.lower().replace(" ", "-")

    @property
    def limits(self) -> tuple[float, float | None]:
        """What an axis shows; None is as far as the numbers go."""
        return (0, 1.02) if self.unit == "%" else (0, None)

    def format(self, value: float, digits: int = 1) -> str:
        """Return a number as it is shown."""
        return f"{value:.{digits}%}" if self.unit == "%" else f"{value:.4g}"

    def make(self, num_classes: int) -> torchmetrics.Metric:
        """Return a new one that has seen nothing."""
        module, _, name = self.kind.partition(":")
        own = {"num_classes": max(2, num_classes)} if name.startswith("Multiclass") else {}
        made: torchmetrics.Metric = getattr(importlib.import_module(module), name)(
            **own, **self.options, sync_on_compute=False
        )
        return made


class Task:
    """What is asked of a model's outputs. A task is not changed; what chooses returns another one.

    Attributes:
        name: On the command line.
        targets: What has labels, in words.
        on_graphs: Whether targets are whole graphs, of many.
        on_edges: Whether targets are pairs of nodes, whose labels are the graph's own edges.
        labels: What labels are, ``"classes"`` (int64) or ``"numbers"`` (floating point); None where there are none.
        loss_name: What the loss is, in words.
        loss_function: The function of :mod:`torch.nn.functional` that computes it.
        metrics: The first one chooses the epoch.
        usual: Options that are usual where nothing is said.
    """

    name: ClassVar[str]
    targets: ClassVar[str]
    on_graphs: ClassVar[bool] = False
    on_edges: ClassVar[bool] = False
    labels: ClassVar[Literal["classes", "numbers"] | None] = None
    loss_name: ClassVar[str]
    loss_function: ClassVar[str]
    usual: ClassVar[Mapping[str, Any]]
    metrics: tuple[Metric, ...]
    class_weights: Tensor | None = None

    @property
    def metric(self) -> Metric:
        """The metric that chooses the epoch."""
        return self.metrics[0]

    def choosing(self, metric: str | None) -> Self:
        """Return the task with another metric to choose the epoch.

        Args:
            metric: Its key; None is the task's own.

        Raises:
            ConfigError: The task has no such metric.
        """
        known = {one.key: one for one in self.metrics}
        if metric is not None and metric not in known:
            raise ConfigError(f"metric must be one of {', '.join(known)} in task {self.name!r}, not {metric!r}")
        changed = copy.copy(self)
        if metric is not None:
            changed.metrics = (known.pop(metric), *known.values())
        return changed

    def weighing(self, class_weights: Tensor) -> Self:
        """Return the task with a loss that weighs classes.

        Args:
            class_weights: ``[C]``, what the loss of a target of each class is multiplied by.
        """
        changed = copy.copy(self)
        changed.class_weights = class_weights
        return changed

    def out_channels(self, num_classes: int, hidden_channels: int) -> int:
        """Return the width of the model's outputs."""
        del hidden_channels
        return num_classes

    def goal(self, num_classes: int) -> str:
        """Return what is predicted, in words."""
        return f"{num_classes} classes"

    def scores(self, rows: Rows, ids: Tensor) -> Tensor:
        """Return a score, or a row of them, for each target.

        Args:
            rows: Gives the model's outputs of nodes or graphs.
            ids: ``[K]`` nodes or graphs, or ``[2, K]`` pairs of nodes.
        """
        return rows(ids)

    def predictions(self, scores: Tensor) -> Tensor:
        """Return what metrics compare with labels, ``[K]``."""
        return scores

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the losses over targets."""
        function = getattr(importlib.import_module("torch.nn.functional"), self.loss_function)
        weights = {} if self.class_weights is None else {"weight": self.class_weights}
        loss: Tensor = function(scores, labels, reduction="sum", **weights)
        return loss

    def fits(self, labels: Tensor | None) -> bool:
        """Return whether these labels are of its kind; True where there are none."""
        return labels is None or self.labels is None or labels.is_floating_point() == (self.labels == "numbers")
