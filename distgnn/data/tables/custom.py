"""A graph of the user's own, from files."""

from __future__ import annotations

from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from distgnn.data.notes import note
from distgnn.data.tables.columns import edge_columns, names_of, unread
from distgnn.data.tables.features import read_features
from distgnn.data.tables.files import read_table
from distgnn.data.tables.ids import node_ids
from distgnn.data.tables.labels import read_labels
from distgnn.errors import DataFormatError
from distgnn.storage.free_memory import check_memory

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.data.tables.files import Table

MOST_NODES_WITHOUT_EDGE = 10_000_000  # where nearly all are so, and nobody said that so many are meant


def load_custom_graph(
    edges: str | Path,
    *,
    features: str | Path | None = None,
    labels: str | Path | None = None,
    num_nodes: int | None = None,
    undirected: bool = True,
    label_column: str | int | None = None,
    regression: bool = False,
    seed: int = 0,
) -> Data:
    """Load a graph from an edge file and, if there are any, files of features and labels.

    Text files (``.csv``, ``.tsv``, ``.txt``, ``.edges``, ``.edgelist``, plain or gzipped) are separated by commas,
    semicolons, tabs, bars or blanks; a header line is found by itself, and says what the columns are. ``.npz``,
    ``.npy`` and ``.pt`` files hold an array. What is left out is said by a :class:`DataWarning`.

    Args:
        edges: The edges, one a row: the columns that a header calls source and target (or src and dst, from and to,
            ...), or the only two, or without a header the first two; others are not read. As an array ``edge_index`` of
            shape ``[2, E]`` or ``[E, 2]``, where ``[2, 2]`` is read as the former.
        features: Node features, one row a node, in the order of the ids, or by a column that a header calls node, id or
            the like. As an array: ``x`` of shape ``[N, F]``.
        labels: Either one label a row, in the order of the ids, or a table with the id in the column called so, or the
            first, and the label in another; a node that it does not name, or whose field is empty, is unlabelled.
            Labels are whole numbers from 0; -1 says unlabelled. A column called split with train, val and test, or
            three masks of these names, is the split. As an array: ``y`` of shape ``[N]``.
        num_nodes: Number of nodes; by default the largest id in the edge file, plus one.
        undirected: Add the reverse of every edge and merge doubles. Otherwise edges stay as the file has them.
        label_column: Name or number of the label's column; by default that which the header calls so, or the only one.
        regression: Whether labels are numbers to be predicted instead of classes; an empty field is unlabelled, and
            -1 a number.
        seed: Seed of the split.

    Returns:
        ``edge_index [2, E]``; ``x [N, F]`` float32 if there are features; ``y [N]`` int64, -1 where there is no label,
        or with ``regression`` float32, NaN where there is none, and the masks of the file's split, or else of a random
        60/20/20 split by class, if there are labels.

    Raises:
        DatasetNotFoundError: A file is missing.
        DataFormatError: A file is not what it should be, or can mean two things; the text names the file and the line.
    """
    edge_index = read_edges(Path(edges), num_nodes)
    num_nodes = _count(Path(edges), edge_index) if num_nodes is None else num_nodes
    data = Data(edge_index=edge_index, num_nodes=num_nodes)
    if undirected:
        if num_nodes > isqrt(torch.iinfo(torch.int64).max):
            raise DataFormatError(
                f"{edges} has the id {num_nodes - 1}, which is too large for an undirected graph: PyG sorts edges by "
                "numbers below the square of the number of nodes; number nodes from 0 to N-1"
            )
        data.edge_index = to_undirected(edge_index, num_nodes=num_nodes)
    if labels is not None:
        check_memory(f"{edges} makes {num_nodes:,} nodes, whose labels and split", 16 * num_nodes)
        data.update(read_labels(Path(labels), num_nodes, label_column, seed=seed, regression=regression))
    if features is not None:
        own = None if labels is None else Path(labels)
        data.x = read_features(Path(features), num_nodes, labels=own, label_column=label_column, y=data.y)
    return data


