"""Long work of all ranks, in which one may fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from distgnn import errors
from distgnn.distributed.communicator import during
from distgnn.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
    DistGNNError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distgnn.train.session import Session

_SLICE_SECONDS = 2.0  # after which ranks tell each other how they are


def together(session: Session, work: Iterator[int], about: str, report: Callable[[int], None]) -> None:
    """Do this rank's work while the others do theirs; what is raised by one is raised by all.

    Ranks meet again and again, so that none waits for longer than a slice of work however much there is.

    Args:
        session: The ranks; each calls this.
        work: Yields the bytes that are done, piece by piece.
        about: What it is, as a user would say it.
        report: Is told them.

    Raises:
        CheckpointWriteError: The system refused something, in a work that is about writing.
        CheckpointNotFoundError: It did, in another.
        PeerLostError: A rank is gone or silent.
        DistGNNError: What a rank raised.
    """
    left = True
    while True:
        failure: Exception | None = None
        if left:
            try:
                left = _slice(work, report)
            except OSError as error:
                failure = error if isinstance(error, DistGNNError) else _os_error(about, error)
            except Exception as error:  # noqa: BLE001  # whatever it is, the others must hear of it
                failure = error
        kind = type(failure).__name__ if isinstance(failure, DistGNNError) else "CheckpointError"
        said = "" if failure is None else f"{kind} {failure}"
        with during(f"the {about}"):
            answers = session.texts(f"{'left' if left else 'done'} {said}")
        if failure is not None:
            raise failure
        for rank, answer in enumerate(answers):
            _, _, text = answer.partition(" ")
            if text:
                name, _, text = text.partition(" ")
                raise getattr(errors, name, CheckpointError)(f"rank {rank}: {text}")
        if not any(answer.startswith("left") for answer in answers):
            return


def _slice(work: Iterator[int], report: Callable[[int], None]) -> bool:
    """Work for some time; tell whether some is left."""
    end = time.monotonic() + _SLICE_SECONDS
    for count in work:
        report(count)
        if time.monotonic() > end:
            return True
    return False


def _os_error(about: str, error: OSError) -> CheckpointError:
    if about.startswith("reading"):
        return CheckpointNotFoundError(f"in the {about}: {error}; see that every rank may read it")
    return CheckpointWriteError(f"in the {about}: {error}; make room, or choose another folder; nothing was changed")
