"""The rows of other ranks' nodes that the layers over one part of a graph need, and the way back of their gradients."""

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
    """Where the nodes of a part, and the nodes of other parts that its edges come from, are in the store of a layer.

    Args:
        own: ``[n]`` int64, the row of each node of the part; no other part has it.
        remote: ``[h]`` int64, the rows of the halo nodes, which are other parts' own.
        num_rows: Number of rows of the store; the same for every part.
    """

    own: Tensor
    remote: Tensor
    num_rows: int

    @property
    def is_whole_graph(self) -> bool:
        """Whether there is no other part; all parts agree on it."""
        return self.own.numel() == self.num_rows

    def extend(self, values: Tensor, store: TensorStore, open_sums: Callable[[], TensorStore]) -> Tensor:
        """Exchange rows; collective, and so is the backward pass.

        What is written is read in the same call, so a store may serve one forward after another before any backward.

        Args:
            values: ``[n, ...]``, the rows of the part's own nodes.
            store: ``[num_rows, ...]``, to exchange them through.
            open_sums: Opens a store of zeros of the same kind, where gradients are summed; closed by backward.

        Returns:
            ``[n + h, ...]``, ``values`` and the halo's rows. In backward the gradients of the latter are added to those
            that their owners have for them.
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
        store.write(halo.own, values)
        return torch.cat([values, store.read(halo.remote)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        halo, own = ctx.halo, ctx.halo.own.numel()
        with closing(ctx.open_sums()) as sums:
            sums.write(halo.remote, gradients[own:].contiguous(), accumulate=True)
            return gradients[:own] + sums.read(halo.own), None, None, None
