"""Prefetch of remote rows in a thread, corrected after updates."""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch

from distgnn.storage.toolkit.rows import put_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from distgnn.backends.pyg.router import Far, Router

_T = TypeVar("_T")


class Turns:
    """Runs one thing after another in threads that the end of the process does not wait for."""

    def __init__(self) -> None:
        self._last: Future[None] | None = None

    def take(self, work: Callable[[], _T]) -> Future[_T]:
        """Run ``work`` when all before it is done, and return what will hold its result."""
        before, done, result = self._last, Future[None](), Future[_T]()
        self._last = done

        def run() -> None:
            try:
                if before is not None:
                    before.result()
                result.set_result(work())
            except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
                result.set_exception(error)
            done.set_result(None)

        Thread(target=run, daemon=True).start()
        return result

    def wait(self, timeout: float) -> None:
        """Wait until all is done, or for ``timeout`` seconds."""
        if self._last is not None:
            wait([self._last], timeout)


class Prefetcher:
    """Prefetches from one table.

    An owner counts updates, and notes by each of its rows the last that changed it. A prefetch remembers the count from
    before it read: when it ends, owners send again what has changed since.

    Args:
        router: The main thread's way to the other ranks.
        background: The threads' own way.
        turns: What the prefetches of all tables wait in, for they share the ways.
        rows: As from :meth:`Router.shared_rows`.
    """

    def __init__(self, router: Router, background: Router, turns: Turns, rows: Tensor) -> None:
        self._router, self._background, self._turns, self._rows = router, background, turns, rows
        self._last_update = torch.zeros(router.own[1] - router.own[0], dtype=torch.int64)
        self._updates = self._completed = 0

    def begin_update(self, positions: Tensor) -> None:
        """Note which rows change now."""
        self._updates += 1
        put_rows(self._last_update, positions, torch.full_like(positions, self._updates))

    def end_update(self) -> None:
        """Note that they have changed."""
        self._completed = self._updates

    def start(self, ids: Tensor, call: str) -> Callable[[], Tensor]:
        """Begin to fetch, and return what ends it and returns the rows."""

        def fetch() -> tuple[int, Far]:
            return self._completed, self._background.fetch_far(self._rows, ids, call)

        fetching = self._turns.take(fetch)

        def finish() -> Tensor:
            completed, far = fetching.result()
            changed = self._last_update.index_select(0, far.route.positions) > completed
            self._router.refresh(self._rows, far, changed, call)
            return self._router.put_together(self._rows, far)

        return finish
