"""Partitioning of a graph into folders of parts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from distgnn.checkpoint.tensors import blocks
from distgnn.errors import DataFormatError
from distgnn.graph.partition.assign import assign_nodes
from distgnn.graph.partition.writer import PartitionWriter, check_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch_geometric.data import Data

    from distgnn.graph.partition.report import PartitionReport


def partition_graph(
    graph: Data,
    out: str | Path,
    num_parts: int,
    *,
    method: str = "metis",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PartitionReport:
    """Cut a graph into parts and write each into a folder of its own.

    Nodes are numbered anew, so that every part owns a range of them, and within it in the order of the user's ids; an
    edge belongs to the part of its destination, and edges are numbered anew in the order of their destinations. A part
    has its nodes and edges, their rows of every feature, and the ids of its halo: the nodes of other parts that its
    edges come from. Features, which may be memory-mapped tensors larger than memory, go to their files in blocks; of
    the structure, one part and a few numbers for every node are in memory at a time (with METIS all of it).

    The folder appears when it is whole; a run that fails leaves none.

    Args:
        graph: ``edge_index`` and the number of nodes; tensors with a row for every node or edge are its features.
        out: The folder.
        num_parts: How many parts.
        method: See :func:`~distgnn.graph.partition.assign.assign_nodes`.
        seed: Of METIS and of the hash.
        overwrite: Replace a partition that is there.
        progress: Is called with the number of parts done.

    Returns:
        The report, which is also in the manifest and in ``partition.png``.

    Raises:
        ConfigError: ``out`` is there already or cannot be written, or the method or number of parts cannot be.
        DataFormatError: The graph has no nodes, or edges that end outside it, or a feature of a type that cannot be
            saved.
    """
    out = Path(out)
    check_graph(graph)
    check_free(out, overwrite=overwrite)
    features, left_out = rows_of(graph)
    parts = assign_nodes(graph.edge_index, graph.num_nodes, num_parts, method=method, seed=seed)
    nodes = parts.argsort(stable=True)  # the user's ids in the new order
    new = torch.empty_like(nodes)
    new[nodes] = torch.arange(nodes.numel())
    stops = parts.bincount(minlength=num_parts).cumsum(0).tolist()
    with PartitionWriter(out, nodes, graph.num_edges, overwrite=overwrite) as writer:
        for part, (first, last) in enumerate(pairwise([0, *stops])):
            sources, positions, edge_ids = in_edges(graph.edge_index, parts, new, part, first)
            writer.add_part(
                torch.cat([torch.zeros(1, dtype=torch.int64), positions.bincount(minlength=last - first).cumsum(0)]),
                sources,
                edge_ids,
                node_features=features["nodes"],
                node_rows=nodes[first:last],
                edge_features=features["edges"],
                edge_rows=edge_ids,
            )
            if progress is not None:
                progress(part + 1)
        return writer.finish(method, seed, left_out)


def in_edges(edge_index: Tensor, parts: Tensor, new: Tensor, part: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the edges of a part in the order of destinations, and for equal ones of the user's ids.

    Args:
        edge_index: ``[2, E]`` by the user's ids.
        parts: ``[N]``, the part of each node.
        new: ``[N]``, the new ids.
        part: Which part.
        first: New id of its first node.

    Returns:
        The new ids of sources, the destinations counted from ``first``, and the user's edge ids.
    """
    found = []
    for begin, block in blocks(edge_index.size(1), 16):
        sources, destinations = edge_index[:, block]
        mine = (parts.index_select(0, destinations) == part).nonzero().flatten()
        ends = (new.index_select(0, end.index_select(0, mine)) for end in (sources, destinations))
        found.append((*ends, mine + begin))
    if not found:
        return (torch.empty(0, dtype=torch.int64),) * 3
    sources, destinations, edge_ids = (torch.cat(columns) for columns in zip(*found, strict=True))
    order = destinations.argsort(stable=True)
    return sources[order], destinations[order] - first, edge_ids[order]


def check_graph(graph: Data) -> None:
    """Refuse what cannot be cut.

    Raises:
        DataFormatError: The graph has no nodes, or edges that end outside it.
    """
    edge_index = graph.edge_index
    if edge_index is None or not graph.num_nodes or edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise DataFormatError("there is no graph to cut: it needs nodes and an edge_index of shape [2, E]")
    if edge_index.dtype != torch.int64:
        raise DataFormatError(f"edge_index must be torch.int64, not {edge_index.dtype}; convert it with .long()")
    low, high = (int(end) for end in edge_index.aminmax()) if edge_index.numel() else (0, 0)
    if low < 0 or high >= graph.num_nodes:
        raise DataFormatError(f"edge_index holds nodes {low} to {high}, the graph has nodes 0 to {graph.num_nodes - 1}")


def rows_of(graph: Data) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """Find what has a row for each node or edge, and the names of the rest."""
    features: dict[str, dict[str, Tensor]] = {"nodes": {}, "edges": {}}
    left_out = []
    for name, value in graph.to_dict().items():
        if name in {"edge_index", "num_nodes"}:
            continue
        in_rows = isinstance(value, Tensor) and value.layout == torch.strided and not graph.__cat_dim__(name, value)
        if in_rows and graph.is_node_attr(name):
            features["nodes"][name] = value
        elif in_rows and graph.is_edge_attr(name):
            features["edges"][name] = value
        else:
            left_out.append(name)
    return features, tuple(left_out)
