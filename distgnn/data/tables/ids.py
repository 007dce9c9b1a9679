"""Ids of nodes as files have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.errors import DataFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from distgnn.data.tables.files import Table

LARGEST_ID = 2**53  # from here on float64, which text is read as, does not tell neighbours apart


def node_ids(table: Table, numbers: Tensor, num_nodes: int | None) -> Tensor:
    """Take numbers for ids of nodes.

    Raises:
        DataFormatError: One is none; the text names the line.
    """
    table.refuse(~whole(numbers), numbers, "is not a whole number; node ids are the integers from 0 to N-1")
    table.refuse(numbers < 0, numbers, "is a negative id; node ids are the integers from 0 to N-1")
    if num_nodes is not None:
        outside = f"is not below the number of nodes, {num_nodes}; give a larger num_nodes or mend the id"
        table.refuse(numbers >= num_nodes, numbers, outside)
    return numbers.long()


def whole(numbers: Tensor) -> Tensor:
    """Where numbers are whole, and exact."""
    return (numbers == numbers.floor()) & (numbers.abs() < LARGEST_ID)


def check_rows(table: Table, num_nodes: int, what: str) -> None:
    """Refuse a table that has not a row for each node."""
    if len(table.values) != num_nodes:
        one_more = "; do ids count from 1?" if len(table.values) == num_nodes - 1 else ""
        raise DataFormatError(
            f"{table.path} has {len(table.values)} {what}, but the graph has {num_nodes} nodes; "
            f"write one row a node, or give num_nodes if some nodes have no edge{one_more}"
        )
