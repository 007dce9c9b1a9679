"""Bringing ids to the ranks that own their rows, and rows back.

A call costs two collectives while batches keep their size: the first carries sizes and ids together, in messages as
long as the last call's largest, the second carries the rows. Only when a batch outgrows the messages the rest of its
ids takes one more. Rows travel in rounds, so that a call needs no more memory for them than its limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
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


class Router:
    """Routes the calls of one store.

    Args:
        ranks: The job.
        book: Which rank owns which rows.
        buffer_bytes: How much a rank sends at once, about.
    """

    def __init__(self, ranks: Ranks, book: PartitionBook, buffer_bytes: int) -> None:
        self._ranks = ranks
        self._bounds = torch.tensor(book.bounds)
        self._start = book.bounds[ranks.rank]
        self._buffer_bytes = buffer_bytes
        self._capacity = _STEP
        self.bytes_sent = 0

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
        received = self._exchange(message, [1] * size, [1] * size, call)
        back, largest = received[:, 0].tolist(), int(received[:, 1].max())
        parts = [row[2 : 2 + min(count, self._capacity)] for row, count in zip(received, back, strict=True)]
        if largest > self._capacity:
            rest_out = [count - fit for count, fit in zip(out.tolist(), fitting, strict=True)]
            rest_back = [count - part.numel() for count, part in zip(back, parts, strict=True)]
            rest = torch.cat([ids[end - count : end] for end, count in zip(cuts[1:].tolist(), rest_out, strict=True)])
            late = torch.split(self._exchange(rest, rest_out, rest_back, call), rest_back)
            parts = [torch.cat(pair) for pair in zip(parts, late, strict=True)]
        # Every rank has seen the same largest count, so the messages of all stay of one length.
        limit = max(_STEP, self._buffer_bytes // (8 * size))
        self._capacity = min(limit, -(-(largest + largest // 16) // _STEP) * _STEP or _STEP)
        return Route(out.tolist(), back, torch.cat(parts) - self._start, largest)

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
        received = self._exchange(heads, [1] * size, [1] * size, call) if size > 1 else heads
        counts = self.return_rows(route, counts, call)
        return counts, self._in_rounds(rows, totals, received[:, 0].tolist(), int(received[:, 1].max()), call)

    def _in_rounds(self, rows: Tensor, out: list[int], back: list[int], largest: int, call: str) -> Tensor:
        if self._ranks.size == 1:
            return rows
        width = rows[:1].numel() * rows.element_size() or rows.shape[1:].numel() * rows.element_size()
        content = (
            rows.contiguous().view(torch.uint8).view(rows.size(0), width)
            if rows.numel()
            else rows.new_empty(0, width, dtype=torch.uint8)
        )
        step = max(1, self._buffer_bytes // (width * self._ranks.size))
        if largest <= step:
            received = self._exchange(content, out, back, call)
        else:
            received = content.new_empty(sum(back), width)
            goals, sources = torch.split(received, back), torch.split(content, out)
            for done in range(0, largest, step):
                now_out = [min(step, max(0, count - done)) for count in out]
                now_back = [min(step, max(0, count - done)) for count in back]
                send = torch.cat([part[done : done + count] for part, count in zip(sources, now_out, strict=True)])
                came = torch.split(self._exchange(send, now_out, now_back, call), now_back)
                for goal, part in zip(goals, came, strict=True):
                    goal[done : done + part.size(0)] = part
        return received.view(-1).view(rows.dtype).view(received.size(0), *rows.shape[1:])

    def _exchange(self, send: Tensor, out: list[int], back: list[int], call: str) -> Tensor:
        self.bytes_sent += (send.size(0) - out[self._ranks.rank]) * send[:1].numel() * send.element_size()
        return self._ranks.exchange(send, out, back, call)
