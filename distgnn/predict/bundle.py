"""A finished run, opened to answer."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distgnn.data.options import load_by_options
from distgnn.errors import ConfigError
from distgnn.graph.rows import open_rows
from distgnn.nn.embedding import default_name
from distgnn.predict.partition import load_whole
from distgnn.storage.registry import get_backend
from distgnn.storage.specs import GraphSpec
from distgnn.train.graphs import Joined
from distgnn.train.session import Session
from distgnn.train.steps import outputs
from distgnn.train.tasks import TASKS
from distgnn.train.trained import kept_model, load_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from typing_extensions import Self

    from distgnn.data import LoadedDataset
    from distgnn.storage.protocols import Backend, GraphStore, TensorStore

    Rows = Callable[[Tensor], Tensor]

_DATA = ("dataset", "root", "seed", "edges", "features", "labels", "label_column", "num_nodes", "num_edges")
_BATCH = 8192  # nodes whose layer is computed at a time


class Bundle:
    """A finished run, opened to answer. Every rank of a job opens it; close it when it is done with.

    Args:
        folder: The run's folder.
        trial: Number of the trial, from 0.
        backend: Where tables and layers are stored, and whose ranks share the work; None is the backend in use.
        progress: Show progress on stderr.

    Attributes:
        folder: The run's folder.
        options: Those of the run, by name.
        sizes: Of what it was trained on, without the graphs.
        task: What it has learned.
        session: The ranks.
        model: The model, in eval mode.

    Raises:
        CheckpointNotFoundError: The run has left no model.
        CheckpointFormatError: The model is damaged, or of a newer version.
    """

    def __init__(
        self, folder: str | Path, *, trial: int = 0, backend: str | Backend | None = None, progress: bool = False
    ) -> None:
        kept = kept_model(folder, trial=trial)
        self.folder, self._progress = Path(folder), progress
        self.options, self.sizes = kept.options, kept.sizes
        self.task = TASKS[kept.sizes.task].choosing(kept.options.get("metric"))
        self.session = Session(get_backend(backend) if backend is None or isinstance(backend, str) else backend)
        self.model = load_run(str(folder), trial=trial, backend=self.session.backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's tables."""
        self.model.close()

    def dataset(self) -> LoadedDataset:
        """Load what the run was trained on, whole on every rank.

        Raises:
            DataError: It is not where it was, or cannot be read.
        """
        if self.options.get("partition"):
            return replace(load_whole(Path(self.options["partition"])), task=self.sizes.task)
        asked: dict[str, Any] = {name: self.options.get(name) for name in _DATA}
        found = load_by_options(regression=self.task.labels == "numbers", **asked)
        return replace(found, task=self.sizes.task)

    def check(self, dataset: LoadedDataset) -> None:
        """Refuse data that the model cannot be asked about.

        Raises:
            ConfigError: It is of another kind, or has other features or other nodes.
        """
        if TASKS[dataset.task].on_graphs != self.task.on_graphs:
            kinds = "one graph", "many small graphs"
            has, wants = (kinds[task.on_graphs] for task in (TASKS[dataset.task], self.task))
            raise ConfigError(f"run {self.folder} has learned from {wants}, and data set {dataset.name!r} is {has}")
        sizes = {"num_features": "features of a node", "edge_dim": "features of an edge"}
        for name, what in sizes.items():
            given, known = getattr(dataset, name), getattr(self.sizes, name)
            if given != known:
                raise ConfigError(
                    f"run {self.folder} has learned from {known} {what}, and {dataset.name!r} has {given}"
                )
        tables = {"num_nodes": ("use_dist_embedding", "nodes"), "num_edges": ("use_dist_edge_embedding", "edges")}
        for name, (option, what) in tables.items():
            given, known = getattr(dataset, name), getattr(self.sizes, name)
            if self.options[option] and given != known:
                raise ConfigError(
                    f"run {self.folder} has a learned row for each of {known:,} {what}, and {dataset.name!r} has "
                    f"{given:,} {what}, whose rows it does not know: a model without {option} answers for new {what}"
                )

    @contextmanager
    def outputs(self, dataset: LoadedDataset) -> Iterator[Rows]:
        """Give what returns the model's outputs ``[K, C]`` of nodes or graphs, as all neighbors make them; collective.

        Args:
            dataset: The same on every rank.

        Raises:
            ConfigError: As :meth:`check`.
        """
        self.check(dataset)
        if self.task.on_graphs:
            graphs = Joined(dataset.graphs)
            yield lambda ids: self._of_graphs(graphs, ids)
            return
        with self.stored(dataset) as (structure, features, edge_features), ExitStack() as at_the_end:
            found = self.model.inference(
                structure,
                features,
                edge_features=edge_features,
                batch_size=_BATCH,
                backend=self.session.backend,
                progress=self._progress,
            )
            at_the_end.callback(found.close)
            yield found.read

    @contextmanager
    def stored(self, dataset: LoadedDataset) -> Iterator[tuple[GraphStore, TensorStore | None, TensorStore | None]]:
        """Give one graph, and the features of its nodes and edges, in stores; collective."""
        graph, backend = dataset.graph, self.session.backend
        with ExitStack() as at_the_end:
            spec = GraphSpec(default_name("graph"), dataset.num_nodes, graph.edge_index.size(1))
            structure = backend.open_graph(spec, graph.edge_index)
            at_the_end.callback(structure.close)
            opened: list[TensorStore | None] = []
            for rows in (graph.x, graph.edge_attr):
                opened.append(None if rows is None else open_rows(rows, backend=backend))
                if rows is not None:
                    at_the_end.callback(opened[-1].close)  # type: ignore[union-attr]  # it is none of the Nones
            yield structure, opened[0], opened[1]

    @torch.no_grad()
    def _of_graphs(self, graphs: Joined, ids: Tensor) -> Tensor:
        """Compute the outputs of graphs, a share of them on each rank."""
        rank, world_size = self.session.rank, self.session.world_size
        own = outputs(self.model, graphs.take(ids[rank::world_size]))
        order = torch.cat([torch.arange(first, ids.numel(), world_size) for first in range(world_size)])
        return self.session.gather(own)[order.argsort()]
