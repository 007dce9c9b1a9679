"""A partitioned graph, put together again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch_geometric.data import Data

from distgnn.data import LoadedDataset
from distgnn.graph.partition.reader import open_partition, read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def load_whole(folder: Path) -> LoadedDataset:
    """Load all parts of a partition as one graph, by the user's ids.

    Args:
        folder: A folder of :func:`distgnn.graph.partition_graph`.

    Raises:
        DatasetNotFoundError: The folder is no partition, or a file is missing.
        DataFormatError: A file was cut off or changed.
    """
    bounds = read_manifest(folder)["node_bounds"].bounds
    parts = [open_partition(folder, part) for part in range(len(bounds) - 1)]
    new_to_old = torch.cat([part.node_ids for part in parts])
    nodes, edges = new_to_old.argsort(), torch.cat([part.edge_ids for part in parts]).argsort()
    edge_index = new_to_old[torch.cat([part.edge_index for part in parts], dim=1)][:, edges]

    def whole(kind: str, order: Tensor) -> dict[str, Tensor]:
        names = getattr(parts[0], kind)
        return {name: torch.cat([getattr(part, kind)[name] for part in parts])[order] for name in names}

    graph = Data(edge_index=edge_index, num_nodes=nodes.numel(), **whole("node_features", nodes))
    graph.update(whole("edge_features", edges))
    graph.n_id, graph.e_id = torch.arange(nodes.numel()), torch.arange(edges.numel())
    return LoadedDataset(
        name=folder.name,
        task="node",
        graphs=[graph],
        num_features=graph.num_node_features,
        num_classes=0,
        num_nodes=nodes.numel(),
        num_edges=edges.numel(),
        edge_dim=graph.num_edge_features,
    )
