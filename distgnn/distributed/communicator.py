"""Collectives of the ranks that share a backend's stores."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch

from distgnn.errors import BrokenBackendError, PeerLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from distgnn.storage.protocols import Backend

Reduction = Literal["sum", "max"]


@runtime_checkable
class Communicator(Protocol):
    """Collectives of the ranks that share a backend's stores.

    All members but :attr:`rank` and :attr:`world_size` are collective: every rank makes the same calls in the same
    order, as it does with stores. Calls of one rank come from one thread at a time. What is given is not changed, what
    is returned is the caller's own, on the device of what was given, and takes no part in autograd.

    A wait on another rank ends: with what was asked for, or within the backend's timeout by
    :class:`~distgnn.PeerLostError`, which names who is gone or silent, and the call.
    """

    @property
    def rank(self) -> int:
        """This process's rank, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        ...

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum") -> Tensor:
        """Return the sum of all ranks' numbers, or the largest of them, place by place.

        It has the same bits on every rank: replicas that apply it stay equal. In which order numbers are added is the
        implementation's affair, and is the same in every call of the same shape.

        Args:
            tensor: Of one shape and dtype on all ranks: a floating point type, or int32 or int64.
            op: ``"sum"`` or ``"max"``.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        ...

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the rows of every rank, in the order of ranks.

        Args:
            tensor: ``[K, ...]`` of any dtype; K may differ between ranks and be 0, the rest may not.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        ...

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return what the rank ``source`` gives.

        Args:
            tensor: Of one shape and dtype, any, on all ranks; what other ranks have in it does not matter.
            source: A rank.

        Raises:
            PeerLostError: A rank is gone or silent.
        """
        ...


class LocalCommunicator:
    """The collectives of one rank, which is alone."""

    rank = 0
    world_size = 1

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum") -> Tensor:
        """Return the same numbers."""
        check_op(op)
        return tensor.detach().clone()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the rows of the only rank."""
        return [tensor.detach().clone()]

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Return the same tensor."""
        check_source(source, 1)
        return tensor.detach().clone()


def check_op(op: str) -> None:
    """Refuse reductions that no communicator has.

    Raises:
        ValueError: It is another than ``"sum"`` and ``"max"``.
    """
    if op not in {"sum", "max"}:
        raise ValueError(f"op must be 'sum' or 'max', not {op!r}")


def check_source(source: int, world_size: int) -> None:
    """Refuse ranks that are not there.

    Raises:
        ValueError: It is none of ``0`` to ``world_size - 1``.
    """
    if not 0 <= source < world_size:
        raise ValueError(f"source must be a rank from 0 to {world_size - 1}, not {source}")


@contextmanager
def during(about: str) -> Iterator[None]:
    """Say in the text of a lost rank what its wait was for.

    Args:
        about: As a user would say it.
    """
    try:
        yield
    except PeerLostError as error:
        raise PeerLostError(f"{error} (in {about})") from error


def barrier(communicator: Communicator) -> None:
    """Return when every rank has called it; collective."""
    communicator.all_reduce(torch.zeros(1, dtype=torch.int64))


def all_gather_texts(communicator: Communicator, text: str) -> list[str]:
    """Return the text of every rank, in the order of ranks; collective."""
    content = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
    found = communicator.all_gather(content if text else content[:0])
    return [bytes(one.tolist()).decode() for one in found]


def all_gather_numbers(communicator: Communicator, numbers: Sequence[int]) -> Tensor:
    """Return the integers of every rank, ``[world_size, len(numbers)]`` int64; collective.

    Args:
        communicator: The ranks.
        numbers: As many on each rank.
    """
    return torch.cat(communicator.all_gather(torch.tensor([list(numbers)], dtype=torch.int64)))


@runtime_checkable
class SupportsRanks(Protocol):
    """A backend whose stores are shared by several ranks. Without it, a backend is a world of its own process."""

    @property
    def communicator(self) -> Communicator:
        """The collectives of these ranks; the same object each time, until the backend is closed."""
        ...

    @property
    def rank(self) -> int:
        """This process's rank."""
        ...

    @property
    def world_size(self) -> int:
        """How many ranks share the stores."""
        ...


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
