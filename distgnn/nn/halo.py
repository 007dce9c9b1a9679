"""The rows of other nodes that the layers over one part of a graph need, and the way back of their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from distgnn.storage.protocols import TensorStore
    from distgnn.storage.specs import PartitionBook

    OpenSums = Callable[[], AbstractContextManager[TensorStore]]


@dataclass(frozen=True, eq=False)
class Border:
    """The nodes that are in halos, and their rows in a store that has a row for no others.

    Args:
        places: ``[b]``, which of a part's own nodes are in the halos of other parts.
        own: ``[b]``, their rows.
        remote: ``[h]``, the rows of the part's halo nodes.
        num_rows: Number of rows of the store; the same for every part.
        partition: Which rank owns which of them.
    """

    places: Tensor
    own: Tensor
    remote: Tensor
    num_rows: int
    partition: PartitionBook | None = None


@dataclass(frozen=True, eq=False)
class Halo:
    """The nodes of a part, and the other nodes that its edges come from, by their rows in the store of a layer.

    Args:
        own: ``[n]`` int64, the row of each node of the part, its id in the graph; no other rank's part has it.
        remote: ``[h]`` int64, the rows of the halo nodes.
        num_rows: Number of rows of the store; the same for every part.
        border: The nodes that parts exchange, where that is known; then a store for them alone will do.
        history: The parts are batches, and a halo node's row is what the last batch with that node left there: no
            gradient goes to it. Otherwise the parts together are the graph, and every halo node is another's own.
        partition: Which rank owns which nodes: the book by which stores of layers, and tables of nodes, lie where the
            parts are. None cuts them evenly.
    """

    own: Tensor
    remote: Tensor
    num_rows: int
    border: Border | None = None
    history: bool = False
    partition: PartitionBook | None = None

    @property
    def is_whole_graph(self) -> bool:
        """Whether there is no other part; all parts agree on it."""
        if self.partition is not None:
            return self.partition.world_size == 1
        return self.own.numel() == self.num_rows

    @property
    def num_exchanged(self) -> int:
        """Number of rows of the store that :meth:`extend` needs."""
        return self.num_rows if self.border is None else self.border.num_rows

    @property
    def exchanged_partition(self) -> PartitionBook | None:
        """Which rank owns which rows of that store."""
        return self.partition if self.border is None else self.border.partition

    def extend(self, values: Tensor, store: TensorStore, open_sums: OpenSums) -> Extended:
        """Say how the halo's rows come behind the own ones.

        What is written is read in the same exchange, so a store may serve one forward after another before any
        backward.

        Args:
            values: ``[n, ...]``, the rows of the part's own nodes.
            store: ``[num_exchanged, ...]``, to exchange them through.
            open_sums: Opens a store of zeros of the same kind, where gradients are summed; it is left as zeros.

        Returns:
            ``[n + h, ...]``, exchanged once it is asked for: that and its backward are collective. In backward the
            gradients of the halo's rows are added to those that their owners have for them; rows of a history have
            none.
        """
        return _Arriving(values, self, store, open_sums)


class Extended:
    """The rows of a part's own nodes, and behind them those of its halo.

    Args:
        rows: ``[n + h, ...]``.
        num_own: Number n of own nodes.

    Attributes:
        own: The rows ``[n, ...]`` of the own nodes.
        num_halo: Number h of nodes of the halo.
    """

    def __init__(self, rows: Tensor, num_own: int) -> None:
        self._rows = rows
        self.own = rows if num_own == rows.size(0) else rows[:num_own]
        self.num_halo = rows.size(0) - num_own

    def together(self) -> Tensor:
        """Return all rows, ``[n + h, ...]``; collective where they are yet to be exchanged."""
        return self._rows

    def beside(self, work: Callable[[Tensor, Meanwhile | None], Tensor]) -> tuple[Tensor, Tensor]:
        """Compute something from the own rows while those of the halo are on their way; collective as above.

        Args:
            work: Is given ``[n, ...]`` and, where rows are to be exchanged, what it shall call meanwhile.

        Returns:
            What it gives, and the halo's rows, ``[h, ...]``.
        """
        own, others = self._rows.tensor_split([self.own.size(0)])
        return work(own, None), others


class Meanwhile(Protocol):
    """What the main thread does while others compute."""

    def forward(self) -> None:
        """Exchange rows, unless that is done."""

    def backward(self) -> None:
        """Exchange their gradients, if they are known and that is not done."""


class _Arriving(Extended):
    """Rows that are not exchanged yet."""

    def __init__(self, values: Tensor, halo: Halo, store: TensorStore, open_sums: OpenSums) -> None:
        super().__init__(values, values.size(0))
        self.num_halo = halo.remote.numel()
        self._way = halo, store, open_sums

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as a lookup
    def together(self) -> Tensor:
        return torch.cat(self.beside(lambda own, _meanwhile: own))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def beside(self, work: Callable[[Tensor, Meanwhile | None], Tensor]) -> tuple[Tensor, Tensor]:
        # Backward goes through what follows in reverse: gradients leave with the halo's rows, return to the own ones,
        # and the work's own are computed in between.
        exchange = _Exchange(*self._way)
        own, token = _Depart.apply(self._rows, exchange)  # type: ignore[no-untyped-call]
        result = work(own, exchange)
        return result, _Arrive.apply(token, exchange)  # type: ignore[no-untyped-call]


class _Exchange:
    """Rows go from owners to halos, gradients from halos to owners; each as soon as somebody asks.

    Attributes:
        values: ``[n, ...]``, to be brought to the halos.
        gradients: ``[h, ...]``, to be brought back.
    """

    def __init__(self, halo: Halo, store: TensorStore, open_sums: OpenSums) -> None:
        self.halo, self._store, self._open_sums = halo, store, open_sums
        rows = halo if halo.border is None else halo.border
        self._own, self._remote = rows.own, rows.remote
        self._places = None if halo.border is None else halo.border.places
        self.values: Tensor | None = None
        self.gradients: Tensor | None = None
        self._rows: Tensor | None = None
        self._sums: Tensor | None = None

    def forward(self) -> None:
        if self.values is not None:
            values, self.values = self.values, None
            self._store.write(self._own, values if self._places is None else values.index_select(0, self._places))
            self._rows = self._store.read(self._remote)

    def backward(self) -> None:
        if self.gradients is not None:
            gradients, self.gradients = self.gradients, None
            with self._open_sums() as sums:
                sums.write(self._remote, gradients.contiguous(), accumulate=True)
                self._sums = sums.read(self._own)
                sums.write(self._own, torch.zeros_like(self._sums))

    def rows(self) -> Tensor:
        """Return the halo's rows, ``[h, ...]``."""
        self.forward()
        assert self._rows is not None
        rows, self._rows = self._rows, None
        return rows

    def add_to(self, gradients: Tensor) -> Tensor:
        """Add what the halos of other parts have for the own nodes, ``[n, ...]``."""
        self.backward()
        assert self._sums is not None
        sums, self._sums = self._sums, None
        return gradients + sums if self._places is None else gradients.index_add(0, self._places, sums)


class _Depart(torch.autograd.Function):
    """The own rows, which from now on are on their way to the halos of others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: _Exchange) -> tuple[Tensor, Tensor]:
        ctx.exchange = exchange
        exchange.values = values
        return values.view_as(values), values.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor, token: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        halo = ctx.exchange.halo
        return gradients if halo.history else ctx.exchange.add_to(gradients), None


class _Arrive(torch.autograd.Function):
    """The halo's rows, now that they are needed."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, exchange: _Exchange) -> Tensor:  # noqa: ARG004
        ctx.exchange = exchange
        return exchange.rows()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:
        ctx.exchange.gradients = gradients
        return gradients.new_empty(0), None
