"""The timeline of each rank: work, and waits for others.

Nothing is measured by making ranks meet. Every rank makes the same collective calls in the same order, so when all have
said when they began each call, the time until the last of them came is what the others waited.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    Segments = NDArray[np.float64]

KINDS = ("compute", "batches", "lookup", "update", "exchange", "wait", "evaluation")
_CALLS = {
    "lookup": "lookup",
    "apply_gradients": "update",
    "read": "exchange",
    "write": "exchange",
    "in_neighbors": "batches",
}
_KIND, _BEGIN, _END, _COLLECTIVE = range(4)  # columns of segments
_SKEW = 0.1  # of a call's length, by which the clocks of two ranks may differ
_NOTHING = nullcontext()
_T = TypeVar("_T")


class Timeline:
    """Notes when this process turns to something else.

    Args:
        on: Whether it does. Off, it costs nothing.

    Attributes:
        is_on: Whether it does.
        by_rank: What was noted until the last :meth:`close`: of each rank ``[K, 4]``, a row for a stretch of time, with
            its place in :data:`KINDS`, its begin and its end in seconds.
    """

    def __init__(self, *, on: bool) -> None:
        self.is_on = on
        self.by_rank: list[Segments] = []
        self.begin()

    def begin(self) -> None:
        """Forget what was noted, and count seconds from now; ranks do so together."""
        self._origin = perf_counter()
        self._noted: list[tuple[int, float, float, bool]] = []
        self._doing, self._since = (KINDS.index("compute"), False), 0.0

    def span(self, kind: str, *, collective: bool = False) -> AbstractContextManager[None]:
        """Note that what is done within is of a kind; within an evaluation, all is evaluation.

        Args:
            kind: One of :data:`KINDS`.
            collective: It is a call that every rank makes.
        """
        return self._span(kind, collective) if self.is_on else _NOTHING

    def through(self, kind: str, items: Iterable[_T]) -> Iterator[_T]:
        """Yield items, and note that to make them is of a kind."""
        source, end = iter(items), object()
        while True:
            with self.span(kind):
                item: Any = next(source, end)
            if item is end:
                return
            yield item

    def turn_to(self, kind: str) -> None:
        """Note that a collective call begins, which ends with the span that is open."""
        if self.is_on:
            self._turn(KINDS.index(kind), collective=True)

    def close(self, gather: Callable[[Tensor], Tensor], rank: int) -> dict[str, list[float]]:
        """Bring together what all ranks noted; collective.

        Args:
            gather: Returns the rows of all ranks.
            rank: This rank.

        Returns:
            The seconds of each rank, by kind.
        """
        self._turn(*self._doing)
        own = torch.tensor(self._noted, dtype=torch.float64).view(-1, 4)
        rows = gather(torch.cat([own, torch.full((len(own), 1), float(rank), dtype=torch.float64)], dim=1)).numpy()
        self.by_rank = with_waiting([rows[rows[:, 4] == one, :4] for one in range(int(rows[-1, 4]) + 1)])
        return {kind: [_seconds(segments, number) for segments in self.by_rank] for number, kind in enumerate(KINDS)}

    @contextmanager
    def _span(self, kind: str, collective: bool) -> Iterator[None]:
        outer = self._doing
        within = KINDS.index("evaluation")
        self._turn(within if outer[0] == within else KINDS.index(kind), collective=collective)
        try:
            yield
        finally:
            self._turn(*outer)

    def _turn(self, kind: int, collective: bool) -> None:
        now = perf_counter() - self._origin
        was, called = self._doing
        self._noted.append((was, self._since, now, called))
        self._doing, self._since = (kind, collective), now


def with_waiting(by_rank: Sequence[Segments]) -> list[Segments]:
    """Split from collective calls the time in which the last rank had not made them.

    A call that ended before the last rank made it has not waited: an engine may need less than the contract.

    Args:
        by_rank: Of each rank ``[K, 4]`` kinds, begins, ends, and whether it was a collective call.
    """
    calls = [segments[segments[:, _COLLECTIVE] > 0] for segments in by_rank]
    if len({len(own) for own in calls}) > 1:
        return list(by_rank)
    last = np.max([own[:, _BEGIN] for own in calls], axis=0)
    split = []
    for segments, own in zip(by_rank, calls, strict=True):
        begin, end = own[:, _BEGIN], own[:, _END]
        waited = end >= last - _SKEW * (end - begin)
        until = np.where(waited, np.minimum(last, end), begin)
        waits = own.copy()
        waits[:, _KIND], waits[:, _END] = KINDS.index("wait"), until
        own[:, _BEGIN] = until
        together = np.concatenate([segments[segments[:, _COLLECTIVE] == 0], waits, own])
        together = together[together[:, _END] > together[:, _BEGIN]]
        split.append(together[together[:, _BEGIN].argsort()])
    return split


def timed(thing: _T, timeline: Timeline) -> _T:
    """Return a backend or store that does what ``thing`` does, has its members and no others, and notes its calls."""
    if not timeline.is_on:
        return thing

    def member(name: str) -> object:
        if name in _CALLS:

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                with timeline.span(_CALLS[name], collective=True):
                    return getattr(self.thing, name)(*args, **kwargs)

            return call
        if name.startswith("open_"):
            return lambda self, *args, **kwargs: timed(getattr(self.thing, name)(*args, **kwargs), timeline)
        return property(lambda self: getattr(self.thing, name))

    members = {name: member(name) for name in dir(thing) if not name.startswith("_")}
    stand_in: Any = type(f"Timed{type(thing).__name__}", (), members)()
    stand_in.thing = thing
    return stand_in  # type: ignore[no-any-return]  # of a class that is made here


def _seconds(segments: Segments, kind: int) -> float:
    own = segments[segments[:, _KIND] == kind]
    return float((own[:, _END] - own[:, _BEGIN]).sum())
