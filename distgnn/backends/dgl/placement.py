"""Rows of ranks on the servers of their hosts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from distgnn.storage.specs import PartitionBook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distgnn.backends.dgl.rows import Ranges


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the rows of a store are.

    Args:
        book: Which rank owns which rows.
        ranges: Which host has which places.
        order: Which row is at which of these places; None where a place is an id.
        shift: How far a place of this rank's is from the place in its book.
    """

    book: PartitionBook
    ranges: Ranges
    order: PartitionBook | None = None
    shift: int = 0

    def places(self, ids: Tensor) -> Tensor:
        """Return where rows are on the servers."""
        return ids if self.order is None else self.order.places(ids)

    def ids_here(self) -> Tensor | None:
        """Return the ids of the rows of this host, where their places are not their ids."""
        if self.order is None or self.order.order is None:
            return None
        return self.order.ids(self.ranges.start, self.ranges.stop)


def on_hosts(book: PartitionBook, hosts: Sequence[int], rank: int) -> tuple[tuple[int, ...], PartitionBook, int]:
    """Put the rows of the ranks of each host together.

    Args:
        book: Which rank owns which rows.
        hosts: The host of each rank.
        rank: This rank.

    Returns:
        The bounds of the hosts' places; a book of the order that rows have then; and the first place of this rank's.
    """
    ranks = sorted(range(len(hosts)), key=lambda one: hosts[one])
    counts = [0] * (max(hosts) + 1)
    for one, host in enumerate(hosts):
        counts[host] += len(book.own(one))
    before = sum(len(book.own(one)) for one in ranks[: ranks.index(rank)])
    if ranks != list(range(len(hosts))):  # hosts have ranks that do not follow each other in number
        order = torch.cat([book.ids(*book.bounds[one : one + 2]) for one in ranks])
        book = PartitionBook((0, book.num_rows), order)
    return (0, *accumulate(counts)), book, before
