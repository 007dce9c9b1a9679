"""Long work of one rank, waited for while it lives."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import torch

from distgnn import errors
from distgnn.distributed.communicator import all_gather_texts, during
from distgnn.errors import ConfigError, DistGNNError

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn.distributed.communicator import Communicator

_T = TypeVar("_T")
_ROUND_SECONDS = 0.5
_WORKING, _DONE = 0, 1


def work_of_one(communicator: Communicator, work: Callable[[], _T], about: str) -> _T | None:
    """Have rank 0 do something, however long it takes; what it raises is raised by all. Collective.

    To wait for work is not to wait for a peer: rank 0 tells the others again and again that it works, so that they
    notice within the backend's timeout when it is gone or stopped, and have no other limit.

    Args:
        communicator: The ranks.
        work: Makes no collective call, and lets other threads of its process run.
        about: What it is, as a user would say it.

    Returns:
        What the work returns, on rank 0; None on the others.

    Raises:
        PeerLostError: A rank is gone or silent.
        DistGNNError: What the work raised.
    """
    if communicator.world_size == 1:
        return work()
    answer: Future[_T] = Future()
    if communicator.rank == 0:
        Thread(target=_answer, args=(answer, work), daemon=True).start()
    with during(about):
        while True:
            if communicator.rank == 0:
                wait_for([answer], _ROUND_SECONDS)
            state = torch.tensor(_DONE if answer.done() else _WORKING)
            if int(communicator.broadcast(state)) == _DONE:
                break
        failure = answer.exception() if communicator.rank == 0 else None
        said = "" if failure is None else f"{type(failure).__name__} {failure}"
        name, _, text = all_gather_texts(communicator, said)[0].partition(" ")
    if failure is not None:
        raise failure
    if name:
        kind = getattr(errors, name, ConfigError)
        raise (kind if issubclass(kind, DistGNNError) else ConfigError)(f"rank 0, in {about}: {text}")
    return answer.result() if communicator.rank == 0 else None


def _answer(answer: Future[_T], work: Callable[[], _T]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
        answer.set_exception(error)
