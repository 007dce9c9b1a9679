"""Waits that end, and words of their errors."""

from __future__ import annotations

import atexit
import time
from concurrent.futures import Future, wait
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T")
_LOOK_SECONDS = 0.5
_LAST_SECONDS = 2.0  # more than what comes late by itself takes


def within(seconds: float, ask: Callable[[], _T], look: Callable[[], None] | None = None) -> _T:
    """Return what ``ask`` returns, from a thread: some calls of torch wait longer than they are told, or without end.

    Args:
        seconds: How long it may take.
        ask: What is asked.
        look: Called again and again meanwhile; what it raises ends the waiting.

    Raises:
        TimeoutError: It has not returned in time; the thread is left behind, and the process waits for it for a moment
            before it ends: a thread that comes back from C++ while Python is taken down would abort it.
    """
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            answer.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    try:
        while not wait([answer], min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic()))).done:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer in {seconds:g} s")
            if look is not None:
                look()
    except OSError:
        atexit.register(thread.join, _LAST_SECONDS)
        raise
    return answer.result()


def listed(ranks: Sequence[int]) -> str:
    """Write ``rank 2`` or ``ranks 1, 2``."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or as much of it as fits in a message."""
    return str(error).partition("\n")[0][:200]
