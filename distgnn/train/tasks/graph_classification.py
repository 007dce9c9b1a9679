"""Classification of graphs."""

from distgnn.train.tasks.node_classification import NodeClassification


class GraphClassification(NodeClassification):
    """A class for each of many graphs."""

    name, targets, on_graphs = "graph", "graphs", True
    usual = {"num_layers": 3, "lr": 0.01, "sparse_lr": 0.001, "weight_decay": 0.0, "norm": "batch_norm"}  # noqa: RUF012
