"""The ranks that share a backend's stores, for code that knows no backend by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distgnn.distributed.communicator import LocalCommunicator
from distgnn.errors import BrokenBackendError
from distgnn.protocols import SupportsRanks

if TYPE_CHECKING:
    from distgnn.distributed.communicator import Communicator
    from distgnn.protocols import Backend

_ALONE = LocalCommunicator()


def communicator_of(backend: Backend) -> Communicator:
    """Return the collectives of a backend's ranks; a backend that knows of no ranks is a world of one.

    Raises:
        BrokenBackendError: It has several ranks, and no communicator.
    """
    if isinstance(backend, SupportsRanks):
        return backend.communicator
    world_size = getattr(backend, "world_size", 1)
    if world_size != 1:
        raise BrokenBackendError(
            f"backend {backend.name!r} has {world_size} ranks and no member `communicator`, by which they agree: give "
            "it one, as distgnn.SupportsRanks says (distgnn.ProcessGroupCommunicator, or one of its own)"
        )
    return _ALONE


def rank_and_world_size(backend: Backend) -> tuple[int, int]:
    """Return this process's rank and how many there are; a backend that knows of no ranks is a world of one."""
    communicator = communicator_of(backend)
    return communicator.rank, communicator.world_size
