"""The engine of a store: its job's servers, or itself."""

from __future__ import annotations

import itertools
import os
import pickle
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from distgnn.backends.dgl.placement import Placement, on_hosts
from distgnn.backends.dgl.rows import Ranges
from distgnn.backends.dgl.wire import Call
from distgnn.distributed.communicator import LocalCommunicator
from distgnn.storage.specs import PartitionBook
from distgnn.storage.toolkit.row_shard import book_for
from distgnn.storage.toolkit.rows import move_rows, put_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

    from distgnn.backends.dgl.wire import Reply
    from distgnn.distributed.communicator import Communicator
    from distgnn.storage.specs import EmbeddingSpec, TensorSpec

    Tensors = tuple[Tensor, ...]


class Engine(ABC):
    """The calls that stores make.

    Args:
        rank: This rank.
        size: The world size.
        part: Which part of the rows is on this host.
        parts: How many parts there are.
        name: The job's name.

    Attributes:
        timeout: Seconds that a call waits for other ranks and for servers.
        communicator: The collectives of the ranks.
        first_of_part: Whether no rank of this host has a smaller number.
        parts_of_ranks: Which part each rank is on.
    """

    def __init__(self, rank: int, size: int, part: int, parts: int, name: str) -> None:
        self.rank, self.size = rank, size
        self.part, self.parts = part, parts
        self.name = name
        self.timeout = 60.0
        self.first_of_part = True
        self.parts_of_ranks: tuple[int, ...] = (part,) * size
        self.communicator: Communicator = LocalCommunicator()
        self._opened = itertools.count()
        self._numbers = itertools.count(2)

    def set_timeout(self, seconds: float) -> None:
        """Set how long a call waits from now on."""
        self.timeout = seconds

    def new_ranges(self, num_rows: int) -> Ranges:
        """Cut the rows of a new store into a range a host; every rank opens the same stores in the same order."""
        return Ranges(f"{self.name}.{next(self._opened)}", PartitionBook.even(num_rows, self.parts), self.part)

    def place(self, spec: EmbeddingSpec | TensorSpec) -> Placement:
        """Say where the rows of a new store are, as :meth:`new_ranges` does.

        Raises:
            SpecError: The spec's partition is for another number of ranks.
        """
        book = book_for(spec, self.size)
        if spec.partition is None or self.size == 1:
            return Placement(book, self.new_ranges(book.num_rows))
        bounds, order, start = on_hosts(book, self.parts_of_ranks, self.rank)
        ranges = Ranges(f"{self.name}.{next(self._opened)}", PartitionBook(bounds), self.part)
        return Placement(book, ranges, order, start - book.bounds[self.rank])

    def ask(
        self,
        operation: str,
        arguments: tuple[Any, ...],
        about: str,
        tensors: Mapping[int, Tensors],
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[int, Tensors]:
        """Ask parts to do something, and wait for their answers.

        Args:
            operation: See :mod:`distgnn.backends.dgl.service`.
            arguments: What every asked part is told.
            about: What it is for, as a user would say it.
            tensors: What each asked part is told besides.
            meanwhile: What to do while waiting.

        Raises:
            PeerLostError: A rank or a server is gone or silent.
            DistGNNError: A server refused.
        """
        self.check_alive(about)
        number, content = next(self._numbers), pickle.dumps(arguments)
        calls = {
            part: Call(operation, number, self.rank, about, self.timeout, content, given)
            for part, given in tensors.items()
        }
        replies = self._exchange(calls, about, meanwhile)
        for reply in replies.values():
            reply.check()
        return {part: reply.tensors for part, reply in replies.items()}

    def together(
        self, operation: str, arguments: tuple[Any, ...], about: str, tensors: Mapping[int, Tensors] | None = None
    ) -> None:
        """Ask all parts to do something that all ranks ask for; return when it is done everywhere."""
        given = tensors or {}
        self.ask(operation, arguments, about, {part: given.get(part, ()) for part in range(self.parts)})

    def check_order(self, about: str) -> None:
        """Make sure that the job lives and, when ``DISTGNN_DEBUG=1``, that every rank makes the same call.

        Raises:
            PeerLostError: A rank or a server is gone.
            CallOrderError: Names the first rank whose call differs, and both calls.
        """
        self.check_alive(about)
        if os.environ.get("DISTGNN_DEBUG") == "1":
            self.together("meet", (), about)

    def read(self, key: str, ranges: Ranges, ids: Tensor, about: str) -> Tensor:
        """Fetch rows by their places, those of this host from its memory."""
        self.check_order(about)
        here = self.rows(key)
        if self.parts == 1:
            return take_rows(here, ids)
        found = here.new_empty(ids.numel(), *here.shape[1:])
        slots = ranges.slots(ids)
        mine = slots.pop(self.part)
        asked = {part: (ids.index_select(0, places),) for part, places in slots.items() if places.numel()}

        def read_here() -> None:
            move_rows(found, mine, here, ids.index_select(0, mine) - ranges.start)

        if not asked:
            read_here()
            return found
        for part, (rows,) in self.ask("rows", (key,), about, asked, read_here).items():
            put_rows(found, slots[part], rows)
        return found

    @abstractmethod
    def rows(self, key: str) -> Tensor:
        """Return this host's rows, where they are."""

    @abstractmethod
    def map(self, key: str, ranges: Ranges, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Have DGL's client of this process know rows that the servers now have; collective."""

    @abstractmethod
    def drop(self, key: str) -> None:
        """Forget a store, which is freed when all ranks have; nobody waits."""

    @abstractmethod
    def check_alive(self, about: str) -> None:
        """Refuse to go on after a loss.

        Raises:
            PeerLostError: A rank or a server is gone.
        """

    @abstractmethod
    def _exchange(
        self, calls: Mapping[int, Call], about: str, meanwhile: Callable[[], None] | None
    ) -> dict[int, Reply]:
        """Send calls to parts and wait for the answers."""
