"""The data of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distgnn.errors import ConfigError
from distgnn.train.options.setting import setting
from distgnn.train.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data of a run.

    Args:
        dataset: A name that :func:`distgnn.data.load_dataset` knows.
        root: Folder with the data set in PyG's layout; None looks in ``DISTGNN_DATA``.
        folds: Cross-validate a graph data set in so many folds, by the GIN paper's protocol; 0 splits once.
        task: ``"graph"`` or ``"node"`` classification, or on data sets of one graph ``"link"`` prediction and
            ``"node-regression"``, of labels that are numbers; None is the data set's own.
        partition: With a mode, a folder of :func:`distgnn.graph.partition_graph` to train on instead of the data set,
            of which no rank then has the whole; with None ``mode="full"`` cuts the data set, by METIS where pymetis is
            installed and by a hash of ids elsewhere.
    """

    panel: ClassVar[str] = "Data"

    dataset: str = setting("MUTAG", "MUTAG, PROTEINS or another TUDataset; Cora, CiteSeer, PubMed; CustomLargeGraph.")
    root: str | None = setting(None, "Folder with the data set in PyG's layout.")
    folds: int = setting(0, "Cross-validate in so many folds by the GIN paper's protocol.")
    task: str | None = setting(None, f"One of: {', '.join(TASKS)}. \\[default: the data set's]", choices=tuple(TASKS))
    partition: str | None = setting(None, "With --mode, a folder of distgnn partition, which no rank loads whole.")

    def check_data(self) -> None:
        """Refuse numbers of folds that cannot be."""
        if self.folds != 0 and self.folds < 2:
            raise ConfigError(f"folds must be 0 (split once) or at least 2, not {self.folds}")
