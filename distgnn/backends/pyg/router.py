"""Bringing ids to the ranks that own their rows, and rows back.

Ids here are places in the store's partition book, so that each rank, and each host, has a range of them.

Ids travel together with what is to be done with them, in messages that have room for as many as the last ones of the
same kind carried, or a few more: so while batches keep their size a lookup costs two exchanges and an update one. What
does not fit follows in one more. Large messages go in rounds, so that a call needs no more memory for them than its
limit.

Rows that the ranks of a host have in common are read where they are. They change only in calls that every rank of the
host has entered, so a call first waits for all of them: then they have finished what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise
from math import isqrt, lcm
from typing import TYPE_CHECKING, NamedTuple

import torch

from distgnn.backends.pyg.ranks import as_bytes
from distgnn.errors import CallOrderError
from distgnn.storage.toolkit.rows import group_by_id, move_rows, put_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distgnn.backends.pyg.ranks import Ranks
    from distgnn.storage.specs import PartitionBook

_SPARE = 4  # a message has room for so many ids more than the last one had, a part of it and some deviations
_HEAD = 24  # bytes


@dataclass(frozen=True)
class Route:
    """The destinations of one call's ids.

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
        book: As given.
        own: The first row that this rank owns, and the row after its last.
        near: The same for all ranks of this host.
        one_host: Whether the job has no other host.
    """

    def __init__(self, ranks: Ranks, book: PartitionBook, buffer_bytes: int) -> None:
        self._ranks = ranks
        self.book = book
        self.own = (book.bounds[ranks.rank], book.bounds[ranks.rank + 1])
        self.near = (book.bounds[ranks.host.members[0]], book.bounds[ranks.host.members[-1] + 1])
        self.one_host = len(ranks.host.members) == ranks.size
        self._bounds = torch.tensor(book.bounds)
        self._buffer_bytes = buffer_bytes
        # Of messages to and from each rank, by what they are for and their width.
        self._rooms: dict[tuple[str, int], tuple[_Rooms, _Rooms]] = {}

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

    def check_arguments(self, said: str, call: str) -> None:
        """Make sure that every rank makes a call with the same arguments.

        Args:
            said: What it is called with, beside rows.
            call: What it is for.

        Raises:
            CallOrderError: Names the first rank whose arguments differ, and both.
        """
        self._ranks.check_order(call)
        everybody = self._ranks.gather_texts(said, call)
        for rank, other in enumerate(everybody):
            if other != everybody[0]:
                raise CallOrderError(
                    f"ranks call {call} with different arguments: rank 0 with {everybody[0]}, rank {rank} with {other}"
                    "; they must be the same on every rank"
                )

    def send_ids(self, ids: Tensor, call: str) -> Route:
        """Tell every owner which of its rows are meant.

        Args:
            ids: ``[U]``, distinct and ascending.
            call: What it is for.
        """
        return self._send(ids, torch.empty(ids.numel(), 0, dtype=torch.uint8), call)[0]

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
        if rows.size(0) == 0:
            fetched = rows.new_empty(far.ids.numel(), *rows.shape[1:])
        else:  # all are read as if they were here: to leave some out takes longer than to read one row so often
            fetched = take_rows(rows, (far.ids - self.near[0]).clamp_(0, rows.size(0) - 1))
        move_rows(fetched, far.places, far.rows, torch.repeat_interleave(far.times))
        return fetched

    def refresh(self, rows: Tensor, far: Far, changed: Tensor, call: str) -> None:
        """Bring again those of the far rows that have changed.

        Args:
            rows: As from :meth:`shared_rows`.
            far: What came; its rows are overwritten.
            changed: ``[len(far.route.positions)]``, whether each of the rows that this rank sent has changed.
            call: What it is for.
        """
        back = far.route.back
        out = [int(part.sum()) for part in torch.split(changed, back)]
        come, largest = self._announce(out, call)
        which = torch.cat([part.nonzero().squeeze(1) for part in torch.split(changed, back)])
        again = take_rows(self.own_rows(rows), far.route.positions[changed])
        numbers = self._in_rounds(which, out, come, largest, call)
        again = self._in_rounds(again, out, come, largest, call)
        first = torch.tensor([0, *far.route.out[:-1]]).cumsum(0).repeat_interleave(torch.tensor(come))
        put_rows(far.rows, numbers + first, again)

    def send(self, ids: Tensor, rows: Tensor, call: str) -> tuple[Tensor, Tensor, Tensor]:
        """Bring ids and the rows beside them to the owners.

        Args:
            ids: ``[U]``, distinct and ascending.
            rows: ``[U, ...]``, contiguous.
            call: What it is for.

        Returns:
            Positions ``[K]`` that came to this rank, in the order of ranks, counted from its first row; memory
            ``[T, ...]`` that holds the rows, to be used before the next call of any store; and where in it they are,
            ``[K]``.
        """
        route, content, places = self._send(ids, as_bytes(rows).view(ids.numel(), _width(rows)), call)
        return route.positions, content.view(-1).view(rows.dtype).view(-1, *rows.shape[1:]), places

    def _send(self, ids: Tensor, content: Tensor, call: str) -> tuple[Route, Tensor, Tensor]:
        """Send ids and bytes ``[U, width]`` beside them: what fits in a message at once, the rest in rounds."""
        self._ranks.check_order(call)
        me, width = self._ranks.rank, content.size(1)
        spans = [slice(*span) for span in pairwise(torch.searchsorted(ids, self._bounds).tolist())]
        out = [span.stop - span.start for span in spans]
        rooms_out, rooms_in = self._rooms.setdefault((call, width), (_Rooms(len(out)), _Rooms(len(out))))
        room_out, room_in = rooms_out.now, rooms_in.now
        room_out[me] = room_in[me] = out[me]
        forms_out, forms_in = ([_Form(room, width) for room in rooms] for rooms in (room_out, room_in))
        sizes_out, sizes_in = ([form.size for form in forms] for forms in (forms_out, forms_in))
        own, sizes_out[me], sizes_in[me] = sizes_in[me], 0, 0  # this rank's own is written behind what comes
        going = self._ranks.outgoing.take(sum(sizes_out))
        memory = self._ranks.incoming.take(sum(sizes_in) + own)
        coming, mine = torch.split(memory, [sum(sizes_in), own])
        messages_out, messages_in = list(torch.split(going, sizes_out)), list(torch.split(coming, sizes_in))
        messages_out[me] = messages_in[me] = mine
        too_many = [max(0, count - room) for count, room in zip(out, room_out, strict=True)]
        for form, message, span, more in zip(forms_out, messages_out, spans, too_many, strict=True):
            some = slice(span.start, span.stop - more)
            form.write(message, (span.stop - span.start, max(out), max(too_many)), ids[some], content[some])
        self._ranks.exchange(going, sizes_out, sizes_in, call, received=coming)
        read = [form.read(message) for form, message in zip(forms_in, messages_in, strict=True)]
        heads, came, places = (list(part) for part in zip(*read, strict=True))
        back, (_, largest, most_too_many) = [head[0] for head in heads], map(max, zip(*heads, strict=True))
        rows = memory.view(-1, max(1, width))
        if most_too_many:
            late = [slice(span.stop - count, span.stop) for span, count in zip(spans, too_many, strict=True)]
            packed = torch.cat([torch.cat([as_bytes(ids[some]).view(-1, 8), content[some]], dim=1) for some in late])
            too_many_in = [count - part.numel() for count, part in zip(back, came, strict=True)]
            packed = self._in_rounds(packed, too_many, too_many_in, most_too_many, call)
            late_ids = packed[:, :8].reshape(-1).view(torch.int64)
            late_places = torch.arange(rows.size(0), rows.size(0) + packed.size(0))
            came, places = (
                list(chain.from_iterable(zip(first, torch.split(more, too_many_in), strict=True)))
                for first, more in ((came, late_ids), (places, late_places))
            )
            rows = torch.cat([rows, packed[:, 8:]]) if width else rows
        # Both ends of a message know what it carried, so they agree on the next one's length.
        limit = self._buffer_bytes // ((8 + width) * len(out))
        rooms_out.learn(out, limit)
        rooms_in.learn(back, limit)
        return Route(out, back, torch.cat(came) - self.own[0], largest), rows, torch.cat(places)

    def return_rows(self, route: Route, rows: Tensor, call: str) -> Tensor:
        """Bring the owners' rows ``[len(positions), ...]`` back to who asked; return ``[U, ...]`` there."""
        return self._in_rounds(rows, route.back, route.out, route.largest, call)

    def return_ragged(self, route: Route, counts: Tensor, rows: Tensor, call: str) -> tuple[Tensor, Tensor]:
        """Bring back ``counts[i]`` rows for each id; return the counts ``[U]`` and the rows there."""
        totals = [int(part.sum()) for part in torch.split(counts, route.back)]
        come, largest = self._announce(totals, call)
        counts = self.return_rows(route, counts, call)
        return counts, self._in_rounds(rows, totals, come, largest, call)

    def deal(self, ids: Tensor, rows: Tensor, call: str) -> Tensor:
        """Bring the row beside each id, of which any may be there several times, to the id's owner.

        Returns:
            ``[K, ...]``, what came to this rank, in the order of ranks and as they had them.
        """
        owners = torch.searchsorted(self._bounds, ids, right=True) - 1
        out = owners.bincount(minlength=self._ranks.size).tolist()
        come, largest = self._announce(out, call)
        return self._in_rounds(rows.index_select(0, owners.argsort(stable=True)), out, come, largest, call)

    def _announce(self, out: list[int], call: str) -> tuple[list[int], int]:
        """Say how many rows every rank will get; return how many come here, and the most between any two ranks."""
        size, largest = self._ranks.size, max(out)
        heads = torch.tensor([[count, largest] for count in out])
        received = self._ranks.exchange(heads, [1] * size, [1] * size, call)
        return received[:, 0].tolist(), int(received[:, 1].max())

    def _in_rounds(self, rows: Tensor, out: list[int], back: list[int], largest: int, call: str) -> Tensor:
        if self._ranks.size == 1:
            return rows
        width = _width(rows)
        content = as_bytes(rows.contiguous()).view(rows.size(0), width)
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


