"""Features of nodes from a file: neither their ids nor their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from distgnn.data.notes import note
from distgnn.data.splits import is_labelled
from distgnn.data.tables.columns import (
    find_label,
    id_column,
    is_index,
    names_label,
    names_of,
    node_column,
    split_columns,
)
from distgnn.data.tables.files import read_table
from distgnn.data.tables.ids import check_rows, node_ids
from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distgnn.data.tables.files import Table
    from distgnn.data.tables.text import TextTable

_MANY = 20  # labelled nodes, from which a column that equals the labels is no accident


def read_features(
    path: Path, num_nodes: int, *, labels: Path | None, label_column: str | int | None, y: Tensor | None
) -> Tensor:
    """Read features ``[num_nodes, F]``, float32.

    Args:
        path: The file.
        num_nodes: Number of nodes.
        labels: The label file, whose label is no feature, where it is the same file or has the same name in this one.
        label_column: Its column.
        y: The labels.

    Raises:
        DataFormatError: They are not the features of these nodes, or it is not clear which columns are.
    """
    same = labels is not None and labels.exists() and path.exists() and labels.samefile(path)

    def pick(table: TextTable) -> list[int]:
        if table.header is None:
            if same and table.width > 1:
                raise DataFormatError(
                    f"{path} has features and labels and no header line, so that ids and labels cannot be told from "
                    "features; write a header"
                )
            return [*range(table.width)]
        left_out = _labels_in(table, same=same, label_column=label_column) if labels is not None else set()
        nodes = node_column(table, find_label(table, label_column)) if same else id_column(table)
        if nodes is not None:
            left_out |= {i for i, name in enumerate(table.header) if is_index(name)}
        first = [nodes] if nodes is not None else []
        left_out -= set(first)
        picked = [*first, *(i for i in range(table.width) if i not in left_out and i not in first)]
        told = sorted(i for i in left_out if not is_index(table.header[i]))
        if told:
            note(f"{path}: no feature is {names_of(table, told)}, which is what is to be learned, or how it is split")
        if len(picked) == len(first):
            raise DataFormatError(f"{path} has no columns of features beside {names_of(table, range(table.width))}")
        return picked

    table = read_table(path, key="x", pick=pick)
    table = _without_column_numbers(table, num_nodes)
    table.refuse(~table.values.isfinite(), table.values, "is not a finite number; fill such gaps first")
    x = _in_order(table, num_nodes, same=same, label_column=label_column)
    if y is not None:
        _warn_of_labels(path, x, y)
    return x


def _labels_in(table: TextTable, *, same: bool, label_column: str | int | None) -> set[int]:
    """Find the columns of a table of features that are labels or a split."""
    header = table.header or ()
    if same:
        return {find_label(table, label_column), *split_columns(table)}
    named = {i for i, name in enumerate(header) if name == label_column or names_label(name)}
    return named | set(split_columns(table))


def _in_order(table: Table, num_nodes: int, *, same: bool, label_column: str | int | None) -> Tensor:
    layout = table.layout
    check_rows(table, num_nodes, "feature rows")
    if layout is None:
        return table.values.float().reshape(num_nodes, -1)
    header = layout.header
    ids = (node_column(layout, find_label(layout, label_column)) if same else id_column(layout)) if header else None
    first = table.values[:, 0]
    if ids is not None:
        nodes = node_ids(table, first, num_nodes)
        twice = nodes.bincount(minlength=num_nodes)[nodes] > 1
        table.refuse(twice, nodes, f"is in column {layout.name(ids)} more than once; a node has one row")
        x = torch.empty(num_nodes, table.values.size(1) - 1)
        x[nodes] = table.values[:, 1:].float()
        return x
    counts = torch.equal(first, torch.arange(num_nodes).double())
    if header and is_index(header[table.columns[0]]):
        if not counts:
            raise DataFormatError(
                f"{table.path}: column {layout.name(table.columns[0])} looks like the number of the row, and is not: "
                "call it node if it is the node's id, or leave it out"
            )
        return _checked_width(table, table.values[:, 1:])
    is_order = (
        num_nodes > 2
        and table.values.size(1) > 1
        and torch.equal(first.sort().values - first.min(), torch.arange(num_nodes).double())
    )
    if is_order and not header:
        raise DataFormatError(
            f"{table.path}: the first column numbers the nodes, and there is no header line; write one that calls it "
            "node, or leave the column out"
        )
    return table.values.float()


def _checked_width(table: Table, rows: Tensor) -> Tensor:
    if not rows.size(1):
        raise DataFormatError(f"{table.path} has no columns of features beside the number of the row")
    return rows.float()


def _without_column_numbers(table: Table, num_nodes: int) -> Table:
    """Take a first line 0,1,2,... off that is one more than there are nodes: a data frame's default names."""
    rows = table.values
    if table.layout is None or table.layout.header or len(rows) != num_nodes + 1 or rows.dim() != 2:
        return table
    if not torch.equal(rows[0], torch.arange(rows.size(1)).double()):
        return table
    note(f"{table.path}: its first line, 0 to {rows.size(1) - 1}, is taken for the names of columns")
    lines = table.layout.lines()
    next(lines)
    following, _ = next(lines)
    layout = type(table.layout)(table.path, table.layout.delimiter, None, following, table.layout.width)
    return type(table)(table.path, rows[1:], layout, table.columns)


def _warn_of_labels(path: Path, x: Tensor, y: Tensor) -> None:
    labelled = is_labelled(y)
    if int(labelled.sum()) < _MANY or torch.unique(y[labelled]).numel() < 2:
        return
    equal = (x[labelled] == y[labelled].float().unsqueeze(1)).all(dim=0).nonzero().flatten().tolist()
    if equal:
        note(f"{path}: feature {', '.join(map(str, equal))} (from 0) is every labelled node's label; is it a leak?")
