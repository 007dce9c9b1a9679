"""Tasks by name. Imports nothing heavy: the command line reads names and defaults from here."""

from distgnn.train.tasks.base import Metric, Task
from distgnn.train.tasks.graph_classification import GraphClassification
from distgnn.train.tasks.link_prediction import LinkPrediction
from distgnn.train.tasks.node_classification import NodeClassification
from distgnn.train.tasks.node_regression import NodeRegression

__all__ = ["DEFAULT", "METRICS", "TASKS", "Metric", "Task"]

TASKS: dict[str, Task] = {
    task.name: task for task in (GraphClassification(), NodeClassification(), LinkPrediction(), NodeRegression())
}
DEFAULT = NodeClassification.name  # of a partition
METRICS = tuple(dict.fromkeys(metric.key for task in TASKS.values() for metric in task.metrics))
