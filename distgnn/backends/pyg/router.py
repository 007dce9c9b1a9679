"""Bringing ids to the ranks that own their rows, and rows back.

A call costs two exchanges while batches keep their size: the first carries sizes and ids together, in messages as
long as the last call's largest, the second carries the rows. Only when a batch outgrows the messages the rest of its
ids takes one more. Rows travel in rounds, so that a call needs no more memory for them than its limit.

Rows that the ranks of a host have in common are read where they are. They change only in calls that every rank of the
host has entered, so a call first waits for all of them: then they have finished what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from distgnn.backends.pyg.ranks import as_bytes
from distgnn.optim.rows import group_by_id, put_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distgnn.backends.pyg.ranks import Ranks
    from distgnn.specs import PartitionBook

_STEP = 64  # messages grow by so many ids


@dataclass(frozen=True)
class Route:
    """Where the ids of one call went.

    Args:
        out: Number of ids that went to each rank.
        back: Number of ids that came from each rank.
        positions: What came, in the order of ranks, counted from this rank's first row.
        largest: The largest number of ids between any two ranks; the same on every rank.
    """

    out: list[int]
    back: list[int]
    positions: Tensor
    largest: int


@dataclass(frozen=True)
class Far:
    """The rows that one call fetched from other hosts.

    Args:
        ids: ``[K]``, all that were asked for.
        places: Where those of other hosts stand in ``ids``, in ascending order of ids.
        times: How often each of the rows that came is meant.
        route: Where they came from.
        rows: What came.
    """

    ids: Tensor
    places: Tensor
    times: Tensor
    route: Route
    rows: Tensor


class Router:
    """Routes the calls of one store.

    Args:
        ranks: The job.
        book: Which rank owns which rows.
        buffer_bytes: How much a rank sends at once, about.

    Attributes:
        num_rows: Number of rows of the store.
        own: The first row that this rank owns, and the row after its last.
        near: The same for all ranks of this host.
        one_host: Whether the job has no other host.
    """

    def __init__(self, ranks: Ranks, book: PartitionBook, buffer_bytes: int) -> None:
        self._ranks = ranks
        self.num_rows = book.bounds[-1]
        self.own = (book.bounds[ranks.rank], book.bounds[ranks.rank + 1])
        self.near = (book.bounds[ranks.host.members[0]], book.bounds[ranks.host.members[-1] + 1])
        self.one_host = len(ranks.host.members) == ranks.size
        self._bounds = torch.tensor(book.bounds)
        self._buffer_bytes = buffer_bytes
        self._capacity = _STEP

    def shared_rows(self, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        """Return zeros ``[rows of this host, *shape]`` that the ranks of this host have in common."""
        rows = torch.empty(0, *shape, dtype=dtype)
        count = self.near[1] - self.near[0]
        num_bytes = count * rows.element_size() * rows.shape[1:].numel()
        memory = self._ranks.share(max(1, num_bytes), name)[:num_bytes]
        return memory.view(dtype).view(count, *shape)

    def own_rows(self, rows: Tensor) -> Tensor:
        """Return those of this host's rows that this rank owns; no copy."""
        return rows[self.own[0] - self.near[0] : self.own[1] - self.near[0]]

    def send_ids(self, ids: Tensor, call: str) -> Route:
        """Tell every owner which of its rows are meant.

        Args:
            ids: ``[U]``, distinct and ascending.
            call: What it is for.
        """
        self._ranks.check_order(call)
        size = self._ranks.size
        if size == 1:
            return Route([ids.numel()], [ids.numel()], ids, ids.numel())
        cuts = torch.searchsorted(ids, self._bounds)
        out = cuts.diff()
        message = torch.zeros(size, 2 + self._capacity, dtype=torch.int64)
        message[:, 0] = out
        message[:, 1] = out.max()
        fitting = out.clamp(max=self._capacity).tolist()
        for rank, (begin, count) in enumerate(zip(cuts.tolist(), fitting, strict=False)):
            message[rank, 2 : 2 + count] = ids[begin : begin + count]
        received = self._ranks.exchange(message, [1] * size, [1] * size, call)
        back, largest = received[:, 0].tolist(), int(received[:, 1].max())
        parts = [row[2 : 2 + min(count, self._capacity)] for row, count in zip(received, back, strict=True)]
        if largest > self._capacity:
            rest_out = [count - fit for count, fit in zip(out.tolist(), fitting, strict=True)]
            rest_back = [count - part.numel() for count, part in zip(back, parts, strict=True)]
            rest = torch.cat([ids[end - count : end] for end, count in zip(cuts[1:].tolist(), rest_out, strict=True)])
            late = torch.split(self._ranks.exchange(rest, rest_out, rest_back, call), rest_back)
            parts = [torch.cat(pair) for pair in zip(parts, late, strict=True)]
        # Every rank has seen the same largest count, so the messages of all stay of one length.
        limit = max(_STEP, self._buffer_bytes // (8 * size))
        self._capacity = min(limit, -(-(largest + largest // 16) // _STEP) * _STEP or _STEP)
        return Route(out.tolist(), back, torch.cat(parts) - self.own[0], largest)

    def fetch(self, rows: Tensor, ids: Tensor, call: str) -> Tensor:
        """Read this host's rows where they are, and fetch each row of other hosts once from its owner.

        Args:
            rows: As from :meth:`shared_rows`.
            ids: ``[K]``, any.
            call: What it is for.

        Returns:
            ``[K, ...]`` in fresh memory.
        """
        if self.one_host:
            self._ranks.wait(call)
            return take_rows(rows, ids)
        return self.put_together(rows, self.fetch_far(rows, ids, call))

    def fetch_far(self, rows: Tensor, ids: Tensor, call: str) -> Far:
        """Do the part of :meth:`fetch` that needs other hosts."""
        away = ((ids < self.near[0]) | (ids >= self.near[1])).nonzero().squeeze(1)
        distinct, order, starts = group_by_id(ids.index_select(0, away))
        route = self.send_ids(distinct, call)
        came = self.return_rows(route, take_rows(self.own_rows(rows), route.positions), call)
        times = torch.cat([starts, starts.new_tensor([order.numel()])]).diff()
        return Far(ids, away.index_select(0, order), times, route, came)

    def put_together(self, rows: Tensor, far: Far) -> Tensor:
        """Do the rest of :meth:`fetch`."""
        fetched = rows.new_empty(far.ids.numel(), *rows.shape[1:])
        put_rows(fetched, far.places, take_rows(far.rows, torch.repeat_interleave(far.times)))
        here = ((far.ids >= self.near[0]) & (far.ids < self.near[1])).nonzero().squeeze(1)
        put_rows(fetched, here, take_rows(rows, far.ids.index_select(0, here) - self.near[0]))
        return fetched

    def refresh(self, rows: Tensor, far: Far, changed: Tensor, call: str) -> None:
        """Bring again those of the far rows that have changed.

        Args:
            rows: As from :meth:`shared_rows`.
            far: What came; its rows are overwritten.
            changed: ``[len(far.route.positions)]``, whether each of the rows that this rank sent has changed.
            call: What it is for.
        """
        size, back = self._ranks.size, far.route.back
        out = [int(part.sum()) for part in torch.split(changed, back)]
        heads = torch.tensor([[count, max(out)] for count in out])
        received = self._ranks.exchange(heads, [1] * size, [1] * size, call)
        come, largest = received[:, 0].tolist(), int(received[:, 1].max())
        which = torch.cat([part.nonzero().squeeze(1) for part in torch.split(changed, back)])
        again = take_rows(self.own_rows(rows), far.route.positions[changed])
        numbers = self._in_rounds(which, out, come, largest, call)
        again = self._in_rounds(again, out, come, largest, call)
        first = torch.tensor([0, *far.route.out[:-1]]).cumsum(0).repeat_interleave(torch.tensor(come))
        put_rows(far.rows, numbers + first, again)

    def send(self, ids: Tensor, rows: Tensor, call: str) -> tuple[Tensor, Tensor]:
        """Bring ids and the rows beside them to the owners.

        Args:
            ids: ``[U]``, distinct and ascending.
            rows: ``[U, ...]``, contiguous.
            call: What it is for.

        Returns:
            What came to this rank, in the order of ranks: positions ``[K]``, counted from its first row, and rows
            ``[K, ...]``.
        """
        if self.one_host:
            return self._send_on_host(ids, rows, call)
        route = self.send_ids(ids, call)
        return route.positions, self.send_rows(route, rows, call)

    def _send_on_host(self, ids: Tensor, rows: Tensor, call: str) -> tuple[Tensor, Tensor]:
        self._ranks.check_order(call)
        cuts = torch.searchsorted(ids, self._bounds).tolist()
        spans = list(pairwise(cuts))
        largest, done = max(end - begin for begin, end in spans), 0
        step = max(1, self._buffer_bytes // (self._ranks.size * (8 + _width(rows))))
        head = as_bytes(torch.tensor([largest]))
        came: list[tuple[Tensor, Tensor]] = []
        while done < max(1, largest):
            some = [slice(begin + done, min(begin + done + step, end)) for begin, end in spans]
            pieces = self._ranks.exchange_on_host(
                [(head, as_bytes(ids[part]), as_bytes(rows[part])) for part in some], call
            )
            largest = max(int(other.view(torch.int64)) for other, _, _ in pieces)
            more = largest > step  # then the next round overwrites this one
            came += [(one.clone(), many.clone()) if more else (one, many) for _, one, many in pieces]
            done += step
        positions, content = (torch.cat(parts) for parts in zip(*came, strict=True))
        return positions.view(torch.int64) - self.own[0], content.view(rows.dtype).view(-1, *rows.shape[1:])

    def send_rows(self, route: Route, rows: Tensor, call: str) -> Tensor:
        """Bring rows ``[U, ...]`` beside their ids to the owners; return ``[len(positions), ...]`` there."""
        return self._in_rounds(rows, route.out, route.back, route.largest, call)

    def return_rows(self, route: Route, rows: Tensor, call: str) -> Tensor:
        """Bring the owners' rows ``[len(positions), ...]`` back to who asked; return ``[U, ...]`` there."""
        return self._in_rounds(rows, route.back, route.out, route.largest, call)

    def return_ragged(self, route: Route, counts: Tensor, rows: Tensor, call: str) -> tuple[Tensor, Tensor]:
        """Bring back ``counts[i]`` rows for each id; return the counts ``[U]`` and the rows there."""
        totals = [int(part.sum()) for part in torch.split(counts, route.back)]
        largest = max(totals)
        heads = torch.tensor([[total, largest] for total in totals])
        size = self._ranks.size
        received = self._ranks.exchange(heads, [1] * size, [1] * size, call) if size > 1 else heads
        counts = self.return_rows(route, counts, call)
        return counts, self._in_rounds(rows, totals, received[:, 0].tolist(), int(received[:, 1].max()), call)

    def _in_rounds(self, rows: Tensor, out: list[int], back: list[int], largest: int, call: str) -> Tensor:
        if self._ranks.size == 1:
            return rows
        width = _width(rows)
        content = (
            rows.contiguous().view(torch.uint8).view(rows.size(0), width)
            if rows.numel()
            else rows.new_empty(0, width, dtype=torch.uint8)
        )
        step = max(1, self._buffer_bytes // (width * self._ranks.size))
        if largest <= step:
            received = self._ranks.exchange(content, out, back, call)
        else:
            received = content.new_empty(sum(back), width)
            goals, sources = torch.split(received, back), torch.split(content, out)
            for done in range(0, largest, step):
                now_out = [min(step, max(0, count - done)) for count in out]
                now_back = [min(step, max(0, count - done)) for count in back]
                send = torch.cat([part[done : done + count] for part, count in zip(sources, now_out, strict=True)])
                came = torch.split(self._ranks.exchange(send, now_out, now_back, call), now_back)
                for goal, part in zip(goals, came, strict=True):
                    goal[done : done + part.size(0)] = part
        return received.view(-1).view(rows.dtype).view(received.size(0), *rows.shape[1:])


def _width(rows: Tensor) -> int:
    return rows.element_size() * rows.shape[1:].numel()
