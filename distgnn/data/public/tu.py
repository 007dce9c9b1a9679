"""Sets of small graphs in the TU collection's layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch_geometric.utils import coalesce, one_hot, remove_self_loops

from distgnn.data.notes import note
from distgnn.data.tables.files import read_table
from distgnn.data.tables.ids import whole
from distgnn.errors import DataFormatError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distgnn.data.tables.files import Table

_MOST_VALUES_WITH_GAPS = 1000  # of a label of nodes or edges


@dataclass(frozen=True, eq=False)
class GraphSet:
    """Graphs, one behind the other.

    Attributes:
        edge_index: ``[2, E]``, by nodes of all graphs, sorted by source.
        graph: ``[N]``, the graph of each node, ascending.
        y: ``[G]``, the class of each graph, from 0.
        node_labels: ``[N, L]``, one-hot; L is 0 where there are none.
        node_attributes: ``[N, A]``; A is 0 where there are none.
        edge_labels: ``[E, M]``, one-hot.
        edge_attributes: ``[E, B]``.
    """

    edge_index: Tensor
    graph: Tensor
    y: Tensor
    node_labels: Tensor
    node_attributes: Tensor
    edge_labels: Tensor
    edge_attributes: Tensor


def read_graph_set(folder: Path, name: str) -> GraphSet:
    """Read a set as PyG's ``TUDataset`` does: self loops left out, equal edges merged, classes numbered from 0.

    Args:
        folder: With the raw files.
        name: Of the set.

    Raises:
        DataFormatError: A file is not what it should be.
    """

    def read(part: str) -> Table | None:
        path = folder / f"{name}_{part}.txt"
        return read_table(path, key=part) if path.exists() else None

    if (folder / f"{name}_graph_attributes.txt").exists():
        raise DataFormatError(
            f"{folder / name}_graph_attributes.txt holds numbers to be predicted (regression), and only classes are "
            f"trained here; for those of {name}_graph_labels.txt, take this file away"
        )
    graph = _graphs(_needed(read("graph_indicator"), folder, name, "graph_indicator"))
    y = _classes(_needed(read("graph_labels"), folder, name, "graph_labels"), int(graph.max()) + 1)
    edges = _edges(_needed(read("A"), folder, name, "A"), graph)
    nodes, links = graph.numel(), edges.size(1)
    columns = [
        _labels(read("node_labels"), nodes, "nodes"),
        _attributes(read("node_attributes"), nodes, "nodes"),
        _labels(read("edge_labels"), links, "edges"),
        _attributes(read("edge_attributes"), links, "edges"),
    ]
    width = columns[2].size(1)
    both = torch.cat(columns[2:], dim=1)
    edge_index, both = remove_self_loops(edges, both)
    edge_index, both = coalesce(edge_index, both, nodes)
    return GraphSet(edge_index, graph, y, columns[0], columns[1], both[:, :width], both[:, width:])


def tell(found: GraphSet, folder: Path, name: str) -> None:
    """Say what is unusual in a set that somebody has written."""
    with (folder / f"{name}_A.txt").open(encoding="utf-8-sig") as file:
        lines = sum(1 for line in file if not line.isspace())
    kept = found.edge_index.size(1)
    if kept < lines:
        note(f"{name}_A.txt: of {lines:,} edges {kept:,} are kept: self loops are left out, and equal edges merged")
    reverse = coalesce(found.edge_index.flip(0), num_nodes=found.graph.numel())
    if not torch.equal(reverse, found.edge_index):
        note(f"{name}_A.txt has edges in one direction alone, which messages go along; list both for undirected graphs")


def _needed(table: Table | None, folder: Path, name: str, part: str) -> Table:
    if table is None:
        raise DataFormatError(f"{folder / name}_{part}.txt is missing, which a set of graphs needs")
    return table


def _integers(table: Table, what: str) -> Tensor:
    table.refuse(~whole(table.values), table.values, f"is not {what}")
    return table.values.long()


def _graphs(table: Table) -> Tensor:
    if table.values.size(1) != 1:
        raise DataFormatError(f"{table.path} has {table.values.size(1)} columns; write the number of a node's graph")
    graph = _integers(table, "the number of a graph; graphs count from 1").flatten()
    table.refuse(graph < 1, graph, "is not the number of a graph; graphs count from 1")
    steps = graph.diff(prepend=torch.zeros(1, dtype=torch.int64))
    table.refuse(steps < 0, graph, "comes again after a later graph; keep the nodes of a graph together")
    table.refuse(steps > 1, graph, "leaves a number out: a graph without nodes, or a gap; number graphs from 1 to G")
    return graph - 1


def _classes(table: Table, num_graphs: int) -> Tensor:
    if table.values.size(1) != 1:
        raise DataFormatError(
            f"{table.path} has {table.values.size(1)} columns; a graph has one class (several labels are not trained)"
        )
    if len(table.values) != num_graphs:
        raise DataFormatError(
            f"{table.path} has {len(table.values):,} labels, and graph_indicator has {num_graphs:,} graphs; "
            "write one line a graph"
        )
    numbers = table.values.flatten()
    table.refuse(
        ~whole(numbers), numbers, "is not a class; classes are whole numbers, and numbers (regression) are not trained"
    )
    distinct, y = (torch.as_tensor(found) for found in torch.unique(numbers, return_inverse=True))
    if 2 * distinct.numel() > numbers.numel() >= 20:
        note(f"{table.path}: {numbers.numel():,} graphs have {distinct.numel():,} different labels; are these classes?")
    return y


def _edges(table: Table, graph: Tensor) -> Tensor:
    if table.values.size(1) != 2:
        raise DataFormatError(f"{table.path} has {table.values.size(1)} columns; an edge is two nodes: write 1, 2")
    ends = _integers(table, "a node; nodes count from 1 through all graphs")
    table.refuse(ends < 1, ends, "is not a node: they count from 1 through all graphs; add 1 if yours count from 0")
    table.refuse(ends > graph.numel(), ends, f"is not a node: graph_indicator has {graph.numel():,} lines")
    ends = ends - 1
    graphs = graph[ends]
    table.refuse(
        graphs[:, 0] != graphs[:, 1], graphs[:, 0] + 1, "is the graph of its source, and its target is in another"
    )
    return ends.t().contiguous()


def _check_length(table: Table, rows: int, what: str) -> None:
    if len(table.values) != rows:
        raise DataFormatError(f"{table.path} has {len(table.values):,} lines for {rows:,} {what}; write one for each")


def _labels(table: Table | None, rows: int, what: str) -> Tensor:
    if table is None:
        return torch.empty(rows, 0)
    _check_length(table, rows, what)
    labels = _integers(table, "a label; labels are whole numbers, and other numbers go into attributes")
    labels = labels - labels.min(dim=0)[0]
    for column in labels.t():
        values, distinct = int(column.max()) + 1, torch.unique(column).numel()
        if values > _MOST_VALUES_WITH_GAPS and distinct < values // 2:
            raise DataFormatError(
                f"{table.path}: labels span {values:,} numbers of which {distinct:,} are there, and each would be a "
                "column; number them anew, or write them as attributes"
            )
        check_memory(f"{table.path} makes {values:,} columns, which", 4 * values * rows)
    return torch.cat([one_hot(column) for column in labels.t()], dim=1)


def _attributes(table: Table | None, rows: int, what: str) -> Tensor:
    if table is None:
        return torch.empty(rows, 0)
    _check_length(table, rows, what)
    table.refuse(~table.values.isfinite(), table.values, "is not a finite number; fill such gaps first")
    return table.values.float()
