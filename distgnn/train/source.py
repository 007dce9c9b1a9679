"""What a run trains on: a data set, in the form that its mode needs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.progress import Progress

from distgnn.train.graphs import Graphs
from distgnn.train.history import Histories
from distgnn.train.links import Links
from distgnn.train.nodes import NodeLabels, check_labels
from distgnn.train.part import own_part
from distgnn.train.sampled import Sampled
from distgnn.train.steps import FullBatch
from distgnn.train.stored import StoredGraph, store_graph, store_part
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from distgnn.data import LoadedDataset
    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.steps import Steps
    from distgnn.train.tasks import Task


class Source:
    """A data set that the ranks of a run have whole, in parts, or in stores.

    Args:
        config: The run's options.
        dataset: The whole data set, or None where a partition brings its own. A source that keeps it in parts or in
            stores lets it go.
        session: The ranks.
        progress: Shows the steps of an epoch, where there are many.

    Attributes:
        dataset: Its sizes; its graphs too, unless they are in stores.
        task: What is learned.

    Raises:
        ConfigError: The data set does not fit the options.
        DataError: The partition cannot be read.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: LoadedDataset | None,
        session: Session,
        progress: Progress | None = None,
    ) -> None:
        self._config, self.session = config, session
        self._progress = progress or Progress(disable=True)
        self._at_the_end = ExitStack()
        self._stored: StoredGraph | None = None
        in_parts = dataset is None or config.mode == "full"
        if in_parts:
            dataset = own_part(config, dataset, session)
        assert dataset is not None
        if config.mode in {"sampled", "history"}:
            store = store_part if in_parts else partial(store_graph, seed=config.seed)
            self._stored = store(dataset, session, weighed=config.rescale, at_the_end=self._at_the_end)
            dataset = replace(dataset, graphs=[])
        self.dataset = dataset
        self._config = config.for_task(dataset.task)
        self.task: Task = TASKS[dataset.task].choosing(config.metric)

    def steps(self, seed: int, split: Mapping[str, Sequence[int]] | None, at_the_end: ExitStack) -> Steps:
        """Make the steps of a trial.

        Args:
            seed: The trial's.
            split: Positions of the graphs of each set, where there are many.
            at_the_end: Closes what the steps need.
        """
        config, dataset, session = self._config, self.dataset, self.session
        if self._stored is not None:
            batches = Sampled if config.mode == "sampled" else Histories
            return batches(config, self._stored, session, seed, self._progress)
        if split is not None:
            return Graphs(dataset, session, split, config.examples_a_batch, seed)
        name = f"data set {dataset.name!r}"
        if self.task.on_edges:
            links = Links(dataset.graph, name, dataset.num_nodes, session, config.seed, at_the_end)
            return FullBatch(links.graph, links)
        check_labels(dataset.graph, name, self.task)
        return FullBatch(dataset.graph, NodeLabels(dataset.graph, name, session))

    def close(self) -> None:
        """Close its stores."""
        self._at_the_end.close()
