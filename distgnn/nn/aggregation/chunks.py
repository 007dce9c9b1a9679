"""Edges of bags in chunks, whose rows a thread has in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from distgnn.storage.toolkit.threads import share_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distgnn.nn.aggregation.layout import Bags

_CHUNK = 2**19  # numbers in the messages that a thread has in memory at a time


class Chunk(NamedTuple):
    """Some edges of bags, one after the other, and the nodes that they belong to."""

    edges: slice
    nodes: slice
    offsets: Tensor
    bags: Bags
    each: Tensor

    def neighbors_of(self, x: Tensor) -> Tensor:
        """Return the row of the node at the other end of each edge."""
        return gather(x, self.bags.neighbors[self.edges], self.each)

    def nodes_of(self, x: Tensor) -> Tensor:
        """Return the row of each edge's node."""
        return x[self.nodes].repeat_interleave(self.offsets.diff(), dim=0)

    def edges_of(self, edge_attr: Tensor) -> Tensor:
        """Return the row of each edge."""
        order = self.bags.order
        return edge_attr[self.edges] if order is None else gather(edge_attr, order[self.edges], self.each)

    def sum(self, rows: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sum a row an edge into one a node.

        Args:
            rows: A row for each edge of the chunk.
            weight: ``[E]``, what rows are multiplied by, in the order of the bags; None is 1.
        """
        return sum_bags(rows, self.each[: rows.size(0)], self.offsets, None if weight is None else weight[self.edges])


def sum_chunks(sums_of: Callable[[Chunk], Tensor], bags: Bags, like: Tensor) -> Tensor:
    """Add up the sums of nodes that are given chunk by chunk; the edges of a node may lie in several."""
    out = like.new_zeros(bags.offsets.numel() - 1, like.size(1))
    chunks = list(_chunks(bags, like.size(1)))
    begun: dict[int, Tensor] = {}

    def add(number: int) -> None:
        chunk = chunks[number]
        sums = sums_of(chunk)
        out[chunk.nodes][1:] = sums[1:]
        begun[number] = sums[0].clone()  # the node may have begun in a chunk that another thread is at

    share_work(add, range(len(chunks)), least=1)
    for number, chunk in enumerate(chunks):
        out[chunk.nodes.start] += begun[number]
    return out


def _chunks(bags: Bags, width: int) -> Iterator[Chunk]:
    num_edges, step = bags.neighbors.numel(), step_of(width)
    each = torch.arange(step + 1, dtype=bags.offsets.dtype)
    begins = torch.arange(0, num_edges, step)
    ends = (begins + step).clamp_(max=num_edges)
    first = torch.searchsorted(bags.offsets, begins, right=True) - 1
    last = torch.searchsorted(bags.offsets, ends)
    for begin, end, low, high in torch.stack((begins, ends, first, last), dim=1).tolist():
        offsets = (bags.offsets[low : high + 1] - begin).clamp_(0, end - begin)
        yield Chunk(slice(begin, end), slice(low, high), offsets, bags, each)


def step_of(width: int) -> int:
    """Return how many edges a chunk has, of rows of a width."""
    return max(1, _CHUNK // max(1, width))


def gather(rows: Tensor, indices: Tensor, each: Tensor) -> Tensor:
    """Copy rows.

    Args:
        rows: ``[N, D]``.
        indices: ``[K]``.
        each: Numbers that count from 0, at least K + 1 of them.
    """
    if rows.dtype == torch.float64:
        return rows.index_select(0, indices)
    # As bags of one row: that loop fetches ahead, index_select does not.
    return sum_bags(rows, indices, each[: indices.numel() + 1])


def sum_bags(rows: Tensor, indices: Tensor, offsets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum rows into one a bag.

    Args:
        rows: ``[N, D]``.
        indices: ``[K]``, the rows of each bag, bag by bag.
        offsets: ``[B + 1]``, where the bags begin.
        weight: ``[K]`` of the rows' type, what each row is multiplied by; None is 1.
    """
    # Not F.embedding_bag: its backward is slow. Rows that require gradients would make torch prepare for that one. A
    # padding_idx of -1, if given, would be the last row.
    weight = None if weight is None else weight.detach()
    return torch.embedding_bag(rows.detach(), indices, offsets, False, 0, False, weight, True)[0]
