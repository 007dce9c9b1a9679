"""A graph of the user's own, from files."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from distgnn.data.splits import random_masks
from distgnn.data.tables import read_table
from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.data.tables import Table

LARGEST_ID = 2**53  # from here on float64, which text is read as, does not tell neighbours apart


def load_custom_graph(
    edges: str | Path,
    *,
    features: str | Path | None = None,
    labels: str | Path | None = None,
    num_nodes: int | None = None,
    undirected: bool = True,
    label_column: str | int | None = None,
    seed: int = 0,
) -> Data:
    """Load a graph from an edge file and, if there are any, files of features and labels.

    Text files (``.csv``, ``.tsv``, ``.txt``, ``.edges``, ``.edgelist``, plain or gzipped) are separated by commas,
    semicolons, tabs or spaces; a header line is found by itself. ``.npz``, ``.npy`` and ``.pt`` files hold an array.

    Args:
        edges: The edges, one a row: source id, target id; further columns must be numbers and are ignored. As an array
            ``edge_index`` of shape ``[2, E]`` or ``[E, 2]``, where ``[2, 2]`` is read as the former.
        features: Node features, one row a node, in the order of the ids. As an array: ``x`` of shape ``[N, F]``.
        labels: Either one label a row, in the order of the ids, or a table with the id in the first column and the
            label in another; a node that it does not name is unlabelled. Labels are whole numbers from 0; -1 says
            unlabelled. As an array: ``y`` of shape ``[N]``.
        num_nodes: Number of nodes; by default the largest id in the edge file, plus one.
        undirected: Add the reverse of every edge and merge doubles. Otherwise edges stay as the file has them.
        label_column: Name or number of the label's column; by default the last.
        seed: Seed of the split.

    Returns:
        ``edge_index [2, E]``; ``x [N, F]`` float32 if there are features; ``y [N]`` int64, -1 where there is no label,
        and the masks of a random 60/20/20 split of the labelled nodes if there are labels.

    Raises:
        DatasetNotFoundError: A file is missing.
        DataFormatError: A file is not what it should be; the text names the file and the line.
    """
    edge_index = _read_edges(Path(edges), num_nodes)
    num_nodes = int(edge_index.max()) + 1 if num_nodes is None else num_nodes
    data = Data(edge_index=edge_index, num_nodes=num_nodes)
    if undirected:
        if num_nodes > isqrt(torch.iinfo(torch.int64).max):
            raise DataFormatError(
                f"{edges} has the id {num_nodes - 1}, which is too large for an undirected graph: PyG sorts edges by "
                "numbers below the square of the number of nodes; number nodes from 0 to N-1"
            )
        data.edge_index = to_undirected(edge_index, num_nodes=num_nodes)
    if features is not None:
        data.x = _read_features(Path(features), num_nodes)
    if labels is not None:
        data.y = _read_labels(Path(labels), num_nodes, label_column)
        data.update(random_masks(data.y, seed=seed))
    return data


def _read_edges(path: Path, num_nodes: int | None) -> Tensor:
    table = read_table(path, key="edge_index")
    pairs = table.values
    if table.layout is None and pairs.dim() == 2 and len(pairs) == 2:
        pairs = pairs.t()
    if pairs.dim() != 2 or pairs.size(1) < 2 or (table.layout is None and pairs.size(1) > 2):
        raise DataFormatError(
            f"{path} holds a table of shape {list(table.values.shape)}; an edge is two ids: "
            f"write source,target on every line, or an array of shape [2, E]"
        )
    return _ids(table, pairs[:, :2], num_nodes).t().contiguous()


def _read_features(path: Path, num_nodes: int) -> Tensor:
    table = read_table(path, key="x")
    table.refuse(~table.values.isfinite(), table.values, "is not a finite number; fill such gaps first")
    _check_rows(table, num_nodes, "feature rows")
    return table.values.float().view(num_nodes, -1)


def _read_labels(path: Path, num_nodes: int, label_column: str | int | None) -> Tensor:
    column = -1 if label_column is None else label_column
    table = read_table(path, key="y", columns=(0, column))
    if table.layout is None or table.values.size(1) == 1:
        _check_rows(table, num_nodes, "labels")
        if table.values.numel() != num_nodes:
            raise DataFormatError(f"{path} holds {list(table.values.shape)}; labels are an array of shape [N]")
        return _label_values(table, table.values.flatten())
    nodes = _ids(table, table.values[:, 0], num_nodes)
    twice = nodes.bincount(minlength=num_nodes)[nodes] > 1
    table.refuse(twice, nodes, "has more than one label; keep one line a node")
    y = torch.full((num_nodes,), -1)
    y[nodes] = _label_values(table, table.values[:, 1])
    return y


def _ids(table: Table, numbers: Tensor, num_nodes: int | None) -> Tensor:
    table.refuse(~_whole(numbers), numbers, "is not a whole number; node ids are the integers from 0 to N-1")
    table.refuse(numbers < 0, numbers, "is a negative id; node ids are the integers from 0 to N-1")
    if num_nodes is not None:
        outside = f"is not below the number of nodes, {num_nodes}; give a larger num_nodes or mend the id"
        table.refuse(numbers >= num_nodes, numbers, outside)
    return numbers.long()


def _label_values(table: Table, numbers: Tensor) -> Tensor:
    valid = _whole(numbers) & (numbers >= -1)
    table.refuse(~valid, numbers, "is not a label; labels are the integers from 0, and -1 for unlabelled")
    return numbers.long()


def _whole(numbers: Tensor) -> Tensor:
    return (numbers == numbers.floor()) & (numbers.abs() < LARGEST_ID)


def _check_rows(table: Table, num_nodes: int, what: str) -> None:
    if len(table.values) != num_nodes:
        raise DataFormatError(
            f"{table.path} has {len(table.values)} {what}, but the graph has {num_nodes} nodes; "
            f"write one row a node, or give num_nodes if some nodes have no edge"
        )