class _Rooms:
    """For how many ids the next messages between this rank and each other have room.

    Attributes:
        now: What the last ones carried, and some more where that was not what those before them carried.
    """

    def __init__(self, size: int) -> None:
        self.now = [_SPARE] * size
        self._last: list[int] | None = None

    def learn(self, counts: list[int], limit: int) -> None:
        """Note what messages carried."""
        self.now = [
            min(limit, count if count == last else count + count // 32 + 4 * isqrt(count) + _SPARE)
            for count, last in zip(counts, self._last or counts, strict=True)
        ]
        self._last = counts


class _Form(NamedTuple):
    """A message: a head, room for so many ids, and for as many rows, which begin at a multiple of their width."""

    room: int
    width: int

    @property
    def lead(self) -> int:
        return self._rounded(_HEAD + 8 * self.room)

    @property
    def size(self) -> int:
        return self._rounded(self.lead + self.room * self.width)

    def write(self, message: Tensor, head: Sequence[int], ids: Tensor, rows: Tensor) -> None:
        message[:_HEAD] = as_bytes(torch.tensor(head))
        message[_HEAD : _HEAD + 8 * ids.numel()] = as_bytes(ids)
        message[self.lead : self.lead + rows.numel()] = rows.view(-1)

    def read(self, message: Tensor) -> tuple[list[int], Tensor, Tensor]:
        """Return its head, its ids, and the numbers of its rows among those of the memory that it is in."""
        head: list[int] = message[:_HEAD].view(torch.int64).tolist()
        count = min(head[0], self.room)
        first = (message.storage_offset() + self.lead) // max(1, self.width)
        return head, message[_HEAD : _HEAD + 8 * count].view(torch.int64), torch.arange(first, first + count)

    def _rounded(self, num_bytes: int) -> int:
        unit = lcm(8, max(1, self.width))
        return -(-num_bytes // unit) * unit


def _width(rows: Tensor) -> int:
    return rows.element_size() * rows.shape[1:].numel()