def read_edges(path: Path, num_nodes: int | None) -> Tensor:
    """Read edges ``[2, E]`` as :func:`load_custom_graph` does.

    Raises:
        DatasetNotFoundError: The file is missing.
        DataFormatError: It has no edges of such nodes.
    """
    table = read_table(path, key="edge_index", pick=edge_columns)
    pairs = table.values
    if table.layout is None and pairs.dim() == 2 and len(pairs) == 2:
        pairs = pairs.t()
    width = pairs.size(-1) if table.layout is None else table.layout.width
    if pairs.dim() != 2 or width < 2 or (table.layout is None and width > 2):
        shape = [len(pairs), width] if table.layout else list(table.values.shape)
        raise DataFormatError(
            f"{path} holds a table of shape {shape}; an edge is two ids: "
            f"write source,target on every line, or an array of shape [2, E]"
        )
    ids = node_ids(table, pairs[:, :2], num_nodes)
    if table.layout is not None:
        if table.layout.header is None:
            _check_first_line(table, ids)
        rest = unread(table.layout, table.columns)
        if rest:
            note(
                f"{path}: not read is column {names_of(table.layout, rest)}, as weights and features of edges are not "
                f"taken from files; the ends of edges are {names_of(table.layout, table.columns)}"
            )
    return ids.t().contiguous()


def _check_first_line(table: Table, ids: Tensor) -> None:
    """Refuse a first line of numbers that may be something else than an edge, and a first column that counts rows."""
    first, rest = ids[0].tolist(), ids[1:]
    advice = "; write a header line, source,target, above the edges"
    if table.layout is not None and table.layout.width > 2 and len(ids) > 2:
        counts = ids[:, 0] - ids[0, 0]
        if ids[0, 0] <= 1 and torch.equal(counts, torch.arange(len(ids))) and _third_is_id(table):
            raise DataFormatError(f"{table.path}: the first of {table.layout.width} columns counts the lines{advice}")
    if not len(rest):
        return
    if first[1] == len(rest) > 1 and first[0] >= int(rest.max()):
        raise DataFormatError(
            f"{table.where(0)}: {first[0]} and {first[1]} look like the numbers of nodes and edges; remove the line, "
            f"or{advice[1:]} if it is an edge"
        )
    if (
        first == [0, 1]
        and table.layout is not None
        and table.layout.width == 2
        and table.layout.delimiter
        and len(rest) > 2
    ):
        keys = rest[:, 0] * (int(rest.max()) + 1) + rest[:, 1]
        if bool((rest[0] == ids[0]).all()) or bool((keys.diff() < 0).any()):
            raise DataFormatError(f"{table.where(0)}: 0,1 may be an edge, or a data frame's names of columns{advice}")


def _third_is_id(table: Table) -> bool:
    assert table.layout is not None
    _, fields = next(table.layout.rows())
    return fields[2].strip().isdecimal()


def _count(path: Path, edge_index: Tensor) -> int:
    """Count the nodes by the largest id, and say how many of them have an edge where these are few."""
    lowest, largest = (int(end) for end in edge_index.aminmax())
    num_nodes = largest + 1
    found = torch.unique(edge_index).numel() if num_nodes > edge_index.numel() or lowest else num_nodes
    if num_nodes > MOST_NODES_WITHOUT_EDGE and found < num_nodes // 10:
        raise DataFormatError(
            f"{path} has ids up to {largest:,}, which makes {num_nodes:,} nodes, of which {found:,} have an edge; "
            "number nodes anew, for example with numpy.unique(ids, return_inverse=True), "
            f"or give num_nodes ({num_nodes} or more) if so many are meant"
        )
    if 2 * found < num_nodes:
        share = 100 * (num_nodes - found) / num_nodes
        note(f"{path}: ids up to {largest:,} make {num_nodes:,} nodes, and {share:.0f} % of them have no edge")
    elif lowest == 1 and found == largest:
        note(f"{path}: ids count from 1, so that node 0 has no edge; subtract 1 if there is none")
    return num_nodes
