"""The part of a node data set that a rank trains on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distgnn.data import LoadedDataset
from distgnn.distributed.work import work_of_one
from distgnn.graph import cut_part, edge_partition, load_part
from distgnn.graph.partition.assign import assign_nodes, default_method
from distgnn.train.nodes import check_labels
from distgnn.train.tasks import DEFAULT, TASKS

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data

    from distgnn.train.config import TrainConfig
    from distgnn.train.session import Session
    from distgnn.train.tasks import Task


def own_part(config: TrainConfig, dataset: LoadedDataset | None, session: Session) -> LoadedDataset:
    """Make a data set whose graph is this rank's part; its sizes stay those of the whole. Collective.

    Args:
        config: Where the partition is, if it is in files.
        dataset: The whole data set, or None with a partition in files.
        session: The ranks, one for each part.

    Raises:
        ConfigError: The nodes have no labels or no masks, or there are more parts than ranks, or fewer.
        DataError: The partition cannot be read.
    """
    if dataset is None:
        found = _from_folder(Path(config.partition or ""), TASKS[config.task or DEFAULT], session)
        return replace(found, graphs=[_with_edges_placed(found.graph, config, session)])
    graph = dataset.graph
    task = TASKS[dataset.task]
    if not task.on_edges:
        check_labels(graph, f"data set {dataset.name!r}", task)

    def assigned() -> Tensor:
        method = default_method()
        return assign_nodes(graph.edge_index, dataset.num_nodes, session.world_size, method=method, seed=config.seed)

    # Rank 0 alone: METIS may give others elsewhere.
    parts = work_of_one(session.communicator, assigned, "the partitioning of the graph by rank 0")
    if parts is None:
        parts = torch.zeros(dataset.num_nodes, dtype=torch.int32)
    part = cut_part(graph, session.from_main(parts), session.rank, session.world_size)
    return replace(dataset, graphs=[_with_edges_placed(part, config, session)])


def _with_edges_placed(part: Data, config: TrainConfig, session: Session) -> Data:
    """Say in a part which rank has which edges, where their embeddings are to be with them; collective."""
    if config.use_dist_edge_embedding and config.mode == "full":
        part.edge_partition = edge_partition(part, backend=session.backend)
    return part


def _from_folder(folder: Path, task: Task, session: Session) -> LoadedDataset:
    part = load_part(folder, backend=session.backend)
    if not task.on_edges:
        check_labels(part, f"partition {folder}", task)
    own, num_edges = session.sum([part.halo.own.numel(), part.e_id.numel()])
    return LoadedDataset(
        name=folder.name,
        task=task.name,
        graphs=[part],
        num_features=part.num_features,
        num_classes=_num_classes(part.y, session) if task.labels != "numbers" else 0,
        num_nodes=int(own),
        num_edges=int(num_edges),
        edge_dim=part.num_edge_features,
    )


def _num_classes(labels: Tensor | None, session: Session) -> int:
    return int(session.max(-1 if labels is None or not labels.numel() else int(labels.max()))) + 1
