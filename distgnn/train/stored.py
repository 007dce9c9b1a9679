"""A graph in stores, which no rank needs to have whole, and what is to be learned about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distgnn.graph import open_in_degrees, open_part
from distgnn.nn.embedding import default_name
from distgnn.storage.specs import GraphSpec, PartitionBook, TensorSpec
from distgnn.train.links import split_edges
from distgnn.train.nodes import MASKS, check_labels
from distgnn.train.steps import check_sets
from distgnn.train.tasks import TASKS

if TYPE_CHECKING:
    from contextlib import ExitStack

    from torch import Tensor

    from distgnn.data import LoadedDataset
    from distgnn.storage.protocols import GraphStore, TensorStore
    from distgnn.train.session import Session


@dataclass(frozen=True, eq=False)
class StoredGraph:
    """A graph, and what to learn about it.

    Args:
        structure: Its edges; for link prediction, those to train on.
        features: Of the nodes.
        edge_features: Of these edges.
        in_degrees: Of the nodes, where samples are to be weighed.
        targets: Nodes ``[K]``, or edges ``[2, K]`` by their ends, of each set; all of them on every rank.
        labels: ``[N]``, of the nodes; None for links.
        edge_ids: ``[K]``, the ids of the edges in ``targets``; empty for nodes.
    """

    structure: GraphStore
    features: TensorStore | None
    edge_features: TensorStore | None
    in_degrees: TensorStore | None
    targets: dict[str, Tensor]
    labels: Tensor | None
    edge_ids: dict[str, Tensor]


def store_graph(
    dataset: LoadedDataset, session: Session, *, seed: int, weighed: bool, at_the_end: ExitStack
) -> StoredGraph:
    """Put a data set of one graph into stores; collective. The data set may be let go afterwards.

    Args:
        dataset: The same on every rank.
        session: The ranks.
        seed: Of the division of edges.
        weighed: Whether samples are to be weighed.
        at_the_end: Closes the stores.

    Raises:
        ConfigError: There is nothing to train on.
    """
    graph, name = dataset.graph, f"data set {dataset.name!r}"
    edge_index, edge_attr, labels, edge_ids = graph.edge_index, graph.edge_attr, None, {}
    task = TASKS[dataset.task]
    if task.on_edges:
        edge_ids = split_edges(edge_index, dataset.num_nodes, seed)
        targets = {part: edge_index[:, edges] for part, edges in edge_ids.items()}
        edge_index = targets["train"]
        edge_attr = None if edge_attr is None else edge_attr[edge_ids["train"]]
    else:
        check_labels(graph, name, task)
        labels = graph.y
        targets = {part: graph[mask].nonzero().flatten() for part, mask in MASKS.items()}
    check_sets({part: ids.size(-1) for part, ids in targets.items()}, f"{task.targets} of {name}")
    structure = session.backend.open_graph(
        GraphSpec(default_name("graph"), dataset.num_nodes, edge_index.size(1)), edge_index
    )
    at_the_end.callback(structure.close)

    def stored(name: str, rows: Tensor | None) -> TensorStore | None:
        if rows is None:
            return None
        own = slice(*PartitionBook.even(len(rows), session.world_size).bounds[session.rank : session.rank + 2])
        return _stored(name, len(rows), torch.arange(own.start, own.stop), rows[own], session, at_the_end)

    features, edge_features = stored("x", graph.x), stored("edge_attr", edge_attr)
    in_degrees = _in_degrees(structure, session, at_the_end) if weighed else None
    return StoredGraph(structure, features, edge_features, in_degrees, targets, labels, edge_ids)


def store_part(dataset: LoadedDataset, session: Session, *, weighed: bool, at_the_end: ExitStack) -> StoredGraph:
    """Put a graph of which each rank has a part into stores; collective. No rank has all edges or features for it.

    Args:
        dataset: Its graph is this rank's part, as :func:`distgnn.graph.load_part` made it, with labels of nodes.
        session: The ranks.
        weighed: Whether samples are to be weighed.
        at_the_end: Closes the stores.

    Raises:
        ConfigError: There is nothing to train on.
    """
    part = dataset.graph
    nodes = part.n_id[: part.halo.own.numel()]
    targets = {name: session.gather(nodes[part[mask]]).sort().values for name, mask in MASKS.items()}
    check_sets({name: len(ids) for name, ids in targets.items()}, f"nodes of partition {dataset.name!r}")
    labels = torch.empty(dataset.num_nodes, dtype=part.y.dtype)
    labels[session.gather(nodes)] = session.gather(part.y)
    features, structure = open_part(part, backend=session.backend)
    for store in (features, structure):
        if store is not None:
            at_the_end.callback(store.close)
    edge_features = None
    if part.edge_attr is not None:
        edge_features = _stored("edge_attr", dataset.num_edges, part.e_id, part.edge_attr, session, at_the_end)
    in_degrees = _in_degrees(structure, session, at_the_end) if weighed else None
    return StoredGraph(structure, features, edge_features, in_degrees, targets, labels, {})


def _stored(
    name: str, num_rows: int, ids: Tensor, rows: Tensor, session: Session, at_the_end: ExitStack
) -> TensorStore:
    """Open a store to which each rank brings some rows."""
    store = session.backend.open_tensor(TensorSpec(default_name(name), (num_rows, *rows.shape[1:]), rows.dtype))
    at_the_end.callback(store.close)
    store.write(ids, rows)
    return store


def _in_degrees(structure: GraphStore, session: Session, at_the_end: ExitStack) -> TensorStore:
    store = open_in_degrees(structure, backend=session.backend)
    at_the_end.callback(store.close)
    return store
