"""The rows of other nodes that the layers over one part of a graph need, and the way back of their gradients."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable

    from distgnn.protocols import TensorStore


@dataclass(frozen=True, eq=False)
class Halo:
    """Where the nodes of a part, and the other nodes that its edges come from, are in the store of a layer.

    Args:
        own: ``[n]`` int64, the row of each node of the part; no other rank's part has it.
        remote: ``[h]`` int64, the rows of the halo nodes.
        num_rows: Number of rows of the store; the same for every part.
        border: ``[b]`` int64, which of the own nodes are in the halos of other parts, by their places in ``own``; None
            may be all of them.
        history: The parts are batches, and a halo node's row is what the last batch with that node left there: no
            gradient goes to it. Otherwise the parts together are the graph, and every halo node is another's own.
    """

    own: Tensor
    remote: Tensor
    num_rows: int
    border: Tensor | None = None
    history: bool = False

    @property
    def is_whole_graph(self) -> bool:
        """Whether there is no other part; all parts agree on it."""
        return self.own.numel() == self.num_rows

    def extend(self, values: Tensor, store: TensorStore, open_sums: Callable[[], TensorStore]) -> Tensor:
        """Put the halo's rows behind the own ones; collective, and so is the backward pass.

        What is written is read in the same call, so a store may serve one forward after another before any backward.

        Args:
            values: ``[n, ...]``, the rows of the part's own nodes.
            store: ``[num_rows, ...]``, to exchange them through.
            open_sums: Opens a store of zeros of the same kind, where gradients are summed; closed by backward.

        Returns:
            ``[n + h, ...]``. In backward the gradients of the halo's rows are added to those that their owners have for
            them; rows of a history have none.
        """
        extended: Tensor = _Exchange.apply(values, self, store, open_sums)  # type: ignore[no-untyped-call]
        return extended


class _Exchange(torch.autograd.Function):
    """Rows go from owners to halos, gradients from halos to owners."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, halo: Halo, store: TensorStore, open_sums: Callable[[], TensorStore]
    ) -> Tensor:
        ctx.halo, ctx.open_sums = halo, open_sums
        if halo.border is None:
            store.write(halo.own, values)
        else:
            store.write(halo.own[halo.border], values[halo.border])
        return torch.cat([values, store.read(halo.remote)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        halo: Halo = ctx.halo
        own, others = gradients.tensor_split([halo.own.numel()])
        if halo.history:
            return own, None, None, None
        with closing(ctx.open_sums()) as sums:
            sums.write(halo.remote, others.contiguous(), accumulate=True)
            if halo.border is None:
                return own + sums.read(halo.own), None, None, None
            return own.index_add(0, halo.border, sums.read(halo.own[halo.border])), None, None, None
