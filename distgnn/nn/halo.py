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
        history: The parts are batches, and a halo node's row is what the last batch with that node left there: no
            gradient goes to it. Otherwise the parts together are the graph, and every halo node is another's own.
    """

    own: Tensor
    remote: Tensor
    num_rows: int
    history: bool = False

    @property
    def is_whole_graph(self) -> bool:
        """Whether there is no other part; all parts agree on it."""
        return self.own.numel() == self.num_rows

    def bring(self, values: Tensor, store: TensorStore, open_sums: Callable[[], TensorStore]) -> Tensor:
        """Exchange rows; collective, and so is the backward pass.

        What is written is read in the same call, so a store may serve one forward after another before any backward.

        Args:
            values: ``[n, ...]``, the rows of the part's own nodes.
            store: ``[num_rows, ...]``, to exchange them through.
            open_sums: Opens a store of zeros of the same kind, where gradients are summed; closed by backward.

        Returns:
            The halo's rows ``[h, ...]``. In backward their gradients are added to those that their owners have for
            them; rows of a history have none.
        """
        given = values.detach() if self.history else values
        brought: Tensor = _Exchange.apply(given, self, store, open_sums)  # type: ignore[no-untyped-call]
        return brought


class _Exchange(torch.autograd.Function):
    """Rows go from owners to halos, gradients from halos to owners."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, halo: Halo, store: TensorStore, open_sums: Callable[[], TensorStore]
    ) -> Tensor:
        ctx.halo, ctx.open_sums = halo, open_sums
        store.write(halo.own, values)
        return store.read(halo.remote)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        with closing(ctx.open_sums()) as sums:
            sums.write(ctx.halo.remote, gradients.contiguous(), accumulate=True)
            return sums.read(ctx.halo.own), None, None, None
